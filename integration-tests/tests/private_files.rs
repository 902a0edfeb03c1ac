//! The data directory: nothing in it is of use to other users, whatever wrote it, and under any
//! umask.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use clipper_integration_tests::{Cluster, eventually, program};
use nix::sys::stat::{Mode, umask};
use serde_json::{Value, json};

/// Starts a cluster from a shell with the most generous umask, and lets everything in it write its
/// files.
async fn busy_cluster() -> Cluster {
    umask(Mode::empty());
    let cluster = Cluster::start_with(&["--log-file", "data/clipper.log"]).await;
    let script = format!(
        "#!/bin/sh\necho starting\necho 1 > scribble\nmkdir folder\nexec {}\n",
        program::example("sum").display()
    );
    let artifact = upload(&cluster, &[("run.sh", 0o755, &script), ("weights/w.bin", 0o666, "0.5")]).await;
    for model in ["m", "n"] {
        let body = json!({
            "model_name": model, "model_version": "1", "input_type": "doubles",
            "command": ["./run.sh"], "artifact": artifact,
        });
        cluster.must("deploy_model", body).await;
    }
    let app = json!({
        "name": "app", "input_type": "doubles", "default_output": "none", "linked_models": ["m", "n"],
        "latency_slo_micros": 20_000_000, "selection_policy": "exp3", "log_decisions": true,
    });
    cluster.must("add_app", app).await;
    cluster.served(0, "app", json!({"input": [1, 2]})).await;
    let decisions = cluster.data_dir().join("decisions/app");
    eventually("decisions are logged", async || {
        fs::read_dir(&decisions).is_ok_and(|mut files| files.next().is_some())
    })
    .await;
    cluster
}

async fn upload(cluster: &Cluster, files: &[(&str, u32, &str)]) -> Value {
    let mut archive = tar::Builder::new(Vec::new());
    for &(name, mode, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(mode);
        archive.append_data(&mut header, name, content.as_bytes()).unwrap();
    }
    let upload = cluster.http().post(format!("{}/admin/add_artifact", cluster.admin_url()));
    let upload = upload.header("content-type", "application/x-tar").body(archive.into_inner().unwrap());
    let stored = upload.send().await.unwrap().text().await.unwrap();
    serde_json::from_str::<Value>(&stored).unwrap()["artifact"].clone()
}

/// A file or folder, and its mode.
type Found = (PathBuf, u32);

fn all(folder: &Path) -> Vec<Found> {
    let metadata = folder.symlink_metadata().unwrap();
    let mut found = vec![(folder.to_owned(), metadata.mode() & 0o7777)];
    if metadata.is_dir() {
        found.extend(fs::read_dir(folder).unwrap().flat_map(|entry| all(&entry.unwrap().path())));
    }
    found
}

/// Everything in a data directory. Panics unless only its owner can use it, and all that is
/// expected is there.
fn closed(data_dir: &Path) -> Vec<Found> {
    let found = all(data_dir);
    for (path, mode) in &found {
        let expected = match path {
            path if path.is_dir() || path.ends_with("run.sh") => 0o700,
            _ => 0o600,
        };
        assert_eq!(format!("{mode:o}"), format!("{expected:o}"), "{}", path.display());
    }
    for name in [
        "clipper.lock",
        "clipper.log",
        "clipper.store",
        "addresses.json",
        "catalog",
        "selection",
        "decisions",
        "uploads",
        "run.sh",
        "w.bin",
        "scribble",
        "folder",
        "0.log",
    ] {
        assert!(found.iter().any(|(path, _)| path.ends_with(name)), "there is no {name}: {found:#?}");
    }
    found
}

#[tokio::test]
async fn all_that_a_cluster_and_its_models_write_is_closed_to_other_users() {
    let cluster = busy_cluster().await;
    closed(&cluster.data_dir());
}

#[tokio::test]
async fn a_data_directory_that_was_open_to_others_is_closed_at_the_next_start() {
    let mut cluster = busy_cluster().await;
    assert_eq!(cluster.main.terminate().await, 0);
    // As under the usual umask of 002. What all others can write is refused.
    for (path, mode) in all(&cluster.data_dir()) {
        fs::set_permissions(path, Permissions::from_mode(mode | (mode >> 3) | (mode >> 6) & 0o5)).unwrap();
    }
    cluster.main.restart().await;
    cluster.ready(0).await;
    cluster.served(0, "app", json!({"input": [1, 2]})).await;
    closed(&cluster.data_dir());
}

#[tokio::test]
async fn a_decision_log_elsewhere_is_closed_to_other_users() {
    let elsewhere = tempfile::Builder::new().permissions(Permissions::from_mode(0o700)).tempdir().unwrap();
    umask(Mode::empty());
    let log = elsewhere.path().join("log");
    fs::create_dir_all(log.join("of-before")).unwrap();
    fs::write(log.join("of-before/1-2.jsonl"), "").unwrap();
    for (path, _) in all(&log) {
        fs::set_permissions(&path, Permissions::from_mode(if path.is_dir() { 0o775 } else { 0o664 }))
            .unwrap();
    }
    let _cluster = Cluster::start_with(&["--decision-log-dir", log.to_str().unwrap()]).await;
    for (path, mode) in all(&log) {
        let expected = if path.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(format!("{mode:o}"), format!("{expected:o}"), "{}", path.display());
    }
}
