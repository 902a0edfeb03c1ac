//! Configuration of a frontend.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::Duration;

use clipper_rpc::secret::Secret;
use clipper_server::KEEP_ALIVE;
use clipper_server::door::Door;

use crate::queue::Capacity;
use crate::selection::decision_log::DecisionLogConfig;

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
    /// How long a connection of a client stays open between two requests.
    pub keep_alive: Duration,
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
            keep_alive: KEEP_ALIVE,
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
