//! Uploaded model files: tar archives, unpacked into `DATA/artifacts/ID`, where the id is the archive's SHA-256.
//!
//! Archives are not trusted: what would leave its folder, or is neither file nor folder, is refused, and sizes are
//! bounded. Invariant: a folder named by an [`ArtifactId`] is complete and on disk; whatever is unfinished has a name
//! that begins with a dot, and is swept away at the next start. Everything here blocks.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tar::{Archive, EntryType};
use tracing::{info, warn};
use uuid::Uuid;

/// The most files and folders in an artifact.
const MAX_ENTRIES: usize = 100_000;
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
        why: &'static str,
    },
    /// It has too many entries, or too long ones.
    #[error(
        "the artifact is too large: it would be unpacked to more than {max_bytes} bytes or {MAX_ENTRIES} files"
    )]
    TooLarge {
        /// The limit.
        max_bytes: u64,
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
    /// When each was uploaded, until a deployment names it. Held for one rename at most.
    fresh: Arc<Mutex<HashMap<ArtifactId, Instant>>>,
}

impl Artifacts {
    /// The artifacts in `data_dir`, each of at most `max_bytes` when unpacked. Clears away what an earlier process did
    /// not finish.
    ///
    /// # Errors
    /// If the folder cannot be created or read.
    pub fn open(data_dir: &Path, max_bytes: u64) -> io::Result<Self> {
        let folder = std::path::absolute(data_dir)?.join("artifacts");
        fs::create_dir_all(&folder)?;
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            // A plain file is not ours.
            if entry.file_name().as_encoded_bytes().starts_with(b".") && entry.file_type()?.is_dir() {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(Self { folder, max_bytes, fresh: Arc::default() })
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
        let unfinished = self.unfinished();
        fs::create_dir(&unfinished)?;
        let stored =
            self.unpack(archive, &unfinished).and_then(|()| Ok(fs::rename(&unfinished, self.path(&id))?));
        if let Err(error) = stored {
            let _ = fs::remove_dir_all(&unfinished);
            // Somebody else may have added the same archive at the same time.
            return if self.contains(&id) { Ok(id) } else { Err(error) };
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

    /// Whether there is such an artifact.
    pub fn contains(&self, id: &ArtifactId) -> bool {
        self.path(id).is_dir()
    }

    /// The folder of an artifact's files.
    pub fn path(&self, id: &ArtifactId) -> PathBuf {
        self.folder.join(id.as_str())
    }

    /// Removes every artifact that is not `used`.
    ///
    /// # Errors
    /// If the folder cannot be read or changed.
    pub fn retain(&self, used: &HashSet<ArtifactId>) -> io::Result<()> {
        for entry in fs::read_dir(&self.folder)? {
            let id = entry?.file_name().to_str().and_then(|name| name.parse::<ArtifactId>().ok());
            if let Some(id) = id.filter(|id| !used.contains(id)) {
                self.remove(&id)?;
            }
        }
        Ok(())
    }

    /// Removes an artifact, if there is such a one. One that was just uploaded is left to the deployment that it is for.
    ///
    /// # Errors
    /// If its files cannot be removed.
    pub fn remove(&self, id: &ArtifactId) -> io::Result<()> {
        let unfinished = self.unfinished();
        let fresh = self.fresh();
        if fresh.contains_key(id) {
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
        info!(artifact = %id, "artifact removed");
        Ok(())
    }

    /// A fresh name for a folder that is not an artifact yet, or no more.
    fn unfinished(&self) -> PathBuf {
        self.folder.join(format!(".{}", Uuid::new_v4()))
    }

    /// Writes the files of the archive into `target`, and has them on disk.
    fn unpack(&self, archive: &Path, target: &Path) -> Result<(), ArtifactError> {
        let too_large = || ArtifactError::TooLarge { max_bytes: self.max_bytes };
        let mut folders = BTreeSet::from([target.to_owned()]);
        let mut room = self.max_bytes;
        let mut empty = true;
        let mut archive = Archive::new(io::BufReader::new(File::open(archive)?));
        for (count, entry) in archive.entries().map_err(ArtifactError::Unreadable)?.enumerate() {
            let mut entry = entry.map_err(ArtifactError::Unreadable)?;
            if count >= MAX_ENTRIES {
                return Err(too_large());
            }
            empty = false;
            let Some(path) = inner_path(&entry)? else { continue };
            let path = target.join(path);
            let is_folder = entry.header().entry_type().is_dir();
            let folder = if is_folder { Some(path.as_path()) } else { path.parent() };
            for folder in folder.into_iter().flat_map(Path::ancestors).take_while(|&folder| folder != target)
            {
                folders.insert(folder.to_owned());
            }
            fs::create_dir_all(folder.unwrap_or(target)).map_err(|error| unfit(&entry, error))?;
            if is_folder {
                continue;
            }
            room = room.checked_sub(entry.size()).ok_or_else(too_large)?;
            let mut file = File::create(&path).map_err(|error| unfit(&entry, error))?;
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
        folders.iter().try_for_each(|folder| sync(folder)).map_err(ArtifactError::Storage)
    }
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
    let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
    ArtifactError::Refused { path, why }
}

/// Where an entry belongs, relative to the artifact's folder; `None` if it is not to be unpacked.
fn inner_path(entry: &tar::Entry<'_, impl Read>) -> Result<Option<PathBuf>, ArtifactError> {
    let path = entry.path().map_err(ArtifactError::Unreadable)?;
    let refused = |why| ArtifactError::Refused { path: path.display().to_string(), why };
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
            let artifacts = Artifacts::open(folder.path(), max_bytes).unwrap();
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
        assert!(matches!(error, ArtifactError::Refused { why: "has too long a name", .. }), "{error}");
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

    #[test]
    fn only_used_artifacts_are_retained_and_unfinished_ones_swept_away() {
        let fixture = Fixture::new(1000);
        let used = fixture.add(&archive("a", EntryType::Regular, b"a")).unwrap();
        let unused = fixture.add(&archive("b", EntryType::Regular, b"b")).unwrap();
        fs::create_dir(fixture.folder.path().join("artifacts/.interrupted")).unwrap();
        fs::write(fixture.folder.path().join("artifacts/.DS_Store"), "not ours").unwrap();
        fixture.artifacts.retain(&HashSet::new()).unwrap();
        assert!(fixture.artifacts.contains(&unused), "it was just uploaded");
        fixture.artifacts.claim(&unused);
        fixture.artifacts.retain(&HashSet::from([used.clone()])).unwrap();
        assert!(fixture.artifacts.contains(&used) && !fixture.artifacts.contains(&unused));
        Artifacts::open(fixture.folder.path(), 1000).unwrap();
        fs::remove_file(fixture.folder.path().join("artifacts/.DS_Store")).unwrap();
        assert_eq!(fixture.names(), [used.as_str()]);
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
