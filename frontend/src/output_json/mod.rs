//! Outputs as JSON: in answers, in explanations and in what is logged of decisions.
//!
//! A long answer is written in pieces, so that neither its text is ever in memory as a whole nor an HTTP worker is kept
//! busy by it.

mod nested;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use clipper_rpc::number::Number;
use clipper_rpc::output::Output;
use serde::ser::{Serialize, Serializer};
use serde_json::Value;

use self::nested::nested;

/// An output as the JSON value that it is, or that stands for it.
pub(crate) struct OutputJson(pub(crate) Output);

impl OutputJson {
    /// As a value, to be told with others.
    pub(crate) fn value(output: &Output) -> Value {
        serde_json::to_value(Self(output.clone())).unwrap_or_default()
    }
}

impl Serialize for OutputJson {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Output::Text(text) => match nested(text) {
                Some(json) => json.serialize(serializer),
                None => serializer.serialize_str(text),
            },
            Output::Bytes(bytes) => serializer.serialize_str(&BASE64_STANDARD.encode(bytes)),
            Output::Number(number) => number.serialize(serializer),
            Output::Numbers(dtype, data) => serializer.collect_seq(Number::all(*dtype, data)),
        }
    }
}

/// The most bytes of an output that one piece is made of. A multiple of three, for base64, and of every element's size.
const PIECE_BYTES: usize = 24 << 10;

/// An output that is written as JSON piece by piece: the same text as that of [`OutputJson`].
pub(crate) struct OutputPieces {
    output: Output,
    /// Whether it is a text that is nested as JSON.
    is_json: bool,
    /// The bytes of the output that are written.
    written: usize,
    begun: bool,
}

/// Whether a text is nested in an answer as the JSON that it is.
pub(crate) fn is_json(text: &str) -> bool {
    nested(text).is_some()
}

impl OutputPieces {
    /// Nothing is written yet. `known` says whether a text is JSON, if that was found out before.
    pub(crate) fn new(output: Output, known: Option<bool>) -> Self {
        let is_json = match &output {
            Output::Text(text) => known.unwrap_or_else(|| is_json(text)),
            _ => false,
        };
        Self { output, is_json, written: 0, begun: false }
    }

    /// Appends the next piece; whether there are more.
    pub(crate) fn write(&mut self, json: &mut Vec<u8>) -> bool {
        let is_first = !std::mem::replace(&mut self.begun, true);
        let from = self.written;
        let to = |length: usize| length.min(from + PIECE_BYTES);
        let (length, closing): (usize, &[u8]) = match &self.output {
            Output::Text(text) if self.is_json => {
                // As `RawValue` has it: without the white space around it.
                let text = text.trim_ascii();
                self.written = to(text.len());
                json.extend_from_slice(&text.as_bytes()[from..self.written]);
                (text.len(), b"")
            }
            Output::Text(text) => {
                if is_first {
                    json.push(b'"');
                }
                self.written = text.floor_char_boundary(to(text.len()));
                let escaped = Value::from(&text[from..self.written]).to_string();
                json.extend_from_slice(&escaped.as_bytes()[1..escaped.len() - 1]);
                (text.len(), b"\"")
            }
            Output::Bytes(bytes) => {
                if is_first {
                    json.push(b'"');
                }
                self.written = to(bytes.len());
                json.extend_from_slice(BASE64_STANDARD.encode(&bytes[from..self.written]).as_bytes());
                (bytes.len(), b"\"")
            }
            Output::Number(number) => {
                append(json, number);
                (0, b"")
            }
            Output::Numbers(dtype, data) => {
                if is_first {
                    json.push(b'[');
                }
                self.written = to(data.len());
                for (index, number) in Number::all(*dtype, &data[from..self.written]).enumerate() {
                    if from > 0 || index > 0 {
                        json.push(b',');
                    }
                    append(json, &number);
                }
                (data.len(), b"]")
            }
        };
        let more = self.written < length;
        if !more {
            json.extend_from_slice(closing);
        }
        more
    }
}

fn append(json: &mut Vec<u8>, number: &Number) {
    serde_json::to_writer(json, number).expect("a number can be written to memory");
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
    fn json_that_clients_would_misread_is_told_as_a_text_everywhere() {
        let nested = |levels| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        for text in ["1e999", "[-1e400]", r#"{"a": 1e999}"#, r#""\ud800""#, &nested(101), &nested(100_000)] {
            let output = Output::text(text);
            assert_eq!(serde_json::from_str::<Value>(&json(output.clone())).unwrap(), Value::from(text));
            assert_eq!(OutputJson::value(&output), Value::from(text));
            let mut pieces = Vec::new();
            let mut writer = OutputPieces::new(output, None);
            while writer.write(&mut pieces) {}
            assert_eq!(serde_json::from_slice::<Value>(&pieces).unwrap(), Value::from(text));
        }
        assert!(OutputJson::value(&Output::text(nested(100))).is_array());
    }

    #[test]
    fn numbers_become_json_numbers_and_what_is_none_becomes_null() {
        let doubles = |values: &[f64]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Bytes>();
        assert_eq!(json(Output::Number(Number::Double(0.1))), "0.1");
        assert_eq!(json(Output::Numbers(InputType::Doubles, doubles(&[1.0, f64::NAN]))), "[1.0,null]");
        assert_eq!(json(Output::Numbers(InputType::Ints, Bytes::new())), "[]");
    }

    #[test]
    fn the_pieces_of_an_output_are_the_same_json() {
        let texts = ["", "cat", "-1.0", " [1, 2.50] \n", "NaN", "say \"hi\"\n", "\u{1}é"];
        let long = ["é\u{1}\"x".repeat(PIECE_BYTES), format!("[{}1]", "1, ".repeat(PIECE_BYTES))];
        let texts = texts.into_iter().map(str::to_owned).chain(long).map(Output::text);
        let data = |length: usize| (0..length).map(|index| index as u8 % 64).collect::<Bytes>();
        let lengths = [0, 8, PIECE_BYTES, PIECE_BYTES + 8, 3 * PIECE_BYTES - 8];
        let bytes = lengths.into_iter().flat_map(|length| {
            let numbers = [InputType::Ints, InputType::Floats, InputType::Doubles];
            let numbers = numbers.map(|dtype| Output::Numbers(dtype, data(length)));
            [Output::Bytes(data(length)), Output::Bytes(data(length + 1))].into_iter().chain(numbers)
        });
        for output in texts.chain(bytes).chain([Output::Number(Number::Double(0.1))]) {
            let (mut text, mut pieces) = (Vec::new(), OutputPieces::new(output.clone(), None));
            loop {
                let before = text.len();
                let more = pieces.write(&mut text);
                assert!(text.len() - before <= 25 * PIECE_BYTES / 4, "a piece is short");
                if !more {
                    break;
                }
            }
            assert!(String::from_utf8(text).unwrap() == json(output), "it differs");
        }
    }

    #[test]
    fn bytes_become_base64() {
        assert_eq!(json(Output::Bytes(Bytes::from_static(&[0, 255]))), r#""AP8=""#);
    }
}
