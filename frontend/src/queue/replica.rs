//! What a queue knows of each replica that it feeds: whether it is idle, and how fast it is.

use std::time::{Duration, Instant};

use crate::batching::Controller;

/// A replica, within its queue.
pub type ReplicaId = u64;

/// Tells an idle replica's connection that there is work.
pub type WakeUp = Box<dyn Fn() + Send>;

/// One replica.
pub(super) struct Replica {
    pub(super) id: ReplicaId,
    wake_up: WakeUp,
    /// The most inputs that it takes in one batch.
    pub(super) max_batch_size: usize,
    pub(super) activity: Activity,
    pub(super) pace: Option<Pace>,
    /// When it will have answered what it holds.
    pub(super) busy_until: Instant,
    /// Whether it lets a batch wait far longer than expected.
    pub(super) stalled: bool,
    /// Its batches fail: until when others come first.
    pub(super) shunned_until: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Activity {
    /// It will ask for work by itself.
    Busy,
    /// It is to be woken when so many queries wait; from `patience` on by any, as the others may have become slow.
    Idle { at_least: usize, patience: Instant },
}

/// How long a replica's batches take, as its controller expects.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// A batch of one input.
    one: Duration,
    /// The inputs of a batch as large as it is likely to get,
    batch: usize,
    /// and how long that one takes.
    full: Duration,
}

impl Pace {
    pub(super) fn of(controller: &Controller, budget: Duration) -> Self {
        let batch = controller.limit(budget).max(1);
        Self { one: controller.expected(1), batch, full: controller.expected(batch) }
    }

    /// How many inputs are answered in that time.
    fn answers_within(&self, time: Duration) -> usize {
        if time < self.one {
            return 0;
        }
        if time >= self.full {
            let batches = time.as_secs_f64() / self.full.as_secs_f64().max(1e-9);
            return (batches as usize).saturating_mul(self.batch);
        }
        let share = (time - self.one).as_secs_f64() / (self.full - self.one).as_secs_f64();
        1 + (share * (self.batch - 1) as f64) as usize
    }
}

impl Replica {
    pub(super) fn new(id: ReplicaId, max_batch_size: usize, wake_up: WakeUp, now: Instant) -> Self {
        Self {
            id,
            wake_up,
            max_batch_size,
            activity: Activity::Busy,
            pace: None,
            busy_until: now,
            stalled: false,
            shunned_until: now,
        }
    }

    /// Has it ask for work.
    pub(super) fn wake(&mut self) {
        self.activity = Activity::Busy;
        (self.wake_up)();
    }

    /// Whether it can do with `waiting` queries.
    pub(super) fn is_to_be_woken(&self, waiting: usize, now: Instant) -> bool {
        match self.activity {
            Activity::Busy => false,
            Activity::Idle { at_least, patience } => {
                !self.stalled && (at_least <= waiting || patience <= now)
            }
        }
    }

    /// How long a query takes there that it is given now; nothing, as long as that is not known.
    pub(super) fn latency(&self) -> Duration {
        self.pace.map_or(Duration::ZERO, |pace| pace.one)
    }

    /// Whether it is known to answer a query that is given to it now that many times sooner than within `latency`.
    pub(super) fn is_faster_than(&self, latency: Duration, times: u32) -> bool {
        self.latency() > Duration::ZERO && self.latency() * times <= latency
    }

    /// When it will have answered a query that it is given now, besides what it holds.
    pub(super) fn answers_at(&self, now: Instant) -> Instant {
        self.busy_until.max(now) + self.latency()
    }

    /// Whether others come first, if there are any.
    pub(super) fn is_unusable(&self, now: Instant) -> bool {
        self.stalled || self.shunned_until > now
    }

    /// How many inputs it will have answered between `now` and `then`, besides those that it holds.
    pub(super) fn answers_by(&self, then: Instant, now: Instant) -> usize {
        match self.pace {
            Some(pace) if !self.stalled => {
                pace.answers_within(then.saturating_duration_since(self.busy_until.max(now)))
            }
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_counts_whole_batches_and_parts_of_the_first() {
        let millis = Duration::from_millis;
        let pace = Pace { one: millis(10), batch: 11, full: millis(20) };
        let answered: Vec<_> = [9, 10, 15, 20, 39, 40].map(|time| pace.answers_within(millis(time))).to_vec();
        assert_eq!(answered, [0, 1, 6, 11, 11, 22]);
    }

    #[test]
    fn a_replica_that_leaves_queries_to_others_does_not_do_so_for_ever() {
        let now = Instant::now();
        let mut replica = Replica::new(1, 3, Box::new(|| ()), now);
        replica.activity = Activity::Idle { at_least: 1000, patience: now + Duration::from_secs(2) };
        assert!(!replica.is_to_be_woken(999, now));
        assert!(replica.is_to_be_woken(1000, now));
        assert!(replica.is_to_be_woken(1, now + Duration::from_secs(2)));
        replica.wake();
        assert!(!replica.is_to_be_woken(1000, now), "it was");
    }
}
