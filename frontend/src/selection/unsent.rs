//! What one application has learned and the store does not have yet.
//!
//! A state is `base`, then what is on its way, then what waits: so that what others learned can take its place before what
//! the store will apply later, and every frontend arrives at what the store has. Invariant: a change is in exactly one of
//! `base`, `on_its_way` and `waiting`, or it is counted as dropped.

use std::collections::{BTreeMap, HashMap};

use clipper_rpc::selection::{Affine, Change, Statistics, Uid};

use super::users::weight;

/// What an entry takes besides its figures, in bytes; an estimate.
const ENTRY_BYTES: usize = 256;

/// The changes of one application's states that are not stored.
pub struct Unsent {
    /// `None` is the shared state.
    states: HashMap<Option<Uid>, UnsentState>,
    /// The states with changes that wait, in the order in which they are sent: no exchange looks at
    /// the others.
    turns: BTreeMap<u64, Option<Uid>>,
    /// The number of turns given to users so far.
    last_turn: u64,
    /// The states of which something was sent, until [`Unsent::forget_stored`].
    sent: Vec<Option<Uid>>,
    bytes: usize,
    most_bytes: usize,
}

/// One state with changes that are not stored.
#[derive(Default)]
struct UnsentState {
    /// What the store has, as far as that is known.
    base: Option<Statistics>,
    on_its_way: Option<Change>,
    waiting: Change,
    /// Its place in [`Unsent::turns`], while something waits.
    turn: Option<u64>,
    /// How many changes make up `waiting`.
    lessons: u64,
    /// What is counted for it.
    bytes: usize,
}

impl Unsent {
    /// Nothing yet, and never much more than `most_bytes`.
    pub fn new(most_bytes: usize) -> Self {
        let (states, turns) = (HashMap::new(), BTreeMap::new());
        Self { states, turns, last_turn: 0, sent: Vec::new(), bytes: 0, most_bytes }
    }

    /// How many states have changes that are not stored.
    pub fn states(&self) -> usize {
        self.states.len()
    }

    /// Whether changes wait to be sent.
    pub fn waits(&self) -> bool {
        !self.turns.is_empty()
    }

    /// A state with what is not stored of it, if there is any; from nothing where the stored part is not known.
    pub fn state(&self, key: &Option<Uid>) -> Option<Statistics> {
        Some(self.states.get(key)?.visible())
    }

    /// Whether the state is among these, with what the store has of it.
    pub fn has_base(&self, key: &Option<Uid>) -> bool {
        self.states.get(key).is_some_and(|state| state.base.is_some())
    }

    /// Takes in a change. `before` is what is stored of the state, if that is known and no change of it is here yet.
    pub fn add(&mut self, key: &Option<Uid>, before: impl FnOnce() -> Option<Statistics>, change: &Change) {
        if !self.states.contains_key(key) {
            let state = UnsentState { base: before(), ..UnsentState::default() };
            self.states.insert(key.clone(), state);
        }
        let state = self.states.get_mut(key).expect("it is there or was inserted");
        state.waiting.then(change);
        state.lessons += 1;
        Self::count(&mut self.bytes, state);
        self.take_turn(key);
    }

    /// Has a state with changes that wait be sent after all others that wait; the shared state
    /// before them.
    fn take_turn(&mut self, key: &Option<Uid>) {
        let Some(state) = self.states.get_mut(key) else { return };
        if state.waiting.is_empty() || state.turn.is_some() {
            return;
        }
        self.last_turn += 1;
        let turn = if key.is_none() { 0 } else { self.last_turn };
        state.turn = Some(turn);
        self.turns.insert(turn, key.clone());
    }

    /// Forgets what the store has of a state, as that has changed.
    pub fn forget_base(&mut self, key: &Option<Uid>) {
        if let Some(state) = self.states.get_mut(key) {
            state.base = None;
            Self::count(&mut self.bytes, state);
        }
    }

    /// Drops what waits of the users of whom least was learned, if there is too much. Returns those
    /// users.
    pub fn shed(&mut self) -> Vec<Option<Uid>> {
        let mut dropped = Vec::new();
        if self.bytes <= self.most_bytes {
            return dropped;
        }
        // A tenth at once, so that the search is not made for each change.
        let target = self.most_bytes - self.most_bytes / 10;
        let users = self.states.iter().filter(|(key, state)| key.is_some() && !state.waiting.is_empty());
        let mut users: Vec<_> = users.map(|(key, state)| (state.lessons, key.clone())).collect();
        users.sort_unstable();
        for (_, key) in users {
            if self.bytes <= target {
                break;
            }
            let state = self.states.get_mut(&key).expect("nobody has left meanwhile");
            (state.waiting, state.lessons) = (Change::default(), 0);
            state.turn.take().map(|turn| self.turns.remove(&turn));
            Self::count(&mut self.bytes, state);
            if state.on_its_way.is_none() {
                self.remove(&key);
            }
            dropped.push(key);
        }
        dropped
    }

    /// Sends what waits, the shared state's first, until `figures` are on their way. Only the first
    /// model of a change may exceed them, so that nothing is too large to be sent; nothing is sent
    /// where none are left.
    pub fn send(&mut self, figures: &mut usize) -> Vec<(Option<Uid>, Change)> {
        let (mut sent, mut stay) = (Vec::new(), Vec::new());
        while *figures > 0
            && let Some((_, key)) = self.turns.pop_first()
        {
            let state = self.states.get_mut(&key).expect("a state is there while it has a turn");
            state.turn = None;
            if let Some(change) = state.send(figures) {
                self.sent.push(key.clone());
                sent.push((key.clone(), change));
            }
            stay.push(key);
        }
        // What is still on its way, or did not fit.
        stay.iter().for_each(|key| self.take_turn(key));
        sent
    }

    /// What others learned comes before all that is here; whether it is of any effect.
    pub fn precede(&mut self, key: &Option<Uid>, change: &Change) -> bool {
        let base = self.states.get_mut(key).and_then(|state| state.base.as_mut());
        base.map(|base| base.apply(change)).is_some()
    }

    /// A state as the store has it, with all that was on its way.
    pub fn rebase(&mut self, key: &Option<Uid>, stored: &Statistics) {
        if let Some(state) = self.states.get_mut(key) {
            (state.on_its_way, state.base) = (None, Some(stored.clone()));
            Self::count(&mut self.bytes, state);
        }
    }

    /// All that was on its way is stored.
    pub fn arrive(&mut self) {
        for key in &self.sent {
            let Some(state) = self.states.get_mut(key) else { continue };
            if let Some(change) = state.on_its_way.take() {
                if let Some(base) = &mut state.base {
                    base.apply(&change);
                }
                Self::count(&mut self.bytes, state);
            }
        }
    }

    /// Drops all that was on its way; of how many states.
    pub fn drop_sent(&mut self) -> usize {
        let mut dropped = 0;
        for state in self.states.values_mut() {
            if state.on_its_way.take().is_some() {
                dropped += 1;
                Self::count(&mut self.bytes, state);
            }
        }
        self.forget_stored();
        dropped
    }

    /// Forgets the states of which everything is stored.
    pub fn forget_stored(&mut self) {
        for key in std::mem::take(&mut self.sent) {
            match self.states.get(&key) {
                Some(state) if state.is_stored() => self.remove(&key),
                Some(state) if state.on_its_way.is_some() => self.sent.push(key),
                _ => {}
            }
        }
    }

    fn remove(&mut self, key: &Option<Uid>) {
        if let Some(state) = self.states.remove(key) {
            self.bytes -= state.bytes;
        }
    }

    /// Counts anew what a state takes.
    fn count(bytes: &mut usize, state: &mut UnsentState) {
        let base = state.base.as_ref().map_or(0, weight);
        let on_its_way = state.on_its_way.as_ref().map_or(0, figures);
        let now = ENTRY_BYTES + base + size_of::<f64>() * (on_its_way + figures(&state.waiting));
        *bytes = *bytes - state.bytes + now;
        state.bytes = now;
    }
}

impl UnsentState {
    fn visible(&self) -> Statistics {
        let mut statistics = self.base.clone().unwrap_or_default();
        self.on_its_way.iter().for_each(|change| statistics.apply(change));
        statistics.apply(&self.waiting);
        statistics
    }

    fn is_stored(&self) -> bool {
        self.on_its_way.is_none() && self.waiting.is_empty()
    }

    fn send(&mut self, figures_left: &mut usize) -> Option<Change> {
        if self.waiting.is_empty() || self.on_its_way.is_some() {
            return None;
        }
        let mut change = Change::default();
        let mut waiting: Vec<_> = std::mem::take(&mut self.waiting.0).into_iter().collect();
        // A change that is sent in parts begins with another model each time.
        let first = self.lessons as usize % waiting.len();
        waiting.rotate_left(first);
        for (model, affine) in waiting {
            if *figures_left == 0 {
                self.waiting.0.insert(model, affine);
                continue;
            }
            *figures_left = figures_left.saturating_sub(figures_of(&affine));
            change.0.insert(model, affine);
        }
        if self.waiting.is_empty() {
            self.lessons = 0;
        }
        self.on_its_way = Some(change.clone());
        Some(change)
    }
}

/// How many figures a change has, each model counting for some more.
fn figures(change: &Change) -> usize {
    change.0.values().map(figures_of).sum()
}

fn figures_of(Affine { add, .. }: &Affine) -> usize {
    8 + add.len()
}
