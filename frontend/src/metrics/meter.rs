//! The rates of a counter, for the original's JSON.
//!
//! Averages with exponentially decaying weights, as of a Unix load average, brought up to date when they are read. Between two
//! readings the events are taken to have come evenly.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use clipper_server::report::Rates;

/// Over how many seconds the weights of the averages decay.
const DECAYS: [f64; 3] = [60.0, 300.0, 900.0];

/// What was known at the last reading. The lock is taken by scrapes only.
#[derive(Debug)]
pub struct Meter(Mutex<Reading>);

#[derive(Debug)]
struct Reading {
    began: Instant,
    taken: Instant,
    count: u64,
    averages: Option<[f64; 3]>,
}

impl Meter {
    /// The meter of a counter that is zero.
    pub fn new(now: Instant) -> Self {
        Self(Mutex::new(Reading { began: now, taken: now, count: 0, averages: None }))
    }

    /// The rates of the counter, which is `count` now.
    #[allow(clippy::cast_precision_loss, reason = "a rate needs no more digits")]
    pub fn rates(&self, count: u64, now: Instant) -> Rates {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let elapsed = now.saturating_duration_since(last.taken).as_secs_f64();
        if elapsed > 0.0 {
            // Another scrape may have read a later count.
            let rate = count.saturating_sub(last.count) as f64 / elapsed;
            let mut averages = last.averages.unwrap_or([rate; 3]);
            for (average, decay) in averages.iter_mut().zip(DECAYS) {
                *average = rate + (*average - rate) * (-elapsed / decay).exp();
            }
            last.averages = Some(averages);
            (last.taken, last.count) = (now, count.max(last.count));
        }
        let lifetime = now.saturating_duration_since(last.began).as_secs_f64();
        let rate = if lifetime > 0.0 { count as f64 / lifetime } else { 0.0 };
        let [rate_1min, rate_5min, rate_15min] = last.averages.unwrap_or_default();
        Rates { rate, rate_1min, rate_5min, rate_15min }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_steady_rate_is_every_rate_however_often_it_is_read() {
        let start = Instant::now();
        let meter = Meter::new(start);
        for second in [1, 2, 10, 11, 300, 1000] {
            let rates = meter.rates(20 * second, start + Duration::from_secs(second));
            for rate in [rates.rate, rates.rate_1min, rates.rate_5min, rates.rate_15min] {
                assert!((rate - 20.0).abs() < 1e-9, "{rates:?}");
            }
        }
    }

    #[test]
    fn after_the_events_end_the_shorter_average_falls_faster() {
        let start = Instant::now();
        let meter = Meter::new(start);
        meter.rates(1000, start + Duration::from_secs(10));
        let rates = meter.rates(1000, start + Duration::from_secs(70));
        assert!((rates.rate_1min - 100.0 * (-1.0_f64).exp()).abs() < 1e-9, "{rates:?}");
        assert!(rates.rate_1min < rates.rate_5min && rates.rate_5min < rates.rate_15min, "{rates:?}");
        assert_eq!(meter.rates(1000, start + Duration::from_secs(70)), rates, "no time has passed");
    }

    #[test]
    fn nothing_has_a_rate_at_the_beginning() {
        let start = Instant::now();
        let none = Rates { rate: 0.0, rate_1min: 0.0, rate_5min: 0.0, rate_15min: 0.0 };
        assert_eq!(Meter::new(start).rates(0, start), none);
    }
}
