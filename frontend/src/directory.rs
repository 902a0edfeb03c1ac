//! What this frontend serves: read-only maps that the hot path walks without a lock or a message.
//!
//! The follower is the only writer of the maps, and each application's actor of its own view. A reader may keep what it
//! loaded as long as it likes: it then acts as if its query had come a moment earlier.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use clipper_rpc::names::{AppName, ModelId};
use clipper_rpc::secret::Secret;

use crate::application::ApplicationHandle;
use crate::model_queue::ModelHandle;
use crate::view::ApplicationView;

/// Everything that is served.
#[derive(Default)]
pub struct Directory {
    /// The applications, by name.
    pub applications: ArcSwap<HashMap<AppName, ApplicationHandle>>,
    /// The registered versions of models.
    pub models: ArcSwap<HashMap<ModelId, ModelHandle>>,
    /// Where containers reach each frontend of the cluster.
    pub frontends: ArcSwap<Vec<String>>,
    /// The key of the registration tokens, once management has handed it out.
    pub container_key: ArcSwapOption<Secret>,
}

impl Directory {
    /// The application of that name.
    pub fn application(&self, name: &str) -> Option<Arc<ApplicationView>> {
        self.applications.load().get(name).map(|handle| handle.view.load_full())
    }
}
