//! The header of a message: one flat map, with the inputs and outputs that it describes.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::ErrorKind;

use bytes::Bytes;
use rmp_serde::decode::Error;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::item::{Array, ErrorText, Errors, Item};
use super::{CodecError, Frames};
use crate::excerpt::excerpt;
use crate::input::{InputBatch, InputType};
use crate::message::Register;
use crate::output::{Element, OutputBatch};

/// How deeply an unknown field of a header may nest.
const MAX_DEPTH: usize = 16;

/// Every field that any message has. Which of them belong to a message is decided after parsing.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub(super) struct Header<'a> {
    #[serde(rename = "type", borrow)]
    pub(super) kind: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) protocol: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) id: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) count: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) elapsed_micros: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) budget_micros: Option<u64>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub(super) model: Option<Cow<'a, str>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub(super) version: Option<Cow<'a, str>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub(super) input_type: Option<Cow<'a, str>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub(super) dtype: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) lengths: Option<Array<u32>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub(super) inputs: Option<Array<Item<'a>>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub(super) outputs: Option<Array<Item<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) errors: Option<Errors>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) labels: Option<Array<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) max_batch_size: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) replica: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) sdk: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) instance: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) message: Option<ErrorText>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) retry_millis: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) heartbeat_millis: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) timeout_millis: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) frontends: Option<Array<String>>,
}

impl<'a> Header<'a> {
    pub(super) fn of(kind: &'static str) -> Self {
        Self { kind: kind.into(), ..Self::default() }
    }

    pub(super) fn encode(&self, payload: Option<Bytes>) -> Frames {
        let header = rmp_serde::to_vec_named(self).expect("a header of plain fields always serialises");
        Frames { header: header.into(), payload }
    }

    /// The contents of a `register`.
    pub(super) fn take_register(&mut self) -> Result<Register, CodecError> {
        const MESSAGE: &str = "register";
        Ok(Register {
            protocol: require(self.protocol, MESSAGE, "protocol")?,
            model: require(self.model.take(), MESSAGE, "model")?.into_owned(),
            version: require(self.version.take(), MESSAGE, "version")?.into_owned(),
            input_type: require(self.input_type.take(), MESSAGE, "input_type")?.parse()?,
            token: self.token.take(),
            max_batch_size: self.max_batch_size,
            replica: self.replica,
            sdk: self.sdk.take(),
            instance: self.instance.take(),
        })
    }

    /// The inputs of a `predict` or `feedback`.
    pub(super) fn take_inputs(
        &mut self,
        message: &'static str,
        payload: Option<Bytes>,
    ) -> Result<InputBatch, CodecError> {
        let count = require(self.count, message, "count")?;
        let input_type: InputType = require(self.input_type.take(), message, "input_type")?.parse()?;
        let batch = if input_type.is_numeric() {
            let lengths = require(self.lengths.take(), message, "lengths")?.0;
            let payload = payload.ok_or(CodecError::NoPayload { message })?;
            InputBatch::from_parts(input_type, lengths, payload)?
        } else {
            self.no_payload(payload.as_ref())?;
            let items = require(self.inputs.take(), message, "inputs")?.0;
            join_items(message, input_type, &items)?
        };
        expect_count(message, "inputs", count, batch.len())?;
        Ok(batch)
    }

    pub(super) fn put_inputs(&mut self, inputs: &'a InputBatch) -> Option<Bytes> {
        self.count = Some(inputs.len() as u64);
        self.input_type = Some(inputs.input_type().as_str().into());
        match inputs.input_type() {
            InputType::Strings => {
                self.inputs = inputs.strings().map(|texts| Array(texts.map(Item::Text).collect()));
                None
            }
            InputType::Bytes => {
                self.inputs = Some(Array(inputs.iter().map(Item::Bytes).collect()));
                None
            }
            InputType::Ints | InputType::Floats | InputType::Doubles => {
                self.lengths = Some(Array(inputs.lengths().to_vec()));
                Some(inputs.data().clone())
            }
        }
    }

    /// The outputs of a `prediction`.
    pub(super) fn take_outputs(&mut self, payload: Option<Bytes>) -> Result<OutputBatch, CodecError> {
        const MESSAGE: &str = "prediction";
        let count = require(self.count, MESSAGE, "count")?;
        let Some(dtype) = self.dtype.take() else {
            self.no_payload(payload.as_ref())?;
            if self.lengths.is_some() {
                return Err(CodecError::MissingField { message: MESSAGE, field: "dtype" });
            }
            let items = require(self.outputs.take(), MESSAGE, "outputs")?.0;
            expect_count(MESSAGE, "outputs", count, items.len())?;
            return Ok(OutputBatch::Elements(items.into_iter().map(Element::from).collect()));
        };
        if self.outputs.is_some() {
            return Err(CodecError::Exclusive("dtype", "outputs"));
        }
        let numeric = [InputType::Ints, InputType::Floats, InputType::Doubles];
        let Some(dtype) = numeric.into_iter().find(|numeric| numeric.as_str() == dtype) else {
            return Err(CodecError::NotNumeric { text: excerpt(&dtype).into_owned() });
        };
        let data = payload.ok_or(CodecError::NoPayload { message: MESSAGE })?;
        let lengths = self.lengths.take().map(|lengths| lengths.0);
        let elements = match &lengths {
            Some(lengths) => {
                expect_count(MESSAGE, "lengths", count, lengths.len())?;
                lengths.iter().map(|&length| u64::from(length)).sum()
            }
            None => count,
        };
        let expected = elements.saturating_mul(dtype.element_size() as u64);
        if expected != data.len() as u64 {
            return Err(CodecError::OutputLength { expected, found: data.len() });
        }
        Ok(match lengths {
            Some(lengths) => OutputBatch::Vectors { dtype, lengths, data },
            None => OutputBatch::Scalars { dtype, data },
        })
    }

    /// The errors of a `prediction`.
    pub(super) fn take_errors(&mut self) -> Result<BTreeMap<u32, String>, CodecError> {
        let Errors(errors) = self.errors.take().unwrap_or_default();
        let count = self.count.unwrap_or_default();
        match errors.last_key_value() {
            Some((&index, _)) if u64::from(index) >= count => Err(CodecError::ErrorIndex { index, count }),
            _ => Ok(errors.into_iter().map(|(index, text)| (index, text.0)).collect()),
        }
    }

    /// Checks that a message without a payload came without one.
    pub(super) fn no_payload(&self, payload: Option<&Bytes>) -> Result<(), CodecError> {
        match payload {
            None => Ok(()),
            Some(_) => Err(CodecError::Payload { message: excerpt(&self.kind).into_owned() }),
        }
    }

    pub(super) fn put_outputs(&mut self, outputs: &'a OutputBatch) -> Option<Bytes> {
        self.count = Some(outputs.len() as u64);
        match outputs {
            OutputBatch::Elements(elements) => {
                self.outputs = Some(Array(elements.iter().map(Item::from).collect()));
                None
            }
            OutputBatch::Scalars { dtype, data } => {
                self.dtype = Some(dtype.as_str().into());
                Some(data.clone())
            }
            OutputBatch::Vectors { dtype, lengths, data } => {
                self.dtype = Some(dtype.as_str().into());
                self.lengths = Some(Array(lengths.clone()));
                Some(data.clone())
            }
        }
    }
}

/// Reads a header: all its fields, or those alone that `T` has.
pub(super) fn parse<'a, T: Deserialize<'a>>(header: &'a [u8]) -> Result<T, CodecError> {
    match header.first() {
        Some(0x80..=0x8f | 0xde | 0xdf) => {}
        _ => return Err(CodecError::NotAMap),
    }
    let mut deserializer = rmp_serde::Deserializer::from_read_ref(header);
    deserializer.set_max_depth(MAX_DEPTH);
    let parsed = T::deserialize(&mut deserializer)
        .map_err(|error| CodecError::Header(excerpt(&error.to_string()).into_owned()))?;
    match IgnoredAny::deserialize(&mut deserializer) {
        Err(Error::InvalidMarkerRead(end)) if end.kind() == ErrorKind::UnexpectedEof => Ok(parsed),
        _ => Err(CodecError::Trailing),
    }
}

pub(super) fn require<T>(
    field: Option<T>,
    message: &'static str,
    name: &'static str,
) -> Result<T, CodecError> {
    field.ok_or(CodecError::MissingField { message, field: name })
}

pub(super) fn expect_count(
    message: &'static str,
    what: &'static str,
    expected: u64,
    found: usize,
) -> Result<(), CodecError> {
    let found = found as u64;
    if expected == found { Ok(()) } else { Err(CodecError::Count { message, what, expected, found }) }
}
/// Puts texts or byte strings back to back.
fn join_items(
    message: &'static str,
    input_type: InputType,
    items: &[Item<'_>],
) -> Result<InputBatch, CodecError> {
    let mut data = Vec::with_capacity(items.iter().map(|item| item.data().len()).sum());
    let mut lengths = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        match (input_type, item) {
            (InputType::Strings, Item::Text(_)) | (InputType::Bytes, Item::Bytes(_)) => {}
            (InputType::Strings, _) => return Err(CodecError::Element { message, index, expected: "a str" }),
            _ => return Err(CodecError::Element { message, index, expected: "a bin" }),
        }
        data.extend_from_slice(item.data());
        lengths.push(u32::try_from(item.data().len()).expect("MessagePack lengths are 32 bits wide"));
    }
    Ok(InputBatch::from_parts(input_type, lengths, data.into())?)
}
