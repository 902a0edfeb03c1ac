//! Why a deployment is not as it was asked to be.

use std::fmt;
use std::time::Duration;

use clipper_rpc::names::ModelId;

/// Why an order about deployments was not carried out. Nothing has changed then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeployError {
    /// There is such a deployment already.
    #[error("A deployment of model with name '{}' and version '{}' exists already.", model.name, model.version)]
    AlreadyDeployed {
        /// What was to be deployed.
        model: ModelId,
    },
    /// There is no such deployment.
    #[error("No deployment of model with name '{}' and version '{}' exists.", model.name, model.version)]
    NotDeployed {
        /// What was asked for.
        model: ModelId,
    },
    /// There is no such replica.
    #[error(
        "The deployment of model with name '{}' and version '{}' has no replica {replica}: it has {num_replicas}, counted from 0.",
        model.name,
        model.version
    )]
    UnknownReplica {
        /// The deployment.
        model: ModelId,
        /// The replica that was asked for.
        replica: u32,
        /// How many there are.
        num_replicas: u32,
    },
    /// There is no frontend that replicas could connect to.
    #[error(
        "No frontend is connected that the replicas of {model} could connect to: start one with `clipper frontend \
         --management URL`. Waited for {} s.", waited.as_secs_f64()
    )]
    NoFrontend {
        /// What was to run.
        model: ModelId,
        /// For how long.
        waited: Duration,
    },
    /// A replica did not become ready.
    #[error("Replica {replica} of {model} {what}. {}", LastLines(last_lines))]
    Replica {
        /// The deployment.
        model: ModelId,
        /// The first replica that did not.
        replica: u32,
        /// What happened to it.
        what: String,
        /// What it had printed last.
        last_lines: Vec<String>,
    },
    /// An earlier change of the same deployment took all the time.
    #[error("The deployment of {model} was being changed already, and still was after {} s.", waited.as_secs_f64())]
    Busy {
        /// The deployment.
        model: ModelId,
        /// For how long.
        waited: Duration,
    },
    /// The deployment was stopped before its replicas were ready.
    #[error("The deployment of {model} was stopped before its replicas were ready.")]
    Stopped {
        /// The deployment.
        model: ModelId,
    },
}

/// Printed lines, at the end of a sentence.
struct LastLines<'a>(&'a [String]);

impl fmt::Display for LastLines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("It printed nothing.");
        }
        f.write_str("The last that it printed:")?;
        self.0.iter().try_for_each(|line| write!(f, "\n    {line}"))
    }
}
