//! What becomes of queries that a container was given and did not compute.
//!
//! Which of the inputs in a batch was at fault, if any, is not known. So they are tried again in smaller batches that they share with
//! nobody else, until an input that fails does so alone. An input may also be at fault where its container is lost or stalls: it
//! is handed to few others. Invariant: what is pending in another place is not queued again.

use std::time::Instant;

use clipper_rpc::names::ModelId;

use super::entry::{Entry, are_one_unit};
use super::{Queue, ReplicaId};
use crate::computation::Pending;
use crate::computation::failure::Failure;
use crate::computation::mailbox::Delivery;

/// A batch that failed is tried again in so many parts: as few batches as by halves find an input that fails, in half as many rounds.
const PARTS_OF_FAILED: usize = 4;

/// A batch whose container was lost or stalled, in at least so many, or the root of its size: an input that kills its containers is alone
/// after the second one, mostly.
const PARTS_OF_LOST: usize = 8;

/// An input counts as the cause once so many containers were lost with it,
const MOST_LOSSES: u8 = 3;
/// or so many, if it was all that the last one held.
const MOST_LOSSES_ALONE: u8 = 2;

/// Why a container did not compute what it was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setback {
    /// It reported that the batch failed.
    Failed,
    /// It was lost.
    Lost,
    /// It stalled, and still holds it.
    Stalled,
}

impl Setback {
    /// What is said of a query that is not tried again. It names nobody's data: the queries of a batch belong to
    /// different clients, and it is not known whose input was at fault.
    pub(super) fn failure(self, model: &ModelId) -> Failure {
        let problem = match self {
            Self::Failed => {
                "failed the batch that this query was in, and there was no time to try it again alone"
            }
            Self::Lost => "was lost while it held this query",
            Self::Stalled => "stalled while it held this query",
        };
        Failure::ContainerError { model: model.clone(), problem: problem.into() }
    }

    /// How many units, of `count` in a batch, are tried again in one batch.
    fn part(self, count: usize) -> usize {
        let parts = match self {
            Self::Failed => PARTS_OF_FAILED,
            Self::Lost | Self::Stalled => PARTS_OF_LOST.max(count.isqrt()),
        };
        count.div_ceil(parts)
    }
}

/// Where a unit stands that a container did not compute.
struct Company {
    /// Whether the container held nothing else.
    alone: bool,
    /// How many replicas are left.
    replicas: usize,
}

impl Queue {
    /// Takes back what a container held that leaves in order: nothing is suspected of anything.
    pub fn take_back(&self, held: impl IntoIterator<Item = Pending>) {
        self.queue_again(held, None, |_, _| None);
    }

    /// Takes back a batch of several units that a container reported as failed.
    pub fn retry_failed(&self, held: impl IntoIterator<Item = Pending>) {
        self.queue_again(held, Some(Setback::Failed), |_, _| None);
    }

    /// Takes back what a container held that was lost by `loss`, and ends what was held by too many that were lost.
    pub fn retry_lost(&self, held: impl IntoIterator<Item = Pending>, loss: &str) {
        self.queue_again(held, Some(Setback::Lost), |unit, company| {
            let losses = unit.lose();
            let most = if company.alone { MOST_LOSSES_ALONE } else { MOST_LOSSES };
            if losses < most && company.replicas > 0 {
                return None;
            }
            if !company.alone {
                return Some(Setback::Lost.failure(&self.model));
            }
            let before = losses - 1;
            let before = if before > 0 { format!(", as were {before} before it") } else { String::new() };
            let problem = format!("was lost while it held this query alone{before}: {loss}").into();
            Some(Failure::ContainerError { model: self.model.clone(), problem })
        });
    }

    /// Queues again what a container held, in parts after a setback, but for the units of which `end` says why they end.
    fn queue_again(
        &self,
        held: impl IntoIterator<Item = Pending>,
        setback: Option<Setback>,
        end: impl Fn(&Entry, &Company) -> Option<Failure>,
    ) {
        let now = Instant::now();
        let mut delivery = Delivery::default();
        let held: Vec<_> = held.into_iter().collect();
        let alone = are_one_unit(&held);
        let mut state = self.lock();
        let company = Company { alone, replicas: state.replicas.len() };
        let no_replica =
            || (company.replicas == 0).then(|| setback.unwrap_or(Setback::Lost).failure(&self.model));
        let again = Entry::units(held, now).into_iter().filter_map(|unit| {
            match end(&unit, &company).or_else(no_replica) {
                Some(failure) => unit.fail(&failure, &mut delivery),
                None if unit.is_elsewhere() => {}
                None => return Some(unit),
            }
            None
        });
        let again: Vec<_> = again.collect();
        match setback {
            None => again.into_iter().for_each(|unit| state.waiting.insert(unit)),
            Some(setback) => {
                let part = setback.part(again.len());
                Entry::apart(again, part, setback).for_each(|part| state.waiting.insert(part));
            }
        }
        state.wake_one();
    }

    /// Gives other replicas what a stalled one holds, as far as they are there and hedging has not been used too much;
    /// the first answer counts. The stalled one is not woken until [`Queue::revive`]. Nothing is hedged twice: an input
    /// of which two replicas stall might stall them all.
    pub fn hedge<'a>(&self, stalled: ReplicaId, held: impl Iterator<Item = &'a Pending>) -> usize {
        let now = Instant::now();
        let mut state = self.lock();
        let mut hedged = 0;
        if let Some(replica) = state.replica(stalled) {
            replica.stalled = true;
        }
        state.leave_nothing_to_others();
        if state.replicas.iter().any(|replica| !replica.stalled) {
            let held = held.filter(|pending| !pending.is_elsewhere());
            let mut units = Entry::units(held.map(Pending::again), now);
            units.retain(|unit| {
                let cost = unit.len() as f64;
                let hedge = state.hedges >= cost && unit.hedge();
                if hedge {
                    state.hedges -= cost;
                    hedged += unit.len();
                }
                hedge
            });
            let part = Setback::Stalled.part(units.len());
            Entry::apart(units, part, Setback::Stalled).for_each(|part| state.waiting.insert(part));
        }
        state.wake_one();
        self.metrics.hedge(hedged);
        hedged
    }
}
