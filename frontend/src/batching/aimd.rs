//! The maximum batch size of the `aimd` strategy: additive increase, multiplicative decrease.
//!
//! Crankshaw et al., 2017, "Clipper: A Low-Latency Online Prediction Serving System", section 4.3.1. Owned by a
//! [`Controller`](super::Controller). Invariant: at least 1.

/// By how many inputs the size grows with each full batch that was in time.
const INCREASE: f64 = 2.0;

/// What is left of the size after a batch that was late. Clipper's choice: less than TCP's half, for latencies hardly change.
const DECREASE: f64 = 0.9;

#[derive(Debug)]
pub(super) struct Aimd {
    size: f64,
    max_size: f64,
}

impl Aimd {
    pub(super) fn new(max_size: usize) -> Self {
        Self { size: 1.0, max_size: max_size as f64 }
    }

    /// Learns of a batch of `size`. One that was not full says nothing of a larger one.
    pub(super) fn observe(&mut self, size: usize, late: bool) {
        if late {
            self.size = (self.size * DECREASE).max(1.0);
        } else if size >= self.size() {
            self.size = (self.size + INCREASE).min(self.max_size);
        }
    }

    pub(super) fn size(&self) -> usize {
        self.size as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_by_steps_and_shrinks_by_a_tenth() {
        let mut aimd = Aimd::new(100);
        (0..20).for_each(|_| aimd.observe(aimd.size(), false));
        assert_eq!(aimd.size(), 41);
        aimd.observe(41, true);
        assert_eq!(aimd.size(), 36);
        aimd.observe(3, false);
        assert_eq!(aimd.size(), 36, "a batch that was not full is no evidence");
    }

    #[test]
    fn it_stays_within_one_and_the_maximum() {
        let mut aimd = Aimd::new(5);
        (0..9).for_each(|_| aimd.observe(aimd.size(), false));
        assert_eq!(aimd.size(), 5);
        (0..99).for_each(|_| aimd.observe(5, true));
        assert_eq!(aimd.size(), 1);
    }
}
