//! Models that change under load: no request fails, and none gets the default output.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::time::Duration;

use clipper_integration_tests::{Cluster, Load, eventually, program};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

const OBJECTIVE: Duration = Duration::from_secs(20);

/// A cluster under load that serves version 1 of `m`: the sum, which is 3.
async fn loaded_cluster(replicas: u32) -> (Cluster, Load) {
    let cluster = Cluster::start().await;
    cluster.deploy("sum", "m", "1", "doubles", replicas).await;
    cluster.add_app("m", "doubles", OBJECTIVE, true).await;
    let load = Load::start(&cluster, 0, "m", &json!({"input": [1, 2]}), 4);
    load.answered_with("3.0").await;
    (cluster, load)
}

#[tokio::test]
async fn a_version_is_rolled_forward_and_back() {
    let (cluster, load) = loaded_cluster(1).await;
    cluster.deploy("noop", "m", "2", "doubles", 1).await;
    assert_eq!(cluster.predict("m", json!({"input": [1, 2]})).await["output"], 0.0);
    load.answered_with("0.0").await;
    for (version, output) in [("1", 3.0), ("2", 0.0), ("1", 3.0)] {
        load.answered(30).await;
        cluster.must("set_model_version", json!({"model_name": "m", "model_version": version})).await;
        let answer = cluster.predict("m", json!({"input": [1, 2]})).await;
        assert_eq!(answer["output"], output, "version {version}: {answer}");
    }
    load.answered(30).await;
    let stopped = cluster.must("stop_inactive_model_versions", json!({"model_names": ["m"]})).await;
    assert_eq!(stopped, "Stopped 1 deployment");
    load.answered(30).await;
    load.finish().await.assert_flawless();
}

#[tokio::test]
async fn versions_follow_each_other_and_old_ones_are_stopped() {
    let (cluster, load) = loaded_cluster(1).await;
    for version in 2..6 {
        let example = if version % 2 == 0 { "noop" } else { "sum" };
        cluster.deploy(example, "m", &version.to_string(), "doubles", 1).await;
        cluster.must("stop_inactive_model_versions", json!({"model_names": ["m"]})).await;
        load.answered(20).await;
    }
    load.finish().await.assert_flawless();
    eventually("the old versions have left", async || cluster.containers().await == ["m:5:0"]).await;
}

#[tokio::test]
async fn replicas_are_added_and_removed() {
    let (cluster, load) = loaded_cluster(1).await;
    for replicas in [3, 1, 2, 1] {
        let said =
            cluster.must("set_num_replicas", json!({"model_name": "m", "num_replicas": replicas})).await;
        let expected = format!("replicas of model with name 'm' and version '1' to {replicas}");
        assert!(said.ends_with(&expected), "{said}");
        cluster.connected("m", replicas).await;
        load.answered(50).await;
    }
    load.finish().await.assert_flawless();
}

#[tokio::test]
async fn a_replica_that_is_killed_is_started_again() {
    let (cluster, load) = loaded_cluster(2).await;
    for round in 1..=2 {
        let before = cluster.read("get_deployments", json!({})).await;
        let pid = before[0]["replicas"][0]["pid"].as_i64().unwrap_or_else(|| panic!("{before}"));
        kill(Pid::from_raw(pid.try_into().unwrap()), Signal::SIGKILL).unwrap();
        eventually("the replica is ready again", async || {
            let replica = &cluster.read("get_deployments", json!({})).await[0]["replicas"][0];
            replica["restarts"] == round && replica["state"] == "ready"
        })
        .await;
        cluster.connected("m", 2).await;
        load.answered(30).await;
    }
    load.finish().await.assert_flawless();
}

#[tokio::test]
async fn a_failed_deployment_disturbs_nobody() {
    let (cluster, load) = loaded_cluster(1).await;
    let body = json!({
        "model_name": "m", "model_version": "2", "input_type": "doubles", "command": ["false"], "timeout_seconds": 20,
    });
    cluster.admin("deploy_model", body).await.refusal(400, "Request error");
    let body = json!({
        "model_name": "m", "model_version": "2", "input_type": "ints", "command": [program::example("noop")],
    });
    let cause = cluster.admin("deploy_model", body).await.refusal(400, "Request error");
    assert!(
        cause.starts_with("Model with name 'm' is already linked to app 'm' using input type 'doubles'"),
        "{cause}"
    );
    load.answered(30).await;
    let outcomes = load.finish().await;
    outcomes.assert_flawless();
    assert_eq!(outcomes.outputs.len(), 1, "{:?}", outcomes.outputs);
    assert_eq!(cluster.read("get_all_models", json!({})).await, json!(["m:1"]));
}

#[tokio::test]
async fn a_deleted_version_answers_what_waits_for_it_before_it_is_stopped() {
    let cluster = Cluster::start_with(&["--max-batch-size", "1"]).await;
    cluster.add_app("m", "doubles", OBJECTIVE, true).await;
    let diary = cluster.directory().join("diary");
    let body = json!({
        "model_name": "m", "model_version": "1", "input_type": "doubles",
        "command": [program::python(), "-m", "clipper_container", "served:slow_sum"],
        "environment": {"PYTHONPATH": program::python_models(), "MODEL_DIARY": &diary},
    });
    cluster.must("deploy_model", body).await;
    let backlog = cluster.predict("m", json!({"input_batch": vec![[0.1, 1.0]; 10]}));
    let (answer, ()) = tokio::join!(backlog, async {
        eventually("it computes", async || diary.exists()).await;
        cluster.deploy("sum", "m", "2", "doubles", 1).await;
        cluster.must("delete_versioned_model", json!({"model_name": "m", "model_version": "1"})).await;
    });
    let outputs = answer["batch_predictions"].as_array().unwrap();
    assert!(outputs.iter().all(|prediction| prediction["output"] == 1.0), "{answer}");
    assert_eq!(outputs.len(), 10);
    assert_eq!(cluster.read("get_all_models", json!({})).await, json!(["m:2"]));
}
