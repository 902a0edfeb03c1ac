//! How far answers stray from what was expected of them, and so how much room to leave.
//!
//! Owned by a [`Controller`](super::Controller). The room is a number of mean deviations; that number is itself tracked, so that one
//! answer in a hundred needs more. Invariant: both are bounded, so a wild hour is forgotten.

/// The share of answers that are to be within the margin.
const QUANTILE: f64 = 0.99;

/// How much one answer beyond the margin widens it, in deviations.
const STEP: f64 = 0.5;

/// The weight of a new deviation.
const GAIN: f64 = 1.0 / 32.0;

/// A larger deviation counts as this much.
const CLIP: f64 = 0.5;

/// No replica is as regular as that for long.
const LEAST_DEVIATION: f64 = 0.005;

/// How many deviations the margin may be.
const BOUNDS: (f64, f64) = (1.5, 6.0);

/// All of it in natural logarithms of ratios: 0.1 is about 10 %.
#[derive(Debug)]
pub(super) struct Margin {
    /// The mean absolute deviation from what was expected.
    deviation: f64,
    /// How many of those make the margin.
    deviations: f64,
}

impl Margin {
    pub(super) fn new() -> Self {
        Self { deviation: 0.1, deviations: 3.0 }
    }

    /// Learns by how much an answer strayed.
    ///
    /// The quantile is tracked by stochastic approximation (Robbins and Monro, 1951, "A stochastic approximation method"): up by `STEP` x
    /// 0.99 for each answer beyond it, down by `STEP` x 0.01 for each other, which balances where one in a hundred is.
    pub(super) fn observe(&mut self, log_ratio: f64) {
        let missed = f64::from(log_ratio > self.safe());
        self.deviations = (self.deviations + STEP * (missed - (1.0 - QUANTILE))).clamp(BOUNDS.0, BOUNDS.1);
        self.deviation += GAIN * (log_ratio.abs().min(CLIP) - self.deviation);
        self.deviation = self.deviation.max(LEAST_DEVIATION);
    }

    /// What 99 % of the answers stay below.
    pub(super) fn safe(&self) -> f64 {
        self.deviations * self.deviation
    }

    /// What hardly any answer is below: the other side.
    pub(super) fn optimistic(&self) -> f64 {
        -2.0 * self.deviation
    }

    /// The standard deviation: a normal distribution's is so many times its mean deviation.
    pub(super) fn standard_deviation(&self) -> f64 {
        1.25 * self.deviation
    }

    /// What an answer is beyond only if something is wrong.
    pub(super) fn overdue(&self) -> f64 {
        6.0 * self.deviation
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    #[test]
    fn the_margin_finds_the_99th_percentile() {
        let mut margin = Margin::new();
        let mut rng = StdRng::seed_from_u64(1);
        let mut beyond = 0;
        for i in 0..20_000 {
            // Twelve uniform numbers make a normal one.
            let error = 0.2 * ((0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0);
            beyond += usize::from(i >= 10_000 && error > margin.safe());
            margin.observe(error);
        }
        assert!((60..160).contains(&beyond), "{beyond} of 10,000 were beyond the margin");
    }

    #[test]
    fn a_wild_time_is_forgotten() {
        let mut margin = Margin::new();
        (0..100).for_each(|_| margin.observe(3.0));
        (0..200).for_each(|_| margin.observe(0.0));
        assert!(margin.safe() < 0.05, "{}", margin.safe());
    }
}
