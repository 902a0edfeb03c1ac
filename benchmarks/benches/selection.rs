//! What selection costs a query: a choice, and the combination of what was answered, with 5 and with 50 models.

#![allow(missing_docs, reason = "criterion's macros generate what they do not document")]

use std::hint::black_box;

use clipper_rpc::names::ModelName;
use clipper_rpc::output::Output;
use clipper_rpc::selection::{OutputKind, Policy, Statistics};
use clipper_selection::combine::{Vote, combine};
use clipper_selection::learner::{Asked, Beliefs, Learner, Lesson};
use criterion::{Criterion, criterion_group, criterion_main};

/// A policy over that many models, and what it has learned of 1,000 feedbacks (all losses known).
fn learned(policy: &Policy, models: usize) -> (Learner, Statistics) {
    let candidates: Vec<ModelName> =
        (0..models).map(|model| format!("model-{model}").parse().expect("a name")).collect();
    let learner = Learner::new(policy, &candidates);
    let mut statistics = Statistics::default();
    for feedback in 0..1000 {
        let losses: Vec<Option<f64>> =
            (0..models).map(|model| Some(f64::from((feedback * 7919 + model * 31) % 10 < 3))).collect();
        let change = learner.learn(&statistics, &Lesson::Full { losses: &losses, context: None });
        statistics.apply(&change);
    }
    (learner, statistics)
}

/// A choice and a combination.
fn select(learner: &Learner, shared: &Beliefs, own: Option<&Beliefs>, outputs: &[Output], query_id: u64) {
    let Ok(choice) = learner.choose(shared, own, &[], None, 1, query_id) else { return };
    match choice.asked {
        Asked::One(model) => {
            drop(black_box((outputs[model].clone(), learner.mean_reward(shared, own, model))));
        }
        Asked::All => {
            let votes: Vec<Vote<'_>> = outputs
                .iter()
                .zip(&choice.weights)
                .map(|(output, weight)| Vote::new(*weight, output))
                .collect();
            drop(black_box(combine(OutputKind::Detected, &votes)));
        }
    }
}

fn selection(criterion: &mut Criterion) {
    for models in [5, 50] {
        let mut group = criterion.benchmark_group(format!("selection among {models}"));
        let labels: Vec<Output> =
            (0..models).map(|model| Output::text(format!("\"label-{}\"", model % 10))).collect();
        let numbers: Vec<Output> = (0..models).map(|model| Output::text(format!("{model}.25"))).collect();
        for name in ["exp3", "ucb1", "thompson", "exp4"] {
            let policy: Policy = serde_json::from_value(serde_json::json!({"policy": name}))
                .expect("a policy with its defaults");
            let (learner, statistics) = learned(&policy, models);
            let beliefs = learner.beliefs(&statistics);
            let mut query_id = 0;
            for (whose, own) in [("", None), (", of a user", Some(&beliefs))] {
                for (what, outputs) in [("labels", &labels), ("numbers", &numbers)] {
                    if name != "exp4" && what == "numbers" {
                        continue;
                    }
                    group.bench_function(format!("{name}, {what}{whose}"), |bencher| {
                        bencher.iter(|| {
                            query_id += 1;
                            select(&learner, &beliefs, black_box(own), outputs, query_id);
                        });
                    });
                }
            }
            let losses = vec![Some(0.5); models];
            group.bench_function(format!("{name}, a feedback"), |bencher| {
                bencher.iter(|| {
                    let lesson = Lesson::Full { losses: black_box(&losses), context: None };
                    let change = learner.learn(&statistics, &lesson);
                    black_box((learner.beliefs(&statistics), change))
                });
            });
        }
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(std::time::Duration::from_millis(200))
        .measurement_time(std::time::Duration::from_millis(800));
    targets = selection
}
criterion_main!(benches);
