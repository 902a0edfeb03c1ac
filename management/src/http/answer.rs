//! What handlers answer with besides JSON values: sentences, and the parts of the interface's description that
//! all share.

use std::collections::BTreeMap;

use actix_web::{HttpRequest, HttpResponse, Responder, web};
use serde::{Deserialize, Serialize};
use utoipa::openapi::{ContentBuilder, Ref, RefOr, Response, ResponseBuilder, schema::ObjectBuilder};
use utoipa::{IntoResponses, ToSchema};

use super::error::{ApiError, ErrorBody};
use crate::admin::Admin;

/// The header that names the frontends which have not applied the latest changes, by their query addresses.
const BEHIND_HEADER: &str = "clipper-frontends-behind";

/// A sentence of success, as plain text, and the frontends that management gave up waiting for.
pub(super) struct Sentence(pub(super) String);

/// What a handler returns that answers with a sentence.
pub(super) type Spoken = Result<Sentence, ApiError>;

impl Responder for Sentence {
    type Body = actix_web::body::BoxBody;

    fn respond_to(self, request: &HttpRequest) -> HttpResponse {
        let admin = request.app_data::<web::Data<Admin>>();
        let behind = admin.map(|admin| admin.frontends().behind()).unwrap_or_default().join(", ");
        let mut response = HttpResponse::Ok();
        response.content_type("text/plain; charset=utf-8");
        if behind.is_empty() {
            return response.body(self.0);
        }
        response.insert_header((BEHIND_HEADER, behind.as_str()));
        response.body(format!(
            "{}\nNot applied yet by the frontends at {behind}, which serve what they knew until they reach management",
            self.0
        ))
    }
}

impl IntoResponses for Sentence {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let content = ContentBuilder::new()
            .schema(Some(ObjectBuilder::new().schema_type(utoipa::openapi::Type::String)));
        let done = ResponseBuilder::new()
            .description("Done: a sentence that says so")
            .content("text/plain", content.build());
        BTreeMap::from([("200".into(), done.build().into())])
    }
}

/// Whether names are enough.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Listing {
    #[serde(default)]
    pub(super) verbose: bool,
}

impl super::body::RequestBody for Listing {}

/// A body that says nothing.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Empty {}

impl super::body::RequestBody for Empty {}

/// Names, or all there is to say.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum List<T> {
    Names(Vec<String>),
    Objects(Vec<T>),
}

/// What was asked for, or an empty object if there is no such thing.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum Found<T> {
    Object(T),
    Nothing(Empty),
}

impl<T> From<Option<T>> for Found<T> {
    fn from(object: Option<T>) -> Self {
        object.map_or(Self::Nothing(Empty {}), Self::Object)
    }
}

/// The refusals that every call with a body can be answered with.
pub(super) struct Refused;

impl IntoResponses for Refused {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let refusals = [
            ("400", "The body does not fit, or what it asks for cannot be done; nothing has changed"),
            ("408", "The body came too slowly; nothing has changed"),
            ("413", "The body is too long; nothing has changed"),
            ("500", "Management could not do this, for a reason of its own"),
            (
                "503",
                "The catalog cannot be written, management is shutting down, or there is no room; try again",
            ),
        ];
        let response = |description: &str| {
            let content = ContentBuilder::new().schema(Some(Ref::from_schema_name(ErrorBody::name())));
            ResponseBuilder::new()
                .description(description)
                .content("application/json", content.build())
                .build()
        };
        refusals.map(|(status, description)| (status.to_owned(), response(description).into())).into()
    }
}

/// "1 replica", "2 replicas".
pub(super) fn counted(number: u64, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}
