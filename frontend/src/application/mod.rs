//! Applications: the [`view`](ApplicationView) that queries read, the [`actor`] that publishes it and learns from feedback, and
//! the count of requests in progress ([`admission`]).

pub mod actor;
pub mod admission;

use std::sync::Arc;
use std::time::Duration;

use clipper_rpc::catalog::OnOverload;
use clipper_rpc::input::InputType;
use clipper_rpc::names::AppName;
use clipper_rpc::output::Output;

use crate::application::admission::Admission;
use crate::metrics::ApplicationMetrics;
use crate::queue::ModelView;
use crate::selection::Selector;

/// What a query of an application needs to know.
pub struct ApplicationView {
    /// Its name.
    pub name: AppName,
    /// The type of its inputs.
    pub input_type: InputType,
    /// How long a query may take, from its arrival.
    pub latency_slo: Duration,
    /// The output where no model's can be had.
    pub default_output: Output,
    /// The model that answers: the first one that is linked.
    pub model: Option<Arc<ModelView>>,
    /// How many are linked.
    pub linked_models: usize,
    /// Answers in its place where the application has a policy, and a linked model that could answer.
    pub selector: Option<Arc<Selector>>,
    /// Whether queries may be answered from the cache.
    pub cache: bool,
    /// The most requests that may be in progress.
    pub max_concurrent_requests: Option<u32>,
    /// What happens to a query for which there is no room.
    pub on_overload: OnOverload,
    /// The requests that are in progress.
    pub admission: Arc<Admission>,
    /// What is counted of it, in every view the same.
    pub metrics: Arc<ApplicationMetrics>,
}
