//! Which of the waiting queries to answer with the default output now, and which to send.
//!
//! Called by a connection that is free, through [`Controller::plan`]. Where not everybody is safe, the batch with the most answers in time
//! per second that it takes is sent. Serving strictly by deadline would collapse instead: after a slow batch the first in the queue
//! have no time for a batch of decent size, so batches shrink, which makes the next ones later still. Here those first ones go along for
//! what chance they have. Invariant: who has a chance is given up only for somebody who is sent instead.

use std::time::Duration;

use super::Controller;
use super::seconds::{scaled, seconds};

/// How long a replica with nothing to do is left alone, at the least, because nobody seems to have the time.
const LEAST_PROBE_INTERVAL: Duration = Duration::from_millis(250);

/// And at the most.
const LONGEST_PROBE_INTERVAL: Duration = Duration::from_secs(2);

/// How far an answer strays, in standard deviations, in each of five equally likely cases: the normal distribution's 10th, 30th, 50th,
/// 70th and 90th percentiles. Rare pauses are in none of them: no size of the batch helps against those.
const CASES: [f64; 5] = [-1.28, -0.52, 0.0, 0.52, 1.28];

/// The weight of a new share of those who are served.
const SERVED_GAIN: f64 = 0.1;

/// How many standard deviations more than the share of those who are lost asks for, one must be safe by not to be given up for another.
const CAUTION: f64 = 0.5;

/// What to do with the queries that wait, earliest deadline first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// How many at the front can no longer be answered in time, or are given up for those behind them: answer them now.
    pub given_up: usize,
    /// How many of those that follow to send now.
    pub take: usize,
}

/// A batch that could be sent.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    given_up: usize,
    size: usize,
    /// How many of its answers are expected to be in time.
    good: f64,
    /// Those per second that it takes.
    worth: f64,
}

impl Controller {
    /// What to do with `waiting` queries. `budgets`: the time that is left to each of them, ascending. `lead`: how long until the
    /// replica can begin, 0 if it is free. `idle`: for how long nothing has been in flight, if nothing is.
    ///
    /// Costs one look at the first budget where all of them are safe in one batch, otherwise a pass and some binary searches.
    pub fn plan(
        &mut self,
        waiting: usize,
        budgets: impl Iterator<Item = Duration> + Clone,
        lead: Duration,
        idle: Option<Duration>,
    ) -> Plan {
        let Some(first) = budgets.clone().next() else { return Plan { given_up: 0, take: 0 } };
        if self.all_are_safe(waiting, first.saturating_sub(lead)) {
            self.note(waiting, waiting as f64, 0);
            return Plan { given_up: 0, take: waiting };
        }
        let budgets: Vec<f64> =
            budgets.take(waiting).map(|budget| seconds(budget.saturating_sub(lead))).collect();
        let hopeless = budgets.partition_point(|&budget| self.is_hopeless(budget));
        let hopeful = &budgets[hopeless..];
        if hopeful.is_empty() {
            let take = usize::from(waiting > 0 && idle.is_some_and(|idle| idle >= self.probe_interval()));
            return Plan { given_up: waiting - take, take };
        }
        let best = self.most_worth(hopeful);
        let given_up = hopeless + best.given_up;
        self.note(given_up + best.size, best.good, waiting - given_up - best.size);
        Plan { given_up, take: best.size }
    }

    /// Whether `waiting` queries, the first of which has that much time, fit into one batch with the margin.
    fn all_are_safe(&self, waiting: usize, first: Duration) -> bool {
        self.limit(first) >= waiting && (self.heeds_deadlines() || self.needed(waiting) <= seconds(first))
    }

    /// Remembers how many of those who left the queue are served, and whether any were left in it.
    fn note(&mut self, ended: usize, served: f64, left: usize) {
        self.served += SERVED_GAIN * (served / ended.max(1) as f64 - self.served);
        self.pressed = left > 0;
    }

    /// The batch with the most answers in time per second that it takes: every second is worth as much to those who come later.
    fn most_worth(&self, budgets: &[f64]) -> Candidate {
        let most = self.largest(budgets[budgets.len() - 1]).min(budgets.len());
        let largest = self.candidate(budgets, self.spared(budgets, most), most);
        // A size that is set is kept to, unless it is so unfit that nearly all would be late: then fewer are sent, the freshest.
        let sizes_itself = self.heeds_deadlines();
        if !sizes_itself && largest.good >= 0.5 * most as f64 {
            return largest;
        }
        let smaller = sizes(most).map(|size| {
            let given_up = if sizes_itself { self.spared(budgets, size) } else { budgets.len() - size };
            self.candidate(budgets, given_up, size)
        });
        smaller.fold(largest, |best, candidate| if candidate.worth > best.worth { candidate } else { best })
    }

    /// How many at the front to give up for others behind a batch of `size`. Where many are lost, whoever is sent takes the place of
    /// another who will be lost for it, so it is to be one with good chances; where nobody is lost, each chance is taken.
    fn spared(&self, budgets: &[f64], size: usize) -> usize {
        let needed =
            scaled(self.seconds(size), deviations(1.0 - self.served) * self.margin.standard_deviation());
        budgets.partition_point(|&budget| budget < needed).min(budgets.len() - size)
    }

    fn candidate(&self, budgets: &[f64], given_up: usize, size: usize) -> Candidate {
        let expected = self.seconds(size);
        let deviation = self.margin.standard_deviation();
        let batch = &budgets[given_up..given_up + size];
        let in_time = CASES.map(|case| {
            let taken = scaled(expected, case * deviation);
            size - batch.partition_point(|&budget| budget < taken)
        });
        let good = in_time.iter().sum::<usize>() as f64 / CASES.len() as f64;
        Candidate { given_up, size, good, worth: good / expected.max(f64::MIN_POSITIVE) }
    }

    fn probe_interval(&self) -> Duration {
        (self.expected(1) * 4).clamp(LEAST_PROBE_INTERVAL, LONGEST_PROBE_INTERVAL)
    }
}

/// How many standard deviations one must be safe by, where such a share of the queries is lost, not to be given up for another.
///
/// Who is sent with the chance p in place of another, who would be served with the chance 1 - `lost` later, is worth it where
/// p > `lost`: the quantile of a normal distribution, approximated by that of the logistic (Bowling et al., 2009, "A logistic
/// approximation to the cumulative normal distribution").
fn deviations(lost: f64) -> f64 {
    let lost = lost.clamp(0.02, 0.98);
    (lost / (1.0 - lost)).ln() / 1.702 + CAUTION
}

/// Sizes below `most` in steps of a quarter, the ends of half octaves among them, where steps of the model's time tend to be.
fn sizes(most: usize) -> impl Iterator<Item = usize> {
    let next = |&size: &usize| {
        let octave = (size + 1).next_power_of_two();
        let half = octave / 4 * 3;
        let end = if half > size { half } else { octave };
        Some((size + (size / 4).max(1)).min(end))
    };
    std::iter::successors(Some(1), next).take_while(move |&size| size < most)
}
