//! The actor of one version of one model: who serves it, under which numbers.
//!
//! Connections ask it for a seat before they are welcomed; the queue itself is shared and needs no messages.
//! Invariant: no two seated connections share a replica number or an instance.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use actix::prelude::*;
use clipper_rpc::catalog::{Batching, ConnectedContainer, Revision};
use futures_util::future::join_all;
use tracing::info;

use crate::container_connection::{ContainerConnection, FrontendsChanged, PullWork, Resize, Superseded};
use crate::queue::{Queue, ReplicaId};
use crate::replica_numbers::ReplicaNumbers;

/// What the rest of the frontend holds of one version of one model. Cheap to clone.
#[derive(Clone)]
pub struct ModelHandle {
    /// Its waiting queries.
    pub queue: Arc<Queue>,
    /// Its actor.
    pub actor: Addr<ModelQueue>,
    /// How its batches are sized.
    pub sizing: Sizing,
    /// Whether its outputs may be kept.
    pub cache: bool,
    /// Tells the version from an earlier one of the same name.
    pub generation: Revision,
}

/// How batches are sized.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizing {
    /// What decides.
    pub batching: Batching,
    /// The most inputs in one batch.
    pub batch_size: u32,
}

impl Sizing {
    /// The same for a container that takes so many inputs itself.
    fn at_most(self, own_limit: u32) -> Self {
        Self { batch_size: self.batch_size.min(own_limit), ..self }
    }
}

/// Owns the seats of the containers that serve one version of one model.
pub struct ModelQueue {
    queue: Arc<Queue>,
    sizing: Sizing,
    seats: BTreeMap<u32, Occupant>,
    numbers: ReplicaNumbers,
    next_connection: ReplicaId,
    /// Told of each container that joins, changes or leaves.
    observer: Recipient<ContainerChanged>,
}

struct Occupant {
    id: ReplicaId,
    connection: Addr<ContainerConnection>,
    container: ConnectedContainer,
    own_limit: u32,
}

/// Asks for a seat.
#[derive(Message)]
#[rtype(result = "Seat")]
pub struct TakeSeat {
    /// Who asks.
    pub connection: Addr<ContainerConnection>,
    /// The container, with the replica number that it would like to have.
    pub container: ConnectedContainer,
    /// The most inputs that it takes at once.
    pub own_limit: u32,
}

/// A place among the replicas of a model's version, and in its queue, which the connection must leave in the end.
#[derive(Debug, Clone, Copy, MessageResponse)]
pub struct Seat {
    /// Names the connection in the queue.
    pub connection: ReplicaId,
    /// The replica's number.
    pub replica: u32,
    /// How its batches are sized.
    pub sizing: Sizing,
}

/// Gives a seat back.
#[derive(Message)]
#[rtype(result = "()")]
pub struct LeaveSeat(pub Seat);

/// The model's version is withdrawn: what waits is still answered, then its containers are sent home.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Withdraw;

/// A container of one version of one model has joined, changed or left.
///
/// Carries one container and not all of them, so that the cost of a connection does not grow with
/// the number of containers.
#[derive(Message)]
#[rtype(result = "()")]
pub struct ContainerChanged {
    /// The version's queue.
    pub queue: Arc<Queue>,
    /// The container's number among the replicas.
    pub replica: u32,
    /// The container as it is now; `None` once it has left.
    pub container: Option<ConnectedContainer>,
}

impl ModelQueue {
    /// An actor without connections.
    pub fn new(queue: Arc<Queue>, sizing: Sizing, observer: Recipient<ContainerChanged>) -> Self {
        Self {
            queue,
            sizing,
            seats: BTreeMap::new(),
            numbers: ReplicaNumbers::default(),
            next_connection: 0,
            observer,
        }
    }

    fn announce(&self, replica: u32) {
        let container = self.seats.get(&replica).map(|occupant| occupant.container.clone());
        self.observer.do_send(ContainerChanged { queue: Arc::clone(&self.queue), replica, container });
    }
}

impl Actor for ModelQueue {
    type Context = Context<Self>;
}

impl Handler<TakeSeat> for ModelQueue {
    type Result = Seat;

    fn handle(&mut self, request: TakeSeat, _: &mut Self::Context) -> Seat {
        let TakeSeat { connection, mut container, own_limit } = request;
        let replica = self.numbers.take(container.replica, container.instance.as_deref());
        container.replica = replica;
        let sizing = self.sizing.at_most(own_limit);
        container.batch_size = sizing.batch_size;
        self.next_connection += 1;
        let id = self.next_connection;
        info!(model = %container.model, replica, instance = container.instance, "container connected");
        // Before its predecessor leaves, so that what that one held goes to it.
        let address = connection.clone();
        self.queue.join(id, sizing.batch_size as usize, Box::new(move || address.do_send(PullWork)));
        if let Some(former) = self.seats.insert(replica, Occupant { id, connection, container, own_limit }) {
            former.connection.do_send(Superseded);
        }
        self.announce(replica);
        Seat { connection: id, replica, sizing }
    }
}

impl Handler<LeaveSeat> for ModelQueue {
    type Result = ();

    fn handle(&mut self, LeaveSeat(seat): LeaveSeat, _: &mut Self::Context) {
        let Entry::Occupied(occupant) = self.seats.entry(seat.replica) else { return };
        if occupant.get().id != seat.connection {
            return;
        }
        let instance = occupant.remove().container.instance;
        self.numbers.free(seat.replica, instance.as_deref());
        self.queue.metrics().remove_replica(seat.replica);
        self.announce(seat.replica);
    }
}

impl Handler<Withdraw> for ModelQueue {
    type Result = ();

    fn handle(&mut self, _: Withdraw, _: &mut Self::Context) {
        self.queue.close();
    }
}

impl Handler<Resize> for ModelQueue {
    /// Once every connection has heard of it.
    type Result = ResponseFuture<()>;

    fn handle(&mut self, Resize(sizing): Resize, _: &mut Self::Context) -> Self::Result {
        self.sizing = sizing;
        let told = self.seats.values_mut().map(|occupant| {
            let sizing = sizing.at_most(occupant.own_limit);
            occupant.container.batch_size = sizing.batch_size;
            self.queue.resize(occupant.id, sizing.batch_size as usize);
            occupant.connection.send(Resize(sizing))
        });
        let told = join_all(told);
        self.seats.keys().for_each(|&replica| self.announce(replica));
        // One that is gone needs not hear of it.
        Box::pin(async move { drop(told.await) })
    }
}

impl Handler<FrontendsChanged> for ModelQueue {
    type Result = ();

    fn handle(&mut self, changed: FrontendsChanged, _: &mut Self::Context) {
        for occupant in self.seats.values() {
            occupant.connection.do_send(changed.clone());
        }
    }
}
