//! One exchange of a frontend, from request to answer.
//!
//! Called by the states' thread. Invariant: the position in an answer is where the sequence of changes stood right after
//! the request's own, so that a frontend which applies what it hears to what it knew, and then its own, has what is
//! stored. An exchange that is sent again is therefore answered as it was the first time, or (when that is not known any
//! more) with `reset`.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use clipper_rpc::selection::{ExchangeRequest, ExchangeResponse, StateKey, Statistics};

use super::StateError;
use super::admission::Admission;
use super::peers::{Explained, Peers, size_of_state};
use super::ring::Ring;
use super::store::{Runs, StateStore};
use crate::catalog::Catalog;

/// The most states that one exchange may ask for.
const MAX_LOADED: usize = 100_000;
/// The most memory that the states in one answer take. The frontend asks again for those that are left out.
const LOADED_BYTES: usize = 32 << 20;

/// Everything that exchanges need.
pub(super) struct Exchanges {
    store: StateStore,
    runs: Runs,
    ring: Ring,
    peers: Peers,
    /// The most users with a state on disk. The changes of any other go to the shared state alone.
    max_users: u64,
    counts: Arc<Counts>,
    /// Whether something was written since the last sync.
    written: bool,
}

/// Numbers for the metrics.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Users with a state on disk.
    pub(super) users: AtomicU64,
    /// Changes that were left out, because there are too many users or they were not admissible.
    pub(super) left_out: AtomicU64,
}

impl Exchanges {
    /// Begins a run of management.
    pub(super) fn new(store: StateStore, runs: Runs, max_users: u64, counts: Arc<Counts>) -> Self {
        counts.users.store(runs.users(), Ordering::Relaxed);
        let (ring, peers) = (Ring::new(), Peers::default());
        Self { store, runs, ring, peers, max_users, counts, written: false }
    }

    /// Writes a copy of everything that is learned.
    pub(super) fn copy(&self, out: &mut impl std::io::Write) -> Result<(), StateError> {
        self.store.copy(out)
    }

    /// Makes an exchange, whose changes are not yet durable.
    pub(super) fn exchange(
        &mut self,
        request: &ExchangeRequest,
        catalog: &Catalog,
        now: Instant,
    ) -> Result<ExchangeResponse, StateError> {
        let &ExchangeRequest { frontend, number, .. } = request;
        if request.load.len() > MAX_LOADED {
            return Err(StateError::TooManyStates { found: request.load.len(), most: MAX_LOADED });
        }
        let stored = self.runs.last(frontend);
        if let Some(last) = stored.max(self.peers.last(frontend)).filter(|last| number < *last) {
            return Err(StateError::Over { number, last });
        }
        self.peers.hear(request, now)?;
        if let Some(response) = self.peers.answered(frontend, number) {
            return Ok(response.clone());
        }
        let applied = stored == Some(number);
        if !applied {
            self.apply(request, catalog)?;
        }
        self.peers.forward(&request.forward);
        let admission = Admission::new(catalog);
        let mut loaded = Vec::new();
        let mut keys = HashSet::new();
        let mut room = LOADED_BYTES;
        for key in &request.load {
            if room == 0 {
                break;
            }
            if keys.insert(key) {
                let stored = if admission.is_learned(key) { self.store.read(key)? } else { None };
                let state = stored.unwrap_or_default();
                room = room.saturating_sub(size_of_state(key, &state));
                loaded.push((key.clone(), state));
            }
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
        let mut admission = Admission::new(catalog);
        let mut states: HashMap<StateKey, Statistics> = HashMap::new();
        let mut changes = Vec::new();
        let mut room = self.max_users.saturating_sub(self.runs.users());
        for sent in request.changes.iter().filter(|sent| admission.is_learned(&sent.key)).collect::<Vec<_>>()
        {
            let stored = match states.remove(&sent.key) {
                Some(state) => Some(state),
                None => self.store.read(&sent.key)?,
            };
            let is_new_user = stored.is_none() && sent.key.uid.is_some();
            if is_new_user && room == 0 {
                admission.left_out += 1;
                continue;
            }
            let mut state = stored.unwrap_or_default();
            let admitted = admission.admit(sent, &state);
            if let Some(admitted) = admitted {
                state.apply(&admitted.change);
                admission.prune(&sent.key, &mut state);
                room -= u64::from(is_new_user);
                changes.push(admitted);
            } else if is_new_user {
                continue;
            }
            states.insert(sent.key.clone(), state);
        }
        self.count_left_out(admission.left_out, request);
        if changes.is_empty() {
            // There is nothing that could be applied twice, and so nothing to remember.
            return Ok(());
        }
        self.store.write(&mut self.runs, (request.frontend, request.number), &states)?;
        self.counts.users.store(self.runs.users(), Ordering::Relaxed);
        self.written = true;
        for change in changes {
            self.ring.push(request.frontend, change);
        }
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn counted(&self) -> (u64, u64) {
        (self.counts.users.load(Ordering::Relaxed), self.counts.left_out.load(Ordering::Relaxed))
    }

    fn count_left_out(&self, left_out: usize, request: &ExchangeRequest) {
        if left_out > 0 && self.counts.left_out.fetch_add(left_out as u64, Ordering::Relaxed) == 0 {
            tracing::warn!(
                frontend = %request.frontend,
                left_out,
                users = self.runs.users(),
                max_users = self.max_users,
                "some changes are not stored; the metrics count all that follow"
            );
        }
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
        let is_swept = self.store.sweep(&mut self.runs, application, *since)?;
        self.counts.users.store(self.runs.users(), Ordering::Relaxed);
        if is_swept {
            tracing::info!(%application, since, "what was learned for it is removed");
        }
        Ok(false)
    }
}
