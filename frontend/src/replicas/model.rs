//! The actor of one version of one model: it passes changes on to the connections of its containers.
//!
//! Started by the follower, and ended when neither the follower nor a connection has its address any
//! more. The queue and the slots are shared, and need no messages.

use std::sync::Arc;

use actix::prelude::*;
use clipper_rpc::catalog::Generation;
use clipper_server::EssentialPart;
use futures_util::future::join_all;

use super::slots::{Order, Sizing, Slots};
use crate::queue::Queue;

/// Handle of one version of one model. Cheap to clone.
#[derive(Clone)]
pub struct ModelHandle {
    /// Queries that wait.
    pub queue: Arc<Queue>,
    /// Slots of the containers.
    pub slots: Arc<Slots>,
    /// Actor of the version.
    pub actor: Addr<ModelQueue>,
    /// Sizes of its batches.
    pub sizing: Sizing,
    /// Whether its outputs may be kept.
    pub cache: bool,
    /// Tells the version from an earlier one of the same name.
    pub generation: Generation,
}

/// Owns the end of a version's queue.
pub struct ModelQueue {
    queue: Arc<Queue>,
    slots: Arc<Slots>,
    /// Reports an end of this actor while its version is served.
    part: EssentialPart,
}

/// The model's version is withdrawn: finish what waits, then drain the containers.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Withdraw;

/// Size batches like this. Answered when every connection does so.
#[derive(Message, Clone, Copy)]
#[rtype(result = "()")]
pub struct Resize(pub Sizing);

/// The frontends of the cluster have changed.
#[derive(Message, Clone)]
#[rtype(result = "()")]
pub struct FrontendsChanged(pub Arc<Vec<String>>);

impl ModelQueue {
    /// The actor of a queue with these slots.
    pub fn new(queue: Arc<Queue>, slots: Arc<Slots>, part: EssentialPart) -> Self {
        Self { queue, slots, part }
    }
}

impl Actor for ModelQueue {
    type Context = Context<Self>;

    /// Not called after a panic.
    fn stopped(&mut self, _: &mut Self::Context) {
        self.part.finish();
    }
}

impl Handler<Withdraw> for ModelQueue {
    type Result = ();

    fn handle(&mut self, _: Withdraw, _: &mut Self::Context) {
        self.queue.close();
    }
}

impl Handler<Resize> for ModelQueue {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, Resize(sizing): Resize, _: &mut Self::Context) -> Self::Result {
        let resized = self.slots.resize(sizing);
        let told = resized.into_iter().map(|(connection, sizing)| connection.send(Order::Resize(sizing)));
        let told = join_all(told.collect::<Vec<_>>());
        // A connection that has ended needs not be told.
        Box::pin(async move { drop(told.await) })
    }
}

impl Handler<FrontendsChanged> for ModelQueue {
    type Result = ();

    fn handle(&mut self, FrontendsChanged(frontends): FrontendsChanged, _: &mut Self::Context) {
        self.slots.send_all(&Order::AnnounceFrontends(frontends));
    }
}
