//! What containers can register for. Written by the follower.

use std::collections::HashMap;

use arc_swap::{ArcSwap, ArcSwapOption};
use clipper_rpc::names::ModelId;
use clipper_rpc::secret::Secret;

use super::model::ModelHandle;

/// The versions that this frontend serves, and what containers are told or asked for.
#[derive(Default)]
pub struct ServedModels {
    /// The registered versions.
    pub versions: ArcSwap<HashMap<ModelId, ModelHandle>>,
    /// Addresses under which containers reach each frontend of the cluster.
    pub frontends: ArcSwap<Vec<String>>,
    /// Key of the registration tokens, once management has handed it out.
    pub container_key: ArcSwapOption<Secret>,
}
