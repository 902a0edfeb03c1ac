//! JSON request bodies, and what a client is told about one that does not fit.
//!
//! Invariant: a handler that takes a [`Body`] runs only on a JSON object that has all fields, no others, and
//! values of the right types.

use std::future::Future;
use std::pin::Pin;

use actix_web::dev::Payload;
use actix_web::error::PayloadError;
use actix_web::{FromRequest, HttpRequest, web};
use futures_util::StreamExt;
use serde::de::DeserializeOwned;
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
    let misfit = |what: String| {
        let schema = serde_json::to_string(&T::schema()).unwrap_or_default();
        ApiError::Json { what, schema }
    };
    // serde would also take an array for a struct, its elements for the fields in order.
    if bytes.trim_ascii_start().first() == Some(&b'[') {
        return Err(misfit("invalid type: array, expected an object".into()));
    }
    serde_json::from_slice(bytes).map_err(|error| misfit(error.to_string()))
}
