//! What is learned, on disk, in a database of its own.
//!
//! An exchange is one batch: the states that it changes, and its number. [`StateStore::sync`] makes everything before
//! it durable. Blocks; called by the states' thread only.
//!
//! # Format
//! Tree `meta`: `schema` (u32), `store` (16 bytes, which the file `clipper.store` beside the database repeats) and
//! `catalog` (16 bytes), the store whose revisions the states are of. Tree `states`:
//!
//! | key | value |
//! |---|---|
//! | `application 0x00 since (u64) 0x00 piece (u32)` | the shared state |
//! | `application 0x00 since (u64) 0x01 user piece (u32)` | a user's; of a name above 255 bytes, `0x02` and its SHA-256 |
//! | `0x00` | the number of users' states (u64), absent in a database of an older Clipper |
//! | `0x00` and 16 bytes of a frontend's run | the number of its last exchange (u64), and its place among all (u64) |
//!
//! Numbers are big-endian, so that the states of an application are beside each other. A state is the MessagePack of its
//! [`Statistics`], `{model: [figure, ...]}`, or `{model: [[figure, ...], missed]}` of a model that missed queries lately, in pieces: see [`crate::database`].
//!
//! Invariant: the states contain the changes of exactly those exchanges that the numbers say.

use std::collections::HashMap;
use std::path::Path;

use clipper_rpc::catalog::Generation;
use clipper_rpc::names::AppName;
use clipper_rpc::selection::{StateKey, Statistics};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::StateError;
use crate::database::{self, Database, PIECE, piece_key};
use crate::error::OpenError;

mod copy;

/// The layout of the database that this code writes. Raise it with a migration in [`StateStore::open`].
const SCHEMA: u32 = 1;
/// The folder of the database within the data directory.
const FOLDER: &str = "selection";
/// The note of which store is in the folder.
const IDENTITY_FILE: &str = "clipper.store";
/// How many runs of frontends are remembered. One that sends an exchange again does so soon, long before as many others
/// have made one.
const RUNS: usize = 1024;
/// The longest name of a user that is part of a key.
const MAX_USER_BYTES: usize = 255;
/// The key of the number of users' states.
const USERS_KEY: [u8; 1] = [0];
/// How many pieces are removed at a time, in some milliseconds.
const SWEPT: usize = 1000;

/// The open database.
pub(super) struct StateStore {
    database: Database,
    states: sled::Tree,
}

/// The last exchange of each run of a frontend, and the number of users' states, as on disk.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Runs {
    last: HashMap<Uuid, Exchanged>,
    /// How many exchanges there were in all.
    exchanges: u64,
    /// Users of all applications with a state of their own.
    users: u64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Exchanged {
    number: u64,
    /// Its place among all exchanges.
    place: u64,
}

impl Runs {
    /// The number of a frontend's last exchange.
    pub(super) fn last(&self, frontend: Uuid) -> Option<u64> {
        Some(self.last.get(&frontend)?.number)
    }

    /// The number of users' states.
    pub(super) fn users(&self) -> u64 {
        self.users
    }

    /// The run that is forgotten next, once there are too many.
    fn excess(&self) -> Option<Uuid> {
        if self.last.len() <= RUNS {
            return None;
        }
        self.last.iter().min_by_key(|(_, exchanged)| exchanged.place).map(|(frontend, _)| *frontend)
    }
}

impl StateStore {
    /// Opens the database of a data directory, or creates it, for a catalog.
    pub(super) fn open(directory: &Path, catalog: Uuid) -> Result<(Self, Runs), OpenError> {
        database::carefully(&directory.join(FOLDER), move |folder| Self::open_here(folder, catalog))
    }

    fn open_here(folder: &Path, catalog: Uuid) -> Result<(Self, Runs), OpenError> {
        let database = Database::open(folder, folder)?;
        let meta = database.tree(folder, "meta")?;
        let opened = Self { states: database.tree(folder, "states")?, database };
        let store = check_schema(&meta, folder)?;
        opened.check_catalog(&meta, catalog).map_err(|what| OpenError::corrupt(folder, what))?;
        let runs = opened.runs().map_err(|what| OpenError::corrupt(folder, what))?;
        opened.database.settle(folder, folder)?;
        database::check_identity(folder, &folder.join(IDENTITY_FILE), store)?;
        Ok((opened, runs))
    }

    /// Removes everything if the revisions in it are those of another catalog, as they mean nothing in this one.
    fn check_catalog(&self, meta: &sled::Tree, catalog: Uuid) -> Result<(), String> {
        let before = meta.insert("catalog", catalog.as_bytes()).map_err(database::failed)?;
        if before.is_some_and(|before| before.as_ref() != catalog.as_bytes()) {
            tracing::warn!("what was learned for another catalog is removed");
            self.states.clear().map_err(database::failed)?;
        }
        Ok(())
    }

    fn runs(&self) -> Result<Runs, String> {
        let mut runs = Runs::default();
        let mut users = None;
        for entry in self.states.scan_prefix([0]) {
            let (key, value) = entry.map_err(database::failed)?;
            if key == USERS_KEY {
                users = Some(number(&value).ok_or("the number of users is unreadable")?);
                continue;
            }
            let frontend = key.get(1..).and_then(|bytes| Uuid::from_slice(bytes).ok());
            let number = |range| number(value.get(range)?);
            let (Some(frontend), Some(last), Some(place)) = (frontend, number(0..8), number(8..16)) else {
                return Err("the number of an exchange is unreadable".into());
            };
            runs.last.insert(frontend, Exchanged { number: last, place });
            runs.exchanges = runs.exchanges.max(place + 1);
        }
        runs.users = match users {
            Some(users) => users,
            None => self.count_users()?,
        };
        Ok(runs)
    }

    /// Counts the states of users, which takes a walk through all keys: done once, for a database of an older Clipper.
    fn count_users(&self) -> Result<u64, String> {
        let mut users = 0;
        for key in self.states.range([1]..).keys() {
            users += u64::from(begins_user(&key.map_err(database::failed)?));
        }
        Ok(users)
    }

    /// What is learned; `None` where nothing is.
    pub(super) fn read(&self, key: &StateKey) -> Result<Option<Statistics>, StateError> {
        let key = key_of(key);
        let mut record = Vec::new();
        for piece in 0.. {
            let Some(bytes) = self.states.get(piece_key(&key, piece)).map_err(failed)? else { break };
            record.extend_from_slice(&bytes);
            if bytes.len() < PIECE {
                break;
            }
        }
        if record.is_empty() {
            return Ok(None);
        }
        Ok(rmp_serde::from_slice(&record)
            .inspect_err(|error| tracing::error!(%error, "a selection state is unreadable, and begins anew"))
            .ok())
    }

    /// Writes the states that an exchange leaves, and its number, whole or not at all, not yet durably.
    pub(super) fn write(
        &self,
        runs: &mut Runs,
        (frontend, number): (Uuid, u64),
        states: &HashMap<StateKey, Statistics>,
    ) -> Result<(), StateError> {
        let mut batch = sled::Batch::default();
        for (key, statistics) in states {
            let bytes = key_of(key);
            let is_there = self.states.contains_key(piece_key(&bytes, 0)).map_err(failed)?;
            runs.users += u64::from(key.uid.is_some() && !is_there);
            self.put(&mut batch, &bytes, statistics)?;
        }
        batch.insert(&USERS_KEY, &runs.users.to_be_bytes());
        let place = runs.exchanges;
        runs.exchanges += 1;
        runs.last.insert(frontend, Exchanged { number, place });
        batch.insert(run_key(frontend), [number.to_be_bytes(), place.to_be_bytes()].concat());
        if let Some(excess) = runs.excess() {
            runs.last.remove(&excess);
            batch.remove(run_key(excess));
        }
        self.states.apply_batch(batch).map_err(failed)
    }

    fn put(&self, batch: &mut sled::Batch, key: &[u8], statistics: &Statistics) -> Result<(), StateError> {
        let record = rmp_serde::to_vec(statistics).map_err(|error| StateError::Failed(error.to_string()))?;
        let mut pieces = 0..;
        for (bytes, piece) in record.chunks(PIECE).zip(&mut pieces) {
            batch.insert(piece_key(key, piece), bytes);
        }
        // What is left of a record that was longer.
        for piece in pieces {
            let piece = piece_key(key, piece);
            if !self.states.contains_key(&piece).map_err(failed)? {
                break;
            }
            batch.remove(piece);
        }
        Ok(())
    }

    /// Makes everything written durable.
    pub(super) fn sync(&self) -> Result<(), StateError> {
        self.database.sync().map_err(StateError::Failed)
    }

    /// The applications that something is learned for, each since when: read without reading their states.
    pub(super) fn learned(&self) -> Result<Vec<(AppName, Generation)>, StateError> {
        let mut learned = Vec::new();
        let mut from = vec![1];
        while let Some(entry) = self.states.range(from..).next() {
            let (key, _) = entry.map_err(failed)?;
            let (name, rest) = key.split_at(key.iter().position(|byte| *byte == 0).unwrap_or(key.len()));
            let application: Option<AppName> =
                std::str::from_utf8(name).ok().and_then(|name| name.parse().ok());
            let (Some(application), Some(since)) = (application, rest.get(1..9).and_then(number)) else {
                return Err(StateError::Failed("the key of a state is unreadable".into()));
            };
            from = match since.checked_add(1) {
                Some(next) => prefix(&application, next),
                None => [name, &[1]].concat(),
            };
            learned.push((application, since));
        }
        Ok(learned)
    }

    /// Removes some of the states of an application since a revision; whether none are left.
    pub(super) fn sweep(
        &self,
        runs: &mut Runs,
        application: &AppName,
        since: Generation,
    ) -> Result<bool, StateError> {
        let mut batch = sled::Batch::default();
        let mut removed = 0;
        for key in self.states.scan_prefix(prefix(application, since)).keys().take(SWEPT) {
            let key = key.map_err(failed)?;
            runs.users = runs.users.saturating_sub(u64::from(begins_user(&key)));
            batch.remove(key);
            removed += 1;
        }
        batch.insert(&USERS_KEY, &runs.users.to_be_bytes());
        self.states.apply_batch(batch).map_err(failed)?;
        Ok(removed < SWEPT)
    }
}

/// Reads the schema and the store's identity, and writes them to a new database.
fn check_schema(meta: &sled::Tree, folder: &Path) -> Result<Uuid, OpenError> {
    let corrupt = |what: &str| OpenError::corrupt(folder, what);
    let get = |key: &str| meta.get(key).map_err(|error| OpenError::corrupt(folder, database::failed(error)));
    match get("schema")? {
        None if !meta.is_empty() => Err(corrupt("it has no schema")),
        None => {
            let store = Uuid::new_v4();
            let mut first = sled::Batch::default();
            first.insert("schema", &SCHEMA.to_be_bytes());
            first.insert("store", store.as_bytes());
            meta.apply_batch(first).map_err(|error| OpenError::corrupt(folder, database::failed(error)))?;
            Ok(store)
        }
        Some(schema) => match schema.as_ref().try_into().map(u32::from_be_bytes) {
            Ok(SCHEMA) => get("store")?
                .and_then(|bytes| Uuid::from_slice(&bytes).ok())
                .ok_or_else(|| corrupt("it does not say which store it is")),
            Ok(found) if found > SCHEMA => {
                Err(OpenError::NewerSchema { directory: folder.into(), found, supported: SCHEMA })
            }
            Ok(_) | Err(_) => Err(corrupt("its schema is unknown")),
        },
    }
}

fn number(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().ok().map(u64::from_be_bytes)
}

fn run_key(frontend: Uuid) -> Vec<u8> {
    [&[0], &frontend.as_bytes()[..]].concat()
}

fn prefix(application: &AppName, since: Generation) -> Vec<u8> {
    [application.as_str().as_bytes(), &[0], &since.to_be_bytes()].concat()
}

/// Whether a key is that of the first piece of a user's state.
fn begins_user(key: &[u8]) -> bool {
    let application = key.iter().position(|byte| *byte == 0).unwrap_or(key.len());
    key.get(application + 1 + size_of::<Generation>()).is_some_and(|tag| *tag > 0) && key.ends_with(&[0; 4])
}

/// The key of a state, but for the number of the piece.
fn key_of(key: &StateKey) -> Vec<u8> {
    let mut bytes = prefix(&key.application, key.since);
    match key.uid.as_ref().map(|uid| uid.as_str().as_bytes()) {
        None => bytes.push(0),
        Some(user) if user.len() <= MAX_USER_BYTES => {
            bytes.push(1);
            bytes.extend_from_slice(user);
        }
        Some(user) => {
            bytes.push(2);
            bytes.extend_from_slice(&Sha256::digest(user));
        }
    }
    bytes
}

fn failed(error: sled::Error) -> StateError {
    StateError::Failed(database::failed(error))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::super::tests::{key, statistics};
    use super::*;

    fn open(directory: &tempfile::TempDir) -> (StateStore, Runs) {
        StateStore::open(directory.path(), Uuid::nil()).unwrap()
    }

    fn write(store: &StateStore, runs: &mut Runs, number: u64, states: &[(StateKey, Statistics)]) {
        store.write(runs, (Uuid::from_u128(1), number), &states.iter().cloned().collect()).unwrap();
    }

    #[test]
    fn states_of_any_size_and_users_of_any_name_are_read_as_written() {
        let directory = tempfile::tempdir().unwrap();
        let (store, mut runs) = open(&directory);
        let long = "u".repeat(10_000);
        let users = [None, Some("7"), Some("a\0\0\0\0\0"), Some("a"), Some("é/ "), Some(&*long)];
        for length in [1, 500, 30_000, 454, 455, 456, 0] {
            let states = users
                .map(|user| (key(user), statistics(&vec![0.1 + user.map_or(0, str::len) as f64; length])));
            write(&store, &mut runs, 1, &states);
            for (key, statistics) in states {
                assert_eq!(store.read(&key).unwrap(), Some(statistics), "{key:?} {length}");
            }
        }
        assert_eq!(store.read(&key(Some("b"))).unwrap(), None);
        let other = StateKey { since: 8, ..key(None) };
        assert_eq!(store.read(&other).unwrap(), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8))]

        #[test]
        fn what_was_written_is_there_when_it_is_opened_again(
            written in prop::collection::vec(("[ab]", prop::collection::vec(-9.0..9.0, 0..2000)), 1..20),
        ) {
            let directory = tempfile::tempdir().unwrap();
            let (store, mut runs) = open(&directory);
            let mut expected = HashMap::new();
            for (number, (user, figures)) in written.iter().enumerate() {
                write(&store, &mut runs, number as u64, &[(key(Some(user)), statistics(figures))]);
                expected.insert(key(Some(user)), statistics(figures));
            }
            store.sync().unwrap();
            drop(store);
            let (store, again) = open(&directory);
            prop_assert_eq!(again, runs);
            for (key, statistics) in expected {
                prop_assert_eq!(store.read(&key).unwrap(), Some(statistics));
            }
        }
    }

    #[test]
    fn the_states_of_one_application_since_one_revision_are_removed_in_parts() {
        let directory = tempfile::tempdir().unwrap();
        let (store, mut runs) = open(&directory);
        let of = |application: &str, since, user: usize| StateKey {
            application: application.parse().unwrap(),
            since,
            ..key(Some(&user.to_string()))
        };
        let mut states: Vec<_> = (1..=2500).map(|user| (of("app", 3, user), statistics(&[1.0]))).collect();
        for other in [of("app", 4, 1), of("app-2", 3, 1), of("ap", u64::MAX, 1), of("b", 3, 1)] {
            states.push((other, statistics(&[1.0])));
        }
        write(&store, &mut runs, 1, &states);
        let learned = || -> Vec<_> {
            let learned = store.learned().unwrap().into_iter();
            learned.map(|(application, since)| (application.to_string(), since)).collect()
        };
        let others = [("ap", u64::MAX), ("app", 4), ("app-2", 3), ("b", 3)]
            .map(|(app, since)| (app.to_owned(), since));
        let mut all = others.to_vec();
        all.insert(1, ("app".into(), 3));
        assert_eq!(learned(), all);
        let application = "app".parse().unwrap();
        assert_eq!([(); 3].map(|()| store.sweep(&mut runs, &application, 3).unwrap()), [false, false, true]);
        assert_eq!(learned(), others);
        assert_eq!((runs.users(), &runs), (4, &store.runs().unwrap()));
    }

    #[test]
    fn users_are_counted_once_however_long_their_states_and_also_in_an_older_database() {
        let directory = tempfile::tempdir().unwrap();
        let (store, mut runs) = open(&directory);
        let long = "u".repeat(10_000);
        for figures in [1, 5000, 0] {
            let states = [None, Some("a"), Some("a\0\0\0\0\0"), Some(&*long)]
                .map(|user| (key(user), statistics(&vec![0.1; figures])));
            write(&store, &mut runs, 1, &states);
            assert_eq!((runs.users(), store.count_users().unwrap()), (3, 3));
        }
        store.states.remove(USERS_KEY).unwrap();
        assert_eq!(store.runs().unwrap(), runs);
    }

    #[test]
    fn a_bounded_number_of_runs_of_frontends_is_remembered() {
        let directory = tempfile::tempdir().unwrap();
        let (store, mut runs) = open(&directory);
        for frontend in 0..=RUNS as u128 {
            store.write(&mut runs, (Uuid::from_u128(frontend), 1), &HashMap::new()).unwrap();
        }
        assert_eq!(runs.last(Uuid::from_u128(0)), None);
        assert_eq!(runs.last(Uuid::from_u128(1)), Some(1));
        assert_eq!(store.runs().unwrap(), runs);
    }

    #[test]
    fn what_was_learned_for_another_catalog_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let (store, mut runs) = open(&directory);
        write(&store, &mut runs, 1, &[(key(None), statistics(&[1.0]))]);
        drop(store);
        let (store, runs) = StateStore::open(directory.path(), Uuid::from_u128(2)).unwrap();
        assert_eq!(store.learned().unwrap(), []);
        assert_eq!(runs, Runs::default());
    }

    #[test]
    fn a_damaged_or_replaced_database_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let (store, mut runs) = open(&directory);
        write(&store, &mut runs, 1, &[(key(None), statistics(&[1.0]))]);
        drop(store);
        let file = directory.path().join(FOLDER).join("db");
        let sound = fs::read(&file).unwrap();
        fs::write(&file, vec![0; sound.len()]).unwrap();
        let refused = StateStore::open(directory.path(), Uuid::nil()).err().unwrap().to_string();
        assert!(refused.contains("selection is corrupt: "), "{refused}");
        fs::write(&file, sound).unwrap();
        let (store, _) = open(&directory);
        assert_eq!(store.read(&key(None)).unwrap(), Some(statistics(&[1.0])));
    }
}
