//! The parts of a header that repeat: elements borrowed from the frame, and arrays that do not trust their length.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use bytes::Bytes;
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeSeq, Serializer};

use crate::excerpt::{error_text, excerpt};
use crate::output::Element;

/// An element of `inputs` or `outputs`, borrowed from the frame.
#[derive(Debug, Clone, Copy)]
pub(super) enum Item<'a> {
    Nil,
    Text(&'a str),
    Bytes(&'a [u8]),
}

impl<'a> Item<'a> {
    pub(super) fn data(&self) -> &'a [u8] {
        match self {
            Self::Nil => &[],
            Self::Text(text) => text.as_bytes(),
            Self::Bytes(bytes) => bytes,
        }
    }
}

impl From<Item<'_>> for Element {
    fn from(item: Item<'_>) -> Self {
        match item {
            Item::Nil => Self::Nil,
            Item::Text(text) => Self::Text(Arc::from(text)),
            Item::Bytes(bytes) => Self::Bytes(Bytes::copy_from_slice(bytes)),
        }
    }
}

impl<'a> From<&'a Element> for Item<'a> {
    fn from(element: &'a Element) -> Self {
        match element {
            Element::Nil => Self::Nil,
            Element::Text(text) => Self::Text(text),
            Element::Bytes(bytes) => Self::Bytes(bytes),
        }
    }
}

impl Serialize for Item<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Nil => serializer.serialize_none(),
            Self::Text(text) => serializer.serialize_str(text),
            Self::Bytes(bytes) => serializer.serialize_bytes(bytes),
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Item<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ItemVisitor;

        impl<'de> Visitor<'de> for ItemVisitor {
            type Value = Item<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a str, a bin or nil")
            }

            fn visit_unit<E: de::Error>(self) -> Result<Item<'de>, E> {
                Ok(Item::Nil)
            }

            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Item<'de>, E> {
                Ok(Item::Text(text))
            }

            fn visit_borrowed_bytes<E: de::Error>(self, bytes: &'de [u8]) -> Result<Item<'de>, E> {
                Ok(Item::Bytes(bytes))
            }
        }

        deserializer.deserialize_any(ItemVisitor)
    }
}

/// An error text of a container, cut if it is too long to keep.
#[derive(Debug, Clone)]
pub(super) struct ErrorText(pub(super) String);

impl Serialize for ErrorText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for ErrorText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <&str>::deserialize(deserializer).map(|text| Self(error_text(text).into_owned()))
    }
}

/// The errors of single inputs by their index, each index at most once.
#[derive(Debug, Default)]
pub(super) struct Errors(pub(super) BTreeMap<u32, ErrorText>);

impl Serialize for Errors {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(&self.0)
    }
}

impl<'de> Deserialize<'de> for Errors {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ErrorsVisitor;

        impl<'de> Visitor<'de> for ErrorsVisitor {
            type Value = Errors;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of input indexes to texts")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Errors, A::Error> {
                let mut errors = BTreeMap::new();
                while let Some((Index(index), text)) = map.next_entry()? {
                    let Entry::Vacant(place) = errors.entry(index) else {
                        return Err(de::Error::custom(format_args!("'errors' has input {index} twice")));
                    };
                    place.insert(text);
                }
                Ok(Errors(errors))
            }
        }

        deserializer.deserialize_map(ErrorsVisitor)
    }
}

/// The index of an input: an integer, or its decimal digits where a language has maps with string
/// keys only.
struct Index(u32);

impl<'de> Deserialize<'de> for Index {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct IndexVisitor;

        impl Visitor<'_> for IndexVisitor {
            type Value = Index;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the index of an input as a key of 'errors', such as 7 or \"7\"")
            }

            fn visit_u64<E: de::Error>(self, index: u64) -> Result<Index, E> {
                let refused = || E::invalid_value(de::Unexpected::Unsigned(index), &self);
                u32::try_from(index).map(Index).map_err(|_| refused())
            }

            fn visit_i64<E: de::Error>(self, index: i64) -> Result<Index, E> {
                let refused = || E::invalid_value(de::Unexpected::Signed(index), &self);
                u32::try_from(index).map(Index).map_err(|_| refused())
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Index, E> {
                // One spelling for each number: no sign, no space, no leading zero.
                let index = text.parse().ok().filter(|index: &u32| index.to_string() == text);
                let refused = || E::invalid_value(de::Unexpected::Str(&excerpt(text)), &self);
                index.map(Index).ok_or_else(refused)
            }
        }

        deserializer.deserialize_any(IndexVisitor)
    }
}

/// An array that grows as its elements arrive, whatever length it claims to have.
#[derive(Debug, Default)]
pub(super) struct Array<T>(pub(super) Vec<T>);

impl<T: Serialize> Serialize for Array<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut sequence = serializer.serialize_seq(Some(self.0.len()))?;
        for element in &self.0 {
            sequence.serialize_element(element)?;
        }
        sequence.end()
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Array<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ArrayVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for ArrayVisitor<T> {
            type Value = Array<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Array<T>, A::Error> {
                let mut elements = Vec::new();
                while let Some(element) = sequence.next_element()? {
                    elements.push(element);
                }
                Ok(Array(elements))
            }
        }

        deserializer.deserialize_seq(ArrayVisitor(PhantomData))
    }
}
