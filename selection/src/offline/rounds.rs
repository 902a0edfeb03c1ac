//! Rounds of full information: what every model answered, and what would have been right.
//!
//! Read from JSON lines, or taken from a log whose policy asks every model. Invariant: a round has one place for each of the
//! models, in order, whether or not it answered.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::io::BufRead;
use std::sync::Arc;

use clipper_rpc::names::ModelName;
use clipper_rpc::output::Output;
use clipper_rpc::selection::{Loss, Uid};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::log::Decision;
use crate::loss::loss;
use crate::offline::OfflineError;
use crate::offline::join::Judgement;
use crate::offline::lines::{Line, Lines, in_line};

/// One query of which everything is known.
#[derive(Debug, Clone, PartialEq)]
pub struct Round {
    /// The query, or the number of the line.
    pub number: u64,
    /// What each model answered.
    pub outputs: Vec<Option<Output>>,
    /// What that cost.
    pub losses: Vec<Option<f64>>,
    /// What would have been right.
    pub label: Value,
    /// The user.
    pub uid: Option<Uid>,
    /// The features.
    pub context: Option<Vec<f64>>,
}

/// A line, as far as its models are concerned; the outputs as they are written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written<'a> {
    #[serde(borrow)]
    outputs: BTreeMap<Cow<'a, str>, &'a RawValue>,
    #[serde(borrow)]
    label: &'a RawValue,
    uid: Option<WrittenUid>,
    context: Option<Vec<f64>>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected 'uid' to be a whole number or a text")]
enum WrittenUid {
    Number(u64),
    Text(String),
}

/// What a file holds: found by a first reading, so that a second one can go line by line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contents {
    /// Every model that any line names, by name.
    pub models: Vec<ModelName>,
    /// The number of rounds.
    pub rounds: u64,
}

impl Contents {
    /// Of a file of JSON lines `{"outputs": {"model": value, ...}, "label": value}`, with `uid` and `context` if need be.
    ///
    /// # Errors
    /// If a line is something else.
    pub fn of(reader: impl BufRead) -> Result<Self, OfflineError> {
        let mut lines = Lines::new(reader);
        let mut models = BTreeSet::<ModelName>::new();
        let mut rounds = 0;
        while let Some(line) = lines.read()? {
            let written = parse(&line)?;
            if written.outputs.is_empty() {
                return Err(problem(&line, &"'outputs' is empty; expected the output of at least one model"));
            }
            for name in written.outputs.keys() {
                if !models.contains(&**name) {
                    models.insert(name.parse().map_err(|error| problem(&line, &error))?);
                }
            }
            rounds += 1;
        }
        if rounds == 0 {
            return Err(OfflineError::Unfit(
                "is empty; expected JSON lines such as {\"outputs\": {\"model\": 1}, \"label\": 1}"
                    .to_owned(),
            ));
        }
        Ok(Self { models: models.into_iter().collect(), rounds })
    }
}

/// The rounds of a file.
pub struct WrittenRounds<R> {
    lines: Lines<R>,
    models: Vec<ModelName>,
    loss: Loss,
}

impl<R: BufRead> WrittenRounds<R> {
    /// Begins at the start of a file whose models are known.
    pub fn new(reader: R, models: &[ModelName], loss: Loss) -> Self {
        Self { lines: Lines::new(reader), models: models.to_vec(), loss }
    }

    fn read(&mut self) -> Result<Option<Round>, OfflineError> {
        let Some(line) = self.lines.read()? else { return Ok(None) };
        let written = parse(&line)?;
        let label: Value =
            serde_json::from_str(written.label.get()).map_err(|error| problem(&line, &error))?;
        // JSON null is no output.
        let output = |model: &ModelName| {
            let output = written.outputs.get(model.as_str()).map(|output| output.get());
            output.filter(|output| *output != "null").map(Output::text)
        };
        let outputs: Vec<Option<Output>> = self.models.iter().map(output).collect();
        let losses = outputs
            .iter()
            .map(|output| output.as_ref().map(|output| loss(self.loss, output, &label)).transpose())
            .collect::<Result<_, _>>()
            .map_err(|error| problem(&line, &error))?;
        let uid = match written.uid {
            Some(WrittenUid::Number(number)) => Uid::new(number.to_string()),
            Some(WrittenUid::Text(text)) => Uid::new(text),
            None => None,
        };
        Ok(Some(Round { number: line.number, outputs, losses, label, uid, context: written.context }))
    }
}

impl<R: BufRead> Iterator for WrittenRounds<R> {
    type Item = Result<Round, OfflineError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

fn parse<'a>(line: &Line<'a>) -> Result<Written<'a>, OfflineError> {
    serde_json::from_slice(line.bytes).map_err(|error| problem(line, &in_line(&error)))
}

fn problem(line: &Line<'_>, problem: &dyn std::fmt::Display) -> OfflineError {
    OfflineError::Line { line: line.number, problem: format!("{problem}") }
}

impl Round {
    /// A logged decision on which everything is known: each model was asked, and the label came. None if it is not.
    pub fn of_decision(decision: &Decision, judgement: &Judgement, models: &[ModelName]) -> Option<Self> {
        let label = judgement.label.clone()?;
        if decision.asked.is_some() || decision.outputs.len() != decision.candidates.len() {
            return None;
        }
        let at = |model: &ModelName| decision.candidates.iter().position(|candidate| candidate == model);
        let output = |model| {
            let of = [&decision.outputs, &judgement.outputs].into_iter();
            let mut of = of.filter_map(|outputs| outputs.get(at(model)?));
            let output = of.find(|output| !output.is_null())?;
            Some(Output::Text(Arc::from(output.to_string())))
        };
        Some(Self {
            number: decision.query_id,
            outputs: models.iter().map(output).collect(),
            losses: models.iter().map(|model| *judgement.losses.get(at(model)?)?).collect(),
            label,
            uid: decision.uid.clone(),
            context: decision.context.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn contents(text: &str) -> Result<Contents, String> {
        Contents::of(text.as_bytes()).map_err(|error| error.to_string())
    }

    fn rounds(text: &str, loss: Loss) -> Result<Vec<Round>, String> {
        let models = contents(text)?.models;
        WrittenRounds::new(text.as_bytes(), &models, loss)
            .collect::<Result<_, _>>()
            .map_err(|e| e.to_string())
    }

    #[test]
    fn a_round_has_a_place_for_every_model() {
        let text = "{\"outputs\": {\"b\": \"cat\"}, \"label\": \"cat\", \"uid\": 7}\n\n{\"outputs\": {\"a\": 1, \"b\": null}, \"label\": 1.0}";
        let rounds = rounds(text, Loss::ZeroOne).unwrap();
        assert_eq!(contents(text).unwrap().rounds, 2);
        assert_eq!(rounds[0].losses, [None, Some(0.0)]);
        assert_eq!(rounds[0].uid, Uid::new("7"));
        assert_eq!((rounds[1].number, &rounds[1].losses[..]), (3, &[Some(0.0), None][..]));
    }

    #[test]
    fn an_output_that_came_between_answer_and_feedback_is_as_good_as_any() {
        let decision = serde_json::from_value(json!({
            "query_id": 17, "time_micros": 1, "uid": null, "candidates": ["m", "n", "o"], "propensities": [0.75, 0.25, 0.0],
            "asked": null, "outputs": [1, null, null], "output": 1, "confidence": 0.75, "latency_micros": 5,
            "shared_version": 0
        }));
        let losses = vec![Some(1.0), Some(0.0), None];
        let outputs = vec![Value::Null, json!(2), Value::Null];
        let judgement = Judgement { time_micros: 2, label: Some(json!(2)), reward: 0.0, losses, outputs };
        let models = ["m", "n", "o"].map(|model| model.parse().unwrap());
        let round = Round::of_decision(&decision.unwrap(), &judgement, &models).unwrap();
        assert_eq!(round.outputs, [Some(Output::text("1")), Some(Output::text("2")), None]);
    }

    #[test]
    fn a_line_that_makes_no_sense_is_named() {
        let good = "{\"outputs\": {\"a\": 1}, \"label\": 1}\n";
        for (line, what) in [
            ("{\"outputs\": {\"a\": 1}}", "missing field `label`"),
            ("{\"outputs\": {}, \"label\": 1}", "'outputs' is empty"),
            ("{\"outputs\": {\"/\": 1}, \"label\": 1}", "'/' is not a valid"),
            ("{\"outputs\": {\"a\": 1}, \"label\": 1, \"contxt\": [1]}", "unknown field `contxt`"),
            ("{\"outputs\": {\"a\": 1}, \"label\": 1, \"uid\": [1]}", "expected 'uid'"),
            ("{\"outputs\": {\"a\": ", "EOF"),
        ] {
            let error = contents(&format!("{good}{line}\n")).unwrap_err();
            assert!(error.starts_with("line 2: ") && error.contains(what), "{error}");
        }
        assert!(contents("\n").unwrap_err().contains("is empty"));
        let error = rounds("{\"outputs\": {\"a\": 1}, \"label\": \"x\"}", Loss::Absolute { scale: 1.0 });
        assert!(error.unwrap_err().starts_with("line 1: "));
    }
}
