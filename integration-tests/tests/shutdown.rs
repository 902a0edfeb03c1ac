//! An end in order: what was accepted is answered, and nothing is left.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::time::Duration;

use clipper_integration_tests::container::Serves;
use clipper_integration_tests::{Cluster, Container, Load, RawContainer, eventually};
use clipper_rpc::message::{FromContainer, ToContainer};
use serde_json::json;

const OBJECTIVE: Duration = Duration::from_secs(20);

const M: Serves<'_> = Serves { model: "m", version: "1", input_type: "doubles" };

#[tokio::test]
async fn requests_that_were_accepted_are_answered_by_the_model() {
    let mut cluster = Cluster::start().await;
    cluster.serve_batches_of(4, "m", "doubles", OBJECTIVE).await;
    let container = Container::python("served:slow_sum", &cluster, M);
    cluster.served(0, "m", json!({"input": [0, 1]})).await;
    // One batch is computed, and two wait for it.
    let url = format!("{}/m/predict", cluster.query_url(0));
    let body = json!({"input_batch": vec![[0.5, 1.0]; 12]}).to_string();
    let request = cluster.http().post(url).body(body).send();
    let (answer, code) = tokio::join!(request, async {
        eventually("it computes", async || container.batches().ends_with(&[4])).await;
        cluster.main.terminate().await
    });
    assert_eq!(code, 0);
    let answer = answer.unwrap();
    assert_eq!(answer.status(), 200);
    let text = answer.text().await.unwrap();
    assert_eq!(text.matches("\"output\":1.0,\"default\":false").count(), 12, "{text}");
    assert!(!cluster.data_dir().join("addresses.json").exists());
}

#[tokio::test]
async fn a_cluster_under_load_ends_without_a_lost_request() {
    let mut cluster = Cluster::start().await;
    cluster.deploy("sum", "m", "1", "doubles", 2).await;
    cluster.add_app("m", "doubles", OBJECTIVE, true).await;
    assert!(cluster.data_dir().join("addresses.json").exists());
    let load = Load::start(&cluster, 0, "m", &json!({"input": [1, 2]}), 4);
    load.answered(100).await;
    assert_eq!(cluster.main.terminate().await, 0);
    assert!(!cluster.data_dir().join("addresses.json").exists());
    assert_eq!(cluster.offspring(), []);
    let outcomes = load.finish().await;
    assert!(outcomes.defaults.is_empty(), "{:?}", outcomes.defaults);
    // A client may find the door closed, or its idle connection; it is never answered with an error.
    for error in outcomes.errors.keys() {
        let closed = ["ConnectionRefused", "ConnectionReset", "IncompleteMessage", "BrokenPipe"];
        assert!(closed.iter().any(|kind| error.contains(kind)), "{error}");
    }
}

#[tokio::test]
async fn containers_are_told_to_leave_before_the_end() {
    let mut cluster = Cluster::start().await;
    cluster.serve("m", "doubles", OBJECTIVE).await;
    let mut container = RawContainer::register(&cluster, "m").await;
    let (code, ()) = tokio::join!(cluster.main.terminate(), async {
        assert_eq!(container.receive().await, ToContainer::Drain);
        container.send(&FromContainer::Goodbye);
    });
    assert_eq!(code, 0);
}

#[tokio::test]
async fn a_container_that_never_answers_does_not_hold_up_the_end_beyond_the_objective() {
    let mut cluster = Cluster::start().await;
    cluster.serve("m", "doubles", Duration::from_secs(2)).await;
    let mut container = RawContainer::register(&cluster, "m").await;
    let request =
        cluster.http().post(format!("{}/m/predict", cluster.query_url(0))).body("{\"input\": [1]}").send();
    let (answer, code) = tokio::join!(request, async {
        container.batch().await;
        cluster.main.terminate().await
    });
    assert_eq!(code, 0);
    let text = answer.unwrap().text().await.unwrap();
    assert!(text.contains("\"default_reason\":\"deadline\""), "{text}");
}

#[tokio::test]
async fn each_process_of_a_split_cluster_ends_in_order() {
    let mut cluster = Cluster::split(2).await;
    cluster.deploy("sum", "m", "1", "doubles", 1).await;
    cluster.add_app("m", "doubles", OBJECTIVE, true).await;
    for frontend in 0..2 {
        cluster.served(frontend, "m", json!({"input": [1]})).await;
    }
    assert_eq!(cluster.frontends[0].terminate().await, 0);
    let load = Load::start(&cluster, 1, "m", &json!({"input": [1, 2]}), 2);
    load.answered(100).await;
    load.finish().await.assert_flawless();
    assert_eq!(cluster.main.terminate().await, 0);
    assert_eq!(cluster.offspring(), []);
    assert!(!cluster.data_dir().join("addresses.json").exists());
    // The frontend goes on without management; the replicas were management's.
    let answer = cluster.predict_at(1, "m", json!({"input": [1]})).await;
    assert_eq!(answer["default_reason"], "no_connected_replicas", "{answer}");
    assert_eq!(cluster.frontends[1].terminate().await, 0);
}
