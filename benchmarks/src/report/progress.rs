//! How far a run is, on a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::load::tally::Tally;
use crate::report::Latency;

/// A bar that a run's seconds fill. Without a terminal it shows nothing.
pub struct Progress(ProgressBar);

impl Progress {
    /// One for a run of that length, and with what it measures.
    pub fn new(duration: Duration, what: impl Into<String>) -> Self {
        let bar = ProgressBar::new(duration.as_secs_f64().ceil() as u64).with_prefix(what.into());
        let style = ProgressStyle::with_template("{prefix} [{bar:24}] {pos}/{len} s {msg}");
        let bar =
            bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
        bar.tick();
        Self(bar)
    }

    /// A second is over.
    pub fn second(&self, index: u64, total: &Tally) {
        self.0.set_position((index + 1).min(self.0.length().unwrap_or_default()));
        if let Some(latency) = Latency::of(&total.latency) {
            let rate = total.completed / (index + 1);
            self.0.set_message(format!("{rate}/s, p50 {:.2} ms, p99 {:.2} ms", latency.p50, latency.p99));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
