//! Models as queries see them: the queue of each version.

use std::collections::BTreeMap;
use std::sync::Arc;

use clipper_rpc::names::{ModelName, ModelVersion};

use super::Queue;
use crate::computation::failure::Failure;

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
