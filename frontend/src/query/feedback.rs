//! The body of a feedback request: on a query, by its id, or on an input, by its label.
//!
//! Invariant: what parses says exactly one thing of exactly one of the two.

use std::fmt;

use clipper_rpc::input::{Input, InputType};
use clipper_rpc::selection::{Uid, Verdict};
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::asker::{Asker, Context};
use super::input::InputSeed;
use super::{QueryError, at, parse_map};

/// Every field of the body.
const FIELDS: &[&str] = &["query_id", "label", "reward", "uid", "input", "context"];

/// The first id that no query has: numbers above are not exact in every client.
const QUERY_IDS: u64 = 1 << 53;

/// The largest label, in bytes of JSON, and the deepest: some thousands may wait to be passed on to other frontends, in
/// messages that must themselves be within the bounds of what is read.
const LONGEST_LABEL: usize = 16 << 10;
const DEEPEST_LABEL: usize = 32;

/// Parsed feedback.
#[derive(Debug, PartialEq)]
pub enum Feedback {
    /// On an answer that was given.
    Answer {
        /// The query.
        query_id: u64,
        /// What is said of it.
        verdict: Verdict,
    },
    /// On an input, whether it was asked before or not.
    Input {
        /// The user.
        uid: Option<Uid>,
        /// The input.
        input: Input,
        /// Its features.
        context: Option<Vec<f64>>,
        /// What would be right.
        label: Value,
    },
}

impl Feedback {
    /// Reads a body for an application that takes `input_type`.
    ///
    /// # Errors
    /// If it is not the JSON that `docs/http.md` describes.
    pub fn parse(body: &[u8], input_type: InputType) -> Result<Self, QueryError> {
        let example = r#"{"query_id": 17, "label": 1} or {"uid": 7, "input": ..., "label": 1}"#;
        parse_map(body, example, FeedbackVisitor { input_type })
    }
}

struct FeedbackVisitor {
    input_type: InputType,
}

impl<'de> Visitor<'de> for FeedbackVisitor {
    type Value = Feedback;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with 'query_id' or 'input'")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Feedback, A::Error> {
        let (mut query_id, mut label, mut reward) = (None, None, None);
        let (mut uid, mut input, mut context) = (None, None, None);
        let mut seen = Vec::with_capacity(FIELDS.len());
        while let Some(Field(field)) = map.next_key()? {
            if seen.contains(&field) {
                return Err(de::Error::duplicate_field(field));
            }
            seen.push(field);
            match field {
                "query_id" => query_id = Some(at(field, map.next_value().and_then(id))?),
                "label" => label = Some(at(field, map.next_value::<&RawValue>().and_then(given))?),
                "reward" => reward = Some(at(field, map.next_value().and_then(unit))?),
                "uid" => {
                    let Asker(asker) = at(field, map.next_value())?;
                    uid = asker;
                }
                "input" => {
                    let seed = InputSeed { input_type: self.input_type };
                    input = Some(at(field, map.next_value_seed(seed))?);
                }
                "context" => {
                    let Context(features) = at(field, map.next_value())?;
                    context = Some(features);
                }
                other => unreachable!("'{other}' is none of the fields that deserialise"),
            }
        }
        let refuse = |sentence| Err(de::Error::custom(sentence));
        match (query_id, input) {
            (None, None) => refuse("'query_id' and 'input' are missing: what is the feedback about?"),
            (Some(_), Some(_)) => refuse("only one of 'query_id' and 'input' may be given"),
            (Some(query_id), None) => {
                if let Some(stray) = ["uid", "context"].iter().find(|field| seen.contains(field)) {
                    let cause =
                        format_args!("'{stray}' goes with 'input'; with 'query_id', the query's is known");
                    return Err(de::Error::custom(cause));
                }
                let verdict = match (label, reward) {
                    (Some(label), None) => Verdict::Label(label),
                    (None, Some(reward)) => Verdict::Reward(reward),
                    (None, None) => return refuse("'label' and 'reward' are missing; expected one of them"),
                    (Some(_), Some(_)) => return refuse("only one of 'label' and 'reward' may be given"),
                };
                Ok(Feedback::Answer { query_id, verdict })
            }
            (None, Some(input)) => match (label, reward) {
                (Some(label), None) => Ok(Feedback::Input { uid, input, context, label }),
                (_, Some(_)) => refuse("'reward' goes with 'query_id'; with 'input', 'label' is expected"),
                (None, None) => refuse("'label' is missing: what would be right for 'input'"),
            },
        }
    }
}

fn id<E: de::Error>(query_id: u64) -> Result<u64, E> {
    if query_id < QUERY_IDS {
        return Ok(query_id);
    }
    Err(E::custom(format_args!("{query_id} is out of range, expected the query_id of an answer")))
}

/// Reads a label. Its length is known before it is read: as a tree, a long list would take 16 times
/// its text.
fn given<E: de::Error>(label: &RawValue) -> Result<Value, E> {
    let length = label.get().len();
    if length > LONGEST_LABEL {
        let cause = format_args!("{length} bytes are too many, expected at most {LONGEST_LABEL}");
        return Err(E::custom(cause));
    }
    // What comes behind the cause is a place in the label, and not in the body.
    let without_place =
        |error: String| error.split(" at line ").next().map(str::to_owned).unwrap_or_default();
    let value =
        serde_json::from_str(label.get()).map_err(|error| E::custom(without_place(error.to_string())));
    let value: Value = value?;
    if value.is_null() {
        return Err(E::custom("null is no label; expected what would be right"));
    }
    if depth(&value) > DEEPEST_LABEL {
        return Err(E::custom(format_args!(
            "it is nested too deep, expected at most {DEEPEST_LABEL} levels"
        )));
    }
    Ok(value)
}

/// How many lists and objects are around the innermost value.
fn depth(value: &Value) -> usize {
    match value {
        Value::Array(values) => 1 + values.iter().map(depth).max().unwrap_or(0),
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

fn unit<E: de::Error>(reward: f64) -> Result<f64, E> {
    if (0.0..=1.0).contains(&reward) {
        return Ok(reward);
    }
    if !reward.is_finite() {
        let found = de::Unexpected::Float(reward);
        return Err(E::invalid_type(found, &"a number from 0 to 1"));
    }
    Err(E::custom(format_args!("{reward} is out of range, expected a number from 0 to 1")))
}

struct Field(&'static str);

impl<'de> de::Deserialize<'de> for Field {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        super::field(deserializer, FIELDS).map(Field)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(body: &str) -> Result<Feedback, String> {
        Feedback::parse(body.as_bytes(), InputType::Ints).map_err(|error| error.to_string())
    }

    #[test]
    fn a_label_that_could_not_be_passed_on_is_refused() {
        let parse = |label: String| {
            let body = format!(r#"{{"query_id": 1, "label": {label}}}"#);
            Feedback::parse(body.as_bytes(), InputType::Doubles).map_err(|error| error.to_string())
        };
        let nested = |levels| format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
        assert!(parse(nested(DEEPEST_LABEL)).is_ok());
        assert!(parse(nested(DEEPEST_LABEL + 1)).unwrap_err().contains("label: it is nested too deep"));
        let text = |bytes| format!("\"{}\"", "x".repeat(bytes - 2));
        assert!(parse(text(LONGEST_LABEL)).is_ok());
        assert!(parse(text(LONGEST_LABEL + 1)).unwrap_err().contains("label: 16385 bytes are too many"));
        assert!(
            parse(nested(1000)).unwrap_err().contains("label: recursion limit exceeded at line 1 column")
        );
        assert!(
            parse("1e999".to_owned()).unwrap_err().contains("label: number out of range at line 1 column")
        );
    }

    #[test]
    fn a_label_that_is_too_long_is_refused_before_it_is_read() {
        // Levels that no reader of values would go down, before the end that makes it too long.
        let deep = format!("{}{}", "[".repeat(LONGEST_LABEL), "]".repeat(LONGEST_LABEL));
        let error = parse(&format!(r#"{{"query_id": 1, "label": {deep}}}"#)).unwrap_err();
        assert!(error.contains("label: 32768 bytes are too many, expected at most 16384"), "{error}");
    }

    #[test]
    fn feedback_is_on_an_answer_or_on_an_input() {
        assert_eq!(
            parse(r#"{"query_id": 17, "reward": 1}"#).unwrap(),
            Feedback::Answer { query_id: 17, verdict: Verdict::Reward(1.0) }
        );
        assert_eq!(
            parse(r#"{"query_id": 17, "label": "cat"}"#).unwrap(),
            Feedback::Answer { query_id: 17, verdict: Verdict::Label(json!("cat")) }
        );
        let feedback = parse(r#"{"uid": 7, "input": [1], "label": 1.0, "context": [0.5]}"#).unwrap();
        let (uid, input) = (Uid::new("7"), Input::ints(&[1]));
        assert_eq!(feedback, Feedback::Input { uid, input, context: Some(vec![0.5]), label: json!(1.0) });
    }

    #[test]
    fn an_input_may_have_missing_values() {
        let body = "\u{feff}{\"input\": [null, NaN], \"label\": 1}";
        let feedback = Feedback::parse(body.as_bytes(), InputType::Floats).unwrap();
        let input = Input::floats(&[f32::NAN, f32::NAN]);
        assert_eq!(feedback, Feedback::Input { uid: None, input, context: None, label: json!(1) });
    }

    #[test]
    fn what_does_not_fit_is_refused_by_its_name_with_what_was_expected() {
        for (body, expected) in [
            ("{}", "'query_id' and 'input' are missing"),
            (r#"{"query_id": 1}"#, "'label' and 'reward' are missing"),
            (r#"{"query_id": 1, "label": 1, "reward": 1}"#, "only one of 'label' and 'reward'"),
            (r#"{"query_id": 1, "input": [1], "label": 1}"#, "only one of 'query_id' and 'input'"),
            (r#"{"query_id": 1, "uid": 1, "label": 1}"#, "'uid' goes with 'input'"),
            (r#"{"input": [1], "reward": 1}"#, "'reward' goes with 'query_id'"),
            (r#"{"input": [1]}"#, "'label' is missing"),
            (r#"{"input": [1.5], "label": 1}"#, "input: element 0: invalid type: floating point"),
            (
                r#"{"query_id": 1, "reward": 1.5}"#,
                "reward: 1.5 is out of range, expected a number from 0 to 1",
            ),
            (r#"{"query_id": -1, "reward": 1}"#, "query_id: invalid value: integer `-1`, expected u64"),
            (r#"{"query_id": 9007199254740992, "reward": 1}"#, "query_id: 9007199254740992 is out of range"),
            (r#"{"query_id": 1, "label": null}"#, "label: null is no label"),
            (
                r#"{"query_id": 1, "label": NaN}"#,
                "label: expected value at line 1 column 26: NaN is not a JSON",
            ),
            (r#"{"query_id": 1, "label": [-Infinity]}"#, "-Infinity is not a JSON number"),
            (r#"{"query_id": 1, "reward": NaN}"#, "reward: invalid type: NaN, expected a number from 0 to 1"),
            (r#"{"query_id": 1, "reward": null}"#, "reward: invalid type: null, expected f64"),
            (
                r#"{"input": [1], "label": 1, "context": [Infinity]}"#,
                "context: invalid type: Infinity, expected a finite number",
            ),
            (r#"{"query_id": 1, "lable": 1}"#, "unknown field `lable`, expected one of `query_id`, `label`,"),
            (r#"{"query_id": 1, "query_id": 1}"#, "duplicate field `query_id`"),
            ("", "the body is empty"),
        ] {
            let error = parse(body).unwrap_err();
            assert!(error.contains(expected), "{body}\n  said: {error}\n  not:  {expected}");
        }
    }
}
