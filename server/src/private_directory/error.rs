//! Reasons for which a directory is refused, each with its remedy.

use std::io;
use std::path::PathBuf;

/// Why a directory cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// It is not safe to use.
    #[error(transparent)]
    Exposed(#[from] ExposedDirectory),
    /// It cannot be created, read or changed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Why a directory is not safe to use, and what to do about it. The text begins with the directory.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExposedDirectory {
    /// Others may have put anything there.
    #[error(
        "{0} can be written by every user: check that everything in it is yours, then run `chmod 700 {0}`",
        .directory.display()
    )]
    WritableByAll {
        /// The directory.
        directory: PathBuf,
    },
    /// Others may have changed what is in it.
    #[error(
        "{at} holds {}, which every user can write: check that everything in it is yours, then run `chmod -R go= {at}`",
        .path.display(), at = .directory.display()
    )]
    HoldsWritableByAll {
        /// The directory.
        directory: PathBuf,
        /// A file or folder in it.
        path: PathBuf,
    },
    /// It is meant for everybody, such as `/tmp`.
    #[error("{0} is shared by all users: name a directory of its own, such as {0}/clipper", .directory.display())]
    SharedByAll {
        /// The directory.
        directory: PathBuf,
    },
    /// Others may replace it.
    #[error(
        "{} is in {parent}, which every user can write: run `chmod o-w {parent}`, or name another directory",
        .directory.display(), parent = .parent.display()
    )]
    ParentWritableByAll {
        /// The directory.
        directory: PathBuf,
        /// A directory above it.
        parent: PathBuf,
    },
    /// Its owner may do with it what they want.
    #[error(
        "{0} belongs to user {owner}, and this process runs as user {user}: run `chown -R {user} {0}`, or name another \
         directory",
        .directory.display()
    )]
    OwnedByAnother {
        /// The directory, or a link to it.
        directory: PathBuf,
        /// Its owner.
        owner: u32,
        /// The user who runs this process.
        user: u32,
    },
    /// Others use it, and for something else than Clipper.
    #[error(
        "{0} is open to other users and holds files that are not Clipper's: name a directory of its own, or run \
         `chmod 700 {0}`",
        .directory.display()
    )]
    InOtherUse {
        /// The directory.
        directory: PathBuf,
    },
}
