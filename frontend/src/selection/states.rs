//! What is learned for one application: read by every query without a lock, changed by its actor only.

use std::sync::Arc;

use clipper_rpc::selection::{Statistics, Uid};
use clipper_selection::learner::Beliefs;

/// The states of one application, since one revision.
pub struct States {}

/// A state after a number of changes of the application's states.
pub struct Versioned {
    /// How many changes there were.
    pub version: u64,
    /// What is learned,
    pub statistics: Statistics,
    /// prepared for choosing.
    pub beliefs: Beliefs,
}

impl States {
    /// The shared state.
    pub fn shared(&self) -> Arc<Versioned> {
        todo!()
    }

    /// A user's state. None if it is not in memory: then it is asked for, and whoever comes in a moment finds it.
    pub fn own(&self, uid: &Uid) -> Option<Arc<Versioned>> {
        todo!("{uid}")
    }
}
