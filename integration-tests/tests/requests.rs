//! What a prediction request may say besides its input, and what an answer may hold.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::collections::HashSet;
use std::time::{Duration, Instant};

use clipper_integration_tests::container::Serves;
use clipper_integration_tests::{Cluster, Container};
use serde_json::{Value, json};

const OBJECTIVE: Duration = Duration::from_secs(20);

fn doubles(model: &str) -> Serves<'_> {
    Serves { model, version: "1", input_type: "doubles" }
}

#[tokio::test]
async fn a_version_can_be_pinned() {
    let cluster = Cluster::start().await;
    cluster.deploy("sum", "m", "1", "doubles", 1).await;
    cluster.deploy("noop", "m", "2", "doubles", 1).await;
    cluster.add_app("m", "doubles", OBJECTIVE, true).await;

    assert_eq!(cluster.predict("m", json!({"input": [1, 2]})).await["output"], 0.0);
    for version in [json!("1"), json!(1)] {
        let answer = cluster.predict("m", json!({"input": [1, 2], "version": version})).await;
        assert_eq!(answer["output"], 3.0, "{answer}");
    }
    let pinned = cluster.predict("m", json!({"input_batch": [[1], [2, 3]], "version": "1"})).await;
    assert_eq!(pinned["batch_predictions"][1]["output"], 5.0, "{pinned}");

    let unknown = cluster.ask(0, "m", json!({"input": [1], "version": "7"})).await;
    let cause = unknown.refusal(400, "Query processing error");
    assert_eq!(cause, "model 'm' has no version '7'; it has: 1, 2");
}

#[tokio::test]
async fn a_pinned_version_of_an_application_without_a_model_is_refused() {
    let cluster = Cluster::start().await;
    cluster.add_app("alone", "doubles", OBJECTIVE, false).await;
    let answer = cluster.ask(0, "alone", json!({"input": [1], "version": "1"})).await;
    let cause = answer.refusal(400, "Query processing error");
    assert_eq!(cause, "'version' cannot be given: no model is linked to application 'alone'");
    assert_eq!(cluster.predict("alone", json!({"input": [1]})).await["default_reason"], "no_linked_models");
}

#[tokio::test]
async fn a_user_and_a_context_are_accepted_and_a_batch_may_be_empty() {
    let cluster = Cluster::start().await;
    cluster.deploy("sum", "m", "1", "doubles", 1).await;
    cluster.add_app("m", "doubles", OBJECTIVE, true).await;
    for uid in [json!(0), json!(17), json!(-3), json!("anna")] {
        let answer = cluster.predict("m", json!({"input": [1, 2], "uid": uid, "context": [0.5]})).await;
        assert_eq!(answer["output"], 3.0, "{answer}");
    }
    assert_eq!(cluster.predict("m", json!({"input_batch": []})).await, json!({"batch_predictions": []}));
}

#[tokio::test]
async fn a_large_batch_is_answered_in_order_with_an_id_each() {
    let cluster = Cluster::start().await;
    cluster.deploy("sum", "m", "1", "doubles", 2).await;
    cluster.add_app("m", "doubles", OBJECTIVE, true).await;
    let inputs: Vec<_> = (0..1000).map(|number| vec![f64::from(number); 3]).collect();
    let answer = cluster.predict("m", json!({"input_batch": inputs})).await;
    let answers = answer["batch_predictions"].as_array().unwrap();
    let ids: HashSet<_> = answers.iter().map(|answer| answer["query_id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), 1000);
    for (number, answer) in (0..).zip(answers) {
        assert_eq!(answer["output"], f64::from(3 * number), "{answer}");
    }
}

#[tokio::test]
async fn a_request_may_tighten_the_objective_and_not_widen_it() {
    let cluster = Cluster::start().await;
    cluster.serve("m", "doubles", OBJECTIVE).await;
    cluster.add_app("hasty", "doubles", Duration::from_millis(50), false).await;
    cluster.must("add_model_links", json!({"app_name": "hasty", "model_names": ["m"]})).await;
    let _container = Container::python("served:slow_sum", &cluster, doubles("m"));
    cluster.served(0, "m", json!({"input": [0, 1]})).await;

    let started = Instant::now();
    let answer = cluster.predict("m", json!({"input": [5, 1], "latency_slo_micros": 50_000})).await;
    assert_eq!(answer["default_reason"], "deadline", "{answer}");
    assert!(started.elapsed() < OBJECTIVE / 2);
    let answer = cluster.predict("hasty", json!({"input": [5, 1], "latency_slo_micros": 20_000_000})).await;
    assert_eq!(answer["default_reason"], "deadline", "{answer}");
    let explanation = answer["default_explanation"].as_str().unwrap();
    // On a busy machine the query may be given up already before its deadline.
    let reasons = ["latency objective of 50ms", "an answer would come too late"];
    assert!(reasons.iter().any(|reason| explanation.contains(reason)), "{explanation}");
}

/// A served function of the tests' Python models, with a request and the output that is expected.
async fn python_answers(function: &str, input_type: &str, cases: &[(Value, Value)]) {
    let cluster = Cluster::start().await;
    cluster.serve("m", input_type, OBJECTIVE).await;
    let serves = Serves { model: "m", version: "1", input_type };
    let _container = Container::python(&format!("served:{function}"), &cluster, serves);
    for (input, output) in cases {
        let answer = cluster.served(0, "m", json!({"input": input})).await;
        assert_eq!(&answer["output"], output, "{answer}");
    }
}

#[tokio::test]
async fn outputs_that_are_json_are_nested() {
    let output = json!({"length": 2, "elements": [1.5, 2.0], "nested": {"none": null, "true": true}});
    python_answers("described", "doubles", &[(json!([1.5, 2]), output)]).await;
}

#[tokio::test]
async fn outputs_that_are_text_become_strings_unless_they_are_json() {
    let cases = [
        (json!("a \"quoted\" é\n"), json!("A \"QUOTED\" É\n")),
        (json!("[1, 2]"), json!([1, 2])),
        (json!(""), json!("")),
    ];
    python_answers("shouted", "strings", &cases).await;
}

#[tokio::test]
async fn outputs_that_are_bytes_become_base64() {
    python_answers("backwards", "bytes", &[(json!("AAEC/w=="), json!("/wIBAA==")), (json!(""), json!(""))])
        .await;
}

#[tokio::test]
async fn outputs_that_are_vectors_become_lists() {
    let cases = [(json!([1, -2, 3]), json!([2, -4, 6])), (json!([]), json!([]))];
    python_answers("doubled", "ints", &cases).await;
    python_answers("doubled", "floats", &[(json!([0.5, 1]), json!([1.0, 2.0]))]).await;
}
