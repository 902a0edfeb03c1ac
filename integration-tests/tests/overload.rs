//! Far more queries than a model can answer.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::time::Duration;

use clipper_integration_tests::{Automaton, Cluster, Load, Outcomes, eventually};
use serde_json::json;

/// How many clients ask at once: so many that a model of 20 ms a batch cannot answer a tenth of them in time.
const CLIENTS: usize = 64;

/// Clients ask an overloaded model `m` until it has answered `enough`, while others ask model `calm`; what became of the first.
async fn overload(flags: &[&str], batch_size: u32, objective: Duration, enough: u64) -> Outcomes {
    let cluster = Cluster::start_with(flags).await;
    cluster.serve_batches_of(batch_size, "m", "doubles", objective).await;
    cluster.serve("calm", "doubles", Duration::from_secs(20)).await;
    let container = Automaton::serve(&cluster, "m").await;
    container.answer_after(Duration::from_millis(20));
    let _calm = Automaton::serve(&cluster, "calm").await;

    let load = Load::start(&cluster, 0, "m", &json!({"input": [1, 2]}), CLIENTS);
    let calm = Load::start(&cluster, 0, "calm", &json!({"input": [3, 4]}), 2);
    let ended = || load.outcomes().ok() + load.outcomes().defaults.values().sum::<u64>();
    eventually("the model is overloaded", async || load.outcomes().defaults.values().sum::<u64>() > 500)
        .await;
    load.answered(enough).await;
    calm.answered(50).await;
    assert!(ended() > 0);
    calm.finish().await.assert_flawless();
    let outcomes = load.finish().await;
    assert!(outcomes.errors.is_empty(), "{:?}", outcomes.errors);
    assert!(outcomes.repeated_ids.is_empty(), "{:?}", outcomes.repeated_ids);
    assert_eq!(outcomes.outputs.keys().collect::<Vec<_>>(), ["3.0"]);

    // Nothing is left of it, and a lone query is answered as if nothing had been.
    cluster.waiting("m", 0).await;
    cluster.measures("clipper_application_in_flight_requests{application=\"m\"}", 0.0).await;
    cluster.served(0, "m", json!({"input": [1, 2]})).await;
    cluster.connected("m", 1).await;
    outcomes
}

#[tokio::test]
async fn an_overloaded_model_answers_what_it_can_and_defaults_for_the_rest_by_the_deadline() {
    let outcomes = overload(&[], 2, Duration::from_millis(250), 100).await;
    assert_eq!(outcomes.defaults.keys().collect::<Vec<_>>(), ["deadline"]);
}

#[tokio::test]
async fn a_full_queue_answers_what_it_holds_and_defaults_for_the_rest_at_once() {
    let flags = ["--queue-capacity", "8"];
    let outcomes = overload(&flags, 2, Duration::from_secs(20), 100).await;
    assert_eq!(outcomes.defaults.keys().collect::<Vec<_>>(), ["queue_full"]);
}

#[tokio::test]
async fn an_overloaded_model_of_adaptive_batches_loses_no_query_either() {
    let cluster = Cluster::start_with(&["--queue-capacity", "16"]).await;
    cluster.serve("m", "doubles", Duration::from_millis(200)).await;
    let containers = [Automaton::serve(&cluster, "m").await, Automaton::serve(&cluster, "m").await];
    containers.iter().for_each(|container| container.answer_after(Duration::from_millis(20)));
    let inputs: Vec<_> = (0..8).map(|number| [number, 1]).collect();
    let load = Load::start(&cluster, 0, "m", &json!({"input": [1, 2]}), CLIENTS);
    // Requests of several inputs are answered with one answer for each of them.
    for _ in 0..20 {
        let answer = cluster.predict("m", json!({"input_batch": inputs})).await;
        for (number, prediction) in (1..).zip(answer["batch_predictions"].as_array().unwrap()) {
            if prediction["default"] == true {
                let reason = &prediction["default_reason"];
                assert!(reason == "deadline" || reason == "queue_full", "{answer}");
            } else {
                assert_eq!(prediction["output"], f64::from(number), "{answer}");
            }
        }
        assert_eq!(answer["batch_predictions"].as_array().unwrap().len(), inputs.len());
    }
    load.answered(100).await;
    let outcomes = load.finish().await;
    assert!(outcomes.errors.is_empty(), "{:?}", outcomes.errors);
    assert!(outcomes.defaults.keys().all(|reason| reason == "deadline" || reason == "queue_full"));
    cluster.waiting("m", 0).await;
    cluster.connected("m", 2).await;
}
