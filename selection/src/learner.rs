//! A policy over its candidates.
//!
//! Invariant: the figures 0 and 1 of every model, whatever the policy, are how often its loss is known and the sum of
//! its rewards (both discounted where the policy forgets). The rest is the policy's own.

use clipper_rpc::names::ModelName;
use clipper_rpc::selection::{Change, Policy, Statistics};
use smallvec::SmallVec;

/// A policy over an ordered list of candidates, which is what is fixed until the application's configuration changes.
#[derive(Debug, Clone)]
pub struct Learner {}

/// What one state (the shared one, or a user's) says of the candidates, ready to choose by. Immutable; cheap to read from
/// many threads.
#[derive(Debug, Clone)]
pub struct Beliefs {}

/// What was chosen for one query.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// Which models are asked.
    pub asked: Asked,
    /// The weight of each candidate in the answer, adding up to 1; in the order of the candidates. For a policy that asks
    /// one model, the probability of each (its propensity); see [`Choice::propensities_known`].
    pub weights: SmallVec<[f64; 8]>,
}

/// Which models are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// The candidate of this index.
    One(usize),
    /// Every candidate.
    All,
}

/// What feedback says of the candidates, with losses in [0, 1].
#[derive(Debug, Clone, PartialEq)]
pub enum Lesson<'a> {
    /// The loss of the one model that answered, drawn with this propensity.
    Partial {
        /// Its index.
        model: usize,
        /// Its loss.
        loss: f64,
        /// The probability with which it was chosen.
        propensity: f64,
        /// The query's features.
        context: Option<&'a [f64]>,
    },
    /// The loss of each candidate, where it is known.
    Full {
        /// In the order of the candidates.
        losses: &'a [Option<f64>],
        /// The query's features.
        context: Option<&'a [f64]>,
    },
}

impl Learner {
    /// A policy over candidates, of which there is at least one, each once.
    pub fn new(policy: &Policy, candidates: &[ModelName]) -> Self {
        todo!()
    }

    /// The candidates, in order.
    pub fn candidates(&self) -> &[ModelName] {
        todo!()
    }

    /// Prepares a state for choosing.
    pub fn beliefs(&self, statistics: &Statistics) -> Beliefs {
        todo!()
    }

    /// Chooses for one query. A user's `own` beliefs are shrunk towards the `shared` ones, the less, the more feedback the
    /// user gave. All chance comes from `seed` and `query_id`. Takes microseconds.
    ///
    /// # Errors
    /// If the policy needs a context of another length; says in one sentence what was expected.
    pub fn choose(
        &self,
        shared: &Beliefs,
        own: Option<&Beliefs>,
        context: Option<&[f64]>,
        seed: u64,
        query_id: u64,
    ) -> Result<Choice, String> {
        todo!()
    }

    /// The mean reward of each candidate as believed, in [0, 1], 1/2 where nothing is known: the confidence in the answer of
    /// a policy that asks one model.
    pub fn mean_reward(&self, shared: &Beliefs, own: Option<&Beliefs>, model: usize) -> f64 {
        todo!()
    }

    /// The probability of each candidate to be chosen, exactly or to 1e-3, where [`Choice::weights`] does not have it
    /// (`thompson`); may take a millisecond.
    pub fn propensities(&self, shared: &Beliefs, own: Option<&Beliefs>, choice: &Choice) -> Vec<f64> {
        todo!()
    }

    /// What a lesson changes of the state `before` it: to be applied to that state, and to be sent to whoever has a copy.
    pub fn learn(&self, before: &Statistics, lesson: &Lesson<'_>) -> Change {
        todo!()
    }
}
