//! What a queue has at the moment: the queries that wait, and the replicas that may be given them.
//!
//! Read and changed under the queue's lock only.

use std::time::{Duration, Instant};

use super::arrivals::Arrivals;
use super::entry::Entry;
use super::replica::{Activity, Pace, Replica, ReplicaId};
use super::waiting::{Batch, Place, Waiting};
use super::{Depth, Readiness, Work};

/// A replica leaves a query to others only if they are so many times faster.
const FASTER: u32 = 2;

/// A replica that got nothing for so long, as others are faster, is lent a query to see whether they still are.
pub(super) const EXPLORATION_INTERVAL: Duration = Duration::from_secs(2);

/// Each query that is handed out pays for so much of one that is hedged,
const HEDGES_PER_QUERY: f64 = 0.05;

/// up to so many.
const MOST_HEDGES: f64 = 256.0;

/// What the lock of a queue guards.
pub(super) struct State {
    pub(super) waiting: Waiting,
    pub(super) arrivals: Arrivals,
    pub(super) replicas: Vec<Replica>,
    /// How many queries may be hedged.
    pub(super) hedges: f64,
    pub(super) closed: bool,
}

impl State {
    /// Nothing waits, and no replica is here.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            waiting: Waiting::new(now),
            arrivals: Arrivals::new(now),
            replicas: Vec::new(),
            hedges: MOST_HEDGES,
            closed: false,
        }
    }

    pub(super) fn depth(&self) -> Depth {
        Depth { queries: self.waiting.queries, bytes: self.waiting.bytes, replicas: self.replicas.len() }
    }

    /// Notes how fast a replica is by now, and wakes those that would be better asked than it.
    pub(super) fn compare(&mut self, ready: &Readiness<'_>, now: Instant) {
        let Some(first) = self.waiting.first_due() else { return };
        if self.replicas.len() < 2 || self.is_shunned(ready.replica, now) {
            return;
        }
        let budget = first - now;
        let one = ready.controller.expected(1);
        for replica in &mut self.replicas {
            if replica.id == ready.replica {
                replica.pace = Some(Pace::of(ready.controller, budget));
            } else if replica.activity != Activity::Busy
                && !replica.is_unusable(now)
                && replica.is_faster_than(one, FASTER)
            {
                replica.wake();
            }
        }
    }

    /// How many queries others will have answered before `ready` could answer the first: those who are much faster.
    pub(super) fn answered_sooner_by_others(
        &self,
        ready: &Readiness<'_>,
        budget: Duration,
        now: Instant,
    ) -> usize {
        if self.replicas.len() < 2 {
            return 0;
        }
        let one = ready.controller.expected(1);
        let size = self.waiting.queries.min(ready.controller.limit(budget.saturating_sub(ready.lead))).max(1);
        let then = now + ready.lead + ready.controller.expected(size);
        // Idle ones do not count: work that is left to them might be left for good.
        let faster = self.replicas.iter().filter(|replica| {
            replica.id != ready.replica
                && replica.activity == Activity::Busy
                && replica.shunned_until <= now
                && replica.is_faster_than(one, FASTER)
        });
        faster.map(|replica| replica.answers_by(then, now)).fold(0, usize::saturating_add)
    }

    /// Gives a replica copies of the queries with the most time, which stay for others: it costs them nothing should it
    /// be too slow.
    pub(super) fn copy(&mut self, ready: &Readiness<'_>, most: usize, now: Instant) -> Work {
        let mut batch =
            Batch { computations: Vec::new(), budget: Duration::ZERO, last_deadline: now, is_apart: false };
        for (&(due, _), entry) in self.waiting.entries.iter().rev().filter(|(_, entry)| !entry.is_apart()) {
            if batch.computations.len() + entry.len() > most {
                break;
            }
            batch.computations.extend(entry.lend());
            batch.budget = due.saturating_duration_since(now);
            batch.last_deadline = batch.last_deadline.max(due);
        }
        if batch.computations.is_empty() {
            self.rest(ready, 1);
            return Work::Idle;
        }
        self.engage(ready, &batch, now);
        Work::Batch(batch)
    }

    /// Whether a replica is to leave its work to others, of which at least one can be used.
    pub(super) fn is_shunned(&self, id: ReplicaId, now: Instant) -> bool {
        self.replicas.iter().any(|replica| replica.id == id && replica.shunned_until > now)
            && self.replicas.iter().any(|replica| !replica.is_unusable(now))
    }

    /// A replica that answers a query sooner, once it is free.
    pub(super) fn faster(&self, ready: &Readiness<'_>, now: Instant) -> Option<ReplicaId> {
        let one = ready.controller.expected(1);
        let faster = self.replicas.iter().find(|replica| {
            replica.id != ready.replica
                && !replica.is_unusable(now)
                && replica.pace.is_some()
                && replica.latency() < one
        });
        faster.map(|replica| replica.id)
    }

    /// An idle replica that holds nothing, other than that one.
    pub(super) fn free(&self, other_than: ReplicaId, now: Instant) -> Option<ReplicaId> {
        let free = self.replicas.iter().find(|replica| {
            replica.id != other_than
                && replica.activity != Activity::Busy
                && !replica.is_unusable(now)
                && replica.busy_until <= now
        });
        free.map(|replica| replica.id)
    }

    /// Wakes a replica, if there is one and it is idle.
    pub(super) fn wake(&mut self, id: Option<ReplicaId>) {
        if let Some(replica) = id.and_then(|id| self.replica(id))
            && replica.activity != Activity::Busy
        {
            replica.wake();
        }
    }

    /// Has idle replicas woken for whatever waits, as one to which they may have left work is gone or has stalled.
    pub(super) fn leave_nothing_to_others(&mut self) {
        for replica in &mut self.replicas {
            if let Activity::Idle { at_least, .. } = &mut replica.activity {
                *at_least = 1;
            }
        }
    }

    pub(super) fn replica(&mut self, id: ReplicaId) -> Option<&mut Replica> {
        self.replicas.iter_mut().find(|replica| replica.id == id)
    }

    /// The most queries that any replica takes in one batch.
    pub(super) fn largest_batch(&self) -> usize {
        self.replicas.iter().map(|replica| replica.max_batch_size).max().unwrap_or_default()
    }

    /// Takes out what is too long for a batch of that replica, to be given to [`Self::leave_to_larger`].
    pub(super) fn set_aside(&mut self, id: ReplicaId) -> Vec<(Place, Entry)> {
        let most = self.replica(id).map_or(usize::MAX, |replica| replica.max_batch_size);
        self.waiting.take_longer_than(most)
    }

    /// Puts back what was set aside, and wakes an idle replica that can take it.
    pub(super) fn leave_to_larger(&mut self, set_aside: Vec<(Place, Entry)>) {
        let Some(longest) = set_aside.iter().map(|(_, entry)| entry.len()).max() else { return };
        set_aside.into_iter().for_each(|(place, entry)| self.waiting.put(place, entry));
        let larger = self.replicas.iter_mut().find(|replica| {
            replica.max_batch_size >= longest && replica.activity != Activity::Busy && !replica.stalled
        });
        if let Some(replica) = larger {
            replica.wake();
        }
    }

    /// Notes that a replica has nothing to do until `at_least` queries wait, as far as is known.
    pub(super) fn rest(&mut self, ready: &Readiness<'_>, at_least: usize) {
        self.rest_until(ready, at_least, Instant::now() + EXPLORATION_INTERVAL);
    }

    pub(super) fn rest_until(&mut self, ready: &Readiness<'_>, at_least: usize, patience: Instant) {
        if let Some(replica) = self.replica(ready.replica) {
            replica.activity = Activity::Idle { at_least, patience };
            if ready.in_flight == 0 {
                replica.busy_until = Instant::now();
            }
        }
    }

    /// Has every replica of a closed and empty queue know.
    pub(super) fn end(&mut self, ready: &Readiness<'_>) -> Work {
        if let Some(replica) = self.replica(ready.replica) {
            // Not idle, or those that hold something would wake each other until they are done.
            replica.activity = Activity::Busy;
        }
        self.wake_all();
        if ready.in_flight == 0 { Work::Closed } else { Work::Idle }
    }

    /// Notes what a replica is given.
    pub(super) fn engage(&mut self, ready: &Readiness<'_>, batch: &Batch, now: Instant) {
        let size = batch.computations.len();
        self.hedges = (self.hedges + HEDGES_PER_QUERY * size as f64).min(MOST_HEDGES);
        let busy_until = now + ready.lead + ready.controller.expected(size);
        if let Some(replica) = self.replica(ready.replica) {
            replica.activity = Activity::Busy;
            replica.busy_until = busy_until;
        }
    }

    /// Wakes the idle replica that answers soonest, if there is enough work for it; once a closed queue is empty, all.
    pub(super) fn wake_one(&mut self) {
        let queries = self.waiting.queries;
        if queries == 0 {
            if self.closed {
                self.wake_all();
            }
            return;
        }
        let now = Instant::now();
        let all_shunned = self.replicas.iter().all(|replica| replica.is_unusable(now));
        let idle = self.replicas.iter_mut().filter(|replica| {
            replica.is_to_be_woken(queries, now) && (all_shunned || replica.shunned_until <= now)
        });
        if let Some(replica) = idle.min_by_key(|replica| replica.answers_at(now)) {
            replica.wake();
        }
    }

    pub(super) fn wake_all(&mut self) {
        let idle = self.replicas.iter_mut().filter(|replica| replica.activity != Activity::Busy);
        idle.for_each(Replica::wake);
    }
}
