//! The log files of replicas: where they are, their last lines, and when they go.
//!
//! Each replica has `DATA/logs/MODEL/VERSION/NUMBER.log`, and beside it the former one, set aside as `NUMBER.log.1`. Invariant:
//! once management has started, there are logs only of versions that are, or are being, deployed.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

use clipper_rpc::names::ModelId;
use clipper_rpc::printable::Printable;
use tokio::fs;
use tracing::warn;

/// The folder of a version's logs.
pub(super) fn folder(data_dir: &Path, model: &ModelId) -> PathBuf {
    data_dir.join("logs").join(model.name.as_str()).join(model.version.as_str())
}

/// Where a log file is set aside when it is full.
pub(super) fn former(log: &Path) -> PathBuf {
    let mut former = log.to_owned().into_os_string();
    former.push(".1");
    former.into()
}

/// The last lines of a log, at most `count`, oldest first; none where there is no log.
pub(super) async fn last_lines(log: &Path, count: usize) -> Vec<String> {
    let mut text = fs::read(former(log)).await.unwrap_or_default();
    text.extend(fs::read(log).await.unwrap_or_default());
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().rev().take(count).collect();
    // Versions before this one logged lines as they came.
    lines.into_iter().rev().map(|line| Printable(line).to_string()).collect()
}

/// Removes the logs of a version.
pub(super) async fn remove(data_dir: &Path, model: &ModelId) {
    let folder = folder(data_dir, model);
    match fs::remove_dir_all(&folder).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            warn!(folder = %folder.display(), %error, "logs cannot be removed");
        }
        _ => {}
    }
}

/// Removes the logs of all versions but those that are kept.
pub(super) async fn sweep(data_dir: &Path, kept: &HashSet<ModelId>) -> io::Result<()> {
    let mut names = match fs::read_dir(data_dir.join("logs")).await {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    while let Some(name) = names.next_entry().await? {
        let Ok(mut versions) = fs::read_dir(name.path()).await else { continue };
        while let Some(version) = versions.next_entry().await? {
            let model =
                name.file_name().to_str().zip(version.file_name().to_str()).and_then(|(name, version)| {
                    Some(ModelId { name: name.parse().ok()?, version: version.parse().ok()? })
                });
            if let Some(model) = model.filter(|model| !kept.contains(model)) {
                remove(data_dir, &model).await;
            }
        }
        // Fails unless it is empty.
        let _ = fs::remove_dir(name.path()).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(version: &str) -> ModelId {
        ModelId { name: "m".parse().unwrap(), version: version.parse().unwrap() }
    }

    #[tokio::test]
    async fn the_last_lines_reach_back_into_the_file_that_was_set_aside() {
        let data_dir = tempfile::tempdir().unwrap();
        let log = data_dir.path().join("0.log");
        assert_eq!(last_lines(&log, 5).await, [""; 0]);
        std::fs::write(former(&log), "one\ntwo\n").unwrap();
        std::fs::write(&log, "three\n").unwrap();
        assert_eq!(last_lines(&log, 2).await, ["two", "three"]);
        assert_eq!(last_lines(&log, 9).await, ["one", "two", "three"]);
    }

    #[tokio::test]
    async fn a_sweep_leaves_the_logs_of_what_is_deployed() {
        let data_dir = tempfile::tempdir().unwrap();
        for version in ["1", "2"] {
            std::fs::create_dir_all(folder(data_dir.path(), &model(version))).unwrap();
        }
        sweep(data_dir.path(), &HashSet::from([model("2")])).await.unwrap();
        assert!(!folder(data_dir.path(), &model("1")).exists());
        assert!(folder(data_dir.path(), &model("2")).exists());
        sweep(data_dir.path(), &HashSet::new()).await.unwrap();
        assert!(!data_dir.path().join("logs/m").exists());
    }
}
