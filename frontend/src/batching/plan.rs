//! Which of the waiting queries to answer with the default output now, and which to send.
//!
//! Called by a connection that is free, through [`Controller::plan`]. Under overload, serving strictly by deadline collapses: the first in
//! the queue never has time for a batch of decent size, so batches shrink, which makes the next ones later still. So some at the front
//! are given up, as many as make the batch behind them most worth its time. Invariant: what can all be served is served.

use std::time::Duration;

use super::Controller;
use super::seconds::{duration, seconds};

/// How long a replica with nothing to do is left alone, at the least, because nobody seems to have the time.
const LEAST_PROBE_INTERVAL: Duration = Duration::from_millis(250);

/// And at the most.
const LONGEST_PROBE_INTERVAL: Duration = Duration::from_secs(2);

/// What to do with the queries that wait, earliest deadline first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// How many at the front can no longer be answered in time, or are given up for those behind them: answer them now.
    pub given_up: usize,
    /// How many of those that follow to send now.
    pub take: usize,
}

impl Controller {
    /// What to do with `waiting` queries. `budgets`: the time that is left to each of them, ascending. `lead`: how long until the
    /// replica can begin, 0 if it is free. `idle`: for how long nothing has been in flight, if nothing is.
    ///
    /// Costs one look at the first budget where all of them fit into one batch, otherwise at most three passes.
    pub fn plan(
        &self,
        waiting: usize,
        budgets: impl Iterator<Item = Duration> + Clone,
        lead: Duration,
        idle: Option<Duration>,
    ) -> Plan {
        let Some(first) = budgets.clone().next() else { return Plan { given_up: 0, take: 0 } };
        if let Some(take) = self.batch(first.saturating_sub(lead), waiting)
            && take == waiting
        {
            return Plan { given_up: 0, take };
        }
        let hopeless =
            budgets.clone().take(waiting).take_while(|&budget| self.limit(budget.saturating_sub(lead)) == 0);
        let hopeless = hopeless.count();
        let hopeful = waiting - hopeless;
        if hopeful == 0 {
            let take = usize::from(waiting > 0 && idle.is_some_and(|idle| idle >= self.probe_interval()));
            return Plan { given_up: waiting - take, take };
        }
        let mut budgets = budgets.take(waiting).skip(hopeless);
        let (sacrificed, take) = if self.serves_all(hopeful, budgets.clone(), lead) {
            (0, budgets.next().and_then(|first| self.batch(first.saturating_sub(lead), hopeful)))
        } else {
            self.most_worth(hopeful, budgets, lead)
        };
        // A size that is set without regard to deadlines may suit none: then those who might make it alone are not kept from trying.
        let take = take.unwrap_or_else(|| self.limit(Duration::MAX).min(hopeful));
        Plan { given_up: hopeless + sacrificed, take }
    }

    /// The batch to send, of `waiting` queries of which the first has that much time; none if it would be late.
    fn batch(&self, budget: Duration, waiting: usize) -> Option<usize> {
        let size = self.limit(budget).min(waiting);
        (size > 0 && (self.heeds_deadlines() || self.needed(size) <= seconds(budget))).then_some(size)
    }

    /// Whether all could be answered in time, batch after batch.
    fn serves_all(
        &self,
        waiting: usize,
        mut budgets: impl Iterator<Item = Duration>,
        lead: Duration,
    ) -> bool {
        let mut left = waiting;
        let mut begin = lead;
        while left > 0 {
            let Some(budget) = budgets.next() else { return true };
            let Some(size) = self.batch(budget.saturating_sub(begin), left) else { return false };
            left -= size;
            begin += self.expected(size);
            if size > 1 {
                budgets.nth(size - 2);
            }
        }
        true
    }

    /// How many to give up so that the batch behind them gains most over what its time is worth, and the size of that batch.
    fn most_worth(
        &self,
        waiting: usize,
        budgets: impl Iterator<Item = Duration> + Clone,
        lead: Duration,
    ) -> (usize, Option<usize>) {
        let longest = budgets.clone().last().unwrap_or_default();
        let rate = self.sustainable_rate(longest);
        let cap = self.limit(Duration::MAX);
        let mut best: Option<(f64, usize, usize)> = None;
        let mut worth_a_look = Duration::ZERO;
        for (given_up, budget) in budgets.enumerate() {
            let budget = budget.saturating_sub(lead);
            // Until a larger batch fits, giving up more gains nothing.
            if budget < worth_a_look {
                continue;
            }
            let Some(size) = self.batch(budget, waiting - given_up) else { continue };
            let worth = size as f64 - rate * seconds(self.expected(size));
            if best.is_none_or(|(most, ..)| worth > most) {
                best = Some((worth, given_up, size));
            }
            if size == cap || size == waiting - given_up {
                break;
            }
            worth_a_look = duration(self.needed(size + 1));
        }
        best.map_or((0, None), |(_, given_up, size)| (given_up, Some(size)))
    }

    /// Inputs per second where a query waits for at most one batch besides its own: batches that take half of the longest budget.
    fn sustainable_rate(&self, longest: Duration) -> f64 {
        let size = self.limit(longest / 2).max(1);
        let seconds = seconds(self.expected(size));
        if seconds > 0.0 { size as f64 / seconds } else { 0.0 }
    }

    fn probe_interval(&self) -> Duration {
        (self.expected(1) * 4).clamp(LEAST_PROBE_INTERVAL, LONGEST_PROBE_INTERVAL)
    }
}
