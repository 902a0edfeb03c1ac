//! The names by which applications, models and versions are known.
//!
//! Text becomes a name in one place, here, so whatever holds a name holds a valid one: a path segment, and a container
//! label. One that also ends in a letter or digit is a Kubernetes label: those cannot end in '-', '_' or '.'.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::{Serialize, Serializer};

/// The longest name, in characters: the limit of a Kubernetes label.
pub const MAX_NAME_LENGTH: usize = 63;

/// Application names that would collide with the query frontend's own paths.
pub const RESERVED_APPLICATION_NAMES: &[&str] =
    &["admin", "explain", "health", "livez", "metrics", "openapi.json", "readyz", "v1", "v2"];

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The text breaks the rule for names.
    #[error(
        "'{text}' is not a valid {what}: it must consist of 1 to 63 letters, digits, '-', '_' or '.' and begin with a \
         letter or digit"
    )]
    Malformed {
        /// What the text should have named.
        what: &'static str,
        /// The text, shortened where it is very long.
        text: String,
    },
    /// The text is one of [`RESERVED_APPLICATION_NAMES`].
    #[error("'{text}' is reserved and cannot name an application")]
    Reserved {
        /// The text.
        text: String,
    },
}

fn validate(what: &'static str, text: &str) -> Result<Arc<str>, NameError> {
    let mut bytes = text.bytes();
    let fits = text.len() <= MAX_NAME_LENGTH
        && bytes.next().is_some_and(|first| first.is_ascii_alphanumeric())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    if fits {
        Ok(text.into())
    } else {
        Err(NameError::Malformed { what, text: text.chars().take(2 * MAX_NAME_LENGTH).collect() })
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $type(Arc<str>);

        impl $type {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(NameVisitor($what))?.parse().map_err(de::Error::custom)
            }
        }
    };
}

/// Accepts text, and whole numbers as their decimal text: people write `1` for a version.
struct NameVisitor(&'static str);

impl Visitor<'_> for NameVisitor {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "text that is a valid {}", self.0)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<String, E> {
        Ok(number.to_string())
    }
}

name!(
    /// The name of an application, which is a path segment of the REST interface.
    AppName,
    "application name"
);
name!(
    /// The name of a model, shared by all its versions.
    ModelName,
    "model name"
);
name!(
    /// One version of a model. Versions are opaque labels: no order is implied.
    ModelVersion,
    "model version"
);

impl FromStr for AppName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if RESERVED_APPLICATION_NAMES.contains(&text) {
            return Err(NameError::Reserved { text: text.to_owned() });
        }
        validate("application name", text).map(Self)
    }
}

impl FromStr for ModelName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        validate("model name", text).map(Self)
    }
}

impl FromStr for ModelVersion {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        validate("model version", text).map(Self)
    }
}

/// One version of one model: what a container serves. Displayed as `name:version`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct ModelId {
    /// The model.
    pub name: ModelName,
    /// The version.
    pub version: ModelVersion,
}

impl fmt::Display for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_letters_digits_and_inner_punctuation_are_valid() {
        for text in ["a", "sum-model_v1.2", "7", &"x".repeat(63)] {
            assert_eq!(text.parse::<ModelName>().unwrap().as_str(), text);
        }
    }

    #[test]
    fn a_malformed_name_is_refused_with_the_rule() {
        for text in ["", "-a", ".a", "a/b", "a b", "é", &"x".repeat(64)] {
            let error = text.parse::<AppName>().unwrap_err().to_string();
            assert!(error.contains("1 to 63 letters"), "{error}");
        }
    }

    #[test]
    fn an_application_cannot_take_a_path_of_the_frontend() {
        assert_eq!(
            "metrics".parse::<AppName>().unwrap_err().to_string(),
            "'metrics' is reserved and cannot name an application"
        );
    }

    #[test]
    fn a_version_may_be_written_as_a_number() {
        let version: ModelVersion = serde_json::from_str("1").unwrap();
        assert_eq!(version, "1".parse().unwrap());
    }
}
