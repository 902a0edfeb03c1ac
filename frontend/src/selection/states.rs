//! What is learned for one application: read by every query without a lock of its own, changed by its actor only.
//!
//! There is another one whenever the policy or its candidates change, as what is prepared for choosing is prepared for those.
//! Invariant: a query that reads from one `States` reads beliefs of one learner.

use std::collections::{BTreeMap, HashMap};
use std::iter;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use clipper_rpc::selection::{Statistics, Uid};
use clipper_selection::learner::Beliefs;
use tokio::sync::Notify;

use super::decision_log::ApplicationLog;
use super::decisions::Decided;
use super::lessons::Lessons;
use super::users::{UserStates, weight};

/// The most states of one application that may wait to be loaded. Users beyond it are asked for
/// when they come again, and feedback on them teaches the shared state alone.
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
    /// Held for a look-up or a change of a few keys, never for a walk through all of them:
    /// predictions wait for it.
    keys: Mutex<Keys>,
    /// Wakes the exchange.
    exchange: Arc<Notify>,
}

/// Invariant: a key is in `turns` if and only if its progress is [`Progress::Waits`] with that
/// turn.
#[derive(Default)]
struct Keys {
    progress: HashMap<Option<Uid>, Progress>,
    /// The keys that wait, in the order in which they are asked for.
    turns: BTreeMap<u64, Option<Uid>>,
    /// The number of turns given to users so far.
    last_turn: u64,
}

/// How far the loading of a state is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Waits { turn: u64 },
    Asked,
}

impl Versioned {
    /// The memory that it takes, in bytes: its figures, and what is prepared of them. An estimate.
    pub(super) fn size(&self) -> usize {
        size_of::<Self>() + 2 * weight(&self.statistics)
    }
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
            // If there is no room it is asked for when the user comes again.
            let _ = self.wanted.want(Some(uid.clone()));
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

    /// Asks for a state, unless it is on its way already. Returns false if too many states wait, so
    /// that it is not asked for; the shared state always is.
    pub fn want(&self, key: Option<Uid>) -> bool {
        let mut keys = self.lock();
        if keys.progress.contains_key(&key) {
            return true;
        }
        let room = keys.has_room_for(&key);
        if room {
            keys.wait(key);
            drop(keys);
            self.exchange.notify_one();
        }
        room
    }

    /// Asks for states whether they are on their way or not. Returns those for which there is no
    /// room.
    pub(super) fn want_anew(&self, anew: impl IntoIterator<Item = Option<Uid>>) -> Vec<Option<Uid>> {
        let mut refused = Vec::new();
        for key in anew {
            let mut keys = self.lock();
            if keys.progress.contains_key(&key) || keys.has_room_for(&key) {
                keys.wait(key);
            } else {
                refused.push(key);
            }
        }
        self.exchange.notify_one();
        refused
    }

    /// Takes back the wish for a state. Returns whether it was to be loaded.
    pub(super) fn forget(&self, key: &Option<Uid>) -> bool {
        self.lock().remove(key)
    }

    /// Whether a state is yet to come, so that what is in memory of it is not all that is known.
    pub(super) fn awaits(&self, key: &Option<Uid>) -> bool {
        self.lock().progress.contains_key(key)
    }

    /// Takes at most `most` states to ask for now, the shared one first.
    pub(super) fn ask(&self, most: usize) -> Vec<Option<Uid>> {
        let mut keys = self.lock();
        let next = || {
            let (_, key) = keys.turns.pop_first()?;
            keys.progress.insert(key.clone(), Progress::Asked);
            Some(key)
        };
        iter::from_fn(next).take(most).collect()
    }

    /// Ends the loading of states that were asked for. One that was wanted anew meanwhile still is.
    pub(super) fn settle<'a>(&self, asked: impl IntoIterator<Item = &'a Option<Uid>>) {
        let mut keys = self.lock();
        for key in asked {
            if keys.progress.get(key) == Some(&Progress::Asked) {
                keys.progress.remove(key);
            }
        }
    }

    /// Whether some have not been asked for.
    pub(super) fn more(&self) -> bool {
        !self.lock().turns.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, Keys> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Keys {
    fn has_room_for(&self, key: &Option<Uid>) -> bool {
        key.is_none() || self.progress.len() < MOST_WANTED
    }

    /// Has a key wait for its turn. Users take turns; the shared state comes before all of them.
    fn wait(&mut self, key: Option<Uid>) {
        if matches!(self.progress.get(&key), Some(Progress::Waits { .. })) {
            return;
        }
        self.last_turn += 1;
        let turn = if key.is_none() { 0 } else { self.last_turn };
        self.turns.insert(turn, key.clone());
        self.progress.insert(key, Progress::Waits { turn });
    }

    fn remove(&mut self, key: &Option<Uid>) -> bool {
        let removed = self.progress.remove(key);
        if let Some(Progress::Waits { turn }) = removed {
            self.turns.remove(&turn);
        }
        removed.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(number: usize) -> Option<Uid> {
        Uid::new(format!("user {number}"))
    }

    #[test]
    fn states_are_asked_for_in_the_order_in_which_they_were_wanted_and_the_shared_one_first() {
        let wanted = Wanted::new(Arc::default());
        for key in [user(2), user(1), None, user(2), user(3)] {
            assert!(wanted.want(key));
        }
        assert!(wanted.forget(&user(1)) && !wanted.forget(&user(1)));
        assert_eq!(wanted.ask(2), [None, user(2)]);
        assert!(wanted.want(user(2)) && wanted.more());
        assert_eq!(wanted.ask(9), [user(3)]);
        assert!(wanted.want_anew([user(3)]).is_empty());
        wanted.settle(&[None, user(2), user(3)]);
        assert!(!wanted.awaits(&None) && !wanted.awaits(&user(2)));
        assert_eq!(wanted.ask(9), [user(3)], "it was wanted anew after it was asked for");
        wanted.settle(&[user(3)]);
        assert!(!wanted.more() && !wanted.awaits(&user(3)));
    }

    #[test]
    fn no_more_users_wait_than_there_is_room_for_however_they_are_wanted() {
        let wanted = Wanted::new(Arc::default());
        assert!((0..MOST_WANTED).all(|number| wanted.want(user(number))));
        assert!(!wanted.want(user(MOST_WANTED)));
        assert_eq!(wanted.want_anew([user(0), user(MOST_WANTED), None]), [user(MOST_WANTED)]);
        assert!(wanted.awaits(&None), "there is always room for the shared state");
        assert!(wanted.forget(&user(1)) && wanted.forget(&user(2)) && wanted.want(user(MOST_WANTED)));
        let asked = wanted.ask(usize::MAX);
        assert_eq!((asked.len(), &asked[0]), (MOST_WANTED, &None));
    }
}
