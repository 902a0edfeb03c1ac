//! Selection among an application's models, as its queries and its feedback meet it.
//!
//! - [`states`]: what is learned, the application's shared state and its users'.
//! - [`decisions`]: what was decided for recent queries, by query id.

pub mod decisions;
pub mod states;

use std::sync::Arc;

use clipper_rpc::selection::Selection;
use clipper_selection::learner::Learner;

use self::decisions::Decisions;
use self::states::States;
use crate::view::ModelView;

/// What a query of an application with a selection policy needs to know. In the application's view; immutable.
pub struct Selector {
    /// As configured.
    pub selection: Selection,
    /// The policy over the linked models.
    pub learner: Learner,
    /// The linked models, in the order of the learner's candidates.
    pub models: Vec<Arc<ModelView>>,
    /// What is learned.
    pub states: Arc<States>,
    /// What was decided; one store for all applications of the frontend.
    pub decisions: Arc<Decisions>,
}
