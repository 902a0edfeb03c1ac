//! When the requests of an open loop are meant to be sent.

use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand_distr::{Distribution, Exp};

/// How arrivals are spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrivals {
    /// Independent of each other, as those of many users: the time between two is exponentially distributed.
    Poisson,
    /// At equal distances.
    Constant,
}

/// The arrivals of one thread, as times since the start, ascending and without an end.
pub struct Schedule {
    gap: f64,
    random: Option<(Exp<f64>, StdRng)>,
    seconds: f64,
}

impl Schedule {
    /// Those of one of several threads, which together have this rate a second.
    pub fn new(rate: f64, arrivals: Arrivals, thread: usize, threads: usize, seed: u64) -> Self {
        let gap = threads as f64 / rate;
        // Sums of independent Poisson processes are one; constant ones take turns.
        let random = match arrivals {
            Arrivals::Poisson => Exp::new(1.0 / gap)
                .ok()
                .map(|gaps| (gaps, StdRng::seed_from_u64(seed.wrapping_add(thread as u64)))),
            Arrivals::Constant => None,
        };
        Self { gap, random, seconds: thread as f64 / rate - gap }
    }
}

impl Iterator for Schedule {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.seconds += match &mut self.random {
            Some((gaps, random)) => gaps.sample(random),
            None => self.gap,
        };
        Some(Duration::from_secs_f64(self.seconds.max(0.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constant_arrivals_of_two_threads_take_turns() {
        let [first, second] = [0, 1].map(|thread| Schedule::new(1_000.0, Arrivals::Constant, thread, 2, 0));
        let mut merged: Vec<_> = first.take(50).chain(second.take(50)).map(|at| at.as_micros()).collect();
        merged.sort_unstable();
        for (index, micros) in merged.into_iter().enumerate() {
            assert!(micros.abs_diff(index as u128 * 1_000) <= 1, "{index}: {micros}");
        }
    }

    #[test]
    fn poisson_arrivals_have_the_rate_and_a_deviation_as_large_as_the_mean() {
        let at: Vec<f64> = Schedule::new(1_000.0, Arrivals::Poisson, 0, 1, 42)
            .take(100_000)
            .map(|at| at.as_secs_f64())
            .collect();
        let gaps: Vec<f64> = at.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((mean * 1_000.0 - 1.0).abs() < 0.02, "{mean}");
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.02, "{}", variance.sqrt());
        assert!(gaps.iter().all(|&gap| gap >= 0.0));
    }

    #[test]
    fn a_seed_repeats_its_schedule() {
        let make = |seed| Schedule::new(10.0, Arrivals::Poisson, 0, 1, seed).take(5).collect::<Vec<_>>();
        assert_eq!(make(1), make(1));
        assert_ne!(make(1), make(2));
    }
}
