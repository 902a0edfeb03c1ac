//! Why a query was answered as it was, for people: made when somebody asks, from what is kept of the decision.

use clipper_rpc::excerpt::excerpt;
use clipper_rpc::names::ModelName;
use clipper_rpc::output::Output;
use clipper_selection::combine::same_label;
use serde_json::{Value, json};

use super::decisions::Decided;
use crate::computation::failure::Failure;
use crate::output_json::OutputJson;

/// How a decision came about, besides what feedback needs to know.
#[derive(Debug, Default)]
pub struct Course {
    /// When the answer was given.
    pub ended: Ended,
    /// The models that were asked and contributed nothing, by their indices among the candidates.
    pub absences: Vec<(usize, Absence)>,
    /// What the models' outputs amounted to, where that was not answered.
    pub unused: Option<Output>,
    /// Why the default output was.
    pub failure: Option<Failure>,
}

/// When the answer was given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Ended {
    /// When no model that was asked could change it any more: all had answered or failed.
    #[default]
    Complete,
    /// When those that had not answered could not change it.
    Certain,
    /// At the deadline, without some.
    Deadline,
}

/// Why a model that was asked contributed nothing.
#[derive(Debug, Clone, PartialEq)]
pub enum Absence {
    /// It failed, or said that it would.
    Failed(Failure),
    /// It had not answered by the deadline.
    Late,
    /// It had not answered when the answer was certain without it.
    Unneeded,
}

impl Course {
    /// The memory that it takes besides itself, in bytes.
    pub fn size(&self) -> usize {
        let absences = self.absences.iter().map(|(_, absence)| match absence {
            Absence::Failed(failure) => failure.size(),
            Absence::Late | Absence::Unneeded => 0,
        });
        let unused = self.unused.as_ref().map_or(0, Output::size);
        size_of_val(self.absences.as_slice())
            + absences.sum::<usize>()
            + unused
            + self.failure.as_ref().map_or(0, Failure::size)
    }
}

/// The longest explanation, in bytes.
const LONGEST: usize = 1 << 20;
/// The most bytes of outputs that one explanation tells. As JSON they are several times as long.
const MOST_OUTPUT_BYTES: usize = 64 << 10;

/// A decision as the text of a JSON object, never longer than [`LONGEST`].
pub fn text(decided: &Decided) -> String {
    let text = explain(decided).to_string();
    if text.len() <= LONGEST {
        return text;
    }
    let found = text.len();
    let why = format!("the explanation would have {found} bytes, and at most {LONGEST} are told");
    let Decided { application, decision, .. } = decided;
    json!({"query_id": decision.query_id, "application": application, "why": why}).to_string()
}

/// A decision as JSON.
fn explain(decided: &Decided) -> Value {
    let Decided { application, decision, output, course, .. } = decided;
    let mut room = MOST_OUTPUT_BYTES;
    let answer = told(output, &mut room);
    let asked = match decision.asked.map(|model| &decision.candidates[model]) {
        Some(model) => json!(model),
        None => json!("all"),
    };
    let combined = match (&course.unused, &course.failure) {
        (Some(unused), _) => told(unused, &mut room),
        (None, None) => answer.clone(),
        (None, Some(_)) => Value::Null,
    };
    let models = 0..decision.candidates.len();
    let candidates: Vec<_> = models.map(|model| candidate(decided, model, &mut room)).collect();
    json!({
        "query_id": decision.query_id,
        "application": application,
        "time_micros": decision.time_micros,
        "uid": decision.uid,
        "context": decision.context,
        "asked": asked,
        "candidates": candidates,
        "combined": combined,
        "confidence": decision.confidence,
        "output": answer,
        "default": course.failure.is_some(),
        "default_reason": decision.default_reason,
        "latency_micros": decision.latency_micros,
        "shared_version": decision.shared_version,
        "own_version": decision.own_version,
        "why": why(decided),
    })
}

/// An output as JSON, or a sentence in its place if it is too large for the room that is left.
fn told(output: &Output, room: &mut usize) -> Value {
    let size = output.size();
    match room.checked_sub(size) {
        Some(left) => {
            *room = left;
            OutputJson::value(output)
        }
        None => json!(format!("an output of {size} bytes, which is too large for an explanation")),
    }
}

/// One of the models that could be asked.
fn candidate(decided: &Decided, model: usize, room: &mut usize) -> Value {
    let Decided { decision, outputs, course, .. } = decided;
    let output = decided.known(model);
    let was_asked = decision.asked.is_none_or(|asked| asked == model);
    let absence = course.absences.iter().find(|(absent, _)| *absent == model).map(|(_, absence)| absence);
    let output = output.map(|output| told(output, room));
    let mut candidate = json!({
        "model": decision.candidates[model],
        // What it is for a policy that asks one model.
        (if decision.asked.is_some() { "probability" } else { "weight" }): decision.propensities.get(model),
        "asked": was_asked,
        "in_time": outputs[model].is_some(),
        "output": output,
    });
    if let Some(absence) = absence {
        candidate["absence"] = match absence {
            Absence::Failed(failure) => json!(format!("{}: {}", failure.reason(), shortened(failure))),
            Absence::Late => json!("it had not answered by the deadline"),
            Absence::Unneeded if output.is_some() => {
                json!("it answered after the answer, which was certain without it")
            }
            Absence::Unneeded => json!("it had not answered when the answer was certain without it"),
        };
    }
    candidate
}

/// A failure in words, which may repeat a container's.
fn shortened(failure: &Failure) -> String {
    excerpt(&failure.to_string()).into_owned()
}

/// One sentence.
fn why(decided: &Decided) -> String {
    let Decided { output, course, .. } = decided;
    match &course.failure {
        None => reasons(decided, output),
        Some(failure @ Failure::LowConfidence { .. }) => {
            let reasons = course.unused.as_ref().map(|output| format!("{}; but ", reasons(decided, output)));
            format!("{}{failure}, so that the default output was given", reasons.unwrap_or_default())
        }
        Some(failure) => {
            format!("the default output was given, as no model answered: {}", shortened(failure))
        }
    }
}

/// Why the models' outputs amount to that one.
fn reasons(decided: &Decided, combined: &Output) -> String {
    let Decided { decision, outputs, course, .. } = decided;
    let weight = |model: usize| decision.propensities.get(model).copied().unwrap_or_default();
    if let Some(model) = decision.asked {
        let (name, probability) = (&decision.candidates[model], weight(model));
        return format!(
            "the policy chose model '{name}', with probability {probability:.4}, and this is its output"
        );
    }
    let answered = outputs.iter().filter(|output| output.is_some()).count();
    let of = decision.candidates.len();
    let until = match course.ended {
        Ended::Complete => "",
        Ended::Certain => ", which the others could not change",
        Ended::Deadline => " by the deadline",
    };
    let agrees = |model: &usize| outputs[*model].as_ref().is_some_and(|output| same_label(output, combined));
    let agreeing: Vec<_> = (0..of).filter(agrees).collect();
    if agreeing.is_empty() {
        return format!(
            "{answered} of {of} models answered{until}, and this is the mean of their outputs by their weights"
        );
    }
    let share: f64 = agreeing.iter().map(|&model| weight(model)).sum();
    let names: Vec<_> =
        agreeing.iter().map(|&model| ModelName::as_str(&decision.candidates[model])).collect();
    let names = names.join(", ");
    format!(
        "{answered} of {of} models answered{until}, and most weight is with this output: {share:.4} of all, by {names}"
    )
}

#[cfg(test)]
mod tests {
    use clipper_rpc::names::ModelId;

    use super::*;
    use crate::selection::decisions::tests::decided;

    fn late_and_unsure() -> Decided {
        let mut decided = decided(17);
        decided.course = Course {
            ended: Ended::Deadline,
            absences: vec![(1, Absence::Late)],
            unused: Some(Output::text("cat")),
            failure: Some(Failure::LowConfidence { confidence: 0.5, threshold: 0.6 }),
        };
        decided.output = Output::text("nothing");
        decided.decision.default_reason = Some("low_confidence".to_owned());
        decided
    }

    #[test]
    fn an_explanation_tells_of_each_candidate_what_it_said_and_why_it_did_not() {
        let told = explain(&late_and_unsure());
        assert_eq!(told["query_id"], 17);
        assert_eq!(told["asked"], "all");
        assert_eq!(
            told["candidates"][0],
            json!({"model": "a", "weight": 0.5, "asked": true, "in_time": true, "output": "cat"})
        );
        assert_eq!(
            told["candidates"][1],
            json!({"model": "b", "weight": 0.3, "asked": true, "in_time": false, "output": null,
                "absence": "it had not answered by the deadline"})
        );
        assert_eq!((&told["combined"], &told["output"]), (&json!("cat"), &json!("nothing")));
        assert_eq!((&told["default"], &told["default_reason"]), (&json!(true), &json!("low_confidence")));
    }

    #[test]
    fn an_explanation_is_short_however_large_the_outputs_are_and_however_much_containers_say() {
        let mut decided = late_and_unsure();
        decided.outputs = vec![Some(Output::text("[0]")), Some(Output::text("x".repeat(64 << 20))), None];
        decided.course.unused = decided.outputs[1].clone();
        let problem = "y".repeat(1 << 20).into();
        let model = ModelId { name: "m".parse().unwrap(), version: "1".parse().unwrap() };
        let failure = Failure::ContainerError { model, problem };
        decided.course.absences = vec![(2, Absence::Failed(failure))];
        let told: Value = serde_json::from_str(&text(&decided)).unwrap();
        let sentence = json!("an output of 67108864 bytes, which is too large for an explanation");
        assert_eq!((&told["combined"], &told["candidates"][1]["output"]), (&sentence, &sentence));
        assert_eq!(told["candidates"][0]["output"], json!([0]));
        assert!(text(&decided).len() < 4096, "{told}");

        decided.decision.candidates = (0..10_000).map(|n| format!("m{n:0>60}").parse().unwrap()).collect();
        decided.outputs = vec![None; 10_000];
        let told: Value = serde_json::from_str(&text(&decided)).unwrap();
        assert!(told["why"].as_str().unwrap().ends_with("bytes, and at most 1048576 are told"), "{told}");
        assert_eq!(told["query_id"], 17);
    }

    #[test]
    fn one_model_that_was_chosen_is_said_to_be() {
        let mut decided = decided(1);
        decided.decision.asked = Some(2);
        decided.outputs = vec![None, None, Some(Output::text("dog"))];
        decided.output = Output::text("dog");
        let told = explain(&decided);
        assert_eq!(told["asked"], "c");
        assert_eq!(told["candidates"][0]["asked"], false);
        assert_eq!(told["candidates"][2]["probability"], 0.2);
        let why = told["why"].as_str().unwrap();
        assert_eq!(why, "the policy chose model 'c', with probability 0.2000, and this is its output");
    }
    #[test]
    fn the_sentence_says_who_agreed_when_and_what_came_between() {
        let why = explain(&late_and_unsure())["why"].as_str().unwrap().to_owned();
        assert_eq!(
            why,
            "2 of 3 models answered by the deadline, and most weight is with this output: 0.5000 of all, by a; but the \
             confidence of 0.5 is below the application's threshold of 0.6, so that the default output was given"
        );
        let mut failed = decided(1);
        failed.outputs = vec![None; 3];
        failed.course.failure = Some(Failure::NoLinkedModels);
        let why = explain(&failed)["why"].as_str().unwrap().to_owned();
        assert_eq!(
            why,
            "the default output was given, as no model answered: no model is linked to this application"
        );
    }
}
