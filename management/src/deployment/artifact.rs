//! Uploaded model files: tar archives, unpacked into `DATA/artifacts/ID`, where the id is the archive's SHA-256.
//!
//! Archives are not trusted: what would leave its folder, or is neither file nor folder, is refused, and sizes are
//! bounded. Invariant: a folder named by an [`ArtifactId`] is complete and on disk; whatever is unfinished has a name
//! that begins with a dot, and is swept away at the next start. Everything here blocks.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use clipper_rpc::excerpt::excerpt;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tar::{Archive, EntryType};
use tracing::{info, warn};
use uuid::Uuid;

/// The most files and folders in an artifact, folders that only paths name included.
const MAX_ENTRIES: usize = 100_000;
/// The longest path of an entry, in bytes: the longest that Linux takes.
const MAX_PATH_BYTES: usize = 4096;
/// The most names in the path of an entry.
const MAX_DEPTH: usize = 64;
/// The most bytes of an archive that describe one entry: its header, a long name, and PAX records. The tar reader
/// keeps all of them in memory.
const MAX_HEADER_BYTES: u64 = 1 << 20;
/// For so long an upload that no deployment names yet is kept in any case.
const FRESH_FOR: Duration = Duration::from_secs(600);

/// The identity of an artifact: the SHA-256 of its archive, in lower-case hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ArtifactId(String);

/// A text that is not an [`ArtifactId`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' does not identify an artifact: it must be a SHA-256 as 64 lower-case hexadecimal digits")]
pub struct MalformedArtifactId(String);

impl ArtifactId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn of(hash: &[u8]) -> Self {
        Self(hash.iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

impl TryFrom<String> for ArtifactId {
    type Error = MalformedArtifactId;

    fn try_from(text: String) -> Result<Self, MalformedArtifactId> {
        let fits = text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if fits { Ok(Self(text)) } else { Err(MalformedArtifactId(text.chars().take(100).collect())) }
    }
}

impl FromStr for ArtifactId {
    type Err = MalformedArtifactId;

    fn from_str(text: &str) -> Result<Self, MalformedArtifactId> {
        text.to_owned().try_into()
    }
}

impl From<ArtifactId> for String {
    fn from(id: ArtifactId) -> Self {
        id.0
    }
}

impl fmt::Display for ArtifactId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why an archive was not taken.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// It is not a tar archive, or is cut off.
    #[error("the artifact is not a readable tar archive: {0}")]
    Unreadable(io::Error),
    /// It holds something that is not allowed.
    #[error("the artifact holds '{path}', which {why}")]
    Refused {
        /// The entry, as the archive has it.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// It has too many entries, or too long ones.
    #[error(
        "the artifact is too large: it would be unpacked to more than {max_bytes} bytes or {MAX_ENTRIES} files"
    )]
    TooLarge {
        /// The limit.
        max_bytes: u64,
    },
    /// There is no room beside the artifacts that are stored.
    #[error(
        "all artifacts may take {artifacts_bytes} bytes, and {stored} are taken: delete versions that are not needed, \
         or start management with a larger --artifacts-bytes"
    )]
    Full {
        /// The limit of all artifacts.
        artifacts_bytes: u64,
        /// The bytes of those that are stored.
        stored: u64,
    },
    /// It could not be written to disk.
    #[error("the artifact cannot be stored: {0}")]
    Storage(#[from] io::Error),
}

/// The folder of artifacts. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Artifacts {
    folder: PathBuf,
    max_bytes: u64,
    artifacts_bytes: u64,
    /// [`MAX_ENTRIES`], but fewer in tests.
    max_entries: usize,
    /// When each was uploaded, until a deployment names it. Held for one rename at most.
    fresh: Arc<Mutex<HashMap<ArtifactId, Instant>>>,
    /// The bytes of each stored artifact. Held for a look-up.
    sizes: Arc<Mutex<HashMap<ArtifactId, u64>>>,
    /// Held while an artifact is unpacked, so that no two take the same room.
    unpacking: Arc<Mutex<()>>,
}

impl Artifacts {
    /// The artifacts in `data_dir`, each of at most `max_bytes` when unpacked, and all of at most `artifacts_bytes`.
    /// Clears away what an earlier process did not finish.
    ///
    /// # Errors
    /// If the folder cannot be created or read.
    pub fn open(data_dir: &Path, max_bytes: u64, artifacts_bytes: u64) -> io::Result<Self> {
        let folder = std::path::absolute(data_dir)?.join("artifacts");
        fs::create_dir_all(&folder)?;
        let mut sizes = HashMap::new();
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let name = entry.file_name();
            // A plain file is not ours.
            if !entry.file_type()?.is_dir() {
                continue;
            }
            if name.as_encoded_bytes().starts_with(b".") {
                fs::remove_dir_all(entry.path())?;
            } else if let Some(id) = name.to_str().and_then(|name| name.parse().ok()) {
                sizes.insert(id, size_of_files(&entry.path())?);
            }
        }
        let sizes = Arc::new(Mutex::new(sizes));
        Ok(Self {
            folder,
            max_bytes,
            artifacts_bytes,
            max_entries: MAX_ENTRIES,
            fresh: Arc::default(),
            sizes,
            unpacking: Arc::default(),
        })
    }

    /// Takes in the tar archive at `archive`. The same archive is stored once, however often it is added.
    ///
    /// # Errors
    /// If the archive is not one, holds what is not allowed, or cannot be stored. Nothing is left of it then.
    pub fn add(&self, archive: &Path) -> Result<ArtifactId, ArtifactError> {
        let id = hash(archive)?;
        // Before it is looked for, so that it is not removed after it was found.
        self.fresh().insert(id.clone(), Instant::now());
        if self.contains(&id) {
            return Ok(id);
        }
        let _unpacking = self.unpacking.lock().unwrap_or_else(PoisonError::into_inner);
        if self.contains(&id) {
            // It was added while this waited.
            return Ok(id);
        }
        let stored = self.sizes().values().sum::<u64>();
        let room = self.artifacts_bytes.saturating_sub(stored);
        let unfinished = self.unfinished();
        fs::create_dir(&unfinished)?;
        let unpacked = self.unpack(archive, &unfinished, room.min(self.max_bytes));
        let size = unpacked.and_then(|size| {
            fs::rename(&unfinished, self.path(&id))?;
            Ok(size)
        });
        match size {
            Ok(size) => drop(self.sizes().insert(id.clone(), size)),
            Err(error) => {
                let _ = fs::remove_dir_all(&unfinished);
                let is_full =
                    matches!(error, ArtifactError::TooLarge { max_bytes } if max_bytes < self.max_bytes);
                let artifacts_bytes = self.artifacts_bytes;
                return Err(if is_full { ArtifactError::Full { artifacts_bytes, stored } } else { error });
            }
        }
        sync(&self.folder)?;
        info!(artifact = %id, "artifact added");
        Ok(id)
    }

    /// A deployment names it now: from now on it stays for as long as one does.
    pub fn claim(&self, id: &ArtifactId) {
        self.fresh().remove(id);
    }

    fn fresh(&self) -> MutexGuard<'_, HashMap<ArtifactId, Instant>> {
        let mut fresh = self.fresh.lock().unwrap_or_else(PoisonError::into_inner);
        fresh.retain(|_, uploaded| uploaded.elapsed() < FRESH_FOR);
        fresh
    }

    fn sizes(&self) -> MutexGuard<'_, HashMap<ArtifactId, u64>> {
        self.sizes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is such an artifact, which stays for the deployment that asks, as if it was just uploaded.
    pub fn reserve(&self, id: &ArtifactId) -> bool {
        let mut fresh = self.fresh();
        let is_stored = self.contains(id);
        if is_stored {
            fresh.insert(id.clone(), Instant::now());
        }
        is_stored
    }

    /// Whether there is such an artifact.
    pub fn contains(&self, id: &ArtifactId) -> bool {
        self.path(id).is_dir()
    }

    /// The folder of an artifact's files.
    pub fn path(&self, id: &ArtifactId) -> PathBuf {
        self.folder.join(id.as_str())
    }

    /// Removes every artifact that is neither used nor fresh. Asks again whether one is used before it is removed, as
    /// a deployment may have begun meanwhile.
    ///
    /// # Errors
    /// If the folder cannot be read or changed.
    pub fn retain(&self, used: impl Fn() -> HashSet<ArtifactId>) -> io::Result<()> {
        let used_before = used();
        for entry in fs::read_dir(&self.folder)? {
            let id = entry?.file_name().to_str().and_then(|name| name.parse::<ArtifactId>().ok());
            if let Some(id) = id.filter(|id| !used_before.contains(id)) {
                self.remove_unless(&id, || used().contains(&id))?;
            }
        }
        Ok(())
    }

    /// Removes an artifact, if there is such a one. One that was just uploaded is left to the deployment that it is for.
    ///
    /// # Errors
    /// If its files cannot be removed.
    pub fn remove(&self, id: &ArtifactId) -> io::Result<()> {
        self.remove_unless(id, || false)
    }

    /// `is_used` is asked while no deployment can claim the artifact.
    fn remove_unless(&self, id: &ArtifactId, is_used: impl FnOnce() -> bool) -> io::Result<()> {
        let unfinished = self.unfinished();
        let fresh = self.fresh();
        if fresh.contains_key(id) || is_used() {
            return Ok(());
        }
        let renamed = fs::rename(self.path(id), &unfinished);
        drop(fresh);
        match renamed {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        }
        if let Err(error) = fs::remove_dir_all(&unfinished) {
            warn!(artifact = %id, %error, "files of a removed artifact are left until the next start");
        }
        self.sizes().remove(id);
        info!(artifact = %id, "artifact removed");
        Ok(())
    }

    /// A fresh name for a folder that is not an artifact yet, or no more.
    fn unfinished(&self) -> PathBuf {
        self.folder.join(format!(".{}", Uuid::new_v4()))
    }

    /// Writes the files of the archive into `target`, and has them on disk.
    /// Returns the bytes that they take.
    fn unpack(&self, archive: &Path, target: &Path, max_bytes: u64) -> Result<u64, ArtifactError> {
        let too_large = || ArtifactError::TooLarge { max_bytes };
        let mut room = max_bytes;
        let mut room_for_entries = self.max_entries;
        let mut empty = true;
        let headers = HeaderBudget::default();
        let archive =
            BudgetedReader { archive: io::BufReader::new(File::open(archive)?), budget: headers.clone() };
        let mut archive = Archive::new(archive);
        let mut entries = archive.entries().map_err(ArtifactError::Unreadable)?;
        while let Some(entry) = headers.spend(|| entries.next()) {
            let mut entry = entry.map_err(ArtifactError::Unreadable)?;
            room_for_entries = room_for_entries.checked_sub(1).ok_or_else(too_large)?;
            empty = false;
            let path = inner_path(&entry)?;
            let is_file = path.is_some() && !entry.header().entry_type().is_dir();
            let path = path.unwrap_or_default();
            let folder = if is_file { path.parent() } else { Some(path.as_path()) };
            let created = create_folders(target, folder.unwrap_or(Path::new("")));
            let created = created.map_err(|error| unfit(&entry, error))?;
            room_for_entries = room_for_entries.checked_sub(created).ok_or_else(too_large)?;
            if !is_file {
                // Otherwise the data would be read as part of the next header.
                io::copy(&mut entry, &mut io::sink()).map_err(ArtifactError::Unreadable)?;
                continue;
            }
            room = room.checked_sub(entry.size()).ok_or_else(too_large)?;
            let mut file = File::create(target.join(&path)).map_err(|error| unfit(&entry, error))?;
            io::copy(&mut entry, &mut file).map_err(|error| match error.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ArtifactError::Storage(error),
                _ => ArtifactError::Unreadable(error),
            })?;
            let executable = entry.header().mode().is_ok_and(|mode| mode & 0o100 != 0);
            file.set_permissions(fs::Permissions::from_mode(if executable { 0o700 } else { 0o600 }))?;
            file.sync_all()?;
        }
        if empty {
            return Err(ArtifactError::Unreadable(io::Error::other("it has no entries")));
        }
        sync_folders(target).map_err(ArtifactError::Storage)?;
        Ok(max_bytes - room)
    }
}

/// Bytes that may still be read of an archive. Unlimited while the data of an entry is read.
#[derive(Debug, Clone, Default)]
struct HeaderBudget(Rc<Cell<Option<u64>>>);

impl HeaderBudget {
    /// Reads headers, at most [`MAX_HEADER_BYTES`] of them.
    fn spend<T>(&self, read: impl FnOnce() -> T) -> T {
        self.0.set(Some(MAX_HEADER_BYTES));
        let read = read();
        self.0.set(None);
        read
    }
}

/// An archive whose headers are bounded by a [`HeaderBudget`].
struct BudgetedReader<R> {
    archive: R,
    budget: HeaderBudget,
}

impl<R: Read> Read for BudgetedReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.archive.read(buffer)?;
        if let Some(left) = self.budget.0.get() {
            let left = left.checked_sub(count as u64).ok_or_else(|| {
                let what = format!("the header of an entry is longer than {MAX_HEADER_BYTES} bytes");
                io::Error::new(io::ErrorKind::InvalidData, what)
            })?;
            self.budget.0.set(Some(left));
        }
        Ok(count)
    }
}

/// Creates a folder within `target`, and those above it. Returns the number of folders that were not there.
fn create_folders(target: &Path, folder: &Path) -> io::Result<usize> {
    let mut path = target.to_owned();
    let mut created = 0;
    for name in folder {
        path.push(name);
        match fs::create_dir(&path) {
            Ok(()) => created += 1,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(created)
}

/// The bytes of all files in a folder. Recursion is bounded by [`MAX_DEPTH`].
fn size_of_files(folder: &Path) -> io::Result<u64> {
    let mut size = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        size +=
            if entry.file_type()?.is_dir() { size_of_files(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(size)
}

/// Has the entries of a folder and of all folders in it on disk. Recursion is bounded by [`MAX_DEPTH`].
fn sync_folders(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_folders(&entry.path())?;
        }
    }
    sync(folder)
}

/// Why an entry cannot be written: for its name, or for want of a disk that works.
fn unfit(entry: &tar::Entry<'_, impl Read>, error: io::Error) -> ArtifactError {
    let why = match error.kind() {
        io::ErrorKind::InvalidFilename => "has too long a name",
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists | io::ErrorKind::IsADirectory => {
            "is a file in one place and a folder in another"
        }
        _ => return ArtifactError::Storage(error),
    };
    refused(entry, why)
}

fn refused(entry: &tar::Entry<'_, impl Read>, why: impl Into<String>) -> ArtifactError {
    let path = excerpt(&String::from_utf8_lossy(&entry.path_bytes())).into_owned();
    ArtifactError::Refused { path, why: why.into() }
}

/// Where an entry belongs, relative to the artifact's folder; `None` if it is not to be unpacked.
fn inner_path(entry: &tar::Entry<'_, impl Read>) -> Result<Option<PathBuf>, ArtifactError> {
    let length = entry.path_bytes().len();
    if length > MAX_PATH_BYTES {
        let why = format!("is a path of {length} bytes; at most {MAX_PATH_BYTES} are allowed");
        return Err(refused(entry, why));
    }
    let path = entry.path().map_err(ArtifactError::Unreadable)?;
    let depth = path.components().count();
    if depth > MAX_DEPTH {
        let why = format!("is a path of {depth} names; at most {MAX_DEPTH} are allowed");
        return Err(refused(entry, why));
    }
    let refused = |why: &str| refused(entry, why);
    match entry.header().entry_type() {
        EntryType::Regular | EntryType::Continuous | EntryType::Directory => {}
        // Remarks on the archive as a whole, as `git archive` makes them.
        EntryType::XGlobalHeader => return Ok(None),
        EntryType::Symlink | EntryType::Link => return Err(refused("is a link")),
        _ => return Err(refused("is neither a file nor a folder")),
    }
    let mut inner = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => inner.push(name),
            Component::CurDir => {}
            Component::ParentDir => return Err(refused("would leave the artifact's folder by '..'")),
            Component::RootDir | Component::Prefix(_) => return Err(refused("has an absolute path")),
        }
    }
    Ok((!inner.as_os_str().is_empty()).then_some(inner))
}

fn hash(path: &Path) -> io::Result<ArtifactId> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(ArtifactId::of(&hasher.finalize())),
            count => hasher.update(&buffer[..count]),
        }
    }
}

/// Has the entries of a folder on disk.
fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixture {
        folder: tempfile::TempDir,
        artifacts: Artifacts,
    }

    impl Fixture {
        fn new(max_bytes: u64) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let artifacts = Artifacts::open(folder.path(), max_bytes, 3 * max_bytes).unwrap();
            Self { folder, artifacts }
        }

        fn add(&self, archive: &[u8]) -> Result<ArtifactId, ArtifactError> {
            let path = self.folder.path().join("upload");
            fs::write(&path, archive).unwrap();
            self.artifacts.add(&path)
        }

        /// The names in the folder of artifacts, finished or not.
        fn names(&self) -> Vec<String> {
            let entries = fs::read_dir(self.folder.path().join("artifacts")).unwrap();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        }
    }

    /// An archive of one entry under exactly this name, which the tar crate would refuse to write.
    fn archive(name: &str, kind: EntryType, data: &[u8]) -> Vec<u8> {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_size(data.len() as u64);
        header.set_mode(0o755);
        if kind.is_symlink() || kind.is_hard_link() {
            header.set_link_name("elsewhere").unwrap();
        }
        header.set_cksum();
        let mut builder = tar::Builder::new(Vec::new());
        builder.append(&header, data).unwrap();
        builder.into_inner().unwrap()
    }

    #[test]
    fn an_archive_is_unpacked_under_its_hash_and_stored_once() {
        let fixture = Fixture::new(1000);
        let archive = archive("./model/run.sh", EntryType::Regular, b"exit 0");
        let id = fixture.add(&archive).unwrap();
        assert_eq!(id, ArtifactId::of(&Sha256::digest(&archive)));
        assert_eq!(fixture.add(&archive).unwrap(), id);
        assert_eq!(fixture.names(), [id.as_str()]);
        let file = fixture.artifacts.path(&id).join("model/run.sh");
        assert_eq!(fs::read(&file).unwrap(), b"exit 0");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn what_would_leave_its_folder_or_is_no_file_is_refused() {
        let fixture = Fixture::new(1000);
        for (name, kind, why) in [
            ("../evil", EntryType::Regular, "'..'"),
            ("a/../../evil", EntryType::Regular, "'..'"),
            ("/etc/evil", EntryType::Regular, "absolute path"),
            ("link", EntryType::Symlink, "is a link"),
            ("link", EntryType::Link, "is a link"),
            ("pipe", EntryType::Fifo, "neither a file nor a folder"),
            ("disk", EntryType::Block, "neither a file nor a folder"),
        ] {
            let error = fixture.add(&archive(name, kind, b"")).unwrap_err().to_string();
            assert!(error.contains(why) && error.contains(name), "{error}");
            assert!(fixture.names().is_empty(), "{name}");
        }
        assert!(!fixture.folder.path().join("evil").exists());
    }

    #[test]
    fn a_name_that_no_file_can_have_is_the_archives_fault() {
        let fixture = Fixture::new(1000);
        let mut builder = tar::Builder::new(Vec::new());
        for name in ["a", "a/b"] {
            let mut header = tar::Header::new_gnu();
            header.set_size(1);
            builder.append_data(&mut header, name, &b"1"[..]).unwrap();
        }
        let error = fixture.add(&builder.into_inner().unwrap()).unwrap_err();
        assert!(matches!(&error, ArtifactError::Refused { path, .. } if path == "a/b"), "{error}");
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(1);
        builder.append_data(&mut header, "n".repeat(300), &b"1"[..]).unwrap();
        let error = fixture.add(&builder.into_inner().unwrap()).unwrap_err();
        assert!(error.to_string().ends_with("has too long a name"), "{error}");
        assert!(fixture.names().is_empty());
    }

    #[test]
    fn what_is_too_large_or_not_an_archive_is_refused() {
        let fixture = Fixture::new(10);
        assert!(fixture.add(&archive("ten", EntryType::Regular, &[1; 10])).is_ok());
        let error = fixture.add(&archive("eleven", EntryType::Regular, &[1; 11])).unwrap_err();
        assert!(matches!(error, ArtifactError::TooLarge { max_bytes: 10 }), "{error}");
        let error = fixture.add(&[7; 2000]).unwrap_err();
        assert!(matches!(error, ArtifactError::Unreadable(_)), "{error}");
        let error = fixture.add(&[0; 1024]).unwrap_err();
        assert!(error.to_string().ends_with("it has no entries"), "{error}");
        let cut_off = &archive("ten", EntryType::Regular, &[1; 10])[..515];
        assert!(fixture.add(cut_off).is_err());
        assert_eq!(fixture.names().len(), 1);
    }

    /// An archive of files whose names may be long.
    fn archive_of(names: impl IntoIterator<Item = String>) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for name in names {
            let mut long = tar::Header::new_gnu();
            long.as_old_mut().name[..13].copy_from_slice(b"././@LongLink");
            long.set_entry_type(EntryType::GNULongName);
            long.set_size(name.len() as u64);
            long.set_cksum();
            builder.append(&long, name.as_bytes()).unwrap();
            let mut header = tar::Header::new_gnu();
            header.set_size(0);
            header.set_cksum();
            builder.append(&header, &b""[..]).unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn a_path_that_is_too_long_or_too_deep_is_refused_before_a_folder_is_made() {
        let fixture = Fixture::new(1000);
        let refused = |name: String| fixture.add(&archive_of([name])).unwrap_err().to_string();
        let error = refused("a/".repeat(32 << 10));
        assert!(error.ends_with("is a path of 65536 bytes; at most 4096 are allowed"), "{error}");
        assert!(error.len() < 1000);
        let error = refused("a/".repeat(64) + "a");
        assert!(error.ends_with("is a path of 65 names; at most 64 are allowed"), "{error}");
        assert!(fixture.add(&archive_of(["a/".repeat(63) + "a"])).is_ok());
    }

    #[test]
    fn folders_that_only_paths_name_count_as_entries() {
        let mut fixture = Fixture::new(1000);
        fixture.artifacts.max_entries = 100;
        let deep = |number: usize| format!("{number}/") + &"a/".repeat(48) + "a";
        assert!(fixture.add(&archive_of([deep(0)])).is_ok());
        let error = fixture.add(&archive_of((1..4).map(deep))).unwrap_err();
        assert!(matches!(error, ArtifactError::TooLarge { .. }), "{error}");
        assert_eq!(fixture.names().len(), 1);
    }

    #[test]
    fn a_header_that_is_too_long_is_not_read_into_memory() {
        let fixture = Fixture::new(1000);
        let error = fixture.add(&archive_of(["n".repeat(2 << 20)])).unwrap_err().to_string();
        assert!(error.ends_with("the header of an entry is longer than 1048576 bytes"), "{error}");
    }

    #[test]
    fn data_of_a_folder_is_no_part_of_the_next_header() {
        let fixture = Fixture::new(1000);
        let mut both = archive("folder", EntryType::Directory, &vec![1; 2 << 20]);
        both.truncate(both.len() - 1024);
        both.extend(archive("file", EntryType::Regular, b"1"));
        assert!(fixture.add(&both).is_ok());
    }

    #[test]
    fn only_used_artifacts_are_retained_and_unfinished_ones_swept_away() {
        let fixture = Fixture::new(1000);
        let used = fixture.add(&archive("a", EntryType::Regular, b"a")).unwrap();
        let unused = fixture.add(&archive("b", EntryType::Regular, b"b")).unwrap();
        fs::create_dir(fixture.folder.path().join("artifacts/.interrupted")).unwrap();
        fs::write(fixture.folder.path().join("artifacts/.DS_Store"), "not ours").unwrap();
        fixture.artifacts.retain(HashSet::new).unwrap();
        assert!(fixture.artifacts.contains(&unused), "it was just uploaded");
        fixture.artifacts.claim(&unused);
        fixture.artifacts.retain(|| HashSet::from([used.clone()])).unwrap();
        assert!(fixture.artifacts.contains(&used) && !fixture.artifacts.contains(&unused));
        Artifacts::open(fixture.folder.path(), 1000, 3000).unwrap();
        fs::remove_file(fixture.folder.path().join("artifacts/.DS_Store")).unwrap();
        assert_eq!(fixture.names(), [used.as_str()]);
    }

    #[test]
    fn all_artifacts_together_are_bounded_and_a_removed_one_makes_room() {
        let mut fixture = Fixture::new(10);
        let file = |name| archive(name, EntryType::Regular, &[1; 9]);
        let first = fixture.add(&file("a")).unwrap();
        for name in ["b", "c"] {
            fixture.add(&file(name)).unwrap();
        }
        for _ in 0..2 {
            let error = fixture.add(&file("d")).unwrap_err().to_string();
            let sentence = "all artifacts may take 30 bytes, and 27 are taken: delete versions that are not needed, or \
                            start management with a larger --artifacts-bytes";
            assert_eq!(error, sentence);
            assert_eq!(fixture.names().len(), 3);
            fixture.artifacts = Artifacts::open(fixture.folder.path(), 10, 30).unwrap();
        }
        let error = fixture.add(&archive("e", EntryType::Regular, &[1; 11])).unwrap_err();
        assert!(matches!(error, ArtifactError::Full { .. }), "{error}");
        fixture.artifacts.remove(&first).unwrap();
        assert!(fixture.add(&file("d")).is_ok());
    }

    #[test]
    fn an_artifact_that_a_deployment_has_asked_for_is_not_removed_before_the_deployment_is_on_record() {
        let fixture = Fixture::new(1000);
        let id = fixture.add(&archive("a", EntryType::Regular, b"a")).unwrap();
        fixture.artifacts.claim(&id);
        assert!(fixture.artifacts.reserve(&id));
        fixture.artifacts.retain(HashSet::new).unwrap();
        assert!(fixture.artifacts.contains(&id));
        // On record only after the first look.
        fixture.artifacts.claim(&id);
        let looks = std::cell::Cell::new(0);
        let used = || {
            looks.set(looks.get() + 1);
            if looks.get() == 1 { HashSet::new() } else { HashSet::from([id.clone()]) }
        };
        fixture.artifacts.retain(used).unwrap();
        assert!(fixture.artifacts.contains(&id));
        fixture.artifacts.retain(HashSet::new).unwrap();
        assert!(!fixture.artifacts.reserve(&id));
    }

    #[test]
    fn an_id_is_64_hexadecimal_digits() {
        assert!("a0".repeat(32).parse::<ArtifactId>().is_ok());
        for text in ["", "../..", &"A0".repeat(32), &"a0".repeat(33)] {
            assert!(text.parse::<ArtifactId>().is_err());
        }
        assert!(serde_json::from_str::<ArtifactId>(r#""..""#).is_err());
    }
}
