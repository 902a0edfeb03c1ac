//! Whole clusters of real processes and sockets, for tests.
//!
//! A test starts a [`Cluster`], starts containers for it, asks for predictions, and breaks things. Nothing is shared between
//! tests: each cluster has its own temporary directory and its own loopback address, and whatever a test started is gone
//! when it ends.
//!
//! # Layout
//! - [`program`]: where the programs under test are.
//! - [`server`]: one `clipper` process; [`cluster`]: those of a cluster, and what is asked of them.
//! - [`container`]: real containers; [`raw_container`]: one that says whatever a test makes it say; [`automaton`]: one that
//!   answers by itself as it is told.
//! - [`load`]: clients in the background; [`wait`]: waiting for a condition; [`survivors`]: what outlived its cluster;
//!   [`stuck`]: what a process may wait for in vain.

pub mod answer;
pub mod automaton;
pub mod cluster;
pub mod container;
pub mod load;
pub mod program;
pub mod raw_container;
pub mod server;
pub mod stuck;
pub mod survivors;
pub mod wait;

pub use self::answer::Answer;
pub use self::automaton::Automaton;
pub use self::cluster::Cluster;
pub use self::container::Container;
pub use self::load::{Load, Outcomes};
pub use self::raw_container::RawContainer;
pub use self::wait::{eventually, eventually_some};
