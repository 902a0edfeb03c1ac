//! JSON request bodies, and what a client is told about one that does not fit.
//!
//! Invariant: a handler that takes a [`Body`] runs only on a JSON object that has all fields, no others, and
//! values that are right by themselves. A body of another form is refused with the form that was expected, a value
//! that breaks a rule of its own with that rule.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::Payload;
use actix_web::{FromRequest, HttpMessage, HttpRequest, web};
use clipper_rpc::excerpt::excerpt;
use serde::de::{DeserializeOwned, IntoDeserializer};
use serde::{Deserialize, Deserializer};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use utoipa::PartialSchema;

use super::error::ApiError;
use super::pace::{Pace, Paced};

/// The most bytes of an ordinary body; far more than any needs.
const MAX_BODY_BYTES: usize = 1 << 20;

/// The most bytes of all bodies of requests in progress.
const ALL_BODIES_BYTES: usize = 256 << 20;
/// Room for bodies is counted in units of this number of bytes.
const ROOM_UNIT: usize = 4096;
/// Longer bodies are parsed on a thread of their own, so that other requests do not wait for that.
const INLINE_BYTES: usize = 512 << 10;
/// The slowest pace at which a body may arrive.
const BODY_PACE: Pace =
    Pace { grace: Duration::from_secs(10), idle: Duration::from_secs(10), bytes_per_second: 64 << 10 };

/// The longest body of a type, if it is not an ordinary one.
pub(super) trait RequestBody: DeserializeOwned + PartialSchema + Send + 'static {
    const MAX_BYTES: usize = MAX_BODY_BYTES;
}

/// A request's body as a value.
pub(super) struct Body<T>(pub(super) T);

impl<T: RequestBody> FromRequest for Body<T> {
    type Error = ApiError;
    type Future = Pin<Box<dyn Future<Output = Result<Self, ApiError>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let request = request.clone();
        let room = request.app_data::<web::Data<BodyRoom>>().map(|room| room.get_ref().clone());
        let payload = Paced::new(payload.take(), BODY_PACE);
        Box::pin(async move {
            let (bytes, held) = read(payload, T::MAX_BYTES, &room.unwrap_or_default()).await?;
            let body = if bytes.len() > INLINE_BYTES {
                let parsed = web::block(move || parse(&bytes)).await;
                parsed.map_err(|error| ApiError::Internal { what: error.to_string() })?
            } else {
                parse(&bytes)
            };
            // Until the request is answered, or its handler lets go of the room.
            request.extensions_mut().insert(held);
            body.map(Self)
        })
    }
}

/// Memory for the bodies of all requests in progress, in units of [`ROOM_UNIT`].
#[derive(Debug, Clone)]
pub(super) struct BodyRoom(Arc<Semaphore>);

/// A part of a [`BodyRoom`], until it is dropped.
#[derive(Debug)]
pub(super) struct HeldRoom(#[expect(dead_code, reason = "is given back when dropped")] OwnedSemaphorePermit);

impl Default for BodyRoom {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(ALL_BODIES_BYTES / ROOM_UNIT)))
    }
}

impl BodyRoom {
    /// Never waits, as those that have room might be waiting for more of it, too.
    fn hold(&self, units: usize) -> Result<OwnedSemaphorePermit, ApiError> {
        let units = u32::try_from(units).map_err(|_| ApiError::NoRoom { most: ALL_BODIES_BYTES })?;
        let held = Arc::clone(&self.0).try_acquire_many_owned(units);
        held.map_err(|_| ApiError::NoRoom { most: ALL_BODIES_BYTES })
    }
}

/// Gives back the room of a request's body, for a handler that keeps nothing of the body and waits.
pub(super) fn release_room(request: &HttpRequest) {
    drop(request.extensions_mut().remove::<HeldRoom>());
}

async fn read(
    mut payload: Paced,
    limit: usize,
    room: &BodyRoom,
) -> Result<(web::BytesMut, HeldRoom), ApiError> {
    let mut bytes = web::BytesMut::new();
    let mut held = room.hold(1)?;
    while let Some(chunk) = payload.next().await? {
        let length = bytes.len() + chunk.len();
        if length > limit {
            return Err(ApiError::TooLarge { limit: limit as u64 });
        }
        held.merge(room.hold((length / ROOM_UNIT + 1).saturating_sub(held.num_permits()))?);
        bytes.extend_from_slice(&chunk);
    }
    Ok((bytes, HeldRoom(held)))
}

/// Reads a body, with or without a byte order mark.
fn parse<T: RequestBody>(bytes: &[u8]) -> Result<T, ApiError> {
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
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
        return ApiError::Value { sentence: excerpt(what).into_owned() };
    }
    // An unknown field is its own path; `.` is the body as a whole.
    let at = if path == "." || what.starts_with("unknown field ") {
        String::new()
    } else {
        format!("{}: ", excerpt(path))
    };
    misfit::<T>(match what.rsplit_once(", expected ") {
        Some((found, expected)) => format!("{at}{}, expected {}", excerpt(found), in_json(expected)),
        None => format!("{at}{}", excerpt(what)),
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

#[cfg(test)]
mod tests {
    use actix_web::FromRequest;
    use actix_web::test::TestRequest;

    use super::*;
    use crate::http::answer::Empty;

    async fn body(room: &BodyRoom, bytes: Vec<u8>) -> (HttpRequest, Result<Body<Empty>, ApiError>) {
        let request = TestRequest::post().app_data(web::Data::new(room.clone())).set_payload(bytes);
        let (request, mut payload) = request.to_http_parts();
        let body = Body::from_request(&request, &mut payload).await;
        (request, body)
    }

    #[actix_rt::test]
    async fn a_body_takes_room_until_its_request_is_answered_or_its_handler_lets_go() {
        let room = BodyRoom(Arc::new(Semaphore::new(3)));
        let long = || [vec![b' '; ROOM_UNIT], b"{}".to_vec()].concat();
        let (first, parsed) = body(&room, long()).await;
        assert!(parsed.is_ok());
        assert_eq!(room.0.available_permits(), 1);
        let (_, refused) = body(&room, long()).await;
        let sentence =
            "The bodies of requests in progress take up the 268435456 bytes that are allowed; try again";
        assert_eq!(refused.err().unwrap().to_string(), sentence);
        assert_eq!(room.0.available_permits(), 1);
        release_room(&first);
        assert_eq!(room.0.available_permits(), 3);
        let (second, parsed) = body(&room, long()).await;
        assert!(parsed.is_ok());
        drop((first, second));
        assert_eq!(room.0.available_permits(), 3);
    }

    #[actix_rt::test]
    async fn a_byte_order_mark_before_a_body_is_skipped() {
        let room = BodyRoom::default();
        assert!(body(&room, "\u{feff}{}".into()).await.1.is_ok());
        let refused = body(&room, "\u{feff}[]".into()).await.1.err().unwrap().to_string();
        assert!(refused.contains("invalid type: array, expected an object"), "{refused}");
        assert!(body(&room, "\u{feff}\u{feff}{}".into()).await.1.is_err());
    }

    #[actix_rt::test]
    async fn a_long_body_is_parsed_on_another_thread_and_little_of_it_is_repeated() {
        let room = BodyRoom::default();
        let long = [vec![b' '; INLINE_BYTES], b"{}".to_vec()].concat();
        assert!(body(&room, long).await.1.is_ok());
        for (json, says) in [
            (format!(r#"{{"{}": 1}}"#, "x".repeat(800 << 10)), "unknown field `xxx"),
            (format!(r#""{}""#, "x".repeat(800 << 10)), r#"invalid type: string "xxx"#),
        ] {
            let refused = body(&room, json.into_bytes()).await.1.err().unwrap().to_string();
            assert!(refused.contains(says) && refused.contains("Expected"), "{refused}");
            assert!(refused.len() < 1000, "{}", refused.len());
        }
    }
}
