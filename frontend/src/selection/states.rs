//! What is learned for one application: read by every query without a lock of its own, changed by its actor only.
//!
//! There is another one whenever the policy or its candidates change, as what is prepared for choosing is prepared for those.
//! Invariant: a query that reads from one `States` reads beliefs of one learner.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use clipper_rpc::selection::{Statistics, Uid};
use clipper_selection::learner::Beliefs;
use tokio::sync::Notify;

use super::decision_log::ApplicationLog;
use super::decisions::Decided;
use super::lessons::Lessons;
use super::users::UserStates;

/// How many users may wait to be loaded. Others are asked for when they come again.
const MOST_WANTED: usize = 100_000;

/// The states of one application, since one revision.
pub struct States {
    /// What its users are known by among all users.
    pub(super) number: u64,
    pub(super) shared: ArcSwap<Versioned>,
    pub(super) users: Arc<UserStates>,
    pub(super) wanted: Arc<Wanted>,
    lessons: Arc<Lessons>,
    log: Option<Arc<ApplicationLog>>,
    /// Whether users have states of their own.
    pub(super) personal: bool,
}

/// A state after a number of changes of the application's states.
pub struct Versioned {
    /// How many changes there were.
    pub version: u64,
    /// What is learned,
    pub statistics: Statistics,
    /// prepared for choosing.
    pub beliefs: Beliefs,
}

/// The states of an application that are to be loaded from the store.
pub struct Wanted {
    /// Held for a look-up; to collect or reload all, for a walk through it.
    keys: Mutex<HashMap<Option<Uid>, Progress>>,
    /// Wakes the exchange.
    exchange: Arc<Notify>,
}

/// How far the loading of a state is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Waits,
    Asked,
}

impl States {
    pub(super) fn new(
        shared: Arc<Versioned>,
        users: Arc<UserStates>,
        wanted: Arc<Wanted>,
        lessons: Arc<Lessons>,
        log: Option<Arc<ApplicationLog>>,
        personal: bool,
    ) -> Self {
        let (number, shared) = (users.number(), ArcSwap::new(shared));
        Self { number, shared, users, wanted, lessons, log, personal }
    }

    /// The shared state.
    pub fn shared(&self) -> Arc<Versioned> {
        self.shared.load_full()
    }

    /// A user's state. None if it is not in memory: then it is asked for, and whoever comes in a moment finds it. None, too, if
    /// the policy has no use for it.
    pub fn own(&self, uid: &Uid) -> Option<Arc<Versioned>> {
        if !self.personal {
            return None;
        }
        let state = self.users.get(self.number, uid);
        if state.is_none() {
            self.wanted.want(Some(uid.clone()));
        }
        state
    }

    /// Where feedback waits to be learned from.
    pub fn lessons(&self) -> &Lessons {
        &self.lessons
    }

    /// Logs a decision and the states that it was made by, if the application's are logged. Never waits.
    pub fn log(&self, decided: &Arc<Decided>, shared: &Arc<Versioned>, own: Option<&Arc<Versioned>>) {
        if let Some(log) = &self.log {
            log.decided(Arc::clone(decided), Arc::clone(shared), own.cloned());
        }
    }
}

impl Wanted {
    /// Nothing yet; whatever will be wanted wakes the exchange.
    pub fn new(exchange: Arc<Notify>) -> Self {
        Self { keys: Mutex::default(), exchange }
    }

    /// Asks for a state, unless it is on its way or too many are.
    pub fn want(&self, key: Option<Uid>) {
        let mut keys = self.lock();
        if keys.len() >= MOST_WANTED || keys.contains_key(&key) {
            return;
        }
        keys.insert(key, Progress::Waits);
        drop(keys);
        self.exchange.notify_one();
    }

    /// Asks for a state, unless it is on its way, however many are.
    pub(super) fn require(&self, key: Option<Uid>) {
        self.lock().entry(key).or_insert(Progress::Waits);
        self.exchange.notify_one();
    }

    /// Asks for states however many there are, and whether they are on their way or not.
    pub(super) fn want_anew(&self, anew: impl IntoIterator<Item = Option<Uid>>) {
        self.lock().extend(anew.into_iter().map(|key| (key, Progress::Waits)));
        self.exchange.notify_one();
    }

    /// Whether a state is yet to come, so that what is in memory of it is not all that is known.
    pub(super) fn awaits(&self, key: &Option<Uid>) -> bool {
        self.lock().contains_key(key)
    }

    /// At most so many states to ask for now, the shared one first.
    pub(super) fn ask(&self, most: usize) -> Vec<Option<Uid>> {
        let mut keys = self.lock();
        let mut asked = Vec::new();
        if let Some(progress @ Progress::Waits) = keys.get_mut(&None) {
            *progress = Progress::Asked;
            asked.push(None);
        }
        let waiting = keys.iter_mut().filter(|(_, progress)| **progress == Progress::Waits);
        for (key, progress) in waiting.take(most.saturating_sub(asked.len())) {
            *progress = Progress::Asked;
            asked.push(key.clone());
        }
        asked
    }

    /// These have been asked for, and come or not: whoever is wanted again meanwhile still is.
    pub(super) fn settle<'a>(&self, asked: impl IntoIterator<Item = &'a Option<Uid>>) {
        let mut keys = self.lock();
        for key in asked {
            if keys.get(key) == Some(&Progress::Asked) {
                keys.remove(key);
            }
        }
    }

    /// Whether some have not been asked for.
    pub(super) fn more(&self) -> bool {
        self.lock().values().any(|progress| *progress == Progress::Waits)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Option<Uid>, Progress>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
