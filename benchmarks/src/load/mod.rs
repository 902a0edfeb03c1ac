//! One measurement: requests to one URL for a while.
//!
//! Invariant: in an open loop a latency counts from the moment at which the request was meant to be sent, however late the generator or
//! the server's connections were. So no stall hides the requests that it delayed ("coordinated omission", Gil Tene).
//!
//! # Layout
//! - [`plan`]: what is asked of a run; [`target`]: where to.
//! - [`inputs`]: the values that are sent, [`requests`]: the requests around them.
//! - [`schedule`]: when they are sent.
//! - [`response`]: reading answers, [`verdict`]: what they say.
//! - `connection`, `sleep`, `worker`: the event loop of one thread.
//! - [`tally`]: what is counted, [`run`](run()): the threads together.

mod connection;
pub mod inputs;
pub mod plan;
pub mod requests;
pub mod response;
mod run;
pub mod schedule;
mod sleep;
pub mod tally;
pub mod target;
pub mod verdict;
mod worker;

pub use self::inputs::{InputKind, Inputs, Variety};
pub use self::plan::{Pace, Plan};
pub use self::requests::Shape;
pub use self::run::{Error, Observer, run};
pub use self::schedule::Arrivals;
pub use self::target::Target;
