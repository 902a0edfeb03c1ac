//! What is counted of the feedback on one application.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;
use utoipa::ToSchema;

/// What was done with feedback that is right in itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = Status)]
pub enum FeedbackStatus {
    /// The application's policy learns from it.
    Applied,
    /// There was feedback on the query before.
    Duplicate,
    /// It was passed on to the frontend that answered the query.
    Forwarded,
    /// Nothing follows from it, as no model's output is known.
    NothingLearned,
    /// The application has no policy that learns.
    NoPolicy,
}

impl FeedbackStatus {
    /// Every status.
    pub const ALL: [Self; 5] =
        [Self::Applied, Self::Duplicate, Self::Forwarded, Self::NothingLearned, Self::NoPolicy];

    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Duplicate => "duplicate",
            Self::Forwarded => "forwarded",
            Self::NothingLearned => "nothing_learned",
            Self::NoPolicy => "no_policy",
        }
    }

    /// The sentence for it.
    pub fn explanation(self) -> &'static str {
        match self {
            Self::Applied => "the application's policy learns from it",
            Self::Duplicate => "there was feedback on this query before; this one is ignored",
            Self::Forwarded => {
                "it is passed on to the frontend that answered the query; of no effect if that has ended or forgotten it"
            }
            Self::NothingLearned => {
                "nothing follows from it for any model: no model's output is judged by it"
            }
            Self::NoPolicy => "the application's policy learns nothing from feedback",
        }
    }
}

/// The counts, from when this frontend heard of the application.
#[derive(Debug, Default)]
pub struct FeedbackMetrics {
    /// By the discriminant of the status.
    statuses: [AtomicU64; FeedbackStatus::ALL.len()],
    refused: AtomicU64,
    /// States with changes that are not stored.
    unsent: AtomicU64,
    dropped_changes: AtomicU64,
    dropped_records: AtomicU64,
    missed_outputs: AtomicU64,
}

impl FeedbackMetrics {
    /// Counts feedback with which this was done.
    pub fn record(&self, status: FeedbackStatus) {
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

    /// Counts records that are missing in the decision log.
    pub fn drop_records(&self, records: u64) {
        self.dropped_records.fetch_add(records, Ordering::Relaxed);
    }

    /// Counts a query whose slower models are not listened to after the answer, as too many others'
    /// are.
    pub fn miss_outputs(&self) {
        self.missed_outputs.fetch_add(1, Ordering::Relaxed);
    }

    /// How much feedback there was with which this was done.
    pub fn recorded(&self, status: FeedbackStatus) -> u64 {
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
