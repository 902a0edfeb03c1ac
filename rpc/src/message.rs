//! The messages of the container protocol, as types. `docs/protocol.md` says what each means.

use std::collections::BTreeMap;
use std::fmt;

use crate::input::{InputBatch, InputType};
use crate::output::OutputBatch;

/// The version of the protocol that this crate speaks.
pub const PROTOCOL_VERSION: u64 = 4;

/// A message from a container to a frontend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromContainer {
    /// I serve this.
    Register(Register),
    /// Alive.
    Heartbeat,
    /// The outputs of a batch.
    Prediction(Prediction),
    /// A whole batch failed.
    Error {
        /// The batch.
        id: u64,
        /// Why, for operators and applications.
        message: String,
    },
    /// Feedback was received.
    FeedbackAck {
        /// The feedback.
        id: u64,
    },
    /// Nothing more will be answered.
    Goodbye,
}

/// A message from a peer that has not registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Introduction {
    /// I serve this.
    Register(Register),
    /// Nothing more will be answered.
    Goodbye,
    /// Any other message. Only its type was read.
    Other,
}

/// What a container says of itself.
///
/// Names are plain text here: whether they are valid, and known, is the frontend's to say in an answer.
#[derive(Clone, PartialEq, Eq)]
pub struct Register {
    /// The protocol's version: [`PROTOCOL_VERSION`].
    pub protocol: u64,
    /// The model's name.
    pub model: String,
    /// The model's version.
    pub version: String,
    /// The type of inputs that it takes.
    pub input_type: InputType,
    /// The registration token of the model's version, or the cluster's token of all containers.
    /// Never shown.
    pub token: Option<String>,
    /// The most inputs that it can take in one batch.
    pub max_batch_size: Option<u32>,
    /// The replica number that it would like to have.
    pub replica: Option<u32>,
    /// Which SDK this is, for logs.
    pub sdk: Option<String>,
    /// A name unique to this process, by which whoever started it recognises it.
    pub instance: Option<String>,
}

impl fmt::Debug for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { protocol, model, version, input_type, token, max_batch_size, replica, sdk, instance } =
            self;
        f.debug_struct("Register")
            .field("protocol", protocol)
            .field("model", model)
            .field("version", version)
            .field("input_type", input_type)
            .field("token", &token.as_ref().map(|_| "hidden"))
            .field("max_batch_size", max_batch_size)
            .field("replica", replica)
            .field("sdk", sdk)
            .field("instance", instance)
            .finish()
    }
}

/// The outputs of a batch, one for each of its inputs, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prediction {
    /// The batch.
    pub id: u64,
    /// The time that the model itself took.
    pub elapsed_micros: u64,
    /// The outputs.
    pub outputs: OutputBatch,
    /// Why single inputs failed, by their index.
    pub errors: BTreeMap<u32, String>,
}

/// A message from a frontend to a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToContainer {
    /// Welcome.
    Registered(Registered),
    /// Not accepted, or accepted no longer.
    Rejected {
        /// Why.
        reason: String,
        /// When to try again; `None` if it is useless.
        retry_millis: Option<u64>,
    },
    /// Register again.
    Unknown,
    /// Alive.
    Heartbeat {
        /// The frontends of the cluster, where they have changed.
        frontends: Option<Vec<String>>,
    },
    /// Answer this batch.
    Predict(Predict),
    /// Learn from this batch.
    Feedback(Feedback),
    /// Answer what you hold, then leave.
    Drain,
}

/// The terms of a registration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    /// The container's number among the replicas of its model's version.
    pub replica: u32,
    /// How long to be silent before saying `heartbeat`.
    pub heartbeat_millis: u64,
    /// How long a silence means that the other is lost.
    pub timeout_millis: u64,
    /// The frontends of the cluster, as `host:port`.
    pub frontends: Option<Vec<String>>,
}

/// A batch of inputs to be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Predict {
    /// Names the batch in this session; never used twice.
    pub id: u64,
    /// The time left until the earliest deadline in the batch.
    pub budget_micros: u64,
    /// The inputs.
    pub inputs: InputBatch,
}

/// A batch of inputs with the outputs that they should have had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feedback {
    /// Names the feedback in this session.
    pub id: u64,
    /// The inputs.
    pub inputs: InputBatch,
    /// One label for each input.
    pub labels: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registration_hides_its_token_in_debug_output() {
        let register = Register {
            protocol: PROTOCOL_VERSION,
            model: "digits".to_owned(),
            version: "1".to_owned(),
            input_type: InputType::Doubles,
            token: Some("open-sesame".to_owned()),
            max_batch_size: None,
            replica: None,
            sdk: None,
            instance: None,
        };
        let shown = format!("{:?}", FromContainer::Register(register));
        assert!(shown.contains("digits") && shown.contains("hidden"), "{shown}");
        assert!(!shown.contains("open-sesame"), "{shown}");
    }
}
