//! A histogram that many threads record into without a lock.
//!
//! Its buckets are those of an HdrHistogram of two significant digits: of width 1 below 256, then 128 for each power of two, so
//! that a value is known to 1/128. A snapshot is an `hdrhistogram::Histogram`, made without loss, and answers all questions.
//!
//! Why not a crate's: `hdrhistogram`'s own concurrent one makes readers wait for every writer, and `histogram`'s atomic
//! one has all of its 27 KB from the start, of which an application uses some five. Here a power of two gets its
//! buckets with its first value.

use std::array;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The buckets for each power of two.
const BUCKETS: usize = 128;
/// The magnitudes: the values below 128, then one for each power of two up to [`Histogram::MAX`].
const MAGNITUDES: usize = 26;

/// Counts of values from 0 to [`Histogram::MAX`].
#[derive(Debug)]
pub struct Histogram {
    magnitudes: [OnceLock<Box<[AtomicU64; BUCKETS]>>; MAGNITUDES],
    sum: AtomicU64,
}

/// A histogram at a point in time.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// How many values there are of each size.
    pub counts: hdrhistogram::Histogram<u64>,
    /// Their sum, which the counts know only to 1/128.
    pub sum: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { magnitudes: array::from_fn(|_| OnceLock::new()), sum: AtomicU64::new(0) }
    }
}

impl Histogram {
    /// What any greater value counts as: in microseconds, an hour and eleven minutes.
    pub const MAX: u64 = u32::MAX as u64;

    /// Records a value.
    pub fn record(&self, value: u64) {
        self.record_n(value, 1);
    }

    /// Records a duration, in microseconds.
    pub fn record_duration(&self, duration: Duration) {
        self.record(u64::try_from(duration.as_micros()).unwrap_or(Self::MAX));
    }

    /// Records a value that occurred so many times.
    pub fn record_n(&self, value: u64, times: u64) {
        let value = value.min(Self::MAX);
        self.count(value, times);
        self.sum.fetch_add(value * times, Ordering::Relaxed);
    }

    /// Records everything that another one holds.
    pub fn absorb(&self, other: &Self) {
        for (value, times) in other.occupied() {
            self.count(value, times);
        }
        self.sum.fetch_add(other.sum.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// What it holds now. What is recorded meanwhile may or may not be in it.
    pub fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for (value, times) in self.occupied() {
            snapshot.counts.record_n(value, times).expect("it resizes itself");
        }
        snapshot.sum = self.sum.load(Ordering::Relaxed);
        snapshot
    }

    fn count(&self, value: u64, times: u64) {
        let magnitude = magnitude(value);
        let fresh = || Box::new(array::from_fn(|_| AtomicU64::new(0)));
        let index = usize::try_from(value >> shift(magnitude)).expect("it is less than 256") % BUCKETS;
        self.magnitudes[magnitude].get_or_init(fresh)[index].fetch_add(times, Ordering::Relaxed);
    }

    /// The least value of each bucket that is not empty, in order, and how often it was counted.
    fn occupied(&self) -> impl Iterator<Item = (u64, u64)> {
        let magnitudes = self.magnitudes.iter().enumerate();
        let buckets = magnitudes.filter_map(|(magnitude, buckets)| Some((magnitude, buckets.get()?)));
        let counts = buckets.flat_map(|(magnitude, buckets)| {
            let first = if magnitude == 0 { 0 } else { BUCKETS as u64 };
            let values = (first..).map(move |value| value << shift(magnitude));
            values.zip(buckets.iter().map(|count| count.load(Ordering::Relaxed)))
        });
        counts.filter(|&(_, count)| count > 0)
    }
}

/// Which magnitude a value is of.
fn magnitude(value: u64) -> usize {
    (value / BUCKETS as u64).checked_ilog2().map_or(0, |power| power as usize + 1)
}

/// How many low bits the buckets of a magnitude do not tell apart.
fn shift(magnitude: usize) -> usize {
    magnitude.saturating_sub(1)
}

impl Default for Snapshot {
    fn default() -> Self {
        let counts = hdrhistogram::Histogram::new(2).expect("there may be 0 to 5 significant digits");
        Self { counts, sum: 0 }
    }
}

impl Snapshot {
    /// The value that a share of all values, from 0 to 1, does not exceed; none of an empty histogram.
    pub fn quantile(&self, quantile: f64) -> Option<u64> {
        (!self.counts.is_empty()).then(|| self.counts.value_at_quantile(quantile))
    }

    /// How many values are up to each of the ascending bounds and above the one before it, then how many exceed them all.
    /// Bounds that are not at the edge of a bucket are taken as if they were.
    pub fn split(&self, bounds: &[u64]) -> Vec<u64> {
        let mut counts = vec![0; bounds.len() + 1];
        for bucket in self.counts.iter_recorded() {
            let lowest = self.counts.lowest_equivalent(bucket.value_iterated_to());
            counts[bounds.partition_point(|&bound| bound < lowest)] += bucket.count_at_value();
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    fn of(values: &[u64]) -> Histogram {
        let histogram = Histogram::default();
        values.iter().for_each(|&value| histogram.record(value));
        histogram
    }

    /// Values of every magnitude alike.
    fn any_value() -> impl Strategy<Value = u64> {
        (0..=32_u32, any::<u64>()).prop_map(|(bits, random)| random & ((1 << bits) - 1))
    }

    proptest! {
        #[test]
        fn quantiles_are_those_of_the_sorted_values_to_one_part_in_128(
            mut values in prop::collection::vec(any_value(), 1..300),
            rank in any::<prop::sample::Index>(),
        ) {
            let snapshot = of(&values).snapshot();
            values.sort_unstable();
            let rank = rank.index(values.len());
            // Amid the share that this value stands for, so that no rounding makes it its neighbour's.
            let found = snapshot.quantile((rank as f64 + 0.5) / values.len() as f64).unwrap();
            let exact = values[rank];
            prop_assert!((exact..=exact + exact / 128).contains(&found), "{found} for {exact}");
        }

        #[test]
        fn a_snapshot_has_every_value_where_an_hdr_histogram_would_have_it(
            values in prop::collection::vec(any_value(), 0..300),
        ) {
            let snapshot = of(&values).snapshot();
            let mut direct = Snapshot::default();
            for &value in &values {
                direct.counts.record(value).unwrap();
            }
            prop_assert_eq!(snapshot.counts, direct.counts);
            prop_assert_eq!(snapshot.sum, values.iter().sum::<u64>());
        }
    }

    #[test]
    fn nothing_is_lost_when_many_threads_record_at_once() {
        let histogram = Arc::new(Histogram::default());
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let histogram = Arc::clone(&histogram);
                thread::spawn(move || (0..20_000).for_each(|value| histogram.record(value)))
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        let snapshot = histogram.snapshot();
        assert_eq!(snapshot.counts.len(), 80_000);
        assert_eq!(snapshot.sum, 4 * (0..20_000).sum::<u64>());
    }

    #[test]
    fn values_beyond_the_greatest_count_as_the_greatest() {
        let snapshot = of(&[u64::MAX]).snapshot();
        assert_eq!(snapshot.sum, Histogram::MAX);
        assert_eq!(snapshot.quantile(1.0), Some(Histogram::MAX));
    }

    #[test]
    fn an_absorbed_histogram_is_as_if_its_values_had_been_recorded() {
        let (first, second, both) =
            (of(&[0, 5, 300]), of(&[301, 1_000_001]), of(&[0, 5, 300, 301, 1_000_001]));
        first.absorb(&second);
        let (found, expected) = (first.snapshot(), both.snapshot());
        assert_eq!((found.counts, found.sum), (expected.counts, expected.sum));
    }

    #[test]
    fn values_are_split_at_bounds_which_belong_to_what_is_below_them() {
        let snapshot = of(&[0, 1, 2, 3, 250, 251, 1000, 5000]).snapshot();
        assert_eq!(snapshot.split(&[2, 250, 1000]), [3, 2, 2, 1]);
        assert_eq!(Snapshot::default().split(&[1]), [0, 0]);
        assert_eq!(Snapshot::default().quantile(0.5), None);
    }
}
