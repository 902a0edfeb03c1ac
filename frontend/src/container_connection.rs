//! The actor of one connected container: its batches, its heartbeats, its end.
//!
//! Started by the reception when a container registers; welcomes it once the model's actor has given it a seat. It pulls a
//! batch whenever its container can do with one, as large as its controller says, and has others compute what a stalled
//! container holds. Invariant: the computations of a batch are in the queue, in `in_flight`, or finished; when the actor
//! goes, however it goes, `in_flight` returns to the queue.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use clipper_rpc::catalog::{Batching, ConnectedContainer};
use clipper_rpc::codec::{CodecError, Frames};
use clipper_rpc::input::InputBatch;
use clipper_rpc::message::{FromContainer, Predict, Prediction, Registered, ToContainer};
use clipper_rpc::router::{Loss, PeerId, RouterHandle};
use tracing::{debug, info, warn};

use crate::batching::{Controller, Observation};
use crate::cache::Source;
use crate::directory::Directory;
use crate::failure::Failure;
use crate::metrics::ReplicaMetrics;
use crate::model_queue::{LeaveSeat, ModelHandle, Seat, Sizing, TakeSeat};
use crate::queue::{Batch, Readiness, Work};
use crate::reply::Delivery;

/// How long a container gets nothing, where there are others, after its first failed batch; twice that after each further one,
/// up to some seconds. One that fails fast would otherwise draw all the work to itself.
const SHUNNED: Duration = Duration::from_millis(50);
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
    /// The most inputs that the container itself takes at once.
    own_limit: u32,
    terms: Terms,
    directory: Arc<Directory>,
    seat: Option<Seat>,
    controller: Controller,
    metrics: Arc<ReplicaMetrics>,
    /// This connection, as the source of outputs in the cache.
    source: Arc<Source>,
    /// What the container holds, in the order in which it was sent.
    in_flight: VecDeque<InFlight>,
    next_batch: u64,
    last_sent: Instant,
    last_heard: Instant,
    /// When the last batch was answered: from then on the container can be at the next.
    last_answer: Instant,
    /// Looks whether the container has stalled; set while it holds a batch.
    stall_check: Option<SpawnHandle>,
    stalled: bool,
    /// How many batches in a row have failed.
    failures: u32,
    /// Ends the wait for a larger batch.
    patience: Option<SpawnHandle>,
    draining: bool,
    /// Why the connection ended, for the queries that it held.
    end: String,
}

/// A batch that the container holds.
struct InFlight {
    id: u64,
    batch: Batch,
    dispatched: Instant,
    /// Whether the container held another one then.
    behind: bool,
    /// Whether the container has answered a later one since: when it began with this one is not known.
    overtaken: bool,
}

/// A batch that was answered.
struct Answered {
    batch: Batch,
    /// When the container could begin with it.
    begun: Instant,
    behind: bool,
    /// Whether neither it nor another one was answered before its turn.
    in_order: bool,
}

/// There may be work in the queue.
#[derive(Message)]
#[rtype(result = "()")]
pub struct PullWork;

/// The container said something, to be decoded with knowledge of what it was asked.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Received(pub Result<Frames, CodecError>);

/// The container is gone.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Lost(pub Loss);

/// The same instance has registered over another connection.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Superseded;

/// The batches of the model's version are to be sized otherwise.
#[derive(Message, Clone, Copy)]
#[rtype(result = "()")]
pub struct Resize(pub Sizing);

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
        own_limit: u32,
        terms: Terms,
        directory: Arc<Directory>,
    ) -> Self {
        let now = Instant::now();
        let source = Arc::new(Source::new(Arc::clone(model.queue.metrics())));
        Self {
            peer,
            router,
            model,
            container,
            own_limit,
            terms,
            directory,
            seat: None,
            controller: Controller::new(Batching::default(), 1),
            metrics: Arc::default(),
            source,
            in_flight: VecDeque::new(),
            next_batch: 0,
            last_sent: now,
            last_heard: now,
            last_answer: now,
            stall_check: None,
            stalled: false,
            failures: 0,
            patience: None,
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
        self.container.replica = seat.replica;
        self.metrics = self.model.queue.metrics().replica(seat.replica);
        self.resize(seat.sizing);
        self.welcome();
        self.pull(ctx);
    }

    fn resize(&mut self, Sizing { batching, batch_size }: Sizing) {
        self.container.batch_size = batch_size;
        self.controller = Controller::new(batching, batch_size as usize);
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

    /// Takes as many batches as the container can do with.
    fn pull(&mut self, ctx: &mut Context<Self>) {
        let Some(seat) = self.seat else { return };
        let patience = self.patience.take();
        let mut may_wait = patience.is_none();
        if let Some(patience) = patience {
            ctx.cancel_future(patience);
        }
        while !self.draining && !self.stalled && self.in_flight.len() < self.depth() {
            let now = Instant::now();
            let mut ready = Readiness {
                replica: seat.connection,
                in_flight: self.in_flight.iter().map(|held| held.batch.computations.len()).sum(),
                lead: self.lead(now),
                idle: self.in_flight.is_empty().then(|| now - self.last_answer),
                may_wait,
                controller: &mut self.controller,
            };
            match self.model.queue.take(&mut ready) {
                Work::Batch(batch) => self.dispatch(batch, ctx),
                Work::Wait(at_most) => {
                    self.patience = Some(ctx.run_later(at_most, |connection, ctx| connection.pull(ctx)));
                    return;
                }
                Work::Idle => return,
                Work::Closed => return self.drain(ctx),
            }
            may_wait = true;
        }
    }

    /// How many batches the container is to hold at most.
    fn depth(&self) -> usize {
        if self.controller.pipelines() { 2 } else { 1 }
    }

    /// How long the container needs for what it holds.
    fn lead(&self, now: Instant) -> Duration {
        let Some(first) = self.in_flight.front() else { return Duration::ZERO };
        let expected = |held: &InFlight| self.controller.expected(held.batch.computations.len());
        let spent = now - first.dispatched.max(self.last_answer);
        let later = self.in_flight.iter().skip(1).map(expected).sum::<Duration>();
        expected(first).saturating_sub(spent) + later
    }

    fn dispatch(&mut self, batch: Batch, ctx: &mut Context<Self>) {
        let inputs = batch.computations.iter().map(|computation| computation.input());
        let inputs = InputBatch::join(self.model.queue.input_type(), inputs);
        let id = self.next_batch;
        self.next_batch += 1;
        self.send(&ToContainer::Predict(Predict { id, budget_micros: micros(batch.budget), inputs }));
        let behind = !self.in_flight.is_empty();
        self.in_flight.push_back(InFlight {
            id,
            batch,
            dispatched: self.last_sent,
            behind,
            overtaken: false,
        });
        self.metrics.send_batch();
        if self.stall_check.is_none() {
            self.check_for_stall(ctx);
        }
    }

    /// Has others compute what the container holds if it is overdue, or looks again when it would be.
    fn check_for_stall(&mut self, ctx: &mut Context<Self>) {
        self.stall_check = None;
        let (Some(seat), Some(first)) = (self.seat, self.in_flight.front()) else { return };
        // Before its first answer, others had better begin at half time.
        let overdue =
            self.controller.overdue(first.batch.computations.len()).unwrap_or(first.batch.budget / 2);
        let spent = first.dispatched.max(self.last_answer).elapsed();
        if let Some(rest) = overdue.checked_sub(spent).filter(|rest| !rest.is_zero()) {
            self.stall_check = Some(ctx.run_later(rest, |connection, ctx| connection.check_for_stall(ctx)));
            return;
        }
        self.stalled = true;
        let held = self.in_flight.iter().flat_map(|held| &held.batch.computations);
        let hedged = self.model.queue.hedge(seat.connection, held);
        debug!(model = %self.container.model, replica = self.container.replica, ?spent, hedged, "stalled");
    }

    fn drain(&mut self, ctx: &mut Context<Self>) {
        self.draining = true;
        self.send(&ToContainer::Drain);
        ctx.run_later(self.terms.drain, |connection, ctx| connection.finish("it was sent home", ctx));
    }

    fn complete(&mut self, prediction: Prediction, ctx: &mut Context<Self>) {
        let Prediction { id, outputs, errors, elapsed_micros } = prediction;
        let index = self.in_flight.iter().position(|held| held.id == id);
        let held = self.let_go(index.expect("a prediction is decoded for a batch that is held"));
        let size = held.batch.computations.len();
        let round_trip = self.last_answer - held.begun;
        let model_time = Duration::from_micros(elapsed_micros).min(round_trip);
        self.metrics.record_batch(size, model_time, round_trip);
        if held.in_order {
            self.controller.observe(&Observation {
                size,
                model_time,
                round_trip,
                budget: held.batch.budget,
                behind: held.behind,
            });
            self.metrics.set_estimate(&self.controller.estimate());
        }
        if std::mem::take(&mut self.failures) > 0 {
            self.shun(Duration::ZERO);
        }
        let mut delivery = Delivery::default();
        for (computation, output) in held.batch.computations.iter().zip(outputs.into_outputs(&errors)) {
            let elsewhere = computation.let_go();
            let outcome = output.map_err(|message| self.reported(&message));
            if outcome.is_ok() || !elsewhere {
                computation.answer(&outcome, &self.source, &mut delivery);
            }
        }
        drop(delivery);
        self.pull(ctx);
    }

    fn fail(&mut self, id: u64, message: &str, ctx: &mut Context<Self>) {
        let Some(index) = self.in_flight.iter().position(|held| held.id == id) else {
            return self
                .strike_off(&format!("it reported an error of batch {id}, which it does not hold"), ctx);
        };
        warn!(model = %self.container.model, replica = self.container.replica, error = message, "a batch failed");
        self.metrics.fail_batch();
        let outcome = Err(self.reported(message));
        let mut delivery = Delivery::default();
        for computation in self.let_go(index).batch.computations {
            if !computation.let_go() {
                computation.finish(&outcome, &mut delivery);
            }
        }
        drop(delivery);
        self.failures += 1;
        self.shun(SHUNNED * (1 << self.failures.min(6)));
        self.pull(ctx);
    }

    /// It has not stalled, or not any more.
    fn recover(&mut self) {
        if std::mem::take(&mut self.stalled)
            && let Some(seat) = self.seat
        {
            self.model.queue.revive(seat.connection);
        }
    }

    /// Takes out a batch that has been answered.
    fn let_go(&mut self, index: usize) -> Answered {
        self.in_flight.iter_mut().take(index).for_each(|earlier| earlier.overtaken = true);
        let InFlight { batch, dispatched, behind, overtaken, .. } =
            self.in_flight.remove(index).expect("its place was just found");
        let begun = dispatched.max(self.last_answer);
        self.last_answer = Instant::now();
        self.recover();
        Answered { batch, begun, behind, in_order: index == 0 && !overtaken }
    }

    fn shun(&self, time: Duration) {
        if let Some(seat) = self.seat {
            self.model.queue.shun(seat.connection, time);
        }
    }

    fn reported(&self, message: &str) -> Failure {
        let problem = format!("reported: {message}").into();
        Failure::ContainerError { model: self.container.model.clone(), problem }
    }

    /// Ends the connection of a container that broke the protocol, and has none of its outputs
    /// served again.
    fn strike_off(&mut self, offence: &str, ctx: &mut Context<Self>) {
        self.source.discredit();
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
        self.recover();
        self.in_flight.iter().for_each(|_| self.metrics.fail_batch());
        let held = self.in_flight.drain(..).flat_map(|held| held.batch.computations);
        let held = held.inspect(|computation| {
            computation.let_go();
        });
        self.model.queue.requeue(held, &self.end);
    }

    fn watch(&mut self, ctx: &mut Context<Self>) {
        let now = Instant::now();
        if self.in_flight.is_empty() && now - self.last_heard > self.terms.timeout {
            return self.finish("nothing was heard of it", ctx);
        }
        if self.in_flight.iter().any(|held| now > held.batch.last_deadline + self.terms.overdue) {
            let overdue = self.terms.overdue.as_secs();
            return self
                .strike_off(&format!("it has not answered a batch {overdue} s after its deadline"), ctx);
        }
        if now - self.last_sent >= self.terms.heartbeat / 2 {
            // By the next tick the silence would be too long.
            self.send(&ToContainer::Heartbeat { frontends: None });
        }
    }
}

impl Drop for ContainerConnection {
    /// Here and not in `stopped`, which a panic would skip.
    fn drop(&mut self) {
        self.router.release(&self.peer);
        let Some(seat) = self.seat else { return };
        self.model.queue.leave(seat.connection);
        self.give_back();
        self.model.actor.do_send(LeaveSeat(seat));
    }
}

impl Actor for ContainerConnection {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let (container, own_limit) = (self.container.clone(), self.own_limit);
        let request = TakeSeat { connection: ctx.address(), container, own_limit };
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
        let held = self.in_flight.iter().map(|held| (held.id, held.batch.computations.len()));
        let message = match message.and_then(|frames| FromContainer::decode(&frames, held)) {
            Ok(message) => message,
            Err(offence @ (CodecError::NotHeld { .. } | CodecError::Outputs { .. })) => {
                return self.strike_off(&offence.to_string(), ctx);
            }
            Err(error) => {
                warn!(peer = %self.peer, %error, "malformed message from a container");
                return self.strike_off(&format!("it sent a malformed message: {error}"), ctx);
            }
        };
        match message {
            FromContainer::Prediction(prediction) => self.complete(prediction, ctx),
            FromContainer::Error { id, message } => self.fail(id, &message, ctx),
            FromContainer::Goodbye => {
                // A batch that it leaves with, as one does that crosses its goodbye, was not the death of it.
                let held = self.in_flight.iter().flat_map(|held| &held.batch.computations);
                held.for_each(|computation| computation.exonerate());
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

impl Handler<Resize> for ContainerConnection {
    type Result = ();

    fn handle(&mut self, Resize(sizing): Resize, ctx: &mut Self::Context) {
        self.resize(sizing);
        self.pull(ctx);
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
