//! The query frontend: predictions over REST, answered by model containers within the latency objective.
//!
//! # Layout
//! The path of a prediction, from the door to the container:
//! - `http`: the REST interface; [`query`] parses a body straight into what will travel.
//! - [`prediction`]: asks the right queue, and answers by the deadline whatever happens, for which it has [`alarms`].
//! - [`selection`]: asks several models, where the application selects among them.
//! - [`request_bytes`]: the bound on the memory of all requests.
//! - [`departures`]: what one turn of an HTTP worker asks, on its way to the queues.
//! - [`queue`] and [`computation`]: the queries that wait for a model, and what it is asked for them.
//! - [`container_connection`]: pulls batches, and hands them to the router.
//! - [`batching`]: how many inputs go into a batch, and when.
//!
//! What it serves, and how it learns of it:
//! - [`directory`] and [`view`]: read-only maps and views for the hot path.
//! - [`follower`]: follows management and is the only writer of the directory;
//!   [`management_client`] reaches management over HTTP.
//! - [`application`] and [`model_queue`]: the actors of an application, and of a version of a model, with
//!   `replica_numbers`.
//! - [`exchange`]: what is learned, to and from management; [`outbox`]: what HTTP workers leave for it; `inbox`: feedback
//!   that other frontends received.
//! - [`reception`]: where containers arrive; [`container_tokens`]: the check of their tokens.
//! - [`metrics`]: what is counted and timed on the way.
//!
//! The rule of the hot path: per query function calls, per batch one message, per change messages.

pub mod admission;
pub mod alarms;
pub mod application;
pub mod batching;
pub mod cache;
pub mod computation;
pub mod container_connection;
pub mod container_tokens;
pub mod departures;
pub mod directory;
pub mod exchange;
pub mod failure;
pub mod follower;
mod frontend;
mod http;
mod inbox;
pub mod management_client;
pub mod metrics;
pub mod model_queue;
pub mod outbox;
mod output_json;
pub mod prediction;
pub mod query;
pub mod query_ids;
pub mod queue;
pub mod reception;
mod replica_numbers;
pub mod reply;
pub mod request_bytes;
pub mod selection;
pub mod view;

pub use self::frontend::{Config, Error, Frontend};
pub use self::management_client::{ManagementClient, UrlError};
