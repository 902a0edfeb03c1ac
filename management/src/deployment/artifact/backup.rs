//! Artifacts that go into a backup, and come back from one.

use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::Path;

use tempfile::NamedTempFile;

use super::unpack::{UnpackBounds, unpack};
use super::{ArtifactError, ArtifactId, Artifacts, folder};

impl Artifacts {
    /// A file without a name on the disk of the artifacts.
    ///
    /// # Errors
    /// If it cannot be created.
    pub fn scratch_file(&self) -> io::Result<File> {
        tempfile::tempfile_in(&self.folder)
    }

    /// An archive of the files of an artifact whose own archive was not kept.
    ///
    /// # Errors
    /// If the files cannot be read, or the archive not be written.
    pub fn pack_files(&self, id: &ArtifactId) -> io::Result<File> {
        let mut packed = tar::Builder::new(BufWriter::new(self.scratch_file()?));
        append(&mut packed, &self.path(id), Path::new("."))?;
        let mut packed = packed.into_inner()?.into_inner()?;
        io::Seek::rewind(&mut packed)?;
        Ok(packed)
    }

    /// Stores an artifact by a copy of its archive.
    ///
    /// # Errors
    /// As of [`Artifacts::add`], or if it is the archive of another artifact.
    pub fn restore_archive(&self, id: &ArtifactId, archive: &Path) -> Result<(), ArtifactError> {
        let copy = NamedTempFile::new_in(&self.folder)?;
        fs::copy(archive, copy.path())?;
        let copied = self.add(copy.path())?;
        // Its file has another name now.
        let _ = copy.keep();
        if copied == *id {
            Ok(())
        } else {
            let what = format!("its SHA-256 is {copied}");
            Err(ArtifactError::Unreadable(io::Error::other(what)))
        }
    }

    /// Stores an artifact by its files alone.
    ///
    /// # Errors
    /// If they cannot be unpacked.
    pub fn restore_files(&self, id: &ArtifactId, packed: &Path) -> Result<(), ArtifactError> {
        let unfinished = self.unfinished();
        fs::create_dir(&unfinished)?;
        let bounds = UnpackBounds { max_bytes: self.bounds.max_bytes, max_entries: self.max_entries };
        let size = unpack(File::open(packed)?, &unfinished, bounds)?;
        fs::rename(&unfinished, self.path(id))?;
        self.sizes().insert(id.clone(), size);
        folder::sync(&self.folder)?;
        Ok(())
    }
}

/// Appends files and folders, which is all that an artifact has.
fn append(packed: &mut tar::Builder<impl io::Write>, folder: &Path, inner: &Path) -> io::Result<()> {
    packed.append_dir(inner, folder)?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let (kind, inner) = (entry.file_type()?, inner.join(entry.file_name()));
        if kind.is_dir() {
            append(packed, &entry.path(), &inner)?;
        } else if kind.is_file() {
            packed.append_path_with_name(entry.path(), inner)?;
        }
    }
    Ok(())
}
