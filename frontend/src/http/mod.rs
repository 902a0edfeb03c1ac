//! The query frontend's REST interface: thin over the [`prediction`](crate::prediction) path.

mod answer;
mod answer_body;
mod endpoint;
mod error;
mod feedback;
mod metrics;
mod predict;

use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

use actix_web::http::header::{HeaderValue, ORIGIN};
use actix_web::{HttpRequest, HttpResponse, web};
use clipper_server::door::{Door, cors};
use clipper_server::{Connections, arrival};
use serde_json::json;
use tokio::sync::Semaphore;
use utoipa::openapi::{ContentBuilder, Ref, ResponseBuilder};
use utoipa::{OpenApi, ToSchema};

use self::endpoint::Endpoint;
use self::error::ApiError;
use crate::application::ApplicationView;
use crate::directory::Directory;
use crate::management::outbox::Outbox;
use crate::prediction::Predictor;
use crate::query::ids::QueryIds;
use crate::selection::Facilities;
use crate::worker::request_bytes::WorkerBytes;

/// What every HTTP worker shares.
pub(crate) struct State {
    pub(crate) directory: Arc<Directory>,
    pub(crate) facilities: Arc<Facilities>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) query_ids: Arc<QueryIds>,
    pub(crate) door: Door,
    pub(crate) max_body_bytes: usize,
    pub(crate) max_inputs: usize,
    /// Long bodies are parsed one on each core: to parse more at once would take more memory, and no less time.
    pub(crate) parsers: Semaphore,
    pub(crate) connections: Connections,
    /// Whether management's first snapshot is in force.
    pub(crate) ready: AtomicBool,
}

/// What an HTTP worker has of its own.
pub(crate) struct Worker {
    pub(crate) state: Arc<State>,
    pub(crate) request_bytes: Rc<WorkerBytes>,
    pub(crate) predictor: Predictor,
}

impl State {
    fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    /// The application of that name.
    fn application(&self, name: &str) -> Result<Arc<ApplicationView>, ApiError> {
        if !self.is_ready() {
            return Err(ApiError::NotReady);
        }
        let application = self.directory.application(name);
        application.ok_or_else(|| ApiError::UnknownApplication { name: name.to_owned() })
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

/// The description of this interface, built once and not for every request.
static DESCRIPTION: LazyLock<utoipa::openapi::OpenApi> = LazyLock::new(document);

/// Answers a request, whatever its path, if it may come in.
pub(crate) async fn serve(
    worker: Rc<Worker>,
    request: HttpRequest,
    payload: web::Payload,
) -> actix_web::Result<HttpResponse> {
    if worker.state.door.names_origins() {
        // Boxed, or it would make every request's future as large as its own.
        return Ok(Box::pin(serve_pages(worker, request, payload)).await);
    }
    admit(&worker.state.door, &request)?;
    route(&worker, &request, payload).await
}

/// Answers a request where some origins are named, whose pages can read the answer.
async fn serve_pages(worker: Rc<Worker>, request: HttpRequest, payload: web::Payload) -> HttpResponse {
    let (answered, page) = match admit(&worker.state.door, &request) {
        Ok(Some(_)) if cors::is_preflight(request.head()) => (Ok(cors::preflight(request.head())), true),
        Ok(page) => (route(&worker, &request, payload).await, page.is_some()),
        Err(refused) => (Err(refused.into()), false),
    };
    // Refusals are shared, too, so that the page can read what is wrong.
    let mut answer = answered.unwrap_or_else(HttpResponse::from_error);
    cors::share(&mut answer, request.headers().get(ORIGIN).filter(|_| page));
    answer
}

/// Lets a request in, or not. Returns the origin of the page that it is from, if that is a named one.
fn admit<'a>(door: &Door, request: &'a HttpRequest) -> Result<Option<&'a HeaderValue>, ApiError> {
    // Elsewhere this server goes by the names of services, which it does not know. The browsers that a page
    // could use against it are on this host.
    if arrival::on_loopback(request) {
        door.check_host(request.head())?;
    }
    Ok(door.check_origin(request.head())?)
}

/// Answers a request that has come in.
async fn route(
    worker: &Worker,
    request: &HttpRequest,
    payload: web::Payload,
) -> actix_web::Result<HttpResponse> {
    let Some(endpoint) = Endpoint::of(request.path()) else {
        return Err(ApiError::UnknownPath { path: request.path().to_owned() }.into());
    };
    if !endpoint.takes(request.method()) {
        let (path, method) = (request.path().to_owned(), request.method().to_string());
        return Err(ApiError::Method { path, method, allowed: endpoint.allowed() }.into());
    }
    match endpoint {
        Endpoint::Predict { app } => Ok(predict::predict(worker, request, &app, payload).await?),
        Endpoint::Feedback { app } => Ok(feedback::feedback(worker, request, &app, payload).await?),
        Endpoint::Update { app } => Ok(feedback::update(worker, request, &app, payload).await?),
        Endpoint::About => Ok(about()),
        Endpoint::Live => Ok(live()),
        Endpoint::Ready => Ok(ready(&worker.state)?),
        Endpoint::OpenApi => Ok(open_api()),
        Endpoint::Metrics => metrics::metrics(Arc::clone(&worker.state), request).await,
    }
}

/// Says what this is, and where to look.
#[utoipa::path(get, path = "/", responses((status = 200, description = "What this is", body = Object)))]
fn about() -> HttpResponse {
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
fn live() -> HttpResponse {
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
fn ready(state: &State) -> Result<HttpResponse, ApiError> {
    if state.is_ready() {
        Ok(HttpResponse::Ok().json(json!({"status": "ready"})))
    } else {
        Err(ApiError::NotReady)
    }
}

/// Describes this interface.
#[utoipa::path(get, path = "/openapi.json", responses((status = 200, description = "OpenAPI 3.1", body = Object)))]
fn open_api() -> HttpResponse {
    HttpResponse::Ok().json(&*DESCRIPTION)
}

/// The description of this interface, with the refusal that every path has.
fn document() -> utoipa::openapi::OpenApi {
    let mut document = ApiDocument::openapi();
    for item in document.paths.paths.values_mut() {
        for operation in [&mut item.get, &mut item.post].into_iter().flatten() {
            let content = ContentBuilder::new().schema(Some(Ref::from_schema_name(error::Refusal::name())));
            let refusal = ResponseBuilder::new()
                .description("A page of another origin asks, or the host is not allowed")
                .content("application/json", content.build());
            operation.responses.responses.insert("403".to_owned(), refusal.build().into());
        }
    }
    document
}
