//! Chance: a stream of its own for each query.
//!
//! Invariant: the same seed and query give the same draws, on every platform and in every order of queries.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Beta, Distribution};

/// Draws for one query.
pub(super) struct Draw(ChaCha8Rng);

impl Draw {
    /// The draws that belong to a query of an application with that seed.
    pub(super) fn new(seed: u64, query_id: u64) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        key[8..16].copy_from_slice(&query_id.to_le_bytes());
        Self(ChaCha8Rng::from_seed(key))
    }

    /// An index, each with its share; the shares add up to 1.
    pub(super) fn index(mut self, shares: &[f64]) -> usize {
        let point: f64 = self.0.random();
        let mut passed = 0.0;
        for (index, share) in shares.iter().enumerate() {
            passed += share;
            if point < passed {
                return index;
            }
        }
        // Shares add up to 1 but for rounding. Whoever has none is never drawn.
        shares.iter().rposition(|share| *share > 0.0).unwrap_or(0)
    }

    /// The index of the largest of a draw of each Beta distribution, of equals the lowest.
    pub(super) fn best(mut self, posteriors: &[(f64, f64)]) -> usize {
        super::largest(posteriors.iter().map(|&(alpha, beta)| {
            // Not finite or not positive it cannot be; and where it were, the mean is what is known.
            Beta::new(alpha, beta).map_or(alpha / (alpha + beta), |posterior| posterior.sample(&mut self.0))
        }))
    }
}
