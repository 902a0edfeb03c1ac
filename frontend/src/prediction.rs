//! The path of a prediction: from an application's view and a query to an answer within the objective.
//!
//! Invariant: every query is answered exactly once, and at its deadline at the latest (to the millisecond of a timer): with a
//! model's output, or with the default output and why.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use clipper_rpc::input::Input;
use clipper_rpc::names::{ModelName, ModelVersion};
use clipper_rpc::output::Output;
use clipper_rpc::selection::Uid;
use smallvec::SmallVec;
use tokio::sync::oneshot;

use crate::alarms::Alarms;
use crate::cache::{Claim, PredictionCache};
use crate::computation::{Bond, Computation, Waiter};
use crate::departures::Departures;
use crate::failure::{Failure, Verdict};
use crate::metrics::CacheLookup;
use crate::query_ids::QueryIds;
use crate::queue::{Entry, Queue};
use crate::reply::{Delivery, Mailbox};
use crate::view::{ApplicationView, VersionView};

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

/// What a request asks for, besides its inputs.
#[derive(Debug, Default, PartialEq)]
pub struct Terms {
    /// The user whose selection state applies.
    pub uid: Option<Uid>,
    /// The features by which the policy may select.
    pub context: Option<Vec<f64>>,
    /// The version that must answer.
    pub version: Option<ModelVersion>,
    /// Tightens the application's objective.
    pub latency_slo: Option<Duration>,
    /// Whether the inputs are to be in one batch.
    pub keep_together: bool,
}

/// What a request asks for besides its inputs does not fit the application.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum TermsError {
    /// There is nothing of which it could be a version.
    #[error("'version' cannot be given: no model is linked to application '{application}'")]
    NoLinkedModel {
        /// The application.
        application: String,
    },
    /// It could be a version of several models.
    #[error(
        "'version' cannot be given: it pins a version of a single linked model, and {models} are linked to \
         application '{application}'"
    )]
    SeveralModels {
        /// The application.
        application: String,
        /// How many there are.
        models: usize,
    },
    /// The linked model has no such version.
    #[error("model '{model}' has no version '{version}'; it has: {known}")]
    NoSuchVersion {
        /// The linked model.
        model: String,
        /// The version that was asked for.
        version: ModelVersion,
        /// The first of the versions that there are.
        known: String,
    },
    /// The application's policy cannot do with the context.
    #[error("context: {0}")]
    Context(String),
    /// Every input may be asked of every model.
    #[error(
        "input_batch: {inputs} inputs for {models} models are {} queries; one request takes at most {most}",
        .inputs * .models
    )]
    TooMany {
        /// The inputs of the request.
        inputs: usize,
        /// The models among which the application selects.
        models: usize,
        /// The most queries that one request may be.
        most: usize,
    },
}

/// When a request came, and how long it may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timing {
    pub(crate) arrived: Instant,
    pub(crate) objective: Duration,
}

impl Timing {
    fn of(application: &ApplicationView, terms: &Terms, arrived: Instant) -> Self {
        let slo = application.latency_slo;
        Self { arrived, objective: terms.latency_slo.map_or(slo, |tightened| tightened.min(slo)) }
    }

    pub(crate) fn deadline(self) -> Instant {
        self.arrived + self.objective
    }
}

/// Queries of one request that are handled before other requests have their turn: well below a millisecond of work.
const TURN: u32 = 128;

/// Queries of one request that are queued together: a whole batch of a model, mostly, which one turn would cut up.
const MOST_AT_ONCE: usize = 4096;

/// Counts the queries that are handled in one turn of an HTTP worker.
#[derive(Default)]
pub(crate) struct Turns(u32);

impl Turns {
    /// Counts a query; whether others should have their turn before it.
    fn are_over(&mut self) -> bool {
        self.0 += 1;
        self.0.is_multiple_of(TURN)
    }

    /// Counts a query, and lets others have their turn if it is time.
    pub(crate) async fn next(&mut self) {
        if self.are_over() {
            tokio::task::yield_now().await;
        }
    }
}

/// Asks on behalf of the requests of one HTTP worker.
pub struct Predictor {
    /// What was answered before.
    pub cache: Arc<PredictionCache>,
    /// What ends its waiting.
    pub alarms: Rc<Alarms>,
    /// Where its queries leave for the queues.
    pub departures: Rc<Departures>,
    /// Where the worker's outcomes arrive.
    pub mailbox: Arc<Mailbox>,
    /// Where its queries' ids come from.
    pub query_ids: Arc<QueryIds>,
}

/// A query's answer, or where it will arrive.
pub(crate) enum Answer {
    Kept(Output),
    Later(Awaited),
}

/// An answer that is to come.
pub(crate) struct Awaited {
    pub(crate) verdict: oneshot::Receiver<Verdict>,
    /// Weak, as who waits for it does not keep it.
    computation: Weak<Computation>,
}

impl Awaited {
    /// Whether a container was given the query, and may have answered by now.
    pub(crate) fn is_begun(&self) -> bool {
        self.computation.upgrade().is_none_or(|computation| computation.attempts() > 0)
    }
}

impl Predictor {
    /// Answers inputs, in order. Time counts from when the request `arrived`.
    ///
    /// # Errors
    /// If `terms` pin a version that the linked model does not have, or do not fit the application's policy.
    pub async fn predict(
        &self,
        application: &ApplicationView,
        inputs: Vec<Input>,
        terms: &Terms,
        arrived: Instant,
    ) -> Result<Vec<Prediction>, TermsError> {
        let timing = Timing::of(application, terms, arrived);
        if let Some(selector) = &application.selector {
            // Boxed, or it would make the others' futures as large as its own.
            return Box::pin(self.select(application, selector, &inputs, terms, timing)).await;
        }
        let deadline = timing.deadline();
        let version = match route(application, terms.version.as_ref())? {
            Ok(version) => version,
            Err(failure) => {
                return Ok(Box::pin(self.defaults(application, inputs.len(), &failure)).await);
            }
        };
        let inputs = inputs.into_iter();
        let answers = self.ask(version, inputs, application.cache, terms.keep_together, deadline).await;
        let mut predictions = Vec::with_capacity(answers.len());
        let mut turns = Turns::default();
        for answer in answers {
            turns.next().await;
            predictions.push(match answer {
                Answer::Kept(output) => self.prediction(output, Origin::Cache),
                Answer::Later(awaited) => match self.alarms.by(deadline, awaited.verdict).await {
                    Some(Ok(Ok(output))) => self.prediction(output, Origin::Model),
                    Some(Ok(Err(failure))) => self.default(application, failure),
                    // Whoever drops a query has seen its deadline pass, a moment before this alarm does.
                    Some(Err(_)) | None => {
                        self.default(application, too_slow(&version.queue, timing.objective))
                    }
                },
            });
        }
        Ok(predictions)
    }

    /// Answers from the cache (if the application `may` use it), joins what is computed, and queues the rest. Other
    /// requests have their turn in between.
    pub(crate) async fn ask(
        &self,
        version: &VersionView,
        inputs: impl Iterator<Item = Input>,
        may: bool,
        keep_together: bool,
        deadline: Instant,
    ) -> SmallVec<[Answer; 1]> {
        let queue = &version.queue;
        // Inputs that belong together are computed together, whatever is known of some of them.
        let kept = may && version.cache && !keep_together;
        let bond = keep_together.then(Bond::default);
        let mut new = Vec::new();
        let mut answers = SmallVec::new();
        let mut turns = Turns::default();
        for input in inputs {
            if turns.are_over() {
                if !keep_together && new.len() >= MOST_AT_ONCE {
                    self.depart(queue, new.drain(..), deadline);
                }
                tokio::task::yield_now().await;
            }
            let (reply, verdict) = self.mailbox.reply();
            let waiter = Waiter { deadline, reply, shared: None };
            let computation = if kept {
                let key = self.cache.key(queue.number(), input);
                if let Some(output) = self.cache.get(&key) {
                    queue.metrics().look_up(CacheLookup::Hit);
                    answers.push(Answer::Kept(output));
                    continue;
                }
                match self.cache.claim(key, waiter, || queue.share(), queue.metrics()) {
                    Claim::Shared(computation) => Arc::downgrade(&computation),
                    Claim::New(computation) => {
                        let known = Arc::downgrade(&computation);
                        new.push(computation);
                        known
                    }
                    Claim::Full(waiter) => {
                        waiter.reply.send(Err(queue.full()), &mut Delivery::default());
                        Weak::new()
                    }
                }
            } else {
                let computation = Computation::new(input, None, waiter).bound_by(bond.clone());
                let computation = Arc::new(computation);
                let known = Arc::downgrade(&computation);
                new.push(computation);
                known
            };
            answers.push(Answer::Later(Awaited { verdict, computation }));
        }
        if keep_together && !new.is_empty() {
            let now = Instant::now();
            self.departures.add(queue, [Entry::together(new, deadline, now)], now);
        } else {
            self.depart(queue, new.drain(..), deadline);
        }
        answers
    }

    /// Queues computations, each by itself.
    fn depart(
        &self,
        queue: &Arc<Queue>,
        new: impl ExactSizeIterator<Item = Arc<Computation>>,
        deadline: Instant,
    ) {
        if new.len() > 0 {
            let now = Instant::now();
            self.departures.add(queue, new.map(|computation| Entry::new(computation, deadline, now)), now);
        }
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

/// Why a query has no answer at its deadline.
pub(crate) fn too_slow(queue: &Queue, objective: Duration) -> Failure {
    let depth = queue.depth();
    let model = queue.model().clone();
    Failure::Deadline { model, objective, queued: depth.queries, replicas: depth.replicas }
}

/// The version that answers, or why none can.
pub(crate) fn route<'a>(
    application: &'a ApplicationView,
    pinned: Option<&ModelVersion>,
) -> Result<Result<&'a VersionView, Failure>, TermsError> {
    let Some(model) = &application.model else {
        return match pinned {
            None => Ok(Err(Failure::NoLinkedModels)),
            Some(_) => Err(TermsError::NoLinkedModel { application: application.name.to_string() }),
        };
    };
    let Some(version) = pinned else { return Ok(model.current()) };
    if application.linked_models > 1 {
        let (application, models) = (application.name.to_string(), application.linked_models);
        return Err(TermsError::SeveralModels { application, models });
    }
    match model.versions.get(version) {
        Some(version) => Ok(Ok(version)),
        None => Err(TermsError::NoSuchVersion {
            model: model.name.to_string(),
            version: version.clone(),
            known: some_of(&model.versions),
        }),
    }
}

/// The first few versions in words, and how many more there are.
fn some_of(versions: &BTreeMap<ModelVersion, VersionView>) -> String {
    const SHOWN: usize = 10;
    let shown: Vec<_> = versions.keys().take(SHOWN).map(ModelVersion::as_str).collect();
    match versions.len() - shown.len() {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use clipper_rpc::input::InputType;
    use clipper_rpc::names::ModelId;

    use super::*;
    use crate::queue::Capacity;

    #[test]
    fn of_many_versions_the_first_few_are_named() {
        let id = ModelId { name: "m".parse().unwrap(), version: "1".parse().unwrap() };
        let queue = Arc::new(Queue::new(1, id, InputType::Ints, Capacity { queries: 1, bytes: 1 }));
        let version = VersionView { queue, cache: true };
        let versions = |count: usize| {
            (100..100 + count).map(|number| (number.to_string().parse().unwrap(), version.clone())).collect()
        };
        assert_eq!(some_of(&versions(2)), "100, 101");
        assert_eq!(some_of(&versions(500)), "100, 101, 102, 103, 104, 105, 106, 107, 108, 109 and 490 more");
    }
}
