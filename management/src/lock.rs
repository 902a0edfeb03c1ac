//! The lock of a data directory: one process at a time, and a second one is told which holds it.
//!
//! The lock is the operating system's, so it ends with the process however that ends; the process id in the
//! file is for people. Invariant: while a [`DirectoryLock`] lives, nobody else holds one of the same directory.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::Path;

use crate::error::OpenError;

/// The name of the file in the data directory.
const FILE_NAME: &str = "clipper.lock";

/// Held for as long as the directory is in use.
#[derive(Debug)]
pub(crate) struct DirectoryLock(
    #[expect(dead_code, reason = "held, not used: closing the file unlocks it")] File,
);

impl DirectoryLock {
    /// Creates the directory if it is missing, and locks it.
    pub(crate) fn acquire(directory: &Path) -> Result<Self, OpenError> {
        let unreadable = |source: io::Error| OpenError::unreadable(directory, source);
        if directory.exists() && !directory.is_dir() {
            return Err(OpenError::NotADirectory { directory: directory.into() });
        }
        fs::create_dir_all(directory).map_err(unreadable)?;
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(directory.join(FILE_NAME))
            .map_err(unreadable)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Who holds it is a courtesy: without it the refusal still stands.
                let _ = file.read_to_string(&mut holder);
                return Err(OpenError::InUse {
                    directory: directory.into(),
                    pid: holder.trim().parse().ok(),
                });
            }
            Err(TryLockError::Error(error)) => return Err(unreadable(error)),
        }
        file.set_len(0).and_then(|()| file.rewind()).map_err(unreadable)?;
        writeln!(file, "{}", std::process::id()).map_err(unreadable)?;
        Ok(Self(file))
    }
}
