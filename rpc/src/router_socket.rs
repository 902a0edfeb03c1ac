//! The ROUTER socket of a frontend, with the options and calls that only Clipper's build of libzmq
//! has.
//!
//! Owned by the router's task. `libzmq/README.md` says what the build changes. Invariant: a peer's
//! id is of the socket's making and never used again for a later connection, whatever the peer
//! claims.

use std::fmt;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::time::Duration;

use bytes::Bytes;
use zmq::{DONTWAIT, SNDMORE};

use crate::codec::Frames;
use crate::endpoint;
use crate::multipart::{self, Routed};

/// The largest message that is accepted of a registered container, all its frames together, in
/// bytes. libzmq drops the connection of a peer that sends a larger one, or one of more than 64
/// frames.
const MAX_MESSAGE_BYTES: i64 = 256 << 20;
/// The largest message that is accepted of a peer that has not registered.
const MAX_STRANGER_MESSAGE_BYTES: i32 = 1 << 20;
/// Messages of a connection that may wait to be read. One of more than 64 KiB counts as several, so
/// that at most 4 MiB and one message wait. A peer that sends more is held back by TCP.
const MAX_WAITING: i32 = 64;
/// Messages for a connection that may wait to be sent: a few batches, each no larger than its
/// model's queue, and heartbeats. A peer that leaves more unread is stuck.
const MAX_UNSENT: i32 = 64;
/// Connections of each endpoint. More are closed at once.
const MAX_CONNECTIONS: i32 = 4096;
/// How long a connection may take to become one of ZeroMQ.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// ZMTP heartbeats, answered by libzmq itself: they find a stopped host or process, not a slow
/// model. A peer that has never answered one, as before ZMTP 3.1, is not held to them.
const ZMTP_HEARTBEAT: Duration = Duration::from_secs(1);
const ZMTP_TIMEOUT: Duration = Duration::from_secs(4);
/// TCP keep-alive, answered by the host of the peer: it finds a host that is gone without a word,
/// after 25 s, whatever its container speaks.
const KEEPALIVE_IDLE_SECONDS: i32 = 10;
const KEEPALIVE_INTERVAL_SECONDS: i32 = 5;
const KEEPALIVE_PROBES: i32 = 3;
/// How long bytes for a peer may stay unacknowledged by its host: keep-alive does not probe
/// meanwhile.
const UNACKNOWLEDGED: Duration = Duration::from_secs(25);
/// How long the last messages may take to leave at shutdown.
const LINGER: Duration = Duration::from_millis(200);

/// The message that libzmq delivers in the name of a peer whose connection has ended, after
/// everything that it sent.
const DISCONNECTED: &[u8] = b"disconnected";

/// Numbers of socket options that the `zmq` crate does not know. Those above 10,000 are of
/// Clipper's build.
const ZMQ_TCP_MAXRT: i32 = 80;
const ZMQ_ROUTER_NOTIFY: i32 = 97;
const ZMQ_NOTIFY_CONNECT: i32 = 1;
const ZMQ_DISCONNECT_MSG: i32 = 111;
const ZMQ_ROUTER_FOREIGN_IDS: i32 = 10001;
const ZMQ_ROUTER_DISCONNECT: i32 = 10002;
const ZMQ_ROUTER_ADMIT: i32 = 10003;
const ZMQ_ROUTER_STRANGER_MAXMSGSIZE: i32 = 10004;
const ZMQ_ROUTER_MAX_CONNECTIONS: i32 = 10005;

/// The bytes of a peer's id.
const ID_BYTES: usize = 5;

/// One connection of a container, as the ROUTER socket names it. Never used again for a later
/// connection.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct PeerId([u8; ID_BYTES]);

#[cfg(test)]
impl From<[u8; ID_BYTES]> for PeerId {
    fn from(id: [u8; ID_BYTES]) -> Self {
        Self(id)
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Something that arrived at the socket.
pub(crate) enum Arrival {
    /// One empty frame: the first of a connection, from libzmq, and nothing that a peer should send
    /// later.
    Empty,
    /// A connection has ended, or its peer pretends so.
    Disconnected,
    /// A message.
    Message {
        frames: Vec<Bytes>,
        /// IP address of the peer, if it was asked for and the peer has one.
        address: Option<String>,
    },
}

/// A ROUTER socket, and the context that it lives in.
pub(crate) struct RouterSocket {
    // Closed in this order: the context waits until its sockets are.
    socket: zmq::Socket,
    _context: zmq::Context,
}

impl RouterSocket {
    /// Binds a TCP address, and the Unix sockets of the same name. Returns the address with the
    /// port that was picked.
    pub(crate) fn bind(address: SocketAddr) -> Result<(Self, SocketAddr), zmq::Error> {
        let context = zmq::Context::new();
        let socket = context.socket(zmq::ROUTER)?;
        socket.set_router_mandatory(true)?;
        socket.set_linger(millis(LINGER))?;
        socket.set_maxmsgsize(MAX_MESSAGE_BYTES)?;
        socket.set_rcvhwm(MAX_WAITING)?;
        socket.set_sndhwm(MAX_UNSENT)?;
        socket.set_backlog(MAX_CONNECTIONS)?;
        socket.set_handshake_ivl(millis(HANDSHAKE_TIMEOUT))?;
        socket.set_heartbeat_ivl(millis(ZMTP_HEARTBEAT))?;
        socket.set_heartbeat_timeout(millis(ZMTP_TIMEOUT))?;
        socket.set_tcp_keepalive(1)?;
        socket.set_tcp_keepalive_idle(KEEPALIVE_IDLE_SECONDS)?;
        socket.set_tcp_keepalive_intvl(KEEPALIVE_INTERVAL_SECONDS)?;
        socket.set_tcp_keepalive_cnt(KEEPALIVE_PROBES)?;
        socket.set_ipv6(address.is_ipv6())?;
        // A domain that nobody authenticates for makes libzmq refuse peers of before ZMTP 3, whose
        // first message it takes without a bound.
        socket.set_zap_domain("clipper")?;
        let mut socket = Self { socket, _context: context };
        socket.set(ZMQ_ROUTER_FOREIGN_IDS, &0_i32.to_ne_bytes())?;
        socket.set(ZMQ_ROUTER_MAX_CONNECTIONS, &MAX_CONNECTIONS.to_ne_bytes())?;
        socket.set(ZMQ_ROUTER_STRANGER_MAXMSGSIZE, &MAX_STRANGER_MESSAGE_BYTES.to_ne_bytes())?;
        socket.set(ZMQ_TCP_MAXRT, &millis(UNACKNOWLEDGED).to_ne_bytes())?;
        socket.set(ZMQ_ROUTER_NOTIFY, &ZMQ_NOTIFY_CONNECT.to_ne_bytes())?;
        socket.set(ZMQ_DISCONNECT_MSG, DISCONNECTED)?;

        let port = if address.port() == 0 { "*".to_owned() } else { address.port().to_string() };
        let host = match address {
            SocketAddr::V4(v4) => v4.ip().to_string(),
            SocketAddr::V6(v6) => format!("[{}]", v6.ip()),
        };
        let socket_ref = &socket.socket;
        socket_ref.bind(&endpoint::tcp(format_args!("{host}:{port}")))?;
        let bound = socket_ref.get_last_endpoint()?.unwrap_or_default();
        let address = bound.strip_prefix("tcp://").and_then(|bound| bound.parse().ok()).unwrap_or(address);
        for endpoint in endpoint::local(address) {
            socket_ref.bind(&endpoint)?;
        }
        Ok((socket, address))
    }

    /// The descriptor that tells when the socket may have something to read, or a peer to write to.
    pub(crate) fn descriptor(&self) -> Result<RawFd, zmq::Error> {
        self.socket.get_fd()
    }

    /// The next arrival, if there is one. Never blocks. `is_new` says whether the address of a peer
    /// is asked for.
    pub(crate) fn receive(&self, is_new: impl FnOnce(&PeerId) -> bool) -> Option<(PeerId, Arrival)> {
        let peer = |identity: &[u8]| PeerId(identity.try_into().expect("the socket makes up the ids"));
        let Routed { identity, address, frames } =
            multipart::receive_from(&self.socket, |identity| is_new(&peer(identity)))?;
        let arrival = match &*frames {
            [only] if only.is_empty() => Arrival::Empty,
            [only] if only == DISCONNECTED => Arrival::Disconnected,
            _ => Arrival::Message { frames, address },
        };
        Some((peer(&identity), arrival))
    }

    /// Sends a message. Never blocks.
    ///
    /// # Errors
    /// `EHOSTUNREACH` if the connection is gone, `EAGAIN` if the messages for it fill its queue.
    pub(crate) fn send(&self, peer: &PeerId, frames: Frames) -> Result<(), zmq::Error> {
        let more = DONTWAIT | SNDMORE;
        self.socket.send(&peer.0[..], more)?;
        self.socket.send(zmq::Message::new(), more)?;
        match frames.payload {
            None => self.socket.send(message(frames.header), DONTWAIT),
            Some(payload) => {
                self.socket.send(message(frames.header), more)?;
                self.socket.send(message(payload), DONTWAIT)
            }
        }
    }

    /// Accepts large messages of a peer from now on.
    pub(crate) fn admit(&mut self, peer: &PeerId) {
        // Fails only if the connection is gone.
        let _ = self.set(ZMQ_ROUTER_ADMIT, &peer.0);
    }

    /// Closes the connection of a peer. What it sent and was not received yet is dropped, as is
    /// what waits for it.
    pub(crate) fn disconnect(&mut self, peer: &PeerId) {
        // Fails only if the connection is gone.
        let _ = self.set(ZMQ_ROUTER_DISCONNECT, &peer.0);
    }

    #[allow(unsafe_code, reason = "the `zmq` crate sets only options that it knows")]
    fn set(&mut self, option: i32, value: &[u8]) -> Result<(), zmq::Error> {
        // SAFETY: the socket is open, and libzmq reads `value.len()` bytes of `value` and keeps no
        // pointer.
        let result = unsafe {
            zmq_sys::zmq_setsockopt(self.socket.as_mut_ptr(), option, value.as_ptr().cast(), value.len())
        };
        if result == 0 { Ok(()) } else { Err(zmq::Error::from_raw(errno())) }
    }
}

/// Why the last call of libzmq failed.
#[allow(unsafe_code, reason = "the `zmq` crate keeps this call to itself")]
fn errno() -> i32 {
    // SAFETY: it takes no arguments and reads a variable of the thread.
    unsafe { zmq_sys::zmq_errno() }
}

/// Without a copy where the bytes are not shared.
fn message(bytes: Bytes) -> zmq::Message {
    Vec::from(bytes).into()
}

fn millis(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis()).expect("socket timeouts are a few seconds")
}
