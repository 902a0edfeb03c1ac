//! What says how management is doing, for people and for probes.

use actix_web::{get, post, web};
use serde::Serialize;
use utoipa::ToSchema;

use super::answer::{List, Listing, Refused};
use super::body::Body;
use super::error::ApiError;
use crate::admin::Admin;
use crate::frontends::Standing;

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
        metrics: "/metrics",
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

/// Lists the frontends that follow.
#[utoipa::path(
    request_body = Listing,
    responses((status = 200, body = List<Standing>, description = "`host:port`, or objects if verbose"), Refused),
    tag = "status"
)]
#[post("/admin/get_frontends")]
pub(super) async fn get_frontends(
    admin: web::Data<Admin>,
    Body(body): Body<Listing>,
) -> web::Json<List<Standing>> {
    let standings = admin.frontends().standings();
    web::Json(if body.verbose {
        List::Objects(standings)
    } else {
        List::Names(standings.into_iter().map(|standing| standing.query_address).collect())
    })
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
