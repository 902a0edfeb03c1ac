//! One exchange of a frontend, from request to answer.
//!
//! Called by the states' thread. Invariant: the position in an answer is where the sequence of changes stood right after
//! the request's own, so that a frontend which applies what it hears to what it knew, and then its own, has what is
//! stored. An exchange that is sent again is therefore answered as it was the first time, or (when that is not known any
//! more) with `reset`.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use clipper_rpc::selection::{Change, ExchangeRequest, ExchangeResponse, StateChange, StateKey, Statistics};

use super::StateError;
use super::peers::{Explained, Peers};
use super::ring::Ring;
use super::store::{Runs, StateStore};
use crate::catalog::Catalog;

/// Everything that exchanges need.
pub(super) struct Exchanges {
    store: StateStore,
    runs: Runs,
    ring: Ring,
    peers: Peers,
    /// Whether something was written since the last sync.
    written: bool,
}

impl Exchanges {
    /// Begins a run of management.
    pub(super) fn new(store: StateStore, runs: Runs) -> Self {
        Self { store, runs, ring: Ring::new(), peers: Peers::default(), written: false }
    }

    /// Makes an exchange, whose changes are not yet durable.
    pub(super) fn exchange(
        &mut self,
        request: &ExchangeRequest,
        catalog: &Catalog,
        now: Instant,
    ) -> Result<ExchangeResponse, StateError> {
        let &ExchangeRequest { frontend, number, .. } = request;
        let stored = self.runs.last(frontend);
        if let Some(last) = stored.max(self.peers.last(frontend)).filter(|last| number < *last) {
            return Err(StateError::Over { number, last });
        }
        self.peers.hear(request, now);
        if let Some(response) = self.peers.answered(frontend, number) {
            return Ok(response.clone());
        }
        let applied = stored == Some(number);
        if !applied {
            self.apply(request, catalog)?;
        }
        self.peers.forward(&request.forward);
        let mut loaded = Vec::with_capacity(request.load.len());
        let mut keys = HashSet::with_capacity(request.load.len());
        for key in request.load.iter().filter(|key| keys.insert(*key)) {
            loaded.push((key.clone(), self.store.read(key)?.unwrap_or_default()));
        }
        // Changes of others may have come between this exchange's and now: only what is stored has them in order.
        let heard = if applied { None } else { self.ring.since(request.known, frontend, &keys) };
        let mut response = ExchangeResponse {
            position: self.ring.position(),
            reset: heard.is_none(),
            changes: heard.unwrap_or_default(),
            loaded,
            feedback: Vec::new(),
            explain: Vec::new(),
        };
        self.peers.answer(frontend, number, &mut response);
        Ok(response)
    }

    /// Stores the changes of a request, and tells others of them.
    fn apply(&mut self, request: &ExchangeRequest, catalog: &Catalog) -> Result<(), StateError> {
        let mut states: HashMap<StateKey, Statistics> = HashMap::with_capacity(request.changes.len());
        let changes: Vec<&StateChange> = request
            .changes
            .iter()
            .filter(|it| is_learned(&it.key, catalog) && is_sound(&it.change))
            .collect();
        for StateChange { key, change } in &changes {
            let state = match states.entry(key.clone()) {
                std::collections::hash_map::Entry::Occupied(state) => state.into_mut(),
                std::collections::hash_map::Entry::Vacant(state) => {
                    state.insert(self.store.read(key)?.unwrap_or_default())
                }
            };
            state.apply(change);
        }
        if changes.is_empty() {
            // There is nothing that could be applied twice, and so nothing to remember.
            return Ok(());
        }
        self.store.write(&mut self.runs, (request.frontend, request.number), &states)?;
        self.written = true;
        for change in changes {
            self.ring.push(request.frontend, change.clone());
        }
        Ok(())
    }

    /// Makes what was written durable, if anything was.
    pub(super) fn sync(&mut self) -> Result<(), StateError> {
        if std::mem::take(&mut self.written) { self.store.sync() } else { Ok(()) }
    }

    /// What is learned; `None` where nothing is.
    pub(super) fn read(&self, keys: &[StateKey]) -> Result<Vec<Option<Statistics>>, StateError> {
        keys.iter().map(|key| self.store.read(key)).collect()
    }

    /// Has the frontend that answered a query asked how.
    pub(super) fn explain(&mut self, query_id: u64, answer: Explained, now: Instant) {
        self.peers.explain(query_id, answer, now);
    }

    /// Removes some of the states of what is not in the catalog any more; whether none are left.
    pub(super) fn sweep(&mut self, catalog: &Catalog) -> Result<bool, StateError> {
        let learned = self.store.learned()?;
        let gone = learned.iter().find(|(application, since)| {
            catalog.applications.get(application).is_none_or(|known| known.selection.since != *since)
        });
        let Some((application, since)) = gone else { return Ok(true) };
        self.written = true;
        if self.store.sweep(application, *since)? {
            tracing::info!(%application, since, "what was learned for it is removed");
        }
        Ok(false)
    }
}

/// Whether a state is that of an application as it is.
fn is_learned(key: &StateKey, catalog: &Catalog) -> bool {
    let application = catalog.applications.get(&key.application);
    application.is_some_and(|application| application.selection.since == key.since)
}

/// Whether a change leaves numbers where there were numbers. No policy makes another; one that came all the same would
/// spoil a state for good.
fn is_sound(change: &Change) -> bool {
    let sound = change.0.values().all(|it| it.scale.is_finite() && it.add.iter().all(|add| add.is_finite()));
    if !sound {
        tracing::error!(?change, "a change that is not a number is ignored");
    }
    sound
}
