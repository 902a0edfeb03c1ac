//! The decision log's records: JSON lines, one record each, in files that each begin with a [`Record::Start`].
//!
//! From the records of one file the states at each decision can be rebuilt: `version` numbers the changes of the
//! application's states (shared and users' alike, at this frontend), and a decision says which versions it read.

use std::collections::BTreeMap;

use clipper_rpc::names::{AppName, ModelName};
use clipper_rpc::selection::{Change, Selection, Statistics, Uid};
use serde::{Deserialize, Serialize};

use crate::learner::availability::Outcomes;

/// One line of the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub enum Record {
    /// From here on the application is so, and its shared state was so at `version`.
    Start {
        /// Of this format: 1.
        format: u32,
        /// Microseconds since 1970.
        time_micros: u64,
        /// The application.
        application: AppName,
        /// Its selection.
        selection: Selection,
        /// Its linked models.
        candidates: Vec<ModelName>,
        /// The shared state,
        shared: Statistics,
        /// and how many changes there were.
        version: u64,
    },
    /// A user's state, in full, before anything in this file needs it, and whenever it is replaced by what is stored.
    User {
        /// Who.
        uid: Uid,
        /// The state,
        statistics: Statistics,
        /// and how many changes there were.
        version: u64,
    },
    /// A change of a state, by a feedback here, by what became of queries here, or by what another frontend learned.
    Change {
        /// Its number.
        version: u64,
        /// The query on which there was feedback, if the change is all that one feedback taught, and it named a query.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        query_id: Option<u64>,
        /// What became of the queries that asked each model, if the change is all that this taught.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        outcomes: Option<BTreeMap<ModelName, Outcomes>>,
        /// Whose state; none: the shared one.
        uid: Option<Uid>,
        /// What changed.
        change: Change,
    },
    /// A query was answered.
    Decision(Box<Decision>),
    /// Feedback came.
    Feedback {
        /// Microseconds since 1970.
        time_micros: u64,
        /// On which query; none for the form that repeats the input.
        query_id: Option<u64>,
        /// Of whom.
        uid: Option<Uid>,
        /// What would have been right.
        #[serde(skip_serializing_if = "Option::is_none")]
        label: Option<serde_json::Value>,
        /// The reward of the answer, in [0, 1].
        reward: f64,
        /// The loss of each candidate of the decision, where it is known.
        losses: Vec<Option<f64>>,
        /// What candidates answered after the query was, as JSON, as far as it is judged; null for the others. Empty if none did.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        outputs: Vec<serde_json::Value>,
    },
}

/// How a query was answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// The query.
    pub query_id: u64,
    /// When it arrived: microseconds since 1970.
    pub time_micros: u64,
    /// The user.
    pub uid: Option<Uid>,
    /// The query's features.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<Vec<f64>>,
    /// The candidates, in order.
    pub candidates: Vec<ModelName>,
    /// The weight of each, or its probability.
    pub propensities: Vec<f64>,
    /// Which one was asked; none: all.
    pub asked: Option<usize>,
    /// The candidates that were not asked because they had no replica, while others had.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub away: Vec<usize>,
    /// Whether the one that was asked answered in time; none where that says nothing of the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered: Option<bool>,
    /// What each answered in time, as JSON; null for those that did not.
    pub outputs: Vec<serde_json::Value>,
    /// What was answered, as JSON.
    pub output: serde_json::Value,
    /// Why it was the default output, if it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_reason: Option<String>,
    /// In [0, 1].
    pub confidence: f64,
    /// From the request's arrival to its answer, in microseconds.
    pub latency_micros: u64,
    /// The version of the shared state that was read,
    pub shared_version: u64,
    /// and that of the user's, if there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub own_version: Option<u64>,
}
