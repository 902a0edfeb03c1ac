//! A new data directory, from a backup. Blocks.
//!
//! The new catalog is a store of its own, so that frontends which followed the one that was lost begin anew with it.
//! Invariant: a directory that holds `clipper.restoring` is not whole, and management does not start on it.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use super::catalog::CatalogRecords;
use super::manifest::Manifest;
use super::names::{BackupFile, CATALOG, LEARNED};
use super::{BackupError, create_empty};
use crate::deployment::{ArtifactBounds, ArtifactError, Artifacts, Owner};
use crate::error::OpenError;
use crate::lock::DirectoryLock;
use crate::selection_state;
use crate::store::Store;

/// The mark of a directory that is being restored.
const MARK: &str = "clipper.restoring";
/// More than any disk has; sums of two fit into 64 bits.
const UNBOUNDED: u64 = u64::MAX / 4;

/// Makes a data directory of the backup in a folder. The directory must not exist or be empty.
///
/// # Errors
/// If the backup is not whole, or the directory in use or not writable.
pub fn restore(backup: &Path, data_dir: &Path) -> Result<Manifest, BackupError> {
    let manifest = Manifest::verified(backup)?;
    let missing =
        [CATALOG, LEARNED].into_iter().find(|path| manifest.files.iter().all(|file| file.path != *path));
    if let Some(path) = missing {
        return Err(BackupError::damaged(path, "is not in the manifest"));
    }
    create_empty(data_dir)?;
    let _lock = DirectoryLock::acquire(data_dir)?;
    let mark = data_dir.join(MARK);
    File::create_new(&mark).and_then(|file| file.sync_all()).map_err(BackupError::at(&mark))?;
    sync(data_dir)?;
    write(&manifest, backup, data_dir)?;
    sync(data_dir)?;
    fs::remove_file(&mark).map_err(BackupError::at(&mark))?;
    sync(data_dir)?;
    Ok(manifest)
}

/// Refuses a directory in which a restore has not ended.
pub(crate) fn check_not_restoring(data_dir: &Path) -> Result<(), OpenError> {
    match data_dir.join(MARK).try_exists() {
        Ok(true) => Err(OpenError::RestoreUnfinished { directory: data_dir.into() }),
        // Whatever is wrong with the directory is told by whoever opens it.
        Ok(false) | Err(_) => Ok(()),
    }
}

fn write(manifest: &Manifest, backup: &Path, data_dir: &Path) -> Result<(), BackupError> {
    let path = backup.join(CATALOG);
    let json = fs::read(&path).map_err(BackupError::at(&path))?;
    let records: CatalogRecords = serde_json::from_slice(&json)
        .map_err(|error| BackupError::damaged(CATALOG, format!("is unreadable: {error}")))?;
    let (store, identity, _) = Store::open(data_dir)?;
    let revision = records.revision;
    store.write(&records.into_edit(), revision)?;
    store.sync()?;
    drop(store);

    let path = backup.join(LEARNED);
    let learned = File::open(&path).map_err(BackupError::at(&path))?;
    selection_state::restore(data_dir, identity, io::BufReader::new(learned))?;

    let bounds =
        ArtifactBounds { max_bytes: UNBOUNDED, artifacts_bytes: UNBOUNDED, uploads_bytes: UNBOUNDED };
    let owner = Owner { store: identity, has_history: true };
    let artifacts = Artifacts::open(data_dir, bounds, owner, &std::collections::HashSet::new())
        .map_err(BackupError::at(data_dir))?;
    for listed in &manifest.files {
        let path = backup.join(&listed.path);
        let restored = match BackupFile::of(&listed.path) {
            Some(BackupFile::Archive(id)) => artifacts.restore_archive(&id, &path),
            Some(BackupFile::Files(id)) => artifacts.restore_files(&id, &path),
            Some(BackupFile::Catalog | BackupFile::Learned) | None => Ok(()),
        };
        restored.map_err(|error| match error {
            ArtifactError::Storage(error) => BackupError::at(data_dir)(error),
            error => BackupError::damaged(&listed.path, format!("cannot be unpacked: {error}")),
        })?;
    }
    Ok(())
}

fn sync(folder: &Path) -> Result<(), BackupError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(BackupError::at(folder))
}
