//! Parts that both HTTP servers have in common: a server, the rules for browsers, the forms of their metrics,
//! clients that go away, and directories that are closed to other users.
//!
//! A crate of its own because `frontend` and `management` must not know each other, and `rpc` knows no HTTP.
//!
//! # Layout
//! - [`door`]: which requests of browsers are taken; [`arrival`]: at which address a connection arrived.
//! - [`families`]: writes families of metrics, one after the other; [`answer`]: the forms in which they are answered.
//! - [`http_server`]: a server; [`client_stream`]: its connections; `unreadable`: requests that cannot be read.
//! - [`hangup`]: clients that go away while they are being answered.
//! - [`process`]: CPU, memory, descriptors and threads; [`connections`]: the open HTTP connections.
//! - [`private_directory`]: directories that only their owner can use.
//! - [`report`]: the JSON of the original Clipper.

pub mod answer;
pub mod arrival;
pub mod client_stream;
pub mod connections;
pub mod door;
pub mod families;
pub mod hangup;
pub mod http_server;
pub mod private_directory;
pub mod process;
pub mod report;
mod unreadable;

pub use self::answer::{Form, text};
pub use self::connections::Connections;
pub use self::families::Families;
pub use self::http_server::{Serving, serve};
pub use self::report::Report;
