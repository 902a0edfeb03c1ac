//! One state through its versions, as far back as a decision that is still to come may have read it.
//!
//! Invariant: whoever announces a version before the state moves past it can have the state at that version.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use clipper_rpc::names::ModelName;
use clipper_rpc::selection::{Change, Statistics};

use crate::learner::availability::Outcomes;
use crate::learner::{Beliefs, Learner};

/// One state, and the changes that it is still to take in.
pub struct Timeline {
    version: u64,
    statistics: Statistics,
    beliefs: Option<Arc<Beliefs>>,
    coming: VecDeque<Coming>,
    wanted: BTreeMap<u64, Wanted>,
}

/// A logged change.
pub struct Coming {
    /// The version that it leads to.
    pub version: u64,
    /// The query whose feedback it is.
    pub query_id: Option<u64>,
    /// The outcomes that it is learned from.
    pub outcomes: Option<BTreeMap<ModelName, Outcomes>>,
    /// What changes.
    pub change: Change,
}

/// Somebody will ask for a version.
#[derive(Default)]
struct Wanted {
    times: usize,
    beliefs: Option<Arc<Beliefs>>,
}

impl Timeline {
    /// Begins with a state in full.
    pub fn new(version: u64, statistics: Statistics) -> Self {
        Self { version, statistics, beliefs: None, coming: VecDeque::new(), wanted: BTreeMap::new() }
    }

    /// Takes note of a change, to be taken in by and by.
    pub fn note(&mut self, coming: Coming) {
        self.coming.push_back(coming);
    }

    /// Announces that a version will be asked for, once.
    pub fn want(&mut self, version: u64) {
        self.wanted.entry(version).or_default().times += 1;
    }

    /// Moves on to a version, and shows each change with the state before it.
    pub fn advance(&mut self, to: u64, learner: &Learner, mut show: impl FnMut(&Statistics, &Coming)) {
        while self.coming.front().is_some_and(|coming| coming.version <= to) {
            let Some(coming) = self.coming.pop_front() else { break };
            if self.wanted.contains_key(&self.version) {
                let beliefs = self.beliefs(learner);
                if let Some(wanted) = self.wanted.get_mut(&self.version) {
                    wanted.beliefs = Some(beliefs);
                }
            }
            show(&self.statistics, &coming);
            self.statistics.apply(&coming.change);
            (self.version, self.beliefs) = (coming.version, None);
        }
    }

    /// The state at a version that was announced and advanced to; none if there was no such version.
    pub fn take(&mut self, version: u64, learner: &Learner) -> Option<Arc<Beliefs>> {
        let wanted = self.wanted.get_mut(&version)?;
        wanted.times -= 1;
        let (last, kept) = (wanted.times == 0, wanted.beliefs.clone());
        if last {
            self.wanted.remove(&version);
        }
        kept.or_else(|| (version == self.version).then(|| self.beliefs(learner)))
    }

    fn beliefs(&mut self, learner: &Learner) -> Arc<Beliefs> {
        Arc::clone(self.beliefs.get_or_insert_with(|| Arc::new(learner.beliefs(&self.statistics))))
    }
}
