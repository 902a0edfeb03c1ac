//! Inputs that are to be computed in one batch.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::time::Duration;

use clipper_integration_tests::raw_container::numbers;
use clipper_integration_tests::{Automaton, Cluster, Load, RawContainer, eventually};
use clipper_rpc::message::Register;
use serde_json::{Value, json};

/// So long that nobody waits it out by accident.
const OBJECTIVE: Duration = Duration::from_secs(20);

/// As many different inputs.
fn inputs(count: u32) -> Vec<Vec<f64>> {
    (0..count).map(|number| vec![f64::from(number)]).collect()
}

fn together(count: u32) -> Value {
    json!({"input_batch": inputs(count), "keep_together": true})
}

fn outputs(answer: &Value) -> Vec<f64> {
    let answers = answer["batch_predictions"].as_array().unwrap_or_else(|| panic!("{answer}"));
    answers.iter().map(|one| one["output"].as_f64().unwrap_or_else(|| panic!("{answer}"))).collect()
}

#[tokio::test]
async fn inputs_that_are_kept_together_arrive_as_one_batch_where_others_are_spread() {
    let cluster = Cluster::start().await;
    cluster.serve("m", "doubles", OBJECTIVE).await;
    // Nothing is known of a container that has just come: it is given one input to learn from.
    for keep in [false, true] {
        let container = Automaton::serve(&cluster, "m").await;
        let body = json!({"input_batch": inputs(8), "keep_together": keep});
        let answer = cluster.predict("m", body).await;
        assert_eq!(outputs(&answer), inputs(8).concat(), "{answer}");
        let batches = container.batches();
        assert_eq!(batches.concat(), inputs(8), "in order");
        if keep {
            assert_eq!(batches.len(), 1, "{batches:?}");
        } else {
            assert_eq!(batches[0].len(), 1, "{batches:?}");
        }
        drop(container);
        cluster.connected("m", 0).await;
    }
}

#[tokio::test]
async fn two_requests_that_keep_together_are_not_torn_apart_by_each_other() {
    let cluster = Cluster::start().await;
    cluster.serve_batches_of(8, "m", "doubles", OBJECTIVE).await;
    let container = Automaton::serve(&cluster, "m").await;
    container.hold();
    let (_, one, two, ()) = tokio::join!(
        cluster.predict("m", json!({"input": [9]})),
        cluster.predict("m", together(5)),
        cluster.predict("m", together(6)),
        async {
            cluster.measures("clipper_application_in_flight_requests{application=\"m\"}", 3.0).await;
            container.answer_after(Duration::ZERO);
        }
    );
    assert_eq!(outputs(&one), inputs(5).concat());
    assert_eq!(outputs(&two), inputs(6).concat());
    for count in [5, 6] {
        let kept = inputs(count);
        let batches = container.batches();
        let whole = |batch: &Vec<Vec<f64>>| batch.windows(kept.len()).any(|window| window == kept);
        assert!(batches.iter().any(whole), "{batches:?}");
    }
}

#[tokio::test]
async fn more_inputs_than_fit_into_a_batch_cannot_be_kept_together() {
    let cluster = Cluster::start().await;
    cluster.serve_batches_of(4, "m", "doubles", OBJECTIVE).await;
    let container = Automaton::serve(&cluster, "m").await;
    let cause = cluster.ask(0, "m", together(5)).await.refusal(400, "Query processing error");
    assert_eq!(cause, "5 inputs cannot be kept together: a batch of model 'm:1' takes at most 4");
    assert_eq!(outputs(&cluster.predict("m", together(4)).await), inputs(4).concat());

    // One that takes fewer is not given them.
    let modest = Register { max_batch_size: Some(3), ..RawContainer::registration("m") };
    let modest = Automaton::register(&cluster, 0, modest).await;
    for _ in 0..5 {
        assert_eq!(outputs(&cluster.predict("m", together(4)).await), inputs(4).concat());
    }
    assert_eq!(modest.batches().len(), 0);
    drop(container);
    cluster.connected("m", 1).await;
    let cause = cluster.ask(0, "m", together(4)).await.refusal(400, "Query processing error");
    assert_eq!(cause, "4 inputs cannot be kept together: a batch of model 'm:1' takes at most 3");
    assert_eq!(outputs(&cluster.predict("m", together(3)).await), inputs(3).concat());
}

#[tokio::test]
async fn one_input_alone_cannot_be_kept_together() {
    let cluster = Cluster::start().await;
    cluster.serve("m", "doubles", OBJECTIVE).await;
    let cause = cluster.ask(0, "m", json!({"input": [1], "keep_together": true})).await;
    let cause = cause.refusal(400, "Json error");
    assert!(cause.contains("'keep_together' goes with 'input_batch' only"), "{cause}");
    let cause = cluster.ask(0, "m", json!({"input_batch": [[1]], "keep_together": "yes"})).await;
    let cause = cause.refusal(400, "Json error");
    assert!(cause.contains("keep_together"), "{cause}");
}

#[tokio::test]
async fn no_inputs_at_all_are_kept_together_without_effort() {
    let cluster = Cluster::start().await;
    cluster.serve("m", "doubles", OBJECTIVE).await;
    let _container = Automaton::serve(&cluster, "m").await;
    let answer = cluster.ask(0, "m", json!({"input_batch": [], "keep_together": true})).await;
    let plain = cluster.ask(0, "m", json!({"input_batch": []})).await;
    assert_eq!(answer, plain);
}

#[tokio::test]
async fn what_is_kept_together_is_computed_although_some_of_it_is_known() {
    let cluster = Cluster::start().await;
    let body = json!({"model_name": "m", "model_version": "1", "input_type": "doubles"});
    cluster.must("add_model", body).await;
    cluster.add_app("m", "doubles", OBJECTIVE, true).await;
    let container = Automaton::serve(&cluster, "m").await;
    for number in 0..3 {
        cluster.predict("m", json!({"input": [number]})).await;
    }
    cluster.predict("m", together(4)).await;
    assert_eq!(container.batches().last().unwrap(), &inputs(4));
}

#[tokio::test]
async fn inputs_that_are_kept_together_stay_so_when_their_container_dies() {
    let cluster = Cluster::start().await;
    cluster.serve("m", "doubles", OBJECTIVE).await;
    let mut dies = RawContainer::register(&cluster, "m").await;
    let (answer, batches) = tokio::join!(cluster.predict("m", together(8)), async {
        assert_eq!(numbers(&dies.batch().await), inputs(8));
        let heir = Automaton::serve(&cluster, "m").await;
        drop(dies);
        cluster.connected("m", 1).await;
        cluster.measures("clipper_application_in_flight_requests{application=\"m\"}", 0.0).await;
        heir.batches()
    });
    assert_eq!(outputs(&answer), inputs(8).concat());
    assert_eq!(batches, [inputs(8)]);
}

#[tokio::test]
async fn inputs_that_are_kept_together_stay_so_when_their_container_stalls() {
    let cluster = Cluster::start().await;
    cluster.serve("m", "doubles", OBJECTIVE).await;
    let replicas = [Automaton::serve(&cluster, "m").await, Automaton::serve(&cluster, "m").await];
    replicas.iter().for_each(|replica| replica.answer_after(Duration::from_millis(20)));
    cluster.connected("m", 2).await;
    let load = Load::start(&cluster, 0, "m", &json!({"input": [9]}), 4);
    eventually("both have answered some", async || replicas.iter().all(|one| one.batches().len() > 5)).await;
    load.finish().await.assert_flawless();

    replicas.iter().for_each(Automaton::hold);
    let (answer, ()) = tokio::join!(cluster.predict("m", together(4)), async {
        eventually("both hold all", async || {
            replicas.iter().all(|replica| replica.batches().last() == Some(&inputs(4)))
        })
        .await;
        replicas[1].answer_after(Duration::ZERO);
    });
    assert_eq!(outputs(&answer), inputs(4).concat());
}
