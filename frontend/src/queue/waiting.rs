//! What waits in a queue: entries by deadline, with their number and their bytes.
//!
//! Invariant: `queries` and `bytes` are those of the entries; an entry stands at the deadline that it had when it was put there.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use clipper_rpc::names::ModelId;

use super::entry::{Entry, are_one_unit};
use crate::computation::Pending;
use crate::computation::failure::Failure;
use crate::computation::mailbox::Delivery;
use crate::metrics::ModelMetrics;

/// The most bytes of inputs in one batch of several; a single larger input travels alone.
const MAX_BATCH_BYTES: usize = 32 << 20;

/// How often a full queue is looked through, at most, for queries whose clients have gone.
const SWEEP_INTERVAL: Duration = Duration::from_millis(20);

/// Inputs that a replica is given together.
pub struct Batch {
    /// At least one, earliest deadline first.
    pub computations: Vec<Pending>,
    /// The time until the earliest deadline.
    pub budget: Duration,
    /// The latest deadline.
    pub last_deadline: Instant,
    /// Whether it is tried again after a setback.
    pub is_apart: bool,
}

impl Batch {
    /// Whether all of it was asked together, by one client: one input, or several that belong together.
    pub fn is_one_unit(&self) -> bool {
        are_one_unit(&self.computations)
    }
}

/// Where an entry stands: by deadline, between equal ones first come, first served.
pub(super) type Place = (Instant, u64);

/// The entries of a queue.
pub(super) struct Waiting {
    pub(super) entries: BTreeMap<Place, Entry>,
    pushed: u64,
    /// The number of queries, and the bytes of their inputs.
    pub(super) queries: usize,
    pub(super) bytes: usize,
    /// No entry has more queries.
    longest: usize,
    /// When all may be looked through again.
    next_sweep: Instant,
}

impl Waiting {
    pub(super) fn new(now: Instant) -> Self {
        Self { entries: BTreeMap::new(), pushed: 0, queries: 0, bytes: 0, longest: 0, next_sweep: now }
    }

    /// The earliest deadline.
    pub(super) fn first_due(&self) -> Option<Instant> {
        self.entries.first_key_value().map(|(place, _)| place.0)
    }

    /// Place of the first entry, and whether it must be alone in its batch.
    pub(super) fn first(&self) -> Option<(Place, bool)> {
        self.entries.first_key_value().map(|(place, entry)| (*place, entry.is_apart()))
    }

    /// Takes out everything.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = Entry> {
        (self.queries, self.bytes, self.longest) = (0, 0, 0);
        std::mem::take(&mut self.entries).into_values()
    }

    pub(super) fn insert(&mut self, entry: Entry) {
        self.pushed += 1;
        self.put((entry.due, self.pushed), entry);
    }

    /// Puts an entry where it was taken from.
    pub(super) fn put(&mut self, place: Place, entry: Entry) {
        self.queries += entry.len();
        self.bytes += entry.bytes();
        self.longest = self.longest.max(entry.len());
        self.entries.insert(place, entry);
    }

    /// Takes out the entries of more than `most` queries.
    pub(super) fn take_longer_than(&mut self, most: usize) -> Vec<(Place, Entry)> {
        if self.longest <= most {
            return Vec::new();
        }
        self.longest = most;
        let longer: Vec<_> = self.entries.extract_if(.., |_, entry| entry.len() > most).collect();
        self.queries -= longer.iter().map(|(_, entry)| entry.len()).sum::<usize>();
        self.bytes -= longer.iter().map(|(_, entry)| entry.bytes()).sum::<usize>();
        longer
    }

    /// Takes out the first entry from `from` on, or of all.
    fn remove_first(&mut self, from: Option<Place>) -> Option<(Place, Entry)> {
        let (key, entry) = match from {
            None => self.entries.pop_first()?,
            Some(from) => {
                let key = *self.entries.range(from..).next()?.0;
                self.entries.remove_entry(&key)?
            }
        };
        self.queries -= entry.len();
        self.bytes -= entry.bytes();
        Some((key, entry))
    }

    /// Where the entry begins before which `skipped` queries are.
    pub(super) fn key_after(&self, skipped: usize) -> Option<Place> {
        let mut before = 0;
        self.entries.iter().find_map(|(key, entry)| {
            let reached = before >= skipped;
            before += entry.len();
            reached.then_some(*key)
        })
    }

    /// Drops entries at the front that nobody waits for any more.
    pub(super) fn drop_unwanted(&mut self, now: Instant) {
        while let Some(mut first) = self.entries.first_entry() {
            let (due, len, bytes) = (first.key().0, first.get().len(), first.get().bytes());
            let wanted = first.get_mut().is_wanted(now);
            if wanted && first.get().due == due && first.get().len() == len {
                return;
            }
            let entry = first.remove();
            self.queries -= len;
            self.bytes -= bytes;
            if wanted {
                self.insert(entry);
            }
        }
    }

    /// Drops what nobody waits for any more: at the front at each call; anywhere not so often that a full queue would do
    /// nothing else.
    pub(super) fn make_room(&mut self, now: Instant) {
        self.drop_unwanted(now);
        if now < self.next_sweep {
            return;
        }
        (self.queries, self.bytes) = (0, 0);
        self.entries.retain(|_, entry| {
            let wanted = entry.is_wanted(now);
            if wanted {
                self.queries += entry.len();
                self.bytes += entry.bytes();
            }
            wanted
        });
        let took = now.elapsed();
        self.next_sweep = now + took + SWEEP_INTERVAL.max(20 * took);
    }

    /// Ends the first `count` queries, for those who are due; whoever shares a computation and has more time stays.
    /// How many there were.
    pub(super) fn give_up(
        &mut self,
        count: usize,
        model: &ModelId,
        failure: &Failure,
        now: Instant,
        delivery: &mut Delivery,
    ) -> usize {
        let mut ended = 0;
        while ended < count {
            let Some((_, mut entry)) = self.remove_first(None) else { break };
            ended += entry.len();
            if entry.give_up(model, failure, delivery) && entry.due > now {
                self.insert(entry);
            }
        }
        ended
    }

    /// Takes out a batch from `from` on, or of all: of at most `most` queries, unless the first entry has more.
    pub(super) fn pick(
        &mut self,
        from: Option<Place>,
        most: usize,
        now: Instant,
        metrics: &ModelMetrics,
    ) -> Option<Batch> {
        let mut computations = Vec::with_capacity(most.min(self.queries));
        let mut bytes = 0;
        let mut first_deadline = None;
        let mut last_deadline = now;
        let mut is_apart = false;
        while computations.len() < most {
            let Some((key, mut entry)) = self.remove_first(from) else { break };
            if !entry.is_wanted(now) {
                continue;
            }
            bytes += entry.bytes();
            let apart = entry.is_apart();
            let fits = computations.len() + entry.len() <= most && bytes <= MAX_BATCH_BYTES && !apart;
            if !fits && !computations.is_empty() {
                self.put(key, entry);
                break;
            }
            first_deadline = first_deadline.or(Some(entry.due));
            last_deadline = last_deadline.max(entry.due);
            metrics.record_queue_time(now.saturating_duration_since(entry.since));
            computations.extend(entry.hand_out());
            if apart {
                is_apart = true;
                break;
            }
        }
        let budget = first_deadline?.saturating_duration_since(now);
        Some(Batch { computations, budget, last_deadline, is_apart })
    }
}
