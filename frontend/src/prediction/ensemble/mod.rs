//! Predictions that several models may answer: choose, ask, combine, record.
//!
//! Invariant: each query is recorded once, as it was answered.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use clipper_rpc::input::Input;
use smallvec::{SmallVec, smallvec};

use super::answer::Prediction;
use super::ask::{Answer, ModelCaller, too_slow};
use super::ballot::{Ballot, Stragglers};
use super::conclude::{Request, Versions, away, has_time};
use super::error::OptionsError;
use super::route::route;
use super::timing::Timing;
use crate::application::ApplicationView;
use crate::computation::failure::Verdict;
use crate::query::PredictOptions;
use crate::query::ids::QueryIds;
use crate::selection::Selector;
use crate::selection::decisions::{Decided, Listening};
use crate::worker::Turns;

/// The most queries that one request may be: its inputs, each asked of every model.
const MOST_QUERIES: usize = 100_000;

/// Answers inputs, in order, each by the models that the policy chooses for it.
///
/// # Errors
/// If `options` do not fit the application's models or policy.
pub(super) async fn predict(
    models: &ModelCaller,
    query_ids: &QueryIds,
    application: &ApplicationView,
    selector: &Selector,
    inputs: &[Input],
    options: &PredictOptions,
    timing: Timing,
) -> Result<Vec<Prediction>, OptionsError> {
    let versions: Versions<'_> = match &options.version {
        None => selector.models.iter().map(|model| model.current()).collect(),
        // Of the one model that is linked.
        Some(pinned) => smallvec![route(application, Some(pinned))?],
    };
    let (asked, candidates) = (inputs.len(), selector.models.len());
    if asked.saturating_mul(candidates) > MOST_QUERIES {
        return Err(OptionsError::TooMany { inputs: asked, models: candidates, most: MOST_QUERIES });
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let request = Request {
        application,
        selector,
        options,
        timing,
        away: away(&versions),
        has_time: has_time(application, timing),
        versions,
        read: selector.read(options.uid.as_ref()),
        time: now.saturating_sub(timing.arrived.elapsed()),
    };
    let mut turns = Turns::default();
    let mut ballots: SmallVec<[Ballot; 1]> = SmallVec::with_capacity(inputs.len());
    for _ in inputs {
        turns.next().await;
        let (query_id, context) = (query_ids.next(), options.context.as_deref());
        let choice = selector.choose(query_id, &request.read, &request.away, context);
        ballots.push(Ballot::new(query_id, choice.map_err(OptionsError::Context)?));
    }
    ask_chosen(models, &request, inputs, &mut ballots).await;
    let mut predictions = Vec::with_capacity(ballots.len());
    let deadline = timing.deadline();
    for mut ballot in ballots {
        turns.next().await;
        let ended = ballot.close(&selector.selection, &models.timers, deadline).await;
        let place = (!ballot.stragglers.is_empty()).then(|| selector.decisions.listen());
        if let Some(None) = place {
            ballot.stragglers = Stragglers::default();
            application.metrics.feedback.miss_outputs();
        }
        let (prediction, decided) = request.conclude(&ballot, ended);
        predictions.push(prediction);
        if let Some(Some(place)) = place {
            listen(models, ballot.stragglers, &decided, place);
        }
    }
    Ok(predictions)
}

/// Adds what models answer after the answer to what was decided, unless that is forgotten by
/// then.
fn listen(models: &ModelCaller, stragglers: Stragglers, decided: &Arc<Decided>, place: Listening) {
    let (decided, deadline) = (Arc::downgrade(decided), decided.deadline);
    let timers = Rc::clone(&models.timers);
    actix_rt::spawn(async move {
        let outputs = stragglers.outputs(&timers, deadline).await;
        if let Some(decided) = decided.upgrade() {
            place.decisions().add(&decided, outputs);
        }
    });
}

/// Asks each model for the inputs for which it was chosen, together as far as they are to be kept so.
async fn ask_chosen(models: &ModelCaller, request: &Request<'_>, inputs: &[Input], ballots: &mut [Ballot]) {
    let (may, deadline) = (request.application.cache, request.timing.deadline());
    for (model, version) in request.versions.iter().enumerate() {
        let chosen = inputs.iter().zip(&*ballots).filter(|(_, ballot)| ballot.asks(model));
        let mut chosen = chosen.map(|(input, _)| input.clone()).peekable();
        if chosen.peek().is_none() {
            continue;
        }
        match version {
            Ok(version) => {
                // Gathered, as the ballots may not be borrowed while others have their turn.
                let chosen: SmallVec<[Input; 1]> = chosen.collect();
                let together = request.options.keep_together;
                let answers = models.ask(version, chosen.into_iter(), may, together, deadline).await;
                let asking = ballots.iter_mut().filter(|ballot| ballot.asks(model));
                asking.zip(answers).for_each(|(ballot, answer)| ballot.add(model, answer));
            }
            Err(failure) => {
                let asking = ballots.iter_mut().filter(|ballot| ballot.asks(model));
                asking.for_each(|ballot| ballot.fail(model, failure.clone()));
            }
        }
    }
}

/// Asks every candidate for its output, on behalf of feedback, which judges them: in the order of the candidates. Those
/// that have not answered by the deadline fail.
pub(super) async fn ask_all(
    models: &ModelCaller,
    application: &ApplicationView,
    selector: &Selector,
    input: &Input,
    deadline: Instant,
) -> Vec<Verdict> {
    let mut asked = Vec::with_capacity(selector.models.len());
    for version in selector.models.iter().map(|model| model.current()) {
        asked.push(match version {
            Err(failure) => Err(failure),
            Ok(version) => {
                let input = std::iter::once(input.clone());
                let mut answers = models.ask(version, input, application.cache, false, deadline).await;
                Ok((version, answers.pop().expect("one input has one answer")))
            }
        });
    }
    let mut verdicts = Vec::with_capacity(asked.len());
    for asked in asked {
        verdicts.push(match asked {
            Err(failure) => Err(failure),
            Ok((_, Answer::Kept(output))) => Ok(output),
            Ok((version, Answer::Later(awaited))) => {
                let verdict = models.timers.by(deadline, awaited.verdict).await;
                let late = || Err(too_slow(&version.queue, application.latency_slo));
                verdict.and_then(Result::ok).unwrap_or_else(late)
            }
        });
    }
    verdicts
}

#[cfg(test)]
mod tests;
