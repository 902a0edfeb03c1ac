//! The states as frontends meet them.

use std::collections::{BTreeMap, BTreeSet};

use clipper_rpc::catalog::Application;
use clipper_rpc::selection::{
    Affine, Change, ExchangePosition, ForwardedFeedback, Policy, Selection, StateChange, Uid, Verdict,
};
use clipper_server::Essentials;
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::applications::tests::app;
use crate::catalog::{Catalog, Edit};

/// The most users in these tests.
const MAX_USERS: u64 = 5000;
/// The revision since which the application of these tests learns.
const SINCE: u64 = 7;

pub(super) fn key(user: Option<&str>) -> StateKey {
    let uid = user.map(|user| Uid::new(user).unwrap());
    StateKey { application: "a".parse().unwrap(), since: SINCE, uid }
}

pub(super) fn statistics(figures: &[f64]) -> Statistics {
    Statistics(BTreeMap::from([("m".parse().unwrap(), figures.to_vec().into())]))
}

pub(super) fn change(key: StateKey, scale: f64, add: &[f64]) -> StateChange {
    let affine = Affine { scale, add: add.to_vec(), missed: None };
    StateChange { key, change: Change(BTreeMap::from([("m".parse().unwrap(), affine)])) }
}

pub(super) fn feedback(query_id: u64) -> ForwardedFeedback {
    ForwardedFeedback { application: "a".parse().unwrap(), query_id, verdict: Verdict::Reward(1.0) }
}

/// The exchange of that number of a frontend, which is of that number, too.
pub(super) fn request(frontend: u64, number: u64) -> ExchangeRequest {
    ExchangeRequest {
        frontend: Uuid::from_u128(frontend.into()),
        frontend_number: frontend,
        number,
        known: None,
        changes: Vec::new(),
        load: Vec::new(),
        forward: Vec::new(),
        explanations: Vec::new(),
    }
}

fn application(name: &str, since: u64) -> Application {
    let selection = Selection { policy: Policy::Exp3Ix {}, since, ..Selection::default() };
    Application { selection, ..app(name, &["m", "count"]) }
}

fn catalog(applications: Vec<Application>) -> Catalog {
    let changes = applications
        .into_iter()
        .map(|application| clipper_rpc::catalog::Change::PutApplication { application });
    let mut catalog = Catalog::default();
    catalog.apply(&Edit { changes: changes.collect(), ..Edit::default() });
    catalog
}

/// Management's side, without its thread.
struct Fixture {
    directory: tempfile::TempDir,
    exchanges: Option<Exchanges>,
    catalog: Catalog,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut fixture =
            Self { directory, exchanges: None, catalog: catalog(vec![application("a", SINCE)]) };
        fixture.restart();
        fixture
    }

    fn restart(&mut self) {
        if let Some(mut before) = self.exchanges.take() {
            before.sync().unwrap();
        }
        let (store, runs) = StateStore::open(self.directory.path(), Uuid::nil()).unwrap();
        self.exchanges = Some(Exchanges::new(store, runs, MAX_USERS, Arc::default()));
    }

    fn exchange(&mut self, request: &ExchangeRequest) -> ExchangeResponse {
        self.try_exchange(request).unwrap()
    }

    fn try_exchange(&mut self, request: &ExchangeRequest) -> Result<ExchangeResponse, StateError> {
        self.exchanges.as_mut().unwrap().exchange(request, &self.catalog, Instant::now())
    }

    fn stored(&self, key: &StateKey) -> Option<Statistics> {
        self.exchanges.as_ref().unwrap().read(std::slice::from_ref(key)).unwrap().remove(0)
    }
}

#[test]
fn nothing_is_told_of_what_is_learned_before_it_is_on_disk() {
    let mut fixture = Fixture::new();
    let exchanges = fixture.exchanges.take().unwrap();
    let feed = Arc::new(Feed::new(Uuid::nil(), fixture.catalog.clone()));
    let mut thread = StatesThread { exchanges, feed, swept: None, failed: None };
    let learned = ExchangeRequest { changes: vec![change(key(None), 1.0, &[1.0])], ..request(1, 1) };
    for (synced, told) in [
        (Ok(()), Ok(vec![Some(statistics(&[1.0]))])),
        (
            Err(StateError::Failed("the disk is full".into())),
            Err(StateError::Failed("the disk is full".into())),
        ),
    ] {
        let mut pending = Pending::default();
        let (answer, mut exchanged) = oneshot::channel();
        thread.take(Order::Exchange(Box::new(learned.clone()), answer), &mut pending);
        let (answer, mut read) = oneshot::channel();
        thread.take(Order::Read(vec![key(None)], answer), &mut pending);
        assert!(exchanged.try_recv().is_err() && read.try_recv().is_err(), "neither is on disk yet");
        pending.answer(&synced);
        assert_eq!(exchanged.try_recv().unwrap().map(drop), synced);
        assert_eq!(read.try_recv().unwrap(), told);
    }
}

#[test]
fn a_frontend_hears_what_another_learned_and_nothing_of_its_own() {
    let mut fixture = Fixture::new();
    let known = Some(fixture.exchange(&request(1, 1)).position);
    let learned = change(key(None), 1.0, &[1.0, 0.5]);
    fixture.exchange(&ExchangeRequest { changes: vec![learned.clone()], ..request(2, 1) });
    let own = change(key(Some("u")), 1.0, &[1.0]);
    let second = ExchangeRequest { known, changes: vec![own], ..request(1, 2) };
    let response = fixture.exchange(&second);
    assert_eq!((response.reset, response.changes), (false, vec![learned]));
    assert_eq!(response.position.sequence, 2);
    let third = ExchangeRequest { known: Some(response.position), ..request(1, 3) };
    assert_eq!(fixture.exchange(&third).changes, []);
    assert_eq!(fixture.stored(&key(None)), Some(statistics(&[1.0, 0.5])));
}

#[test]
fn what_is_loaded_has_the_changes_of_the_request_and_is_not_heard_as_changes_too() {
    let mut fixture = Fixture::new();
    let known = Some(fixture.exchange(&request(1, 1)).position);
    fixture.exchange(&ExchangeRequest {
        changes: vec![change(key(None), 1.0, &[8.0, 0.0, 8.0])],
        ..request(2, 1)
    });
    let load = vec![key(None), key(Some("nobody")), key(None)];
    let changes = vec![change(key(None), 0.5, &[1.0, 0.0, 1.0])];
    let response = fixture.exchange(&ExchangeRequest { known, changes, load, ..request(1, 2) });
    assert_eq!(response.changes, []);
    let nothing = (key(Some("nobody")), Statistics::default());
    // Counts are summed whatever a policy forgets.
    assert_eq!(response.loaded, [(key(None), statistics(&[9.0, 0.0, 5.0])), nothing]);
}

#[test]
fn an_exchange_that_is_sent_again_is_answered_as_before_and_not_applied_again() {
    let mut fixture = Fixture::new();
    fixture.exchange(&request(2, 1));
    let changes = vec![change(key(None), 1.0, &[1.0])];
    let forward = vec![feedback(2 << 40)];
    let sent = ExchangeRequest { changes, load: vec![key(None)], forward, ..request(1, 1) };
    let first = fixture.exchange(&sent);
    let other = ExchangeRequest {
        changes: vec![change(key(None), 1.0, &[2.0])],
        forward: vec![feedback(1 << 40)],
        ..request(2, 2)
    };
    assert_eq!(fixture.exchange(&other).feedback, [feedback(2 << 40)]);
    assert_eq!(fixture.exchange(&sent), first);
    assert_eq!(fixture.stored(&key(None)), Some(statistics(&[3.0])));

    // Feedback is handed over again as well, in case that it was in the answer which was lost.
    let next = ExchangeRequest { known: Some(first.position), ..request(1, 2) };
    assert_eq!(fixture.exchange(&next).feedback.len(), 1);
    assert_eq!(fixture.exchange(&next).feedback.len(), 1);
    let over = fixture.try_exchange(&sent).unwrap_err();
    assert_eq!(over, StateError::Over { number: 1, last: 2 });
}

#[test]
fn after_a_restart_a_frontend_loads_anew_and_what_it_sends_again_is_not_applied_again() {
    let mut fixture = Fixture::new();
    let changes = vec![change(key(None), 1.0, &[1.0])];
    let sent = ExchangeRequest { changes, load: vec![key(None)], ..request(1, 1) };
    let before = fixture.exchange(&sent);
    fixture.restart();
    let again = fixture.exchange(&sent);
    assert!(again.reset);
    assert_ne!(again.position.run, before.position.run);
    assert_eq!(again.loaded, [(key(None), statistics(&[1.0]))]);
}

#[test]
fn what_is_no_state_of_an_application_as_it_is_is_ignored() {
    let mut fixture = Fixture::new();
    let changes = vec![
        change(StateKey { since: SINCE - 1, ..key(None) }, 1.0, &[1.0]),
        change(StateKey { application: "b".parse().unwrap(), ..key(None) }, 1.0, &[1.0]),
        change(key(None), f64::NAN, &[1.0]),
        change(key(Some("u")), 1.0, &[f64::INFINITY]),
    ];
    let response = fixture.exchange(&ExchangeRequest { changes: changes.clone(), ..request(1, 1) });
    assert_eq!(response.position.sequence, 0);
    assert!(changes.iter().all(|it| fixture.stored(&it.key).is_none()));
}

#[test]
fn a_new_user_beyond_the_bound_is_not_stored_and_those_that_are_known_still_learn() {
    let mut fixture = Fixture::new();
    let learned = |users: std::ops::Range<u64>| -> Vec<_> {
        users.map(|user| change(key(Some(&format!("u{user}"))), 1.0, &[1.0])).collect()
    };
    let mut changes = learned(0..MAX_USERS + 10);
    changes.push(change(key(None), 1.0, &[2.0]));
    fixture.exchange(&ExchangeRequest { changes, ..request(1, 1) });
    let counted = |fixture: &Fixture| fixture.exchanges.as_ref().unwrap().counted();
    assert_eq!(counted(&fixture), (MAX_USERS, 10));
    assert_eq!(fixture.stored(&key(Some("u5003"))), None);
    fixture.restart();
    let changes = learned(MAX_USERS - 1..MAX_USERS + 1);
    let known = fixture.exchange(&ExchangeRequest { changes, ..request(1, 2) });
    assert_eq!(known.position.sequence, 1);
    assert_eq!(counted(&fixture), (MAX_USERS, 1));
    assert_eq!(fixture.stored(&key(Some("u4999"))), Some(statistics(&[2.0])));
    assert_eq!(fixture.stored(&key(None)), Some(statistics(&[2.0])));
}

#[test]
fn an_exchange_asks_for_a_bounded_number_of_states() {
    let mut fixture = Fixture::new();
    let load = vec![key(None); 100_001];
    let refused = fixture.try_exchange(&ExchangeRequest { load, ..request(1, 1) }).unwrap_err();
    assert_eq!(refused.to_string(), "An exchange asks for 100001 states; at most 100000 are allowed");
}

/// What a frontend holds and does, as `rpc/src/selection.rs` has it.
struct Frontend {
    id: u64,
    number: u64,
    known: Option<ExchangePosition>,
    /// As of `known`.
    states: BTreeMap<StateKey, Statistics>,
    /// Learned since the exchange that is in flight.
    pending: BTreeMap<StateKey, Change>,
    load: BTreeSet<StateKey>,
    in_flight: Option<ExchangeRequest>,
}

impl Frontend {
    fn new(id: u64) -> Self {
        Self {
            id,
            number: 0,
            known: None,
            states: BTreeMap::new(),
            pending: BTreeMap::new(),
            load: BTreeSet::new(),
            in_flight: None,
        }
    }

    fn learn(&mut self, key: &StateKey, change: &Change) {
        self.pending.entry(key.clone()).or_default().then(change);
        if !self.states.contains_key(key) {
            self.load.insert(key.clone());
        }
    }

    fn send(&mut self) -> ExchangeRequest {
        let Self { id, number, known, pending, load, in_flight, .. } = self;
        let sent = in_flight.get_or_insert_with(|| {
            *number += 1;
            let changes = std::mem::take(pending).into_iter();
            ExchangeRequest {
                known: *known,
                changes: changes.map(|(key, change)| StateChange { key, change }).collect(),
                load: std::mem::take(load).into_iter().collect(),
                ..request(*id, *number)
            }
        });
        sent.clone()
    }

    fn hear(&mut self, response: ExchangeResponse) {
        let sent = self.in_flight.take().unwrap();
        if response.reset {
            self.load.extend(std::mem::take(&mut self.states).into_keys());
        }
        for StateChange { key, change } in response.changes.iter().chain(&sent.changes) {
            if let Some(state) = self.states.get_mut(key) {
                state.apply(change);
            }
        }
        for (key, state) in response.loaded {
            self.load.remove(&key);
            self.states.insert(key, state);
        }
        self.known = Some(response.position);
    }
}

#[derive(Debug, Clone)]
enum Event {
    Learn { frontend: usize, user: Option<String>, scale: f64, add: Vec<f64> },
    Exchange { frontend: usize, arrives: bool, is_answered: bool },
    Restart,
}

fn event() -> impl Strategy<Value = Event> {
    let scale = prop_oneof![Just(1.0), Just(0.9)];
    let user = prop::option::of("[ab]");
    let learn = (0..2usize, user, scale, prop::collection::vec(-9.0..9.0, 0..5))
        .prop_map(|(frontend, user, scale, add)| Event::Learn { frontend, user, scale, add });
    let exchange = (0..2usize, prop::bool::weighted(0.8), prop::bool::weighted(0.7))
        .prop_map(|(frontend, arrives, is_answered)| Event::Exchange { frontend, arrives, is_answered });
    prop_oneof![8 => learn, 8 => exchange, 1 => Just(Event::Restart)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn frontends_converge_and_no_change_is_lost_or_doubled_whatever_is_lost_or_restarted(
        events in prop::collection::vec(event(), 1..60),
    ) {
        let mut fixture = Fixture::new();
        let mut frontends = [Frontend::new(1), Frontend::new(2)];
        let mut learned: BTreeMap<StateKey, f64> = BTreeMap::new();
        for event in events {
            match event {
                Event::Learn { frontend, user, scale, add } => {
                    let StateChange { key, mut change } = change(key(user.as_deref()), scale, &add);
                    // Counts how often something was learned, in whatever order it is applied.
                    change.0.insert("count".parse().unwrap(), Affine { scale: 1.0, add: vec![1.0], missed: None });
                    *learned.entry(key.clone()).or_default() += 1.0;
                    frontends[frontend].learn(&key, &change);
                }
                Event::Exchange { frontend, arrives, is_answered } => {
                    let sent = frontends[frontend].send();
                    if arrives {
                        let response = fixture.exchange(&sent);
                        if is_answered {
                            frontends[frontend].hear(response);
                        }
                    }
                }
                Event::Restart => fixture.restart(),
            }
        }
        // Both hear all, and load what that may have had them drop.
        for _ in 0..4 {
            for frontend in &mut frontends {
                let sent = frontend.send();
                frontend.hear(fixture.exchange(&sent));
            }
        }
        for (key, count) in learned {
            let stored = fixture.stored(&key).unwrap();
            prop_assert_eq!(stored.of(&"count".parse().unwrap()), [count]);
            for frontend in &frontends {
                if let Some(state) = frontend.states.get(&key) {
                    prop_assert_eq!(state, &stored);
                }
            }
        }
    }
}

async fn opened(directory: &Path, applications: Vec<Application>) -> (SelectionStates, Arc<Feed>) {
    let feed = Arc::new(Feed::new(Uuid::nil(), catalog(applications)));
    let part = Essentials::default().part("the states");
    (SelectionStates::open(directory.into(), feed.clone(), MAX_USERS, part).await.unwrap(), feed)
}

#[tokio::test]
async fn what_was_stored_is_there_when_it_is_opened_again() {
    let directory = tempfile::tempdir().unwrap();
    let (states, _) = opened(directory.path(), vec![application("a", SINCE)]).await;
    let exchanges = (1..=20).map(|frontend| {
        let changes = vec![change(key(None), 1.0, &[1.0])];
        states.exchange(ExchangeRequest { changes, ..request(frontend, 1) })
    });
    for answered in futures_util::future::join_all(exchanges).await {
        answered.unwrap();
    }
    states.close().await.unwrap();
    assert_eq!(states.exchange(request(1, 2)).await.unwrap_err(), StateError::Closed);

    let (states, _) = opened(directory.path(), vec![application("a", SINCE)]).await;
    assert_eq!(states.read(vec![key(None)]).await.unwrap(), [Some(statistics(&[20.0]))]);
}

#[tokio::test]
async fn what_was_learned_for_an_application_that_is_gone_is_removed() {
    let directory = tempfile::tempdir().unwrap();
    let applications = || vec![application("a", SINCE), application("b", 1)];
    let (states, feed) = opened(directory.path(), applications()).await;
    let supervision = {
        let (states, feed) = (states.clone(), feed.clone());
        tokio::spawn(async move { states.supervise(&feed).await })
    };
    let other = StateKey { application: "b".parse().unwrap(), since: 1, uid: None };
    let users: Vec<_> = (1..3000).map(|user| key(Some(&user.to_string()))).collect();
    let changes = users.iter().chain([&other]).map(|key| change(key.clone(), 1.0, &[1.0])).collect();
    states.exchange(ExchangeRequest { changes, ..request(1, 1) }).await.unwrap();

    let mut catalog = feed.catalog();
    let delete = clipper_rpc::catalog::Change::DeleteApplication { name: "a".parse().unwrap() };
    Arc::make_mut(&mut catalog).apply(&Edit::change(delete.clone()));
    feed.publish(catalog, vec![delete]);
    while states.read(users.clone()).await.unwrap().iter().any(Option::is_some) {
        tokio::task::yield_now().await;
    }
    assert_eq!(states.read(vec![other]).await.unwrap(), [Some(statistics(&[1.0]))]);
    supervision.abort();
}

#[tokio::test]
async fn a_query_is_explained_in_the_next_exchange_but_one() {
    let directory = tempfile::tempdir().unwrap();
    let (states, _) = opened(directory.path(), vec![application("a", SINCE)]).await;
    let query = 1 << 40;
    assert_eq!(states.explain(query).await, Err(NoExplanation::FrontendGone));
    states.exchange(request(1, 1)).await.unwrap();
    let frontend = async {
        let asked = states.exchange(request(1, 2)).await.unwrap().explain;
        let explanations = asked.into_iter().map(|query| (query, Some("because".to_owned()))).collect();
        states.exchange(ExchangeRequest { explanations, ..request(1, 3) }).await.unwrap();
    };
    let (explained, ()) = tokio::join!(states.explain(query), frontend);
    assert_eq!(explained, Ok("because".to_owned()));
}

#[tokio::test]
async fn a_frontend_that_does_not_explain_a_query_is_not_waited_for_for_long() {
    let directory = tempfile::tempdir().unwrap();
    let (states, _) = opened(directory.path(), vec![application("a", SINCE)]).await;
    states.exchange(request(1, 1)).await.unwrap();
    tokio::time::pause();
    assert_eq!(states.explain(1 << 40).await, Err(NoExplanation::Silent));
}
