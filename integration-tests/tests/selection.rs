//! Applications that select among several models.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::time::{Duration, Instant};

use clipper_integration_tests::{Automaton, Cluster, eventually_some};
use serde_json::{Value, json};

/// So long that nobody waits it out by accident.
const OBJECTIVE: Duration = Duration::from_secs(20);

/// Waited out.
const SHORT: Duration = Duration::from_secs(1);

/// A cluster with the models `a`, `b` and `c`, each with a container. The outputs of `c` are larger by 1000.
async fn three_models() -> (Cluster, [Automaton; 3]) {
    let cluster = Cluster::start().await;
    for model in ["a", "b", "c"] {
        cluster.add_model(model, "1", "doubles").await;
    }
    let models = [
        Automaton::serve(&cluster, "a").await,
        Automaton::serve(&cluster, "b").await,
        Automaton::serve(&cluster, "c").await,
    ];
    models[2].add(1000.0);
    (cluster, models)
}

/// Registers an application over some models, with the settings of its selection.
async fn add_app(cluster: &Cluster, name: &str, models: &[&str], objective: Duration, selection: Value) {
    let mut body = json!({
        "name": name, "input_type": "doubles", "default_output": "\"default\"", "linked_models": models,
        "latency_slo_micros": u64::try_from(objective.as_micros()).unwrap(),
    });
    body.as_object_mut().unwrap().extend(selection.as_object().unwrap().clone());
    cluster.must("add_app", body).await;
}

fn votes() -> Value {
    json!({"selection_policy": "majority_vote", "output_kind": "labels"})
}

/// Waits until as many models answer.
async fn answered_by(cluster: &Cluster, app: &str, count: usize) -> Value {
    eventually_some(&format!("{count} models answer {app}"), async || {
        let answer = cluster.predict(app, json!({"input": [1]})).await;
        (answer["models"].as_array()?.len() == count).then_some(answer)
    })
    .await
}

#[tokio::test]
async fn models_vote_and_the_confidence_is_the_part_that_agrees() {
    let (cluster, _models) = three_models().await;
    add_app(&cluster, "vote", &["a", "b", "c"], OBJECTIVE, votes()).await;
    let answer = cluster.served(0, "vote", json!({"input": [1, 2]})).await;
    assert_eq!((&answer["output"], &answer["confidence"]), (&json!(3.0), &json!(0.6667)), "{answer}");
    let models: Vec<_> = answer["models"].as_array().unwrap().iter().take(2).collect();
    assert_eq!(models, ["a", "b"], "the third may not have been waited for");

    let answers = cluster.predict("vote", json!({"input_batch": [[1], [2], [3]], "uid": "anna"})).await;
    let answers = answers["batch_predictions"].as_array().unwrap();
    let outputs: Vec<_> = answers.iter().map(|answer| answer["output"].as_f64().unwrap()).collect();
    assert_eq!(outputs, [1.0, 2.0, 3.0], "{answers:?}");
}

#[tokio::test]
async fn an_ensemble_averages_numbers_of_all_its_models_also_of_those_that_are_linked_later() {
    let (cluster, _models) = three_models().await;
    add_app(
        &cluster,
        "mix",
        &["a", "b"],
        OBJECTIVE,
        json!({"selection_policy": {"policy": "exp4", "eta": 0.1}}),
    )
    .await;
    let answer = answered_by(&cluster, "mix", 2).await;
    assert_eq!((&answer["output"], &answer["confidence"]), (&json!(1.0), &json!(1.0)), "{answer}");
    cluster.must("add_model_links", json!({"app_name": "mix", "model_names": ["c"]})).await;
    let answer = answered_by(&cluster, "mix", 3).await;
    let mean = (1.0 + 1.0 + 1001.0) / 3.0;
    assert!((answer["output"].as_f64().unwrap() - mean).abs() < 1e-6, "{answer}");
    assert!(answer["confidence"].as_f64().unwrap() < 0.9, "they do not agree: {answer}");
}

#[tokio::test]
async fn a_straggler_among_three_costs_neither_the_answer_nor_more_than_the_objective() {
    let (cluster, models) = three_models().await;
    add_app(&cluster, "vote", &["a", "b", "c"], OBJECTIVE, votes()).await;
    add_app(&cluster, "mean", &["a", "b", "c"], SHORT, json!({"selection_policy": "mean"})).await;
    answered_by(&cluster, "mean", 3).await;

    models[2].hold();
    let begun = Instant::now();
    let answer = cluster.predict("vote", json!({"input": [1]})).await;
    assert!(begun.elapsed() < OBJECTIVE / 2, "two that agree need no third");
    assert_eq!((&answer["output"], &answer["models"]), (&json!(1.0), &json!(["a", "b"])), "{answer}");

    let begun = Instant::now();
    let answer = cluster.predict("mean", json!({"input": [2]})).await;
    assert!(begun.elapsed() < OBJECTIVE / 2);
    assert_eq!((&answer["output"], &answer["models"]), (&json!(2.0), &json!(["a", "b"])), "{answer}");
    assert_eq!((&answer["default"], &answer["confidence"]), (&json!(false), &json!(0.6667)), "{answer}");

    models[2].answer_after(Duration::ZERO);
    answered_by(&cluster, "mean", 3).await;
}

#[tokio::test]
async fn an_answer_below_the_threshold_is_the_default_and_says_how_sure_it_was() {
    let (cluster, models) = three_models().await;
    let mut selection = votes();
    selection["confidence_threshold"] = json!(0.9);
    add_app(&cluster, "sure", &["a", "b", "c"], OBJECTIVE, selection).await;
    let answer = answered_by(&cluster, "sure", 3).await;
    assert_eq!((&answer["output"], &answer["default"]), (&json!("default"), &json!(true)), "{answer}");
    assert_eq!(
        (&answer["default_reason"], &answer["confidence"]),
        (&json!("low_confidence"), &json!(0.6667))
    );
    let words = answer["default_explanation"].as_str().unwrap();
    assert!(words.contains("0.6667") && words.contains("0.9"), "{answer}");
    let series = "clipper_application_answers_total{application=\"sure\",outcome=\"low_confidence\"}";
    assert!(cluster.metric(0, series).await.unwrap() >= 1.0);

    models[2].add(0.0);
    let answer = cluster.served(0, "sure", json!({"input": [5]})).await;
    assert_eq!((&answer["output"], &answer["confidence"]), (&json!(5.0), &json!(1.0)), "{answer}");
}

#[tokio::test]
async fn models_that_all_fail_leave_the_default_output_with_their_reason() {
    let (cluster, models) = three_models().await;
    add_app(&cluster, "vote", &["a", "b", "c"], OBJECTIVE, votes()).await;
    models.iter().for_each(|model| model.fail("out of order"));
    let answer = cluster.predict("vote", json!({"input": [7]})).await;
    assert_eq!(answer["default_reason"], "container_error", "{answer}");
    assert!(answer["default_explanation"].as_str().unwrap().contains("out of order"), "{answer}");
    assert_eq!((&answer["confidence"], &answer["models"]), (&json!(0.0), &json!([])), "{answer}");
    let series = "clipper_application_asked_models_total{application=\"vote\",model=\"b\",result=\"failed\"}";
    assert!(cluster.metric(0, series).await.unwrap() >= 1.0);
}

#[tokio::test]
async fn a_bandit_answers_with_the_output_of_the_one_model_that_it_asks() {
    let (cluster, models) = three_models().await;
    add_app(&cluster, "bandit", &["a", "b", "c"], OBJECTIVE, json!({"selection_policy": "exp3"})).await;
    let before: usize = models.iter().map(|model| model.batches().concat().len()).sum();
    for number in 0..10 {
        let answer = cluster.served(0, "bandit", json!({"input": [number]})).await;
        let asked = answer["models"].as_array().unwrap();
        assert_eq!(asked.len(), 1, "{answer}");
        let expected = f64::from(number) + if asked[0] == "c" { 1000.0 } else { 0.0 };
        assert_eq!((&answer["output"], &answer["confidence"]), (&json!(expected), &json!(0.5)), "{answer}");
    }
    let after: usize = models.iter().map(|model| model.batches().concat().len()).sum();
    assert_eq!(after - before, 10, "nobody else was asked");
}

#[tokio::test]
async fn what_does_not_fit_several_models_or_the_policy_is_refused_with_what_was_expected() {
    let (cluster, _models) = three_models().await;
    add_app(&cluster, "vote", &["a", "b"], OBJECTIVE, votes()).await;
    let pinned = json!({"input": [1], "version": "1"});
    let cause = cluster.ask(0, "vote", &pinned).await.refusal(400, "Query processing error");
    assert!(cause.contains("'version'") && cause.contains("2 are linked"), "{cause}");
    add_app(&cluster, "one", &["a"], OBJECTIVE, votes()).await;
    let answer = cluster.served(0, "one", pinned).await;
    assert_eq!((&answer["models"], &answer["confidence"]), (&json!(["a"]), &json!(1.0)), "{answer}");

    let contextual = json!({"selection_policy": {"policy": "linucb", "dimensions": 2}});
    add_app(&cluster, "contextual", &["a", "b"], OBJECTIVE, contextual).await;
    for context in [json!([1]), json!([1, 2, 3])] {
        let answer = cluster.ask(0, "contextual", json!({"input": [1], "context": context})).await;
        let cause = answer.refusal(400, "Query processing error");
        assert!(cause.contains("context"), "{cause}");
    }
    cluster.served(0, "contextual", json!({"input": [1], "context": [0.5, 1]})).await;
}

#[tokio::test]
async fn an_application_without_a_policy_says_nothing_of_confidence() {
    let (cluster, _models) = three_models().await;
    add_app(&cluster, "plain", &["a"], OBJECTIVE, json!({})).await;
    let answer = cluster.served(0, "plain", json!({"input": [1], "uid": 7, "context": [1]})).await;
    assert_eq!(answer["output"], 1.0, "{answer}");
    assert!(answer.get("confidence").is_none() && answer.get("models").is_none(), "{answer}");
}
