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

use super::ballot::{Absence, Ballot, Ended};
use super::decisions::{Decided, LISTENING};
use super::explanation::Course;
use super::{Read, Selector, rounded};
use crate::failure::Failure;
use crate::prediction::{Origin, Prediction, Selected, Terms, Timing, too_slow};
use crate::view::{ApplicationView, VersionView};

/// The version of each candidate that answers, or why none does.
type Versions<'a> = SmallVec<[Result<&'a VersionView, Failure>; 8]>;

/// What all queries of a request have in common.
pub(super) struct Request<'a> {
    pub(super) application: &'a ApplicationView,
    pub(super) selector: &'a Selector,
    pub(super) terms: &'a Terms,
    pub(super) timing: Timing,
    pub(super) versions: Versions<'a>,
    pub(super) read: Read,
    /// Since 1970.
    pub(super) time: Duration,
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
        let decided = selector.record(self.decided(ballot, &output, confidence, course), &self.read);
        let models = ballot.outputs().map(|(model, _)| selector.models[model].name.clone()).collect();
        let selected = Some(Box::new(Selected { confidence, models }));
        (Prediction { query_id: ballot.query_id, output, origin, selected }, decided)
    }

    /// What is kept of a query.
    fn decided(&self, ballot: &Ballot, output: &Output, confidence: f64, course: Course) -> Decided {
        let Self { application, selector, terms, timing, read, .. } = self;
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let mut outputs = vec![None; selector.models.len()];
        ballot.outputs().for_each(|(model, output)| outputs[model] = Some(output.clone()));
        Decided {
            application: application.name.clone(),
            decision: Decision {
                query_id: ballot.query_id,
                time_micros: micros(self.time),
                uid: terms.uid.clone(),
                context: terms.context.clone(),
                candidates: selector.learner.candidates().to_vec(),
                propensities: ballot.choice.weights.to_vec(),
                asked: match ballot.choice.asked {
                    Asked::One(model) => Some(model),
                    Asked::All => None,
                },
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
