//! What both HTTP servers have in common: how they listen, which requests they take, how they tell of their metrics,
//! and how they notice that a client has gone.
//!
//! A crate of its own because `frontend` and `management` must not know each other, and `rpc` knows no HTTP.
//!
//! # Layout
//! - [`door`]: which requests of browsers are taken; [`arrival`]: at which address a connection arrived.
//! - [`families`]: writes families of metrics, one after the other; [`answer`]: the forms in which they are answered.
//! - [`http_server`]: a server; [`client_stream`]: its connections; `unreadable`: requests that cannot be read.
//! - [`hangup`]: clients that go away while they are being answered.
//! - [`process`]: CPU, memory, descriptors and threads; [`connections`]: the open HTTP connections.
//! - [`report`]: the JSON of the original Clipper.

pub mod answer;
pub mod arrival;
pub mod client_stream;
pub mod connections;
pub mod door;
pub mod families;
pub mod hangup;
pub mod http_server;
pub mod process;
pub mod report;
mod unreadable;

pub use self::answer::{Form, text};
pub use self::connections::Connections;
pub use self::families::Families;
pub use self::http_server::{Serving, serve};
pub use self::report::Report;
