//! What says how management is doing: for people, for probes and for Prometheus.

use actix_web::{HttpResponse, get, web};
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde::Serialize;
use utoipa::ToSchema;

use super::error::ApiError;
use crate::admin::Admin;
use crate::deployment::ReplicaState;

/// What this is, and where to look.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct About {
    what: &'static str,
    version: &'static str,
    interface: &'static str,
    metrics: &'static str,
}

/// Says what this is.
#[utoipa::path(
    responses((status = 200, body = About, description = "What this is, and where to look")),
    tag = "status"
)]
#[get("/")]
pub(super) async fn about() -> web::Json<About> {
    web::Json(About {
        what: "Clipper management: applications, models and deployments",
        version: env!("CARGO_PKG_VERSION"),
        interface: "/openapi.json",
        metrics: "/admin/metrics",
    })
}

/// Answers.
#[utoipa::path(
    responses((status = 200, content_type = "text/plain", body = String, description = "PONG")),
    tag = "status"
)]
#[get("/admin/ping")]
pub(super) async fn ping() -> &'static str {
    "PONG"
}

/// Says that the process runs.
#[utoipa::path(
    responses((status = 200, content_type = "text/plain", body = String, description = "It does")),
    tag = "status"
)]
#[get("/livez")]
pub(super) async fn livez() -> &'static str {
    "ok"
}

/// Says whether changes can be made.
#[utoipa::path(
    responses(
        (status = 200, content_type = "text/plain", body = String, description = "They can"),
        (status = 503, body = super::error::ErrorBody, description = "They cannot; what is known is still served")
    ),
    tag = "status"
)]
#[get("/readyz")]
pub(super) async fn readyz(admin: web::Data<Admin>) -> Result<&'static str, ApiError> {
    admin.probe().await?;
    Ok("ok")
}

/// The `state` of a replica.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabel {
    state: State,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types, reason = "the names are the values of the label")]
enum State {
    starting,
    ready,
    backing_off,
    failed,
}

impl From<ReplicaState> for State {
    fn from(state: ReplicaState) -> Self {
        match state {
            ReplicaState::Starting => Self::starting,
            ReplicaState::Ready => Self::ready,
            ReplicaState::BackingOff => Self::backing_off,
            ReplicaState::Failed => Self::failed,
        }
    }
}

/// Reports counts in the text format of Prometheus.
#[utoipa::path(
    responses((status = 200, content_type = "application/openmetrics-text", body = String, description = "Metrics")),
    tag = "status"
)]
#[get("/admin/metrics")]
pub(super) async fn metrics(admin: web::Data<Admin>) -> Result<HttpResponse, ApiError> {
    let catalog = admin.catalog();
    let replicas = Family::<StateLabel, Gauge>::default();
    for state in [State::starting, State::ready, State::backing_off, State::failed] {
        replicas.get_or_create(&StateLabel { state }).set(0);
    }
    for replica in admin.deployments.list().await.iter().flat_map(|deployment| &deployment.replicas) {
        replicas.get_or_create(&StateLabel { state: replica.state.into() }).inc();
    }
    // Built anew at each scrape: everything here is read off the present state.
    let mut registry = Registry::with_prefix("clipper_management");
    let mut gauge = |name: &str, help: &str, value: i64| {
        let gauge: Gauge = Gauge::default();
        gauge.set(value);
        registry.register(name, help, gauge);
    };
    gauge("applications", "Registered applications", count(catalog.applications.len()));
    gauge("models", "Registered models", count(catalog.models.len()));
    gauge("deployments", "Deployments on this host", count(catalog.deployments.len()));
    gauge("frontends", "Frontends that follow this management", count(admin.frontends().count()));
    gauge("containers", "Containers connected to frontends", count(admin.containers().len()));
    gauge("catalog_revision", "The number of the catalog's state", catalog.revision.cast_signed());
    registry.register("replicas", "Replicas of deployments on this host, by state", replicas);
    let mut text = String::new();
    encode(&mut text, &registry).map_err(|error| ApiError::Internal { what: error.to_string() })?;
    Ok(HttpResponse::Ok()
        .content_type("application/openmetrics-text; version=1.0.0; charset=utf-8")
        .body(text))
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
