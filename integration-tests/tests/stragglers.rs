//! Replicas that let their queries wait, or are slower than others.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::time::{Duration, Instant};

use clipper_integration_tests::{Automaton, Cluster, Load, eventually};
use serde_json::json;

/// So long that nobody waits it out by accident.
const OBJECTIVE: Duration = Duration::from_secs(20);

/// A cluster with model `m`, and two containers of which the controllers know how long they take: 20 ms. The outputs of the
/// second are larger by 1000.
async fn two_replicas() -> (Cluster, [Automaton; 2]) {
    let cluster = Cluster::start().await;
    cluster.serve("m", "doubles", OBJECTIVE).await;
    let replicas = [Automaton::serve(&cluster, "m").await, Automaton::serve(&cluster, "m").await];
    replicas[1].add(1000.0);
    replicas.iter().for_each(|replica| replica.answer_after(Duration::from_millis(20)));
    cluster.connected("m", 2).await;
    let load = Load::start(&cluster, 0, "m", &json!({"input": [0]}), 4);
    eventually("both have answered some", async || replicas.iter().all(|one| one.batches().len() > 10)).await;
    load.finish().await.assert_flawless();
    (cluster, replicas)
}

#[tokio::test]
async fn what_a_stalled_replica_holds_is_answered_by_another_within_the_objective() {
    let (cluster, replicas) = two_replicas().await;
    for stalled in [0, 1] {
        let [staller, other] = [&replicas[stalled], &replicas[1 - stalled]];
        staller.hold();
        let held_before = staller.batches().len();
        let load = Load::start(&cluster, 0, "m", &json!({"input": [1]}), 4);
        let held = || staller.batches().len() - held_before;
        eventually("it holds some", async || held() > 0).await;
        load.answered(50).await;
        // Those who wait for it among them.
        let outcomes = load.finish().await;
        outcomes.assert_flawless();
        let others = if stalled == 0 { "1001.0" } else { "1.0" };
        assert_eq!(outcomes.outputs.keys().collect::<Vec<_>>(), [others]);
        assert!(held() <= 2, "it is given nothing while it stalls, and held {}", held());

        // Its late answers are of no effect, and it is welcome again.
        let answered_by_other = other.batches().len();
        staller.answer_after(Duration::from_millis(20));
        let load = Load::start(&cluster, 0, "m", &json!({"input": [2]}), 4);
        eventually("both are used", async || held() > 5 && other.batches().len() > answered_by_other + 5)
            .await;
        let outcomes = load.finish().await;
        outcomes.assert_flawless();
        assert_eq!(outcomes.outputs.keys().collect::<Vec<_>>(), ["1002.0", "2.0"]);
    }
    cluster.connected("m", 2).await;
}

#[tokio::test]
async fn what_a_replica_holds_that_never_answers_from_the_beginning_is_answered_by_another() {
    let cluster = Cluster::start().await;
    cluster.serve("m", "doubles", Duration::from_secs(4)).await;
    let silent = Automaton::serve(&cluster, "m").await;
    silent.hold();
    let other = Automaton::serve(&cluster, "m").await;
    cluster.connected("m", 2).await;
    let load = Load::start(&cluster, 0, "m", &json!({"input": [1]}), 4);
    eventually("both are given some", async || [&silent, &other].iter().all(|one| !one.batches().is_empty()))
        .await;
    load.answered(50).await;
    load.finish().await.assert_flawless();
    assert_eq!(silent.batches().len(), 1, "it is given nothing more");
}

#[tokio::test]
async fn the_queries_of_a_lone_replica_that_stalls_get_the_default_and_its_late_answer_harms_nobody() {
    let cluster = Cluster::start().await;
    cluster.serve("m", "doubles", OBJECTIVE).await;
    let replica = Automaton::serve(&cluster, "m").await;
    let load = Load::start(&cluster, 0, "m", &json!({"input": [0]}), 2);
    load.answered(20).await;
    load.finish().await.assert_flawless();

    replica.hold();
    let started = Instant::now();
    let objective = Duration::from_secs(1);
    let body = json!({"input_batch": [[1], [2], [3]], "latency_slo_micros": 1_000_000});
    let answer = cluster.predict("m", body).await;
    let took = started.elapsed();
    assert!(took >= objective && took < OBJECTIVE / 2, "{took:?}");
    for prediction in answer["batch_predictions"].as_array().unwrap() {
        assert_eq!(prediction["default_reason"], "deadline", "{answer}");
    }
    replica.answer_after(Duration::ZERO);
    let answer = cluster.served(0, "m", json!({"input": [4]})).await;
    assert_eq!(answer["output"], 4.0, "{answer}");
    let load = Load::start(&cluster, 0, "m", &json!({"input": [5]}), 2);
    load.answered(20).await;
    let outcomes = load.finish().await;
    outcomes.assert_flawless();
    assert_eq!(outcomes.outputs.keys().collect::<Vec<_>>(), ["5.0"]);
    cluster.connected("m", 1).await;
}

#[tokio::test]
async fn a_slow_replica_is_given_far_fewer_batches_than_a_fast_one_and_is_found_out_when_it_is_fast() {
    let (cluster, [fast, slow]) = two_replicas().await;
    fast.answer_after(Duration::from_millis(10));
    slow.answer_after(Duration::from_secs(1));
    let count = || [fast.batches().len(), slow.batches().len()];
    let load = Load::start(&cluster, 0, "m", &json!({"input": [1]}), 4);
    // It learns.
    let known = slow.batches().len();
    eventually("it is known to be slow", async || slow.batches().len() > known + 2).await;
    let before = count();
    load.answered(500).await;
    let [fast_batches, slow_batches] = [count()[0] - before[0], count()[1] - before[1]];
    assert!(fast_batches > 10 * slow_batches, "{fast_batches} and {slow_batches}");

    slow.answer_after(Duration::from_millis(10));
    let before = count();
    eventually("it takes part again", async || count()[1] > before[1] + 20).await;
    load.finish().await.assert_flawless();
}
