//! A deployment's own copy of its artifact, which `CLIPPER_MODEL_PATH` names.
//!
//! Artifacts are stored once however many deployments have them, and modes do not bind root. So no
//! replica is given the stored files: each deployment has a copy in
//! `DATA/models/NAME/VERSION/GENERATION`, which its replicas may write to. The copy is made before
//! the first replica starts and goes with the deployment. Management begins without copies.
//! Invariant: a folder of that name is complete, and is the copy of one deployment.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clipper_rpc::catalog::Revision;
use clipper_rpc::names::ModelId;
use tokio::sync::Mutex as AsyncMutex;
use tokio::task::spawn_blocking;
use tracing::warn;

use super::ArtifactId;

/// The folder of all copies in the data directory.
pub(super) const FOLDER: &str = "models";

/// The copy of one deployment.
#[derive(Debug)]
pub(super) struct ModelFiles {
    artifact: PathBuf,
    folder: PathBuf,
    /// Held while the copy is made or removed, also after those who wait for that have gone.
    state: Arc<AsyncMutex<State>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Absent,
    Made,
    /// The deployment has ended.
    Removed,
}

impl ModelFiles {
    /// The copy, yet to be made, of an artifact for one registration of a version.
    pub(super) fn new(data_dir: &Path, artifact: &ArtifactId, model: &ModelId, generation: Revision) -> Self {
        let version = data_dir.join(FOLDER).join(model.name.as_str()).join(model.version.as_str());
        Self {
            artifact: data_dir.join("artifacts").join(artifact.as_str()),
            folder: version.join(generation.to_string()),
            state: Arc::new(AsyncMutex::new(State::Absent)),
        }
    }

    /// The folder of the copy, once it is made.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Makes the copy, unless that is done. If several callers ask at once, one copy is made.
    ///
    /// # Errors
    /// If the files cannot be copied, or the deployment has ended.
    pub(super) async fn provide(&self) -> io::Result<()> {
        let mut state = Arc::clone(&self.state).lock_owned().await;
        match *state {
            State::Absent => {}
            State::Made => return Ok(()),
            State::Removed => return Err(io::Error::other("the deployment has ended")),
        }
        let (artifact, folder) = (self.artifact.clone(), self.folder.clone());
        spawn_blocking(move || {
            copy(&artifact, &folder)?;
            *state = State::Made;
            Ok(())
        })
        .await?
    }

    /// Removes the copy for good. No replica of the deployment may run.
    pub(super) async fn remove(&self) {
        let mut state = self.state.lock().await;
        if std::mem::replace(&mut *state, State::Removed) == State::Made
            && let Err(error) = tokio::fs::remove_dir_all(&self.folder).await
            && error.kind() != io::ErrorKind::NotFound
        {
            warn!(folder = %self.folder.display(), %error, "a copy of a model's files stays until the next start");
        }
    }
}

/// Copies an artifact to a folder that does not exist yet, and shows it once it is complete.
fn copy(artifact: &Path, folder: &Path) -> io::Result<()> {
    let parent = folder.parent().expect("a version's folder holds it");
    fs::create_dir_all(parent)?;
    let unfinished = tempfile::Builder::new().prefix(".").tempdir_in(parent)?;
    copy_tree(artifact, unfinished.path())?;
    fs::rename(unfinished.path(), folder)?;
    // It has another name now.
    let _ = unfinished.keep();
    Ok(())
}

/// Copies files and folders, which is all that an artifact has. Where the file system can share
/// blocks until they are written to, [`fs::copy`] has it do so.
fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (kind, target) = (entry.file_type()?, to.join(entry.file_name()));
        if kind.is_dir() {
            fs::create_dir(&target)?;
            copy_tree(&entry.path(), &target)?;
        } else if kind.is_file() {
            fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    struct Fixture {
        data_dir: tempfile::TempDir,
        artifact: ArtifactId,
    }

    impl Fixture {
        fn new() -> Self {
            let data_dir = tempfile::tempdir().unwrap();
            let artifact: ArtifactId = "a0".repeat(32).parse().unwrap();
            let stored = data_dir.path().join("artifacts").join(artifact.as_str());
            fs::create_dir_all(stored.join("folder/empty")).unwrap();
            fs::write(stored.join("folder/weights"), "42").unwrap();
            fs::write(stored.join("run"), "exit 0").unwrap();
            fs::set_permissions(stored.join("run"), fs::Permissions::from_mode(0o755)).unwrap();
            Self { data_dir, artifact }
        }

        fn stored(&self) -> PathBuf {
            self.data_dir.path().join("artifacts").join(self.artifact.as_str())
        }

        fn files(&self, generation: Revision) -> ModelFiles {
            let model = ModelId { name: "m".parse().unwrap(), version: "1".parse().unwrap() };
            ModelFiles::new(self.data_dir.path(), &self.artifact, &model, generation)
        }
    }

    #[tokio::test]
    async fn what_is_done_to_one_copy_reaches_neither_the_artifact_nor_another_copy() {
        let fixture = Fixture::new();
        let (one, other) = (fixture.files(1), fixture.files(2));
        one.provide().await.unwrap();
        other.provide().await.unwrap();
        fs::write(one.folder().join("folder/weights"), "666").unwrap();
        fs::write(one.folder().join("new"), "").unwrap();
        fs::set_permissions(one.folder().join("run"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::remove_dir(one.folder().join("folder/empty")).unwrap();
        let later = fixture.files(3);
        later.provide().await.unwrap();
        for folder in [other.folder(), later.folder(), &fixture.stored()] {
            assert_eq!(fs::read_to_string(folder.join("folder/weights")).unwrap(), "42");
            assert!(folder.join("folder/empty").is_dir() && !folder.join("new").exists());
            assert_eq!(fs::metadata(folder.join("run")).unwrap().permissions().mode() & 0o777, 0o755);
        }
        // Nor is it undone while the deployment lasts.
        one.provide().await.unwrap();
        assert_eq!(fs::read_to_string(one.folder().join("folder/weights")).unwrap(), "666");
    }

    #[tokio::test]
    async fn replicas_that_start_together_are_given_one_copy() {
        let fixture = Fixture::new();
        let files = fixture.files(1);
        let provided = futures_util::future::join_all((0..16).map(|_| files.provide())).await;
        assert!(provided.iter().all(Result::is_ok), "{provided:?}");
        let copies: Vec<_> = fs::read_dir(files.folder().parent().unwrap()).unwrap().collect();
        assert_eq!(copies.len(), 1, "{copies:?}");
    }

    #[tokio::test]
    async fn what_a_former_version_of_clipper_let_replicas_put_beside_the_files_is_not_copied() {
        let fixture = Fixture::new();
        symlink("/nowhere", fixture.stored().join("dangling")).unwrap();
        symlink("/etc", fixture.stored().join("elsewhere")).unwrap();
        let files = fixture.files(1);
        files.provide().await.unwrap();
        assert!(files.folder().join("run").exists());
        for link in ["dangling", "elsewhere"] {
            assert!(fs::symlink_metadata(files.folder().join(link)).is_err());
        }
    }

    #[tokio::test]
    async fn a_copy_goes_for_good_and_a_copy_that_fails_leaves_nothing() {
        let fixture = Fixture::new();
        let files = fixture.files(1);
        files.provide().await.unwrap();
        files.remove().await;
        assert!(!files.folder().exists() && fixture.stored().exists());
        assert!(files.provide().await.is_err() && !files.folder().exists());
        let files = fixture.files(2);
        fs::remove_dir_all(fixture.stored()).unwrap();
        assert_eq!(files.provide().await.unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(fs::read_dir(files.folder().parent().unwrap()).unwrap().count(), 0);
    }
}
