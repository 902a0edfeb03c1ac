//! Why a message cannot be read. The sentences go into logs and into `rejected`, so they name what was expected.

use crate::input::{BatchShapeError, UnknownInputType};

/// Why a message cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The message does not consist of an empty frame, a header and at most one payload.
    #[error("expected an empty frame, a header and at most one payload; found {found} frames")]
    Frames {
        /// The number of frames that arrived.
        found: usize,
    },
    /// The message is one of protocol 3, which containers of the original Clipper speak.
    #[error("it speaks protocol 3, the original Clipper's")]
    Protocol3 {
        /// The name and version of its model, if the message has them.
        model: Option<String>,
    },
    /// The header is not a MessagePack map.
    #[error("the header is not a MessagePack map")]
    NotAMap,
    /// The header is a map, but does not parse.
    #[error("the header does not parse: {0}")]
    Header(String),
    /// The header names no known message for this direction.
    #[error("unknown message type '{0}'")]
    UnknownType(String),
    /// The header has more values than its message needs.
    #[error("the header has more than {most} values")]
    TooManyValues {
        /// The most that are read.
        most: usize,
    },
    /// The message is larger than anything that was asked for.
    #[error("the message has {found} bytes; at most {most} are read {unless}")]
    TooLong {
        /// Its size in bytes.
        found: usize,
        /// The most that are read.
        most: usize,
        /// The condition under which more would be read.
        unless: &'static str,
    },
    /// A batch was answered that the container does not hold.
    #[error("it answered batch {id}, which it does not hold")]
    NotHeld {
        /// The batch.
        id: u64,
    },
    /// A batch was answered with another number of outputs than it has inputs.
    #[error("it answered a batch of {expected} inputs with {found} outputs")]
    Outputs {
        /// The number of inputs.
        expected: usize,
        /// The number of outputs that the message claims.
        found: u64,
    },
    /// A required field is absent.
    #[error("'{message}' lacks the field '{field}'")]
    MissingField {
        /// The message's type.
        message: &'static str,
        /// The field.
        field: &'static str,
    },
    /// A field's input type is none, or does not fit there.
    #[error("'{text}' is not one of ints, floats and doubles")]
    NotNumeric {
        /// The text.
        text: String,
    },
    /// A field spells no input type.
    #[error(transparent)]
    InputType(#[from] UnknownInputType),
    /// `count` differs from what the message holds.
    #[error("'{message}' says it has {expected} {what} but has {found}")]
    Count {
        /// The message's type.
        message: &'static str,
        /// What was counted.
        what: &'static str,
        /// What `count` says.
        expected: u64,
        /// What there is.
        found: u64,
    },
    /// The payload's length is not what the header says.
    #[error(transparent)]
    Shape(#[from] BatchShapeError),
    /// The outputs' lengths do not fit the payload.
    #[error("the outputs should take {expected} bytes, the payload has {found}")]
    OutputLength {
        /// By the header, in bytes.
        expected: u64,
        /// The payload's length, in bytes.
        found: usize,
    },
    /// The errors of a prediction name an input that is not in the batch.
    #[error("'prediction' has an error of input {index}, but only {count} inputs")]
    ErrorIndex {
        /// The index.
        index: u32,
        /// The number of inputs.
        count: u64,
    },
    /// Two fields came together of which each excludes the other.
    #[error("'prediction' has both '{0}' and '{1}'")]
    Exclusive(&'static str, &'static str),
    /// Something follows the header in its frame.
    #[error("something follows the header in its frame")]
    Trailing,
    /// A payload came with a message that has none.
    #[error("'{message}' has a payload frame where none belongs")]
    Payload {
        /// The message's type.
        message: String,
    },
    /// No payload came where one belongs.
    #[error("'{message}' lacks its payload frame")]
    NoPayload {
        /// The message's type.
        message: &'static str,
    },
    /// An input or output is of another kind than the message says.
    #[error("element {index} of '{message}' is not {expected}")]
    Element {
        /// The message's type.
        message: &'static str,
        /// The element.
        index: usize,
        /// What it should be.
        expected: &'static str,
    },
}
