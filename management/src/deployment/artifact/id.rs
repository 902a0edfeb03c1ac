//! The identity of an artifact.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The identity of an artifact: the SHA-256 of its archive, in lower-case hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ArtifactId(String);

/// A text that is not an [`ArtifactId`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' does not identify an artifact: it must be a SHA-256 as 64 lower-case hexadecimal digits")]
pub struct MalformedArtifactId(String);

impl ArtifactId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn of(hash: &[u8]) -> Self {
        Self(hash.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// Computes the identity of the archive at `path`. Blocks.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(super) fn of_file(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 1 << 16];
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(Self::of(&hasher.finalize())),
                count => hasher.update(&buffer[..count]),
            }
        }
    }
}

impl TryFrom<String> for ArtifactId {
    type Error = MalformedArtifactId;

    fn try_from(text: String) -> Result<Self, MalformedArtifactId> {
        let fits = text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if fits { Ok(Self(text)) } else { Err(MalformedArtifactId(text.chars().take(100).collect())) }
    }
}

impl FromStr for ArtifactId {
    type Err = MalformedArtifactId;

    fn from_str(text: &str) -> Result<Self, MalformedArtifactId> {
        text.to_owned().try_into()
    }
}

impl From<ArtifactId> for String {
    fn from(id: ArtifactId) -> Self {
        id.0
    }
}

impl fmt::Display for ArtifactId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_64_hexadecimal_digits() {
        assert!("a0".repeat(32).parse::<ArtifactId>().is_ok());
        for text in ["", "../..", &"A0".repeat(32), &"a0".repeat(33)] {
            assert!(text.parse::<ArtifactId>().is_err());
        }
        assert!(serde_json::from_str::<ArtifactId>(r#""..""#).is_err());
    }

    #[test]
    fn an_id_is_the_sha_256_of_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        std::fs::write(&file, "abc").unwrap();
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(ArtifactId::of_file(&file).unwrap().as_str(), expected);
    }
}
