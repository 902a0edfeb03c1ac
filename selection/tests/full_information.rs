//! Policies run exactly: by hand, and in a study of a model that fails and recovers.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::fmt::Write;
use std::num::NonZeroUsize;

use clipper_rpc::selection::{Loss, OutputKind};
use clipper_selection::offline::full_information::{Study, StudyReport};
use clipper_selection::offline::rounds::{Contents, WrittenRounds};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn study(targets: &[&str], trials: usize, segments: usize) -> Study {
    Study {
        targets: targets.iter().map(|target| target.parse().unwrap()).collect(),
        trials: NonZeroUsize::new(trials).unwrap(),
        seed: 3,
        segments: NonZeroUsize::new(segments).unwrap(),
        loss: Loss::ZeroOne,
        output_kind: OutputKind::Detected,
        threads: NonZeroUsize::new(2).unwrap(),
    }
}

fn run(study: &Study, text: &str) -> Result<StudyReport, String> {
    let contents = Contents::of(text.as_bytes()).map_err(|error| error.to_string())?;
    let rounds = WrittenRounds::new(text.as_bytes(), &contents.models, study.loss);
    study.run(&contents, rounds).map_err(|error| error.to_string())
}

fn means(errors: &[clipper_selection::offline::full_information::OverTrials]) -> Vec<f64> {
    errors.iter().map(|error| error.mean).collect()
}

#[test]
fn an_ensemble_errs_as_computed_by_hand() {
    // With eta = ln 3 the two that are wrong have 1/5 of the weight each after the first round, 1/11 after the second, and
    // are outvoted; then a is wrong three times, and falls from 9/11 to 1/3 of the weight and less.
    let right = "{\"outputs\": {\"a\": \"x\", \"b\": \"y\", \"c\": \"y\"}, \"label\": \"x\"}\n".repeat(2);
    let wrong = "{\"outputs\": {\"a\": \"x\", \"b\": \"y\", \"c\": \"y\"}, \"label\": \"y\"}\n".repeat(4);
    let exp4 = format!("{{\"policy\": \"exp4\", \"eta\": {}, \"share\": 0}}", 3f64.ln());
    let report = run(&study(&[&exp4, "majority_vote", "always:a"], 1, 6), &(right + &wrong)).unwrap();
    assert_eq!(means(&report.policies[0].segments), [1.0, 0.0, 1.0, 1.0, 0.0, 0.0]);
    assert_eq!(means(&report.policies[1].segments), [1.0, 1.0, 0.0, 0.0, 0.0, 0.0]);
    assert_eq!(means(&report.policies[2].segments), [0.0, 0.0, 1.0, 1.0, 1.0, 1.0]);
    assert!((report.policies[0].error.mean - 0.5).abs() < 1e-12);
    assert_eq!((report.best_model.model.as_str(), report.best_of_segments_error), ("b", 0.0));
    assert!((report.best_model.error - 1.0 / 3.0).abs() < 1e-12);
}

#[test]
fn numbers_average_and_a_missing_answer_costs_everything() {
    let text = "{\"outputs\": {\"a\": 1.5, \"b\": 2.5}, \"label\": 2}\n{\"outputs\": {\"a\": null}, \"label\": 2}\n{\"outputs\": {\"b\": 3.0}, \"label\": 2}\n";
    let study = Study {
        loss: Loss::Absolute { scale: 4.0 },
        output_kind: OutputKind::Numbers,
        ..study(&["mean", "always:a"], 1, 3)
    };
    let report = run(&study, text).unwrap();
    assert_eq!(means(&report.policies[0].segments), [0.0, 1.0, 0.25]);
    assert_eq!(means(&report.policies[1].segments), [0.125, 1.0, 1.0]);
}

#[test]
fn what_does_not_fit_is_told_with_the_line() {
    let text = "{\"outputs\": {\"a\": 1}, \"label\": 1}\n{\"outputs\": {\"a\": 1}, \"label\": 1}\n";
    let error = run(&study(&[r#"{"policy": "linucb", "dimensions": 2}"#], 1, 1), text).unwrap_err();
    assert!(error.starts_with("line 1: ") && error.contains('2'), "{error}");
    let error = run(&study(&["always:b"], 1, 1), text).unwrap_err();
    assert_eq!(error, "has no model 'b'; expected one of a");
}

/// Five models; the best one answers at random from 5,000 to 10,000.
fn failing_model() -> String {
    let accuracies = [0.75, 0.64, 0.82, 0.54, 0.90];
    let mut chance = ChaCha8Rng::seed_from_u64(11);
    let mut text = String::new();
    for round in 0..20_000 {
        let label: u32 = chance.random_range(0..10);
        text.push_str("{\"outputs\": {");
        for (model, accuracy) in accuracies.into_iter().enumerate() {
            let failed = model == 4 && (5_000..10_000).contains(&round);
            let output = match chance.random::<f64>() < if failed { 0.0 } else { accuracy } {
                true => label,
                false if failed => chance.random_range(0..10),
                false => (label + chance.random_range(1..10)) % 10,
            };
            write!(text, "{}\"m{model}\": {output}", if model == 0 { "" } else { ", " }).unwrap();
        }
        writeln!(text, "}}, \"label\": {label}}}").unwrap();
    }
    text
}

#[test]
fn a_model_that_fails_and_recovers_is_left_and_taken_back() {
    let text = failing_model();
    let report = run(&study(&["exp4", "exp3", "always:m2"], 2, 4), &text).unwrap();
    let best = &report.best_model;
    assert_eq!(best.model.as_str(), "m2", "the best one but for the failure");
    let exp4 = &report.policies[0];
    assert_eq!(exp4.error.sd, 0.0, "it leaves nothing to chance");
    assert!(exp4.error.mean < best.error, "{exp4:?}");
    let recovered = &report.best_of_segments[3];
    assert_eq!(recovered.model.as_str(), "m4");
    assert!(exp4.segments[3].mean < recovered.error + 0.02, "{exp4:?}");
    let failed = &report.best_of_segments[1];
    assert!(failed.model.as_str() == "m2" && (failed.error - 0.18).abs() < 0.02, "{failed:?}");
    let exp3 = &report.policies[1];
    assert!(exp3.error.sd > 0.0 && exp3.error.mean < 0.4, "{exp3:?}");
    assert_eq!(report.policies[2].error.mean, best.error);

    let alone = Study { threads: NonZeroUsize::MIN, ..study(&["exp4", "exp3", "always:m2"], 2, 4) };
    assert_eq!(run(&alone, &text).unwrap(), report);
}
