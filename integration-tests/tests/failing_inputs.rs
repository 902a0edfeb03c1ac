//! Inputs that a model fails, ends or hangs on, in batches that they share with those of other clients.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::collections::BTreeSet;
use std::time::Duration;

use clipper_integration_tests::container::Serves;
use clipper_integration_tests::{Cluster, Container, Load, eventually};
use futures_util::future::join_all;
use serde_json::{Value, json};

/// What `served:brittle` does with an input.
const RAISES: u32 = 1;
const ENDS: u32 = 2;
const HANGS: u32 = 3;

const M: Serves<'_> = Serves { model: "m", version: "1", input_type: "doubles" };

/// A cluster with so many containers of `served:brittle`, which have answered before.
async fn brittle(containers: usize, objective: Duration) -> (Cluster, Vec<Container>) {
    let cluster = Cluster::start().await;
    cluster.serve_batches_of(64, "m", "doubles", objective).await;
    let containers: Vec<_> =
        (0..containers).map(|_| Container::python("served:brittle", &cluster, M)).collect();
    cluster.connected("m", containers.len()).await;
    let load = Load::start(&cluster, 0, "m", &json!({"input": [0, 1]}), 4);
    load.answered(40).await;
    load.finish().await.assert_flawless();
    (cluster, containers)
}

/// As many inputs, numbered, of which one is of that kind.
fn inputs(count: u32, kind: u32, of_that_kind: u32) -> Vec<Value> {
    (0..count).map(|number| json!([if number == of_that_kind { kind } else { 0 }, number])).collect()
}

/// The numbers of the inputs that were not answered with their own number.
fn unanswered(answer: &Value) -> Vec<usize> {
    let answers = answer["batch_predictions"].as_array().unwrap_or_else(|| panic!("{answer}"));
    let is_right = |(number, one): &(usize, &Value)| one["output"] == *number as f64;
    answers.iter().enumerate().filter(|one| !is_right(one)).map(|(number, _)| number).collect()
}

#[tokio::test]
async fn a_bad_input_fails_alone_and_no_other_client_reads_of_it() {
    let (cluster, containers) = brittle(1, Duration::from_secs(20)).await;
    let bad: BTreeSet<_> = [4_711_003, 4_711_017, 4_711_018, 4_711_060].into();
    // While the first is computed, the others come together.
    let clients = (4_711_000..4_711_064).map(async |number| {
        let kind = if bad.contains(&number) { RAISES } else { 0 };
        (number, cluster.predict("m", json!({"input": [kind, number]})).await)
    });
    for (number, answer) in join_all(clients).await {
        if bad.contains(&number) {
            assert_eq!(answer["default_reason"], "container_error", "{answer}");
            let explanation = answer["default_explanation"].as_str().unwrap();
            assert!(explanation.contains(&format!("cannot read {number}")), "{answer}");
        } else {
            assert_eq!(answer["output"], f64::from(number), "{answer}");
        }
    }
    let log = containers[0].log();
    assert!(log.contains("Traceback") && log.contains("cannot read 4711003"), "{log}");
    let failed = "clipper_replica_failed_batches_total{model=\"m\",version=\"1\",replica=\"0\"}";
    let failed = cluster.metric(0, failed).await.unwrap();
    assert!(failed > 4.0, "they shared batches with others: {failed}");
}

#[tokio::test]
async fn an_input_that_ends_its_container_costs_few_of_them_and_its_neighbours_nothing() {
    let (cluster, _containers) = brittle(5, Duration::from_secs(20)).await;
    let answer = cluster.predict("m", json!({"input_batch": inputs(40, ENDS, 7)})).await;
    assert_eq!(unanswered(&answer), [7], "{answer}");
    assert_eq!(answer["batch_predictions"][7]["default_reason"], "container_error", "{answer}");
    eventually("three are lost at most", async || (2..=3).contains(&cluster.containers().await.len())).await;
    let answer = cluster.predict("m", json!({"input": [0, 5]})).await;
    assert_eq!(answer["output"], 5.0, "{answer}");
}

#[tokio::test]
async fn an_input_that_hangs_its_container_hangs_two_at_most_and_its_neighbours_are_answered() {
    let (cluster, _containers) = brittle(3, Duration::from_secs(4)).await;
    let answer = cluster.predict("m", json!({"input_batch": inputs(8, HANGS, 3)})).await;
    assert_eq!(unanswered(&answer), [3], "{answer}");
    assert_eq!(answer["batch_predictions"][3]["default_reason"], "deadline", "{answer}");
    let load = Load::start(&cluster, 0, "m", &json!({"input": [0, 5]}), 4);
    load.answered(50).await;
    load.finish().await.assert_flawless();
}
