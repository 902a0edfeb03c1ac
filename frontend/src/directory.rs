//! What this frontend serves: read-only maps that the hot path walks without a lock or a message.
//!
//! The follower is the only writer of the maps, and each application's actor of its own view. A reader may keep what it
//! loaded as long as it likes: it then acts as if its query had come a moment earlier.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::{ArcSwap, ArcSwapOption};
use clipper_rpc::catalog::Revision;
use clipper_rpc::names::AppName;

use crate::application::ApplicationView;
use crate::application::actor::ApplicationHandle;
use crate::replicas::served::ServedModels;

/// Everything that is served.
#[derive(Default)]
pub struct Directory {
    /// The applications, by name.
    pub applications: ArcSwap<HashMap<AppName, ApplicationHandle>>,
    /// The versions of models, and what containers need to know.
    pub models: Arc<ServedModels>,
    /// How far management is followed.
    pub progress: ArcSwapOption<Progress>,
}

/// How far management is followed.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// The revision that is in force.
    pub revision: Revision,
    /// When management answered last.
    pub answered: Instant,
}

impl Directory {
    /// The application of that name.
    pub fn application(&self, name: &str) -> Option<Arc<ApplicationView>> {
        self.applications.load().get(name).map(|handle| handle.view.load_full())
    }
}
