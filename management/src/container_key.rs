//! The key of the registration tokens, which open frontends' container ports to the replicas of one
//! version each.
//!
//! Kept in `DATA/clipper.key` across restarts, readable by its owner alone. Frontends hear of it
//! as they follow; replicas are only given tokens that are derived from it. Blocks.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use clipper_rpc::secret::Secret;
use tempfile::NamedTempFile;

use crate::error::OpenError;

/// The name of the file in the data directory.
const FILE_NAME: &str = "clipper.key";

/// Reads the key, or makes one in a directory that has none. The directory's lock must be held.
///
/// # Errors
/// If the file holds no key, or cannot be read or written.
pub(crate) fn open(directory: &Path) -> Result<Secret, OpenError> {
    let path = directory.join(FILE_NAME);
    let unreadable = |error| OpenError::unreadable(directory, error);
    if path.try_exists().map_err(unreadable)? {
        return Secret::read(&path).map_err(|error| OpenError::ContainerKey { file: path, error });
    }
    let key = Secret::random();
    create(directory, &path, &key).map_err(unreadable)?;
    Ok(key)
}

/// Writes a key so that after a crash the file holds the whole of it or is not there.
fn create(directory: &Path, path: &Path, key: &Secret) -> io::Result<()> {
    // Its mode is 0600.
    let mut file = NamedTempFile::new_in(directory)?;
    writeln!(file, "{}", key.reveal())?;
    file.as_file().sync_all()?;
    file.persist_noclobber(path)?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_for_its_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        let key = open(directory.path()).unwrap();
        assert_eq!(open(directory.path()).unwrap(), key);
        let files: Vec<_> = fs::read_dir(directory.path()).unwrap().map(Result::unwrap).collect();
        assert_eq!(files.len(), 1, "nothing else is left");
        assert_eq!(files[0].metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let other = tempfile::tempdir().unwrap();
        assert_ne!(open(other.path()).unwrap(), key);
    }

    #[test]
    fn a_damaged_key_is_an_error_that_says_how_to_mend_it_and_never_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE_NAME);
        for damaged in ["", "\n", "half-a-key", "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"] {
            fs::write(&path, damaged).unwrap();
            let error = open(directory.path()).unwrap_err().to_string();
            assert!(error.contains(path.to_str().unwrap()) && error.contains("remove it"), "{error}");
            assert!(!error.contains("half-a-key"), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), damaged);
        }
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(matches!(open(directory.path()), Err(OpenError::ContainerKey { .. })));
    }
}
