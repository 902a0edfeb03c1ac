//! `GET /metrics`: for Prometheus, or in the original's JSON.

mod json;
mod prometheus;

use std::sync::Arc;
use std::time::Instant;

use actix_web::{HttpRequest, HttpResponse, web};
use clipper_server::process::Process;
use clipper_server::{Form, text};
use prometheus_client::registry::Registry;

use self::json::report;
use self::prometheus::Scrape;
use super::State;

/// What is collected at a scrape.
fn registry(state: &State) -> Registry {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape::new(
        Arc::clone(&state.directory),
        Arc::clone(&state.facilities),
        Arc::clone(&state.outbox),
    )));
    registry.register_collector(Box::new(state.connections.clone()));
    registry.register_collector(Box::new(Process));
    registry
}

/// Says what this frontend has done, for Prometheus; or in the original Clipper's JSON where `Accept` prefers it.
#[utoipa::path(
    get,
    path = "/metrics",
    responses((status = 200, description = "Metrics", content(
        (String = "application/openmetrics-text"),
        (Object = "application/json"),
    )))
)]
pub(crate) async fn metrics(state: Arc<State>, request: &HttpRequest) -> actix_web::Result<HttpResponse> {
    let form = Form::asked_by(request);
    // Some milliseconds of work where much is served: on a thread of its own, it keeps no prediction waiting.
    let body = web::block(move || match form {
        Form::Text => text(&registry(&state)),
        Form::Json => report(&state.directory, Instant::now()).to_json(),
    });
    Ok(form.answer(body.await?))
}
