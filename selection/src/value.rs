//! Outputs as JSON values, and when two of them are the same.
//!
//! Called wherever outputs are compared, averaged or logged. Invariant: an output has one value, that of the frontend's
//! answer to a client, so that what a client sends back as a label equals what it was shown.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use clipper_rpc::input::InputType;
use clipper_rpc::output::Output;
use serde_json::{Number, Value};

/// An output as the JSON value that it is, or that stands for it: text that is no JSON becomes a string, bytes become
/// base64, a number that JSON does not have becomes null.
pub fn output_json(output: &Output) -> Value {
    match output {
        Output::Text(text) => serde_json::from_str(text).unwrap_or_else(|_| Value::from(&**text)),
        Output::Bytes(bytes) => Value::from(BASE64_STANDARD.encode(bytes)),
        Output::Number(dtype, data) => element_json(*dtype, data),
        Output::Numbers(dtype, data) => {
            data.chunks_exact(dtype.element_size()).map(|element| element_json(*dtype, element)).collect()
        }
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
fn same_number(one: &Number, other: &Number) -> bool {
    one == other || ((one.is_f64() || other.is_f64()) && one.as_f64() == other.as_f64())
}

/// One little-endian number as JSON. A 32-bit float is the double of its shortest decimal form, which is what the
/// client was shown.
fn element_json(dtype: InputType, data: &[u8]) -> Value {
    match dtype {
        InputType::Ints => data.try_into().map_or(Value::Null, |data| Value::from(i32::from_le_bytes(data))),
        InputType::Floats => data.try_into().map_or(Value::Null, |data| {
            let number = f32::from_le_bytes(data);
            number.to_string().parse::<f64>().map_or(Value::Null, Value::from)
        }),
        InputType::Doubles => {
            data.try_into().map_or(Value::Null, |data| Value::from(f64::from_le_bytes(data)))
        }
        InputType::Bytes | InputType::Strings => Value::from(String::from_utf8_lossy(data)),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::json;

    use super::*;

    #[test]
    fn an_output_becomes_what_a_client_is_shown() {
        assert_eq!(output_json(&Output::text(r#"{"a": [1, 2.5]}"#)), json!({"a": [1, 2.5]}));
        assert_eq!(output_json(&Output::text("cat")), json!("cat"));
        assert_eq!(output_json(&Output::text("\"cat\"")), json!("cat"));
        assert_eq!(output_json(&Output::text("NaN")), json!("NaN"));
        assert_eq!(output_json(&Output::Bytes(Bytes::from_static(&[0, 255]))), json!("AP8="));
        let float = Bytes::copy_from_slice(&0.1f32.to_le_bytes());
        assert_eq!(output_json(&Output::Number(InputType::Floats, float)), json!(0.1));
        let doubles: Bytes = [1.0, f64::NAN].iter().flat_map(|v: &f64| v.to_le_bytes()).collect();
        assert_eq!(output_json(&Output::Numbers(InputType::Doubles, doubles)), json!([1.0, null]));
    }

    #[test]
    fn numbers_are_the_same_by_value_and_large_integers_are_told_apart() {
        assert!(same(&json!({"a": [1, "x"]}), &json!({"a": [1.0, "x"]})));
        assert!(!same(&json!(1), &json!("1")));
        assert!(!same(&json!(9_007_199_254_740_993_i64), &json!(9_007_199_254_740_992_i64)));
        assert!(!same(&json!({"a": 1}), &json!({"b": 1})));
    }
}
