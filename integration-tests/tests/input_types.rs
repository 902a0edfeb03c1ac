//! Each input type from a REST request through a container and back, in both languages.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::time::Duration;

use clipper_integration_tests::container::Serves;
use clipper_integration_tests::{Cluster, Container};
use serde_json::{Value, json};

const OBJECTIVE: Duration = Duration::from_secs(20);

/// An input of each type, with its sum: of the elements, or the length of a text or of bytes.
fn sums() -> Vec<(&'static str, Value, f64)> {
    vec![
        ("ints", json!([1, -2, 2_147_483_647]), 2_147_483_646.0),
        ("floats", json!([0.5, 1, -0.25]), 1.25),
        ("doubles", json!([1.1, 2.2, 1e15]), 1.1 + 2.2 + 1e15),
        ("strings", json!("cheese"), 6.0),
        ("bytes", json!("AAECAwQ="), 5.0),
    ]
}

/// An empty input of each type.
fn empty(input_type: &str) -> Value {
    if ["strings", "bytes"].contains(&input_type) { json!("") } else { json!([]) }
}

async fn sums_are_right(cluster: &Cluster) {
    for (input_type, input, sum) in sums() {
        let answer = cluster.served(0, input_type, json!({"input": input})).await;
        assert_eq!(answer["output"].as_f64(), Some(sum), "{answer}");
        assert_eq!(answer["default"], false);
        assert!(answer["query_id"].is_u64());
        assert!(answer.get("default_reason").is_none() && answer.get("default_explanation").is_none());

        let empty = empty(input_type);
        let answer = cluster.predict(input_type, json!({"input": empty})).await;
        assert_eq!(answer["output"].as_f64(), Some(0.0), "{answer}");

        let answer = cluster.predict(input_type, json!({"input_batch": [input, empty, input]})).await;
        let outputs: Vec<_> = answer["batch_predictions"].as_array().unwrap().iter().collect();
        let outputs: Vec<_> = outputs.iter().map(|output| output["output"].as_f64()).collect();
        assert_eq!(outputs, [Some(sum), Some(0.0), Some(sum)], "{answer}");
    }
}

#[tokio::test]
async fn a_rust_container_answers_each_input_type() {
    let cluster = Cluster::start().await;
    let mut containers = Vec::new();
    for (input_type, ..) in sums() {
        cluster.serve(input_type, input_type, OBJECTIVE).await;
        let serves = Serves { model: input_type, version: "1", input_type };
        containers.push(Container::rust("sum", &cluster, serves));
    }
    sums_are_right(&cluster).await;
}

#[tokio::test]
async fn a_python_container_answers_each_input_type() {
    let cluster = Cluster::start().await;
    let mut containers = Vec::new();
    for (input_type, ..) in sums() {
        cluster.serve(input_type, input_type, OBJECTIVE).await;
        let serves = Serves { model: input_type, version: "1", input_type };
        containers.push(Container::python("sum", &cluster, serves));
    }
    sums_are_right(&cluster).await;
}
