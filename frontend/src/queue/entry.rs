//! What waits in a queue: one computation, or several that are to be in one batch.

use std::sync::Arc;
use std::time::Instant;

use smallvec::{SmallVec, smallvec};

use crate::computation::Computation;
use crate::failure::Failure;
use crate::reply::Delivery;

/// Computations that are answered by one batch.
pub struct Entry {
    computations: SmallVec<[Arc<Computation>; 1]>,
    /// The earliest deadline of those who wait.
    pub(super) due: Instant,
    /// When it was queued.
    pub(super) since: Instant,
    /// Whether a container holds it, too, that lets it wait.
    pub(super) hedge: bool,
}

impl Entry {
    /// One computation, due at `due`.
    pub fn new(computation: Arc<Computation>, due: Instant, now: Instant) -> Self {
        Self { computations: smallvec![computation], due, since: now, hedge: false }
    }

    /// Computations that no two batches may share among them, due at `due`.
    pub fn together(computations: Vec<Arc<Computation>>, due: Instant, now: Instant) -> Self {
        Self { computations: computations.into(), due, since: now, hedge: false }
    }

    /// What a container holds, as the entries that it was given, as far as somebody waits for them.
    pub(super) fn regroup(held: impl Iterator<Item = Arc<Computation>>, now: Instant) -> Vec<Self> {
        let held: Vec<_> = held.collect();
        let groups = held.chunk_by(|one, next| one.goes_with(next));
        let entries = groups.map(|group| Self::together(group.to_vec(), now, now));
        entries.filter_map(|mut entry| entry.is_wanted(now).then_some(entry)).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.computations.len()
    }

    /// What its inputs take, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.computations.iter().map(|computation| computation.input().data().len()).sum()
    }

    /// How often containers were given it.
    pub(super) fn attempts(&self) -> u8 {
        self.computations.iter().map(|computation| computation.attempts()).max().unwrap_or_default()
    }

    /// Sets `due` anew; whether anybody waits for it.
    pub(super) fn is_wanted(&mut self, now: Instant) -> bool {
        self.renew(|computation| computation.due(now))
    }

    /// Ends it for all who are due by now as it is; whether others wait, who have more time.
    pub(super) fn give_up(&mut self, failure: &Failure, delivery: &mut Delivery) -> bool {
        let due = self.due;
        self.renew(|computation| computation.give_up(due, failure, delivery))
    }

    /// Ends it.
    pub(super) fn fail(self, failure: &Failure, delivery: &mut Delivery) {
        let outcome = Err(failure.clone());
        self.computations.iter().for_each(|computation| computation.finish(&outcome, delivery));
    }

    /// Its computations, which a container is given now.
    pub(super) fn hand_out(self) -> impl Iterator<Item = Arc<Computation>> {
        self.computations.into_iter().inspect(|computation| computation.attempt())
    }

    /// Its computations, which a container is given besides.
    pub(super) fn lend(&self) -> impl Iterator<Item = Arc<Computation>> {
        self.computations.iter().cloned().inspect(|computation| computation.attempt())
    }

    fn renew(&mut self, mut due: impl FnMut(&Computation) -> Option<Instant>) -> bool {
        let mut earliest: Option<Instant> = None;
        self.computations.retain(|computation| {
            let due = due(computation);
            earliest = [earliest, due].into_iter().flatten().min();
            due.is_some()
        });
        if let Some(earliest) = earliest {
            self.due = earliest;
        }
        earliest.is_some()
    }
}
