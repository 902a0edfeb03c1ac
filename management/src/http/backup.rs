//! A backup of the whole cluster, as a stream.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use actix_web::{HttpResponse, get, web};
use futures_util::stream;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use super::answer::Refused;
use super::error::ApiError;
use crate::admin::{Admin, blocking};
use crate::backup::{self, Source};

/// How long a client may take nothing of its backup.
const PATIENCE: Duration = Duration::from_secs(60);
/// The bytes that are sent at once.
const CHUNK_BYTES: usize = 256 << 10;
/// The chunks that wait for the client.
const CHUNKS: usize = 4;

/// Backups that may begin: one at a time, as each takes the disk of what is learned.
#[derive(Debug)]
pub(super) struct BackupTurn(Arc<Semaphore>);

impl Default for BackupTurn {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

/// Streams the catalog, with the secrets in it, what is learned, and the artifacts, as of one moment.
#[utoipa::path(
    responses(
        (status = 200, content_type = "application/x-tar", body = Vec<u8>, description = "The backup; whole if its last file is manifest.json"),
        Refused,
    ),
    tag = "catalog"
)]
#[get("/admin/backup")]
pub(super) async fn get_backup(
    admin: web::Data<Admin>,
    turn: web::Data<BackupTurn>,
) -> Result<HttpResponse, ApiError> {
    let turn = Arc::clone(&turn.0).try_acquire_owned().map_err(|_| ApiError::Backup)?;
    // Before the catalog is read, which names what must stay.
    let hold = admin.artifacts.hold();
    let artifacts = admin.artifacts.clone();
    let scratch = blocking(move || artifacts.scratch_file()).await;
    let scratch =
        scratch.map_err(|error| ApiError::Internal { what: format!("no room for a copy: {error}") })?;
    let (catalog, learned) = admin.follow.states.copy(scratch).await?;
    let artifacts = admin.artifacts.clone();
    let source = Source { store: admin.follow.feed.store(), catalog, learned, artifacts };
    let (sender, chunks) = mpsc::channel(CHUNKS);
    tokio::task::spawn_blocking(move || {
        let _held = (turn, hold);
        let revision = source.catalog.revision;
        match backup::write(source, Chunks { buffer: Vec::new(), sender: sender.clone() }) {
            Ok(()) => tracing::info!(revision, "backup made"),
            Err(error) => {
                tracing::warn!(%error, "a backup broke off");
                // The connection is closed before the end of the body, so that the client notices.
                let _ = sender.try_send(Err(error));
            }
        }
    });
    let body = stream::unfold(chunks, async |mut chunks| Some((chunks.recv().await?, chunks)));
    Ok(HttpResponse::Ok().content_type("application/x-tar").streaming(body))
}

/// Hands what is written to a client that takes it at its own pace.
struct Chunks {
    buffer: Vec<u8>,
    sender: mpsc::Sender<io::Result<web::Bytes>>,
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= CHUNK_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let chunk = Ok(std::mem::take(&mut self.buffer).into());
        match Handle::current().block_on(timeout(PATIENCE, self.sender.send(chunk))) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(io::Error::other("the client has gone")),
            Err(_) => Err(io::Error::other(format!("the client took nothing for {} s", PATIENCE.as_secs()))),
        }
    }
}
