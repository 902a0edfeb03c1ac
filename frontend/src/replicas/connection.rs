//! The actor of one connected container: its batches, its heartbeats, its end.
//!
//! Started by the reception once a container has registered and taken a slot. It pulls a batch whenever its container can do with one, as large as its controller says, and has others compute what a stalled
//! container holds. A batch that failed is tried again in parts, as one input may have failed all. Invariant: the computations of
//! a batch are in the queue, in `in_flight`, or finished; when the actor goes, however it goes, `in_flight` returns to the queue.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use clipper_rpc::catalog::ConnectedContainer;
use clipper_rpc::codec::{CodecError, Frames};
use clipper_rpc::input::InputBatch;
use clipper_rpc::message::{FromContainer, Predict, Prediction, Registered, ToContainer};
use clipper_rpc::router::{Loss, PeerId, RouterHandle};
use tracing::{debug, info, warn};

use super::model::ModelHandle;
use super::served::ServedModels;
use super::slots::{Order, Sizing, Slot};
use crate::batching::{Controller, Observation};
use crate::computation::cache::Source;
use crate::computation::failure::Failure;
use crate::computation::mailbox::Delivery;
use crate::metrics::ReplicaMetrics;
use crate::queue::{Batch, Readiness, Work};

/// How long a container gets nothing, where there are others, after its first failed batch; twice that after each further one,
/// up to some seconds. One that fails fast would otherwise draw all the work to itself.
const SHUNNED: Duration = Duration::from_millis(50);
/// Batches that were taken back from a container whose late answers are still ignored. A container
/// holds two at once, so these are those of its last few registrations.
const TAKEN_BACK: usize = 16;
/// How soon a container that broke the protocol may try again.
const RETRY_AFTER_OFFENCE: Duration = Duration::from_secs(1);

/// The first batch of a connection has an id below this. Ids stay below 2^53, which every language
/// can represent, for as long as any connection lasts.
const FIRST_BATCH_BELOW: u64 = 1 << 52;

/// Timeouts of a connection. The first two are told to the container.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// How long to be silent before saying `heartbeat`.
    pub heartbeat: Duration,
    /// How long a silence means that the frontend is lost, and that a container is perhaps busy
    /// elsewhere: it gets no batch then while another container takes it.
    pub timeout: Duration,
    /// How long a silence means that a container is lost although its connection lives.
    pub silence: Duration,
    /// How long a container may take to leave after `drain`.
    pub drain: Duration,
    /// How long after its last deadline a batch may still be answered.
    pub overdue: Duration,
}

/// The other end of a connection.
#[derive(Debug, Clone)]
pub struct Remote {
    /// The connection.
    pub peer: PeerId,
    /// IP address of the container, or `this host` for one that came over a Unix socket.
    pub address: String,
}

/// Owns the state of one registered connection.
pub struct ContainerConnection {
    remote: Remote,
    router: RouterHandle,
    model: ModelHandle,
    container: ConnectedContainer,
    timeouts: Timeouts,
    served: Arc<ServedModels>,
    slot: Slot,
    controller: Controller,
    metrics: Arc<ReplicaMetrics>,
    /// This connection, as the source of outputs in the cache.
    source: Arc<Source>,
    /// What the container holds, in the order in which it was sent.
    in_flight: VecDeque<InFlight>,
    /// Batches taken back when the container registered again, with their numbers of inputs: an
    /// answer to one of them is ignored.
    taken_back: VecDeque<(u64, usize)>,
    /// Id of the next batch. Ids begin at random, so that a container's answer to a batch of an
    /// earlier connection, or of an earlier run of this frontend, is not taken for another one.
    next_batch: u64,
    last_sent: Instant,
    last_heard: Instant,
    /// Whether it has been silent for so long that others are asked first.
    silent: bool,
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
    /// Why the container is lost, if the connection ends now; none where it leaves in order.
    loss: Option<String>,
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
    dispatched: Instant,
    /// When the container could begin with it.
    begun: Instant,
    behind: bool,
    /// Whether neither it nor another one was answered before its turn.
    in_order: bool,
}

/// The container said something, to be decoded with knowledge of what it was asked.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Received(pub Result<Frames, CodecError>);

/// The container is gone.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Lost(pub Loss);

impl ContainerConnection {
    /// The connection of a container that has taken a slot.
    pub fn new(
        remote: Remote,
        router: RouterHandle,
        model: ModelHandle,
        container: ConnectedContainer,
        slot: Slot,
        timeouts: Timeouts,
        served: Arc<ServedModels>,
    ) -> Self {
        let now = Instant::now();
        let source = Arc::new(Source::new(Arc::clone(model.queue.metrics())));
        let metrics = model.queue.metrics().replica(slot.replica);
        Self {
            remote,
            router,
            model,
            container,
            timeouts,
            served,
            slot,
            controller: slot.sizing.controller(),
            metrics,
            source,
            in_flight: VecDeque::new(),
            taken_back: VecDeque::new(),
            next_batch: rand::random_range(0..FIRST_BATCH_BELOW),
            last_sent: now,
            last_heard: now,
            silent: false,
            last_answer: now,
            stall_check: None,
            stalled: false,
            failures: 0,
            patience: None,
            draining: false,
            loss: Some("its connection was closed".to_owned()),
        }
    }

    fn send(&mut self, message: &ToContainer) {
        self.router.send(&self.remote.peer, message);
        self.last_sent = Instant::now();
    }

    fn resize(&mut self, sizing: Sizing) {
        self.container.batch_size = sizing.batch_size;
        self.controller = sizing.controller();
    }

    fn welcome(&mut self) {
        self.send(&ToContainer::Registered(Registered {
            replica: self.container.replica,
            heartbeat_millis: millis(self.timeouts.heartbeat),
            timeout_millis: millis(self.timeouts.timeout),
            // A lone frontend has been found already, perhaps under another address than it knows of itself.
            frontends: Some(self.served.frontends.load().to_vec()).filter(|frontends| frontends.len() > 1),
        }));
    }

    /// Takes as many batches as the container can do with.
    fn pull(&mut self, ctx: &mut Context<Self>) {
        let patience = self.patience.take();
        let mut may_wait = patience.is_none();
        if let Some(patience) = patience {
            ctx.cancel_future(patience);
        }
        while !self.draining && !self.stalled && self.in_flight.len() < self.depth() {
            let now = Instant::now();
            let mut ready = Readiness {
                replica: self.slot.connection,
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

    /// How many batches the container is to hold at most. One that is tried again is all that it holds, as it may be the
    /// end of what is behind it.
    fn depth(&self) -> usize {
        let apart = self.in_flight.iter().any(|held| held.batch.is_apart);
        if self.controller.pipelines() && !apart { 2 } else { 1 }
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
        let Some(first) = self.in_flight.front() else { return };
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
        let hedged = self.model.queue.hedge(self.slot.connection, held);
        debug!(model = %self.container.model, replica = self.container.replica, ?spent, hedged, "stalled");
    }

    fn drain(&mut self, ctx: &mut Context<Self>) {
        self.draining = true;
        self.send(&ToContainer::Drain);
        ctx.run_later(self.timeouts.drain, |connection, ctx| connection.finish("it was sent home", ctx));
    }

    fn complete(&mut self, prediction: Prediction, ctx: &mut Context<Self>) {
        let Prediction { id, outputs, errors, elapsed_micros } = prediction;
        let index = self.in_flight.iter().position(|held| held.id == id);
        let held = self.let_go(index.expect("a prediction is decoded for a batch that is held"));
        let size = held.batch.computations.len();
        let (latency, round_trip) = (self.last_answer - held.dispatched, self.last_answer - held.begun);
        let model_time = Duration::from_micros(elapsed_micros).min(round_trip);
        self.metrics.record_batch(size, model_time, latency);
        if held.in_order {
            self.controller.observe(&Observation {
                size,
                model_time,
                round_trip,
                latency,
                budget: held.batch.budget,
                behind: held.behind,
            });
            self.metrics.set_estimate(&self.controller.estimate());
        }
        if std::mem::take(&mut self.failures) > 0 {
            self.shun(Duration::ZERO);
        }
        let mut delivery = Delivery::default();
        for (pending, output) in held.batch.computations.into_iter().zip(outputs.into_outputs(&errors)) {
            match output {
                Ok(output) => pending.answer(&Ok(output), &self.source, &mut delivery),
                Err(message) => pending.fail(&Err(self.reported(&message)), &mut delivery),
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
        self.metrics.fail_batch();
        let batch = self.let_go(index).batch;
        let inputs = batch.computations.len();
        warn!(
            model = %self.container.model,
            replica = self.container.replica,
            inputs,
            error = message,
            "a batch failed"
        );
        if !batch.is_apart {
            // A part that fails again says nothing of the replica.
            self.failures += 1;
            self.shun(SHUNNED * (1 << self.failures.min(6)));
        }
        if batch.is_one_unit() {
            // Nobody else hears of the message: it may quote the input.
            self.controller.fail(inputs);
            let outcome = Err(self.reported(message));
            let mut delivery = Delivery::default();
            batch.computations.into_iter().for_each(|pending| pending.fail(&outcome, &mut delivery));
        } else {
            self.model.queue.retry_failed(batch.computations);
        }
        self.pull(ctx);
    }

    /// It has not stalled, or not any more.
    fn recover(&mut self) {
        if std::mem::take(&mut self.stalled) {
            self.model.queue.revive(self.slot.connection);
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
        Answered { batch, dispatched, begun, behind, in_order: index == 0 && !overtaken }
    }

    fn shun(&self, time: Duration) {
        self.model.queue.shun(self.slot.connection, time);
    }

    fn reported(&self, message: &str) -> Failure {
        let problem = format!("reported: {message}").into();
        Failure::ContainerError { model: self.container.model.clone(), problem }
    }

    /// Ends the connection of a container that broke the protocol, and has none of its outputs
    /// served again.
    fn strike_off(&mut self, offence: &str, ctx: &mut Context<Self>) {
        self.source.discredit();
        let (model, replica) = (&self.container.model, self.container.replica);
        warn!(%model, replica, address = self.remote.address, offence, "container broke the protocol");
        self.send(&ToContainer::Rejected {
            reason: offence.to_owned(),
            retry_millis: Some(millis(RETRY_AFTER_OFFENCE)),
        });
        self.finish(offence, ctx);
    }

    /// Ends the connection of a container that is lost: what it holds may be the cause.
    fn finish(&mut self, loss: &str, ctx: &mut Context<Self>) {
        self.log_end(loss);
        self.loss = Some(loss.to_owned());
        ctx.stop();
    }

    /// Ends the connection of a container that lives, and is not to be blamed.
    fn part(&mut self, end: &str, ctx: &mut Context<Self>) {
        self.log_end(end);
        self.loss = None;
        ctx.stop();
    }

    fn log_end(&self, end: &str) {
        let (model, replica) = (&self.container.model, self.container.replica);
        info!(%model, replica, address = self.remote.address, end, "container gone");
    }

    /// Returns what the container holds to the queue: after the loss of the container, if that is why.
    fn give_back(&mut self, loss: Option<&str>) {
        self.recover();
        self.in_flight.iter().for_each(|_| self.metrics.fail_batch());
        let held = self.in_flight.drain(..).flat_map(|held| held.batch.computations);
        match loss {
            Some(loss) => self.model.queue.retry_lost(held, loss),
            None => self.model.queue.take_back(held),
        }
    }

    /// Returns what a container that registers again holds to the queue, and ignores its answers.
    fn take_back(&mut self) {
        let held = self.in_flight.iter().map(|held| (held.id, held.batch.computations.len()));
        self.taken_back.extend(held);
        let excess = self.taken_back.len().saturating_sub(TAKEN_BACK);
        self.taken_back.drain(..excess);
        self.give_back(None);
    }

    /// Whether an answer is to a batch that was taken back. The next one to it is an offence.
    fn was_taken_back(&mut self, id: u64) -> bool {
        let place = self.taken_back.iter().position(|&(taken, _)| taken == id);
        place.is_some_and(|place| self.taken_back.remove(place).is_some())
    }

    fn watch(&mut self, ctx: &mut Context<Self>) {
        let now = Instant::now();
        let silence = now - self.last_heard;
        if self.in_flight.is_empty() && silence > self.timeouts.timeout {
            if silence > self.timeouts.silence {
                return self.finish("nothing was heard of it", ctx);
            }
            // It may be computing for another frontend, unable to say so meanwhile.
            self.silent = true;
            self.shun(3 * self.timeouts.heartbeat);
        }
        if self.in_flight.iter().any(|held| now > held.batch.last_deadline + self.timeouts.overdue) {
            let overdue = self.timeouts.overdue.as_secs();
            return self
                .strike_off(&format!("it has not answered a batch {overdue} s after its deadline"), ctx);
        }
        if now - self.last_sent >= self.timeouts.heartbeat / 2 {
            // By the next tick the silence would be too long.
            self.send(&ToContainer::Heartbeat { frontends: None });
        }
    }
}

impl Drop for ContainerConnection {
    /// Here and not in `stopped`, which a panic would skip.
    fn drop(&mut self) {
        self.router.release(&self.remote.peer);
        self.model.queue.leave(self.slot.connection);
        let loss = self.loss.take();
        self.give_back(loss.as_deref());
        self.model.slots.leave(self.slot);
    }
}

impl Actor for ContainerConnection {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.welcome();
        self.pull(ctx);
        ctx.run_interval(self.timeouts.heartbeat, |connection, ctx| connection.watch(ctx));
    }
}

impl Handler<Order> for ContainerConnection {
    type Result = ();

    fn handle(&mut self, order: Order, ctx: &mut Self::Context) {
        match order {
            Order::PullWork => self.pull(ctx),
            Order::Resize(sizing) => {
                self.resize(sizing);
                self.pull(ctx);
            }
            Order::AnnounceFrontends(frontends) => {
                self.send(&ToContainer::Heartbeat { frontends: Some(frontends.to_vec()) });
            }
            Order::MakeWay => {
                let reason = "this instance has registered over another connection".to_owned();
                self.send(&ToContainer::Rejected { reason: reason.clone(), retry_millis: None });
                self.part(&reason, ctx);
            }
        }
    }
}

impl Handler<Received> for ContainerConnection {
    type Result = ();

    fn handle(&mut self, Received(message): Received, ctx: &mut Self::Context) {
        self.last_heard = Instant::now();
        if std::mem::take(&mut self.silent) {
            self.shun(Duration::ZERO);
            self.pull(ctx);
        }
        let held = self.in_flight.iter().map(|held| (held.id, held.batch.computations.len()));
        let held = held.chain(self.taken_back.iter().copied());
        let message = match message.and_then(|frames| FromContainer::decode(&frames, held)) {
            Ok(message) => message,
            Err(offence @ (CodecError::NotHeld { .. } | CodecError::Outputs { .. })) => {
                return self.strike_off(&offence.to_string(), ctx);
            }
            Err(error) => {
                return self.strike_off(&format!("it sent a malformed message: {error}"), ctx);
            }
        };
        match message {
            FromContainer::Prediction(Prediction { id, .. }) | FromContainer::Error { id, .. }
                if self.was_taken_back(id) =>
            {
                debug!(model = %self.container.model, id, "late answer to a batch that was taken back");
            }
            FromContainer::Prediction(prediction) => self.complete(prediction, ctx),
            FromContainer::Error { id, message } => self.fail(id, &message, ctx),
            FromContainer::Goodbye => self.part("it said goodbye", ctx),
            FromContainer::Heartbeat => {}
            FromContainer::FeedbackAck { id } => {
                self.strike_off(&format!("it acknowledged feedback {id}, which it was not sent"), ctx);
            }
            // It begins anew, or was told twice that it is unknown: `registered` tells it to drop
            // what it held, none of which was the death of it.
            FromContainer::Register(_) => {
                self.take_back();
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

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
