//! The highest rate that meets an objective: doubling or halving until one rate meets it and one does not, then bisecting on a
//! logarithmic scale until the two are close.
//!
//! Invariant: a rate is held for too high only after it has failed by far, or twice, for a single stall of a shared machine fails any.

use serde::{Deserialize, Serialize};

use crate::report::Report;

/// A bracket this narrow is an answer.
const PRECISION: f64 = 1.05;
/// A rate that has less of the share than this is not tried again.
const BY_FAR: f64 = 0.5;
/// How far a search goes up or down from its first rate.
const WIDEST: f64 = 1024.0;

/// What a search found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Search {
    /// The share of requests whose answers had to be good.
    pub share: f64,
    /// The highest rate that was tried and met it.
    pub highest_rate: Option<f64>,
    /// What was tried, in order.
    pub rounds: Vec<Round>,
}

/// One rate that was tried.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Round {
    /// Requests a second.
    pub rate: f64,
    /// Whether the share was met.
    pub met: bool,
    /// The whole result.
    pub report: Report,
}

impl Search {
    /// The round of the highest rate that met the share.
    pub fn best(&self) -> Option<&Round> {
        let met = self.rounds.iter().filter(|round| round.met);
        met.max_by(|a, b| a.rate.total_cmp(&b.rate))
    }
}

/// Searches from a first guess. `measure` runs one round at a rate; `None` from it ends the search.
///
/// # Errors
/// What `measure` fails with.
pub fn find_rate<E>(
    first: f64,
    share: f64,
    mut measure: impl FnMut(f64) -> Result<Option<Report>, E>,
) -> Result<Search, E> {
    let mut rounds = Vec::new();
    let mut bracket = Bracket::new(first);
    'search: while let Some(rate) = bracket.next() {
        let mut met = false;
        for _ in 0..2 {
            let Some(report) = measure(rate)? else { break 'search };
            met = report.good_share >= share;
            let by_far = report.good_share < share * BY_FAR;
            rounds.push(Round { rate, met, report });
            if met || by_far {
                break;
            }
        }
        bracket.narrow(rate, met);
    }
    Ok(Search { share, highest_rate: bracket.low, rounds })
}

/// The highest rate that was met and the lowest that was not.
struct Bracket {
    first: f64,
    low: Option<f64>,
    high: Option<f64>,
}

impl Bracket {
    fn new(first: f64) -> Self {
        Self { first, low: None, high: None }
    }

    fn narrow(&mut self, rate: f64, met: bool) {
        if met {
            self.low = Some(rate);
        } else {
            self.high = Some(rate);
        }
    }

    /// What to try next, unless it is known well enough.
    fn next(&self) -> Option<f64> {
        match (self.low, self.high) {
            (None, None) => Some(self.first),
            (Some(low), None) => Some(low * 2.0).filter(|rate| *rate <= self.first * WIDEST),
            (None, Some(high)) => Some(high / 2.0).filter(|rate| *rate >= self.first / WIDEST),
            (Some(low), Some(high)) => (high / low > PRECISION).then(|| (low * high).sqrt()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn search(first: f64, capacity: f64) -> (Option<f64>, u32) {
        let mut bracket = Bracket::new(first);
        let mut steps = 0;
        while let Some(rate) = bracket.next() {
            bracket.narrow(rate, rate <= capacity);
            steps += 1;
        }
        (bracket.low, steps)
    }

    proptest! {
        #[test]
        fn the_highest_rate_is_found_to_five_percent(first in 1.0_f64..1e5, factor in 0.002_f64..500.0) {
            let capacity = first * factor;
            let (found, steps) = search(first, capacity);
            let found = found.unwrap();
            prop_assert!(found <= capacity && found * PRECISION >= capacity, "{} for {}", found, capacity);
            prop_assert!(steps <= 16, "{} steps", steps);
        }
    }

    #[test]
    fn a_server_that_never_meets_it_ends_the_search() {
        assert_eq!(search(100.0, 0.0).0, None);
        assert!(search(100.0, f64::INFINITY).0.unwrap() <= 100.0 * WIDEST);
    }
}
