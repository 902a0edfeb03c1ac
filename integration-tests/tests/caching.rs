//! What is answered from the prediction cache, and what is computed.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::time::Duration;

use clipper_integration_tests::raw_container::numbers;
use clipper_integration_tests::{Automaton, Cluster, RawContainer, eventually};
use clipper_rpc::message::{FromContainer, Register};
use serde_json::{Value, json};

/// So long that nobody waits it out by accident.
const OBJECTIVE: Duration = Duration::from_secs(20);

/// Registers a version of model `m`, whose outputs may be kept.
async fn add_version(cluster: &Cluster, version: &str) {
    let body = json!({"model_name": "m", "model_version": version, "input_type": "doubles"});
    cluster.must("add_model", body).await;
}

async fn delete_version(cluster: &Cluster, version: &str) {
    let body = json!({"model_name": "m", "model_version": version});
    cluster.must("delete_versioned_model", body).await;
}

/// What ends a container's registration, after which it has no say in what is cached.
const OFFENCES: [fn(&mut RawContainer); 4] = [
    |container| container.send_frames(vec![b"garbage".to_vec()]),
    |container| container.answer(4711, &[1.0]),
    |container| container.send(&FromContainer::Error { id: 4711, message: "no idea".to_owned() }),
    |container| container.send(&FromContainer::FeedbackAck { id: 3 }),
];

/// Version 1 of model `m` and application `m`, both of which may use the cache.
async fn serve_cached(cluster: &Cluster) {
    add_version(cluster, "1").await;
    cluster.add_app("m", "doubles", OBJECTIVE, true).await;
}

fn registration(version: &str) -> Register {
    Register { version: version.to_owned(), ..RawContainer::registration("m") }
}

async fn output(cluster: &Cluster, input: Value) -> Value {
    let answer = cluster.predict("m", json!({"input": input})).await;
    assert_eq!(answer["default"], false, "{answer}");
    answer["output"].clone()
}

#[tokio::test]
async fn missing_values_are_the_same_input_however_they_are_written() {
    let cluster = Cluster::start().await;
    serve_cached(&cluster).await;
    let container = Automaton::serve(&cluster, "m").await;
    for input in ["[1, null]", "[1, NaN]", "[1,NaN]", "[1.0, null]"] {
        let answer = cluster.ask(0, "m", format!("{{\"input\": {input}}}")).await.json();
        assert_eq!((&answer["default"], &answer["output"]), (&json!(false), &Value::Null), "{answer}");
    }
    assert_eq!(container.batches().len(), 1);
}

#[tokio::test]
async fn a_repeated_input_is_answered_without_the_container() {
    let cluster = Cluster::start().await;
    serve_cached(&cluster).await;
    let container = Automaton::serve(&cluster, "m").await;
    for _ in 0..3 {
        assert_eq!(output(&cluster, json!([1, 2])).await, 3.0);
    }
    assert_eq!(output(&cluster, json!([1, 3])).await, 4.0);
    assert_eq!(container.batches().concat(), [[1.0, 2.0], [1.0, 3.0]]);
    let answers =
        |outcome| format!("clipper_application_answers_total{{application=\"m\",outcome=\"{outcome}\"}}");
    assert_eq!(cluster.metric(0, &answers("predicted")).await, Some(2.0));
    assert_eq!(cluster.metric(0, &answers("cached")).await, Some(2.0));
}

#[tokio::test]
async fn a_request_is_answered_partly_from_the_cache_and_in_order() {
    let cluster = Cluster::start().await;
    serve_cached(&cluster).await;
    let container = Automaton::serve(&cluster, "m").await;
    output(&cluster, json!([2])).await;
    let answer = cluster.predict("m", json!({"input_batch": [[1], [2], [3], [1]]})).await;
    let outputs: Vec<_> =
        answer["batch_predictions"].as_array().unwrap().iter().map(|answer| &answer["output"]).collect();
    assert_eq!(outputs, [1.0, 2.0, 3.0, 1.0]);
    let mut computed = container.batches().concat().concat();
    computed.sort_by(f64::total_cmp);
    assert_eq!(computed, [1.0, 2.0, 3.0]);
}

#[tokio::test]
async fn equal_inputs_that_are_asked_at_the_same_time_are_computed_once() {
    let cluster = Cluster::start().await;
    serve_cached(&cluster).await;
    let mut container = RawContainer::register(&cluster, "m").await;
    let ask = || output(&cluster, json!([7]));
    let computed = async {
        let batch = container.batch().await;
        assert_eq!(numbers(&batch), [[7.0]]);
        let shared = "clipper_cache_lookups_total{model=\"m\",version=\"1\",result=\"shared\"}";
        let ((two, three, four), ()) = tokio::join!(async { tokio::join!(ask(), ask(), ask()) }, async {
            cluster.measures(shared, 3.0).await;
            container.answer(batch.id, &[0.5]);
        });
        [two, three, four]
    };
    let (one, others) = tokio::join!(ask(), computed);
    assert_eq!(one, 0.5);
    assert_eq!(others, [0.5, 0.5, 0.5]);
    let (other, inputs) = tokio::join!(output(&cluster, json!([8])), container.answer_next(0.25));
    assert_eq!((other, inputs), (json!(0.25), vec![vec![8.0]]), "nothing came in between");
}

#[tokio::test]
async fn an_error_is_not_kept() {
    let cluster = Cluster::start().await;
    serve_cached(&cluster).await;
    let container = Automaton::serve(&cluster, "m").await;
    container.fail("not today");
    for _ in 0..2 {
        let answer = cluster.predict("m", json!({"input": [1]})).await;
        assert_eq!(answer["default_reason"], "container_error", "{answer}");
    }
    container.answer_after(Duration::ZERO);
    assert_eq!(output(&cluster, json!([1])).await, 1.0);
    assert_eq!(container.batches().len(), 3);
}

#[tokio::test]
async fn a_default_output_is_not_kept() {
    let cluster = Cluster::start().await;
    serve_cached(&cluster).await;
    let answer = cluster.predict("m", json!({"input": [1]})).await;
    assert_eq!(answer["default_reason"], "no_connected_replicas", "{answer}");
    let container = Automaton::serve(&cluster, "m").await;
    container.hold();
    let answer = cluster.predict("m", json!({"input": [1], "latency_slo_micros": 100_000})).await;
    assert_eq!(answer["default_reason"], "deadline", "{answer}");
    container.answer_after(Duration::ZERO);
    assert_eq!(output(&cluster, json!([1])).await, 1.0);
}

#[tokio::test]
async fn an_application_without_the_cache_has_every_query_computed() {
    let cluster = Cluster::start().await;
    serve_cached(&cluster).await;
    let fresh = json!({
        "name": "fresh", "input_type": "doubles", "default_output": "0", "linked_models": ["m"],
        "latency_slo_micros": 20_000_000, "cache": false,
    });
    cluster.must("add_app", fresh).await;
    let container = Automaton::serve(&cluster, "m").await;
    for count in 1..=3 {
        assert_eq!(cluster.predict("fresh", json!({"input": [1]})).await["output"], 1.0);
        assert_eq!(container.batches().len(), count);
    }
    // What it had computed is not kept for others either.
    output(&cluster, json!([1])).await;
    output(&cluster, json!([1])).await;
    assert_eq!(container.batches().len(), 4);
}

#[tokio::test]
async fn a_version_without_the_cache_computes_every_query() {
    let cluster = Cluster::start().await;
    cluster.serve("m", "doubles", OBJECTIVE).await;
    let container = Automaton::serve(&cluster, "m").await;
    for count in 1..=3 {
        assert_eq!(output(&cluster, json!([1])).await, 1.0);
        assert_eq!(container.batches().len(), count);
    }
}

#[tokio::test]
async fn a_version_that_was_registered_again_never_answers_with_what_its_predecessor_said() {
    for mut cluster in [Cluster::start().await, Cluster::split(2).await] {
        let frontends = cluster.frontends.len().max(1);
        serve_cached(&cluster).await;
        let ask = async |cluster: &Cluster, frontend| {
            cluster.predict_at(frontend, "m", json!({"input": [1]})).await
        };
        for generation in 1..=3 {
            let mut containers = Vec::new();
            for frontend in 0..frontends {
                let container = Automaton::register(&cluster, frontend, registration("1")).await;
                container.add(f64::from(100 * generation));
                containers.push(container);
            }
            for (frontend, container) in containers.iter().enumerate() {
                for _ in 0..2 {
                    let answer = ask(&cluster, frontend).await;
                    assert_eq!(answer["output"], f64::from(100 * generation + 1), "{answer}");
                }
                assert_eq!(container.batches().len(), 1);
            }
            delete_version(&cluster, "1").await;
            add_version(&cluster, "1").await;
            for frontend in 0..frontends {
                let answer = ask(&cluster, frontend).await;
                assert_eq!(answer["default_reason"], "no_connected_replicas", "{answer}");
            }
        }
        // Nor does a frontend that comes later.
        if frontends > 1 {
            cluster.add_frontend().await;
            let answer = ask(&cluster, frontends).await;
            assert_eq!(answer["default_reason"], "no_connected_replicas", "{answer}");
        }
    }
}

#[tokio::test]
async fn a_late_answer_of_a_deleted_version_is_not_kept_for_its_successor() {
    let cluster = Cluster::start().await;
    serve_cached(&cluster).await;
    let mut old = RawContainer::register(&cluster, "m").await;
    let (held, ()) = tokio::join!(output(&cluster, json!([1])), async {
        let batch = old.batch().await;
        delete_version(&cluster, "1").await;
        add_version(&cluster, "1").await;
        old.answer(batch.id, &[0.5]);
    });
    assert_eq!(held, 0.5);
    let new = Automaton::serve(&cluster, "m").await;
    assert_eq!(output(&cluster, json!([1])).await, 1.0);
    assert_eq!(new.batches().len(), 1);
}

#[tokio::test]
async fn pinned_versions_do_not_share_what_is_kept() {
    let cluster = Cluster::start().await;
    serve_cached(&cluster).await;
    add_version(&cluster, "2").await;
    let versions = ["1", "2"];
    let mut containers = Vec::new();
    for (version, addend) in versions.iter().zip([100.0, 200.0]) {
        let container = Automaton::register(&cluster, 0, registration(version)).await;
        container.add(addend);
        containers.push(container);
    }
    for _ in 0..2 {
        for (version, expected) in versions.iter().zip([101.0, 201.0]) {
            let answer = cluster.predict("m", json!({"input": [1], "version": version})).await;
            assert_eq!(answer["output"], expected, "{answer}");
        }
    }
    assert_eq!(output(&cluster, json!([1])).await, 201.0, "the current version");
    assert!(containers.iter().all(|container| container.batches().len() == 1));
}

#[tokio::test]
async fn an_answer_that_came_too_late_is_there_for_the_next_query() {
    let cluster = Cluster::start().await;
    serve_cached(&cluster).await;
    let mut container = RawContainer::register(&cluster, "m").await;
    let hasty = json!({"input": [5], "latency_slo_micros": 1_000_000});
    let (answer, batch) = tokio::join!(cluster.predict("m", hasty), container.batch());
    assert_eq!(answer["default_reason"], "deadline", "{answer}");
    container.answer(batch.id, &[0.5]);
    let bytes = "clipper_cache_bytes{model=\"m\",version=\"1\"}";
    eventually("it is kept", async || cluster.metric(0, bytes).await.is_some_and(|bytes| bytes > 0.0)).await;
    assert_eq!(output(&cluster, json!([5])).await, 0.5);
    let (other, inputs) = tokio::join!(output(&cluster, json!([6])), container.answer_next(0.25));
    assert_eq!((other, inputs), (json!(0.25), vec![vec![6.0]]), "nothing came in between");
}

#[tokio::test]
async fn a_cache_of_no_bytes_keeps_nothing() {
    let cluster = Cluster::start_with(&["--cache-bytes", "0"]).await;
    serve_cached(&cluster).await;
    let container = Automaton::serve(&cluster, "m").await;
    for count in 1..=3 {
        assert_eq!(output(&cluster, json!([1])).await, 1.0);
        assert_eq!(container.batches().len(), count);
    }
}

#[tokio::test]
async fn what_is_kept_is_answered_while_no_container_is_connected() {
    let cluster = Cluster::start().await;
    serve_cached(&cluster).await;
    let container = Automaton::serve(&cluster, "m").await;
    output(&cluster, json!([1])).await;
    drop(container);
    cluster.connected("m", 0).await;
    assert_eq!(output(&cluster, json!([1])).await, 1.0);
    let answer = cluster.predict("m", json!({"input": [2]})).await;
    assert_eq!(answer["default_reason"], "no_connected_replicas", "{answer}");
}

#[tokio::test]
async fn a_container_that_is_struck_off_takes_its_cached_outputs_with_it() {
    let cluster = Cluster::start().await;
    serve_cached(&cluster).await;
    for (round, offend) in OFFENCES.into_iter().enumerate() {
        let input = json!([round]);
        let mut offender = RawContainer::register(&cluster, "m").await;
        let (first, _) = tokio::join!(output(&cluster, input.clone()), offender.answer_next(666.0));
        assert_eq!((first, output(&cluster, input.clone()).await), (json!(666.0), json!(666.0)));
        offend(&mut offender);
        offender.rejected().await;
        cluster.connected("m", 0).await;
        let answer = cluster.predict("m", json!({"input": input})).await;
        assert_eq!(answer["default_reason"], "no_connected_replicas", "{answer}");

        let mut honest = RawContainer::register(&cluster, "m").await;
        let (again, _) = tokio::join!(output(&cluster, input.clone()), honest.answer_next(1.0));
        assert_eq!(again, 1.0);
        honest.send(&FromContainer::Goodbye);
        cluster.connected("m", 0).await;
        assert_eq!(output(&cluster, input).await, 1.0, "who leaves in order leaves its outputs");
    }
}

#[tokio::test]
async fn who_waits_while_a_container_is_struck_off_is_answered_by_another() {
    let cluster = Cluster::start().await;
    serve_cached(&cluster).await;
    let mut offender = RawContainer::register(&cluster, "m").await;
    let ask = || output(&cluster, json!([1]));
    let shared = "clipper_cache_lookups_total{model=\"m\",version=\"1\",result=\"shared\"}";
    let struck_off = async {
        let batch = offender.batch().await;
        // The second query comes once the first one has its deadline: only a later deadline can share its computation.
        let (two, ()) = tokio::join!(ask(), async {
            cluster.measures(shared, 1.0).await;
            let mut honest = RawContainer::register(&cluster, "m").await;
            // Two outputs for one input: neither is for anybody.
            offender.answer(batch.id, &[666.0, 666.0]);
            honest.answer_next(1.0).await;
        });
        two
    };
    let (one, two) = tokio::join!(ask(), struck_off);
    assert_eq!((one, two, ask().await), (json!(1.0), json!(1.0), json!(1.0)));
}
