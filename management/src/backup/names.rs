//! The files of a backup.

use crate::deployment::ArtifactId;

/// The list of all other files.
pub(super) const MANIFEST: &str = "manifest.json";
/// The records.
pub(super) const CATALOG: &str = "catalog.json";
/// What is learned.
pub(super) const LEARNED: &str = "learned";
/// The folder of model files.
pub(super) const ARTIFACTS: &str = "artifacts";

/// A file that a manifest can list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum BackupFile {
    Catalog,
    Learned,
    /// The archive of an artifact as it was uploaded.
    Archive(ArtifactId),
    /// The files of an artifact whose archive was not kept.
    Files(ArtifactId),
}

impl BackupFile {
    /// The file of a path; none if a backup has no such file.
    pub(super) fn of(path: &str) -> Option<Self> {
        match path {
            CATALOG => Some(Self::Catalog),
            LEARNED => Some(Self::Learned),
            _ => {
                let name = path.strip_prefix(ARTIFACTS)?.strip_prefix('/')?.strip_suffix(".tar")?;
                match name.strip_suffix(".files") {
                    Some(id) => id.parse().ok().map(Self::Files),
                    None => name.parse().ok().map(Self::Archive),
                }
            }
        }
    }

    /// The path within the backup.
    pub(super) fn path(&self) -> String {
        match self {
            Self::Catalog => CATALOG.into(),
            Self::Learned => LEARNED.into(),
            Self::Archive(id) => format!("{ARTIFACTS}/{id}.tar"),
            Self::Files(id) => format!("{ARTIFACTS}/{id}.files.tar"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_a_file_of_a_backup_or_none() {
        let id: ArtifactId = "a0".repeat(32).parse().unwrap();
        let files = [
            BackupFile::Catalog,
            BackupFile::Learned,
            BackupFile::Archive(id.clone()),
            BackupFile::Files(id),
        ];
        for file in files {
            assert_eq!(BackupFile::of(&file.path()), Some(file));
        }
        for path in ["", "..", "/etc/passwd", "artifacts/../x.tar", "artifacts/x.tar", MANIFEST, "artifacts"]
        {
            assert_eq!(BackupFile::of(path), None, "{path}");
        }
    }
}
