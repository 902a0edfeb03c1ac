//! A backup of the data directory is put back while frontends run that know what came after it.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use clipper_integration_tests::{Automaton, Cluster, RawContainer, eventually};
use serde_json::{Value, json};

const OBJECTIVE: Duration = Duration::from_secs(20);

/// Stops management, keeps a copy of its data directory, and starts it again.
async fn back_up(cluster: &mut Cluster) {
    cluster.main.terminate().await;
    copy(cluster.data_dir(), backup_of(cluster));
    cluster.main.restart().await;
    eventually("the frontend follows again", async || {
        cluster.read("get_frontends", json!({})).await == json!([cluster.query_address(0)])
    })
    .await;
}

/// Stops management, puts the copy in the place of its data directory, and starts it again.
async fn restore(cluster: &mut Cluster) {
    cluster.main.terminate().await;
    std::fs::remove_dir_all(cluster.data_dir()).unwrap();
    copy(backup_of(cluster), cluster.data_dir());
    cluster.main.restart().await;
}

fn backup_of(cluster: &Cluster) -> PathBuf {
    cluster.directory().join("backup")
}

fn copy(from: PathBuf, to: PathBuf) {
    assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
}

async fn status(cluster: &Cluster, app: &str) -> u16 {
    cluster.ask(0, app, json!({"input": [1]})).await.status
}

/// Registers version 1 of a model, whose outputs are kept in the cache.
async fn add_cached_model(cluster: &Cluster, model: &str) {
    let body = json!({"model_name": model, "model_version": "1", "input_type": "doubles"});
    cluster.must("add_model", body).await;
}

/// A container of version 1 of a model, which adds a number to the sum of each input.
async fn container(cluster: &Cluster, model: &str, addend: f64) -> Automaton {
    let container = Automaton::register(cluster, 0, RawContainer::registration(model)).await;
    container.add(addend);
    container
}

async fn answer(cluster: &Cluster, app: &str) -> Value {
    cluster.predict(app, json!({"input": [1]})).await
}

/// Makes as many changes that leave everything as it is, so that revisions of one history stand for other states in
/// the other.
async fn pass_revisions(cluster: &Cluster, count: usize) {
    for _ in 0..count {
        let body =
            json!({"name": "kept", "latency_slo_micros": u64::try_from(OBJECTIVE.as_micros()).unwrap()});
        cluster.must("update_app", body).await;
    }
}

#[tokio::test]
async fn a_running_frontend_serves_exactly_what_a_restored_backup_holds() {
    let mut cluster = Cluster::split(1).await;
    for app in ["kept", "deleted"] {
        cluster.add_app(app, "doubles", OBJECTIVE, false).await;
    }
    back_up(&mut cluster).await;
    cluster.must("delete_app", json!({"name": "deleted"})).await;
    cluster.add_app("lost", "doubles", OBJECTIVE, false).await;
    assert_eq!([status(&cluster, "deleted").await, status(&cluster, "lost").await], [404, 200]);

    restore(&mut cluster).await;
    // As many changes as were lost: by their revisions alone, both histories are the same.
    pass_revisions(&cluster, 2).await;
    eventually("the frontend serves the restored catalog", async || {
        [status(&cluster, "kept").await, status(&cluster, "deleted").await, status(&cluster, "lost").await]
            == [200, 200, 404]
    })
    .await;
    cluster.add_app("later", "doubles", OBJECTIVE, false).await;
    assert_eq!(status(&cluster, "later").await, 200);
}

#[tokio::test]
async fn a_version_of_a_lost_history_answers_no_more_neither_by_its_container_nor_from_the_cache() {
    let mut cluster = Cluster::split(1).await;
    cluster.add_app("m", "doubles", OBJECTIVE, true).await;
    cluster.add_app("kept", "doubles", OBJECTIVE, false).await;
    back_up(&mut cluster).await;
    add_cached_model(&cluster, "m").await;
    let _lost = container(&cluster, "m", 100.0).await;
    assert_eq!(answer(&cluster, "m").await["output"], 101.0);

    restore(&mut cluster).await;
    // Registered at the same revision as in the lost history.
    add_cached_model(&cluster, "m").await;
    eventually("the container of the lost version is sent away", async || {
        answer(&cluster, "m").await["default_reason"] == "no_connected_replicas"
    })
    .await;
    let _container = container(&cluster, "m", 200.0).await;
    assert_eq!(answer(&cluster, "m").await["output"], 201.0);
}

#[tokio::test]
async fn a_version_that_a_restored_backup_holds_goes_on_with_its_containers() {
    let mut cluster = Cluster::split(1).await;
    add_cached_model(&cluster, "m").await;
    cluster.add_app("m", "doubles", OBJECTIVE, true).await;
    let container = container(&cluster, "m", 100.0).await;
    back_up(&mut cluster).await;
    cluster.add_app("lost", "doubles", OBJECTIVE, false).await;
    restore(&mut cluster).await;
    eventually("the frontend serves the restored catalog", async || status(&cluster, "lost").await == 404)
        .await;
    assert_eq!(answer(&cluster, "m").await["output"], 101.0);
    assert_eq!(container.batches().len(), 1);
}

/// Feedback of a user on the answer to a query.
async fn teach(cluster: &Cluster) {
    let predicted = cluster.predict("app", json!({"input": [1], "uid": "ann"})).await;
    let url = format!("{}/app/feedback", cluster.query_url(0));
    let body = json!({"query_id": predicted["query_id"], "label": 101});
    let answer = cluster.http().post(url).json(&body).send().await.unwrap();
    assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
}

/// Feedback that management has stored of each model.
async fn stored(cluster: &Cluster) -> Vec<f64> {
    let state = cluster.read("get_state", json!({"app_name": "app", "uid": "ann"})).await;
    let models = state["state"]["models"].as_array().cloned().unwrap_or_default();
    models.iter().map(|model| model["feedbacks"].as_f64().unwrap()).collect()
}

#[tokio::test]
async fn learning_goes_on_from_what_a_restored_backup_holds() {
    let mut cluster = Cluster::split(1).await;
    let mut containers = Vec::new();
    for (model, addend) in [("a", 100.0), ("b", 200.0)] {
        add_cached_model(&cluster, model).await;
        containers.push(container(&cluster, model, addend).await);
    }
    let app = json!({
        "name": "app", "input_type": "doubles", "default_output": "-1.0", "linked_models": ["a", "b"],
        "latency_slo_micros": u64::try_from(OBJECTIVE.as_micros()).unwrap(), "selection_policy": "exp4",
    });
    cluster.must("add_app", app).await;
    for _ in 0..3 {
        teach(&cluster).await;
    }
    eventually("three feedbacks are stored", async || stored(&cluster).await == [3.0; 2]).await;
    back_up(&mut cluster).await;
    for _ in 0..4 {
        teach(&cluster).await;
    }
    eventually("seven feedbacks are stored", async || stored(&cluster).await == [7.0; 2]).await;

    restore(&mut cluster).await;
    assert_eq!(stored(&cluster).await, [3.0; 2]);
    for _ in 0..2 {
        teach(&cluster).await;
    }
    eventually("two more feedbacks are stored, each once", async || stored(&cluster).await == [5.0; 2]).await;
}
