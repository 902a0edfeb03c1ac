//! A million steps: nothing underflows, overflows or drifts.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use clipper_rpc::names::ModelName;
use clipper_rpc::selection::{Policy, Statistics};
use clipper_selection::learner::{Learner, Lesson};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const STEPS: u64 = 1_000_000;

/// Learns from a million feedbacks, most against the first model, and is then still able to change its mind.
fn endure(text: &str) -> (Learner, Statistics) {
    let policy: Policy = serde_json::from_str(text).unwrap();
    let models: Vec<ModelName> = ["a", "b", "c"].iter().map(|name| name.parse().unwrap()).collect();
    let learner = Learner::new(&policy, &models);
    let mut statistics = Statistics::default();
    let mut chance = ChaCha8Rng::seed_from_u64(1);
    let mut teach = |statistics: &mut Statistics, accuracies: [f64; 3], query_id: u64| {
        let losses = accuracies.map(|accuracy| Some(f64::from(chance.random::<f64>() > accuracy)));
        let lesson = if matches!(policy, Policy::Exp4 { .. }) {
            Lesson::Full { losses: &losses, context: None }
        } else {
            let choice = learner.choose(&learner.beliefs(statistics), None, &[], None, 1, query_id).unwrap();
            let model = choice.weights.iter().position(|weight| *weight > chance.random()).unwrap_or(0);
            let loss = losses[model].unwrap();
            Lesson::Partial { model, loss, propensity: choice.weights[model], context: None }
        };
        let change = learner.learn(statistics, &lesson);
        statistics.apply(&change);
    };
    for step in 0..STEPS {
        teach(&mut statistics, [0.1, 0.6, 0.95], step);
    }
    for model in learner.candidates() {
        let figures = statistics.of(model);
        assert!(figures.iter().all(|figure| figure.is_finite()), "{text}: {figures:?}");
        assert!(figures[1] <= figures[0]);
    }
    (learner, statistics)
}

/// The logarithms of weights: their mean is 1 after a million steps, but for rounding.
fn mean_weight(statistics: &Statistics) -> f64 {
    statistics.0.values().map(|of| of.figures[2].exp()).sum::<f64>() / statistics.0.len() as f64
}

#[test]
fn exp4_endures() {
    let (learner, statistics) = endure(r#"{"policy": "exp4"}"#);
    assert!((mean_weight(&statistics) - 1.0).abs() < 1e-6);
    let weights = learner.choose(&learner.beliefs(&statistics), None, &[], None, 1, 1).unwrap().weights;
    assert!(weights.iter().all(|weight| *weight > 1e-4), "{weights:?}");
}

#[test]
fn hedge_without_a_share_leaves_every_weight_above_0() {
    let (learner, statistics) = endure(r#"{"policy": "exp4", "share": 0}"#);
    let weights = learner.choose(&learner.beliefs(&statistics), None, &[], None, 1, 1).unwrap().weights;
    assert!(weights.iter().all(|weight| *weight > 0.0), "{weights:?}");
}

#[test]
fn exp3_endures() {
    let (learner, statistics) = endure(r#"{"policy": "exp3"}"#);
    assert!((mean_weight(&statistics) - 1.0).abs() < 1e-6);
    let weights = learner.choose(&learner.beliefs(&statistics), None, &[], None, 1, 1).unwrap().weights;
    assert!(weights.iter().all(|weight| *weight > 0.02 / 3.1), "{weights:?}");
}

#[test]
fn exp3_ix_endures() {
    let (learner, statistics) = endure(r#"{"policy": "exp3_ix"}"#);
    let weights = learner.choose(&learner.beliefs(&statistics), None, &[], None, 1, 1).unwrap().weights;
    assert!(weights.iter().all(|weight| *weight > 0.01 / 3.1), "{weights:?}");
}

#[test]
fn thompson_endures() {
    let (learner, statistics) = endure(r#"{"policy": "thompson"}"#);
    // What is remembered is worth 1 / (1 - discount) feedbacks.
    let remembered: f64 = statistics.0.values().map(|of| of.figures[2]).sum();
    assert!((remembered - 500.0).abs() < 1e-6);
    learner.choose(&learner.beliefs(&statistics), None, &[], None, 1, 1).unwrap();
}
