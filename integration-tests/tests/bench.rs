//! `clipper bench` against a real cluster: what it counts is what the cluster did.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::time::Duration;

use clipper_integration_tests::{Cluster, program};
use serde_json::{Value, json};

const OBJECTIVE: Duration = Duration::from_secs(20);

/// Runs `clipper bench` on an application, for a second unless the flags say otherwise; its JSON.
async fn bench(cluster: &Cluster, app: &str, flags: &[&str]) -> Value {
    let url = format!("{}/{app}/predict", cluster.query_url(0));
    let file = cluster.directory().join("result.json");
    let output = tokio::process::Command::from(program::isolated(program::clipper()))
        .args(["bench", &url, "--warm-up", "100ms", "--objective", "20s", "--timeout", "30s"])
        .args(["--connections", "8", "--json", &file.display().to_string()])
        .args(if flags.contains(&"--duration") { &[][..] } else { &["--duration", "1s"] })
        .args(flags)
        .current_dir(cluster.directory())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

async fn cluster_with_sum() -> Cluster {
    let cluster = Cluster::start().await;
    cluster.deploy("sum", "m", "1", "doubles", 1).await;
    cluster.add_app("m", "doubles", OBJECTIVE, true).await;
    cluster.served(0, "m", json!({"input": [1, 2]})).await;
    cluster
}

#[tokio::test]
async fn a_closed_loop_counts_the_answers_of_the_model() {
    let cluster = cluster_with_sum().await;
    let result = bench(&cluster, "m", &["--unique"]).await;
    let requests = &result["requests"];
    assert!(requests["total"].as_u64().unwrap() > 0, "{result}");
    assert_eq!(requests["total"], requests["good"], "{requests}");
    assert_eq!((&result["mode"], &result["good_share"]), (&json!("closed"), &json!(1.0)));
    assert!(result["latency_ms"]["p50"].as_f64().unwrap() > 0.0, "{result}");
    assert!(result["throughput_per_second"].as_f64().unwrap() > 0.0, "{result}");
}

#[tokio::test]
async fn an_open_loop_sends_what_its_schedule_says() {
    let cluster = cluster_with_sum().await;
    let flags =
        ["--rate", "100", "--arrivals", "constant", "--body", r#"{"input_batch": [{input}, {input}]}"#];
    let result = bench(&cluster, "m", &flags).await;
    // The borders of the second may fall on either side of a request.
    let total = result["requests"]["total"].as_u64().unwrap();
    assert!((99..=101).contains(&total), "{result}");
    assert_eq!(result["requests"]["good"], total, "{result}");
}

#[tokio::test]
async fn defaults_and_refusals_are_counted_by_their_kind() {
    let cluster = Cluster::start().await;
    cluster.add_app("alone", "doubles", OBJECTIVE, false).await;
    let result = bench(&cluster, "alone", &[]).await;
    let requests = &result["requests"];
    assert_eq!(requests["good"], 0, "{requests}");
    assert_eq!(requests["defaults"]["no_linked_models"], requests["answered"], "{requests}");

    let result = bench(&cluster, "alone", &["--input-type", "strings"]).await;
    let requests = &result["requests"];
    assert!(requests["statuses"]["400"].as_u64().unwrap() > 0, "{requests}");
    assert_eq!(requests["answered"], 0, "{requests}");
    assert_eq!(result["latency_ms"], Value::Null);
}

#[tokio::test]
async fn a_search_tells_the_highest_rate_and_every_round() {
    let cluster = cluster_with_sum().await;
    let plot = cluster.directory().join("plot.svg").display().to_string();
    let hdr = cluster.directory().join("latency.hgrm").display().to_string();
    // A share of none is met by any rate, so that the search ends after as many doublings as it makes at most.
    let flags =
        ["--find-rate", "--share", "0", "--rate", "1", "--duration", "100ms", "--plot", &plot, "--hdr", &hdr];
    let result = bench(&cluster, "m", &flags).await;
    let rounds = result["rounds"].as_array().unwrap();
    let rates: Vec<f64> = rounds.iter().map(|round| round["rate"].as_f64().unwrap()).collect();
    assert!(rates.windows(2).all(|pair| pair[1] == 2.0 * pair[0]), "{rates:?}");
    assert_eq!(result["highest_rate"].as_f64(), rates.last().copied());
    assert!(std::fs::read_to_string(plot).unwrap().contains("highest rate"));
    assert!(std::fs::read_to_string(hdr).unwrap().contains("Total count"));
}
