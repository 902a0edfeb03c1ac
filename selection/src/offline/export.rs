//! Logged decisions for other programs: one JSON object each, or Vowpal Wabbit's contextual-bandit text.
//!
//! The text is that of `vw --cb`: `action:cost:probability tag| features`, actions counted from 1
//! (<https://github.com/VowpalWabbit/vowpal_wabbit/wiki/Logged-Contextual-Bandit-Example>). Invariant: one line a decision.

use clipper_rpc::names::ModelName;
use clipper_rpc::selection::Uid;
use serde::Serialize;
use serde_json::Value;

use crate::log::Decision;
use crate::offline::join::Judgement;

/// A decision with what was said of it, as it is exported.
#[derive(Debug, Serialize)]
pub struct Joined<'a> {
    /// The decision.
    #[serde(flatten)]
    pub decision: &'a Decision,
    /// What was said of it.
    pub feedback: Option<Feedback<'a>>,
}

/// What was said of an answer.
#[derive(Debug, Serialize)]
pub struct Feedback<'a> {
    /// When: microseconds since 1970.
    pub time_micros: u64,
    /// The reward of the answer.
    pub reward: f64,
    /// What would have been right.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<&'a Value>,
    /// The loss of each candidate, where it is known.
    pub losses: &'a [Option<f64>],
    /// What candidates answered after the query was: nothing, or null for those that did not.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub outputs: &'a [Value],
}

impl<'a> Joined<'a> {
    /// Of a decision, and of what was said of it, if anything.
    pub fn new(decision: &'a Decision, judgement: Option<&'a Judgement>) -> Self {
        let feedback = judgement.map(|judgement| Feedback {
            time_micros: judgement.time_micros,
            reward: judgement.reward,
            label: judgement.label.as_ref(),
            losses: &judgement.losses,
            outputs: &judgement.outputs,
        });
        Self { decision, feedback }
    }
}

/// The actions of Vowpal Wabbit: models, numbered from 1 in the order in which decisions have them.
#[derive(Debug, Default)]
pub struct Actions {
    models: Vec<ModelName>,
}

impl Actions {
    /// The model of each action.
    pub fn models(&self) -> &[ModelName] {
        &self.models
    }

    /// The line of a decision: with the cost (1 - reward) and the probability of the one action that was taken. None where
    /// all models were asked, or nothing was said of the answer.
    pub fn line(&mut self, decision: &Decision, judgement: &Judgement) -> Option<String> {
        for model in &decision.candidates {
            if !self.models.contains(model) {
                self.models.push(model.clone());
            }
        }
        let asked = decision.asked?;
        let model = decision.candidates.get(asked)?;
        let action = self.models.iter().position(|known| known == model)? + 1;
        let probability = decision.propensities.get(asked)?;
        let cost = 1.0 - judgement.reward;
        let mut line = format!("{action}:{cost}:{probability} '{}|context", decision.query_id);
        for (index, feature) in decision.context.iter().flatten().enumerate() {
            line.push_str(&format!(" x{index}:{feature}"));
        }
        if let Some(uid) = &decision.uid {
            line.push_str(&format!(" |user {}", word(uid)));
        }
        Some(line)
    }
}

/// A user's name without what separates words: those of other names become `%` and their code.
fn word(uid: &Uid) -> String {
    let mut word = String::from("uid=");
    for byte in uid.as_str().bytes() {
        if byte.is_ascii_graphic() && !b"|:%".contains(&byte) {
            word.push(char::from(byte));
        } else {
            word.push_str(&format!("%{byte:02X}"));
        }
    }
    word
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn decision(asked: Option<usize>) -> Decision {
        serde_json::from_value(json!({
            "query_id": 17, "time_micros": 1, "uid": "a b|é", "context": [0.5, -1e-7], "candidates": ["m", "n"],
            "propensities": [0.75, 0.25], "asked": asked, "outputs": [null, 1], "output": 1, "confidence": 1.0,
            "latency_micros": 5, "shared_version": 0
        }))
        .unwrap()
    }

    fn judgement() -> Judgement {
        let losses = vec![None, Some(0.25)];
        Judgement { time_micros: 2, label: Some(json!(1)), reward: 0.75, losses, outputs: Vec::new() }
    }

    /// Read back by `vowpalwabbit` 9.11: action 2 with its cost and probability, the tag `17`, and three features.
    #[test]
    fn a_decision_is_one_line_of_vowpal_wabbit() {
        let mut actions = Actions::default();
        let line = actions.line(&decision(Some(1)), &judgement()).unwrap();
        assert_eq!(line, "2:0.25:0.25 '17|context x0:0.5 x1:-0.0000001 |user uid=a%20b%7C%C3%A9");
        assert_eq!(actions.models().len(), 2);
        assert_eq!(actions.line(&decision(None), &judgement()), None, "all were asked");
    }

    #[test]
    fn a_decision_is_one_object_with_its_feedback() {
        let (decision, judgement) = (decision(Some(1)), judgement());
        let json = |judgement| serde_json::to_value(Joined::new(&decision, judgement)).unwrap();
        let joined = json(Some(&judgement));
        assert_eq!((&joined["asked"], &joined["feedback"]["reward"]), (&json!(1), &json!(0.75)));
        assert_eq!(json(None)["feedback"], Value::Null);
    }
}
