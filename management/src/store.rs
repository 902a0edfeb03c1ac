//! The catalog on disk.
//!
//! An edit is one transaction, with the revision that it leads to; [`Store::sync`] makes everything before it
//! durable. Blocks; called by the writer's thread only.
//!
//! # Format
//! Trees `applications`, `models` and `deployments` hold records as JSON `{"version": 1, "record": ...}` under
//! their name (`M:V` for deployments); `meta` holds `schema` (u32), `store` (16 bytes), `revision` and
//! `next_frontend_number` (u64), big-endian. A record is cut into pieces under `name 0x00 piece-number (u32)`: see
//! [`crate::database`].
//!
//! Invariant: whatever ends the process, the next finds all edits up to the last sync, and of those after it
//! the first few, each whole.

use std::path::Path;
use std::sync::Arc;

use clipper_rpc::catalog::{Application, Change, Model, Revision};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sled::transaction::{ConflictableTransactionError, TransactionError, Transactional, TransactionalTree};
use uuid::Uuid;

use crate::catalog::{Catalog, Edit};
use crate::database::{self, Database, PIECE, in_our_words};
use crate::deployments::Deployment;
use crate::error::{OpenError, StoreError};

/// The layout of the database that this code writes. Raise it with a migration in [`Store::open`].
const SCHEMA: u32 = 1;
/// The version of the records' envelope.
const RECORD_VERSION: u32 = 1;
/// The folder of the database within the data directory.
const FOLDER: &str = "catalog";
/// The note of which store is in the data directory.
const IDENTITY_FILE: &str = "clipper.store";

/// The open database.
pub(crate) struct Store {
    database: Database,
    applications: sled::Tree,
    models: sled::Tree,
    deployments: sled::Tree,
    meta: sled::Tree,
}

impl Store {
    /// Opens the database of a data directory, or creates it; also returns which store it is, and what it holds.
    pub(crate) fn open(directory: &Path) -> Result<(Self, Uuid, Catalog), OpenError> {
        database::carefully(directory, Self::open_here)
    }

    fn open_here(directory: &Path) -> Result<(Self, Uuid, Catalog), OpenError> {
        let folder = directory.join(FOLDER);
        let database = Database::open(directory, &folder)?;
        let tree = |name: &str| database.tree(directory, name);
        let opened = Self {
            applications: tree("applications")?,
            models: tree("models")?,
            deployments: tree("deployments")?,
            meta: tree("meta")?,
            database,
        };
        let store = opened.check_schema(directory)?;
        let catalog = opened.load().map_err(|what| OpenError::corrupt(directory, what))?;
        opened.database.settle(directory, &folder)?;
        database::check_identity(directory, &directory.join(IDENTITY_FILE), store)?;
        Ok((opened, store, catalog))
    }

    /// Reads the schema and the store's identity, and writes them to a new database.
    fn check_schema(&self, directory: &Path) -> Result<Uuid, OpenError> {
        let corrupt = |what: &str| OpenError::corrupt(directory, what);
        let illegible = |error| corrupt(&in_our_words("its schema cannot be read")(error));
        let get = |key: &str| self.meta.get(key).map_err(illegible);
        match get("schema")? {
            None if !self.meta.is_empty() => Err(corrupt("it has no schema")),
            None => {
                let store = Uuid::new_v4();
                let mut first = sled::Batch::default();
                first.insert("schema", &SCHEMA.to_be_bytes());
                first.insert("store", store.as_bytes());
                first.insert("revision", &0u64.to_be_bytes());
                first.insert("next_frontend_number", &0u64.to_be_bytes());
                self.meta
                    .apply_batch(first)
                    .map_err(|error| corrupt(&in_our_words("its schema cannot be written")(error)))?;
                Ok(store)
            }
            Some(schema) => match schema.as_ref().try_into().map(u32::from_be_bytes) {
                Ok(SCHEMA) => get("store")?
                    .and_then(|bytes| Uuid::from_slice(&bytes).ok())
                    .ok_or_else(|| corrupt("it does not say which store it is")),
                Ok(found) if found > SCHEMA => {
                    Err(OpenError::NewerSchema { directory: directory.into(), found, supported: SCHEMA })
                }
                Ok(_) | Err(_) => Err(corrupt("its schema is unknown")),
            },
        }
    }

    fn load(&self) -> Result<Catalog, String> {
        let applications = records::<Application>(&self.applications, "applications")?;
        let models = records::<Model>(&self.models, "models")?;
        let deployments = records::<Deployment>(&self.deployments, "deployments")?;
        Ok(Catalog {
            revision: self.number("revision")?,
            next_frontend_number: self.number("next_frontend_number")?,
            ..Catalog::of(
                applications.into_iter().map(|it| (it.name.clone(), Arc::new(it))).collect(),
                models.into_iter().map(|it| (it.name.clone(), Arc::new(it))).collect(),
                deployments.into_iter().map(|it| (it.spec.model.clone(), Arc::new(it))).collect(),
            )
        })
    }

    fn number(&self, key: &str) -> Result<u64, String> {
        let what = format!("its {key} is unreadable");
        let bytes = self.meta.get(key).map_err(in_our_words(&what))?;
        bytes.and_then(|bytes| bytes.as_ref().try_into().ok()).map(u64::from_be_bytes).ok_or(what)
    }

    /// Writes an edit and the revision that it leads to, whole or not at all, not yet durably.
    pub(crate) fn write(&self, edit: &Edit, revision: Revision) -> Result<(), StoreError> {
        let encoded = Encoded::of(edit)?;
        (&self.applications, &self.models, &self.deployments, &self.meta)
            .transaction(|(applications, models, deployments, meta)| {
                for (tree, records) in [
                    (applications, &encoded.applications),
                    (models, &encoded.models),
                    (deployments, &encoded.deployments),
                ] {
                    for (name, record) in records {
                        put(tree, name, record.as_deref())?;
                    }
                }
                meta.insert("revision", &revision.to_be_bytes())?;
                if let Some(next) = edit.next_frontend_number {
                    meta.insert("next_frontend_number", &next.to_be_bytes())?;
                }
                Ok::<(), ConflictableTransactionError<()>>(())
            })
            .map_err(|error| match error {
                TransactionError::Storage(error) => StoreError::Failed(database::failed(error)),
                TransactionError::Abort(()) => StoreError::Failed("the transaction was aborted".into()),
            })
    }

    /// Makes everything written durable.
    pub(crate) fn sync(&self) -> Result<(), StoreError> {
        self.database.sync().map_err(StoreError::Failed)
    }
}

/// The records of an edit by name, as they are stored; `None` where one is removed.
#[derive(Default)]
struct Encoded {
    applications: Vec<(String, Option<Vec<u8>>)>,
    models: Vec<(String, Option<Vec<u8>>)>,
    deployments: Vec<(String, Option<Vec<u8>>)>,
}

impl Encoded {
    fn of(edit: &Edit) -> Result<Self, StoreError> {
        let mut encoded = Self::default();
        for change in &edit.changes {
            match change {
                Change::PutApplication { application } => {
                    encoded.applications.push((application.name.to_string(), Some(encode(application)?)));
                }
                Change::DeleteApplication { name } => encoded.applications.push((name.to_string(), None)),
                Change::PutModel { model } => {
                    encoded.models.push((model.name.to_string(), Some(encode(model)?)));
                }
                Change::DeleteModel { name } => encoded.models.push((name.to_string(), None)),
            }
        }
        for (model, deployment) in &edit.deployments {
            let record = deployment.as_ref().map(encode).transpose()?;
            encoded.deployments.push((model.to_string(), record));
        }
        Ok(encoded)
    }
}

#[derive(Serialize, Deserialize)]
struct Envelope<T> {
    version: u32,
    record: T,
}

fn encode<T: Serialize>(record: &T) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(&Envelope { version: RECORD_VERSION, record })
        .map_err(|error| StoreError::Failed(error.to_string()))
}

fn decode<T: DeserializeOwned>(name: &str, bytes: &[u8]) -> Result<T, String> {
    match serde_json::from_slice(bytes) {
        Ok(Envelope { version: RECORD_VERSION, record }) => Ok(record),
        Ok(Envelope { version, .. }) => Err(format!("the record '{name}' has the unknown version {version}")),
        Err(error) => Err(format!("the record '{name}' is unreadable: {error}")),
    }
}

fn piece_key(name: &str, piece: u32) -> Vec<u8> {
    database::piece_key(&[name.as_bytes(), &[0]].concat(), piece)
}

/// Replaces a record, or removes it.
fn put(
    tree: &TransactionalTree,
    name: &str,
    record: Option<&[u8]>,
) -> Result<(), ConflictableTransactionError<()>> {
    let mut pieces = 0..;
    for (bytes, piece) in record.unwrap_or_default().chunks(PIECE).zip(&mut pieces) {
        tree.insert(piece_key(name, piece), bytes)?;
    }
    // What is left of a record that was longer.
    for piece in pieces {
        if tree.remove(piece_key(name, piece))?.is_none() {
            break;
        }
    }
    Ok(())
}

/// Every record of a tree, put together from its pieces.
fn records<T: DeserializeOwned>(tree: &sled::Tree, of: &str) -> Result<Vec<T>, String> {
    let mut joined: Vec<(String, Vec<u8>)> = Vec::new();
    for entry in tree {
        let (key, piece) = entry.map_err(in_our_words(&format!("its {of} cannot be read")))?;
        let name = key.split(|byte| *byte == 0).next().unwrap_or_default();
        let name = String::from_utf8_lossy(name).into_owned();
        match joined.last_mut().filter(|(last, _)| *last == name) {
            Some((_, bytes)) => bytes.extend_from_slice(&piece),
            None => joined.push((name, piece.to_vec())),
        }
    }
    joined.iter().map(|(name, bytes)| decode(name, bytes)).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::applications::tests::app;
    use crate::models::tests::{doubles, model_id};

    struct Fixture {
        directory: tempfile::TempDir,
    }

    impl Fixture {
        fn new() -> Self {
            Self { directory: tempfile::tempdir().unwrap() }
        }

        fn open(&self) -> Result<(Store, Uuid, Catalog), OpenError> {
            Store::open(self.directory.path())
        }

        fn refusal(&self) -> String {
            match self.open() {
                Ok(_) => panic!("it opened"),
                Err(error) => error.to_string(),
            }
        }

        fn folder(&self) -> std::path::PathBuf {
            self.directory.path().join(FOLDER)
        }
    }

    fn put_app(default_output: String) -> Edit {
        Edit::change(Change::PutApplication { application: Application { default_output, ..app("a", &[]) } })
    }

    #[test]
    fn a_record_of_any_length_is_replaced_by_one_of_any_other() {
        let fixture = Fixture::new();
        for length in [0, PIECE, 10 * PIECE + 1, 3] {
            let edit = put_app("x".repeat(length));
            let (store, identity, mut catalog) = fixture.open().unwrap();
            catalog.apply(&edit);
            store.write(&edit, catalog.revision).unwrap();
            store.sync().unwrap();
            drop(store);
            let (_store, same, read) = fixture.open().unwrap();
            assert_eq!((same, read), (identity, catalog));
        }
    }

    #[test]
    fn a_newer_schema_is_refused() {
        let fixture = Fixture::new();
        let (store, ..) = fixture.open().unwrap();
        store.meta.insert("schema", &2u32.to_be_bytes()).unwrap();
        store.sync().unwrap();
        drop(store);
        let refused = fixture.refusal();
        assert!(
            refused.ends_with("schema 2, this Clipper knows schemas up to 1: use a newer Clipper"),
            "{refused}"
        );
    }

    #[test]
    fn a_corrupt_database_is_refused_in_one_line() {
        let fixture = Fixture::new();
        let (store, ..) = fixture.open().unwrap();
        store.write(&put_app(String::new()), 1).unwrap();
        store.sync().unwrap();
        drop(store);
        let file = fixture.folder().join("db");
        let sound = fs::read(&file).unwrap();
        // sled takes the first for an empty log.
        for damaged in [vec![0xa5; sound.len()], Vec::new()] {
            fs::write(&file, damaged).unwrap();
            let refused = fixture.refusal();
            assert!(refused.contains(" is corrupt: ") && !refused.contains('\n'), "{refused}");
        }
        fs::write(&file, sound).unwrap();
        fs::write(fixture.folder().join("conf"), "segment_size: 1").unwrap();
        let refused = fixture.refusal();
        assert!(refused.contains(" is corrupt: it cannot be opened; restore"), "{refused}");
    }

    #[test]
    fn an_unreadable_record_is_named() {
        let fixture = Fixture::new();
        let (store, ..) = fixture.open().unwrap();
        store.applications.insert(piece_key("a", 0), "{\"version\": 9, \"record\": {}}").unwrap();
        store.sync().unwrap();
        drop(store);
        let refused = fixture.refusal();
        assert!(refused.contains("the record 'a' is unreadable"), "{refused}");
    }

    #[test]
    fn a_record_of_before_a_setting_existed_reads_with_its_default() {
        let fixture = Fixture::new();
        let (store, ..) = fixture.open().unwrap();
        let application = r#"{"version": 1, "record": {"name": "a", "input_type": "doubles",
            "default_output": "-1.0", "latency_slo_micros": 100000, "linked_models": []}}"#;
        let model = r#"{"version": 1, "record": {"name": "m", "current_version": "1", "versions": {"1": {
            "input_type": "doubles", "labels": ["blue"], "container_name": "noop",
            "model_data_path": "/models/m", "batch_size": null}}}}"#;
        store.applications.insert(piece_key("a", 0), application).unwrap();
        store.models.insert(piece_key("m", 0), model).unwrap();
        store.sync().unwrap();
        drop(store);
        let (_store, _, catalog) = fixture.open().unwrap();
        assert_eq!(*catalog.applications["a"], app("a", &[]));
        assert_eq!(*catalog.version(&model_id("m", "1")).unwrap(), doubles());
    }

    #[test]
    fn churn_does_not_let_the_database_grow_without_end() {
        let fixture = Fixture::new();
        let (store, ..) = fixture.open().unwrap();
        for round in 0..300 {
            store.write(&put_app("x".repeat(100_000 + round)), round as u64).unwrap();
            let delete = Change::DeleteApplication { name: "a".parse().unwrap() };
            store.write(&Edit::change(delete), round as u64).unwrap();
            store.sync().unwrap();
        }
        let length = fs::metadata(fixture.folder().join("db")).unwrap().len();
        assert!(length < 16 << 20, "{length}");
        assert_eq!(fs::read_dir(fixture.folder().join("blobs")).unwrap().count(), 0);
    }
}
