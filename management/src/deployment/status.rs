//! How deployments and their replicas are doing, as the admin interface reports it.

use clipper_rpc::input::InputType;
use clipper_rpc::names::{ModelName, ModelVersion};
use serde::Serialize;
use utoipa::ToSchema;

use super::{ArtifactId, ContainerKind, DeploymentSpec, Run};

/// One deployment.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct DeploymentStatus {
    /// The model that it serves.
    #[schema(value_type = String)]
    pub model_name: ModelName,
    /// The version of the model.
    #[schema(value_type = String)]
    pub model_version: ModelVersion,
    /// The type of its inputs.
    #[schema(value_type = String)]
    pub input_type: InputType,
    /// What runs, if it is a container that comes with Clipper.
    #[schema(value_type = Option<String>)]
    pub container_kind: Option<ContainerKind>,
    /// What runs, if it is a command.
    pub command: Option<Vec<String>>,
    /// The model's files, if they were uploaded.
    #[schema(value_type = Option<String>)]
    pub artifact: Option<ArtifactId>,
    /// How many replicas there are meant to be.
    pub num_replicas: u32,
    /// Each replica, by number.
    pub replicas: Vec<ReplicaStatus>,
}

impl DeploymentStatus {
    pub(super) fn new(spec: &DeploymentSpec, replicas: Vec<ReplicaStatus>) -> Self {
        let (container_kind, command) = match &spec.run {
            Run::Kind(kind) => (Some(*kind), None),
            Run::Command(words) => (None, Some(words.clone().into())),
        };
        Self {
            model_name: spec.model.name.clone(),
            model_version: spec.model.version.clone(),
            input_type: spec.input_type,
            container_kind,
            command,
            artifact: spec.artifact.clone(),
            num_replicas: spec.num_replicas.get(),
            replicas,
        }
    }
}

/// One replica of a deployment.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ReplicaStatus {
    /// Its number, counted from 0.
    pub replica_id: u32,
    /// The name of its current process, by which frontends report it.
    pub instance: Option<String>,
    /// Whether it serves.
    pub state: ReplicaState,
    /// The id of its current process.
    pub pid: Option<u32>,
    /// How often its process has been started again.
    pub restarts: u32,
    /// The last lines that it printed, oldest first.
    pub last_lines: Vec<String>,
    /// Why it is not ready.
    pub reason: Option<String>,
}

/// Whether a replica serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReplicaState {
    /// It runs, or is about to, and is not connected to every frontend yet.
    Starting,
    /// It is connected to every frontend.
    Ready,
    /// Its process has ended, and will be started again.
    BackingOff,
    /// Its process has ended too often without ever having been ready, and is left alone until the number of
    /// replicas is set.
    Failed,
}

impl ReplicaState {
    /// The state as a word in a sentence.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::BackingOff => "backing off",
            Self::Failed => "failed",
        }
    }
}
