//! The part of a histogram that is recent, kept without any work between scrapes.
//!
//! Two earlier snapshots are kept, and what was recorded since the older one is recent. A scrape that finds the younger one a minute
//! old lets it become the older one, and the present the younger one. So recent is what was recorded in the last one to two
//! minutes where scrapes come at least every minute, and since the last scrape but one at most otherwise; however many
//! scrape.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::histogram::Snapshot;

/// The least that is recent.
pub const LENGTH: Duration = Duration::from_secs(60);

/// What was there earlier. The lock is taken by scrapes only, for a copy of a snapshot.
#[derive(Debug)]
pub struct Window(Mutex<Earlier>);

#[derive(Debug)]
struct Earlier {
    older: Snapshot,
    younger: Snapshot,
    taken: Instant,
}

impl Window {
    /// The window of a histogram that is empty.
    pub fn new(now: Instant) -> Self {
        Self(Mutex::new(Earlier { older: Snapshot::default(), younger: Snapshot::default(), taken: now }))
    }

    /// The recent part of what its histogram holds now.
    pub fn recent(&self, histogram: &super::Histogram, now: Instant) -> Snapshot {
        let mut earlier = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Under the lock, so that it is no older than what another scrape has left.
        let mut recent = histogram.snapshot();
        if now.saturating_duration_since(earlier.taken) >= LENGTH {
            earlier.older = std::mem::replace(&mut earlier.younger, recent.clone());
            earlier.taken = now;
        }
        recent.counts.subtract(&earlier.older.counts).expect("counts never decrease");
        recent.sum -= earlier.older.sum;
        recent
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Histogram;

    struct Scraped {
        histogram: Histogram,
        window: Window,
        start: Instant,
    }

    impl Scraped {
        fn new() -> Self {
            let start = Instant::now();
            Self { histogram: Histogram::default(), window: Window::new(start), start }
        }

        fn values_at(&self, seconds: u64) -> Vec<u64> {
            let recent = self.window.recent(&self.histogram, self.start + Duration::from_secs(seconds));
            recent.counts.iter_recorded().map(|bucket| bucket.value_iterated_to()).collect()
        }
    }

    #[test]
    fn a_value_is_recent_for_one_to_two_minutes() {
        let scraped = Scraped::new();
        scraped.histogram.record(7);
        assert_eq!(scraped.values_at(5), [7]);
        assert_eq!(scraped.values_at(60), [7]);
        scraped.histogram.record(8);
        assert_eq!(scraped.values_at(119), [7, 8]);
        assert_eq!(scraped.values_at(120), [8]);
        assert!(scraped.values_at(180).is_empty());
    }

    #[test]
    fn of_rare_scrapes_each_hears_of_what_came_since_the_one_before() {
        let scraped = Scraped::new();
        assert!(scraped.values_at(600).is_empty());
        scraped.histogram.record(7);
        assert_eq!(scraped.values_at(1200), [7]);
        scraped.histogram.record(8);
        assert_eq!(scraped.values_at(1800), [8]);
    }

    #[test]
    fn scrapes_by_many_do_not_shorten_it() {
        let scraped = Scraped::new();
        scraped.histogram.record(7);
        for _ in 0..10 {
            assert_eq!(scraped.values_at(61), [7]);
        }
    }
}
