//! Data directories that earlier versions wrote: this version opens each, with all that was stored, and goes on from it.
//!
//! `earlier_data/NAME.tar.gz` holds a data directory as a killed cluster left it, and `NAME.json` what its management answered:
//! calls by path, each with its body and the answer. `make earlier-data NAME=...` writes both with today's program. A change
//! of what is stored adds one; none is ever written again.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clipper_integration_tests::{Cluster, eventually, program};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

const OBJECTIVE: Duration = Duration::from_secs(20);
/// Every policy, with parameters where there are some.
const POLICIES: [&str; 10] = [
    r#"{"policy": "default_output"}"#,
    r#"{"policy": "exp3", "eta": 0.3, "floor": 0.05}"#,
    r#"{"policy": "exp3_ix"}"#,
    r#"{"policy": "epsilon_greedy", "epsilon": 0.2, "decay": 0.01, "discount": 0.9}"#,
    r#"{"policy": "ucb1", "exploration": 0.5}"#,
    r#"{"policy": "thompson", "discount": 0.99}"#,
    r#"{"policy": "linucb", "dimensions": 2, "alpha": 0.7, "ridge": 2.0}"#,
    r#"{"policy": "exp4", "eta": 0.1, "share": 0.01}"#,
    r#"{"policy": "majority_vote"}"#,
    r#"{"policy": "mean"}"#,
];
/// Whose states are looked at; none for what all share.
const USERS: [Option<&str>; 3] = [None, Some("ann"), Some("7")];
/// What a data directory holds that means nothing elsewhere, or is secret.
const LEFT_OUT: [&str; 5] = ["clipper.lock", "clipper.key", "addresses.json", "logs", "replicas"];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/earlier_data")
}

/// The names of the data directories that were kept.
fn kept() -> Vec<String> {
    let files =
        fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    files.filter_map(|name| name.strip_suffix(".tar.gz").map(str::to_owned)).collect()
}

/// Calls management by GET or POST, as the path needs; what it answers.
async fn answer(cluster: &Cluster, path: &str, body: &Value) -> Value {
    if body.is_null() {
        let url = format!("{}/admin/{path}", cluster.admin_url());
        return serde_json::from_str(&cluster.http().get(url).send().await.unwrap().text().await.unwrap())
            .unwrap();
    }
    cluster.read(path, body.clone()).await
}

/// Every call that tells of what is stored.
fn calls() -> Vec<(&'static str, Value)> {
    let mut calls = vec![
        ("export?include=environment", Value::Null),
        ("get_all_applications", json!({"verbose": true})),
        ("get_all_models", json!({"verbose": true})),
    ];
    for (app, policy) in POLICIES.iter().enumerate().filter(|(_, policy)| learns(policy)) {
        let users = if policy.contains("linucb") { &USERS[..1] } else { &USERS[..] };
        calls.extend(users.iter().map(|user| ("get_state", json!({"app_name": name(app), "uid": user}))));
    }
    calls
}

fn learns(policy: &str) -> bool {
    !["default_output", "majority_vote", "mean"].iter().any(|name| policy.contains(name))
}

fn name(app: usize) -> String {
    format!("app-{app}")
}

/// Whether everything of `expected` is in `found`, which may hold more.
fn holds(found: &Value, expected: &Value) -> bool {
    match (found, expected) {
        (Value::Object(found), Value::Object(expected)) => {
            expected.iter().all(|(key, value)| found.get(key).is_some_and(|found| holds(found, value)))
        }
        (Value::Array(found), Value::Array(expected)) => {
            found.len() == expected.len()
                && found.iter().zip(expected).all(|(found, value)| holds(found, value))
        }
        _ => found == expected,
    }
}

async fn give_feedback(cluster: &Cluster, app: usize, user: Option<&str>, number: usize) {
    let url = format!("{}/{}/update", cluster.query_url(0), name(app));
    let mut body = json!({"input": [1.0, number as f64], "label": 1.0 + number as f64});
    if POLICIES[app].contains("linucb") {
        body["context"] = json!([1.0, number as f64 / 10.0]);
    } else if let Some(user) = user {
        body["uid"] = user.into();
    }
    let request = cluster.http().post(&url).header("content-type", "application/json").body(body.to_string());
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
}

/// How many feedbacks the models of an application have in all, as management tells.
async fn feedbacks(cluster: &Cluster, app: usize, user: Option<&str>) -> f64 {
    let state = cluster.read("get_state", json!({"app_name": name(app), "uid": user})).await;
    let models = state["state"]["models"].as_array().unwrap();
    models.iter().map(|model| model["feedbacks"].as_f64().unwrap()).sum()
}

/// An archive of one file.
fn archive() -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(2);
    header.set_mode(0o644);
    archive.append_data(&mut header, "weights", &b"42"[..]).unwrap();
    archive.into_inner().unwrap()
}

/// Registers, deploys and teaches some of everything.
async fn fill(cluster: &Cluster) {
    let url = format!("{}/admin/add_artifact", cluster.admin_url());
    let upload = cluster.http().post(url).header("content-type", "application/x-tar").body(archive());
    let uploaded: Value = serde_json::from_str(&upload.send().await.unwrap().text().await.unwrap()).unwrap();
    let deployments = [
        json!({
            "model_name": "sum", "model_version": "1", "input_type": "doubles", "container_kind": "sum", "num_replicas": 2,
            "labels": ["blue", "é"], "batch_size": 7, "batching": {"strategy": "aimd", "wait_micros": 500},
            "environment": {"SECRET": "swordfish"}, "artifact": uploaded["artifact"], "timeout_seconds": 120,
        }),
        json!({
            "model_name": "sum", "model_version": "2", "input_type": "doubles", "container_kind": "sum",
            "batching": "quantile", "cache": false,
        }),
        json!({"model_name": "twin", "model_version": "1", "input_type": "doubles", "container_kind": "sum"}),
    ];
    for deployment in deployments {
        cluster.must("deploy_model", deployment).await;
    }
    cluster.must("set_model_version", json!({"model_name": "sum", "model_version": "1"})).await;
    for input_type in ["integers", "floats", "doubles", "bytes", "strings"] {
        cluster.add_model(&format!("any-{input_type}"), "1", input_type).await;
        cluster.add_app(&format!("any-{input_type}"), input_type, OBJECTIVE, true).await;
    }
    for (app, policy) in POLICIES.iter().enumerate() {
        let policy: Value = serde_json::from_str(policy).unwrap();
        let kind = if policy["policy"] == "majority_vote" { "labels" } else { "numbers" };
        let models =
            if policy["policy"] == "default_output" { json!(["sum"]) } else { json!(["sum", "twin"]) };
        let body = json!({
            "name": name(app), "input_type": "doubles", "default_output": "-1.0", "linked_models": models,
            "latency_slo_micros": u64::try_from(OBJECTIVE.as_micros()).unwrap(), "selection_policy": policy,
            "cache": app % 2 == 0, "max_concurrent_requests": app + 100, "on_overload": "refuse",
            "confidence_threshold": 0.01, "loss": {"loss": "absolute", "scale": 10}, "output_kind": kind,
            "log_decisions": false, "selection_seed": app,
        });
        cluster.must("add_app", body).await;
        for user in USERS.into_iter().filter(|_| learns(POLICIES[app])) {
            for number in 0..5 {
                give_feedback(cluster, app, user, number).await;
            }
        }
    }
}

#[tokio::test]
async fn a_data_directory_of_an_earlier_version_opens_with_all_that_was_stored_and_learns_on() {
    program::python();
    let kept = kept();
    assert!(!kept.is_empty());
    for kept in kept {
        let mut cluster = Cluster::start().await;
        cluster.main.kill();
        fs::remove_dir_all(cluster.data_dir()).unwrap();
        let packed = File::open(folder().join(format!("{kept}.tar.gz"))).unwrap();
        tar::Archive::new(GzDecoder::new(packed)).unpack(cluster.directory()).unwrap();
        cluster.main.restart().await;
        cluster.ready(0).await;
        let stored = fs::read_to_string(folder().join(format!("{kept}.json"))).unwrap();
        let stored: Vec<(String, Value, Value)> = serde_json::from_str(&stored).unwrap();
        for (path, body, expected) in stored {
            let found = answer(&cluster, &path, &body).await;
            assert!(holds(&found, &expected), "{kept}, {path} {body}: {found:#} is not {expected:#}");
        }
        // What was deployed is served, and what was learned is learned on.
        assert_eq!(cluster.served(0, "app-0", json!({"input": [1, 2]})).await["output"], 3.0, "{kept}");
        for user in [None, Some("ann")] {
            let before = feedbacks(&cluster, 1, user).await;
            assert!(before > 0.0, "{kept}");
            give_feedback(&cluster, 1, user, 9).await;
            eventually("further feedback is stored", async || feedbacks(&cluster, 1, user).await > before)
                .await;
        }
        cluster.must("add_app", json!({
            "name": "later", "input_type": "doubles", "default_output": "", "latency_slo_micros": 1000,
        })).await;
        cluster.main.kill();
        cluster.main.restart().await;
        let apps = cluster.read("get_all_applications", json!({"verbose": false})).await;
        assert!(apps.as_array().unwrap().contains(&"later".into()), "{kept}: {apps}");
    }
}

#[tokio::test]
#[ignore = "writes the data directory of today's version into the repository"]
async fn keep_a_data_directory() {
    program::python();
    let name = std::env::var("NAME").unwrap();
    let mut cluster = Cluster::start().await;
    fill(&cluster).await;
    let learning = POLICIES.iter().enumerate().filter(|(_, policy)| learns(policy));
    for (app, policy) in learning {
        let shared = if policy.contains("linucb") { USERS.len() * 5 } else { 5 };
        eventually("the feedback is stored", async || feedbacks(&cluster, app, None).await >= shared as f64)
            .await;
    }
    let mut stored = Vec::new();
    for (path, body) in calls() {
        let answer = answer(&cluster, path, &body).await;
        stored.push(json!([path, body, answer]));
    }
    cluster.main.kill();
    for path in LEFT_OUT.map(|name| cluster.data_dir().join(name)) {
        if path.is_dir() {
            fs::remove_dir_all(path).unwrap();
        } else if path.exists() {
            fs::remove_file(path).unwrap();
        }
    }
    fs::create_dir_all(folder()).unwrap();
    let file = File::create_new(folder().join(format!("{name}.tar.gz"))).unwrap();
    let mut archive = tar::Builder::new(GzEncoder::new(file, Compression::best()));
    archive.append_dir_all("data", cluster.data_dir()).unwrap();
    archive.into_inner().unwrap().finish().unwrap();
    fs::write(folder().join(format!("{name}.json")), serde_json::to_string_pretty(&stored).unwrap() + "\n")
        .unwrap();
}
