//! The values that requests carry: made up, of any type and size, or read from a file.
//!
//! A made-up value is one text of which some decimal digits hold the value's number, so that the next one costs as little as writing those.
//! Invariant: every number yields a valid value of the type, and different numbers below [`Pattern::capacity`] different values.

use std::ops::Range;
use std::str::FromStr;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// The type of made-up values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InputKind {
    /// A list of 64-bit floats.
    Doubles,
    /// A list of 32-bit floats.
    Floats,
    /// A list of 32-bit integers.
    Ints,
    /// A text.
    Strings,
    /// Base64 of bytes.
    Bytes,
}

/// The name of no input type.
#[derive(Debug, thiserror::Error)]
#[error("expected doubles, floats, ints, strings or bytes")]
pub struct UnknownKind;

impl FromStr for InputKind {
    type Err = UnknownKind;

    fn from_str(text: &str) -> Result<Self, UnknownKind> {
        Ok(match text {
            "doubles" => Self::Doubles,
            "floats" => Self::Floats,
            "ints" | "integers" => Self::Ints,
            "strings" => Self::Strings,
            "bytes" => Self::Bytes,
            _ => return Err(UnknownKind),
        })
    }
}

/// Which of the possible values are sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Variety {
    /// Every request another one, in no other run either.
    Unique,
    /// These many, each as likely as another.
    Distinct(u64),
    /// These many, the k-th with a probability proportional to k to the power of minus the exponent.
    Zipf {
        /// How many.
        distinct: u64,
        /// How much the first ones are preferred; 0 is not at all.
        exponent: f64,
    },
    /// One after the other, over and over: the lines of a file.
    InOrder,
}

/// Where values come from.
#[derive(Debug, Clone)]
pub enum Inputs {
    /// Made up.
    Pattern(Pattern),
    /// As given, each JSON.
    Listed(Vec<String>),
}

/// A value with digits to be replaced.
#[derive(Debug, Clone)]
pub struct Pattern {
    /// A valid value.
    pub text: String,
    /// Where its digits are, the most significant first.
    pub digits: Vec<Range<usize>>,
}

/// The most digits that hold a number: what a `u64` surely holds.
const MOST_DIGITS: usize = 18;

impl Pattern {
    /// Makes one up, of `length` numbers, letters or bytes.
    pub fn new(kind: InputKind, length: usize, seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        match kind {
            InputKind::Doubles => Self::vector(length, 0, 15, || random.random_range(0..10_u64.pow(15))),
            InputKind::Floats => Self::vector(length, 0, 6, || random.random_range(0..10_u64.pow(6))),
            InputKind::Ints => Self::vector(length, 1, 8, || random.random_range(0..10_u64.pow(8))),
            InputKind::Strings => Self::text(length, length, ""),
            InputKind::Bytes => {
                // A decimal digit is a digit of base64 as well. A group of four is three bytes; what is left over ends in
                // digits whose last bits must be zero.
                let rest = ["", "AA==", "AAA="][length % 3];
                Self::text(length / 3 * 4, length / 3 * 4, rest)
            }
        }
    }

    /// A list of fractions `0.ddd` (`lead` 0) or of integers `1ddd` (`lead` 1).
    fn vector(length: usize, lead: u8, width: usize, mut number: impl FnMut() -> u64) -> Self {
        let mut text = String::from("[");
        let mut digits = Vec::new();
        for index in 0..length {
            text.push_str(if index == 0 { "" } else { "," });
            text.push_str(if lead == 0 { "0." } else { "1" });
            if (digits.len() + 1) * width <= MOST_DIGITS {
                digits.push(text.len()..text.len() + width);
            }
            text.push_str(&format!("{:0width$}", number()));
        }
        text.push(']');
        Self { text, digits }
    }

    /// `"000...xxx"`: digits first, as many as there may be.
    fn text(length: usize, room: usize, end: &str) -> Self {
        let digits = room.min(MOST_DIGITS);
        let text = format!("\"{}{}{end}\"", "0".repeat(digits), "x".repeat(length - digits));
        let range = 1..1 + digits;
        Self { text, digits: if digits == 0 { Vec::new() } else { vec![range] } }
    }

    /// How many different values there are.
    pub fn capacity(&self) -> u64 {
        10_u64.pow(self.digits.iter().map(|range| range.len() as u32).sum())
    }
}

/// Writes a number, modulo what fits, into decimal digits of a text that begins `offset` bytes into `bytes`.
pub fn write_digits(bytes: &mut [u8], offset: usize, digits: &[Range<usize>], mut number: u64) {
    for range in digits.iter().rev() {
        for byte in bytes[offset + range.start..offset + range.end].iter_mut().rev() {
            *byte = b'0' + (number % 10) as u8;
            number /= 10;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use base64::Engine;
    use base64::prelude::BASE64_STANDARD;
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn value(pattern: &Pattern, number: u64) -> Value {
        let mut bytes = pattern.text.clone().into_bytes();
        write_digits(&mut bytes, 0, &pattern.digits, number);
        serde_json::from_slice(&bytes).unwrap()
    }

    proptest! {
        #[test]
        fn a_made_up_list_has_its_length_and_fits_its_type(length in 0_usize..40, number: u64, seed: u64) {
            for kind in [InputKind::Doubles, InputKind::Floats, InputKind::Ints] {
                let value = value(&Pattern::new(kind, length, seed), number);
                let list = value.as_array().unwrap();
                prop_assert_eq!(list.len(), length);
                if kind == InputKind::Ints {
                    prop_assert!(list.iter().all(|element| i32::try_from(element.as_i64().unwrap()).is_ok()));
                }
            }
        }

        #[test]
        fn a_made_up_text_has_its_size(length in 0_usize..100, number: u64) {
            let text = value(&Pattern::new(InputKind::Strings, length, 0), number);
            prop_assert_eq!(text.as_str().unwrap().len(), length);
            let bytes = value(&Pattern::new(InputKind::Bytes, length, 0), number);
            prop_assert_eq!(BASE64_STANDARD.decode(bytes.as_str().unwrap()).unwrap().len(), length);
        }
    }

    #[test]
    fn other_numbers_are_other_values() {
        for kind in
            [InputKind::Doubles, InputKind::Floats, InputKind::Ints, InputKind::Strings, InputKind::Bytes]
        {
            let pattern = Pattern::new(kind, 12, 7);
            assert!(pattern.capacity() >= 100_000_000, "{kind:?}");
            let values: HashSet<String> =
                (0..1_000).map(|number| value(&pattern, number * 7_919).to_string()).collect();
            assert_eq!(values.len(), 1_000, "{kind:?}");
        }
        assert_eq!(Pattern::new(InputKind::Strings, 0, 0).capacity(), 1);
    }

    #[test]
    fn floats_keep_their_digits_in_32_bits() {
        let pattern = Pattern::new(InputKind::Floats, 1, 0);
        let values: HashSet<u32> = (0..pattern.capacity())
            .map(|number| {
                let mut bytes = pattern.text.clone().into_bytes();
                write_digits(&mut bytes, 0, &pattern.digits, number);
                let text = std::str::from_utf8(&bytes[1..bytes.len() - 1]).unwrap();
                text.parse::<f32>().unwrap().to_bits()
            })
            .collect();
        assert_eq!(values.len() as u64, pattern.capacity());
    }
}
