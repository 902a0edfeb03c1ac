//! Tokens: the secrets that open a cluster's doors.
//!
//! A [`Secret`] never appears in a log: its `Debug` form hides the text, and there is no `Display`.
//! Invariant: a secret has at least [`Secret::MIN_BYTES`] bytes, all of them visible ASCII, so that it
//! fits into an HTTP header and an environment variable.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use crate::catalog::Generation;
use crate::names::ModelId;

/// A token that opens a door, or the key that such tokens are derived from. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Secret(Arc<str>);

/// A text or a file that holds no [`Secret`].
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The text is too short to be a secret, or too long for a header.
    #[error("a token has {} to {} characters, not {found}", Secret::MIN_BYTES, Secret::MAX_BYTES)]
    Length {
        /// Number of bytes found.
        found: usize,
    },
    /// The text has characters that no header can carry.
    #[error("a token has only visible ASCII characters, and no spaces")]
    Characters,
    /// The file cannot be read.
    #[error("cannot read the token file {file}", file = .file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The file's text is no secret.
    #[error("the token file {file} holds no token", file = .file.display())]
    Content {
        /// The file.
        file: PathBuf,
        /// The reason.
        source: Box<SecretError>,
    },
}

impl Secret {
    /// The fewest bytes of a token.
    pub const MIN_BYTES: usize = 16;
    /// The most bytes of a token.
    pub const MAX_BYTES: usize = 1024;

    /// Checks a text, such as the value of a variable. White space around the token does not count.
    ///
    /// # Errors
    /// If the text is too short, too long, or has characters that no header can carry.
    pub fn new(text: &str) -> Result<Self, SecretError> {
        let text = text.trim();
        if !(Self::MIN_BYTES..=Self::MAX_BYTES).contains(&text.len()) {
            return Err(SecretError::Length { found: text.len() });
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(SecretError::Characters);
        }
        Ok(Self(text.into()))
    }

    /// Reads the token that is the only content of a file.
    ///
    /// # Errors
    /// If the file cannot be read or holds no token.
    pub fn read(file: &Path) -> Result<Self, SecretError> {
        let text = std::fs::read_to_string(file)
            .map_err(|source| SecretError::Unreadable { file: file.to_owned(), source })?;
        Self::new(&text)
            .map_err(|source| SecretError::Content { file: file.to_owned(), source: source.into() })
    }

    /// A new secret of 256 random bits.
    pub fn random() -> Self {
        Self(BASE64_URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>()).into())
    }

    /// The registration token of one version of a model: opens the container port for that version alone.
    ///
    /// Derived with HMAC-SHA256 (RFC 2104) from this key. `generation` tells a version from an earlier one
    /// of the same name, whose token opens nothing any more.
    #[must_use]
    pub fn registration_token(&self, model: &ModelId, generation: Generation) -> Self {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(self.0.as_bytes()).expect("HMAC takes keys of any length");
        // Names hold no slash, so no two versions give the same text.
        mac.update(format!("{}/{}/{generation}", model.name, model.version).as_bytes());
        Self(BASE64_URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()).into())
    }

    /// Whether `given` is this secret. The time that this takes depends on the length of `given` alone.
    pub fn matches(&self, given: &str) -> bool {
        self.0.as_bytes().ct_eq(given.as_bytes()).into()
    }

    /// The text, for the one header, variable or file that carries it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

impl TryFrom<String> for Secret {
    type Error = SecretError;

    fn try_from(text: String) -> Result<Self, SecretError> {
        Self::new(&text)
    }
}

impl From<Secret> for String {
    fn from(secret: Secret) -> Self {
        secret.0.as_ref().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(name: &str, version: &str) -> ModelId {
        ModelId { name: name.parse().unwrap(), version: version.parse().unwrap() }
    }

    #[test]
    fn a_secret_matches_itself_alone() {
        let secret = Secret::new("0123456789abcdef\n").unwrap();
        assert!(secret.matches("0123456789abcdef"));
        for wrong in ["", "0123456789abcdeF", "0123456789abcde", "0123456789abcdef0"] {
            assert!(!secret.matches(wrong), "{wrong}");
        }
        assert_ne!(Secret::random(), Secret::random());
    }

    #[test]
    fn a_text_that_guards_nothing_is_refused() {
        for text in ["", "short", "has a space in the middle", "ümlaut-and-more-text", &"x".repeat(1025)] {
            assert!(Secret::new(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_secret_hides_in_debug_output() {
        let secret = Secret::random();
        assert!(!format!("{secret:?}").contains(secret.reveal()));
    }

    #[test]
    fn each_version_and_each_generation_has_a_registration_token_of_its_own() {
        let key = Secret::new("a-key-of-a-cluster").unwrap();
        let token = key.registration_token(&model("m", "1"), 7);
        assert!(key.registration_token(&model("m", "1"), 7).matches(token.reveal()));
        assert_ne!(token, key.registration_token(&model("m", "1"), 8));
        assert_ne!(token, key.registration_token(&model("m", "2"), 7));
        assert_ne!(token, key.registration_token(&model("n", "1"), 7));
        assert_ne!(token, Secret::random().registration_token(&model("m", "1"), 7));
    }

    #[test]
    fn a_token_file_is_named_where_it_cannot_serve() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("token");
        assert!(Secret::read(&file).unwrap_err().to_string().contains("cannot read the token file"));
        std::fs::write(&file, "abc").unwrap();
        let error = Secret::read(&file).unwrap_err();
        assert!(error.to_string().contains(&*file.to_string_lossy()), "{error}");
        std::fs::write(&file, "0123456789abcdef\n").unwrap();
        assert!(Secret::read(&file).unwrap().matches("0123456789abcdef"));
    }
}
