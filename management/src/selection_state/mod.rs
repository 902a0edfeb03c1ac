//! What the frontends have learned of the models: kept on disk, and told from each to the others.
//!
//! # Layout
//! - [`store`]: the states on disk, and which exchange of each frontend they already contain.
//! - [`ring`]: the recent changes, from which frontends hear what others learned.
//! - [`peers`]: the frontends that exchange, and what waits for each.
//! - [`admission`]: what changes may add.
//! - [`exchanges`]: one exchange, from request to answer.
//!
//! One thread owns all of it and takes orders one after the other, so that to read a state, change it and write it is
//! never interleaved with another change. It writes each exchange in a batch of its own, makes the exchanges that are
//! waiting durable together, and only then answers them. Between orders it removes what was learned for applications
//! that are gone. Should a write fail, the state of the disk is unknown, so every exchange is refused from then on; a
//! restart reads what is there.
//!
//! Invariant: a change that a frontend was told to be stored is on disk, once; so is everything that is read here.

use std::fs::File;
use std::io::{BufWriter, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use clipper_rpc::selection::{ExchangeRequest, ExchangeResponse, StateKey, Statistics};
use clipper_server::EssentialPart;
use tokio::sync::oneshot;
use tokio::time::timeout;
use uuid::Uuid;

use self::exchanges::{Counts, Exchanges};
use self::store::StateStore;
use crate::catalog::Catalog;
use crate::error::OpenError;
use crate::feed::Feed;

mod admission;
mod exchanges;
mod peers;
mod ring;
mod store;

/// The most orders that share one `fsync`.
const GROUP: usize = 128;
/// How long a frontend is waited for that shall explain a query.
const EXPLAIN_TIME: Duration = Duration::from_secs(3);

/// What goes wrong with the states.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// The disk or the database failed.
    #[error("what is learned cannot be stored: {0}")]
    Failed(String),
    /// The frontend had its answer, and has made an exchange since.
    #[error("exchange {number} of this frontend is over, as it has made exchange {last}")]
    Over {
        /// Of the exchange that was asked for.
        number: u64,
        /// Of the last one.
        last: u64,
    },
    /// There are too many frontends.
    #[error("{most} frontends exchange already, which is the most that are allowed")]
    Crowded {
        /// The most that are allowed.
        most: usize,
    },
    /// An exchange asks for too much at once.
    #[error("An exchange asks for {found} states; at most {most} are allowed")]
    TooManyStates {
        /// The states that were asked for.
        found: usize,
        /// The most that are allowed.
        most: usize,
    },
    /// The store was closed.
    #[error("what is learned is not stored any more, as management is shutting down")]
    Closed,
}

/// Why there is no explanation of a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoExplanation {
    /// No frontend of that number exchanges.
    #[error("the frontend that answered it is gone")]
    FrontendGone,
    /// The frontend did not answer.
    #[error("the frontend that answered it does not say, try again")]
    Silent,
    /// The frontend knows nothing of it.
    #[error(
        "it was never answered by this application, or is forgotten: decisions are kept for a bounded time"
    )]
    Unknown,
}

/// A handle to the thread. Cloned handles share it.
#[derive(Debug, Clone)]
pub struct SelectionStates {
    orders: mpsc::Sender<Order>,
    counts: Arc<Counts>,
}

#[derive(Debug)]
enum Order {
    Exchange(Box<ExchangeRequest>, Answer<ExchangeResponse>),
    Read(Vec<StateKey>, Answer<States>),
    Explain(u64, oneshot::Sender<Result<String, NoExplanation>>),
    Copy(File, Answer<(Arc<Catalog>, File)>),
    /// The applications may be others now.
    CatalogChanged,
    Close(Answer<()>),
}

type Answer<T> = oneshot::Sender<Result<T, StateError>>;
/// The states of some keys, in order; `None` where nothing is learned.
type States = Vec<Option<Statistics>>;

impl SelectionStates {
    /// Opens or creates the database in a data directory that is locked, and starts the thread, which is an
    /// essential part. States of their own are kept for at most `max_users`.
    ///
    /// # Errors
    /// One clear line: see [`OpenError`].
    pub async fn open(
        directory: PathBuf,
        feed: Arc<Feed>,
        max_users: u64,
        part: EssentialPart,
    ) -> Result<Self, OpenError> {
        tokio::task::spawn_blocking(move || Self::open_blocking(&directory, feed, max_users, part))
            .await
            .unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }

    fn open_blocking(
        directory: &Path,
        feed: Arc<Feed>,
        max_users: u64,
        mut part: EssentialPart,
    ) -> Result<Self, OpenError> {
        let (store, runs) = StateStore::open(directory, feed.store())?;
        let counts = Arc::<Counts>::default();
        let exchanges = Exchanges::new(store, runs, max_users, Arc::clone(&counts));
        let mut states = StatesThread { exchanges, feed, swept: None, failed: None };
        let (orders, received) = mpsc::channel();
        thread::Builder::new()
            .name("clipper-states".into())
            .spawn(move || {
                states.run(&received);
                part.finish();
            })
            .map_err(|error| OpenError::unreadable(directory, error))?;
        Ok(Self { orders, counts })
    }

    /// Users with a state on disk.
    pub(crate) fn users(&self) -> u64 {
        self.counts.users.load(Ordering::Relaxed)
    }

    /// Changes that were not stored since management started.
    pub(crate) fn left_out(&self) -> u64 {
        self.counts.left_out.load(Ordering::Relaxed)
    }

    /// Stores what a frontend has learned, and returns what others have. A dropped call may still be carried out.
    ///
    /// # Errors
    /// If it cannot be stored, or the frontend has made a later exchange.
    pub async fn exchange(&self, request: ExchangeRequest) -> Result<ExchangeResponse, StateError> {
        self.ask(|answer| Order::Exchange(Box::new(request), answer)).await
    }

    /// The states of these keys, as they are on disk; `None` where nothing is learned.
    ///
    /// # Errors
    /// If they cannot be read, or what was written before could not be made durable.
    pub async fn read(&self, keys: Vec<StateKey>) -> Result<Vec<Option<Statistics>>, StateError> {
        self.ask(|answer| Order::Read(keys, answer)).await
    }

    /// Writes a copy of everything that is learned to a file, with the catalog of the same moment. No exchange is made
    /// meanwhile.
    ///
    /// # Errors
    /// If it cannot be read, or the file not be written.
    pub(crate) async fn copy(&self, file: File) -> Result<(Arc<Catalog>, File), StateError> {
        self.ask(|answer| Order::Copy(file, answer)).await
    }

    /// Asks the frontend that answered a query how it came to that, and waits for some seconds for the JSON.
    ///
    /// # Errors
    /// If that frontend is gone, or knows nothing of the query.
    pub async fn explain(&self, query_id: u64) -> Result<String, NoExplanation> {
        let (answer, answered) = oneshot::channel();
        self.orders.send(Order::Explain(query_id, answer)).map_err(|_| NoExplanation::FrontendGone)?;
        match timeout(EXPLAIN_TIME, answered).await {
            Ok(Ok(explained)) => explained,
            Ok(Err(_)) => Err(NoExplanation::FrontendGone),
            Err(_) => Err(NoExplanation::Silent),
        }
    }

    /// Has the states of applications that are gone removed, whenever the catalog changes. Runs for ever.
    pub(crate) async fn supervise(&self, feed: &Feed) {
        let mut published = feed.watch();
        loop {
            published.published().await;
            if self.orders.send(Order::CatalogChanged).is_err() {
                // Closed: there is nothing left to do.
                return std::future::pending().await;
            }
        }
    }

    /// Completes the exchanges before it and closes the database. Later ones are refused.
    ///
    /// # Errors
    /// If the last of the database could not be written.
    pub async fn close(&self) -> Result<(), StateError> {
        match self.ask(Order::Close).await {
            Err(StateError::Closed) => Ok(()),
            closed => closed,
        }
    }

    async fn ask<T>(&self, order: impl FnOnce(Answer<T>) -> Order) -> Result<T, StateError> {
        let (answer, answered) = oneshot::channel();
        self.orders.send(order(answer)).map_err(|_| StateError::Closed)?;
        answered.await.unwrap_or(Err(StateError::Closed))
    }
}

/// Fills a new data directory, whose catalog is `catalog`, with a copy of what was learned. Blocks.
///
/// # Errors
/// If the copy cannot be read, or the directory not be written.
pub(crate) fn restore(directory: &Path, catalog: Uuid, copy: impl Read) -> Result<(), OpenError> {
    StateStore::restore(directory, catalog, copy)
}

/// Answers to a group of orders, which wait until everything that they tell of is durable.
#[derive(Default)]
struct Pending {
    exchanged: Vec<(Result<ExchangeResponse, StateError>, Answer<ExchangeResponse>)>,
    read: Vec<(Result<States, StateError>, Answer<States>)>,
    closing: Option<Answer<()>>,
}

impl Pending {
    /// Answers, or says why what was written is not durable. Whoever asked may have gone.
    fn answer(self, synced: &Result<(), StateError>) {
        for (response, answer) in self.exchanged {
            let _ = answer.send(synced.clone().and(response));
        }
        for (read, answer) in self.read {
            let _ = answer.send(synced.clone().and(read));
        }
        if let Some(answer) = self.closing {
            let _ = answer.send(synced.clone());
        }
    }
}

/// What the thread owns.
struct StatesThread {
    exchanges: Exchanges,
    feed: Arc<Feed>,
    /// The revision of the catalog that the states on disk are of; `None` while there may be more to remove.
    swept: Option<u64>,
    /// Why nothing is written any more.
    failed: Option<StateError>,
}

impl StatesThread {
    fn run(&mut self, orders: &mpsc::Receiver<Order>) {
        loop {
            let first = if self.is_swept() {
                let Ok(order) = orders.recv() else { return };
                order
            } else {
                match orders.try_recv() {
                    Ok(order) => order,
                    Err(mpsc::TryRecvError::Empty) => {
                        self.sweep();
                        continue;
                    }
                    Err(mpsc::TryRecvError::Disconnected) => return,
                }
            };
            let mut pending = Pending::default();
            for order in std::iter::once(first).chain(orders.try_iter()).take(GROUP) {
                self.take(order, &mut pending);
                if pending.closing.is_some() {
                    break;
                }
            }
            let closing = pending.closing.is_some();
            pending.answer(&self.sync());
            if closing {
                return;
            }
        }
    }

    /// Carries out an order. Answers that tell of what is learned are left in `pending`.
    fn take(&mut self, order: Order, pending: &mut Pending) {
        match order {
            Order::Exchange(request, answer) => pending.exchanged.push((self.exchange(&request), answer)),
            Order::Read(keys, answer) => pending.read.push((self.exchanges.read(&keys), answer)),
            Order::Explain(query_id, answer) => self.exchanges.explain(query_id, answer, Instant::now()),
            // Whoever asked may have gone.
            Order::Copy(file, answer) => drop(answer.send(self.copy(file))),
            Order::CatalogChanged => {}
            Order::Close(answer) => pending.closing = Some(answer),
        }
    }

    fn exchange(&mut self, request: &ExchangeRequest) -> Result<ExchangeResponse, StateError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let catalog = self.feed.catalog();
        let response = self.exchanges.exchange(request, &catalog, Instant::now());
        if let Err(error @ StateError::Failed(_)) = &response {
            self.fail(error.clone());
        }
        response
    }

    /// Copies what is learned. What was written and is not durable yet is copied with it.
    fn copy(&self, file: File) -> Result<(Arc<Catalog>, File), StateError> {
        let catalog = self.feed.catalog();
        let mut out = BufWriter::new(file);
        self.exchanges.copy(&mut out)?;
        let file = out.into_inner().map_err(|error| StateError::Failed(error.to_string()))?;
        Ok((catalog, file))
    }

    /// Makes what was written durable, if anything was.
    fn sync(&mut self) -> Result<(), StateError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        self.exchanges.sync().inspect_err(|error| self.fail(error.clone()))
    }

    fn fail(&mut self, error: StateError) {
        if self.failed.is_none() {
            tracing::error!(%error, "nothing that is learned is stored from now on");
            self.failed = Some(error);
        }
    }

    /// Whether no state of an application that is gone is left, as far as is known.
    fn is_swept(&self) -> bool {
        self.failed.is_some() || self.swept == Some(self.feed.catalog().revision)
    }

    /// Removes some states of applications that are gone, if there are any.
    fn sweep(&mut self) {
        let catalog = self.feed.catalog();
        match self.exchanges.sweep(&catalog) {
            Ok(true) => self.swept = Some(catalog.revision),
            Ok(false) => {}
            Err(error) => self.fail(error),
        }
    }
}

#[cfg(test)]
mod tests;
