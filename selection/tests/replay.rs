//! A log that was made by a policy at work is replayed bit for bit, and what was altered in it is found.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::collections::BTreeMap;

use clipper_rpc::names::ModelName;
use clipper_rpc::selection::{Policy, Selection, Statistics, Uid};
use clipper_selection::learner::availability::{self, Outcomes};
use clipper_selection::learner::{Asked, Learner, Lesson};
use clipper_selection::log::{Decision, Record};
use clipper_selection::offline::lines::Records;
use clipper_selection::offline::replay::{Replay, ReplayReport};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

const SEED: u64 = 5;

fn policy(text: Value) -> Policy {
    serde_json::from_value(text).unwrap()
}

fn candidates() -> Vec<ModelName> {
    ["a", "b", "c"].map(|name| name.parse().unwrap()).to_vec()
}

fn start(policy: &Policy, shared: &Statistics, version: u64) -> Record {
    let selection = Selection { policy: policy.clone(), seed: SEED, ..Selection::default() };
    Record::Start {
        format: 1,
        time_micros: 0,
        application: "app".parse().unwrap(),
        selection,
        candidates: candidates(),
        shared: shared.clone(),
        version,
    }
}

/// Whether a model answers in time.
fn answers(model: usize, query_id: u64) -> bool {
    model != 0 || !(100..200).contains(&query_id)
}

/// What a frontend logs of queries by one user or none, each with feedback. The first model is late for a while, and the last
/// one is away now and then. Decisions are logged after up to three further
/// rounds of feedback, as where requests and feedback are handled by different threads.
fn log_of(policy: &Policy, rounds: u64) -> Vec<Record> {
    let learner = Learner::new(policy, &candidates());
    let mut chance = ChaCha8Rng::seed_from_u64(1);
    let (mut shared, mut shared_version, mut version) = (Statistics::default(), 10, 10);
    let user = Uid::new("7").unwrap();
    let (mut own, mut own_version) = (Statistics::default(), 10);
    let mut log = vec![
        start(policy, &shared, version),
        Record::User { uid: user.clone(), statistics: own.clone(), version },
    ];
    let mut late: Vec<Record> = Vec::new();
    for query_id in 0..rounds {
        let uid = chance.random_bool(0.5).then(|| user.clone());
        let context = Some(vec![chance.random(), chance.random()]);
        let beliefs = [&shared, &own].map(|statistics| learner.beliefs(statistics));
        let own_beliefs = uid.as_ref().map(|_| &beliefs[1]);
        let away = if query_id % 7 == 0 { vec![2] } else { Vec::new() };
        let choice =
            learner.choose(&beliefs[0], own_beliefs, &away, context.as_deref(), SEED, query_id).unwrap();
        let propensities = learner.propensities(&beliefs[0], own_beliefs, &away, &choice);
        let asked = match choice.asked {
            Asked::One(model) => Some(model),
            Asked::All => None,
        };
        let losses: Vec<Option<f64>> =
            (0..3).map(|model| asked.is_none_or(|asked| asked == model).then(|| chance.random())).collect();
        let lesson = match asked {
            Some(model) => Lesson::Partial {
                model,
                loss: losses[model].unwrap(),
                propensity: propensities[model],
                context: context.as_deref(),
            },
            None => Lesson::Full { losses: &losses, context: context.as_deref() },
        };
        late.push(Record::Decision(Box::new(Decision {
            query_id,
            time_micros: query_id,
            uid: uid.clone(),
            context: context.clone(),
            candidates: candidates(),
            propensities: propensities.clone(),
            asked,
            away: if asked.is_some() { away } else { Vec::new() },
            answered: asked.map(|model| answers(model, query_id)),
            outputs: vec![Value::Null; 3],
            output: json!(1),
            default_reason: None,
            confidence: 0.5,
            latency_micros: 1,
            shared_version,
            own_version: uid.as_ref().map(|_| own_version),
        })));
        log.push(Record::Feedback {
            time_micros: query_id,
            query_id: Some(query_id),
            uid: uid.clone(),
            label: None,
            reward: 0.5,
            losses: losses.clone(),
            outputs: Vec::new(),
        });
        let mut teach = |key: Option<Uid>, state: &mut Statistics, state_version: &mut u64| {
            let change = learner.learn(state, &lesson);
            if change.is_empty() {
                return;
            }
            state.apply(&change);
            version += 1;
            *state_version = version;
            log.push(Record::Change { version, query_id: Some(query_id), outcomes: None, uid: key, change });
        };
        if uid.is_some() {
            teach(uid, &mut own, &mut own_version);
        }
        teach(None, &mut shared, &mut shared_version);
        if let Some(model) = asked {
            let answered = answers(model, query_id);
            let outcomes = Outcomes { answered: answered.into(), missed: (!answered).into() };
            let outcomes = BTreeMap::from([(candidates()[model].clone(), outcomes)]);
            let change = availability::learn(&shared, &outcomes);
            if !change.is_empty() {
                shared.apply(&change);
                version += 1;
                shared_version = version;
                let outcomes = Some(outcomes);
                log.push(Record::Change { version, query_id: None, outcomes, uid: None, change });
            }
        }
        if late.len() > 3 || query_id + 1 == rounds {
            log.append(&mut late);
        }
    }
    log
}

/// Through JSON, as from a file.
fn replay(log: &[Record]) -> ReplayReport {
    let text: String = log.iter().map(|record| serde_json::to_string(record).unwrap() + "\n").collect();
    let mut replay = Replay::new();
    replay.begin_file();
    Records::new(text.as_bytes()).for_each(|record| replay.push(record.unwrap()));
    replay.finish()
}

fn policies() -> Vec<Policy> {
    ["exp3", "exp3_ix", "epsilon_greedy", "ucb1", "thompson", "exp4", "majority_vote"]
        .map(|name| policy(json!({ "policy": name })))
        .into_iter()
        .chain([policy(json!({"policy": "linucb", "dimensions": 2}))])
        .collect()
}

#[test]
fn every_choice_and_every_change_is_reproduced_bit_for_bit() {
    for policy in policies() {
        let report = replay(&log_of(&policy, 300));
        assert_eq!(report.decisions.reproduced, 300, "{policy:?}: {report:?}");
        assert_eq!(report.changes.reproduced, report.changes.total, "{policy:?}: {report:?}");
        assert!(report.changes.total >= 300 && report.differing() == 0, "{policy:?}");
    }
}

#[test]
fn outcomes_that_were_altered_are_found() {
    let mut log = log_of(&policy(json!({"policy": "exp3"})), 300);
    let outcomes = log.iter_mut().filter_map(|record| match record {
        Record::Change { outcomes, .. } => outcomes.as_mut(),
        _ => None,
    });
    let outcomes: Vec<_> = outcomes.collect();
    assert!(outcomes.len() > 10, "{}", outcomes.len());
    outcomes.into_iter().flat_map(BTreeMap::values_mut).for_each(|of| of.missed += 1);
    let report = replay(&log);
    assert!(report.changes.differing > 10, "{report:?}");
}

#[test]
fn what_was_altered_is_found() {
    let log = log_of(&policy(json!({"policy": "exp3"})), 100);
    let mut altered = log.clone();
    for record in &mut altered {
        match record {
            Record::Decision(decision) if decision.query_id == 50 => {
                decision.propensities[0] = decision.propensities[0].next_up();
            }
            Record::Decision(decision) if decision.query_id == 60 => {
                decision.asked = Some((decision.asked.unwrap() + 1) % 3);
            }
            _ => {}
        }
    }
    let report = replay(&altered);
    assert_eq!((report.decisions.reproduced, report.decisions.differing), (98, 2));
    assert!(report.differences[0].starts_with("decision 50: logged the propensities"), "{report:?}");
    assert!(report.differences.iter().any(|difference| difference.starts_with("decision 60: logged ")));
    // The altered choice says that another model was judged, of which there is no loss.
    assert!(report.changes.not_checkable.contains_key("the feedback teaches nothing"), "{report:?}");

    let mut altered = log;
    let change = altered.iter_mut().find_map(|record| match record {
        Record::Change { change, .. } => change.0.values_mut().next(),
        _ => None,
    });
    change.unwrap().scale = 0.5;
    let report = replay(&altered);
    assert!(report.changes.differing >= 1, "{report:?}");
    assert!(report.differences[0].starts_with("change 11: logged {"), "{report:?}");
}

#[test]
fn what_the_log_lacks_is_not_checkable_and_says_why() {
    let policy = policy(json!({"policy": "exp3"}));
    let mut log = log_of(&policy, 100);
    log.retain(|record| !matches!(record, Record::User { .. } | Record::Feedback { query_id: Some(0), .. }));
    let report = replay(&log);
    assert_eq!(report.differing(), 0, "{report:?}");
    assert!(
        report.decisions.not_checkable.contains_key("the log does not have the user's state"),
        "{report:?}"
    );
    assert!(report.changes.not_checkable.contains_key("the log does not have the feedback"), "{report:?}");
    assert!(
        report.changes.not_checkable.contains_key("the log does not have the state before it"),
        "{report:?}"
    );
}

#[test]
fn a_file_may_start_anew_in_its_middle() {
    let policy = policy(json!({"policy": "exp3"}));
    let mut log = log_of(&policy, 100);
    // What was learned elsewhere replaces the state: the decisions before it read the old one.
    log.extend([start(&policy, &Statistics::default(), 1_000)]);
    let learner = Learner::new(&policy, &candidates());
    let beliefs = learner.beliefs(&Statistics::default());
    let choice = learner.choose(&beliefs, None, &[], None, SEED, 999).unwrap();
    let last = log.iter().rev().find_map(|record| match record {
        Record::Decision(decision) => Some(decision.clone()),
        _ => None,
    });
    let Asked::One(asked) = choice.asked else { panic!("exp3 asks one") };
    log.push(Record::Decision(Box::new(Decision {
        query_id: 999,
        uid: None,
        context: None,
        own_version: None,
        shared_version: 1_000,
        asked: Some(asked),
        propensities: choice.weights.to_vec(),
        ..*last.unwrap()
    })));
    let report = replay(&log);
    assert_eq!((report.decisions.reproduced, report.differing()), (101, 0), "{report:?}");
}
