//! Peers of the container port that try to cost more than they send: in memory, in time, or to
//! others.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clipper_integration_tests::container::Serves;
use clipper_integration_tests::{Cluster, Container, Load, RawContainer};
use clipper_rpc::message::FromContainer;
use serde_json::{Value, json};

/// So long that nobody waits it out by accident.
const OBJECTIVE: Duration = Duration::from_secs(20);
/// The size of the messages that try to become larger.
const LARGE: u32 = 48 << 20;

/// The most memory that the frontend ever had, in bytes.
fn peak_memory(cluster: &Cluster) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", cluster.frontend(0).pid())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// MessagePack of `{"type": "prediction", "id": id, "count": 1, "elapsed_micros": 1, field: [nil,
/// ...]}`.
fn nils(id: u64, field: &str, count: u32) -> Vec<u8> {
    let mut header = b"\x85\xa4type\xaaprediction\xa2id".to_vec();
    header.push(0xcf);
    header.extend([&id.to_be_bytes()[..], b"\xa5count\x01\xaeelapsed_micros\x01"].concat());
    header.extend([&[0xa0 | u8::try_from(field.len()).unwrap()], field.as_bytes(), &[0xdd]].concat());
    header.extend(count.to_be_bytes());
    header.resize(header.len() + count as usize, 0xc0);
    header
}

#[tokio::test]
async fn what_a_stranger_sends_is_not_decoded() {
    let cluster = Cluster::start().await;
    cluster.serve("m", "doubles", OBJECTIVE).await;
    let before = peak_memory(&cluster);
    // Too long for a stranger, and dropped; too long for its connection, too, and ZeroMQ makes
    // another.
    for count in [100 << 10, LARGE] {
        let mut stranger = RawContainer::connect(cluster.rpc_address(0));
        stranger.send_frames(vec![vec![], nils(1, "outputs", count)]);
        stranger.registered(RawContainer::registration("m")).await;
        stranger.send(&FromContainer::Goodbye);
        cluster.connected("m", 0).await;
    }
    let grown = peak_memory(&cluster) - before;
    assert!(grown < u64::from(LARGE) / 2, "{grown} bytes more");
}

#[tokio::test]
async fn an_answer_costs_no_more_than_its_bytes() {
    let cluster = Cluster::start().await;
    cluster.serve("m", "doubles", OBJECTIVE).await;
    let before = peak_memory(&cluster);
    for field in ["outputs", "lengths", "unknown"] {
        let mut container = RawContainer::register(&cluster, "m").await;
        let (answer, rejected) = tokio::join!(cluster.predict("m", json!({"input": [1]})), async {
            let batch = container.batch().await;
            container.send_frames(vec![vec![], nils(batch.id, field, LARGE)]);
            container.rejected().await
        });
        assert!(rejected.0.ends_with("the header has more than 259 values"), "{field}: {rejected:?}");
        assert_eq!(answer["default_reason"], "container_error", "{field}: {answer}");
        cluster.connected("m", 0).await;
    }
    let grown = peak_memory(&cluster) - before;
    assert!(grown < 4 * u64::from(LARGE), "{grown} bytes more");
}

#[tokio::test]
async fn a_long_error_is_cut_and_shared_by_its_queries() {
    const QUERIES: usize = 512;
    const TEXT: usize = 1 << 20;
    let cluster = Cluster::start().await;
    cluster.serve_batches_of(u32::try_from(QUERIES).unwrap(), "m", "doubles", OBJECTIVE).await;
    let before = peak_memory(&cluster);
    let mut container = RawContainer::register(&cluster, "m").await;
    let inputs: Vec<_> = (0..QUERIES).map(|number| json!([number])).collect();
    let body = json!({"input_batch": inputs});
    // Until each input has failed alone.
    let answer = tokio::select! {
        answer = cluster.predict("m", body) => answer,
        () = async {
            loop {
                let batch = container.batch().await;
                container.send(&FromContainer::Error { id: batch.id, message: "no ".repeat(TEXT / 3) });
            }
        } => unreachable!(),
    };
    let predictions = answer["batch_predictions"].as_array().unwrap();
    assert_eq!(predictions.len(), QUERIES);
    let explanation = |prediction: &Value| prediction["default_explanation"].as_str().unwrap().to_owned();
    for explanation in predictions.iter().map(explanation) {
        assert!(explanation.contains("reported: no no no "), "{explanation}");
        assert!(explanation.ends_with(" ... (cut, 1048575 bytes)"), "{explanation}");
        assert!(explanation.len() < 4200, "{}", explanation.len());
    }
    let grown = peak_memory(&cluster) - before;
    assert!(grown < (QUERIES * TEXT / 8) as u64, "{grown} bytes more");
}

#[tokio::test]
async fn peers_that_never_stop_talking_delay_nobody_else() {
    let cluster = Cluster::start().await;
    cluster.serve("m", "doubles", OBJECTIVE).await;
    let _container =
        Container::rust("sum", &cluster, Serves { model: "m", version: "1", input_type: "doubles" });
    let body = json!({"input": [1, 2]});
    cluster.served(0, "m", body.clone()).await;
    let over = Arc::new(AtomicBool::new(false));
    let floods = [FromContainer::Heartbeat, FromContainer::Register(RawContainer::registration("nobody's"))];
    let floods = floods.map(|message| {
        let (address, over) = (cluster.rpc_address(0), Arc::clone(&over));
        std::thread::spawn(move || {
            let context = zmq::Context::new();
            let socket = context.socket(zmq::DEALER).unwrap();
            socket.set_linger(0).unwrap();
            socket.connect(&format!("tcp://{address}")).unwrap();
            let header = message.encode().header.to_vec();
            while !over.load(Ordering::Relaxed) {
                // Fails while the frontend has closed the connection.
                let _ = socket.send_multipart([vec![], header.clone()], zmq::DONTWAIT);
                while socket.recv_multipart(zmq::DONTWAIT).is_ok() {}
            }
        })
    });
    let load = Load::start(&cluster, 0, "m", &body, 2);
    load.answered(300).await;
    over.store(true, Ordering::Relaxed);
    floods.into_iter().for_each(|flood| flood.join().unwrap());
    load.finish().await.assert_flawless();
    cluster.connected("m", 1).await;
}
