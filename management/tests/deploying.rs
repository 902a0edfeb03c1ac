//! Deployments through the admin interface, with real processes and a frontend that exists in name only.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

mod harness;

use std::time::Duration;

use harness::{Client, Server, until};
use reqwest::StatusCode;
use serde_json::{Value, json};

/// Whether a replica's process can come to serve: one whose command ends in `exit 3` fails while it loads its model.
fn can_load(replica: &Value) -> bool {
    let command = replica["pid"].as_u64().and_then(|pid| std::fs::read(format!("/proc/{pid}/cmdline")).ok());
    command
        .is_some_and(|command| !command.is_empty() && !String::from_utf8_lossy(&command).contains("exit 3"))
}

/// Reports every replica that can load its model as connected, or none, until it is aborted.
fn frontend(client: Client, connects: bool) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            let deployments = client.answers("get_deployments", json!({})).await;
            let containers: Vec<Value> = deployments
                .as_array()
                .unwrap()
                .iter()
                .flat_map(|deployment| {
                    deployment["replicas"].as_array().unwrap().iter().map(move |it| (deployment, it))
                })
                .filter(|(_, replica)| connects && can_load(replica))
                .map(|(deployment, replica)| {
                    json!({"model": {"name": deployment["model_name"], "version": deployment["model_version"]},
                        "replica": replica["replica_id"], "instance": replica["instance"],
                        "input_type": deployment["input_type"], "batch_size": 1})
                })
                .collect();
            // Without a position the answer comes at once, so nothing is ever acknowledged.
            let request = json!({"frontend": "00000000-0000-0000-0000-000000000001", "number": null,
                "query_address": "127.0.0.1:1", "rpc_address": "127.0.0.1:2", "applied": null,
                "known_frontends": [], "containers": containers});
            let first = client.answers("follow", request.clone()).await;
            let mut again = request;
            again["applied"] = first["position"].clone();
            again["known_frontends"] = first["frontends"].clone();
            let _ = tokio::time::timeout(Duration::from_millis(30), client.answers("follow", again)).await;
        }
    })
}

struct Cluster {
    directory: tempfile::TempDir,
    server: Server,
    client: Client,
    frontend: tokio::task::JoinHandle<()>,
}

impl Cluster {
    async fn start() -> Self {
        Self::on(tempfile::tempdir().unwrap()).await
    }

    async fn on(directory: tempfile::TempDir) -> Self {
        let server = Server::start(directory.path()).await;
        let client = server.client.clone();
        let frontend = frontend(client.clone(), true);
        Self { directory, server, client, frontend }
    }

    async fn restart(self) -> Self {
        self.frontend.abort();
        let _ = self.frontend.await;
        self.server.stop().await;
        Self::on(self.directory).await
    }
}

fn deployment(name: &str, version: &str, script: &str) -> Value {
    json!({"model_name": name, "model_version": version, "input_type": "doubles", "num_replicas": 1,
        "command": ["sh", "-c", script], "timeout_seconds": 20, "batching": "aimd", "cache": false})
}

const SLEEP: &str = "echo started; exec sleep 1000";

async fn current(client: &Client, name: &str, version: &str) -> Value {
    let model = client.answers("get_model", json!({"model_name": name, "model_version": version})).await;
    model["is_current_version"].clone()
}

async fn pids(client: &Client) -> Vec<u64> {
    let deployments = client.answers("get_deployments", json!({})).await;
    let replicas = deployments.as_array().unwrap().iter().flat_map(|it| it["replicas"].as_array().unwrap());
    replicas.filter_map(|replica| replica["pid"].as_u64()).collect()
}

fn runs(pid: u64) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).exists()
}

#[tokio::test]
async fn a_model_is_deployed_scaled_restarted_and_stopped() {
    let cluster = Cluster::start().await;
    let client = &cluster.client;
    assert_eq!(
        client.says("deploy_model", deployment("m", "1", SLEEP)).await,
        "Successfully deployed model with name 'm' and version '1' with 1 replica"
    );
    assert_eq!(current(client, "m", "1").await, json!(true));
    assert_eq!(
        client.refuses("deploy_model", deployment("m", "1", SLEEP)).await,
        "model with name 'm' and version '1' already exists"
    );
    assert_eq!(
        client.says("set_num_replicas", json!({"model_name": "m", "num_replicas": 2})).await,
        "Successfully set the number of replicas of model with name 'm' and version '1' to 2"
    );
    let logs = client.answers("get_replica_logs", json!({"model_name": "m", "lines": 1})).await;
    assert_eq!(logs, json!({"m:1:0": ["started"], "m:1:1": ["started"]}));
    let deployments = client.answers("get_deployments", json!({})).await;
    assert_eq!(deployments[0]["num_replicas"], 2);
    assert_eq!(deployments[0]["replicas"][1]["state"], "ready");
    assert_eq!(deployments[0]["batching"], json!({"strategy": "aimd", "wait_micros": null}));
    assert_eq!((&deployments[0]["batch_size"], &deployments[0]["cache"]), (&json!(-1), &json!(false)));

    let before = pids(client).await;
    let cluster = cluster.restart().await;
    let client = &cluster.client;
    assert!(before.iter().all(|pid| !runs(*pid)));
    let after = until("both replicas run again", async || {
        let pids = pids(client).await;
        (pids.len() == 2).then_some(pids)
    })
    .await;

    assert_eq!(client.says("stop_models", json!({"model_names": ["m"]})).await, "Stopped 1 deployment");
    assert!(after.iter().all(|pid| !runs(*pid)));
    // It stays registered and deployed, also over a restart, so it can be started again.
    let cluster = cluster.restart().await;
    let client = &cluster.client;
    assert_eq!(current(client, "m", "1").await, json!(true));
    let deployments = client.answers("get_deployments", json!({})).await;
    assert_eq!((&deployments[0]["num_replicas"], &deployments[0]["replicas"]), (&json!(0), &json!([])));
    assert_eq!(client.says("stop_models", json!({"model_names": ["m"]})).await, "Stopped 0 deployments");
    client.says("set_num_replicas", json!({"model_name": "m", "num_replicas": 1})).await;
    assert_eq!(pids(client).await.len(), 1);
    client.says("delete_versioned_model", json!({"model_name": "m", "model_version": "1"})).await;
    assert_eq!(client.answers("get_deployments", json!({})).await, json!([]));
    cluster.frontend.abort();
}

#[tokio::test]
async fn a_number_of_replicas_that_no_host_can_run_is_refused_wherever_it_enters() {
    let cluster = Cluster::start().await;
    let client = &cluster.client;
    let cause = "a deployment can have at most 1000 replicas, not 4000000000";
    let mut many = deployment("m", "1", SLEEP);
    many["num_replicas"] = json!(4_000_000_000_u32);
    let refused = client.refuses("deploy_model", many).await;
    assert!(refused.contains(cause), "{refused}");
    client.says("deploy_model", deployment("m", "1", SLEEP)).await;
    let refused = client
        .refuses("set_num_replicas", json!({"model_name": "m", "num_replicas": 4_000_000_000_u32}))
        .await;
    assert!(refused.contains(cause), "{refused}");
    let (_, export) = client.get("/admin/export").await;
    let export = export.replace(r#""num_replicas":1,"#, r#""num_replicas":4000000000,"#);
    let refused = client.refuses_text("import", export).await;
    assert!(refused.contains(cause), "{refused}");
    cluster.frontend.abort();
}

#[tokio::test]
async fn a_failed_deployment_leaves_nothing_behind() {
    let cluster = Cluster::start().await;
    let client = &cluster.client;
    client.says("deploy_model", deployment("m", "1", SLEEP)).await;
    let refused = client.refuses("deploy_model", deployment("m", "2", "echo no such weights; exit 3")).await;
    assert!(refused.contains("no such weights") && refused.contains("code 3"), "{refused}");
    assert_eq!(client.answers("get_all_models", json!({})).await, json!(["m:1"]));
    assert_eq!(current(client, "m", "1").await, json!(true));
    assert_eq!(client.answers("get_deployments", json!({})).await.as_array().unwrap().len(), 1);
    // The same version can be tried again.
    client.says("deploy_model", deployment("m", "2", SLEEP)).await;
    assert_eq!(current(client, "m", "2").await, json!(true));
    cluster.frontend.abort();
}

#[tokio::test]
async fn a_deployment_goes_on_when_its_client_hangs_up() {
    let cluster = Cluster::start().await;
    let client = &cluster.client;
    let script = "sleep 0.3; echo started; exec sleep 1000";
    let deploying = client.says("deploy_model", deployment("m", "1", script));
    assert!(tokio::time::timeout(Duration::from_millis(20), deploying).await.is_err());
    until("it is deployed", async || (current(client, "m", "1").await == true).then_some(())).await;
    cluster.frontend.abort();
}

#[tokio::test]
async fn a_deployment_that_is_deleted_on_the_way_is_gone() {
    let server_directory = tempfile::tempdir().unwrap();
    let server = Server::start(server_directory.path()).await;
    let client = server.client.clone();
    let frontend = frontend(client.clone(), false);
    let deploying = client.clone();
    let deploying =
        tokio::spawn(async move { deploying.refuses("deploy_model", deployment("m", "1", SLEEP)).await });
    let version = json!({"model_name": "m", "model_version": "1"});
    until("the version is there", async || {
        (client.answers("get_model", version.clone()).await != json!({})).then_some(())
    })
    .await;
    assert_eq!(
        client.refuses("set_model_version", version.clone()).await,
        "Cannot set version '1' for model with name 'm' while it is being deployed"
    );
    assert_eq!(
        client
            .refuses("set_num_replicas", json!({"model_name": "m", "model_version": "1", "num_replicas": 2}))
            .await,
        "No deployment of model with name 'm' and version '1' exists."
    );
    client.says("delete_versioned_model", version).await;
    let refused = deploying.await.unwrap();
    assert!(refused.contains("stopped"), "{refused}");
    assert_eq!(client.answers("get_all_models", json!({})).await, json!([]));
    assert_eq!(client.answers("get_deployments", json!({})).await, json!([]));
    frontend.abort();
}

#[tokio::test]
async fn deployments_are_stopped_by_version_by_being_inactive_and_all() {
    let cluster = Cluster::start().await;
    let client = &cluster.client;
    for (name, version) in [("m", "1"), ("m", "2"), ("n", "1")] {
        client.says("deploy_model", deployment(name, version, SLEEP)).await;
    }
    for (call, body, cause) in [
        ("stop_models", json!({"model_names": ["m", "x"]}), "No deployment of model with name 'x' exists."),
        (
            "stop_versioned_models",
            json!({"model_versions": {"m": ["1", "9"]}}),
            "No deployment of model with name 'm' and version '9' exists.",
        ),
        (
            "set_num_replicas",
            json!({"model_name": "m", "model_version": "9", "num_replicas": 2}),
            "No deployment of model with name 'm' and version '9' exists.",
        ),
        ("set_num_replicas", json!({"model_name": "x", "num_replicas": 2}), "No model with name 'x' exists."),
        (
            "get_replica_logs",
            json!({"model_name": "m", "model_version": "9"}),
            "No deployment of model with name 'm' and version '9' exists.",
        ),
    ] {
        assert_eq!(client.refuses(call, body).await, cause);
    }
    assert_eq!(pids(client).await.len(), 3);
    let models = json!({"model_names": ["m", "n"]});
    assert_eq!(client.says("stop_inactive_model_versions", models.clone()).await, "Stopped 1 deployment");
    assert_eq!(client.says("stop_inactive_model_versions", models).await, "Stopped 0 deployments");
    let versions = json!({"model_versions": {"m": [2]}});
    assert_eq!(client.says("stop_versioned_models", versions).await, "Stopped 1 deployment");
    assert_eq!(client.says("stop_all_models", json!({})).await, "Stopped 1 deployment");
    assert_eq!(client.says("stop_all_models", json!({})).await, "Stopped 0 deployments");
    assert_eq!(client.answers("get_all_models", json!({})).await, json!(["m:1", "m:2", "n:1"]));
    cluster.frontend.abort();
}

#[tokio::test]
async fn a_deployment_that_is_stopped_while_it_grows_has_no_replicas() {
    let cluster = Cluster::start().await;
    let client = &cluster.client;
    let version = json!({"model_name": "m", "model_version": "1"});
    client.says("deploy_model", deployment("m", "1", SLEEP)).await;
    cluster.frontend.abort();
    // Nobody sees the new replicas connect any more.
    let growing = client.clone();
    let growing = tokio::spawn(async move {
        let more = json!({"model_name": "m", "num_replicas": 3, "timeout_seconds": 30});
        growing.refuses("set_num_replicas", more).await
    });
    until("they are started", async || (pids(client).await.len() == 3).then_some(())).await;
    assert_eq!(client.says("stop_all_models", json!({})).await, "Stopped 1 deployment");
    let refused = growing.await.unwrap();
    assert!(refused.contains("stopped"), "{refused}");
    let deployments = client.answers("get_deployments", json!({})).await;
    assert_eq!((&deployments[0]["num_replicas"], &deployments[0]["replicas"]), (&json!(0), &json!([])));
    let export: Value = serde_json::from_str(&client.get("/admin/export").await.1).unwrap();
    assert_eq!(export["deployments"][0]["num_replicas"], 0);
    client.says("delete_versioned_model", version).await;
}

#[tokio::test]
async fn a_deployment_that_makes_no_sense_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path()).await;
    let client = &server.client;
    let absent = "0".repeat(64);
    for (change, cause) in [
        (json!({"container_kind": "noop"}), "Exactly one of container_kind and command must be given"),
        (json!({"command": null}), "Exactly one of container_kind and command must be given"),
        (json!({"command": []}), "The command must begin with the program to run"),
        (json!({"command": ["", "x"]}), "The command must begin with the program to run"),
        (json!({"batch_size": 0}), "The batch size must be positive or DEFAULT_BATCH_SIZE, which is -1"),
        (
            json!({"artifact": absent, "model_data_path": "/models"}),
            "At most one of artifact and model_data_path can be given",
        ),
        (json!({"artifact": absent}), "is not stored; upload it with /admin/add_artifact first"),
        (json!({"artifact": "x"}), "does not identify an artifact"),
        (
            json!({"command": null, "container_kind": "tensorflow"}),
            "'tensorflow' is not a container kind; expected one of: noop, sum, python-closure",
        ),
        (json!({"image": "x"}), "unknown field `image`"),
    ] {
        let mut body = deployment("m", "1", SLEEP);
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let refused = client.refuses("deploy_model", body).await;
        assert!(refused.contains(cause), "{refused}");
    }
    client.add_app("a", "ints").await;
    client.says("delete_app", json!({"name": "a"})).await;
    let app = json!({"name": "a", "input_type": "ints", "default_output": "", "latency_slo_micros": 1,
        "linked_models": ["m"]});
    client.says("add_app", app).await;
    let refused = client.refuses("deploy_model", deployment("m", "1", SLEEP)).await;
    assert!(refused.contains("already linked to app 'a' using input type 'ints'"), "{refused}");
    assert_eq!(client.answers("get_all_models", json!({})).await, json!([]));
}

fn archive(content: &[u8]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    archive.append_data(&mut header, "weights", content).unwrap();
    archive.into_inner().unwrap()
}

#[tokio::test]
async fn a_failed_deployment_leaves_no_artifact_and_a_fresh_upload_is_kept() {
    let cluster = Cluster::start().await;
    let client = &cluster.client;
    let (_, stored) = client.post_text("/admin/add_artifact", archive(b"42")).await;
    let artifact = serde_json::from_str::<Value>(&stored).unwrap()["artifact"].clone();
    let folder = cluster.directory.path().join("artifacts").join(artifact.as_str().unwrap());
    let mut working = deployment("m", "1", SLEEP);
    working["artifact"] = artifact.clone();
    let mut failing = deployment("m", "2", "exit 3");
    failing["artifact"] = artifact;
    client.says("deploy_model", working).await;
    // The same files again, before the deployment that has them is gone.
    client.post_text("/admin/add_artifact", archive(b"42")).await;
    client.says("delete_versioned_model", json!({"model_name": "m", "model_version": "1"})).await;
    assert!(folder.is_dir());
    client.refuses("deploy_model", failing).await;
    assert!(!folder.exists());
    cluster.frontend.abort();
}

#[tokio::test]
async fn a_refused_deployment_takes_its_upload_with_it_and_uploads_are_bounded_together() {
    let directory = tempfile::tempdir().unwrap();
    // Room for one archive with its files, and not for another one.
    let config = clipper_management::Config { uploads_bytes: 4000, ..harness::config(directory.path()) };
    let server = Server::open_with(config).await.unwrap();
    let client = &server.client;
    client.add_model("m", "1", "doubles").await;
    let (_, stored) = client.post_text("/admin/add_artifact", archive(b"42")).await;
    let artifact = serde_json::from_str::<Value>(&stored).unwrap()["artifact"].clone();
    let (status, text) = client.post_text("/admin/add_artifact", archive(b"43")).await;
    assert_eq!(status, StatusCode::INSUFFICIENT_STORAGE, "{text}");
    assert!(text.contains("--uploads-bytes"), "{text}");
    let mut again = deployment("m", "1", SLEEP);
    again["artifact"] = artifact.clone();
    let refused = client.refuses("deploy_model", again).await;
    assert!(refused.contains("exist"), "{refused}");
    let (status, _) = client.get(&format!("/admin/get_artifact/{}", artifact.as_str().unwrap())).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let (status, text) = client.post_text("/admin/add_artifact", archive(b"43")).await;
    assert_eq!(status, StatusCode::OK, "{text}");
}

#[tokio::test]
async fn what_a_deployment_writes_among_its_models_files_reaches_no_other_deployment() {
    let cluster = Cluster::start().await;
    let client = &cluster.client;
    let (_, stored) = client.post_text("/admin/add_artifact", archive(b"42")).await;
    let artifact = serde_json::from_str::<Value>(&stored).unwrap()["artifact"].clone();
    let of = |name: &str, script: &str| {
        let mut body = deployment(name, "1", &format!("cd \"$CLIPPER_MODEL_PATH\" || exit 1; {script}"));
        body["artifact"] = artifact.clone();
        body
    };
    let printed = async |client: &Client, name: &str| {
        let logs = client.answers("get_replica_logs", json!({"model_name": name, "lines": 1})).await;
        logs[format!("{name}:1:0")][0].as_str().map(str::to_owned)
    };
    let read = "echo read $(cat weights) $(ls)";
    // One that runs meanwhile, and reads as often as it is asked to.
    let asked = cluster.directory.path().join("asked");
    let running = format!("while :; do test -e {} && {read}; sleep 0.02; done", asked.display());
    client.says("deploy_model", of("running", &running)).await;
    let write = "echo 666 > weights; chmod 0 weights; echo > planted; ln -s /etc linked; echo written; exec sleep 1000";
    client.says("deploy_model", of("writing", write)).await;
    until("it has written", async || printed(client, "writing").await.filter(|line| line == "written")).await;
    std::fs::write(&asked, "").unwrap();
    client.says("deploy_model", of("later", &format!("{read}; exec sleep 1000"))).await;
    for name in ["running", "later"] {
        let line = until("it has read", async || printed(client, name).await).await;
        assert_eq!(line, "read 42 weights", "{name}");
    }
    let copies = cluster.directory.path().join("models");
    assert_eq!(std::fs::read_dir(copies.join("writing/1")).unwrap().count(), 1);
    client.says("delete_versioned_model", json!({"model_name": "writing", "model_version": "1"})).await;
    assert_eq!(std::fs::read_dir(copies.join("writing/1")).unwrap().count(), 0);

    // The same files serve again after a restart, and a version that is deployed anew begins with
    // them.
    std::fs::remove_file(&asked).unwrap();
    let cluster = cluster.restart().await;
    let client = &cluster.client;
    client.says("deploy_model", of("writing", &format!("{read}; exec sleep 1000"))).await;
    std::fs::write(&asked, "").unwrap();
    for name in ["running", "later", "writing"] {
        let line = until("it has read again", async || printed(client, name).await).await;
        assert_eq!(line, "read 42 weights", "{name}");
    }
    cluster.frontend.abort();
}

#[tokio::test]
async fn an_artifact_is_given_to_replicas_and_removed_with_its_deployment() {
    let cluster = Cluster::start().await;
    let client = &cluster.client;
    let (status, first) = client.post_text("/admin/add_artifact", archive(b"42")).await;
    assert_eq!(status, StatusCode::OK);
    let (_, second) = client.post_text("/admin/add_artifact", archive(b"42")).await;
    assert_eq!(first, second);
    let artifact = serde_json::from_str::<Value>(&first).unwrap()["artifact"].clone();
    let folder = cluster.directory.path().join("artifacts").join(artifact.as_str().unwrap());

    let mut body = deployment("m", "1", "cat $CLIPPER_MODEL_PATH/weights; echo; exec sleep 1000");
    body["artifact"] = artifact;
    client.says("deploy_model", body).await;
    until("it prints its weights", async || {
        let logs = client.answers("get_replica_logs", json!({"model_name": "m"})).await;
        (logs == json!({"m:1:0": ["42"]})).then_some(())
    })
    .await;
    client.says("stop_all_models", json!({})).await;
    assert!(folder.exists(), "it may be started again");
    client.says("delete_versioned_model", json!({"model_name": "m", "model_version": "1"})).await;
    assert!(!folder.exists());

    let refused = client.refuses_text("add_artifact", "not a tar archive".repeat(100)).await;
    assert!(refused.contains("is not a readable tar archive"), "{refused}");
    let (status, text) = client.post_text("/admin/add_artifact", vec![0; 100_001]).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE, "{text}");
    assert_eq!(std::fs::read_dir(cluster.directory.path().join("uploads")).unwrap().count(), 0);
    cluster.frontend.abort();
}
