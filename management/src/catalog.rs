//! All that management knows, as values in memory, and the edits that lead from one state to the next.
//!
//! The store keeps the same records on disk and is the only one to apply edits; everyone else reads. Pure: no
//! clock, no disk. Invariant: a catalog equals the one that it was before plus the edits since, and each change
//! of what frontends follow raises the revision by one.

use std::collections::BTreeMap;
use std::sync::Arc;

use clipper_rpc::catalog::{Application, Change, Generation, Model, ModelVersionSpec, Revision, Snapshot};
use clipper_rpc::input::InputType;
use clipper_rpc::names::{AppName, ModelId, ModelName};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::bounds;
use crate::deployment::DeploymentSpec;
use crate::deployments::Deployment;

/// The bits of a generation. Whole numbers of this length are exact to every reader of JSON.
const GENERATION_BITS: u32 = 53;

/// Every record. Cheap to clone: records are shared.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Catalog {
    /// The run of the store in which the next edit is made: see [`clipper_rpc::catalog::Position`]. Not stored.
    pub run: Uuid,
    /// The number of this state; deployments are not counted, as frontends do not follow them.
    pub revision: Revision,
    /// Applications by name.
    pub applications: BTreeMap<AppName, Arc<Application>>,
    /// Models by name.
    pub models: BTreeMap<ModelName, Arc<Model>>,
    /// Deployments by what they serve.
    pub deployments: BTreeMap<ModelId, Arc<Deployment>>,
    /// First number that is tried for the next new frontend, modulo the numbers that there are.
    pub next_frontend_number: u64,
    /// The memory of all records, roughly.
    pub(crate) bytes: usize,
}

/// A step from one catalog to the next, written as a whole or not at all.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Edit {
    /// What frontends will hear of, in order.
    pub changes: Vec<Change>,
    /// Deployments to store, or (`None`) to forget.
    pub deployments: Vec<(ModelId, Option<Deployment>)>,
    /// First number that is tried for the next new frontend from now on.
    pub next_frontend_number: Option<u64>,
}

impl Edit {
    /// An edit of nothing but one change.
    pub fn change(change: Change) -> Self {
        Self { changes: vec![change], ..Self::default() }
    }

    /// Whether this leaves everything as it is.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.deployments.is_empty() && self.next_frontend_number.is_none()
    }
}

impl Catalog {
    /// The catalog with these records.
    pub(crate) fn of(
        applications: BTreeMap<AppName, Arc<Application>>,
        models: BTreeMap<ModelName, Arc<Model>>,
        deployments: BTreeMap<ModelId, Arc<Deployment>>,
    ) -> Self {
        let bytes = applications.values().map(|it| bounds::size_of_application(it)).sum::<usize>()
            + models.values().map(|it| bounds::size_of_model(it)).sum::<usize>()
            + deployments.values().map(|it| bounds::size_of_deployment(it)).sum::<usize>();
        Self { applications, models, deployments, bytes, ..Self::default() }
    }

    /// The catalog after a step.
    #[must_use]
    pub fn after(&self, edit: &Edit) -> Self {
        let mut after = self.clone();
        after.apply(edit);
        after
    }

    /// Takes the step.
    pub fn apply(&mut self, edit: &Edit) {
        for change in &edit.changes {
            self.bytes += bounds::size_of_change(change);
            self.bytes -= bounds::size_of_replaced(self, change);
            self.apply_change(change);
        }
        for (model, deployment) in &edit.deployments {
            self.bytes += deployment.as_ref().map_or(0, bounds::size_of_deployment);
            let before = match deployment {
                Some(deployment) => self.deployments.insert(model.clone(), Arc::new(deployment.clone())),
                None => self.deployments.remove(model),
            };
            self.bytes -= before.map_or(0, |before| bounds::size_of_deployment(&before));
        }
        if let Some(next) = edit.next_frontend_number {
            self.next_frontend_number = next;
        }
    }

    fn apply_change(&mut self, change: &Change) {
        match change {
            Change::PutApplication { application } => {
                self.applications.insert(application.name.clone(), Arc::new(application.clone()));
            }
            Change::DeleteApplication { name } => {
                self.applications.remove(name);
            }
            Change::PutModel { model } => {
                self.models.insert(model.name.clone(), Arc::new(model.clone()));
            }
            Change::DeleteModel { name } => {
                self.models.remove(name);
            }
        }
        self.revision += 1;
    }

    /// What a frontend starts from.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            applications: self
                .applications
                .values()
                .map(|application| Application::clone(application))
                .collect(),
            models: self.models.values().map(|model| Model::clone(model)).collect(),
        }
    }

    /// What is registered of one version of a model.
    pub fn version(&self, id: &ModelId) -> Option<&ModelVersionSpec> {
        self.models.get(&id.name)?.versions.get(&id.version)
    }

    /// Generation of whatever the next change registers. A digest of the run and the revision: a store that is put
    /// back to an earlier revision gives no generation again, as another run begins when it is opened.
    pub fn next_generation(&self) -> Generation {
        let digest = Sha256::new().chain_update(self.run).chain_update((self.revision + 1).to_be_bytes());
        let bytes = digest.finalize().into_iter().take(size_of::<Generation>());
        let first = bytes.fold(0, |number, byte| (number << 8) | Generation::from(byte));
        first >> (Generation::BITS - GENERATION_BITS)
    }

    /// The generation of a version; 0 if it is not registered.
    pub fn generation(&self, id: &ModelId) -> Generation {
        self.version(id).map_or(0, |version| version.generation)
    }

    /// Each deployment, with the generation of the version that it serves.
    pub fn deployed(&self) -> Vec<(DeploymentSpec, Generation)> {
        let deployments = self.deployments.iter();
        deployments.map(|(id, deployment)| (deployment.spec.clone(), self.generation(id))).collect()
    }

    /// The input type that a model answers by its current version; `None` while it has none.
    pub fn current_input_type(&self, model: &ModelName) -> Option<InputType> {
        let model = self.models.get(model)?;
        model.versions.get(model.current_version.as_ref()?).map(|version| version.input_type)
    }

    /// The applications that a model is linked to.
    pub fn applications_of<'a>(&'a self, model: &'a ModelName) -> impl Iterator<Item = &'a Application> {
        self.applications
            .values()
            .map(Arc::as_ref)
            .filter(move |application| application.linked_models.contains(model))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(run: u128, revision: Revision) -> Catalog {
        Catalog { run: Uuid::from_u128(run), revision, ..Catalog::default() }
    }

    #[test]
    fn generations_differ_between_runs_and_between_revisions_and_are_exact_in_json() {
        let generations = [at(1, 7), at(1, 8), at(2, 7)].map(|catalog| catalog.next_generation());
        assert_ne!(generations[0], generations[1]);
        assert_ne!(generations[0], generations[2]);
        assert!(generations.iter().all(|generation| *generation < 1 << GENERATION_BITS));
        assert_eq!(at(1, 7).next_generation(), generations[0]);
    }
}
