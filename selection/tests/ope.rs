//! Off-policy estimates against Open Bandit Pipeline (`oracle/ope.py` writes what is expected), and against the truth.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use clipper_rpc::names::ModelName;
use clipper_selection::log::Decision;
use clipper_selection::offline::estimate::Estimate;
use clipper_selection::offline::join::Judgement;
use clipper_selection::offline::off_policy::Events;
use clipper_selection::offline::target::Target;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
struct LoggedRound {
    context: Vec<f64>,
    propensities: Vec<f64>,
    asked: usize,
    reward: f64,
}

fn decision(query_id: u64, round: &LoggedRound, with_context: bool) -> (Decision, Judgement) {
    let candidates: Vec<ModelName> =
        (0..round.propensities.len()).map(|arm| format!("m{arm}").parse().unwrap()).collect();
    let decision = Decision {
        query_id,
        time_micros: query_id,
        uid: None,
        context: with_context.then(|| round.context.clone()),
        outputs: vec![Value::Null; candidates.len()],
        candidates,
        propensities: round.propensities.clone(),
        asked: Some(round.asked),
        away: Vec::new(),
        answered: None,
        output: Value::Null,
        default_reason: None,
        confidence: 1.0,
        latency_micros: 1,
        shared_version: 0,
        own_version: None,
    };
    let (losses, outputs) = (vec![], vec![]);
    (decision, Judgement { time_micros: query_id, label: None, reward: round.reward, losses, outputs })
}

fn events<'a>(rounds: impl IntoIterator<Item = &'a LoggedRound>, with_context: bool) -> Events {
    let mut events = Events::default();
    for (query_id, round) in (0..).zip(rounds) {
        let (decision, judgement) = decision(query_id, round, with_context);
        assert!(events.add(decision, &judgement));
    }
    events
}

#[test]
fn the_estimates_are_those_of_open_bandit_pipeline() {
    let fixture: Value = serde_json::from_str(include_str!("oracle/ope.json")).unwrap();
    let rounds: Vec<LoggedRound> = serde_json::from_value(fixture["rounds"].clone()).unwrap();
    for kind in ["with_context", "without_context"] {
        let events = events(&rounds, kind == "with_context");
        let model = events.reward_model();
        for (name, expected) in fixture["expected"][kind].as_object().unwrap() {
            let target: Target = name.parse().unwrap();
            let estimates = events.evaluate(&target, &model, 0).unwrap().estimates;
            let close = |found: f64, expected: &Value, what: &str| {
                let expected = expected.as_f64().unwrap();
                assert!(
                    (found - expected).abs() < 1e-9 * expected.abs().max(1.0),
                    "{kind}, {name}, {what}: {found}, {expected}"
                );
            };
            for (what, found) in
                [("ips", estimates.ips), ("snips", estimates.snips.unwrap()), ("dr", estimates.dr)]
            {
                close(found.value, &expected[what]["value"], what);
                close(found.standard_error, &expected[what]["standard_error"], what);
                assert!(
                    (found.high - found.value - 1.959_963_984_540_054 * found.standard_error).abs() < 1e-12
                );
            }
            close(estimates.effective_sample_size, &expected["effective_sample_size"], "sample size");
        }
    }
}

/// Logs of a policy that prefers one of three models, by the context; with the models' chances to be right.
fn simulated_log(seed: u64, count: usize) -> Vec<LoggedRound> {
    let mut chance = ChaCha8Rng::seed_from_u64(seed);
    let rounds = (0..count).map(|_| {
        let feature: f64 = chance.random();
        let propensities = if feature < 0.5 { vec![0.6, 0.3, 0.1] } else { vec![0.2, 0.2, 0.6] };
        let drawn: f64 = chance.random();
        let mut up_to = 0.0;
        let asked = propensities.iter().position(|share| {
            up_to += share;
            drawn < up_to
        });
        let asked = asked.unwrap_or(2);
        let right = chance.random::<f64>() < chance_of(asked, feature);
        LoggedRound { context: vec![feature], propensities, asked, reward: f64::from(u8::from(right)) }
    });
    rounds.collect()
}

fn chance_of(model: usize, feature: f64) -> f64 {
    [0.4, 0.7, 0.3 + 0.4 * feature][model]
}

#[test]
fn the_intervals_hold_the_truth_as_often_as_they_say() {
    let truth = [("always:m1", 0.7), ("always:m2", 0.5), ("uniform", (0.4 + 0.7 + 0.5) / 3.0)];
    for (name, value) in truth {
        let target: Target = name.parse().unwrap();
        let mut held = [0; 3];
        for seed in 0..100 {
            let events = events(&simulated_log(seed, 500), true);
            let estimates = events.evaluate(&target, &events.reward_model(), 0).unwrap().estimates;
            let holds = |estimate: Estimate| usize::from((estimate.low..=estimate.high).contains(&value));
            held[0] += holds(estimates.ips);
            held[1] += holds(estimates.snips.unwrap());
            held[2] += holds(estimates.dr);
        }
        assert!(held.iter().all(|times| *times >= 90), "{name}: {held:?} of 100");
    }
}

#[test]
fn a_target_that_learns_is_estimated_as_it_would_have_learned() {
    let target: Target = r#"{"policy": "epsilon_greedy", "epsilon": 0.2}"#.parse().unwrap();
    let mut estimated = 0.0;
    for seed in 0..10 {
        let events = events(&simulated_log(seed, 4_000), false);
        let evaluated = events.evaluate(&target, &events.reward_model(), seed).unwrap();
        assert!(evaluated.learned_from.unwrap() > 200, "{evaluated:?}");
        estimated += evaluated.estimates.dr.value / 10.0;
    }
    // Once it knows the best model, it earns 0.8 * 0.7 + 0.2 * 0.533 = 0.667; uniform earns 0.533.
    assert!((0.62..0.68).contains(&estimated), "{estimated}");
}

#[test]
fn what_a_target_forgets_spoils_no_estimate() {
    let events = events(&simulated_log(2, 3_000), false);
    let evaluated = events.evaluate(&"thompson".parse().unwrap(), &events.reward_model(), 0).unwrap();
    let value = evaluated.estimates.dr.value;
    assert!((0.5..0.75).contains(&value), "{evaluated:?}");
}

#[test]
fn estimates_that_mean_nothing_come_with_a_caution() {
    let mut rounds = simulated_log(1, 300);
    for round in &mut rounds {
        (round.asked, round.propensities) = (0, vec![1.0, 0.0, 0.0]);
    }
    let events = events(&rounds, false);
    assert!((events.logged().certain - 1.0).abs() < 1e-9);
    let other = events.evaluate(&"always:m1".parse().unwrap(), &events.reward_model(), 0).unwrap();
    assert_eq!((other.support, other.estimates.snips), (0.0, None));
    let cautions = other.cautions.join("\n");
    assert!(
        cautions.contains("left nothing to chance") && cautions.contains("would never have done 100.0 %"),
        "{cautions}"
    );
    let ensemble = events.evaluate(&"exp4".parse().unwrap(), &events.reward_model(), 0).unwrap_err();
    assert!(ensemble.contains("needs --full-information"), "{ensemble}");
    let absent = events.evaluate(&"always:m9".parse().unwrap(), &events.reward_model(), 0).unwrap_err();
    assert!(absent.contains("no decision of the log had that model"), "{absent}");
}
