//! Puts the parts of a frontend together, and takes them apart in order.

use std::collections::{HashMap, HashSet};
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actix::prelude::*;
use actix_web::{App, web};
use clipper_rpc::catalog::Management;
use clipper_rpc::router::{BindError, BoundRouter};
use clipper_rpc::secret::Secret;
use clipper_server::door::Door;
use clipper_server::private_directory::{self, DirectoryError, ExposedDirectory};
use clipper_server::{Connections, Serving, serve};
use nix::sys::socket::{Backlog, listen};
use tokio::sync::{Semaphore, oneshot};
use tracing::{error, info, warn};
use uuid::Uuid;

use crate::cache::PredictionCache;
use crate::container_connection::Terms;
use crate::container_tokens::ContainerTokens;
use crate::directory::Directory;
use crate::exchange::Exchange;
use crate::follower::{Follower, FollowerConfig, StandDown};
use crate::http;
use crate::outbox::Outbox;
use crate::prediction::Predictor;
use crate::query_ids::QueryIds;
use crate::queue::Capacity;
use crate::reception::Reception;
use crate::request_bytes::RequestBytes;
use crate::selection::Facilities;
use crate::selection::decision_log::{self, DecisionLog, DecisionLogConfig};
use crate::selection::decisions::Decisions;
use crate::selection::users::UserStates;

/// The most connections of one HTTP worker.
const MAX_CONNECTIONS: usize = 25_600;
/// How long what was learned last may take to be stored at shutdown.
const LAST_EXCHANGE: Duration = Duration::from_secs(3);

/// How a frontend runs.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where applications are answered; port 0 picks a free one.
    pub query_address: SocketAddr,
    /// Where containers connect; port 0 picks a free one.
    pub rpc_address: SocketAddr,
    /// The token that opens every model to containers, beside each version's registration token.
    /// Asked for beyond loopback only.
    pub container_token: Option<Secret>,
    /// Whether containers need no token beyond loopback either.
    pub insecure_containers: bool,
    /// The host under which containers and people reach this frontend, where that is not the bound one.
    pub advertised_host: Option<String>,
    /// The threads that answer HTTP; by default one for each core.
    pub http_workers: Option<NonZeroUsize>,
    /// Which requests of browsers are taken.
    pub door: Door,
    /// The largest request body, in bytes.
    pub max_body_bytes: usize,
    /// The most inputs in one request.
    pub max_inputs: usize,
    /// The most bytes that requests in progress may take in all.
    pub request_bytes: usize,
    /// What may wait for one version of one model.
    pub queue_capacity: Capacity,
    /// The most bytes of outputs, with what they were asked for, that are kept to answer the same inputs again.
    pub cache_bytes: u64,
    /// How many recent decisions among models are kept, for feedback to join and for explanations.
    pub decision_capacity: usize,
    /// The most bytes of users' selection states that are kept in memory.
    pub selection_bytes: u64,
    /// How long what is learned from feedback may wait until it is sent to management.
    pub state_flush: Duration,
    /// Where decisions are logged, of the applications that ask for it.
    pub decision_log: Option<DecisionLogConfig>,
    /// The most inputs in one batch, where the model states no number of its own.
    pub max_batch_size: u32,
    /// What is agreed with containers: say `heartbeat` after this silence,
    pub heartbeat: Duration,
    /// and count as lost after this one.
    pub container_timeout: Duration,
    /// How long requests may take to finish at shutdown.
    pub drain_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            query_address: SocketAddr::from(([0, 0, 0, 0], 1337)),
            rpc_address: SocketAddr::from(([127, 0, 0, 1], 7000)),
            container_token: None,
            insecure_containers: false,
            advertised_host: None,
            http_workers: None,
            door: Door::of_queries(Vec::new(), Vec::new()),
            max_body_bytes: 16 << 20,
            max_inputs: 10_000,
            request_bytes: 512 << 20,
            queue_capacity: Capacity { queries: 10_000, bytes: 256 << 20 },
            cache_bytes: 32 << 20,
            decision_capacity: 100_000,
            selection_bytes: 64 << 20,
            state_flush: Duration::from_millis(500),
            decision_log: None,
            max_batch_size: 4096,
            heartbeat: Duration::from_secs(1),
            container_timeout: Duration::from_secs(5),
            drain_timeout: Duration::from_secs(30),
        }
    }
}

/// Why a frontend cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address for applications cannot be bound.
    #[error("cannot listen for applications on {address}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The address for containers cannot be bound.
    #[error(transparent)]
    BindRouter(#[from] BindError),
    /// Other users can reach the directory of the decision log.
    #[error("the decision log directory {0}")]
    DecisionLogExposed(ExposedDirectory),
    /// The directory of the decision log cannot be created, read or changed.
    #[error("the decision log directory {} cannot be used", .directory.display())]
    DecisionLogDirectory {
        /// The directory.
        directory: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// There is no thread for the decision log.
    #[error("the decision log cannot be written")]
    DecisionLog(#[source] std::io::Error),
    /// The HTTP server failed.
    #[error("the query interface failed")]
    Http(#[from] std::io::Error),
}

fn open_decision_log(DecisionLogConfig { directory, .. }: &DecisionLogConfig) -> Result<(), Error> {
    private_directory::open(directory, decision_log::CONTENTS).map_err(|error| match error {
        DirectoryError::Exposed(exposed) => Error::DecisionLogExposed(exposed),
        DirectoryError::Io(source) => Error::DecisionLogDirectory { directory: directory.clone(), source },
    })
}

/// A frontend that is bound to its addresses, and not running yet.
pub struct Frontend {
    config: Config,
    listener: TcpListener,
    query_address: SocketAddr,
    router: BoundRouter,
}

impl Frontend {
    /// Opens the directory of the decision log, and binds both addresses.
    ///
    /// # Errors
    /// If the directory cannot be used or is open to other users, or if an address is in use or not
    /// of this host.
    pub fn bind(config: Config) -> Result<Self, Error> {
        config.decision_log.as_ref().map_or(Ok(()), open_decision_log)?;
        let address = config.query_address;
        let bound = TcpListener::bind(address).and_then(|listener| {
            // std asks for 128, and a burst of more connections would lose some for a second.
            listen(&listener, Backlog::MAXCONN)?;
            let query_address = listener.local_addr()?;
            Ok((listener, query_address))
        });
        let (listener, query_address) = bound.map_err(|source| Error::Bind { address, source })?;
        let router = BoundRouter::bind(config.rpc_address)?;
        Ok(Self { config, listener, query_address, router })
    }

    /// Where applications are answered, with the port that was picked.
    pub fn query_address(&self) -> SocketAddr {
        self.query_address
    }

    /// Where containers connect, with the port that was picked.
    pub fn rpc_address(&self) -> SocketAddr {
        self.router.address()
    }

    /// Serves until `shutdown` resolves, then finishes what was accepted. Must run in an actix system.
    ///
    /// # Errors
    /// If the HTTP server fails.
    pub async fn run(
        self,
        management: Arc<dyn Management>,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), Error> {
        let Self { config, listener, query_address, router } = self;
        let mut shutdown = pin!(shutdown);
        let directory = Arc::new(Directory::default());
        let connections = Connections::default();
        let query_ids = Arc::new(QueryIds::default());
        let log = config.decision_log.clone();
        let log = log.map(|log| DecisionLog::start(log, Arc::clone(&query_ids))).transpose();
        let facilities = Arc::new(Facilities {
            users: Arc::new(UserStates::new(config.selection_bytes)),
            decisions: Arc::new(Decisions::new(config.decision_capacity)),
            log: log.map_err(Error::DecisionLog)?,
            wake: Arc::default(),
        });
        let outbox = Arc::new(Outbox::default());
        let state = Arc::new(http::State {
            directory: Arc::clone(&directory),
            facilities: Arc::clone(&facilities),
            outbox: Arc::clone(&outbox),
            query_ids,
            door: config.door.clone(),
            max_body_bytes: config.max_body_bytes,
            max_inputs: config.max_inputs,
            parsers: Semaphore::new(num_cpus()),
            connections: connections.clone(),
            ready: AtomicBool::new(false),
        });

        let cache = Arc::new(PredictionCache::new(config.cache_bytes));
        let (arbiter, learning) = (Arbiter::new(), Arbiter::new());
        let frontend = Uuid::new_v4();
        let (followed, first_snapshot) = oneshot::channel();
        let follower = {
            let (directory, query_ids) = (Arc::clone(&directory), Arc::clone(&state.query_ids));
            let cache = Arc::clone(&cache);
            let (management, facilities) = (Arc::clone(&management), Arc::clone(&facilities));
            let config = FollowerConfig {
                frontend,
                applications: learning.handle(),
                query_address: advertise(&config, query_address),
                rpc_address: advertise(&config, router.address()),
                queue_capacity: config.queue_capacity,
                max_batch_size: config.max_batch_size,
            };
            Follower::start_in_arbiter(&arbiter.handle(), move |_| {
                Follower::new(management, directory, query_ids, cache, facilities, config, followed)
            })
        };

        let exchange = Exchange {
            management,
            directory: Arc::clone(&directory),
            facilities: Arc::clone(&facilities),
            outbox,
            query_ids: Arc::clone(&state.query_ids),
            frontend,
            period: config.state_flush,
        };
        let (stop_exchange, stopped) = oneshot::channel();
        learning.spawn_fn(move || drop(actix_rt::spawn(exchange.run(stopped))));

        let workers = config.http_workers.map_or_else(num_cpus, NonZeroUsize::get);
        let application = {
            let state = Arc::clone(&state);
            let request_bytes = RequestBytes::new(config.request_bytes);
            // Called once by each worker, on its own thread.
            move || {
                let predictor = Predictor {
                    cache: Arc::clone(&cache),
                    alarms: Rc::default(),
                    departures: Rc::default(),
                    mailbox: Arc::default(),
                    query_ids: Arc::clone(&state.query_ids),
                };
                actix_rt::spawn(Rc::clone(&predictor.alarms).run());
                actix_rt::spawn(Rc::clone(&predictor.departures).run());
                actix_rt::spawn(Arc::clone(&predictor.mailbox).deliver());
                let worker = Rc::new(http::Worker {
                    state: Arc::clone(&state),
                    request_bytes: request_bytes.worker(),
                    predictor,
                });
                let serve = move |request, payload| http::serve(Rc::clone(&worker), request, payload);
                App::new().default_service(web::to(serve))
            }
        };
        let serving = Serving { workers, max_connections: MAX_CONNECTIONS, drain: config.drain_timeout };
        let server = serve(listener, serving, connections, application)?;
        let http = server.handle();
        let server = actix_rt::spawn(server);
        let rpc_address = router.address();
        let tokens = ContainerTokens::new(rpc_address, config.container_token, config.insecure_containers);
        info!(query = %query_address, rpc = %rpc_address, "frontend started");
        if !tokens.are_required() && !rpc_address.ip().to_canonical().is_loopback() {
            warn!("containers need no token: whoever reaches {rpc_address} can answer for any model");
        }

        let terms = Terms {
            heartbeat: config.heartbeat,
            timeout: config.container_timeout,
            drain: Duration::from_secs(1),
            overdue: Duration::from_secs(30),
        };
        // Containers wait at the door until it is known what is served: none is turned away for a model yet to be heard of.
        let serving = tokio::select! {
            _ = first_snapshot => true,
            () = &mut shutdown => false,
        };
        let router = serving.then(|| {
            let handle = router.handle();
            let reception = Reception {
                arbiter: arbiter.handle(),
                router: router.handle(),
                tokens,
                directory,
                terms,
                connections: HashMap::new(),
                turned_away: HashSet::new(),
            };
            state.ready.store(true, Ordering::Relaxed);
            let (ended, end) = oneshot::channel();
            // On the thread of the actors that it works for.
            arbiter.spawn_fn(move || {
                actix_rt::spawn(async move {
                    if let Err(error) = router.serve(reception).await {
                        error!(%error, "cannot serve containers");
                    }
                    let _ = ended.send(());
                });
            });
            (handle, end)
        });
        if serving {
            shutdown.await;
        }

        info!("frontend stopping");
        http.stop(true).await;
        if let Some((handle, end)) = router {
            let (emptied, all_gone) = oneshot::channel();
            follower.do_send(StandDown(emptied));
            let _ = tokio::time::timeout(2 * terms.drain, all_gone).await;
            handle.shut_down();
            let _ = end.await;
        }
        let (finished, exchanged) = oneshot::channel();
        if stop_exchange.send(finished).is_ok() {
            let _ = tokio::time::timeout(LAST_EXCHANGE, exchanged).await;
        }
        let flush = move || facilities.log.iter().for_each(|log| log.flush(LAST_EXCHANGE));
        let _ = actix_rt::task::spawn_blocking(flush).await;
        arbiter.stop();
        learning.stop();
        match server.await {
            Ok(result) => Ok(result?),
            Err(_) => Ok(()),
        }
    }
}

/// The address that others are told.
fn advertise(config: &Config, address: SocketAddr) -> String {
    match &config.advertised_host {
        Some(host) => format!("{host}:{}", address.port()),
        None => address.to_string(),
    }
}

fn num_cpus() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}
