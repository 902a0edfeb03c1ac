//! A change of the number of a deployment's replicas while its caller waits.
//!
//! Invariant: a change whose replicas do not all become ready is taken back, also if its caller goes away.

use std::sync::Arc;
use std::time::Duration;

use clipper_rpc::names::ModelId;
use futures_util::future::{join_all, try_join_all};
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::{Instant, timeout_at};

use super::deployments::Deployments;
use super::lifecycle::Exit;
use super::replica::{ReplicaHandle, Snapshot};
use super::status::ReplicaState;
use super::{DeployError, NumReplicas};

/// While somebody waits for a new replica, so many exits of it are enough to say that it will not become ready.
const EXITS_TO_GIVE_UP: u32 = 2;
/// How many of its last lines a failed replica is quoted with.
const QUOTED_LINES: usize = 20;

/// Until when a caller waits, and how long that is in all.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    pub(super) timeout: Duration,
    pub(super) deadline: Instant,
}

impl Patience {
    pub(super) fn new(timeout: Duration) -> Self {
        Self { timeout, deadline: Instant::now() + timeout }
    }
}

/// A change of the number of a deployment's replicas, which is taken back unless every one becomes ready.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) deployments: Deployments,
    pub(super) model: ModelId,
    /// Held by the caller.
    pub(super) lock: Arc<AsyncMutex<()>>,
    /// How many replicas there were; `None` for a deployment that is new.
    pub(super) former: Option<NumReplicas>,
    /// Whether it is not to be taken back.
    pub(super) kept: bool,
}

impl Change {
    /// Stops replicas, once those that stay are ready where they had failed.
    pub(super) async fn shrink(
        mut self,
        num_replicas: NumReplicas,
        patience: Patience,
    ) -> Result<(), DeployError> {
        let failed = self.retried(num_replicas).await;
        self.all_ready(failed, patience).await?;
        self.kept = true;
        let surplus = self.deployments.table().truncate(&self.model, &self.lock, num_replicas);
        self.deployments.all_gone(surplus).await;
        Ok(())
    }

    /// Adds replicas, and waits until they and those that had failed are ready.
    pub(super) async fn grow(
        mut self,
        num_replicas: NumReplicas,
        patience: Patience,
    ) -> Result<(), DeployError> {
        let grown = self.try_grow(num_replicas, patience).await;
        self.kept = grown.is_ok();
        if !self.kept {
            let (model, deployments) = (self.model.clone(), self.deployments.clone());
            drop(self);
            let leaving = deployments.table().leaving(|leaving| *leaving == model);
            deployments.all_gone(leaving).await;
            deployments.forget_logs(&model).await;
        }
        grown
    }

    async fn try_grow(&self, num_replicas: NumReplicas, patience: Patience) -> Result<(), DeployError> {
        let Self { deployments, model, lock, former, .. } = self;
        // What left just now may still be in the working directories that the new replicas will have.
        let leaving = deployments.table().leaving(|leaving| leaving == model);
        if timeout_at(patience.deadline, deployments.all_gone(leaving)).await.is_err() {
            return Err(DeployError::Busy { model: model.clone(), waited: patience.timeout });
        }
        if num_replicas > NumReplicas::NONE {
            self.frontend(patience).await?;
        }
        let new: Vec<ReplicaHandle> = {
            let mut table = deployments.table();
            let Some(deployment) = table.own(model, lock) else {
                return Err(DeployError::Stopped { model: model.clone() });
            };
            deployment.spec.num_replicas = num_replicas;
            let numbers = former.unwrap_or_default().get()..num_replicas.get();
            let new: Vec<_> = numbers.map(|number| deployments.start_replica(deployment, number)).collect();
            deployment.replicas.extend(new.iter().cloned());
            new
        };
        let failed = self.retried(former.unwrap_or_default()).await;
        self.all_ready(failed.into_iter().chain(new), patience).await
    }

    /// Has those of the first `count` replicas that have failed try again. Returns them.
    async fn retried(&self, count: NumReplicas) -> Vec<ReplicaHandle> {
        let failed: Vec<_> = match self.deployments.table().own(&self.model, &self.lock) {
            Some(deployment) => {
                let stay = deployment.replicas.iter().take(count.get() as usize);
                stay.filter(|replica| replica.has_failed()).cloned().collect()
            }
            None => Vec::new(),
        };
        join_all(failed.iter().map(ReplicaHandle::retry)).await;
        failed
    }

    async fn all_ready(
        &self,
        replicas: impl IntoIterator<Item = ReplicaHandle>,
        patience: Patience,
    ) -> Result<(), DeployError> {
        try_join_all(replicas.into_iter().map(|replica| self.ready(replica, patience))).await?;
        Ok(())
    }

    /// Waits, a little, until there is a frontend: one may just be starting.
    async fn frontend(&self, patience: Patience) -> Result<(), DeployError> {
        let waited = patience.timeout.min(self.deployments.shared.host.config.frontend_timeout);
        let mut frontends = self.deployments.shared.frontends.subscribe();
        let some =
            timeout_at(Instant::now() + waited, frontends.wait_for(|frontends| !frontends.is_empty())).await;
        match some {
            Ok(_) => Ok(()),
            Err(_) => Err(DeployError::NoFrontend { model: self.model.clone(), waited }),
        }
    }

    /// Waits until a replica is ready, or it is plain that it will not be.
    async fn ready(&self, mut replica: ReplicaHandle, patience: Patience) -> Result<(), DeployError> {
        let settled =
            timeout_at(patience.deadline, replica.snapshots.wait_for(|snapshot| verdict(snapshot).is_some()))
                .await
                .map(|settled| settled.map(|snapshot| verdict(&snapshot)));
        let what = match settled {
            Ok(Ok(Some(Err(what)))) => what,
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(_)) => return Err(DeployError::Stopped { model: self.model.clone() }),
            Err(_) => {
                let snapshot = replica.snapshots.borrow();
                let (state, reason) =
                    (snapshot.state.as_str(), snapshot.reason.as_deref().unwrap_or("no reason is known"));
                format!("is still {state} after {} s: {reason}", patience.timeout.as_secs_f64())
            }
        };
        let (model, last_lines) = (self.model.clone(), replica.output.quoted_lines(QUOTED_LINES));
        Err(DeployError::Replica { model, replica: replica.number, what, last_lines })
    }
}

impl Drop for Change {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let mut table = self.deployments.table();
        match self.former {
            Some(count) => {
                table.truncate(&self.model, &self.lock, count);
            }
            None => {
                if table.own(&self.model, &self.lock).is_some() {
                    table.remove(&self.model);
                }
            }
        }
    }
}

/// Whether a replica that somebody waits for is ready, or what happened to it instead; `None` while that is open.
fn verdict(snapshot: &Snapshot) -> Option<Result<(), String>> {
    let Snapshot { state, reason, futile_exits, last_exit, .. } = snapshot;
    match (state, last_exit) {
        (ReplicaState::Ready, _) => Some(Ok(())),
        (_, Some(exit @ Exit::NotStarted(_))) => Some(Err(exit.to_string())),
        (_, Some(exit)) if *futile_exits >= EXITS_TO_GIVE_UP => {
            // The reason is the better explanation, unless the next process runs already.
            let explained = matches!(state, ReplicaState::BackingOff | ReplicaState::Failed);
            let what = reason.clone().filter(|_| explained).unwrap_or_else(|| exit.to_string());
            Some(Err(format!("{what}, {futile_exits} times in a row")))
        }
        _ => None,
    }
}
