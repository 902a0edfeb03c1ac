//! Models that do not answer: a policy that asks one model leaves them, looks after them, and still prefers a good model
//! that is late now and then.

use std::collections::BTreeMap;

use clipper_rpc::selection::{Policy, Statistics};
use clipper_selection::learner::availability::{self, Outcomes};
use clipper_selection::learner::{Asked, Choice, Learner, Lesson};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::simulation::models;

const SEEDS: std::ops::Range<u64> = 0..20;
/// Feedback comes on one query in so many; `None`: on no query.
const FEEDBACK: [Option<u64>; 3] = [Some(1), Some(10), None];
/// The queries after which a policy is to have left a model, and to have found out that it is back.
const SOON: u64 = 300;

/// The policies that ask one model.
fn policies() -> Vec<Policy> {
    let names = ["exp3", "exp3_ix", "epsilon_greedy", "ucb1", "thompson"];
    let linucb = serde_json::json!({"policy": "linucb", "dimensions": 2});
    let named = names.map(|name| serde_json::json!({ "policy": name }));
    named.into_iter().chain([linucb]).map(|policy| serde_json::from_value(policy).unwrap()).collect()
}

/// How one model does.
#[derive(Clone, Copy)]
struct Model {
    /// How often it answers in time.
    answers: f64,
    /// How often its answer is right.
    right: f64,
}

const GOOD: Model = Model { answers: 1.0, right: 0.9 };
const FAIR: Model = Model { answers: 1.0, right: 0.7 };

impl Model {
    fn answering(self, answers: f64) -> Self {
        Self { answers, ..self }
    }
}

/// A policy at work, with the shared state alone.
struct Service {
    learner: Learner,
    state: Statistics,
    feedback: Option<u64>,
    seed: u64,
    chance: ChaCha8Rng,
    queries: u64,
}

/// What became of some queries.
#[derive(Debug, Default)]
struct Tally {
    queries: u64,
    defaults: u64,
    right: u64,
    asked: BTreeMap<usize, u64>,
}

impl Tally {
    fn part(&self, of: u64) -> f64 {
        of as f64 / self.queries as f64
    }
}

impl Service {
    fn new(policy: &Policy, feedback: Option<u64>, seed: u64) -> Self {
        Self {
            learner: Learner::new(policy, &models(2)),
            state: Statistics::default(),
            feedback,
            seed,
            chance: ChaCha8Rng::seed_from_u64(seed),
            queries: 0,
        }
    }

    fn choose(&mut self, away: &[usize]) -> (Choice, Vec<f64>) {
        let context = vec![1.0, self.chance.random()];
        let beliefs = self.learner.beliefs(&self.state);
        let chosen = self.learner.choose(&beliefs, None, away, Some(&context), self.seed, self.queries);
        self.queries += 1;
        let choice = chosen.unwrap();
        assert!((choice.weights.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{choice:?}");
        (choice, context)
    }

    fn serve(&mut self, queries: u64, of: [Model; 2]) -> Tally {
        let mut tally = Tally { queries, ..Tally::default() };
        for _ in 0..queries {
            let (choice, context) = self.choose(&[]);
            let Asked::One(model) = choice.asked else { panic!("it asks one") };
            *tally.asked.entry(model).or_default() += 1;
            let answered = self.chance.random_bool(of[model].answers);
            let right = self.chance.random_bool(of[model].right);
            tally.defaults += u64::from(!answered);
            tally.right += u64::from(answered && right);
            let name = self.learner.candidates()[model].clone();
            let outcome = Outcomes { answered: answered.into(), missed: (!answered).into() };
            let change = availability::learn(&self.state, &BTreeMap::from([(name, outcome)]));
            self.state.apply(&change);
            // A default output teaches nothing.
            if answered && self.feedback.is_some_and(|every| self.queries.is_multiple_of(every)) {
                let lesson = Lesson::Partial {
                    model,
                    loss: f64::from(u8::from(!right)),
                    propensity: choice.weights[model],
                    context: Some(&context),
                };
                let change = self.learner.learn(&self.state, &lesson);
                self.state.apply(&change);
            }
        }
        tally
    }
}

/// Every policy, with every amount of feedback, and each seed.
fn services(mut with: impl FnMut(Service, &str)) {
    for policy in policies() {
        for feedback in FEEDBACK {
            for seed in SEEDS {
                let name = format!("{policy:?}, feedback on one in {feedback:?}, seed {seed}");
                with(Service::new(&policy, feedback, seed), &name);
            }
        }
    }
}

#[test]
fn of_the_first_300_queries_a_tenth_at_most_are_defaults_where_one_of_two_models_is_dead() {
    services(|service, name| {
        for dead in 0..2 {
            let mut service = Service { state: Statistics::default(), queries: 0, ..clone(&service) };
            let mut of = [GOOD, FAIR];
            of[dead].answers = 0.0;
            let first = service.serve(SOON, of);
            assert!(first.part(first.defaults) <= 0.1, "{name}: {first:?}");
            let later = service.serve(3000, of);
            assert!(later.part(later.defaults) <= 0.02, "{name}: {later:?}");
        }
    });
}

#[test]
fn a_model_that_dies_after_it_was_the_best_is_left_as_soon_and_taken_back() {
    services(|mut service, name| {
        service.serve(3000, [GOOD, FAIR]);
        let dead = service.serve(SOON, [GOOD.answering(0.0), FAIR]);
        assert!(dead.part(dead.defaults) <= 0.1, "{name}: {dead:?}");
        service.serve(5000, [GOOD.answering(0.0), FAIR]);
        let back = service.serve(SOON, [GOOD, FAIR]);
        assert!(back.asked.contains_key(&0), "{name}: {back:?}");
        service.serve(3000, [GOOD, FAIR]);
        let learner = &service.learner;
        let beliefs = learner.beliefs(&service.state);
        assert!(beliefs.availability(0) > 0.8, "{name}: {}", beliefs.availability(0));
    });
}

#[test]
fn a_worse_model_that_comes_back_is_tried_as_well() {
    services(|mut service, name| {
        service.serve(1000, [GOOD, FAIR]);
        service.serve(1000, [GOOD, FAIR.answering(0.0)]);
        if service.state.missed(&service.learner.candidates()[1]) > 0.0 {
            let back = service.serve(SOON, [GOOD, FAIR]);
            assert!(back.asked.contains_key(&1), "{name}: {back:?}");
        }
    });
}

#[test]
fn a_good_model_that_is_late_in_one_query_of_ten_is_preferred_to_a_bad_one_that_never_is() {
    for policy in policies() {
        let mut earned = Vec::new();
        for seed in 0..5 {
            for order in [[0, 1], [1, 0]] {
                let both = [GOOD.answering(0.9), FAIR];
                let mut service = Service::new(&policy, Some(10), seed);
                let of = order.map(|model| both[model]);
                // What it takes to learn the qualities is the policy's own affair.
                service.serve(3_000, of);
                let later = service.serve(20_000, of);
                earned.push(later.part(later.right));
            }
        }
        println!("{policy:?}: {earned:.3?}");
        let mean = earned.iter().sum::<f64>() / earned.len() as f64;
        assert!(mean >= 0.78 && earned.iter().all(|earned| *earned >= 0.77), "{policy:?}: {earned:?}");
    }
}

#[test]
fn a_model_that_is_away_is_not_asked_while_another_is_here() {
    services(|mut service, name| {
        service.serve(200, [GOOD.answering(0.5), FAIR.answering(0.5)]);
        for away in 0..2 {
            for _ in 0..100 {
                let (choice, _) = service.choose(&[away]);
                assert_eq!(choice.asked, Asked::One(1 - away), "{name}");
                assert_eq!(choice.weights[away], 0.0, "{name}");
            }
        }
        let asked: Vec<_> = (0..400).map(|_| service.choose(&[0, 1]).0.asked).collect();
        assert!(asked.contains(&Asked::One(0)) && asked.contains(&Asked::One(1)), "{name}");
    });
}

fn clone(service: &Service) -> Service {
    Service {
        learner: service.learner.clone(),
        state: service.state.clone(),
        chance: service.chance.clone(),
        ..*service
    }
}
