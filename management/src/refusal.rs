//! Why management does not do what it was asked: the sentences that the original Clipper's clients look for.
//!
//! Invariant: a refused request has changed nothing.

use clipper_rpc::input::InputType;
use clipper_rpc::names::{AppName, ModelId, ModelName, ModelVersion};

use crate::deployment::DeployError;

/// A request that was understood and cannot be carried out. Its text is the sentence for the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the sentence of each variant is its documentation")]
pub enum Refusal {
    #[error("application '{name}' already exists")]
    ApplicationExists { name: AppName },
    #[error("Application '{name}' does not exist")]
    NoSuchApplication { name: AppName },
    #[error("The latency objective must be at least 1 microsecond, it is {micros}")]
    NoLatencyObjective { micros: u64 },
    #[error("max_concurrent_requests must be at least 1, or null for no bound; it is 0")]
    NoConcurrentRequests,
    #[error("{sentence}")]
    Selection { sentence: String },
    #[error("selection_seed must be below 2^53, so that every reader of JSON reads it exactly; it is {seed}")]
    SelectionSeed { seed: u64 },
    #[error(
        "selection_policy: '{policy}' has one model answer, and application '{app}' is linked to {}: unlink all but one \
         first",
        quoted(.linked)
    )]
    LinkedToSeveral { policy: &'static str, app: AppName, linked: Vec<ModelName> },
    #[error("There is nothing to update; expected at least one of: {fields}")]
    NothingToUpdate { fields: &'static str },
    #[error("No app with name '{name}' exists.")]
    NoAppToLink { name: AppName },
    #[error("No application with name '{name}' exists.")]
    NoAppWithLinks { name: AppName },
    #[error("No model with name '{model}' exists.")]
    NoSuchModel { model: ModelName },
    #[error("The list of model names is empty")]
    NothingToLink,
    #[error(
        "Model with name '{model}' has incompatible input_type '{model_type}'. Requested app to link to has input_type \
         '{app_type}'."
    )]
    IncompatibleLink { model: ModelName, model_type: InputType, app_type: InputType },
    #[error("The model with name '{model}' is already linked to '{app}'")]
    AlreadyLinked { model: ModelName, app: AppName },
    #[error("A model with name {linked} is already linked to '{app}'.")]
    OneModelOnly { linked: ModelName, app: AppName },
    #[error("Cannot remove nonexistent link between app {app} and model {model}")]
    NoSuchLink { app: AppName, model: ModelName },
    #[error("model with name '{}' and version '{}' already exists", .model.name, .model.version)]
    VersionExists { model: ModelId },
    #[error("model with name '{}' and version '{}' does not exist", .model.name, .model.version)]
    NoSuchVersion { model: ModelId },
    #[error(
        "Model with name '{model}' is already linked to app '{app}' using input type '{app_type}'. The input type you \
         provided for a new version of the model, '{model_type}', is not compatible."
    )]
    IncompatibleVersion { model: ModelName, app: AppName, app_type: InputType, model_type: InputType },
    #[error("The batch size must be positive or DEFAULT_BATCH_SIZE, which is -1")]
    BatchSize,
    #[error("The batching strategy 'fixed' needs a positive batch_size, which is the size of its batches")]
    FixedBatchSize,
    #[error("wait_micros of batching must be at most {most} (60 s), it is {micros}")]
    BatchWait { micros: u32, most: u32 },
    #[error("Cannot set version for nonexistent model '{model}'")]
    NoModelToSet { model: ModelName },
    #[error("Cannot set non-existent version '{version}' for model with name '{model}'")]
    NoVersionToSet { model: ModelName, version: ModelVersion },
    #[error("Cannot set version '{version}' for model with name '{model}' while it is being deployed")]
    VersionBeingDeployed { model: ModelName, version: ModelVersion },
    #[error("Model with name '{model}' has no current version: name the version that is meant")]
    NoCurrentVersion { model: ModelName },
    #[error("No deployment of model with name '{model}' exists.")]
    NoDeploymentOfModel { model: ModelName },
    #[error("No deployment of model with name '{}' and version '{}' exists.", .model.name, .model.version)]
    NoDeployment { model: ModelId },
    #[error("Exactly one of container_kind and command must be given")]
    OneWayToRun,
    #[error(
        "Model with name '{}' and version '{}' takes {model_type}, its deployment {deployed_type}",
        .model.name, .model.version
    )]
    DeploymentOfOtherInputs { model: ModelId, model_type: InputType, deployed_type: InputType },
    #[error("At most one of artifact and model_data_path can be given")]
    OneModelPath,
    #[error("Artifact '{artifact}' is not stored; upload it with /admin/add_artifact first")]
    NoSuchArtifact { artifact: String },
    #[error(transparent)]
    Deployment(#[from] DeployError),
    #[error(
        "Model with name '{}' and version '{}' was stopped or deleted while it was being deployed",
        .model.name, .model.version
    )]
    DeploymentStopped { model: ModelId },
    #[error(
        "The export withholds the environment of the deployment of model with name '{}' and version '{}' \
         (variable '{variable}'); export with /admin/export?include=environment, or write its values into the \
         export",
        .model.name, .model.version
    )]
    EnvironmentWithheld { model: ModelId, variable: String },
    #[error("{what} must have at most {most} {unit}; it has {found}")]
    TooLong { what: &'static str, found: usize, most: usize, unit: &'static str },
    #[error("There are {found} {what}; at most {most} are allowed: delete some first")]
    TooMany { what: &'static str, found: usize, most: usize },
    #[error("Application '{app}' would be linked to {found} models; at most {most} are allowed")]
    TooManyLinks { app: AppName, found: usize, most: usize },
    #[error(
        "Model with name '{model}' would have {found} versions; at most {most} are allowed: delete some first"
    )]
    TooManyVersions { model: ModelName, found: usize, most: usize },
    #[error(
        "The catalog would take {found} bytes; at most {most} are allowed: delete what is not needed first"
    )]
    CatalogTooLarge { found: usize, most: usize },
    #[error(
        "{field} must be host:port with a port from 1 to 65535 and of at most {most} bytes; it is '{found}'"
    )]
    FrontendAddress { field: &'static str, found: String, most: usize },
    #[error("A frontend reports {found} containers; at most {most} are allowed")]
    TooManyContainers { found: usize, most: usize },
    #[error("The instance '{beginning}' of a container has {found} bytes; at most {most} are allowed")]
    LongInstance { beginning: String, found: usize, most: usize },
    #[error("The catalog is not empty; an import needs an empty one")]
    ImportIntoCatalog,
    #[error("The catalog to import does not fit together: {what}")]
    ImportInconsistent { what: String },
}

fn quoted(models: &[ModelName]) -> String {
    models.iter().map(|model| format!("'{model}'")).collect::<Vec<_>>().join(", ")
}
