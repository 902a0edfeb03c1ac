//! The list of a backup's files, with their checksums.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use clipper_rpc::catalog::Revision;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::BackupError;
use super::names::{BackupFile, MANIFEST};

/// The format that this code writes, and the newest that it reads.
pub(super) const FORMAT: u32 = 1;

/// The manifest of a backup.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The format of the backup.
    pub format: u32,
    /// The version of the Clipper that made it.
    pub clipper: String,
    /// When it was made, in seconds since 1970.
    pub made_at: u64,
    /// The store that was backed up.
    pub store: Uuid,
    /// The revision of its catalog.
    pub revision: Revision,
    /// Every other file.
    pub files: Vec<ListedFile>,
}

/// A file in a manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ListedFile {
    /// Its path within the backup.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// Its SHA-256, in lower-case hexadecimal.
    pub sha256: String,
}

/// The part of a manifest that every format has.
#[derive(Deserialize)]
struct Format {
    format: u32,
}

impl Manifest {
    /// Reads a manifest.
    ///
    /// # Errors
    /// If it is none, or that of a newer format.
    pub(super) fn parse(json: &[u8]) -> Result<Self, BackupError> {
        let unreadable = |error: serde_json::Error| BackupError::Manifest(error.to_string());
        let Format { format } = serde_json::from_slice(json).map_err(unreadable)?;
        if format > FORMAT {
            return Err(BackupError::NewerFormat { found: format, supported: FORMAT });
        }
        serde_json::from_slice(json).map_err(unreadable)
    }

    /// Reads the manifest in a folder, and checks every file that it lists.
    ///
    /// # Errors
    /// If the backup is not whole.
    pub(super) fn verified(folder: &Path) -> Result<Self, BackupError> {
        let path = folder.join(MANIFEST);
        let json = std::fs::read(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => BackupError::NoManifest(folder.into()),
            _ => BackupError::at(&path)(error),
        })?;
        let manifest = Self::parse(&json)?;
        for listed in &manifest.files {
            if BackupFile::of(&listed.path).is_none() {
                return Err(BackupError::damaged(&listed.path, "is no file of a backup"));
            }
            let path = folder.join(&listed.path);
            let file = File::open(&path).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => BackupError::damaged(&listed.path, "is missing"),
                _ => BackupError::at(&path)(error),
            })?;
            let mut hashed = Hashed::new(file);
            io::copy(&mut hashed, &mut io::sink()).map_err(BackupError::at(&path))?;
            listed.check(&hashed.listed(listed.path.clone()))?;
        }
        Ok(manifest)
    }

    /// The number of artifacts in the backup.
    pub fn artifacts(&self) -> usize {
        let files = self.files.iter().filter_map(|listed| BackupFile::of(&listed.path));
        files.filter(|file| matches!(file, BackupFile::Archive(_) | BackupFile::Files(_))).count()
    }
}

impl ListedFile {
    /// Compares a file with what it should be.
    pub(super) fn check(&self, found: &Self) -> Result<(), BackupError> {
        if self.bytes != found.bytes {
            let what = format!("has {} bytes, expected {}", found.bytes, self.bytes);
            return Err(BackupError::damaged(&self.path, what));
        }
        if self.sha256 != found.sha256 {
            return Err(BackupError::damaged(&self.path, "has another checksum than the manifest says"));
        }
        Ok(())
    }
}

/// A reader that counts and hashes what is read.
pub(super) struct Hashed<R> {
    reader: R,
    bytes: u64,
    hasher: Sha256,
}

impl<R> Hashed<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader, bytes: 0, hasher: Sha256::new() }
    }

    /// What was read, as a file of that path.
    pub(super) fn listed(self, path: String) -> ListedFile {
        let sha256 = self.hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        ListedFile { path, bytes: self.bytes, sha256 }
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.bytes += count as u64;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}
