//! What waits in a queue: one computation, or several that are to be in one batch.

use std::sync::Arc;
use std::time::Instant;

use clipper_rpc::names::ModelId;
use smallvec::{SmallVec, smallvec};

use super::setback::Setback;
use crate::computation::failure::Failure;
use crate::computation::mailbox::Delivery;
use crate::computation::{Computation, Pending};

/// Computations that are answered by one batch.
pub struct Entry {
    pending: SmallVec<[Pending; 1]>,
    /// The earliest deadline of those who wait.
    pub(super) due: Instant,
    /// When it was queued.
    pub(super) since: Instant,
    /// Why a container did not compute it. It may have been at fault itself, so it is a batch of its own from then on.
    setback: Option<Setback>,
}

impl Entry {
    /// One computation, due at `due`.
    pub fn new(computation: Arc<Computation>, due: Instant, now: Instant) -> Self {
        Self { pending: smallvec![Pending::new(computation)], due, since: now, setback: None }
    }

    /// Computations that no two batches may share among them, due at `due`.
    pub fn together(computations: Vec<Arc<Computation>>, due: Instant, now: Instant) -> Self {
        let pending = computations.into_iter().map(Pending::new).collect();
        Self { pending, due, since: now, setback: None }
    }

    /// What a container held, as the entries that it was once queued as, as far as somebody waits for them.
    pub(super) fn units(held: impl IntoIterator<Item = Pending>, now: Instant) -> Vec<Self> {
        let mut units: Vec<Self> = Vec::new();
        for pending in held {
            match units.last_mut() {
                Some(unit) if unit.pending[0].goes_with(&pending) => unit.pending.push(pending),
                _ => units.push(Self { pending: smallvec![pending], due: now, since: now, setback: None }),
            }
        }
        units.retain_mut(|unit| unit.is_wanted(now));
        units
    }

    /// Parts of at most `most` units, each to be a batch of its own after a setback.
    pub(super) fn apart(units: Vec<Self>, most: usize, setback: Setback) -> impl Iterator<Item = Self> {
        let mut units = units.into_iter();
        std::iter::from_fn(move || {
            let mut part = Self { setback: Some(setback), ..units.next()? };
            for unit in units.by_ref().take(most.max(1) - 1) {
                part.due = part.due.min(unit.due);
                part.pending.extend(unit.pending);
            }
            Some(part)
        })
    }

    /// Its units, if it has several: they need not be in one batch.
    pub(super) fn split(self) -> Result<impl Iterator<Item = Self>, Self> {
        match self.setback {
            Some(setback) if !are_one_unit(&self.pending) => {
                let since = self.since;
                Ok(Self::apart(Self::units(self.pending, since), 1, setback))
            }
            _ => Err(self),
        }
    }

    /// Whether it is a batch of its own.
    pub(super) fn is_apart(&self) -> bool {
        self.setback.is_some()
    }

    pub(super) fn len(&self) -> usize {
        self.pending.len()
    }

    /// What its inputs take, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.pending.iter().map(|pending| pending.input().data().len()).sum()
    }

    /// Whether any of it is pending elsewhere, too.
    pub(super) fn is_elsewhere(&self) -> bool {
        self.pending.iter().any(Pending::is_elsewhere)
    }

    /// Counts that a container was lost which held it; the most that were lost so with any of it.
    pub(super) fn lose(&self) -> u8 {
        self.pending.iter().map(|pending| pending.lose()).max().unwrap_or_default()
    }

    /// Notes that another container is given it, too; whether none was before.
    pub(super) fn hedge(&self) -> bool {
        self.pending.iter().all(|pending| pending.hedge())
    }

    /// Sets `due` anew; whether anybody waits for it.
    pub(super) fn is_wanted(&mut self, now: Instant) -> bool {
        self.renew(|pending| pending.due(now))
    }

    /// Ends it for all who are due by now, with `failure` or, after a setback, with that; whether others wait, who have more
    /// time. Who may yet be answered from another place waits for that.
    pub(super) fn give_up(&mut self, model: &ModelId, failure: &Failure, delivery: &mut Delivery) -> bool {
        let due = self.due;
        let setback = self.setback.map(|setback| setback.failure(model));
        let failure = setback.as_ref().unwrap_or(failure);
        self.renew(
            |pending| {
                if pending.is_elsewhere() { None } else { pending.give_up(due, failure, delivery) }
            },
        )
    }

    /// Ends it, but for what is pending elsewhere.
    pub(super) fn fail(self, failure: &Failure, delivery: &mut Delivery) {
        let outcome = Err(failure.clone());
        self.pending.into_iter().for_each(|pending| pending.fail(&outcome, delivery));
    }

    /// Its computations, which a container is given now.
    pub(super) fn hand_out(self) -> impl Iterator<Item = Pending> {
        self.pending.into_iter().inspect(|pending| pending.begin())
    }

    /// Its computations, which a container is given besides.
    pub(super) fn lend(&self) -> impl Iterator<Item = Pending> {
        self.pending.iter().map(Pending::again).inspect(|pending| pending.begin())
    }

    fn renew(&mut self, mut due: impl FnMut(&Pending) -> Option<Instant>) -> bool {
        let mut earliest: Option<Instant> = None;
        self.pending.retain(|pending| {
            let due = due(pending);
            earliest = [earliest, due].into_iter().flatten().min();
            due.is_some()
        });
        if let Some(earliest) = earliest {
            self.due = earliest;
        }
        earliest.is_some()
    }
}

/// Whether all of it was asked together, by one client.
pub(super) fn are_one_unit(pending: &[Pending]) -> bool {
    pending.iter().all(|one| pending.len() == 1 || one.goes_with(&pending[0]))
}
