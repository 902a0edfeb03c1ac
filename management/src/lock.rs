//! The lock of a data directory: one process at a time, and a second one is told which holds it.
//!
//! The lock is the operating system's, so it ends with the process however that ends; the process id in the
//! file is for people. Invariant: while a [`DirectoryLock`] lives, nobody else holds one of the same directory.
//!
//! A process that is being started holds a copy of every lock of the one that starts it, from its fork to its
//! exec. So a lock can outlive its holder by that moment, and what finds it held asks again for a while.

use std::fs::{File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use clipper_server::private_directory::{self, Contents, DirectoryError};

use crate::error::OpenError;

/// The name of the file in the data directory.
const FILE_NAME: &str = "clipper.lock";

/// Names in the data directory, besides those that begin with `clipper.`: see `docs/management.md`.
const NAMES: [&str; 9] = [
    "addresses.json",
    "artifacts",
    "catalog",
    "decisions",
    "logs",
    "models",
    "replicas",
    "selection",
    "uploads",
];

const CONTENTS: Contents = Contents {
    marker: Some(FILE_NAME),
    owns: |path| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with("clipper.") || NAMES.contains(&name))
    },
};

/// How long a held lock is asked for again. From fork to exec takes about 1 ms.
const PATIENCE: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(5);

/// Tries until it succeeds, fails otherwise than by a lock that is `held`, or has found it held for a second.
pub(crate) fn patiently<T, E>(
    mut attempt: impl FnMut() -> Result<T, E>,
    held: impl Fn(&E) -> bool,
) -> Result<T, E> {
    let began = Instant::now();
    loop {
        match attempt() {
            Err(error) if held(&error) && began.elapsed() < PATIENCE => thread::sleep(PAUSE),
            ended => return ended,
        }
    }
}

/// Held for as long as the directory is in use.
#[derive(Debug)]
pub(crate) struct DirectoryLock(
    #[cfg_attr(not(test), expect(dead_code, reason = "held, not used: closing the file unlocks it"))] File,
);

impl DirectoryLock {
    /// Creates the directory if it is missing, closes it to other users, and locks it.
    pub(crate) fn acquire(directory: &Path) -> Result<Self, OpenError> {
        let unreadable = |source: io::Error| OpenError::unreadable(directory, source);
        if directory.exists() && !directory.is_dir() {
            return Err(OpenError::NotADirectory { directory: directory.into() });
        }
        private_directory::open(directory, CONTENTS).map_err(|error| match error {
            DirectoryError::Exposed(exposed) => OpenError::Exposed(exposed),
            DirectoryError::Io(error) => unreadable(error),
        })?;
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(directory.join(FILE_NAME))
            .map_err(unreadable)?;
        match patiently(|| file.try_lock(), |error| matches!(error, TryLockError::WouldBlock)) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_a_process_being_started_still_holds_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let lock = DirectoryLock::acquire(directory.path()).unwrap();
        let forked = lock.0.try_clone().unwrap();
        drop(lock);
        let exec = thread::spawn(move || {
            thread::sleep(10 * PAUSE);
            drop(forked);
        });
        DirectoryLock::acquire(directory.path()).unwrap();
        exec.join().unwrap();
    }
}
