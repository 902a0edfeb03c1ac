//! What is asked of a run.

use std::time::Duration;

use crate::load::{Arrivals, Shape, Target};

/// A measurement.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Where the requests go.
    pub target: Target,
    /// What the requests are.
    pub shape: Shape,
    /// When they are sent.
    pub pace: Pace,
    /// How many connections there are, over all threads. Each has one request at a time.
    pub connections: usize,
    /// How many threads send.
    pub threads: usize,
    /// How long to send before anything counts.
    pub warm_up: Duration,
    /// How long to send what counts.
    pub duration: Duration,
    /// After how long a request is given up.
    pub timeout: Duration,
    /// Within which time an answer is good.
    pub objective: Duration,
    /// What random choices follow from.
    pub seed: u64,
}

/// When requests are sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// Closed loop: on each connection the next one when the last is answered.
    Closed,
    /// Open loop: by a schedule, whatever becomes of them.
    Open {
        /// Requests a second, over all threads.
        rate: f64,
        /// How they are spread over the second.
        arrivals: Arrivals,
    },
}
