//! Answers to queries, as requests hand them out.

use clipper_rpc::names::ModelName;
use clipper_rpc::output::Output;

use crate::computation::failure::Failure;
use crate::metrics::Outcome;

/// The answer to one input.
#[derive(Debug)]
pub struct Prediction {
    /// The query's id.
    pub query_id: u64,
    /// The model's output, or the default output.
    pub output: Output,
    /// Where it comes from.
    pub origin: Origin,
    /// What is said of the models that were asked, where the application selects among them.
    pub selected: Option<Box<Selected>>,
}

/// How an application's models came to an answer.
#[derive(Debug)]
pub struct Selected {
    /// How sure they are, 0 to 1.
    pub confidence: f64,
    /// Those that answered in time.
    pub models: Vec<ModelName>,
}

/// Where an answer comes from.
#[derive(Debug)]
pub enum Origin {
    /// From the model, now.
    Model,
    /// From the model, which was asked the same before.
    Cache,
    /// From nowhere, for this reason: it is the default output.
    Failure(Failure),
}

impl Origin {
    /// Outcome under which an answer from here is counted.
    pub const fn outcome(&self) -> Outcome {
        match self {
            Self::Model => Outcome::Predicted,
            Self::Cache => Outcome::Cached,
            Self::Failure(failure) => failure.outcome(),
        }
    }
}
