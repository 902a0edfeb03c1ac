//! A backup's stream, written to a folder. Blocks.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use tempfile::NamedTempFile;

use super::manifest::{Hashed, ListedFile, Manifest};
use super::names::{ARTIFACTS, BackupFile, MANIFEST};
use super::{BackupError, create_empty};

/// The longest manifest that is read. An artifact takes some 250 bytes of it.
const MAX_MANIFEST_BYTES: u64 = 256 << 20;

/// Writes the stream of a backup to a folder, which must not exist or be empty, and checks it against its manifest.
///
/// # Errors
/// If the stream is not whole, or cannot be written. What was written is removed then. A process that is killed leaves
/// a folder without a manifest, which nobody takes for a backup.
pub fn receive(stream: impl Read, folder: &Path) -> Result<Manifest, BackupError> {
    let created = create_empty(folder)?;
    let received = write(stream, folder);
    if received.is_err() {
        // As far as that is possible: without a manifest the rest is no backup.
        let _ = fs::remove_dir_all(folder);
        if !created {
            let _ = fs::create_dir(folder);
        }
    }
    received
}

fn write(stream: impl Read, folder: &Path) -> Result<Manifest, BackupError> {
    let broken_off = |error: io::Error| BackupError::BrokenOff(error.to_string());
    let artifacts = folder.join(ARTIFACTS);
    fs::create_dir(&artifacts).map_err(BackupError::at(&artifacts))?;
    let mut archive = tar::Archive::new(stream);
    let mut written: Vec<ListedFile> = Vec::new();
    let mut manifest = None;
    for entry in archive.entries().map_err(broken_off)? {
        let mut entry = entry.map_err(broken_off)?;
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        if path == MANIFEST {
            let mut json = Vec::new();
            entry.take(MAX_MANIFEST_BYTES).read_to_end(&mut json).map_err(broken_off)?;
            manifest = Some(json);
            break;
        }
        if BackupFile::of(&path).is_none() {
            return Err(BackupError::damaged(&path, "is no file of a backup"));
        }
        let target = folder.join(&path);
        let mut file = File::create_new(&target).map_err(BackupError::at(&target))?;
        let size = entry.size();
        let mut hashed = Hashed::new(&mut entry);
        copy(&mut hashed, &mut file, &target)?;
        file.sync_all().map_err(BackupError::at(&target))?;
        let listed = hashed.listed(path);
        if listed.bytes != size {
            return Err(BackupError::BrokenOff(format!("{} is cut off", listed.path)));
        }
        written.push(listed);
    }
    let json = manifest.ok_or_else(|| BackupError::BrokenOff("its manifest is missing".into()))?;
    let manifest = Manifest::parse(&json)?;
    for listed in &manifest.files {
        let found = written.iter().find(|written| written.path == listed.path);
        listed.check(found.ok_or_else(|| BackupError::damaged(&listed.path, "is missing"))?)?;
    }
    finish(folder, &artifacts, &json).map_err(BackupError::at(folder))?;
    Ok(manifest)
}

/// Copies, and tells a stream that breaks off from a disk that takes nothing.
fn copy(from: &mut impl Read, to: &mut File, target: &Path) -> Result<(), BackupError> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = from.read(&mut buffer).map_err(|error| BackupError::BrokenOff(error.to_string()))?;
        if count == 0 {
            return Ok(());
        }
        io::Write::write_all(to, &buffer[..count]).map_err(BackupError::at(target))?;
    }
}

/// Shows the manifest once everything else is on disk.
fn finish(folder: &Path, artifacts: &Path, manifest: &[u8]) -> io::Result<()> {
    File::open(artifacts)?.sync_all()?;
    File::open(folder)?.sync_all()?;
    let mut file = NamedTempFile::new_in(folder)?;
    io::Write::write_all(&mut file, manifest)?;
    file.as_file().sync_all()?;
    file.persist(folder.join(MANIFEST))?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Arc;

    use uuid::Uuid;

    use super::*;
    use crate::backup::{Source, restore, write as write_backup};
    use crate::catalog::{Catalog, Edit};
    use crate::deployment::{
        ArtifactBounds, ArtifactId, Artifacts, ContainerKind, DeploymentSpec, Environment, NumReplicas,
        Owner, Run,
    };
    use crate::deployments::Deployment;
    use crate::models::tests::model_id;

    const BOUNDS: ArtifactBounds =
        ArtifactBounds { max_bytes: 1 << 20, artifacts_bytes: 1 << 30, uploads_bytes: 1 << 30 };
    const OWNER: Owner = Owner { store: Uuid::nil(), has_history: true };

    struct Fixture {
        directory: tempfile::TempDir,
        artifact: ArtifactId,
    }

    impl Fixture {
        /// A data directory with one artifact.
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let mut archive = tar::Builder::new(Vec::new());
            let mut header = tar::Header::new_gnu();
            header.set_size(6);
            header.set_mode(0o755);
            archive.append_data(&mut header, "bin/run", &b"exit 0"[..]).unwrap();
            let upload = directory.path().join("upload");
            fs::write(&upload, archive.into_inner().unwrap()).unwrap();
            let artifacts = Artifacts::open(directory.path(), BOUNDS, OWNER, &HashSet::new()).unwrap();
            let artifact = artifacts.add(&upload).unwrap();
            Self { directory, artifact }
        }

        fn path(&self, name: &str) -> std::path::PathBuf {
            self.directory.path().join(name)
        }

        /// The stream of a backup of a catalog that names the artifact, at revision 7.
        fn stream(&self) -> Vec<u8> {
            let model = model_id("m", "1");
            let spec = DeploymentSpec {
                model: model.clone(),
                input_type: clipper_rpc::input::InputType::Doubles,
                num_replicas: NumReplicas::ONE,
                run: Run::Kind(ContainerKind::Noop),
                environment: Environment::default(),
                artifact: Some(self.artifact.clone()),
                model_data_path: None,
                python: None,
                startup_timeout: crate::deployment::StartupTimeout::default(),
            };
            let deployment = Deployment { spec, pending: false };
            let edit = Edit { deployments: vec![(model, Some(deployment))], ..Edit::default() };
            let catalog = Arc::new(Catalog { revision: 7, ..Catalog::default() }.after(&edit));
            let mut learned = tempfile::tempfile().unwrap();
            io::Write::write_all(&mut learned, &1u32.to_be_bytes()).unwrap();
            let artifacts = Artifacts::open(self.directory.path(), BOUNDS, OWNER, &HashSet::new()).unwrap();
            let mut stream = Vec::new();
            write_backup(Source { store: Uuid::nil(), catalog, learned, artifacts }, &mut stream).unwrap();
            stream
        }
    }

    #[test]
    fn a_stream_that_breaks_off_anywhere_leaves_no_backup() {
        let fixture = Fixture::new();
        let stream = fixture.stream();
        let folder = fixture.path("backup");
        // The two blocks that end an archive come after the manifest.
        for length in (0..stream.len() - 1536).step_by(500) {
            assert!(receive(&stream[..length], &folder).is_err(), "{length}");
            assert!(!folder.exists());
        }
        fs::create_dir(&folder).unwrap();
        assert!(receive(&stream[..700], &folder).is_err());
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
        assert_eq!(receive(&stream[..], &folder).unwrap().revision, 7);
    }

    #[test]
    fn a_stream_with_a_wrong_bit_is_refused() {
        let fixture = Fixture::new();
        let mut stream = fixture.stream();
        // The first byte of the catalog, after its header.
        stream[512] ^= 1;
        let refused = receive(&stream[..], &fixture.path("backup")).unwrap_err().to_string();
        assert!(refused.contains("catalog.json has another checksum"), "{refused}");
    }

    #[test]
    fn an_artifact_is_restored_by_its_archive_or_by_its_files_where_no_archive_was_kept() {
        let fixture = Fixture::new();
        for name in ["with", "without"] {
            let archive = fixture.path("artifacts").join(format!("{}.tar", fixture.artifact));
            if name == "without" {
                fs::remove_file(&archive).unwrap();
            }
            let (backup, new) = (fixture.path(name), fixture.path(&format!("{name}-restored")));
            receive(&fixture.stream()[..], &backup).unwrap();
            let manifest = restore(&backup, &new).unwrap();
            assert_eq!((manifest.revision, manifest.artifacts()), (7, 1));
            let stored = new.join("artifacts").join(fixture.artifact.as_str());
            let program = stored.join("bin/run");
            assert_eq!(fs::read(&program).unwrap(), b"exit 0");
            assert_eq!(program.metadata().unwrap().permissions().mode() & 0o777, 0o700);
            assert_eq!(stored.with_extension("tar").exists(), name == "with");
        }
    }
}
