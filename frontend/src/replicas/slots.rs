//! Slots of the containers that serve one version of a model: their replica numbers, and their places
//! in the model's queue.
//!
//! Shared by the version's actor, by the reception, which takes a slot for each container before its
//! connection starts, and by the connections, which leave their slots. All are plain calls.
//! Invariant: no two slots have the same replica number or the same instance.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use actix::prelude::*;
use clipper_rpc::catalog::{Batching, ConnectedContainer};
use tracing::info;

use super::numbers::ReplicaNumbers;
use crate::batching::Controller;
use crate::queue::{Queue, ReplicaId};

/// Sizes of batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizing {
    /// Strategy that decides on the size of each batch.
    pub batching: Batching,
    /// The most inputs in one batch.
    pub batch_size: u32,
}

/// The slot of one connection.
#[derive(Debug, Clone, Copy)]
pub struct Slot {
    /// Name of the connection in the queue.
    pub connection: ReplicaId,
    /// Number of the replica.
    pub replica: u32,
    /// Sizes of the batches for this container.
    pub sizing: Sizing,
}

/// An order to the connection in a slot.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub enum Order {
    /// Ask the queue for work: there may be some.
    PullWork,
    /// Size batches like this from now on.
    Resize(Sizing),
    /// Tell the container that the frontends of the cluster are these.
    AnnounceFrontends(Arc<Vec<String>>),
    /// End: the same instance has registered over another connection.
    MakeWay,
}

/// A container of one version of one model has joined, changed or left.
///
/// Carries one container and not all of them, so that the cost of a connection does not grow with
/// the number of containers.
#[derive(Message)]
#[rtype(result = "()")]
pub struct ContainerChanged {
    /// Queue of the version.
    pub queue: Arc<Queue>,
    /// Number of the replica.
    pub replica: u32,
    /// The container as it is now; `None` once it has left.
    pub container: Option<ConnectedContainer>,
}

/// The slots of one version of one model.
pub struct Slots {
    queue: Arc<Queue>,
    /// Told of each container that joins, changes or leaves.
    observer: Recipient<ContainerChanged>,
    /// Held for one call.
    state: Mutex<State>,
}

struct State {
    sizing: Sizing,
    occupants: BTreeMap<u32, Occupant>,
    numbers: ReplicaNumbers,
    next_connection: ReplicaId,
}

struct Occupant {
    id: ReplicaId,
    connection: Recipient<Order>,
    container: ConnectedContainer,
    own_limit: u32,
}

impl Sizing {
    /// The same sizing for a container that takes at most `own_limit` inputs at once.
    fn at_most(self, own_limit: u32) -> Self {
        Self { batch_size: self.batch_size.min(own_limit), ..self }
    }

    /// A controller of batches of these sizes.
    pub fn controller(self) -> Controller {
        Controller::new(self.batching, self.batch_size as usize)
    }
}

impl Slots {
    /// The slots of a version without containers.
    pub fn new(queue: Arc<Queue>, sizing: Sizing, observer: Recipient<ContainerChanged>) -> Self {
        let state = State {
            sizing,
            occupants: BTreeMap::new(),
            numbers: ReplicaNumbers::default(),
            next_connection: 0,
        };
        Self { queue, observer, state: Mutex::new(state) }
    }

    /// Takes a slot for a container that takes at most `own_limit` inputs at once, and notes its
    /// replica number and batch size in `container`. The former connection of the same instance is
    /// told to make way.
    pub fn take(
        &self,
        connection: Recipient<Order>,
        container: &mut ConnectedContainer,
        own_limit: u32,
    ) -> Slot {
        let mut state = self.lock();
        let replica = state.numbers.take(container.replica, container.instance.as_deref());
        let sizing = state.sizing.at_most(own_limit);
        container.replica = replica;
        container.batch_size = sizing.batch_size;
        state.next_connection += 1;
        let id = state.next_connection;
        info!(model = %container.model, replica, instance = container.instance, "container connected");
        // Before its predecessor leaves, so that what that one held goes to this one.
        let woken = connection.clone();
        self.queue.join(id, sizing.batch_size as usize, Box::new(move || woken.do_send(Order::PullWork)));
        let occupant = Occupant { id, connection, container: container.clone(), own_limit };
        if let Some(former) = state.occupants.insert(replica, occupant) {
            former.connection.do_send(Order::MakeWay);
        }
        self.announce(&state, replica);
        Slot { connection: id, replica, sizing }
    }

    /// Frees a slot, unless another connection has taken it over.
    pub fn leave(&self, slot: Slot) {
        let mut state = self.lock();
        let Entry::Occupied(occupant) = state.occupants.entry(slot.replica) else { return };
        if occupant.get().id != slot.connection {
            return;
        }
        let instance = occupant.remove().container.instance;
        state.numbers.free(slot.replica, instance.as_deref());
        self.queue.metrics().remove_replica(slot.replica);
        self.announce(&state, slot.replica);
    }

    /// Sizes the batches of all containers anew; the sizing of each connection, to be sent to it.
    pub fn resize(&self, sizing: Sizing) -> Vec<(Recipient<Order>, Sizing)> {
        let mut state = self.lock();
        state.sizing = sizing;
        let resized = state.occupants.values_mut().map(|occupant| {
            let sizing = sizing.at_most(occupant.own_limit);
            occupant.container.batch_size = sizing.batch_size;
            self.queue.resize(occupant.id, sizing.batch_size as usize);
            (occupant.connection.clone(), sizing)
        });
        let resized = resized.collect();
        state.occupants.keys().for_each(|&replica| self.announce(&state, replica));
        resized
    }

    /// Sends an order to every connection.
    pub fn send_all(&self, order: &Order) {
        for occupant in self.lock().occupants.values() {
            occupant.connection.do_send(order.clone());
        }
    }

    fn announce(&self, state: &State, replica: u32) {
        let container = state.occupants.get(&replica).map(|occupant| occupant.container.clone());
        self.observer.do_send(ContainerChanged { queue: Arc::clone(&self.queue), replica, container });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
