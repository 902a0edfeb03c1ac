//! A policy with states of its own: the shared one, and each user's, as a frontend has them.
//!
//! Invariant: the beliefs of a state are those of its statistics.

use std::collections::{BTreeMap, HashMap};

use clipper_rpc::names::ModelName;
use clipper_rpc::selection::{Change, Policy, Statistics, Uid};

use crate::learner::availability::{self, Outcomes};
use crate::learner::{Beliefs, Choice, Learner, Lesson};

/// A policy, and what it has learned.
pub struct Simulated {
    policy: Policy,
    learner: Learner,
    seed: u64,
    shared: State,
    users: HashMap<Uid, State>,
}

struct State {
    statistics: Statistics,
    beliefs: Beliefs,
}

impl Simulated {
    /// With nothing learned.
    pub fn new(policy: &Policy, candidates: &[ModelName], seed: u64) -> Self {
        let learner = Learner::new(policy, candidates);
        let shared = State::empty(&learner);
        Self { policy: policy.clone(), learner, seed, shared, users: HashMap::new() }
    }

    /// Has other candidates from now on; what was learned stays.
    pub fn set_candidates(&mut self, candidates: &[ModelName]) {
        if self.learner.candidates() != candidates {
            self.learner = Learner::new(&self.policy, candidates);
            for state in std::iter::once(&mut self.shared).chain(self.users.values_mut()) {
                state.beliefs = self.learner.beliefs(&state.statistics);
            }
        }
    }

    /// Chooses for one query, for which some candidates may be `away`.
    ///
    /// # Errors
    /// If the policy needs a context of another length.
    pub fn choose(
        &self,
        uid: Option<&Uid>,
        away: &[usize],
        context: Option<&[f64]>,
        query_id: u64,
    ) -> Result<Choice, String> {
        self.learner.choose(&self.shared.beliefs, self.own(uid), away, context, self.seed, query_id)
    }

    /// The probability of each candidate to be chosen, where some are `away`.
    pub fn propensities(&self, uid: Option<&Uid>, away: &[usize], choice: &Choice) -> Vec<f64> {
        self.learner.propensities(&self.shared.beliefs, self.own(uid), away, choice)
    }

    /// Learns, for the user and for all.
    pub fn learn(&mut self, uid: Option<&Uid>, lesson: &Lesson<'_>) {
        if let Some(uid) = uid
            && self.policy.is_personal()
        {
            let own = self.users.entry(uid.clone()).or_insert_with(|| State::empty(&self.learner));
            own.learn(&self.learner, lesson);
        }
        self.shared.learn(&self.learner, lesson);
    }

    /// Learns whether the one model that was asked answered in time.
    pub fn learn_outcome(&mut self, model: usize, answered: bool) {
        let Some(name) = self.learner.candidates().get(model) else { return };
        let outcomes =
            if answered { Outcomes { answered: 1, missed: 0 } } else { Outcomes { answered: 0, missed: 1 } };
        let outcomes = BTreeMap::from([(name.clone(), outcomes)]);
        let change = availability::learn(&self.shared.statistics, &outcomes);
        self.shared.change(&self.learner, &change);
    }

    fn own(&self, uid: Option<&Uid>) -> Option<&Beliefs> {
        Some(&self.users.get(uid?)?.beliefs)
    }
}

impl State {
    fn empty(learner: &Learner) -> Self {
        let statistics = Statistics::default();
        Self { beliefs: learner.beliefs(&statistics), statistics }
    }

    fn learn(&mut self, learner: &Learner, lesson: &Lesson<'_>) {
        let change = learner.learn(&self.statistics, lesson);
        self.change(learner, &change);
    }

    fn change(&mut self, learner: &Learner, change: &Change) {
        if !change.is_empty() {
            self.statistics.apply(change);
            self.beliefs = learner.beliefs(&self.statistics);
        }
    }
}
