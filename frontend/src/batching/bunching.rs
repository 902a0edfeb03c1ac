//! Whether those who were just answered ask again at once: then a batch that waits for them is worth it.
//!
//! Clients that wait for an answer before they ask again move in bunches: with one early and the rest late, batches alternate between 1 and
//! the rest for ever, and two half bunches take turns likewise. Nothing but trying tells them from clients that come independently, so a
//! [`Controller`](super::Controller) waits, and learns here what it brought. Invariant: waits that bring nothing become rare.

/// The weight of what the last wait brought.
const GAIN: f64 = 0.3;

/// Waiting pays where it makes the batch at least this many times larger.
const WORTH: f64 = 1.5;

/// After so many batches without a wait, it is tried again.
const RETRY_AFTER: u32 = 200;

#[derive(Debug)]
pub(super) struct Bunching {
    /// The share of those just answered who are expected to be back within a wait.
    returning: f64,
    /// The size of the last batch that was answered.
    answered: usize,
    /// The wait that the next answered batch will have had.
    trial: Option<Trial>,
    without_trial: u32,
}

#[derive(Debug, Clone, Copy)]
struct Trial {
    waiting: usize,
    until: usize,
    /// Who would come within the wait anyway, by the mean rate.
    strangers: f64,
}

impl Bunching {
    pub(super) fn new() -> Self {
        Self { returning: 1.0, answered: 0, trial: None, without_trial: 0 }
    }

    /// Learns that a batch of `size` was answered.
    pub(super) fn observe(&mut self, size: usize) {
        if let Some(trial) = self.trial.take() {
            let came = size.saturating_sub(trial.waiting) as f64;
            let share = if size >= trial.until {
                1.0
            } else {
                (came - trial.strangers) / self.answered.max(1) as f64
            };
            self.returning += GAIN * (share.clamp(0.0, 1.0) - self.returning);
            self.without_trial = 0;
        } else {
            self.without_trial = self.without_trial.saturating_add(1);
            if self.without_trial >= RETRY_AFTER {
                self.returning = 1.0;
            }
        }
        self.answered = size;
    }

    /// How many to wait for, if that pays. `strangers`: how many come within the wait by the mean rate.
    pub(super) fn wait_until(&mut self, waiting: usize, strangers: f64, limit: usize) -> Option<usize> {
        self.trial = None;
        // One or two are always late: not waiting for the last twentieth costs less than waiting in vain.
        let bunch = (0.95 * self.returning * self.answered as f64) as usize;
        let until = (waiting + bunch).min(limit);
        if (until as f64) < WORTH * waiting as f64 + 1.0 {
            return None;
        }
        self.trial = Some(Trial { waiting, until, strangers });
        Some(until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bunch_that_comes_back_is_waited_for() {
        let mut bunching = Bunching::new();
        bunching.observe(32);
        for _ in 0..100 {
            let until = bunching.wait_until(32, 8.0, 1000);
            assert_eq!(until, Some(62));
            bunching.observe(64);
            assert_eq!(bunching.wait_until(0, 8.0, 32), Some(32), "no more than the limit");
            bunching.observe(32);
        }
    }

    #[test]
    fn nobody_is_waited_for_who_does_not_come_back() {
        let mut bunching = Bunching::new();
        bunching.observe(32);
        let waits = (0..1000)
            .filter(|_| {
                let waited = bunching.wait_until(32, 8.0, 1000).is_some();
                bunching.observe(if waited { 40 } else { 32 });
                waited
            })
            .count();
        assert!(waits < 30, "{waits} of 1000 batches waited");
    }
}
