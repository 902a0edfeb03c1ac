//! What can go wrong in management besides a refusal, each in one clear line.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clipper_rpc::secret::SecretError;
use clipper_server::PartEnded;
use clipper_server::private_directory::ExposedDirectory;

use crate::refusal::Refusal;
use crate::selection_state::StateError;

/// Why management cannot start on a data directory.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("the data directory {} is in use by {}", .directory.display(), holder(.pid))]
    InUse {
        /// The directory.
        directory: PathBuf,
        /// Who has it, if that could be read.
        pid: Option<u32>,
    },
    /// It is something else.
    #[error("the data directory {} is not a directory", .directory.display())]
    NotADirectory {
        /// The path.
        directory: PathBuf,
    },
    /// Other users can reach it.
    #[error("the data directory {0}")]
    Exposed(ExposedDirectory),
    /// It cannot be created, read or written.
    #[error("the data directory {} cannot be used: {error}", .directory.display())]
    Unreadable {
        /// The directory.
        directory: PathBuf,
        /// Why not. Part of the message, so not its source as well.
        error: io::Error,
    },
    /// What is in it makes no sense.
    #[error(
        "the database in {} is corrupt: {what}; restore the directory from a copy, or start on another one",
        .directory.display()
    )]
    Corrupt {
        /// The directory.
        directory: PathBuf,
        /// What was found.
        what: String,
    },
    /// The key of the containers' registration tokens makes no sense.
    #[error(
        "{error}: restore {file} from a copy, or remove it, and a new key is made with which deployed models are started",
        file = .file.display()
    )]
    ContainerKey {
        /// The file.
        file: PathBuf,
        /// What is wrong with it. Part of the message, so not its source as well.
        error: SecretError,
    },
    /// A restore into it was interrupted, or is still under way.
    #[error(
        "the data directory {} is not whole: a restore into it is under way, or was interrupted; remove the directory, and \
         restore the backup again",
        .directory.display()
    )]
    RestoreUnfinished {
        /// The directory.
        directory: PathBuf,
    },
    /// It was written by a newer Clipper.
    #[error(
        "the database in {} has schema {found}, this Clipper knows schemas up to {supported}: use a newer Clipper",
        .directory.display()
    )]
    NewerSchema {
        /// The directory.
        directory: PathBuf,
        /// Its schema.
        found: u32,
        /// The newest that is known here.
        supported: u32,
    },
}

impl OpenError {
    pub(crate) fn unreadable(directory: &Path, error: io::Error) -> Self {
        Self::Unreadable { directory: directory.into(), error }
    }

    pub(crate) fn corrupt(directory: &Path, what: impl Into<String>) -> Self {
        Self::Corrupt { directory: directory.into(), what: what.into() }
    }
}

fn holder(pid: &Option<u32>) -> String {
    match pid {
        Some(pid) => format!("process {pid}"),
        None => "another process".into(),
    }
}

/// Why management stopped other than on request.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The HTTP server could not be started or failed.
    #[error("the admin interface failed")]
    Server(#[from] io::Error),
    /// The last of the database could not be written.
    #[error("the database could not be closed")]
    Store(#[from] StoreError),
    /// Nor the last of what is learned.
    #[error("the database of what is learned could not be closed")]
    States(#[from] StateError),
    /// The databases could not be closed in time.
    #[error("the databases are not closed after {} s: the disk may be stuck", .0.as_secs())]
    Stuck(Duration),
    /// A part of management has ended without which it cannot go on.
    #[error(transparent)]
    PartEnded(#[from] PartEnded),
}

/// The store cannot write. It accepts no more edits, as what is on disk is not known any more.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The disk or the database failed.
    #[error("the catalog cannot be written: {0}")]
    Failed(String),
    /// The store was closed.
    #[error("the catalog is closed, as management is shutting down")]
    Closed,
}

/// Why an edit was not made.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// It does not fit the catalog.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It could not be written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;

    #[test]
    fn a_cause_is_said_once_by_whoever_prints_the_whole_chain() {
        let cause = || io::Error::other("no such luck");
        let errors: [Box<dyn Error>; 3] = [
            Box::new(OpenError::unreadable(Path::new("/data"), cause())),
            Box::new(RunError::from(cause())),
            Box::new(RunError::from(StoreError::Failed("no such luck".into()))),
        ];
        for error in &errors {
            let mut printed = vec![error.to_string()];
            let mut cause = error.source();
            while let Some(error) = cause {
                printed.push(error.to_string());
                cause = error.source();
            }
            assert_eq!(printed.join(": ").matches("no such luck").count(), 1, "{printed:?}");
        }
    }
}
