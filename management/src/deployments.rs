//! The records of deployments: which processes management has to keep running, restarts of its own included.
//!
//! Pure decisions like those of `models.rs`; the processes themselves are the business of `deployment/`. A
//! deployment is stored `pending` together with its version, which is not current yet; once its replicas are
//! ready, one edit removes the mark and makes the version current. Invariant: every deployment serves a
//! registered version, and what is still pending when management starts never became ready and is removed.

use std::collections::HashSet;
use std::sync::Arc;

use clipper_rpc::catalog::{Change, Model, ModelVersionSpec};
use clipper_rpc::names::{ModelId, ModelName};
use serde::{Deserialize, Serialize};

use crate::bounds;
use crate::catalog::{Catalog, Edit};
use crate::deployment::{DeploymentSpec, NumReplicas};
use crate::models::{self, Adding};
use crate::refusal::Refusal;

/// What is stored of a deployment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Deployment {
    /// What runs.
    pub spec: DeploymentSpec,
    /// Whether its replicas have yet to become ready for the first time.
    pub pending: bool,
}

impl Deployment {
    fn with(&self, num_replicas: NumReplicas) -> Self {
        Self { spec: DeploymentSpec { num_replicas, ..self.spec.clone() }, pending: self.pending }
    }
}

/// Checks that a deployment makes sense for the version that it serves.
///
/// # Errors
/// If it takes other inputs, or has two sets of files.
pub fn check(spec: &DeploymentSpec, version: &ModelVersionSpec) -> Result<(), Refusal> {
    if spec.input_type != version.input_type {
        return Err(Refusal::DeploymentOfOtherInputs {
            model: spec.model.clone(),
            model_type: version.input_type,
            deployed_type: spec.input_type,
        });
    }
    if spec.artifact.is_some() && spec.model_data_path.is_some() {
        return Err(Refusal::OneModelPath);
    }
    Ok(())
}

/// Adds a version that is not current, and its deployment.
///
/// # Errors
/// As of [`models::add`].
pub fn begin(catalog: &Catalog, spec: DeploymentSpec, version: ModelVersionSpec) -> Result<Edit, Refusal> {
    bounds::deployment(&spec)?;
    let model = spec.model.clone();
    let added = models::add(catalog, &model, version, Adding::Aside)?;
    Ok(Edit { deployments: vec![(model, Some(Deployment { spec, pending: true }))], ..added })
}

/// Makes the version of a deployment that became ready, with so many replicas, the current one.
///
/// # Errors
/// If it was stopped or deleted meanwhile, or an application with other inputs was linked to the model meanwhile.
pub fn complete(catalog: &Catalog, id: &ModelId, num_replicas: NumReplicas) -> Result<Edit, Refusal> {
    let stopped = || Refusal::DeploymentStopped { model: id.clone() };
    let begun = |it: &&Arc<Deployment>| it.pending && it.spec.num_replicas == num_replicas;
    let deployment = catalog.deployments.get(id).filter(begun).ok_or_else(stopped)?;
    let ready = Deployment { pending: false, ..Deployment::clone(deployment) };
    let mut with_it_ready = catalog.clone();
    with_it_ready.apply(&Edit { deployments: vec![(id.clone(), Some(ready.clone()))], ..Edit::default() });
    let current = models::set_version(&with_it_ready, id)?;
    Ok(Edit { deployments: vec![(id.clone(), Some(ready))], ..current })
}

/// Removes a deployment that did not become ready, and its version. Nothing to remove is fine.
pub fn abandon(catalog: &Catalog, id: &ModelId) -> Edit {
    let pending = catalog.deployments.get(id).is_some_and(|deployment| deployment.pending);
    if !pending {
        return Edit::default();
    }
    models::delete_version(catalog, id)
        .unwrap_or_else(|_| Edit { deployments: vec![(id.clone(), None)], ..Edit::default() })
}

/// Removes whatever was being deployed when management was last killed.
pub fn abandon_all(catalog: &Catalog) -> Edit {
    let mut rest = catalog.clone();
    let mut all = Edit::default();
    for id in catalog.deployments.keys() {
        let edit = abandon(&rest, id);
        rest.apply(&edit);
        all.changes.extend(edit.changes);
        all.deployments.extend(edit.deployments);
    }
    all
}

/// Stores how many replicas deployments have. What is unknown, or still to become ready, is left out.
pub fn record(catalog: &Catalog, counted: Vec<(ModelId, NumReplicas)>) -> Edit {
    let changed = counted.into_iter().filter_map(|(id, num_replicas)| {
        let deployment = ready(catalog, &id).ok()?;
        (deployment.spec.num_replicas != num_replicas).then(|| (id, Some(deployment.with(num_replicas))))
    });
    Edit { deployments: changed.collect(), ..Edit::default() }
}

/// The deployment of a version, once it has been ready.
///
/// # Errors
/// If there is none.
pub fn ready<'a>(catalog: &'a Catalog, id: &ModelId) -> Result<&'a Deployment, Refusal> {
    let deployment = catalog.deployments.get(id).filter(|deployment| !deployment.pending);
    deployment.map(AsRef::as_ref).ok_or_else(|| Refusal::NoDeployment { model: id.clone() })
}

/// Which deployments to stop.
#[derive(Debug, Clone, PartialEq)]
pub enum Selection {
    /// All of these models. Each must have one.
    Models(Vec<ModelName>),
    /// These versions. Each must have one.
    Versions(Vec<ModelId>),
    /// All of these models but those of current versions and those that are still to become ready.
    Inactive(Vec<ModelName>),
    /// All.
    All,
}

/// What a selection stops.
#[derive(Debug, PartialEq)]
pub struct Stopped {
    /// Deployments whose replicas go, and which can be given others.
    pub ready: Vec<ModelId>,
    /// Deployments that fail thereby, and whose failure removes their versions as well.
    pub pending: Vec<ModelId>,
    /// How many of them had replicas.
    pub count: usize,
}

/// The deployments of a selection, and the edit that leaves them without replicas.
///
/// # Errors
/// If there is no deployment of something that was named.
pub fn stop(catalog: &Catalog, selection: &Selection) -> Result<(Stopped, Edit), Refusal> {
    let is_deployed = |model: &ModelName| catalog.deployments.keys().any(|id| id.name == *model);
    let stopped: Vec<&ModelId> = match selection {
        Selection::Models(models) => {
            if let Some(model) = models.iter().find(|model| !is_deployed(model)) {
                return Err(Refusal::NoDeploymentOfModel { model: model.clone() });
            }
            catalog.deployments.keys().filter(|id| models.contains(&id.name)).collect()
        }
        Selection::Versions(versions) => {
            if let Some(model) = versions.iter().find(|id| !catalog.deployments.contains_key(id)) {
                return Err(Refusal::NoDeployment { model: model.clone() });
            }
            catalog.deployments.keys().filter(|id| versions.contains(id)).collect()
        }
        Selection::Inactive(models) => catalog
            .deployments
            .keys()
            .filter(|id| models.contains(&id.name) && is_inactive(catalog, id))
            .collect(),
        Selection::All => catalog.deployments.keys().collect(),
    };
    let running = |id: &&&ModelId| catalog.deployments[**id].spec.num_replicas > NumReplicas::NONE;
    let without: Vec<_> = stopped
        .iter()
        .filter(running)
        .map(|id| (ModelId::clone(id), Some(catalog.deployments[*id].with(NumReplicas::NONE))))
        .collect();
    let count = without.len();
    let (pending, ready) = stopped.into_iter().cloned().partition(|id| catalog.deployments[id].pending);
    Ok((Stopped { ready, pending, count }, Edit { deployments: without, ..Edit::default() }))
}

fn is_inactive(catalog: &Catalog, id: &ModelId) -> bool {
    let current = catalog.models.get(&id.name).and_then(|model| model.current_version.as_ref());
    current != Some(&id.version) && !catalog.deployments[id].pending
}

/// Everything in one edit, for a catalog that holds nothing.
///
/// # Errors
/// If the catalog holds something, or the records do not fit together.
pub fn import(
    catalog: &Catalog,
    applications: Vec<clipper_rpc::catalog::Application>,
    models: Vec<Model>,
    specs: Vec<DeploymentSpec>,
) -> Result<Edit, Refusal> {
    if !(catalog.applications.is_empty() && catalog.models.is_empty() && catalog.deployments.is_empty()) {
        return Err(Refusal::ImportIntoCatalog);
    }
    let inconsistent = |what: String| Err(Refusal::ImportInconsistent { what });
    let mut rest = catalog.clone();
    let mut all = Edit::default();
    for mut model in models {
        bounds::one_more_model(&rest)?;
        bounds::versions(&model)?;
        if rest.models.contains_key(&model.name) {
            return inconsistent(format!("model '{}' occurs twice", model.name));
        }
        if model.versions.is_empty() {
            return inconsistent(format!("model '{}' has no versions", model.name));
        }
        if let Some(current) = model.current_version.as_ref().filter(|it| !model.versions.contains_key(*it)) {
            return inconsistent(format!(
                "the current version '{current}' of model '{}' is not registered",
                model.name
            ));
        }
        for version in model.versions.values_mut() {
            models::check(version)?;
            bounds::version(version)?;
            // That of the export belongs to another registration.
            version.generation = rest.next_generation();
        }
        let edit = Edit::change(Change::PutModel { model });
        rest.apply(&edit);
        all.changes.extend(edit.changes);
    }
    for application in applications {
        let edit = crate::applications::add(&rest, application)?;
        rest.apply(&edit);
        all.changes.extend(edit.changes);
    }
    let mut deployed = HashSet::new();
    for spec in specs {
        bounds::deployment(&spec)?;
        let Some(version) = rest.version(&spec.model) else {
            return inconsistent(format!("the deployed version '{}' is not registered", spec.model));
        };
        check(&spec, version)?;
        if !deployed.insert(spec.model.clone()) {
            return inconsistent(format!("the deployment of '{}' occurs twice", spec.model));
        }
        all.deployments.push((spec.model.clone(), Some(Deployment { spec, pending: false })));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use clipper_rpc::input::InputType;

    use super::*;
    use crate::applications::tests::{app, edited};
    use crate::deployment::{ContainerKind, Environment, Run, StartupTimeout};
    use crate::models::tests::{doubles, model_id, registered};

    fn spec(id: &ModelId) -> DeploymentSpec {
        DeploymentSpec {
            model: id.clone(),
            input_type: InputType::Doubles,
            num_replicas: NumReplicas::ONE,
            run: Run::Kind(ContainerKind::Noop),
            environment: Environment::default(),
            artifact: None,
            model_data_path: None,
            python: None,
            startup_timeout: StartupTimeout::default(),
        }
    }

    fn begun(catalog: Catalog, id: &ModelId) -> Catalog {
        let edit = begin(&catalog, spec(id), doubles());
        edited(catalog, edit)
    }

    fn deployed(catalog: Catalog, id: &ModelId) -> Catalog {
        let catalog = begun(catalog, id);
        let edit = complete(&catalog, id, NumReplicas::ONE);
        edited(catalog, edit)
    }

    #[test]
    fn a_version_is_current_only_once_its_deployment_is_ready() {
        let (first, second) = (model_id("m", "1"), model_id("m", "2"));
        let catalog = registered(Catalog::default(), &first, doubles());
        let catalog = begun(catalog, &second);
        assert_eq!(catalog.models["m"].current_version, Some(first.version));
        let edit = complete(&catalog, &second, NumReplicas::ONE);
        let catalog = edited(catalog, edit);
        assert_eq!(catalog.models["m"].current_version, Some(second.version.clone()));
        assert!(!catalog.deployments[&second].pending);
    }

    #[test]
    fn an_import_of_two_sets_of_files_for_one_deployment_is_refused() {
        let id = model_id("m", "1");
        let model = Model::clone(&registered(Catalog::default(), &id, doubles()).models["m"]);
        let artifact = Some("0".repeat(64).parse().unwrap());
        let both = DeploymentSpec { artifact, model_data_path: Some("/models".into()), ..spec(&id) };
        let refused = import(&Catalog::default(), Vec::new(), vec![model], vec![both]);
        assert_eq!(refused, Err(Refusal::OneModelPath));
    }

    #[test]
    fn an_imported_version_is_of_another_generation_than_one_that_was_there_before() {
        let id = model_id("m", "1");
        let before = registered(Catalog::default(), &id, doubles());
        let exported = vec![Model::clone(&before.models["m"])];
        let edit = models::delete_version(&before, &id);
        let emptied = edited(before, edit);
        let former = exported[0].versions[&id.version].generation;
        let edit = import(&emptied, Vec::new(), exported, Vec::new());
        assert_ne!(edited(emptied, edit).generation(&id), former);
    }

    #[test]
    fn a_deployment_that_becomes_ready_keeps_its_generation() {
        let id = model_id("m", "1");
        let catalog = begun(Catalog::default(), &id);
        let generation = catalog.generation(&id);
        let edit = complete(&catalog, &id, NumReplicas::ONE);
        assert_eq!(edited(catalog, edit).generation(&id), generation);
    }

    #[test]
    fn what_was_being_deployed_at_a_kill_is_removed_and_the_rest_stays() {
        let ready = deployed(Catalog::default(), &model_id("m", "1"));
        let mut catalog =
            begun(begun(begun(ready.clone(), &model_id("m", "2")), &model_id("n", "1")), &model_id("n", "2"));
        catalog.apply(&abandon_all(&catalog));
        assert_eq!((catalog.models, catalog.deployments), (ready.models, ready.deployments));
        assert!(catalog.revision > ready.revision);
    }

    #[test]
    fn a_deployment_that_was_deleted_on_the_way_is_not_completed() {
        let id = model_id("m", "1");
        let catalog = begun(Catalog::default(), &id);
        let edit = models::delete_version(&catalog, &id);
        let catalog = edited(catalog, edit);
        let refused = complete(&catalog, &id, NumReplicas::ONE).unwrap_err();
        assert!(refused.to_string().ends_with("was stopped or deleted while it was being deployed"));
        assert!(abandon(&catalog, &id).is_empty());
    }

    #[test]
    fn a_deployment_is_not_completed_under_an_application_of_other_inputs() {
        let id = model_id("m", "1");
        let catalog = begun(Catalog::default(), &id);
        let mut other = app("a", &["m"]);
        other.input_type = InputType::Ints;
        let edit = crate::applications::add(&catalog, other);
        let catalog = edited(catalog, edit);
        assert!(matches!(
            complete(&catalog, &id, NumReplicas::ONE),
            Err(Refusal::IncompatibleVersion { .. })
        ));
    }

    #[test]
    fn stopping_keeps_what_was_ready_without_replicas_and_lets_what_is_pending_fail() {
        let (ready, pending) = (model_id("m", "1"), model_id("m", "2"));
        let catalog = begun(deployed(Catalog::default(), &ready), &pending);
        let (inactive, _) = stop(&catalog, &Selection::Inactive(vec!["m".parse().unwrap()])).unwrap();
        assert_eq!(inactive.count, 0, "neither the current version nor the one that is about to be");
        let (stopped, edit) = stop(&catalog, &Selection::All).unwrap();
        let both = Stopped { ready: vec![ready.clone()], pending: vec![pending.clone()], count: 2 };
        assert_eq!(stopped, both);

        let catalog = edited(catalog, Ok(edit));
        assert_eq!(catalog.deployments[&ready].spec.num_replicas, NumReplicas::NONE);
        // Even if its replicas were ready before they were stopped.
        let refused = complete(&catalog, &pending, NumReplicas::ONE).unwrap_err();
        assert_eq!(refused, Refusal::DeploymentStopped { model: pending });
        let (again, edit) = stop(&catalog, &Selection::Versions(vec![ready])).unwrap();
        assert!(again.count == 0 && edit.is_empty());
    }

    #[test]
    fn the_number_of_replicas_is_recorded_of_what_has_been_ready() {
        let (ready, pending) = (model_id("m", "1"), model_id("m", "2"));
        let catalog = begun(deployed(Catalog::default(), &ready), &pending);
        let two = NumReplicas::try_from(2).unwrap();
        let counted = vec![(ready.clone(), two), (pending, two), (model_id("m", "3"), two)];
        let edit = record(&catalog, counted.clone());
        assert_eq!(edit.deployments, [(ready.clone(), Some(catalog.deployments[&ready].with(two)))]);
        let catalog = edited(catalog, Ok(edit));
        assert!(record(&catalog, counted).is_empty());
    }
}
