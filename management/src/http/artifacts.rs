//! Uploads of models' files.
//!
//! Invariant: an upload is on disk before it is looked into, and no more of it than the limit; whatever becomes
//! of it, its file is removed.

use std::io;
use std::path::PathBuf;

use actix_web::{post, web};
use futures_util::StreamExt;
use serde::Serialize;
use tokio::fs::File;
use tokio::io::AsyncWriteExt;
use utoipa::ToSchema;
use uuid::Uuid;

use super::answer::Refused;
use super::error::ApiError;
use crate::admin::Admin;
use crate::deployment::{ArtifactError, ArtifactId};

/// Where uploads are kept until they are unpacked.
#[derive(Debug, Clone)]
pub(crate) struct Uploads {
    folder: PathBuf,
    max_bytes: u64,
}

impl Uploads {
    /// An empty folder for uploads of at most `max_bytes` each.
    pub(crate) fn open(folder: PathBuf, max_bytes: u64) -> io::Result<Self> {
        match std::fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => std::fs::create_dir(&folder)?,
        }
        Ok(Self { folder, max_bytes })
    }

    async fn receive(&self, mut body: web::Payload) -> Result<Upload, ApiError> {
        let upload = Upload(self.folder.join(Uuid::new_v4().to_string()));
        let mut file = File::create(&upload.0).await.map_err(unwritable)?;
        let mut length = 0;
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|error| ApiError::Incomplete { what: error.to_string() })?;
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
struct Upload(PathBuf);

impl Drop for Upload {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
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
    let artifacts = admin.artifacts.clone();
    let added = web::block(move || artifacts.add(&upload.0)).await;
    let added = added.map_err(|error| ApiError::Internal { what: error.to_string() })?;
    match added {
        Ok(artifact) => Ok(web::Json(StoredArtifact { artifact })),
        Err(ArtifactError::Storage(error)) => Err(unwritable(error)),
        Err(
            error @ (ArtifactError::Unreadable(_)
            | ArtifactError::Refused { .. }
            | ArtifactError::TooLarge { .. }),
        ) => Err(ApiError::Artifact { what: error.to_string() }),
    }
}
