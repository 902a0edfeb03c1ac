//! The note of which catalog the stored artifacts belong to: `DATA/artifacts/clipper.json`.
//!
//! A catalog that is lost is replaced by an empty one, which names no artifact. The note tells such a catalog from one
//! that names an artifact no more. Invariant: an artifact that is not `kept` was stored for the catalog of `store`.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;
use tracing::warn;
use uuid::Uuid;

use super::ArtifactId;

/// The name of the note in the folder of artifacts.
const FILE_NAME: &str = "clipper.json";

/// The catalog that artifacts are stored for.
#[derive(Debug, Clone, Copy)]
pub struct Owner {
    /// Identifies the catalog's store.
    pub store: Uuid,
    /// Whether the catalog has ever held anything.
    pub has_history: bool,
}

/// See the module's documentation.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Ownership {
    store: Uuid,
    /// Artifacts of another catalog, which stay until a deployment of this one names them.
    kept: BTreeSet<ArtifactId>,
}

impl Ownership {
    /// Reads the note in a folder with these artifacts, and corrects it for a catalog. Blocks.
    ///
    /// # Errors
    /// If the note cannot be written.
    pub(super) fn open(folder: &Path, owner: Owner, present: BTreeSet<ArtifactId>) -> io::Result<Self> {
        let noted = match fs::read(folder.join(FILE_NAME)) {
            Ok(note) => serde_json::from_slice::<Self>(&note).ok(),
            // A folder of before there were notes belongs to the catalog beside it, unless that is new.
            Err(error) if error.kind() == io::ErrorKind::NotFound && owner.has_history => {
                Some(Self { store: owner.store, kept: BTreeSet::new() })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let kept = match noted {
            Some(noted) if noted.store == owner.store => noted.kept.intersection(&present).cloned().collect(),
            _ => present,
        };
        let ownership = Self { store: owner.store, kept };
        ownership.write(folder)?;
        if !ownership.kept.is_empty() {
            let named: Vec<_> = ownership.kept.iter().take(10).map(ArtifactId::as_str).collect();
            warn!(
                artifacts = ownership.kept.len(),
                folder = %folder.display(),
                "model files of another catalog are kept, such as {}: import the export that names them, or stop \
                 management and remove them by hand",
                named.join(", ")
            );
        }
        Ok(ownership)
    }

    /// Whether an artifact stays although no deployment names it.
    pub(super) fn keeps(&self, id: &ArtifactId) -> bool {
        self.kept.contains(id)
    }

    /// Takes an artifact over into this catalog, a deployment of which names it. Blocks.
    pub(super) fn adopt(&mut self, folder: &Path, id: &ArtifactId) {
        if self.kept.remove(id)
            && let Err(error) = self.write(folder)
        {
            warn!(artifact = %id, %error, "an artifact is taken for one of another catalog after the next start");
        }
    }

    /// Replaces the note as a whole.
    fn write(&self, folder: &Path) -> io::Result<()> {
        let mut file = NamedTempFile::new_in(folder)?;
        serde_json::to_writer(&mut file, self)?;
        file.flush()?;
        file.as_file().sync_all()?;
        file.persist(folder.join(FILE_NAME))?;
        File::open(folder)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: Owner = Owner { store: Uuid::from_u128(1), has_history: true };
    const NEW: Owner = Owner { store: Uuid::from_u128(2), has_history: false };

    fn id(digit: &str) -> ArtifactId {
        digit.repeat(64).parse().unwrap()
    }

    fn kept(folder: &tempfile::TempDir, owner: Owner, present: &[&str]) -> Vec<ArtifactId> {
        let present = present.iter().map(|digit| id(digit)).collect();
        Ownership::open(folder.path(), owner, present).unwrap().kept.into_iter().collect()
    }

    #[test]
    fn a_new_catalog_keeps_what_was_stored_for_another_one_across_restarts() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(kept(&folder, OLD, &["a"]), []);
        assert_eq!(kept(&folder, NEW, &["a"]), [id("a")]);
        let later = Owner { has_history: true, ..NEW };
        assert_eq!(kept(&folder, later, &["a", "b"]), [id("a")], "b was uploaded for the new one");
        assert_eq!(kept(&folder, later, &["b"]), []);
    }

    #[test]
    fn a_folder_without_a_note_belongs_to_a_catalog_that_has_a_history_and_to_no_new_one() {
        let folder = || tempfile::tempdir().unwrap();
        assert_eq!(kept(&folder(), OLD, &["a"]), []);
        assert_eq!(kept(&folder(), NEW, &["a"]), [id("a")]);
        let damaged = folder();
        fs::write(damaged.path().join(FILE_NAME), "{").unwrap();
        assert_eq!(kept(&damaged, OLD, &["a"]), [id("a")]);
    }

    #[test]
    fn an_artifact_that_is_named_is_adopted_for_good() {
        let folder = tempfile::tempdir().unwrap();
        let mut ownership = Ownership::open(folder.path(), NEW, BTreeSet::from([id("a")])).unwrap();
        ownership.adopt(folder.path(), &id("a"));
        assert!(!ownership.keeps(&id("a")));
        assert_eq!(kept(&folder, NEW, &["a"]), []);
    }
}
