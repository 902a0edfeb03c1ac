//! Ids of queries: unique across the cluster and over time, and exact in JavaScript.
//!
//! An id is the number of the frontend and a counter. Management gives no number to two frontends at a time, and gives
//! each again as late as it can. The counter of a run of a frontend begins where the clock stands, so that a later run
//! with the same number repeats no id either.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// The bits that count the queries of a frontend: 200 days at 60,000 a second.
const COUNTER_BITS: u32 = 40;
/// The bits of the frontend's number: with the counter they stay below 2^53.
const NUMBER_BITS: u32 = 13;
const MOST_COUNTED: u64 = 1 << COUNTER_BITS;
/// The time that stands for one query where a counter begins.
const MICROS_OF_A_QUERY: u128 = 16;

/// Hands out query ids.
#[derive(Default)]
pub struct QueryIds {
    /// The frontend's number, in place.
    range: AtomicU64,
    count: AtomicU64,
}

impl QueryIds {
    /// The ids of a run of a frontend that starts `now`.
    pub fn starting(now: SystemTime) -> Self {
        // A clock before 1970 leaves the numbers alone to tell runs apart.
        let micros = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_micros();
        let count = u64::try_from(micros / MICROS_OF_A_QUERY % u128::from(MOST_COUNTED));
        let count = count.expect("it is below 2^40");
        Self { range: AtomicU64::default(), count: AtomicU64::new(count) }
    }

    /// Takes up the number that management gave this run of the frontend.
    pub fn begin(&self, number: u64) {
        self.range.store((number % (1 << NUMBER_BITS)) << COUNTER_BITS, Ordering::Relaxed);
    }

    /// The frontend's number, as it is in its ids.
    pub fn number(&self) -> u64 {
        Self::number_in(self.range.load(Ordering::Relaxed))
    }

    /// The number of the frontend that answered a query.
    pub fn number_in(query_id: u64) -> u64 {
        query_id >> COUNTER_BITS
    }

    /// An id that no other query has.
    pub fn next(&self) -> u64 {
        let count = self.count.fetch_add(1, Ordering::Relaxed) % MOST_COUNTED;
        self.range.load(Ordering::Relaxed) | count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_two_frontends_differ_and_stay_exact_in_javascript() {
        let (first, second) = (QueryIds::default(), QueryIds::default());
        first.begin(1);
        second.begin(8191);
        assert_ne!(first.next(), second.next());
        assert!(second.next() < 1 << 53);
    }

    #[test]
    fn hearing_the_same_number_again_repeats_no_id() {
        let ids = QueryIds::default();
        ids.begin(3);
        let first = ids.next();
        ids.begin(3);
        assert_eq!(ids.next(), first + 1);
    }

    #[test]
    fn a_later_run_with_the_same_number_repeats_no_id() {
        let started = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let (former, later) =
            (QueryIds::starting(started), QueryIds::starting(started + Duration::from_secs(1)));
        let last = (0..60_000).map(|_| former.next()).last().unwrap();
        assert!(later.next() > last);
    }

    #[test]
    fn a_counter_that_begins_anew_leaves_the_number_alone() {
        let ids = QueryIds { count: AtomicU64::new(MOST_COUNTED - 1), ..QueryIds::default() };
        ids.begin(3);
        ids.next();
        assert_eq!(ids.next(), 3 << COUNTER_BITS);
    }
}
