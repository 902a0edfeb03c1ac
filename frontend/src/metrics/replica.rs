//! What is counted of one replica of a model's version.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;

use super::histogram::Histogram;
use crate::batching::Estimate;

/// The counts of one replica, from when it connected.
#[derive(Debug)]
pub struct ReplicaMetrics {
    /// The inputs of each batch that was answered.
    pub(crate) batch_size: Histogram,
    /// In microseconds, what the model took for each batch, as the container says.
    pub(crate) model_time: Histogram,
    /// In microseconds, from when each batch was handed to the router until its answer was there.
    pub(crate) round_trip: Histogram,
    in_flight: AtomicU64,
    failed: AtomicU64,
    /// Set once a batch.
    estimate: ArcSwapOption<Estimate>,
}

impl Default for ReplicaMetrics {
    fn default() -> Self {
        Self {
            batch_size: Histogram::default(),
            model_time: Histogram::default(),
            round_trip: Histogram::default(),
            in_flight: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            estimate: ArcSwapOption::empty(),
        }
    }
}

impl ReplicaMetrics {
    /// Counts a batch that was sent. It must end as one of the following two.
    pub fn send_batch(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    /// Records a batch that was answered: how many inputs it had, what the model took for it by the container's clock, and
    /// the time from its dispatch to its answer.
    pub fn record_batch(&self, size: usize, model_time: Duration, round_trip: Duration) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.batch_size.record(size as u64);
        self.model_time.record_duration(model_time);
        self.round_trip.record_duration(round_trip);
    }

    /// Counts a batch that failed as a whole, or was lost.
    pub fn fail_batch(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    /// Says what its controller believes.
    pub fn set_estimate(&self, estimate: &Estimate) {
        self.estimate.store(Some(Arc::new(*estimate)));
    }

    /// How many batches it holds.
    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// How many batches failed.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// What its controller believes, if anything.
    pub fn estimate(&self) -> Option<Estimate> {
        self.estimate.load().as_deref().copied()
    }

    /// Adds what another replica has done to what this one has.
    pub(crate) fn absorb(&self, other: &Self) {
        self.batch_size.absorb(&other.batch_size);
        self.model_time.absorb(&other.model_time);
        self.round_trip.absorb(&other.round_trip);
        self.failed.fetch_add(other.failed(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_no_estimate_until_one_is_made() {
        let metrics = ReplicaMetrics::default();
        assert_eq!(metrics.estimate(), None);
        let estimate = Estimate {
            fixed: Duration::from_millis(1),
            per_input: Duration::from_micros(100),
            overhead: Duration::ZERO,
            margin: 0.2,
            limit: 64,
        };
        metrics.set_estimate(&estimate);
        assert_eq!(metrics.estimate(), Some(estimate));
    }

    #[test]
    fn a_batch_is_in_flight_until_it_is_recorded_by_size_and_times_or_has_failed() {
        let metrics = ReplicaMetrics::default();
        metrics.send_batch();
        metrics.send_batch();
        metrics.record_batch(64, Duration::from_micros(300), Duration::from_micros(400));
        assert_eq!(metrics.in_flight(), 1);
        metrics.fail_batch();
        assert_eq!((metrics.in_flight(), metrics.failed()), (0, 1));
        let sums = [&metrics.batch_size, &metrics.model_time, &metrics.round_trip];
        assert_eq!(sums.map(|histogram| histogram.snapshot().sum), [64, 300, 400]);
    }
}
