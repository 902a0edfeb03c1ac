//! How the selection of an application is written in bodies and answers.
//!
//! A policy and a loss are objects that say by a field which one they are, or that name alone. Invariant: what is
//! answered can be given again.

use clipper_rpc::selection::{Loss, OutputKind, Policy, Selection};
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use utoipa::openapi::schema::{AdditionalProperties, OneOfBuilder};
use utoipa::openapi::{ObjectBuilder, RefOr, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use super::body::in_json;

/// A [`Policy`].
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub(super) struct PolicyBody(pub(super) Policy);

/// A [`Loss`].
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(transparent)]
pub(super) struct LossBody(pub(super) Loss);

/// An [`OutputKind`].
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(transparent)]
pub(super) struct OutputKindBody(pub(super) OutputKind);

impl<'de> Deserialize<'de> for PolicyBody {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let sentence = "the name of a policy, or an object such as {\"policy\": \"exp4\", \"eta\": 0.2}";
        one_of(deserializer, "selection_policy", "policy", sentence).map(Self)
    }
}

impl<'de> Deserialize<'de> for LossBody {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let sentence = "\"zero_one\", or an object such as {\"loss\": \"absolute\", \"scale\": 10}";
        one_of(deserializer, "loss", "loss", sentence).map(Self)
    }
}

impl<'de> Deserialize<'de> for OutputKindBody {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let kind = serde_json::from_value(Value::deserialize(deserializer)?);
        kind.map(Self)
            .map_err(|_| D::Error::custom("output_kind: expected \"detected\", \"labels\" or \"numbers\""))
    }
}

/// Reads an object whose `tag` says which of several it is, or that word alone. What is wrong is said in a sentence that
/// names the `field`: serde's path ends at an object that is read for its tag first.
fn one_of<'de, T, D>(deserializer: D, field: &str, tag: &str, expected: &str) -> Result<T, D::Error>
where
    T: DeserializeOwned,
    D: Deserializer<'de>,
{
    let object = match Value::deserialize(deserializer)? {
        Value::String(name) => Map::from_iter([(tag.to_owned(), name.into())]),
        Value::Object(object) => object,
        _ => return Err(D::Error::custom(format!("{field}: expected {expected}"))),
    };
    let given = object.clone();
    let read = serde_json::from_value(Value::Object(object));
    let read = read.map_err(|error: serde_json::Error| error.to_string()).and_then(|read| {
        // Of what has no parameters, serde takes any.
        let has_none = given.get(tag).is_some_and(|name| name == "default_output" || name == "zero_one");
        match given.keys().find(|key| *key != tag) {
            Some(unknown) if has_none => Err(format!("unknown field `{unknown}`, there are no parameters")),
            _ => Ok(read),
        }
    });
    read.map_err(|what| {
        let what = what.replacen("unknown field", "unknown parameter", 1).replacen(
            "missing field",
            "missing parameter",
            1,
        );
        let what = match what.rsplit_once(", expected ") {
            Some((found, expected)) => format!("{found}, expected {}", in_json(expected)),
            None => what,
        };
        D::Error::custom(format!("{field}: {what}"))
    })
}

/// How an application selects, as it is reported: with all parameters.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SelectionInfo {
    selection_policy: PolicyBody,
    confidence_threshold: Option<f64>,
    loss: LossBody,
    output_kind: OutputKindBody,
    log_decisions: bool,
    selection_seed: u64,
}

impl From<&Selection> for SelectionInfo {
    fn from(selection: &Selection) -> Self {
        Self {
            selection_policy: PolicyBody(selection.policy.clone()),
            confidence_threshold: selection.confidence_threshold,
            loss: LossBody(selection.loss),
            output_kind: OutputKindBody(selection.output_kind),
            log_decisions: selection.log_decisions,
            selection_seed: selection.seed,
        }
    }
}

/// A word, or an object with it under `tag` and with some of these numbers.
fn schema(tag: &str, words: &[&str], parameters: &[&str]) -> RefOr<Schema> {
    let word = || ObjectBuilder::new().schema_type(Type::String).enum_values(Some(words.to_vec()));
    let mut object = ObjectBuilder::new().property(tag, word()).required(tag);
    for parameter in parameters {
        object = object.property(*parameter, ObjectBuilder::new().schema_type(Type::Number));
    }
    let object = object.additional_properties(Some(AdditionalProperties::FreeForm(false)));
    OneOfBuilder::new().item(word()).item(object).into()
}

impl PartialSchema for PolicyBody {
    fn schema() -> RefOr<Schema> {
        let policies = [
            "default_output",
            "exp3",
            "exp3_ix",
            "epsilon_greedy",
            "ucb1",
            "thompson",
            "linucb",
            "exp4",
            "majority_vote",
            "mean",
        ];
        let parameters = [
            "eta",
            "floor",
            "epsilon",
            "decay",
            "exploration",
            "discount",
            "dimensions",
            "alpha",
            "ridge",
            "share",
        ];
        schema("policy", &policies, &parameters)
    }
}

impl ToSchema for PolicyBody {}

impl PartialSchema for LossBody {
    fn schema() -> RefOr<Schema> {
        schema("loss", &["zero_one", "absolute", "squared"], &["scale"])
    }
}

impl ToSchema for LossBody {}

impl PartialSchema for OutputKindBody {
    fn schema() -> RefOr<Schema> {
        let words = ["detected", "labels", "numbers"];
        ObjectBuilder::new().schema_type(Type::String).enum_values(Some(words)).into()
    }
}

impl ToSchema for OutputKindBody {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_its_name_or_an_object_and_is_answered_in_full() {
        let read = |text: &str| serde_json::from_str::<PolicyBody>(text);
        for text in ["\"exp4\"", "{\"policy\": \"exp4\"}", "{\"policy\": \"exp4\", \"share\": 0.001}"] {
            let answered = serde_json::to_value(read(text).unwrap()).unwrap();
            assert_eq!(answered, serde_json::json!({"policy": "exp4", "eta": 0.2, "share": 0.001}));
        }
        let loss: LossBody = serde_json::from_str("{\"loss\": \"squared\", \"scale\": 3}").unwrap();
        assert_eq!(loss.0, Loss::Squared { scale: 3.0 });
    }

    #[test]
    fn what_is_wrong_with_a_policy_or_a_loss_is_said_with_the_name_of_its_field() {
        let policy = |text: &str| serde_json::from_str::<PolicyBody>(text).unwrap_err().to_string();
        for (text, expected) in [
            (
                "\"exp5\"",
                "selection_policy: unknown variant `exp5`, expected one of `default_output`, `exp3`, ",
            ),
            ("{\"policy\": \"exp4\", \"etta\": 1}", "unknown parameter `etta`, expected `eta` or `share`"),
            ("\"linucb\"", "selection_policy: missing parameter `dimensions`"),
            ("{\"policy\": \"exp4\", \"eta\": \"x\"}", "invalid type: string \"x\", expected a number"),
            (
                "{\"policy\": \"default_output\", \"eta\": 1}",
                "unknown parameter `eta`, there are no parameters",
            ),
            ("{\"policy\": \"mean\", \"eta\": 1}", "selection_policy: unknown parameter `eta`, "),
            ("{\"eta\": 1}", "selection_policy: missing parameter `policy`"),
            ("3", "selection_policy: expected the name of a policy, or an object such as {\"policy\": "),
        ] {
            assert!(policy(text).contains(expected), "{}", policy(text));
        }
        let loss = |text: &str| serde_json::from_str::<LossBody>(text).unwrap_err().to_string();
        assert!(loss("\"absolute\"").contains("loss: missing parameter `scale`"), "{}", loss("\"absolute\""));
        let kind = serde_json::from_str::<OutputKindBody>("\"text\"").unwrap_err().to_string();
        assert!(kind.contains("output_kind: expected \"detected\", "), "{kind}");
    }
}
