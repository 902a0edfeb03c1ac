//! What models are asked about: one typed input, and a batch of them.
//!
//! An input is encoded once, at the door, into the bytes that will travel to the container. Invariant: the data of a
//! numeric [`Input`] or [`InputBatch`] is a whole number of little-endian elements.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::excerpt::excerpt;
use crate::number::Number;

/// The type of an application's, and of its models', inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum InputType {
    /// Opaque bytes; base64 text in JSON.
    Bytes,
    /// A vector of 32-bit signed integers.
    Ints,
    /// A vector of 32-bit floats.
    Floats,
    /// A vector of 64-bit floats.
    Doubles,
    /// One UTF-8 text.
    Strings,
}

/// A text that spells no input type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not an input type; expected one of: bytes, ints, floats, doubles, strings")]
pub struct UnknownInputType(pub String);

impl InputType {
    /// Every input type.
    pub const ALL: [Self; 5] = [Self::Bytes, Self::Ints, Self::Floats, Self::Doubles, Self::Strings];

    /// The name used on the wire and in sentences.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bytes => "bytes",
            Self::Ints => "ints",
            Self::Floats => "floats",
            Self::Doubles => "doubles",
            Self::Strings => "strings",
        }
    }

    /// The name under which the original Clipper's admin interface reports this type.
    pub fn reported_name(self) -> &'static str {
        match self {
            Self::Ints => "integers",
            other => other.as_str(),
        }
    }

    /// The size of one element of an input, in bytes. Texts and bytes count by the byte.
    pub fn element_size(self) -> usize {
        match self {
            Self::Bytes | Self::Strings => 1,
            Self::Ints | Self::Floats => 4,
            Self::Doubles => 8,
        }
    }

    /// Whether inputs are vectors of numbers.
    pub fn is_numeric(self) -> bool {
        matches!(self, Self::Ints | Self::Floats | Self::Doubles)
    }
}

impl fmt::Display for InputType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for InputType {
    type Err = UnknownInputType;

    /// Accepts every spelling of the original Clipper.
    fn from_str(text: &str) -> Result<Self, UnknownInputType> {
        match text {
            "b" | "byte" | "bytes" => Ok(Self::Bytes),
            "i" | "int" | "ints" | "integer" | "integers" => Ok(Self::Ints),
            "f" | "float" | "floats" => Ok(Self::Floats),
            "d" | "double" | "doubles" => Ok(Self::Doubles),
            "s" | "str" | "strs" | "string" | "strings" => Ok(Self::Strings),
            other => Err(UnknownInputType(excerpt(other).into_owned())),
        }
    }
}

impl Serialize for InputType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for InputType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// One input, encoded as it will travel. Cheap to clone and to hash.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Input {
    input_type: InputType,
    data: Arc<[u8]>,
}

impl Input {
    /// A vector of 32-bit integers.
    pub fn ints(values: &[i32]) -> Self {
        Self { input_type: InputType::Ints, data: values.iter().flat_map(|v| v.to_le_bytes()).collect() }
    }

    /// A vector of 32-bit floats.
    pub fn floats(values: &[f32]) -> Self {
        Self { input_type: InputType::Floats, data: values.iter().flat_map(|v| v.to_le_bytes()).collect() }
    }

    /// A vector of 64-bit floats.
    pub fn doubles(values: &[f64]) -> Self {
        Self { input_type: InputType::Doubles, data: values.iter().flat_map(|v| v.to_le_bytes()).collect() }
    }

    /// One text.
    pub fn string(text: &str) -> Self {
        Self { input_type: InputType::Strings, data: text.as_bytes().into() }
    }

    /// Opaque bytes.
    pub fn bytes(data: impl Into<Arc<[u8]>>) -> Self {
        Self { input_type: InputType::Bytes, data: data.into() }
    }

    /// A numeric vector from its little-endian encoding.
    ///
    /// # Panics
    /// If `input_type` is not numeric or `data` is not a whole number of its elements.
    pub fn from_little_endian(input_type: InputType, data: &[u8]) -> Self {
        assert!(input_type.is_numeric() && data.len().is_multiple_of(input_type.element_size()));
        Self { input_type, data: data.into() }
    }

    /// The type.
    pub fn input_type(&self) -> InputType {
        self.input_type
    }

    /// The encoded data: little-endian numbers, UTF-8 text, or the bytes themselves.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// The number of elements; of bytes for texts and bytes.
    pub fn element_count(&self) -> usize {
        self.data.len() / self.input_type.element_size()
    }
}

/// Inputs of one type, stored back to back in one buffer as numeric ones travel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputBatch {
    input_type: InputType,
    /// The number of elements of each input.
    lengths: Vec<u32>,
    data: Bytes,
}

/// Lengths and data that do not fit each other.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the lengths of the inputs add up to {expected} bytes of {input_type}, the payload has {found}")]
pub struct BatchShapeError {
    input_type: InputType,
    expected: u64,
    found: usize,
}

impl InputBatch {
    /// Joins inputs of one type.
    ///
    /// # Panics
    /// If an input is of another type than `input_type`, or holds more than `u32::MAX` elements.
    pub fn join<'a>(input_type: InputType, inputs: impl IntoIterator<Item = &'a Input> + Clone) -> Self {
        let total = inputs.clone().into_iter().map(|input| input.data.len()).sum();
        let mut data = Vec::with_capacity(total);
        let mut lengths = Vec::new();
        for input in inputs {
            assert_eq!(input.input_type, input_type, "a batch holds inputs of one type");
            data.extend_from_slice(&input.data);
            lengths.push(
                u32::try_from(input.element_count()).expect("messages are bounded far below 2^32 elements"),
            );
        }
        Self { input_type, lengths, data: data.into() }
    }

    /// A batch from its parts: `lengths` in elements, `data` the inputs back to back.
    ///
    /// # Errors
    /// If the lengths do not add up to the data. Texts are *not* checked to be UTF-8 here; the codec does that.
    pub fn from_parts(
        input_type: InputType,
        lengths: Vec<u32>,
        data: Bytes,
    ) -> Result<Self, BatchShapeError> {
        let elements: u64 = lengths.iter().map(|&length| u64::from(length)).sum();
        let expected = elements.saturating_mul(input_type.element_size() as u64);
        if expected != data.len() as u64 {
            return Err(BatchShapeError { input_type, expected, found: data.len() });
        }
        Ok(Self { input_type, lengths, data })
    }

    /// The type of every input.
    pub fn input_type(&self) -> InputType {
        self.input_type
    }

    /// The number of inputs.
    pub fn len(&self) -> usize {
        self.lengths.len()
    }

    /// Whether there is no input.
    pub fn is_empty(&self) -> bool {
        self.lengths.is_empty()
    }

    /// The number of elements of each input.
    pub fn lengths(&self) -> &[u32] {
        &self.lengths
    }

    /// All inputs, back to back.
    pub fn data(&self) -> &Bytes {
        &self.data
    }

    /// The encoded bytes of each input, in order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest: &[u8] = &self.data;
        self.lengths.iter().map(move |&length| {
            let (input, tail) = rest.split_at(length as usize * self.input_type.element_size());
            rest = tail;
            input
        })
    }

    /// The inputs as texts; `None` unless the type is [`InputType::Strings`].
    pub fn strings(&self) -> Option<impl Iterator<Item = &str>> {
        (self.input_type == InputType::Strings).then(|| {
            self.iter().map(|text| std::str::from_utf8(text).expect("texts are checked where they enter"))
        })
    }

    /// The inputs as vectors of doubles, converted from whichever numeric type; `None` for texts and bytes.
    pub fn numbers(&self) -> Option<impl Iterator<Item = Vec<f64>>> {
        let input_type = self.input_type;
        input_type
            .is_numeric()
            .then(|| self.iter().map(move |input| Number::all(input_type, input).map(f64::from).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_the_original_is_accepted() {
        let spellings = [
            ("b byte bytes", InputType::Bytes),
            ("i int ints integer integers", InputType::Ints),
            ("f float floats", InputType::Floats),
            ("d double doubles", InputType::Doubles),
            ("s str strs string strings", InputType::Strings),
        ];
        for (texts, input_type) in spellings {
            for text in texts.split(' ') {
                assert_eq!(text.parse(), Ok(input_type));
            }
        }
        assert!("tensor".parse::<InputType>().is_err());
    }

    #[test]
    fn joined_inputs_come_apart_again() {
        let inputs = [Input::doubles(&[1.0, 2.0]), Input::doubles(&[]), Input::doubles(&[3.0])];
        let batch = InputBatch::join(InputType::Doubles, &inputs);
        assert_eq!(batch.lengths(), [2, 0, 1]);
        assert_eq!(batch.numbers().unwrap().collect::<Vec<_>>(), [vec![1.0, 2.0], vec![], vec![3.0]]);
    }

    #[test]
    fn lengths_that_do_not_add_up_are_refused() {
        let error = InputBatch::from_parts(InputType::Ints, vec![u32::MAX, 2], Bytes::from_static(&[0; 8]));
        assert!(error.unwrap_err().to_string().contains("the payload has 8"));
    }
}
