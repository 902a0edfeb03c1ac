//! The deployments of this host: the one place where replicas are started and told to stop.
//!
//! Admin handlers call [`Deployments`]; the change feed tells it what frontends see. Invariant: every replica that may
//! still run is in the [`Table`], in its deployment or among those that are leaving.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix_rt::Arbiter;
use clipper_rpc::catalog::Revision;
use clipper_rpc::names::ModelId;
use clipper_rpc::secret::Secret;
use futures_util::future::join_all;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, Semaphore, watch};
use tokio::time::{timeout, timeout_at};
use tracing::{info, warn};

use super::change::{Change, Patience};
use super::leftovers;
use super::logs;
use super::model_files::{self, ModelFiles};
use super::process::{absolute, located};
use super::replica::{Host, ReplicaHandle};
use super::{Config, DeployError, DeploymentSpec, DeploymentStatus, FrontendView, Frontends, NumReplicas};

/// So many lines of a replica's log are answered at the most.
const MOST_LOG_LINES: usize = 10_000;
/// The most bytes of the logs in one answer. Replicas in excess are answered with a sentence instead.
const MOST_LOG_BYTES: usize = 32 << 20;
/// So many processes of replicas are being started at once, lest a large deployment take the host from the others.
const STARTS_AT_ONCE: usize = 16;

/// A handle to the deployments of this host. Cheap to clone.
///
/// Each replica is an actor, on a thread that all share. The table of them is behind a lock instead: it changes when
/// an operator says so, and a lock lets a change be withdrawn where its caller disappears ([`Change`]).
#[derive(Debug, Clone)]
pub struct Deployments {
    pub(super) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) host: Host,
    pub(super) frontends: watch::Sender<Frontends>,
    /// Held for a few map operations, never across an await.
    table: Mutex<Table>,
}

/// One deployment, as opposed to a later one of the same model.
#[derive(Debug, Clone)]
pub struct Running {
    model: ModelId,
    change: Arc<AsyncMutex<()>>,
    files: Option<Arc<ModelFiles>>,
}

#[derive(Debug, Default)]
pub(super) struct Table {
    deployments: BTreeMap<ModelId, Deployment>,
    /// Replicas that were told to stop and may not have yet.
    leaving: Vec<(ModelId, ReplicaHandle)>,
}

#[derive(Debug)]
pub(super) struct Deployment {
    pub(super) spec: DeploymentSpec,
    /// Registration token of its replicas.
    pub(super) token: Secret,
    /// Its copy of its artifact, if it has one.
    pub(super) files: Option<Arc<ModelFiles>>,
    /// By number.
    pub(super) replicas: Vec<ReplicaHandle>,
    /// Held by whoever changes the number of replicas, until they are ready. Also tells this deployment from a later
    /// one of the same model.
    change: Arc<AsyncMutex<()>>,
}

/// A deployment that is in its place and has no replicas yet. Dropping it frees the place.
#[derive(Debug)]
pub struct BegunDeployment {
    change: Change,
    /// Others that change the number of replicas wait.
    held: OwnedMutexGuard<()>,
    num_replicas: NumReplicas,
    files: Option<Arc<ModelFiles>>,
}

impl BegunDeployment {
    /// Starts the replicas, and waits until every one is ready.
    ///
    /// # Errors
    /// If not every replica becomes ready within `timeout`, or the deployment was stopped. Nothing of it is
    /// left then; likewise if this future is dropped.
    pub async fn complete(self, timeout: Duration) -> Result<Running, DeployError> {
        let Self { change, held, num_replicas, files } = self;
        let (model, lock) = (change.model.clone(), Arc::clone(&change.lock));
        let grown = change.grow(num_replicas, Patience::new(timeout)).await;
        if grown.is_err()
            && let Some(files) = &files
        {
            files.remove().await;
        }
        drop(held);
        grown.map(|()| Running { model, change: lock, files })
    }
}

impl Deployments {
    /// Begins with no deployments and no frontends, and clears away the processes and working directories that an
    /// earlier management may have left. Must be called within an actix system. Blocks for as long as that takes.
    pub fn start(config: Config) -> Self {
        let mut config = config;
        // Replicas run in directories of their own, so every path they are given must hold from there.
        config.data_dir = config.data_dir.canonicalize().unwrap_or_else(|_| absolute(&config.data_dir));
        if let Some(program) = config.guard.first_mut() {
            *program = located(program.as_ref()).into();
        }
        leftovers::kill_all(leftovers::REPLICA_OF, config.data_dir.as_os_str().as_encoded_bytes());
        for left in ["replicas", model_files::FOLDER].map(|folder| config.data_dir.join(folder)) {
            if let Err(error) = std::fs::remove_dir_all(&left)
                && error.kind() != io::ErrorKind::NotFound
            {
                warn!(path = %left.display(), %error, "directories of former replicas cannot be removed");
            }
        }
        let starts = Arc::new(Semaphore::new(STARTS_AT_ONCE));
        let shared = Shared {
            host: Host { config, arbiter: Arbiter::new().handle(), starts },
            frontends: watch::Sender::new(Frontends::default()),
            table: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Takes the place of a deployment of this generation of its version. From now on the deployment
    /// can be stopped; it has no replicas until it is completed.
    ///
    /// # Errors
    /// If there is one of the same model already.
    pub fn begin(&self, spec: DeploymentSpec, generation: Revision) -> Result<BegunDeployment, DeployError> {
        let model = spec.model.clone();
        let num_replicas = spec.num_replicas;
        let spec = DeploymentSpec { num_replicas: NumReplicas::NONE, ..spec };
        let deployment = self.prepared(spec, generation);
        let (lock, files) = (Arc::clone(&deployment.change), deployment.files.clone());
        let held = Arc::clone(&lock).try_lock_owned().expect("nobody else knows of the lock yet");
        {
            let mut table = self.table();
            if table.deployments.contains_key(&model) {
                return Err(DeployError::AlreadyDeployed { model });
            }
            table.deployments.insert(model.clone(), deployment);
        }
        let change = Change { deployments: self.clone(), model, lock, former: None, kept: false };
        Ok(BegunDeployment { change, held, num_replicas, files })
    }

    /// Begins a deployment and completes it.
    ///
    /// # Errors
    /// If it cannot begin, or cannot be completed within `timeout`. Nothing of it is left then; likewise if
    /// this future is dropped.
    pub async fn deploy(
        &self,
        spec: DeploymentSpec,
        generation: Revision,
        timeout: Duration,
    ) -> Result<Running, DeployError> {
        self.begin(spec, generation)?.complete(timeout).await
    }

    /// A deployment without replicas.
    fn prepared(&self, spec: DeploymentSpec, generation: Revision) -> Deployment {
        let config = &self.shared.host.config;
        let token = config.container_key.registration_token(&spec.model, generation);
        let files =
            spec.artifact.as_ref().map(|id| ModelFiles::new(&config.data_dir, id, &spec.model, generation));
        Deployment { spec, token, files: files.map(Arc::new), replicas: Vec::new(), change: Arc::default() }
    }

    /// Starts deployments that were there before management was, each of a generation of its
    /// version, without waiting for them.
    pub async fn restore(&self, deployed: Vec<(DeploymentSpec, Revision)>) {
        let mut table = self.table();
        for (spec, generation) in deployed {
            info!(model = %spec.model, num_replicas = spec.num_replicas.get(), "deployment restored");
            let numbers = 0..spec.num_replicas.get();
            let mut deployment = self.prepared(spec, generation);
            deployment.replicas = numbers.map(|number| self.start_replica(&deployment, number)).collect();
            // Another one of the same version may still be waiting to be stopped.
            table.remove(&deployment.spec.model);
            table.deployments.insert(deployment.spec.model.clone(), deployment);
        }
    }

    /// Changes the number of replicas, and waits until new ones and those that had failed are ready, and surplus ones
    /// gone.
    ///
    /// # Errors
    /// If there is no such deployment, or not every such replica becomes ready within `timeout`. The former number runs
    /// then; likewise if this future is dropped.
    pub async fn scale(
        &self,
        model: ModelId,
        num_replicas: NumReplicas,
        timeout: Duration,
    ) -> Result<(), DeployError> {
        let patience = Patience::new(timeout);
        let lock = match self.table().deployments.get(&model) {
            Some(deployment) => Arc::clone(&deployment.change),
            None => return Err(DeployError::NotDeployed { model }),
        };
        let Ok(_held) = timeout_at(patience.deadline, lock.lock()).await else {
            return Err(DeployError::Busy { model, waited: patience.timeout });
        };
        let former = match self.table().own(&model, &lock) {
            Some(deployment) => deployment.spec.num_replicas,
            None => return Err(DeployError::Stopped { model }),
        };
        let change = Change {
            deployments: self.clone(),
            model,
            lock: Arc::clone(&lock),
            former: Some(former),
            kept: false,
        };
        if num_replicas > former {
            change.grow(num_replicas, patience).await
        } else {
            change.shrink(num_replicas, patience).await
        }
    }

    /// The deployments of these models that there are now.
    pub fn running(&self, models: &[ModelId]) -> Vec<Running> {
        let table = self.table();
        let deployed = models.iter().filter_map(|model| Some((model, table.deployments.get(model)?)));
        deployed
            .map(|(model, deployment)| Running {
                model: model.clone(),
                change: Arc::clone(&deployment.change),
                files: deployment.files.clone(),
            })
            .collect()
    }

    /// How many replicas those of these models have that are deployed.
    pub fn counted(&self, models: &[ModelId]) -> Vec<(ModelId, NumReplicas)> {
        let table = self.table();
        let deployed = models.iter().filter_map(|model| table.deployments.get(model));
        deployed.map(|deployment| (deployment.spec.model.clone(), deployment.spec.num_replicas)).collect()
    }

    /// Stops the replicas of deployments, which stay without any, and returns once their processes are gone. Whoever
    /// is changing their number is told that they were stopped.
    pub async fn halt(&self, halted: Vec<Running>) {
        let leaving = {
            let mut table = self.table();
            for Running { model, change, .. } in &halted {
                table.truncate(model, change, NumReplicas::NONE);
                if let Some(deployment) = table.own(model, change) {
                    deployment.change = Arc::default();
                }
            }
            table.leaving(|model| halted.iter().any(|halted| halted.model == *model))
        };
        self.all_gone(leaving).await;
    }

    /// Stops deployments, unless they have been, and returns once their processes are gone.
    pub async fn stop(&self, stopped: Vec<Running>) {
        let leaving = {
            let mut table = self.table();
            for Running { model, change, .. } in &stopped {
                if table.own(model, change).is_some() {
                    table.remove(model);
                }
            }
            table.leaving(|model| stopped.iter().any(|stopped| stopped.model == *model))
        };
        self.all_gone(leaving).await;
        for Running { model, files, .. } in &stopped {
            if let Some(files) = files {
                files.remove().await;
            }
            self.forget_logs(model).await;
        }
    }

    /// Removes the logs of a model's version, unless it is deployed.
    pub(super) async fn forget_logs(&self, model: &ModelId) {
        if !self.table().deployments.contains_key(model) {
            logs::remove(&self.shared.host.config.data_dir, model).await;
        }
    }

    /// Removes the logs of versions that are deployed no more. To be called before anything is deployed.
    pub async fn sweep_logs(&self, deployed: &HashSet<ModelId>) {
        if let Err(error) = logs::sweep(&self.shared.host.config.data_dir, deployed).await {
            warn!(%error, "logs of former replicas cannot be removed");
        }
    }

    /// How every deployment is doing.
    pub async fn list(&self) -> Vec<DeploymentStatus> {
        let table = self.table();
        table
            .deployments
            .values()
            .map(|deployment| {
                let replicas = deployment.replicas.iter().map(ReplicaHandle::status).collect();
                DeploymentStatus::new(&deployment.spec, replicas)
            })
            .collect()
    }

    /// The last lines, at most so many and [`MOST_LOG_LINES`], that each replica printed, or one of them; under `model:version:replica`.
    ///
    /// # Errors
    /// If there is no such deployment or replica.
    pub async fn logs(
        &self,
        model: ModelId,
        replica: Option<u32>,
        lines: usize,
    ) -> Result<BTreeMap<String, Vec<String>>, DeployError> {
        let (replicas, num_replicas) = match self.table().deployments.get(&model) {
            Some(deployment) => (deployment.replicas.clone(), deployment.spec.num_replicas.get()),
            None => return Err(DeployError::NotDeployed { model }),
        };
        let mut logs = BTreeMap::new();
        let mut room = MOST_LOG_BYTES;
        for handle in replicas.iter().filter(|handle| replica.is_none_or(|number| number == handle.number)) {
            let logged = match room {
                0 => Vec::new(),
                _ => handle.output.logged_lines(lines.min(MOST_LOG_LINES)).await,
            };
            logs.insert(format!("{model}:{}", handle.number), within(&mut room, logged));
        }
        match replica {
            Some(replica) if logs.is_empty() => {
                Err(DeployError::UnknownReplica { model, replica, num_replicas })
            }
            _ => Ok(logs),
        }
    }

    /// Takes note of what frontends report. To be called at every change of it.
    pub fn observe(&self, frontends: Vec<FrontendView>) {
        let frontends: Frontends = frontends.into();
        // Under the lock, so that a replica that is being started neither misses this nor sees it twice.
        let mut table = self.table();
        table.forget_gone();
        self.shared.frontends.send_replace(Arc::clone(&frontends));
        for replica in table.deployments.values().flat_map(|deployment| &deployment.replicas) {
            replica.observe(Arc::clone(&frontends));
        }
    }

    /// Stops every process, and returns once they are gone, or cannot be killed. Nothing can be deployed any more.
    pub async fn shutdown(&self) {
        let leaving = {
            let mut table = self.table();
            let models: Vec<ModelId> = table.deployments.keys().cloned().collect();
            for model in &models {
                table.remove(model);
            }
            table.leaving(|_| true)
        };
        // Each is told to end, killed, and killed with its guard, after a time of grace each.
        let limit = 4 * self.shared.host.config.grace;
        if timeout(limit, self.all_gone(leaving)).await.is_err() {
            warn!(
                ?limit,
                "shutdown waits no longer for replicas that do not end: the next start kills what is left"
            );
        }
        self.shared.host.arbiter.stop();
    }

    /// Waits until the processes of replicas are gone, and forgets all that are.
    pub(super) async fn all_gone(&self, replicas: Vec<ReplicaHandle>) {
        join_all(replicas.into_iter().map(ReplicaHandle::gone)).await;
        self.table().forget_gone();
    }

    pub(super) fn table(&self) -> MutexGuard<'_, Table> {
        self.shared.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be called under the table's lock.
    pub(super) fn start_replica(&self, deployment: &Deployment, number: u32) -> ReplicaHandle {
        let Shared { host, frontends, .. } = &*self.shared;
        ReplicaHandle::start(host, deployment, number, Arc::clone(&frontends.borrow()))
    }
}

impl Table {
    /// The deployment that this lock belongs to, if it has not been stopped.
    pub(super) fn own(&mut self, model: &ModelId, lock: &Arc<AsyncMutex<()>>) -> Option<&mut Deployment> {
        self.deployments.get_mut(model).filter(|deployment| Arc::ptr_eq(&deployment.change, lock))
    }

    /// Stops the replicas from number `count` on. Returns them.
    pub(super) fn truncate(
        &mut self,
        model: &ModelId,
        lock: &Arc<AsyncMutex<()>>,
        count: NumReplicas,
    ) -> Vec<ReplicaHandle> {
        let Some(deployment) = self.own(model, lock) else { return Vec::new() };
        deployment.spec.num_replicas = count;
        let surplus = deployment.replicas.split_off(deployment.replicas.len().min(count.get() as usize));
        self.dismiss(model, &surplus);
        surplus
    }

    /// Stops the deployment of a model, if there is one.
    pub(super) fn remove(&mut self, model: &ModelId) {
        if let Some(deployment) = self.deployments.remove(model) {
            self.dismiss(model, &deployment.replicas);
        }
    }

    fn dismiss(&mut self, model: &ModelId, replicas: &[ReplicaHandle]) {
        for replica in replicas {
            replica.stop();
            self.leaving.push((model.clone(), replica.clone()));
        }
    }

    fn forget_gone(&mut self) {
        self.leaving.retain(|(_, replica)| !replica.is_gone());
    }

    /// The replicas of some models that were told to stop and may not have yet.
    pub(super) fn leaving(&mut self, of: impl Fn(&ModelId) -> bool) -> Vec<ReplicaHandle> {
        self.forget_gone();
        self.leaving.iter().filter(|(model, _)| of(model)).map(|(_, replica)| replica.clone()).collect()
    }
}

/// The last lines for which there is room, after a line that says how many are left out. Nothing fits after a log that
/// did not.
fn within(room: &mut usize, lines: Vec<String>) -> Vec<String> {
    // What a line takes in an answer, beside its text.
    const LINE_BYTES: usize = 32;
    let mut left = *room;
    let fitting = lines.iter().rev().take_while(|line| {
        let fits = left.checked_sub(line.len() + LINE_BYTES);
        left = fits.unwrap_or_default();
        fits.is_some()
    });
    let left_out = lines.len() - fitting.count();
    let is_full = *room == 0;
    *room = left;
    match left_out {
        0 if is_full => {
            vec![format!("[left out: an answer has at most {MOST_LOG_BYTES} bytes; ask for one replica]")]
        }
        0 => lines,
        _ => {
            let notice = format!("[{left_out} lines left out: an answer has at most {MOST_LOG_BYTES} bytes]");
            std::iter::once(notice).chain(lines.into_iter().skip(left_out)).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_in_excess_are_left_out_oldest_first_and_that_is_said() {
        let lines = || vec!["a".repeat(68); 5];
        let mut room = 1000;
        assert_eq!(within(&mut room, lines()), lines());
        assert_eq!(within(&mut room, lines()), lines());
        assert_eq!(room, 0);
        let excess = within(&mut room, Vec::new());
        assert_eq!(excess, ["[left out: an answer has at most 33554432 bytes; ask for one replica]"]);
        let mut room = 250;
        let excess = within(&mut room, lines());
        assert_eq!(excess[0], "[3 lines left out: an answer has at most 33554432 bytes]");
        assert_eq!((excess.len(), room), (3, 0));
    }
}
