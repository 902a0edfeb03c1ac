//! The files of a tar archive that nobody vouches for, written into a folder.
//!
//! Invariant: nothing is written outside of the folder, and no more than the bounds allow. Blocks.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use clipper_rpc::excerpt::excerpt;
use tar::{Archive, EntryType};

use super::error::ArtifactError;
use super::folder;

/// The longest path of an entry, in bytes: the longest that Linux takes.
const MAX_PATH_BYTES: usize = 4096;
/// The most names in the path of an entry.
const MAX_DEPTH: usize = 64;
/// The most bytes of an archive that describe one entry: its header, a long name, and PAX records. The tar reader
/// keeps all of them in memory.
const MAX_HEADER_BYTES: u64 = 1 << 20;

/// Bounds of what an archive may be unpacked to.
#[derive(Debug, Clone, Copy)]
pub(super) struct UnpackBounds {
    /// The most bytes of all files.
    pub(super) max_bytes: u64,
    /// The most files and folders, folders that only paths name included.
    pub(super) max_entries: usize,
}

/// Writes the files of the archive into `target`, and has them on disk.
/// Returns the bytes that they take.
pub(super) fn unpack(archive: impl Read, target: &Path, bounds: UnpackBounds) -> Result<u64, ArtifactError> {
    let UnpackBounds { max_bytes, max_entries } = bounds;
    let too_large = || ArtifactError::TooLarge { max_bytes };
    let mut room = max_bytes;
    let mut room_for_entries = max_entries;
    let mut empty = true;
    let headers = HeaderBudget::default();
    let archive = BudgetedReader { archive: io::BufReader::new(archive), budget: headers.clone() };
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
    folder::sync_all(target).map_err(ArtifactError::Storage)?;
    Ok(max_bytes - room)
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
