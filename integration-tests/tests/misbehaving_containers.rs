//! Containers that break the protocol: each loses its registration, and nobody else notices.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::time::{Duration, Instant};

use clipper_integration_tests::container::Serves;
use clipper_integration_tests::{Cluster, Container, RawContainer};
use clipper_rpc::message::{FromContainer, Predict};
use serde_json::json;

/// So long that nobody waits it out by accident.
const OBJECTIVE: Duration = Duration::from_secs(20);

/// Does something wrong with a batch.
type Offence = fn(&mut RawContainer, &Predict);

/// MessagePack of `{"type": "prediction", "id": id, "count": 1, "elapsed_micros": 1, "dtype": "doubles"}`.
fn header(id: u64) -> Vec<u8> {
    let text = |text: &str| {
        let length = u8::try_from(text.len()).expect("the texts are short");
        [&[0xa0 | length], text.as_bytes()].concat()
    };
    let mut header = vec![0x85];
    header.extend(
        [text("type"), text("prediction"), text("id"), vec![0xcf], id.to_be_bytes().to_vec()].concat(),
    );
    header.extend(
        [text("count"), vec![1], text("elapsed_micros"), vec![1], text("dtype"), text("doubles")].concat(),
    );
    header
}

/// Each way to misbehave, with words of the reason that must be given for it.
const OFFENCES: &[(&str, Offence)] = &[
    ("it answered a batch of 1 inputs with 0 outputs", |container, batch| container.answer(batch.id, &[])),
    ("it answered a batch of 1 inputs with 3 outputs", |container, batch| {
        container.answer(batch.id, &[1.0, 2.0, 3.0]);
    }),
    ("it answered batch 4711, which it does not hold", |container, _| container.answer(4711, &[1.0])),
    ("it reported an error of batch 4711, which it does not hold", |container, _| {
        container.send(&FromContainer::Error { id: 4711, message: "no idea".to_owned() });
    }),
    ("it acknowledged feedback 3, which it was not sent", |container, _| {
        container.send(&FromContainer::FeedbackAck { id: 3 });
    }),
    ("malformed", |container, _| container.send_frames(vec![b"garbage".to_vec()])),
    ("malformed", |container, _| container.send_frames(vec![vec![], vec![0xc1; 40]])),
    ("malformed", |container, _| container.send_frames(vec![vec![], vec![0x81, 0xa4, b't', b'y']])),
    ("malformed", |container, _| container.send_frames(vec![vec![], vec![0xdf, 0xff, 0xff, 0xff, 0xff]])),
    ("malformed", |container, batch| container.send_frames(vec![vec![], header(batch.id)])),
    ("malformed", |container, batch| container.send_frames(vec![vec![], header(batch.id), vec![0; 7]])),
    ("malformed", |container, batch| container.send_frames(vec![vec![], header(batch.id), vec![0; 16]])),
    ("malformed", |container, batch| {
        container.send_frames(vec![vec![], header(batch.id), vec![0; 8], vec![0; 8], vec![]]);
    }),
];

#[tokio::test]
async fn a_lone_container_that_misbehaves_costs_its_query_nothing_but_the_answer() {
    let cluster = Cluster::start().await;
    cluster.serve("m", "doubles", OBJECTIVE).await;
    for (reason, offend) in OFFENCES {
        let mut container = RawContainer::register(&cluster, "m").await;
        let started = Instant::now();
        let (answer, rejected) = tokio::join!(cluster.predict("m", json!({"input": [1]})), async {
            let batch = container.batch().await;
            offend(&mut container, &batch);
            container.rejected().await
        });
        assert!(rejected.0.contains(reason), "{reason}: {rejected:?}");
        assert!(rejected.1.is_some(), "it may try again: {rejected:?}");
        assert_eq!(answer["default_reason"], "container_error", "{reason}: {answer}");
        let explanation = answer["default_explanation"].as_str().unwrap();
        assert!(explanation.contains(reason), "{reason}: {explanation}");
        assert!(started.elapsed() < OBJECTIVE / 2, "{reason}");
        cluster.connected("m", 0).await;
    }
}

#[tokio::test]
async fn another_replica_answers_what_a_misbehaving_container_held() {
    let cluster = Cluster::start().await;
    cluster.serve("m", "doubles", OBJECTIVE).await;
    for (reason, offend) in OFFENCES {
        let mut bad = RawContainer::register(&cluster, "m").await;
        let mut good = None;
        let (answer, ()) = tokio::join!(cluster.predict("m", json!({"input": [1]})), async {
            let batch = bad.batch().await;
            let good = good.insert(RawContainer::register(&cluster, "m").await);
            offend(&mut bad, &batch);
            let batch = good.batch().await;
            good.answer(batch.id, &[7.5]);
        });
        assert_eq!(answer["output"], 7.5, "{reason}: {answer}");
        good.expect("it was started").send(&FromContainer::Goodbye);
        cluster.connected("m", 0).await;
    }
}

#[tokio::test]
async fn a_second_answer_to_the_same_batch_ends_the_registration() {
    let cluster = Cluster::start().await;
    cluster.serve("m", "doubles", OBJECTIVE).await;
    let mut container = RawContainer::register(&cluster, "m").await;
    let (answer, (id, rejected)) = tokio::join!(cluster.predict("m", json!({"input": [1]})), async {
        let batch = container.batch().await;
        container.answer(batch.id, &[1.0]);
        container.answer(batch.id, &[2.0]);
        (batch.id, container.rejected().await)
    });
    assert_eq!(answer["output"], 1.0, "{answer}");
    assert_eq!(rejected.0, format!("it answered batch {id}, which it does not hold"));
    cluster.connected("m", 0).await;
}

#[tokio::test]
async fn a_container_that_misbehaved_may_register_again() {
    let cluster = Cluster::start().await;
    cluster.serve("m", "doubles", OBJECTIVE).await;
    let mut container = RawContainer::register(&cluster, "m").await;
    container.send_frames(vec![b"garbage".to_vec()]);
    container.rejected().await;
    cluster.connected("m", 0).await;
    container.registered(RawContainer::registration("m")).await;
    let (answer, ()) = tokio::join!(cluster.predict("m", json!({"input": [1]})), async {
        let batch = container.batch().await;
        container.answer(batch.id, &[3.0]);
    });
    assert_eq!(answer["output"], 3.0, "{answer}");
}

#[tokio::test]
async fn models_and_replicas_next_to_a_misbehaving_container_are_served_without_a_fault() {
    let cluster = Cluster::start().await;
    for model in ["m", "other"] {
        cluster.serve(model, "doubles", OBJECTIVE).await;
    }
    let serves = |model| Serves { model, version: "1", input_type: "doubles" };
    let _containers = ["m", "other"].map(|model| Container::rust("sum", &cluster, serves(model)));
    let body = json!({"input": [1, 2]});
    for model in ["m", "other"] {
        cluster.served(0, model, body.clone()).await;
    }
    let loads =
        ["m", "other"].map(|model| clipper_integration_tests::Load::start(&cluster, 0, model, &body, 2));
    for (_, offend) in OFFENCES {
        let mut bad = RawContainer::register(&cluster, "m").await;
        let batch = bad.batch().await;
        offend(&mut bad, &batch);
        bad.rejected().await;
        // A query that were lost with three of them would rightly fail: both clients must have asked anew.
        loads[0].answered(4).await;
    }
    for load in loads {
        load.answered(10).await;
        load.finish().await.assert_flawless();
    }
}
