//! Who is welcomed by a frontend, and who is turned away with which reason.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::time::Duration;

use clipper_integration_tests::container::Serves;
use clipper_integration_tests::{Cluster, Container, RawContainer, eventually};
use clipper_rpc::input::InputType;
use clipper_rpc::message::{FromContainer, Register, ToContainer};
use serde_json::json;

const OBJECTIVE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn containers_of_an_unknown_model_serve_it_once_it_is_registered() {
    let cluster = Cluster::start().await;
    cluster.add_app("m", "doubles", OBJECTIVE, true).await;
    let serves = Serves { model: "m", version: "1", input_type: "doubles" };
    let rust = Container::rust("sum", &cluster, serves);
    let python = Container::python("sum", &cluster, serves);
    let mut raw = RawContainer::connect(cluster.rpc_address(0));
    raw.send(&FromContainer::Register(RawContainer::registration("m")));
    let (reason, retry_millis) = raw.rejected().await;
    assert_eq!(reason, "version '1' of model 'm' is not registered");
    assert!(retry_millis.is_some());
    eventually("both containers were told to wait", async || {
        rust.log().contains("not accepted yet") && python.log().contains("not yet accepted by")
    })
    .await;
    assert_eq!(cluster.predict("m", json!({"input": [1]})).await["default_reason"], "no_connected_replicas");

    cluster.add_model("m", "1", "doubles").await;
    cluster.connected("m", 2).await;
    assert_eq!(cluster.predict("m", json!({"input": [1, 2]})).await["output"], 3.0);
}

/// Registers with a change, and expects to be turned away for good; the reason.
async fn turned_away(cluster: &Cluster, change: impl FnOnce(&mut Register)) -> String {
    let mut container = RawContainer::connect(cluster.rpc_address(0));
    let mut register = RawContainer::registration("m");
    change(&mut register);
    container.send(&FromContainer::Register(register));
    let (reason, retry_millis) = container.rejected().await;
    assert_eq!(retry_millis, None, "{reason}");
    reason
}

#[tokio::test]
async fn a_container_that_does_not_fit_is_turned_away_with_the_reason() {
    let cluster = Cluster::start().await;
    cluster.serve("m", "doubles", OBJECTIVE).await;
    let reason = turned_away(&cluster, |register| register.input_type = InputType::Strings).await;
    assert_eq!(reason, "model 'm:1' takes doubles, the container strings");
    let reason = turned_away(&cluster, |register| register.protocol = 3).await;
    assert_eq!(reason, "this frontend speaks protocol 4, the container 3");
    let reason = turned_away(&cluster, |register| register.instance = Some("x".repeat(257))).await;
    assert_eq!(reason, "'instance' has 257 bytes; at most 256 are taken");
    let reason = turned_away(&cluster, |register| register.model = "not a name".to_owned()).await;
    assert!(reason.starts_with("'not a name' is not a valid model name"), "{reason}");
    assert_eq!(cluster.containers().await, [""; 0]);
}

#[tokio::test]
async fn real_containers_that_do_not_fit_end_with_the_reason() {
    let cluster = Cluster::start().await;
    cluster.serve("m", "doubles", OBJECTIVE).await;
    let serves = Serves { model: "m", version: "1", input_type: "ints" };
    for mut container in
        [Container::rust("sum", &cluster, serves), Container::python("sum", &cluster, serves)]
    {
        assert!(!container.end().await.success());
        let log = container.log();
        assert!(log.contains("model 'm:1' takes doubles, the container ints"), "{log}");
    }
}

#[tokio::test]
async fn a_stranger_that_does_not_register_is_told_that_it_is_unknown() {
    let cluster = Cluster::start().await;
    cluster.serve("m", "doubles", OBJECTIVE).await;
    let mut stranger = RawContainer::connect(cluster.rpc_address(0));
    stranger.send(&FromContainer::Heartbeat);
    assert_eq!(stranger.receive().await, ToContainer::Unknown);
    stranger.answer(0, &[1.0]);
    assert_eq!(stranger.receive().await, ToContainer::Unknown);
    stranger.send_frames(vec![b"garbage".to_vec()]);
    let (reason, _) = stranger.rejected().await;
    assert!(reason.contains("malformed message"), "{reason}");
    stranger.registered(RawContainer::registration("m")).await;
}

#[tokio::test]
async fn replicas_are_numbered_and_a_free_number_is_granted() {
    let cluster = Cluster::start().await;
    cluster.serve("m", "doubles", OBJECTIVE).await;
    let wish = |replica| Register { replica, ..RawContainer::registration("m") };
    let mut containers: Vec<_> = (0..3).map(|_| RawContainer::connect(cluster.rpc_address(0))).collect();
    assert_eq!(containers[0].registered(wish(Some(5))).await.replica, 5);
    assert_eq!(containers[1].registered(wish(Some(5))).await.replica, 0);
    assert_eq!(containers[2].registered(wish(None)).await.replica, 1);
    eventually("management knows them", async || {
        cluster.containers().await.iter().collect::<std::collections::BTreeSet<_>>().len() == 3
    })
    .await;
    let details = cluster
        .read("get_container", json!({"model_name": "m", "model_version": "1", "replica_id": 5}))
        .await;
    assert_eq!(details["model_id"], "m:1", "{details}");
    assert_eq!(details["input_type"], "doubles", "{details}");
    containers.remove(0).send(&FromContainer::Goodbye);
    cluster.connected("m", 2).await;
}

#[tokio::test]
async fn the_second_session_of_an_instance_replaces_the_first_which_gives_its_work_back() {
    let cluster = Cluster::start().await;
    cluster.serve("m", "doubles", OBJECTIVE).await;
    let register = Register { instance: Some("one".to_owned()), ..RawContainer::registration("m") };
    let mut first = RawContainer::connect(cluster.rpc_address(0));
    let mut second = RawContainer::connect(cluster.rpc_address(0));
    let replica = first.registered(register.clone()).await.replica;
    let (answer, ()) = tokio::join!(cluster.predict("m", json!({"input": [1]})), async {
        first.batch().await;
        assert_eq!(second.registered(register).await.replica, replica);
        let (reason, retry_millis) = first.rejected().await;
        assert_eq!(reason, "this instance has registered over another connection");
        assert_eq!(retry_millis, None);
        let batch = second.batch().await;
        second.answer(batch.id, &[6.0]);
    });
    assert_eq!(answer["output"], 6.0, "{answer}");
    cluster.connected("m", 1).await;
}

#[tokio::test]
async fn a_container_is_sent_no_larger_batch_than_it_can_take() {
    let cluster = Cluster::start().await;
    cluster.serve("m", "doubles", OBJECTIVE).await;
    let mut container = RawContainer::connect(cluster.rpc_address(0));
    container.registered(Register { max_batch_size: Some(2), ..RawContainer::registration("m") }).await;
    let (answer, ()) =
        tokio::join!(cluster.predict("m", json!({"input_batch": [[1], [2], [3], [4], [5]]})), async {
            let mut left = 5;
            while left > 0 {
                let batch = container.batch().await;
                let count = batch.inputs.len();
                assert!((1..=2).contains(&count), "{batch:?}");
                container.answer(batch.id, &vec![1.0; count]);
                left -= count;
            }
        });
    let answers = answer["batch_predictions"].as_array().unwrap();
    assert!(answers.iter().all(|answer| answer["output"] == 1.0), "{answer}");
}

#[tokio::test]
async fn a_container_that_begins_anew_on_its_connection_is_given_work_again() {
    let cluster = Cluster::start().await;
    cluster.serve("m", "doubles", OBJECTIVE).await;
    let mut container = RawContainer::register(&cluster, "m").await;
    let anew = async {
        container.batch().await;
        container.registered(RawContainer::registration("m")).await;
        let batch = container.batch().await;
        container.answer(batch.id, &[7.0]);
    };
    let (answer, ()) = tokio::join!(cluster.predict("m", json!({"input": [1]})), anew);
    assert_eq!(answer["output"], 7.0);
}

#[tokio::test]
async fn late_answers_of_a_container_that_registered_again_are_ignored() {
    let cluster = Cluster::start().await;
    cluster.serve("m", "doubles", OBJECTIVE).await;
    let mut container = RawContainer::register(&cluster, "m").await;
    let anew = async {
        let mut taken_back = Vec::new();
        // More often than a query may be lost with its containers.
        for _ in 0..4 {
            taken_back.push(container.batch().await.id);
            container.registered(RawContainer::registration("m")).await;
        }
        let batch = container.batch().await;
        assert!(!taken_back.contains(&batch.id));
        for (index, &id) in taken_back.iter().enumerate() {
            match index % 2 {
                0 => container.answer(id, &[6.0]),
                _ => container.send(&FromContainer::Error { id, message: "late".to_owned() }),
            }
        }
        container.answer(batch.id, &[7.0]);
    };
    let (answer, ()) = tokio::join!(cluster.predict("m", json!({"input": [1]})), anew);
    assert_eq!(answer["output"], 7.0, "{answer}");
    let (answer, inputs) =
        tokio::join!(cluster.predict("m", json!({"input": [2]})), container.answer_next(8.0));
    assert_eq!((answer["output"].as_f64(), inputs), (Some(8.0), vec![vec![2.0]]), "{answer}");
}

#[tokio::test]
async fn several_messages_of_a_stranger_are_answered_by_one_unknown() {
    let cluster = Cluster::start().await;
    cluster.serve("m", "doubles", OBJECTIVE).await;
    let mut container = RawContainer::connect(cluster.rpc_address(0));
    for _ in 0..3 {
        container.send(&FromContainer::Heartbeat);
    }
    assert_eq!(container.receive().await, ToContainer::Unknown);
    container.registered(RawContainer::registration("m")).await;
    let (answer, _) = tokio::join!(cluster.predict("m", json!({"input": [2]})), container.answer_next(8.0));
    assert_eq!(answer["output"], 8.0, "{answer}");
}

#[tokio::test]
async fn a_container_of_the_original_is_recognised_in_one_line_of_the_log() {
    let cluster = Cluster::start().await;
    for _ in 0..2 {
        let mut original = RawContainer::connect(cluster.rpc_address(0));
        let frames: [&[u8]; 6] = [b"", &[0; 4], b"digits", b"2", b"3", &[3, 0, 0, 0]];
        original.send_frames(frames.map(<[u8]>::to_vec).to_vec());
        original.send(&FromContainer::Heartbeat);
        assert_eq!(original.receive().await, ToContainer::Unknown, "the first message was passed over");
    }
    let log = cluster.main.log();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("original Clipper (protocol 3)")).collect();
    assert_eq!(lines.len(), 1, "{log}");
    for part in ["WARN", "digits:2", "127.0.0.1", "docs/protocol.md"] {
        assert!(lines[0].contains(part), "{part}: {}", lines[0]);
    }
}

#[tokio::test]
async fn a_refused_container_is_logged_with_its_model_and_address() {
    let cluster = Cluster::start().await;
    cluster.serve("m", "doubles", OBJECTIVE).await;
    turned_away(&cluster, |register| register.input_type = InputType::Strings).await;
    let mut struck_off = RawContainer::register(&cluster, "m").await;
    struck_off.send_frames(vec![b"garbage".to_vec()]);
    struck_off.rejected().await;
    let log = cluster.main.log();
    for told in ["container turned away", "container broke the protocol"] {
        let line = log.lines().find(|line| line.contains(told)).unwrap_or_else(|| panic!("{told}: {log}"));
        assert!(line.contains("127.0.0.1") && line.contains('m'), "{line}");
    }
}
