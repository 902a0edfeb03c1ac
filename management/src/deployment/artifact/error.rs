//! Reasons for which an archive is not taken.

use std::io;

use super::MAX_ENTRIES;

/// Why an archive was not taken.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// It is not a tar archive, or is cut off.
    #[error("the artifact is not a readable tar archive: {0}")]
    Unreadable(io::Error),
    /// It holds something that is not allowed.
    #[error("the artifact holds '{path}', which {why}")]
    Refused {
        /// The entry, as the archive has it.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// It has too many entries, or too long ones.
    #[error(
        "the artifact is too large: it would be unpacked to more than {max_bytes} bytes or {MAX_ENTRIES} files"
    )]
    TooLarge {
        /// The limit.
        max_bytes: u64,
    },
    /// There is no room beside the artifacts that are stored.
    #[error(
        "all artifacts may take {artifacts_bytes} bytes, and {stored} are taken: delete versions that are not needed, \
         or start management with a larger --artifacts-bytes"
    )]
    Full {
        /// The limit of all artifacts.
        artifacts_bytes: u64,
        /// The bytes of those that are stored.
        stored: u64,
    },
    /// There is no room beside the uploads that no deployment names yet.
    #[error(
        "uploads that no deployment names yet may take {uploads_bytes} bytes, and {taken} are taken: deploy them, wait \
         until those that nobody deploys are removed after an hour, or start management with a larger --uploads-bytes"
    )]
    UploadsFull {
        /// The limit of all such uploads.
        uploads_bytes: u64,
        /// The bytes that they take, those in progress included.
        taken: u64,
    },
    /// It could not be written to disk.
    #[error("the artifact cannot be stored: {0}")]
    Storage(#[from] io::Error),
}
