//! Outputs as JSON: in answers, in explanations and in what is logged of decisions.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use clipper_rpc::number::Number;
use clipper_rpc::output::Output;
use serde::ser::{Serialize, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;

/// An output as the JSON value that it is, or that stands for it.
pub(crate) struct OutputJson(pub(crate) Output);

/// How deep a value may be nested: a parser goes 127 levels deep, and there is something around it.
const DEEPEST: usize = 100;

impl OutputJson {
    /// As a value, to be told with others. JSON that is nested very deep is told as a text, for others must be able to read it.
    pub(crate) fn value(output: &Output) -> Value {
        let value = serde_json::to_value(Self(output.clone())).ok();
        match (value.filter(|value| depth(value) <= DEEPEST), output) {
            (Some(value), _) => value,
            (None, Output::Text(text)) => Value::String(text.to_string()),
            (None, _) => Value::Null,
        }
    }
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(values) => 1 + values.iter().map(depth).max().unwrap_or_default(),
        Value::Object(values) => 1 + values.values().map(depth).max().unwrap_or_default(),
        _ => 0,
    }
}

impl Serialize for OutputJson {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Output::Text(text) => match serde_json::from_str::<&RawValue>(text) {
                Ok(json) => json.serialize(serializer),
                Err(_) => serializer.serialize_str(text),
            },
            Output::Bytes(bytes) => serializer.serialize_str(&BASE64_STANDARD.encode(bytes)),
            Output::Number(number) => number.serialize(serializer),
            Output::Numbers(dtype, data) => serializer.collect_seq(Number::all(*dtype, data)),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use clipper_rpc::input::InputType;

    use super::*;

    fn json(output: Output) -> String {
        serde_json::to_string(&OutputJson(output)).unwrap()
    }

    #[test]
    fn json_is_nested_and_any_other_text_becomes_a_string() {
        assert_eq!(json(Output::text(r#"{"a": [1, 2.50]}"#)), r#"{"a": [1, 2.50]}"#);
        assert_eq!(json(Output::text("-1.0")), "-1.0");
        assert_eq!(json(Output::text("NaN")), r#""NaN""#);
        assert_eq!(json(Output::text("{broken")), r#""{broken""#);
        assert_eq!(json(Output::text("")), r#""""#);
        assert_eq!(json(Output::text("say \"hi\"\n")), r#""say \"hi\"\n""#);
        assert_eq!(json(Output::text("[".repeat(100_000))).len(), 100_002);
    }

    #[test]
    fn what_is_nested_too_deep_to_be_read_within_something_else_is_told_as_a_text() {
        let nested = |levels| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        let value = |levels| OutputJson::value(&Output::text(nested(levels)));
        assert!(value(DEEPEST).is_array());
        for levels in [DEEPEST + 1, 127, 128, 100_000] {
            assert_eq!(value(levels), Value::String(nested(levels)));
        }
    }

    #[test]
    fn numbers_become_json_numbers_and_what_is_none_becomes_null() {
        let doubles = |values: &[f64]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Bytes>();
        assert_eq!(json(Output::Number(Number::Double(0.1))), "0.1");
        assert_eq!(json(Output::Numbers(InputType::Doubles, doubles(&[1.0, f64::NAN]))), "[1.0,null]");
        assert_eq!(json(Output::Numbers(InputType::Ints, Bytes::new())), "[]");
    }

    #[test]
    fn bytes_become_base64() {
        assert_eq!(json(Output::Bytes(Bytes::from_static(&[0, 255]))), r#""AP8=""#);
    }
}
