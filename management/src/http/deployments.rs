//! Deployments and their replicas.

use std::collections::BTreeMap;
use std::path::PathBuf;

use actix_web::{post, web};
use clipper_rpc::catalog::ModelVersionSpec;
use clipper_rpc::input::InputType;
use clipper_rpc::names::{ModelId, ModelName, ModelVersion};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::answer::{Empty, Refused, Sentence, Spoken, counted};
use super::batching::BatchingBody;
use super::body::{Body, RequestBody};
use super::error::ApiError;
use super::models::ServingInfo;
use crate::admin::Admin;
use crate::deployment::{
    ArtifactId, ContainerKind, DeploymentSpec, DeploymentStatus, NumReplicas, Run, StartupTimeout, Words,
};
use crate::deployments::{self, Selection};
use crate::models;
use crate::refusal::Refusal;

/// A deployment to start.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewDeployment {
    #[schema(value_type = String)]
    model_name: ModelName,
    #[schema(value_type = String)]
    model_version: ModelVersion,
    /// `integers`, `floats`, `doubles`, `bytes` or `strings`.
    #[schema(value_type = String)]
    input_type: InputType,
    /// 1 unless given.
    #[schema(value_type = Option<u32>, maximum = 1000)]
    num_replicas: Option<NumReplicas>,
    labels: Option<Vec<String>>,
    /// The most inputs in one batch; -1, the default, sets no bound: the size adapts.
    batch_size: Option<i64>,
    /// `adaptive` unless given.
    #[schema(inline)]
    batching: Option<BatchingBody>,
    /// Whether outputs may be kept in the prediction cache; true unless given.
    cache: Option<bool>,
    /// `noop`, `sum` or `python-closure`. Either this or `command`.
    #[schema(value_type = Option<String>)]
    container_kind: Option<ContainerKind>,
    /// A program and its arguments.
    #[schema(value_type = Option<Vec<String>>)]
    command: Option<Words>,
    environment: Option<BTreeMap<String, String>>,
    /// What `/admin/add_artifact` answered.
    #[schema(value_type = Option<String>)]
    artifact: Option<ArtifactId>,
    /// Files that are on management's host already.
    #[schema(value_type = Option<String>)]
    model_data_path: Option<PathBuf>,
    /// The interpreter of a Python container kind.
    #[schema(value_type = Option<String>)]
    python: Option<PathBuf>,
    /// How long each replica may load its model, now and at every later start, and how long this call
    /// waits for all of them; 60 unless given.
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 86400)]
    timeout_seconds: Option<StartupTimeout>,
}

impl RequestBody for NewDeployment {}

impl NewDeployment {
    /// What to run, and what to register.
    fn parts(self) -> Result<(DeploymentSpec, ModelVersionSpec), Refusal> {
        let run = match (self.container_kind, self.command) {
            (Some(kind), None) => Run::Kind(kind),
            (None, Some(command)) => Run::Command(command),
            (Some(_), Some(_)) | (None, None) => return Err(Refusal::OneWayToRun),
        };
        let version = ModelVersionSpec {
            input_type: self.input_type,
            labels: self.labels.unwrap_or_default(),
            container_name: match &run {
                Run::Kind(kind) => kind.to_string(),
                Run::Command(command) => command.as_slice().join(" "),
            },
            model_data_path: self
                .model_data_path
                .as_ref()
                .map(|path| path.display().to_string())
                .unwrap_or_default(),
            batch_size: models::batch_size(self.batch_size)?,
            batching: self.batching.map(|batching| batching.0).unwrap_or_default(),
            cache: self.cache.unwrap_or(true),
            generation: 0,
        };
        let spec = DeploymentSpec {
            model: ModelId { name: self.model_name, version: self.model_version },
            input_type: self.input_type,
            num_replicas: self.num_replicas.unwrap_or(NumReplicas::ONE),
            run,
            environment: self.environment.unwrap_or_default().into(),
            artifact: self.artifact,
            model_data_path: self.model_data_path,
            python: self.python,
            startup_timeout: self.timeout_seconds.unwrap_or_default(),
        };
        deployments::check(&spec, &version)?;
        Ok((spec, version))
    }
}

/// Another number of replicas.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Scaling {
    #[schema(value_type = String)]
    model_name: ModelName,
    /// The current one unless given.
    #[schema(value_type = Option<String>)]
    model_version: Option<ModelVersion>,
    #[schema(value_type = u32, maximum = 1000)]
    num_replicas: NumReplicas,
    /// How long to wait for every replica to be ready; that of the deployment unless given. How long
    /// a replica may load stays as it is.
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 86400)]
    timeout_seconds: Option<StartupTimeout>,
}

impl RequestBody for Scaling {}

/// Names of models.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NamedModels {
    #[schema(value_type = Vec<String>)]
    model_names: Vec<ModelName>,
}

impl RequestBody for NamedModels {}

/// Versions by model.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NamedVersions {
    #[schema(value_type = BTreeMap<String, Vec<String>>)]
    model_versions: BTreeMap<ModelName, Vec<ModelVersion>>,
}

impl RequestBody for NamedVersions {}

/// Whose output is asked for.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LogsOf {
    #[schema(value_type = String)]
    model_name: ModelName,
    /// The current one unless given.
    #[schema(value_type = Option<String>)]
    model_version: Option<ModelVersion>,
    /// All unless given.
    replica_id: Option<u32>,
    /// How many of each, at most; 100 unless given.
    lines: Option<usize>,
}

impl RequestBody for LogsOf {}

/// A deployment as it is reported. How its version is served is not known any more (`null`) while one that was
/// deleted answers what waits for it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DeploymentInfo {
    #[serde(flatten)]
    status: DeploymentStatus,
    /// The most inputs in one batch; -1: no bound, the size adapts.
    batch_size: Option<i64>,
    batching: Option<BatchingBody>,
    /// Whether outputs may be kept in the prediction cache.
    cache: Option<bool>,
}

/// Registers a version, starts its replicas, waits until all are ready, and makes the version current.
#[utoipa::path(request_body = NewDeployment, responses(Sentence, Refused), tag = "deployments")]
#[post("/admin/deploy_model")]
pub(super) async fn deploy_model(admin: web::Data<Admin>, Body(body): Body<NewDeployment>) -> Spoken {
    let (spec, version) = body.parts()?;
    let said = Sentence(format!(
        "Successfully deployed model with name '{}' and version '{}' with {}",
        spec.model.name,
        spec.model.version,
        counted(spec.num_replicas.get().into(), "replica")
    ));
    admin.deploy(spec, version).await?;
    Ok(said)
}

/// Changes the number of replicas of a deployment, and waits until all are ready.
#[utoipa::path(request_body = Scaling, responses(Sentence, Refused), tag = "deployments")]
#[post("/admin/set_num_replicas")]
pub(super) async fn set_num_replicas(admin: web::Data<Admin>, Body(body): Body<Scaling>) -> Spoken {
    let id = models::version_or_current(&admin.catalog(), body.model_name, body.model_version)?;
    let said = Sentence(format!(
        "Successfully set the number of replicas of model with name '{}' and version '{}' to {}",
        id.name, id.version, body.num_replicas
    ));
    admin.scale(id, body.num_replicas, body.timeout_seconds).await?;
    Ok(said)
}

/// Lists the deployments and how their replicas are doing.
#[utoipa::path(
    request_body = Empty,
    responses((status = 200, body = Vec<DeploymentInfo>, description = "The deployments"), Refused),
    tag = "deployments"
)]
#[post("/admin/get_deployments")]
pub(super) async fn get_deployments(
    admin: web::Data<Admin>,
    _: Body<Empty>,
) -> web::Json<Vec<DeploymentInfo>> {
    let listed = admin.deployments.list().await;
    let catalog = admin.catalog();
    let described = listed.into_iter().map(|status| {
        let id = ModelId { name: status.model_name.clone(), version: status.model_version.clone() };
        let serving = catalog.version(&id).map(ServingInfo::from);
        DeploymentInfo {
            status,
            batch_size: serving.as_ref().map(|serving| serving.batch_size),
            batching: serving.as_ref().map(|serving| serving.batching),
            cache: serving.map(|serving| serving.cache),
        }
    });
    web::Json(described.collect())
}

/// Stops all deployments of models.
#[utoipa::path(request_body = NamedModels, responses(Sentence, Refused), tag = "deployments")]
#[post("/admin/stop_models")]
pub(super) async fn stop_models(admin: web::Data<Admin>, Body(body): Body<NamedModels>) -> Spoken {
    stop(&admin, Selection::Models(body.model_names)).await
}

/// Stops the deployments of versions of models.
#[utoipa::path(request_body = NamedVersions, responses(Sentence, Refused), tag = "deployments")]
#[post("/admin/stop_versioned_models")]
pub(super) async fn stop_versioned_models(
    admin: web::Data<Admin>,
    Body(body): Body<NamedVersions>,
) -> Spoken {
    let versions = body.model_versions.into_iter().flat_map(|(name, versions)| {
        versions.into_iter().map(move |version| ModelId { name: name.clone(), version })
    });
    stop(&admin, Selection::Versions(versions.collect())).await
}

/// Stops the deployments of all versions of models but the current ones.
#[utoipa::path(request_body = NamedModels, responses(Sentence, Refused), tag = "deployments")]
#[post("/admin/stop_inactive_model_versions")]
pub(super) async fn stop_inactive_model_versions(
    admin: web::Data<Admin>,
    Body(body): Body<NamedModels>,
) -> Spoken {
    stop(&admin, Selection::Inactive(body.model_names)).await
}

/// Stops every deployment.
#[utoipa::path(request_body = Empty, responses(Sentence, Refused), tag = "deployments")]
#[post("/admin/stop_all_models")]
pub(super) async fn stop_all_models(admin: web::Data<Admin>, _: Body<Empty>) -> Spoken {
    stop(&admin, Selection::All).await
}

async fn stop(admin: &Admin, selection: Selection) -> Spoken {
    let stopped = admin.stop(selection).await?;
    Ok(Sentence(format!("Stopped {}", counted(stopped as u64, "deployment"))))
}

/// Shows what replicas printed last.
#[utoipa::path(
    request_body = LogsOf,
    responses(
        (status = 200, body = BTreeMap<String, Vec<String>>, description = "Lines by `M:V:replica`, oldest first"),
        Refused
    ),
    tag = "deployments"
)]
#[post("/admin/get_replica_logs")]
pub(super) async fn get_replica_logs(
    admin: web::Data<Admin>,
    Body(body): Body<LogsOf>,
) -> Result<web::Json<BTreeMap<String, Vec<String>>>, ApiError> {
    let id = models::version_or_current(&admin.catalog(), body.model_name, body.model_version)?;
    let logs = admin.deployments.logs(id, body.replica_id, body.lines.unwrap_or(100)).await;
    Ok(web::Json(logs.map_err(Refusal::from)?))
}
