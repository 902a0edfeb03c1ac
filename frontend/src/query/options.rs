//! Options of a prediction request, besides its inputs.

use std::time::Duration;

use clipper_rpc::names::ModelVersion;
use clipper_rpc::selection::Uid;

/// Options of a prediction request.
#[derive(Debug, Default, PartialEq)]
pub struct PredictOptions {
    /// User whose selection state applies.
    pub uid: Option<Uid>,
    /// Features by which the policy may select.
    pub context: Option<Vec<f64>>,
    /// Version that must answer.
    pub version: Option<ModelVersion>,
    /// Latency objective, if the client wants a tighter one than the application's.
    pub latency_slo: Option<Duration>,
    /// Whether the inputs must be in one batch.
    pub keep_together: bool,
}
