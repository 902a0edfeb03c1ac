//! Outputs as JSON values, and when two of them are the same.
//!
//! Called wherever outputs are compared, averaged or logged. Invariant: an output has one value, that of the frontend's
//! answer to a client, so that what a client sends back as a label equals what it was shown.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use clipper_rpc::number::Number;
use clipper_rpc::output::Output;
use serde_json::Value;

/// The longest text that is read as JSON, in bytes: as a value it may take 16 times as much memory.
/// No label is as long.
const LONGEST_JSON: usize = 64 << 10;

/// An output as the JSON value that it is, or that stands for it: text that is no JSON, or is too
/// long to be read, becomes a string, bytes become base64, a number that JSON does not have becomes
/// null.
pub fn output_json(output: &Output) -> Value {
    match output {
        Output::Text(text) if text.len() > LONGEST_JSON => Value::from(&**text),
        Output::Text(text) => serde_json::from_str(text).unwrap_or_else(|_| Value::from(&**text)),
        Output::Bytes(bytes) => Value::from(BASE64_STANDARD.encode(bytes)),
        Output::Number(number) => number_json(*number),
        Output::Numbers(dtype, data) => Number::all(*dtype, data).map(number_json).collect(),
    }
}

/// The number that a value is, if it is a finite one.
pub(crate) fn number(value: &Value) -> Option<f64> {
    value.as_f64().filter(|number| number.is_finite())
}

/// Whether two values are the same, numbers by what they amount to.
pub(crate) fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => same_number(one, other),
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one.iter().all(|(key, value)| other.get(key).is_some_and(|other| same(value, other)))
        }
        _ => one == other,
    }
}

/// Integers are compared as such, since not every one of them is a double.
fn same_number(one: &serde_json::Number, other: &serde_json::Number) -> bool {
    one == other || ((one.is_f64() || other.is_f64()) && one.as_f64() == other.as_f64())
}

/// A 32-bit float is the double of its shortest decimal form, which is what the client was shown.
fn number_json(number: Number) -> Value {
    match number {
        Number::Int(number) => Value::from(number),
        Number::Float(number) => number.to_string().parse::<f64>().map_or(Value::Null, Value::from),
        Number::Double(number) => Value::from(number),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use clipper_rpc::input::InputType;
    use serde_json::json;

    use super::*;

    #[test]
    fn an_output_becomes_what_a_client_is_shown() {
        assert_eq!(output_json(&Output::text(r#"{"a": [1, 2.5]}"#)), json!({"a": [1, 2.5]}));
        assert_eq!(output_json(&Output::text("cat")), json!("cat"));
        assert_eq!(output_json(&Output::text("\"cat\"")), json!("cat"));
        assert_eq!(output_json(&Output::text("NaN")), json!("NaN"));
        assert_eq!(output_json(&Output::Bytes(Bytes::from_static(&[0, 255]))), json!("AP8="));
        assert_eq!(output_json(&Output::Number(Number::Float(0.1))), json!(0.1));
        let doubles: Bytes = [1.0, f64::NAN].iter().flat_map(|v: &f64| v.to_le_bytes()).collect();
        assert_eq!(output_json(&Output::Numbers(InputType::Doubles, doubles)), json!([1.0, null]));
    }

    #[test]
    fn a_text_that_is_too_long_to_be_read_is_a_string() {
        let list = |items: usize| Output::text(format!("[{}0]", "0,".repeat(items)));
        assert!(output_json(&list(32_000)).is_array());
        let long = output_json(&list(40_000));
        assert_eq!(long.as_str().map(str::len), Some(80_003));
    }

    #[test]
    fn numbers_are_the_same_by_value_and_large_integers_are_told_apart() {
        assert!(same(&json!({"a": [1, "x"]}), &json!({"a": [1.0, "x"]})));
        assert!(!same(&json!(1), &json!("1")));
        assert!(!same(&json!(9_007_199_254_740_993_i64), &json!(9_007_199_254_740_992_i64)));
        assert!(!same(&json!({"a": 1}), &json!({"b": 1})));
    }
}
