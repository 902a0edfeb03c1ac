//! The recent changes of all states, in order: from which each frontend hears what the others learned.
//!
//! Kept in memory by the states' thread. Invariant: what is left of the sequence has no gaps, so whoever knows a place
//! in it misses nothing that came after.

use std::collections::HashSet;
use std::mem::size_of;

use clipper_rpc::selection::{ExchangePosition, StateChange, StateKey};
use uuid::Uuid;

use crate::bounded::{Bounded, Bounds};

/// How many changes are kept, and how much memory they may take, roughly. A frontend that is further behind reads its
/// states anew, which is right at any distance.
const BOUNDS: Bounds = Bounds { count: 1 << 17, bytes: 32 << 20 };

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Ring {
    run: Uuid,
    /// How many changes there were in all.
    sequence: u64,
    recent: Bounded<Entry>,
}

#[derive(Debug)]
struct Entry {
    /// The frontend that learned it.
    origin: Uuid,
    change: StateChange,
}

impl Ring {
    /// Begins a run of management.
    pub(super) fn new() -> Self {
        Self::bounded(BOUNDS)
    }

    fn bounded(bounds: Bounds) -> Self {
        Self { run: Uuid::new_v4(), sequence: 0, recent: Bounded::new(bounds) }
    }

    /// Where the sequence stands.
    pub(super) fn position(&self) -> ExchangePosition {
        ExchangePosition { run: self.run, sequence: self.sequence }
    }

    /// Adds what a frontend has learned.
    pub(super) fn push(&mut self, origin: Uuid, change: StateChange) {
        self.sequence += 1;
        let bytes = size_of_change(&change);
        self.recent.push(Entry { origin, change }, bytes);
    }

    /// What others than a frontend learned since a position, but for the states of some keys; `None` if that is not
    /// known any more.
    pub(super) fn since(
        &self,
        known: Option<ExchangePosition>,
        frontend: Uuid,
        but: &HashSet<&StateKey>,
    ) -> Option<Vec<StateChange>> {
        let known = known.filter(|known| known.run == self.run)?;
        let behind = usize::try_from(self.sequence.checked_sub(known.sequence)?).ok()?;
        let first = self.recent.len().checked_sub(behind)?;
        let others = self.recent.skip(first).filter(|entry| entry.origin != frontend);
        let wanted = others.filter(|entry| !but.contains(&entry.change.key));
        Some(wanted.map(|entry| entry.change.clone()).collect())
    }
}

/// How much memory a change takes, roughly.
pub(super) fn size_of_change(change: &StateChange) -> usize {
    let uid = change.key.uid.as_ref().map_or(0, |uid| uid.as_str().len());
    let models = change.change.0.values().map(|affine| 128 + size_of::<f64>() * affine.add.len());
    size_of::<Entry>() + uid + models.sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{change, key};
    use super::*;

    fn at(ring: &Ring, sequence: u64) -> Option<ExchangePosition> {
        Some(ExchangePosition { sequence, ..ring.position() })
    }

    #[test]
    fn a_frontend_hears_what_others_learned_since_its_position_in_order() {
        let mut ring = Ring::new();
        let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        for (origin, user) in [(one, "a"), (other, "b"), (one, "c"), (other, "d")] {
            ring.push(origin, change(key(Some(user)), 1.0, &[1.0]));
        }
        let heard = |known, frontend, but: &[&StateKey]| {
            let heard = ring.since(at(&ring, known), frontend, &but.iter().copied().collect())?;
            Some(heard.iter().map(|it| it.key.uid.as_ref().unwrap().to_string()).collect::<String>())
        };
        assert_eq!(heard(0, one, &[]).as_deref(), Some("bd"));
        assert_eq!(heard(2, one, &[]).as_deref(), Some("d"));
        assert_eq!(heard(4, one, &[]).as_deref(), Some(""));
        assert_eq!(heard(1, Uuid::nil(), &[&key(Some("c"))]).as_deref(), Some("bd"));
    }

    #[test]
    fn one_that_is_too_far_behind_or_of_another_run_has_missed_changes() {
        let mut ring = Ring::bounded(Bounds { count: 2, bytes: 1 << 20 });
        for _ in 0..3 {
            ring.push(Uuid::from_u128(1), change(key(None), 1.0, &[1.0]));
        }
        let heard = |known| ring.since(known, Uuid::nil(), &HashSet::new()).map(|heard| heard.len());
        assert_eq!(heard(at(&ring, 1)), Some(2));
        assert_eq!(heard(at(&ring, 0)), None);
        assert_eq!(heard(at(&ring, 4)), None);
        assert_eq!(heard(None), None);
        assert_eq!(heard(Some(ExchangePosition { run: Uuid::nil(), sequence: 3 })), None);
    }
}
