//! Messages to frames and back.
//!
//! Header maps are one flat struct, read without an intermediate value: strings and outputs are borrowed from the
//! frame until they are known to fit. Invariant: whatever bytes arrive, decoding ends in a message or a
//! [`CodecError`], and allocates in proportion to the bytes that arrived, never to a number that they claim.

mod error;
mod header;
mod item;

use bytes::Bytes;

pub use self::error::CodecError;
use self::header::{Header, expect_count, require};
use self::item::Array;
use crate::excerpt::excerpt;
use crate::message::{Feedback, FromContainer, Predict, Prediction, Register, Registered, ToContainer};

/// A message as it travels, without the empty frame in front.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frames {
    /// A MessagePack map.
    pub header: Bytes,
    /// Raw little-endian numbers.
    pub payload: Option<Bytes>,
}
impl Frames {
    /// Takes the frames of a multipart message apart, after any routing frames.
    ///
    /// # Errors
    /// If they are not an empty frame, a header and at most one payload.
    pub fn from_multipart(frames: Vec<Bytes>) -> Result<Self, CodecError> {
        let found = frames.len();
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
                    errors: (!prediction.errors.is_empty()).then(|| prediction.errors.clone()),
                    ..Header::of("prediction")
                };
                let payload = header.put_outputs(&prediction.outputs);
                header.encode(payload)
            }
            Self::Error { id, message } => {
                Header { id: Some(*id), message: Some(message.as_str().into()), ..Header::of("error") }
                    .encode(None)
            }
            Self::FeedbackAck { id } => Header { id: Some(*id), ..Header::of("feedback_ack") }.encode(None),
            Self::Goodbye => Header::of("goodbye").encode(None),
        }
    }

    /// Reads a message.
    ///
    /// # Errors
    /// If the frames are no message from a container, or one whose counts and lengths do not add up.
    pub fn decode(frames: &Frames) -> Result<Self, CodecError> {
        let mut header = Header::parse(&frames.header)?;
        if header.kind == "prediction" {
            let message = "prediction";
            return Ok(Self::Prediction(Prediction {
                id: require(header.id, message, "id")?,
                elapsed_micros: require(header.elapsed_micros, message, "elapsed_micros")?,
                outputs: header.take_outputs(frames.payload.clone())?,
                errors: header.take_errors()?,
            }));
        }
        header.no_payload(frames.payload.as_ref())?;
        match &*header.kind {
            "register" => {
                let message = "register";
                Ok(Self::Register(Register {
                    protocol: require(header.protocol, message, "protocol")?,
                    model: require(header.model, message, "model")?.into_owned(),
                    version: require(header.version, message, "version")?.into_owned(),
                    input_type: require(header.input_type, message, "input_type")?.parse()?,
                    token: header.token,
                    max_batch_size: header.max_batch_size,
                    replica: header.replica,
                    sdk: header.sdk,
                    instance: header.instance,
                }))
            }
            "heartbeat" => Ok(Self::Heartbeat),
            "error" => Ok(Self::Error {
                id: require(header.id, "error", "id")?,
                message: require(header.message, "error", "message")?.into_owned(),
            }),
            "feedback_ack" => Ok(Self::FeedbackAck { id: require(header.id, "feedback_ack", "id")? }),
            "goodbye" => Ok(Self::Goodbye),
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
        let mut header = Header::parse(&frames.header)?;
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
