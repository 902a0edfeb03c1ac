//! What was answered 200 is there after a restart, in order or by SIGKILL; and a directory has one user.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

mod harness;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use harness::{Client, Server, model};
use rand::Rng;
use serde_json::{Value, json};

const DIRECTORY_VARIABLE: &str = "CLIPPER_TEST_DATA_DIR";

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path()).await;
    server.client.add_app("a", "doubles").await;
    server.client.add_model("m", "1", "doubles").await;
    server.client.says("add_model_links", json!({"app_name": "a", "model_names": ["m"]})).await;
    let before = server.client.get("/admin/export").await;
    server.stop().await;
    let server = Server::start(directory.path()).await;
    assert_eq!(server.client.get("/admin/export").await, before);
    assert_eq!(
        server.client.refuses("add_model", model("m", "1", "doubles")).await,
        "model with name 'm' and version '1' already exists"
    );
}

#[tokio::test]
async fn a_second_process_on_the_directory_is_told_who_has_it() {
    let directory = tempfile::tempdir().unwrap();
    let _server = Server::start(directory.path()).await;
    let Err(error) = Server::open(directory.path()).await else { panic!("it opened") };
    let line = error.to_string();
    let expected = format!(
        "the data directory {} is in use by process {}",
        directory.path().display(),
        std::process::id()
    );
    assert_eq!(line, expected);
}

#[tokio::test]
async fn shutting_down_does_not_wait_for_long_polls_or_idle_connections() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path()).await;
    let client = server.client.clone();
    let follow = |applied: &Value, frontends: &Value| {
        json!({"frontend": "00000000-0000-0000-0000-000000000001", "number": null, "query_address": "h:1",
            "rpc_address": "h:2", "applied": applied, "known_frontends": frontends, "containers": []})
    };
    let first = client.answers("follow", follow(&Value::Null, &json!([]))).await;
    let waiting = follow(&first["position"], &first["frontends"]).to_string();
    let polling = tokio::spawn(async move { client.post_text("/admin/follow", waiting).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let began = Instant::now();
    server.stop().await;
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    let (status, answer) = polling.await.unwrap();
    assert_eq!((status.as_u16(), answer.contains("shutting down")), (503, true));
}

/// Management in a process of its own, which lives until it is killed.
struct Victim {
    child: Child,
    client: Client,
}

impl Victim {
    fn start(directory: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "serve_until_killed", "--ignored", "--nocapture"])
            .env(DIRECTORY_VARIABLE, directory)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = lines.find_map(|line| Some(line.unwrap().split_once("serving on ")?.1.to_owned()));
        let client = Client::new(&format!("http://{}", address.expect("it says where it serves")));
        Self { child, client }
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[test]
#[ignore = "the process that the next test kills, not a test"]
fn serve_until_killed() {
    let Some(directory) = std::env::var_os(DIRECTORY_VARIABLE) else { return };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    actix_rt::System::new().block_on(async {
        let management =
            clipper_management::Management::open(harness::config(directory.as_ref())).await.unwrap();
        println!("serving on {address}");
        management.run(listener, std::future::pending()).await.unwrap();
    });
}

/// What is known of applications whose creation or deletion was asked for.
#[derive(Default)]
struct Ledger {
    /// Their creation was answered 200, and no deletion asked for.
    present: BTreeSet<String>,
    /// Their deletion was answered 200.
    absent: BTreeSet<String>,
}

/// Adds and deletes applications until the server is gone.
async fn storm(client: Client, next: Arc<AtomicU64>, ledger: Arc<Mutex<Ledger>>) {
    let done = async |path: &str, body: Value| {
        let request = client.posting(&format!("/admin/{path}"), body.to_string());
        match request.send().await {
            Ok(response) => response.status() == 200 && response.bytes().await.is_ok(),
            Err(_) => false,
        }
    };
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let name = format!("a{number}");
        let app = json!({"name": name, "input_type": "ints", "default_output": "x".repeat(number as usize % 9_000),
            "latency_slo_micros": 1});
        if !done("add_app", app).await {
            return;
        }
        ledger.lock().unwrap().present.insert(name.clone());
        if number.is_multiple_of(3) {
            ledger.lock().unwrap().present.remove(&name);
            if !done("delete_app", json!({"name": name})).await {
                return;
            }
            ledger.lock().unwrap().absent.insert(name);
        }
    }
}

#[tokio::test]
async fn what_was_acknowledged_survives_kill_9() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = Arc::new(Mutex::new(Ledger::default()));
    let next = Arc::new(AtomicU64::new(0));
    let began = Instant::now();
    let mut rounds = 0;
    // Until there were enough of each, however busy the machine is.
    while began.elapsed() < Duration::from_secs(6) || rounds < 5 || ledger.lock().unwrap().present.len() <= 50
    {
        let victim = Victim::start(directory.path());
        let storms = (0..8).map(|_| tokio::spawn(storm(victim.client.clone(), next.clone(), ledger.clone())));
        let storms: Vec<_> = storms.collect();
        let life = rand::rng().random_range(5..250);
        tokio::time::sleep(Duration::from_millis(life)).await;
        victim.kill();
        for storm in storms {
            storm.await.unwrap();
        }
        rounds += 1;

        let survivor = Victim::start(directory.path());
        let apps = survivor.client.answers("get_all_applications", json!({"verbose": false})).await;
        let apps: BTreeSet<String> = serde_json::from_value(apps).unwrap();
        survivor.kill();
        let ledger = ledger.lock().unwrap();
        let lost: Vec<_> = ledger.present.difference(&apps).collect();
        let returned: Vec<_> = ledger.absent.intersection(&apps).collect();
        assert!(lost.is_empty() && returned.is_empty(), "lost {lost:?}, returned {returned:?}");
    }
    let ledger = ledger.lock().unwrap();
    println!("{rounds} kills, {} applications", ledger.present.len() + ledger.absent.len());
}

/// One exchange, which adds 1 to the shared state and to one of ten users' states; what is loaded with it, or nothing if
/// the server is gone.
async fn exchange(client: &Client, number: u64, since: u64) -> Option<Value> {
    let key = |uid: Value| json!({"application": "a", "since": since, "uid": uid});
    let user = || json!((number % 10 + 1).to_string());
    let learned = |uid: Value| json!({"key": key(uid), "change": {"m": {"scale": 1.0, "add": [1.0]}}});
    let body = json!({"frontend": "00000000-0000-0000-0000-000000000001", "frontend_number": 1, "number": number,
        "known": null, "changes": [learned(Value::Null), learned(user())], "load": [key(Value::Null), key(user())],
        "forward": [], "explanations": []});
    let request = client.posting("/admin/exchange", body.to_string());
    let response = request.send().await.ok()?;
    assert_eq!(response.status(), 200);
    Some(response.json::<Value>().await.ok()?["loaded"].take())
}

#[tokio::test]
async fn what_a_frontend_learned_is_stored_once_whenever_management_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    let mut victim = Victim::start(directory.path());
    let app = json!({"name": "a", "input_type": "ints", "default_output": "", "latency_slo_micros": 1,
        "linked_models": ["m"], "selection_policy": "exp4"});
    victim.client.says("add_app", app).await;
    let export: Value = serde_json::from_str(&victim.client.get("/admin/export").await.1).unwrap();
    let since = export["applications"][0]["selection"]["since"].as_u64().unwrap();
    let (mut number, mut kills) = (0, 0);
    // Until there were enough of each, however busy the machine is.
    while kills < 15 || number <= 50 {
        let life = Duration::from_millis(rand::rng().random_range(5..150));
        let client = victim.client.clone();
        let killed = tokio::spawn(async move {
            tokio::time::sleep(life).await;
            victim.kill();
        });
        // An exchange that is not answered is sent again to whoever comes next.
        while let Some(loaded) = exchange(&client, number + 1, since).await {
            number += 1;
            assert_eq!(loaded[0][1]["m"], json!([number as f64]));
            let of_user = number / 10 + u64::from(!number.is_multiple_of(10));
            assert_eq!(loaded[1][1]["m"], json!([of_user as f64]));
        }
        killed.await.unwrap();
        kills += 1;
        victim = Victim::start(directory.path());
    }
    victim.kill();
    println!("{kills} kills, {number} exchanges");
}
