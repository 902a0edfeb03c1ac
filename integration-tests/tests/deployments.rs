//! Deployments: what is run, what is said when it cannot be, and what a replica prints.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::time::{Duration, Instant};

use clipper_integration_tests::{Cluster, eventually, program};
use serde_json::{Value, json};

const OBJECTIVE: Duration = Duration::from_secs(20);

/// Deploys version 1 of `m` as a command that must fail; why it did.
async fn refused(cluster: &Cluster, command: Value, timeout_seconds: u32) -> String {
    let body = json!({
        "model_name": "m", "model_version": "1", "input_type": "doubles",
        "command": command, "timeout_seconds": timeout_seconds,
    });
    let cause = cluster.admin("deploy_model", body).await.refusal(400, "Request error");
    assert_eq!(cluster.read("get_all_models", json!({})).await, json!([]), "{cause}");
    assert_eq!(cluster.read("get_deployments", json!({})).await, json!([]), "{cause}");
    eventually("nothing is left of it", async || cluster.offspring().is_empty()).await;
    cause
}

#[tokio::test]
async fn a_deployment_that_cannot_run_says_why_and_leaves_nothing() {
    let cluster = Cluster::start().await;
    let cause = refused(&cluster, json!(["/nowhere/server"]), 20).await;
    assert!(cause.contains("/nowhere/server"), "{cause}");

    let script = "echo loading the model; echo 'no such file: weights.bin' >&2; exit 3";
    let cause = refused(&cluster, json!(["sh", "-c", script]), 20).await;
    assert!(cause.contains("loading the model") && cause.contains("no such file: weights.bin"), "{cause}");

    let started = Instant::now();
    let cause = refused(&cluster, json!(["sh", "-c", "echo waiting; exec sleep 1000"]), 2).await;
    assert!(started.elapsed() >= Duration::from_secs(2) && started.elapsed() < Duration::from_secs(20));
    assert!(cause.contains("waiting"), "{cause}");

    // And the model can be deployed after all.
    cluster.deploy("sum", "m", "1", "doubles", 1).await;
}

#[tokio::test]
async fn the_container_kinds_run_with_the_python_of_the_cluster() {
    program::python();
    let cluster = Cluster::start().await;
    for (kind, output) in [("noop", 0.0), ("sum", 3.0)] {
        let body = json!({"model_name": kind, "model_version": "1", "input_type": "doubles", "container_kind": kind});
        let said = cluster.must("deploy_model", body).await;
        assert_eq!(
            said,
            format!("Successfully deployed model with name '{kind}' and version '1' with 1 replica")
        );
        cluster.add_app(kind, "doubles", OBJECTIVE, true).await;
        let answer = cluster.predict(kind, json!({"input": [1, 2]})).await;
        assert_eq!(answer["output"].as_f64(), Some(output), "{answer}");
    }
}

/// Writes an archive of a Python function that adds one to the sum of an input to standard output.
const CLOSURE: &str = "
import sys, tarfile, tempfile
import numpy as np
from clipper_container import closure
one = 1
def function(xs):
    return [float(np.sum(x)) + one for x in xs]
with tempfile.TemporaryDirectory() as folder:
    closure.save(function, folder)
    with tarfile.open(fileobj=sys.stdout.buffer, mode='w|') as archive:
        archive.add(folder, '.')
";

#[tokio::test]
async fn a_python_function_is_uploaded_deployed_and_survives_its_cluster() {
    let mut cluster = Cluster::start().await;
    let archive = program::isolated(program::python()).args(["-c", CLOSURE]).output().unwrap();
    assert!(archive.status.success(), "{}", String::from_utf8_lossy(&archive.stderr));
    let upload = cluster.http().post(format!("{}/admin/add_artifact", cluster.admin_url()));
    let stored =
        upload.header("content-type", "application/x-tar").body(archive.stdout).send().await.unwrap();
    let stored: Value = serde_json::from_str(&stored.text().await.unwrap()).unwrap();
    let body = json!({
        "model_name": "m", "model_version": "1", "input_type": "doubles",
        "container_kind": "python-closure", "artifact": stored["artifact"],
    });
    cluster.must("deploy_model", body).await;
    cluster.add_app("m", "doubles", OBJECTIVE, true).await;
    assert_eq!(cluster.predict("m", json!({"input": [1, 2]})).await["output"], 4.0);
    cluster.main.kill();
    cluster.main.restart().await;
    cluster.ready(0).await;
    assert_eq!(cluster.served(0, "m", json!({"input": [3]})).await["output"], 4.0);
}

#[tokio::test]
async fn what_a_replica_prints_can_be_read() {
    let cluster = Cluster::start().await;
    let script = format!("echo \"I am $WHO\"; echo oops >&2; exec {}", program::example("sum").display());
    let body = json!({
        "model_name": "m", "model_version": "1", "input_type": "doubles", "num_replicas": 2,
        "command": ["sh", "-c", script], "environment": {"WHO": "the model"},
    });
    cluster.must("deploy_model", body).await;
    let logs = cluster.read("get_replica_logs", json!({"model_name": "m"})).await;
    for replica in ["m:1:0", "m:1:1"] {
        let lines = logs[replica].as_array().unwrap_or_else(|| panic!("{logs}"));
        assert!(lines.contains(&json!("I am the model")) && lines.contains(&json!("oops")), "{logs}");
    }
    let one = cluster.read("get_replica_logs", json!({"model_name": "m", "replica_id": 1, "lines": 1})).await;
    assert_eq!(one.as_object().unwrap().len(), 1, "{one}");
    assert_eq!(one["m:1:1"].as_array().unwrap().len(), 1, "{one}");
    let cause = cluster.admin("get_replica_logs", json!({"model_name": "m", "replica_id": 7})).await;
    cause.refusal(400, "Request error");
}

#[tokio::test]
async fn stopped_models_end_their_processes_and_can_be_started_again() {
    let cluster = Cluster::start().await;
    cluster.deploy("sum", "m", "1", "doubles", 2).await;
    cluster.deploy("sum", "n", "1", "doubles", 1).await;
    cluster.add_app("m", "doubles", OBJECTIVE, true).await;
    assert_eq!(cluster.must("stop_models", json!({"model_names": ["m"]})).await, "Stopped 1 deployment");
    cluster.connected("m", 0).await;
    let answer = cluster.predict("m", json!({"input": [1]})).await;
    assert_eq!(answer["default_reason"], "no_connected_replicas", "{answer}");
    assert_eq!(cluster.must("stop_models", json!({"model_names": ["m"]})).await, "Stopped 0 deployments");
    let cause =
        cluster.admin("stop_models", json!({"model_names": ["x"]})).await.refusal(400, "Request error");
    assert_eq!(cause, "No deployment of model with name 'x' exists.");
    cluster.must("set_num_replicas", json!({"model_name": "m", "num_replicas": 1})).await;
    assert_eq!(cluster.predict("m", json!({"input": [1, 2]})).await["output"], 3.0);
    assert_eq!(cluster.must("stop_all_models", json!({})).await, "Stopped 2 deployments");
    eventually("every process has ended", async || cluster.offspring().is_empty()).await;
    assert_eq!(cluster.read("get_all_models", json!({})).await, json!(["m:1", "n:1"]));
}

#[tokio::test]
async fn a_replica_that_was_ready_is_tried_again_until_its_trouble_has_passed() {
    let cluster = Cluster::start().await;
    let flag = cluster.directory().join("broken");
    let script = format!(
        "test -e {} && echo 'the disk is gone' && exit 1; exec {}",
        flag.display(),
        program::example("sum").display()
    );
    let body = json!({
        "model_name": "m", "model_version": "1", "input_type": "doubles", "command": ["sh", "-c", script],
    });
    cluster.must("deploy_model", body).await;
    std::fs::write(&flag, "").unwrap();
    kill_replica(&cluster).await;
    eventually("it has failed more often than a new one may", async || {
        let replica = &cluster.read("get_deployments", json!({})).await[0]["replicas"][0];
        let words = replica["last_lines"].to_string();
        replica["restarts"].as_u64() > Some(5) && words.contains("the disk is gone")
    })
    .await;
    std::fs::remove_file(&flag).unwrap();
    cluster.connected("m", 1).await;
}

async fn kill_replica(cluster: &Cluster) {
    let deployments = cluster.read("get_deployments", json!({})).await;
    let pid = deployments[0]["replicas"][0]["pid"].as_i64().unwrap_or_else(|| panic!("{deployments}"));
    let pid = nix::unistd::Pid::from_raw(pid.try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
}
