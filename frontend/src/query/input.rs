//! Inputs, parsed element by element into the bytes that will travel.
//!
//! Each numeric type has a visitor of its own that accepts the numbers which it can represent and refuses the rest by index.
//! Invariant: inputs that mean the same are the same bytes, which are the key of the prediction cache: a missing value is always
//! the same NaN.

use std::fmt;

use base64::alphabet::{Alphabet, STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::{DecodeError, Engine};
use clipper_rpc::input::{Input, InputType};
use serde::de::{self, DeserializeSeed, Deserializer, SeqAccess, Visitor};

use super::at;

const BASE64: GeneralPurpose = padded_or_not(&STANDARD);
const BASE64_URL: GeneralPurpose = padded_or_not(&URL_SAFE);

const fn padded_or_not(alphabet: &Alphabet) -> GeneralPurpose {
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    GeneralPurpose::new(alphabet, config)
}

/// Decodes base64 of the standard or the URL-safe alphabet, padded or not, with any white space within it.
fn decode_base64(text: &str) -> Result<Vec<u8>, DecodeError> {
    BASE64.decode(text).or_else(|error| {
        let compact: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
        let is_url_safe = compact.iter().any(|byte| matches!(byte, b'-' | b'_'));
        if !is_url_safe && compact.len() == text.len() {
            return Err(error);
        }
        if is_url_safe { BASE64_URL.decode(compact) } else { BASE64.decode(compact) }
    })
}

/// Numbers of so many bytes are gathered without a further allocation.
const USUAL_BYTES: usize = 8192;

/// Reads a list of inputs of the given type.
pub(super) struct BatchSeed {
    pub(super) input_type: InputType,
    pub(super) max_inputs: usize,
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
            if inputs.len() == self.max_inputs {
                return sequence.next_element_seed(TooMany(self.max_inputs)).map(|_| inputs);
            }
            let seed = InputSeed { input_type: self.input_type };
            match at(format_args!("input {}", inputs.len()), sequence.next_element_seed(seed))? {
                Some(input) => inputs.push(input),
                None => return Ok(inputs),
            }
        }
    }
}

/// Refuses to read an input, as there are as many as one request may have.
struct TooMany(usize);

impl<'de> DeserializeSeed<'de> for TooMany {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, _: D) -> Result<(), D::Error> {
        Err(de::Error::custom(format_args!("one request takes at most {} inputs (--max-inputs)", self.0)))
    }
}

/// Reads one input of the given type.
pub(super) struct InputSeed {
    pub(super) input_type: InputType,
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
                let bytes = decode_base64(text);
                bytes.map(Input::bytes).map_err(|error| E::custom(format_args!("not base64: {error}")))
            }
            _ => Err(E::invalid_type(de::Unexpected::Str(text), &self)),
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
        Ok(Input::from_little_endian(self.input_type, &data))
    }
}

/// Writes the elements of a list back to back.
fn elements<'de, S, const WIDTH: usize, A>(mut sequence: A) -> Result<Vec<u8>, A::Error>
where
    S: DeserializeSeed<'de, Value = [u8; WIDTH]> + Default,
    A: SeqAccess<'de>,
{
    let mut data = Vec::with_capacity(USUAL_BYTES);
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
    ($seed:ident, $width:literal, $expecting:literal, { $($method:ident($($number:ident: $type:ty)?) => $bytes:expr),+ }) => {
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

            $(fn $method<E: de::Error>(self, $($number: $type)?) -> Result<Self::Value, E> {
                $bytes
            })+
        }
    };
}

element!(IntSeed, 4, "a 32-bit integer, -2147483648 to 2147483647", {
    visit_i64(number: i64) => int(number),
    visit_u64(number: u64) => int(number)
});
element!(FloatSeed, 4, "a number, or null for a missing one", {
    visit_f64(number: f64) => float(number),
    visit_i64(number: i64) => float(number as f64),
    visit_u64(number: u64) => float(number as f64),
    visit_unit() => Ok(f32::NAN.to_le_bytes())
});
element!(DoubleSeed, 8, "a number, or null for a missing one", {
    visit_f64(number: f64) => Ok(number.to_le_bytes()),
    visit_i64(number: i64) => Ok((number as f64).to_le_bytes()),
    visit_u64(number: u64) => Ok((number as f64).to_le_bytes()),
    visit_unit() => Ok(f64::NAN.to_le_bytes())
});

fn int<E: de::Error, T: TryInto<i32> + fmt::Display + Copy>(number: T) -> Result<[u8; 4], E> {
    match number.try_into() {
        Ok(number) => Ok(number.to_le_bytes()),
        Err(_) => Err(E::custom(format_args!("{number} is out of range, expected {}", Expected(&IntSeed)))),
    }
}

fn float<E: de::Error>(number: f64) -> Result<[u8; 4], E> {
    if number.is_nan() {
        // The bits of a NaN that is converted are not specified.
        return Ok(f32::NAN.to_le_bytes());
    }
    let narrowed = number as f32;
    if narrowed.is_finite() || number.is_infinite() {
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
