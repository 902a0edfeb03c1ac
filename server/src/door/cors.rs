//! Cross-origin resource sharing: tells browsers that pages of a named origin may read the answers.
//!
//! The protocol is that of the Fetch standard, section "CORS protocol", without credentials: no answer
//! depends on cookies.

use actix_web::dev::RequestHead;
use actix_web::http::Method;
use actix_web::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, HeaderValue, VARY,
};
use actix_web::{HttpResponse, body::MessageBody};

/// Seconds for which a browser may keep the answer to a preflight. Chromium keeps none longer.
const MAX_AGE: &str = "7200";

/// Whether a browser asks what a page may send, before the page sends it.
pub fn is_preflight(head: &RequestHead) -> bool {
    head.method == Method::OPTIONS && head.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// Answers a preflight: the page may send what it likes, with any headers.
pub fn preflight(head: &RequestHead) -> HttpResponse {
    let mut answer = HttpResponse::NoContent();
    answer.insert_header((ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD, POST"));
    answer.insert_header((ACCESS_CONTROL_MAX_AGE, MAX_AGE));
    if let Some(asked) = head.headers().get(ACCESS_CONTROL_REQUEST_HEADERS) {
        answer.insert_header((ACCESS_CONTROL_ALLOW_HEADERS, asked.clone()));
        answer.append_header((VARY, "Access-Control-Request-Headers"));
    }
    answer.finish()
}

/// Marks an answer as depending on the origin, and lets pages of `origin` read it.
pub fn share<B: MessageBody>(answer: &mut HttpResponse<B>, origin: Option<&HeaderValue>) {
    let headers = answer.headers_mut();
    headers.append(VARY, HeaderValue::from_static("Origin"));
    if let Some(origin) = origin {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("Retry-After"));
    }
}
