//! What is counted of the feedback on one application.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::selection::feedback::Status;

/// The counts, from when this frontend heard of the application.
#[derive(Debug, Default)]
pub struct FeedbackMetrics {
    /// By the discriminant of the status.
    statuses: [AtomicU64; Status::ALL.len()],
    refused: AtomicU64,
    /// States with changes that are not stored.
    unsent: AtomicU64,
    dropped_changes: AtomicU64,
    dropped_records: AtomicU64,
    missed_outputs: AtomicU64,
}

impl FeedbackMetrics {
    /// Counts feedback with which this was done.
    pub fn record(&self, status: Status) {
        self.statuses[status as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts feedback that was refused.
    pub fn refuse(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Says how many states have changes that are not stored.
    pub fn set_unsent(&self, states: usize) {
        self.unsent.store(states as u64, Ordering::Relaxed);
    }

    /// Counts changes of users' states that were dropped before they were stored, those of one user
    /// at once as one.
    pub fn drop_changes(&self, users: usize) {
        self.dropped_changes.fetch_add(users as u64, Ordering::Relaxed);
    }

    /// Counts a record that is missing in the decision log.
    pub fn drop_record(&self) {
        self.dropped_records.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a query whose slower models are not listened to after the answer, as too many others'
    /// are.
    pub fn miss_outputs(&self) {
        self.missed_outputs.fetch_add(1, Ordering::Relaxed);
    }

    /// How much feedback there was with which this was done.
    pub fn recorded(&self, status: Status) -> u64 {
        self.statuses[status as usize].load(Ordering::Relaxed)
    }

    /// How much was refused.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// How many states have changes that are not stored.
    pub fn unsent(&self) -> u64 {
        self.unsent.load(Ordering::Relaxed)
    }

    /// Changes of users' states that were dropped before they were stored.
    pub fn dropped_changes(&self) -> u64 {
        self.dropped_changes.load(Ordering::Relaxed)
    }

    /// Queries whose slower models were not listened to after the answer.
    pub fn missed_outputs(&self) -> u64 {
        self.missed_outputs.load(Ordering::Relaxed)
    }

    /// How many records are missing in the decision log.
    pub fn dropped_records(&self) -> u64 {
        self.dropped_records.load(Ordering::Relaxed)
    }
}
