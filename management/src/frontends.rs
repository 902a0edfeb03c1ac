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
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use crate::deployment::FrontendView;

/// How long a frontend stays present without a call that waits.
const GRACE: Duration = Duration::from_secs(3);
/// How long [`Frontends::settled`] waits for acknowledgements.
const SETTLE_TIME: Duration = Duration::from_secs(1);
/// How long the containers of a deleted version may take to answer what waits for them.
const DRAIN_TIME: Duration = Duration::from_secs(5);

/// What a frontend says of itself, its addresses complete.
#[derive(Debug, Clone)]
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

#[derive(Debug)]
struct Frontend {
    presentation: Presentation,
    /// How many of its calls are waiting.
    waiting: usize,
    /// When it is forgotten unless a call of it is waiting then.
    forgotten_at: Instant,
}

#[derive(Debug, Default)]
struct Registry {
    present: BTreeMap<Uuid, Frontend>,
    closed: bool,
}

/// The registry. Cloned handles share it.
#[derive(Debug, Clone, Default)]
pub struct Frontends(Arc<watch::Sender<Registry>>);

impl Frontends {
    /// Takes note of a call; the frontend is waiting until the answer is dropped.
    pub(crate) fn present(&self, presentation: Presentation) -> Waiting {
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
        self.0.send_modify(|registry| {
            // Whoever had this address before cannot be alive any more.
            registry
                .present
                .retain(|id, other| *id == frontend || !other.presentation.is_at_the_place_of(&presentation));
            let waiting = registry.present.remove(&frontend).map_or(0, |before| before.waiting);
            let forgotten_at = Instant::now() + GRACE;
            registry.present.insert(frontend, Frontend { presentation, waiting: waiting + 1, forgotten_at });
        });
        Waiting { frontends: self.clone(), frontend }
    }

    /// Whether another frontend that is present has this number.
    pub(crate) fn is_number_of_another(&self, number: u64, frontend: Uuid) -> bool {
        let registry = self.0.borrow();
        registry.present.iter().any(|(id, other)| *id != frontend && other.presentation.number == number)
    }

    /// The number that a frontend has, if it is present.
    pub(crate) fn number_of(&self, frontend: Uuid) -> Option<u64> {
        self.0.borrow().present.get(&frontend).map(|frontend| frontend.presentation.number)
    }

    /// Where containers reach each frontend, sorted.
    pub(crate) fn rpc_addresses(&self) -> Vec<String> {
        let registry = self.0.borrow();
        let addresses = registry.present.values().map(|it| it.presentation.rpc_address.clone());
        addresses.collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// The frontends as deployments see them: where they are, and which processes are connected to each.
    pub(crate) fn views(&self) -> Vec<FrontendView> {
        let registry = self.0.borrow();
        let view = |frontend: &Frontend| FrontendView {
            rpc_address: frontend.presentation.rpc_address.clone(),
            instances: instances(&frontend.presentation.containers),
        };
        registry.present.values().map(view).collect()
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
    /// stuck must not keep management from answering.
    pub(crate) async fn settled(&self, revision: Revision) {
        let mut registry = self.0.subscribe();
        let settled = registry.wait_for(|registry| {
            registry.present.values().all(|frontend| frontend.presentation.applied >= Some(revision))
        });
        if timeout(SETTLE_TIME, settled).await.is_err() {
            tracing::warn!(revision, "a frontend has not acknowledged a change in time");
        }
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

    /// Tells of every change of the registry from now on.
    pub(crate) fn watch(&self) -> Watch {
        Watch(self.0.subscribe())
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
        let mut changes = self.0.subscribe();
        let mut observed = Vec::new();
        loop {
            changes.mark_unchanged();
            self.forget_absent();
            let views = self.views();
            if views != observed {
                observed.clone_from(&views);
                observe(views);
            }
            match self.next_forgotten() {
                Some(at) => {
                    let _ = tokio::time::timeout_at(at, changes.changed()).await;
                }
                None => {
                    // Never an error: `self` holds the sender.
                    let _ = changes.changed().await;
                }
            }
        }
    }

    fn forget_absent(&self) {
        let now = Instant::now();
        self.0.send_if_modified(|registry| {
            let before = registry.present.len();
            registry.present.retain(|frontend, it| {
                let stays = it.waiting > 0 || it.forgotten_at > now;
                if !stays {
                    tracing::info!(%frontend, address = it.presentation.rpc_address, "a frontend is gone");
                }
                stays
            });
            registry.present.len() != before
        });
    }

    fn next_forgotten(&self) -> Option<Instant> {
        let registry = self.0.borrow();
        registry.present.values().filter(|it| it.waiting == 0).map(|it| it.forgotten_at).min()
    }
}

fn instances(containers: &[ConnectedContainer]) -> HashSet<String> {
    containers.iter().filter_map(|container| container.instance.clone()).collect()
}

/// What tells one container from another: the name of its process, or where it has none, its number.
fn identity(container: &ConnectedContainer) -> Result<String, (String, u32)> {
    match &container.instance {
        Some(instance) => Ok(instance.clone()),
        None => Err((container.model.to_string(), container.replica)),
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
        self.frontends.0.send_modify(|registry| {
            if let Some(frontend) = registry.present.get_mut(&self.frontend) {
                frontend.waiting = frontend.waiting.saturating_sub(1);
                frontend.forgotten_at = Instant::now() + GRACE;
            }
        });
    }
}

/// Tells of changes of the registry.
pub(crate) struct Watch(watch::Receiver<Registry>);

impl Watch {
    /// Waits for a change since the last call, or since this began.
    pub(crate) async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use clipper_rpc::input::InputType;

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
        drop(frontends.present(presentation(0)));
        let second = frontends.present(presentation(1));
        tokio::time::sleep(Duration::from_millis(2_900)).await;
        assert_eq!(frontends.count(), 2);
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(frontends.rpc_addresses(), ["127.0.0.1:7001"]);
        drop(second);
        tokio::time::sleep(Duration::from_millis(3_100)).await;
        assert_eq!(frontends.count(), 0);
        supervision.abort();
    }

    #[tokio::test]
    async fn a_restarted_frontend_takes_the_place_of_its_former_run() {
        let frontends = Frontends::default();
        let _former = frontends.present(presentation(0));
        let _restarted = frontends.present(Presentation { frontend: Uuid::from_u128(9), ..presentation(0) });
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
        let _waiting = (frontends.present(second), frontends.present(first));
        let replicas: Vec<_> = frontends.containers().iter().map(|container| container.replica).collect();
        assert_eq!(replicas, [0, 1, 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn settling_waits_for_every_frontend_but_not_for_ever() {
        let frontends = Frontends::default();
        let _slow = frontends.present(presentation(0));
        let began = Instant::now();
        frontends.settled(1).await;
        assert_eq!(began.elapsed(), SETTLE_TIME);

        let acknowledging = frontends.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(5)).await;
            drop(acknowledging.present(Presentation { applied: Some(2), ..presentation(0) }));
        });
        let began = Instant::now();
        frontends.settled(2).await;
        assert!(began.elapsed() < Duration::from_millis(20));
    }
}
