//! The query frontend: predictions over REST, answered by model containers within the latency
//! objective.
//!
//! # Layout
//! Rooms in the order of a prediction:
//! - `http`: the REST interface. `query`: parsing of bodies, straight into the bytes that travel.
//! - `application`: what requests read of their application, and the actor that publishes it.
//! - `prediction`: from a query to an answer by its deadline, by one model or several.
//! - `worker`: what one HTTP worker has for all its requests: timers, the buffer of queries to send.
//! - `computation`: one input on its way to a model and back, for every query that waits for it; the
//!   cache of outputs.
//! - `queue`: the queries that wait for a version of a model. `batching`: how many inputs go into a
//!   batch, and when.
//! - `replicas`: where containers register, and the actors that serve them batches.
//!
//! Beside that way:
//! - `selection`: what is learned and decided among models.
//! - `management`: following management, and exchanging with it what is learned.
//! - `directory`: what is served at the moment; read without a lock.
//! - `metrics`: recording only; `http` reports it.
//! - `frontend` puts these together, `shutdown` ends them in order.
//!
//! The rule of the hot path: per query function calls, per batch one message, per change messages.

mod application;
mod batching;
mod computation;
mod config;
mod directory;
mod frontend;
mod http;
mod management;
mod metrics;
mod output_json;
mod prediction;
mod query;
mod queue;
mod replicas;
mod selection;
mod shutdown;
mod worker;

pub use self::config::Config;
pub use self::frontend::{Error, Frontend};
pub use self::management::client::{ManagementClient, UrlError};
pub use self::query::{Inputs, Query, QueryError};
pub use self::queue::Capacity;
pub use self::selection::decision_log::DecisionLogConfig;

/// Parts that the benchmarks measure by themselves. Not for use.
#[doc(hidden)]
pub mod parts {
    pub use crate::batching::{Controller, Observation};
    pub use crate::computation::cache::{Claim, Key, PredictionCache, Source};
    pub use crate::computation::mailbox::{Delivery, Mailbox};
    pub use crate::computation::{Computation, Waiter};
    pub use crate::metrics::{ApplicationMetrics, Histogram, ModelMetrics, Outcome, ReplicaMetrics};
    pub use crate::queue::{Entry, Queue, Readiness, Work};
}
