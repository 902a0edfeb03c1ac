//! Conversation with management: what is served comes from there, what is learned goes there and back.
//!
//! - [`client`]: management over HTTP.
//! - [`follower`]: the actor that follows the catalog, and the only writer of the directory.
//! - [`exchange`]: the task that exchanges what is learned. [`outbox`]: what HTTP workers leave for it.
//!   `inbox`: feedback that other frontends received.

pub mod client;
pub mod exchange;
pub mod follower;
mod inbox;
pub mod outbox;
