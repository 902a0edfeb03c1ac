//! What is counted of one model among those that an application's policy selects from.

use std::sync::atomic::{AtomicU64, Ordering};

/// The counts of one model for one application.
#[derive(Debug, Default)]
pub struct CandidateMetrics {
    /// By the discriminant of what came of it.
    asked: [AtomicU64; Contribution::ALL.len()],
}

/// What came of asking a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contribution {
    /// An output, in time.
    Answered,
    /// Word that there would be none.
    Failed,
    /// Nothing by the deadline.
    Late,
    /// Nothing before the answer was certain without it.
    Unneeded,
}

impl Contribution {
    /// Every one, in the order of their discriminants.
    pub const ALL: [Self; 4] = [Self::Answered, Self::Failed, Self::Late, Self::Unneeded];

    /// The name under which metrics report it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Failed => "failed",
            Self::Late => "late",
            Self::Unneeded => "unneeded",
        }
    }
}

impl CandidateMetrics {
    /// Counts a query for which the model was asked.
    pub fn count(&self, contribution: Contribution) {
        self.asked[contribution as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How many ended so.
    pub fn asked(&self, contribution: Contribution) -> u64 {
        self.asked[contribution as usize].load(Ordering::Relaxed)
    }
}
