//! What to run: the description of a deployment, as management's store keeps it.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clipper_rpc::input::InputType;
use clipper_rpc::names::ModelId;
use serde::{Deserialize, Serialize};

use super::{ArtifactId, Environment};

/// A deployment: the replicas that serve one version of a model, and how each is run.
///
/// `E` is the form of its environment: an export may withhold values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeploymentSpec<E = Environment> {
    /// What the replicas serve.
    pub model: ModelId,
    /// The type of inputs that they take.
    pub input_type: InputType,
    /// How many there are.
    pub num_replicas: NumReplicas,
    /// What each of them is.
    pub run: Run,
    /// Added to management's own environment and the `CLIPPER_*` variables.
    #[serde(default)]
    pub environment: E,
    /// The uploaded files that `CLIPPER_MODEL_PATH` names. Takes precedence over `model_data_path`.
    #[serde(default)]
    pub artifact: Option<ArtifactId>,
    /// The files that `CLIPPER_MODEL_PATH` names, where they are on this host already.
    #[serde(default)]
    pub model_data_path: Option<PathBuf>,
    /// The interpreter of a Python container kind, if not management's default.
    #[serde(default)]
    pub python: Option<PathBuf>,
    /// How long each process may take to load its model and connect. Records of older versions have
    /// the default.
    #[serde(default, rename = "timeout_seconds")]
    pub startup_timeout: StartupTimeout,
}

impl<E> DeploymentSpec<E> {
    /// The same deployment with another form of its environment.
    ///
    /// # Errors
    /// If `form` has none for it.
    pub fn with_environment<F, X>(
        self,
        form: impl FnOnce(E) -> Result<F, X>,
    ) -> Result<DeploymentSpec<F>, X> {
        let Self {
            model,
            input_type,
            num_replicas,
            run,
            environment,
            artifact,
            model_data_path,
            python,
            startup_timeout,
        } = self;
        let environment = form(environment)?;
        Ok(DeploymentSpec {
            model,
            input_type,
            num_replicas,
            run,
            environment,
            artifact,
            model_data_path,
            python,
            startup_timeout,
        })
    }
}

/// A number of replicas: at most [`NumReplicas::MAX`], which is more than a host has use for, and fewer than it has
/// process ids.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u32")]
pub struct NumReplicas(u32);

/// A number that is not a [`NumReplicas`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a deployment can have at most {most} replicas, not {0}", most = NumReplicas::MAX)]
pub struct TooManyReplicas(u64);

impl NumReplicas {
    /// The most replicas of one deployment.
    pub const MAX: u32 = 1000;
    /// No replica: the deployment does not run.
    pub const NONE: Self = Self(0);
    /// What a deployment has unless it says otherwise.
    pub const ONE: Self = Self(1);

    /// The number.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<u64> for NumReplicas {
    type Error = TooManyReplicas;

    fn try_from(number: u64) -> Result<Self, TooManyReplicas> {
        u32::try_from(number)
            .ok()
            .filter(|&number| number <= Self::MAX)
            .map(Self)
            .ok_or(TooManyReplicas(number))
    }
}

impl From<NumReplicas> for u32 {
    fn from(number: NumReplicas) -> Self {
        number.0
    }
}

impl fmt::Display for NumReplicas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The time that a process of a replica may take to load its model and connect to a frontend, in
/// whole seconds: 1 to [`StartupTimeout::MAX_SECONDS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u32")]
pub struct StartupTimeout(u32);

/// A number of seconds that is not a [`StartupTimeout`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("timeout_seconds must be from 1 to {most}, not {0}", most = StartupTimeout::MAX_SECONDS)]
pub struct TimeoutOutOfRange(u64);

impl StartupTimeout {
    /// A day.
    pub const MAX_SECONDS: u32 = 24 * 60 * 60;

    /// The time as a duration.
    pub fn get(self) -> Duration {
        Duration::from_secs(self.0.into())
    }
}

impl Default for StartupTimeout {
    fn default() -> Self {
        Self(60)
    }
}

impl TryFrom<u64> for StartupTimeout {
    type Error = TimeoutOutOfRange;

    fn try_from(seconds: u64) -> Result<Self, TimeoutOutOfRange> {
        u32::try_from(seconds)
            .ok()
            .filter(|seconds| (1..=Self::MAX_SECONDS).contains(seconds))
            .map(Self)
            .ok_or(TimeoutOutOfRange(seconds))
    }
}

impl From<StartupTimeout> for u32 {
    fn from(timeout: StartupTimeout) -> Self {
        timeout.0
    }
}

/// What a replica is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Run {
    /// A container that comes with Clipper.
    Kind(ContainerKind),
    /// A program and its arguments, run without a shell.
    Command(Words),
}

/// A program and its arguments: there is a program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct Words(Vec<String>);

/// A command that names no program.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("The command must begin with the program to run")]
pub struct NoProgram;

impl Words {
    /// The words, the program first.
    pub fn as_slice(&self) -> &[String] {
        &self.0
    }
}

impl TryFrom<Vec<String>> for Words {
    type Error = NoProgram;

    fn try_from(words: Vec<String>) -> Result<Self, NoProgram> {
        if words.first().is_some_and(|program| !program.is_empty()) {
            Ok(Self(words))
        } else {
            Err(NoProgram)
        }
    }
}

impl From<Words> for Vec<String> {
    fn from(words: Words) -> Self {
        words.0
    }
}

impl Run {
    /// The program and its arguments.
    pub(super) fn command_line(&self, python: &Path) -> Vec<OsString> {
        match self {
            Self::Kind(kind) => {
                vec![python.into(), "-m".into(), "clipper_container".into(), kind.as_str().into()]
            }
            Self::Command(words) => words.as_slice().iter().map(OsString::from).collect(),
        }
    }
}

/// The containers that come with Clipper: `python -m clipper_container KIND`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "&'static str")]
pub enum ContainerKind {
    /// Answers every input with the same short text, at once.
    Noop,
    /// Answers with the sum of a numeric input.
    Sum,
    /// Calls a pickled Python function.
    PythonClosure,
}

/// A text that names no container kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a container kind; expected one of: noop, sum, python-closure")]
pub struct UnknownContainerKind(pub String);

impl ContainerKind {
    /// Every container kind.
    pub const ALL: [Self; 3] = [Self::Noop, Self::Sum, Self::PythonClosure];

    /// The name by which people ask for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Noop => "noop",
            Self::Sum => "sum",
            Self::PythonClosure => "python-closure",
        }
    }
}

impl fmt::Display for ContainerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl TryFrom<String> for ContainerKind {
    type Error = UnknownContainerKind;

    fn try_from(text: String) -> Result<Self, UnknownContainerKind> {
        text.parse()
    }
}

impl From<ContainerKind> for &'static str {
    fn from(kind: ContainerKind) -> Self {
        kind.as_str()
    }
}

impl FromStr for ContainerKind {
    type Err = UnknownContainerKind;

    fn from_str(text: &str) -> Result<Self, UnknownContainerKind> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| UnknownContainerKind(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deployment_has_at_most_a_thousand_replicas() {
        assert_eq!(serde_json::from_str::<NumReplicas>("1000").unwrap().get(), 1000);
        for text in ["1001", "4000000000", "18446744073709551615"] {
            let error = serde_json::from_str::<NumReplicas>(text).unwrap_err().to_string();
            assert_eq!(error, format!("a deployment can have at most 1000 replicas, not {text}"));
        }
    }

    #[test]
    fn a_replica_may_load_for_a_second_to_a_day() {
        for text in ["1", "75", "86400"] {
            let timeout: StartupTimeout = serde_json::from_str(text).unwrap();
            assert_eq!(timeout.get().as_secs().to_string(), text);
        }
        for text in ["0", "86401", "18446744073709551615"] {
            let error = serde_json::from_str::<StartupTimeout>(text).unwrap_err().to_string();
            assert_eq!(error, format!("timeout_seconds must be from 1 to 86400, not {text}"));
        }
    }

    #[test]
    fn a_record_of_an_older_version_has_the_default_timeout() {
        let record = r#"{"model": {"name": "m", "version": "1"}, "input_type": "doubles", "num_replicas": 1,
            "run": {"kind": "noop"}}"#;
        let spec: DeploymentSpec = serde_json::from_str(record).unwrap();
        assert_eq!(spec.startup_timeout.get(), Duration::from_secs(60));
    }

    #[test]
    fn a_kind_is_stored_under_the_name_that_people_use() {
        for kind in ContainerKind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
            assert_eq!(kind.as_str().parse(), Ok(kind));
        }
        assert!("tensorflow".parse::<ContainerKind>().unwrap_err().to_string().contains("python-closure"));
    }
}
