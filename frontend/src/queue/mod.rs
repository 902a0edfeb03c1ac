//! The queries that wait for one version of one model.
//!
//! Shared between the HTTP workers, which push, and the connections of its containers, which take batches when they are
//! free. Both are plain calls under one lock, held for as long as a batch is picked. Invariant: while a wanted query
//! waits, no replica is idle but those that would answer it later than a busy one; while no replica is here, nothing waits.

mod arrivals;
mod decision;
mod entry;
mod replica;
mod setback;
mod state;
mod versions;
mod waiting;

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use clipper_rpc::input::InputType;
use clipper_rpc::names::ModelId;

use self::decision::{Decision, Offer};
pub use self::entry::Entry;
use self::replica::Replica;
pub use self::replica::{ReplicaId, WakeUp};
use self::state::State;
pub use self::versions::{ModelView, VersionView};
pub use self::waiting::Batch;
use crate::batching::Controller;
use crate::computation::Shared;
use crate::computation::failure::Failure;
use crate::computation::mailbox::Delivery;
use crate::metrics::ModelMetrics;

/// What may wait at most.
#[derive(Debug, Clone, Copy)]
pub struct Capacity {
    /// Queries.
    pub queries: usize,
    /// Bytes of their inputs.
    pub bytes: usize,
}

/// The deadline-ordered queue of one version of one model.
pub struct Queue {
    number: u64,
    model: ModelId,
    input_type: InputType,
    capacity: Capacity,
    metrics: Arc<ModelMetrics>,
    /// The number of queries that share computations of others.
    sharing: Arc<AtomicUsize>,
    /// The queries that waited when the lock was last released.
    waiting: AtomicUsize,
    /// The replicas that are connected.
    replicas: AtomicUsize,
    state: Mutex<State>,
}

/// The state of a queue, locked.
struct Locked<'a> {
    state: MutexGuard<'a, State>,
    queries: &'a AtomicUsize,
}

/// What a replica says of itself when it asks for work.
pub struct Readiness<'a> {
    /// Which it is.
    pub replica: ReplicaId,
    /// Decides on its batches.
    pub controller: &'a mut Controller,
    /// The inputs that it holds.
    pub in_flight: usize,
    /// How long it needs for them.
    pub lead: Duration,
    /// How long it has held nothing, if it does.
    pub idle: Option<Duration>,
    /// Whether it may wait for a larger batch than there is.
    pub may_wait: bool,
}

/// What a replica that asked for work gets.
pub enum Work {
    /// Inputs to answer.
    Batch(Batch),
    /// More should come soon: ask again after this time, or when woken.
    Wait(Duration),
    /// Nothing now: it will be woken.
    Idle,
    /// Nothing ever: the model's version is withdrawn.
    Closed,
}

/// How much waits, and for how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Depth {
    /// Queries that wait.
    pub queries: usize,
    /// What their inputs take, in bytes.
    pub bytes: usize,
    /// Replicas that are connected.
    pub replicas: usize,
}

impl Queue {
    /// An empty queue. No other queue of this frontend has ever had its `number`.
    pub fn new(number: u64, model: ModelId, input_type: InputType, capacity: Capacity) -> Self {
        let now = Instant::now();
        let metrics = Arc::new(ModelMetrics::new(now));
        let (sharing, waiting, replicas) = (Arc::default(), AtomicUsize::default(), AtomicUsize::default());
        let state = Mutex::new(State::new(now));
        Self { number, model, input_type, capacity, metrics, sharing, waiting, replicas, state }
    }

    /// Tells this queue from every other that the frontend has had.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The version of the model that is served.
    pub fn model(&self) -> &ModelId {
        &self.model
    }

    /// The type of its inputs.
    pub fn input_type(&self) -> InputType {
        self.input_type
    }

    /// What is counted of the version.
    pub fn metrics(&self) -> &Arc<ModelMetrics> {
        &self.metrics
    }

    /// How much waits at the moment.
    pub fn depth(&self) -> Depth {
        self.lock().depth()
    }

    /// Whether a replica is connected. Takes no lock.
    pub fn is_connected(&self) -> bool {
        self.replicas.load(Ordering::Relaxed) > 0
    }

    /// A place for a query that shares the computation of another one; none if the queue is full. Leaves room for that
    /// computation, which may not be queued yet. Takes no lock, so that what is pushed at the same time may not be counted.
    pub fn share(&self) -> Option<Shared> {
        let shared = Shared::of(&self.sharing);
        (self.sharing() + self.waiting.load(Ordering::Relaxed) < self.capacity.queries).then_some(shared)
    }

    /// Says that no further query can wait.
    pub fn full(&self) -> Failure {
        self.full_with(&self.lock())
    }

    fn full_with(&self, state: &State) -> Failure {
        let Depth { queries, bytes, .. } = state.depth();
        Failure::QueueFull { model: self.model.clone(), queries: queries + self.sharing(), bytes }
    }

    fn sharing(&self) -> usize {
        self.sharing.load(Ordering::Relaxed)
    }

    /// Accepts what can be answered, and wakes idle replicas for it; the rest is told at once why not.
    pub fn push(&self, entries: impl IntoIterator<Item = Entry>, now: Instant) {
        let mut delivery = Delivery::default();
        let mut state = self.lock();
        for entry in entries {
            state.arrivals.count(entry.len());
            match self.refusal(&mut state, &entry, now) {
                None => state.waiting.insert(entry),
                Some(failure) => entry.fail(&failure, &mut delivery),
            }
        }
        state.wake_one();
    }

    fn refusal(&self, state: &mut State, entry: &Entry, now: Instant) -> Option<Failure> {
        let model = || self.model.clone();
        if state.closed {
            return Some(Failure::Draining { model: model() });
        }
        if state.replicas.is_empty() {
            return Some(Failure::NoConnectedReplicas { model: model() });
        }
        if entry.len() > state.largest_batch() {
            return Some(self.too_many_together(state, entry));
        }
        let is_full = |state: &State| {
            state.waiting.queries + self.sharing() + entry.len() > self.capacity.queries
                || (state.waiting.bytes + entry.bytes() > self.capacity.bytes && state.waiting.queries > 0)
        };
        if is_full(state) {
            state.waiting.make_room(now);
        }
        is_full(state).then(|| self.full_with(state))
    }

    /// A replica's batch has failed: it gets nothing for that time, as long as another replica is there that can be used.
    pub fn shun(&self, replica: ReplicaId, time: Duration) {
        if let Some(replica) = self.lock().replica(replica) {
            replica.shunned_until = Instant::now() + time;
        }
    }

    /// A stalled replica has answered.
    pub fn revive(&self, replica: ReplicaId) {
        if let Some(replica) = self.lock().replica(replica) {
            replica.stalled = false;
        }
    }

    /// Picks the batch that a replica should compute now; without one it becomes idle.
    pub fn take(&self, ready: &mut Readiness<'_>) -> Work {
        let now = Instant::now();
        // Dropped after the lock: it wakes.
        let mut delivery = Delivery::default();
        let mut state = self.lock();
        let too_long = state.set_aside(ready.replica);
        state.waiting.drop_unwanted(now);
        state.compare(ready, now);
        state.arrivals.update(now);
        let decision = match state.decide(ready, now) {
            Decision::GiveUp { queries, take, budget } => {
                self.give_up(&mut state, queries, now, &mut delivery);
                if take == 0 {
                    // A computation that is shared by queries with more time stays, and is planned anew.
                    state.rest(ready, 1);
                    state.wake_one();
                    state.leave_to_larger(too_long);
                    return Work::Idle;
                }
                match state.waiting.first() {
                    Some((from, is_apart)) => {
                        let offer = Offer { left: 0, from, most: take, is_apart, budget };
                        state.decide_on_batch(ready, &offer)
                    }
                    None => Decision::Rest { at_least: 1, wake: None },
                }
            }
            decision => decision,
        };
        let work = self.carry_out(decision, &mut state, ready, now);
        state.leave_to_larger(too_long);
        work
    }

    fn carry_out(
        &self,
        decision: Decision,
        state: &mut State,
        ready: &mut Readiness<'_>,
        now: Instant,
    ) -> Work {
        match decision {
            Decision::End => state.end(ready),
            Decision::Rest { at_least, wake } => {
                state.rest(ready, at_least);
                state.wake(wake);
                Work::Idle
            }
            Decision::Copies { most, wake } => {
                state.wake(wake);
                state.copy(ready, most, now)
            }
            Decision::Wait { until, at_most } => {
                state.rest_until(ready, until, now + at_most);
                Work::Wait(at_most)
            }
            Decision::Batch { from, size } => match state.waiting.pick(from, size, now, &self.metrics) {
                Some(batch) => {
                    state.engage(ready, &batch, now);
                    state.wake_one();
                    Work::Batch(batch)
                }
                None => {
                    state.rest(ready, 1);
                    Work::Idle
                }
            },
            Decision::GiveUp { .. } => unreachable!("queries are given up before the rest is decided on"),
        }
    }

    /// Fails the first queries, which can no longer meet their deadlines.
    fn give_up(&self, state: &mut State, queries: usize, now: Instant, delivery: &mut Delivery) {
        let failure = Failure::TooLate {
            model: self.model.clone(),
            queued: state.waiting.queries,
            replicas: state.replicas.len(),
        };
        let given_up = state.waiting.give_up(queries, &self.model, &failure, now, delivery);
        self.metrics.give_up(given_up);
    }

    /// Adds a replica that takes at most `max_batch_size` inputs at once. It must ask for work once to become idle.
    pub fn join(&self, replica: ReplicaId, max_batch_size: usize, wake_up: WakeUp) {
        let mut state = self.lock();
        state.replicas.push(Replica::new(replica, max_batch_size, wake_up, Instant::now()));
        self.replicas.store(state.replicas.len(), Ordering::Relaxed);
    }

    /// The replica takes that many inputs at once from now on.
    pub fn resize(&self, replica: ReplicaId, max_batch_size: usize) {
        let mut delivery = Delivery::default();
        let mut state = self.lock();
        if let Some(replica) = state.replica(replica) {
            replica.max_batch_size = max_batch_size;
        }
        self.end_what_fits_nowhere(&mut state, &mut delivery);
    }

    /// Removes a replica. If it was the last, everything that waits ends now.
    pub fn leave(&self, id: ReplicaId) {
        let mut delivery = Delivery::default();
        let mut state = self.lock();
        state.replicas.retain(|replica| replica.id != id);
        self.replicas.store(state.replicas.len(), Ordering::Relaxed);
        if !state.replicas.is_empty() {
            // It may have been woken for what it will not take now, and others have left work to it.
            state.leave_nothing_to_others();
            self.end_what_fits_nowhere(&mut state, &mut delivery);
            state.wake_one();
            return;
        }
        let failure = Failure::NoConnectedReplicas { model: self.model.clone() };
        for entry in state.waiting.take_all() {
            entry.fail(&failure, &mut delivery);
        }
    }

    /// Refuses queries from now on. The replicas empty the queue, and are then told that it is closed.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.wake_all();
    }

    fn too_many_together(&self, state: &State, entry: &Entry) -> Failure {
        let (model, found, most) = (self.model.clone(), entry.len(), state.largest_batch());
        Failure::TooManyTogether { model, found, most }
    }

    /// Ends the inputs that are kept together and are too many for each replica by now.
    fn end_what_fits_nowhere(&self, state: &mut State, delivery: &mut Delivery) {
        for (_, entry) in state.waiting.take_longer_than(state.largest_batch()) {
            match entry.split() {
                Ok(units) => units.for_each(|unit| state.waiting.insert(unit)),
                Err(entry) => {
                    let failure = self.too_many_together(state, &entry);
                    entry.fail(&failure, delivery);
                }
            }
        }
    }

    fn lock(&self) -> Locked<'_> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        Locked { state, queries: &self.waiting }
    }
}

impl Deref for Locked<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        self.queries.store(self.state.waiting.queries, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
