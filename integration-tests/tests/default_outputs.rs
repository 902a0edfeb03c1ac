//! Every reason for which a query is answered by its application's default output, each told in time.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::time::{Duration, Instant};

use clipper_integration_tests::container::Serves;
use clipper_integration_tests::{Cluster, Container, RawContainer};
use clipper_rpc::message::FromContainer;
use serde_json::{Value, json};

/// So long that nobody waits it out by accident.
const OBJECTIVE: Duration = Duration::from_secs(20);

fn doubles(model: &str) -> Serves<'_> {
    Serves { model, version: "1", input_type: "doubles" }
}

/// Asks, and expects the default output for that reason long before the objective; the explanation.
async fn defaults_at_once(cluster: &Cluster, app: &str, input: Value, reason: &str) -> String {
    let started = Instant::now();
    let answer = cluster.predict(app, json!({"input": input})).await;
    assert_eq!(answer["default"], true, "{answer}");
    assert_eq!(answer["output"], "default", "{answer}");
    assert_eq!(answer["default_reason"], reason, "{answer}");
    assert!(started.elapsed() < OBJECTIVE / 2, "{:?}", started.elapsed());
    answer["default_explanation"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
}

#[tokio::test]
async fn an_application_without_a_model_says_so() {
    let cluster = Cluster::start().await;
    cluster.add_app("alone", "doubles", OBJECTIVE, false).await;
    let explanation = defaults_at_once(&cluster, "alone", json!([1]), "no_linked_models").await;
    assert_eq!(explanation, "no model is linked to this application");
}

#[tokio::test]
async fn a_model_without_containers_says_so_at_once() {
    let cluster = Cluster::start().await;
    cluster.add_app("m", "doubles", OBJECTIVE, true).await;
    let explanation = defaults_at_once(&cluster, "m", json!([1]), "no_connected_replicas").await;
    assert_eq!(explanation, "the linked model 'm' is not registered");
    cluster.add_model("m", "1", "doubles").await;
    let explanation = defaults_at_once(&cluster, "m", json!([1]), "no_connected_replicas").await;
    assert_eq!(explanation, "no container of model 'm:1' is connected");
}

#[tokio::test]
async fn a_container_that_is_too_slow_costs_the_objective_and_no_more() {
    let cluster = Cluster::start().await;
    cluster.serve("m", "doubles", Duration::from_millis(300)).await;
    let _container = Container::python("served:slow_sum", &cluster, doubles("m"));
    cluster.served(0, "m", json!({"input": [0, 1]})).await;

    let started = Instant::now();
    let answer = cluster.predict("m", json!({"input": [2, 1]})).await;
    assert_eq!(answer["default_reason"], "deadline", "{answer}");
    assert!(started.elapsed() >= Duration::from_millis(300));
    // What came too late harms nobody: the next is answered.
    let answer = cluster.served(0, "m", json!({"input": [0, 1, 2]})).await;
    assert_eq!(answer["output"], 3.0, "{answer}");
}

#[tokio::test]
async fn an_exception_is_told_to_the_application_and_the_container_lives_on() {
    let cluster = Cluster::start().await;
    cluster.serve("m", "doubles", OBJECTIVE).await;
    let _container = Container::python("served:raises", &cluster, doubles("m"));
    cluster.connected("m", 1).await;
    for _ in 0..2 {
        let explanation = defaults_at_once(&cluster, "m", json!([1]), "container_error").await;
        assert!(explanation.contains("the model is out of cheese, as served.py says"), "{explanation}");
    }
}

#[tokio::test]
async fn a_wrong_number_of_outputs_of_the_function_is_told_to_the_application() {
    let cluster = Cluster::start().await;
    cluster.serve("m", "doubles", OBJECTIVE).await;
    let _container = Container::python("served:two_outputs", &cluster, doubles("m"));
    cluster.connected("m", 1).await;
    let answer = cluster.predict("m", json!({"input_batch": [[1], [2], [3], [4]]})).await;
    let explanations: Vec<_> = answer["batch_predictions"].as_array().unwrap().iter().collect();
    assert!(
        explanations.iter().any(|answer| answer["default_reason"] == "container_error"
            && answer["default_explanation"]
                .as_str()
                .unwrap()
                .contains("the function returned 2 outputs for 1 input")),
        "{answer}"
    );
}

#[tokio::test]
async fn no_output_for_an_input_is_its_default_output() {
    let cluster = Cluster::start().await;
    cluster.serve("m", "doubles", OBJECTIVE).await;
    let _container = Container::python("served:silent", &cluster, doubles("m"));
    cluster.connected("m", 1).await;
    defaults_at_once(&cluster, "m", json!([1]), "container_error").await;
}

#[tokio::test]
async fn a_full_queue_refuses_further_queries_until_there_is_room_again() {
    let cluster = Cluster::start_with(&["--queue-capacity", "2", "--max-batch-size", "1"]).await;
    cluster.serve("m", "doubles", OBJECTIVE).await;
    let mut container = RawContainer::register(&cluster, "m").await;
    let (held, ()) = tokio::join!(cluster.predict("m", json!({"input": [1]})), async {
        let held = container.batch().await;
        // While the container is busy two can wait, and there is no room for two more.
        let body = json!({"input_batch": [[1], [2], [3], [4]], "latency_slo_micros": 1_000_000});
        let answer = cluster.predict("m", body).await;
        let reasons = answer["batch_predictions"].as_array().unwrap().iter();
        let reasons: Vec<_> = reasons.map(|answer| answer["default_reason"].as_str().unwrap()).collect();
        assert_eq!(reasons, ["deadline", "deadline", "queue_full", "queue_full"], "{answer}");
        let explanation = &answer["batch_predictions"][3]["default_explanation"];
        assert_eq!(explanation, "the queue of model 'm:1' is full with 2 queries of 16 bytes");
        container.answer(held.id, &[0.5]);
    });
    assert_eq!(held["output"], 0.5, "{held}");
    let (next, ()) = tokio::join!(cluster.predict("m", json!({"input_batch": [[5], [6]]})), async {
        for _ in 0..2 {
            let batch = container.batch().await;
            container.answer(batch.id, &[0.25]);
        }
    });
    let outputs = next["batch_predictions"].as_array().unwrap();
    assert!(outputs.iter().all(|answer| answer["output"] == 0.25), "{next}");
}

#[tokio::test]
async fn a_batch_that_failed_is_told_in_the_words_of_the_container() {
    let cluster = Cluster::start().await;
    cluster.serve("m", "doubles", OBJECTIVE).await;
    let mut container = RawContainer::register(&cluster, "m").await;
    let (explanation, ()) =
        tokio::join!(defaults_at_once(&cluster, "m", json!([1]), "container_error"), async {
            let id = container.batch().await.id;
            container.send(&FromContainer::Error { id, message: "the GPU is on fire".to_owned() });
        });
    assert_eq!(explanation, "the container of model 'm:1' reported: the GPU is on fire");
}

#[tokio::test]
async fn a_deleted_version_answers_what_it_holds_and_its_container_goes_home() {
    let cluster = Cluster::start().await;
    cluster.serve("m", "doubles", OBJECTIVE).await;
    let mut container = RawContainer::register(&cluster, "m").await;
    let (held, ()) = tokio::join!(cluster.predict("m", json!({"input": [1]})), async {
        let id = container.batch().await.id;
        cluster.must("delete_versioned_model", json!({"model_name": "m", "model_version": "1"})).await;
        container.answer(id, &[4.0]);
        assert_eq!(container.receive().await, clipper_rpc::message::ToContainer::Drain);
        container.send(&FromContainer::Goodbye);
    });
    assert_eq!(held["output"], 4.0, "{held}");
    defaults_at_once(&cluster, "m", json!([1]), "no_connected_replicas").await;
}
