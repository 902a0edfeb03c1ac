//! The admin interface over HTTP: thin handlers over `admin.rs` and the domain functions, one module a resource.
//!
//! # Layout
//! - `applications`, `selection`, `models`, `deployments`, `artifacts`, `catalog`, `backup`, `status`, `metrics`: the handlers.
//! - `body`, `pace`: how bodies are read, and how fast they must arrive; `batching`, `selection_body`: the values in
//!   them that have two forms; `answer`: how answers are said; `error`: how refusals are; `description`: what the
//!   description says of access.
//!
//! Paths stand once, at the handlers; the description at `/openapi.json` is generated from them and also tells
//! a wrong method (405) from a wrong path (404).

use std::net::TcpListener;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use actix_web::body::BoxBody;
use actix_web::dev::{Server, ServiceRequest};
use actix_web::http::Method;
use actix_web::middleware::{Next, from_fn};
use actix_web::{App, HttpRequest, HttpResponse, get, web};
use clipper_rpc::excerpt::excerpt;
use clipper_server::{Connections, Serving};
use utoipa::OpenApi;
use utoipa::openapi::path::PathItem;

pub(crate) use artifacts::Uploads;
use error::ApiError;

use crate::access::Access;
use crate::admin::Admin;

mod answer;
mod applications;
mod artifacts;
mod backup;
mod batching;
mod body;
mod catalog;
mod deployments;
mod description;
mod error;
mod metrics;
mod models;
mod pace;
mod selection;
mod selection_body;
mod status;

/// The most connections of one worker.
const MAX_CONNECTIONS: usize = 1024;
/// Admin calls are rare and short; two threads keep one that is slow from delaying the rest.
const WORKERS: usize = 2;
/// How long requests may take to be answered once management is to stop.
const DRAIN: Duration = Duration::from_secs(10);

macro_rules! interface {
    ($($module:ident :: $handler:ident,)*) => {
        /// The description of the interface.
        #[derive(OpenApi)]
        #[openapi(
            info(
                title = "Clipper management",
                description = "The admin interface of a Clipper cluster. Every refusal is `{\"error\", \"cause\"}`.",
            ),
            paths($($module::$handler,)* openapi_json),
            components(schemas(error::ErrorBody))
        )]
        struct Interface;

        fn routes(config: &mut web::ServiceConfig) {
            $(config.service($module::$handler);)*
            config.service(openapi_json);
        }
    };
}

interface! {
    applications::add_app,
    applications::update_app,
    applications::delete_app,
    applications::add_model_links,
    applications::delete_model_links,
    applications::get_linked_models,
    applications::get_all_applications,
    applications::get_application,
    selection::get_state,
    selection::explain,
    models::add_model,
    models::update_model,
    models::set_model_version,
    models::delete_versioned_model,
    models::get_all_models,
    models::get_model,
    models::get_all_containers,
    models::get_container,
    deployments::deploy_model,
    deployments::set_num_replicas,
    deployments::get_deployments,
    deployments::stop_models,
    deployments::stop_versioned_models,
    deployments::stop_inactive_model_versions,
    deployments::stop_all_models,
    deployments::get_replica_logs,
    artifacts::add_artifact,
    artifacts::get_artifact,
    catalog::follow,
    catalog::exchange,
    catalog::export,
    catalog::import,
    backup::get_backup,
    status::about,
    status::ping,
    status::livez,
    status::readyz,
    status::get_frontends,
    metrics::metrics,
    metrics::admin_metrics,
}

/// Built once: every request for something that is not there is looked up in it.
static DESCRIPTION: LazyLock<utoipa::openapi::OpenApi> =
    LazyLock::new(|| description::with_access(Interface::openapi()));

/// Describes this interface.
#[utoipa::path(responses((status = 200, body = Object, description = "OpenAPI 3.1")), tag = "status")]
#[get("/openapi.json")]
async fn openapi_json() -> web::Json<&'static utoipa::openapi::OpenApi> {
    web::Json(&*DESCRIPTION)
}

/// Whatever no handler takes.
async fn unknown(request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let path = excerpt(request.path()).into_owned();
    match DESCRIPTION.paths.paths.iter().find(|(template, _)| is_of(&path, template)) {
        Some((_, item)) => {
            let method = request.method().to_string();
            Err(ApiError::Method { path, method, allowed: allowed(item).as_str() })
        }
        None => Err(ApiError::NotFound { path }),
    }
}

/// Whether a path is what a template describes, in which `{app}` stands for any segment.
fn is_of(path: &str, template: &str) -> bool {
    let mut segments = path.split('/');
    template.split('/').all(|expected| {
        segments.next().is_some_and(|segment| segment == expected || expected.starts_with('{'))
    }) && segments.next().is_none()
}

fn allowed(item: &PathItem) -> &'static Method {
    if item.get.is_some() { &Method::GET } else { &Method::POST }
}

/// Serves the interface on a listener; the server runs once it is polled.
///
/// Access is checked before a request is routed, and before any of its body is read, so that no call is
/// without the check.
pub(crate) fn server(
    listener: TcpListener,
    keep_alive: Duration,
    access: Access,
    admin: Admin,
    uploads: Uploads,
) -> std::io::Result<Server> {
    let access = Arc::new(access);
    let admin = web::Data::new(admin);
    let uploads = web::Data::new(uploads);
    let connections = Connections::default();
    let counted = connections.clone();
    let body_room = web::Data::new(body::BodyRoom::default());
    let backup_turn = web::Data::new(backup::BackupTurn::default());
    let last_counts = web::Data::new(metrics::LastCounts::default());
    let application = move || {
        let access = Arc::clone(&access);
        let check = move |request: ServiceRequest, next: Next<BoxBody>| {
            // The path as the routes see it.
            let path = request.match_info().unprocessed();
            let checked = access.check(request.request().head(), path).map_err(ApiError::from);
            async move {
                checked?;
                next.call(request).await
            }
        };
        App::new()
            .wrap(from_fn(check))
            .app_data(admin.clone())
            .app_data(uploads.clone())
            .app_data(body_room.clone())
            .app_data(backup_turn.clone())
            .app_data(last_counts.clone())
            .app_data(web::Data::new(connections.clone()))
            .configure(routes)
            .default_service(web::to(unknown))
    };
    let serving = Serving { workers: WORKERS, max_connections: MAX_CONNECTIONS, keep_alive, drain: DRAIN };
    clipper_server::serve(listener, serving, counted, application)
}
