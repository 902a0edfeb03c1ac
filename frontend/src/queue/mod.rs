//! The queries that wait for one version of one model.
//!
//! Shared between the HTTP workers, which push, and the connections of its containers, which take batches when they are
//! free. Both are plain calls under one lock, held for as long as a batch is picked. Invariant: while a wanted query
//! waits, no replica is idle but those that would answer it later than a busy one; while no replica is here, nothing waits.

mod arrivals;
mod entry;
mod replica;
mod state;
mod waiting;

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use clipper_rpc::input::InputType;
use clipper_rpc::names::ModelId;

pub use self::entry::Entry;
use self::replica::Replica;
pub use self::replica::{ReplicaId, WakeUp};
use self::state::{EXPLORATION_INTERVAL, State};
pub use self::waiting::Batch;
use crate::batching::Controller;
use crate::computation::{Computation, MAX_ATTEMPTS};
use crate::failure::Failure;
use crate::metrics::ModelMetrics;
use crate::reply::Delivery;

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
    state: Mutex<State>,
}

/// A place in a queue for a query that shares the computation of another one; free again once it is dropped.
pub struct Shared(Arc<AtomicUsize>);

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
        let (sharing, waiting) = (Arc::default(), AtomicUsize::default());
        let state = Mutex::new(State::new(now));
        Self { number, model, input_type, capacity, metrics, sharing, waiting, state }
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
        let Some(most) = state.replicas.iter().map(|replica| replica.max_batch_size).min() else {
            return Some(Failure::NoConnectedReplicas { model: model() });
        };
        if entry.len() > most {
            return Some(Failure::TooManyTogether { model: model(), found: entry.len(), most });
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

    /// Takes back what a container held that was lost by `loss`, or ends it where no other container can answer.
    pub fn requeue(&self, computations: impl IntoIterator<Item = Arc<Computation>>, loss: &str) {
        let now = Instant::now();
        let mut delivery = Delivery::default();
        let mut state = self.lock();
        for entry in Entry::regroup(computations.into_iter(), now) {
            let attempts = entry.attempts();
            if attempts < MAX_ATTEMPTS && !state.replicas.is_empty() {
                state.waiting.insert(entry);
                continue;
            }
            let problem = format!("was lost while it held this query, attempt {attempts}: {loss}").into();
            entry.fail(&Failure::ContainerError { model: self.model.clone(), problem }, &mut delivery);
        }
        state.wake_one();
    }

    /// Gives other replicas what a stalled one holds, as far as they are there and hedging has not been used too much;
    /// the first answer counts. The stalled one is not woken until [`Queue::revive`].
    pub fn hedge<'a>(&self, stalled: ReplicaId, held: impl Iterator<Item = &'a Arc<Computation>>) -> usize {
        let now = Instant::now();
        let mut state = self.lock();
        let mut hedged = 0;
        if let Some(replica) = state.replica(stalled) {
            replica.stalled = true;
        }
        state.leave_nothing_to_others();
        if state.replicas.iter().any(|replica| !replica.stalled) {
            for mut entry in Entry::regroup(held.cloned(), now) {
                let cost = entry.len() as f64;
                if state.hedges < cost {
                    break;
                }
                if entry.attempts() < MAX_ATTEMPTS {
                    state.hedges -= cost;
                    hedged += entry.len();
                    entry.hedge = true;
                    state.waiting.insert(entry);
                }
            }
        }
        state.wake_one();
        self.metrics.hedge(hedged);
        hedged
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
        let state = &mut *state;
        state.waiting.drop_unwanted(now);
        let Some(first) = state.waiting.first_due() else {
            return if state.closed { state.end(ready) } else { state.rest(ready, 1) };
        };
        if state.is_shunned(ready.replica, now) {
            return state.rest(ready, 1);
        }
        let budget = first - now;
        state.compare(ready, budget, now);
        let others = state.answered_sooner_by_others(ready, budget, now);
        if state.waiting.queries <= others {
            return match ready.idle {
                Some(idle) if idle >= EXPLORATION_INTERVAL => state.lend(ready, 1, now),
                _ => state.rest(ready, others + 1),
            };
        }
        let Some(from) = state.waiting.key_after(others) else { return state.rest(ready, others + 1) };
        let budgets =
            state.waiting.entries.range(from..).flat_map(|(key, entry)| {
                std::iter::repeat_n(key.0.saturating_duration_since(now), entry.len())
            });
        let plan = ready.controller.plan(state.waiting.queries - others, budgets, ready.lead, ready.idle);
        if plan.given_up > 0 {
            if others > 0 || state.leaves_to_faster(ready, now) {
                return if plan.take > 0 {
                    state.lend(ready, plan.take, now)
                } else {
                    state.rest(ready, others + 1)
                };
            }
            let failure = Failure::TooLate {
                model: self.model.clone(),
                queued: state.waiting.queries,
                replicas: state.replicas.len(),
            };
            let given_up = state.waiting.give_up(plan.given_up, &failure, now, &mut delivery);
            self.metrics.give_up(given_up);
            if plan.take == 0 {
                let work = state.rest(ready, 1);
                // What is shared by queries with more time stays, and is to be planned anew.
                state.wake_one();
                return work;
            }
        }
        if plan.take == 0 {
            return state.rest(ready, others + 1);
        }
        // Less than that gains nearly nothing, and takes from the batch after it.
        let worthwhile = ready.in_flight.div_ceil(2);
        if state.waiting.queries - others < worthwhile {
            return state.rest(ready, others + worthwhile);
        }
        if ready.may_wait {
            let per_second = state.arrivals.per_second(now);
            if let Some(wait) = ready.controller.wait(state.waiting.queries, per_second, budget) {
                state.rest_until(ready, wait.until, now + wait.at_most);
                return Work::Wait(wait.at_most);
            }
        }
        match state.waiting.pick((others > 0).then_some(from), plan.take, now, &self.metrics) {
            Some(batch) => {
                state.engage(ready, &batch, now);
                state.wake_one();
                Work::Batch(batch)
            }
            None => state.rest(ready, others + 1),
        }
    }

    /// Adds a replica that takes at most `max_batch_size` inputs at once. It must ask for work once to become idle.
    pub fn join(&self, replica: ReplicaId, max_batch_size: usize, wake_up: WakeUp) {
        self.lock().replicas.push(Replica::new(replica, max_batch_size, wake_up, Instant::now()));
    }

    /// The replica takes that many inputs at once from now on.
    pub fn resize(&self, replica: ReplicaId, max_batch_size: usize) {
        if let Some(replica) = self.lock().replica(replica) {
            replica.max_batch_size = max_batch_size;
        }
    }

    /// Removes a replica. If it was the last, everything that waits ends now.
    pub fn leave(&self, id: ReplicaId) {
        let mut delivery = Delivery::default();
        let mut state = self.lock();
        state.replicas.retain(|replica| replica.id != id);
        if !state.replicas.is_empty() {
            // It may have been woken for what it will not take now, and others have left work to it.
            state.leave_nothing_to_others();
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

impl Shared {
    /// One more of those that are counted.
    pub(crate) fn of(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use clipper_rpc::catalog::{Batching, BatchingStrategy};
    use clipper_rpc::output::Output;
    use tokio::sync::oneshot;

    use super::*;
    use crate::batching::Observation;
    use crate::computation::tests::{computation, waiter};
    use crate::failure::Verdict;
    use crate::reply::Mailbox;

    /// A queue, the mailbox of who asks, and controllers that take whatever waits.
    struct Fixture {
        queue: Queue,
        mailbox: Arc<Mailbox>,
        deadline: Instant,
    }

    type Receiver = oneshot::Receiver<Verdict>;

    impl Fixture {
        fn new(queries: usize) -> Self {
            let model = ModelId { name: "m".parse().unwrap(), version: "1".parse().unwrap() };
            Self {
                queue: Queue::new(1, model, InputType::Strings, Capacity { queries, bytes: 1 << 20 }),
                mailbox: Arc::new(Mailbox::default()),
                deadline: Instant::now() + Duration::from_secs(60),
            }
        }

        fn push(&self, text: &str) -> Receiver {
            self.push_due(text, self.deadline)
        }

        fn push_due(&self, text: &str, deadline: Instant) -> Receiver {
            let (computation, outcome) = computation(&self.mailbox, text, deadline);
            let now = Instant::now();
            self.queue.push([Entry::new(computation, deadline, now)], now);
            outcome
        }

        fn push_together(&self, texts: &[&str]) -> Vec<Receiver> {
            let made = texts.iter().map(|text| computation(&self.mailbox, text, self.deadline));
            let (computations, outcomes): (Vec<_>, Vec<_>) = made.unzip();
            let now = Instant::now();
            self.queue.push([Entry::together(computations, self.deadline, now)], now);
            outcomes
        }

        /// Has as many queries share computations.
        fn share(&self, count: usize) -> Vec<Shared> {
            (0..count).map_while(|_| self.queue.share()).collect()
        }

        fn join(&self, id: ReplicaId) -> Arc<AtomicUsize> {
            let wakes = Arc::new(AtomicUsize::new(0));
            let counter = Arc::clone(&wakes);
            let wake_up = move || {
                counter.fetch_add(1, Ordering::SeqCst);
            };
            self.queue.join(id, 3, Box::new(wake_up));
            wakes
        }

        fn take(&self, replica: ReplicaId) -> Work {
            self.take_with(replica, &mut fixed(3), 0)
        }

        fn take_with(&self, replica: ReplicaId, controller: &mut Controller, in_flight: usize) -> Work {
            self.queue.take(&mut Readiness {
                replica,
                controller,
                in_flight,
                lead: Duration::ZERO,
                idle: (in_flight == 0).then_some(Duration::ZERO),
                may_wait: true,
            })
        }

        /// The failure that a query was told, by its short name.
        fn reason(&self, outcome: &mut Receiver) -> &'static str {
            self.mailbox.hand_out();
            outcome.try_recv().unwrap().unwrap_err().reason()
        }
    }

    /// A controller that knows no time, and takes so many.
    fn fixed(size: usize) -> Controller {
        Controller::new(Batching { strategy: BatchingStrategy::Fixed, ..Batching::default() }, size)
    }

    /// One that has learned how long any batch takes.
    fn slow(millis: u64) -> Controller {
        let mut controller = fixed(3);
        for size in (1..=3).cycle().take(60) {
            controller.observe(&Observation {
                size,
                model_time: Duration::from_millis(millis),
                round_trip: Duration::from_millis(millis),
                budget: Duration::from_secs(60),
                behind: false,
            });
        }
        controller
    }

    fn batch(work: Work) -> Vec<Arc<Computation>> {
        match work {
            Work::Batch(batch) => batch.computations,
            Work::Idle => panic!("idle"),
            Work::Wait(_) => panic!("it waits"),
            Work::Closed => panic!("closed"),
        }
    }

    fn texts(work: Work) -> Vec<String> {
        let text = |one: &Arc<Computation>| String::from_utf8(one.input().data().to_vec()).unwrap();
        batch(work).iter().map(text).collect()
    }

    fn woken(wakes: &AtomicUsize) -> usize {
        wakes.load(Ordering::SeqCst)
    }

    #[test]
    fn queries_that_share_a_computation_count_against_the_capacity() {
        let fixture = Fixture::new(3);
        fixture.join(1);
        let sharing = fixture.share(9);
        assert_eq!(sharing.len(), 2, "there is room for what they share");
        let mut pushed = ["a", "b"].map(|text| fixture.push(text));
        fixture.mailbox.hand_out();
        assert!(pushed[0].try_recv().is_err(), "it waits");
        assert!(matches!(pushed[1].try_recv(), Ok(Err(Failure::QueueFull { queries: 3, .. }))));
        drop(sharing);
        let mut third = fixture.push("c");
        fixture.mailbox.hand_out();
        assert!(third.try_recv().is_err(), "it waits");
        assert!(fixture.share(9).is_empty());
    }

    #[test]
    fn the_earliest_deadline_is_taken_first_and_equals_in_order_of_arrival() {
        let f = Fixture::new(10);
        f.join(1);
        let _late = f.push_due("late", f.deadline + Duration::from_secs(1));
        let _rest = ["a", "b", "c"].map(|text| f.push(text));
        assert_eq!(texts(f.take(1)), ["a", "b", "c"]);
        assert_eq!(texts(f.take(1)), ["late"]);
        assert!(matches!(f.take(1), Work::Idle));
    }

    #[test]
    fn a_query_that_nobody_waits_for_is_never_taken() {
        let f = Fixture::new(10);
        f.join(1);
        drop(f.push("gone"));
        let _expired = f.push_due("expired", Instant::now());
        assert!(matches!(f.take(1), Work::Idle));
        assert_eq!(f.queue.depth(), Depth { queries: 0, bytes: 0, replicas: 1 });
    }

    #[test]
    fn a_shared_query_outlives_the_first_who_asked() {
        let f = Fixture::new(10);
        f.join(1);
        let (shared, first) = computation(&f.mailbox, "x", f.deadline);
        let (second, _second) = waiter(&f.mailbox, f.deadline + Duration::from_secs(1));
        assert!(shared.join(second).is_ok());
        let now = Instant::now();
        f.queue.push([Entry::new(shared, f.deadline, now)], now);
        drop(first);
        assert_eq!(texts(f.take(1)), ["x"]);
    }

    #[test]
    fn a_query_that_cannot_make_it_is_told_so_before_it_costs_anything() {
        let f = Fixture::new(10);
        f.join(1);
        let mut controller = slow(200);
        let mut hopeless = f.push_due("hopeless", Instant::now() + Duration::from_millis(100));
        let _fine = f.push("fine");
        assert_eq!(texts(f.take_with(1, &mut controller, 0)), ["fine"]);
        assert_eq!(f.reason(&mut hopeless), "deadline");
    }

    #[test]
    fn a_full_queue_refuses_but_first_drops_what_nobody_waits_for() {
        let f = Fixture::new(1);
        f.join(1);
        let first = f.push("first");
        let mut second = f.push("second");
        assert_eq!(f.reason(&mut second), "queue_full");
        drop(first);
        let _third = f.push("third");
        assert_eq!(texts(f.take(1)), ["third"]);
    }

    #[test]
    fn a_queue_is_full_in_bytes_too_but_never_for_a_single_query() {
        let f = Fixture::new(10);
        f.join(1);
        let large = "x".repeat(1 << 21);
        let _first = f.push(&large);
        let mut second = f.push("small");
        assert_eq!(f.reason(&mut second), "queue_full");
        assert_eq!(f.queue.depth().bytes, 1 << 21);
    }

    #[test]
    fn a_full_queue_is_not_looked_through_for_every_query_that_it_refuses() {
        let f = Fixture::new(50_000);
        f.join(1);
        let _waiting: Vec<_> = (0..50_000).map(|_| f.push("w")).collect();
        let began = Instant::now();
        for _ in 0..50_000 {
            drop(f.push("refused"));
        }
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    }

    #[test]
    fn only_an_idle_replica_is_woken_and_once() {
        let f = Fixture::new(10);
        let wakes = f.join(1);
        let _first = f.push("first");
        assert_eq!(woken(&wakes), 0, "it has not asked yet");
        texts(f.take(1));
        assert!(matches!(f.take(1), Work::Idle));
        let _more = [f.push("second"), f.push("third")];
        assert_eq!(woken(&wakes), 1);
    }

    #[test]
    fn the_fastest_idle_replica_is_woken() {
        let f = Fixture::new(10);
        let wakes = [f.join(1), f.join(2)];
        for (replica, millis) in [(1, 50), (2, 40)] {
            let _query = f.push("x");
            let mut controller = slow(millis);
            texts(f.take_with(replica, &mut controller, 0));
            assert!(matches!(f.take_with(replica, &mut controller, 0), Work::Idle));
        }
        assert!(matches!(f.take_with(1, &mut slow(50), 0), Work::Idle));
        let before = wakes.each_ref().map(|wakes| woken(wakes));
        let _query = f.push("x");
        assert_eq!(wakes.each_ref().map(|wakes| woken(wakes)), [before[0], before[1] + 1]);
    }

    #[test]
    fn a_slow_replica_leaves_to_a_fast_one_what_that_answers_sooner_and_takes_the_rest() {
        let f = Fixture::new(100);
        let (mut fast, mut sluggish) = (slow(10), slow(100));
        f.join(1);
        let wakes = f.join(2);
        let _first = f.push("first");
        assert_eq!(texts(f.take_with(1, &mut fast, 0)), ["first"]);
        // In 100 ms the fast one answers nine more batches of three.
        let mut waiting: Vec<_> = (0..20).map(|_| f.push("x")).collect();
        assert!(matches!(f.take_with(2, &mut sluggish, 0), Work::Idle));
        assert_eq!(woken(&wakes), 0);
        waiting.extend((0..20).map(|_| f.push("x")));
        assert_eq!(woken(&wakes), 1);
        assert_eq!(texts(f.take_with(2, &mut sluggish, 0)).len(), 3);
    }

    #[test]
    fn what_a_stalled_replica_holds_is_given_to_another_and_the_first_answer_counts() {
        let f = Fixture::new(10);
        f.join(1);
        let wakes = f.join(2);
        let mut outcome = f.push("x");
        let held = batch(f.take(1));
        assert!(matches!(f.take(2), Work::Idle));
        assert_eq!(f.queue.hedge(1, held.iter()), 1);
        assert_eq!(woken(&wakes), 1);
        let hedged = batch(f.take(2));
        let mut delivery = Delivery::default();
        hedged[0].finish(&Ok(Output::text("2")), &mut delivery);
        held[0].finish(&Ok(Output::text("1")), &mut delivery);
        drop(delivery);
        f.mailbox.hand_out();
        assert_eq!(outcome.try_recv().unwrap(), Ok(Output::text("2")));
    }

    #[test]
    fn a_lone_replica_is_not_hedged_against() {
        let f = Fixture::new(10);
        f.join(1);
        let _outcome = f.push("x");
        let held = batch(f.take(1));
        assert_eq!(f.queue.hedge(1, held.iter()), 0);
        assert_eq!(f.queue.depth().queries, 0);
    }

    #[test]
    fn hedging_is_bounded_by_a_share_of_what_is_handed_out() {
        let f = Fixture::new(10_000);
        f.join(1);
        f.join(2);
        let mut hedged = 0;
        let mut outcomes = Vec::new();
        for _ in 0..2_000 {
            outcomes.push(f.push("x"));
            let held = batch(f.take(1));
            hedged += f.queue.hedge(1, held.iter());
            f.queue.revive(1);
            if let Work::Batch(other) = f.take(2) {
                let mut delivery = Delivery::default();
                other.computations.iter().for_each(|one| one.finish(&Ok(Output::text("1")), &mut delivery));
            }
        }
        assert!(hedged < 500, "{hedged}");
    }

    #[test]
    fn inputs_that_belong_together_are_never_split() {
        let f = Fixture::new(10);
        f.join(1);
        let _one = f.push("1");
        let _together = f.push_together(&["a", "b", "c"]);
        let _two = f.push("2");
        assert_eq!(texts(f.take(1)), ["1"]);
        assert_eq!(texts(f.take(1)), ["a", "b", "c"]);
        assert_eq!(texts(f.take(1)), ["2"]);
        let mut too_many = f.push_together(&["a", "b", "c", "d"]);
        assert_eq!(f.reason(&mut too_many[3]), "too_many_together");
    }

    #[test]
    fn a_replica_that_holds_a_batch_takes_no_crumbs() {
        let f = Fixture::new(10);
        let wakes = f.join(1);
        let _first = f.push("x");
        assert!(matches!(f.take_with(1, &mut fixed(3), 3), Work::Idle));
        let _second = f.push("y");
        assert_eq!(woken(&wakes), 1);
        assert_eq!(texts(f.take_with(1, &mut fixed(3), 3)), ["x", "y"]);
    }

    #[test]
    fn a_query_is_refused_at_once_where_no_container_is_connected() {
        let f = Fixture::new(1);
        let mut outcome = f.push("x");
        assert_eq!(f.reason(&mut outcome), "no_connected_replicas");
    }

    #[test]
    fn the_last_replica_to_leave_ends_every_waiting_query() {
        let f = Fixture::new(10);
        f.join(1);
        let mut outcome = f.push("x");
        f.queue.leave(1);
        assert_eq!(f.reason(&mut outcome), "no_connected_replicas");
    }

    #[test]
    fn work_that_a_leaving_replica_was_woken_for_goes_to_another() {
        let f = Fixture::new(10);
        let (first, second) = (f.join(1), f.join(2));
        assert!(matches!(f.take(1), Work::Idle));
        assert!(matches!(f.take(2), Work::Idle));
        let _outcome = f.push("x");
        assert_eq!((woken(&first), woken(&second)), (1, 0));
        f.queue.leave(1);
        assert_eq!(woken(&second), 1);
        assert_eq!(texts(f.take(2)), ["x"]);
    }

    #[test]
    fn a_requeued_query_is_tried_again_but_not_for_ever() {
        let f = Fixture::new(10);
        f.join(1);
        let mut outcome = f.push("poison");
        for _ in 0..MAX_ATTEMPTS {
            let batch = batch(f.take(1));
            f.queue.requeue(batch, "it broke");
        }
        assert!(matches!(f.take(1), Work::Idle));
        assert_eq!(f.reason(&mut outcome), "container_error");
    }

    #[test]
    fn a_closed_queue_is_emptied_before_its_replicas_are_sent_home() {
        let f = Fixture::new(10);
        f.join(1);
        let _accepted = f.push("accepted");
        f.queue.close();
        let mut refused = f.push("refused");
        assert_eq!(f.reason(&mut refused), "draining");
        assert_eq!(texts(f.take(1)), ["accepted"]);
        assert!(matches!(f.take_with(1, &mut fixed(3), 1), Work::Idle));
        assert!(matches!(f.take(1), Work::Closed));
    }

    #[test]
    fn every_replica_of_a_closed_queue_is_sent_home_though_another_empties_it() {
        let f = Fixture::new(10);
        let (mut fast, mut sluggish) = (slow(10), slow(100));
        f.join(1);
        let wakes = f.join(2);
        let _first = f.push("first");
        assert_eq!(texts(f.take_with(1, &mut fast, 0)), ["first"]);
        let _second = f.push("second");
        f.queue.close();
        let before = woken(&wakes);
        assert!(matches!(f.take_with(2, &mut sluggish, 0), Work::Idle), "the fast one answers it sooner");
        assert_eq!(texts(f.take_with(1, &mut fast, 0)), ["second"]);
        assert!(matches!(f.take_with(1, &mut fast, 0), Work::Closed));
        assert_eq!(woken(&wakes), before + 1);
        assert!(matches!(f.take_with(2, &mut sluggish, 0), Work::Closed));
    }

    #[test]
    fn a_shared_query_that_is_given_up_for_the_first_who_asked_is_not_left_lying_for_the_others() {
        let f = Fixture::new(10);
        let wakes = f.join(1);
        let mut controller = slow(200);
        let soon = Instant::now() + Duration::from_millis(100);
        let (shared, mut hopeless) = computation(&f.mailbox, "x", soon);
        let (patient, _patient) = waiter(&f.mailbox, f.deadline);
        assert!(shared.join(patient).is_ok());
        let now = Instant::now();
        f.queue.push([Entry::new(shared, soon, now)], now);
        assert!(matches!(f.take_with(1, &mut controller, 0), Work::Idle));
        assert_eq!(f.reason(&mut hopeless), "deadline");
        assert_eq!(woken(&wakes), 1);
        assert_eq!(texts(f.take_with(1, &mut controller, 0)), ["x"]);
    }

    #[test]
    fn a_free_replica_is_woken_rather_than_one_that_is_a_little_faster_and_holds_a_batch() {
        let f = Fixture::new(10);
        let wakes = [f.join(1), f.join(2)];
        let controllers = &mut [slow(40), slow(50)];
        let _queries = ["a", "b", "c"].map(|text| f.push(text));
        assert_eq!(texts(f.take_with(1, &mut controllers[0], 0)).len(), 3);
        let _query = f.push("d");
        texts(f.take_with(2, &mut controllers[1], 0));
        assert!(matches!(f.take_with(1, &mut controllers[0], 3), Work::Idle));
        assert!(matches!(f.take_with(2, &mut controllers[1], 0), Work::Idle));
        let _query = f.push("e");
        assert_eq!(wakes.each_ref().map(|wakes| woken(wakes)), [0, 1]);
    }

    #[test]
    fn a_replica_whose_batches_fail_does_not_draw_the_work_to_itself() {
        let f = Fixture::new(100);
        let (broken, sound) = (f.join(1), f.join(2));
        assert!(matches!(f.take(1), Work::Idle));
        assert!(matches!(f.take_with(2, &mut slow(5), 0), Work::Idle));
        f.queue.shun(1, Duration::from_secs(60));
        let _query = f.push("x");
        assert_eq!((woken(&broken), woken(&sound)), (0, 1));
        assert!(matches!(f.take(1), Work::Idle));
        // Alone, it is better than nothing.
        f.queue.leave(2);
        assert_eq!(woken(&broken), 1);
        assert_eq!(texts(f.take(1)), ["x"]);
    }

    #[test]
    fn replicas_that_become_slow_in_turn_do_not_leave_the_work_to_each_other() {
        let f = Fixture::new(100);
        let wakes = f.join(1);
        f.join(2);
        let mut queries = Vec::new();
        for replica in [1, 2] {
            queries.push(f.push("x"));
            assert_eq!(texts(f.take_with(replica, &mut slow(10), 0)).len(), 1);
        }
        queries.extend((0..3).map(|_| f.push("x")));
        // The second is busy, and was the faster one as far as is known.
        assert!(matches!(f.take_with(1, &mut slow(100), 0), Work::Idle));
        let before = woken(&wakes);
        assert!(matches!(f.take_with(2, &mut slow(1000), 0), Work::Idle));
        assert_eq!(woken(&wakes), before + 1);
        assert_eq!(texts(f.take_with(1, &mut slow(100), 0)).len(), 3);
    }

    #[test]
    fn a_fast_replica_that_rests_is_woken_by_a_slow_one_that_finds_work() {
        let f = Fixture::new(100);
        f.join(1);
        let wakes = f.join(2);
        let _first = f.push("x");
        assert_eq!(texts(f.take_with(2, &mut slow(10), 0)).len(), 1);
        let _second = f.push("y");
        // For whatever reason it waits for more.
        assert!(matches!(f.take_with(2, &mut slow(10), 64), Work::Idle));
        let before = woken(&wakes);
        assert!(matches!(f.take_with(1, &mut slow(1000), 0), Work::Idle));
        assert_eq!(woken(&wakes), before + 1);
    }
}
