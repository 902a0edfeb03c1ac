//! Clients that close their sending side before they are answered, as `nc -N` does.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::net::SocketAddr;
use std::time::Duration;

use clipper_integration_tests::{Automaton, Cluster};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const OBJECTIVE: Duration = Duration::from_secs(20);

/// Longer than it takes to notice that a client has closed its sending side.
const COMPUTING: Duration = Duration::from_millis(300);

/// What a client reads that sends bytes and then closes its sending side.
async fn half_closed(address: Option<SocketAddr>, bytes: String) -> String {
    let mut client = TcpStream::connect(address.unwrap()).await.unwrap();
    client.write_all(bytes.as_bytes()).await.unwrap();
    client.shutdown().await.unwrap();
    let mut answers = String::new();
    client.read_to_string(&mut answers).await.unwrap();
    answers
}

fn post(path: &str, version: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/{version}\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

async fn cluster() -> (Cluster, Automaton) {
    let cluster = Cluster::start().await;
    cluster.serve("m", "doubles", OBJECTIVE).await;
    let container = Automaton::serve(&cluster, "m").await;
    container.answer_after(COMPUTING);
    (cluster, container)
}

#[tokio::test]
async fn a_client_that_has_closed_its_sending_side_gets_its_prediction() {
    let (cluster, _container) = cluster().await;
    for version in ["1.1", "1.0"] {
        let body = json!({"input": [1.5, 2.0], "uid": version}).to_string();
        let request = post("/m/predict", version, &body);
        let answer = half_closed(cluster.main.addresses().query, request).await;
        assert!(answer.contains(" 200 OK\r\n") && answer.contains("\"output\":3.5"), "{answer}");
    }
}

#[tokio::test]
async fn all_predictions_that_were_asked_before_the_half_close_are_answered_in_order() {
    let (cluster, container) = cluster().await;
    container.answer_after(Duration::from_millis(10));
    let asked = (0..40).map(|input| post("/m/predict", "1.1", &json!({"input": [input]}).to_string()));
    let answers = half_closed(cluster.main.addresses().query, asked.collect()).await;
    let outputs: Vec<_> = answers.split("\"output\":").skip(1).collect();
    assert_eq!(outputs.len(), 40, "{answers}");
    for (input, output) in outputs.iter().enumerate() {
        assert!(output.starts_with(&format!("{input}.0,\"default\":false")), "{output}");
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_is_refused_by_both_servers() {
    let (cluster, _container) = cluster().await;
    let addresses = cluster.main.addresses();
    let broken = |path| post(path, "1.1", "{\"input\": [1, 2, 3]}").replace("3]}", "");
    let answer = half_closed(addresses.query, broken("/m/predict")).await;
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("Unreadable body"), "{answer}");
    let answer = half_closed(addresses.admin, broken("/admin/get_application")).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
}

#[tokio::test]
async fn management_answers_a_client_that_has_closed_its_sending_side() {
    let (cluster, _container) = cluster().await;
    let asked = post("/admin/get_all_applications", "1.1", "{\"verbose\": false}").repeat(40);
    let answers = half_closed(cluster.main.addresses().admin, asked).await;
    assert_eq!(answers.matches("[\"m\"]").count(), 40, "{answers}");
}

#[tokio::test]
async fn a_client_that_closes_its_connection_costs_one_computation_and_harms_nobody() {
    let (cluster, container) = cluster().await;
    let mut client = TcpStream::connect(cluster.main.addresses().query.unwrap()).await.unwrap();
    client.write_all(post("/m/predict", "1.1", "{\"input\": [666]}").as_bytes()).await.unwrap();
    drop(client);
    cluster.measures("clipper_application_answers_total{application=\"m\",outcome=\"predicted\"}", 1.0).await;
    assert_eq!(cluster.predict("m", json!({"input": [2]})).await["output"], 2.0);
    assert_eq!(container.batches().concat(), [[666.0], [2.0]]);
}
