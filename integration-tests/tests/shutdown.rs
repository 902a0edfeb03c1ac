//! An end in order: what was accepted is answered, and nothing is left.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;

use clipper_integration_tests::container::Serves;
use clipper_integration_tests::stuck::{FrozenThread, UnreadPipe};
use clipper_integration_tests::{
    Automaton, Cluster, Container, Load, RawContainer, eventually, eventually_some, program,
};
use clipper_rpc::message::{FromContainer, ToContainer};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

const OBJECTIVE: Duration = Duration::from_secs(20);

const M: Serves<'_> = Serves { model: "m", version: "1", input_type: "doubles" };

#[tokio::test]
async fn requests_that_were_accepted_are_answered_by_the_model() {
    let mut cluster = Cluster::start().await;
    cluster.serve_batches_of(4, "m", "doubles", OBJECTIVE).await;
    let container = Container::python("served:slow_sum", &cluster, M);
    cluster.served(0, "m", json!({"input": [0, 1]})).await;
    // One batch is computed, and two wait for it.
    let url = format!("{}/m/predict", cluster.query_url(0));
    let body = json!({"input_batch": vec![[0.5, 1.0]; 12]}).to_string();
    let request = cluster.http().post(url).body(body).send();
    let (answer, code) = tokio::join!(request, async {
        eventually("it computes", async || container.batches().ends_with(&[4])).await;
        cluster.main.terminate().await
    });
    assert_eq!(code, 0);
    let answer = answer.unwrap();
    assert_eq!(answer.status(), 200);
    let text = answer.text().await.unwrap();
    assert_eq!(text.matches("\"output\":1.0,\"default\":false").count(), 12, "{text}");
    assert!(!cluster.data_dir().join("addresses.json").exists());
}

#[tokio::test]
async fn a_cluster_under_load_ends_without_a_lost_request() {
    let mut cluster = Cluster::start().await;
    cluster.deploy("sum", "m", "1", "doubles", 2).await;
    cluster.add_app("m", "doubles", OBJECTIVE, true).await;
    assert!(cluster.data_dir().join("addresses.json").exists());
    let load = Load::start(&cluster, 0, "m", &json!({"input": [1, 2]}), 4);
    load.answered(100).await;
    assert_eq!(cluster.main.terminate().await, 0);
    assert!(!cluster.data_dir().join("addresses.json").exists());
    assert_eq!(cluster.offspring(), []);
    let outcomes = load.finish().await;
    assert!(outcomes.defaults.is_empty(), "{:?}", outcomes.defaults);
    // A client may find the door closed, or its idle connection; it is never answered with an error.
    for error in outcomes.errors.keys() {
        let closed = ["ConnectionRefused", "ConnectionReset", "IncompleteMessage", "BrokenPipe"];
        assert!(closed.iter().any(|kind| error.contains(kind)), "{error}");
    }
}

#[tokio::test]
async fn containers_are_told_to_leave_before_the_end() {
    let mut cluster = Cluster::start().await;
    cluster.serve("m", "doubles", OBJECTIVE).await;
    let mut container = RawContainer::register(&cluster, "m").await;
    let (code, ()) = tokio::join!(cluster.main.terminate(), async {
        assert_eq!(container.receive().await, ToContainer::Drain);
        container.send(&FromContainer::Goodbye);
    });
    assert_eq!(code, 0);
}

#[tokio::test]
async fn a_container_that_never_answers_does_not_hold_up_the_end_beyond_the_objective() {
    let mut cluster = Cluster::start().await;
    cluster.serve("m", "doubles", Duration::from_secs(2)).await;
    let mut container = RawContainer::register(&cluster, "m").await;
    let request =
        cluster.http().post(format!("{}/m/predict", cluster.query_url(0))).body("{\"input\": [1]}").send();
    let (answer, code) = tokio::join!(request, async {
        container.batch().await;
        cluster.main.terminate().await
    });
    assert_eq!(code, 0);
    let text = answer.unwrap().text().await.unwrap();
    assert!(text.contains("\"default_reason\":\"deadline\""), "{text}");
}

#[tokio::test]
async fn each_process_of_a_split_cluster_ends_in_order() {
    let mut cluster = Cluster::split(2).await;
    cluster.deploy("sum", "m", "1", "doubles", 1).await;
    cluster.add_app("m", "doubles", OBJECTIVE, true).await;
    for frontend in 0..2 {
        cluster.served(frontend, "m", json!({"input": [1]})).await;
    }
    assert_eq!(cluster.frontends[0].terminate().await, 0);
    let load = Load::start(&cluster, 1, "m", &json!({"input": [1, 2]}), 2);
    load.answered(100).await;
    load.finish().await.assert_flawless();
    assert_eq!(cluster.main.terminate().await, 0);
    assert_eq!(cluster.offspring(), []);
    assert!(!cluster.data_dir().join("addresses.json").exists());
    // The frontend goes on without management; the replicas were management's.
    let answer = cluster.predict_at(1, "m", json!({"input": [1]})).await;
    assert_eq!(answer["default_reason"], "no_connected_replicas", "{answer}");
    assert_eq!(cluster.frontends[1].terminate().await, 0);
}

#[tokio::test]
async fn a_decision_log_that_is_stuck_does_not_hold_up_the_end_and_what_is_lost_is_counted() {
    let mut cluster = Cluster::start().await;
    cluster.add_model("m", "1", "doubles").await;
    let body = json!({
        "name": "app", "input_type": "doubles", "default_output": "-1.0", "linked_models": ["m"],
        "latency_slo_micros": 20_000_000, "selection_policy": "exp3", "log_decisions": true,
    });
    cluster.must("add_app", body).await;
    let _container = Automaton::serve(&cluster, "m").await;
    let served = cluster.served(0, "app", json!({"input": [1]})).await;
    let decision = format!("\"query_id\":{},", served["query_id"]);
    eventually("the decision is in the file", async || {
        let files = std::fs::read_dir(cluster.data_dir().join("decisions/app")).into_iter().flatten();
        let mut texts = files.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap());
        texts.any(|text| text.contains(&decision))
    })
    .await;
    let stuck = FrozenThread::freeze(cluster.main.pid(), "decision-log");
    for _ in 0..5 {
        cluster.predict("app", json!({"input": [1]})).await;
    }
    assert_eq!(cluster.main.terminate().await, 0);
    drop(stuck);
    let log = cluster.main.log();
    assert!(
        log.contains("the decision log was not written within 5s: 5 entries still wait, and are lost"),
        "{log}"
    );
}

#[tokio::test]
async fn neither_a_container_that_stays_nor_a_management_that_is_silent_holds_up_the_end() {
    let mut cluster = Cluster::split(1).await;
    let body = json!({
        "name": "app", "input_type": "doubles", "default_output": "-1.0", "linked_models": ["m"],
        "latency_slo_micros": 20_000_000, "selection_policy": "exp3",
    });
    cluster.add_model("m", "1", "doubles").await;
    cluster.must("add_app", body).await;
    let _container = RawContainer::register(&cluster, "m").await;
    cluster.main.signal(Signal::SIGSTOP);
    assert_eq!(cluster.frontends[0].terminate().await, 0);
    let log = cluster.frontends[0].log();
    assert!(log.contains("shutdown waits no longer for management to store what was learned last"), "{log}");
}

#[tokio::test]
async fn a_database_that_is_stuck_does_not_hold_up_the_end_and_is_the_reason_of_its_status() {
    let mut cluster = Cluster::start().await;
    let stuck = FrozenThread::freeze(cluster.main.pid(), "clipper-writer");
    assert_eq!(cluster.main.terminate().await, 1);
    drop(stuck);
    let log = cluster.main.log();
    assert!(log.contains("clipper: the databases are not closed after 10 s: the disk may be stuck"), "{log}");
}

/// A cluster in one process whose log is a pipe that nobody reads, and that is full.
async fn start_with_a_stuck_log(directory: &Path, limit: &str) -> (Child, UnreadPipe) {
    let pipe = UnreadPipe::new();
    let mut command = program::isolated(program::clipper());
    command.args(["start", "--shutdown-seconds", limit, "--data-dir"]).arg(directory.join("data"));
    for address in ["--query-address", "--admin-address", "--rpc-address"] {
        command.args([address, "127.0.0.1:0"]);
    }
    let child = command.stdout(Stdio::null()).stderr(pipe.writer()).spawn().unwrap();
    // It is there once the process listens, and so hears signals.
    eventually("it listens", async || directory.join("data/addresses.json").exists()).await;
    pipe.fill();
    (child, pipe)
}

fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
}

async fn end(child: &mut Child) -> ExitStatus {
    eventually_some("it has ended", async || child.try_wait().unwrap()).await
}

#[tokio::test]
async fn a_process_ends_within_its_limit_whatever_it_waits_for() {
    let directory = tempfile::tempdir().unwrap();
    let (mut child, _pipe) = start_with_a_stuck_log(directory.path(), "1").await;
    signal(&child, Signal::SIGTERM);
    assert_eq!(end(&mut child).await.code(), Some(1));
}

#[tokio::test]
async fn a_second_signal_ends_a_process_at_once_whatever_it_waits_for() {
    let directory = tempfile::tempdir().unwrap();
    let (mut child, _pipe) = start_with_a_stuck_log(directory.path(), "3600").await;
    signal(&child, Signal::SIGTERM);
    signal(&child, Signal::SIGINT);
    assert_eq!(end(&mut child).await.code(), Some(130));
}

#[tokio::test]
async fn a_frontend_that_is_shutting_down_refuses_registrations_for_now() {
    let mut cluster = Cluster::start().await;
    cluster.serve("m", "doubles", OBJECTIVE).await;
    let mut container = RawContainer::register(&cluster, "m").await;
    let mut late = RawContainer::connect(cluster.rpc_address(0));
    let url = format!("{}/m/predict", cluster.query_url(0));
    let request = cluster.http().post(url).body(r#"{"input": [1]}"#).send();
    let (answer, code) = tokio::join!(request, async {
        let batch = container.batch().await;
        cluster.main.signal(Signal::SIGTERM);
        let log = async || cluster.main.log().contains("frontend stopping");
        eventually("the frontend stops", log).await;
        late.send(&FromContainer::Register(RawContainer::registration("m")));
        let (reason, retry_millis) = late.rejected().await;
        assert_eq!(reason, "this frontend is shutting down");
        assert!(retry_millis.is_some());
        container.answer(batch.id, &[4.0]);
        cluster.main.end().await
    });
    assert!(code.success());
    let text = answer.unwrap().text().await.unwrap();
    assert!(text.contains("\"output\":4.0"), "{text}");
}
