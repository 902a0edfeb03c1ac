//! What one application learns: the writing side of its [`States`], owned by the application's actor.
//!
//! Lessons and what other frontends learned come in; changed states are published, and changes collected for the store.
//! Pure but for publishing, so that it is tested without a runtime. Invariant: each published state is what the store has
//! of it, as far as that is known, with every change after it that is not stored yet.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use clipper_rpc::catalog::Revision;
use clipper_rpc::names::{AppName, ModelName};
use clipper_rpc::selection::{Change, Policy, Selection, StateChange, StateKey, Statistics, Uid};
use clipper_selection::learner::{Learner, Lesson};
use clipper_selection::log::Record;

use super::Facilities;
use super::decision_log::{ApplicationLog, Changed};
use super::lessons::{Lessons, Subject, Taught};
use super::states::{States, Versioned, Wanted};
use super::unsent::Unsent;
use super::users::{UserStates, weight};
use crate::metrics::ApplicationMetrics;

/// The most that is kept of what an application has learned and the store does not have, in bytes.
const MOST_UNSENT_BYTES: usize = 32 << 20;
/// The most figures that are asked for at once: a few megabytes as text.
const FIGURES_ASKED: usize = 200_000;
/// The most states that are asked for at once.
const STATES_ASKED: usize = 1_000;

/// Owns what an application learns, since one revision.
pub struct Learning {
    application: AppName,
    selection: Selection,
    learner: Learner,
    states: Arc<States>,
    unsent: Unsent,
    /// The states that the exchange in progress asks for.
    asked: Vec<Option<Uid>>,
    /// How many changes there were.
    version: u64,
    lessons: Arc<Lessons>,
    log: Option<Arc<ApplicationLog>>,
    metrics: Arc<ApplicationMetrics>,
}

/// What the exchange is to tell the store, and to ask it for.
#[derive(Debug, Default)]
pub struct Collected {
    /// What was learned.
    pub changes: Vec<StateChange>,
    /// The states to load.
    pub load: Vec<StateKey>,
    /// Whether there is more of either.
    pub more: bool,
}

/// What the store has answered.
#[derive(Debug, Default)]
pub struct News {
    /// What others learned, in order.
    pub changes: Vec<StateChange>,
    /// States in full, with all that was collected.
    pub loaded: Vec<(StateKey, Statistics)>,
    /// Whether changes of others were missed.
    pub reset: bool,
}

/// States that are being changed, and not published yet.
#[derive(Default)]
struct Drafts(HashMap<Option<Uid>, Draft>);

struct Draft {
    statistics: Statistics,
    version: u64,
}

impl Learning {
    /// What an application learns from now on: what it learned before, unless its policy is another one.
    pub fn configure(
        former: Option<Self>,
        application: AppName,
        selection: &Selection,
        candidates: &[ModelName],
        facilities: &Facilities,
        lessons: &Arc<Lessons>,
        metrics: &Arc<ApplicationMetrics>,
    ) -> Self {
        let former = match former {
            Some(former) if former.selection == *selection && former.learner.candidates() == candidates => {
                return former;
            }
            former => former,
        };
        let learner = Learner::new(&selection.policy, candidates);
        let log = selection.log_decisions.then(|| facilities.log.as_ref()).flatten();
        let log = log.map(|log| Arc::new(log.of(application.clone(), Arc::clone(metrics))));
        let (version, number) =
            former.as_ref().map_or((0, None), |former| (former.version, Some(former.states.number)));
        let kept = former.filter(|former| former.selection.since == selection.since);
        let (shared, wanted) = match &kept {
            Some(former) => (former.states.shared().statistics.clone(), Arc::clone(&former.states.wanted)),
            None => (Statistics::default(), Arc::new(Wanted::new(Arc::clone(&facilities.wake)))),
        };
        let shared = versioned(&learner, shared, version);
        let users = Arc::clone(&facilities.users);
        if let Some(log) = &log {
            log.configured(selection.clone(), candidates.to_vec(), Arc::clone(&shared));
        }
        let personal = is_personal(&selection.policy);
        let states = States::new(shared, users, wanted, Arc::clone(lessons), log.clone(), personal);
        if kept.is_some() {
            carry_over(number, &states, &learner, &facilities.users);
        } else {
            states.wanted.want(None);
        }
        if let Some(number) = number {
            facilities.users.forget(number);
        }
        let (unsent, asked) = kept.map_or_else(
            || (Unsent::new(MOST_UNSENT_BYTES), Vec::new()),
            |former| (former.unsent, former.asked),
        );
        Self {
            application,
            selection: selection.clone(),
            learner,
            states: Arc::new(states),
            unsent,
            asked,
            version,
            lessons: Arc::clone(lessons),
            log,
            metrics: Arc::clone(metrics),
        }
    }

    /// What queries read.
    pub fn states(&self) -> &Arc<States> {
        &self.states
    }

    /// The policy over its candidates.
    pub fn learner(&self) -> &Learner {
        &self.learner
    }

    /// Since when it learns.
    pub fn since(&self) -> Revision {
        self.selection.since
    }

    /// Learns from at most so many of the lessons that wait; whether more do.
    pub fn learn(&mut self, most: usize) -> bool {
        let (taken, more) = self.lessons.take(most);
        let mut drafts = Drafts::default();
        for taught in &taken {
            self.learn_from(taught, &mut drafts);
        }
        self.publish(drafts);
        let dropped = self.unsent.shed();
        self.metrics.feedback.drop_changes(dropped);
        self.count_unsent();
        more
    }

    fn learn_from(&mut self, taught: &Taught, drafts: &mut Drafts) {
        if let Some(log) = &self.log {
            log.feedback(Record::Feedback {
                time_micros: taught.time_micros,
                query_id: taught.subject.query_id(),
                uid: taught.subject.uid().cloned(),
                label: taught.label.clone(),
                reward: taught.reward,
                losses: taught.losses.clone(),
            });
        }
        let losses = self.losses(taught);
        let context = taught.subject.context();
        let asked = match &taught.subject {
            Subject::Answer(decided) => decided.decision.asked,
            Subject::Input { .. } => None,
        };
        let lesson = match (&taught.subject, asked) {
            (Subject::Answer(decided), Some(asked)) => {
                // A model that has been unlinked since, or did not answer in time, teaches nothing.
                let name = decided.decision.candidates.get(asked);
                let model =
                    name.and_then(|name| self.learner.candidates().iter().position(|known| known == name));
                let known = model.and_then(|model| Some((model, losses[model]?)));
                let Some((model, loss)) = known else { return };
                let propensity = decided.decision.propensities.get(asked).copied().unwrap_or(1.0);
                Lesson::Partial { model, loss, propensity, context }
            }
            _ => Lesson::Full { losses: &losses, context },
        };
        let own = taught.subject.uid().filter(|_| self.states.personal).cloned();
        for key in own.map(Some).into_iter().chain([None]) {
            self.teach(key, &lesson, taught.subject.query_id(), drafts);
        }
    }

    /// The losses in the order of today's candidates.
    fn losses(&self, taught: &Taught) -> Vec<Option<f64>> {
        let then = taught.subject.candidates();
        let today = self.learner.candidates().iter();
        let loss_of = |model| {
            let index = then.iter().position(|known| known == model)?;
            taught.losses.get(index).copied().flatten()
        };
        today.map(loss_of).collect()
    }

    fn teach(&mut self, key: Option<Uid>, lesson: &Lesson<'_>, query_id: Option<u64>, drafts: &mut Drafts) {
        if key.is_some() && !self.is_held(&key) && !self.unsent.has_base(&key) {
            self.states.wanted.require(key.clone());
        }
        let draft = drafts.0.entry(key.clone()).or_insert_with(|| self.draft(&key));
        let change = self.learner.learn(&draft.statistics, lesson);
        if change.is_empty() {
            return;
        }
        // What is in memory is what is stored, where nothing is to come and nothing is to go.
        let before = || (!self.states.wanted.awaits(&key)).then(|| draft.statistics.clone());
        self.unsent.add(&key, before, &change);
        draft.statistics.apply(&change);
        Self::changed(&mut self.version, self.log.as_deref(), key, query_id, change, draft);
    }

    /// Takes part in an exchange: what it is to say, while no more than so many `figures` are said.
    pub fn collect(&mut self, figures: &mut usize) -> Collected {
        while self.learn(usize::MAX) {}
        let key = |uid| StateKey { application: self.application.clone(), since: self.selection.since, uid };
        let changes = self.unsent.send(figures);
        let changes =
            changes.into_iter().map(|(uid, change)| StateChange { key: key(uid), change }).collect();
        let typical = weight(&self.states.shared().statistics) / size_of::<f64>();
        self.asked = self.states.wanted.ask((FIGURES_ASKED / typical.max(1)).clamp(1, STATES_ASKED));
        let load = self.asked.iter().cloned().map(key).collect();
        Collected { changes, load, more: self.unsent.waits() || self.states.wanted.more() }
    }

    /// What was collected is stored, and this is what the store has answered.
    pub fn take_in(&mut self, news: News) {
        let mut drafts = Drafts::default();
        let is_ours =
            |key: &StateKey| key.application == self.application && key.since == self.selection.since;
        let mut replaced = HashSet::new();
        let loaded = news.loaded.into_iter().filter(|(key, _)| is_ours(key));
        for (StateKey { uid, .. }, stored) in loaded.collect::<Vec<_>>() {
            self.unsent.rebase(&uid, &stored);
            let statistics = self.unsent.state(&uid).unwrap_or(stored);
            drafts.0.insert(uid.clone(), Draft { statistics, version: self.version });
            replaced.insert(uid);
        }
        self.states.wanted.settle(&std::mem::take(&mut self.asked));

        let changes = news.changes.into_iter().filter(|change| is_ours(&change.key));
        let mut preceded = HashSet::new();
        for StateChange { key: StateKey { uid, .. }, change } in changes.collect::<Vec<_>>() {
            if replaced.contains(&uid) || self.states.wanted.awaits(&uid) {
                // It is in what was loaded, or will be.
            } else if self.unsent.precede(&uid, &change) {
                preceded.insert(uid);
            } else if self.unsent.state(&uid).is_none() && self.is_held(&uid) {
                let draft = drafts.0.entry(uid.clone()).or_insert_with(|| self.draft(&uid));
                draft.statistics.apply(&change);
                Self::changed(&mut self.version, self.log.as_deref(), uid, None, change, draft);
            }
        }
        self.unsent.arrive();
        for uid in preceded {
            let Some(statistics) = self.unsent.state(&uid) else { continue };
            drafts.0.insert(uid.clone(), Draft { statistics, version: self.version });
            replaced.insert(uid);
        }
        self.unsent.forget_stored();
        if news.reset {
            let held = self.states.users.held(self.states.number);
            let missed = held.into_iter().map(|(uid, _)| Some(uid)).chain([None]);
            self.states.wanted.want_anew(missed.filter(|key| !replaced.contains(key)));
        }
        self.replace(replaced, &mut drafts);
        self.publish(drafts);
        self.count_unsent();
    }

    /// Gives drafts that are no sequel of what was published a version of their own.
    fn replace(&mut self, replaced: HashSet<Option<Uid>>, drafts: &mut Drafts) {
        for uid in replaced {
            let Some(draft) = drafts.0.get_mut(&uid) else { continue };
            self.version += 1;
            draft.version = self.version;
            if let Some(log) = &self.log {
                log.replaced(uid, versioned(&self.learner, draft.statistics.clone(), self.version));
            }
        }
    }

    /// Counts a change of a draft, and logs it.
    fn changed(
        version: &mut u64,
        log: Option<&ApplicationLog>,
        uid: Option<Uid>,
        query_id: Option<u64>,
        change: Change,
        draft: &mut Draft,
    ) {
        *version += 1;
        let before = std::mem::replace(&mut draft.version, *version);
        if let Some(log) = log {
            log.changed(Changed { uid, before, version: *version, query_id, change });
        }
    }

    /// A state as it is now, to be changed.
    fn draft(&self, key: &Option<Uid>) -> Draft {
        let held = match key {
            None => Some(self.states.shared()),
            Some(uid) => self.states.users.get(self.states.number, uid),
        };
        match held {
            Some(held) => Draft { statistics: held.statistics.clone(), version: held.version },
            // It has left the memory, or has never been there.
            None => Draft { statistics: self.unsent.state(key).unwrap_or_default(), version: 0 },
        }
    }

    fn is_held(&self, key: &Option<Uid>) -> bool {
        key.as_ref().is_none_or(|uid| self.states.users.get(self.states.number, uid).is_some())
    }

    fn publish(&self, drafts: Drafts) {
        for (key, Draft { statistics, version }) in drafts.0 {
            let state = versioned(&self.learner, statistics, version);
            match key {
                None => self.states.shared.store(state),
                Some(uid) => self.states.users.insert(self.states.number, uid, state),
            }
        }
    }

    fn count_unsent(&self) {
        self.metrics.feedback.set_unsent(self.unsent.len());
    }
}

/// Has the users' states in memory say the same to another learner.
fn carry_over(from: Option<u64>, states: &States, learner: &Learner, users: &UserStates) {
    for (uid, state) in from.map(|number| users.held(number)).unwrap_or_default() {
        users.insert(states.number, uid, versioned(learner, state.statistics.clone(), state.version));
    }
}

fn versioned(learner: &Learner, statistics: Statistics, version: u64) -> Arc<Versioned> {
    let beliefs = learner.beliefs(&statistics);
    Arc::new(Versioned { version, statistics, beliefs })
}

/// Whether a policy selects by what it learned from the user. `linucb` knows users by their context alone.
fn is_personal(policy: &Policy) -> bool {
    match policy {
        Policy::Exp3 { .. }
        | Policy::Exp3Ix {}
        | Policy::EpsilonGreedy { .. }
        | Policy::Ucb1 { .. }
        | Policy::Thompson { .. }
        | Policy::Exp4 { .. } => true,
        Policy::DefaultOutput | Policy::LinUcb { .. } | Policy::MajorityVote {} | Policy::Mean {} => false,
    }
}
