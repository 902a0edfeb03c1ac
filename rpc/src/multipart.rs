//! The frames of a message off a ZeroMQ socket, without a copy.
//!
//! Called by the ends of the protocol that own a socket. Invariant: what is left of a message that has more frames than
//! any valid one is read and dropped, so that the next message begins where it should.

use bytes::Bytes;
use zmq::DONTWAIT;

/// The frames of a message that are kept: one more than any valid message has, so that excess is noticed.
const MAX_FRAMES: usize = 4;

/// The frames of the next message, if one has arrived. Never blocks.
pub(crate) fn receive(socket: &zmq::Socket) -> Option<Vec<Bytes>> {
    let mut frame = socket.recv_msg(DONTWAIT).ok()?;
    let mut frames = Vec::with_capacity(MAX_FRAMES);
    loop {
        let more = frame.get_more();
        if frames.len() < MAX_FRAMES {
            frames.push(Bytes::from_owner(Frame(frame)));
        }
        if !more {
            return Some(frames);
        }
        // A message arrives as a whole, so the rest of it is there.
        frame = socket.recv_msg(DONTWAIT).ok()?;
    }
}

/// Lets what was received be shared without copying it.
struct Frame(zmq::Message);

impl AsRef<[u8]> for Frame {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}
