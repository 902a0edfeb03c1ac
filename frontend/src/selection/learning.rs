//! What one application learns: the writing side of its [`States`], owned by the application's actor.
//!
//! Lessons and what other frontends learned come in; changed states are published, and changes collected for the store.
//! Pure but for publishing, so that it is tested without a runtime. Invariant: each published state is what the store has
//! of it, as far as that is known, with every change after it that is not stored yet.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use clipper_rpc::names::{AppName, ModelName};
use clipper_rpc::selection::{Change, Selection, StateChange, StateKey, Statistics, Uid};
use clipper_selection::learner::{Learner, Lesson, availability};

use super::Facilities;
use super::decision_log::{ApplicationLog, Cause, Changed};
use super::lessons::{Lessons, Subject, Taught};
use super::states::{States, Versioned, Wanted};
use super::unsent::Unsent;
use super::users::{UserStates, weight};
use crate::metrics::ApplicationMetrics;

/// The most that is kept of what an application has learned and the store does not have, in bytes.
const MOST_UNSENT_BYTES: usize = 32 << 20;
/// The most figures that one exchange says, and the most that it asks for: a few megabytes as text.
const FIGURES: usize = 200_000;
/// The most states of one application that are asked for at once.
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

/// What one exchange has room for, of all applications together.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// The figures that may be said.
    pub said: usize,
    /// The figures that may be asked for.
    pub asked: usize,
}

impl Default for Room {
    fn default() -> Self {
        Self { said: FIGURES, asked: FIGURES }
    }
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
    /// The published state that has the same figures, if there is one: what is prepared of them takes most of the time.
    figures_of: Option<Arc<Versioned>>,
}

impl Draft {
    /// A state that is not what was published.
    fn new(statistics: Statistics, version: u64) -> Self {
        Self { statistics, version, figures_of: None }
    }
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
        let (version, number) =
            former.as_ref().map_or((0, None), |former| (former.version, Some(former.states.number)));
        let kept = former.filter(|former| former.selection.since == selection.since);
        let (shared, wanted) = match &kept {
            Some(former) => (former.states.shared().statistics.clone(), Arc::clone(&former.states.wanted)),
            None => (Statistics::default(), Arc::new(Wanted::new(Arc::clone(&facilities.wake)))),
        };
        let shared = versioned(&learner, shared, version);
        let users = Arc::clone(&facilities.users);
        let log = selection.log_decisions.then_some(facilities.log.as_ref()).flatten().map(|log| {
            let (selection, candidates) = (selection.clone(), candidates.to_vec());
            log.of(application.clone(), selection, candidates, Arc::clone(&shared), Arc::clone(metrics))
        });
        let log = log.map(Arc::new);
        let personal = selection.policy.is_personal();
        let states = States::new(shared, users, wanted, Arc::clone(lessons), log.clone(), personal);
        if kept.is_some() {
            carry_over(number, &states, &learner, &facilities.users);
        } else {
            let _ = states.wanted.want(None);
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

    /// Learns from at most so many of the lessons that wait, and from all outcomes; whether more lessons do.
    pub fn learn(&mut self, most: usize) -> bool {
        let (taken, more) = self.lessons.take(most);
        let mut drafts = Drafts::default();
        for taught in &taken {
            self.learn_from(taught, &mut drafts);
        }
        self.learn_outcomes(&mut drafts);
        self.publish(drafts);
        let dropped = self.unsent.shed();
        self.metrics.feedback.drop_changes(dropped.len());
        dropped.into_iter().flatten().for_each(|uid| self.forget_unless_loaded(uid));
        self.count_unsent();
        more
    }

    fn learn_from(&mut self, taught: &Arc<Taught>, drafts: &mut Drafts) {
        if let Some(log) = &self.log {
            log.feedback(Arc::clone(taught));
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

    /// Learns whether models answered in time: of all users alike, as they share the containers.
    fn learn_outcomes(&mut self, drafts: &mut Drafts) {
        let outcomes = self.lessons.take_outcomes();
        if outcomes.is_empty() {
            return;
        }
        let draft = drafts.0.entry(None).or_insert_with(|| self.draft(&None));
        let change = availability::learn(&draft.statistics, &outcomes);
        self.change(None, Cause::Outcomes(outcomes), change, draft);
    }

    /// Forgets a user whose changes were dropped before its state was loaded: what is in memory
    /// began from nothing.
    fn forget_unless_loaded(&self, uid: Uid) {
        let key = Some(uid);
        if self.unsent.state(&key).is_none()
            && self.states.wanted.forget(&key)
            && let Some(uid) = &key
        {
            self.states.users.remove(self.states.number, uid);
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
        let is_known = self.is_held(&key) || self.unsent.has_base(&key);
        // A user's state is not learned on without its stored part, unless that is to come.
        if !is_known && !self.states.wanted.want(key.clone()) {
            self.metrics.feedback.drop_changes(1);
            return;
        }
        let draft = drafts.0.entry(key.clone()).or_insert_with(|| self.draft(&key));
        let change = self.learner.learn(&draft.statistics, lesson);
        draft.figures_of = None;
        self.change(key, Cause::Feedback { query_id }, change, draft);
    }

    /// Changes a draft by what was learned here.
    fn change(&mut self, key: Option<Uid>, cause: Cause, change: Change, draft: &mut Draft) {
        if change.is_empty() {
            return;
        }
        // What is in memory is what is stored, where nothing is to come and nothing is to go.
        let before = || (!self.states.wanted.awaits(&key)).then(|| draft.statistics.clone());
        self.unsent.add(&key, before, &change);
        draft.statistics.apply(&change);
        Self::changed(&mut self.version, self.log.as_deref(), key, cause, change, draft);
    }

    /// Takes part in an exchange: what it is to say, as far as there is room.
    pub fn collect(&mut self, room: &mut Room) -> Collected {
        while self.learn(usize::MAX) {}
        let key = |uid| StateKey { application: self.application.clone(), since: self.selection.since, uid };
        let changes = self.unsent.send(&mut room.said);
        let changes =
            changes.into_iter().map(|(uid, change)| StateChange { key: key(uid), change }).collect();
        let typical = weight(&self.states.shared().statistics) / size_of::<f64>() + 1;
        self.asked = self.states.wanted.ask(room.asked.div_ceil(typical).min(STATES_ASKED));
        room.asked = room.asked.saturating_sub(self.asked.len() * typical);
        let load = self.asked.iter().cloned().map(key).collect();
        Collected { changes, load, more: self.unsent.waits() || self.states.wanted.more() }
    }

    /// What was collected will never be stored. What the store has is to be loaded anew after this.
    pub fn drop_sent(&mut self) {
        let dropped = self.unsent.drop_sent();
        self.metrics.feedback.drop_changes(dropped);
        self.states.wanted.settle(&std::mem::take(&mut self.asked));
        self.count_unsent();
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
            drafts.0.insert(uid.clone(), Draft::new(statistics, self.version));
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
                draft.figures_of = None;
                Self::changed(&mut self.version, self.log.as_deref(), uid, Cause::Elsewhere, change, draft);
            }
        }
        self.unsent.arrive();
        for uid in preceded {
            let Some(statistics) = self.unsent.state(&uid) else { continue };
            drafts.0.insert(uid.clone(), Draft::new(statistics, self.version));
            replaced.insert(uid);
        }
        self.unsent.forget_stored();
        if news.reset {
            let held = self.states.users.held(self.states.number);
            let missed = held.into_iter().map(|(uid, _)| Some(uid)).chain([None]);
            for key in self.states.wanted.want_anew(missed.filter(|key| !replaced.contains(key))) {
                self.unsent.forget_base(&key);
                key.iter().for_each(|uid| self.states.users.remove(self.states.number, uid));
            }
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
        cause: Cause,
        change: Change,
        draft: &mut Draft,
    ) {
        *version += 1;
        let before = std::mem::replace(&mut draft.version, *version);
        if let Some(log) = log {
            log.changed(Changed { uid, before, version: *version, cause, change });
        }
    }

    /// A state as it is now, to be changed.
    fn draft(&self, key: &Option<Uid>) -> Draft {
        let held = match key {
            None => Some(self.states.shared()),
            Some(uid) => self.states.users.get(self.states.number, uid),
        };
        match held {
            Some(held) => {
                Draft { statistics: held.statistics.clone(), version: held.version, figures_of: Some(held) }
            }
            // It has left the memory, or has never been there.
            None => Draft::new(self.unsent.state(key).unwrap_or_default(), 0),
        }
    }

    fn is_held(&self, key: &Option<Uid>) -> bool {
        key.as_ref().is_none_or(|uid| self.states.users.get(self.states.number, uid).is_some())
    }

    fn publish(&self, drafts: Drafts) {
        for (key, Draft { statistics, version, figures_of }) in drafts.0 {
            let state = match figures_of {
                Some(held) => {
                    let beliefs = self.learner.with_availability(&held.beliefs, &statistics);
                    Arc::new(Versioned { version, statistics, beliefs })
                }
                None => versioned(&self.learner, statistics, version),
            };
            match key {
                None => self.states.shared.store(state),
                Some(uid) => self.states.users.insert(self.states.number, uid, state),
            }
        }
    }

    fn count_unsent(&self) {
        self.metrics.feedback.set_unsent(self.unsent.states());
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Instant;

    use super::super::tests::facilities;
    use clipper_rpc::selection::Policy;

    use super::*;

    /// The store as its documentation has it, for one application.
    #[derive(Default)]
    struct Store {
        states: HashMap<StateKey, Statistics>,
        /// By whom.
        changes: Vec<(usize, StateChange)>,
    }

    /// A frontend's side of one application.
    struct Side {
        number: usize,
        learning: Learning,
        facilities: Facilities,
        known: usize,
    }

    impl Side {
        fn new(number: usize, policy: Policy) -> Self {
            Self::within(number, policy, 1 << 20)
        }

        fn within(number: usize, policy: Policy, bytes: u64) -> Self {
            let facilities = Facilities { users: Arc::new(UserStates::new(bytes)), ..facilities() };
            let learning = configure(None, &selection(policy, 1), &["a", "b"], &facilities);
            Self { number, learning, facilities, known: 0 }
        }

        fn reconfigure(self, selection: &Selection, models: &[&str]) -> Self {
            let learning = configure(Some(self.learning), selection, models, &self.facilities);
            Self { learning, ..self }
        }

        fn hear(&mut self, uid: Option<&str>, losses: [f64; 2]) {
            let candidates = self.learning.learner.candidates().to_vec();
            let uid = uid.and_then(Uid::new);
            let subject = Subject::Input { uid, context: None, candidates };
            let losses = losses.map(Some).to_vec();
            let taught = Taught { subject, losses, label: None, reward: 0.0, time_micros: 0 };
            self.learning.lessons.reserve(0).unwrap().put(taught);
            self.learning.learn(usize::MAX);
        }

        /// One exchange. The answer may come late, when others have exchanged.
        fn send(&mut self, store: &mut Store) -> News {
            let Collected { changes, load, .. } = self.learning.collect(&mut unlimited());
            let heard = store.changes[self.known..].iter().filter(|(by, _)| *by != self.number);
            let heard: Vec<_> = heard
                .map(|(_, change)| change.clone())
                .filter(|change| !load.contains(&change.key))
                .collect();
            for change in changes {
                store.states.entry(change.key.clone()).or_default().apply(&change.change);
                store.changes.push((self.number, change));
            }
            self.known = store.changes.len();
            let stored = |key: StateKey| {
                let state = store.states.get(&key).cloned().unwrap_or_default();
                (key, state)
            };
            News { changes: heard, loaded: load.into_iter().map(stored).collect(), reset: false }
        }

        fn exchange(&mut self, store: &mut Store) {
            let news = self.send(store);
            self.learning.take_in(news);
        }

        fn shared(&self) -> Statistics {
            self.learning.states.shared().statistics.clone()
        }

        fn own(&self, uid: &str) -> Option<Statistics> {
            Some(self.learning.states.own(&Uid::new(uid).unwrap())?.statistics.clone())
        }

        fn key(&self, uid: Option<&str>) -> StateKey {
            let application = self.learning.application.clone();
            StateKey { application, since: self.learning.selection.since, uid: uid.and_then(Uid::new) }
        }
    }

    fn selection(policy: Policy, since: u64) -> Selection {
        Selection { policy, since, ..Selection::default() }
    }

    fn configure(
        former: Option<Learning>,
        selection: &Selection,
        models: &[&str],
        facilities: &Facilities,
    ) -> Learning {
        let names: Vec<ModelName> = models.iter().map(|name| name.parse().unwrap()).collect();
        let (lessons, metrics) = (Arc::default(), Arc::new(ApplicationMetrics::new(Instant::now())));
        let application = "app".parse().unwrap();
        Learning::configure(former, application, selection, &names, facilities, &lessons, &metrics)
    }

    fn unlimited() -> Room {
        Room { said: usize::MAX, asked: usize::MAX }
    }

    fn exp4() -> Policy {
        Policy::Exp4 { eta: 0.2, share: 0.01 }
    }

    /// A policy whose changes scale, so that their order matters.
    fn thompson() -> Policy {
        Policy::Thompson { discount: 0.9 }
    }

    fn count(statistics: &Statistics, model: &str) -> f64 {
        statistics.of(&model.parse().unwrap()).first().copied().unwrap_or(0.0)
    }

    fn assert_close(one: &Statistics, other: &Statistics) {
        let models = |statistics: &Statistics| statistics.0.keys().cloned().collect::<Vec<_>>();
        assert_eq!(models(one), models(other));
        for (model, of) in &one.0 {
            assert!((of.missed - other.missed(model)).abs() < 1e-9, "{one:?}\n{other:?}");
            for (figure, same) in of.figures.iter().zip(other.of(model)) {
                assert!((figure - same).abs() < 1e-9, "{one:?}\n{other:?}");
            }
        }
    }

    #[test]
    fn two_frontends_and_the_store_arrive_at_the_same_whatever_the_order() {
        for policy in [exp4(), thompson()] {
            let mut store = Store::default();
            let mut sides = [Side::new(0, policy.clone()), Side::new(1, policy)];
            let mut random = 1_u64;
            let mut waiting: [Option<News>; 2] = [None, None];
            for _ in 0..600 {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let side = (random >> 40) as usize % 2;
                match (random >> 50) % 4 {
                    0 => match waiting[side].take() {
                        Some(news) => sides[side].learning.take_in(news),
                        None => waiting[side] = Some(sides[side].send(&mut store)),
                    },
                    _ => {
                        let uid = [None, Some("u"), Some("v")][(random >> 33) as usize % 3];
                        sides[side].hear(uid, [(random >> 20) as f64 % 2.0, 0.5]);
                    }
                }
            }
            for (side, news) in sides.iter_mut().zip(waiting) {
                news.into_iter().for_each(|news| side.learning.take_in(news));
            }
            for _ in 0..2 {
                sides.iter_mut().for_each(|side| side.exchange(&mut store));
            }
            for side in &sides {
                assert_close(&side.shared(), &store.states[&side.key(None)]);
                for uid in ["u", "v"] {
                    assert_close(&side.own(uid).unwrap(), &store.states[&side.key(Some(uid))]);
                }
                assert_eq!(side.learning.unsent.states(), 0);
            }
        }
    }

    #[test]
    fn frontends_learn_of_each_other_whether_models_answer_and_forget_no_feedback_over_it() {
        let mut store = Store::default();
        let mut sides = [Side::new(0, thompson()), Side::new(1, thompson())];
        let name: ModelName = "a".parse().unwrap();
        for round in 0..40 {
            for side in &mut sides {
                side.hear(None, [0.0, 1.0]);
                let lessons = Arc::clone(&side.learning.lessons);
                (0..4).for_each(|query| lessons.count(&name, (query + round) % 4 == 0));
                side.learning.learn(usize::MAX);
            }
            sides.iter_mut().for_each(|side| side.exchange(&mut store));
        }
        sides.iter_mut().for_each(|side| side.exchange(&mut store));
        for side in &sides {
            assert_close(&side.shared(), &store.states[&side.key(None)]);
            let missed = side.shared().missed(&name);
            assert!((0.5..1.0).contains(&missed), "{missed}");
            assert_eq!(side.learning.states.shared().beliefs.availability(0), 1.0 - missed);
            assert_eq!(count(&side.shared(), "a"), 80.0);
        }
    }

    #[test]
    fn what_is_learned_of_a_user_before_it_is_loaded_comes_after_what_is_stored() {
        let mut store = Store::default();
        let mut before = Side::new(0, exp4());
        (0..3).for_each(|_| before.hear(Some("u"), [0.0, 1.0]));
        before.exchange(&mut store);
        let mut side = Side::new(1, exp4());
        assert!(side.own("u").is_none());
        side.hear(Some("u"), [0.0, 1.0]);
        assert_eq!(count(&side.own("u").unwrap(), "a"), 1.0);
        let news = side.send(&mut store);
        side.hear(Some("u"), [0.0, 1.0]);
        side.learning.take_in(news);
        assert_eq!(count(&side.own("u").unwrap(), "a"), 5.0);
        side.exchange(&mut store);
        assert_close(&side.own("u").unwrap(), &store.states[&side.key(Some("u"))]);
        assert_eq!(count(&side.shared(), "b"), 5.0);
    }

    #[test]
    fn a_user_who_has_left_the_memory_is_loaded_again_with_all_that_was_learned() {
        let mut store = Store::default();
        let mut side = Side::within(0, exp4(), 4096);
        side.hear(Some("u"), [0.0, 1.0]);
        (0..50).for_each(|other| side.hear(Some(&format!("other {other}")), [0.5, 0.5]));
        let number = side.learning.states.number;
        side.facilities.users.forget(number);
        side.hear(Some("u"), [0.0, 1.0]);
        side.exchange(&mut store);
        side.facilities.users.forget(number);
        assert!(side.own("u").is_none());
        side.exchange(&mut store);
        assert_eq!(count(&side.own("u").unwrap(), "a"), 2.0);
    }

    #[test]
    fn users_who_have_no_state_are_loaded_once() {
        let (mut store, mut side) = (Store::default(), Side::new(0, exp4()));
        assert!(side.own("new").is_none() && side.own("new").is_none());
        let asked = side.learning.collect(&mut unlimited()).load;
        assert_eq!(asked, [side.key(None), side.key(Some("new"))]);
        let loaded = asked.into_iter().map(|key| (key, Statistics::default())).collect();
        side.learning.take_in(News { loaded, ..News::default() });
        assert_eq!(side.own("new"), Some(Statistics::default()));
        assert!(side.send(&mut store).loaded.is_empty());
    }

    #[test]
    fn another_policy_begins_anew_and_other_parameters_or_models_do_not() {
        let mut store = Store::default();
        let mut side = Side::new(0, exp4());
        side.hear(Some("u"), [0.0, 1.0]);
        let parameters = selection(Policy::Exp4 { eta: 0.5, share: 0.01 }, 1);
        let mut side = side.reconfigure(&parameters, &["a", "b", "c"]);
        assert_eq!(count(&side.shared(), "a"), 1.0);
        assert_eq!(count(&side.own("u").unwrap(), "a"), 1.0);
        side.exchange(&mut store);
        assert_eq!(count(&store.states[&side.key(Some("u"))], "a"), 1.0);
        let mut side = side.reconfigure(&selection(thompson(), 2), &["a", "b", "c"]);
        assert_eq!(side.shared(), Statistics::default());
        assert!(side.own("u").is_none());
        side.exchange(&mut store);
        assert_eq!(side.shared(), Statistics::default());
    }

    #[test]
    fn after_missed_changes_every_state_is_loaded_anew_and_nothing_of_ones_own_is_lost() {
        let mut store = Store::default();
        let (mut one, mut other) = (Side::new(0, exp4()), Side::new(1, exp4()));
        one.hear(Some("u"), [0.0, 1.0]);
        one.exchange(&mut store);
        other.hear(Some("u"), [0.0, 1.0]);
        other.exchange(&mut store);
        one.hear(Some("u"), [0.0, 1.0]);
        let mut news = one.send(&mut store);
        (news.reset, news.changes) = (true, Vec::new());
        one.hear(Some("u"), [0.0, 1.0]);
        one.learning.take_in(news);
        one.exchange(&mut store);
        assert_eq!(count(&one.own("u").unwrap(), "a"), 4.0);
        assert_eq!(count(&one.shared(), "a"), 4.0);
        assert_close(&one.shared(), &store.states[&one.key(None)]);
    }

    #[test]
    fn where_too_much_is_unsent_the_users_of_whom_least_was_learned_are_dropped() {
        let mut unsent = Unsent::new(20_000);
        let change = Change(BTreeMap::from([(
            "a".parse().unwrap(),
            clipper_rpc::selection::Affine { scale: 1.0, add: vec![1.0; 8], missed: None },
        )]));
        let mut dropped = 0;
        for user in 0..1000 {
            let often = if user == 0 { 5 } else { 1 };
            for _ in 0..often {
                unsent.add(&Uid::new(format!("u{user}")), || None, &change);
                unsent.add(&None, || None, &change);
            }
            dropped += unsent.shed().len();
        }
        assert!(dropped > 900 && unsent.states() < 100, "{dropped} {}", unsent.states());
        assert!(unsent.state(&None).is_some() && unsent.state(&Uid::new("u0")).is_some());
    }

    #[test]
    fn feedback_on_a_user_for_whom_there_is_no_room_teaches_the_shared_state_alone() {
        let mut side = Side::new(0, exp4());
        let wanted = Arc::clone(&side.learning.states.wanted);
        let refused = (0..200_000).find(|other| !wanted.want(Uid::new(format!("other {other}"))));
        assert!(refused.is_some());
        side.hear(Some("u"), [0.0, 1.0]);
        assert_eq!(count(&side.shared(), "a"), 1.0);
        assert!(!wanted.awaits(&Uid::new("u")) && side.own("u").is_none());
        assert_eq!((side.learning.unsent.states(), side.learning.metrics.feedback.dropped_changes()), (1, 1));
    }

    #[test]
    fn a_user_whose_changes_are_dropped_before_its_state_was_loaded_is_forgotten_and_loaded_later() {
        let (mut store, mut side) = (Store::default(), Side::new(0, exp4()));
        side.exchange(&mut store);
        side.learning.unsent = Unsent::new(20_000);
        (0..1000).for_each(|user| side.hear(Some(&format!("u{user}")), [0.0, 1.0]));
        let wanted = Arc::clone(&side.learning.states.wanted);
        let (waiting, held): (Vec<_>, Vec<_>) = (0..1000)
            .filter_map(|user| Uid::new(format!("u{user}")))
            .map(|uid| {
                let is_held = side.learning.is_held(&Some(uid.clone()));
                (wanted.awaits(&Some(uid)), is_held)
            })
            .unzip();
        assert_eq!(waiting, held, "what began from nothing is in memory only while the rest is to come");
        let waiting = waiting.iter().filter(|waits| **waits).count();
        assert!((1..100).contains(&waiting), "{waiting}");
        assert!(side.own("u0").is_none());
        (0..2).for_each(|_| side.exchange(&mut store));
        assert_eq!(side.own("u0"), Some(Statistics::default()));
    }

    #[test]
    fn users_who_no_longer_fit_after_missed_changes_are_loaded_when_they_come_again() {
        let (mut store, mut side) = (Store::default(), Side::new(0, exp4()));
        side.hear(Some("u"), [0.0, 1.0]);
        side.exchange(&mut store);
        side.hear(Some("u"), [0.0, 1.0]);
        let wanted = Arc::clone(&side.learning.states.wanted);
        let refused = (0..200_000).find(|other| !wanted.want(Uid::new(format!("other {other}"))));
        assert!(refused.is_some());
        side.learning.take_in(News { reset: true, ..News::default() });
        assert!(!side.learning.is_held(&Uid::new("u")) && !side.learning.unsent.has_base(&Uid::new("u")));
        wanted.forget(&Uid::new("other 0"));
        assert!(side.own("u").is_none());
        while side.own("u").is_none() {
            side.exchange(&mut store);
        }
        assert_eq!(count(&side.own("u").unwrap(), "a"), 2.0);
    }

    #[test]
    fn what_one_exchange_says_and_asks_for_is_bounded_over_all_applications() {
        let mut sides = [Side::new(0, exp4()), Side::new(1, exp4())];
        let mut room = Room { said: 1, asked: 1 };
        for side in &mut sides {
            side.hear(None, [0.0, 1.0]);
        }
        let first = sides[0].learning.collect(&mut room);
        assert_eq!((first.changes.len(), first.load.len()), (1, 1));
        let second = sides[1].learning.collect(&mut room);
        assert_eq!((second.changes.len(), second.load.len(), second.more), (0, 0, true));
        let later = sides[1].learning.collect(&mut Room { said: 1, asked: 1 });
        assert_eq!((later.changes.len(), later.load.len()), (1, 1));
    }

    #[test]
    fn a_change_that_is_too_large_for_one_exchange_is_sent_in_parts() {
        let affine = clipper_rpc::selection::Affine { scale: 1.0, add: vec![1.0; 100], missed: None };
        let models = (0..10).map(|model| (format!("m{model}").parse().unwrap(), affine.clone()));
        let change = Change(models.collect());
        let mut unsent = Unsent::new(1 << 20);
        unsent.add(&None, || Some(Statistics::default()), &change);
        let expected = unsent.state(&None);
        let mut stored = Statistics::default();
        let mut parts = 0;
        while unsent.waits() {
            let sent = unsent.send(&mut 250);
            assert!(sent.len() == 1 && sent[0].1.0.len() <= 3, "{sent:?}");
            assert_eq!(unsent.state(&None), expected);
            stored.apply(&sent[0].1);
            unsent.arrive();
            unsent.forget_stored();
            parts += 1;
        }
        assert_eq!((parts, Some(stored), unsent.states()), (4, expected, 0));
    }
}
