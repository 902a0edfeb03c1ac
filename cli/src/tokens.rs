//! Tokens as they are given to a process: in a file that a flag names, or in a variable.
//!
//! No flag takes a token itself, because every user of a host sees the flags of its processes.

use std::ffi::OsString;
use std::path::Path;

use anyhow::{Context, bail};
use clipper_rpc::secret::Secret;

/// A token that a process may be given.
#[derive(Debug, Clone, Copy)]
pub struct TokenKind {
    /// The flag that names a file.
    flag: &'static str,
    /// The variable that holds the token.
    variable: &'static str,
}

/// Opens the calls of operators.
pub const ADMIN: TokenKind = TokenKind { flag: "--admin-token-file", variable: "CLIPPER_ADMIN_TOKEN" };
/// Opens the calls of frontends.
pub const CLUSTER: TokenKind = TokenKind { flag: "--cluster-token-file", variable: "CLIPPER_CLUSTER_TOKEN" };
/// Opens the container port beyond loopback, for any model.
pub const CONTAINER: TokenKind =
    TokenKind { flag: "--container-token-file", variable: "CLIPPER_CONTAINER_TOKEN" };

impl TokenKind {
    /// Reads the token, if one is given.
    ///
    /// # Errors
    /// If it is given twice, or what is given is no token.
    pub fn read(self, file: Option<&Path>) -> anyhow::Result<Option<Secret>> {
        self.choose(file, std::env::var_os(self.variable))
    }

    fn choose(self, file: Option<&Path>, value: Option<OsString>) -> anyhow::Result<Option<Secret>> {
        let Self { flag, variable } = self;
        match (file, value) {
            (None, None) => Ok(None),
            (Some(_), Some(_)) => {
                bail!("a token is given twice, by {flag} and by the variable {variable}; give one of them")
            }
            (Some(file), None) => Secret::read(file).context(flag).map(Some),
            // A text that is not Unicode is not shown: it may be a token with a slip in it.
            (None, Some(value)) => Secret::new(&value.to_string_lossy())
                .with_context(|| format!("the variable {variable}"))
                .map(Some),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef";

    #[test]
    fn a_token_comes_from_its_file_or_its_variable() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("token");
        std::fs::write(&file, format!("{TOKEN}\n")).unwrap();
        assert!(ADMIN.choose(None, None).unwrap().is_none());
        assert!(ADMIN.choose(Some(&file), None).unwrap().unwrap().matches(TOKEN));
        assert!(ADMIN.choose(None, Some(TOKEN.into())).unwrap().unwrap().matches(TOKEN));
    }

    #[test]
    fn a_token_that_is_given_twice_or_is_none_is_refused_without_being_shown() {
        let twice = ADMIN.choose(Some(Path::new("/token")), Some(TOKEN.into())).unwrap_err().to_string();
        assert!(twice.contains("--admin-token-file") && twice.contains("CLIPPER_ADMIN_TOKEN"), "{twice}");
        for wrong in ["", "swordfish", "a token of several words"] {
            let refused = format!("{:#}", CLUSTER.choose(None, Some(wrong.into())).unwrap_err());
            assert!(refused.starts_with("the variable CLIPPER_CLUSTER_TOKEN: a token has"), "{refused}");
            assert!(wrong.is_empty() || !refused.contains(wrong), "{refused}");
        }
        let missing = format!("{:#}", ADMIN.choose(Some(Path::new("/no/such")), None).unwrap_err());
        assert!(missing.starts_with("--admin-token-file: ") && missing.contains("/no/such"), "{missing}");
    }
}
