//! Ids of queries: unique across the cluster and over time, and exact in JavaScript.

use std::sync::atomic::{AtomicU64, Ordering};

/// The bits that count the queries of one run of one frontend: 200 days at 60,000 a second.
const COUNTER_BITS: u32 = 40;
/// The bits of the frontend's number: with the counter they stay below 2^53.
const NUMBER_BITS: u32 = 13;

/// Hands out query ids.
#[derive(Default)]
pub struct QueryIds {
    next: AtomicU64,
}

impl QueryIds {
    /// Begins the range of the number that management gave this run of the frontend. Numbers recur after 8,192 runs.
    pub fn begin(&self, number: u64) {
        let range = (number % (1 << NUMBER_BITS)) << COUNTER_BITS;
        if self.next.load(Ordering::Relaxed) >> COUNTER_BITS != range >> COUNTER_BITS {
            self.next.store(range, Ordering::Relaxed);
        }
    }

    /// The frontend's number, as it is in its ids.
    pub fn number(&self) -> u64 {
        Self::number_in(self.next.load(Ordering::Relaxed))
    }

    /// The number of the frontend that answered a query.
    pub fn number_in(query_id: u64) -> u64 {
        query_id >> COUNTER_BITS
    }

    /// An id that no other query has.
    pub fn next(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
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
}
