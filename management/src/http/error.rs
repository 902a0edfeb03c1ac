//! Every way in which the interface says no, as JSON, with the status of each in one place.

use actix_web::http::{StatusCode, header};
use actix_web::{HttpResponse, ResponseError};
use clipper_rpc::catalog::FollowError;
use clipper_rpc::protocol::ProtocolMismatch;
use serde::Serialize;
use utoipa::ToSchema;

use crate::access::AccessError;
use crate::error::{EditError, StoreError};
use crate::follow::FollowRefusal;
use crate::refusal::Refusal;
use crate::selection_state::StateError;

/// The body of a refusal.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ErrorBody {
    /// The kind of refusal, a fixed text.
    error: &'static str,
    /// What was wrong, and what was expected.
    cause: String,
}

/// See the module's documentation.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    #[error("Error parsing JSON: {what}. Expected JSON schema: {schema}")]
    Json { what: String, schema: String },
    #[error("{sentence}")]
    Value { sentence: String },
    #[error("The body did not arrive as a whole: {what}")]
    Incomplete { what: String },
    #[error("The body is longer than {limit} bytes")]
    TooLarge { limit: u64 },
    #[error(
        "The body is too slow: {received} bytes came; expected {bytes_per_second} bytes a second and no pause of \
         {idle} s"
    )]
    TooSlow { received: u64, idle: u64, bytes_per_second: u64 },
    #[error("The bodies of requests in progress take up the {most} bytes that are allowed; try again")]
    NoRoom { most: usize },
    #[error("{most} uploads are in progress, which is the most that are allowed; try again")]
    Uploads { most: usize },
    #[error("a backup is being made, and only one is at a time; try again later")]
    Backup,
    #[error(transparent)]
    Access(#[from] AccessError),
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("{what}")]
    Artifact { what: String },
    #[error("{what}")]
    Storage { what: String },
    #[error("{sentence}")]
    Missing { sentence: String },
    #[error("There is nothing at {path}; GET / says what there is")]
    NotFound { path: String },
    #[error("{path} takes {allowed}, not {method}")]
    Method { path: String, method: String, allowed: &'static str },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    States(#[from] StateError),
    #[error(transparent)]
    Follow(#[from] FollowError),
    #[error(transparent)]
    Protocol(#[from] ProtocolMismatch),
    #[error("Management could not do this: {what}")]
    Internal { what: String },
}

impl From<EditError> for ApiError {
    fn from(error: EditError) -> Self {
        match error {
            EditError::Refused(refusal) => Self::Refused(refusal),
            EditError::Store(error) => Self::Store(error),
        }
    }
}

impl From<FollowRefusal> for ApiError {
    fn from(error: FollowRefusal) -> Self {
        match error {
            FollowRefusal::Refused(refusal) => Self::Refused(refusal),
            FollowRefusal::Unavailable(error) => Self::Follow(error),
        }
    }
}

impl ApiError {
    fn kind(&self) -> &'static str {
        match self {
            Self::Json { .. } => "Json error",
            Self::Incomplete { .. } | Self::TooLarge { .. } | Self::TooSlow { .. } => "Body error",
            Self::Access(AccessError::Door(_)) => "Forbidden",
            Self::Access(AccessError::Token(_)) => "Unauthorized",
            Self::Access(AccessError::ContentType { .. }) => "Unsupported content type",
            Self::Value { .. }
            | Self::Refused(_)
            | Self::States(StateError::Over { .. } | StateError::TooManyStates { .. }) => "Request error",
            Self::Artifact { .. } | Self::Storage { .. } => "Artifact error",
            Self::Missing { .. } | Self::NotFound { .. } => "Not found",
            Self::Method { .. } => "Method not allowed",
            Self::Store(_)
            | Self::States(_)
            | Self::Follow(_)
            | Self::NoRoom { .. }
            | Self::Backup
            | Self::Uploads { .. } => "Unavailable",
            Self::Protocol(_) => "Protocol mismatch",
            Self::Internal { .. } => "Internal error",
        }
    }
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        match self {
            Self::Json { .. }
            | Self::Value { .. }
            | Self::Incomplete { .. }
            | Self::Refused(_)
            | Self::States(StateError::TooManyStates { .. })
            | Self::Artifact { .. } => StatusCode::BAD_REQUEST,
            Self::Access(AccessError::Door(_)) => StatusCode::FORBIDDEN,
            Self::Access(AccessError::Token(_)) => StatusCode::UNAUTHORIZED,
            Self::Access(AccessError::ContentType { .. }) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Missing { .. } | Self::NotFound { .. } => StatusCode::NOT_FOUND,
            Self::Method { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::States(StateError::Over { .. }) => StatusCode::CONFLICT,
            Self::Store(_)
            | Self::States(_)
            | Self::Follow(_)
            | Self::NoRoom { .. }
            | Self::Backup
            | Self::Uploads { .. } => StatusCode::SERVICE_UNAVAILABLE,
            // No refusal to frontends of any version: they keep what they have learned, and try again.
            Self::Protocol(_) => StatusCode::NOT_IMPLEMENTED,
            Self::TooSlow { .. } => StatusCode::REQUEST_TIMEOUT,
            Self::Storage { .. } => StatusCode::INSUFFICIENT_STORAGE,
            Self::Internal { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status_code());
        if let Self::Method { allowed, .. } = self {
            response.insert_header((header::ALLOW, *allowed));
        }
        if matches!(self, Self::Access(AccessError::Token(_))) {
            response.insert_header((header::WWW_AUTHENTICATE, "Bearer"));
        }
        let is_cut_off = matches!(
            self,
            Self::TooLarge { .. }
                | Self::Incomplete { .. }
                | Self::TooSlow { .. }
                | Self::NoRoom { .. }
                | Self::Storage { .. }
                | Self::Uploads { .. }
                | Self::Protocol(_)
        );
        if is_cut_off {
            // The rest of the body is still coming; nothing after it could be told from it.
            response.force_close();
        }
        response.json(ErrorBody { error: self.kind(), cause: self.to_string() })
    }
}
