//! The one writer of the catalog, a thread that owns the [`Store`], and the handle by which edits reach it.
//!
//! Whoever wants an edit sends the thread a decision, a pure function from the catalog to an edit or a refusal.
//! It takes the decisions that are waiting, one after the other, each upon the catalog that the one before
//! left, writes each edit in a transaction of its own, and makes them durable together. Only then is the
//! catalog published and anybody answered. As there is one writer, what a decision read is still true when its
//! edit is written. Should a write fail, the state of the disk is unknown, so every edit is refused from then
//! on; a restart reads what is there.
//!
//! Invariant: what [`Writer::edit`] returned `Ok` for is on disk, whole, and so is everything before it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread;

use clipper_rpc::catalog::Revision;
use clipper_server::EssentialPart;
use tokio::sync::oneshot;

use crate::bounds;
use crate::catalog::{Catalog, Edit};
use crate::error::{EditError, OpenError, StoreError};
use crate::feed::Feed;
use crate::lock::DirectoryLock;
use crate::refusal::Refusal;
use crate::store::Store;

/// The most edits that share one `fsync`.
const GROUP: usize = 128;

/// A handle to the thread. Cloned handles share it.
#[derive(Debug, Clone)]
pub struct Writer {
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

impl Writer {
    /// Locks the data directory, opens or creates its database and starts the thread, which is an essential part. The
    /// feed begins at what is stored.
    ///
    /// # Errors
    /// One clear line: see [`OpenError`].
    pub async fn open(directory: PathBuf, part: EssentialPart) -> Result<(Self, Arc<Feed>), OpenError> {
        tokio::task::spawn_blocking(move || Self::open_blocking(&directory, part))
            .await
            .unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }

    fn open_blocking(directory: &Path, mut part: EssentialPart) -> Result<(Self, Arc<Feed>), OpenError> {
        let lock = DirectoryLock::acquire(directory)?;
        let (store, identity, catalog) = Store::open(directory)?;
        let feed = Arc::new(Feed::new(identity, catalog));
        let (orders, received) = mpsc::channel();
        let writer = WriterThread { store, feed: feed.clone(), failed: None, _lock: lock };
        thread::Builder::new()
            .name("clipper-writer".into())
            .spawn(move || {
                writer.run(&received);
                part.finish();
            })
            .map_err(|error| OpenError::unreadable(directory, error))?;
        Ok((Self { orders }, feed))
    }

    /// Makes an edit that is decided upon the latest catalog; `Ok` once it is on disk and published. A dropped
    /// call may still be carried out.
    ///
    /// # Errors
    /// The decision's refusal, that the catalog would be too large, or that the store cannot write.
    pub async fn edit<T, F>(&self, decide: F) -> Result<Committed<T>, EditError>
    where
        T: Send + 'static,
        F: FnOnce(&Catalog) -> Result<(T, Edit), Refusal> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let decision: Decision = Box::new(move |catalog| {
            let decided = decide(catalog).and_then(|(value, edit)| {
                bounds::catalog(catalog, &edit)?;
                Ok((value, edit))
            });
            let (value, edit) = match decided {
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
struct WriterThread {
    store: Store,
    feed: Arc<Feed>,
    /// Why nothing is written any more.
    failed: Option<StoreError>,
    /// Released after the database is closed: fields are dropped in order.
    _lock: DirectoryLock,
}

impl WriterThread {
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
                let result = self.store.sync();
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
                result = result.and_then(|_| self.store.write(&edit, catalog.revision)).map(|()| true);
                changes.extend(edit.changes);
            }
            outcomes.push((outcome, catalog.revision));
        }
        let result = result.and_then(|written| if written { self.store.sync() } else { Ok(()) });
        match &result {
            Ok(()) => self.feed.publish(catalog, changes),
            Err(error) => self.fail(error),
        }
        for (outcome, revision) in outcomes {
            outcome(result.clone().map(|()| revision));
        }
    }

    /// Remembers why nothing is written any more. Called again for each edit that is refused for that.
    fn fail(&mut self, error: &StoreError) {
        if self.failed.is_none() {
            tracing::error!(%error, "the catalog is read-only from now on");
            self.failed = Some(error.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use clipper_rpc::names::ModelId;
    use clipper_server::Essentials;

    use super::*;
    use crate::applications::{self, tests::app};
    use crate::models::{self, Adding, tests::doubles, tests::model_id};

    async fn open(directory: &tempfile::TempDir) -> Result<(Writer, Arc<Feed>), OpenError> {
        Writer::open(directory.path().into(), part()).await
    }

    fn part() -> EssentialPart {
        Essentials::default().part("the writer")
    }

    async fn refusal(directory: &tempfile::TempDir) -> String {
        open(directory).await.unwrap_err().to_string()
    }

    async fn add_app(writer: &Writer, name: &str) -> Result<Revision, EditError> {
        let application = app(name, &[]);
        let committed = writer.edit(|catalog| Ok(((), applications::add(catalog, application)?))).await;
        committed.map(|committed| committed.revision)
    }

    async fn add_version(writer: &Writer, id: ModelId) {
        let added = writer
            .edit(move |catalog| Ok(((), models::add(catalog, &id, doubles(), Adding::Current)?)))
            .await;
        added.unwrap();
    }

    #[tokio::test]
    async fn what_was_stored_is_there_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let (writer, feed) = open(&directory).await.unwrap();
        add_app(&writer, "a").await.unwrap();
        for version in 0..300 {
            add_version(&writer, model_id("m", &version.to_string())).await;
        }
        add_version(&writer, model_id("n", "1")).await;
        writer.edit(|catalog| Ok(((), models::delete_version(catalog, &model_id("n", "1"))?))).await.unwrap();
        writer.close().await.unwrap();

        let (_writer, again) = open(&directory).await.unwrap();
        assert_ne!(again.catalog().run, feed.catalog().run);
        let stored = Catalog { run: again.catalog().run, ..Catalog::clone(&feed.catalog()) };
        assert_eq!(*again.catalog(), stored);
        assert_eq!(again.store(), feed.store());
        assert_eq!(again.catalog().revision, 303);
    }

    #[tokio::test]
    async fn edits_at_the_same_time_are_decided_one_after_the_other() {
        let directory = tempfile::tempdir().unwrap();
        let (writer, feed) = open(&directory).await.unwrap();
        let edits = (0..50).map(|index| {
            let writer = writer.clone();
            tokio::spawn(async move { add_app(&writer, &format!("a{}", index / 2)).await.is_ok() })
        });
        let added = futures_util::future::join_all(edits).await;
        assert_eq!(added.into_iter().filter(|added| *added.as_ref().unwrap()).count(), 25);
        assert_eq!(feed.catalog().revision, 25);
    }

    /// Counts what is logged.
    struct Counter(Arc<AtomicUsize>);

    impl tracing::Subscriber for Counter {
        fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
            *metadata.level() == tracing::Level::ERROR
        }

        fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
            tracing::span::Id::from_u64(1)
        }

        fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

        fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

        fn event(&self, _: &tracing::Event<'_>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }

        fn enter(&self, _: &tracing::span::Id) {}

        fn exit(&self, _: &tracing::span::Id) {}
    }

    #[test]
    fn that_nothing_is_written_any_more_is_logged_once() {
        let directory = tempfile::tempdir().unwrap();
        let lock = DirectoryLock::acquire(directory.path()).unwrap();
        let (store, identity, catalog) = Store::open(directory.path()).unwrap();
        let feed = Arc::new(Feed::new(identity, catalog));
        let mut writer = WriterThread { store, feed, failed: None, _lock: lock };
        let logged = Arc::new(AtomicUsize::new(0));
        tracing::subscriber::with_default(Counter(Arc::clone(&logged)), || {
            for _ in 0..2 {
                writer.fail(&StoreError::Failed("no space".into()));
            }
        });
        assert_eq!(logged.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn a_closed_writer_refuses_edits() {
        let directory = tempfile::tempdir().unwrap();
        let (writer, _) = open(&directory).await.unwrap();
        writer.close().await.unwrap();
        let refused = add_app(&writer, "a").await.unwrap_err();
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
    async fn a_panic_of_the_thread_is_the_end_of_an_essential_part_and_its_orderly_end_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let essentials = Essentials::default();
        let part = |name| essentials.part(name);
        let (writer, _) = Writer::open(directory.path().join("a"), part("a")).await.unwrap();
        writer.close().await.unwrap();
        let (writer, _) = Writer::open(directory.path().join("b"), part("b")).await.unwrap();
        assert!(writer.edit::<(), _>(|_| panic!("out of cheese")).await.is_err());
        let ended = essentials.part_ended().await.to_string();
        assert_eq!(ended, "an essential part has ended, b: it panicked");
    }

    #[tokio::test]
    async fn a_file_in_place_of_the_directory_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        let refused = Writer::open(file, part()).await.unwrap_err().to_string();
        assert!(refused.ends_with("is not a directory"), "{refused}");
    }
}
