//! Uploads of models' files.
//!
//! Invariant: an upload is on disk before it is looked into, and no more of it than the limit; whatever becomes
//! of it, its file is removed.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use actix_web::{post, web};
use serde::Serialize;
use tokio::fs::File;
use tokio::io::AsyncWriteExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use utoipa::ToSchema;
use uuid::Uuid;

use super::answer::Refused;
use super::error::ApiError;
use super::pace::{Pace, Paced};
use crate::admin::Admin;
use crate::deployment::{ArtifactError, ArtifactId};

/// The most uploads in progress.
const MAX_UPLOADS: usize = 4;
/// The slowest pace at which an upload may arrive.
const UPLOAD_PACE: Pace =
    Pace { grace: Duration::from_secs(30), idle: Duration::from_secs(30), bytes_per_second: 64 << 10 };

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

    async fn receive(&self, body: web::Payload) -> Result<Upload, ApiError> {
        let room = Arc::clone(&self.room).try_acquire_owned();
        let room = room.map_err(|_| ApiError::Uploads { most: MAX_UPLOADS })?;
        let path = self.folder.join(Uuid::new_v4().to_string());
        let mut file = File::create(&path).await.map_err(unwritable)?;
        let upload = Upload { path, _room: room };
        let mut body = Paced::new(body.into_inner(), UPLOAD_PACE);
        let mut length = 0;
        while let Some(chunk) = body.next().await? {
            length += chunk.len() as u64;
            if length > self.max_bytes {
                return Err(ApiError::TooLarge { limit: self.max_bytes });
            }
            file.write_all(&chunk).await.map_err(unwritable)?;
        }
        file.flush().await.map_err(unwritable)?;
        Ok(upload)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn unwritable(error: io::Error) -> ApiError {
    ApiError::Internal { what: format!("the upload cannot be written: {error}") }
}

/// The file of one upload.
struct Upload {
    path: PathBuf,
    _room: OwnedSemaphorePermit,
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
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
    let upload = uploads.receive(body).await?;
    admin.remove_unused_artifacts().await;
    let artifacts = admin.artifacts.clone();
    let added = web::block(move || artifacts.add(&upload.path)).await;
    let added = added.map_err(|error| ApiError::Internal { what: error.to_string() })?;
    match added {
        Ok(artifact) => Ok(web::Json(StoredArtifact { artifact })),
        Err(ArtifactError::Storage(error)) => Err(unwritable(error)),
        Err(
            error @ (ArtifactError::Unreadable(_)
            | ArtifactError::Refused { .. }
            | ArtifactError::TooLarge { .. }
            | ArtifactError::Full { .. }),
        ) => Err(ApiError::Artifact { what: error.to_string() }),
    }
}
