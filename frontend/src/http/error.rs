//! Refusals as JSON: `{"error": kind, "cause": what was wrong and what was expected}`.

use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{ALLOW, RETRY_AFTER};
use actix_web::{HttpResponse, ResponseError};
use clipper_server::door::DoorError;
use utoipa::ToSchema;

use crate::computation::failure::Failure;
use crate::prediction::OptionsError;
use crate::query::QueryError;
use crate::selection::feedback::FeedbackError;
use crate::worker::request_bytes::NoRoom;

/// Why a request is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    #[error(transparent)]
    Door(#[from] DoorError),
    #[error("there is no application named '{name}'")]
    UnknownApplication { name: String },
    #[error(transparent)]
    Query(#[from] QueryError),
    #[error(transparent)]
    Options(#[from] OptionsError),
    #[error(
        "query {query_id} was not answered by this application, or is forgotten: decisions are kept for a bounded time"
    )]
    UnknownQuery { query_id: u64 },
    #[error(transparent)]
    Feedback(#[from] FeedbackError),
    #[error("the body is larger than {limit} bytes")]
    TooLarge { limit: usize },
    #[error("the body cannot be read: {0}")]
    Unreadable(actix_web::Error),
    #[error("the body has the content type '{found}'; expected application/json")]
    ContentType { found: String },
    #[error("the body has the content encoding '{found}'; expected none")]
    ContentEncoding { found: String },
    #[error("the body had not arrived after {} s", .waited.as_secs())]
    Stalled { waited: Duration },
    #[error("there is no {path}; GET / says what there is")]
    UnknownPath { path: String },
    #[error("{path} takes {allowed}, not {method}")]
    Method { path: String, method: String, allowed: &'static str },
    #[error("the application has its {limit} concurrent requests in progress")]
    TooManyRequests { limit: u32 },
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    #[error(transparent)]
    QueueFull(Failure),
    #[error(transparent)]
    TooManyTogether(Failure),
    #[error("this frontend has not heard from management yet")]
    NotReady,
}

/// The body of a refusal.
#[derive(serde::Serialize, ToSchema)]
pub(crate) struct Refusal {
    /// What kind of refusal this is.
    #[schema(value_type = String, example = "Json error")]
    error: &'static str,
    /// What was wrong, and what was expected.
    cause: String,
}

impl ApiError {
    fn kind(&self) -> &'static str {
        match self {
            Self::Door(_) => "Forbidden",
            Self::Query(_) => "Json error",
            Self::Options(_) | Self::TooManyTogether(_) => "Query processing error",
            Self::TooManyRequests { .. } => "Too many requests",
            Self::QueueFull(_) | Self::NoRoom(_) => "Overloaded",
            Self::Feedback(FeedbackError::Verdict(_)) => "Query processing error",
            Self::Feedback(FeedbackError::Full) => "Overloaded",
            Self::UnknownQuery { .. } => "Unknown query",
            Self::UnknownApplication { .. } => "Unknown application",
            Self::TooLarge { .. } => "Body too large",
            Self::Unreadable(_) => "Unreadable body",
            Self::ContentType { .. } => "Unsupported content type",
            Self::ContentEncoding { .. } => "Unsupported content encoding",
            Self::Stalled { .. } => "Body too slow",
            Self::UnknownPath { .. } => "Unknown path",
            Self::Method { .. } => "Method not allowed",
            Self::NotReady => "Not ready",
        }
    }
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        match self {
            Self::Query(_)
            | Self::Options(_)
            | Self::TooManyTogether(_)
            | Self::Feedback(FeedbackError::Verdict(_))
            | Self::Unreadable(_) => StatusCode::BAD_REQUEST,
            Self::Door(_) => StatusCode::FORBIDDEN,
            Self::TooManyRequests { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::UnknownApplication { .. } | Self::UnknownQuery { .. } | Self::UnknownPath { .. } => {
                StatusCode::NOT_FOUND
            }
            Self::Method { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::ContentType { .. } | Self::ContentEncoding { .. } => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Stalled { .. } => StatusCode::REQUEST_TIMEOUT,
            Self::NotReady | Self::QueueFull(_) | Self::NoRoom(_) | Self::Feedback(FeedbackError::Full) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status_code());
        if let Self::NotReady
        | Self::QueueFull(_)
        | Self::NoRoom(_)
        | Self::Feedback(FeedbackError::Full)
        | Self::TooManyRequests { .. } = self
        {
            response.insert_header((RETRY_AFTER, "1"));
        }
        if let Self::Method { allowed, .. } = self {
            response.insert_header((ALLOW, *allowed));
        }
        response.json(Refusal { error: self.kind(), cause: self.to_string() })
    }
}
