//! What is counted of one second of one thread, and added up.
//!
//! Invariant: every measured request is counted once, as answered, as refused (by status) or as failed (by error).

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

/// The longest latency that is told from longer ones, in microseconds.
const LONGEST_MICROS: u64 = 3_600_000_000;
const SIGNIFICANT_DIGITS: u8 = 3;

/// Why a request has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    /// No connection could be made.
    Connect,
    /// The server ended the connection first.
    Closed,
    /// The connection broke.
    Broken,
    /// What came was no HTTP answer.
    Malformed,
    /// None came in time.
    Timeout,
    /// No connection was free in time.
    Unsent,
}

impl Failure {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Closed => "closed",
            Self::Broken => "broken",
            Self::Malformed => "malformed",
            Self::Timeout => "timeout",
            Self::Unsent => "unsent",
        }
    }
}

/// Counts and latencies.
#[derive(Debug, Clone)]
pub struct Tally {
    /// Latencies of answers with a status of 200 to 299, in microseconds.
    pub latency: Histogram<u64>,
    /// How late requests were sent for which a connection was free: the generator's own fault. In microseconds.
    pub lag: Histogram<u64>,
    /// Answers that are real and within the objective.
    pub good: u64,
    /// Answers that held a default output, by reason.
    pub defaults: BTreeMap<String, u64>,
    /// Answers of another status than 200 to 299.
    pub statuses: BTreeMap<u16, u64>,
    /// Requests without an answer.
    pub failures: BTreeMap<Failure, u64>,
    /// Requests that waited for a connection to become free.
    pub waited: u64,
    /// All successful answers that arrived while requests were being sent, those to requests of the warm-up included.
    pub completed: u64,
    /// Those of them that were good.
    pub completed_good: u64,
    /// Processor time that the thread has used.
    pub busy: Duration,
}

impl Default for Tally {
    fn default() -> Self {
        let histogram = || {
            Histogram::new_with_bounds(1, LONGEST_MICROS, SIGNIFICANT_DIGITS)
                .expect("the bounds are in order and the digits at most 5")
        };
        Self {
            latency: histogram(),
            lag: histogram(),
            good: 0,
            defaults: BTreeMap::new(),
            statuses: BTreeMap::new(),
            failures: BTreeMap::new(),
            waited: 0,
            completed: 0,
            completed_good: 0,
            busy: Duration::ZERO,
        }
    }
}

impl Tally {
    /// Adds another one.
    pub fn add(&mut self, other: &Self) {
        const SAME: &str = "all histograms have the same bounds";
        self.latency.add(&other.latency).expect(SAME);
        self.lag.add(&other.lag).expect(SAME);
        self.good += other.good;
        add_all(&mut self.defaults, &other.defaults);
        add_all(&mut self.statuses, &other.statuses);
        add_all(&mut self.failures, &other.failures);
        self.waited += other.waited;
        self.completed += other.completed;
        self.completed_good += other.completed_good;
        self.busy += other.busy;
    }

    /// Counts an answer of a status of 200 to 299.
    pub fn answered(&mut self, latency: Duration, default: Option<&str>, good: bool) {
        self.latency.saturating_record(micros(latency));
        self.good += u64::from(good);
        if let Some(reason) = default {
            match self.defaults.get_mut(reason) {
                Some(count) => *count += 1,
                None => _ = self.defaults.insert(reason.to_owned(), 1),
            }
        }
    }

    /// Counts a request without an answer.
    pub fn failed(&mut self, failure: Failure) {
        *self.failures.entry(failure).or_default() += 1;
    }

    /// Notes how late a request was sent.
    pub fn lagged(&mut self, lag: Duration) {
        self.lag.saturating_record(micros(lag));
    }

    /// Every request that counts.
    pub fn requests(&self) -> u64 {
        self.latency.len() + self.failed_requests()
    }

    /// Those without a successful answer.
    pub fn failed_requests(&self) -> u64 {
        self.statuses.values().sum::<u64>() + self.failures.values().sum::<u64>()
    }
}

fn add_all<K: Clone + Ord>(to: &mut BTreeMap<K, u64>, from: &BTreeMap<K, u64>) {
    for (key, count) in from {
        *to.entry(key.clone()).or_default() += count;
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tallies_add_up() {
        let mut first = Tally::default();
        first.answered(Duration::from_millis(2), None, true);
        first.failed(Failure::Closed);
        let mut second = Tally::default();
        second.answered(Duration::from_secs(9_999), Some("deadline"), false);
        second.failed(Failure::Closed);
        *second.statuses.entry(503).or_default() += 2;
        first.add(&second);
        assert_eq!((first.requests(), first.failed_requests(), first.good), (6, 4, 1));
        assert_eq!(first.failures[&Failure::Closed], 2);
        assert_eq!(first.defaults["deadline"], 1);
        assert_eq!(first.latency.min(), 2_000);
        assert!(first.latency.max() >= LONGEST_MICROS);
    }
}
