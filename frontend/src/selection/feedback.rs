//! Feedback as a lesson: joined to the answer that it is about, with the loss of each model.
//!
//! Called by requests and, for feedback that came to another frontend, by the exchange. Invariant: of all feedback on one
//! query, one is learned from.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use clipper_rpc::output::Output;
use clipper_rpc::selection::{Loss, OutputKind, Uid, Verdict};
use clipper_selection::combine::same_label;
use clipper_selection::loss::loss;
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};

use super::Selector;
use super::decision_log::now_micros;
use super::decisions::Decided;
use super::lessons::{Subject, Taught};
use crate::metrics::FeedbackStatus;
use crate::output_json::OutputJson;

/// Why feedback is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FeedbackError {
    /// It says nothing of the models.
    #[error("{0}")]
    Verdict(String),
    /// Too much of it waits.
    #[error("too much feedback of this application waits to be learned from")]
    Full,
}

/// Judges an answer.
///
/// # Errors
/// If the verdict does not fit the application's models, or there is no room for it.
pub fn judge(
    selector: &Selector,
    decided: &Arc<Decided>,
    verdict: &Verdict,
) -> Result<FeedbackStatus, FeedbackError> {
    let label = match verdict {
        Verdict::Label(label) => Some(text(label)?),
        Verdict::Reward(_) => None,
    };
    let bytes = decided.size() + size(label.as_deref(), decided.outputs.len());
    // Before anything is compared: what has no room is told so at little cost.
    let reserved = selector.states.lessons().reserve(bytes).ok_or(FeedbackError::Full)?;
    let (losses, reward) = losses(selector, decided, verdict).map_err(FeedbackError::Verdict)?;
    if decided.judged.swap(true, Ordering::Relaxed) {
        return Ok(FeedbackStatus::Duplicate);
    }
    let status = status(&losses);
    let subject = Subject::Answer(Arc::clone(decided));
    reserved.put(Taught { subject, losses, label, reward, time_micros: now_micros() });
    Ok(status)
}

/// Judges what each candidate of the selector said of an input, in order.
///
/// # Errors
/// As those of [`judge`].
pub fn judge_input(
    selector: &Selector,
    uid: Option<Uid>,
    context: Option<Vec<f64>>,
    outputs: &[Option<Output>],
    label: &Value,
) -> Result<FeedbackStatus, FeedbackError> {
    let candidates = selector.learner.candidates().to_vec();
    let subject = Subject::Input { uid, context, candidates };
    let text = text(label)?;
    let bytes = subject.size() + size(Some(&text), outputs.len());
    let reserved = selector.states.lessons().reserve(bytes).ok_or(FeedbackError::Full)?;
    let losses = losses_by_label(selector.selection.loss, outputs.iter().map(Option::as_ref), label)
        .map_err(FeedbackError::Verdict)?;
    let known = || losses.iter().flatten();
    let reward = 1.0 - known().sum::<f64>() / known().count().max(1) as f64;
    let status = status(&losses);
    reserved.put(Taught { subject, losses, label: Some(text), reward, time_micros: now_micros() });
    Ok(status)
}

/// A label as it is kept.
fn text(label: &Value) -> Result<Box<RawValue>, FeedbackError> {
    to_raw_value(label).map_err(|error| FeedbackError::Verdict(format!("label: {error}")))
}

/// The memory that a lesson takes besides its subject, in bytes.
fn size(label: Option<&RawValue>, models: usize) -> usize {
    size_of::<Taught>() + models * size_of::<Option<f64>>() + label.map_or(0, |label| label.get().len())
}

fn status(losses: &[Option<f64>]) -> FeedbackStatus {
    if losses.iter().any(Option::is_some) { FeedbackStatus::Applied } else { FeedbackStatus::NothingLearned }
}

/// The loss of each candidate of a decision, where it is known, and the reward of the answer.
fn losses(
    selector: &Selector,
    decided: &Decided,
    verdict: &Verdict,
) -> Result<(Vec<Option<f64>>, f64), String> {
    match verdict {
        Verdict::Label(label) => {
            let known = (0..decided.outputs.len()).map(|model| decided.known(model));
            let losses = losses_by_label(selector.selection.loss, known, label)?;
            Ok((losses, 1.0 - loss(selector.selection.loss, &decided.output, label)?))
        }
        Verdict::Reward(reward) => {
            Ok((losses_by_reward(selector.selection.output_kind, decided, *reward)?, *reward))
        }
    }
}

fn losses_by_label<'a>(
    of: Loss,
    outputs: impl Iterator<Item = Option<&'a Output>>,
    label: &Value,
) -> Result<Vec<Option<f64>>, String> {
    // A label that does not fit the loss is wrong, whether any model answered or not.
    loss(of, &Output::text("0"), label)?;
    outputs.map(|output| output.map(|output| loss(of, output, label)).transpose()).collect()
}

/// A reward is the answer's: it says something of those models that gave it. If it is all there is to have, the answer was
/// right, and whoever gave another one was wrong.
fn losses_by_reward(kind: OutputKind, decided: &Decided, reward: f64) -> Result<Vec<Option<f64>>, String> {
    let outputs = &decided.outputs;
    if decided.decision.asked.is_none() && are_numbers(kind, outputs) {
        return Err("a reward says nothing of each of several models whose outputs are averaged; \
             expected 'label', what would have been right"
            .to_owned());
    }
    let loss = 1.0 - reward;
    let losses = (0..outputs.len()).map(|index| match (decided.decision.asked, decided.known(index)) {
        // The default output is no model's.
        _ if decided.decision.default_reason.is_some() => None,
        (Some(asked), Some(_)) => (asked == index).then_some(loss),
        (None, Some(output)) if same_label(output, &decided.output) => Some(loss),
        (None, Some(_)) => (loss == 0.0).then_some(1.0),
        (_, None) => None,
    });
    Ok(losses.collect())
}

/// Whether outputs were averaged, and did not vote.
fn are_numbers(kind: OutputKind, outputs: &[Option<Output>]) -> bool {
    match kind {
        OutputKind::Labels => false,
        OutputKind::Numbers => true,
        OutputKind::Detected => {
            let values: Vec<_> = outputs.iter().flatten().map(OutputJson::value).collect();
            values.iter().all(Value::is_number) && values.iter().any(Value::is_f64)
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::sync::SetOnce;

    use super::*;
    use crate::selection::decisions::tests::decided;

    /// What rewards say, for outputs of kinds.
    fn by_reward(
        kind: OutputKind,
        outputs: &[&str],
        asked: Option<usize>,
        reward: f64,
    ) -> Result<Vec<Option<f64>>, String> {
        let mut decided = decided(1);
        decided.outputs = outputs.iter().map(|text| Some(Output::text(*text))).collect();
        decided.output = Output::text(outputs[0]);
        decided.decision.asked = asked;
        losses_by_reward(kind, &decided, reward)
    }

    #[test]
    fn a_reward_is_of_the_models_that_gave_the_answer() {
        let losses = by_reward(OutputKind::Detected, &["cat", "dog", "\"cat\""], None, 0.75);
        assert_eq!(losses.unwrap(), [Some(0.25), None, Some(0.25)]);
        let losses = by_reward(OutputKind::Detected, &["1", "2"], Some(0), 0.75);
        assert_eq!(losses.unwrap(), [Some(0.25), None]);
    }

    #[test]
    fn whoever_disagreed_with_an_answer_of_full_reward_was_wrong() {
        let losses = by_reward(OutputKind::Detected, &["cat", "dog", "cat"], None, 1.0);
        assert_eq!(losses.unwrap(), [Some(0.0), Some(1.0), Some(0.0)]);
        let losses = by_reward(OutputKind::Detected, &["cat", "dog", "cat"], None, 0.0);
        assert_eq!(losses.unwrap(), [Some(1.0), None, Some(1.0)]);
    }

    #[test]
    fn a_reward_of_a_mean_is_refused_as_it_says_nothing_of_each_model() {
        for (kind, outputs) in [(OutputKind::Detected, ["1.5", "2"]), (OutputKind::Numbers, ["1", "2"])] {
            let error = by_reward(kind, &outputs, None, 0.75).unwrap_err();
            assert!(error.contains("expected 'label'"), "{error}");
        }
        assert!(by_reward(OutputKind::Labels, &["1.5", "2"], None, 0.75).is_ok());
        assert!(by_reward(OutputKind::Numbers, &["1", "2"], Some(1), 0.75).is_ok());
    }

    #[test]
    fn a_reward_of_the_default_output_is_of_no_model() {
        let mut decided = decided(1);
        decided.decision.default_reason = Some("low_confidence".to_owned());
        let losses = losses_by_reward(OutputKind::Labels, &decided, 1.0).unwrap();
        assert_eq!(losses, [None, None, None]);
        assert_eq!(status(&losses), FeedbackStatus::NothingLearned);
    }

    #[test]
    fn a_model_that_has_answered_since_is_judged_like_the_others() {
        let since = SetOnce::new_with(Some(vec![(1, Output::text("cat"))]));
        let decided = Decided { since, ..decided(1) };
        let known = (0..3).map(|model| decided.known(model));
        let losses = losses_by_label(Loss::ZeroOne, known, &json!("cat"));
        assert_eq!(losses.unwrap(), [Some(0.0), Some(0.0), Some(1.0)]);
        let losses = losses_by_reward(OutputKind::Labels, &decided, 0.75);
        assert_eq!(losses.unwrap(), [Some(0.25), Some(0.25), None]);
    }

    #[test]
    fn models_that_had_not_answered_have_no_loss() {
        let decided = decided(1);
        let known = decided.outputs.iter().map(Option::as_ref);
        let losses = losses_by_label(Loss::ZeroOne, known, &json!("cat"));
        assert_eq!(losses.unwrap(), [Some(0.0), None, Some(1.0)]);
        let error =
            losses_by_label(Loss::Absolute { scale: 1.0 }, [None].into_iter(), &json!("cat")).unwrap_err();
        assert!(error.contains("must be a number"), "{error}");
    }
}
