//! The JSON of a body: objects and lists are walked here, plain numbers read by `fast-float2`, all else by `serde_json`.
//!
//! Reading numbers is more than half of what a server does for a request with 784 doubles, and `serde_json` alone takes a quarter
//! longer for it. It calls itself as deep as the type that is read is nested, whatever the text is. Invariant: what is read, and what is
//! said of what is not, is what `serde_json` reads and says; only the column may be another. There are two exceptions: `NaN`,
//! `Infinity` and `-Infinity`, which Python's `json` writes, are floating-point numbers, and a byte order mark is skipped.

use std::fmt;

use clipper_rpc::excerpt::excerpt;
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Unexpected, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::de::SliceRead;

/// Integers of so many digits fit, whatever the digits are.
const SAFE_DIGITS: usize = 18;

/// Reads a text from its beginning to its end.
pub(super) struct Json<'de> {
    text: &'de [u8],
    /// What comes next; after an error, what is wrong.
    at: usize,
}

/// A text that is not JSON, or not what was expected. Where is known to the reader.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct JsonError(Box<str>);

impl de::Error for JsonError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        // It may repeat much of the body, and is wrapped several times.
        Self(excerpt(&message.to_string()).into())
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        let found = match found {
            Unexpected::Float(number) if !number.is_finite() => Unexpected::Other(literal(number)),
            found => found,
        };
        Self::custom(serde_json::Error::invalid_type(found, expected))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::custom(serde_json::Error::invalid_value(found, expected))
    }
}

/// The literal of a number that is not finite.
fn literal(number: f64) -> &'static str {
    match number {
        f64::INFINITY => "Infinity",
        f64::NEG_INFINITY => "-Infinity",
        _ => "NaN",
    }
}

/// The UTF-8 form of the byte order mark, with which some editors and libraries begin every text.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

impl<'de> Json<'de> {
    /// A reader of `text`, with or without a byte order mark.
    pub(super) fn new(text: &'de [u8]) -> Self {
        Self { text: text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text), at: 0 }
    }

    /// What has not been read.
    pub(super) fn rest(&self) -> &'de [u8] {
        &self.text[self.at..]
    }

    /// What has been read.
    pub(super) fn before(&self) -> &'de [u8] {
        &self.text[..self.at]
    }

    /// Makes sure that nothing follows.
    pub(super) fn end(&mut self) -> Result<(), JsonError> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(de::Error::custom("trailing characters")),
        }
    }

    /// The next byte that is not white space. It is asked for several times for each number, as are the others that are inlined.
    #[inline(always)]
    fn peek(&mut self) -> Option<u8> {
        while let Some(&byte) = self.text.get(self.at) {
            if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return Some(byte);
            }
            self.at += 1;
        }
        None
    }

    /// Reads what is between two brackets, of which the first comes next.
    fn items<T>(
        &mut self,
        end: u8,
        read: impl FnOnce(Items<'_, 'de>) -> Result<T, JsonError>,
    ) -> Result<T, JsonError> {
        self.at += 1;
        let value = read(Items { json: self, end, begun: false })?;
        if self.peek() != Some(end) {
            return Err(de::Error::custom("trailing characters"));
        }
        self.at += 1;
        Ok(value)
    }

    /// Goes behind what is read, or to what is wrong.
    fn by_serde_json<T>(
        &mut self,
        read: impl FnOnce(&mut serde_json::Deserializer<SliceRead<'de>>) -> serde_json::Result<T>,
    ) -> Result<T, JsonError> {
        let mut json = serde_json::Deserializer::from_slice(self.rest());
        match read(&mut json) {
            Ok(value) => {
                self.at += json.into_iter::<IgnoredAny>().byte_offset();
                Ok(value)
            }
            Err(error) => {
                let message = error.to_string();
                let place = format!(" at line {} column {}", error.line(), error.column());
                let lines = self.rest().split_inclusive(|&byte| byte == b'\n');
                let lines_before = lines.take(error.line().saturating_sub(1)).map(<[u8]>::len).sum::<usize>();
                self.at += (lines_before + error.column().saturating_sub(1)).min(self.rest().len());
                Err(de::Error::custom(message.strip_suffix(&place).unwrap_or(&message)))
            }
        }
    }
}

impl<'de> Deserializer<'de> for &mut Json<'de> {
    type Error = JsonError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        self.peek();
        let Some((scalar, length)) = Scalar::plain(self.rest()).or_else(|| Scalar::literal(self.rest()))
        else {
            return self.by_serde_json(|json| json.deserialize_any(visitor));
        };
        let value = match scalar {
            Scalar::Natural(number) => visitor.visit_u64(number),
            Scalar::Negative(number) => visitor.visit_i64(number),
            Scalar::Float(number) => visitor.visit_f64(number),
            Scalar::Null => visitor.visit_unit(),
        }?;
        self.at += length;
        Ok(value)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        match self.peek() {
            Some(b'[') => self.items(b']', |items| visitor.visit_seq(items)),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        match self.peek() {
            Some(b'{') => self.items(b'}', |items| visitor.visit_map(items)),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        self.by_serde_json(|json| json.deserialize_option(visitor))
    }

    /// Reads the text of a value, too: `serde_json` knows a `RawValue` by its name.
    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, JsonError> {
        self.by_serde_json(|json| json.deserialize_newtype_struct(name, visitor))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        tuple tuple_struct struct enum identifier ignored_any
    }
}

/// What is between the brackets of a list or of an object.
struct Items<'a, 'de> {
    json: &'a mut Json<'de>,
    end: u8,
    begun: bool,
}

impl Items<'_, '_> {
    /// Goes to the next one; whether there is one.
    #[inline(always)]
    fn advance(&mut self) -> Result<bool, JsonError> {
        let begun = std::mem::replace(&mut self.begun, true);
        match self.json.peek() {
            Some(byte) if byte == self.end => Ok(false),
            Some(_) if !begun => Ok(true),
            Some(b',') => {
                self.json.at += 1;
                match self.json.peek() {
                    Some(byte) if byte == self.end => Err(de::Error::custom("trailing comma")),
                    _ => Ok(true),
                }
            }
            Some(_) => Err(de::Error::custom(format_args!("expected `,` or `{}`", char::from(self.end)))),
            None => {
                let what = if self.end == b']' { "a list" } else { "an object" };
                Err(de::Error::custom(format_args!("EOF while parsing {what}")))
            }
        }
    }
}

impl<'de> SeqAccess<'de> for Items<'_, 'de> {
    type Error = JsonError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, JsonError> {
        if !self.advance()? {
            return Ok(None);
        }
        seed.deserialize(&mut *self.json).map(Some)
    }
}

impl<'de> MapAccess<'de> for Items<'_, 'de> {
    type Error = JsonError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, JsonError> {
        if !self.advance()? {
            return Ok(None);
        }
        match self.json.peek() {
            Some(b'"') => seed.deserialize(&mut *self.json).map(Some),
            Some(_) => Err(de::Error::custom("key must be a string")),
            None => Err(de::Error::custom("EOF while parsing a value")),
        }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, JsonError> {
        match self.json.peek() {
            Some(b':') => {
                self.json.at += 1;
                seed.deserialize(&mut *self.json)
            }
            Some(_) => Err(de::Error::custom("expected `:`")),
            None => Err(de::Error::custom("EOF while parsing an object")),
        }
    }
}

/// A value that is read here.
#[derive(Debug)]
enum Scalar {
    Natural(u64),
    Negative(i64),
    Float(f64),
    Null,
}

impl Scalar {
    /// The literal with which a text begins and its length, if it stands for a number.
    fn literal(text: &[u8]) -> Option<(Self, usize)> {
        match text {
            [b'n', b'u', b'l', b'l', ..] => Some((Self::Null, 4)),
            [b'N', b'a', b'N', ..] => Some((Self::Float(f64::NAN), 3)),
            _ if text.starts_with(b"Infinity") => Some((Self::Float(f64::INFINITY), 8)),
            _ if text.starts_with(b"-Infinity") => Some((Self::Float(f64::NEG_INFINITY), 9)),
            _ => None,
        }
    }

    /// The number with which a text begins and its length, if it needs no second look.
    #[inline(always)]
    fn plain(text: &[u8]) -> Option<(Self, usize)> {
        let is_negative = text.first() == Some(&b'-');
        let begin = usize::from(is_negative);
        let (mut magnitude, mut length) = (0_u64, begin);
        while let Some(digit) = text.get(length).filter(|byte| byte.is_ascii_digit()) {
            magnitude = magnitude.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'));
            length += 1;
        }
        let digits = length - begin;
        if digits == 0 || digits > SAFE_DIGITS || (digits > 1 && text[begin] == b'0') {
            return None;
        }
        match text[length..] {
            [b'.', b'0'..=b'9', ..] | [b'e' | b'E', ..] => {
                let (number, length) = fast_float2::parse_partial(text).ok()?;
                let is_whole =
                    text[length - 1].is_ascii_digit() && !matches!(text.get(length), Some(b'e' | b'E'));
                (f64::is_finite(number) && is_whole).then_some((Self::Float(number), length))
            }
            [b'.', ..] => None,
            _ if !is_negative => Some((Self::Natural(magnitude), length)),
            _ if magnitude == 0 => Some((Self::Float(-0.0), length)),
            _ => Some((Self::Negative(-(magnitude as i64)), length)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::{Index, select};
    use serde::Deserialize;
    use serde_json::Value;

    use super::*;

    /// What is read, or what is said of it.
    fn read<'de, T: Deserialize<'de>>(text: &'de str) -> Result<T, String> {
        let mut json = Json::new(text.as_bytes());
        let value = T::deserialize(&mut json).and_then(|value| json.end().map(|()| value));
        value.map_err(|error| error.to_string())
    }

    /// The same by `serde_json`, without the place of an error.
    fn expected<'de, T: Deserialize<'de>>(text: &'de str) -> Result<T, String> {
        let without_place = |message: String| message.split(" at line").next().unwrap().to_owned();
        serde_json::from_str(text).map_err(|error| without_place(error.to_string()))
    }

    const NUMBER: &str = "-?(0|[1-9][0-9]{0,20}|[0-9.eE+-]{0,6})([.][0-9]{0,20})?([eE][+-]?[0-9]{0,3})?";

    /// A list or an object, written with white space.
    fn json() -> impl Strategy<Value = String> {
        let number = "-?(0|[1-9][0-9]{0,9})([.][0-9]{1,9})?(e[0-9])?";
        let scalar =
            prop_oneof![4 => number, 2 => Just("null".to_owned()), 1 => Just(r#""a\n\"\u00e9""#.to_owned())];
        scalar.prop_recursive(3, 12, 4, |inner| {
            let list = vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(" ,\n")));
            let fields = vec(("[ab]", inner), 0..4);
            let object = fields.prop_map(|fields| {
                let fields: Vec<_> =
                    fields.iter().map(|(name, value)| format!("\"{name}\": {value}")).collect();
                format!("{{{}}}", fields.join(", "))
            });
            prop_oneof![list, object]
        })
    }

    /// The same with something in the place of something else.
    fn nearly_json() -> impl Strategy<Value = String> {
        let token =
            select(&["", " ", ",", ":", "[", "]", "{", "}", "\"", "x", "0", "-", ".", "\\", "null", "1 2"]);
        (json(), any::<Index>(), 0..3_usize, token).prop_map(|(json, place, length, token)| {
            let begin = place.index(json.len());
            let end = (begin + length).min(json.len());
            format!("{}{token}{}", &json[..begin], &json[end..])
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn a_number_is_what_serde_json_says_that_it_is(text in NUMBER) {
            prop_assert_eq!(read::<f64>(&text).map(f64::to_bits), expected::<f64>(&text).map(f64::to_bits));
            prop_assert_eq!(read::<i32>(&text), expected::<i32>(&text));
            prop_assert_eq!(read::<Value>(&text), expected::<Value>(&text));
        }

        #[test]
        fn so_are_lists_and_objects(text in prop_oneof![json(), nearly_json()]) {
            prop_assert_eq!(read::<Vec<f64>>(&text), expected::<Vec<f64>>(&text));
            prop_assert_eq!(read::<Vec<Vec<Value>>>(&text), expected::<Vec<Vec<Value>>>(&text));
            prop_assert_eq!(read::<Fields>(&text), expected::<Fields>(&text));
        }
    }

    #[test]
    fn the_numbers_that_python_writes_and_json_lacks_are_read_wherever_a_number_may_be() {
        let numbers = read::<Vec<f64>>("[NaN,Infinity\n,-Infinity, 1]").unwrap();
        assert!(numbers[0].is_nan());
        assert_eq!(numbers[1..], [f64::INFINITY, f64::NEG_INFINITY, 1.0]);
        for text in
            ["nan", "NAN", "Nan", "Na", "+Infinity", "-NaN", "- Infinity", "inf", "Infinit", "\"NaN\""]
        {
            assert_eq!(read::<f64>(text), expected::<f64>(text), "{text}");
        }
    }

    type Fields = BTreeMap<String, Option<Vec<Value>>>;

    #[test]
    fn after_an_error_the_reader_is_where_it_is() {
        for (text, at) in
            [("[1, x]", 4), ("[1\n, 2\n, x]", 9), ("[1, 01]", 5), ("[1, -x]", 5), ("[1 2]", 3), ("[1,]", 3)]
        {
            let mut json = Json::new(text.as_bytes());
            assert!(Vec::<f64>::deserialize(&mut json).is_err());
            assert_eq!(json.at, at, "{text:?}");
        }
    }
}
