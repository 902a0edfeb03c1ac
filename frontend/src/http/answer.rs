//! Answers to predictions as JSON.

use actix_web::http::header::ContentType;
use actix_web::{HttpResponse, web};
use clipper_rpc::names::ModelName;
use clipper_rpc::output::Output;
use utoipa::ToSchema;

use super::answer_body::AnswerBody;
use super::error::ApiError;
use super::predict::LONGEST_PARSED_HERE;

use crate::computation::failure::Failure;
use crate::output_json::{OutputJson, is_json};
use crate::prediction::{Origin, Prediction};
use crate::worker::request_bytes::Held;

/// The largest answer that is written at once, in bytes of its outputs.
const LONGEST_AT_ONCE: usize = 64 << 10;

/// What an answer takes besides its output, in bytes; an estimate.
const ANSWER_BYTES: usize = 256;

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

/// Answers a request: at once if the answer is short, and else while the client takes it. The request counts with its
/// answer until then.
///
/// # Errors
/// If there is no room for the answer.
pub(crate) async fn respond(
    predictions: Vec<Prediction>,
    is_batch: bool,
    mut held: Held,
) -> Result<HttpResponse, ApiError> {
    let size = predictions.iter().map(size).sum();
    held.grow_to(size)?;
    if size > LONGEST_AT_ONCE {
        let checked = check(predictions).await?;
        let body = AnswerBody::new(checked, is_batch, held);
        return Ok(HttpResponse::Ok().content_type(ContentType::json()).body(body));
    }
    let mut answers = predictions.into_iter().map(Answer::new);
    let answer = match answers.next() {
        Some(answer) if !is_batch => PredictAnswer::One(answer),
        first => {
            PredictAnswer::Many(BatchAnswer { batch_predictions: first.into_iter().chain(answers).collect() })
        }
    };
    Ok(HttpResponse::Ok().json(answer))
}

/// What an answer takes, in bytes.
fn size(prediction: &Prediction) -> usize {
    let explanation = match &prediction.origin {
        Origin::Failure(Failure::ContainerError { problem, .. }) => problem.len(),
        _ => 0,
    };
    ANSWER_BYTES + prediction.output.size() + explanation
}

/// Finds out which outputs are JSON, where to read them would keep other requests waiting.
async fn check(predictions: Vec<Prediction>) -> Result<Vec<(Prediction, Option<bool>)>, ApiError> {
    let mut checked = Vec::with_capacity(predictions.len());
    for prediction in predictions {
        let is_json = match &prediction.output {
            Output::Text(text) if text.len() > LONGEST_PARSED_HERE => {
                let text = text.clone();
                let is_json = web::block(move || is_json(&text)).await;
                Some(is_json.map_err(|error| ApiError::Unreadable(error.into()))?)
            }
            _ => None,
        };
        checked.push((prediction, is_json));
    }
    Ok(checked)
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
