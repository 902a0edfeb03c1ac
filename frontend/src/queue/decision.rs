//! What a replica that asks for work gets, decided without changing anything.
//!
//! [`super::Queue::take`] carries a decision out. Decisions read the queue's [`State`] and the
//! replica's controller, which alone knows how long batches take.

use std::time::{Duration, Instant};

use super::Readiness;
use super::replica::ReplicaId;
use super::state::{EXPLORATION_INTERVAL, State};
use super::waiting::Place;

/// The work of a replica that asks for some.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Decision {
    /// The queue is closed and empty: no work will come.
    End,
    /// No work now: the replica rests until `at_least` queries wait. Replica `wake` is woken in its
    /// place, if there is one.
    Rest { at_least: usize, wake: Option<ReplicaId> },
    /// Copies of up to `most` queries, which stay in the queue for faster replicas. Replica `wake` is
    /// woken to take them, if there is one.
    Copies { most: usize, wake: Option<ReplicaId> },
    /// The first `queries` can no longer meet their deadlines: they fail. The replica gets up to
    /// `take` of the others, by [`State::decide_on_batch`].
    GiveUp { queries: usize, take: usize, budget: Duration },
    /// More queries should come soon: the replica waits until `until` queries wait, for up to `at_most`.
    Wait { until: usize, at_most: Duration },
    /// A batch of up to `size` queries, from place `from` on or from the first.
    Batch { from: Option<Place>, size: usize },
}

/// A part of the queue from which a batch may be taken.
pub(super) struct Offer {
    /// Queries before it, which faster replicas will have answered sooner.
    pub(super) left: usize,
    /// Place of its first entry.
    pub(super) from: Place,
    /// The most queries to take.
    pub(super) most: usize,
    /// Whether its first entry must be alone in its batch.
    pub(super) is_apart: bool,
    /// Time until the earliest deadline in the queue.
    pub(super) budget: Duration,
}

impl Decision {
    fn rest(at_least: usize) -> Self {
        Self::Rest { at_least, wake: None }
    }
}

impl State {
    /// Decides on the work of a replica. Entries that nobody wants any more must have been dropped, and
    /// the pace of the replica noted.
    pub(super) fn decide(&self, ready: &mut Readiness<'_>, now: Instant) -> Decision {
        let Some(first) = self.waiting.first_due() else {
            return if self.closed { Decision::End } else { Decision::rest(1) };
        };
        if self.is_shunned(ready.replica, now) {
            return Decision::rest(1);
        }
        let budget = first - now;
        let left = self.answered_sooner_by_others(ready, budget, now);
        if self.waiting.queries <= left {
            return match ready.idle {
                Some(idle) if idle >= EXPLORATION_INTERVAL => Decision::Copies { most: 1, wake: None },
                _ => Decision::rest(left + 1),
            };
        }
        let Some(from) = self.waiting.key_after(left) else { return Decision::rest(left + 1) };
        let is_apart = self.waiting.entries[&from].is_apart();
        if is_apart && ready.in_flight > 0 {
            return Decision::Rest { at_least: left + 1, wake: self.free(ready.replica, now) };
        }
        let budgets = self.waiting.entries.range(from..).flat_map(|(place, entry)| {
            std::iter::repeat_n(place.0.saturating_duration_since(now), entry.len())
        });
        let plan = ready.controller.plan(self.waiting.queries - left, budgets, ready.lead, ready.idle);
        if plan.given_up > 0 {
            let faster = self.faster(ready, now);
            if left == 0 && faster.is_none() {
                return Decision::GiveUp { queries: plan.given_up, take: plan.take, budget };
            }
            let wake = faster.filter(|_| left == 0);
            return if plan.take > 0 {
                Decision::Copies { most: plan.take, wake }
            } else {
                Decision::Rest { at_least: left + 1, wake }
            };
        }
        self.decide_on_batch(ready, &Offer { left, from, most: plan.take, is_apart, budget })
    }

    /// Decides whether a replica takes what it is offered now.
    pub(super) fn decide_on_batch(&self, ready: &mut Readiness<'_>, offer: &Offer) -> Decision {
        let Offer { left, from, most, is_apart, budget } = *offer;
        if most == 0 {
            return Decision::rest(left + 1);
        }
        // A smaller batch gains nearly nothing, and takes from the batch after it.
        let worthwhile = ready.in_flight.div_ceil(2);
        if self.waiting.queries - left < worthwhile {
            return Decision::rest(left + worthwhile);
        }
        if ready.may_wait && !is_apart {
            let per_second = self.arrivals.per_second();
            let free = budget.saturating_sub(ready.lead);
            if let Some(wait) = ready.controller.wait(self.waiting.queries, per_second, free) {
                return Decision::Wait { until: wait.until, at_most: wait.at_most };
            }
        }
        Decision::Batch { from: (left > 0).then_some(from), size: most }
    }
}
