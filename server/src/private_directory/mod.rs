//! Directories that only the user who runs Clipper can use: the data directory, and the one of the
//! decision logs.
//!
//! [`open`] is called once for each directory, before anything in it is read or written. Invariant:
//! after it, the directory has mode 0700, and what Clipper keeps in it is of no use to other users:
//! 0700 for folders, 0600 for files, 0700 for programs. What is written later has these modes
//! because the process runs with [`UMASK`].
//!
//! Modes alone do not undo what others did while they could write: such a directory is refused.

mod error;

use std::fs::{self, DirBuilder, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::sys::stat::Mode;
use nix::unistd::geteuid;
use tracing::{info, warn};

pub use self::error::{DirectoryError, ExposedDirectory};

/// Permissions that no file of Clipper's has: those of the group and of all others.
pub const UMASK: Mode = Mode::from_bits_truncate(FOREIGN);

const FOREIGN: u32 = 0o077;
const OWN: u32 = 0o700;
const WRITABLE_BY_ALL: u32 = 0o002;
const ENTERED_BY_ALL: u32 = 0o001;
const STICKY: u32 = 0o1000;

/// Tells what Clipper keeps in a directory from what else may be there.
#[derive(Debug, Clone, Copy)]
pub struct Contents {
    /// The name of a file that is only in directories that Clipper uses, if there is such a one.
    pub marker: Option<&'static str>,
    /// Whether an entry of the directory is Clipper's.
    pub owns: fn(&Path) -> bool,
}

/// Creates a directory that only its owner can use, or makes an existing one so, with what it holds
/// of Clipper's.
///
/// # Errors
/// If others can write it or replace it, if it is used for something else, or if it cannot be read
/// or changed.
pub fn open(directory: &Path, contents: Contents) -> Result<(), DirectoryError> {
    check_parents(directory, &std::path::absolute(directory)?)?;
    check_link(directory)?;
    DirBuilder::new().recursive(true).mode(OWN).create(directory)?;
    let real = directory.canonicalize()?;
    check_parents(directory, &real)?;
    let metadata = real.metadata()?;
    check(directory, &metadata)?;
    let owned = owned_entries(&real, contents)?;
    if metadata.mode() & FOREIGN != 0 {
        let Some(owned) = &owned else {
            return Err(ExposedDirectory::InOtherUse { directory: directory.into() }.into());
        };
        if metadata.mode() & ENTERED_BY_ALL != 0 {
            check_contents(directory, owned)?;
        }
        fs::set_permissions(&real, Permissions::from_mode(metadata.mode() & OWN))?;
        if !owned.is_empty() {
            info!(directory = %directory.display(), "the directory is closed to other users from now on");
        }
    }
    close(owned.unwrap_or_default())?;
    Ok(())
}

/// Refuses a path that leads through a directory in which every user can replace what is below.
fn check_parents(directory: &Path, path: &Path) -> Result<(), ExposedDirectory> {
    for parent in path.ancestors().skip(1) {
        let mode = parent.metadata().map_or(0, |metadata| metadata.mode());
        if mode & WRITABLE_BY_ALL != 0 && mode & STICKY == 0 {
            return Err(ExposedDirectory::ParentWritableByAll {
                directory: directory.into(),
                parent: parent.into(),
            });
        }
    }
    Ok(())
}

/// Refuses a link that another user may point elsewhere.
fn check_link(directory: &Path) -> Result<(), ExposedDirectory> {
    match directory.symlink_metadata() {
        Ok(link) if link.is_symlink() && link.uid() != 0 => check_owner(directory, &link),
        _ => Ok(()),
    }
}

fn check(directory: &Path, metadata: &Metadata) -> Result<(), ExposedDirectory> {
    let mode = metadata.mode();
    if mode & WRITABLE_BY_ALL != 0 {
        let directory = directory.into();
        return Err(if mode & STICKY == 0 {
            ExposedDirectory::WritableByAll { directory }
        } else {
            ExposedDirectory::SharedByAll { directory }
        });
    }
    check_owner(directory, metadata)
}

fn check_owner(directory: &Path, metadata: &Metadata) -> Result<(), ExposedDirectory> {
    let (owner, user) = (metadata.uid(), geteuid().as_raw());
    if owner == user {
        Ok(())
    } else {
        Err(ExposedDirectory::OwnedByAnother { directory: directory.into(), owner, user })
    }
}

/// Clipper's entries of a directory; none if the directory holds others only, or others without the
/// marker.
fn owned_entries(directory: &Path, Contents { marker, owns }: Contents) -> io::Result<Option<Vec<PathBuf>>> {
    let mut foreign = false;
    let mut owned = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if owns(&path) {
            owned.push(path);
        } else {
            foreign = true;
        }
    }
    let marked = marker.is_some_and(|marker| directory.join(marker).exists());
    Ok((marked || !foreign).then_some(owned))
}

/// Refuses a directory that all users can enter, with something in it that they can write.
fn check_contents(directory: &Path, owned: &[PathBuf]) -> Result<(), DirectoryError> {
    walk(owned.to_vec(), |path, metadata| {
        if metadata.mode() & WRITABLE_BY_ALL == 0 {
            return Ok(());
        }
        let (directory, path) = (directory.to_owned(), path.to_owned());
        Err(ExposedDirectory::HoldsWritableByAll { directory, path }.into())
    })
}

/// Takes all permissions of others from files and folders, with everything below.
fn close(owned: Vec<PathBuf>) -> Result<(), DirectoryError> {
    walk(owned, |path, metadata| {
        if metadata.mode() & FOREIGN != 0 {
            fs::set_permissions(path, Permissions::from_mode(metadata.mode() & OWN))?;
        }
        Ok(())
    })
}

/// Visits files and folders, with everything below. Links are left out.
fn walk(
    mut paths: Vec<PathBuf>,
    visit: impl Fn(&Path, &Metadata) -> Result<(), DirectoryError>,
) -> Result<(), DirectoryError> {
    while let Some(path) = paths.pop() {
        match walk_one(&path, &visit) {
            Ok(entries) => paths.extend(entries),
            // A process of a former replica may still run, and remove its files.
            Err(DirectoryError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {}
            // It belongs to somebody else, who cannot reach it in a directory that is closed.
            Err(DirectoryError::Io(error)) if error.kind() == io::ErrorKind::PermissionDenied => {
                warn!(path = %path.display(), %error, "the permissions of a file cannot be changed");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Visits a file or folder; its entries.
fn walk_one(
    path: &Path,
    visit: impl Fn(&Path, &Metadata) -> Result<(), DirectoryError>,
) -> Result<Vec<PathBuf>, DirectoryError> {
    let metadata = path.symlink_metadata()?;
    if metadata.is_symlink() {
        return Ok(Vec::new());
    }
    visit(path, &metadata)?;
    if !metadata.is_dir() {
        return Ok(Vec::new());
    }
    let entries: io::Result<_> = fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect();
    Ok(entries?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "all of this is a test")]

    use std::os::unix::fs::{chown, symlink};

    use tempfile::TempDir;

    use super::*;

    const CONTENTS: Contents =
        Contents { marker: Some("clipper.lock"), owns: |path| path.ends_with("logs") || is_marker(path) };

    fn is_marker(path: &Path) -> bool {
        path.ends_with("clipper.lock")
    }

    fn set(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().mode() & 0o7777
    }

    fn refusal(directory: &Path) -> String {
        open(directory, CONTENTS).unwrap_err().to_string()
    }

    /// A directory with a mode, in a temporary one.
    fn directory(mode: u32) -> (TempDir, PathBuf) {
        let temporary = TempDir::new().unwrap();
        let directory = temporary.path().join("data");
        fs::create_dir(&directory).unwrap();
        set(&directory, mode);
        (temporary, directory)
    }

    #[test]
    fn a_missing_directory_is_created_for_its_owner_only() {
        let temporary = TempDir::new().unwrap();
        let directory = temporary.path().join("a/b");
        open(&directory, CONTENTS).unwrap();
        assert_eq!((mode(&directory), mode(&temporary.path().join("a"))), (0o700, 0o700));
    }

    #[test]
    fn a_directory_of_before_is_closed_with_all_that_is_in_it() {
        let (temporary, directory) = directory(0o2770);
        let logs = directory.join("logs");
        fs::create_dir(&logs).unwrap();
        let outside = temporary.path().join("outside");
        for (path, before) in [
            (directory.join("clipper.lock"), 0o644),
            (logs.join("0.log"), 0o666),
            (logs.join("run.sh"), 0o4755),
            (logs.join("read-only"), 0o444),
            (directory.join("notes"), 0o644),
            (outside.clone(), 0o644),
        ] {
            fs::write(&path, "").unwrap();
            set(&path, before);
        }
        set(&logs, 0o777);
        symlink(&outside, logs.join("link")).unwrap();
        open(&directory, CONTENTS).unwrap();
        for (path, after) in [
            ("", 0o700),
            ("clipper.lock", 0o600),
            ("logs", 0o700),
            ("logs/0.log", 0o600),
            ("logs/run.sh", 0o700),
            ("logs/read-only", 0o400),
            ("notes", 0o644),
            ("../outside", 0o644),
        ] {
            assert_eq!(mode(&directory.join(path)), after, "{path}");
        }
    }

    #[test]
    fn contents_that_every_user_can_reach_and_write_are_refused_and_not_changed() {
        let (_temporary, directory) = directory(0o755);
        let logs = directory.join("logs");
        fs::create_dir(&logs).unwrap();
        set(&logs, 0o777);
        let (at, inner) = (directory.display(), logs.display());
        assert_eq!(
            refusal(&directory),
            format!(
                "{at} holds {inner}, which every user can write: check that everything in it is yours, then run \
                 `chmod -R go= {at}`"
            )
        );
        assert_eq!((mode(&directory), mode(&logs)), (0o755, 0o777));
        set(&logs, 0o775);
        open(&directory, CONTENTS).unwrap();
        assert_eq!(mode(&logs), 0o700);
    }

    #[test]
    fn loose_files_in_a_closed_directory_are_closed_too() {
        let (_temporary, directory) = directory(0o700);
        let lock = directory.join("clipper.lock");
        fs::write(&lock, "").unwrap();
        set(&lock, 0o664);
        open(&directory, CONTENTS).unwrap();
        assert_eq!(mode(&lock), 0o600);
    }

    #[test]
    fn a_directory_that_every_user_can_write_is_refused_and_not_changed() {
        let (_temporary, directory) = directory(0o777);
        let at = directory.display();
        assert_eq!(
            refusal(&directory),
            format!(
                "{at} can be written by every user: check that everything in it is yours, then run `chmod 700 {at}`"
            )
        );
        assert_eq!(mode(&directory), 0o777);
        set(&directory, 0o1777);
        assert!(refusal(&directory).contains("name a directory of its own"), "{}", refusal(&directory));
        assert_eq!(mode(&directory), 0o1777);
    }

    #[test]
    fn a_directory_that_every_user_can_replace_is_refused() {
        let (_temporary, parent) = directory(0o777);
        let directory = parent.join("data");
        let words = format!("run `chmod o-w {}`", parent.display());
        assert!(refusal(&directory).contains(&words), "{}", refusal(&directory));
        assert!(!directory.exists());
        set(&parent, 0o1777);
        open(&directory, CONTENTS).unwrap();
        set(&parent, 0o777);
        assert!(refusal(&directory).contains(&words), "{}", refusal(&directory));
        // Also by a path that is safe itself.
        let safe = TempDir::new().unwrap();
        let link = safe.path().join("link");
        symlink(&directory, &link).unwrap();
        assert!(refusal(&link).contains(&words), "{}", refusal(&link));
    }

    #[test]
    fn a_link_to_ones_own_directory_is_followed() {
        let (temporary, directory) = directory(0o755);
        let link = temporary.path().join("link");
        symlink(&directory, &link).unwrap();
        open(&link, CONTENTS).unwrap();
        assert_eq!(mode(&directory), 0o700);
    }

    #[test]
    fn a_directory_of_another_user_is_refused() {
        let (_temporary, directory) = directory(0o700);
        // Only root can give something away.
        if geteuid().is_root() {
            chown(&directory, Some(12_345), None).unwrap();
            let refused = refusal(&directory);
            assert!(
                refused.contains("belongs to user 12345") && refused.contains("`chown -R 0 "),
                "{refused}"
            );
        } else {
            let refused = refusal(Path::new("/etc"));
            assert!(refused.contains("/etc belongs to user 0"), "{refused}");
        }
    }

    #[test]
    fn a_directory_that_others_use_for_something_else_is_refused_and_not_changed() {
        let (_temporary, directory) = directory(0o755);
        fs::write(directory.join("notes"), "").unwrap();
        assert!(refusal(&directory).contains("files that are not Clipper's"), "{}", refusal(&directory));
        assert_eq!(mode(&directory), 0o755);
        set(&directory, 0o700);
        open(&directory, CONTENTS).unwrap();
    }
}
