//! Selection among an application's models, as its queries and its feedback meet it.
//!
//! - [`states`]: what is learned, the application's shared state and its users'; [`users`] are in memory within a bound.
//! - [`decisions`]: what was decided for recent queries, by query id; [`explanation`]: in words.
//! - [`feedback`]: from an application's verdict to one of the [`lessons`] that wait for the actor; [`learning`]: what it makes of
//!   them, and [`unsent`]: what of that the store does not have yet.
//! - [`decision_log`]: all of it in files, where that is asked for.

pub mod decision_log;
pub mod decisions;
pub mod explanation;
pub mod feedback;
pub mod learning;
pub mod lessons;
pub mod states;
pub mod unsent;
pub mod users;

use std::sync::Arc;

use clipper_rpc::selection::{Selection, Uid};
use clipper_selection::learner::{Beliefs, Choice, Learner};
use tokio::sync::Notify;

use self::decision_log::DecisionLog;
use self::decisions::{Decided, Decisions};
use self::states::{States, Versioned};
use self::users::UserStates;
use crate::metrics::CandidateMetrics;
use crate::queue::ModelView;

/// Confidences are told, and compared with a threshold, in so many parts: the rest is noise.
const CONFIDENCE_PARTS: f64 = 1e4;
/// What the selection of all applications of a frontend shares.
pub struct Facilities {
    /// The users' states that are in memory.
    pub users: Arc<UserStates>,
    /// What was decided.
    pub decisions: Arc<Decisions>,
    /// The decision log, if there is a directory for it.
    pub log: Option<DecisionLog>,
    /// Has the exchange with management take place sooner.
    pub wake: Arc<Notify>,
}

/// What a query of an application with a selection policy needs to know. In the application's view; immutable.
pub struct Selector {
    /// As configured.
    pub selection: Selection,
    /// The policy over the linked models.
    pub learner: Learner,
    /// The linked models, in the order of the learner's candidates: those that have a version that could answer.
    pub models: Vec<Arc<ModelView>>,
    /// What is counted of each of them.
    pub counts: Vec<Arc<CandidateMetrics>>,
    /// What is learned.
    pub states: Arc<States>,
    /// What was decided; one store for all applications of the frontend.
    pub decisions: Arc<Decisions>,
}

/// The states by which a request's queries are decided.
pub struct Read {
    /// The application's.
    pub shared: Arc<Versioned>,
    /// The user's, if there is one, and its state is in memory.
    pub own: Option<Arc<Versioned>>,
}

impl Selector {
    /// What is known by now for that user.
    pub fn read(&self, uid: Option<&Uid>) -> Read {
        Read { shared: self.states.shared(), own: uid.and_then(|uid| self.states.own(uid)) }
    }

    /// Chooses the models to ask for one query. Those that are `away` are no candidates.
    ///
    /// # Errors
    /// If the policy cannot do with the context: what it expects.
    pub fn choose(
        &self,
        query_id: u64,
        read: &Read,
        away: &[usize],
        context: Option<&[f64]>,
    ) -> Result<Choice, String> {
        let seed = self.selection.seed;
        self.learner.choose(&read.shared.beliefs, read.own(), away, context, seed, query_id)
    }

    /// How good a model is believed to be, 0 to 1: the confidence in what it answers alone.
    pub(crate) fn trust(&self, read: &Read, model: usize) -> f64 {
        self.learner.mean_reward(&read.shared.beliefs, read.own(), model)
    }

    /// Counts whether the one model that was asked answered in time. Costs nothing while models answer.
    pub(crate) fn count(&self, read: &Read, model: usize, answered: bool) {
        if !answered || read.shared.beliefs.availability(model) < 1.0 {
            self.states.lessons().count(&self.models[model].name, answered);
        }
    }

    /// Keeps a decision for feedback and explanations. Every decision of every application passes here.
    pub(crate) fn record(&self, decided: Decided, read: &Read) -> Arc<Decided> {
        let decided = Arc::new(decided);
        self.states.log(&decided, &read.shared, read.own.as_ref());
        self.decisions.record(Arc::clone(&decided));
        decided
    }
}

impl Read {
    fn own(&self) -> Option<&Beliefs> {
        self.own.as_ref().map(|own| &own.beliefs)
    }
}

/// A confidence as it is told, and compared.
pub(crate) fn rounded(confidence: f64) -> f64 {
    let confidence = (confidence * CONFIDENCE_PARTS).round() / CONFIDENCE_PARTS;
    if confidence.is_nan() { 0.0 } else { confidence.clamp(0.0, 1.0) }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// What a frontend without a decision log has.
    pub(crate) fn facilities() -> Facilities {
        Facilities {
            users: Arc::new(UserStates::new(1 << 20)),
            decisions: Arc::new(Decisions::new(10_000)),
            log: None,
            wake: Arc::default(),
        }
    }
}
