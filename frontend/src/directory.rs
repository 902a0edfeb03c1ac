//! What this frontend serves: read-only views that the hot path walks without a lock or a message.
//!
//! The follower is the only writer of the maps, and each application's actor of its own view. A reader may keep what it
//! loaded as long as it likes: it then acts as if its query had come a moment earlier.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use actix::Addr;
use arc_swap::ArcSwap;
use clipper_rpc::input::InputType;
use clipper_rpc::names::{AppName, ModelId, ModelName, ModelVersion};
use clipper_rpc::output::Output;

use crate::application::Application;
use crate::model_queue::ModelHandle;
use crate::queue::Queue;

/// Everything that is served.
#[derive(Default)]
pub struct Directory {
    /// The applications, by name.
    pub applications: ArcSwap<HashMap<AppName, ApplicationHandle>>,
    /// The registered versions of models.
    pub models: ArcSwap<HashMap<ModelId, ModelHandle>>,
    /// Where containers reach each frontend of the cluster.
    pub frontends: ArcSwap<Vec<String>>,
}

/// An application's actor, and the view that it publishes.
#[derive(Clone)]
pub struct ApplicationHandle {
    /// Receives changes.
    pub actor: Addr<Application>,
    /// What its queries need to know.
    pub view: Arc<ArcSwap<ApplicationView>>,
}

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
    /// The model that answers.
    pub model: Option<Arc<ModelView>>,
}

/// The versions of a linked model that take the application's inputs.
#[derive(Clone)]
pub struct ModelView {
    /// Its name.
    pub name: ModelName,
    /// The version that answers queries which pin none.
    pub current: Option<ModelVersion>,
    /// The queue of each version.
    pub versions: BTreeMap<ModelVersion, Arc<Queue>>,
}

impl Directory {
    /// The application of that name.
    pub fn application(&self, name: &str) -> Option<Arc<ApplicationView>> {
        self.applications.load().get(name).map(|handle| handle.view.load_full())
    }
}
