//! Uploads of models' files.
//!
//! Invariant: an upload is on disk before it is looked into, and no more of it than the limit; whatever becomes
//! of it, its file is removed.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use actix_web::body::SizedStream;
use actix_web::{HttpResponse, get, post, web};
use futures_util::{Stream, stream};
use serde::Serialize;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use utoipa::ToSchema;
use uuid::Uuid;

use super::answer::Refused;
use super::error::{ApiError, ErrorBody};
use super::pace::{Pace, Paced};
use crate::admin::{Admin, blocking};
use crate::deployment::{ArtifactError, ArtifactId, Artifacts, MalformedArtifactId, UploadRoom};

/// The most uploads in progress.
const MAX_UPLOADS: usize = 4;
/// The slowest pace at which an upload may arrive.
const UPLOAD_PACE: Pace =
    Pace { grace: Duration::from_secs(30), idle: Duration::from_secs(30), bytes_per_second: 64 << 10 };

/// The most bytes of an archive that are read at once.
const CHUNK_BYTES: usize = 64 << 10;

/// Where uploads are kept until they are unpacked.
#[derive(Debug, Clone)]
pub(crate) struct Uploads {
    folder: PathBuf,
    max_bytes: u64,
    /// Uploads that may begin.
    room: Arc<Semaphore>,
}

impl Uploads {
    /// An empty folder for uploads of at most `max_bytes` each.
    pub(crate) fn open(folder: PathBuf, max_bytes: u64) -> io::Result<Self> {
        match std::fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => std::fs::create_dir(&folder)?,
        }
        Ok(Self { folder, max_bytes, room: Arc::new(Semaphore::new(MAX_UPLOADS)) })
    }

    async fn receive(&self, artifacts: &Artifacts, body: web::Payload) -> Result<Upload, ApiError> {
        let turn = Arc::clone(&self.room).try_acquire_owned();
        let turn = turn.map_err(|_| ApiError::Uploads { most: MAX_UPLOADS })?;
        let path = self.folder.join(Uuid::new_v4().to_string());
        let mut file = File::create(&path).await.map_err(unwritable)?;
        let mut upload = Upload { path, _turn: turn, room: artifacts.upload_room() };
        let mut body = Paced::new(body.into_inner(), UPLOAD_PACE);
        let mut length = 0;
        while let Some(chunk) = body.next().await? {
            length += chunk.len() as u64;
            if length > self.max_bytes {
                return Err(ApiError::TooLarge { limit: self.max_bytes });
            }
            upload.room.grow(length)?;
            file.write_all(&chunk).await.map_err(unwritable)?;
        }
        file.flush().await.map_err(unwritable)?;
        Ok(upload)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn unwritable(error: io::Error) -> ApiError {
    if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
        return ApiError::Storage {
            what: format!("the upload cannot be written: {error}; make room on its disk"),
        };
    }
    ApiError::Internal { what: format!("the upload cannot be written: {error}") }
}

/// The file of one upload.
struct Upload {
    path: PathBuf,
    _turn: OwnedSemaphorePermit,
    room: UploadRoom,
}

impl Drop for Upload {
    fn drop(&mut self) {
        // The archive of an artifact that is stored has moved.
        if let Err(error) = std::fs::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, "the file of an upload stays until the next start");
        }
    }
}

/// An artifact that is stored.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct StoredArtifact {
    /// The SHA-256 of the archive, in hexadecimal.
    #[schema(value_type = String)]
    artifact: ArtifactId,
}

/// Stores a tar archive of a model's files.
#[utoipa::path(
    request_body(content_type = "application/x-tar", content = Vec<u8>),
    responses((status = 200, body = StoredArtifact, description = "How deployments name it"), Refused),
    tag = "deployments"
)]
#[post("/admin/add_artifact")]
pub(super) async fn add_artifact(
    admin: web::Data<Admin>,
    uploads: web::Data<Uploads>,
    body: web::Payload,
) -> Result<web::Json<StoredArtifact>, ApiError> {
    admin.remove_unused_artifacts().await;
    let upload = uploads.receive(&admin.artifacts, body).await?;
    let artifacts = admin.artifacts.clone();
    let added = web::block(move || artifacts.add(&upload.path)).await;
    let added = added.map_err(|error| ApiError::Internal { what: error.to_string() })?;
    Ok(web::Json(StoredArtifact { artifact: added? }))
}

impl From<ArtifactError> for ApiError {
    fn from(error: ArtifactError) -> Self {
        match error {
            ArtifactError::Storage(error) => unwritable(error),
            ArtifactError::Full { .. } | ArtifactError::UploadsFull { .. } => {
                Self::Storage { what: error.to_string() }
            }
            ArtifactError::Unreadable(_) | ArtifactError::Refused { .. } | ArtifactError::TooLarge { .. } => {
                Self::Artifact { what: error.to_string() }
            }
        }
    }
}

/// Returns the archive of an artifact as it was uploaded.
#[utoipa::path(
    params(("artifact" = String, Path, description = "The SHA-256 of the archive, in hexadecimal")),
    responses(
        (status = 200, content_type = "application/x-tar", body = Vec<u8>, description = "The archive"),
        (status = 400, body = ErrorBody, description = "That is no id of an artifact"),
        (status = 404, body = ErrorBody, description = "There is no such archive: the sentence says why not"),
    ),
    tag = "deployments"
)]
#[get("/admin/get_artifact/{artifact}")]
pub(super) async fn get_artifact(
    admin: web::Data<Admin>,
    artifact: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    let id: ArtifactId = artifact
        .parse()
        .map_err(|error: MalformedArtifactId| ApiError::Value { sentence: error.to_string() })?;
    let (artifacts, asked) = (admin.artifacts.clone(), id.clone());
    let opened = blocking(move || Ok((artifacts.archive(&asked)?, artifacts.contains(&asked)))).await;
    let unreadable =
        |error: io::Error| ApiError::Internal { what: format!("the archive cannot be read: {error}") };
    let archive = match opened.map_err(unreadable)? {
        (Some(archive), _) => File::from_std(archive),
        (None, true) => {
            let sentence = format!(
                "The archive of artifact '{id}' was not kept, as an older Clipper stored it: upload it again"
            );
            return Err(ApiError::Missing { sentence });
        }
        (None, false) => {
            return Err(ApiError::Missing { sentence: format!("No artifact '{id}' is stored.") });
        }
    };
    let length = archive.metadata().await.map_err(unreadable)?.len();
    let body = SizedStream::new(length, chunks(archive));
    Ok(HttpResponse::Ok().content_type("application/x-tar").body(body))
}

/// The content of a file, piece by piece.
fn chunks(file: File) -> impl Stream<Item = io::Result<web::Bytes>> {
    stream::try_unfold(file, async |mut file| {
        let mut chunk = web::BytesMut::with_capacity(CHUNK_BYTES);
        let read = file.read_buf(&mut chunk).await?;
        Ok((read > 0).then(|| (chunk.freeze(), file)))
    })
}
