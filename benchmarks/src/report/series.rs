//! The course of a run, second by second.
//!
//! Invariant: only the last seconds keep their histograms, so that a run of hours needs no more memory than one of seconds.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::load::tally::Tally;
use crate::report::Latency;

/// How many seconds a thread may be behind another.
const OPEN: u64 = 3;

/// One second of a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Which, from 0.
    pub second: u64,
    /// Successful answers that arrived in it.
    pub answered: u64,
    /// Those of them that were good.
    pub good: u64,
    /// Requests that failed in it, or were answered by another status.
    pub failed: u64,
    /// The median latency of these answers, in milliseconds.
    pub p50_ms: f64,
    /// Their 99th percentile.
    pub p99_ms: f64,
}

/// Points as they come about.
#[derive(Debug)]
pub struct Series {
    seconds: u64,
    open: BTreeMap<u64, Tally>,
    closed: Vec<Point>,
}

impl Series {
    /// That of a run of some length; what comes later belongs to its last second.
    pub fn new(duration: Duration) -> Self {
        Self { seconds: duration.as_secs_f64().ceil() as u64, open: BTreeMap::new(), closed: Vec::new() }
    }

    /// Adds what a thread counted in a second.
    pub fn add(&mut self, second: u64, tally: &Tally) {
        let second = second.min(self.seconds.saturating_sub(1));
        self.open.entry(second).or_default().add(tally);
        while let Some((&first, _)) = self.open.first_key_value()
            && first + OPEN < second
            && let Some((first, tally)) = self.open.pop_first()
        {
            self.closed.push(Point::of(first, &tally));
        }
    }

    /// All points so far.
    pub fn points(&self) -> Vec<Point> {
        let open = self.open.iter().map(|(&second, tally)| Point::of(second, tally));
        self.closed.iter().copied().chain(open).collect()
    }
}

impl Point {
    fn of(second: u64, tally: &Tally) -> Self {
        let latency = Latency::of(&tally.latency);
        Self {
            second,
            answered: tally.latency.len(),
            good: tally.good,
            failed: tally.failed_requests(),
            p50_ms: latency.map_or(0.0, |latency| latency.p50),
            p99_ms: latency.map_or(0.0, |latency| latency.p99),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_of_several_threads_are_added_and_late_ones_belong_to_the_last() {
        let mut series = Series::new(Duration::from_secs(10));
        let mut tally = Tally::default();
        tally.answered(Duration::from_millis(1), None, true);
        for second in 0..12 {
            series.add(second, &tally);
            series.add(second, &tally);
        }
        let points = series.points();
        assert_eq!(points.len(), 10);
        assert!(points[..9].iter().all(|point| point.answered == 2), "{points:?}");
        assert_eq!((points[9].second, points[9].answered), (9, 6));
        assert!(series.open.len() <= OPEN as usize + 1);
    }
}
