//! What the admin interface can do that takes more than one edit or more than the catalog: changes that
//! frontends have applied when they are answered, and deployments, whose processes and records move together.
//!
//! Transport-neutral; the HTTP handlers are thin wrappers. Everything that changes something runs in a task of
//! its own, so that a client that hangs up does not leave it half done. Invariant: at every moment the records
//! say at least what runs, so a restart after a kill starts what was ready and removes what was not.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use clipper_rpc::catalog::{ConnectedContainer, ModelVersionSpec};
use clipper_rpc::names::ModelId;

use crate::catalog::{Catalog, Edit};
use crate::deployment::{
    ArtifactId, Artifacts, DeploymentSpec, Deployments, NumReplicas, Reservation, StartupTimeout,
};
use crate::deployments::{self, Selection};
use crate::error::EditError;
use crate::feed::Feed;
use crate::follow::Follow;
use crate::frontends::Frontends;
use crate::models;
use crate::refusal::Refusal;
use crate::writer::Writer;

/// The time between two looks for artifacts that are not used.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// A handle to everything that management consists of. Cloned handles share it.
#[derive(Clone)]
pub(crate) struct Admin {
    pub(crate) follow: Follow,
    pub(crate) deployments: Deployments,
    pub(crate) artifacts: Artifacts,
}

impl Admin {
    fn writer(&self) -> &Writer {
        &self.follow.writer
    }

    fn feed(&self) -> &Feed {
        &self.follow.feed
    }

    /// The frontends that are present.
    pub(crate) fn frontends(&self) -> &Frontends {
        &self.follow.frontends
    }

    /// The catalog as it stands.
    pub(crate) fn catalog(&self) -> Arc<Catalog> {
        self.feed().catalog()
    }

    /// Every connected container, once.
    pub(crate) fn containers(&self) -> Vec<ConnectedContainer> {
        self.frontends().containers()
    }

    /// Makes an edit; returns when it is on disk and in force at every frontend.
    pub(crate) async fn change<F>(&self, decide: F) -> Result<(), EditError>
    where
        F: FnOnce(&Catalog) -> Result<Edit, Refusal> + Send + 'static,
    {
        self.change_with(|catalog| Ok(((), decide(catalog)?))).await
    }

    /// Likewise, with what the decision returned beside the edit.
    async fn change_with<T, F>(&self, decide: F) -> Result<T, EditError>
    where
        T: Send + 'static,
        F: FnOnce(&Catalog) -> Result<(T, Edit), Refusal> + Send + 'static,
    {
        let committed = self.writer().edit(decide).await?;
        self.frontends().settled(committed.revision).await;
        Ok(committed.value)
    }

    /// Whether edits can be made.
    pub(crate) async fn probe(&self) -> Result<(), EditError> {
        self.writer().edit(|_| Ok(((), Edit::default()))).await.map(drop)
    }

    /// Registers a version, starts its replicas, and makes it current once all are ready; or leaves nothing of
    /// it.
    pub(crate) async fn deploy(
        &self,
        spec: DeploymentSpec,
        version: ModelVersionSpec,
    ) -> Result<(), EditError> {
        let admin = self.clone();
        detached(async move {
            let reserved = admin.reserve_artifacts(std::slice::from_ref(&spec)).await?;
            let (id, num_replicas) = (spec.model.clone(), spec.num_replicas);
            let (begun, deployments) = (spec.clone(), admin.deployments.clone());
            // The deployment takes its place in the same step in which its version appears, so that
            // whoever deletes or stops the version finds it.
            let decide = move |catalog: &Catalog| {
                let edit = deployments::begin(catalog, begun.clone(), version)?;
                let generation = catalog.after(&edit).generation(&begun.model);
                Ok((deployments.begin(begun, generation)?, edit))
            };
            let begun = match admin.change_with(decide).await {
                Ok(begun) => begun,
                Err(error) => {
                    if let EditError::Refused(_) = error {
                        admin.settle(reserved).await;
                        admin.remove_unnamed(spec.artifact.into_iter().collect()).await;
                    }
                    return Err(error);
                }
            };
            let before = admin.catalog();
            admin.settle(reserved).await;
            let outcome = match begun.complete(spec.startup_timeout.get()).await {
                Ok(running) => {
                    let ready = id.clone();
                    let completed = admin
                        .change(move |catalog| deployments::complete(catalog, &ready, num_replicas))
                        .await;
                    if completed.is_err() {
                        admin.deployments.stop(vec![running]).await;
                    }
                    completed
                }
                Err(error) => Err(Refusal::from(error).into()),
            };
            if outcome.is_err() {
                let abandoned = id.clone();
                if let Err(error) =
                    admin.change(move |catalog| Ok(deployments::abandon(catalog, &abandoned))).await
                {
                    tracing::error!(model = %id, %error, "a failed deployment stays on record until the next start");
                }
                admin.remove_artifacts_since(&before).await;
            }
            outcome
        })
        .await
    }

    /// Changes the number of replicas; returns when all are ready, which may take the timeout of the
    /// deployment unless another one is given.
    pub(crate) async fn scale(
        &self,
        id: ModelId,
        num_replicas: NumReplicas,
        timeout: Option<StartupTimeout>,
    ) -> Result<(), EditError> {
        let admin = self.clone();
        detached(async move {
            let stored = deployments::ready(&admin.catalog(), &id)?.spec.startup_timeout;
            let timeout = timeout.unwrap_or(stored).get();
            let scaled = admin.deployments.scale(id.clone(), num_replicas, timeout).await;
            admin.record(vec![id]).await?;
            scaled.map_err(|error| Refusal::from(error).into())
        })
        .await
    }

    /// Stores how many replicas deployments have by now. Done after every change of their number, also one that was
    /// taken back, it leaves the record of the last, in whichever order they end.
    async fn record(&self, ids: Vec<ModelId>) -> Result<(), EditError> {
        let deployments = self.deployments.clone();
        self.change(move |catalog| Ok(deployments::record(catalog, deployments.counted(&ids)))).await
    }

    /// Stops deployments, which stay on record; returns how many had replicas, when their processes are gone.
    pub(crate) async fn stop(&self, selection: Selection) -> Result<usize, EditError> {
        let admin = self.clone();
        detached(async move {
            let deployments = admin.deployments.clone();
            // What runs is looked up as the decision is made: until it is carried out, the same version may have been
            // deployed anew.
            let decide = move |catalog: &Catalog| {
                let (stopped, edit) = deployments::stop(catalog, &selection)?;
                let failing = deployments.running(&stopped.pending);
                let running = deployments.running(&stopped.ready);
                Ok(((stopped, running, failing), edit))
            };
            let (stopped, running, failing) = admin.change_with(decide).await?;
            tokio::join!(admin.deployments.halt(running), admin.deployments.stop(failing));
            admin.record(stopped.ready).await?;
            Ok(stopped.count)
        })
        .await
    }

    /// Deletes a version, and stops its deployment once it has answered what waited for it.
    pub(crate) async fn delete_version(&self, id: ModelId) -> Result<(), EditError> {
        let admin = self.clone();
        detached(async move {
            let before = admin.catalog();
            let deployments = admin.deployments.clone();
            let model = id.clone();
            let decide = move |catalog: &Catalog| {
                let edit = models::delete_version(catalog, &id)?;
                Ok((deployments.running(&[id]), edit))
            };
            let running = admin.change_with(decide).await?;
            admin.follow.frontends.drained(&model).await;
            admin.deployments.stop(running).await;
            admin.remove_artifacts_since(&before).await;
            Ok(())
        })
        .await
    }

    /// Has the artifacts of deployments stay until these are on record.
    async fn reserve_artifacts(&self, specs: &[DeploymentSpec]) -> Result<Vec<Reservation>, Refusal> {
        let artifacts = self.artifacts.clone();
        let named: Vec<ArtifactId> = specs.iter().filter_map(|spec| spec.artifact.clone()).collect();
        let reserve = move |id: ArtifactId| {
            artifacts.reserve(&id).ok_or_else(|| Refusal::NoSuchArtifact { artifact: id.to_string() })
        };
        blocking(move || named.into_iter().map(reserve).collect()).await
    }

    /// Ends the wait of artifacts for deployments that are on record, or were refused.
    async fn settle(&self, reserved: Vec<Reservation>) {
        let (artifacts, feed) = (self.artifacts.clone(), Arc::clone(&self.follow.feed));
        blocking(move || {
            let named = artifacts_of(&feed.catalog());
            for reservation in reserved {
                if named.contains(reservation.id()) {
                    artifacts.adopt(reservation.id());
                    reservation.named();
                } else {
                    reservation.refused();
                }
            }
        })
        .await;
    }

    /// Removes the artifacts that no deployment names, unless they wait for one.
    pub(crate) async fn remove_unused_artifacts(&self) {
        let (artifacts, feed) = (self.artifacts.clone(), Arc::clone(&self.follow.feed));
        let removed = blocking(move || artifacts.retain(|| artifacts_of(&feed.catalog()))).await;
        if let Err(error) = removed {
            tracing::warn!(%error, "artifacts that are not used cannot be removed");
        }
    }

    /// Removes them again and again. Runs for ever.
    pub(crate) async fn supervise_artifacts(&self) {
        loop {
            tokio::time::sleep(SWEEP_INTERVAL).await;
            self.remove_unused_artifacts().await;
        }
    }

    /// Removes the artifacts that a deployment named before and none does now. Others may have just been
    /// uploaded, to be deployed next.
    async fn remove_artifacts_since(&self, before: &Catalog) {
        let now = artifacts_of(&self.catalog());
        self.remove_unnamed(artifacts_of(before).difference(&now).cloned().collect()).await;
    }

    /// Removes those of some artifacts that no deployment names and that wait for none.
    async fn remove_unnamed(&self, ids: Vec<ArtifactId>) {
        let (artifacts, feed) = (self.artifacts.clone(), Arc::clone(&self.follow.feed));
        blocking(move || {
            for id in ids {
                let is_used = || artifacts_of(&feed.catalog()).contains(&id);
                if let Err(error) = artifacts.remove_unless(&id, is_used) {
                    tracing::warn!(artifact = %id, %error, "an artifact that is not used cannot be removed");
                }
            }
        })
        .await;
    }

    /// Makes an edit of an empty catalog, and starts the deployments in it.
    pub(crate) async fn import<F>(&self, specs: Vec<DeploymentSpec>, decide: F) -> Result<(), EditError>
    where
        F: FnOnce(&Catalog) -> Result<Edit, Refusal> + Send + 'static,
    {
        let admin = self.clone();
        detached(async move {
            let reserved = admin.reserve_artifacts(&specs).await?;
            let decide = |catalog: &Catalog| {
                let edit = decide(catalog)?;
                Ok((catalog.after(&edit), edit))
            };
            // The catalog was empty, so these are the imported deployments alone.
            let imported = admin.change_with(decide).await?;
            admin.settle(reserved).await;
            admin.deployments.restore(imported.deployed()).await;
            Ok(())
        })
        .await
    }
}

/// The artifacts that deployments name.
pub(crate) fn artifacts_of(catalog: &Catalog) -> HashSet<ArtifactId> {
    catalog.deployments.values().filter_map(|deployment| deployment.spec.artifact.clone()).collect()
}

/// Runs on a thread that may block.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    finished(tokio::task::spawn_blocking(work)).await
}

/// Runs to the end even if nobody waits for it any more.
async fn detached<T, F>(work: F) -> T
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    finished(tokio::spawn(work)).await
}

async fn finished<T>(task: tokio::task::JoinHandle<T>) -> T {
    match task.await {
        Ok(output) => output,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only the end of the runtime cancels a task, and it ends whoever waits here, too.
            Err(_) => std::future::pending().await,
        },
    }
}
