//! The body of a prediction request, parsed straight into the bytes that containers will get.
//!
//! No generic JSON value is built on the way: the application's input type chooses a visitor that writes each number where it
//! will travel. Invariant: what parses has exactly one of `input` and `input_batch`, of the application's type.

mod asker;
pub mod feedback;
pub mod ids;
mod input;
mod json;
mod options;

use std::fmt;
use std::time::Duration;

use clipper_rpc::excerpt::excerpt;
use clipper_rpc::input::{Input, InputType};
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, Visitor};

use self::asker::{Asker, Context};
use self::input::{BatchSeed, InputSeed};
use self::json::{Json, JsonError};
pub use self::options::PredictOptions;

/// Every field of the body.
const FIELDS: &[&str] =
    &["input", "input_batch", "uid", "version", "context", "latency_slo_micros", "keep_together"];

/// Memory that one query takes besides its input, in bytes: in the request, in the queue, in the answer; an estimate.
const QUERY_BYTES: usize = 1024;

/// A parsed request.
#[derive(Debug, PartialEq)]
pub struct Query {
    /// One input, or several that are answered together.
    pub inputs: Inputs,
    /// What else the request asks for.
    pub options: PredictOptions,
}

/// The inputs of a request.
#[derive(Debug, PartialEq)]
pub enum Inputs {
    /// `input`
    One(Input),
    /// `input_batch`
    Many(Vec<Input>),
}

/// A body that does not fit. Displayed to the client: what was wrong, where, and what was expected.
#[derive(Debug, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct QueryError(String);

impl Query {
    /// Reads a body of at most `max_inputs` inputs for an application that takes `input_type`.
    ///
    /// # Errors
    /// If it is not the JSON that `docs/http.md` describes, or has more inputs.
    pub fn parse(body: &[u8], input_type: InputType, max_inputs: usize) -> Result<Self, QueryError> {
        parse_map(body, example(input_type), QueryVisitor { input_type, max_inputs })
    }

    /// Memory that the inputs take until they are answered, in bytes; an estimate.
    pub fn size(&self) -> usize {
        let size = |input: &Input| QUERY_BYTES + input.data().len();
        match &self.inputs {
            Inputs::One(input) => size(input),
            Inputs::Many(inputs) => inputs.iter().map(size).sum(),
        }
    }
}

/// Reads a body as an object, of which there is an example for those whose body is none.
fn parse_map<'de, V: Visitor<'de>>(
    body: &'de [u8],
    example: &str,
    visitor: V,
) -> Result<V::Value, QueryError> {
    let mut json = Json::new(body);
    if json.rest().iter().all(u8::is_ascii_whitespace) {
        return Err(QueryError(format!("the body is empty; expected JSON such as {example}")));
    }
    let parsed = json.deserialize_map(visitor).and_then(|parsed| json.end().map(|()| parsed));
    parsed.map_err(|error| {
        QueryError(format!("{}; expected JSON such as {example}", excerpt(&explain(&json, &error))))
    })
}

fn example(input_type: InputType) -> &'static str {
    match input_type {
        InputType::Bytes => r#"{"input": "aGVsbG8="}"#,
        InputType::Ints => r#"{"input": [1, 2]}"#,
        InputType::Floats | InputType::Doubles => r#"{"input": [1.1, 2.2]}"#,
        InputType::Strings => r#"{"input": "some text"}"#,
    }
}

/// Says where an error is. Of `NaN` and the infinities, which are taken as numbers of inputs only, it says more than that a value was
/// expected.
fn explain(json: &Json<'_>, error: &JsonError) -> String {
    let (before, rest) = (json.before(), json.rest());
    let line_begin = before.iter().rposition(|&byte| byte == b'\n').map_or(0, |newline| newline + 1);
    let line = 1 + before[..line_begin].iter().filter(|&&byte| byte == b'\n').count();
    let place = format!("{error} at line {line} column {}", before.len() - line_begin + 1);
    let literal = match rest {
        [b'N', b'a', b'N', ..] => "NaN",
        [b'I', b'n', b'f', ..] if before.ends_with(b"-") => "-Infinity",
        [b'I', b'n', b'f', ..] => "Infinity",
        _ => return place,
    };
    format!("{place}: {literal} is not a JSON number")
}

struct QueryVisitor {
    input_type: InputType,
    max_inputs: usize,
}

impl<'de> Visitor<'de> for QueryVisitor {
    type Value = Query;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with 'input' or 'input_batch'")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Query, A::Error> {
        let mut inputs = None;
        let mut options = PredictOptions::default();
        let mut seen = Vec::with_capacity(FIELDS.len());
        while let Some(Field(field)) = map.next_key()? {
            if seen.contains(&field) {
                return Err(de::Error::duplicate_field(field));
            }
            seen.push(field);
            match field {
                "input" | "input_batch" if inputs.is_some() => {
                    return Err(de::Error::custom("only one of 'input' and 'input_batch' may be given"));
                }
                "input" => {
                    let seed = InputSeed { input_type: self.input_type };
                    inputs = Some(Inputs::One(at(field, map.next_value_seed(seed))?));
                }
                "input_batch" => {
                    let seed = BatchSeed { input_type: self.input_type, max_inputs: self.max_inputs };
                    inputs = Some(Inputs::Many(at(field, map.next_value_seed(seed))?));
                }
                "version" => options.version = at(field, map.next_value())?,
                "keep_together" => options.keep_together = at(field, map.next_value())?,
                "latency_slo_micros" => options.latency_slo = Some(at(field, map.next_value_seed(Micros))?),
                "uid" => {
                    let Asker(uid) = at(field, map.next_value())?;
                    options.uid = uid;
                }
                "context" => {
                    let Context(context) = at(field, map.next_value())?;
                    options.context = Some(context);
                }
                other => unreachable!("'{other}' is none of the fields that deserialise"),
            }
        }
        let inputs = inputs.ok_or_else(|| de::Error::custom("'input' and 'input_batch' are missing"))?;
        if options.keep_together && matches!(inputs, Inputs::One(_)) {
            return Err(de::Error::custom("'keep_together' goes with 'input_batch' only"));
        }
        Ok(Query { inputs, options })
    }
}

/// Puts the place in front of an error.
fn at<T, E: de::Error>(place: impl fmt::Display, result: Result<T, E>) -> Result<T, E> {
    result.map_err(|error| de::Error::custom(format_args!("{place}: {error}")))
}

struct Field(&'static str);

impl<'de> de::Deserialize<'de> for Field {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        field(deserializer, FIELDS).map(Field)
    }
}

/// The name of one of those fields.
fn field<'de, D: Deserializer<'de>>(
    deserializer: D,
    fields: &'static [&'static str],
) -> Result<&'static str, D::Error> {
    deserializer.deserialize_identifier(FieldVisitor(fields))
}

struct FieldVisitor(&'static [&'static str]);

impl Visitor<'_> for FieldVisitor {
    type Value = &'static str;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<&'static str, E> {
        let known = self.0.iter().find(|&&field| field == text);
        known.copied().ok_or_else(|| E::unknown_field(text, self.0))
    }
}

struct Micros;

impl<'de> DeserializeSeed<'de> for Micros {
    type Value = Duration;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Duration, D::Error> {
        deserializer.deserialize_u64(self)
    }
}

impl Visitor<'_> for Micros {
    type Value = Duration;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a positive number of microseconds")
    }

    fn visit_u64<E: de::Error>(self, micros: u64) -> Result<Duration, E> {
        match micros {
            0 => Err(E::invalid_value(de::Unexpected::Unsigned(0), &self)),
            _ => Ok(Duration::from_micros(micros)),
        }
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE};
    use clipper_rpc::selection::Uid;
    use proptest::prelude::*;

    use super::*;

    fn parse(body: &str, input_type: InputType) -> Result<Query, String> {
        Query::parse(body.as_bytes(), input_type, 3).map_err(|error| error.to_string())
    }

    fn one(body: &str, input_type: InputType) -> Input {
        match parse(body, input_type).unwrap().inputs {
            Inputs::One(input) => input,
            Inputs::Many(_) => panic!("expected one input"),
        }
    }

    #[test]
    fn each_type_is_encoded_as_it_will_travel() {
        assert_eq!(
            one(r#"{"input": [1, 2.5, -3e2]}"#, InputType::Doubles),
            Input::doubles(&[1.0, 2.5, -300.0])
        );
        assert_eq!(one(r#"{"input": [1, 2.5]}"#, InputType::Floats), Input::floats(&[1.0, 2.5]));
        assert_eq!(one(r#"{"input": [-2147483648, 7]}"#, InputType::Ints), Input::ints(&[i32::MIN, 7]));
        assert_eq!(one(r#"{"input": "a\u00e9\n"}"#, InputType::Strings), Input::string("aé\n"));
        assert_eq!(one(r#"{"input": "AP8="}"#, InputType::Bytes), Input::bytes(vec![0, 255]));
        assert_eq!(one(r#"{"input": "AP8"}"#, InputType::Bytes), Input::bytes(vec![0, 255]));
    }

    #[test]
    fn missing_values_reach_the_model_and_are_the_same_key_however_they_are_written() {
        let (nan, infinity) = (f64::NAN, f64::INFINITY);
        let body = r#"{"input": [null, NaN,Infinity , -Infinity, -0.0, null]}"#;
        assert_eq!(
            one(body, InputType::Doubles),
            Input::doubles(&[nan, nan, infinity, -infinity, -0.0, nan])
        );
        let (nan, infinity) = (f32::NAN, f32::INFINITY);
        assert_eq!(one(body, InputType::Floats), Input::floats(&[nan, nan, infinity, -infinity, -0.0, nan]));
        let many = parse(r#"{"input_batch": [[null], [NaN]]}"#, InputType::Floats).unwrap().inputs;
        assert_eq!(many, Inputs::Many(vec![Input::floats(&[nan]); 2]));
    }

    #[test]
    fn a_byte_order_mark_is_skipped_at_the_beginning_and_nowhere_else() {
        assert_eq!(one("\u{feff}{\"input\": [1]}", InputType::Ints), Input::ints(&[1]));
        let refused = |body| parse(body, InputType::Ints).unwrap_err();
        assert!(refused("\u{feff}").contains("the body is empty"));
        assert!(refused("\u{feff}\u{feff}{\"input\": [1]}").contains("expected value at line 1 column 1"));
        assert!(refused(" \u{feff}{\"input\": [1]}").contains("expected value"));
        assert!(refused("\u{feff}{\"input\": [x]}").contains("at line 1 column 12;"));
    }

    #[test]
    fn base64_is_read_with_line_breaks_of_either_alphabet_padded_or_not() {
        let bytes: Vec<u8> = (0..=255).collect();
        let input = |text: &str| {
            let body = serde_json::json!({ "input": text }).to_string();
            parse(&body, InputType::Bytes).map(|query| query.inputs)
        };
        let standard = BASE64_STANDARD.encode(&bytes);
        let lines = |line_break: &str| {
            let lines = standard.as_bytes().chunks(76).map(|line| std::str::from_utf8(line).unwrap());
            lines.flat_map(|line| [line, line_break]).collect::<String>()
        };
        let url_safe = BASE64_URL_SAFE.encode(&bytes);
        let texts = [
            standard.trim_end_matches('=').to_owned(),
            lines("\n"),
            lines("\r\n"),
            lines(" \t"),
            url_safe.trim_end_matches('=').to_owned(),
            format!("\n{url_safe}\n"),
            standard.clone(),
        ];
        for text in texts {
            assert_eq!(input(&text), Ok(Inputs::One(Input::bytes(bytes.clone()))), "{text}");
        }
        assert_eq!(input(" \r\n"), Ok(Inputs::One(Input::bytes(Vec::new()))));
        for text in ["+/-_", "AP8\u{a0}=", "AP8=AP8=", "A", "A\nP8=\n=", "a,b"] {
            let error = input(text).unwrap_err();
            assert!(error.starts_with("input: not base64: "), "{text}: {error}");
        }
    }

    #[test]
    fn an_empty_vector_is_an_input() {
        assert_eq!(one(r#"{"input": []}"#, InputType::Doubles), Input::doubles(&[]));
    }

    #[test]
    fn the_optional_fields_are_read() {
        let body = r#"{"uid": "anna", "version": 2, "latency_slo_micros": 500, "context": [1], "input_batch": [[1], [2]]}"#;
        let query = parse(body, InputType::Ints).unwrap();
        assert_eq!(query.options.version, Some("2".parse().unwrap()));
        assert_eq!(query.options.latency_slo, Some(Duration::from_micros(500)));
        assert_eq!(query.options.uid, Uid::new("anna"));
        assert_eq!(query.options.context, Some(vec![1.0]));
        assert_eq!(query.inputs, Inputs::Many(vec![Input::ints(&[1]), Input::ints(&[2])]));
    }

    #[test]
    fn a_refusal_names_the_field_the_index_and_what_was_expected() {
        let cases = [
            (InputType::Doubles, "", "the body is empty"),
            (InputType::Doubles, "[1]", "expected an object with 'input' or 'input_batch'"),
            (InputType::Doubles, "{}", "'input' and 'input_batch' are missing"),
            (
                InputType::Doubles,
                r#"{"input": [1], "input_batch": []}"#,
                "only one of 'input' and 'input_batch'",
            ),
            (InputType::Doubles, r#"{"uid": 1, "uid": 2, "input": [1]}"#, "duplicate field `uid`"),
            (InputType::Doubles, r#"{"inptu": [1]}"#, "unknown field `inptu`, expected one of `input`"),
            (
                InputType::Doubles,
                r#"{"input": 5}"#,
                "input: invalid type: integer `5`, expected a list of numbers",
            ),
            (
                InputType::Doubles,
                r#"{"input": [1, "x"]}"#,
                "input: element 1: invalid type: string \"x\", expected a number",
            ),
            (
                InputType::Ints,
                r#"{"input": [1, null]}"#,
                "input: element 1: invalid type: null, expected a 32-bit integer",
            ),
            (
                InputType::Ints,
                r#"{"input_batch": [[1], [NaN]]}"#,
                "input_batch: input 1: element 0: invalid type: NaN, expected a 32-bit integer",
            ),
            (InputType::Ints, r#"{"input": [-Infinity]}"#, "element 0: invalid type: -Infinity, expected"),
            (InputType::Doubles, r#"{"input": NaN}"#, "input: invalid type: NaN, expected a list of numbers"),
            (InputType::Doubles, r#"{"input": null}"#, "input: invalid type: null, expected a list"),
            (InputType::Doubles, r#"{"input": [NaN0]}"#, "input: element 1: expected `,` or `]`"),
            (InputType::Doubles, r#"{"input": [nul]}"#, "input: element 0: expected ident"),
            (InputType::Doubles, r#"{"input": [Inf]}"#, "input: element 0: expected value"),
            (InputType::Doubles, r#"{"input": [-NaN]}"#, "input: element 0: invalid number"),
            (
                InputType::Doubles,
                r#"{"input": [1], "context": [1, NaN]}"#,
                "context: invalid type: NaN, expected a finite number",
            ),
            (
                InputType::Doubles,
                r#"{"input": [1], "context": [null]}"#,
                "context: invalid type: null, expected f64",
            ),
            (InputType::Doubles, r#"{"input": [1], "uid": NaN}"#, "uid: invalid type: NaN, expected"),
            (InputType::Doubles, r#"{"input": [1e400]}"#, "input: element 0: number out of range"),
            (InputType::Doubles, r#"{"input": [1]} x"#, "trailing characters"),
            (InputType::Doubles, r#"{"input": [1"#, "EOF while parsing a list"),
            (
                InputType::Floats,
                r#"{"input": [1e39]}"#,
                "input: element 0: 1e39 is out of range, expected a 32-bit float",
            ),
            (
                InputType::Ints,
                r#"{"input": [3000000000]}"#,
                "input: element 0: 3000000000 is out of range, expected a 32-bit integer",
            ),
            (
                InputType::Ints,
                r#"{"input": [1.5]}"#,
                "element 0: invalid type: floating point `1.5`, expected a 32-bit integer",
            ),
            (
                InputType::Ints,
                r#"{"input_batch": [[1], [2, true]]}"#,
                "input_batch: input 1: element 1: invalid type: boolean",
            ),
            (InputType::Strings, r#"{"input": ["a"]}"#, "input: invalid type: sequence, expected a text"),
            (InputType::Bytes, r#"{"input": "!!!"}"#, "input: not base64"),
            (
                InputType::Ints,
                r#"{"input": [1], "version": "a b"}"#,
                "version: 'a b' is not a valid model version",
            ),
            (
                InputType::Ints,
                r#"{"input": [1], "uid": 1.5}"#,
                "uid: invalid type: floating point `1.5`, expected an integer or a text",
            ),
            (
                InputType::Ints,
                r#"{"input": [1], "context": [0.5, "x"]}"#,
                "context: invalid type: string \"x\", expected f64",
            ),
            (
                InputType::Ints,
                r#"{"input": [1], "context": 0.5}"#,
                "context: invalid type: floating point `0.5`, expected a list of numbers",
            ),
            (
                InputType::Ints,
                r#"{"input": [1], "latency_slo_micros": 0}"#,
                "expected a positive number of microseconds",
            ),
        ];
        for (input_type, body, expected) in cases {
            let error = parse(body, input_type).unwrap_err();
            assert!(error.contains(expected), "{body}\n  said: {error}\n  not:  {expected}");
        }
    }

    #[test]
    fn more_inputs_than_one_request_may_have_are_refused_without_reading_the_rest() {
        assert!(parse(r#"{"input_batch": [[], [], []]}"#, InputType::Ints).is_ok());
        let error = parse(r#"{"input_batch": [[], [], [], no JSON at all"#, InputType::Ints).unwrap_err();
        let expected = "input_batch: one request takes at most 3 inputs (--max-inputs) at line 1 column 30";
        assert!(error.starts_with(expected), "{error}");
    }

    #[test]
    fn a_refusal_does_not_repeat_all_that_the_client_said() {
        let body = format!(r#"{{"input": ["{}"]}}"#, "x".repeat(100_000));
        let error = parse(&body, InputType::Doubles).unwrap_err();
        assert!(error.len() < 1000 && error.contains(" ... "), "{error}");
        assert!(error.contains("expected a number, or null for a missing one at line 1"), "{error}");
    }

    /// A number of an input, as a client writes it and as the model reads it.
    fn number() -> impl Strategy<Value = (String, f64)> {
        let literals = vec![
            ("null", f64::NAN),
            ("NaN", f64::NAN),
            ("Infinity", f64::INFINITY),
            ("-Infinity", f64::NEG_INFINITY),
        ];
        let literal = proptest::sample::select(literals)
            .prop_map(|(text, number): (&str, f64)| (text.to_owned(), number));
        let finite = any::<f64>().prop_filter("finite", |number| number.is_finite());
        prop_oneof![literal, finite.prop_map(|number| (format!("{number:e}"), number))]
    }

    proptest! {
        #[test]
        fn doubles_arrive_bit_for_bit(values in proptest::collection::vec(any::<f64>().prop_filter("finite", |v| v.is_finite()), 0..20)) {
            let body = serde_json::json!({ "input": values }).to_string();
            prop_assert_eq!(one(&body, InputType::Doubles), Input::doubles(&values));
        }

        #[test]
        fn numbers_that_are_missing_or_infinite_arrive_among_others(values in proptest::collection::vec(number(), 0..20)) {
            let (texts, numbers): (Vec<_>, Vec<_>) = values.into_iter().unzip();
            let body = format!("{{\"input\": [{}]}}", texts.join(", "));
            prop_assert_eq!(one(&body, InputType::Doubles), Input::doubles(&numbers));
        }

        #[test]
        fn any_bytes_end_in_a_query_or_a_sentence(body in proptest::collection::vec(any::<u8>(), 0..80)) {
            for input_type in InputType::ALL {
                let _ = Query::parse(&body, input_type, 3);
            }
        }
    }
}
