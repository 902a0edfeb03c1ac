//! Folders of files: their size, and how they are made durable. Recursion is bounded by the depth of an archive.

use std::fs::{self, File};
use std::io;
use std::path::Path;

/// The bytes of all files in a folder.
pub(super) fn size_of_files(folder: &Path) -> io::Result<u64> {
    let mut size = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        size +=
            if entry.file_type()?.is_dir() { size_of_files(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(size)
}

/// Has the entries of a folder and of all folders in it on disk.
pub(super) fn sync_all(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_all(&entry.path())?;
        }
    }
    sync(folder)
}

/// Has the entries of a folder on disk.
pub(super) fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
