//! What a query sees of its application: immutable, and published anew at each change.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use clipper_rpc::catalog::OnOverload;
use clipper_rpc::input::InputType;
use clipper_rpc::names::{AppName, ModelName, ModelVersion};
use clipper_rpc::output::Output;

use crate::admission::Admission;
use crate::failure::Failure;
use crate::metrics::ApplicationMetrics;
use crate::queue::Queue;
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

/// The versions of a linked model that take the application's inputs.
#[derive(Clone)]
pub struct ModelView {
    /// Its name.
    pub name: ModelName,
    /// The version that answers queries which pin none.
    pub current: Option<ModelVersion>,
    /// Each version.
    pub versions: BTreeMap<ModelVersion, VersionView>,
}

/// One version of a linked model.
#[derive(Clone)]
pub struct VersionView {
    /// Where its queries wait.
    pub queue: Arc<Queue>,
    /// Whether its outputs may be kept.
    pub cache: bool,
}

impl ModelView {
    /// The version that answers queries which pin none.
    ///
    /// # Errors
    /// If there is none that could: what is missing.
    pub fn current(&self) -> Result<&VersionView, Failure> {
        let missing = |problem| Err(Failure::NoVersion { model: self.name.to_string(), problem });
        match &self.current {
            None if self.versions.is_empty() => missing("is not registered"),
            None => missing("has no current version"),
            Some(current) => match self.versions.get(current) {
                Some(version) => Ok(version),
                None => missing("takes inputs of another type"),
            },
        }
    }
}
