//! The path of a prediction: from an application's view and a query to an answer within the objective.
//!
//! Invariant: every query is answered exactly once, and at its deadline at the latest (to the millisecond of a timer): with a
//! model's output, or with the default output and why.

use std::sync::Arc;
use std::time::{Duration, Instant};

use clipper_rpc::input::Input;
use clipper_rpc::names::ModelVersion;
use clipper_rpc::output::Output;
use futures_util::future::join_all;

use crate::queue::Queue;
use crate::task::{Failure, Task};
use crate::view::ApplicationView;

/// The answer to one input.
#[derive(Debug)]
pub struct Prediction {
    /// The model's output, or the default output.
    pub output: Output,
    /// Why it is the default output, where it is.
    pub failure: Option<Failure>,
}

/// The query pins a version that cannot answer it.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// There is nothing of which it could be a version.
    #[error("'version' cannot be given: no model is linked to application '{application}'")]
    NoLinkedModel {
        /// The application.
        application: String,
    },
    /// The linked model has no such version.
    #[error("model '{model}' has no version '{version}'; it has: {known}")]
    NoSuchVersion {
        /// The linked model.
        model: String,
        /// The version that was asked for.
        version: ModelVersion,
        /// The versions that there are.
        known: String,
    },
}

/// Answers inputs, in order. `objective` may tighten the application's; it counts from `arrived`.
///
/// # Errors
/// If `version` pins a version that the linked model does not have.
pub async fn predict(
    application: &ApplicationView,
    inputs: Vec<Input>,
    version: Option<&ModelVersion>,
    objective: Option<Duration>,
    arrived: Instant,
) -> Result<Vec<Prediction>, PinError> {
    let objective =
        objective.map_or(application.latency_slo, |tightened| tightened.min(application.latency_slo));
    let route = route(application, version)?;
    let answers = inputs.into_iter().map(|input| async {
        match &route {
            Ok(queue) => ask(queue, input, arrived, objective).await,
            Err(failure) => Err(failure.clone()),
        }
    });
    let outcomes = join_all(answers).await.into_iter();
    Ok(outcomes
        .map(|outcome| match outcome {
            Ok(output) => Prediction { output, failure: None },
            Err(failure) => Prediction { output: application.default_output.clone(), failure: Some(failure) },
        })
        .collect())
}

/// The queue that answers, or why none can.
fn route(
    application: &ApplicationView,
    pinned: Option<&ModelVersion>,
) -> Result<Result<Arc<Queue>, Failure>, PinError> {
    let Some(model) = &application.model else {
        return match pinned {
            None => Ok(Err(Failure::NoLinkedModels)),
            Some(_) => Err(PinError::NoLinkedModel { application: application.name.to_string() }),
        };
    };
    if let Some(version) = pinned {
        return match model.versions.get(version) {
            Some(queue) => Ok(Ok(Arc::clone(queue))),
            None => Err(PinError::NoSuchVersion {
                model: model.name.to_string(),
                version: version.clone(),
                known: model.versions.keys().map(ModelVersion::as_str).collect::<Vec<_>>().join(", "),
            }),
        };
    }
    let missing = |problem| Ok(Err(Failure::NoVersion { model: model.name.to_string(), problem }));
    match &model.current {
        None if model.versions.is_empty() => missing("is not registered"),
        None => missing("has no current version"),
        Some(current) => match model.versions.get(current) {
            Some(queue) => Ok(Ok(Arc::clone(queue))),
            None => missing("takes inputs of another type"),
        },
    }
}

async fn ask(queue: &Queue, input: Input, arrived: Instant, objective: Duration) -> Result<Output, Failure> {
    let deadline = arrived + objective;
    let (task, outcome) = Task::new(input, deadline);
    queue.push(task)?;
    match tokio::time::timeout_at(deadline.into(), outcome).await {
        Ok(Ok(outcome)) => outcome,
        // A task is dropped only once its deadline has passed, a moment before this timer notices.
        Ok(Err(_)) | Err(_) => {
            let (queued, replicas) = queue.depth();
            let model = queue.model().clone();
            Err(Failure::Deadline { model, objective, queued, replicas })
        }
    }
}
