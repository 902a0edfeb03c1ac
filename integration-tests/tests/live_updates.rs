//! Applications and models whose settings change while they are used.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::time::{Duration, Instant};

use clipper_integration_tests::container::Serves;
use clipper_integration_tests::{Automaton, Cluster, Container, Load};
use serde_json::{Value, json};

/// So long that nobody waits it out by accident.
const OBJECTIVE: Duration = Duration::from_secs(20);

async fn update_app(cluster: &Cluster, change: Value) {
    let mut body = json!({"name": "m"});
    body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    let said = cluster.must("update_app", body).await;
    assert_eq!(said, "Successfully updated application with name 'm'");
}

async fn update_model(cluster: &Cluster, change: Value) {
    let mut body = json!({"model_name": "m", "model_version": "1"});
    body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    let said = cluster.must("update_model", body).await;
    assert_eq!(said, "Successfully updated model with name 'm' and version '1'");
}

/// The sizes of the batches that a container is given for so many inputs of one request.
async fn sizes(cluster: &Cluster, container: &Automaton, inputs: usize) -> Vec<usize> {
    let before = container.batches().len();
    let inputs: Vec<_> = (0..inputs).map(|number| [number]).collect();
    cluster.predict("m", json!({"input_batch": inputs})).await;
    container.batches()[before..].iter().map(Vec::len).collect()
}

#[tokio::test]
async fn a_new_default_output_is_the_answer_of_the_next_query() {
    let cluster = Cluster::start().await;
    cluster.add_app("m", "doubles", OBJECTIVE, false).await;
    for (default, expected) in [("\"a\"", json!("a")), ("[1, 2]", json!([1, 2])), ("b", json!("b"))] {
        update_app(&cluster, json!({"default_output": default})).await;
        let answer = cluster.predict("m", json!({"input": [1]})).await;
        assert_eq!(answer["output"], expected, "{answer}");
    }
}

#[tokio::test]
async fn a_new_objective_holds_for_the_next_query_and_not_for_those_that_wait() {
    let cluster = Cluster::start().await;
    cluster.serve("m", "doubles", OBJECTIVE).await;
    let container = Automaton::serve(&cluster, "m").await;
    container.hold();
    let ask = || cluster.predict("m", json!({"input": [1]}));
    let (patient, ()) = tokio::join!(ask(), async {
        cluster.measures("clipper_application_in_flight_requests{application=\"m\"}", 1.0).await;
        update_app(&cluster, json!({"latency_slo_micros": 200_000})).await;
        let started = Instant::now();
        let hasty = ask().await;
        assert_eq!(hasty["default_reason"], "deadline", "{hasty}");
        let explanation = hasty["default_explanation"].as_str().unwrap();
        assert!(explanation.contains("200ms"), "{explanation}");
        assert!(started.elapsed() < OBJECTIVE / 2, "{:?}", started.elapsed());
        container.answer_after(Duration::ZERO);
    });
    assert_eq!(patient["output"], 1.0, "{patient}");
}

#[tokio::test]
async fn an_application_starts_and_stops_to_use_the_cache() {
    let cluster = Cluster::start().await;
    let body = json!({"model_name": "m", "model_version": "1", "input_type": "doubles"});
    cluster.must("add_model", body).await;
    cluster.add_app("m", "doubles", OBJECTIVE, true).await;
    let container = Automaton::serve(&cluster, "m").await;
    let mut computed = 0;
    for (cache, costs) in [(false, 2), (true, 1), (false, 2), (true, 0)] {
        update_app(&cluster, json!({"cache": cache})).await;
        for _ in 0..2 {
            assert_eq!(cluster.predict("m", json!({"input": [1]})).await["output"], 1.0);
        }
        computed += costs;
        assert_eq!(container.batches().len(), computed, "cache: {cache}");
    }
}

#[tokio::test]
async fn a_version_starts_and_stops_to_use_the_cache() {
    let cluster = Cluster::start().await;
    cluster.serve("m", "doubles", OBJECTIVE).await;
    let container = Automaton::serve(&cluster, "m").await;
    let mut computed = 0;
    for (cache, costs) in [(false, 2), (true, 1), (false, 2)] {
        update_model(&cluster, json!({"cache": cache})).await;
        for _ in 0..2 {
            assert_eq!(cluster.predict("m", json!({"input": [1]})).await["output"], 1.0);
        }
        computed += costs;
        assert_eq!(container.batches().len(), computed, "cache: {cache}");
    }
}

#[tokio::test]
async fn a_new_bound_counts_the_requests_that_are_in_progress_already() {
    let cluster = Cluster::start().await;
    cluster.serve("m", "doubles", OBJECTIVE).await;
    let container = Automaton::serve(&cluster, "m").await;
    container.hold();
    let ask = || cluster.predict("m", json!({"input": [1]}));
    let in_progress = "clipper_application_in_flight_requests{application=\"m\"}";
    let (first, second, ()) = tokio::join!(
        ask(),
        async {
            cluster.measures("clipper_model_queue_depth{model=\"m\",version=\"1\"}", 0.0).await;
            ask().await
        },
        async {
            cluster.measures(in_progress, 2.0).await;
            update_app(&cluster, json!({"max_concurrent_requests": 2})).await;
            assert_eq!(ask().await["default_reason"], "too_many_requests");
            update_app(&cluster, json!({"on_overload": "refuse"})).await;
            cluster.ask(0, "m", json!({"input": [1]})).await.refusal(429, "Too many requests");
            update_app(&cluster, json!({"max_concurrent_requests": null})).await;
            container.answer_after(Duration::ZERO);
            assert_eq!(ask().await["output"], 1.0);
        }
    );
    assert_eq!((&first["output"], &second["output"]), (&json!(1.0), &json!(1.0)));
}

#[tokio::test]
async fn a_new_batch_size_is_that_of_the_next_batch() {
    let cluster = Cluster::start().await;
    cluster.serve_batches_of(2, "m", "doubles", OBJECTIVE).await;
    let container = Automaton::serve(&cluster, "m").await;
    assert_eq!(sizes(&cluster, &container, 8).await, [2, 2, 2, 2]);
    update_model(&cluster, json!({"batch_size": 4})).await;
    assert_eq!(sizes(&cluster, &container, 8).await, [4, 4]);
    update_model(&cluster, json!({"batch_size": 1})).await;
    assert_eq!(sizes(&cluster, &container, 3).await, [1, 1, 1]);
    // A controller that begins anew tries one input first.
    update_model(&cluster, json!({"batching": "adaptive", "batch_size": -1})).await;
    assert_eq!(sizes(&cluster, &container, 8).await[0], 1);
    cluster.connected("m", 1).await;
}

#[tokio::test]
async fn any_change_of_settings_under_load_costs_no_request_and_no_container() {
    let cluster = Cluster::start().await;
    cluster.serve("m", "doubles", OBJECTIVE).await;
    let serves = Serves { model: "m", version: "1", input_type: "doubles" };
    let _real = Container::rust("sum", &cluster, serves);
    // It fails the test if it is sent away.
    let _strict = Automaton::serve(&cluster, "m").await;
    cluster.connected("m", 2).await;
    let containers = cluster.read("get_all_containers", json!({"verbose": true})).await;
    let instances = |containers: &Value| -> Vec<Value> {
        containers.as_array().unwrap().iter().map(|container| container["instance"].clone()).collect()
    };
    let load = Load::start(&cluster, 0, "m", &json!({"input": [1, 2]}), 8);
    load.answered(20).await;
    for change in [
        json!({"batch_size": 1}),
        json!({"batch_size": 3, "batching": "fixed"}),
        json!({"batching": "aimd"}),
        json!({"cache": true}),
        json!({"batching": {"strategy": "quantile", "wait_micros": 1000}}),
        json!({"cache": false, "labels": ["new"]}),
        json!({"batching": {"strategy": "adaptive", "wait_micros": 2000}, "batch_size": -1}),
        json!({"batching": "adaptive"}),
    ] {
        update_model(&cluster, change).await;
        load.answered(20).await;
    }
    for change in [
        json!({"latency_slo_micros": 30_000_000}),
        json!({"cache": false}),
        json!({"max_concurrent_requests": 1000, "on_overload": "refuse"}),
        json!({"default_output": "1"}),
        json!({"max_concurrent_requests": null, "cache": true, "latency_slo_micros": 20_000_000}),
    ] {
        update_app(&cluster, change).await;
        load.answered(20).await;
    }
    let outcomes = load.finish().await;
    outcomes.assert_flawless();
    assert_eq!(outcomes.outputs.keys().collect::<Vec<_>>(), ["3.0"]);
    let after = cluster.read("get_all_containers", json!({"verbose": true})).await;
    assert_eq!(instances(&after), instances(&containers));
}
