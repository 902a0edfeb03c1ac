//! The variables of a deployment, whose values are secrets.
//!
//! Invariant: a value leaves management in three ways only: to the deployment's own processes, into the
//! store, and into an export that asks for it by name.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Variables that are added to the environment of a deployment's processes.
///
/// The `Debug` form shows their names alone.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Environment(BTreeMap<String, String>);

/// Variables as an export holds them: without a value where it is withheld.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ExportedEnvironment(BTreeMap<String, Option<String>>);

/// The name of a variable whose value is withheld.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Withheld(pub String);

impl Environment {
    /// Every variable with its value.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

impl From<BTreeMap<String, String>> for Environment {
    fn from(variables: BTreeMap<String, String>) -> Self {
        Self(variables)
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl ExportedEnvironment {
    /// The names of the variables, every value withheld.
    pub fn names(environment: Environment) -> Self {
        Self(environment.0.into_keys().map(|name| (name, None)).collect())
    }

    /// The variables with their values.
    pub fn values(environment: Environment) -> Self {
        Self(environment.0.into_iter().map(|(name, value)| (name, Some(value))).collect())
    }
}

impl TryFrom<ExportedEnvironment> for Environment {
    type Error = Withheld;

    fn try_from(exported: ExportedEnvironment) -> Result<Self, Withheld> {
        let known = exported.0.into_iter().map(|(name, value)| match value {
            Some(value) => Ok((name, value)),
            None => Err(Withheld(name)),
        });
        known.collect::<Result<_, _>>().map(Self)
    }
}

impl fmt::Debug for ExportedEnvironment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        Environment(variables.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    #[test]
    fn debug_output_shows_names_alone() {
        let secret = environment(&[("PASSWORD", "swordfish")]);
        let shown = format!("{secret:?} {:?}", ExportedEnvironment::values(secret.clone()));
        assert!(shown.contains("PASSWORD") && !shown.contains("swordfish"), "{shown}");
    }

    #[test]
    fn an_environment_is_complete_again_only_with_its_values() {
        let secret = environment(&[("A", "1"), ("B", "")]);
        assert_eq!(Environment::try_from(ExportedEnvironment::values(secret.clone())), Ok(secret.clone()));
        assert_eq!(Environment::try_from(ExportedEnvironment::names(secret)), Err(Withheld("A".to_owned())));
        let nothing = Environment::default();
        assert_eq!(Environment::try_from(ExportedEnvironment::names(nothing.clone())), Ok(nothing));
    }
}
