//! What HTTP workers leave for the exchange with management, and what it counts for scrapes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use clipper_rpc::selection::ForwardedFeedback;

/// How many feedbacks may wait to be passed on to other frontends.
const MOST_FORWARDED: usize = 10_000;

/// The outbox of one frontend.
#[derive(Default)]
pub struct Outbox {
    /// Held for a push or a swap.
    forwarded: Mutex<Vec<ForwardedFeedback>>,
    made: AtomicU64,
    failed: AtomicU64,
}

impl Outbox {
    /// Has feedback passed on to the frontend that answered the query; whether there is room for it.
    pub fn forward(&self, feedback: ForwardedFeedback) -> bool {
        let mut forwarded = self.lock();
        let room = forwarded.len() < MOST_FORWARDED;
        if room {
            forwarded.push(feedback);
        }
        room
    }

    /// Takes what is to be passed on.
    pub fn take(&self) -> Vec<ForwardedFeedback> {
        std::mem::take(&mut *self.lock())
    }

    /// Counts an exchange.
    pub fn succeed(&self) {
        self.made.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a call that failed.
    pub fn fail(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    /// How many exchanges there were.
    pub fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }

    /// How many calls failed.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<ForwardedFeedback>> {
        self.forwarded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
