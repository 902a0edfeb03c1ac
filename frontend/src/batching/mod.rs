//! How many inputs to send to a replica in one batch, and when.
//!
//! Each container connection owns one [`Controller`], tells it of each answered batch, and asks it before each dispatch. It is pure: time
//! comes in as durations, nothing is read from a clock. Invariant: no estimate, however spoilt, keeps a replica unused for good.
//!
//! # Layout
//! - `curve`: the model's own time by batch size; `margin`: how far answers stray from it.
//! - `aimd` and `quantile_line`: the strategies of those names. `adaptive` is the curve, and `fixed` needs nothing.
//! - `plan`: what to send and what to give up. `bunching`: when to wait for more.

mod aimd;
mod bunching;
mod curve;
mod margin;
mod plan;
mod quantile_line;
mod seconds;

use std::time::Duration;

use clipper_rpc::catalog::{Batching, BatchingStrategy};

use self::aimd::Aimd;
use self::bunching::Bunching;
use self::curve::Curve;
use self::margin::Margin;
use self::quantile_line::QuantileLine;
use self::seconds::{duration, log_ratio, scaled, seconds};

/// The weight of a new overhead.
const OVERHEAD_GAIN: f64 = 0.1;

/// The shares of the overhead in a round trip from which on a second batch in flight pays, and below which it does not any more.
const PIPELINING: (f64, f64) = (0.15, 0.08);

/// The share from which on the model hardly computes: then it is not what limits the throughput, and two batches cost more than one.
const MODEL_HARDLY_BUSY: f64 = 0.9;

/// `adaptive` does not grow a batch where an input costs at most this share more than in an endless one.
const NEAR_ASYMPTOTE: f64 = 0.03;

/// Below it no batch is held back for cheapness: sizes to learn the curve from.
const ALWAYS_CHEAP: usize = 4;

/// A batch that takes this much longer than a single input is not riskier than one.
const AS_GOOD_AS_ALONE: f64 = 1.05;

/// The weight of an input in the share of those that fail: a few hundred decide.
const FAILING_GAIN: f64 = 1.0 / 256.0;

/// A share of failing inputs that is too small to matter to any size of a batch.
const NEGLIGIBLE: f64 = 1e-5;

/// Timers are not finer, so shorter waits are not begun.
const SHORTEST_WAIT: Duration = Duration::from_millis(1);

/// Sizes the batches of one replica.
#[derive(Debug)]
pub struct Controller {
    max_batch_size: usize,
    wait: Option<Duration>,
    strategy: Strategy,
    curve: Curve,
    margin: Margin,
    /// What a round trip takes beyond the model's time, in seconds; unknown before the first.
    overhead: Option<f64>,
    bunching: Bunching,
    /// The share of the latest inputs that fail the batch that they are in.
    failing: f64,
    pipelines: bool,
    /// The share of the latest queries that were sent and expected to be answered in time; the others were lost.
    served: f64,
    /// Whether the last batch left queries waiting: it would have been larger, had the curve allowed it.
    pressed: bool,
}

#[derive(Debug)]
enum Strategy {
    Adaptive,
    Aimd(Aimd),
    Quantile(QuantileLine),
    Fixed,
}

/// What was seen of one answered batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observation {
    /// The number of its inputs.
    pub size: usize,
    /// The time that the model took for it, by the container's word.
    pub model_time: Duration,
    /// Time from when the replica could begin with it, which is its dispatch or the end of the batch before it, to its
    /// answer: what tells of the model.
    pub round_trip: Duration,
    /// Time from its dispatch to its answer: what tells whether it was late. Longer than `round_trip` where it waited
    /// behind another batch in flight.
    pub latency: Duration,
    /// The time that its earliest deadline left when it was dispatched.
    pub budget: Duration,
    /// Whether it was dispatched behind another batch in flight: `round_trip` then hides the overhead.
    pub behind: bool,
}

/// How long to hold a batch back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait {
    /// Dispatch as soon as this many wait,
    pub until: usize,
    /// or after this time.
    pub at_most: Duration,
}

/// What a controller believes, for metrics.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The model's time for a batch before its first input.
    pub fixed: Duration,
    /// The model's time for each input.
    pub per_input: Duration,
    /// What a round trip takes beyond the model's time.
    pub overhead: Duration,
    /// How much longer than expected an answer may take and still be in time, as a share: 0.3 is 30 %.
    pub margin: f64,
    /// The largest batch that would be sent if there were no deadline.
    pub limit: usize,
}

impl Observation {
    /// Whether the answer came after the earliest deadline of the batch.
    fn is_late(&self) -> bool {
        self.latency > self.budget
    }
}

impl Controller {
    /// A controller that knows nothing yet. No batch will be larger than `max_batch_size`, which counts as 1 if it is 0.
    pub fn new(batching: Batching, max_batch_size: usize) -> Self {
        let max_batch_size = max_batch_size.max(1);
        Self {
            max_batch_size,
            wait: batching.wait_micros.map(|micros| Duration::from_micros(micros.into())),
            strategy: match batching.strategy {
                BatchingStrategy::Adaptive => Strategy::Adaptive,
                BatchingStrategy::Aimd => Strategy::Aimd(Aimd::new(max_batch_size)),
                BatchingStrategy::Quantile => Strategy::Quantile(QuantileLine::new()),
                BatchingStrategy::Fixed => Strategy::Fixed,
            },
            curve: Curve::new(max_batch_size),
            margin: Margin::new(),
            overhead: None,
            bunching: Bunching::new(),
            failing: 0.0,
            pipelines: false,
            served: 1.0,
            pressed: false,
        }
    }

    /// Learns of `size` inputs, alone in a batch, that failed it. So many are sent together as hardly ever hold more than
    /// one such input: what fails is computed again in parts, and the more there are in a batch, the more parts it takes.
    pub fn fail(&mut self, size: usize) {
        self.failing = 1.0 - (1.0 - self.failing) * passing(size);
    }

    /// Learns of an answered batch. The time of a failed one is not the model's, and teaches nothing.
    pub fn observe(&mut self, observation: &Observation) {
        let size = observation.size.clamp(1, self.max_batch_size);
        if self.failing > 0.0 {
            self.failing *= passing(size);
            if self.failing < NEGLIGIBLE {
                self.failing = 0.0;
            }
        }
        let round_trip = seconds(observation.round_trip);
        let model_time = seconds(observation.model_time).min(round_trip);
        self.bunching.observe(size);
        if self.overhead.is_some() {
            let stray = log_ratio(round_trip, self.seconds(size));
            self.margin.observe(if observation.behind {
                // The overhead is hidden, but not a replica that took longer than its word and the overhead explain.
                stray.max(log_ratio(model_time, self.curve.seconds(size)))
            } else {
                stray
            });
        }
        self.curve.observe(size, model_time, self.pressed);
        if !observation.behind {
            let overhead = round_trip - model_time;
            let known = self.overhead.unwrap_or(overhead);
            // One hiccup may not pass for the rule.
            let believed = overhead.min(2.0 * known + 1e-3);
            self.overhead = Some(known + OVERHEAD_GAIN * (believed - known));
        }
        let end_to_end =
            if observation.behind { round_trip.max(model_time + self.overhead()) } else { round_trip };
        match &mut self.strategy {
            Strategy::Aimd(aimd) => aimd.observe(size, observation.is_late()),
            Strategy::Quantile(line) => line.observe(size, end_to_end),
            Strategy::Adaptive | Strategy::Fixed => {}
        }
        let share = self.overhead() / self.seconds(size).max(f64::MIN_POSITIVE);
        let least = if self.pipelines { PIPELINING.1 } else { PIPELINING.0 };
        self.pipelines = (least..MODEL_HARDLY_BUSY).contains(&share);
    }

    /// The most inputs that can be answered within `budget` from dispatch to a free replica; 0 if not even one can.
    pub fn limit(&self, budget: Duration) -> usize {
        let budget = seconds(budget);
        if self.is_hopeless(budget) {
            return 0;
        }
        let size = match &self.strategy {
            Strategy::Adaptive => {
                // Where not even one is safe, more are no riskier as long as they take no longer.
                let allowed = scaled(budget, -self.margin.safe()).max(self.seconds(1) * AS_GOOD_AS_ALONE);
                self.curve.within(allowed - self.overhead()).min(self.large_enough())
            }
            Strategy::Aimd(aimd) => aimd.size(),
            Strategy::Quantile(line) => line.within(budget).min(self.curve.reach()),
            Strategy::Fixed => self.max_batch_size,
        };
        size.clamp(1, self.most_at_once())
    }

    /// The expected time from dispatch of a batch of `size` to its answer, without a margin.
    pub fn expected(&self, size: usize) -> Duration {
        duration(self.seconds(size))
    }

    /// When, after dispatch to a free replica, an answer is overdue: hardly one in a thousand is, unless something is wrong.
    /// Unknown before the first answer.
    pub fn overdue(&self, size: usize) -> Option<Duration> {
        self.overhead?;
        let expected = self.seconds(size);
        let late = scaled(expected, self.margin.overdue()).clamp(2.0 * expected, 5.0 * expected);
        Some(duration(late) + Duration::from_millis(1))
    }

    /// Whether to send a second batch while one is in flight: the replica would otherwise often wait for the network.
    pub fn pipelines(&self) -> bool {
        self.pipelines
    }

    /// Whether to hold back `waiting` queries for more to come. `budget`: the time that the first of them has left once
    /// the replica is free. To be asked once per batch; `None`: dispatch now.
    pub fn wait(&mut self, waiting: usize, arrivals_per_second: f64, budget: Duration) -> Option<Wait> {
        let longest = match self.wait {
            Some(wait) => wait,
            None if matches!(self.strategy, Strategy::Adaptive) => self.expected(1) / 4,
            None => return None,
        };
        if self.wait.is_none() && longest < SHORTEST_WAIT {
            return None;
        }
        let limit = self.limit(budget.saturating_sub(longest));
        let until = match self.wait {
            Some(_) if waiting < limit => limit,
            Some(_) => return None,
            None => {
                let strangers =
                    if arrivals_per_second.is_finite() { arrivals_per_second.max(0.0) } else { 0.0 };
                self.bunching.wait_until(waiting, strangers * seconds(longest), limit)?
            }
        };
        let slack = seconds(budget) - self.needed(until);
        let at_most = longest.min(duration(slack));
        (!at_most.is_zero()).then_some(Wait { until, at_most })
    }

    /// What it believes at the moment.
    pub fn estimate(&self) -> Estimate {
        Estimate {
            fixed: duration(self.curve.intercept()),
            per_input: duration(self.curve.slope()),
            overhead: duration(self.overhead()),
            margin: self.margin.safe().exp_m1(),
            limit: self.limit(Duration::MAX),
        }
    }

    fn seconds(&self, size: usize) -> f64 {
        self.overhead() + self.curve.seconds(size)
    }

    fn overhead(&self) -> f64 {
        self.overhead.unwrap_or(0.0)
    }

    /// Whether hardly any answer takes as little as that, in seconds, even alone.
    fn is_hopeless(&self, budget: f64) -> bool {
        budget <= 0.0 || budget < scaled(self.seconds(1), self.margin.optimistic())
    }

    /// The largest batch worth thinking of where nobody has more than `longest` seconds: without a margin, more would be late.
    fn largest(&self, longest: f64) -> usize {
        let size = match &self.strategy {
            Strategy::Adaptive => self.curve.within(longest - self.overhead()).min(self.large_enough()),
            _ => self.limit(duration(longest)),
        };
        size.clamp(1, self.most_at_once())
    }

    /// The most inputs that are sent together, whatever time there is.
    fn most_at_once(&self) -> usize {
        if self.failing == 0.0 {
            return self.max_batch_size;
        }
        ((1.0 / self.failing) as usize).clamp(1, self.max_batch_size)
    }

    /// The budget that a batch of `size` needs, in seconds.
    fn needed(&self, size: usize) -> f64 {
        match &self.strategy {
            Strategy::Quantile(line) => line.seconds(size),
            _ => scaled(self.seconds(size), self.margin.safe()),
        }
    }

    /// Whether [`Self::limit`] follows from the budget.
    fn heeds_deadlines(&self) -> bool {
        matches!(self.strategy, Strategy::Adaptive | Strategy::Quantile(_))
    }

    /// The size from which on larger batches take longer without being cheaper.
    fn large_enough(&self) -> usize {
        let per_input = self.curve.slope();
        if per_input <= 0.0 {
            return usize::MAX;
        }
        let size = (self.curve.intercept() + self.overhead()) / (NEAR_ASYMPTOTE * per_input);
        (size as usize).max(ALWAYS_CHEAP)
    }
}

/// What remains of a share after so many inputs.
fn passing(inputs: usize) -> f64 {
    (1.0 - FAILING_GAIN).powi(i32::try_from(inputs).unwrap_or(i32::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::strategy::Strategy;

    use super::{Batching, BatchingStrategy, Controller, Duration, Observation};
    use crate::batching::plan::Plan;

    fn any_duration() -> impl Strategy<Value = Duration> {
        prop_oneof![
            Just(Duration::ZERO),
            Just(Duration::MAX),
            (0..1000_u64).prop_map(Duration::from_nanos),
            (0..2_000_000_u64).prop_map(Duration::from_micros),
            (0..10_000_u64).prop_map(Duration::from_secs),
        ]
    }

    fn any_observation() -> impl Strategy<Value = Observation> {
        (
            prop_oneof![0..200_usize, any::<usize>()],
            any_duration(),
            any_duration(),
            any_duration(),
            any_duration(),
            any::<bool>(),
        )
            .prop_map(|(size, model_time, round_trip, waited, budget, behind)| Observation {
                size,
                model_time,
                round_trip,
                latency: round_trip.saturating_add(waited),
                budget,
                behind,
            })
    }

    fn any_controller() -> impl Strategy<Value = Controller> {
        let strategy = prop_oneof![
            Just(BatchingStrategy::Adaptive),
            Just(BatchingStrategy::Aimd),
            Just(BatchingStrategy::Quantile),
            Just(BatchingStrategy::Fixed),
        ];
        let wait_micros = prop_oneof![Just(None), any::<u32>().prop_map(Some)];
        (strategy, wait_micros, 0..3000_usize, vec(any_observation(), 0..80)).prop_map(
            |(strategy, wait_micros, max_batch_size, observations)| {
                let mut controller = Controller::new(Batching { strategy, wait_micros }, max_batch_size);
                observations.iter().for_each(|observation| controller.observe(observation));
                controller
            },
        )
    }

    proptest! {
        #[test]
        fn more_time_never_allows_fewer_inputs(
            controller in any_controller(),
            mut budgets in vec(any_duration(), 2..20),
        ) {
            budgets.sort_unstable();
            let limits: Vec<_> = budgets.iter().map(|&budget| controller.limit(budget)).collect();
            prop_assert!(limits.is_sorted(), "{:?} -> {:?}", budgets, limits);
            prop_assert!(limits.iter().all(|&limit| limit <= controller.max_batch_size));
            prop_assert_eq!(controller.limit(Duration::ZERO), 0);
        }

        #[test]
        fn more_inputs_are_never_expected_sooner(
            controller in any_controller(),
            mut sizes in vec(0..5000_usize, 2..20),
        ) {
            sizes.sort_unstable();
            let times: Vec<_> = sizes.iter().map(|&size| controller.expected(size)).collect();
            prop_assert!(times.is_sorted(), "{:?} -> {:?}", sizes, times);
            for size in sizes {
                prop_assert!(controller.overdue(size).is_none_or(|overdue| overdue > controller.expected(size)));
            }
        }

        #[test]
        fn estimates_are_finite(controller in any_controller()) {
            let estimate = controller.estimate();
            prop_assert!(estimate.margin.is_finite() && estimate.margin >= 0.0);
            prop_assert!((1..=controller.max_batch_size).contains(&estimate.limit));
        }

        #[test]
        fn a_plan_keeps_to_what_waits_and_gives_up_only_for_others(
            mut controller in any_controller(),
            mut budgets in vec(any_duration(), 0..300),
            lead in any_duration(),
            idle in prop_oneof![Just(None), any_duration().prop_map(Some)],
        ) {
            budgets.sort_unstable();
            let plan = controller.plan(budgets.len(), budgets.iter().copied(), lead, idle);
            prop_assert!(plan.given_up + plan.take <= budgets.len());
            prop_assert!(plan.take <= controller.max_batch_size);
            prop_assert!(plan.take > 0 || plan.given_up == budgets.len(), "something is done: {:?}", plan);
            let may_hope = |budget: &Duration| controller.limit(budget.saturating_sub(lead)) > 0;
            let for_others = budgets[..plan.given_up].iter().filter(|budget| may_hope(budget)).count();
            prop_assert!(for_others == 0 || plan.take > 0, "nobody is given up for nothing: {:?}", plan);
        }

        #[test]
        fn a_wait_ends_before_the_deadline_and_is_for_more_than_wait_already(
            mut controller in any_controller(),
            waiting in 1..500_usize,
            rate in any::<f64>(),
            budget in any_duration(),
        ) {
            if let Some(wait) = controller.wait(waiting, rate, budget) {
                prop_assert!(wait.until > waiting && wait.until <= controller.max_batch_size);
                prop_assert!(wait.at_most < budget);
            }
        }

        #[test]
        fn an_idle_replica_is_tried_whatever_is_believed_of_it(
            mut controller in any_controller(),
            mut budgets in vec(any_duration(), 1..50),
        ) {
            budgets.sort_unstable();
            let plan = controller.plan(budgets.len(), budgets.iter().copied(), Duration::ZERO, Some(Duration::from_secs(5)));
            prop_assert!(plan.take > 0);
        }
    }

    /// A batch that waited behind another one, which took 60 ms, for a model that takes 60 ms.
    fn behind(size: usize, budget: u64) -> Observation {
        Observation {
            size,
            model_time: Duration::from_millis(60),
            round_trip: Duration::from_millis(60),
            latency: Duration::from_millis(120),
            budget: Duration::from_millis(budget),
            behind: true,
        }
    }

    #[test]
    fn aimd_shrinks_where_batches_are_late_because_they_waited_behind_another() {
        let aimd = Batching { strategy: BatchingStrategy::Aimd, ..Batching::default() };
        let mut controller = Controller::new(aimd, 64);
        for _ in 0..20 {
            controller.observe(&behind(controller.limit(Duration::MAX), 130));
        }
        let grown = controller.limit(Duration::MAX);
        assert!(grown > 30, "{grown} after batches in time");
        for _ in 0..40 {
            controller.observe(&behind(grown, 100));
        }
        let shrunk = controller.limit(Duration::MAX);
        assert!(shrunk < 5, "{shrunk} after late batches");
    }

    proptest! {
        #[test]
        fn aimd_never_grows_by_a_late_batch_and_never_shrinks_by_one_in_time(
            observations in vec(any_observation(), 0..80),
            observation in any_observation(),
        ) {
            let aimd = Batching { strategy: BatchingStrategy::Aimd, ..Batching::default() };
            let mut controller = Controller::new(aimd, 64);
            // Nothing is hopeless then.
            let size = |controller: &Controller| controller.limit(Duration::MAX);
            observations.iter().for_each(|observation| controller.observe(observation));
            let before = size(&controller);
            controller.observe(&observation);
            if observation.latency > observation.budget {
                prop_assert!(size(&controller) <= before);
            } else {
                prop_assert!(size(&controller) >= before);
            }
        }
    }

    #[test]
    fn a_replica_that_takes_longer_behind_another_batch_than_it_says_is_given_less() {
        for strategy in [BatchingStrategy::Adaptive, BatchingStrategy::Quantile] {
            let mut controller = Controller::new(Batching { strategy, ..Batching::default() }, 1024);
            let millis = Duration::from_millis;
            for size in (1..=64).cycle().take(640) {
                let model_time = millis(size as u64);
                let round_trip = model_time + millis(1);
                let free = Observation {
                    size,
                    model_time,
                    round_trip,
                    latency: round_trip,
                    budget: millis(100),
                    behind: false,
                };
                controller.observe(&free);
            }
            let believed = controller.limit(millis(60));
            for size in (1..=64).cycle().take(640) {
                let model_time = millis(size as u64);
                let round_trip = model_time + millis(40);
                let behind = Observation {
                    size,
                    model_time,
                    round_trip,
                    latency: 2 * round_trip,
                    budget: millis(300),
                    behind: true,
                };
                controller.observe(&behind);
            }
            let limit = controller.limit(millis(60));
            assert!(believed > 30 && limit < believed / 2, "{strategy:?}: {believed}, then {limit}");
        }
    }

    #[test]
    fn inputs_that_fail_make_batches_small_and_others_large_again() {
        let batching = Batching { strategy: BatchingStrategy::Fixed, ..Batching::default() };
        let mut controller = Controller::new(batching, 64);
        let limit = |controller: &Controller| controller.limit(Duration::MAX);
        let good = |controller: &mut Controller, batches: usize| {
            for _ in 0..batches {
                controller.observe(&Observation {
                    size: 60,
                    model_time: Duration::from_millis(10),
                    round_trip: Duration::from_millis(10),
                    latency: Duration::from_millis(10),
                    budget: Duration::from_secs(60),
                    behind: false,
                });
            }
        };
        assert_eq!(limit(&controller), 64);
        // One in twelve fails.
        for _ in 0..200 {
            good(&mut controller, 1);
            (0..5).for_each(|_| controller.fail(1));
        }
        let some = limit(&controller);
        assert!((8..=16).contains(&some), "{some}");
        (0..5_000).for_each(|_| controller.fail(1));
        assert_eq!(limit(&controller), 1);
        good(&mut controller, 100);
        assert_eq!(limit(&controller), 64);
    }

    #[test]
    fn an_unknown_model_is_given_one_query_to_learn_from() {
        let mut controller = Controller::new(Batching::default(), 64);
        let budgets = [Duration::from_millis(1); 10];
        let plan = controller.plan(10, budgets.into_iter(), Duration::ZERO, None);
        assert_eq!(plan, Plan { given_up: 0, take: 1 });
    }
}
