//! What can be done to models and their versions: pure decisions from the catalog as it is to an edit of it.
//!
//! Called by the HTTP handlers inside the store's single writer. Invariant: a current version is one of the
//! registered ones and takes the inputs of every application that its model is linked to.

use std::collections::BTreeMap;

use clipper_rpc::catalog::{Batching, BatchingStrategy, Change, Model, ModelVersionSpec};
use clipper_rpc::input::InputType;
use clipper_rpc::names::{ModelId, ModelName, ModelVersion};

use crate::bounds;
use crate::catalog::{Catalog, Edit};
use crate::refusal::Refusal;

/// The batch size of the interface that sets no bound: batches are sized by the version's strategy alone.
pub const ADAPTIVE_BATCH_SIZE: i64 = -1;
/// The longest that a batch may be told to wait for more inputs, in microseconds.
pub const MAX_WAIT_MICROS: u32 = 60_000_000;

/// The batch size as it is stored, from what the interface was given.
///
/// # Errors
/// If it is neither positive nor [`ADAPTIVE_BATCH_SIZE`].
pub fn batch_size(given: Option<i64>) -> Result<Option<u32>, Refusal> {
    match given {
        None | Some(ADAPTIVE_BATCH_SIZE) => Ok(None),
        Some(size) => match u32::try_from(size) {
            Ok(0) | Err(_) => Err(Refusal::BatchSize),
            Ok(size) => Ok(Some(size)),
        },
    }
}

/// What must hold of a version by itself.
///
/// # Errors
/// If its batches are to be of no size, of a fixed size that is not given, or to wait for more than a minute.
pub fn check(version: &ModelVersionSpec) -> Result<(), Refusal> {
    let Batching { strategy, wait_micros } = version.batching;
    match (strategy, version.batch_size) {
        (_, Some(0)) => return Err(Refusal::BatchSize),
        (BatchingStrategy::Fixed, None) => return Err(Refusal::FixedBatchSize),
        _ => {}
    }
    match wait_micros {
        Some(micros) if micros > MAX_WAIT_MICROS => Err(Refusal::BatchWait { micros, most: MAX_WAIT_MICROS }),
        _ => Ok(()),
    }
}

/// Whether a version becomes current as it is added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Adding {
    /// It answers queries from now on.
    Current,
    /// It waits for its deployment to be ready.
    Aside,
}

/// Adds a version of a model, and the model with its first one. Its generation is new.
///
/// # Errors
/// If that version is there, a setting makes no sense, or an application that is linked to the model has other inputs.
pub fn add(
    catalog: &Catalog,
    id: &ModelId,
    version: ModelVersionSpec,
    adding: Adding,
) -> Result<Edit, Refusal> {
    if catalog.version(id).is_some() {
        return Err(Refusal::VersionExists { model: id.clone() });
    }
    check(&version)?;
    bounds::version(&version)?;
    check_linked_applications(catalog, &id.name, version.input_type)?;
    if !catalog.models.contains_key(&id.name) {
        bounds::one_more_model(catalog)?;
    }
    let mut model = catalog.models.get(&id.name).map(|model| Model::clone(model)).unwrap_or_else(|| Model {
        name: id.name.clone(),
        current_version: None,
        versions: BTreeMap::new(),
    });
    let generation = catalog.next_generation();
    model.versions.insert(id.version.clone(), ModelVersionSpec { generation, ..version });
    bounds::versions(&model)?;
    if adding == Adding::Current {
        model.current_version = Some(id.version.clone());
    }
    Ok(Edit::change(Change::PutModel { model }))
}

/// What can be changed of a registered version. `None` leaves it as it is.
#[derive(Debug, Default, PartialEq)]
pub struct VersionUpdate {
    /// Free labels, for people.
    pub labels: Option<Vec<String>>,
    /// The most inputs in one batch, as of [`batch_size`].
    pub batch_size: Option<Option<u32>>,
    /// How batches are sized.
    pub batching: Option<Batching>,
    /// Whether outputs may be kept in the prediction cache.
    pub cache: Option<bool>,
}

impl VersionUpdate {
    /// The names of the fields, for people.
    const FIELDS: &str = "batching, batch_size, cache, labels";
}

/// Changes a registered version, which remains of the same generation.
///
/// # Errors
/// If that version is not there, a setting makes no sense, or nothing is to be changed.
pub fn update_version(catalog: &Catalog, id: &ModelId, update: VersionUpdate) -> Result<Edit, Refusal> {
    if update == VersionUpdate::default() {
        return Err(Refusal::NothingToUpdate { fields: VersionUpdate::FIELDS });
    }
    let no_version = || Refusal::NoSuchVersion { model: id.clone() };
    let mut model = Model::clone(catalog.models.get(&id.name).ok_or_else(no_version)?);
    let version = model.versions.get_mut(&id.version).ok_or_else(no_version)?;
    if let Some(labels) = update.labels {
        bounds::labels(&labels)?;
        version.labels = labels;
    }
    version.batch_size = update.batch_size.unwrap_or(version.batch_size);
    version.batching = update.batching.unwrap_or(version.batching);
    version.cache = update.cache.unwrap_or(version.cache);
    check(version)?;
    Ok(Edit::change(Change::PutModel { model }))
}

/// Makes a registered version the current one.
///
/// # Errors
/// If the model or the version is not there or not yet deployed, or an application that is linked to the model
/// has other inputs.
pub fn set_version(catalog: &Catalog, id: &ModelId) -> Result<Edit, Refusal> {
    let ModelId { name, version } = id.clone();
    let Some(model) = catalog.models.get(&name) else { return Err(Refusal::NoModelToSet { model: name }) };
    let Some(spec) = model.versions.get(&version) else {
        return Err(Refusal::NoVersionToSet { model: name, version });
    };
    if catalog.deployments.get(id).is_some_and(|deployment| deployment.pending) {
        return Err(Refusal::VersionBeingDeployed { model: name, version });
    }
    check_linked_applications(catalog, &name, spec.input_type)?;
    let model = Model { current_version: Some(version), ..Model::clone(model) };
    Ok(Edit::change(Change::PutModel { model }))
}

/// Deletes a version, its deployment with it. Without its current version a model has none; without any it is
/// gone.
///
/// # Errors
/// If that version is not there.
pub fn delete_version(catalog: &Catalog, id: &ModelId) -> Result<Edit, Refusal> {
    let no_version = || Refusal::NoSuchVersion { model: id.clone() };
    let mut model = Model::clone(catalog.models.get(&id.name).ok_or_else(no_version)?);
    model.versions.remove(&id.version).ok_or_else(no_version)?;
    if model.current_version.as_ref() == Some(&id.version) {
        model.current_version = None;
    }
    let change = if model.versions.is_empty() {
        Change::DeleteModel { name: model.name }
    } else {
        Change::PutModel { model }
    };
    let deployments = catalog.deployments.contains_key(id).then(|| (id.clone(), None));
    Ok(Edit { changes: vec![change], deployments: deployments.into_iter().collect(), ..Edit::default() })
}

/// The version that is meant where none is named.
///
/// # Errors
/// If the model has no current version.
pub fn version_or_current(
    catalog: &Catalog,
    name: ModelName,
    version: Option<ModelVersion>,
) -> Result<ModelId, Refusal> {
    if let Some(version) = version {
        return Ok(ModelId { name, version });
    }
    match catalog.models.get(&name).map(|model| model.current_version.clone()) {
        Some(Some(version)) => Ok(ModelId { name, version }),
        Some(None) => Err(Refusal::NoCurrentVersion { model: name }),
        None => Err(Refusal::NoSuchModel { model: name }),
    }
}

fn check_linked_applications(
    catalog: &Catalog,
    name: &ModelName,
    model_type: InputType,
) -> Result<(), Refusal> {
    match catalog.applications_of(name).find(|application| application.input_type != model_type) {
        None => Ok(()),
        Some(application) => Err(Refusal::IncompatibleVersion {
            model: name.clone(),
            app: application.name.clone(),
            app_type: application.input_type,
            model_type,
        }),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::applications::tests::{app, edited};

    pub(crate) fn model_id(name: &str, version: &str) -> ModelId {
        ModelId { name: name.parse().unwrap(), version: version.parse().unwrap() }
    }

    pub(crate) fn doubles() -> ModelVersionSpec {
        ModelVersionSpec {
            input_type: InputType::Doubles,
            labels: vec!["blue".into()],
            container_name: "noop".into(),
            model_data_path: "/models/m".into(),
            batch_size: None,
            batching: Batching::default(),
            cache: true,
            generation: 0,
        }
    }

    pub(crate) fn registered(catalog: Catalog, id: &ModelId, spec: ModelVersionSpec) -> Catalog {
        let edit = add(&catalog, id, spec, Adding::Current);
        edited(catalog, edit)
    }

    #[test]
    fn the_last_added_version_is_current() {
        let catalog = registered(Catalog::default(), &model_id("m", "2"), doubles());
        let catalog = registered(catalog, &model_id("m", "1"), doubles());
        let current = version_or_current(&catalog, "m".parse().unwrap(), None).unwrap();
        assert_eq!(current, model_id("m", "1"));
        assert_eq!(catalog.revision, 2);
    }

    #[test]
    fn a_version_of_other_inputs_than_a_linked_application_is_refused() {
        let catalog = Catalog::default();
        let catalog = edited(catalog.clone(), crate::applications::add(&catalog, app("a", &["m"])));
        let ints = ModelVersionSpec { input_type: InputType::Ints, ..doubles() };
        let refused = add(&catalog, &model_id("m", "1"), ints, Adding::Current).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "Model with name 'm' is already linked to app 'a' using input type 'doubles'. The input type you provided \
             for a new version of the model, 'ints', is not compatible."
        );
    }

    #[test]
    fn deleting_the_current_version_leaves_none_and_deleting_the_last_deletes_the_model() {
        let catalog = registered(Catalog::default(), &model_id("m", "1"), doubles());
        let catalog = registered(catalog, &model_id("m", "2"), doubles());
        let catalog = edited(catalog.clone(), delete_version(&catalog, &model_id("m", "2")));
        assert_eq!(catalog.models["m"].current_version, None);
        let catalog = edited(catalog.clone(), delete_version(&catalog, &model_id("m", "1")));
        assert!(catalog.models.is_empty());
    }

    #[test]
    fn a_version_that_is_registered_again_is_of_another_generation() {
        let id = model_id("m", "1");
        let catalog = registered(Catalog::default(), &model_id("n", "1"), doubles());
        let first = catalog.next_generation();
        let catalog = registered(catalog, &id, ModelVersionSpec { generation: 77, ..doubles() });
        assert_eq!(catalog.generation(&id), first);
        let catalog = edited(catalog.clone(), delete_version(&catalog, &id));
        let catalog = registered(catalog, &id, doubles());
        assert_ne!(catalog.generation(&id), first);
    }

    #[test]
    fn an_update_changes_what_it_names_and_keeps_the_generation() {
        let id = model_id("m", "1");
        let catalog = registered(Catalog::default(), &id, doubles());
        let before = catalog.version(&id).unwrap().clone();
        let uncached = VersionUpdate { cache: Some(false), ..VersionUpdate::default() };
        let catalog = edited(catalog.clone(), update_version(&catalog, &id, uncached));
        assert_eq!(*catalog.version(&id).unwrap(), ModelVersionSpec { cache: false, ..before.clone() });

        let batching = Batching { strategy: BatchingStrategy::Fixed, wait_micros: Some(2000) };
        let everything_else = VersionUpdate {
            labels: Some(Vec::new()),
            batch_size: Some(Some(8)),
            batching: Some(batching),
            cache: None,
        };
        let catalog = edited(catalog.clone(), update_version(&catalog, &id, everything_else));
        let changed =
            ModelVersionSpec { labels: vec![], batch_size: Some(8), batching, cache: false, ..before };
        assert_eq!(*catalog.version(&id).unwrap(), changed);
        assert_eq!(catalog.models["m"].current_version, Some(id.version));
    }

    #[test]
    fn an_update_that_makes_no_sense_is_refused() {
        let id = model_id("m", "1");
        let fixed = Batching { strategy: BatchingStrategy::Fixed, wait_micros: None };
        let spec = ModelVersionSpec { batch_size: Some(8), batching: fixed, ..doubles() };
        let catalog = registered(Catalog::default(), &id, spec);
        let refused = |id: &ModelId, update| update_version(&catalog, id, update).unwrap_err();
        let adaptive = || VersionUpdate { batch_size: Some(None), ..VersionUpdate::default() };
        assert_eq!(refused(&id, adaptive()), Refusal::FixedBatchSize);
        assert_eq!(
            refused(&model_id("m", "2"), adaptive()).to_string(),
            "model with name 'm' and version '2' does not exist"
        );
        assert_eq!(
            refused(&id, VersionUpdate::default()).to_string(),
            "There is nothing to update; expected at least one of: batching, batch_size, cache, labels"
        );
    }

    #[test]
    fn batches_of_no_or_an_unknown_fixed_size_or_with_a_long_wait_are_refused() {
        let batching = |strategy, wait_micros| Batching { strategy, wait_micros };
        let with = |batch_size, batching| check(&ModelVersionSpec { batch_size, batching, ..doubles() });
        let longest = batching(BatchingStrategy::Aimd, Some(60_000_000));
        assert_eq!(with(None, longest), Ok(()));
        assert_eq!(with(Some(1), batching(BatchingStrategy::Fixed, None)), Ok(()));
        assert_eq!(with(Some(0), Batching::default()), Err(Refusal::BatchSize));
        assert_eq!(with(None, batching(BatchingStrategy::Fixed, None)), Err(Refusal::FixedBatchSize));
        assert_eq!(
            with(None, batching(BatchingStrategy::Aimd, Some(60_000_001))).unwrap_err().to_string(),
            "wait_micros of batching must be at most 60000000 (60 s), it is 60000001"
        );
    }

    #[test]
    fn a_batch_size_is_positive_or_adapts() {
        assert_eq!(batch_size(None), Ok(None));
        assert_eq!(batch_size(Some(-1)), Ok(None));
        assert_eq!(batch_size(Some(7)), Ok(Some(7)));
        for wrong in [0, -2, i64::from(u32::MAX) + 1] {
            assert_eq!(batch_size(Some(wrong)), Err(Refusal::BatchSize));
        }
    }
}
