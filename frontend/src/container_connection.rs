//! The actor of one connected container: its batches, its heartbeats, its end.
//!
//! Started by the reception when a container registers; welcomes it once the model's actor has given it a seat. It pulls a
//! batch whenever its container is free. Invariant: the tasks of a batch are in the queue, in `in_flight`, or finished;
//! when the actor goes, however it goes, `in_flight` returns to the queue.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use clipper_rpc::catalog::ConnectedContainer;
use clipper_rpc::input::InputBatch;
use clipper_rpc::message::{FromContainer, Predict, Prediction, Registered, ToContainer};
use clipper_rpc::router::{Loss, PeerId, RouterHandle};
use tracing::{info, warn};

use crate::directory::Directory;
use crate::metrics::ReplicaMetrics;
use crate::model_queue::{LeaveSeat, ModelHandle, Seat, TakeSeat};
use crate::queue::Work;
use crate::task::{Failure, Task};

/// How soon a container that broke the protocol may try again.
const RETRY_AFTER_OFFENCE: Duration = Duration::from_secs(1);

/// What both ends of a connection expect of each other.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// How long to be silent before saying `heartbeat`.
    pub heartbeat: Duration,
    /// How long a silence means that the other is lost.
    pub timeout: Duration,
    /// How long a container may take to leave after `drain`.
    pub drain: Duration,
    /// How long after its last deadline a batch may still be answered.
    pub overdue: Duration,
}

/// Owns the state of one registered connection.
pub struct ContainerConnection {
    peer: PeerId,
    router: RouterHandle,
    model: ModelHandle,
    container: ConnectedContainer,
    terms: Terms,
    directory: Arc<Directory>,
    seat: Option<Seat>,
    metrics: Arc<ReplicaMetrics>,
    in_flight: HashMap<u64, Batch>,
    next_batch: u64,
    last_sent: Instant,
    last_heard: Instant,
    draining: bool,
    /// Why the connection ended, for the tasks that it held.
    end: String,
}

/// What the container holds.
struct Batch {
    tasks: Vec<Task>,
    sent: Instant,
    /// When no answer to it is of use any more.
    last_deadline: Instant,
}

/// There may be work in the queue.
#[derive(Message)]
#[rtype(result = "()")]
pub struct PullWork;

/// The container said something.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Received(pub FromContainer);

/// The container said something that breaks the protocol.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Misbehaved(pub String);

/// The container is gone.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Lost(pub Loss);

/// The same instance has registered over another connection.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Superseded;

/// The frontends of the cluster have changed.
#[derive(Message, Clone)]
#[rtype(result = "()")]
pub struct FrontendsChanged(pub Arc<Vec<String>>);

impl ContainerConnection {
    /// A connection that has asked to serve a model.
    pub fn new(
        peer: PeerId,
        router: RouterHandle,
        model: ModelHandle,
        container: ConnectedContainer,
        terms: Terms,
        directory: Arc<Directory>,
    ) -> Self {
        let now = Instant::now();
        Self {
            peer,
            router,
            model,
            container,
            terms,
            directory,
            seat: None,
            metrics: Arc::default(),
            in_flight: HashMap::new(),
            next_batch: 0,
            last_sent: now,
            last_heard: now,
            draining: false,
            end: "its connection was closed".to_owned(),
        }
    }

    fn send(&mut self, message: &ToContainer) {
        self.router.send(&self.peer, message);
        self.last_sent = Instant::now();
    }

    fn take_seat(&mut self, seat: Seat, ctx: &mut Context<Self>) {
        self.seat = Some(seat);
        self.metrics = self.model.queue.metrics().replica(seat.replica);
        self.container.replica = seat.replica;
        self.welcome();
        self.pull(ctx);
    }

    fn welcome(&mut self) {
        self.send(&ToContainer::Registered(Registered {
            replica: self.container.replica,
            heartbeat_millis: millis(self.terms.heartbeat),
            timeout_millis: millis(self.terms.timeout),
            // A lone frontend has been found already, perhaps under another address than it knows of itself.
            frontends: Some(self.directory.frontends.load().to_vec()).filter(|frontends| frontends.len() > 1),
        }));
    }

    /// Takes a batch if the container is free.
    fn pull(&mut self, ctx: &mut Context<Self>) {
        let Some(seat) = self.seat else { return };
        if !self.in_flight.is_empty() || self.draining {
            return;
        }
        match self.model.queue.take(seat.connection, self.container.batch_size as usize) {
            Work::Batch(tasks) => self.dispatch(tasks),
            Work::Idle => {}
            Work::Closed => self.drain(ctx),
        }
    }

    fn dispatch(&mut self, tasks: Vec<Task>) {
        let deadlines = tasks.iter().map(|task| task.deadline);
        let first_deadline = deadlines.clone().min().expect("a batch has a task");
        let last_deadline = deadlines.max().expect("a batch has a task");
        let now = Instant::now();
        self.model.queue.metrics().record_queue_times(tasks.iter().map(|task| now - task.accepted));
        let budget = first_deadline.saturating_duration_since(now);
        let inputs = InputBatch::join(self.model.queue.input_type(), tasks.iter().map(|task| &task.input));
        let id = self.next_batch;
        self.next_batch += 1;
        self.in_flight.insert(id, Batch { tasks, sent: now, last_deadline });
        self.metrics.send_batch();
        self.send(&ToContainer::Predict(Predict { id, budget_micros: micros(budget), inputs }));
    }

    fn drain(&mut self, ctx: &mut Context<Self>) {
        self.draining = true;
        self.send(&ToContainer::Drain);
        ctx.run_later(self.terms.drain, |connection, ctx| connection.finish("it was sent home", ctx));
    }

    fn complete(&mut self, prediction: Prediction, ctx: &mut Context<Self>) {
        let Prediction { id, elapsed_micros, outputs, errors } = prediction;
        let Some(batch) = self.in_flight.remove(&id) else {
            return self.strike_off(&format!("it answered batch {id}, which it does not hold"), ctx);
        };
        if outputs.len() != batch.tasks.len() {
            let offence =
                format!("it answered a batch of {} inputs with {} outputs", batch.tasks.len(), outputs.len());
            self.in_flight.insert(id, batch);
            return self.strike_off(&offence, ctx);
        }
        let model_time = Duration::from_micros(elapsed_micros);
        self.metrics.record_batch(batch.tasks.len(), model_time, batch.sent.elapsed());
        for (task, output) in batch.tasks.into_iter().zip(outputs.into_outputs(&errors)) {
            task.finish(output.map_err(|message| self.reported(&message)));
        }
        self.pull(ctx);
    }

    fn fail(&mut self, id: u64, message: &str, ctx: &mut Context<Self>) {
        let Some(batch) = self.in_flight.remove(&id) else {
            return self
                .strike_off(&format!("it reported an error of batch {id}, which it does not hold"), ctx);
        };
        warn!(model = %self.container.model, replica = self.container.replica, message, "a batch failed");
        self.metrics.fail_batch();
        for task in batch.tasks {
            task.finish(Err(self.reported(message)));
        }
        self.pull(ctx);
    }

    fn reported(&self, message: &str) -> Failure {
        Failure::ContainerError {
            model: self.container.model.clone(),
            problem: format!("reported: {message}"),
        }
    }

    /// Ends the connection of a container that broke the protocol.
    fn strike_off(&mut self, offence: &str, ctx: &mut Context<Self>) {
        self.send(&ToContainer::Rejected {
            reason: offence.to_owned(),
            retry_millis: Some(millis(RETRY_AFTER_OFFENCE)),
        });
        self.finish(offence, ctx);
    }

    fn finish(&mut self, end: &str, ctx: &mut Context<Self>) {
        info!(model = %self.container.model, replica = self.container.replica, end, "container gone");
        end.clone_into(&mut self.end);
        ctx.stop();
    }

    /// Returns what the container holds to the queue.
    fn give_back(&mut self) {
        for (_, batch) in self.in_flight.drain() {
            self.model.queue.requeue(batch.tasks, &self.end);
            self.metrics.fail_batch();
        }
    }

    fn watch(&mut self, ctx: &mut Context<Self>) {
        let now = Instant::now();
        if self.in_flight.is_empty() && now - self.last_heard > self.terms.timeout {
            self.finish("nothing was heard of it", ctx);
        } else if self.in_flight.values().any(|batch| now > batch.last_deadline + self.terms.overdue) {
            let overdue = self.terms.overdue.as_secs();
            self.strike_off(&format!("it has not answered a batch {overdue} s after its deadline"), ctx);
        } else if now - self.last_sent >= self.terms.heartbeat / 2 {
            // By the next tick the silence would be too long.
            self.send(&ToContainer::Heartbeat { frontends: None });
        }
    }
}

impl Drop for ContainerConnection {
    /// Here and not in `stopped`, which a panic would skip.
    fn drop(&mut self) {
        let Some(seat) = self.seat else { return };
        self.model.queue.leave(seat.connection);
        self.give_back();
        self.model.actor.do_send(LeaveSeat(seat));
    }
}

impl Actor for ContainerConnection {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let request = TakeSeat { connection: ctx.address(), container: self.container.clone() };
        self.model
            .actor
            .send(request)
            .into_actor(self)
            .map(|seat, connection, ctx| match seat {
                Ok(seat) => connection.take_seat(seat, ctx),
                Err(_) => ctx.stop(),
            })
            .wait(ctx);
        ctx.run_interval(self.terms.heartbeat, |connection, ctx| connection.watch(ctx));
    }
}

impl Handler<PullWork> for ContainerConnection {
    type Result = ();

    fn handle(&mut self, _: PullWork, ctx: &mut Self::Context) {
        self.pull(ctx);
    }
}

impl Handler<Received> for ContainerConnection {
    type Result = ();

    fn handle(&mut self, Received(message): Received, ctx: &mut Self::Context) {
        self.last_heard = Instant::now();
        match message {
            FromContainer::Prediction(prediction) => self.complete(prediction, ctx),
            FromContainer::Error { id, message } => self.fail(id, &message, ctx),
            FromContainer::Goodbye => {
                // A batch that it leaves with, as one does that crosses its goodbye, was not the death of it.
                for task in self.in_flight.values_mut().flat_map(|batch| &mut batch.tasks) {
                    task.attempts -= 1;
                }
                self.finish("it said goodbye", ctx);
            }
            FromContainer::Heartbeat => {}
            FromContainer::FeedbackAck { id } => {
                self.strike_off(&format!("it acknowledged feedback {id}, which it was not sent"), ctx);
            }
            // It begins anew, or was told twice that it is unknown: what it held before it will not answer.
            FromContainer::Register(_) => {
                self.give_back();
                self.welcome();
                self.pull(ctx);
            }
        }
    }
}

impl Handler<Misbehaved> for ContainerConnection {
    type Result = ();

    fn handle(&mut self, Misbehaved(offence): Misbehaved, ctx: &mut Self::Context) {
        self.strike_off(&offence, ctx);
    }
}

impl Handler<Lost> for ContainerConnection {
    type Result = ();

    fn handle(&mut self, Lost(loss): Lost, ctx: &mut Self::Context) {
        self.finish(&loss.to_string(), ctx);
    }
}

impl Handler<Superseded> for ContainerConnection {
    type Result = ();

    fn handle(&mut self, _: Superseded, ctx: &mut Self::Context) {
        let reason = "this instance has registered over another connection".to_owned();
        self.send(&ToContainer::Rejected { reason: reason.clone(), retry_millis: None });
        self.finish(&reason, ctx);
    }
}

impl Handler<FrontendsChanged> for ContainerConnection {
    type Result = ();

    fn handle(&mut self, FrontendsChanged(frontends): FrontendsChanged, _: &mut Self::Context) {
        self.send(&ToContainer::Heartbeat { frontends: Some(frontends.to_vec()) });
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
