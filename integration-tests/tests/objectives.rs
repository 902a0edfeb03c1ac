//! Latency objectives of every kind, and models that do not keep to them.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::time::{Duration, Instant};

use clipper_integration_tests::{Automaton, Cluster, Load, eventually};
use serde_json::json;

/// What no answer to an objective of a millisecond may take, however busy the machine.
const PROMPT: Duration = Duration::from_secs(10);

#[tokio::test]
async fn an_objective_of_a_millisecond_is_answered_promptly_by_whatever_there_is() {
    let cluster = Cluster::start().await;
    cluster.serve("m", "doubles", Duration::from_millis(1)).await;
    let container = Automaton::serve(&cluster, "m").await;
    for hold in [false, true] {
        if hold {
            container.hold();
        }
        for number in 0..50 {
            let started = Instant::now();
            let answer = cluster.predict("m", json!({"input": [number]})).await;
            assert!(started.elapsed() < PROMPT, "{:?}", started.elapsed());
            if answer["default"] == true {
                assert_eq!(answer["default_reason"], "deadline", "{answer}");
            } else {
                assert_eq!(answer["output"], f64::from(number), "{answer}");
            }
        }
    }
    // Nothing is left of them.
    container.answer_after(Duration::ZERO);
    cluster.waiting("m", 0).await;
    cluster.measures("clipper_application_in_flight_requests{application=\"m\"}", 0.0).await;
    cluster.connected("m", 1).await;
}

#[tokio::test]
async fn an_objective_of_a_microsecond_asks_nobody_in_vain_for_long() {
    let cluster = Cluster::start().await;
    cluster.serve("m", "doubles", Duration::from_secs(20)).await;
    let _container = Automaton::serve(&cluster, "m").await;
    let hasty = json!({"input_batch": [[1], [2]], "latency_slo_micros": 1});
    let started = Instant::now();
    let answer = cluster.predict("m", hasty).await;
    assert!(started.elapsed() < PROMPT, "{:?}", started.elapsed());
    assert_eq!(answer["batch_predictions"][1]["default_reason"], "deadline", "{answer}");
    let answer = cluster.predict("m", json!({"input": [1]})).await;
    assert_eq!(answer["output"], 1.0, "others have all their time: {answer}");
}

#[tokio::test]
async fn an_objective_of_ten_minutes_is_as_good_as_any() {
    let cluster = Cluster::start().await;
    cluster.serve("m", "doubles", Duration::from_secs(600)).await;
    let container = Automaton::serve(&cluster, "m").await;
    let answer = cluster.predict("m", json!({"input_batch": [[1], [2], [3]]})).await;
    assert_eq!(answer["batch_predictions"][2]["output"], 3.0, "{answer}");
    // A request may have less, and never more.
    container.hold();
    let body = json!({"input": [1], "latency_slo_micros": 100_000});
    assert_eq!(cluster.predict("m", body).await["default_reason"], "deadline");
}

#[tokio::test]
async fn a_model_that_was_too_slow_for_a_while_is_used_again_once_it_is_fast() {
    let cluster = Cluster::start().await;
    cluster.serve("m", "doubles", Duration::from_millis(500)).await;
    let container = Automaton::serve(&cluster, "m").await;
    let load = Load::start(&cluster, 0, "m", &json!({"input": [1]}), 2);
    load.answered(20).await;

    container.answer_after(Duration::from_secs(1));
    let batches = container.batches().len();
    eventually("several batches were too slow", async || container.batches().len() > batches + 4).await;
    let given_up = "clipper_model_given_up_queries_total{model=\"m\",version=\"1\"}";
    eventually("it is believed to be slow", async || {
        cluster.metric(0, given_up).await.is_some_and(|queries| queries > 0.0)
    })
    .await;

    container.answer_after(Duration::ZERO);
    load.answered(100).await;
    let outcomes = load.finish().await;
    assert!(outcomes.errors.is_empty(), "{:?}", outcomes.errors);
    assert_eq!(outcomes.defaults.keys().collect::<Vec<_>>(), ["deadline"]);
    cluster.connected("m", 1).await;
}
