//! Parts of a cluster that are killed and started again.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::time::Duration;

use clipper_integration_tests::container::Serves;
use clipper_integration_tests::{Cluster, Container, Load, RawContainer, eventually, program};
use serde_json::json;

const OBJECTIVE: Duration = Duration::from_secs(20);

const M: Serves<'_> = Serves { model: "m", version: "1", input_type: "doubles" };

#[tokio::test]
async fn management_killed_and_restarted_under_load_fails_no_request() {
    let mut cluster = Cluster::split(1).await;
    cluster.serve("m", "doubles", OBJECTIVE).await;
    let _container = Container::rust("sum", &cluster, M);
    cluster.served(0, "m", json!({"input": [1]})).await;
    let load = Load::start(&cluster, 0, "m", &json!({"input": [1, 2]}), 4);
    for _ in 0..2 {
        load.answered(100).await;
        cluster.main.kill();
        load.answered(100).await;
        cluster.main.restart().await;
        load.answered(100).await;
        // The frontend follows again: what is registered now is served.
        cluster.connected("m", 1).await;
    }
    cluster.add_app("later", "doubles", OBJECTIVE, false).await;
    eventually("the frontend serves what was registered after the restart", async || {
        cluster.ask(0, "later", json!({"input": [1]})).await.status == 200
    })
    .await;
    load.finish().await.assert_flawless();
}

#[tokio::test]
async fn what_was_answered_is_there_after_management_was_killed() {
    let mut cluster = Cluster::split(0).await;
    for number in 0..5 {
        let name = format!("app-{number}");
        cluster.add_app(&name, "doubles", OBJECTIVE, false).await;
        cluster.add_model(&name, "1", "doubles").await;
        cluster.must("add_model_links", json!({"app_name": name, "model_names": [name]})).await;
        cluster.main.kill();
        cluster.main.restart().await;
        let linked = cluster.read("get_linked_models", json!({"app_name": name})).await;
        assert_eq!(linked, json!([name]));
    }
    let apps = cluster.read("get_all_applications", json!({"verbose": false})).await;
    assert_eq!(apps.as_array().unwrap().len(), 5, "{apps}");
}

#[tokio::test]
async fn containers_register_again_with_a_frontend_that_was_killed_and_restarted() {
    let mut cluster = Cluster::split(1).await;
    cluster.serve("m", "doubles", OBJECTIVE).await;
    let _containers = [Container::rust("sum", &cluster, M), Container::python("sum", &cluster, M)];
    cluster.connected("m", 2).await;
    for _ in 0..2 {
        cluster.frontends[0].kill();
        cluster.frontends[0].restart().await;
        cluster.ready(0).await;
        let answer = cluster.served(0, "m", json!({"input": [1, 2]})).await;
        assert_eq!(answer["output"], 3.0, "{answer}");
        cluster.connected("m", 2).await;
    }
}

#[tokio::test]
async fn a_frontend_without_management_is_not_ready_and_becomes_so() {
    let mut cluster = Cluster::split(1).await;
    cluster.serve("m", "doubles", OBJECTIVE).await;
    let _container = Container::rust("sum", &cluster, M);
    cluster.served(0, "m", json!({"input": [1]})).await;
    cluster.main.kill();
    cluster.frontends[0].kill();
    cluster.frontends[0].restart().await;
    let answer = cluster.ask(0, "m", json!({"input": [1]})).await;
    answer.refusal(503, "Not ready");
    cluster.main.restart().await;
    cluster.ready(0).await;
    assert_eq!(cluster.served(0, "m", json!({"input": [1, 2]})).await["output"], 3.0);
}

#[tokio::test]
async fn a_whole_cluster_killed_leaves_nothing_and_comes_back_with_its_deployments() {
    program::python();
    let mut cluster = Cluster::start().await;
    cluster.deploy("sum", "m", "1", "doubles", 2).await;
    let python = json!({
        "model_name": "p", "model_version": "1", "input_type": "doubles", "container_kind": "sum",
    });
    cluster.must("deploy_model", python).await;
    for name in ["m", "p"] {
        cluster.add_app(name, "doubles", OBJECTIVE, true).await;
        assert_eq!(cluster.predict(name, json!({"input": [1, 2]})).await["output"], 3.0);
    }
    assert!(cluster.offspring().len() >= 3, "{:?}", cluster.offspring());
    for _ in 0..2 {
        cluster.main.kill();
        eventually("nothing outlives the kill", async || cluster.offspring().is_empty()).await;
        cluster.main.restart().await;
        cluster.ready(0).await;
        for name in ["m", "p"] {
            let answer = cluster.served(0, name, json!({"input": [1, 2]})).await;
            assert_eq!(answer["output"], 3.0, "{answer}");
        }
        cluster.connected("m", 2).await;
        cluster.connected("p", 1).await;
    }
    let deployments = cluster.read("get_deployments", json!({})).await;
    let counts: Vec<_> = deployments.as_array().unwrap().iter().map(|one| &one["num_replicas"]).collect();
    assert_eq!(counts, [2, 1], "{deployments}");
}

#[tokio::test]
async fn hand_started_containers_find_a_whole_cluster_again_that_was_killed() {
    let mut cluster = Cluster::start().await;
    cluster.serve("m", "doubles", OBJECTIVE).await;
    let _containers = [Container::rust("sum", &cluster, M), Container::python("sum", &cluster, M)];
    cluster.connected("m", 2).await;
    cluster.main.kill();
    cluster.main.restart().await;
    cluster.connected("m", 2).await;
    assert_eq!(cluster.predict("m", json!({"input": [1, 2]})).await["output"], 3.0);
}

#[tokio::test]
async fn a_late_answer_to_a_batch_of_an_earlier_run_is_not_taken_for_another_one() {
    let mut cluster = Cluster::split(1).await;
    cluster.serve("m", "doubles", OBJECTIVE).await;
    let mut container = RawContainer::register(&cluster, "m").await;
    let url = format!("{}/m/predict", cluster.query_url(0));
    let lost = tokio::spawn(cluster.http().post(url).body(r#"{"input": [111]}"#).send());
    let former = container.batch().await;
    cluster.frontends[0].kill();
    let _ = lost.await;
    cluster.frontends[0].restart().await;
    cluster.ready(0).await;

    let mut container = RawContainer::register(&cluster, "m").await;
    let (answer, rejected) = tokio::join!(cluster.predict_at(0, "m", json!({"input": [222]})), async {
        let batch = container.batch().await;
        assert_ne!(batch.id, former.id);
        container.answer(former.id, &[111.0]);
        container.rejected().await
    });
    assert_eq!(answer["default"], true, "{answer}");
    assert!(rejected.0.contains("which it does not hold"), "{rejected:?}");
}
