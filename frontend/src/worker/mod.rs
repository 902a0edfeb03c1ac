//! Parts of one HTTP worker that all its requests share. Nothing here leaves the worker's thread but
//! [`request_bytes`], whose bound holds for all workers.
//!
//! - [`Timers`]: deadlines of requests.
//! - [`SendBuffer`]: queries of one turn of the worker, on their way to the queues.
//! - [`Turns`]: pauses of long requests, in which others have their turn.
//! - [`request_bytes`]: the bound on the memory of all requests in progress.

pub mod request_bytes;
mod send_buffer;
mod timers;
mod turns;

pub use self::send_buffer::SendBuffer;
pub use self::timers::Timers;
pub use self::turns::Turns;
