//! One number of a model's input or output.

use serde::{Serialize, Serializer};

use crate::input::InputType;

/// A number of one of the numeric types.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Number {
    /// A 32-bit signed integer.
    Int(i32),
    /// A 32-bit float.
    Float(f32),
    /// A 64-bit float.
    Double(f64),
}

impl Number {
    /// One element of a numeric type, as it travels.
    ///
    /// # Panics
    /// If `input_type` is not numeric or the element not of its size.
    pub fn from_little_endian(input_type: InputType, element: &[u8]) -> Self {
        const WIDTH: &str = "elements are cut to their type's size";
        match input_type {
            InputType::Ints => Self::Int(i32::from_le_bytes(element.try_into().expect(WIDTH))),
            InputType::Floats => Self::Float(f32::from_le_bytes(element.try_into().expect(WIDTH))),
            InputType::Doubles => Self::Double(f64::from_le_bytes(element.try_into().expect(WIDTH))),
            InputType::Bytes | InputType::Strings => unreachable!("only numeric types have numbers"),
        }
    }

    /// The elements of a numeric type that stand back to back in `data`.
    ///
    /// # Panics
    /// As [`Number::from_little_endian`], once there is an element.
    pub fn all(input_type: InputType, data: &[u8]) -> impl ExactSizeIterator<Item = Self> {
        data.chunks_exact(input_type.element_size())
            .map(move |element| Self::from_little_endian(input_type, element))
    }
}

impl From<Number> for f64 {
    fn from(number: Number) -> Self {
        match number {
            Number::Int(number) => number.into(),
            Number::Float(number) => number.into(),
            Number::Double(number) => number,
        }
    }
}

/// What is no finite number is null in JSON.
impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match *self {
            Self::Int(number) => serializer.serialize_i32(number),
            Self::Float(number) => serializer.serialize_f32(number),
            Self::Double(number) => serializer.serialize_f64(number),
        }
    }
}
