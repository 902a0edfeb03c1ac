//! Backups: a cluster that is backed up while it runs, and begun again from that elsewhere.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use clipper_integration_tests::{Cluster, eventually_some, program};
use serde_json::{Value, json};

const OBJECTIVE: Duration = Duration::from_secs(20);

/// Runs `clipper` with these arguments to its end.
async fn clipper(arguments: &[&str]) -> Output {
    let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
    let run = move || program::isolated(program::clipper()).args(arguments).output().unwrap();
    tokio::task::spawn_blocking(run).await.unwrap()
}

/// What `clipper` says as it refuses.
async fn refusal(arguments: &[&str]) -> String {
    let output = clipper(arguments).await;
    assert!(!output.status.success(), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

async fn back_up(cluster: &Cluster, folder: &Path) {
    let output = clipper(&["backup", text(folder), "--management", &cluster.admin_url()]).await;
    assert!(output.status.success(), "{output:?}");
}

async fn restore(folder: &Path, data_dir: &Path) {
    let output = clipper(&["restore", text(folder), "--data-dir", text(data_dir)]).await;
    assert!(output.status.success(), "{output:?}");
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The archive of a model that answers the content of its only file.
fn archive() -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(2);
    header.set_mode(0o644);
    archive.append_data(&mut header, "weights", &b"42"[..]).unwrap();
    archive.into_inner().unwrap()
}

async fn upload(cluster: &Cluster) -> String {
    let url = format!("{}/admin/add_artifact", cluster.admin_url());
    let sent =
        cluster.http().post(url).header("content-type", "application/x-tar").body(archive()).send().await;
    let stored: Value = serde_json::from_str(&sent.unwrap().text().await.unwrap()).unwrap();
    stored["artifact"].as_str().unwrap().to_owned()
}

/// Deploys version 1 of `m`, which runs only where it finds its files, and links it to an application that learns.
async fn serve(cluster: &Cluster) -> String {
    let artifact = upload(cluster).await;
    let script = format!(
        "test \"$(cat $CLIPPER_MODEL_PATH/weights)\" = 42 && exec {}",
        program::example("sum").display()
    );
    let body = json!({
        "model_name": "m", "model_version": "1", "input_type": "doubles", "artifact": artifact,
        "command": ["sh", "-c", script], "environment": {"SECRET": "swordfish"},
    });
    cluster.must("deploy_model", body).await;
    let app = json!({
        "name": "a", "input_type": "doubles", "default_output": "\"default\"", "linked_models": ["m"],
        "latency_slo_micros": u64::try_from(OBJECTIVE.as_micros()).unwrap(), "selection_policy": "exp3",
    });
    cluster.must("add_app", app).await;
    artifact
}

/// Gives feedback of a user, which goes with an input.
async fn teach(cluster: &Cluster, times: usize) {
    let url = format!("{}/a/update", cluster.query_url(0));
    for number in 0..times {
        let body = json!({"uid": "ann", "input": [1.0, number as f64], "label": 1.0 + number as f64});
        let sent =
            cluster.http().post(&url).header("content-type", "application/json").body(body.to_string());
        assert_eq!(sent.send().await.unwrap().status(), 200);
    }
}

async fn learned(cluster: &Cluster) -> Value {
    cluster.read("get_state", json!({"app_name": "a", "uid": "ann"})).await["state"]["models"].clone()
}

/// What is learned, once it comes from as many feedbacks.
async fn learned_from(cluster: &Cluster, feedbacks: f64) -> Value {
    eventually_some("the feedback is stored", async || {
        let models = learned(cluster).await;
        (models[0]["feedbacks"].as_f64() >= Some(feedbacks)).then_some(models)
    })
    .await
}

/// A cluster on a data directory that was restored from a backup.
async fn restored(folder: &Path) -> Cluster {
    let mut cluster = Cluster::start().await;
    cluster.main.kill();
    fs::remove_dir_all(cluster.data_dir()).unwrap();
    restore(folder, &cluster.data_dir()).await;
    cluster.main.restart().await;
    cluster.ready(0).await;
    cluster
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

#[tokio::test]
async fn a_restored_cluster_serves_the_same_models_with_what_was_learned() {
    let cluster = Cluster::start().await;
    serve(&cluster).await;
    teach(&cluster, 20).await;
    let before = learned_from(&cluster, 20.0).await;
    let outside = tempfile::tempdir().unwrap();
    let backup = outside.path().join("backup");
    back_up(&cluster, &backup).await;
    for path in files_below(&backup) {
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{path:?}");
    }
    assert_eq!(backup.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    let cluster_data = fs::read_to_string(backup.join("manifest.json")).unwrap();
    assert!(!cluster_data.contains("swordfish"));
    drop(cluster);

    let cluster = restored(&backup).await;
    assert_eq!(learned(&cluster).await, before);
    assert_eq!(cluster.served(0, "a", json!({"input": [1, 2], "uid": "ann"})).await["output"], 3.0);
    // It goes on from there.
    teach(&cluster, 5).await;
    learned_from(&cluster, 25.0).await;
}

#[tokio::test]
async fn a_backup_under_load_is_a_state_that_existed() {
    let cluster = Cluster::start().await;
    serve(&cluster).await;
    let outside = tempfile::tempdir().unwrap();
    let backup = outside.path().join("backup");
    // Application `b-N` comes before `c-N`, and goes after it.
    let changes = async {
        for number in 0..40 {
            for prefix in ["b", "c"] {
                cluster.add_app(&format!("{prefix}-{number}"), "doubles", OBJECTIVE, false).await;
            }
        }
    };
    let backing = async {
        eventually_some("some changes are made", async || {
            let apps = cluster.read("get_all_applications", json!({"verbose": false})).await;
            (apps.as_array().unwrap().len() > 5).then_some(())
        })
        .await;
        back_up(&cluster, &backup).await;
    };
    tokio::join!(changes, teach(&cluster, 100), backing);
    let cluster = restored(&backup).await;
    let apps = cluster.read("get_all_applications", json!({"verbose": false})).await;
    let count = |prefix: &str| {
        apps.as_array().unwrap().iter().filter(|app| app.as_str().unwrap().starts_with(prefix)).count()
    };
    assert!(count("b-") > 0 && [0, 1].contains(&(count("b-") - count("c-"))), "{apps}");
    assert_eq!(cluster.served(0, "a", json!({"input": [1, 2]})).await["output"], 3.0);
}

#[tokio::test]
async fn what_is_no_whole_backup_or_no_new_directory_is_refused() {
    let cluster = Cluster::start().await;
    serve(&cluster).await;
    let outside = tempfile::tempdir().unwrap();
    let backup = outside.path().join("backup");
    let new = outside.path().join("new");
    back_up(&cluster, &backup).await;
    let refused = refusal(&["backup", text(&backup), "--management", &cluster.admin_url()]).await;
    assert!(refused.contains("is not empty"), "{refused}");
    let data_dir = cluster.data_dir();
    let refused = refusal(&["restore", text(&backup), "--data-dir", text(&data_dir)]).await;
    assert!(refused.contains("is not empty"), "{refused}");

    let archive = files_below(&backup.join("artifacts")).remove(0);
    let sound = fs::read(&archive).unwrap();
    let mut damaged = sound.clone();
    damaged[600] ^= 1;
    for (content, why) in [(&damaged[..], "has another checksum"), (&sound[..1000], "has 1000 bytes")] {
        fs::write(&archive, content).unwrap();
        let refused = refusal(&["restore", text(&backup), "--data-dir", text(&new)]).await;
        assert!(refused.contains(why) && !new.exists(), "{refused}");
    }
    fs::write(&archive, &sound).unwrap();
    let manifest = backup.join("manifest.json");
    let whole = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, whole.replace("\"format\": 1", "\"format\": 2")).unwrap();
    let refused = refusal(&["restore", text(&backup), "--data-dir", text(&new)]).await;
    assert!(refused.contains("use a newer Clipper") && !new.exists(), "{refused}");
    fs::remove_file(&manifest).unwrap();
    let refused = refusal(&["restore", text(&backup), "--data-dir", text(&new)]).await;
    assert!(refused.contains("holds no whole backup") && !new.exists(), "{refused}");

    // A restore that was interrupted.
    fs::write(&manifest, whole).unwrap();
    restore(&backup, &new).await;
    fs::write(new.join("clipper.restoring"), "").unwrap();
    let refused = refusal(&["start", "--data-dir", text(&new)]).await;
    assert!(refused.contains("is not whole: a restore into it"), "{refused}");
}

#[tokio::test]
async fn a_backup_needs_the_admin_token() {
    let token = "0123456789abcdef0123456789abcdef";
    let outside = tempfile::tempdir().unwrap();
    let file = outside.path().join("token");
    fs::write(&file, token).unwrap();
    let cluster = Cluster::start_with(&["--admin-token-file", text(&file)]).await;
    let backup = outside.path().join("backup");
    let url = cluster.admin_url();
    let refused = refusal(&["backup", text(&backup), "--management", &url]).await;
    assert!(refused.contains("401") && !backup.exists(), "{refused}");
    let with_token = ["backup", text(&backup), "--management", &url, "--admin-token-file", text(&file)];
    assert!(clipper(&with_token).await.status.success() && backup.join("manifest.json").exists());
}

#[tokio::test]
async fn a_lost_catalog_takes_no_model_files_with_it_and_an_export_brings_it_back() {
    let mut cluster = Cluster::start().await;
    let artifact = serve(&cluster).await;
    let url = format!("{}/admin/export?include=environment", cluster.admin_url());
    let export: Value =
        serde_json::from_str(&cluster.http().get(url).send().await.unwrap().text().await.unwrap()).unwrap();
    cluster.main.kill();
    for lost in ["catalog", "clipper.store"] {
        let aside = cluster.directory().join(format!("{lost}.aside"));
        fs::rename(cluster.data_dir().join(lost), aside).unwrap();
    }
    // The second start finds a catalog that has been there before.
    for _ in 0..2 {
        cluster.main.restart().await;
        assert!(cluster.main.log().contains("model files of another catalog are kept"));
        // Has unused artifacts removed.
        upload(&cluster).await;
        cluster.main.kill();
    }
    cluster.main.restart().await;
    let url = format!("{}/admin/get_artifact/{artifact}", cluster.admin_url());
    assert_eq!(cluster.http().get(url).send().await.unwrap().bytes().await.unwrap(), archive());
    cluster.must("import", export).await;
    assert_eq!(cluster.served(0, "a", json!({"input": [1, 2]})).await["output"], 3.0);
}
