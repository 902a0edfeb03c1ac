//! A copy of everything that is learned, for backups.
//!
//! # Format
//! The schema of the database (u32), then each entry of its tree `states`, in order: the length of the key (u32), the
//! key, the length of the value (u32), the value. Numbers are big-endian.

use std::io::{self, Read, Write};
use std::path::Path;

use uuid::Uuid;

use super::{FOLDER, SCHEMA, StateStore, failed};
use crate::database;
use crate::error::OpenError;
use crate::selection_state::StateError;

/// The entries that are written at once.
const BATCH: usize = 1000;
/// The longest key or value: values are pieces, and keys hold at most two names.
const MAX_BYTES: u32 = 1 << 20;

impl StateStore {
    /// Writes a copy.
    pub(in crate::selection_state) fn copy(&self, out: &mut impl Write) -> Result<(), StateError> {
        let unwritten = |error: io::Error| StateError::Failed(format!("the copy cannot be written: {error}"));
        out.write_all(&SCHEMA.to_be_bytes()).map_err(unwritten)?;
        for entry in &self.states {
            let (key, value) = entry.map_err(failed)?;
            for bytes in [key, value] {
                let length =
                    u32::try_from(bytes.len()).map_err(|error| StateError::Failed(error.to_string()))?;
                out.write_all(&length.to_be_bytes()).map_err(unwritten)?;
                out.write_all(&bytes).map_err(unwritten)?;
            }
        }
        out.flush().map_err(unwritten)
    }

    /// Fills the database of a new data directory, whose catalog is `catalog`, with a copy.
    pub(in crate::selection_state) fn restore(
        directory: &Path,
        catalog: Uuid,
        mut copy: impl Read,
    ) -> Result<(), OpenError> {
        let folder = directory.join(FOLDER);
        let unreadable = |error: io::Error| OpenError::unreadable(&folder, error);
        let mut schema = [0; 4];
        copy.read_exact(&mut schema).map_err(unreadable)?;
        let found = u32::from_be_bytes(schema);
        if found > SCHEMA {
            return Err(OpenError::NewerSchema { directory: folder.clone(), found, supported: SCHEMA });
        }
        let (store, _) = Self::open(directory, catalog)?;
        let unwritten = |error| unreadable(io::Error::other(database::failed(error)));
        loop {
            let mut batch = sled::Batch::default();
            let mut entries = 0;
            while entries < BATCH {
                let Some(key) = read(&mut copy).map_err(unreadable)? else { break };
                let value = read(&mut copy).map_err(unreadable)?;
                let value = value.ok_or_else(|| unreadable(io::ErrorKind::UnexpectedEof.into()))?;
                batch.insert(key, value);
                entries += 1;
            }
            store.states.apply_batch(batch).map_err(unwritten)?;
            if entries < BATCH {
                break;
            }
        }
        store.database.sync().map_err(|error| unreadable(io::Error::other(error)))
    }
}

/// The next key or value; none at the end.
fn read(copy: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match copy.read_exact(&mut length[..1]) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    copy.read_exact(&mut length[1..])?;
    let length = u32::from_be_bytes(length);
    if length > MAX_BYTES {
        return Err(io::Error::other(format!(
            "an entry of {length} bytes; at most {MAX_BYTES} are expected"
        )));
    }
    let mut bytes = vec![0; length as usize];
    copy.read_exact(&mut bytes)?;
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::selection_state::tests::{key, statistics};

    fn copy_of(store: &StateStore) -> Vec<u8> {
        let mut copy = Vec::new();
        store.copy(&mut copy).unwrap();
        copy
    }

    #[test]
    fn a_restored_copy_holds_every_state_and_the_last_exchange_of_each_frontend() {
        let directory = tempfile::tempdir().unwrap();
        let (store, mut runs) = StateStore::open(directory.path(), Uuid::nil()).unwrap();
        let frontend = Uuid::from_u128(7);
        let users: Vec<String> = (1..=2500).map(|user| user.to_string()).collect();
        for (number, user) in users.iter().enumerate() {
            let states = HashMap::from([(key(Some(user)), statistics(&[number as f64]))]);
            store.write(&mut runs, (frontend, number as u64), &states).unwrap();
        }
        let copy = copy_of(&store);
        let new = tempfile::tempdir().unwrap();
        StateStore::restore(new.path(), Uuid::from_u128(2), &copy[..]).unwrap();
        let (restored, restored_runs) = StateStore::open(new.path(), Uuid::from_u128(2)).unwrap();
        assert_eq!(restored_runs, runs);
        assert_eq!(restored.read(&key(Some("2500"))).unwrap(), Some(statistics(&[2499.0])));
        assert_eq!(copy_of(&restored), copy);
    }

    #[test]
    fn a_copy_that_is_cut_off_or_of_a_newer_schema_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let (store, mut runs) = StateStore::open(directory.path(), Uuid::nil()).unwrap();
        let states = HashMap::from([(key(None), statistics(&[1.0]))]);
        store.write(&mut runs, (Uuid::nil(), 1), &states).unwrap();
        let copy = copy_of(&store);
        let mut newer = copy.clone();
        newer[3] = 2;
        for (copy, why) in [(&copy[..copy.len() - 1], "cannot be used"), (&newer[..], "use a newer Clipper")]
        {
            let new = tempfile::tempdir().unwrap();
            let refused = StateStore::restore(new.path(), Uuid::nil(), copy).unwrap_err().to_string();
            assert!(refused.contains(why), "{refused}");
        }
    }
}
