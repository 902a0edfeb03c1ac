//! A backup as a stream: a tar archive, the manifest last. Blocks; takes the memory of the catalog, and no more.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::sync::Arc;
use std::time::SystemTime;

use uuid::Uuid;

use super::catalog::CatalogRecords;
use super::manifest::{FORMAT, Hashed, ListedFile, Manifest};
use super::names::{BackupFile, MANIFEST};
use crate::admin::artifacts_of;
use crate::catalog::Catalog;
use crate::deployment::{ArtifactId, Artifacts};

/// What is backed up: a catalog, and what was learned for it at the same moment.
pub(crate) struct Source {
    pub(crate) store: Uuid,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) learned: File,
    /// Nothing must be removed of them meanwhile.
    pub(crate) artifacts: Artifacts,
}

/// Writes a backup.
///
/// # Errors
/// If something cannot be read, or the stream not be written. The stream holds no manifest then.
pub(crate) fn write(source: Source, out: impl Write) -> io::Result<()> {
    let Source { store, catalog, mut learned, artifacts } = source;
    let made_at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut tar = tar::Builder::new(out);
    let mut files = Vec::new();
    let records = serde_json::to_vec(&CatalogRecords::of(&catalog))?;
    files.push(append(&mut tar, BackupFile::Catalog.path(), records.len() as u64, &records[..])?);
    learned.rewind()?;
    let length = learned.metadata()?.len();
    files.push(append(&mut tar, BackupFile::Learned.path(), length, learned)?);
    let mut named: Vec<ArtifactId> = artifacts_of(&catalog).into_iter().collect();
    named.sort();
    for id in named {
        let (path, packed) = match artifacts.archive(&id)? {
            Some(archive) => (BackupFile::Archive(id).path(), archive),
            None if artifacts.contains(&id) => {
                let packed = artifacts.pack_files(&id)?;
                (BackupFile::Files(id).path(), packed)
            }
            None => {
                let what =
                    format!("artifact {id} is missing, which a deployment names; delete that version first");
                return Err(io::Error::other(what));
            }
        };
        let length = packed.metadata()?.len();
        files.push(append(&mut tar, path, length, packed)?);
    }
    let clipper = env!("CARGO_PKG_VERSION").to_owned();
    let manifest = Manifest { format: FORMAT, clipper, made_at, store, revision: catalog.revision, files };
    let manifest = serde_json::to_vec_pretty(&manifest)?;
    append(&mut tar, MANIFEST.into(), manifest.len() as u64, &manifest[..])?;
    tar.into_inner()?.flush()
}

/// Appends a file of a length that is known.
fn append(
    tar: &mut tar::Builder<impl Write>,
    path: String,
    length: u64,
    content: impl Read,
) -> io::Result<ListedFile> {
    let mut header = tar::Header::new_gnu();
    header.set_size(length);
    header.set_mode(0o600);
    let mut hashed = Hashed::new(content.take(length));
    tar.append_data(&mut header, &path, &mut hashed)?;
    let listed = hashed.listed(path);
    if listed.bytes < length {
        return Err(io::Error::other(format!("{} has become shorter while it was read", listed.path)));
    }
    Ok(listed)
}
