//! Models, their versions, and the containers that serve them.

use actix_web::{post, web};
use clipper_rpc::catalog::{ConnectedContainer, Model, ModelVersionSpec};
use clipper_rpc::input::InputType;
use clipper_rpc::names::{ModelId, ModelName, ModelVersion};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::answer::{Found, List, Listing, Refused, Sentence, Spoken};
use super::batching::BatchingBody;
use super::body::{Body, RequestBody};
use crate::admin::Admin;
use crate::catalog::Catalog;
use crate::models::{self, ADAPTIVE_BATCH_SIZE, Adding, VersionUpdate};

/// A version of a model to add.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewVersion {
    #[schema(value_type = String)]
    model_name: ModelName,
    #[schema(value_type = String)]
    model_version: ModelVersion,
    labels: Option<Vec<String>>,
    /// `integers`, `floats`, `doubles`, `bytes` or `strings`.
    #[schema(value_type = String)]
    input_type: InputType,
    container_name: Option<String>,
    model_data_path: Option<String>,
    /// The most inputs in one batch; -1, the default, sets no bound: the size adapts.
    batch_size: Option<i64>,
    /// `adaptive` unless given.
    #[schema(inline)]
    batching: Option<BatchingBody>,
    /// Whether outputs may be kept in the prediction cache; true unless given.
    cache: Option<bool>,
}

impl RequestBody for NewVersion {}

/// What to change of a registered version; what is not given stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ChangedVersion {
    #[schema(value_type = String)]
    model_name: ModelName,
    #[schema(value_type = String)]
    model_version: ModelVersion,
    labels: Option<Vec<String>>,
    /// The most inputs in one batch; -1 sets no bound: the size adapts.
    batch_size: Option<i64>,
    /// Replaces the whole of it.
    #[schema(inline)]
    batching: Option<BatchingBody>,
    cache: Option<bool>,
}

impl RequestBody for ChangedVersion {}

/// One version of a model.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NamedVersion {
    #[schema(value_type = String)]
    model_name: ModelName,
    #[schema(value_type = String)]
    model_version: ModelVersion,
}

impl RequestBody for NamedVersion {}

impl NamedVersion {
    fn id(self) -> ModelId {
        ModelId { name: self.model_name, version: self.model_version }
    }
}

/// One container.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NamedContainer {
    #[schema(value_type = String)]
    model_name: ModelName,
    #[schema(value_type = String)]
    model_version: ModelVersion,
    replica_id: u32,
}

impl RequestBody for NamedContainer {}

/// One version of a model as it is reported.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct VersionInfo {
    #[schema(value_type = String)]
    model_name: ModelName,
    #[schema(value_type = String)]
    model_version: ModelVersion,
    /// Part of the original's answer; always 0, there as here.
    load: f64,
    input_type: &'static str,
    container_name: String,
    model_data_path: String,
    labels: Vec<String>,
    is_current_version: bool,
    #[serde(flatten)]
    serving: ServingInfo,
}

/// How a version is served, as it is reported.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ServingInfo {
    /// The most inputs in one batch; -1: no bound, the size adapts.
    pub(super) batch_size: i64,
    pub(super) batching: BatchingBody,
    /// Whether outputs may be kept in the prediction cache.
    pub(super) cache: bool,
}

impl From<&ModelVersionSpec> for ServingInfo {
    fn from(spec: &ModelVersionSpec) -> Self {
        Self {
            batch_size: spec.batch_size.map_or(ADAPTIVE_BATCH_SIZE, i64::from),
            batching: BatchingBody(spec.batching),
            cache: spec.cache,
        }
    }
}

impl VersionInfo {
    fn new(model: &Model, version: &ModelVersion, spec: &ModelVersionSpec) -> Self {
        Self {
            model_name: model.name.clone(),
            model_version: version.clone(),
            load: 0.0,
            input_type: spec.input_type.reported_name(),
            container_name: spec.container_name.clone(),
            model_data_path: spec.model_data_path.clone(),
            labels: spec.labels.clone(),
            is_current_version: model.current_version.as_ref() == Some(version),
            serving: spec.into(),
        }
    }
}

/// A connected container as it is reported.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ContainerInfo {
    #[schema(value_type = String)]
    model_name: ModelName,
    #[schema(value_type = String)]
    model_version: ModelVersion,
    /// `M:V`.
    model_id: String,
    model_replica_id: u32,
    /// As registered; -1: no bound, the size adapts.
    batch_size: i64,
    input_type: &'static str,
}

impl ContainerInfo {
    fn new(catalog: &Catalog, container: ConnectedContainer) -> Self {
        let registered = catalog.version(&container.model).and_then(|version| version.batch_size);
        Self {
            model_id: container.model.to_string(),
            model_name: container.model.name,
            model_version: container.model.version,
            model_replica_id: container.replica,
            batch_size: registered.map_or(ADAPTIVE_BATCH_SIZE, i64::from),
            input_type: container.input_type.reported_name(),
        }
    }
}

/// Adds a version of a model, which becomes its current one.
#[utoipa::path(request_body = NewVersion, responses(Sentence, Refused), tag = "models")]
#[post("/admin/add_model")]
pub(super) async fn add_model(admin: web::Data<Admin>, Body(body): Body<NewVersion>) -> Spoken {
    let said = Sentence(format!(
        "Successfully added model with name '{}' and input type '{}'",
        body.model_name, body.input_type
    ));
    let id = ModelId { name: body.model_name, version: body.model_version };
    let version = ModelVersionSpec {
        input_type: body.input_type,
        labels: body.labels.unwrap_or_default(),
        container_name: body.container_name.unwrap_or_default(),
        model_data_path: body.model_data_path.unwrap_or_default(),
        batch_size: models::batch_size(body.batch_size)?,
        batching: body.batching.map(|batching| batching.0).unwrap_or_default(),
        cache: body.cache.unwrap_or(true),
        generation: 0,
    };
    admin.change(move |catalog| models::add(catalog, &id, version, Adding::Current)).await?;
    Ok(said)
}

/// Changes how a registered version is served, from its next batch on.
#[utoipa::path(request_body = ChangedVersion, responses(Sentence, Refused), tag = "models")]
#[post("/admin/update_model")]
pub(super) async fn update_model(admin: web::Data<Admin>, Body(body): Body<ChangedVersion>) -> Spoken {
    let id = ModelId { name: body.model_name, version: body.model_version };
    let said =
        Sentence(format!("Successfully updated model with name '{}' and version '{}'", id.name, id.version));
    let update = VersionUpdate {
        labels: body.labels,
        batch_size: body.batch_size.map(|size| models::batch_size(Some(size))).transpose()?,
        batching: body.batching.map(|batching| batching.0),
        cache: body.cache,
    };
    admin.change(move |catalog| models::update_version(catalog, &id, update)).await?;
    Ok(said)
}

/// Makes a registered version the current one.
#[utoipa::path(request_body = NamedVersion, responses(Sentence, Refused), tag = "models")]
#[post("/admin/set_model_version")]
pub(super) async fn set_model_version(admin: web::Data<Admin>, Body(body): Body<NamedVersion>) -> Spoken {
    let id = body.id();
    let said =
        Sentence(format!("Successfully set model with name '{}' to version '{}'", id.name, id.version));
    admin.change(move |catalog| models::set_version(catalog, &id)).await?;
    Ok(said)
}

/// Deletes a version of a model, and stops its deployment.
#[utoipa::path(request_body = NamedVersion, responses(Sentence, Refused), tag = "models")]
#[post("/admin/delete_versioned_model")]
pub(super) async fn delete_versioned_model(
    admin: web::Data<Admin>,
    Body(body): Body<NamedVersion>,
) -> Spoken {
    let id = body.id();
    let said =
        Sentence(format!("Successfully deleted model with name '{}' and version '{}'", id.name, id.version));
    admin.delete_version(id).await?;
    Ok(said)
}

/// Lists every version of every model.
#[utoipa::path(
    request_body = Listing,
    responses((status = 200, body = List<VersionInfo>, description = "`M:V`, or objects if verbose"), Refused),
    tag = "models"
)]
#[post("/admin/get_all_models")]
pub(super) async fn get_all_models(
    admin: web::Data<Admin>,
    Body(body): Body<Listing>,
) -> web::Json<List<VersionInfo>> {
    let catalog = admin.catalog();
    let versions = catalog
        .models
        .values()
        .flat_map(|model| model.versions.iter().map(move |(version, spec)| (model, version, spec)));
    web::Json(if body.verbose {
        List::Objects(versions.map(|(model, version, spec)| VersionInfo::new(model, version, spec)).collect())
    } else {
        List::Names(versions.map(|(model, version, _)| format!("{}:{version}", model.name)).collect())
    })
}

/// Describes a version of a model.
#[utoipa::path(
    request_body = NamedVersion,
    responses((status = 200, body = Found<VersionInfo>, description = "The version, or {}"), Refused),
    tag = "models"
)]
#[post("/admin/get_model")]
pub(super) async fn get_model(
    admin: web::Data<Admin>,
    Body(body): Body<NamedVersion>,
) -> web::Json<Found<VersionInfo>> {
    let catalog = admin.catalog();
    let model = catalog.models.get(&body.model_name);
    let found = model.and_then(|model| {
        let spec = model.versions.get(&body.model_version)?;
        Some(VersionInfo::new(model, &body.model_version, spec))
    });
    web::Json(found.into())
}

/// Lists the containers that are connected to frontends.
#[utoipa::path(
    request_body = Listing,
    responses(
        (status = 200, body = List<ContainerInfo>, description = "`M:V:replica`, or objects if verbose"),
        Refused
    ),
    tag = "models"
)]
#[post("/admin/get_all_containers")]
pub(super) async fn get_all_containers(
    admin: web::Data<Admin>,
    Body(body): Body<Listing>,
) -> web::Json<List<ContainerInfo>> {
    let catalog = admin.catalog();
    let containers = admin.containers().into_iter();
    web::Json(if body.verbose {
        List::Objects(containers.map(|container| ContainerInfo::new(&catalog, container)).collect())
    } else {
        List::Names(containers.map(|it| format!("{}:{}", it.model, it.replica)).collect())
    })
}

/// Describes a connected container.
#[utoipa::path(
    request_body = NamedContainer,
    responses((status = 200, body = Found<ContainerInfo>, description = "The container, or {}"), Refused),
    tag = "models"
)]
#[post("/admin/get_container")]
pub(super) async fn get_container(
    admin: web::Data<Admin>,
    Body(body): Body<NamedContainer>,
) -> web::Json<Found<ContainerInfo>> {
    let id = ModelId { name: body.model_name, version: body.model_version };
    let found = admin.containers().into_iter().find(|it| it.model == id && it.replica == body.replica_id);
    web::Json(found.map(|container| ContainerInfo::new(&admin.catalog(), container)).into())
}
