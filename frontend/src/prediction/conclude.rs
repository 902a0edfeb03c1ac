//! What all queries of a request have in common, and how each is concluded: what is answered, and what is kept of it.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use clipper_rpc::output::Output;
use clipper_selection::combine::Combined;
use clipper_selection::learner::Asked;
use clipper_selection::log::Decision;
use serde_json::Value;
use smallvec::SmallVec;
use tokio::sync::SetOnce;

use super::answer::{Origin, Prediction, Selected};
use super::ask::too_slow;
use super::ballot::Ballot;
use super::timing::Timing;
use crate::application::ApplicationView;
use crate::computation::failure::Failure;
use crate::query::PredictOptions;
use crate::queue::VersionView;
use crate::selection::decisions::{Decided, LISTENING};
use crate::selection::explanation::{Absence, Course, Ended};
use crate::selection::{Read, Selector, rounded};

/// The version of each candidate that answers, or why none does.
pub(super) type Versions<'a> = SmallVec<[Result<&'a VersionView, Failure>; 8]>;

/// If this part of the objective has passed before the models are asked, they are not to blame for a late answer.
const LEAD: u32 = 10;

/// What all queries of a request have in common.
pub(super) struct Request<'a> {
    pub(super) application: &'a ApplicationView,
    pub(super) selector: &'a Selector,
    pub(super) options: &'a PredictOptions,
    pub(super) timing: Timing,
    pub(super) versions: Versions<'a>,
    /// The candidates that have no replica, while others have.
    pub(super) away: SmallVec<[usize; 4]>,
    /// Whether the models have the time that the application gives them.
    pub(super) has_time: bool,
    pub(super) read: Read,
    /// Since 1970.
    pub(super) time: Duration,
}

/// The candidates that have no replica connected; none if no candidate has.
pub(super) fn away(versions: &Versions<'_>) -> SmallVec<[usize; 4]> {
    let is_here =
        |version: &Result<&VersionView, _>| version.as_ref().is_ok_and(|it| it.queue.is_connected());
    let away = versions.iter().enumerate().filter(|(_, version)| !is_here(version)).map(|(model, _)| model);
    let mut away: SmallVec<_> = away.collect();
    if away.len() == versions.len() {
        away.clear();
    }
    away
}

/// Whether models that are asked now have the time that the application gives them: neither has the client tightened the
/// objective, nor has it spent a large part of it on sending its request.
pub(super) fn has_time(application: &ApplicationView, timing: Timing) -> bool {
    timing.objective >= application.latency_slo && timing.arrived.elapsed() <= timing.objective / LEAD
}

impl Request<'_> {
    /// What is answered to a query, and what is recorded of it.
    pub(super) fn conclude(&self, ballot: &Ballot, ended: Ended) -> (Prediction, Arc<Decided>) {
        let Self { application, selector, .. } = self;
        for (model, contribution) in ballot.contributions() {
            if let Some(counts) = selector.counts.get(model) {
                counts.count(contribution);
            }
        }
        let combined = match ballot.choice.asked {
            Asked::All => ballot.combined(&selector.selection),
            Asked::One(model) => ballot.outputs().next().map(|(_, output)| Combined {
                output: output.clone(),
                confidence: selector.trust(&self.read, model),
            }),
        };
        let confidence = combined.as_ref().map_or(0.0, |combined| rounded(combined.confidence));
        let too_low = selector.selection.confidence_threshold.filter(|&threshold| confidence < threshold);
        let default =
            |failure, unused| (application.default_output.clone(), Origin::Failure(failure), unused);
        let (output, origin, unused) = match (combined, too_low) {
            (None, _) => default(self.why_none(ballot), None),
            (Some(combined), Some(threshold)) => {
                default(Failure::LowConfidence { confidence, threshold }, Some(combined.output))
            }
            (Some(combined), None) if ballot.is_all_kept() => (combined.output, Origin::Cache, None),
            (Some(combined), None) => (combined.output, Origin::Model, None),
        };
        let failure = match &origin {
            Origin::Failure(failure) => Some(failure.clone()),
            Origin::Model | Origin::Cache => None,
        };
        let course = Course { ended, absences: ballot.absences().collect(), unused, failure };
        let decided = self.decided(ballot, &output, confidence, course);
        if let (Some(model), Some(answered)) = (decided.decision.asked, decided.decision.answered) {
            selector.count(&self.read, model, answered);
        }
        let decided = selector.record(decided, &self.read);
        let models = ballot.outputs().map(|(model, _)| selector.models[model].name.clone()).collect();
        let selected = Some(Box::new(Selected { confidence, models }));
        (Prediction { query_id: ballot.query_id, output, origin, selected }, decided)
    }

    /// What is kept of a query.
    fn decided(&self, ballot: &Ballot, output: &Output, confidence: f64, course: Course) -> Decided {
        let Self { application, selector, options, timing, read, .. } = self;
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let mut outputs = vec![None; selector.models.len()];
        ballot.outputs().for_each(|(model, output)| outputs[model] = Some(output.clone()));
        let (asked, away, answered) = match ballot.choice.asked {
            Asked::One(model) => {
                (Some(model), self.away.to_vec(), ballot.answered().filter(|_| self.has_time))
            }
            Asked::All => (None, Vec::new(), None),
        };
        Decided {
            application: application.name.clone(),
            decision: Decision {
                query_id: ballot.query_id,
                time_micros: micros(self.time),
                uid: options.uid.clone(),
                context: options.context.clone(),
                candidates: selector.learner.candidates().to_vec(),
                propensities: ballot.choice.weights.to_vec(),
                asked,
                away,
                answered,
                outputs: Vec::new(),
                output: Value::Null,
                default_reason: course.failure.as_ref().map(|failure| failure.reason().to_owned()),
                confidence,
                latency_micros: micros(timing.arrived.elapsed()),
                shared_version: read.shared.version,
                own_version: read.own.as_ref().map(|own| own.version),
            },
            outputs,
            since: SetOnce::new_with(ballot.stragglers.is_empty().then(Vec::new)),
            deadline: timing.deadline().min(Instant::now() + LISTENING),
            output: output.clone(),
            course,
            judged: AtomicBool::new(false),
        }
    }

    /// The most telling reason why none of the models answered: that of the one with which the query came furthest.
    fn why_none(&self, ballot: &Ballot) -> Failure {
        let absences = ballot.absences().map(|(model, absence)| match (absence, &self.versions[model]) {
            (Absence::Failed(failure), _) => failure,
            (_, Err(failure)) => failure.clone(),
            (Absence::Late | Absence::Unneeded, Ok(version)) => {
                too_slow(&version.queue, self.timing.objective)
            }
        });
        let furthest = absences.reduce(|most, other| if reach(&other) > reach(&most) { other } else { most });
        // Somebody is asked.
        furthest.unwrap_or(Failure::NoLinkedModels)
    }
}

/// How far a query came.
fn reach(failure: &Failure) -> u8 {
    match failure {
        Failure::Deadline { .. } | Failure::TooLate { .. } => 6,
        Failure::ContainerError { .. } => 5,
        Failure::TooManyTogether { .. } => 4,
        Failure::QueueFull { .. } => 3,
        Failure::Draining { .. } => 2,
        Failure::NoConnectedReplicas { .. } => 1,
        Failure::NoVersion { .. }
        | Failure::NoLinkedModels
        | Failure::TooManyRequests { .. }
        | Failure::LowConfidence { .. } => 0,
    }
}
