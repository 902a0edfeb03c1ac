//! What a cluster serves, as management stores it and as every frontend follows it.
//!
//! Management is the only writer. A frontend calls [`Management::follow`] over and over, each time with all that
//! management needs to know of it and the last revision that it has applied; the answer is what has changed since, or
//! a whole [`Snapshot`] if that is not known any more. The same code path serves frontends in the same process and
//! across hosts. Invariant: a change carries the whole record, so applying it twice changes nothing.

use std::collections::BTreeMap;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::input::InputType;
use crate::names::{AppName, ModelId, ModelName, ModelVersion};
use crate::secret::Secret;
use crate::selection::{ExchangeRequest, ExchangeResponse, Selection};

/// An application: a REST endpoint with a latency objective, a default output and the models that it is linked to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Application {
    /// Its name, a path segment.
    pub name: AppName,
    /// The type of its inputs, and so of its models' inputs.
    pub input_type: InputType,
    /// The output that is given where no model's output can be: any text, nested in answers if it is JSON.
    pub default_output: String,
    /// The latency service level objective, in microseconds, from the arrival of a request.
    pub latency_slo_micros: u64,
    /// The models that answer its queries, in the order in which they were linked.
    pub linked_models: Vec<ModelName>,
    /// Whether its queries may be answered from the prediction cache.
    #[serde(default = "yes")]
    pub cache: bool,
    /// The most requests that it may have in progress at one frontend; `None` leaves it to the frontend.
    #[serde(default)]
    pub max_concurrent_requests: Option<u32>,
    /// What happens to a query for which there is no room.
    #[serde(default)]
    pub on_overload: OnOverload,
    /// How it selects among its models.
    #[serde(default)]
    pub selection: Selection,
}

/// What happens to a query that comes when a bound is reached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnOverload {
    /// It is answered with the default output, at once.
    #[default]
    Default,
    /// It is refused: 429 at the application's own bound, 503 at that of a model's queue.
    Refuse,
}

/// A model: its registered versions, and which of them is current.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// Its name.
    pub name: ModelName,
    /// The version that answers queries which pin none. None after the current version was deleted.
    pub current_version: Option<ModelVersion>,
    /// Every registered version.
    pub versions: BTreeMap<ModelVersion, ModelVersionSpec>,
}

/// What is registered of one version of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelVersionSpec {
    /// The type of its inputs.
    pub input_type: InputType,
    /// Free labels, for people.
    #[serde(default)]
    pub labels: Vec<String>,
    /// What runs it: a container kind, an image, a command; free text, for people.
    #[serde(default)]
    pub container_name: String,
    /// Where the model's files are, as its containers see them.
    #[serde(default)]
    pub model_data_path: String,
    /// The most inputs to send in one batch; `None` leaves it to the frontend.
    #[serde(default)]
    pub batch_size: Option<u32>,
    /// How its batches are sized.
    #[serde(default)]
    pub batching: Batching,
    /// Whether its outputs may be kept in the prediction cache.
    #[serde(default = "yes")]
    pub cache: bool,
    /// Tells it from every other version that is or was registered under its name.
    #[serde(default)]
    pub generation: Generation,
}

/// How the batches of one version of a model are sized.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Batching {
    /// What decides how many inputs go into a batch.
    #[serde(default)]
    pub strategy: BatchingStrategy,
    /// How long a batch that could be larger waits for more inputs, in microseconds. `None`: `adaptive` waits where it
    /// pays, the other strategies do not.
    #[serde(default)]
    pub wait_micros: Option<u32>,
}

/// What decides how many inputs go into a batch. The version's `batch_size` bounds them all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BatchingStrategy {
    /// The largest batch that the earliest deadline in it allows, by a learned model of the latency.
    #[default]
    Adaptive,
    /// Additive increase, multiplicative decrease.
    Aimd,
    /// The largest batch whose 99th percentile of latency, by a linear quantile regression, is within the objective.
    Quantile,
    /// As many as `batch_size` says, which must be given.
    Fixed,
}

fn yes() -> bool {
    true
}

/// The number of a state of the catalog. Each change raises it by one.
pub type Revision = u64;

/// Tells a registration from all others under its name, those of lost histories of the store included. Generations
/// have no order.
pub type Generation = u64;

/// A change of the catalog.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum Change {
    /// An application was added or altered.
    PutApplication {
        /// The application as it is now.
        application: Application,
    },
    /// An application was deleted.
    DeleteApplication {
        /// Its name.
        name: AppName,
    },
    /// A model was added, or its versions or its current version altered.
    PutModel {
        /// The model as it is now.
        model: Model,
    },
    /// The last version of a model was deleted.
    DeleteModel {
        /// Its name.
        name: ModelName,
    },
}

/// The whole catalog at one revision.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Every application.
    pub applications: Vec<Application>,
    /// Every model.
    pub models: Vec<Model>,
}

/// A position in the history of one store.
///
/// The history of a store can fork: a backup may be put back, and a crash may lose edits that nobody was told of. Both end
/// the process that has the store open, so revisions are comparable within one run of the store and never beyond.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The run of the store, a random id that is drawn each time management opens the store.
    pub run: Uuid,
    /// The revision.
    pub revision: Revision,
}

/// All that management knows of a frontend, in full at each call, and where the frontend stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FollowRequest {
    /// Identifies this run of the frontend.
    pub frontend: Uuid,
    /// The number that management gave it before, to be kept across a restart of management.
    pub number: Option<u64>,
    /// Where applications reach it, as `host:port`. A host of `0.0.0.0` stands for the address it called from.
    pub query_address: String,
    /// Where containers reach it, likewise.
    pub rpc_address: String,
    /// What it has applied. Reaching it acknowledges every earlier change.
    pub applied: Option<Position>,
    /// The list of frontends that it knows, as last answered.
    pub known_frontends: Vec<String>,
    /// The containers that are connected to it.
    pub containers: Vec<ConnectedContainer>,
}

/// A container, as the frontend that it is connected to sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectedContainer {
    /// What it serves.
    pub model: ModelId,
    /// Its number among the replicas of that version.
    pub replica: u32,
    /// The name that whoever started it gave to its process.
    pub instance: Option<String>,
    /// The type of inputs that it takes.
    pub input_type: InputType,
    /// The most inputs that it is sent in one batch.
    pub batch_size: u32,
}

/// What has happened since the position of a [`FollowRequest`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FollowResponse {
    /// The frontend's number, unique in the cluster over time: the high bits of its query ids.
    pub number: u64,
    /// Where the frontend stands once it has applied `update`.
    pub position: Position,
    /// What to apply.
    pub update: Update,
    /// Where containers reach each frontend of the cluster, as `host:port`, sorted.
    pub frontends: Vec<String>,
    /// The key of the registration tokens: see [`Secret::registration_token`]. Absent if management
    /// is older than these tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_key: Option<Secret>,
}

/// The news in a [`FollowResponse`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "update", rename_all = "snake_case")]
pub enum Update {
    /// Replace everything known by this.
    Snapshot {
        /// The whole catalog.
        snapshot: Snapshot,
    },
    /// Apply these in order; often none.
    Changes {
        /// The changes.
        changes: Vec<Change>,
    },
}

/// Management cannot be followed at the moment. The frontend goes on with what it knows, and tries again.
#[derive(Debug, thiserror::Error)]
#[error("management cannot be followed: {0}")]
pub struct FollowError(pub String);

/// An exchange that management has not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExchangeError {
    /// Management cannot be reached, or cannot store anything at the moment. The same request may be made again.
    #[error("management cannot be reached: {0}")]
    Failed(String),
    /// Management does not take this request, however often it is made.
    #[error("management refuses it: {0}")]
    Refused(String),
}

/// The management process as a frontend sees it: in the same process, or over HTTP.
pub trait Management: Send + Sync {
    /// Waits for news and returns them; returns without news after some seconds. Cancelling the call is safe.
    fn follow(&self, request: FollowRequest) -> BoxFuture<'_, Result<FollowResponse, FollowError>>;

    /// Stores what the frontend has learned, and returns what others have; at once. After a failure the same request may be
    /// made again, after a refusal not. Cancelling the call is a failure.
    fn exchange(&self, request: ExchangeRequest) -> BoxFuture<'_, Result<ExchangeResponse, ExchangeError>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_of_a_management_that_is_older_than_registration_tokens_is_understood() {
        let position = Position { run: Uuid::nil(), revision: 7 };
        let (update, frontends) = (Update::Changes { changes: Vec::new() }, Vec::new());
        let mut response =
            FollowResponse { number: 1, position, update, frontends, container_key: Some(Secret::random()) };
        let mut older = serde_json::to_value(&response).expect("it is JSON");
        older.as_object_mut().expect("it has fields").remove("container_key").expect("it has a key");
        response.container_key = None;
        assert_eq!(serde_json::from_value::<FollowResponse>(older).expect("it is an answer"), response);
    }
}
