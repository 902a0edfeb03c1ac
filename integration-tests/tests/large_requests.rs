//! Requests that are large, many, slow or unreadable: what they cost is bounded, and only their sender waits for it.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use bytes::Bytes;
use clipper_integration_tests::{Answer, Cluster, RawContainer, eventually};
use clipper_rpc::message::{FromContainer, Prediction};
use clipper_rpc::output::OutputBatch;
use serde_json::{Value, json};

const OBJECTIVE: Duration = Duration::from_secs(20);
/// So long that nobody waits it out, and so short that a test which must not pass ends.
const PATIENCE: Duration = Duration::from_secs(60);

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn query_address(cluster: &Cluster) -> SocketAddr {
    cluster.frontend(0).addresses().query.unwrap()
}

/// Sends bytes, as many as are taken, and reads until the server closes the connection in order.
fn raw(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = connect(address);
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap_or_else(|error| panic!("{error} after {answer:?}"));
    String::from_utf8(answer).unwrap()
}

/// Sends bytes in a thread of its own, as both servers run beside it.
async fn raw_answer(address: SocketAddr, request: Vec<u8>) -> String {
    tokio::task::spawn_blocking(move || raw(address, &request)).await.unwrap()
}

/// Megabytes of memory that a process has had at most.
fn peak_megabytes(cluster: &Cluster) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", cluster.frontend(0).pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() / 1024
}

async fn feedback(cluster: &Cluster, app: &str, body: &Value) -> Answer {
    let url = format!("{}/{app}/feedback", cluster.query_url(0));
    Answer::read(cluster.http().post(url).body(body.to_string()).send().await.unwrap()).await.unwrap()
}

#[tokio::test]
async fn a_request_of_millions_of_inputs_is_refused_and_takes_little_memory() {
    let cluster = Cluster::start().await;
    cluster.add_app("m", "doubles", OBJECTIVE, false).await;
    let before = peak_megabytes(&cluster);
    let body = format!("{{\"input_batch\": [{}[]]}}", "[],".repeat(5_500_000));
    let length = u64::try_from(body.len()).unwrap() >> 20;
    let cause = cluster.ask(0, "m", body).await.refusal(400, "Json error");
    assert!(
        cause.starts_with("input_batch: one request takes at most 10000 inputs (--max-inputs)"),
        "{cause}"
    );
    let grown = peak_megabytes(&cluster) - before;
    assert!(grown < 20 * length, "{grown} MB for {length} MB");
    let answer = cluster.predict("m", json!({"input_batch": vec![json!([]); 10_000]})).await;
    assert_eq!(answer["batch_predictions"].as_array().unwrap().len(), 10_000);
}

#[tokio::test]
async fn the_number_of_inputs_is_a_setting() {
    let cluster = Cluster::start_with(&["--max-inputs", "2"]).await;
    cluster.add_app("m", "doubles", OBJECTIVE, false).await;
    cluster.predict("m", json!({"input_batch": [[1], [2]]})).await;
    let three = json!({"input_batch": [[1], [2], [3]]});
    let cause = cluster.ask(0, "m", three).await.refusal(400, "Json error");
    assert!(cause.contains("at most 2 inputs (--max-inputs)"), "{cause}");
}

#[tokio::test]
async fn queries_that_share_a_computation_fill_the_queue() {
    let cluster = Cluster::start_with(&["--queue-capacity", "5"]).await;
    cluster
        .must("add_model", json!({"model_name": "m", "model_version": "1", "input_type": "doubles"}))
        .await;
    cluster.add_app("m", "doubles", OBJECTIVE, true).await;
    let mut container = RawContainer::register(&cluster, "m").await;
    let answers = async {
        let equal = cluster.predict("m", json!({"input_batch": vec![json!([1]); 100]})).await;
        let all = equal["batch_predictions"].as_array().unwrap().clone();
        all.iter().filter(|answer| answer["default_reason"] == "queue_full").count()
    };
    let (full, _) = tokio::join!(answers, container.answer_next(7.0));
    assert_eq!(full, 95, "one is computed, and four share it");
    assert_eq!(cluster.predict("m", json!({"input": [1]})).await["output"], 7.0);
}

#[tokio::test]
async fn bodies_and_answers_share_a_bound_and_what_ends_gives_it_back() {
    let cluster = Cluster::start_with(&["--request-bytes", "3000000", "--max-body-bytes", "2000000"]).await;
    cluster.serve("m", "doubles", OBJECTIVE).await;
    let mut container = RawContainer::register(&cluster, "m").await;
    // Refused for what it says, unless there is no room for it.
    let large = " ".repeat(1_500_000) + "no JSON";
    let mut slow = None;
    eventually("there is no room for another large body", async || {
        // A client that has sent most of its body, and is not refused itself if it comes first.
        let mut client = connect(query_address(&cluster));
        let head = "POST /m/predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1900000\r\n\r\n";
        let body = " ".repeat(1_800_000);
        let sent = client.write_all((head.to_owned() + &body).as_bytes());
        slow = sent.is_ok().then_some(client);
        cluster.ask(0, "m", &large).await.status == 503
    })
    .await;
    let url = format!("{}/m/predict", cluster.query_url(0));
    let refused = cluster.http().post(url).body(large.clone()).send().await.unwrap();
    assert_eq!(refused.headers()["retry-after"], "1");
    let cause = Answer::read(refused).await.unwrap().refusal(503, "Overloaded");
    assert!(cause.contains("of 3000000 are taken by requests in progress (--request-bytes)"), "{cause}");
    let (small, _) = tokio::join!(cluster.predict("m", json!({"input": [1]})), container.answer_next(1.0));
    assert_eq!(small["output"], 1.0, "a small one finds room");
    drop(slow);
    eventually("there is room once the client has gone", async || {
        cluster.ask(0, "m", &large).await.status == 400
    })
    .await;
    // An answer that is larger than all requests may be.
    let asked = cluster.ask(0, "m", json!({"input": [2]}));
    let output = Bytes::from(vec![b'x'; 4_000_000]);
    let (answer, ()) = tokio::join!(asked, async {
        let id = container.batch().await.id;
        answer_with(&mut container, id, OutputBatch::texts([String::from_utf8(output.to_vec()).unwrap()]));
    });
    let cause = answer.refusal(503, "Overloaded");
    assert!(cause.starts_with("the request needs 4000"), "{cause}");
}

fn answer_with(container: &mut RawContainer, id: u64, outputs: OutputBatch) {
    let outputs = Prediction { id, elapsed_micros: 1, outputs, errors: BTreeMap::default() };
    container.send(&FromContainer::Prediction(outputs));
}

#[tokio::test]
async fn a_long_answer_is_complete_whatever_its_outputs_are() {
    let cluster = Cluster::start().await;
    cluster.serve("m", "doubles", OBJECTIVE).await;
    let mut container = RawContainer::register(&cluster, "m").await;
    let texts = ["\u{1}é\"".repeat(100_000), format!("[{}1]", "1, ".repeat(300_000)), "cat".to_owned()];
    let asked = cluster.predict("m", json!({"input_batch": [[1], [2], [3]], "keep_together": true}));
    let (answer, ()) = tokio::join!(asked, async {
        let id = container.batch().await.id;
        answer_with(&mut container, id, OutputBatch::texts(texts.clone()));
    });
    let outputs: Vec<_> =
        answer["batch_predictions"].as_array().unwrap().iter().map(|it| &it["output"]).collect();
    assert_eq!(*outputs[0], json!(texts[0]));
    assert_eq!(outputs[1].as_array().unwrap().len(), 300_001);
    assert_eq!(*outputs[2], json!("cat"));
}

#[tokio::test]
async fn feedback_on_an_input_is_admitted_as_a_prediction() {
    let cluster = Cluster::start().await;
    for model in ["a", "b"] {
        cluster.add_model(model, "1", "doubles").await;
    }
    let app = |name: &str, on_overload: &str| {
        json!({
            "name": name, "input_type": "doubles", "default_output": "\"default\"", "linked_models": ["a", "b"],
            "latency_slo_micros": u64::try_from(OBJECTIVE.as_micros()).unwrap(), "selection_policy": "exp4",
            "max_concurrent_requests": 1, "on_overload": on_overload,
        })
    };
    for on_overload in ["refuse", "default"] {
        cluster.must("add_app", app(on_overload, on_overload)).await;
    }
    let mut containers =
        [RawContainer::register(&cluster, "a").await, RawContainer::register(&cluster, "b").await];
    let body = json!({"input": [1], "label": 1});
    for on_overload in ["refuse", "default"] {
        let in_progress = feedback(&cluster, on_overload, &body);
        let then = async {
            let series = format!("clipper_application_in_flight_requests{{application=\"{on_overload}\"}}");
            cluster.measures(&series, 1.0).await;
            let second = feedback(&cluster, on_overload, &body).await;
            if on_overload == "refuse" {
                let cause = second.refusal(429, "Too many requests");
                assert!(cause.contains("1 concurrent requests"), "{cause}");
            } else {
                assert_eq!(second.json()["status"], "nothing_learned");
            }
            for container in &mut containers {
                assert_eq!(container.answer_next(1.0).await.len(), 1, "the second asked nobody");
            }
        };
        let (first, ()) = tokio::join!(in_progress, then);
        assert_eq!(first.json()["status"], "applied");
    }
    // A client that goes away takes its queries with it.
    let mut gone = connect(query_address(&cluster));
    let body = body.to_string();
    let head = format!(
        "POST /refuse/feedback HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    gone.write_all((head + &body).as_bytes()).unwrap();
    let series = "clipper_application_in_flight_requests{application=\"refuse\"}";
    cluster.measures(series, 1.0).await;
    drop(gone);
    cluster.measures(series, 0.0).await;
}

#[tokio::test]
async fn a_request_that_cannot_be_read_is_refused_as_json_and_not_reset() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin_url().strip_prefix("http://").unwrap().parse().unwrap();
    let head = "POST /m/predict HTTP/1.1\r\nhost: localhost\r\n";
    let many = (0..200).map(|index| format!("x-{index}: 1\r\n")).collect::<String>();
    let long = format!("{head}x: {}\r\n\r\n", "a".repeat(3_000_000));
    let cases = [
        ("431", "Headers too large", long),
        ("431", "Headers too large", format!("{head}{many}\r\n{}", "b".repeat(3_000_000))),
        ("414", "URI too long", format!("GET /{} HTTP/1.1\r\nhost: localhost\r\n\r\n", "a".repeat(70_000))),
        (
            "414",
            "URI too long",
            format!("GET /{} HTTP/1.1\r\nhost: localhost\r\n\r\n", "a".repeat(3_000_000)),
        ),
        ("400", "Unreadable request", "hello\r\n\r\n".to_owned()),
        ("400", "Unreadable request", "\u{16}\u{3}\u{1}\u{2}".to_owned() + &"x".repeat(300)),
        ("400", "Unreadable request", "GET / HTTP/1.1\r\n\r\n".to_owned()),
        ("400", "Unreadable request", format!("{head}no header\r\n\r\n")),
        ("400", "Unreadable request", format!("{head}content-length: x\r\n\r\n")),
    ];
    for address in [query_address(&cluster), admin] {
        for (status, kind, request) in &cases {
            let answer = raw_answer(address, request.clone().into_bytes()).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
            let (_, body) = answer.split_once("\r\n\r\n").unwrap();
            let body: Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"));
            assert_eq!(body["error"], *kind);
            assert!(body["cause"].as_str().is_some_and(|cause| cause.len() > 20), "{body}");
        }
    }
    // An answer that goes before is not lost.
    let pipelined = "GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\nnonsense\r\n\r\n";
    let answers = raw_answer(query_address(&cluster), pipelined.as_bytes().to_vec()).await;
    assert!(
        answers.starts_with("HTTP/1.1 200 OK") && answers.contains("HTTP/1.1 400 Bad Request"),
        "{answers}"
    );
}
