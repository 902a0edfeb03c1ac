//! JSON request bodies, and what a client is told about one that does not fit.
//!
//! Invariant: a handler that takes a [`Body`] runs only on a JSON object that has all fields, no others, and
//! values that are right by themselves. A body of another form is refused with the form that was expected, a value
//! that breaks a rule of its own with that rule.

use std::future::Future;
use std::pin::Pin;

use actix_web::dev::Payload;
use actix_web::error::PayloadError;
use actix_web::{FromRequest, HttpRequest, web};
use futures_util::StreamExt;
use serde::de::{DeserializeOwned, IntoDeserializer};
use serde::{Deserialize, Deserializer};
use utoipa::PartialSchema;

use super::error::ApiError;

/// The most bytes of an ordinary body; far more than any needs.
const MAX_BODY_BYTES: usize = 1 << 20;

/// The longest body of a type, if it is not an ordinary one.
pub(super) trait RequestBody: DeserializeOwned + PartialSchema + 'static {
    const MAX_BYTES: usize = MAX_BODY_BYTES;
}

/// A request's body as a value.
pub(super) struct Body<T>(pub(super) T);

impl<T: RequestBody> FromRequest for Body<T> {
    type Error = ApiError;
    type Future = Pin<Box<dyn Future<Output = Result<Self, ApiError>>>>;

    fn from_request(_: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let payload = payload.take();
        Box::pin(async move { parse(&read(payload, T::MAX_BYTES).await?).map(Self) })
    }
}

async fn read(mut payload: Payload, limit: usize) -> Result<web::BytesMut, ApiError> {
    let mut bytes = web::BytesMut::new();
    while let Some(chunk) = payload.next().await {
        let chunk = chunk.map_err(|error: PayloadError| ApiError::Incomplete { what: error.to_string() })?;
        if bytes.len() + chunk.len() > limit {
            return Err(ApiError::TooLarge { limit: limit as u64 });
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

fn parse<T: RequestBody>(bytes: &[u8]) -> Result<T, ApiError> {
    // serde would also take an array for a struct, its elements for the fields in order.
    if bytes.trim_ascii_start().first() == Some(&b'[') {
        return Err(misfit::<T>("invalid type: array, expected an object".into()));
    }
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        explained::<T>(&path, error.inner())
    })?;
    json.end().map_err(|error| misfit::<T>(error.to_string()))?;
    Ok(value)
}

/// Reads one of a few words, or null. By themselves they would be read as well, but a number in their place would be
/// called a syntax error, and its field not be named.
pub(super) fn word<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    let word = Option::<String>::deserialize(deserializer)?;
    word.map(|word| T::deserialize(word.into_deserializer())).transpose()
}

fn misfit<T: RequestBody>(what: String) -> ApiError {
    ApiError::Json { what, schema: serde_json::to_string(&T::schema()).unwrap_or_default() }
}

/// How serde begins what it says by itself. What else makes a body unfit is the sentence of a type of ours, such as
/// that of a name, which says all there is to say of the value that it refuses.
const SERDE: [&str; 7] = [
    "invalid type: ",
    "invalid value: ",
    "invalid length ",
    "unknown variant ",
    "unknown field ",
    "missing field ",
    "duplicate field ",
];

fn explained<T: RequestBody>(path: &str, error: &serde_json::Error) -> ApiError {
    let text = error.to_string();
    if !error.is_data() {
        return misfit::<T>(text);
    }
    let position = format!(" at line {} column {}", error.line(), error.column());
    let what = text.strip_suffix(&position).unwrap_or(&text);
    if !SERDE.iter().any(|beginning| what.starts_with(beginning)) {
        return ApiError::Value { sentence: what.to_owned() };
    }
    // An unknown field is its own path; `.` is the body as a whole.
    let at =
        if path == "." || what.starts_with("unknown field ") { String::new() } else { format!("{path}: ") };
    misfit::<T>(match what.rsplit_once(", expected ") {
        Some((found, expected)) => format!("{at}{found}, expected {}", in_json(expected)),
        None => format!("{at}{what}"),
    })
}

/// What serde expected, for readers who know JSON and not Rust.
pub(super) fn in_json(expected: &str) -> &str {
    match expected {
        "u32" => "a whole number from 0 to 4294967295",
        "u64" | "usize" => "a whole number of at least 0",
        "i64" => "a whole number",
        "f64" => "a number",
        "a string" => "a text",
        "a sequence" => "a list",
        "a map" => "an object",
        _ if expected.starts_with("struct ") => "an object",
        _ => expected,
    }
}
