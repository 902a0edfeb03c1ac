//! Times as the estimators reckon with them: seconds in `f64`, compared by their ratio.
//!
//! Invariant: whatever durations come in, what goes out is finite and not negative.

use std::time::Duration;

/// Added to both sides of a ratio: differences far below it are the scheduler's, not the model's.
const RESOLUTION: f64 = 100e-6;

/// No estimate goes beyond it.
const LONGEST: f64 = 24.0 * 3600.0;

/// A duration in seconds, at most a day.
pub(super) fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64().min(LONGEST)
}

/// The duration of an estimate.
pub(super) fn duration(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds.clamp(0.0, LONGEST))
}

/// How many times longer something took than expected, as a natural logarithm: 0.1 is about 10 %.
pub(super) fn log_ratio(seconds: f64, expected: f64) -> f64 {
    ((seconds + RESOLUTION) / (expected + RESOLUTION)).ln()
}

/// The time whose [`log_ratio`] to `seconds` is `log_ratio`, at least 0.
pub(super) fn scaled(seconds: f64, log_ratio: f64) -> f64 {
    ((seconds + RESOLUTION) * log_ratio.exp() - RESOLUTION).clamp(0.0, LONGEST)
}
