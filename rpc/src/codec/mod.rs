//! Messages to frames and back.
//!
//! Header maps are one flat struct, read without an intermediate value: strings and outputs are borrowed from the
//! frame until they are known to fit. Invariant: whatever bytes arrive, decoding ends in a message or a
//! [`CodecError`], and allocates in proportion to the bytes that arrived, never to a number that they claim.
//!
//! Containers are not trusted. What one sends is read with knowledge of the batches that it holds: a header may have
//! as many values as their answers need and no more, because a value of one byte takes dozens in memory. A peer that
//! has not registered is read for the type of its message alone, unless that is `register`.

mod budget;
mod error;
mod header;
mod item;
mod original;

use std::borrow::Cow;

use bytes::Bytes;

pub use self::error::CodecError;
use self::header::{Header, expect_count, parse, require};
use self::item::{Array, ErrorText, Errors};
use crate::excerpt::excerpt;
use crate::message::{Feedback, FromContainer, Introduction, Predict, Prediction, Registered, ToContainer};

/// The largest message that is read of a peer of which nothing was asked, in bytes.
const MOST_BYTES_UNASKED: usize = 64 << 10;
/// The most values in the header of a message that holds no outputs, unknown fields included.
const MOST_VALUES_UNASKED: usize = 256;
/// The most values for each input of a batch: its output, and the two of its error.
const VALUES_PER_INPUT: usize = 3;

/// A message as it travels, without the empty frame in front.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frames {
    /// A MessagePack map.
    pub header: Bytes,
    /// Raw little-endian numbers.
    pub payload: Option<Bytes>,
}

impl Frames {
    /// The bytes of both frames.
    pub fn size(&self) -> usize {
        self.header.len() + self.payload.as_ref().map_or(0, Bytes::len)
    }

    /// Checks the size of a message of which nothing was asked.
    fn expect_small(&self, unless: &'static str) -> Result<(), CodecError> {
        let found = self.size();
        if found > MOST_BYTES_UNASKED {
            return Err(CodecError::TooLong { found, most: MOST_BYTES_UNASKED, unless });
        }
        Ok(())
    }

    /// Checks the number of values in the header.
    fn expect_values(&self, most: usize) -> Result<(), CodecError> {
        if budget::fits(&self.header, most) { Ok(()) } else { Err(CodecError::TooManyValues { most }) }
    }

    /// Takes the frames of a multipart message apart, after any routing frames.
    ///
    /// # Errors
    /// If they are not an empty frame, a header and at most one payload.
    pub fn from_multipart(frames: Vec<Bytes>) -> Result<Self, CodecError> {
        let found = frames.len();
        if let Some(model) = original::recognise(&frames) {
            return Err(CodecError::Protocol3 { model });
        }
        let mut frames = frames.into_iter();
        match (frames.next(), frames.next(), frames.next(), frames.next()) {
            (Some(empty), Some(header), payload, None) if empty.is_empty() => Ok(Self { header, payload }),
            _ => Err(CodecError::Frames { found }),
        }
    }
}

impl FromContainer {
    /// The message as frames.
    pub fn encode(&self) -> Frames {
        match self {
            Self::Register(register) => Header {
                protocol: Some(register.protocol),
                model: Some(register.model.as_str().into()),
                version: Some(register.version.as_str().into()),
                input_type: Some(register.input_type.as_str().into()),
                token: register.token.clone(),
                max_batch_size: register.max_batch_size,
                replica: register.replica,
                sdk: register.sdk.clone(),
                instance: register.instance.clone(),
                ..Header::of("register")
            }
            .encode(None),
            Self::Heartbeat => Header::of("heartbeat").encode(None),
            Self::Prediction(prediction) => {
                let mut header = Header {
                    id: Some(prediction.id),
                    elapsed_micros: Some(prediction.elapsed_micros),
                    errors: (!prediction.errors.is_empty()).then(|| {
                        let errors = prediction.errors.iter();
                        Errors(errors.map(|(&index, text)| (index, ErrorText(text.clone()))).collect())
                    }),
                    ..Header::of("prediction")
                };
                let payload = header.put_outputs(&prediction.outputs);
                header.encode(payload)
            }
            Self::Error { id, message } => {
                Header { id: Some(*id), message: Some(ErrorText(message.clone())), ..Header::of("error") }
                    .encode(None)
            }
            Self::FeedbackAck { id } => Header { id: Some(*id), ..Header::of("feedback_ack") }.encode(None),
            Self::Goodbye => Header::of("goodbye").encode(None),
        }
    }

    /// Reads a message of a container that holds the batches `held`, given by their ids and numbers of inputs.
    ///
    /// # Errors
    /// If the frames are no message from a container, one whose counts and lengths do not add up, one that is larger
    /// than the answers to the batches can be, or the answer to another batch.
    pub fn decode(
        frames: &Frames,
        held: impl Iterator<Item = (u64, usize)> + Clone,
    ) -> Result<Self, CodecError> {
        let Some(most_inputs) = held.clone().map(|(_, inputs)| inputs).max() else {
            frames.expect_small("while it holds no batch")?;
            return Self::decode_within(frames, MOST_VALUES_UNASKED, held);
        };
        Self::decode_within(frames, MOST_VALUES_UNASKED + VALUES_PER_INPUT * most_inputs, held)
    }

    fn decode_within(
        frames: &Frames,
        most_values: usize,
        mut held: impl Iterator<Item = (u64, usize)>,
    ) -> Result<Self, CodecError> {
        frames.expect_values(most_values)?;
        let mut header: Header<'_> = parse(&frames.header)?;
        if header.kind == "prediction" {
            let message = "prediction";
            let id = require(header.id, message, "id")?;
            let Some((_, expected)) = held.find(|&(held, _)| held == id) else {
                return Err(CodecError::NotHeld { id });
            };
            let found = require(header.count, message, "count")?;
            if found != expected as u64 {
                return Err(CodecError::Outputs { expected, found });
            }
            return Ok(Self::Prediction(Prediction {
                id,
                elapsed_micros: require(header.elapsed_micros, message, "elapsed_micros")?,
                outputs: header.take_outputs(frames.payload.clone())?,
                errors: header.take_errors()?,
            }));
        }
        header.no_payload(frames.payload.as_ref())?;
        match &*header.kind {
            "register" => Ok(Self::Register(header.take_register()?)),
            "heartbeat" => Ok(Self::Heartbeat),
            "error" => Ok(Self::Error {
                id: require(header.id, "error", "id")?,
                message: require(header.message, "error", "message")?.0,
            }),
            "feedback_ack" => Ok(Self::FeedbackAck { id: require(header.id, "feedback_ack", "id")? }),
            "goodbye" => Ok(Self::Goodbye),
            other => Err(CodecError::UnknownType(excerpt(other).into_owned())),
        }
    }
}

impl Introduction {
    /// Reads a message of a peer that has not registered.
    ///
    /// # Errors
    /// If the frames are no message, or a large one.
    pub fn decode(frames: &Frames) -> Result<Self, CodecError> {
        /// The one field that tells what to read.
        #[derive(serde::Deserialize)]
        struct Type<'a> {
            #[serde(rename = "type", borrow, default)]
            kind: Cow<'a, str>,
        }

        frames.expect_small("before a container has registered")?;
        frames.expect_values(MOST_VALUES_UNASKED)?;
        match &*parse::<Type<'_>>(&frames.header)?.kind {
            "register" => {
                let mut header: Header<'_> = parse(&frames.header)?;
                header.no_payload(frames.payload.as_ref())?;
                Ok(Self::Register(header.take_register()?))
            }
            "goodbye" => Ok(Self::Goodbye),
            "heartbeat" | "prediction" | "error" | "feedback_ack" => Ok(Self::Other),
            other => Err(CodecError::UnknownType(excerpt(other).into_owned())),
        }
    }
}

impl ToContainer {
    /// The message as frames.
    pub fn encode(&self) -> Frames {
        match self {
            Self::Registered(registered) => Header {
                replica: Some(registered.replica),
                heartbeat_millis: Some(registered.heartbeat_millis),
                timeout_millis: Some(registered.timeout_millis),
                frontends: registered.frontends.clone().map(Array),
                ..Header::of("registered")
            }
            .encode(None),
            Self::Rejected { reason, retry_millis } => Header {
                reason: Some(reason.as_str().into()),
                retry_millis: *retry_millis,
                ..Header::of("rejected")
            }
            .encode(None),
            Self::Unknown => Header::of("unknown").encode(None),
            Self::Heartbeat { frontends } => {
                Header { frontends: frontends.clone().map(Array), ..Header::of("heartbeat") }.encode(None)
            }
            Self::Predict(predict) => {
                let mut header = Header {
                    id: Some(predict.id),
                    budget_micros: Some(predict.budget_micros),
                    ..Header::of("predict")
                };
                let payload = header.put_inputs(&predict.inputs);
                header.encode(payload)
            }
            Self::Feedback(feedback) => {
                let mut header = Header {
                    id: Some(feedback.id),
                    labels: Some(Array(feedback.labels.clone())),
                    ..Header::of("feedback")
                };
                let payload = header.put_inputs(&feedback.inputs);
                header.encode(payload)
            }
            Self::Drain => Header::of("drain").encode(None),
        }
    }

    /// Reads a message.
    ///
    /// # Errors
    /// If the frames are no message from a frontend, or one whose counts and lengths do not add up.
    pub fn decode(frames: &Frames) -> Result<Self, CodecError> {
        let mut header: Header<'_> = parse(&frames.header)?;
        match &*header.kind {
            "predict" => {
                let message = "predict";
                return Ok(Self::Predict(Predict {
                    id: require(header.id, message, "id")?,
                    budget_micros: require(header.budget_micros, message, "budget_micros")?,
                    inputs: header.take_inputs(message, frames.payload.clone())?,
                }));
            }
            "feedback" => {
                let message = "feedback";
                let inputs = header.take_inputs(message, frames.payload.clone())?;
                let labels = require(header.labels, message, "labels")?.0;
                expect_count(message, "labels", inputs.len() as u64, labels.len())?;
                return Ok(Self::Feedback(Feedback {
                    id: require(header.id, message, "id")?,
                    inputs,
                    labels,
                }));
            }
            _ => header.no_payload(frames.payload.as_ref())?,
        }
        match &*header.kind {
            "registered" => {
                let message = "registered";
                Ok(Self::Registered(Registered {
                    replica: require(header.replica, message, "replica")?,
                    heartbeat_millis: require(header.heartbeat_millis, message, "heartbeat_millis")?,
                    timeout_millis: require(header.timeout_millis, message, "timeout_millis")?,
                    frontends: header.frontends.map(|frontends| frontends.0),
                }))
            }
            "rejected" => Ok(Self::Rejected {
                reason: require(header.reason, "rejected", "reason")?.into_owned(),
                retry_millis: header.retry_millis,
            }),
            "unknown" => Ok(Self::Unknown),
            "heartbeat" => Ok(Self::Heartbeat { frontends: header.frontends.map(|frontends| frontends.0) }),
            "drain" => Ok(Self::Drain),
            other => Err(CodecError::UnknownType(excerpt(other).into_owned())),
        }
    }
}
