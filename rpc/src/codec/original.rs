//! The first message of a container of the original Clipper, whose protocol 3 came before this one.
//!
//! Recognised only to say so: nothing else of protocol 3 is understood. A header of this protocol
//! is a map, and the type of a message of protocol 3 is four bytes, so neither is taken for the
//! other.

use bytes::Bytes;

use crate::excerpt::excerpt;

/// Types of messages that a container of protocol 3 sends, as little-endian numbers.
const NEW_CONTAINER: u32 = 0;
const HEARTBEAT: u32 = 2;

/// Recognises a message of protocol 3 by its frames. Returns the name and version of the model, if
/// the message has them.
pub(super) fn recognise(frames: &[Bytes]) -> Option<Option<String>> {
    let [empty, kind, rest @ ..] = frames else { return None };
    let kind = u32::from_le_bytes(kind[..].try_into().ok()?);
    if !empty.is_empty() || kind > HEARTBEAT {
        return None;
    }
    let text = |frame: &Bytes| excerpt(&String::from_utf8_lossy(frame)).into_owned();
    match rest {
        [name, version, ..] if kind == NEW_CONTAINER => {
            Some(Some(format!("{}:{}", text(name), text(version))))
        }
        _ => Some(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{CodecError, Frames};

    fn message(frames: &[&'static [u8]]) -> Result<Frames, CodecError> {
        Frames::from_multipart(frames.iter().map(|frame| Bytes::from_static(frame)).collect())
    }

    #[test]
    fn a_container_of_the_original_is_recognised_by_any_of_its_messages() {
        let said = |model: Option<&str>| Err(CodecError::Protocol3 { model: model.map(str::to_owned) });
        assert_eq!(message(&[b"", b"\x02\0\0\0"]), said(None));
        assert_eq!(
            message(&[b"", b"\0\0\0\0", b"digits", b"1", b"3", b"\x03\0\0\0"]),
            said(Some("digits:1"))
        );
        assert_eq!(message(&[b"", b"\0\0\0\0"]), said(None));
        assert_eq!(message(&[b"", b"\x01\0\0\0", b"\x07\0\0\0", b"", b"", b""]), said(None));
    }

    #[test]
    fn what_is_neither_protocol_is_not_taken_for_the_original() {
        for header in [&b"\x03\0\0\0"[..], b"\x02\0\0", b"\x02\0\0\0\0", b"\x02\0\0\x01", b"\x81\xa1a\x01"] {
            let frames = message(&[b"", header]).expect("its frames are in order");
            assert_eq!(frames.header, header);
        }
        assert_eq!(message(&[b"x", b"\x02\0\0\0"]), Err(CodecError::Frames { found: 2 }));
    }
}
