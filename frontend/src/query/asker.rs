//! Who asks, and what is known of the case: `uid` and `context`, which are kept with each decision.
//!
//! Invariant: both are small, whatever a body holds.

use std::fmt;

use clipper_rpc::selection::Uid;
use serde::de::{self, Deserialize, Deserializer, SeqAccess, Visitor};

/// The longest user name, in bytes.
const MAX_UID_BYTES: usize = 256;

/// The most numbers of a context: eight times what a policy can use.
const MAX_CONTEXT: usize = 1024;

/// The user of a query: an integer or a text. None is nobody in particular.
pub(super) struct Asker(pub(super) Option<Uid>);

/// The features of a query.
pub(super) struct Context(pub(super) Vec<f64>);

impl<'de> Deserialize<'de> for Asker {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AskerVisitor)
    }
}

struct AskerVisitor;

impl Visitor<'_> for AskerVisitor {
    type Value = Asker;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an integer or a text")
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Asker, E> {
        Ok(Asker(Uid::new(number.to_string())))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Asker, E> {
        // What the original's clients send costs nothing.
        Ok(Asker(if number == 0 { None } else { Uid::new(number.to_string()) }))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Asker, E> {
        if text.len() > MAX_UID_BYTES {
            let found = text.len();
            return Err(E::custom(format_args!("it has {found} bytes; at most {MAX_UID_BYTES} are taken")));
        }
        Ok(Asker(Uid::new(text)))
    }
}

impl<'de> Deserialize<'de> for Context {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ContextVisitor)
    }
}

struct ContextVisitor;

impl<'de> Visitor<'de> for ContextVisitor {
    type Value = Context;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of numbers")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut numbers: A) -> Result<Context, A::Error> {
        let mut context = Vec::new();
        while let Some(number) = numbers.next_element::<f64>()? {
            if !number.is_finite() {
                let found = de::Unexpected::Float(number);
                return Err(de::Error::invalid_type(found, &"a finite number"));
            }
            if context.len() == MAX_CONTEXT {
                return Err(de::Error::custom(format_args!("at most {MAX_CONTEXT} numbers are taken")));
            }
            context.push(number);
        }
        Ok(Context(context))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uid(json: &str) -> Result<Option<Uid>, String> {
        serde_json::from_str::<Asker>(json).map(|asker| asker.0).map_err(|error| error.to_string())
    }

    #[test]
    fn an_integer_and_its_text_are_the_same_user_and_0_is_nobody() {
        assert_eq!(uid("7").unwrap(), Uid::new("7"));
        assert_eq!(uid("\"7\"").unwrap(), uid("7").unwrap());
        assert_eq!(uid("-7").unwrap(), Uid::new("-7"));
        assert_eq!(uid("18446744073709551615").unwrap(), Uid::new("18446744073709551615"));
        assert_eq!(uid("\"Änne\"").unwrap(), Uid::new("Änne"));
        for nobody in ["0", "\"0\"", "\"\""] {
            assert_eq!(uid(nobody).unwrap(), None, "{nobody}");
        }
    }

    #[test]
    fn what_would_take_much_memory_is_refused() {
        let error = uid(&format!("\"{}\"", "x".repeat(257))).unwrap_err();
        assert!(error.contains("it has 257 bytes; at most 256 are taken"), "{error}");
        let context = |length| serde_json::from_str::<Context>(&format!("{:?}", vec![0.5; length]));
        assert_eq!(context(1024).unwrap().0.len(), 1024);
        let error = context(1025).err().unwrap().to_string();
        assert!(error.contains("at most 1024 numbers are taken"), "{error}");
    }
}
