//! Values that JSON lacks or that clients misread, from a request through a model and back.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::time::Duration;

use clipper_integration_tests::container::Serves;
use clipper_integration_tests::{Cluster, Container};
use serde_json::{Value, json};

const OBJECTIVE: Duration = Duration::from_secs(20);

/// Serves a function of the Python models under its name.
async fn serve(cluster: &Cluster, function: &str, input_type: &str) -> Container {
    cluster.serve(function, input_type, OBJECTIVE).await;
    let serves = Serves { model: function, version: "1", input_type };
    let container = Container::python(&format!("served:{function}"), cluster, serves);
    cluster.connected(function, 1).await;
    container
}

/// The outputs of a request's text; none is the default output.
async fn outputs(cluster: &Cluster, app: &str, body: &str) -> Vec<Value> {
    let answer = cluster.ask(0, app, body).await.json();
    let answers = answer["batch_predictions"].as_array().cloned().unwrap_or_else(|| vec![answer]);
    let outputs = answers.into_iter().map(|answer| {
        assert_eq!(answer["default"], false, "{answer}");
        answer["output"].clone()
    });
    outputs.collect()
}

#[tokio::test]
async fn missing_and_infinite_numbers_reach_the_model() {
    for input_type in ["doubles", "floats"] {
        let cluster = Cluster::start().await;
        let _container = serve(&cluster, "told_apart", input_type).await;
        let expected = json!(["missing", 1.5, "missing", "infinite", "-infinite"]);
        let input = "[null, 1.5, NaN, Infinity, -Infinity]";
        let one = outputs(&cluster, "told_apart", &format!("\u{feff}{{\"input\": {input}}}")).await;
        assert_eq!(one, std::slice::from_ref(&expected));
        let body = format!("{{\"input_batch\": [{input}, [null], {input}]}}");
        let many = outputs(&cluster, "told_apart", &body).await;
        assert_eq!(many, [expected.clone(), json!(["missing"]), expected]);
    }
}

#[tokio::test]
async fn what_a_model_has_masked_is_null() {
    let cluster = Cluster::start().await;
    let _container = serve(&cluster, "masked_integers", "doubles").await;
    let body = r#"{"input_batch": [[1, -2, 3], [-1, -1, -1], [1, 2, 3]]}"#;
    let expected = [json!([1, null, 3]), json!([null, null, null]), json!([1, 2, 3])];
    assert_eq!(outputs(&cluster, "masked_integers", body).await, expected);
}

#[tokio::test]
async fn a_number_that_clients_would_take_for_infinite_is_handed_out_as_a_text() {
    let cluster = Cluster::start().await;
    let _container = serve(&cluster, "shouted", "strings").await;
    let body = r#"{"input_batch": ["1e999", "[1, -1e400]", "1e3", "9007199254740993"]}"#;
    let expected = [json!("1E999"), json!("[1, -1E400]"), json!(1000.0), json!(9_007_199_254_740_993_u64)];
    assert_eq!(outputs(&cluster, "shouted", body).await, expected);
}

#[tokio::test]
async fn an_output_that_cannot_be_encoded_costs_its_own_query_only() {
    let cluster = Cluster::start().await;
    let container = serve(&cluster, "half_a_pair_of_bad", "strings").await;
    let texts: Vec<_> = (0..32).map(|index| if index % 8 == 3 { "bad" } else { "good" }).collect();
    let answer = cluster.predict("half_a_pair_of_bad", json!({"input_batch": texts})).await;
    for (text, answer) in texts.iter().zip(answer["batch_predictions"].as_array().unwrap()) {
        if *text == "good" {
            assert_eq!((&answer["default"], &answer["output"]), (&json!(false), &json!("good")), "{answer}");
        } else {
            assert_eq!(answer["default_reason"], "container_error", "{answer}");
            let explanation = answer["default_explanation"].as_str().unwrap();
            assert!(explanation.contains("surrogates not allowed"), "{explanation}");
        }
    }
    assert!(container.log().contains("the output, of type str, cannot be sent"));
}
