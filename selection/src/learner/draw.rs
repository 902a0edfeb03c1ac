//! Chance: a stream of its own for each query.
//!
//! Invariant: the same seed and query give the same draws, on every platform and in every order of queries.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Beta, Distribution};

/// 2^64 by the golden ratio.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// A point in [0, 1) for a query, apart from what is drawn for it.
///
/// Each is as likely as any other, over the seeds; of consecutive queries the points are spread evenly, so that every interval
/// has its turn: one of length 0.01 at the latest after 144 queries.
pub(super) fn point(seed: u64, query_id: u64) -> f64 {
    let offset: u64 = Draw::new(seed, u64::MAX).0.random();
    let point = query_id.wrapping_mul(GOLDEN).wrapping_add(offset);
    // The bits that a number has room for.
    (point >> 11) as f64 / (1_u64 << 53) as f64
}

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

    /// A draw of each Beta distribution.
    pub(super) fn rewards(mut self, posteriors: &[(f64, f64)]) -> impl Iterator<Item = f64> {
        posteriors.iter().map(move |&(alpha, beta)| {
            // Not finite or not positive it cannot be; and where it were, the mean is what is known.
            Beta::new(alpha, beta).map_or(alpha / (alpha + beta), |posterior| posterior.sample(&mut self.0))
        })
    }
}
