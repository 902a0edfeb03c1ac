//! Several frontends of one management.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::collections::HashSet;
use std::time::Duration;

use clipper_integration_tests::container::Serves;
use clipper_integration_tests::{Cluster, Container, Load};
use serde_json::json;

const OBJECTIVE: Duration = Duration::from_secs(20);

const M: Serves<'_> = Serves { model: "m", version: "1", input_type: "doubles" };

/// One container of each SDK, both told of the first frontend only.
fn containers(cluster: &Cluster) -> [Container; 2] {
    [Container::rust("sum", cluster, M), Container::python("sum", cluster, M)]
}

#[tokio::test]
async fn containers_find_every_frontend_and_all_answer() {
    let cluster = Cluster::split(2).await;
    cluster.serve("m", "doubles", OBJECTIVE).await;
    for container in containers(&cluster) {
        for frontend in 0..2 {
            let answer = cluster.served(frontend, "m", json!({"input": [1, 2]})).await;
            assert_eq!(answer["output"], 3.0, "{answer}");
        }
        drop(container);
    }
}

#[tokio::test]
async fn the_other_frontend_goes_on_when_one_is_killed() {
    let mut cluster = Cluster::split(2).await;
    cluster.serve("m", "doubles", OBJECTIVE).await;
    let _containers = containers(&cluster);
    for frontend in 0..2 {
        cluster.served(frontend, "m", json!({"input": [1]})).await;
    }
    let load = Load::start(&cluster, 1, "m", &json!({"input": [1, 2]}), 2);
    load.answered(50).await;
    // It is the one that the containers were told of.
    cluster.frontends[0].kill();
    load.answered(200).await;
    load.finish().await.assert_flawless();
}

#[tokio::test]
async fn a_frontend_that_joins_later_gets_the_containers_of_the_others() {
    let mut cluster = Cluster::split(2).await;
    cluster.serve("m", "doubles", OBJECTIVE).await;
    for example in ["sum", "noop"] {
        cluster.add_model(example, "1", "doubles").await;
        cluster.add_app(example, "doubles", OBJECTIVE, true).await;
    }
    let _rust = Container::rust("sum", &cluster, Serves { model: "sum", ..M });
    let _python = Container::python("noop", &cluster, Serves { model: "noop", ..M });
    for frontend in 0..2 {
        cluster.served(frontend, "sum", json!({"input": [1]})).await;
        cluster.served(frontend, "noop", json!({"input": [1]})).await;
    }
    // The third one is heard of through the second, as the first, of which the containers were told, is gone.
    cluster.frontends[0].kill();
    cluster.add_frontend().await;
    assert_eq!(cluster.served(2, "sum", json!({"input": [1, 2]})).await["output"], 3.0);
    assert_eq!(cluster.served(2, "noop", json!({"input": [1, 2]})).await["output"], 0);
}

#[tokio::test]
async fn deployed_replicas_are_ready_when_every_frontend_has_them() {
    let cluster = Cluster::split(2).await;
    cluster.deploy("sum", "m", "1", "doubles", 2).await;
    cluster.add_app("m", "doubles", OBJECTIVE, true).await;
    for frontend in 0..2 {
        let answer = cluster.predict_at(frontend, "m", json!({"input": [1, 2]})).await;
        assert_eq!(answer["output"], 3.0, "frontend {frontend}: {answer}");
    }
}

#[tokio::test]
async fn a_change_is_served_by_every_frontend_when_it_is_answered() {
    let cluster = Cluster::split(2).await;
    for number in 0..10 {
        let name = format!("app-{number}");
        cluster.add_app(&name, "doubles", OBJECTIVE, false).await;
        for frontend in 0..2 {
            assert_eq!(cluster.ask(frontend, &name, json!({"input": [1]})).await.status, 200);
        }
        cluster.must("delete_app", json!({"name": name})).await;
        for frontend in 0..2 {
            assert_eq!(cluster.ask(frontend, &name, json!({"input": [1]})).await.status, 404);
        }
    }
}

#[tokio::test]
async fn query_ids_are_unique_across_frontends_and_restarts() {
    let mut cluster = Cluster::split(2).await;
    cluster.add_app("alone", "doubles", OBJECTIVE, false).await;
    let mut ids = HashSet::new();
    for round in 0..6 {
        for frontend in 0..2 {
            let body = json!({"input_batch": vec![[1]; 20]});
            let answer = cluster.predict_at(frontend, "alone", body).await;
            for prediction in answer["batch_predictions"].as_array().unwrap() {
                let id = prediction["query_id"].as_u64().unwrap();
                assert!(ids.insert(id), "{id} was given twice");
                assert!(id < 1 << 53, "{id}");
            }
        }
        match round {
            0..2 => cluster.frontends[0].kill(),
            2..4 => cluster.main.kill(),
            _ => {
                cluster.main.kill();
                cluster.frontends[1].kill();
            }
        }
        for server in std::iter::once(&mut cluster.main).chain(&mut cluster.frontends) {
            if !server.is_running() {
                server.restart().await;
            }
        }
        for frontend in 0..2 {
            cluster.ready(frontend).await;
        }
    }
}
