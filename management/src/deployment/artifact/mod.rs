//! Uploaded model files: tar archives, unpacked into `DATA/artifacts/ID`, where the id is the archive's SHA-256. The
//! archive itself is kept beside them in `DATA/artifacts/ID.tar`, so that it can be had back.
//!
//! # Layout
//! - `id.rs`, `error.rs`: the identity of an artifact, and why one is not taken.
//! - `unpack.rs`: archives are not trusted: what would leave its folder, or is neither file nor folder, is refused, and
//!   sizes are bounded; `folder.rs`: the folders of what was unpacked.
//! - `awaited.rs`: uploads that wait for their deployment; `room.rs`: uploads that arrive.
//! - `ownership.rs`: which catalog the artifacts were stored for.
//! - `backup.rs`: artifacts that go into a backup, and come back from one.
//!
//! Invariant: a folder named by an [`ArtifactId`] is complete and on disk; whatever is unfinished has a name
//! that begins with a dot, and is swept away at the next start. Everything here blocks.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::{info, warn};
use uuid::Uuid;

use self::awaited::{Awaited, ReservationEnd};
pub use self::error::ArtifactError;
pub use self::id::{ArtifactId, MalformedArtifactId};
pub use self::ownership::Owner;
use self::ownership::Ownership;
pub use self::room::UploadRoom;
use self::unpack::{UnpackBounds, unpack};

mod awaited;
mod backup;
mod error;
mod folder;
mod id;
mod ownership;
mod room;
#[cfg(test)]
mod tests;
mod unpack;

/// The most files and folders in an artifact, folders that only paths name included.
const MAX_ENTRIES: usize = 100_000;

/// Bounds of what artifacts take on disk, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct ArtifactBounds {
    /// The most that one is unpacked to.
    pub max_bytes: u64,
    /// The most that all take, archives and unpacked files.
    pub artifacts_bytes: u64,
    /// The most that those take that are on their way in, or that no deployment names yet.
    pub uploads_bytes: u64,
}

/// The folder of artifacts. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Artifacts {
    folder: PathBuf,
    bounds: ArtifactBounds,
    /// [`MAX_ENTRIES`], but fewer in tests.
    max_entries: usize,
    /// Those that a deployment may still name. Held for one rename at most.
    awaited: Arc<Mutex<Awaited>>,
    /// The bytes of each stored artifact. Held for a look-up.
    sizes: Arc<Mutex<HashMap<ArtifactId, u64>>>,
    /// The bytes of uploads that are on their way in. Held for a sum.
    arriving: Arc<Mutex<u64>>,
    /// Held while an artifact is unpacked, so that no two take the same room.
    unpacking: Arc<Mutex<()>>,
    /// Held while the note is written.
    ownership: Arc<Mutex<Ownership>>,
    /// Backups that are being made, during which nothing is removed. Held for one rename at most.
    holds: Arc<Mutex<usize>>,
}

/// An artifact that stays until its deployment has named it. Its upload goes on waiting when this is dropped.
#[derive(Debug)]
pub struct Reservation {
    artifacts: Artifacts,
    id: ArtifactId,
    end: ReservationEnd,
}

impl Reservation {
    /// Ends the wait of every upload of the artifact, which a deployment names now.
    pub fn named(mut self) {
        self.end = ReservationEnd::Named;
    }

    /// Ends the wait of the upload for the deployment, which was refused.
    pub fn refused(mut self) {
        self.end = ReservationEnd::Refused;
    }

    /// The artifact.
    pub fn id(&self) -> &ArtifactId {
        &self.id
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.artifacts.awaited().release(&self.id, self.end);
    }
}

/// While this lives, no artifact is removed.
#[derive(Debug)]
pub struct Hold(Arc<Mutex<usize>>);

impl Drop for Hold {
    fn drop(&mut self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
    }
}

impl Artifacts {
    /// The artifacts in `data_dir`, of a catalog that names those that are `used`. Clears away what an earlier process
    /// did not finish. The rest is awaited, as if it was just uploaded.
    ///
    /// # Errors
    /// If the folder cannot be created, read or written.
    pub fn open(
        data_dir: &Path,
        bounds: ArtifactBounds,
        owner: Owner,
        used: &HashSet<ArtifactId>,
    ) -> io::Result<Self> {
        let folder = std::path::absolute(data_dir)?.join("artifacts");
        fs::create_dir_all(&folder)?;
        let mut sizes = HashMap::new();
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let name = entry.file_name();
            // A plain file is an archive, the note, or not ours.
            if !entry.file_type()?.is_dir() {
                continue;
            }
            if name.as_encoded_bytes().starts_with(b".") {
                fs::remove_dir_all(entry.path())?;
            } else if let Some(id) = name.to_str().and_then(|name| name.parse::<ArtifactId>().ok()) {
                let archive = fs::metadata(archive_path(&folder, &id)).map_or(0, |archive| archive.len());
                sizes.insert(id, archive + folder::size_of_files(&entry.path())?);
            }
        }
        remove_lone_archives(&folder, &sizes)?;
        let present: BTreeSet<_> = sizes.keys().cloned().collect();
        let mut ownership = Ownership::open(&folder, owner, present)?;
        let mut awaited = Awaited::default();
        for id in sizes.keys() {
            if used.contains(id) {
                ownership.adopt(&folder, id);
            } else if !ownership.keeps(id) {
                awaited.upload(id);
            }
        }
        Ok(Self {
            folder,
            bounds,
            max_entries: MAX_ENTRIES,
            awaited: Arc::new(Mutex::new(awaited)),
            sizes: Arc::new(Mutex::new(sizes)),
            arriving: Arc::default(),
            unpacking: Arc::default(),
            ownership: Arc::new(Mutex::new(ownership)),
            holds: Arc::default(),
        })
    }

    /// Takes in the tar archive at `archive`, which is moved if it is not stored yet. The same archive is stored once,
    /// however often it is added.
    ///
    /// # Errors
    /// If the archive is not one, holds what is not allowed, or cannot be stored. Nothing is left of it then.
    pub fn add(&self, archive: &Path) -> Result<ArtifactId, ArtifactError> {
        let id = ArtifactId::of_file(archive)?;
        // Before it is looked for, so that it is not removed after it was found.
        self.awaited().upload(&id);
        let added = self.add_unless_stored(&id, archive);
        if added.is_err() {
            self.awaited().withdraw(&id);
        }
        added.map(|()| id)
    }

    fn add_unless_stored(&self, id: &ArtifactId, archive: &Path) -> Result<(), ArtifactError> {
        let _unpacking = self.unpacking.lock().unwrap_or_else(PoisonError::into_inner);
        if self.archive_path(id).is_file() && self.contains(id) {
            return Ok(());
        }
        let file = File::open(archive)?;
        let length = file.metadata()?.len();
        file.sync_all()?;
        if self.contains(id) {
            // An older Clipper kept no archives.
            fs::rename(archive, self.archive_path(id))?;
            *self.sizes().entry(id.clone()).or_default() += length;
            folder::sync(&self.folder)?;
            return Ok(());
        }
        let ArtifactBounds { max_bytes, artifacts_bytes, uploads_bytes } = self.bounds;
        let stored = self.sizes().values().sum::<u64>();
        let taken = self.uploads_taken();
        let full = ArtifactError::Full { artifacts_bytes, stored };
        if stored + length > artifacts_bytes {
            return Err(full);
        }
        let room = artifacts_bytes.saturating_sub(stored + length);
        let upload_room = uploads_bytes.saturating_sub(taken);
        let max_unpacked = room.min(upload_room).min(max_bytes);
        let unfinished = self.unfinished();
        fs::create_dir(&unfinished)?;
        let bounds = UnpackBounds { max_bytes: max_unpacked, max_entries: self.max_entries };
        let unpacked = unpack(file, &unfinished, bounds);
        let size = unpacked.and_then(|size| {
            fs::rename(&unfinished, self.path(id))?;
            fs::rename(archive, self.archive_path(id))?;
            Ok(length + size)
        });
        match size {
            Ok(size) => drop(self.sizes().insert(id.clone(), size)),
            Err(error) => {
                let _ = fs::remove_dir_all(&unfinished);
                return Err(match error {
                    ArtifactError::TooLarge { max_bytes: most } if most < max_bytes && most == room => full,
                    ArtifactError::TooLarge { max_bytes: most } if most < max_bytes => {
                        ArtifactError::UploadsFull { uploads_bytes, taken }
                    }
                    other => other,
                });
            }
        }
        folder::sync(&self.folder)?;
        info!(artifact = %id, "artifact added");
        Ok(())
    }

    /// Takes note of an artifact that a deployment names: from now on it stays for as long as one does.
    pub fn adopt(&self, id: &ArtifactId) {
        self.ownership.lock().unwrap_or_else(PoisonError::into_inner).adopt(&self.folder, id);
    }

    fn awaited(&self) -> MutexGuard<'_, Awaited> {
        self.awaited.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sizes(&self) -> MutexGuard<'_, HashMap<ArtifactId, u64>> {
        self.sizes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bytes of artifacts that were uploaded, and that no deployment names yet.
    fn awaited_bytes(&self) -> u64 {
        let awaited = self.awaited();
        let sizes = self.sizes();
        awaited.uploads().filter_map(|id| sizes.get(id)).sum()
    }

    /// Has an artifact stay for the deployment that asks; `None` if there is no such artifact.
    pub fn reserve(&self, id: &ArtifactId) -> Option<Reservation> {
        let mut awaited = self.awaited();
        if !self.contains(id) {
            return None;
        }
        awaited.reserve(id);
        Some(Reservation { artifacts: self.clone(), id: id.clone(), end: ReservationEnd::Open })
    }

    /// Has all artifacts stay while a backup is made of them.
    pub fn hold(&self) -> Hold {
        *self.holds.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        Hold(Arc::clone(&self.holds))
    }

    /// Whether there is such an artifact.
    pub fn contains(&self, id: &ArtifactId) -> bool {
        self.path(id).is_dir()
    }

    /// The folder of an artifact's files.
    pub fn path(&self, id: &ArtifactId) -> PathBuf {
        self.folder.join(id.as_str())
    }

    fn archive_path(&self, id: &ArtifactId) -> PathBuf {
        archive_path(&self.folder, id)
    }

    /// The archive of an artifact, as it was uploaded; `None` if an older Clipper stored the artifact, which kept no
    /// archives, or there is no such artifact.
    ///
    /// # Errors
    /// If the file cannot be opened.
    pub fn archive(&self, id: &ArtifactId) -> io::Result<Option<File>> {
        match File::open(self.archive_path(id)) {
            Ok(archive) => Ok(Some(archive)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes every artifact that is neither used, nor awaited, nor of another catalog. Asks again whether one is used
    /// before it is removed, as a deployment may have begun meanwhile.
    ///
    /// # Errors
    /// If the folder cannot be read or changed.
    pub fn retain(&self, used: impl Fn() -> HashSet<ArtifactId>) -> io::Result<()> {
        self.awaited().forget_old();
        let used_before = used();
        let stored: Vec<_> = self.sizes().keys().cloned().collect();
        for id in stored.into_iter().filter(|id| !used_before.contains(id)) {
            self.remove_unless(&id, || used().contains(&id))?;
        }
        Ok(())
    }

    /// Removes an artifact, if there is such a one, unless it `is_used`, awaited, held, or of another catalog. `is_used`
    /// is asked while no deployment can ask for the artifact.
    ///
    /// # Errors
    /// If its files cannot be removed.
    pub fn remove_unless(&self, id: &ArtifactId, is_used: impl FnOnce() -> bool) -> io::Result<()> {
        let unfinished = self.unfinished();
        let awaited = self.awaited();
        let holds = self.holds.lock().unwrap_or_else(PoisonError::into_inner);
        let is_kept = self.ownership.lock().unwrap_or_else(PoisonError::into_inner).keeps(id);
        if *holds > 0 || is_kept || awaited.contains(id) || is_used() {
            return Ok(());
        }
        let renamed = fs::rename(self.path(id), &unfinished);
        drop((awaited, holds));
        match renamed {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        self.sizes().remove(id);
        let archive_removed = remove_if_there(fs::remove_file(self.archive_path(id)));
        if let Err(error) = archive_removed.and(remove_if_there(fs::remove_dir_all(&unfinished))) {
            warn!(artifact = %id, %error, "files of a removed artifact are left until the next start");
        }
        info!(artifact = %id, "artifact removed");
        Ok(())
    }

    /// A fresh name for a folder that is not an artifact yet, or no more.
    fn unfinished(&self) -> PathBuf {
        self.folder.join(format!(".{}", Uuid::new_v4()))
    }
}

fn archive_path(folder: &Path, id: &ArtifactId) -> PathBuf {
    folder.join(format!("{id}.tar"))
}

/// Removes archives without their files, which an interrupted removal leaves.
fn remove_lone_archives(folder: &Path, stored: &HashMap<ArtifactId, u64>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let is_archive = path.extension().is_some_and(|extension| extension == "tar");
        let id = path.file_stem().and_then(|stem| stem.to_str()?.parse::<ArtifactId>().ok());
        if is_archive && id.is_some_and(|id| !stored.contains_key(&id)) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Takes what is gone already for removed.
fn remove_if_there(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
