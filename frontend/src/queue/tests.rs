use std::sync::atomic::{AtomicUsize, Ordering};

use clipper_rpc::catalog::{Batching, BatchingStrategy};
use clipper_rpc::output::Output;
use proptest::collection::vec;
use proptest::prelude::*;
use tokio::sync::oneshot;

use super::*;
use crate::batching::Observation;
use crate::computation::failure::Verdict;
use crate::computation::mailbox::Mailbox;
use crate::computation::tests::{computation, waiter};
use crate::computation::{Bond, Pending};

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
        let bond = Bond::default();
        let made = texts.iter().map(|text| {
            let (computation, outcome) = computation(&self.mailbox, text, self.deadline);
            let alone = Arc::into_inner(computation).expect("it was just made");
            (Arc::new(alone.bound_by(Some(bond.clone()))), outcome)
        });
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
        self.join_with(id, 3)
    }

    fn join_with(&self, id: ReplicaId, max_batch_size: usize) -> Arc<AtomicUsize> {
        let wakes = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&wakes);
        let wake_up = move || {
            counter.fetch_add(1, Ordering::SeqCst);
        };
        self.queue.join(id, max_batch_size, Box::new(wake_up));
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
            latency: Duration::from_millis(millis),
            budget: Duration::from_secs(60),
            behind: false,
        });
    }
    controller
}

fn batch(work: Work) -> Vec<Pending> {
    match work {
        Work::Batch(batch) => batch.computations,
        Work::Idle => panic!("idle"),
        Work::Wait(_) => panic!("it waits"),
        Work::Closed => panic!("closed"),
    }
}

fn texts(work: Work) -> Vec<String> {
    let text = |one: &Pending| String::from_utf8(one.input().data().to_vec()).unwrap();
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
fn a_batch_is_held_back_only_for_what_its_deadline_leaves_once_the_replica_is_free() {
    let fixture = Fixture::new(9);
    fixture.join(1);
    let _outcome = fixture.push("a");
    let half_a_minute = Batching { strategy: BatchingStrategy::Fixed, wait_micros: Some(30_000_000) };
    let take = |lead| {
        fixture.queue.take(&mut Readiness {
            replica: 1,
            controller: &mut Controller::new(half_a_minute, 3),
            in_flight: 1,
            lead,
            idle: None,
            may_wait: true,
        })
    };
    assert!(matches!(take(Duration::from_secs(10)), Work::Wait(_)));
    assert_eq!(batch(take(Duration::from_secs(40))).len(), 1);
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
fn inputs_that_belong_together_are_left_to_a_replica_that_takes_so_many() {
    let f = Fixture::new(10);
    let small = f.join_with(1, 2);
    let large = f.join_with(2, 3);
    assert!(matches!(f.take_with(1, &mut fixed(2), 0), Work::Idle));
    assert!(matches!(f.take(2), Work::Idle));
    let _together = f.push_together(&["a", "b", "c"]);
    assert_eq!((woken(&small), woken(&large)), (1, 0));
    assert!(matches!(f.take_with(1, &mut fixed(2), 0), Work::Idle));
    assert_eq!((woken(&small), woken(&large)), (1, 1));
    let _alone = f.push("x");
    assert_eq!(texts(f.take_with(1, &mut fixed(2), 0)), ["x"]);
    assert_eq!(texts(f.take(2)), ["a", "b", "c"]);
}

#[test]
fn inputs_that_belong_together_end_once_no_replica_takes_so_many_any_more() {
    for leaves in [true, false] {
        let f = Fixture::new(10);
        f.join_with(1, 2);
        f.join_with(2, 3);
        let mut together = f.push_together(&["a", "b", "c"]);
        let mut alone = f.push("x");
        if leaves {
            f.queue.leave(2);
        } else {
            f.queue.resize(2, 2);
        }
        assert_eq!(f.reason(&mut together[0]), "too_many_together");
        assert!(alone.try_recv().is_err(), "it waits");
        assert_eq!(texts(f.take_with(1, &mut fixed(2), 0)), ["x"]);
    }
}

/// Has a replica compute batches until nothing waits; how many it took. One that holds an input with "bad" in it fails, and
/// one that holds a "killer" is lost.
fn compute(f: &Fixture, size: usize) -> (usize, usize) {
    let (mut batches, mut losses) = (0, 0);
    let has = |batch: &Batch, text: &str| {
        batch.computations.iter().any(|one| String::from_utf8_lossy(one.input().data()).contains(text))
    };
    while let Work::Batch(batch) = f.take_with(1, &mut fixed(size), 0) {
        batches += 1;
        let mut delivery = Delivery::default();
        if has(&batch, "killer") {
            losses += 1;
            f.queue.retry_lost(batch.computations, "it broke");
        } else if !has(&batch, "bad") {
            batch.computations.iter().for_each(|one| one.finish(&Ok(Output::text("1")), &mut delivery));
        } else if batch.is_one_unit() {
            let outcome = Err(Failure::NoLinkedModels);
            batch.computations.into_iter().for_each(|one| one.fail(&outcome, &mut delivery));
        } else {
            f.queue.retry_failed(batch.computations);
        }
    }
    f.mailbox.hand_out();
    (batches, losses)
}

#[test]
fn inputs_that_fail_their_batch_are_found_and_their_neighbours_answered() {
    let f = Fixture::new(100);
    f.join_with(1, 64);
    let bad = [3, 17, 18, 60];
    let mut outcomes: Vec<_> =
        (0..64).map(|number| f.push(if bad.contains(&number) { "bad" } else { "good" })).collect();
    let (batches, _) = compute(&f, 64);
    for (number, outcome) in (0..).zip(&mut outcomes) {
        assert_eq!(outcome.try_recv().unwrap().is_err(), bad.contains(&number), "{number}");
    }
    assert!(batches <= 37, "{batches}");
}

#[test]
fn inputs_that_belong_together_fail_together_and_apart_from_others() {
    let f = Fixture::new(10);
    f.join_with(1, 8);
    let mut before = f.push("good");
    let mut together = f.push_together(&["good", "bad", "good"]);
    let mut behind = f.push("good");
    compute(&f, 8);
    assert!(before.try_recv().unwrap().is_ok());
    assert!(behind.try_recv().unwrap().is_ok());
    assert!(together.iter_mut().all(|outcome| outcome.try_recv().unwrap().is_err()));
}

#[test]
fn what_is_tried_again_shares_its_batch_with_nobody_else() {
    let f = Fixture::new(10);
    f.join(1);
    let _failing = ["a", "b"].map(|text| f.push(text));
    f.queue.retry_failed(batch(f.take(1)));
    let _urgent = f.push_due("urgent", f.deadline - Duration::from_secs(1));
    let _fresh = f.push("fresh");
    assert_eq!(texts(f.take(1)), ["urgent"]);
    assert_eq!(texts(f.take(1)), ["a"]);
    assert_eq!(texts(f.take(1)), ["b"]);
    assert_eq!(texts(f.take(1)), ["fresh"]);
}

#[test]
fn what_is_tried_again_is_all_that_a_replica_holds() {
    let f = Fixture::new(10);
    f.join(1);
    let free = f.join(2);
    let _failing = ["a", "b"].map(|text| f.push(text));
    f.queue.retry_failed(batch(f.take(1)));
    assert_eq!(texts(f.take(1)), ["a"]);
    let _urgent = f.push_due("urgent", f.deadline - Duration::from_secs(1));
    assert_eq!(texts(f.take(2)), ["urgent"]);
    assert!(matches!(f.take_with(1, &mut fixed(3), 1), Work::Idle), "it holds one already");
    f.queue.leave(1);
    drop(free);
    assert_eq!(texts(f.take(2)), ["b"]);
}

#[test]
fn an_input_that_kills_its_containers_is_found_after_at_most_three() {
    for (inputs, most_losses) in [(1, 2), (8, 2), (64, 3)] {
        let f = Fixture::new(100);
        f.join_with(1, 64);
        let mut outcomes: Vec<_> = (1..inputs).map(|_| f.push("good")).collect();
        let mut killer = f.push("killer");
        let (_, losses) = compute(&f, 64);
        assert_eq!(losses, most_losses, "of {inputs}");
        assert!(outcomes.iter_mut().all(|outcome| outcome.try_recv().unwrap().is_ok()), "of {inputs}");
        assert_eq!(f.reason(&mut killer), "container_error");
    }
}

#[test]
fn only_an_input_that_was_alone_is_told_how_its_container_was_lost() {
    let f = Fixture::new(10);
    f.join(1);
    let mut explanations = Vec::new();
    for texts in [&["a"][..], &["a", "b"]] {
        let mut outcomes: Vec<_> = texts.iter().map(|text| f.push(text)).collect();
        let held = batch(f.take(1));
        f.queue.retry_lost(held, "it said 4711");
        while let Work::Batch(batch) = f.take(1) {
            f.queue.retry_lost(batch.computations, "it said 4711");
        }
        f.mailbox.hand_out();
        explanations.push(outcomes[0].try_recv().unwrap().unwrap_err().to_string());
    }
    assert!(explanations[0].contains("4711"), "{explanations:?}");
    // Both were alone in the end.
    assert!(explanations[1].contains("4711"), "{explanations:?}");

    let mut outcomes = ["a", "b"].map(|text| f.push(text));
    let held = batch(f.take(1));
    f.queue.leave(1);
    f.queue.retry_lost(held, "it said 4711");
    f.mailbox.hand_out();
    let explanation = outcomes[0].try_recv().unwrap().unwrap_err().to_string();
    assert!(!explanation.contains("4711"), "{explanation}");
}

#[test]
fn a_computation_that_waits_elsewhere_is_neither_ended_nor_queued_again() {
    let f = Fixture::new(10);
    f.join(1);
    f.join(2);
    for lost in [false, true] {
        let mut outcome = f.push("x");
        let held = batch(f.take(1));
        assert_eq!(f.queue.hedge(1, held.iter()), 1);
        if lost {
            f.queue.retry_lost(held, "it broke");
        } else {
            let mut delivery = Delivery::default();
            held.into_iter().for_each(|one| one.fail(&Err(Failure::NoLinkedModels), &mut delivery));
        }
        f.mailbox.hand_out();
        assert!(outcome.try_recv().is_err(), "its copy waits");
        let copy = batch(f.take(2));
        assert!(matches!(f.take(2), Work::Idle), "there is no other");
        copy[0].finish(&Ok(Output::text("1")), &mut Delivery::default());
        f.mailbox.hand_out();
        assert_eq!(outcome.try_recv().unwrap(), Ok(Output::text("1")));
        f.queue.revive(1);
    }
}

#[test]
fn being_hedged_or_left_by_a_container_in_order_does_not_count_as_a_loss() {
    let f = Fixture::new(10);
    f.join(1);
    f.join(2);
    let mut outcome = f.push("x");
    for _ in 0..5 {
        let held = batch(f.take(1));
        f.queue.take_back(held);
    }
    let held = batch(f.take(1));
    f.queue.hedge(1, held.iter());
    let hedged = batch(f.take(2));
    drop(held);
    f.queue.retry_lost(hedged, "it broke");
    f.mailbox.hand_out();
    assert!(outcome.try_recv().is_err(), "it waits");
    assert_eq!(texts(f.take(2)), ["x"]);
}

#[test]
fn an_input_of_which_two_replicas_stall_is_not_given_to_a_third() {
    let f = Fixture::new(10);
    (1..=3).for_each(|replica| drop(f.join(replica)));
    let _outcome = f.push("x");
    let first = batch(f.take(1));
    assert_eq!(f.queue.hedge(1, first.iter()), 1);
    let second = batch(f.take(2));
    assert_eq!(f.queue.hedge(2, second.iter()), 0);
    // Nor once the first one is lost.
    f.queue.retry_lost(first, "it broke");
    assert_eq!(f.queue.hedge(2, second.iter()), 0);
    assert!(matches!(f.take(3), Work::Idle));
}

#[test]
fn what_is_lent_is_not_suspected() {
    let f = Fixture::new(10);
    f.join(1);
    let _failing = ["a", "b"].map(|text| f.push(text));
    f.queue.retry_failed(batch(f.take(1)));
    // Whoever only helps out is not given an input that may be at fault.
    let mut state = f.queue.lock();
    let mut controller = fixed(3);
    let ready = Readiness {
        replica: 1,
        controller: &mut controller,
        in_flight: 0,
        lead: Duration::ZERO,
        idle: None,
        may_wait: false,
    };
    assert!(matches!(state.copy(&ready, 3, Instant::now()), Work::Idle));
}

proptest! {
    #[test]
    fn every_input_is_answered_and_only_those_fail_that_are_at_fault(
        inputs in vec(prop_oneof![8 => Just("good"), 1 => Just("bad"), 1 => Just("killer")], 1..200),
        size in 1..80_usize,
    ) {
        let f = Fixture::new(200);
        f.join_with(1, size);
        let mut outcomes: Vec<_> = inputs.iter().map(|input| f.push(input)).collect();
        compute(&f, size);
        let killers = inputs.iter().filter(|input| **input == "killer").count();
        for (input, outcome) in inputs.iter().zip(&mut outcomes) {
            let verdict = outcome.try_recv().unwrap();
            if *input != "good" {
                prop_assert!(verdict.is_err());
            } else if killers == 0 {
                prop_assert!(verdict.is_ok());
            }
        }
    }
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

/// A replica that asks for work, as the cases of the next test describe it.
struct Asking {
    replica: ReplicaId,
    controller: Controller,
    in_flight: usize,
    idle: Option<Duration>,
}

impl Asking {
    /// A free replica 1 that takes up to three inputs at once.
    fn free() -> Self {
        Self { replica: 1, controller: fixed(3), in_flight: 0, idle: Some(Duration::ZERO) }
    }
}

#[test]
fn each_decision_on_work_has_its_case() {
    // What holds, who asks, and what is decided.
    type Case = (&'static str, fn(&Fixture), Asking, fn(Decision) -> bool);
    let cases: [Case; 8] = [
        ("nothing waits", |_| (), Asking::free(), |it| it == Decision::Rest { at_least: 1, wake: None }),
        ("the queue is closed and empty", |f| f.queue.close(), Asking::free(), |it| it == Decision::End),
        (
            "two queries wait",
            |f| std::mem::forget(["a", "b"].map(|text| f.push(text))),
            Asking::free(),
            |it| it == Decision::Batch { from: None, size: 2 },
        ),
        (
            "one query waits behind a batch of three",
            |f| std::mem::forget(f.push("a")),
            Asking { in_flight: 3, idle: None, ..Asking::free() },
            |it| it == Decision::Rest { at_least: 2, wake: None },
        ),
        (
            "the replica's batches fail, and there is another one",
            |f| {
                f.join(2);
                std::mem::forget(f.push("a"));
                f.queue.shun(1, Duration::from_secs(60));
            },
            Asking::free(),
            |it| it == Decision::Rest { at_least: 1, wake: None },
        ),
        (
            "the query cannot be answered in time",
            |f| std::mem::forget(f.push_due("a", Instant::now() + Duration::from_millis(50))),
            Asking { controller: slow(1000), ..Asking::free() },
            |it| matches!(it, Decision::GiveUp { queries: 1, take: 0, .. }),
        ),
        (
            "an input that must be alone waits behind a batch, and another replica is free",
            |f| {
                f.join(2);
                assert!(matches!(f.take(2), Work::Idle));
                std::mem::forget(["a", "b"].map(|text| f.push(text)));
                f.queue.retry_failed(batch(f.take(1)));
                assert!(matches!(f.take(2), Work::Batch(_)));
                std::mem::forget(["c", "d"].map(|text| f.push(text)));
            },
            Asking { in_flight: 1, idle: None, ..Asking::free() },
            |it| matches!(it, Decision::Rest { .. }),
        ),
        (
            "a far faster replica will have answered first",
            |f| {
                f.join(2);
                assert!(matches!(f.take_with(2, &mut slow(10), 0), Work::Idle));
                std::mem::forget(f.push("a"));
                assert!(matches!(f.take_with(2, &mut slow(10), 0), Work::Batch(_)));
                std::mem::forget(f.push("b"));
            },
            Asking { controller: slow(1000), idle: Some(Duration::from_secs(3)), ..Asking::free() },
            |it| it == Decision::Copies { most: 1, wake: None },
        ),
    ];
    for (case, prepare, mut asking, expected) in cases {
        let f = Fixture::new(10);
        f.join(1);
        prepare(&f);
        let mut ready = Readiness {
            replica: asking.replica,
            controller: &mut asking.controller,
            in_flight: asking.in_flight,
            lead: Duration::ZERO,
            idle: asking.idle,
            may_wait: false,
        };
        let (mut state, now) = (f.queue.lock(), Instant::now());
        state.compare(&ready, now);
        let decision = state.decide(&mut ready, now);
        assert!(expected(decision), "{case}: {decision:?}");
    }
}
