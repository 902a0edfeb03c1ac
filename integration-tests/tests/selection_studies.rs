//! What selection is to reach, in short: `make bench ARGS='--only selection'` has the whole studies.
//!
//! The models' answers follow from their inputs. What else is chance, which feedback comes before which query, has wide margins.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use clipper_integration_tests::{Cluster, eventually, program};
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// So long that nobody waits it out by accident.
const PATIENT: Duration = Duration::from_secs(20);
/// How many ask at a time.
const CLIENTS: u64 = 8;

/// Deploys a model that is right as often as its flags say, each with mistakes of its own.
async fn deploy(cluster: &Cluster, name: &str, flags: &[&str]) {
    let mut command = vec![program::example("labeller").display().to_string()];
    command.extend(["--seed", &name[6..]].into_iter().chain(flags.iter().copied()).map(str::to_owned));
    let body = json!({
        "model_name": name, "model_version": "1", "input_type": "doubles", "cache": false, "command": command,
    });
    cluster.must("deploy_model", body).await;
}

async fn add_app(cluster: &Cluster, name: &str, models: &[String], objective: Duration, policy: &str) {
    let body = json!({
        "name": name, "input_type": "doubles", "default_output": "none", "linked_models": models,
        "latency_slo_micros": u64::try_from(objective.as_micros()).unwrap(), "selection_policy": policy,
        "output_kind": "labels", "log_decisions": true,
    });
    cluster.must("add_app", body).await;
    for model in models {
        cluster.connected(model, 1).await;
    }
    cluster.served(0, name, json!({"input": [1e9, 0, 0]})).await;
}

fn label(id: u64) -> u64 {
    id * 7 % 10
}

fn is_wrong(answer: &Value, id: u64) -> f64 {
    f64::from(u8::from(answer["output"].as_f64() != Some(label(id) as f64)))
}

/// The mean error of queries, each followed by feedback, by clients in a closed loop.
async fn learn(cluster: &Arc<Cluster>, app: &'static str, ids: std::ops::Range<u64>, case: u32) -> f64 {
    let count = (ids.end - ids.start) as f64;
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let (cluster, ids) = (Arc::clone(cluster), ids.clone());
        clients.spawn(async move {
            let mut errors = 0.0;
            for id in ids.filter(|id| id % CLIENTS == client) {
                let answer = cluster.predict(app, json!({"input": [id, label(id), case]})).await;
                let body = json!({"query_id": answer["query_id"], "label": label(id)});
                let url = format!("{}/{app}/feedback", cluster.query_url(0));
                let told = cluster.http().post(url).json(&body).send().await.unwrap();
                assert_eq!(told.status(), 200);
                errors += is_wrong(&answer, id);
            }
            errors
        });
    }
    clients.join_all().await.iter().sum::<f64>() / count
}

#[tokio::test]
async fn an_ensemble_leaves_a_model_that_fails_takes_it_back_and_loses_no_feedback() {
    const SEGMENT: u64 = 500;
    // The slowest, too: the others are mostly certain before it answers.
    const FAILS: [&str; 6] = ["--in-case", "1=0.1", "--stall-share", "0.9", "--stall-ms", "10"];
    let accuracies = ["0.75", "0.64", "0.82", "0.54", "0.9"];
    let cluster = Arc::new(Cluster::start().await);
    let mut models = Vec::new();
    for (number, accuracy) in accuracies.iter().enumerate() {
        let name = format!("model-{number}");
        let flags: &[&str] = if number == 4 { &FAILS } else { &[] };
        deploy(&cluster, &name, &[&["--accuracy", accuracy], flags].concat()).await;
        models.push(name);
    }
    add_app(&cluster, "study", &models, PATIENT, "exp4").await;
    let mut errors = Vec::new();
    for segment in 0..4 {
        let case = u32::from(segment == 1);
        errors.push(learn(&cluster, "study", segment * SEGMENT..(segment + 1) * SEGMENT, case).await);
    }
    // The best single model in hindsight is right in 0.82 of all queries, that of the last segment in 0.9 of them.
    let overall = errors.iter().sum::<f64>() / 4.0;
    assert!(overall < 0.18, "{errors:?}");
    assert!(errors[3] < 0.10 + 0.04, "{errors:?}");

    // What it learned can be computed again, also where that was by outputs that came after the answer.
    let log = cluster.data_dir().join("decisions/study");
    let replayed = program::isolated(program::clipper()).arg("replay").arg(log).output().unwrap();
    assert!(replayed.status.success(), "{}", String::from_utf8_lossy(&replayed.stdout));

    // An ensemble that is certain learns nothing of those that had not begun; a bandit learns of one model each time.
    add_app(&cluster, "bandit", &models, PATIENT, "exp3").await;
    learn(&cluster, "bandit", 0..SEGMENT, 0).await;
    eventually("management has counted all feedback", async || {
        let state = cluster.read("get_state", json!({"app_name": "bandit"})).await;
        let models = state["state"]["models"].as_array().cloned().unwrap_or_default();
        models.iter().filter_map(|model| model["feedbacks"].as_f64()).sum::<f64>() == SEGMENT as f64
    })
    .await;
}

#[tokio::test]
async fn an_ensemble_of_models_that_stall_answers_in_time_and_is_right() {
    const STALL: Duration = Duration::from_secs(6);
    const OBJECTIVE: Duration = Duration::from_millis(300);
    let cluster = Arc::new(Cluster::start().await);
    let mut models = Vec::new();
    for number in 0..8 {
        let (name, stall) = (format!("model-{number}"), STALL.as_millis().to_string());
        let accuracy = if number < 4 { "0.7" } else { "0.8" };
        deploy(&cluster, &name, &["--accuracy", accuracy, "--stall-share", "0.3", "--stall-ms", &stall])
            .await;
        models.push(name);
    }
    add_app(&cluster, "vote", &models, OBJECTIVE, "majority_vote").await;
    let (mut asked, mut errors, mut incomplete) = (0, 0.0, 0);
    // Until models have been missing often.
    while incomplete < 100 && asked < 4000 {
        let mut clients = JoinSet::new();
        for id in asked..asked + 40 {
            let cluster = Arc::clone(&cluster);
            clients.spawn(async move {
                let begun = Instant::now();
                let answer = cluster.predict("vote", json!({"input": [id, label(id), 0]})).await;
                (id, answer, begun.elapsed())
            });
        }
        asked += 40;
        for (id, answer, took) in clients.join_all().await {
            assert!(took < STALL / 2, "it waited for a model that stalls: {took:?} {answer}");
            let missing = took >= OBJECTIVE / 2 && answer["models"].as_array().unwrap().len() < models.len();
            incomplete += u64::from(missing);
            errors += is_wrong(&answer, id);
        }
    }
    assert!(incomplete >= 100, "{incomplete} of {asked}");
    // All eight together would be right in some 0.99.
    assert!(errors / (asked as f64) < 0.1, "{errors} of {asked} are wrong");
}
