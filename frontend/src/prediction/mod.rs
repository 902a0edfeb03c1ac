//! Predictions: from an application's view and a query to an answer within the latency objective.
//!
//! - [`Predictor::predict`]: entry point for requests. Applications without a policy are answered here.
//! - `route`: the version of the model that answers.
//! - `ask`: one version is asked: cache, computation in progress, or queue.
//! - `ensemble`: applications with a policy: choose models, ask each, combine the votes (`ballot`), and
//!   record the decision (`conclude`).
//!
//! Invariant: every query is answered exactly once, and by its deadline (to the millisecond of a
//! timer): with a model's output, or with the default output and a reason.

mod answer;
mod ask;
mod ballot;
mod conclude;
mod ensemble;
mod error;
mod route;
mod timing;

use std::sync::Arc;
use std::time::Instant;

use clipper_rpc::input::Input;
use clipper_rpc::output::Output;

pub use self::answer::{Origin, Prediction};
pub use self::ask::ModelCaller;
use self::ask::{Answer, too_slow};
pub use self::error::OptionsError;
use self::route::route;
use self::timing::Timing;
use crate::application::ApplicationView;
use crate::computation::failure::{Failure, Verdict};
use crate::query::PredictOptions;
use crate::query::ids::QueryIds;
use crate::selection::Selector;
use crate::worker::Turns;

/// Answers the queries of one HTTP worker's requests.
pub struct Predictor {
    /// Asks the models.
    pub models: ModelCaller,
    /// Source of query ids.
    pub query_ids: Arc<QueryIds>,
}

impl Predictor {
    /// Answers inputs, in order. Time counts from when the request `arrived`.
    ///
    /// # Errors
    /// If `options` pin a version that the linked model does not have, or do not fit the application's policy.
    pub async fn predict(
        &self,
        application: &ApplicationView,
        inputs: Vec<Input>,
        options: &PredictOptions,
        arrived: Instant,
    ) -> Result<Vec<Prediction>, OptionsError> {
        let timing = Timing::of(application, options, arrived);
        if let Some(selector) = &application.selector {
            // Boxed, or it would make the others' futures as large as its own.
            let (models, query_ids) = (&self.models, &self.query_ids);
            let predicted =
                ensemble::predict(models, query_ids, application, selector, &inputs, options, timing);
            return Box::pin(predicted).await;
        }
        let deadline = timing.deadline();
        let version = match route(application, options.version.as_ref())? {
            Ok(version) => version,
            Err(failure) => {
                return Ok(Box::pin(self.defaults(application, inputs.len(), &failure)).await);
            }
        };
        let inputs = inputs.into_iter();
        let answers =
            self.models.ask(version, inputs, application.cache, options.keep_together, deadline).await;
        let mut predictions = Vec::with_capacity(answers.len());
        let mut turns = Turns::default();
        for answer in answers {
            turns.next().await;
            predictions.push(match answer {
                Answer::Kept(output) => self.prediction(output, Origin::Cache),
                Answer::Later(awaited) => match self.models.timers.by(deadline, awaited.verdict).await {
                    Some(Ok(Ok(output))) => self.prediction(output, Origin::Model),
                    Some(Ok(Err(failure))) => self.default(application, failure),
                    // Whoever drops a query has seen its deadline pass, a moment before this timer does.
                    Some(Err(_)) | None => {
                        self.default(application, too_slow(&version.queue, timing.objective))
                    }
                },
            });
        }
        Ok(predictions)
    }

    /// Output of every model that the selector may choose, for feedback that judges them: in the
    /// order of the candidates. A model that has not answered by the deadline fails.
    pub async fn ask_all(
        &self,
        application: &ApplicationView,
        selector: &Selector,
        input: &Input,
        deadline: Instant,
    ) -> Vec<Verdict> {
        ensemble::ask_all(&self.models, application, selector, input, deadline).await
    }

    /// The default output for each of `count` inputs.
    pub async fn defaults(
        &self,
        application: &ApplicationView,
        count: usize,
        failure: &Failure,
    ) -> Vec<Prediction> {
        let mut predictions = Vec::with_capacity(count);
        let mut turns = Turns::default();
        for _ in 0..count {
            turns.next().await;
            predictions.push(self.default(application, failure.clone()));
        }
        predictions
    }

    fn default(&self, application: &ApplicationView, failure: Failure) -> Prediction {
        self.prediction(application.default_output.clone(), Origin::Failure(failure))
    }

    fn prediction(&self, output: Output, origin: Origin) -> Prediction {
        Prediction { query_id: self.query_ids.next(), output, origin, selected: None }
    }
}
