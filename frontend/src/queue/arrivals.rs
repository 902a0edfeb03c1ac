//! How often queries come, by an exponentially weighted average.

use std::time::{Duration, Instant};

/// Arrivals are counted for so long before they change the average.
const INTERVAL: Duration = Duration::from_millis(10);

/// The time constant of the average.
const MEMORY: Duration = Duration::from_millis(200);

/// Counts arrivals.
pub(super) struct Arrivals {
    counted: u32,
    since: Instant,
    per_second: f64,
}

impl Arrivals {
    pub(super) fn new(now: Instant) -> Self {
        Self { counted: 0, since: now, per_second: 0.0 }
    }

    pub(super) fn count(&mut self, arrived: usize) {
        self.counted = self.counted.saturating_add(u32::try_from(arrived).unwrap_or(u32::MAX));
    }

    /// Takes what was counted into the average, once enough time has passed.
    pub(super) fn update(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.since);
        if elapsed >= INTERVAL {
            let rate = f64::from(self.counted) / elapsed.as_secs_f64();
            let forgotten = (-elapsed.as_secs_f64() / MEMORY.as_secs_f64()).exp();
            self.per_second = forgotten * self.per_second + (1.0 - forgotten) * rate;
            (self.counted, self.since) = (0, now);
        }
    }

    /// Arrivals in a second, as of the last update.
    pub(super) fn per_second(&self) -> f64 {
        self.per_second
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_average_follows_the_rate_and_forgets_it() {
        let mut now = Instant::now();
        let mut arrivals = Arrivals::new(now);
        for _ in 0..100 {
            arrivals.count(20);
            now += Duration::from_millis(20);
            arrivals.update(now);
        }
        assert!((arrivals.per_second() - 1000.0).abs() < 1.0);
        arrivals.update(now + Duration::from_secs(5));
        assert!(arrivals.per_second() < 1.0);
    }
}
