//! Outputs as JSON: in answers, in explanations and in what is logged of decisions.

use std::borrow::Cow;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use clipper_rpc::input::InputType;
use clipper_rpc::output::Output;
use serde::ser::{Serialize, SerializeSeq, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;

/// An output as the JSON value that it is, or that stands for it.
pub(crate) struct OutputJson(pub(crate) Output);

impl OutputJson {
    /// As a value.
    pub(crate) fn value(output: &Output) -> Value {
        serde_json::to_value(Self(output.clone())).unwrap_or_default()
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
            Output::Number(dtype, data) => Element { dtype: *dtype, data }.serialize(serializer),
            Output::Numbers(dtype, data) => {
                let elements = data.chunks_exact(dtype.element_size());
                let mut sequence = serializer.serialize_seq(Some(elements.len()))?;
                for data in elements {
                    sequence.serialize_element(&Element { dtype: *dtype, data })?;
                }
                sequence.end()
            }
        }
    }
}

/// One little-endian number. JSON has no NaN and no infinities: they become null.
struct Element<'a> {
    dtype: InputType,
    data: &'a [u8],
}

impl Serialize for Element<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        const WIDTH: &str = "elements are cut to their type's size";
        match self.dtype {
            InputType::Ints => {
                serializer.serialize_i32(i32::from_le_bytes(self.data.try_into().expect(WIDTH)))
            }
            InputType::Floats => {
                serializer.serialize_f32(f32::from_le_bytes(self.data.try_into().expect(WIDTH)))
            }
            InputType::Doubles => {
                serializer.serialize_f64(f64::from_le_bytes(self.data.try_into().expect(WIDTH)))
            }
            InputType::Bytes | InputType::Strings => {
                let text: Cow<'_, str> = String::from_utf8_lossy(self.data);
                serializer.serialize_str(&text)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

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
    fn numbers_become_json_numbers_and_what_is_none_becomes_null() {
        let doubles = |values: &[f64]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Bytes>();
        assert_eq!(json(Output::Number(InputType::Doubles, doubles(&[0.1]))), "0.1");
        assert_eq!(json(Output::Numbers(InputType::Doubles, doubles(&[1.0, f64::NAN]))), "[1.0,null]");
        assert_eq!(json(Output::Numbers(InputType::Ints, Bytes::new())), "[]");
    }

    #[test]
    fn bytes_become_base64() {
        assert_eq!(json(Output::Bytes(Bytes::from_static(&[0, 255]))), r#""AP8=""#);
    }
}
