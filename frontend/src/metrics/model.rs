//! What is counted of one version of one model, and of its replicas.
//!
//! Invariant: there are metrics of a replica from its connection until its departure, so that their number is that of the
//! connected replicas; what a departed one has done stays in the model's totals.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::histogram::Histogram;
use super::meter::Meter;
use super::replica::ReplicaMetrics;
use super::window::Window;

/// The counts of one version of one model, from when this frontend heard of it.
#[derive(Debug)]
pub struct ModelMetrics {
    /// In microseconds, from when each query was accepted until it was handed to a container.
    pub(crate) queue_time: Histogram,
    pub(crate) recent_queue_time: Window,
    pub(crate) throughput: Meter,
    given_up: AtomicU64,
    hedged: AtomicU64,
    /// By the discriminant of the lookup.
    lookups: [AtomicU64; CacheLookup::ALL.len()],
    cached_bytes: AtomicU64,
    evictions: AtomicU64,
    /// Taken when a replica comes or goes, and by scrapes; never on the way of a query.
    replicas: Mutex<BTreeMap<u32, Arc<ReplicaMetrics>>>,
    /// The totals of the replicas that have gone.
    departed: ReplicaMetrics,
}

/// What the cache had for a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheLookup {
    /// The output.
    Hit,
    /// Nothing: the model is asked.
    Miss,
    /// The same query, which the model has been asked already: both get its answer.
    Shared,
}

impl CacheLookup {
    /// Every one, in the order of their discriminants.
    pub const ALL: [Self; 3] = [Self::Hit, Self::Miss, Self::Shared];

    /// The name under which metrics report it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Shared => "shared",
        }
    }
}

impl ModelMetrics {
    /// Those of a version that is new.
    pub fn new(now: Instant) -> Self {
        Self {
            queue_time: Histogram::default(),
            recent_queue_time: Window::new(now),
            throughput: Meter::new(now),
            given_up: AtomicU64::new(0),
            hedged: AtomicU64::new(0),
            lookups: Default::default(),
            cached_bytes: AtomicU64::new(0),
            evictions: AtomicU64::new(0),
            replicas: Mutex::default(),
            departed: ReplicaMetrics::default(),
        }
    }

    /// Records how long a query waited.
    pub fn record_queue_time(&self, waited: Duration) {
        self.queue_time.record_duration(waited);
    }

    /// Counts queries that were told at once that their answer would be late.
    pub fn give_up(&self, queries: usize) {
        self.given_up.fetch_add(queries as u64, Ordering::Relaxed);
    }

    /// Counts queries that were given to a second replica while the first had not answered.
    pub fn hedge(&self, queries: usize) {
        self.hedged.fetch_add(queries as u64, Ordering::Relaxed);
    }

    /// Counts a query that was looked for in the cache.
    pub fn look_up(&self, lookup: CacheLookup) {
        self.lookups[lookup as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts an output that came into the cache, with all that is kept for it.
    pub fn cache(&self, bytes: usize) {
        self.cached_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Counts one that left the cache.
    pub fn evict(&self, bytes: usize) {
        self.cached_bytes.fetch_sub(bytes as u64, Ordering::Relaxed);
        self.evictions.fetch_add(1, Ordering::Relaxed);
    }

    /// The metrics of a replica, which has connected.
    pub fn replica(&self, number: u32) -> Arc<ReplicaMetrics> {
        Arc::clone(self.lock().entry(number).or_default())
    }

    /// Forgets a replica, which has gone, but for what it has done.
    pub fn remove_replica(&self, number: u32) {
        if let Some(gone) = self.lock().remove(&number) {
            self.departed.absorb(&gone);
        }
    }

    /// The connected replicas, by number.
    pub fn replicas(&self) -> Vec<(u32, Arc<ReplicaMetrics>)> {
        self.lock().iter().map(|(&number, replica)| (number, Arc::clone(replica))).collect()
    }

    /// What all replicas have done, also those that have gone.
    pub(crate) fn totals(&self) -> ReplicaMetrics {
        let totals = ReplicaMetrics::default();
        // Under the lock no replica moves from the one to the other.
        let replicas = self.lock();
        totals.absorb(&self.departed);
        replicas.values().for_each(|replica| totals.absorb(replica));
        totals
    }

    /// How many queries were given up.
    pub fn given_up(&self) -> u64 {
        self.given_up.load(Ordering::Relaxed)
    }

    /// How many queries were hedged.
    pub fn hedged(&self) -> u64 {
        self.hedged.load(Ordering::Relaxed)
    }

    /// How many lookups ended so.
    pub fn lookups(&self, lookup: CacheLookup) -> u64 {
        self.lookups[lookup as usize].load(Ordering::Relaxed)
    }

    /// How many bytes the cache holds for it.
    pub fn cached_bytes(&self) -> u64 {
        self.cached_bytes.load(Ordering::Relaxed)
    }

    /// How many outputs left the cache.
    pub fn evictions(&self) -> u64 {
        self.evictions.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, Arc<ReplicaMetrics>>> {
        self.replicas.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_that_goes_leaves_what_it_has_done_in_the_totals() {
        let model = ModelMetrics::new(Instant::now());
        for number in [0, 7] {
            let replica = model.replica(number);
            replica.send_batch();
            replica.send_batch();
            replica.record_batch(10, Duration::from_millis(1), Duration::from_millis(2));
            replica.fail_batch();
        }
        model.remove_replica(7);
        assert_eq!(model.replicas().iter().map(|(number, _)| *number).collect::<Vec<_>>(), [0]);
        let totals = model.totals();
        assert_eq!((totals.batch_size.snapshot().sum, totals.failed()), (20, 2));
        assert_eq!(model.replica(7).batch_size.snapshot().sum, 0, "it is another one now");
    }

    #[test]
    fn the_successor_of_a_replica_counts_on() {
        let model = ModelMetrics::new(Instant::now());
        for _ in 0..2 {
            model.replica(0).send_batch();
            model.replica(0).fail_batch();
        }
        assert_eq!(model.replicas()[0].1.failed(), 2);
    }

    #[test]
    fn the_cache_holds_what_came_and_has_not_left() {
        let model = ModelMetrics::new(Instant::now());
        model.cache(100);
        model.cache(50);
        model.evict(100);
        assert_eq!((model.cached_bytes(), model.evictions()), (50, 1));
        model.look_up(CacheLookup::Shared);
        assert_eq!(CacheLookup::ALL.map(|lookup| model.lookups(lookup)), [0, 0, 1]);
    }
}
