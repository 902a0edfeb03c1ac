//! Backups: a whole cluster in a folder, from which another one can be begun.
//!
//! # Layout
//! - `manifest`: the list of files, by which a backup is known to be whole; `names`: the files that there can be.
//! - `catalog`: the catalog as it is written.
//! - `writer`: a backup as a stream; `receive`: the stream as a folder; `restore`: the folder as a data directory.
//!
//! # Format
//! | file | content |
//! |---|---|
//! | `manifest.json` | `format` (1), `clipper` (the version that wrote it), `made_at` (seconds since 1970), `store`, `revision`, and `files`: `path`, `bytes` and `sha256` of each other file |
//! | `catalog.json` | every record, with the environments of deployments; `revision`, `next_frontend_number` |
//! | `learned` | what is learned: `management/src/selection_state/store/copy.rs` describes it |
//! | `artifacts/ID.tar` | the archive of an artifact as it was uploaded, whose SHA-256 is `ID` |
//! | `artifacts/ID.files.tar` | the files of an artifact whose archive an older Clipper did not keep |
//!
//! On its way a backup is a tar archive of these files, the manifest last. Invariant: a folder that holds
//! `manifest.json` holds a whole backup, because the manifest is written once everything else is on disk.

use std::io;
use std::path::{Path, PathBuf};

pub use self::manifest::Manifest;
pub use self::receive::receive;
pub(crate) use self::restore::check_not_restoring;
pub use self::restore::restore;
pub(crate) use self::writer::{Source, write};
use crate::error::{OpenError, StoreError};

mod catalog;
mod manifest;
mod names;
mod receive;
mod restore;
mod writer;

/// Why a backup is not made or not restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The folder for it is in use.
    #[error("{} is not empty; name a folder that does not exist yet", .0.display())]
    NotEmpty(PathBuf),
    /// The stream has ended too early.
    #[error("the backup broke off before its end: {0}; nothing was kept, so make it again")]
    BrokenOff(String),
    /// The folder holds no manifest.
    #[error(
        "{} holds no whole backup: it has no manifest.json, which is written last; the backup was interrupted, or is \
         elsewhere",
        .0.display()
    )]
    NoManifest(PathBuf),
    /// The manifest makes no sense.
    #[error("the manifest of the backup is unreadable: {0}; use another backup")]
    Manifest(String),
    /// It was written by a newer Clipper.
    #[error(
        "the backup has format {found}, this Clipper knows formats up to {supported}: use a newer Clipper"
    )]
    NewerFormat {
        /// Its format.
        found: u32,
        /// The newest that is known here.
        supported: u32,
    },
    /// A file is not what the manifest says.
    #[error("the backup is damaged: {path} {what}; use another backup")]
    Damaged {
        /// The file within the backup.
        path: String,
        /// What is wrong with it.
        what: String,
    },
    /// A file cannot be read or written.
    #[error("cannot read or write {}: {error}", .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why not. Part of the message, so not its source as well.
        error: io::Error,
    },
    /// The new data directory cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The new catalog cannot be written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl BackupError {
    fn at(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |error| Self::Io { path: path.into(), error }
    }

    fn damaged(path: &str, what: impl Into<String>) -> Self {
        Self::Damaged { path: path.into(), what: what.into() }
    }
}

/// Creates a folder for its owner alone, unless it is there and empty; whether it was created.
fn create_empty(folder: &Path) -> Result<bool, BackupError> {
    use std::os::unix::fs::DirBuilderExt;
    match std::fs::read_dir(folder) {
        Ok(mut entries) => match entries.next() {
            Some(_) => Err(BackupError::NotEmpty(folder.into())),
            None => Ok(false),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let created = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
            created.map_err(BackupError::at(folder)).map(|()| true)
        }
        Err(error) => Err(BackupError::at(folder)(error)),
    }
}
