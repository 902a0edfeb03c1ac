//! A bound on the log lines that others can cause.
//!
//! Invariant: in no [`PERIOD`] are there more than [`LINES`], and each line that was left out is
//! counted in the next one.

use std::time::{Duration, Instant};

/// The time after which the budget is whole again.
const PERIOD: Duration = Duration::from_secs(60);
/// The lines of one period.
const LINES: u32 = 20;

/// What is left of the lines of one kind of event.
#[derive(Debug, Default)]
pub struct LogBudget {
    /// When the period began, and the lines that were written in it.
    period: Option<(Instant, u32)>,
    left_out: u64,
}

impl LogBudget {
    /// Asks for a line. Returns how many were left out since the last one, or `None` if this one is
    /// to be left out.
    pub fn spend(&mut self, now: Instant) -> Option<u64> {
        let (began, written) =
            self.period.filter(|&(began, _)| now.duration_since(began) < PERIOD).unwrap_or((now, 0));
        if written == LINES {
            self.left_out += 1;
            return None;
        }
        self.period = Some((began, written + 1));
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_beyond_the_budget_are_left_out_and_counted_in_the_next_one() {
        let mut budget = LogBudget::default();
        let now = Instant::now();
        for _ in 0..LINES {
            assert_eq!(budget.spend(now), Some(0));
        }
        for _ in 0..5 {
            assert_eq!(budget.spend(now + PERIOD / 2), None);
        }
        assert_eq!(budget.spend(now + PERIOD), Some(5));
        assert_eq!(budget.spend(now + PERIOD), Some(0));
    }
}
