//! Parts that both HTTP servers have in common: a server, the rules for browsers, the forms of their metrics,
//! clients that go away, and directories that are closed to other users.
//!
//! A crate of its own because `frontend` and `management` must not know each other, and `rpc` knows no HTTP.
//!
//! # Layout
//! - [`door`]: which requests of browsers are taken; [`arrival`]: at which address a connection arrived.
//! - [`families`]: writes families of metrics, one after the other; [`answer`]: the forms in which they are answered.
//! - [`http_server`]: a server; [`client_stream`]: its connections; `unreadable`: requests that cannot be read.
//! - [`connection`]: the state of one connection; `requests` notes which of its requests is in progress; `keep_alive`:
//!   how long connections stay open.
//! - [`essential`]: parts without which a process must not go on.
//! - [`process`]: CPU, memory, descriptors and threads; [`connections`]: the open HTTP connections.
//! - [`private_directory`]: directories that only their owner can use.
//! - [`report`]: the JSON of the original Clipper.

pub mod answer;
pub mod arrival;
pub mod client_stream;
pub mod connection;
pub mod connections;
pub mod door;
pub mod essential;
pub mod families;
pub mod http_server;
mod keep_alive;
pub mod private_directory;
pub mod process;
pub mod report;
mod requests;
mod unreadable;

pub use self::answer::{Form, text};
pub use self::connections::Connections;
pub use self::essential::{EssentialPart, Essentials, PartEnded};
pub use self::families::Families;
pub use self::http_server::{KEEP_ALIVE, Serving, serve};
pub use self::report::Report;
