//! Puts the parts of a frontend together.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use actix::prelude::*;
use actix_rt::task::JoinHandle;
use actix_web::dev::ServerHandle;
use actix_web::{App, web};
use clipper_rpc::catalog::Management;
use clipper_rpc::router::{BindError, BoundRouter};
use clipper_server::private_directory::{self, DirectoryError, ExposedDirectory};
use clipper_server::{Connections, Essentials, PartEnded, Serving, serve};
use nix::sys::socket::{Backlog, listen};
use tokio::sync::{Semaphore, oneshot};
use tracing::{info, warn};
use uuid::Uuid;

use crate::computation::cache::PredictionCache;
use crate::config::Config;
use crate::directory::Directory;
use crate::http;
use crate::management::exchange::Exchange;
use crate::management::follower::{Follower, FollowerConfig};
use crate::management::outbox::Outbox;
use crate::prediction::{ModelCaller, Predictor};
use crate::query::ids::QueryIds;
use crate::replicas::connection::Timeouts;
use crate::replicas::reception::Reception;
use crate::replicas::strangers::Strangers;
use crate::replicas::tokens::ContainerTokens;
use crate::selection::Facilities;
use crate::selection::decision_log::{self, DecisionLog, DecisionLogConfig};
use crate::selection::decisions::Decisions;
use crate::selection::users::UserStates;
use crate::shutdown::{Running, RunningRouter};
use crate::worker::request_bytes::RequestBytes;

/// The most connections of one HTTP worker.
const MAX_CONNECTIONS: usize = 25_600;
/// How many times the containers' timeout one may be silent while its connection lives: longer than
/// any batch that it may be computing for another frontend.
const SILENT_TIMEOUTS: u32 = 120;

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
    /// A part of the frontend has ended without which it cannot answer.
    #[error(transparent)]
    PartEnded(#[from] PartEnded),
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
    /// If the HTTP server fails, or an essential part ends. The process must end then: what was
    /// accepted is not finished.
    pub async fn run(
        self,
        management: Arc<dyn Management>,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), Error> {
        let Self { config, listener, query_address, router } = self;
        let mut shutdown = pin!(shutdown);
        let shared = Shared::new(&config)?;
        let arbiters = [Arbiter::new(), Arbiter::new()];
        let [actors, learning] = &arbiters;
        let addresses =
            Addresses { query: advertise(&config, query_address), rpc: advertise(&config, router.address()) };
        let (follower, first_snapshot) =
            shared.start_follower(&config, addresses, &management, actors, learning);
        let exchange = shared.start_exchange(&config, management, learning);
        let state = shared.http_state(&config);
        let (http, server) = shared.start_http(&config, listener, &state)?;
        let tokens = ContainerTokens::new(
            router.address(),
            config.container_token.clone(),
            config.insecure_containers,
        );
        info!(query = %query_address, rpc = %router.address(), "frontend started");
        if !tokens.are_required() && !router.address().ip().to_canonical().is_loopback() {
            let address = router.address();
            warn!("containers need no token: whoever reaches {address} can answer for any model");
        }
        let mut running = Running {
            http,
            server,
            drain: config.drain_timeout,
            follower,
            router: None,
            exchange,
            facilities: Arc::clone(&shared.facilities),
            arbiters,
        };
        let served = async {
            // Containers are not received before it is known what is served: otherwise a container
            // would be rejected for a model that the frontend is about to hear of.
            tokio::select! {
                Ok(()) = first_snapshot => {}
                () = &mut shutdown => return,
            }
            state.ready.store(true, Ordering::Relaxed);
            running.router = Some(shared.start_router(&config, router, tokens, &running.arbiters[0]));
            shutdown.await;
        };
        tokio::select! {
            () = served => Ok(running.stop().await?),
            part = shared.essentials.part_ended() => {
                state.ready.store(false, Ordering::Relaxed);
                running.abandon();
                Err(part.into())
            }
        }
    }
}

/// What the parts of a running frontend share.
struct Shared {
    /// This run of the frontend.
    frontend: Uuid,
    directory: Arc<Directory>,
    cache: Arc<PredictionCache>,
    facilities: Arc<Facilities>,
    outbox: Arc<Outbox>,
    query_ids: Arc<QueryIds>,
    connections: Connections,
    essentials: Essentials,
}

/// Addresses under which others reach this frontend.
struct Addresses {
    query: String,
    rpc: String,
}

impl Shared {
    /// Starts the thread of the decision log, if there is one to write.
    fn new(config: &Config) -> Result<Self, Error> {
        let essentials = Essentials::default();
        let query_ids = Arc::new(QueryIds::starting(SystemTime::now()));
        let log = config.decision_log.clone().map(|log| {
            let part = essentials.part("the thread that writes the decision log");
            DecisionLog::start(log, Arc::clone(&query_ids), part)
        });
        let facilities = Facilities {
            users: Arc::new(UserStates::new(config.selection_bytes)),
            decisions: Arc::new(Decisions::new(config.decision_capacity)),
            log: log.transpose().map_err(Error::DecisionLog)?,
            wake: Arc::default(),
        };
        Ok(Self {
            frontend: Uuid::new_v4(),
            directory: Arc::default(),
            cache: Arc::new(PredictionCache::new(config.cache_bytes)),
            facilities: Arc::new(facilities),
            outbox: Arc::default(),
            query_ids,
            connections: Connections::default(),
            essentials,
        })
    }

    /// Starts the actor that follows management. The receiver is told once the first snapshot is in
    /// force.
    fn start_follower(
        &self,
        config: &Config,
        addresses: Addresses,
        management: &Arc<dyn Management>,
        actors: &Arbiter,
        learning: &Arbiter,
    ) -> (Addr<Follower>, oneshot::Receiver<()>) {
        let (followed, first_snapshot) = oneshot::channel();
        let (directory, query_ids) = (Arc::clone(&self.directory), Arc::clone(&self.query_ids));
        let (cache, facilities) = (Arc::clone(&self.cache), Arc::clone(&self.facilities));
        let management = Arc::clone(management);
        let config = FollowerConfig {
            frontend: self.frontend,
            applications: learning.handle(),
            query_address: addresses.query,
            rpc_address: addresses.rpc,
            queue_capacity: config.queue_capacity,
            max_batch_size: config.max_batch_size,
            essentials: self.essentials.clone(),
        };
        let follower = Follower::start_in_arbiter(&actors.handle(), move |_| {
            Follower::new(management, directory, query_ids, cache, facilities, config, followed)
        });
        (follower, first_snapshot)
    }

    /// Starts the exchange with management of what is learned. The sender stops it.
    fn start_exchange(
        &self,
        config: &Config,
        management: Arc<dyn Management>,
        learning: &Arbiter,
    ) -> oneshot::Sender<oneshot::Sender<()>> {
        let exchange = Exchange {
            management,
            directory: Arc::clone(&self.directory),
            facilities: Arc::clone(&self.facilities),
            outbox: Arc::clone(&self.outbox),
            query_ids: Arc::clone(&self.query_ids),
            frontend: self.frontend,
            period: config.state_flush,
        };
        let (stop, stopped) = oneshot::channel();
        let part = self.essentials.part("the exchange with management of what is learned");
        learning.spawn_fn(move || drop(actix_rt::spawn(part.run(exchange.run(stopped)))));
        stop
    }

    fn http_state(&self, config: &Config) -> Arc<http::State> {
        Arc::new(http::State {
            directory: Arc::clone(&self.directory),
            facilities: Arc::clone(&self.facilities),
            outbox: Arc::clone(&self.outbox),
            query_ids: Arc::clone(&self.query_ids),
            door: config.door.clone(),
            max_body_bytes: config.max_body_bytes,
            max_inputs: config.max_inputs,
            parsers: Semaphore::new(num_cpus()),
            connections: self.connections.clone(),
            ready: AtomicBool::new(false),
        })
    }

    /// Starts the HTTP workers.
    fn start_http(
        &self,
        config: &Config,
        listener: TcpListener,
        state: &Arc<http::State>,
    ) -> Result<(ServerHandle, JoinHandle<io::Result<()>>), Error> {
        let (state, cache) = (Arc::clone(state), Arc::clone(&self.cache));
        let request_bytes = RequestBytes::new(config.request_bytes);
        let essentials = self.essentials.clone();
        // Called once by each worker, on its own thread.
        let application = move || {
            let models = ModelCaller {
                cache: Arc::clone(&cache),
                timers: Rc::default(),
                send_buffer: Rc::default(),
                mailbox: Arc::default(),
            };
            let part = |what| essentials.part(format!("{what} of an HTTP worker"));
            actix_rt::spawn(part("the timers").run(Rc::clone(&models.timers).run()));
            actix_rt::spawn(part("the send buffer").run(Rc::clone(&models.send_buffer).run()));
            actix_rt::spawn(part("the mailbox").run(Arc::clone(&models.mailbox).deliver()));
            let worker = Rc::new(http::Worker {
                state: Arc::clone(&state),
                request_bytes: request_bytes.worker(),
                predictor: Predictor { models, query_ids: Arc::clone(&state.query_ids) },
            });
            let serve = move |request, payload| http::serve(Rc::clone(&worker), request, payload);
            App::new().default_service(web::to(serve))
        };
        let serving = Serving {
            workers: config.http_workers.map_or_else(num_cpus, NonZeroUsize::get),
            max_connections: MAX_CONNECTIONS,
            keep_alive: config.keep_alive,
            drain: config.drain_timeout,
        };
        let server = serve(listener, serving, self.connections.clone(), application)?;
        let handle = server.handle();
        let part = self.essentials.part("the query interface");
        Ok((handle, actix_rt::spawn(part.try_run(server))))
    }

    /// Receives containers, on the thread of the actors that the router works for.
    fn start_router(
        &self,
        config: &Config,
        router: BoundRouter,
        tokens: ContainerTokens,
        actors: &Arbiter,
    ) -> RunningRouter {
        let (handle, stopping) = (router.handle(), Arc::<AtomicBool>::default());
        let reception = Reception {
            router: router.handle(),
            tokens,
            served: Arc::clone(&self.directory.models),
            timeouts: Timeouts {
                heartbeat: config.heartbeat,
                timeout: config.container_timeout,
                silence: SILENT_TIMEOUTS * config.container_timeout,
                drain: Duration::from_secs(1),
                overdue: Duration::from_secs(30),
            },
            connections: HashMap::new(),
            strangers: Strangers::default(),
            stopping: Arc::clone(&stopping),
        };
        let part = self.essentials.part("the router of the container port");
        let (end, ended) = oneshot::channel();
        actors.spawn_fn(move || {
            actix_rt::spawn(async move {
                // An error is the reason that ends the process.
                let _ = part.try_run(router.serve(reception)).await;
                let _ = end.send(());
            });
        });
        RunningRouter { handle, stopping, ended }
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
