//! The 99th percentile of the round trip as a line over the batch size, for the `quantile` strategy.
//!
//! Crankshaw et al., 2017, "Clipper: A Low-Latency Online Prediction Serving System", section 4.3.1. Fitted over a window of recent
//! batches by Hunter and Lange's majorise-minimise steps (2000, "Quantile regression via an MM algorithm"), a weighted least
//! squares each, begun where the last fit ended. Owned by a [`Controller`](super::Controller). Invariant: the line does not fall.

/// How many batches the line is fitted to.
const WINDOW: usize = 256;

/// A fit is made once in so many batches, to cost little per batch.
const REFIT_EVERY: u32 = 8;

/// The steps of one fit.
const STEPS: usize = 4;

const QUANTILE: f64 = 0.99;

/// Smooths the corner of the loss at 0, in seconds.
const SMOOTHING: f64 = 20e-6;

#[derive(Debug)]
pub(super) struct QuantileLine {
    /// Sizes and seconds, a ring once it is full.
    window: Vec<(f64, f64)>,
    next: usize,
    since_fit: u32,
    intercept: f64,
    slope: f64,
}

impl QuantileLine {
    pub(super) fn new() -> Self {
        Self { window: Vec::with_capacity(WINDOW), next: 0, since_fit: 0, intercept: 0.0, slope: 0.0 }
    }

    pub(super) fn observe(&mut self, size: usize, seconds: f64) {
        let sample = (size as f64, seconds);
        match self.window.get_mut(self.next) {
            Some(oldest) => *oldest = sample,
            None => self.window.push(sample),
        }
        self.next = (self.next + 1) % WINDOW;
        self.since_fit += 1;
        // A young line must learn at once, and its fits are cheap.
        if self.since_fit >= REFIT_EVERY || self.window.len() < REFIT_EVERY as usize {
            self.since_fit = 0;
            (0..STEPS).for_each(|_| self.step());
        }
    }

    /// The largest size whose 99th percentile is within `seconds`; 0 if there is none.
    pub(super) fn within(&self, seconds: f64) -> usize {
        // Without a slope the quotient is infinite, or 0/0: neither forbids anything.
        let size = (seconds - self.intercept) / self.slope;
        if size.is_nan() { usize::MAX } else { (size + 1e-6) as usize }
    }

    /// The 99th percentile for batches of `size`, in seconds.
    pub(super) fn seconds(&self, size: usize) -> f64 {
        self.intercept + self.slope * size as f64
    }

    /// One step: the weighted least squares whose loss touches the quantile's loss from above at the present line.
    fn step(&mut self) {
        let (mut w, mut wx, mut wxx, mut wy, mut wxy, mut x) = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0);
        for &(size, seconds) in &self.window {
            let residual: f64 = seconds - self.intercept - self.slope * size;
            let weight = 1.0 / (SMOOTHING + residual.abs());
            w += weight;
            wx += weight * size;
            wxx += weight * size * size;
            wy += weight * seconds;
            wxy += weight * size * seconds;
            x += size;
        }
        let tilt = 2.0 * QUANTILE - 1.0;
        let (y, xy) = (wy + tilt * self.window.len() as f64, wxy + tilt * x);
        let determinant = w * wxx - wx * wx;
        // Where all sizes are about the same there is no telling a slope.
        let slope = if determinant > 1e-9 * w * wxx { (w * xy - wx * y) / determinant } else { 0.0 };
        self.slope = slope.max(0.0);
        self.intercept = (y - self.slope * wx) / w;
        if self.intercept < 0.0 {
            self.intercept = 0.0;
            self.slope = xy / wxx;
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    #[test]
    fn about_one_in_a_hundred_is_above_the_line() {
        let mut line = QuantileLine::new();
        let mut rng = StdRng::seed_from_u64(3);
        let mut above = 0;
        for i in 0..12_000 {
            let size = rng.random_range(1..=100);
            let seconds = 0.02 + 0.0002 * size as f64 + 0.01 * rng.random::<f64>();
            above += usize::from(i >= 2_000 && seconds > line.seconds(size));
            line.observe(size, seconds);
        }
        assert!((20..350).contains(&above), "{above} of 10,000 were above the line");
        assert!((35..=60).contains(&line.within(0.04)), "{}", line.within(0.04));
    }

    #[test]
    fn one_size_alone_makes_a_flat_line() {
        let mut line = QuantileLine::new();
        (0..50).for_each(|_| line.observe(4, 0.01));
        assert!(line.within(0.02) > 1_000_000);
        assert_eq!(line.within(0.005), 0);
    }
}
