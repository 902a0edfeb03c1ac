//! Containers that die or stop while they hold queries.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::time::{Duration, Instant};

use clipper_integration_tests::container::Serves;
use clipper_integration_tests::{Cluster, Container, Load, RawContainer, eventually};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// So long that nobody waits it out by accident.
const OBJECTIVE: Duration = Duration::from_secs(20);

const M: Serves<'_> = Serves { model: "m", version: "1", input_type: "doubles" };

/// A cluster with so many Python containers of `slow_sum`.
async fn slow_cluster(containers: usize) -> (Cluster, Vec<Container>) {
    let cluster = Cluster::start().await;
    cluster.serve_batches_of(4, "m", "doubles", OBJECTIVE).await;
    let containers: Vec<_> =
        (0..containers).map(|_| Container::python("served:slow_sum", &cluster, M)).collect();
    cluster.connected("m", containers.len()).await;
    (cluster, containers)
}

/// Inputs of which every batch takes a second, and whose sums are their numbers.
fn slow_inputs(count: u32) -> Vec<Value> {
    (0..count).map(|number| json!([1, number])).collect()
}

fn predictions(answer: &Value) -> &Vec<Value> {
    answer["batch_predictions"].as_array().unwrap_or_else(|| panic!("{answer}"))
}

#[tokio::test]
async fn what_a_killed_container_held_is_answered_by_another_replica() {
    let (cluster, containers) = slow_cluster(2).await;
    let body = json!({"input_batch": slow_inputs(8)});
    let (answer, ()) = tokio::join!(cluster.predict("m", body), async {
        eventually("both compute", async || containers.iter().all(|one| !one.batches().is_empty())).await;
        containers[0].signal(Signal::SIGKILL);
    });
    for (number, prediction) in (0..).zip(predictions(&answer)) {
        assert_eq!(prediction["output"], f64::from(number), "{answer}");
    }
    assert_eq!(predictions(&answer).len(), 8);
    cluster.connected("m", 1).await;
}

#[tokio::test]
async fn what_a_lone_container_held_when_it_was_killed_is_answered_at_once() {
    let (cluster, containers) = slow_cluster(1).await;
    // At most four are with the container, and the others wait for it.
    let mut inputs = slow_inputs(8);
    inputs.iter_mut().for_each(|input| input[0] = json!(60));
    let mut killed = Instant::now();
    let (answer, ()) = tokio::join!(cluster.predict("m", json!({"input_batch": inputs})), async {
        eventually("it computes", async || !containers[0].batches().is_empty()).await;
        containers[0].signal(Signal::SIGKILL);
        killed = Instant::now();
    });
    assert!(killed.elapsed() < OBJECTIVE / 4, "{:?}", killed.elapsed());
    let with_reason = |reason: &str| {
        predictions(&answer).iter().filter(|prediction| prediction["default_reason"] == reason).count()
    };
    let held = containers[0].batches()[0];
    assert_eq!(
        (with_reason("container_error"), with_reason("no_connected_replicas")),
        (held, 8 - held),
        "{answer}"
    );
    let lost =
        predictions(&answer).iter().find(|prediction| prediction["default_reason"] == "container_error");
    let explanation = lost.unwrap()["default_explanation"].as_str().unwrap();
    assert!(explanation.contains("was lost while it held this query"), "{explanation}");

    let started = Instant::now();
    let answer = cluster.predict("m", json!({"input": [0, 1]})).await;
    assert_eq!(answer["default_reason"], "no_connected_replicas", "{answer}");
    assert!(started.elapsed() < OBJECTIVE / 4, "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_container_killed_under_load_costs_no_request_while_another_serves() {
    let cluster = Cluster::start().await;
    cluster.serve("m", "doubles", OBJECTIVE).await;
    let serve = || Container::rust("sum", &cluster, M);
    let _stays = serve();
    cluster.served(0, "m", json!({"input": [1]})).await;
    let load = Load::start(&cluster, 0, "m", &json!({"input": [1, 2]}), 4);
    for _ in 0..3 {
        let dies = serve();
        cluster.connected("m", 2).await;
        load.answered(50).await;
        dies.signal(Signal::SIGKILL);
        cluster.connected("m", 1).await;
        load.answered(50).await;
    }
    load.finish().await.assert_flawless();
}

#[tokio::test]
async fn a_container_that_leaves_in_order_finishes_its_batch() {
    let (cluster, mut containers) = slow_cluster(1).await;
    let (answer, ()) = tokio::join!(cluster.predict("m", json!({"input_batch": slow_inputs(4)})), async {
        eventually("it computes", async || !containers[0].batches().is_empty()).await;
        containers[0].signal(Signal::SIGTERM);
        assert!(containers[0].end().await.success());
    });
    assert!(predictions(&answer).iter().all(|prediction| prediction["default"] == false), "{answer}");
    cluster.connected("m", 0).await;
}

#[tokio::test]
async fn a_stopped_process_is_noticed_and_its_work_goes_to_another() {
    let cluster = Cluster::start().await;
    cluster.serve("m", "doubles", Duration::from_secs(60)).await;
    let stopped = Container::python("served:slow_sum", &cluster, M);
    cluster.connected("m", 1).await;
    let mut other = None;
    let (answer, ()) = tokio::join!(cluster.predict("m", json!({"input": [1, 4]})), async {
        eventually("it computes", async || !stopped.batches().is_empty()).await;
        stopped.signal(Signal::SIGSTOP);
        other = Some(Container::python("served:slow_sum", &cluster, M));
        cluster.connected("m", 2).await;
        cluster.connected("m", 1).await;
    });
    assert_eq!(answer["output"], 4.0, "{answer}");
    // It wakes up as a stranger, and is welcome again.
    stopped.signal(Signal::SIGCONT);
    cluster.connected("m", 2).await;
}

#[tokio::test]
async fn a_silent_container_without_work_stays_and_others_are_asked_first() {
    let cluster = Cluster::start().await;
    cluster.serve("m", "doubles", OBJECTIVE).await;
    // Its socket lives and answers on ZeroMQ's level; it says nothing itself, as nobody receives from it.
    let mut silent = RawContainer::register(&cluster, "m").await;
    // Longer than the timeout of the containers, which is 5 s.
    tokio::time::sleep(Duration::from_secs(8)).await;
    let other = Container::rust("sum", &cluster, M);
    cluster.connected("m", 2).await;
    for number in 0..50 {
        let answer = cluster.predict("m", json!({"input": [1, number]})).await;
        assert_eq!(answer["output"], f64::from(number) + 1.0, "{answer}");
    }
    assert_eq!(silent.try_receive(), None, "others are asked first");
    drop(other);
    cluster.connected("m", 1).await;
    let (answer, _) = tokio::join!(cluster.predict("m", json!({"input": [7, 7]})), silent.answer_next(2.5));
    assert_eq!(answer["output"], 2.5, "{answer}");
}

#[tokio::test]
async fn a_query_that_kills_its_containers_is_given_up_and_others_are_answered() {
    let cluster = Cluster::start().await;
    cluster.serve("m", "doubles", OBJECTIVE).await;
    let mut containers = Vec::new();
    for _ in 0..4 {
        containers.push(RawContainer::register(&cluster, "m").await);
    }
    cluster.connected("m", 4).await;
    let (answer, ()) = tokio::join!(cluster.predict("m", json!({"input": [666]})), async {
        for _ in 0..2 {
            eventually("a container holds the query and dies of it", async || {
                let held = containers.iter_mut().position(|container| container.try_receive().is_some());
                held.map(|index| containers.remove(index)).is_some()
            })
            .await;
        }
    });
    assert_eq!(answer["default_reason"], "container_error", "{answer}");
    let explanation = answer["default_explanation"].as_str().unwrap();
    let expected = "was lost while it held this query alone, as were 1 before it: its connection broke";
    assert!(explanation.contains(expected), "{answer}");
    containers.truncate(1);
    cluster.connected("m", 1).await;
    let mut last = containers.pop().unwrap();
    let (answer, ()) = tokio::join!(cluster.predict("m", json!({"input": [1]})), async {
        let batch = last.batch().await;
        last.answer(batch.id, &[1.0]);
    });
    assert_eq!(answer["output"], 1.0, "{answer}");
}
