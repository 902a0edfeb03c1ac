//! The prediction cache: outputs that were computed, and computations that others may share.
//!
//! The request asks on its own thread; a computation that ends, on whichever thread, leaves its output here. Keys are
//! compared whole, so a collision of hashes costs a lookup and nothing else. Invariant: only what a model answered is
//! kept, and no more than the stated bytes of it, keys and bookkeeping included; no output is
//! served of a container that was struck off for an offence.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use clipper_rpc::input::Input;
use clipper_rpc::output::Output;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};

use super::Shared;
use crate::computation::{Computation, Waiter};
use crate::metrics::{CacheLookup, ModelMetrics};

/// What an entry takes besides its input and its output: three allocations, the slot, the hash table. In bytes; measured.
const ENTRY_BYTES: usize = 320;

/// An allocator rounds up: one part in so many of an entry's payload; measured.
const ALLOCATOR_SHARE: usize = 8;

/// The least that one of the cache's shards may hold, where the whole may: no entry can be larger. In bytes.
const LEAST_SHARD_BYTES: u64 = 4 << 20;

/// What an average entry is taken to weigh when the tables are first sized, in bytes.
const TYPICAL_ENTRY_BYTES: usize = 1024;

/// So many locks share the computations in progress, and at most so many the outputs.
const SHARDS: usize = 32;

/// What a computation is known by. Made by [`PredictionCache::key`], which hashes it once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    hash: u64,
    /// The queue's number, which no other registration of any model's version shares.
    queue: u64,
    input: Input,
}

impl Key {
    /// What the model is asked.
    pub fn input(&self) -> &Input {
        &self.input
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

/// Outputs by what was asked.
pub struct PredictionCache {
    outputs: Cache<Key, Arc<Kept>, Bytes>,
    in_progress: [Shard; SHARDS],
    hasher: DefaultHashBuilder,
}

/// Held for one operation of the map.
type Shard = Mutex<HashMap<Key, Weak<Computation>, DefaultHashBuilder>>;

/// Where a computation leaves its output.
pub struct Place {
    /// The cache.
    pub cache: Arc<PredictionCache>,
    /// As what.
    pub key: Key,
}

/// The connection of a container, as the source of kept outputs.
///
/// Each output refers to its source, which a lookup asks whether it is trusted. So a container that
/// is struck off takes all its outputs with it at once, and nobody has to look for them; they make
/// room for others as any that are not used.
pub struct Source {
    /// What is counted of the model.
    metrics: Arc<ModelMetrics>,
    trusted: AtomicBool,
}

impl Source {
    /// A connection that has done nothing wrong yet, of a container of the model with these
    /// metrics.
    pub fn new(metrics: Arc<ModelMetrics>) -> Self {
        Self { metrics, trusted: AtomicBool::new(true) }
    }

    /// Has none of its outputs served any more, neither those that are kept nor those to come.
    pub fn discredit(&self) {
        self.trusted.store(false, Ordering::Release);
    }

    fn is_trusted(&self) -> bool {
        self.trusted.load(Ordering::Acquire)
    }
}

/// What is to be done for a query that no kept output answers.
pub enum Claim {
    /// It waits for a computation that is in progress.
    Shared(Arc<Computation>),
    /// Nobody computes this yet: it is to be queued.
    New(Arc<Computation>),
    /// A computation is in progress that it could share, but as many queries wait as may.
    Full(Waiter),
}

/// An output that is kept, and counted as long as it is.
struct Kept {
    output: Output,
    bytes: usize,
    source: Arc<Source>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.source.metrics.evict(self.bytes);
    }
}

#[derive(Clone)]
struct Bytes;

impl Weighter<Key, Arc<Kept>> for Bytes {
    fn weight(&self, _: &Key, kept: &Arc<Kept>) -> u64 {
        kept.bytes as u64
    }
}

impl PredictionCache {
    /// An empty cache of at most `capacity` bytes; with 0 computations are shared and nothing is kept.
    pub fn new(capacity: u64) -> Self {
        let entries = usize::try_from(capacity).unwrap_or(usize::MAX) / TYPICAL_ENTRY_BYTES;
        let shards = usize::try_from(capacity / LEAST_SHARD_BYTES).unwrap_or(SHARDS).clamp(1, SHARDS);
        let options = OptionsBuilder::new()
            .estimated_items_capacity(entries)
            .weight_capacity(capacity)
            // A power of two, or it is rounded up to one.
            .shards(1 << shards.ilog2())
            .build()
            .expect("both capacities are given");
        let hasher = DefaultHashBuilder::default();
        Self {
            outputs: Cache::with_options(options, Bytes, hasher.clone(), DefaultLifecycle::default()),
            in_progress: std::array::from_fn(|_| Shard::default()),
            hasher,
        }
    }

    /// The key of an input to the model of a queue.
    pub fn key(&self, queue: u64, input: Input) -> Key {
        Key { hash: self.hasher.hash_one((queue, &input)), queue, input }
    }

    /// A kept output, if its source is trusted.
    pub fn get(&self, key: &Key) -> Option<Output> {
        self.outputs.get(key).filter(|kept| kept.source.is_trusted()).map(|kept| kept.output.clone())
    }

    /// Has a query wait for the computation of `key` that is in progress, if `share` has a place for it, or begins one
    /// that others can share.
    pub fn claim(
        self: &Arc<Self>,
        key: Key,
        waiter: Waiter,
        share: impl Fn() -> Option<Shared>,
        metrics: &Arc<ModelMetrics>,
    ) -> Claim {
        // Dropped after the lock: if it is the last one, its end needs the lock, too.
        let in_progress;
        let mut shard = self.shard(&key);
        in_progress = shard.get(&key).and_then(Weak::upgrade);
        let waiter = match &in_progress {
            Some(computation) => {
                // Those that have gone may have left room.
                let shared = share().or_else(|| {
                    computation.due(Instant::now());
                    share()
                });
                let Some(shared) = shared else { return Claim::Full(waiter) };
                match computation.join(Waiter { shared: Some(shared), ..waiter }) {
                    Ok(()) => {
                        metrics.look_up(CacheLookup::Shared);
                        return Claim::Shared(Arc::clone(computation));
                    }
                    Err(waiter) => Waiter { shared: None, ..waiter },
                }
            }
            None => waiter,
        };
        let place = Place { cache: Arc::clone(self), key: key.clone() };
        let computation = Arc::new(Computation::new(key.input.clone(), Some(place), waiter));
        shard.insert(key, Arc::downgrade(&computation));
        drop(shard);
        metrics.look_up(CacheLookup::Miss);
        Claim::New(computation)
    }

    /// Keeps an output.
    pub(crate) fn insert(&self, key: &Key, output: &Output, source: &Arc<Source>) {
        let payload = key.input.data().len() + output.size();
        let bytes = payload + payload / ALLOCATOR_SHARE + ENTRY_BYTES;
        source.metrics.cache(bytes);
        let kept = Kept { output: output.detached(), bytes, source: Arc::clone(source) };
        self.outputs.insert(key.clone(), Arc::new(kept));
    }

    /// No one can share this computation any more.
    pub(crate) fn land(&self, key: &Key, computation: &Computation) {
        let mut shard = self.shard(key);
        if shard.get(key).is_some_and(|known| std::ptr::eq(known.as_ptr(), computation)) {
            shard.remove(key);
        }
    }

    /// Forgets what a queue's model has answered.
    pub fn forget(&self, queue: u64) {
        self.outputs.retain(|key, _| key.queue != queue);
    }

    /// What the kept outputs take, in bytes.
    pub fn bytes(&self) -> u64 {
        self.outputs.weight()
    }

    fn shard(&self, key: &Key) -> MutexGuard<'_, HashMap<Key, Weak<Computation>, DefaultHashBuilder>> {
        let index = (key.hash >> 32) as usize % SHARDS;
        self.in_progress[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use super::*;
    use crate::computation::failure::Failure;
    use crate::computation::mailbox::{Delivery, Mailbox};
    use crate::computation::tests::waiter;

    fn key(queue: u64, text: &str) -> Key {
        Key { hash: 1, queue, input: Input::string(text) }
    }

    fn metrics() -> Arc<ModelMetrics> {
        Arc::new(ModelMetrics::new(Instant::now()))
    }

    /// A connection that has done nothing wrong.
    pub(crate) fn source() -> Arc<Source> {
        Arc::new(Source::new(metrics()))
    }

    fn due() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    fn claim(cache: &Arc<PredictionCache>, key: Key, waiter: Waiter) -> Claim {
        cache.claim(key, waiter, || Some(Shared::of(&Arc::default())), &metrics())
    }

    fn begun(claim: Claim) -> Arc<Computation> {
        match claim {
            Claim::New(computation) => computation,
            Claim::Shared(_) | Claim::Full(_) => panic!("another one was begun"),
        }
    }

    #[test]
    fn queries_of_the_same_input_share_one_computation_and_then_its_output() {
        let cache = Arc::new(PredictionCache::new(1 << 20));
        let mailbox = Arc::new(Mailbox::default());
        let (first, mut first_outcome) = waiter(&mailbox, due());
        let computation = begun(claim(&cache, key(1, "x"), first));
        let (second, mut second_outcome) = waiter(&mailbox, due());
        assert!(matches!(claim(&cache, key(1, "x"), second), Claim::Shared(_)));
        assert!(matches!(claim(&cache, key(1, "y"), waiter(&mailbox, due()).0), Claim::New(_)));
        computation.answer(&Ok(Output::text("1")), &source(), &mut Delivery::default());
        mailbox.hand_out();
        assert_eq!(first_outcome.try_recv().unwrap(), Ok(Output::text("1")));
        assert_eq!(second_outcome.try_recv().unwrap(), Ok(Output::text("1")));
        assert_eq!(cache.get(&key(1, "x")), Some(Output::text("1")));
        assert_eq!(cache.get(&key(2, "x")), None, "another registration of the model");
    }

    #[test]
    fn a_query_for_which_the_queue_has_no_place_shares_no_computation() {
        let cache = Arc::new(PredictionCache::new(1 << 20));
        let mailbox = Arc::new(Mailbox::default());
        let _computation = begun(claim(&cache, key(1, "x"), waiter(&mailbox, due()).0));
        let second = cache.claim(key(1, "x"), waiter(&mailbox, due()).0, || None, &metrics());
        assert!(matches!(second, Claim::Full(_)));
        let other = cache.claim(key(1, "y"), waiter(&mailbox, due()).0, || None, &metrics());
        assert!(matches!(other, Claim::New(_)), "the queue decides on what is not shared");
    }

    #[test]
    fn inputs_are_told_apart_though_their_hashes_collide() {
        let cache = PredictionCache::new(1 << 20);
        cache.insert(&key(1, "x"), &Output::text("1"), &source());
        assert_eq!(cache.get(&key(1, "y")), None);
        assert_ne!(cache.key(1, Input::string("x")).hash, cache.key(1, Input::string("y")).hash);
        assert_ne!(cache.key(1, Input::string("x")).hash, cache.key(2, Input::string("x")).hash);
    }

    #[test]
    fn errors_are_not_kept() {
        let cache = Arc::new(PredictionCache::new(1 << 20));
        let mailbox = Arc::new(Mailbox::default());
        let computation = begun(claim(&cache, key(1, "x"), waiter(&mailbox, due()).0));
        computation.answer(&Err(Failure::NoLinkedModels), &source(), &mut Delivery::default());
        assert_eq!(cache.get(&key(1, "x")), None);
        assert!(matches!(claim(&cache, key(1, "x"), waiter(&mailbox, due()).0), Claim::New(_)));
    }

    #[test]
    fn a_source_that_is_discredited_takes_its_outputs_with_it_and_no_others() {
        let cache = PredictionCache::new(1 << 20);
        let (offender, other) = (source(), source());
        cache.insert(&key(1, "x"), &Output::text("1"), &offender);
        cache.insert(&key(1, "y"), &Output::text("2"), &other);
        offender.discredit();
        assert_eq!(cache.get(&key(1, "x")), None);
        assert_eq!(cache.get(&key(1, "y")), Some(Output::text("2")));
        cache.insert(&key(1, "z"), &Output::text("3"), &offender);
        assert_eq!(cache.get(&key(1, "z")), None, "nor is one served that comes later");
        cache.insert(&key(1, "x"), &Output::text("4"), &other);
        assert_eq!(cache.get(&key(1, "x")), Some(Output::text("4")));
    }

    #[test]
    fn an_input_whose_output_was_lost_with_its_source_is_computed_and_shared_anew() {
        let cache = Arc::new(PredictionCache::new(1 << 20));
        let mailbox = Arc::new(Mailbox::default());
        let offender = source();
        cache.insert(&key(1, "x"), &Output::text("1"), &offender);
        offender.discredit();
        let (first, mut outcome) = waiter(&mailbox, due());
        let computation = begun(claim(&cache, key(1, "x"), first));
        computation.answer(&Ok(Output::text("2")), &source(), &mut Delivery::default());
        // An answer of the offender that lost the race for a hedged query changes nothing.
        computation.answer(&Ok(Output::text("1")), &offender, &mut Delivery::default());
        mailbox.hand_out();
        assert_eq!(outcome.try_recv().unwrap(), Ok(Output::text("2")));
        assert_eq!(cache.get(&key(1, "x")), Some(Output::text("2")));
    }

    #[test]
    fn an_answer_that_comes_when_all_have_gone_is_kept() {
        let cache = Arc::new(PredictionCache::new(1 << 20));
        let mailbox = Arc::new(Mailbox::default());
        let (gone, outcome) = waiter(&mailbox, due());
        let computation = begun(claim(&cache, key(1, "x"), gone));
        drop(outcome);
        assert_eq!(computation.due(Instant::now()), None);
        computation.answer(&Ok(Output::text("1")), &source(), &mut Delivery::default());
        assert_eq!(cache.get(&key(1, "x")), Some(Output::text("1")));
    }

    #[test]
    fn a_computation_that_is_dropped_leaves_nothing_behind() {
        let cache = Arc::new(PredictionCache::new(1 << 20));
        let mailbox = Arc::new(Mailbox::default());
        drop(begun(claim(&cache, key(1, "x"), waiter(&mailbox, due()).0)));
        assert!(cache.in_progress.iter().all(|shard| shard.lock().unwrap().is_empty()));
    }

    #[test]
    fn the_bound_in_bytes_holds_whatever_is_kept() {
        let cache = PredictionCache::new(1 << 20);
        for number in 0..20_000 {
            cache.insert(&key(1, &number.to_string()), &Output::text("x".repeat(number % 1000)), &source());
            assert!(cache.bytes() <= 1 << 20);
        }
        assert!(cache.bytes() > 1 << 19, "{}", cache.bytes());
    }

    #[test]
    fn a_cache_of_no_bytes_keeps_nothing() {
        let cache = PredictionCache::new(0);
        cache.insert(&key(1, "x"), &Output::text("1"), &source());
        assert_eq!(cache.get(&key(1, "x")), None);
    }

    #[test]
    fn what_a_queue_has_answered_can_be_forgotten() {
        let cache = PredictionCache::new(1 << 20);
        cache.insert(&key(1, "x"), &Output::text("1"), &source());
        cache.insert(&key(2, "x"), &Output::text("2"), &source());
        cache.forget(1);
        assert_eq!(cache.get(&key(1, "x")), None);
        assert_eq!(cache.get(&key(2, "x")), Some(Output::text("2")));
    }

    #[test]
    fn what_is_kept_for_a_model_is_counted_until_it_goes() {
        let cache = PredictionCache::new(1 << 20);
        let (one, other) = (metrics(), metrics());
        let of = |metrics: &Arc<ModelMetrics>| Arc::new(Source::new(Arc::clone(metrics)));
        cache.insert(&key(1, "x"), &Output::text("1"), &of(&one));
        cache.insert(&key(2, "x"), &Output::text("2"), &of(&other));
        assert_eq!(one.cached_bytes() + other.cached_bytes(), cache.bytes());
        cache.insert(&key(1, "x"), &Output::text("1"), &of(&one));
        assert_eq!(one.cached_bytes() + other.cached_bytes(), cache.bytes());
        cache.forget(1);
        assert_eq!((one.cached_bytes(), other.cached_bytes()), (0, cache.bytes()));
    }
}
