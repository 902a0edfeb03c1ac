//! Arrival and latency objective of a request.

use std::time::{Duration, Instant};

use crate::application::ApplicationView;
use crate::query::PredictOptions;

/// Arrival and latency objective of a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timing {
    pub(super) arrived: Instant,
    pub(super) objective: Duration,
}

impl Timing {
    pub(super) fn of(application: &ApplicationView, options: &PredictOptions, arrived: Instant) -> Self {
        let slo = application.latency_slo;
        Self { arrived, objective: options.latency_slo.map_or(slo, |tightened| tightened.min(slo)) }
    }

    pub(super) fn deadline(self) -> Instant {
        self.arrived + self.objective
    }
}
