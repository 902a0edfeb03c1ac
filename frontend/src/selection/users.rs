//! The users' states that are in memory, of all applications of a frontend, within one bound in bytes.
//!
//! Every query of a user reads here; only the actor of an application writes that application's. Invariant: what is here may go
//! at any time, so that nothing is here only: it is in the store, or among what is unsent.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use clipper_rpc::selection::{Statistics, Uid};
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};

use super::states::Versioned;

/// What a state takes besides its figures and their models: allocations, the slot, the hash table. In bytes; an estimate.
const STATE_BYTES: usize = 320;
/// What one model takes in a state besides its figures, likewise.
const MODEL_BYTES: usize = 64;
/// The least that one of the shards may hold, where the whole may: no state can be larger. In bytes.
const LEAST_SHARD_BYTES: u64 = 4 << 20;
/// What a state is taken to weigh when the tables are first sized, in bytes.
const TYPICAL_STATE_BYTES: usize = 1024;
/// At most so many locks share the states.
const SHARDS: u64 = 32;

/// Users' states by whose and of what.
pub struct UserStates {
    states: Cache<(u64, Uid), Arc<Versioned>, Bytes>,
    /// How many [`super::states::States`] there have been.
    numbers: AtomicU64,
}

#[derive(Clone)]
struct Bytes;

impl Weighter<(u64, Uid), Arc<Versioned>> for Bytes {
    fn weight(&self, (_, uid): &(u64, Uid), state: &Arc<Versioned>) -> u64 {
        // Its figures, and what is prepared of them.
        (STATE_BYTES + uid.as_str().len() + 2 * weight(&state.statistics)) as u64
    }
}

/// What a vector of figures for each model takes in memory, in bytes; an estimate.
pub fn weight(statistics: &Statistics) -> usize {
    statistics.0.values().map(|of| MODEL_BYTES + size_of_val(of.figures.as_slice())).sum()
}

impl UserStates {
    /// None yet, and never more than `capacity` bytes.
    pub fn new(capacity: u64) -> Self {
        let shards = (capacity / LEAST_SHARD_BYTES).clamp(1, SHARDS);
        let entries = usize::try_from(capacity).unwrap_or(usize::MAX) / TYPICAL_STATE_BYTES;
        let options = OptionsBuilder::new()
            .estimated_items_capacity(entries)
            .weight_capacity(capacity)
            // A power of two, or it is rounded up to one.
            .shards(1 << shards.ilog2())
            .build()
            .expect("both capacities are given");
        let hasher = DefaultHashBuilder::default();
        let states = Cache::with_options(options, Bytes, hasher, DefaultLifecycle::default());
        Self { states, numbers: AtomicU64::new(0) }
    }

    /// A number for states that no others have.
    pub fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// The state of a user under a number.
    pub fn get(&self, number: u64, uid: &Uid) -> Option<Arc<Versioned>> {
        self.states.get(&(number, uid.clone()))
    }

    /// Keeps a state.
    pub fn insert(&self, number: u64, uid: Uid, state: Arc<Versioned>) {
        self.states.insert((number, uid), state);
    }

    /// Forgets the state of a user under a number.
    pub fn remove(&self, number: u64, uid: &Uid) {
        self.states.remove(&(number, uid.clone()));
    }

    /// Everybody under a number.
    pub fn held(&self, number: u64) -> Vec<(Uid, Arc<Versioned>)> {
        let of_number = self.states.iter().filter(|((of, _), _)| *of == number);
        of_number.map(|((_, uid), state)| (uid, state)).collect()
    }

    /// Forgets everybody under a number.
    pub fn forget(&self, number: u64) {
        self.states.retain(|(of, _), _| *of != number);
    }

    /// How many states there are.
    pub fn len(&self) -> usize {
        self.states.len()
    }

    /// What they take, in bytes.
    pub fn bytes(&self) -> u64 {
        self.states.weight()
    }
}
