//! Answers to predictions as JSON.

use clipper_rpc::names::ModelName;
use utoipa::ToSchema;

use crate::failure::Failure;
use crate::output_json::OutputJson;
use crate::prediction::{Origin, Prediction};

/// The answer to one input.
#[derive(serde::Serialize, ToSchema)]
pub(crate) struct Answer {
    /// Unique across the cluster, and below 2^53.
    #[schema(example = 17)]
    query_id: u64,
    /// The model's output: nested if it is JSON, a JSON string otherwise; the default output if `default` is true.
    #[schema(value_type = Value)]
    output: OutputJson,
    /// Whether this is the application's default output.
    default: bool,
    /// Why, in a word.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "deadline")]
    default_reason: Option<&'static str>,
    /// Why, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    default_explanation: Option<String>,
    /// How sure the models are of `output`, or were of what it would have been. Only where the application selects among
    /// its models.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 1, example = 0.9)]
    confidence: Option<f64>,
    /// The models that answered in time, in the order in which they are linked; likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<String>>)]
    models: Option<Vec<ModelName>>,
}

/// The answers to a batch of inputs.
#[derive(serde::Serialize, ToSchema)]
pub(crate) struct BatchAnswer {
    /// One for each input, in order.
    pub(crate) batch_predictions: Vec<Answer>,
}

/// The answer to a request.
#[derive(serde::Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum PredictAnswer {
    /// To `input`.
    One(Answer),
    /// To `input_batch`.
    Many(BatchAnswer),
}

impl Answer {
    /// What is said of a prediction.
    pub(crate) fn new(prediction: Prediction) -> Self {
        let failure = match &prediction.origin {
            Origin::Model | Origin::Cache => None,
            Origin::Failure(failure) => Some(failure),
        };
        let (confidence, models) = match prediction.selected {
            Some(selected) => (Some(selected.confidence), Some(selected.models)),
            None => (None, None),
        };
        Self {
            query_id: prediction.query_id,
            default: failure.is_some(),
            default_reason: failure.map(Failure::reason),
            default_explanation: failure.map(Failure::to_string),
            output: OutputJson(prediction.output),
            confidence,
            models,
        }
    }
}
