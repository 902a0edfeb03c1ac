//! `clipper backup` and `clipper restore`: a cluster in a folder, and a data directory of that.

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use clipper_management::backup::{Manifest, receive, restore};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::tokens;

/// The longest time in which management sends nothing. It begins once what is learned is copied.
const PATIENCE: Duration = Duration::from_secs(300);
/// The pieces of an answer that wait to be written.
const PIECES: usize = 16;

/// What to back up.
#[derive(Debug, Args)]
#[group(skip)]
pub struct BackupSettings {
    /// Write the backup to this folder, which must not exist or be empty
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Where management is reached
    #[arg(long = "management", id = "management_url", env = "CLIPPER_MANAGEMENT", value_name = "URL")]
    #[arg(default_value = "http://127.0.0.1:1338")]
    management_url: String,
    /// Call management by the token in this file (or in the variable CLIPPER_ADMIN_TOKEN)
    #[arg(long, env = "CLIPPER_ADMIN_TOKEN_FILE", value_name = "FILE")]
    admin_token_file: Option<PathBuf>,
}

/// What to restore.
#[derive(Debug, Args)]
#[group(skip)]
pub struct RestoreSettings {
    /// Read the backup in this folder
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Make this data directory, which must not exist or be empty
    #[arg(long, value_name = "NEW")]
    data_dir: PathBuf,
}

/// Backs up a cluster that runs.
///
/// # Errors
/// If management cannot be reached or refuses, or the folder cannot be written. The folder holds no backup then.
pub async fn back_up(settings: BackupSettings) -> anyhow::Result<()> {
    let BackupSettings { folder, management_url, admin_token_file } = settings;
    let token = tokens::ADMIN.read(admin_token_file.as_deref())?;
    let url = format!("{}/admin/backup", management_url.trim_end_matches('/'));
    // A redirect could lead the token elsewhere; management answers with none.
    let client = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build()?;
    let mut call = client.get(&url);
    if let Some(token) = &token {
        call = call.bearer_auth(token.reveal());
    }
    let late = || format!("{url} sent nothing for {} s", PATIENCE.as_secs());
    let sent = timeout(PATIENCE, call.send()).await.with_context(late)?;
    let mut response = sent.with_context(|| format!("cannot reach management at {management_url}"))?;
    let status = response.status();
    if !status.is_success() {
        let cause = response.text().await.unwrap_or_default();
        bail!("{url} answered {status}: {}", clipper_rpc::excerpt::excerpt(&cause));
    }
    let (pieces, received) = mpsc::channel(PIECES);
    let stream = Pieces { received, piece: Vec::new(), read: 0 };
    let target = folder.clone();
    let writing = spawn_blocking(move || receive(stream, &target));
    loop {
        let piece = match timeout(PATIENCE, response.chunk()).await {
            Ok(Ok(Some(piece))) => Ok(piece.to_vec()),
            Ok(Ok(None)) => break,
            Ok(Err(error)) => Err(io::Error::other(error)),
            Err(_) => Err(io::Error::other(late())),
        };
        let is_last = piece.is_err();
        // Whoever writes may have failed, and says why below.
        if pieces.send(piece).await.is_err() || is_last {
            break;
        }
    }
    drop(pieces);
    let manifest = writing.await??;
    say(&format!("backed up {} to {}", described(&manifest), folder.display()));
    Ok(())
}

/// Makes a data directory of a backup.
///
/// # Errors
/// If the backup is not whole, or the directory in use.
pub fn bring_back(settings: &RestoreSettings) -> anyhow::Result<()> {
    let RestoreSettings { folder, data_dir } = settings;
    let manifest = restore(folder, data_dir)?;
    let data_dir = data_dir.display();
    say(&format!("restored {} to {data_dir}: clipper start --data-dir {data_dir}", described(&manifest)));
    Ok(())
}

fn described(manifest: &Manifest) -> String {
    let bytes: u64 = manifest.files.iter().map(|file| file.bytes).sum();
    format!("revision {} with {} artifacts, {bytes} bytes", manifest.revision, manifest.artifacts())
}

fn say(line: &str) {
    // Nobody has to read it.
    let _ = writeln!(io::stdout(), "{line}");
}

/// The pieces of an answer, for a reader that blocks.
struct Pieces {
    received: mpsc::Receiver<io::Result<Vec<u8>>>,
    piece: Vec<u8>,
    /// The bytes of the piece that were read.
    read: usize,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.read == self.piece.len() {
            let Some(piece) = self.received.blocking_recv() else { return Ok(0) };
            (self.piece, self.read) = (piece?, 0);
        }
        let count = (&self.piece[self.read..]).read(buffer)?;
        self.read += count;
        Ok(count)
    }
}
