//! The log: others can make a cluster write neither lines of their own, nor more than there is room
//! for.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::fs::{self, DirEntry};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use clipper_integration_tests::{Cluster, RawContainer, eventually};
use clipper_rpc::message::FromContainer;
use clipper_rpc::printable::is_printable;
use serde_json::{Value, json};

const OBJECTIVE: Duration = Duration::from_secs(20);

/// Has a query of `m` fail with that text, by a container that comes for it and goes.
async fn fail(cluster: &Cluster, error: &str) {
    let mut container = RawContainer::connect(cluster.rpc_address(0));
    let mut registration = RawContainer::registration("m");
    registration.instance = Some(error.chars().take(60).collect());
    container.registered(registration).await;
    let (answer, ()) = tokio::join!(cluster.predict("m", json!({"input": [1]})), async {
        let id = container.batch().await.id;
        container.send(&FromContainer::Error { id, message: error.to_owned() });
    });
    assert_eq!(answer["default_reason"], "container_error", "{answer}");
    container.send(&FromContainer::Goodbye);
}

/// How often events were logged, and left out, of which a line is known by some words.
fn counted(log: &str, words: &str) -> (u64, u64) {
    let (reports, events): (Vec<_>, Vec<_>) =
        log.lines().filter(|line| line.contains(words)).partition(|line| line.contains("left out"));
    let left_out = reports.iter().map(|report| {
        let (before, _) = report.split_once(" similar events were left out").unwrap();
        before.rsplit(' ').next().unwrap().parse::<u64>().unwrap()
    });
    (events.len() as u64, left_out.sum())
}

#[tokio::test]
async fn a_flood_of_failing_queries_is_cut_and_what_is_left_out_is_counted() {
    const FAILURES: u64 = 400;
    const BURST: u64 = 200;
    let mut cluster = Cluster::start().await;
    cluster.serve("m", "doubles", OBJECTIVE).await;
    let began = Instant::now();
    for _ in 0..FAILURES {
        fail(&cluster, "no idea").await;
    }
    eventually("it is reported while the process runs", async || {
        counted(&cluster.main.log(), "a batch failed").1 > 0
    })
    .await;
    assert_eq!(cluster.main.terminate().await, 0);
    let log = cluster.main.log();
    let (logged, left_out) = counted(&log, "a batch failed");
    assert_eq!(logged + left_out, FAILURES, "{log}");
    let most = BURST + began.elapsed().as_secs() + 1;
    assert!((BURST..=most).contains(&logged), "{logged} of {FAILURES} were logged, not {BURST} to {most}");
    assert!(
        log.contains("event=\"a batch failed\" from=\"clipper_frontend::replicas::connection\""),
        "{log}"
    );
    assert!(log.contains("frontend started") && log.contains("frontend stopping"), "{log}");
}

#[tokio::test]
async fn a_log_file_is_set_aside_when_it_is_full_while_the_process_runs() {
    const FILE_BYTES: u64 = 65_536;
    let bytes = FILE_BYTES.to_string();
    let flags = ["--log-file", "data/clipper.log", "--log-file-bytes", &bytes, "--log-files", "3"];
    let cluster = Cluster::start_with(&[&flags[..], &["--log-rate", "0"]].concat()).await;
    cluster.serve("m", "doubles", OBJECTIVE).await;
    let files = || {
        let files = fs::read_dir(cluster.data_dir()).unwrap().map(|entry| entry.unwrap());
        let mut files: Vec<_> =
            files.filter(|file| file.file_name().to_str().unwrap().starts_with("clipper.log")).collect();
        files.sort_by_key(DirEntry::file_name);
        files
    };
    // One that is being renamed cannot be read.
    let holds =
        |file: &DirEntry, words| fs::read_to_string(file.path()).map_or(true, |log| log.contains(words));
    let kept = |words| files().iter().any(|file| holds(file, words));
    assert!(kept("frontend started"));
    eventually("the first file has been set aside three times, and is gone", async || {
        fail(&cluster, &"x".repeat(3000)).await;
        !kept("frontend started")
    })
    .await;
    cluster.connected("m", 0).await;
    let names: Vec<_> = files().iter().map(|file| file.file_name().into_string().unwrap()).collect();
    assert_eq!(names, ["clipper.log", "clipper.log.1", "clipper.log.2"]);
    for file in files() {
        let metadata = file.metadata().unwrap();
        assert!(metadata.len() <= FILE_BYTES, "{file:?} has {} bytes", metadata.len());
        assert_eq!(metadata.mode() & 0o777, 0o600, "{file:?}");
    }
    assert_eq!(cluster.main.log(), "", "nothing but the file is written");
}

#[tokio::test]
async fn a_container_cannot_forge_a_line_of_the_log() {
    let forged =
        "boom\n2026-01-01T00:00:00.000000Z ERROR clipper: forged\r\x1b[2J\u{9b}2J\u{2028}\u{202e}\u{85}x";
    for format in ["human", "json"] {
        let mut cluster = Cluster::start_with(&["--log-format", format]).await;
        cluster.serve("m", "doubles", OBJECTIVE).await;
        fail(&cluster, forged).await;
        assert_eq!(cluster.main.terminate().await, 0);
        let log = cluster.main.log();
        let lines: Vec<_> = log.split('\n').filter(|line| line.contains("forged")).collect();
        let [connected, failed] = lines[..] else { panic!("{lines:#?}") };
        assert!(connected.contains("container connected") && failed.contains("a batch failed"), "{lines:#?}");
        assert!(log.chars().all(|it| it == '\n' || is_printable(it)), "{log:?}");
        if format == "json" {
            let event: Value = serde_json::from_str(failed).unwrap();
            assert_eq!((&event["error"], &event["message"]), (&forged.into(), &"a batch failed".into()));
        }
    }
}

#[tokio::test]
async fn what_a_replica_prints_controls_no_terminal() {
    let cluster = Cluster::start().await;
    let script = r"printf 'one\rtwo\033[2J\302\233\n'; exec sleep 1000";
    let body = json!({
        "model_name": "m", "model_version": "1", "input_type": "doubles",
        "command": ["sh", "-c", script], "timeout_seconds": 1,
    });
    let deploying = cluster.admin("deploy_model", body);
    let printed = async {
        clipper_integration_tests::eventually_some("it has printed", async || {
            let answer =
                cluster.admin("get_replica_logs", json!({"model_name": "m", "model_version": "1"})).await;
            let answer = (answer.status == 200).then(|| answer.json())?;
            Some(answer["m:1:0"].clone()).filter(|lines| lines.as_array().is_some_and(|it| !it.is_empty()))
        })
        .await
    };
    let (refused, lines) = tokio::join!(deploying, printed);
    assert_eq!(lines, json!([r"one\rtwo\u{1b}[2J\u{9b}"]));
    let cause = refused.refusal(400, "Request error");
    assert!(cause.contains(r"one\rtwo\u{1b}[2J\u{9b}"), "{cause}");
}

#[tokio::test]
async fn why_a_process_ended_is_in_its_log_file_too() {
    let cluster = Cluster::start().await;
    let file = cluster.directory().join("second.log");
    let second = tokio::process::Command::from(clipper_integration_tests::program::isolated(
        clipper_integration_tests::program::clipper(),
    ))
    .args(["start", "--data-dir"])
    .arg(cluster.data_dir())
    .arg("--log-file")
    .arg(&file)
    .kill_on_drop(true)
    .output()
    .await
    .unwrap();
    let printed = String::from_utf8(second.stderr).unwrap();
    let reason = printed.strip_prefix("clipper: ").unwrap().trim_end();
    assert!(reason.contains("is in use by process"), "{printed}");
    let log = fs::read_to_string(file).unwrap();
    assert!(log.contains("ERROR") && log.contains(reason), "{log}");
}
