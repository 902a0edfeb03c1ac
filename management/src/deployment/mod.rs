//! Running deployed models as processes on this host.
//!
//! # Layout
//! - [`Deployments`] (`deployments.rs`): the handle by which the rest of management deploys, scales, stops and asks.
//! - `change.rs`: a change of their number, for as long as its caller waits.
//! - `replica.rs`: the actor of one replica; it obeys `lifecycle.rs`, the pure state machine of when to start its
//!   process, when to end it and when to give it up.
//! - `process.rs`: one process, its environment, its start through the guard ([`crate::guard`]) and its end.
//! - `leftovers.rs`: processes that outlived their guard.
//! - `output.rs`: what replicas print; `logs.rs`: the files that it is kept in.
//! - [`Artifacts`] (`artifact/`): uploaded model files.
//! - `environment.rs`: the variables of a deployment.
//! - `model_files.rs`: each deployment's own copy of its artifact.
//! - `spec.rs`, `status.rs`, `error.rs`: what is asked for, what is, and why not.

use std::collections::HashSet;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clipper_rpc::secret::Secret;
use clipper_server::Essentials;

pub use artifact::{
    ArtifactBounds, ArtifactError, ArtifactId, Artifacts, Hold, MalformedArtifactId, Owner, Reservation,
    UploadRoom,
};
pub use deployments::{BegunDeployment, Deployments, Running};
pub use environment::{Environment, ExportedEnvironment, Withheld};
pub use error::DeployError;
pub use spec::{
    ContainerKind, DeploymentSpec, NoProgram, NumReplicas, Run, StartupTimeout, TimeoutOutOfRange,
    TooManyReplicas, UnknownContainerKind, Words,
};
pub use status::{DeploymentStatus, ReplicaState, ReplicaStatus};

mod artifact;
mod change;
mod deployments;
mod environment;
mod error;
mod leftovers;
mod lifecycle;
mod logs;
mod model_files;
mod output;
mod process;
mod replica;
mod spec;
mod status;

/// How replicas are run.
#[derive(Debug, Clone)]
pub struct Config {
    /// Holds `artifacts`, `logs`, `models` and `replicas`.
    pub data_dir: PathBuf,
    /// The interpreter of Python container kinds, where a deployment names none.
    pub python: PathBuf,
    /// A program and its arguments that run [`crate::guard::main`]; a replica's command follows them.
    pub guard: Vec<OsString>,
    /// Key from which the replicas' registration tokens are derived.
    pub container_key: Secret,
    /// How long a replica that is told to end may take before it is killed.
    pub grace: Duration,
    /// How long to wait for a frontend, where replicas are to start and there is none.
    pub frontend_timeout: Duration,
    /// The size of a log file at which it is set aside. Each replica has one, and one that was set aside.
    pub log_bytes: u64,
    /// The replicas' actors belong to these.
    pub essentials: Essentials,
}

impl Config {
    /// The defaults for all that can have one.
    pub fn new(data_dir: PathBuf, python: PathBuf, guard: Vec<OsString>, container_key: Secret) -> Self {
        Self {
            data_dir,
            python,
            guard,
            container_key,
            grace: Duration::from_secs(5),
            frontend_timeout: Duration::from_secs(5),
            log_bytes: 4 << 20,
            essentials: Essentials::default(),
        }
    }
}

/// What a frontend last reported, as far as deployments are concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrontendView {
    /// Where containers reach it, as `host:port`.
    pub rpc_address: String,
    /// The instances that are connected to it.
    pub instances: Arc<HashSet<String>>,
}

/// Every frontend that there is.
type Frontends = Arc<[FrontendView]>;
