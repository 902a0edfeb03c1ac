//! The batch-size controller before simulated replicas: what it reaches of the best that a fixed size could.
//!
//! A discrete-event simulation with one replica and a queue by deadline. Time is virtual and chance is seeded, so each run is the same.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use clipper_frontend::parts::{Controller, Observation};
use clipper_rpc::catalog::{Batching, BatchingStrategy};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const OBJECTIVE: f64 = 0.1;
const OVERHEAD: f64 = 0.0003;
const MAX_BATCH_SIZE: usize = 1024;

/// The time of a batch by its size and when it begins, in seconds.
type Model = fn(usize, f64, &mut StdRng) -> f64;

fn linear(size: usize, _: f64, _: &mut StdRng) -> f64 {
    0.02 + 0.0002 * size as f64
}

fn steps(size: usize, _: f64, _: &mut StdRng) -> f64 {
    0.01 + 0.0004 * size.next_power_of_two() as f64
}

fn noisy(size: usize, now: f64, rng: &mut StdRng) -> f64 {
    // Twelve uniform numbers make a normal one.
    let normal = (0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0;
    linear(size, now, rng) * (0.25 * normal).exp()
}

fn pausing(size: usize, now: f64, rng: &mut StdRng) -> f64 {
    linear(size, now, rng) + if rng.random_bool(0.01) { 0.1 } else { 0.0 }
}

/// Twice as slow between 20 s and 40 s.
fn doubling(size: usize, now: f64, rng: &mut StdRng) -> f64 {
    linear(size, now, rng) * if (20.0..40.0).contains(&now) { 2.0 } else { 1.0 }
}

fn constant(_: usize, _: f64, _: &mut StdRng) -> f64 {
    0.02
}

/// Hangs for its first batch.
fn cold(size: usize, now: f64, rng: &mut StdRng) -> f64 {
    linear(size, now, rng) + if now < 1.0 { 10.0 } else { 0.0 }
}

fn noop(_: usize, _: f64, rng: &mut StdRng) -> f64 {
    rng.random_range(0.0..10e-6)
}

#[derive(Clone, Copy)]
enum Arrivals {
    /// Independent of each other, so many per second.
    Poisson(f64),
    /// So many clients that ask again within a millisecond after each answer.
    Clients(usize),
}

/// An answered or given up query.
#[derive(Clone, Copy)]
struct Ended {
    arrived: f64,
    in_time: bool,
}

struct Run {
    queries: Vec<Ended>,
    /// When each batch was dispatched, and its size.
    batches: Vec<(f64, usize)>,
    until: f64,
}

impl Run {
    /// Queries answered in time per second, of those that arrived in that span.
    fn goodput_between(&self, from: f64, until: f64) -> f64 {
        let in_span = |query: &&Ended| (from..until).contains(&query.arrived);
        self.queries.iter().filter(in_span).filter(|query| query.in_time).count() as f64 / (until - from)
    }

    /// The same for all but the first third, in which the controller may learn.
    fn goodput(&self) -> f64 {
        self.goodput_between(self.until / 3.0, self.until - 1.0)
    }

    fn in_time(&self) -> f64 {
        let settled: Vec<_> = self.queries.iter().filter(|query| query.arrived > self.until / 3.0).collect();
        settled.iter().filter(|query| query.in_time).count() as f64 / settled.len() as f64
    }

    fn median_batch(&self) -> usize {
        let mut sizes: Vec<_> =
            self.batches.iter().filter(|(at, _)| *at > self.until / 3.0).map(|&(_, size)| size).collect();
        sizes.sort_unstable();
        sizes[sizes.len() / 2]
    }
}

struct Simulation {
    controller: Controller,
    model: Model,
    arrivals: Arrivals,
    rng: StdRng,
    /// When queries will arrive, in nanoseconds.
    coming: BinaryHeap<Reverse<u64>>,
    waiting: VecDeque<f64>,
    ended: Vec<Ended>,
    batches: Vec<(f64, usize)>,
}

impl Simulation {
    fn new(controller: Controller, model: Model, arrivals: Arrivals) -> Self {
        let mut simulation = Self {
            controller,
            model,
            arrivals,
            rng: StdRng::seed_from_u64(7),
            coming: BinaryHeap::new(),
            waiting: VecDeque::new(),
            ended: Vec::new(),
            batches: Vec::new(),
        };
        let first = match arrivals {
            Arrivals::Poisson(_) => 1,
            Arrivals::Clients(clients) => clients,
        };
        (0..first).for_each(|i| simulation.coming.push(Reverse(1000 * i as u64)));
        simulation
    }

    fn next_arrival(&self) -> f64 {
        self.coming.peek().map_or(f64::INFINITY, |Reverse(at)| *at as f64 * 1e-9)
    }

    fn schedule(&mut self, at: f64) {
        self.coming.push(Reverse((at * 1e9) as u64));
    }

    /// Lets all arrive that do until `now`.
    fn arrive(&mut self, now: f64) {
        while self.next_arrival() <= now {
            let at = self.next_arrival();
            self.coming.pop();
            self.waiting.push_back(at);
            if let Arrivals::Poisson(rate) = self.arrivals {
                let gap = -(1.0 - self.rng.random::<f64>()).ln() / rate;
                self.schedule(at + gap.max(1e-9));
            }
        }
    }

    fn end(&mut self, arrived: f64, now: f64, answered: bool) {
        self.ended.push(Ended { arrived, in_time: answered && now <= arrived + OBJECTIVE });
        if let Arrivals::Clients(_) = self.arrivals {
            // A default is given by the deadline even if nobody came to give the query up.
            let back = now.min(arrived + OBJECTIVE).max(now) + self.rng.random_range(0.0..0.001);
            self.schedule(back);
        }
    }

    fn run(mut self, until: f64) -> Run {
        let mut now = 0.0;
        let mut idle_since = 0.0;
        while now < until {
            self.arrive(now);
            if self.waiting.is_empty() {
                now = self.next_arrival();
                continue;
            }
            let rate = 1.0 / OBJECTIVE * self.recent_arrivals(now);
            let budget = Duration::from_secs_f64((self.waiting[0] + OBJECTIVE - now).max(0.0));
            if let Some(wait) = self.controller.wait(self.waiting.len(), rate, budget) {
                let end = now + wait.at_most.as_secs_f64();
                while self.waiting.len() < wait.until && self.next_arrival() <= end {
                    now = self.next_arrival();
                    self.arrive(now);
                }
                if self.waiting.len() < wait.until {
                    now = end;
                }
            }
            let idle = Some(Duration::from_secs_f64(now - idle_since));
            let budgets = self
                .waiting
                .iter()
                .map(|arrived| Duration::from_secs_f64((arrived + OBJECTIVE - now).max(0.0)));
            let plan = self.controller.plan(self.waiting.len(), budgets, Duration::ZERO, idle);
            let given_up: Vec<_> = self.waiting.drain(..plan.given_up).collect();
            given_up.into_iter().for_each(|arrived| self.end(arrived, now, false));
            if plan.take == 0 {
                continue;
            }
            let batch: Vec<_> = self.waiting.drain(..plan.take).collect();
            let model_time = (self.model)(batch.len(), now, &mut self.rng);
            let round_trip = model_time + OVERHEAD * self.rng.random_range(0.8..1.3);
            let answered = now + round_trip;
            self.batches.push((now, batch.len()));
            self.controller.observe(&Observation {
                size: batch.len(),
                model_time: Duration::from_secs_f64(model_time),
                round_trip: Duration::from_secs_f64(round_trip),
                latency: Duration::from_secs_f64(round_trip),
                budget: Duration::from_secs_f64((batch[0] + OBJECTIVE - now).max(0.0)),
                behind: false,
            });
            self.arrive(answered);
            batch.into_iter().for_each(|arrived| self.end(arrived, answered, true));
            now = answered;
            idle_since = now;
        }
        Run { queries: self.ended, batches: self.batches, until }
    }

    /// How many arrived within the last objective.
    fn recent_arrivals(&self, now: f64) -> f64 {
        let ended = self.ended.iter().rev().take_while(|query| query.arrived > now - OBJECTIVE).count();
        (ended + self.waiting.len()) as f64
    }
}

fn run(strategy: BatchingStrategy, max_batch_size: usize, model: Model, arrivals: Arrivals) -> Run {
    let controller = Controller::new(Batching { strategy, wait_micros: None }, max_batch_size);
    Simulation::new(controller, model, arrivals).run(60.0)
}

/// More than any of the models can do.
const FLOOD: Arrivals = Arrivals::Poisson(5000.0);

/// The highest goodput that any fixed batch size reaches under a flood.
fn best_fixed(model: Model) -> f64 {
    [16, 32, 48, 64, 96, 128, 160, 192, 224, 256, 320, 384]
        .map(|size| run(BatchingStrategy::Fixed, size, model, FLOOD).goodput())
        .into_iter()
        .fold(0.0, f64::max)
}

/// Goodput under a flood, as a share of the best that any fixed size reaches.
fn of_the_best(strategy: BatchingStrategy, model: Model) -> f64 {
    run(strategy, MAX_BATCH_SIZE, model, FLOOD).goodput() / best_fixed(model)
}

#[test]
fn adaptive_batches_settle_near_the_best_fixed_size_whatever_the_model() {
    for (name, model, least) in [
        ("linear", linear as Model, 0.95),
        ("steps", steps, 0.9),
        ("noisy", noisy, 0.9),
        ("pausing", pausing, 0.88),
        ("doubling", doubling, 0.88),
    ] {
        let share = of_the_best(BatchingStrategy::Adaptive, model);
        assert!(share > least, "{name}: {share}");
    }
}

#[test]
fn the_strategies_of_the_paper_settle_near_the_best_fixed_size_of_a_linear_model() {
    for strategy in [BatchingStrategy::Aimd, BatchingStrategy::Quantile] {
        let share = of_the_best(strategy, linear);
        assert!(share > 0.9, "{strategy:?}: {share}");
    }
}

#[test]
fn below_capacity_the_answers_are_in_time() {
    let rate = 0.85 * best_fixed(linear);
    let in_time = run(BatchingStrategy::Adaptive, MAX_BATCH_SIZE, linear, Arrivals::Poisson(rate)).in_time();
    assert!(in_time >= 0.99, "{in_time}");
}

#[test]
fn a_noisy_model_is_not_given_up_for_its_noise() {
    // What waits for one batch and is in the next takes 60 ms, and hardly ever 100.
    let in_time = run(BatchingStrategy::Adaptive, MAX_BATCH_SIZE, noisy, Arrivals::Poisson(1300.0)).in_time();
    assert!(in_time >= 0.99, "{in_time}");
}

#[test]
fn twice_the_load_that_can_be_served_does_not_halve_what_is_served() {
    for (name, model) in
        [("linear", linear as Model), ("steps", steps), ("noisy", noisy), ("pausing", pausing)]
    {
        let peak = best_fixed(model);
        let goodput =
            run(BatchingStrategy::Adaptive, MAX_BATCH_SIZE, model, Arrivals::Poisson(2.0 * peak)).goodput();
        assert!(goodput > 0.8 * peak, "{name}: {goodput} of {peak}");
    }
}

#[test]
fn a_model_that_becomes_slower_and_fast_again_is_followed() {
    let run = run(BatchingStrategy::Adaptive, MAX_BATCH_SIZE, doubling, Arrivals::Poisson(1000.0));
    assert!(run.goodput_between(5.0, 20.0) > 950.0);
    // 1000/s is now more than it can do: about 700/s are possible.
    assert!(run.goodput_between(25.0, 40.0) > 600.0, "{}", run.goodput_between(25.0, 40.0));
    assert!(run.goodput_between(42.0, 59.0) > 950.0, "{}", run.goodput_between(42.0, 59.0));
}

#[test]
fn a_first_batch_that_hung_is_not_held_against_the_model_for_long() {
    let run = run(BatchingStrategy::Adaptive, MAX_BATCH_SIZE, cold, Arrivals::Poisson(1000.0));
    assert!(run.goodput_between(20.0, 59.0) > 950.0, "{}", run.goodput_between(20.0, 59.0));
}

#[test]
fn clients_that_wait_for_their_answers_are_gathered_into_one_batch() {
    let run = run(BatchingStrategy::Adaptive, MAX_BATCH_SIZE, constant, Arrivals::Clients(64));
    assert!(run.median_batch() >= 56, "{}", run.median_batch());
    assert!(run.goodput() > 2500.0, "{}", run.goodput());
}

#[test]
fn a_model_that_takes_no_time_is_served_without_delay() {
    let controller = Controller::new(Batching::default(), MAX_BATCH_SIZE);
    let run = Simulation::new(controller, noop, Arrivals::Poisson(20_000.0)).run(5.0);
    assert!(run.in_time() > 0.99, "{}", run.in_time());
}
