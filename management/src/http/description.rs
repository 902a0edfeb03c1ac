//! Adds to the description of the interface what the check of access answers, whichever the call.

use utoipa::ToSchema;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{ContentBuilder, OpenApi, Ref, ResponseBuilder};

use super::error::ErrorBody;
use crate::access::Access;

/// The name of the tokens within the description.
const TOKEN: &str = "token";

/// Adds the tokens, and the refusals of requests that may not make a call.
pub(super) fn with_access(mut document: OpenApi) -> OpenApi {
    if let Some(components) = &mut document.components {
        components.add_security_scheme(TOKEN, SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
    }
    for (path, item) in &mut document.paths.paths {
        for operation in operations(item) {
            add_refusals(operation, path);
        }
    }
    document
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut item.get, &mut item.post].into_iter().flatten()
}

fn add_refusals(operation: &mut Operation, path: &str) {
    let mut add = |status: &str, description: &str| {
        let content = ContentBuilder::new().schema(Some(Ref::from_schema_name(ErrorBody::name())));
        let response = ResponseBuilder::new()
            .description(description)
            .content("application/json", content.build())
            .build();
        operation.responses.responses.insert(status.to_owned(), response.into());
    };
    add("403", "The request comes from a page of another origin, or to a host name that is not allowed");
    if operation.request_body.is_some() {
        add("415", "The body is of another content type");
    }
    if !Access::is_open(path) {
        add("401", "The call needs a token, and the request has not that one");
        operation.security =
            Some(vec![SecurityRequirement::default(), SecurityRequirement::new::<_, _, &str>(TOKEN, [])]);
    }
}
