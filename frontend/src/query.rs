//! The body of a prediction request, parsed straight into the bytes that containers will get.
//!
//! No generic JSON value is built on the way: the application's input type chooses a visitor that writes each number where it
//! will travel. Invariant: what parses has exactly one of `input` and `input_batch`, of the application's type.

use std::fmt;
use std::time::Duration;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use clipper_rpc::input::{Input, InputType};
use clipper_rpc::names::ModelVersion;
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Every field of the body.
const FIELDS: &[&str] = &["input", "input_batch", "uid", "version", "context", "latency_slo_micros"];

/// A parsed request.
#[derive(Debug, PartialEq)]
pub struct Query {
    /// One input, or several that are answered together.
    pub inputs: Inputs,
    /// The version of the linked model that must answer.
    pub version: Option<ModelVersion>,
    /// Tightens the application's objective.
    pub latency_slo: Option<Duration>,
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
    /// Reads a body for an application that takes `input_type`.
    ///
    /// # Errors
    /// If it is not the JSON that `docs/http.md` describes.
    pub fn parse(body: &[u8], input_type: InputType) -> Result<Self, QueryError> {
        let example = example(input_type);
        if body.iter().all(u8::is_ascii_whitespace) {
            return Err(QueryError(format!("the body is empty; expected JSON such as {example}")));
        }
        let mut deserializer = serde_json::Deserializer::from_slice(body);
        let query = deserializer.deserialize_map(QueryVisitor { input_type });
        let query = query.and_then(|query| deserializer.end().map(|()| query));
        query.map_err(|error| {
            QueryError(format!("{}; expected JSON such as {example}", explain(body, &error)))
        })
    }
}

fn example(input_type: InputType) -> &'static str {
    match input_type {
        InputType::Bytes => r#"{"input": "aGVsbG8="}"#,
        InputType::Ints => r#"{"input": [1, 2]}"#,
        InputType::Floats | InputType::Doubles => r#"{"input": [1.1, 2.2]}"#,
        InputType::Strings => r#"{"input": "some text"}"#,
    }
}

/// Says of `NaN` and the infinities, which many encoders write, more than that a value was expected.
fn explain(body: &[u8], error: &serde_json::Error) -> String {
    let line = body.split(|&byte| byte == b'\n').nth(error.line().saturating_sub(1)).unwrap_or_default();
    let (before, rest) = line.split_at(error.column().saturating_sub(1).min(line.len()));
    let literal = match rest {
        [b'N', b'a', b'N', ..] => "NaN",
        [b'I', b'n', b'f', ..] if before.ends_with(b"-") => "-Infinity",
        [b'I', b'n', b'f', ..] => "Infinity",
        _ => return error.to_string(),
    };
    format!("{error}: {literal} is not a JSON number")
}

struct QueryVisitor {
    input_type: InputType,
}

impl<'de> Visitor<'de> for QueryVisitor {
    type Value = Query;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with 'input' or 'input_batch'")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Query, A::Error> {
        let mut inputs = None;
        let mut version = None;
        let mut latency_slo = None;
        while let Some(Field(field)) = map.next_key()? {
            match field {
                "input" | "input_batch" if inputs.is_some() => {
                    return Err(de::Error::custom(
                        "only one of 'input' and 'input_batch' may be given, and once",
                    ));
                }
                "input" => {
                    let seed = InputSeed { input_type: self.input_type };
                    inputs = Some(Inputs::One(at(field, map.next_value_seed(seed))?));
                }
                "input_batch" => {
                    let seed = BatchSeed { input_type: self.input_type };
                    inputs = Some(Inputs::Many(at(field, map.next_value_seed(seed))?));
                }
                "version" => version = at(field, map.next_value())?,
                "latency_slo_micros" => latency_slo = Some(at(field, map.next_value_seed(Micros))?),
                "uid" => drop(at(field, map.next_value::<Uid>())?),
                "context" => drop(at(field, map.next_value::<Vec<f64>>())?),
                other => unreachable!("'{other}' is none of the fields that deserialise"),
            }
        }
        let inputs = inputs.ok_or_else(|| de::Error::custom("'input' and 'input_batch' are missing"))?;
        Ok(Query { inputs, version, latency_slo })
    }
}

/// Puts the place in front of an error.
fn at<T, E: de::Error>(place: impl fmt::Display, result: Result<T, E>) -> Result<T, E> {
    result.map_err(|error| de::Error::custom(format_args!("{place}: {error}")))
}

struct Field(&'static str);

impl<'de> de::Deserialize<'de> for Field {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldVisitor;

        impl Visitor<'_> for FieldVisitor {
            type Value = Field;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a field name")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Field, E> {
                let known = FIELDS.iter().find(|&&field| field == text);
                known.map(|&field| Field(field)).ok_or_else(|| E::unknown_field(text, FIELDS))
            }
        }

        deserializer.deserialize_identifier(FieldVisitor)
    }
}

/// The user of a query: an integer or a text.
struct Uid;

impl<'de> de::Deserialize<'de> for Uid {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct UidVisitor;

        impl Visitor<'_> for UidVisitor {
            type Value = Uid;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an integer or a text")
            }

            fn visit_i64<E: de::Error>(self, _: i64) -> Result<Uid, E> {
                Ok(Uid)
            }

            fn visit_u64<E: de::Error>(self, _: u64) -> Result<Uid, E> {
                Ok(Uid)
            }

            fn visit_str<E: de::Error>(self, _: &str) -> Result<Uid, E> {
                Ok(Uid)
            }
        }

        deserializer.deserialize_any(UidVisitor)
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

struct BatchSeed {
    input_type: InputType,
}

impl<'de> DeserializeSeed<'de> for BatchSeed {
    type Value = Vec<Input>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<Input>, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for BatchSeed {
    type Value = Vec<Input>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of inputs")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Vec<Input>, A::Error> {
        let mut inputs = Vec::new();
        loop {
            let seed = InputSeed { input_type: self.input_type };
            match at(format_args!("input {}", inputs.len()), sequence.next_element_seed(seed))? {
                Some(input) => inputs.push(input),
                None => return Ok(inputs),
            }
        }
    }
}

/// Reads one input of the given type.
struct InputSeed {
    input_type: InputType,
}

impl<'de> DeserializeSeed<'de> for InputSeed {
    type Value = Input;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Input, D::Error> {
        if self.input_type.is_numeric() {
            deserializer.deserialize_seq(self)
        } else {
            deserializer.deserialize_str(self)
        }
    }
}

impl<'de> Visitor<'de> for InputSeed {
    type Value = Input;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.input_type {
            InputType::Bytes => "a base64 text (the application takes bytes)",
            InputType::Ints => "a list of integers (the application takes ints)",
            InputType::Floats => "a list of numbers (the application takes floats)",
            InputType::Doubles => "a list of numbers (the application takes doubles)",
            InputType::Strings => "a text (the application takes strings)",
        })
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Input, E> {
        match self.input_type {
            InputType::Strings => Ok(Input::string(text)),
            InputType::Bytes => {
                let bytes = BASE64.decode(text);
                bytes.map(Input::bytes).map_err(|error| E::custom(format_args!("not base64: {error}")))
            }
            _ => Err(E::invalid_type(de::Unexpected::Str(text), &self)),
        }
    }

    fn visit_string<E: de::Error>(self, text: String) -> Result<Input, E> {
        match self.input_type {
            InputType::Strings => Ok(Input::string(text)),
            _ => self.visit_str(&text),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, sequence: A) -> Result<Input, A::Error> {
        let data = match self.input_type {
            InputType::Ints => elements::<IntSeed, 4, A>(sequence)?,
            InputType::Floats => elements::<FloatSeed, 4, A>(sequence)?,
            InputType::Doubles => elements::<DoubleSeed, 8, A>(sequence)?,
            InputType::Bytes | InputType::Strings => {
                return Err(de::Error::invalid_type(de::Unexpected::Seq, &self));
            }
        };
        Ok(Input::from_little_endian(self.input_type, data.into()))
    }
}

/// Writes the elements of a list back to back.
fn elements<'de, S, const WIDTH: usize, A>(mut sequence: A) -> Result<Vec<u8>, A::Error>
where
    S: DeserializeSeed<'de, Value = [u8; WIDTH]> + Default,
    A: SeqAccess<'de>,
{
    let mut data = Vec::new();
    loop {
        match sequence.next_element_seed(S::default()) {
            Ok(Some(element)) => data.extend_from_slice(&element),
            Ok(None) => return Ok(data),
            Err(error) => return at(format_args!("element {}", data.len() / WIDTH), Err(error)),
        }
    }
}

/// Declares how one element of a numeric input is read, and into which bytes.
macro_rules! element {
    ($seed:ident, $width:literal, $expecting:literal, { $($method:ident($number:ident: $type:ty) => $bytes:expr),+ }) => {
        #[derive(Default)]
        struct $seed;

        impl<'de> DeserializeSeed<'de> for $seed {
            type Value = [u8; $width];

            fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
                deserializer.deserialize_any(self)
            }
        }

        impl Visitor<'_> for $seed {
            type Value = [u8; $width];

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str($expecting)
            }

            $(fn $method<E: de::Error>(self, $number: $type) -> Result<Self::Value, E> {
                $bytes
            })+
        }
    };
}

element!(IntSeed, 4, "a 32-bit integer, -2147483648 to 2147483647", {
    visit_i64(number: i64) => int(number),
    visit_u64(number: u64) => int(number)
});
element!(FloatSeed, 4, "a number", {
    visit_f64(number: f64) => float(number),
    visit_i64(number: i64) => float(number as f64),
    visit_u64(number: u64) => float(number as f64)
});
element!(DoubleSeed, 8, "a number", {
    visit_f64(number: f64) => Ok(number.to_le_bytes()),
    visit_i64(number: i64) => Ok((number as f64).to_le_bytes()),
    visit_u64(number: u64) => Ok((number as f64).to_le_bytes())
});

fn int<E: de::Error, T: TryInto<i32> + fmt::Display + Copy>(number: T) -> Result<[u8; 4], E> {
    match number.try_into() {
        Ok(number) => Ok(number.to_le_bytes()),
        Err(_) => Err(E::custom(format_args!("{number} is out of range, expected {}", Expected(&IntSeed)))),
    }
}

fn float<E: de::Error>(number: f64) -> Result<[u8; 4], E> {
    let narrowed = number as f32;
    if narrowed.is_finite() {
        return Ok(narrowed.to_le_bytes());
    }
    Err(E::custom(format_args!(
        "{number:e} is out of range, expected a 32-bit float, at most {:e}",
        f32::MAX
    )))
}

/// Displays what a visitor expects.
struct Expected<'a, V>(&'a V);

impl<'de, V: Visitor<'de>> fmt::Display for Expected<'_, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(body: &str, input_type: InputType) -> Result<Query, String> {
        Query::parse(body.as_bytes(), input_type).map_err(|error| error.to_string())
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
    fn an_empty_vector_is_an_input() {
        assert_eq!(one(r#"{"input": []}"#, InputType::Doubles), Input::doubles(&[]));
    }

    #[test]
    fn the_optional_fields_are_read() {
        let body = r#"{"uid": "anna", "version": 2, "latency_slo_micros": 500, "context": [1], "input_batch": [[1], [2]]}"#;
        let query = parse(body, InputType::Ints).unwrap();
        assert_eq!(query.version, Some("2".parse().unwrap()));
        assert_eq!(query.latency_slo, Some(Duration::from_micros(500)));
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
                InputType::Doubles,
                r#"{"input": [1, null]}"#,
                "input: element 1: invalid type: null, expected a number",
            ),
            (InputType::Doubles, r#"{"input": [1, NaN]}"#, "NaN is not a JSON number"),
            (InputType::Doubles, r#"{"input": [-Infinity]}"#, "-Infinity is not a JSON number"),
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
                r#"{"input": [1], "latency_slo_micros": 0}"#,
                "expected a positive number of microseconds",
            ),
        ];
        for (input_type, body, expected) in cases {
            let error = parse(body, input_type).unwrap_err();
            assert!(error.contains(expected), "{body}\n  said: {error}\n  not:  {expected}");
        }
    }

    proptest! {
        #[test]
        fn doubles_arrive_bit_for_bit(values in proptest::collection::vec(any::<f64>().prop_filter("finite", |v| v.is_finite()), 0..20)) {
            let body = serde_json::json!({ "input": values }).to_string();
            prop_assert_eq!(one(&body, InputType::Doubles), Input::doubles(&values));
        }

        #[test]
        fn any_bytes_end_in_a_query_or_a_sentence(body in proptest::collection::vec(any::<u8>(), 0..80)) {
            for input_type in InputType::ALL {
                let _ = Query::parse(&body, input_type);
            }
        }
    }
}
