//! The catalog as a whole: its feed for frontends, with their exchange beside it, and export and import for people.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::net::{IpAddr, Ipv4Addr};

use actix_web::dev::Payload;
use actix_web::{CustomizeResponder, FromRequest, HttpRequest, Responder, get, post, web};
use clipper_rpc::catalog::{Application, FollowError, FollowRequest, FollowResponse, Model, Revision};
use clipper_rpc::protocol::{PROTOCOL, PROTOCOL_HEADER, check_frontend};
use clipper_rpc::selection::{ExchangeRequest, ExchangeResponse};
use clipper_server::connection::half_closed;
use serde::{Deserialize, Serialize};
use utoipa::openapi::{ObjectBuilder, RefOr, Schema};
use utoipa::{IntoParams, PartialSchema, ToSchema};

use super::answer::{Refused, Sentence, Spoken, counted};
use super::body::{Body, RequestBody, release_room};
use super::error::{ApiError, ErrorBody};
use crate::admin::Admin;
use crate::deployment::{DeploymentSpec, Environment, ExportedEnvironment, Withheld};
use crate::deployments;
use crate::refusal::Refusal;

/// The version of the form of exports.
const EXPORT_VERSION: u32 = 1;

/// A call of a frontend that speaks the protocol of this management. Checked before anything of the body is read, as
/// extractors run in the order of a handler's parameters.
struct SameProtocol;

impl FromRequest for SameProtocol {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let header = request.headers().get(PROTOCOL_HEADER).and_then(|header| header.to_str().ok());
        ready(check_frontend(header).map(|()| Self).map_err(ApiError::from))
    }
}

/// An answer to a frontend, which says what protocol it is of.
type Answered<T> = Result<CustomizeResponder<web::Json<T>>, ApiError>;

fn answered<T: Serialize>(answer: T) -> Answered<T> {
    Ok(web::Json(answer).customize().insert_header((PROTOCOL_HEADER, PROTOCOL)))
}

/// A frontend's call; `rpc/src/catalog.rs` describes it.
#[derive(Deserialize)]
#[serde(transparent)]
struct FollowBody(FollowRequest);

impl PartialSchema for FollowBody {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new().description(Some("See rpc/src/catalog.rs")).into()
    }
}

impl RequestBody for FollowBody {
    /// A frontend names all of its containers: 10,000 with the longest names take some 5 MB.
    const MAX_BYTES: usize = 8 << 20;
}

/// Waits for news of the catalog, for ten seconds at most. For frontends.
#[utoipa::path(
    request_body(content = Object, description = "`FollowRequest` of `rpc/src/catalog.rs`"),
    responses((status = 200, body = Object, description = "`FollowResponse` of `rpc/src/catalog.rs`"), Refused),
    tag = "catalog"
)]
#[post("/admin/follow")]
pub(super) async fn follow(
    admin: web::Data<Admin>,
    request: HttpRequest,
    _: SameProtocol,
    Body(FollowBody(body)): Body<FollowBody>,
) -> Answered<FollowResponse> {
    release_room(&request);
    let caller = request.peer_addr().map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |address| address.ip());
    tokio::select! {
        answer = admin.follow.follow(body, caller) => answered(answer?),
        // A frontend keeps its side open until it is answered, unless it has ended.
        () = half_closed(&request) => {
            Err(FollowError("the caller has closed its side of the connection before it was answered".into()).into())
        }
    }
}

/// A frontend's exchange; `rpc/src/selection.rs` describes it.
#[derive(Deserialize)]
#[serde(transparent)]
struct ExchangeBody(ExchangeRequest);

impl PartialSchema for ExchangeBody {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new().description(Some("See rpc/src/selection.rs")).into()
    }
}

impl RequestBody for ExchangeBody {
    /// What was learned with `linucb` may take 300 kB a model.
    const MAX_BYTES: usize = 64 << 20;
}

/// Stores what a frontend has learned, and tells it what others have; at once. For frontends.
#[utoipa::path(
    request_body(content = Object, description = "`ExchangeRequest` of `rpc/src/selection.rs`"),
    responses((status = 200, body = Object, description = "`ExchangeResponse` of `rpc/src/selection.rs`"), Refused),
    tag = "catalog"
)]
#[post("/admin/exchange")]
pub(super) async fn exchange(
    admin: web::Data<Admin>,
    _: SameProtocol,
    Body(ExchangeBody(body)): Body<ExchangeBody>,
) -> Answered<ExchangeResponse> {
    answered(admin.follow.states.exchange(body).await?)
}

/// All records, deployments included; not the files of artifacts.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Export {
    /// The version of this form.
    version: u32,
    /// The number of the state that was exported, for people.
    #[serde(default)]
    #[schema(value_type = u64)]
    revision: Revision,
    #[schema(value_type = Vec<Object>)]
    applications: Vec<Application>,
    #[schema(value_type = Vec<Object>)]
    models: Vec<Model>,
    #[schema(value_type = Vec<Object>)]
    deployments: Vec<DeploymentSpec<ExportedEnvironment>>,
}

impl RequestBody for Export {
    const MAX_BYTES: usize = 64 << 20;
}

/// Parts of the catalog that are exported on request only.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ExportOptions {
    /// `environment` includes the values of the deployments' environments, which are secrets.
    #[serde(default)]
    #[param(value_type = Option<String>, example = "environment")]
    include: Option<Secrets>,
}

/// What is secret in a catalog.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Secrets {
    Environment,
}

/// Shows the whole catalog with its deployments. Names alone are shown of their environments, unless their
/// values are asked for.
#[utoipa::path(
    params(ExportOptions),
    responses(
        (status = 200, body = Export, description = "The catalog"),
        (status = 400, body = ErrorBody, description = "There is no such part of the catalog"),
    ),
    tag = "catalog"
)]
#[get("/admin/export")]
pub(super) async fn export(
    admin: web::Data<Admin>,
    request: HttpRequest,
) -> Result<web::Json<Export>, ApiError> {
    let options = web::Query::<ExportOptions>::from_query(request.query_string());
    let options = options.map_err(|_| {
        let sentence =
            format!("expected no option, or include=environment, not '{}'", request.query_string());
        ApiError::Value { sentence }
    })?;
    let exported = match options.include {
        Some(Secrets::Environment) => ExportedEnvironment::values,
        None => ExportedEnvironment::names,
    };
    let mut catalog = admin.catalog();
    let revision = catalog.revision;
    // What is still being deployed is not part of the catalog yet.
    let pending = deployments::abandon_all(&catalog);
    std::sync::Arc::make_mut(&mut catalog).apply(&pending);
    let snapshot = catalog.snapshot();
    let specs = catalog.deployments.values().map(|deployment| deployment.spec.clone());
    let Ok(deployments) = specs
        .map(|spec| spec.with_environment(|environment| Ok::<_, Infallible>(exported(environment))))
        .collect();
    Ok(web::Json(Export {
        version: EXPORT_VERSION,
        revision,
        applications: snapshot.applications,
        models: snapshot.models,
        deployments,
    }))
}

/// Takes over an export into an empty catalog, and starts its deployments.
#[utoipa::path(request_body = Export, responses(Sentence, Refused), tag = "catalog")]
#[post("/admin/import")]
pub(super) async fn import(admin: web::Data<Admin>, Body(body): Body<Export>) -> Spoken {
    let Export { version, applications, models, deployments: specs, .. } = body;
    if version != EXPORT_VERSION {
        let what = format!("it has version {version}, expected {EXPORT_VERSION}");
        return Err(Refusal::ImportInconsistent { what }.into());
    }
    let specs = specs.into_iter().map(complete).collect::<Result<Vec<_>, _>>()?;
    let said = Sentence(format!(
        "Successfully imported {}, {} and {}",
        counted(applications.len() as u64, "application"),
        counted(models.len() as u64, "model"),
        counted(specs.len() as u64, "deployment")
    ));
    let stored = specs.clone();
    admin.import(specs, move |catalog| deployments::import(catalog, applications, models, stored)).await?;
    Ok(said)
}

/// A deployment of an export, if its environment has its values.
fn complete(exported: DeploymentSpec<ExportedEnvironment>) -> Result<DeploymentSpec, Refusal> {
    let model = exported.model.clone();
    exported.with_environment(|environment| {
        Environment::try_from(environment)
            .map_err(|Withheld(variable)| Refusal::EnvironmentWithheld { model, variable })
    })
}
