//! What is counted of one application.
//!
//! Shared by every view of the application, so that it survives each change of its configuration.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clipper_rpc::names::ModelName;

use super::candidate::CandidateMetrics;
use super::feedback::FeedbackMetrics;
use super::histogram::Histogram;
use super::meter::Meter;
use super::outcome::Outcome;
use super::window::Window;

/// The counts of one application, from when this frontend heard of it.
#[derive(Debug)]
pub struct ApplicationMetrics {
    requests: AtomicU64,
    refused: AtomicU64,
    /// By the discriminant of the outcome.
    answers: [AtomicU64; Outcome::ALL.len()],
    /// Taken at each change of the configuration.
    candidates: Mutex<BTreeMap<ModelName, Arc<CandidateMetrics>>>,
    /// What became of its feedback.
    pub feedback: FeedbackMetrics,
    /// In microseconds, of each input that was answered.
    pub(crate) latency: Histogram,
    pub(crate) recent_latency: Window,
    pub(crate) throughput: Meter,
}

impl ApplicationMetrics {
    /// Those of an application that is new.
    pub fn new(now: Instant) -> Self {
        Self {
            requests: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            answers: Default::default(),
            candidates: Mutex::default(),
            feedback: FeedbackMetrics::default(),
            latency: Histogram::default(),
            recent_latency: Window::new(now),
            throughput: Meter::new(now),
        }
    }

    /// Counts a request.
    pub fn request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// What is counted of each linked model that its policy may select from. What was counted of
    /// others is forgotten.
    pub fn candidates(&self, linked: &[&ModelName]) -> Vec<Arc<CandidateMetrics>> {
        let mut candidates = self.candidates.lock().unwrap_or_else(PoisonError::into_inner);
        let mut former = std::mem::take(&mut *candidates);
        for model in linked {
            candidates.insert((*model).clone(), former.remove(*model).unwrap_or_default());
        }
        linked.iter().map(|model| Arc::clone(&candidates[*model])).collect()
    }

    /// Counts an input that was answered so long after its request had arrived.
    pub fn record(&self, outcome: Outcome, latency: Duration) {
        self.answers[outcome as usize].fetch_add(1, Ordering::Relaxed);
        self.latency.record_duration(latency);
    }

    /// Counts a request that was refused.
    pub fn refuse(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// How many requests there were.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// How many of them were refused.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// How many inputs were answered so.
    pub fn answers(&self, outcome: Outcome) -> u64 {
        self.answers[outcome as usize].load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::super::candidate::Contribution;
    use super::*;

    #[test]
    fn what_is_counted_of_a_model_is_kept_while_it_is_linked() {
        let metrics = ApplicationMetrics::new(Instant::now());
        let models: Vec<ModelName> = ["a", "b"].map(|name| name.parse().unwrap()).into();
        let count = |counts: &CandidateMetrics| counts.asked(Contribution::Answered);
        metrics.candidates(&[&models[0], &models[1]])[1].count(Contribution::Answered);
        assert_eq!(count(&metrics.candidates(&[&models[1]])[0]), 1);
        assert_eq!(metrics.candidates.lock().unwrap().len(), 1);
        metrics.candidates(&[]);
        assert!(metrics.candidates.lock().unwrap().is_empty());
        assert_eq!(count(&metrics.candidates(&[&models[1]])[0]), 0);
    }

    #[test]
    fn answers_are_counted_by_outcome_and_timed_whatever_it_is() {
        let metrics = ApplicationMetrics::new(Instant::now());
        metrics.record(Outcome::Predicted, Duration::from_millis(1));
        metrics.record(Outcome::Predicted, Duration::from_millis(2));
        metrics.record(Outcome::Draining, Duration::from_secs(9));
        let counts: Vec<_> = Outcome::ALL.iter().map(|&outcome| metrics.answers(outcome)).collect();
        assert_eq!(counts, [2, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
        assert_eq!(metrics.latency.snapshot().sum, 9_003_000);
    }
}
