//! The frontends of the cluster, as each presents itself by its long poll.
//!
//! A frontend is present while one of its calls is waiting and for [`GRACE`] afterwards, so it stays between
//! two calls. Invariant: of two frontends that are present, no two have the same number, or the
//! same address for containers, unless that is a loopback address, of which each host has its own.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use clipper_rpc::catalog::{ConnectedContainer, Revision};
use clipper_rpc::names::ModelId;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::deployment::FrontendView;
use crate::frontend_numbers::FrontendNumbers;

/// How long a frontend stays present without a call that waits.
const GRACE: Duration = Duration::from_secs(3);
/// How long [`Frontends::settled`] waits for acknowledgements.
const SETTLE_TIME: Duration = Duration::from_secs(1);
/// The most frontends that are present.
pub(crate) const MAX_FRONTENDS: usize = 256;
/// The most calls of one frontend that wait. It makes one at a time; others are left from connections that broke.
const MAX_CALLS: usize = 16;
/// The most containers that all frontends report together. Of a report that exceeds it, the last ones are left out.
const MAX_CONTAINERS: usize = 500_000;
/// The least time between two observations of the frontends, so that changes in quick succession cost one.
const OBSERVE_INTERVAL: Duration = Duration::from_millis(20);
/// How long the containers of a deleted version may take to answer what waits for them.
const DRAIN_TIME: Duration = Duration::from_secs(5);

/// What a frontend says of itself, its addresses complete.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Presentation {
    pub(crate) frontend: Uuid,
    pub(crate) number: u64,
    pub(crate) query_address: String,
    pub(crate) rpc_address: String,
    /// Address that it called from.
    pub(crate) caller: IpAddr,
    /// The last revision of this store that it has applied.
    pub(crate) applied: Option<Revision>,
    pub(crate) containers: Vec<ConnectedContainer>,
}

impl Presentation {
    fn is_on_loopback(&self) -> bool {
        let address = self.rpc_address.parse::<SocketAddr>();
        address.is_ok_and(|address| address.ip().to_canonical().is_loopback())
    }

    /// Whether it seems to be on another host, and to listen for containers on the loopback address
    /// of that one.
    fn is_out_of_reach(&self) -> bool {
        self.is_on_loopback() && !self.caller.to_canonical().is_loopback()
    }

    /// Whether only one of both can be alive, as they have the same address for containers. Each
    /// host has loopback addresses of its own.
    fn is_at_the_place_of(&self, other: &Self) -> bool {
        self.rpc_address == other.rpc_address && (self.caller == other.caller || !self.is_on_loopback())
    }
}

/// A frontend as operators see it.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Standing {
    /// Number in the high bits of its query ids.
    pub(crate) number: u64,
    /// Where applications reach it.
    pub(crate) query_address: String,
    /// Where containers reach it.
    pub(crate) rpc_address: String,
    /// Revision of the catalog that it has applied; none until it has said so to this run of management.
    pub(crate) revision: Option<Revision>,
    /// Time since its last call, in seconds. A frontend calls at least every ten seconds.
    pub(crate) last_contact_seconds: f64,
    /// Whether management gave up waiting for it to apply a change, which it has still not applied.
    pub(crate) is_behind: bool,
    /// Number of containers that are connected to it.
    pub(crate) containers: usize,
}

#[derive(Debug)]
struct Frontend {
    presentation: Presentation,
    view: FrontendView,
    /// How many of its calls are waiting.
    waiting: usize,
    /// When its last call came.
    called: Instant,
    /// The latest revision that management gave up waiting for.
    missed: Option<Revision>,
    /// When it is forgotten unless a call of it is waiting then.
    forgotten_at: Instant,
}

impl Frontend {
    /// Whether management gave up waiting for it, and it has still not applied that change.
    fn is_behind(&self) -> bool {
        self.presentation.applied < self.missed
    }

    fn standing(&self) -> Standing {
        let Presentation { number, query_address, rpc_address, applied, containers, .. } = &self.presentation;
        Standing {
            number: *number,
            query_address: query_address.clone(),
            rpc_address: rpc_address.clone(),
            revision: *applied,
            last_contact_seconds: self.called.elapsed().as_secs_f64(),
            is_behind: self.is_behind(),
            containers: containers.len(),
        }
    }

    /// Whether none of its calls is waiting, nor was one lately.
    fn is_absent(&self, now: Instant) -> bool {
        self.waiting == 0 && self.forgotten_at <= now
    }
}

#[derive(Debug, Default)]
struct Registry {
    present: BTreeMap<Uuid, Frontend>,
    /// Addresses of the present frontends for containers, sorted. Replaced when they change.
    addresses: Arc<[String]>,
    /// Number of changes of what [`Frontends::views`] returns.
    view_changes: u64,
    /// The numbers of the frontends that are present, or about to be.
    numbers: FrontendNumbers,
    closed: bool,
}

/// Why a frontend cannot follow now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Crowded {
    #[error("{MAX_FRONTENDS} frontends follow already, which is the most that are allowed")]
    Frontends,
    #[error("{MAX_CALLS} calls of this frontend wait already, which is the most that are allowed")]
    Calls,
}

impl Registry {
    /// Whether a call can wait.
    fn admits(&self, frontend: Uuid, rpc_address: &str) -> Result<(), Crowded> {
        match self.present.get(&frontend) {
            Some(present) if present.waiting >= MAX_CALLS => Err(Crowded::Calls),
            Some(_) => Ok(()),
            // It takes the place of the frontend that had its address.
            None if self.addresses.binary_search_by(|it| it.as_str().cmp(rpc_address)).is_ok() => Ok(()),
            None if self.present.len() >= MAX_FRONTENDS => Err(Crowded::Frontends),
            None => Ok(()),
        }
    }

    /// Takes note of a call. Returns whether that is news to anybody.
    fn enter(&mut self, mut presentation: Presentation) -> bool {
        let frontend = presentation.frontend;
        let before = self.present.remove(&frontend);
        let is_known = before.as_ref().is_some_and(|it| it.view.rpc_address == presentation.rpc_address);
        if !is_known {
            // A frontend that had this address before cannot be alive any more.
            for (gone, _) in
                self.present.extract_if(.., |_, other| other.presentation.is_at_the_place_of(&presentation))
            {
                self.numbers.give_back(gone);
            }
        }
        let others = self.present.values().map(|it| it.presentation.containers.len()).sum::<usize>();
        let room = MAX_CONTAINERS.saturating_sub(others);
        if presentation.containers.len() > room {
            let left_out = presentation.containers.len() - room;
            tracing::warn!(%frontend, left_out, "containers are left out of a report, as there are too many");
            presentation.containers.truncate(room);
        }
        let waiting = before.as_ref().map_or(0, |before| before.waiting) + 1;
        let called = Instant::now();
        let forgotten_at = called + GRACE;
        let missed = before.as_ref().and_then(|before| before.missed);
        let (is_news, view) = match before {
            Some(before) if before.presentation == presentation => (false, before.view),
            Some(before) if is_known && before.presentation.containers == presentation.containers => {
                (true, before.view)
            }
            _ => {
                self.view_changes += 1;
                (true, view(&presentation))
            }
        };
        self.present.insert(frontend, Frontend { presentation, view, waiting, called, missed, forgotten_at });
        if !is_known {
            self.update_addresses();
        }
        is_news
    }

    fn update_addresses(&mut self) {
        let addresses = self.present.values().map(|it| it.presentation.rpc_address.clone());
        self.addresses = addresses.collect::<BTreeSet<_>>().into_iter().collect();
    }
}

/// A frontend as deployments see it.
fn view(presentation: &Presentation) -> FrontendView {
    let instances = presentation.containers.iter().filter_map(|container| container.instance.clone());
    FrontendView { rpc_address: presentation.rpc_address.clone(), instances: Arc::new(instances.collect()) }
}

/// The registry. Cloned handles share it.
#[derive(Debug, Clone, Default)]
pub struct Frontends(Arc<watch::Sender<Registry>>);

impl Frontends {
    /// Whether a call of a frontend can wait.
    pub(crate) fn admits(&self, frontend: Uuid, rpc_address: &str) -> Result<(), Crowded> {
        self.0.borrow().admits(frontend, rpc_address)
    }

    /// Takes note of a call; the frontend is waiting until the answer is dropped. Wakes others only if the
    /// presentation differs from the former one.
    pub(crate) fn present(&self, presentation: Presentation) -> Result<Waiting, Crowded> {
        let frontend = presentation.frontend;
        if self.number_of(frontend).is_none() {
            let Presentation { number, query_address, rpc_address, .. } = &presentation;
            tracing::info!(%frontend, number, query_address, rpc_address, "a frontend follows");
            if presentation.is_out_of_reach() {
                tracing::warn!(
                    %frontend, rpc_address, caller = %presentation.caller,
                    "unless this frontend is on the same host, deployed replicas do not reach it: give it an \
                     --rpc-address beyond loopback, such as 0.0.0.0:7000"
                );
            }
        }
        let mut admitted = Ok(());
        self.0.send_if_modified(|registry| {
            admitted = registry.admits(frontend, &presentation.rpc_address);
            admitted.is_ok() && registry.enter(presentation)
        });
        admitted.map(|()| Waiting { frontends: self.clone(), frontend })
    }

    /// The number that a frontend holds, or else the one that it claims, if that is free.
    pub(crate) fn claim_number(&self, frontend: Uuid, claimed: Option<u64>) -> Option<HeldNumber> {
        self.hold_number(frontend, |numbers| numbers.claim(frontend, claimed))
    }

    /// A number that is free, for a frontend that has none: see [`FrontendNumbers::allot`].
    pub(crate) fn allot_number(&self, frontend: Uuid, first: u64) -> Option<HeldNumber> {
        self.hold_number(frontend, |numbers| numbers.allot(frontend, first))
    }

    fn hold_number(
        &self,
        frontend: Uuid,
        hold: impl FnOnce(&mut FrontendNumbers) -> Option<u64>,
    ) -> Option<HeldNumber> {
        let mut number = None;
        self.0.send_if_modified(|registry| {
            number = hold(&mut registry.numbers);
            // Nobody waits for this.
            false
        });
        Some(HeldNumber { number: number?, frontends: self.clone(), frontend })
    }

    /// The number that a frontend has, if it is present.
    pub(crate) fn number_of(&self, frontend: Uuid) -> Option<u64> {
        self.0.borrow().present.get(&frontend).map(|frontend| frontend.presentation.number)
    }

    /// Where containers reach each frontend, sorted.
    pub(crate) fn rpc_addresses(&self) -> Arc<[String]> {
        Arc::clone(&self.0.borrow().addresses)
    }

    /// The frontends as deployments see them: where they are, and which processes are connected to each.
    fn views(&self) -> Vec<FrontendView> {
        self.0.borrow().present.values().map(|frontend| frontend.view.clone()).collect()
    }

    /// The containers of the cluster, in order of model and replica. One that several frontends report occurs
    /// once, with the replica number that the frontend of the lowest number gave it.
    pub(crate) fn containers(&self) -> Vec<ConnectedContainer> {
        let registry = self.0.borrow();
        let mut frontends: Vec<_> = registry.present.values().map(|it| &it.presentation).collect();
        frontends.sort_by_key(|frontend| frontend.number);
        let mut seen = HashSet::new();
        let mut containers: Vec<ConnectedContainer> = frontends
            .into_iter()
            .flat_map(|frontend| &frontend.containers)
            .filter(|container| seen.insert(identity(container)))
            .cloned()
            .collect();
        containers.sort_by(|a, b| (&a.model, a.replica).cmp(&(&b.model, b.replica)));
        containers
    }

    /// How many are present.
    pub(crate) fn count(&self) -> usize {
        self.0.borrow().present.len()
    }

    /// Waits until every frontend that is present has applied a revision, for at most a second: one that is
    /// stuck must not keep management from answering. It is one of those that are [`Frontends::behind`] then.
    pub(crate) async fn settled(&self, revision: Revision) {
        let mut registry = self.0.subscribe();
        let settled = registry.wait_for(|registry| {
            registry.present.values().all(|frontend| frontend.presentation.applied >= Some(revision))
        });
        if timeout(SETTLE_TIME, settled).await.is_err() {
            self.0.send_if_modified(|registry| {
                for frontend in
                    registry.present.values_mut().filter(|it| it.presentation.applied < Some(revision))
                {
                    let address = &frontend.presentation.query_address;
                    tracing::warn!(revision, address, "a frontend has not acknowledged a change in time");
                    frontend.missed = frontend.missed.max(Some(revision));
                }
                // Nobody waits for this.
                false
            });
        }
    }

    /// Where applications reach each frontend that has still not applied a change whose caller was told so.
    pub(crate) fn behind(&self) -> Vec<String> {
        let registry = self.0.borrow();
        let behind = registry.present.values().filter(|frontend| frontend.is_behind());
        behind.map(|frontend| frontend.presentation.query_address.clone()).collect()
    }

    /// What is known of each frontend that is present, by its number.
    pub(crate) fn standings(&self) -> Vec<Standing> {
        let registry = self.0.borrow();
        let mut standings: Vec<_> = registry.present.values().map(Frontend::standing).collect();
        standings.sort_by_key(|standing| standing.number);
        standings
    }

    /// Waits until no container of a version that is served no more is left at any frontend: each has been given
    /// everything that waited for it, and has answered.
    pub(crate) async fn drained(&self, model: &ModelId) {
        let mut registry = self.0.subscribe();
        let drained = registry.wait_for(|registry| {
            let mut frontends = registry.present.values();
            frontends.all(|frontend| {
                frontend.presentation.containers.iter().all(|container| container.model != *model)
            })
        });
        if timeout(DRAIN_TIME, drained).await.is_err() {
            tracing::warn!(%model, "containers of a deleted version are stopped before they have answered everything");
        }
    }

    /// Tells of every change of the addresses from now on.
    pub(crate) fn watch(&self) -> Watch {
        let registry = self.0.subscribe();
        let seen = Arc::clone(&registry.borrow().addresses);
        Watch { registry, seen }
    }

    /// Has every call end that waits, and those to come.
    pub(crate) fn close(&self) {
        self.0.send_modify(|registry| registry.closed = true);
    }

    /// Whether [`Frontends::close`] was called.
    pub(crate) fn is_closed(&self) -> bool {
        self.0.borrow().closed
    }

    /// Forgets frontends when their time has come, and calls `observe` with the views whenever they differ.
    /// Runs for ever.
    pub(crate) async fn supervise(&self, observe: impl Fn(Vec<FrontendView>)) {
        let mut registry = self.0.subscribe();
        let mut observed = Vec::new();
        loop {
            self.forget_absent();
            let seen = registry.borrow_and_update().view_changes;
            let views = self.views();
            if views != observed {
                observed.clone_from(&views);
                observe(views);
                tokio::time::sleep(OBSERVE_INTERVAL).await;
            }
            // Never an error: `self` holds the sender.
            let changed = registry.wait_for(|registry| registry.view_changes != seen);
            let _ = tokio::time::timeout_at(self.next_forgotten(), changed).await;
        }
    }

    fn forget_absent(&self) {
        let now = Instant::now();
        self.0.send_if_modified(|registry| {
            let before = registry.present.len();
            for (frontend, it) in registry.present.extract_if(.., |_, it| it.is_absent(now)) {
                tracing::info!(%frontend, address = it.presentation.rpc_address, "a frontend is gone");
                registry.numbers.give_back(frontend);
            }
            let some_are_gone = registry.present.len() != before;
            if some_are_gone {
                registry.view_changes += 1;
                registry.update_addresses();
            }
            some_are_gone
        });
    }

    /// Earliest time at which a frontend may have to be forgotten. One whose last call ends from now on stays for
    /// [`GRACE`].
    fn next_forgotten(&self) -> Instant {
        let registry = self.0.borrow();
        let absent = registry.present.values().filter(|it| it.waiting == 0).map(|it| it.forgotten_at);
        absent.fold(Instant::now() + GRACE, Instant::min)
    }
}

/// What tells one container from another: the name of its process, or where it has none, its number.
fn identity(container: &ConnectedContainer) -> Result<String, (String, u32)> {
    match &container.instance {
        Some(instance) => Ok(instance.clone()),
        None => Err((container.model.to_string(), container.replica)),
    }
}

/// The number of a frontend. It is free again when this is dropped, unless the frontend is present by then.
#[derive(Debug)]
pub(crate) struct HeldNumber {
    pub(crate) number: u64,
    frontends: Frontends,
    frontend: Uuid,
}

impl Drop for HeldNumber {
    fn drop(&mut self) {
        self.frontends.0.send_if_modified(|registry| {
            if !registry.present.contains_key(&self.frontend) {
                registry.numbers.give_back(self.frontend);
            }
            false
        });
    }
}

/// A call that is waiting.
#[derive(Debug)]
pub(crate) struct Waiting {
    frontends: Frontends,
    frontend: Uuid,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.frontends.0.send_if_modified(|registry| {
            if let Some(frontend) = registry.present.get_mut(&self.frontend) {
                frontend.waiting = frontend.waiting.saturating_sub(1);
                frontend.forgotten_at = Instant::now() + GRACE;
            }
            // Nobody waits for this: `next_forgotten` allows for it.
            false
        });
    }
}

/// Tells of changes of the addresses, and of the registry's closing.
pub(crate) struct Watch {
    registry: watch::Receiver<Registry>,
    seen: Arc<[String]>,
}

impl Watch {
    /// Waits for a change since the last call, or since this began.
    pub(crate) async fn changed(&mut self) {
        let seen = &self.seen;
        let changed = self.registry.wait_for(|registry| registry.closed || registry.addresses != *seen);
        if let Ok(registry) = changed.await {
            self.seen = Arc::clone(&registry.addresses);
            return;
        }
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use clipper_rpc::input::InputType;
    use futures_util::FutureExt;

    use super::*;
    use crate::models::tests::model_id;

    fn presentation(number: u64) -> Presentation {
        Presentation {
            frontend: Uuid::from_u128(number.into()),
            number,
            query_address: format!("127.0.0.1:{}", 1337 + number),
            rpc_address: format!("127.0.0.1:{}", 7000 + number),
            caller: IpAddr::from([127, 0, 0, 1]),
            applied: Some(0),
            containers: Vec::new(),
        }
    }

    fn container(instance: Option<&str>, replica: u32) -> ConnectedContainer {
        ConnectedContainer {
            model: model_id("m", "1"),
            replica,
            instance: instance.map(Into::into),
            input_type: InputType::Doubles,
            batch_size: 32,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_frontend_stays_for_three_seconds_after_its_call() {
        let frontends = Frontends::default();
        let supervised = frontends.clone();
        let supervision = tokio::spawn(async move { supervised.supervise(|_| {}).await });
        drop(frontends.present(presentation(0)).unwrap());
        let second = frontends.present(presentation(1)).unwrap();
        tokio::time::sleep(Duration::from_millis(2_900)).await;
        assert_eq!(frontends.count(), 2);
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(*frontends.rpc_addresses(), ["127.0.0.1:7001"]);
        drop(second);
        tokio::time::sleep(Duration::from_millis(3_100)).await;
        assert_eq!(frontends.count(), 0);
        supervision.abort();
    }

    #[tokio::test]
    async fn a_restarted_frontend_takes_the_place_of_its_former_run() {
        let frontends = Frontends::default();
        let _former = frontends.present(presentation(0)).unwrap();
        let restarted = Presentation { frontend: Uuid::from_u128(9), ..presentation(0) };
        let _restarted = frontends.present(restarted).unwrap();
        assert_eq!(frontends.count(), 1);
    }

    #[tokio::test]
    async fn frontends_of_two_hosts_may_have_the_same_loopback_address_and_no_other() {
        let frontends = Frontends::default();
        let of = |host: u8, rpc_address: &str| Presentation {
            caller: IpAddr::from([10, 0, 0, host]),
            rpc_address: rpc_address.into(),
            ..presentation(host.into())
        };
        let _one = frontends.present(of(1, "127.0.0.1:7000"));
        let _other = frontends.present(of(2, "127.0.0.1:7000"));
        assert_eq!(frontends.count(), 2);
        let _third = frontends.present(of(3, "10.0.0.9:7000"));
        let _fourth = frontends.present(of(4, "10.0.0.9:7000"));
        assert_eq!(frontends.count(), 3);
    }

    #[tokio::test]
    async fn a_container_of_several_frontends_is_listed_once() {
        let frontends = Frontends::default();
        let first =
            Presentation { containers: vec![container(Some("a"), 0), container(None, 1)], ..presentation(0) };
        let second = Presentation {
            containers: vec![container(None, 1), container(Some("a"), 4), container(Some("b"), 2)],
            ..presentation(1)
        };
        let _waiting = (frontends.present(second).unwrap(), frontends.present(first).unwrap());
        let replicas: Vec<_> = frontends.containers().iter().map(|container| container.replica).collect();
        assert_eq!(replicas, [0, 1, 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn settling_waits_for_every_frontend_but_not_for_ever() {
        let frontends = Frontends::default();
        let _slow = frontends.present(presentation(0)).unwrap();
        let began = Instant::now();
        frontends.settled(1).await;
        assert_eq!(began.elapsed(), SETTLE_TIME);
        assert_eq!(frontends.behind(), ["127.0.0.1:1337"]);
        assert!(frontends.standings()[0].is_behind);

        let acknowledging = frontends.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(5)).await;
            drop(acknowledging.present(Presentation { applied: Some(2), ..presentation(0) }).unwrap());
        });
        let began = Instant::now();
        frontends.settled(2).await;
        assert!(began.elapsed() < Duration::from_millis(20));
        assert!(frontends.behind().is_empty(), "it has caught up");
    }

    #[tokio::test(start_paused = true)]
    async fn the_number_of_frontends_is_bounded_and_a_known_one_or_its_successor_is_always_admitted() {
        let frontends = Frontends::default();
        let all: Vec<_> =
            (0..MAX_FRONTENDS as u64).map(|it| frontends.present(presentation(it)).unwrap()).collect();
        let one_more = presentation(MAX_FRONTENDS as u64);
        assert_eq!(frontends.present(one_more.clone()).unwrap_err(), Crowded::Frontends);
        assert!(frontends.present(presentation(3)).is_ok());
        let restarted = Presentation { frontend: Uuid::nil(), ..presentation(3) };
        assert!(frontends.present(Presentation { frontend: Uuid::from_u128(9999), ..restarted }).is_ok());
        assert_eq!(frontends.count(), MAX_FRONTENDS);
        drop(all);
        tokio::time::sleep(GRACE).await;
        frontends.forget_absent();
        assert!(frontends.present(one_more).is_ok());
    }

    #[tokio::test]
    async fn the_number_of_calls_of_one_frontend_that_wait_is_bounded() {
        let frontends = Frontends::default();
        let mut calls: Vec<_> = (0..MAX_CALLS).map(|_| frontends.present(presentation(0)).unwrap()).collect();
        assert_eq!(frontends.present(presentation(0)).unwrap_err(), Crowded::Calls);
        calls.pop();
        assert!(frontends.present(presentation(0)).is_ok());
    }

    #[tokio::test]
    async fn a_call_that_says_nothing_new_wakes_nobody() {
        let frontends = Frontends::default();
        let with = |applied, containers: &[ConnectedContainer]| Presentation {
            applied,
            containers: containers.to_vec(),
            ..presentation(0)
        };
        drop(frontends.present(with(None, &[])).unwrap());
        let mut woken = frontends.0.subscribe();
        let mut moved = frontends.watch();
        drop(frontends.present(with(None, &[])).unwrap());
        assert!(!woken.has_changed().unwrap());
        let views = frontends.0.borrow().view_changes;
        drop(frontends.present(with(Some(3), &[])).unwrap());
        assert!(woken.has_changed().unwrap());
        woken.mark_unchanged();
        assert_eq!(frontends.0.borrow().view_changes, views);
        drop(frontends.present(with(Some(3), &[container(Some("a"), 0)])).unwrap());
        assert!(woken.has_changed().unwrap());
        assert_eq!(frontends.0.borrow().view_changes, views + 1);
        assert!(moved.changed().now_or_never().is_none(), "the addresses are the same");
        let _other = frontends.present(presentation(1)).unwrap();
        assert!(moved.changed().now_or_never().is_some());
    }
}
