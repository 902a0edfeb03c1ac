//! One query on its way to a model and back.
//!
//! Invariant: a task ends exactly once. It is consumed by [`Task::finish`], or dropped because nobody waits for it any
//! more; whoever waits hears of either.

use std::time::{Duration, Instant};

use clipper_rpc::input::Input;
use clipper_rpc::names::ModelId;
use clipper_rpc::output::Output;
use tokio::sync::oneshot;

use crate::metrics;

/// How often a task is handed to a container before it counts as the cause of their deaths.
pub const MAX_ATTEMPTS: u8 = 3;

/// What became of a task.
pub type Outcome = Result<Output, Failure>;

/// A query that waits for, or is in, a batch.
#[derive(Debug)]
pub struct Task {
    /// What the model is asked.
    pub input: Input,
    /// When its answer is no longer of use.
    pub deadline: Instant,
    /// When it was accepted.
    pub accepted: Instant,
    /// How often it was handed to a container.
    pub attempts: u8,
    reply: oneshot::Sender<Outcome>,
}

impl Task {
    /// A task, and where its outcome arrives.
    pub fn new(input: Input, deadline: Instant) -> (Self, oneshot::Receiver<Outcome>) {
        let (reply, outcome) = oneshot::channel();
        (Self { input, deadline, accepted: Instant::now(), attempts: 0, reply }, outcome)
    }

    /// Ends the task.
    pub fn finish(self, outcome: Outcome) {
        // Fails only if the client has gone or had its default output, and then nobody is to be told.
        let _ = self.reply.send(outcome);
    }

    /// Whether an answer would still be of use at `now`.
    pub fn is_wanted(&self, now: Instant) -> bool {
        self.deadline > now && !self.reply.is_closed()
    }
}

/// Why a query gets no output of a model. Displayed in words for the application's developers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The application is linked to no model.
    #[error("no model is linked to this application")]
    NoLinkedModels,
    /// The linked model has no version that could answer.
    #[error("the linked model '{model}' {problem}")]
    NoVersion {
        /// The model's name.
        model: String,
        /// What it lacks.
        problem: &'static str,
    },
    /// No container serves the model at the moment.
    #[error("no container of model '{model}' is connected")]
    NoConnectedReplicas {
        /// The model and version.
        model: ModelId,
    },
    /// The objective passed first.
    #[error(
        "no answer within the latency objective of {objective:?}; model '{model}' had {queued} queries waiting \
         and {replicas} replicas connected"
    )]
    Deadline {
        /// The model and version.
        model: ModelId,
        /// The objective.
        objective: Duration,
        /// How many queries were waiting when it passed.
        queued: usize,
        /// How many replicas there were.
        replicas: usize,
    },
    /// Too many queries were waiting.
    #[error("the queue of model '{model}' is full with {capacity} queries")]
    QueueFull {
        /// The model and version.
        model: ModelId,
        /// The queue's bound.
        capacity: usize,
    },
    /// The container failed this query or its batch, or was lost with it.
    #[error("the container of model '{model}' {problem}")]
    ContainerError {
        /// The model and version.
        model: ModelId,
        /// What it did.
        problem: String,
    },
    /// The model's version, or this frontend, is going away.
    #[error("model '{model}' is being withdrawn from this frontend")]
    Draining {
        /// The model and version.
        model: ModelId,
    },
}

impl Failure {
    /// The short name under which answers and metrics report the failure.
    pub fn reason(&self) -> &'static str {
        metrics::Outcome::of(self).name()
    }
}
