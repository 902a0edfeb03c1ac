//! Why a query gets no output of a model.
//!
//! Displayed in the answer, for the developers of applications; counted by its outcome.

use std::sync::Arc;
use std::time::Duration;

use clipper_rpc::names::ModelId;
use clipper_rpc::output::Output;

use crate::metrics::Outcome;

/// What became of a query.
pub type Verdict = Result<Output, Failure>;

/// Why a query gets no output of a model. Displayed in words for the application's developers.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
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
    /// It could not be answered in time any more, and was not sent to a container.
    #[error(
        "an answer would come too late: model '{model}' has {queued} queries waiting and {replicas} replicas connected"
    )]
    TooLate {
        /// The model and version.
        model: ModelId,
        /// How many queries are waiting.
        queued: usize,
        /// How many replicas there are.
        replicas: usize,
    },
    /// Too many requests of the application are in progress.
    #[error("the application has its {limit} concurrent requests in progress")]
    TooManyRequests {
        /// The application's bound.
        limit: u32,
    },
    /// Inputs that are to be kept together do not fit into a batch.
    #[error("{found} inputs cannot be kept together: a batch of model '{model}' takes at most {most}")]
    TooManyTogether {
        /// The model and version.
        model: ModelId,
        /// How many inputs there are.
        found: usize,
        /// How many the largest batch takes.
        most: usize,
    },
    /// Too many queries were waiting.
    #[error("the queue of model '{model}' is full with {queries} queries of {bytes} bytes")]
    QueueFull {
        /// The model and version.
        model: ModelId,
        /// How many queries are waiting.
        queries: usize,
        /// What their inputs take, in bytes.
        bytes: usize,
    },
    /// The container failed this query or its batch, or was lost with it.
    #[error("the container of model '{model}' {problem}")]
    ContainerError {
        /// The model and version.
        model: ModelId,
        /// What it did.
        problem: Arc<str>,
    },
    /// The model's version, or this frontend, is going away.
    #[error("model '{model}' is being withdrawn from this frontend")]
    Draining {
        /// The model and version.
        model: ModelId,
    },
    /// The models that answered were not sure enough.
    #[error("the confidence of {confidence} is below the application's threshold of {threshold}")]
    LowConfidence {
        /// That of their answer.
        confidence: f64,
        /// What the application asks for.
        threshold: f64,
    },
}

impl Failure {
    /// The memory that its text takes besides itself, in bytes.
    pub fn size(&self) -> usize {
        match self {
            Self::ContainerError { problem, .. } => problem.len(),
            Self::NoVersion { model, .. } => model.len(),
            _ => 0,
        }
    }

    /// Whether the model is to blame: it was asked, could have answered in time, and did not.
    ///
    /// Whatever clients can bring about by themselves is no fault of the model, or they could turn an application away from
    /// a good one: a full queue, inputs that do not fit into a batch together, more requests than are admitted. Nor is what
    /// operators do: a version that is withdrawn or missing. A model without replicas is no candidate while others have
    /// some, and need not be learned of. A container error counts though an input may have caused it: a model that fails
    /// every input would otherwise be asked for ever, and inputs that no model can read count against all of them alike.
    pub fn is_miss(&self) -> bool {
        match self {
            Self::Deadline { .. } | Self::TooLate { .. } | Self::ContainerError { .. } => true,
            Self::NoLinkedModels
            | Self::NoVersion { .. }
            | Self::NoConnectedReplicas { .. }
            | Self::TooManyRequests { .. }
            | Self::TooManyTogether { .. }
            | Self::QueueFull { .. }
            | Self::Draining { .. }
            | Self::LowConfidence { .. } => false,
        }
    }

    /// The short name under which answers report the failure.
    pub fn reason(&self) -> &'static str {
        self.outcome().name()
    }

    /// Outcome under which a query that fails like this is counted.
    pub const fn outcome(&self) -> Outcome {
        match self {
            Self::NoLinkedModels => Outcome::NoLinkedModels,
            Self::NoVersion { .. } | Self::NoConnectedReplicas { .. } => Outcome::NoConnectedReplicas,
            Self::Deadline { .. } | Self::TooLate { .. } => Outcome::Deadline,
            Self::TooManyRequests { .. } => Outcome::TooManyRequests,
            Self::TooManyTogether { .. } => Outcome::TooManyTogether,
            Self::QueueFull { .. } => Outcome::QueueFull,
            Self::ContainerError { .. } => Outcome::ContainerError,
            Self::Draining { .. } => Outcome::Draining,
            Self::LowConfidence { .. } => Outcome::LowConfidence,
        }
    }
}
