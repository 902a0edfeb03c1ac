//! The path of a prediction: from an application's view and a query to an answer within the objective.
//!
//! Invariant: every query is answered exactly once, and at its deadline at the latest (to the millisecond of a timer): with a
//! model's output, or with the default output and why.

use std::sync::Arc;
use std::time::{Duration, Instant};

use clipper_rpc::input::Input;
use clipper_rpc::names::ModelVersion;
use clipper_rpc::output::Output;
use tokio::sync::oneshot;
use tokio::time::timeout_at;

use crate::cache::{Claim, PredictionCache};
use crate::computation::{Bond, Computation, Waiter};
use crate::failure::{Failure, Verdict};
use crate::metrics::CacheLookup;
use crate::queue::{Entry, Queue};
use crate::reply::Mailbox;
use crate::view::{ApplicationView, VersionView};

/// The answer to one input.
#[derive(Debug)]
pub struct Prediction {
    /// The model's output, or the default output.
    pub output: Output,
    /// Where it comes from.
    pub origin: Origin,
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

/// What a request asks for, besides its inputs.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// The version that must answer.
    pub version: Option<ModelVersion>,
    /// Tightens the application's objective.
    pub latency_slo: Option<Duration>,
    /// Whether the inputs are to be in one batch.
    pub keep_together: bool,
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

/// Asks on behalf of the requests of one HTTP worker.
pub struct Predictor {
    /// What was answered before.
    pub cache: Arc<PredictionCache>,
    /// Where the worker's outcomes arrive.
    pub mailbox: Arc<Mailbox>,
}

/// A query's answer, or where it will arrive.
enum Answer {
    Kept(Output),
    Later(oneshot::Receiver<Verdict>),
}

impl Predictor {
    /// Answers inputs, in order. Time counts from when the request `arrived`.
    ///
    /// # Errors
    /// If `terms` pin a version that the linked model does not have.
    pub async fn predict(
        &self,
        application: &ApplicationView,
        inputs: Vec<Input>,
        terms: &Terms,
        arrived: Instant,
    ) -> Result<Vec<Prediction>, PinError> {
        let slo = application.latency_slo;
        let objective = terms.latency_slo.map_or(slo, |tightened| tightened.min(slo));
        let deadline = arrived + objective;
        let version = match route(application, terms.version.as_ref())? {
            Ok(version) => version,
            Err(failure) => return Ok(defaults(application, inputs.len(), &failure)),
        };
        // Inputs that belong together are computed together, whatever is known of some of them.
        let kept = application.cache && version.cache && !terms.keep_together;
        let answers = self.ask(version, inputs, kept, terms.keep_together, deadline);
        let mut predictions = Vec::with_capacity(answers.len());
        for answer in answers {
            predictions.push(match answer {
                Answer::Kept(output) => Prediction { output, origin: Origin::Cache },
                Answer::Later(verdict) => match timeout_at(deadline.into(), verdict).await {
                    Ok(Ok(Ok(output))) => Prediction { output, origin: Origin::Model },
                    Ok(Ok(Err(failure))) => default(application, failure),
                    // Whoever drops a query has seen its deadline pass, a moment before this timer does.
                    Ok(Err(_)) | Err(_) => default(application, too_slow(&version.queue, objective)),
                },
            });
        }
        Ok(predictions)
    }

    /// Answers from the cache, joins what is computed, and queues the rest.
    fn ask(
        &self,
        version: &VersionView,
        inputs: Vec<Input>,
        kept: bool,
        keep_together: bool,
        deadline: Instant,
    ) -> Vec<Answer> {
        let queue = &version.queue;
        let mut new = Vec::new();
        let bond = keep_together.then(Bond::default);
        let ask = |input| {
            let wait = || {
                let (reply, outcome) = self.mailbox.reply();
                (Waiter { deadline, reply }, Answer::Later(outcome))
            };
            if !kept {
                let (waiter, answer) = wait();
                new.push(Arc::new(Computation::new(input, None, waiter).bound_by(bond.clone())));
                return answer;
            }
            let key = self.cache.key(queue.number(), input);
            if let Some(output) = self.cache.get(&key) {
                queue.metrics().look_up(CacheLookup::Hit);
                return Answer::Kept(output);
            }
            let (waiter, answer) = wait();
            if let Claim::New(computation) = self.cache.claim(key, waiter, queue.metrics()) {
                new.push(computation);
            }
            answer
        };
        let answers = inputs.into_iter().map(ask).collect();
        let now = Instant::now();
        if keep_together && !new.is_empty() {
            queue.push([Entry::together(new, deadline, now)], now);
        } else if !new.is_empty() {
            queue.push(new.into_iter().map(|computation| Entry::new(computation, deadline, now)), now);
        }
        answers
    }
}

/// The default output for each of `count` inputs.
pub fn defaults(application: &ApplicationView, count: usize, failure: &Failure) -> Vec<Prediction> {
    (0..count).map(|_| default(application, failure.clone())).collect()
}

fn default(application: &ApplicationView, failure: Failure) -> Prediction {
    Prediction { output: application.default_output.clone(), origin: Origin::Failure(failure) }
}

fn too_slow(queue: &Queue, objective: Duration) -> Failure {
    let depth = queue.depth();
    let model = queue.model().clone();
    Failure::Deadline { model, objective, queued: depth.queries, replicas: depth.replicas }
}

/// The version that answers, or why none can.
fn route<'a>(
    application: &'a ApplicationView,
    pinned: Option<&ModelVersion>,
) -> Result<Result<&'a VersionView, Failure>, PinError> {
    let Some(model) = &application.model else {
        return match pinned {
            None => Ok(Err(Failure::NoLinkedModels)),
            Some(_) => Err(PinError::NoLinkedModel { application: application.name.to_string() }),
        };
    };
    if let Some(version) = pinned {
        return match model.versions.get(version) {
            Some(version) => Ok(Ok(version)),
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
            Some(version) => Ok(Ok(version)),
            None => missing("takes inputs of another type"),
        },
    }
}
