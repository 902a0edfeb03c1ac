//! The query frontend's REST interface: thin over the [`prediction`](crate::prediction) path.

mod answer;
mod error;
mod feedback;
mod metrics;
mod predict;

use std::future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use actix_web::{HttpRequest, HttpResponse, Route, guard, web};
use clipper_server::Connections;
use serde_json::json;
use utoipa::OpenApi;

use self::error::ApiError;
use crate::directory::Directory;
use crate::exchange::Outbox;
use crate::prediction::Predictor;
use crate::query_ids::QueryIds;
use crate::selection::Facilities;

/// What every HTTP worker shares.
pub(crate) struct State {
    pub(crate) directory: Arc<Directory>,
    pub(crate) facilities: Arc<Facilities>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) query_ids: Arc<QueryIds>,
    pub(crate) max_body_bytes: usize,
    pub(crate) connections: Connections,
    /// Whether management's first snapshot is in force.
    pub(crate) ready: AtomicBool,
}

/// What an HTTP worker has of its own.
pub(crate) struct Worker {
    pub(crate) predictor: Predictor,
}

impl State {
    fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Clipper query frontend",
        description = "Predictions of machine-learning models, within the application's latency objective."
    ),
    paths(
        predict::predict,
        feedback::feedback,
        feedback::update,
        about,
        live,
        ready,
        metrics::metrics,
        open_api
    )
)]
struct ApiDocument;

/// Declares every path.
pub(crate) fn configure(service: &mut web::ServiceConfig) {
    service
        .service(resource("/", "GET").route(get_or_head().to(about)))
        .service(resource("/livez", "GET").route(get_or_head().to(live)))
        .service(resource("/readyz", "GET").route(get_or_head().to(ready)))
        .service(resource("/openapi.json", "GET").route(get_or_head().to(open_api)))
        .service(resource("/metrics", "GET").route(get_or_head().to(metrics::metrics)))
        .service(resource("/{app}/predict", "POST").route(web::post().to(predict::predict)))
        .service(resource("/{app}/feedback", "POST").route(web::post().to(feedback::feedback)))
        .service(resource("/{app}/update", "POST").route(web::post().to(feedback::update)))
        .default_service(web::to(unknown_path));
}

/// Probes ask by HEAD.
fn get_or_head() -> Route {
    web::route().guard(guard::Any(guard::Get()).or(guard::Head()))
}

/// A path that says which method it answers when it is asked by another.
fn resource(path: &str, allowed: &'static str) -> actix_web::Resource {
    web::resource(path).default_service(web::to(move |request: HttpRequest| {
        let (path, method) = (request.path().to_owned(), request.method().to_string());
        future::ready::<Result<HttpResponse, ApiError>>(Err(ApiError::Method { path, method, allowed }))
    }))
}

/// Says what this is, and where to look.
#[utoipa::path(get, path = "/", responses((status = 200, description = "What this is", body = Object)))]
async fn about() -> HttpResponse {
    HttpResponse::Ok().json(json!({
        "service": "Clipper query frontend",
        "version": env!("CARGO_PKG_VERSION"),
        "predict": "POST /{app}/predict with a body such as {\"input\": [1.1, 2.2]}",
        "feedback": "POST /{app}/feedback with a body such as {\"query_id\": 17, \"label\": 1}",
        "openapi": "/openapi.json",
        "health": ["/livez", "/readyz"],
        "metrics": "/metrics",
    }))
}

/// Says that the process runs.
#[utoipa::path(get, path = "/livez", responses((status = 200, description = "It does", body = Object)))]
async fn live() -> HttpResponse {
    HttpResponse::Ok().json(json!({"status": "live"}))
}

/// Says whether queries can be answered.
#[utoipa::path(
    get,
    path = "/readyz",
    responses(
        (status = 200, description = "They can", body = Object),
        (status = 503, description = "Management has not been heard from yet", body = error::Refusal),
    )
)]
async fn ready(state: web::Data<State>) -> Result<HttpResponse, ApiError> {
    if state.is_ready() {
        Ok(HttpResponse::Ok().json(json!({"status": "ready"})))
    } else {
        Err(ApiError::NotReady)
    }
}

/// Describes this interface.
#[utoipa::path(get, path = "/openapi.json", responses((status = 200, description = "OpenAPI 3.1", body = Object)))]
async fn open_api() -> HttpResponse {
    HttpResponse::Ok().json(ApiDocument::openapi())
}

async fn unknown_path(request: HttpRequest) -> Result<HttpResponse, ApiError> {
    Err(ApiError::UnknownPath { path: request.path().to_owned() })
}
