//! A policy at work: models that answer right as often as told, and feedback on every answer.

use std::collections::BTreeMap;

use clipper_rpc::names::ModelName;
use clipper_rpc::output::Output;
use clipper_rpc::selection::{OutputKind, Policy, Statistics};
use clipper_selection::combine::{Vote, combine, same_label};
use clipper_selection::learner::{Asked, Learner, Lesson};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A policy by its name, with its defaults.
pub fn policy(name: &str) -> Policy {
    serde_json::from_value(serde_json::json!({"policy": name})).unwrap()
}

/// Models named so that their order is that of their indices.
pub fn models(count: usize) -> Vec<ModelName> {
    (0..count).map(|index| format!("model-{index:02}").parse().unwrap()).collect()
}

/// A policy, what it has learned, and models that answer in as many classes, independently of each other.
pub struct Simulation {
    learner: Learner,
    shared: Statistics,
    own: BTreeMap<usize, Statistics>,
    labels: Vec<Output>,
    chance: ChaCha8Rng,
    queries: u64,
}

/// A query and its feedback.
pub struct Round {
    /// 1 if the answer was wrong.
    pub error: f64,
    /// Of each model.
    pub losses: Vec<f64>,
    /// The model with most weight, or the one that was asked.
    pub favourite: usize,
}

impl Simulation {
    pub fn new(policy: &Policy, count: usize, classes: u32, seed: u64) -> Self {
        Self {
            learner: Learner::new(policy, &models(count)),
            shared: Statistics::default(),
            own: BTreeMap::new(),
            labels: (0..classes).map(|label| Output::text(label.to_string())).collect(),
            chance: ChaCha8Rng::seed_from_u64(seed),
            queries: 0,
        }
    }

    /// A query to models of these accuracies, by a user or by nobody, and feedback on it.
    pub fn round(&mut self, accuracies: &[f64], user: Option<usize>) -> Round {
        let round = self.ask(accuracies, user);
        let losses: Vec<Option<f64>> = round.losses.iter().copied().map(Some).collect();
        let lesson = match round.asked {
            Asked::One(model) => Lesson::Partial {
                model,
                loss: round.losses[model],
                propensity: round.propensity,
                context: None,
            },
            Asked::All => Lesson::Full { losses: &losses, context: None },
        };
        let change = self.learner.learn(&self.shared, &lesson);
        self.shared.apply(&change);
        if let Some(user) = user {
            let own = self.own.entry(user).or_default();
            let change = self.learner.learn(own, &lesson);
            own.apply(&change);
        }
        Round { error: round.error, losses: round.losses, favourite: round.favourite }
    }

    /// The error of a query without feedback.
    pub fn error(&mut self, accuracies: &[f64], user: Option<usize>) -> f64 {
        self.ask(accuracies, user).error
    }

    fn ask(&mut self, accuracies: &[f64], user: Option<usize>) -> Asking {
        self.queries += 1;
        let truth = self.chance.random_range(0..self.labels.len());
        let answers: Vec<usize> = accuracies
            .iter()
            .map(|accuracy| {
                let right = self.chance.random::<f64>() < *accuracy;
                let wrong = (truth + self.chance.random_range(1..self.labels.len())) % self.labels.len();
                if right { truth } else { wrong }
            })
            .collect();
        let shared = self.learner.beliefs(&self.shared);
        let own = user.and_then(|user| self.own.get(&user)).map(|own| self.learner.beliefs(own));
        let choice = self.learner.choose(&shared, own.as_ref(), &[], None, 7, self.queries).unwrap();
        let output = match choice.asked {
            Asked::One(model) => self.labels[answers[model]].clone(),
            Asked::All => {
                let votes: Vec<Vote<'_>> = answers
                    .iter()
                    .zip(&choice.weights)
                    .map(|(answer, weight)| Vote::new(*weight, &self.labels[*answer]))
                    .collect();
                combine(OutputKind::Labels, &votes).output
            }
        };
        let heaviest = (0..answers.len()).max_by(|a, b| choice.weights[*a].total_cmp(&choice.weights[*b]));
        let favourite = match choice.asked {
            Asked::One(model) => model,
            Asked::All => heaviest.unwrap(),
        };
        Asking {
            error: if same_label(&output, &self.labels[truth]) { 0.0 } else { 1.0 },
            losses: answers.iter().map(|answer| if *answer == truth { 0.0 } else { 1.0 }).collect(),
            favourite,
            asked: choice.asked,
            propensity: choice.weights[favourite],
        }
    }
}

/// A query.
struct Asking {
    error: f64,
    losses: Vec<f64>,
    favourite: usize,
    asked: Asked,
    propensity: f64,
}
