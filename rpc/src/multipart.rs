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
    let first = socket.recv_msg(DONTWAIT).ok()?;
    let more = first.get_more();
    let mut frames = Vec::with_capacity(MAX_FRAMES);
    frames.push(Bytes::from_owner(Frame(first)));
    receive_rest(socket, more, &mut frames);
    Some(frames)
}

/// A message that has arrived at a ROUTER.
pub(crate) struct Routed {
    /// Identity of the sender.
    pub(crate) identity: zmq::Message,
    /// IP address of the sender, if it was asked for and the sender has one.
    pub(crate) address: Option<String>,
    pub(crate) frames: Vec<Bytes>,
}

/// The next message, if one has arrived at a ROUTER. Never blocks. `is_new` says by the identity
/// whether the address of the sender is asked for.
pub(crate) fn receive_from(socket: &zmq::Socket, is_new: impl FnOnce(&[u8]) -> bool) -> Option<Routed> {
    let identity = socket.recv_msg(DONTWAIT).ok()?;
    let mut frames = Vec::with_capacity(MAX_FRAMES);
    let mut address = None;
    if is_new(&identity)
        && let Ok(mut first) = socket.recv_msg(DONTWAIT)
    {
        address = first.gets("Peer-Address").map(str::to_owned);
        let more = first.get_more();
        frames.push(Bytes::from_owner(Frame(first)));
        receive_rest(socket, more, &mut frames);
    } else {
        receive_rest(socket, identity.get_more(), &mut frames);
    }
    Some(Routed { identity, address, frames })
}

/// A message arrives as a whole, so the rest of it is there.
fn receive_rest(socket: &zmq::Socket, mut more: bool, frames: &mut Vec<Bytes>) {
    while more && let Ok(frame) = socket.recv_msg(DONTWAIT) {
        more = frame.get_more();
        if frames.len() < MAX_FRAMES {
            frames.push(Bytes::from_owner(Frame(frame)));
        }
    }
}

/// Lets what was received be shared without copying it.
struct Frame(zmq::Message);

impl AsRef<[u8]> for Frame {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}
