//! The catalog on disk: the only file that knows sled.
//!
//! # Writing
//! One thread owns the database. Whoever wants an edit sends it a decision, a pure function from the catalog to an edit or a
//! refusal; the thread takes the decisions that are waiting, one after the other, each upon the catalog that the one before
//! left, writes each edit in one transaction with its revision, and makes them durable together: `flush` hands sled's buffers to
//! the kernel, `fsync` of the database file takes them to the disk. Only then is the catalog published and anybody
//! answered. As there is one writer, what a decision read is still true when its edit is written. Should a write fail, the
//! state of the disk is unknown, so the store refuses every edit from then on; a restart reads what is there.
//!
//! # Format
//! Trees `applications`, `models` and `deployments` hold records as JSON `{"version": 1, "record": ...}` under their name
//! (`M:V` for deployments); `meta` holds `schema` (u32), `store` (16 bytes), `revision` and `next_frontend_number` (u64), big-endian.
//! A record is cut into pieces of [`PIECE`] bytes under `name 0x00 piece-number (u32)`: sled moves tree nodes (16 entries) above
//! 128 KiB into files of their own, which it neither syncs nor reliably removes (2,000 rewrites of 20 records of 300 kB left
//! 1.1 GB behind). With nodes below that, its segment cleaner bounds the file: 30,000 rewrites of 20 records of 2 kB leave
//! 2.6 MB, whether after 6,000 or all of them.
//!
//! Invariant: what [`Store::edit`] returned `Ok` for is on disk, whole, and so is everything before it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use clipper_rpc::catalog::{Application, Change, Model, Revision};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sled::transaction::{ConflictableTransactionError, Transactional, TransactionalTree};
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::catalog::{Catalog, Edit};
use crate::deployments::Deployment;
use crate::error::{EditError, OpenError, StoreError};
use crate::feed::Feed;
use crate::lock::DirectoryLock;
use crate::refusal::Refusal;

/// The layout of the database that this code writes. Raise it with a migration in [`Database::open`].
const SCHEMA: u32 = 1;
/// The version of the records' envelope.
const RECORD_VERSION: u32 = 1;
/// See the module's documentation: 16 entries of a node, and some more before it is split, stay below 128 KiB.
const PIECE: usize = 4096;
/// The most edits that share one `fsync`.
const GROUP: usize = 128;
/// sled can loop for ever on a file that is garbage. A sound one of a million records opens well within this.
const OPEN_TIME: Duration = Duration::from_secs(60);
/// The thread that opens the database.
const OPENING_THREAD: &str = "clipper-store-open";
/// The folder of the database within the data directory.
const FOLDER: &str = "catalog";
/// The note of which store is in the data directory.
const IDENTITY_FILE: &str = "clipper.store";

/// A handle to the thread that owns the database.
#[derive(Debug, Clone)]
pub struct Store {
    orders: mpsc::Sender<Order>,
}

/// An edit that is on disk.
#[derive(Debug)]
pub struct Committed<T> {
    /// What the decision returned beside the edit.
    pub value: T,
    /// The revision that contains the edit.
    pub revision: Revision,
}

enum Order {
    Edit(Decision),
    Close(oneshot::Sender<Result<(), StoreError>>),
}

/// Decides upon the catalog, and is told the outcome once that is final.
type Decision = Box<dyn FnOnce(&Catalog) -> (Edit, Outcome) + Send>;
type Outcome = Box<dyn FnOnce(Result<Revision, StoreError>) + Send>;

impl Store {
    /// Locks the data directory, opens or creates its database and starts the thread. The feed begins at what is stored.
    ///
    /// # Errors
    /// One clear line: see [`OpenError`].
    pub async fn open(directory: PathBuf) -> Result<(Self, Arc<Feed>), OpenError> {
        tokio::task::spawn_blocking(move || Self::open_blocking(&directory))
            .await
            .unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }

    fn open_blocking(directory: &Path) -> Result<(Self, Arc<Feed>), OpenError> {
        let lock = DirectoryLock::acquire(directory)?;
        let (database, store, catalog) = Database::open_within(directory, OPEN_TIME)?;
        let feed = Arc::new(Feed::new(store, catalog));
        let (orders, received) = mpsc::channel();
        let writer = Writer { database, feed: feed.clone(), failed: None, _lock: lock };
        thread::Builder::new()
            .name("clipper-store".into())
            .spawn(move || writer.run(&received))
            .map_err(|error| OpenError::unreadable(directory, error))?;
        Ok((Self { orders }, feed))
    }

    /// Makes an edit that is decided upon the latest catalog; `Ok` once it is on disk and published. A dropped call
    /// may still be carried out.
    ///
    /// # Errors
    /// The decision's refusal, or that the store cannot write.
    pub async fn edit<T, F>(&self, decide: F) -> Result<Committed<T>, EditError>
    where
        T: Send + 'static,
        F: FnOnce(&Catalog) -> Result<(T, Edit), Refusal> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let decision: Decision = Box::new(move |catalog| {
            let (value, edit) = match decide(catalog) {
                Ok((value, edit)) => (Ok(value), edit),
                Err(refusal) => (Err(refusal), Edit::default()),
            };
            let outcome: Outcome = Box::new(move |result| {
                let committed = match (value, result) {
                    (Ok(value), Ok(revision)) => Ok(Committed { value, revision }),
                    (Err(refusal), Ok(_)) => Err(EditError::Refused(refusal)),
                    (_, Err(error)) => Err(EditError::Store(error)),
                };
                // The caller may have gone; the edit stands.
                let _ = answer.send(committed);
            });
            (edit, outcome)
        });
        self.orders.send(Order::Edit(decision)).map_err(|_| StoreError::Closed)?;
        answered.await.unwrap_or(Err(EditError::Store(StoreError::Closed)))
    }

    /// Completes the edits before it, closes the database and unlocks the directory. Later edits are refused.
    ///
    /// # Errors
    /// If the last of the database could not be written.
    pub async fn close(&self) -> Result<(), StoreError> {
        let (answer, answered) = oneshot::channel();
        if self.orders.send(Order::Close(answer)).is_err() {
            return Ok(());
        }
        answered.await.unwrap_or(Ok(()))
    }
}

/// What the thread owns.
struct Writer {
    database: Database,
    feed: Arc<Feed>,
    /// Why nothing is written any more.
    failed: Option<StoreError>,
    /// Released after the database is closed: fields are dropped in order.
    _lock: DirectoryLock,
}

impl Writer {
    fn run(mut self, orders: &mpsc::Receiver<Order>) {
        while let Ok(first) = orders.recv() {
            let mut group = Vec::new();
            let mut close = None;
            for order in std::iter::once(first).chain(orders.try_iter()).take(GROUP) {
                match order {
                    Order::Edit(decision) => group.push(decision),
                    Order::Close(answer) => {
                        close = Some(answer);
                        break;
                    }
                }
            }
            self.commit(group);
            if let Some(answer) = close {
                let result = self.database.sync();
                drop(self);
                let _ = answer.send(result);
                return;
            }
        }
    }

    /// Writes a group of edits and makes them durable together.
    fn commit(&mut self, group: Vec<Decision>) {
        let mut catalog = self.feed.catalog();
        let mut changes = Vec::new();
        let mut outcomes = Vec::with_capacity(group.len());
        let mut result = self.failed.clone().map_or(Ok(false), Err);
        for decision in group {
            let (edit, outcome) = decision(&catalog);
            if !edit.is_empty() {
                Arc::make_mut(&mut catalog).apply(&edit);
                result = result.and_then(|_| self.database.write(&edit, catalog.revision)).map(|()| true);
                changes.extend(edit.changes);
            }
            outcomes.push((outcome, catalog.revision));
        }
        let result = result.and_then(|written| if written { self.database.sync() } else { Ok(()) });
        match &result {
            Ok(()) => self.feed.publish(catalog, changes),
            Err(error) => {
                tracing::error!(%error, "the catalog is read-only from now on");
                self.failed = Some(error.clone());
            }
        }
        for (outcome, revision) in outcomes {
            outcome(result.clone().map(|()| revision));
        }
    }
}

/// The open database.
struct Database {
    sled: sled::Db,
    applications: sled::Tree,
    models: sled::Tree,
    deployments: sled::Tree,
    meta: sled::Tree,
    /// The file that sled writes, opened again to sync it.
    file: File,
}

impl Database {
    /// Opens on a thread of its own: on a file that is garbage, sled returns an error, panics, or never returns.
    fn open_within(directory: &Path, time: Duration) -> Result<(Self, Uuid, Catalog), OpenError> {
        let (answer, answered) = mpsc::channel();
        let path = directory.to_owned();
        silence_opening_threads();
        thread::Builder::new()
            .name(OPENING_THREAD.into())
            .spawn(move || answer.send(Self::open(&path)))
            .map_err(|error| OpenError::unreadable(directory, error))?;
        answered.recv_timeout(time).unwrap_or_else(|error| {
            Err(OpenError::corrupt(
                directory,
                match error {
                    mpsc::RecvTimeoutError::Timeout => "it could not be read in a minute",
                    mpsc::RecvTimeoutError::Disconnected => "its structure is damaged",
                },
            ))
        })
    }

    fn open(directory: &Path) -> Result<(Self, Uuid, Catalog), OpenError> {
        let folder = directory.join(FOLDER);
        let explain = |error| match error {
            sled::Error::Io(source) => OpenError::unreadable(directory, source),
            other => OpenError::corrupt(directory, other.to_string()),
        };
        let sled = sled::Config::new()
            .path(&folder)
            .cache_capacity(16 << 20)
            .flush_every_ms(None)
            .open()
            .map_err(explain)?;
        let tree = |name: &str| sled.open_tree(name).map_err(explain);
        let database = Self {
            applications: tree("applications")?,
            models: tree("models")?,
            deployments: tree("deployments")?,
            meta: tree("meta")?,
            file: File::open(folder.join("db")).map_err(|error| OpenError::unreadable(directory, error))?,
            sled,
        };
        let store = database.check_schema(directory)?;
        let catalog = database.load().map_err(|what| OpenError::corrupt(directory, what))?;
        // sled syncs neither what it wrote while it opened nor the names of its files.
        database.sled.flush().map_err(explain)?;
        sync_folder(&folder)
            .and_then(|()| check_identity(directory, store))
            .map_err(|error| OpenError::unreadable(directory, error))?
            .then_some((database, store, catalog))
            .ok_or_else(|| OpenError::corrupt(directory, "it is not the database that was created here"))
    }

    /// Reads the schema and the store's identity, and writes them to a new database.
    fn check_schema(&self, directory: &Path) -> Result<Uuid, OpenError> {
        let corrupt = |what: &str| OpenError::corrupt(directory, what);
        let get = |key: &str| self.meta.get(key).map_err(|error| corrupt(&error.to_string()));
        match get("schema")? {
            None if !self.meta.is_empty() => Err(corrupt("it has no schema")),
            None => {
                let store = Uuid::new_v4();
                let mut first = sled::Batch::default();
                first.insert("schema", &SCHEMA.to_be_bytes());
                first.insert("store", store.as_bytes());
                first.insert("revision", &0u64.to_be_bytes());
                first.insert("next_frontend_number", &0u64.to_be_bytes());
                self.meta.apply_batch(first).map_err(|error| corrupt(&error.to_string()))?;
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
        let mut catalog = Catalog {
            revision: self.number("revision")?,
            next_frontend_number: self.number("next_frontend_number")?,
            ..Catalog::default()
        };
        for application in records::<Application>(&self.applications)? {
            catalog.applications.insert(application.name.clone(), Arc::new(application));
        }
        for model in records::<Model>(&self.models)? {
            catalog.models.insert(model.name.clone(), Arc::new(model));
        }
        for deployment in records::<Deployment>(&self.deployments)? {
            catalog.deployments.insert(deployment.spec.model.clone(), Arc::new(deployment));
        }
        Ok(catalog)
    }

    fn number(&self, key: &str) -> Result<u64, String> {
        let bytes = self.meta.get(key).map_err(|error| error.to_string())?;
        bytes
            .and_then(|bytes| bytes.as_ref().try_into().ok())
            .map(u64::from_be_bytes)
            .ok_or_else(|| format!("its {key} is unreadable"))
    }

    /// Writes an edit and the revision that it leads to, whole or not at all, not yet durably.
    fn write(&self, edit: &Edit, revision: Revision) -> Result<(), StoreError> {
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
            .map_err(|error| StoreError::Failed(format!("{error:?}")))
    }

    /// Makes everything written durable.
    fn sync(&self) -> Result<(), StoreError> {
        self.sled.flush().map_err(|error| StoreError::Failed(error.to_string()))?;
        self.file.sync_all().map_err(|error| StoreError::Failed(error.to_string()))
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
    [name.as_bytes(), &[0], &piece.to_be_bytes()].concat()
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
fn records<T: DeserializeOwned>(tree: &sled::Tree) -> Result<Vec<T>, String> {
    let mut joined: Vec<(String, Vec<u8>)> = Vec::new();
    for entry in tree {
        let (key, piece) = entry.map_err(|error| error.to_string())?;
        let name = key.split(|byte| *byte == 0).next().unwrap_or_default();
        let name = String::from_utf8_lossy(name).into_owned();
        match joined.last_mut().filter(|(last, _)| *last == name) {
            Some((_, bytes)) => bytes.extend_from_slice(&piece),
            None => joined.push((name, piece.to_vec())),
        }
    }
    joined.iter().map(|(name, bytes)| decode(name, bytes)).collect()
}

/// A panic of sled upon a damaged file is reported as the error that it is, not with a backtrace as well.
fn silence_opening_threads() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if thread::current().name() != Some(OPENING_THREAD) {
                usual(panic);
            }
        }));
    });
}

/// Whether the store is the one that was first opened in this directory, of which a note is made then. sled takes a file
/// whose beginning is damaged for an empty log: without the note, a catalog could be lost in silence.
fn check_identity(directory: &Path, store: Uuid) -> io::Result<bool> {
    let path = directory.join(IDENTITY_FILE);
    match fs::read_to_string(&path) {
        Ok(noted) => Ok(noted.trim() == store.to_string()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let unfinished = path.with_extension("new");
            fs::write(&unfinished, format!("{store}\n"))?;
            File::open(&unfinished)?.sync_all()?;
            fs::rename(&unfinished, &path)?;
            File::open(directory)?.sync_all()?;
            Ok(true)
        }
        Err(error) => Err(error),
    }
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    for entry in folder.read_dir()? {
        File::open(entry?.path())?.sync_all()?;
    }
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use clipper_rpc::names::ModelId;

    use super::*;
    use crate::applications::{self, tests::app};
    use crate::models::{self, Adding, tests::doubles, tests::model_id};

    async fn open(directory: &tempfile::TempDir) -> Result<(Store, Arc<Feed>), OpenError> {
        Store::open(directory.path().into()).await
    }

    async fn refusal(directory: &tempfile::TempDir) -> String {
        open(directory).await.unwrap_err().to_string()
    }

    async fn add_app(store: &Store, name: &str, default_output: String) -> Result<Revision, EditError> {
        let application = Application { default_output, ..app(name, &[]) };
        let committed = store.edit(|catalog| Ok(((), applications::add(catalog, application)?))).await;
        committed.map(|committed| committed.revision)
    }

    async fn add_version(store: &Store, id: ModelId) {
        let added =
            store.edit(move |catalog| Ok(((), models::add(catalog, &id, doubles(), Adding::Current)?))).await;
        added.unwrap();
    }

    #[tokio::test]
    async fn what_was_stored_is_there_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let (store, feed) = open(&directory).await.unwrap();
        add_app(&store, "a", "-1.0".into()).await.unwrap();
        for version in 0..300 {
            add_version(&store, model_id("m", &version.to_string())).await;
        }
        add_version(&store, model_id("n", "1")).await;
        store.edit(|catalog| Ok(((), models::delete_version(catalog, &model_id("n", "1"))?))).await.unwrap();
        store.close().await.unwrap();

        let (_store, again) = open(&directory).await.unwrap();
        assert_eq!(again.catalog(), feed.catalog());
        assert_eq!(again.store(), feed.store());
        assert_eq!(again.catalog().revision, 303);
    }

    #[tokio::test]
    async fn a_record_of_any_length_is_replaced_by_a_shorter_one() {
        let directory = tempfile::tempdir().unwrap();
        let (store, feed) = open(&directory).await.unwrap();
        for length in [0, PIECE, 10 * PIECE + 1, 3] {
            let default_output = "x".repeat(length);
            if length > 0 {
                store
                    .edit(|catalog| Ok(((), applications::delete(catalog, "a".parse().unwrap())?)))
                    .await
                    .unwrap();
            }
            add_app(&store, "a", default_output).await.unwrap();
        }
        store.close().await.unwrap();
        let (_store, again) = open(&directory).await.unwrap();
        assert_eq!(again.catalog(), feed.catalog());
    }

    #[tokio::test]
    async fn edits_at_the_same_time_are_decided_one_after_the_other() {
        let directory = tempfile::tempdir().unwrap();
        let (store, feed) = open(&directory).await.unwrap();
        let edits = (0..50).map(|index| {
            let store = store.clone();
            tokio::spawn(
                async move { add_app(&store, &format!("a{}", index / 2), String::new()).await.is_ok() },
            )
        });
        let added = futures_util::future::join_all(edits).await;
        assert_eq!(added.into_iter().filter(|added| *added.as_ref().unwrap()).count(), 25);
        assert_eq!(feed.catalog().revision, 25);
    }

    #[tokio::test]
    async fn a_closed_store_refuses_edits() {
        let directory = tempfile::tempdir().unwrap();
        let (store, _) = open(&directory).await.unwrap();
        store.close().await.unwrap();
        let refused = add_app(&store, "a", String::new()).await.unwrap_err();
        assert_eq!(refused.to_string(), "the catalog is closed, as management is shutting down");
    }

    #[tokio::test]
    async fn a_directory_in_use_is_refused_with_its_user() {
        let directory = tempfile::tempdir().unwrap();
        let _open = open(&directory).await.unwrap();
        let refused = refusal(&directory).await;
        assert!(refused.ends_with(&format!("is in use by process {}", std::process::id())), "{refused}");
    }

    #[tokio::test]
    async fn a_file_in_place_of_the_directory_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        let refused = Store::open(file).await.unwrap_err().to_string();
        assert!(refused.ends_with("is not a directory"), "{refused}");
    }

    #[tokio::test]
    async fn a_newer_schema_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let newer = sled::open(directory.path().join(FOLDER)).unwrap();
        newer.open_tree("meta").unwrap().insert("schema", &2u32.to_be_bytes()).unwrap();
        drop(newer);
        let refused = refusal(&directory).await;
        assert!(refused.ends_with("schemas up to 1: use a newer Clipper"), "{refused}");
    }

    #[tokio::test]
    async fn a_corrupt_database_is_refused_in_one_line() {
        let directory = tempfile::tempdir().unwrap();
        let (store, _) = open(&directory).await.unwrap();
        add_app(&store, "a", String::new()).await.unwrap();
        store.close().await.unwrap();
        let sound = fs::read(directory.path().join(FOLDER).join("db")).unwrap();
        // sled takes the first for an empty log.
        for damaged in [vec![0xa5; sound.len()], Vec::new()] {
            fs::write(directory.path().join(FOLDER).join("db"), damaged).unwrap();
            let refused = refusal(&directory).await;
            assert!(refused.contains(" is corrupt: ") && !refused.contains('\n'), "{refused}");
        }
    }

    #[tokio::test]
    async fn an_unreadable_record_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let (store, _) = open(&directory).await.unwrap();
        store.close().await.unwrap();
        let database = sled::open(directory.path().join(FOLDER)).unwrap();
        let applications = database.open_tree("applications").unwrap();
        applications.insert(piece_key("a", 0), "{\"version\": 9, \"record\": {}}").unwrap();
        drop((applications, database));
        let refused = refusal(&directory).await;
        assert!(refused.contains("the record 'a' is unreadable"), "{refused}");
    }

    #[tokio::test]
    async fn churn_does_not_let_the_database_grow_without_end() {
        let directory = tempfile::tempdir().unwrap();
        let (store, _) = open(&directory).await.unwrap();
        for round in 0..300 {
            let default_output = "x".repeat(100_000 + round);
            add_app(&store, "a", default_output).await.unwrap();
            store
                .edit(|catalog| Ok(((), applications::delete(catalog, "a".parse().unwrap())?)))
                .await
                .unwrap();
        }
        let folder = directory.path().join(FOLDER);
        let length = fs::metadata(folder.join("db")).unwrap().len();
        assert!(length < 16 << 20, "{length}");
        assert_eq!(fs::read_dir(folder.join("blobs")).unwrap().count(), 0);
    }
}
