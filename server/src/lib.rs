//! Parts that both HTTP servers have in common: the forms of their metrics, clients that go away, and
//! directories that are closed to other users.
//!
//! A crate of its own because `frontend` and `management` must not know each other, and `rpc` knows no HTTP.
//!
//! # Layout
//! - [`families`]: writes families of metrics, one after the other; [`answer`]: the forms in which they are answered.
//! - [`hangup`]: clients that go away while they are being answered.
//! - [`process`]: CPU, memory, descriptors and threads; [`connections`]: the open HTTP connections.
//! - [`private_directory`]: directories that only their owner can use.
//! - [`report`]: the JSON of the original Clipper.

pub mod answer;
pub mod connections;
pub mod families;
pub mod hangup;
pub mod private_directory;
pub mod process;
pub mod report;

pub use self::answer::{Form, text};
pub use self::connections::Connections;
pub use self::families::Families;
pub use self::report::Report;
