//! The frontend's end of the container protocol: one task around a ROUTER socket.
//!
//! A ZeroMQ socket must not leave its thread, so everybody else hands messages to a
//! [`RouterHandle`] and hears through a [`Reception`]. The task sleeps until the socket's file
//! descriptor, a command or a stranger's end wakes it: where those who send and hear run on the
//! same thread, a batch costs no switch between threads here. Invariant: before it sleeps the
//! socket was read until it had nothing, after its readiness was cleared; so no edge of the
//! descriptor is missed.
//!
//! libzmq itself tells of each connection that comes or goes, so neither costs the others anything.

use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::time::Instant;

use bytes::Bytes;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tracing::{debug, warn};

use crate::codec::{CodecError, Frames};
use crate::message::ToContainer;
use crate::peers::Peers;
pub use crate::router_socket::PeerId;
use crate::router_socket::{Arrival, RouterSocket};

/// Messages taken from the socket before queued sends get their turn.
const RECEIVE_BURST: usize = 256;
/// Bytes of messages after which they do, too.
const RECEIVE_BURST_BYTES: usize = 8 << 20;

/// Who hears what arrives. Called by the router's task, so it must not block.
pub trait Reception {
    /// Takes a message of a peer, or something that is none. Returns the peer's standing from now
    /// on.
    fn received(&mut self, peer: PeerId, message: Result<Frames, CodecError>) -> Standing;

    /// Takes the IP address of a peer, before its first message. Not called for peers that come
    /// over a Unix socket. Called again when a peer registers anew.
    fn located(&mut self, _peer: &PeerId, _address: String) {}

    /// A peer is gone: nothing reaches it any more, and nothing will come from it.
    fn lost(&mut self, peer: PeerId, loss: Loss);
}

/// Whether a peer may stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It has registered: it may stay, and send large messages.
    Registered,
    /// It has not: it may stay for a few seconds and send a few small messages.
    Stranger,
}

/// How a peer was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Loss {
    /// Its connection broke or was closed.
    #[error("its connection broke")]
    Disconnected,
    /// It stopped reading, and the messages for it fill its queue.
    #[error("it does not read what it is sent")]
    Stuck,
}

/// The address cannot be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen for containers on {address}")]
pub struct BindError {
    address: SocketAddr,
    source: zmq::Error,
}

/// A ROUTER socket that is bound, so that its port is known and containers may connect, but is not
/// served yet.
pub struct BoundRouter {
    socket: RouterSocket,
    address: SocketAddr,
    handle: RouterHandle,
    commands: mpsc::UnboundedReceiver<Command>,
}

/// Sends to containers from any thread. Cheap to clone.
///
/// Its channel has no bound of its own. It holds what the connections' actors and the reception say
/// in one turn of the router's task, which takes all of it before it receives more.
#[derive(Clone)]
pub struct RouterHandle {
    commands: mpsc::UnboundedSender<Command>,
}

enum Command {
    Send { peer: PeerId, frames: Frames },
    Release { peer: PeerId },
    ShutDown,
}

impl BoundRouter {
    /// Binds a TCP address, and the Unix sockets of the same name; port 0 takes a free one.
    ///
    /// # Errors
    /// If the address is in use or not of this host.
    pub fn bind(address: SocketAddr) -> Result<Self, BindError> {
        let (socket, address) =
            RouterSocket::bind(address).map_err(|source| BindError { address, source })?;
        let (sender, commands) = mpsc::unbounded_channel();
        Ok(Self { socket, address, handle: RouterHandle { commands: sender }, commands })
    }

    /// Where it listens, with the port that was picked.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// For sending, once it is started; commands given before wait until then.
    pub fn handle(&self) -> RouterHandle {
        self.handle.clone()
    }

    /// Serves until it is told to shut down. Must run in a tokio runtime.
    ///
    /// # Errors
    /// If the sockets cannot be waited for.
    pub async fn serve(self, reception: impl Reception) -> std::io::Result<()> {
        let Self { socket, mut commands, .. } = self;
        Worker { socket, peers: Peers::default(), reception }.run(&mut commands).await
    }
}

impl RouterHandle {
    /// Sends a message. That the peer is gone is heard through [`Reception::lost`].
    pub fn send(&self, peer: &PeerId, message: &ToContainer) {
        self.push(Command::Send { peer: peer.clone(), frames: message.encode() });
    }

    /// Ends the registration of a peer. Its connection is closed after some seconds, unless it
    /// registers again.
    pub fn release(&self, peer: &PeerId) {
        self.push(Command::Release { peer: peer.clone() });
    }

    /// Ends the task, after everything that was sent before.
    pub fn shut_down(&self) {
        self.push(Command::ShutDown);
    }

    fn push(&self, command: Command) {
        // Fails only if the task has ended, and then there is nobody to send to.
        let _ = self.commands.send(command);
    }
}

/// What the task works with.
struct Worker<R> {
    socket: RouterSocket,
    peers: Peers,
    reception: R,
}

impl<R: Reception> Worker<R> {
    async fn run(&mut self, commands: &mut mpsc::UnboundedReceiver<Command>) -> std::io::Result<()> {
        let events = readable(self.socket.descriptor()?)?;
        loop {
            while let Ok(command) = commands.try_recv() {
                if !self.carry_out(command) {
                    return Ok(());
                }
            }
            if !self.receive() {
                // Those who hear have their turn, too.
                tokio::task::yield_now().await;
                continue;
            }
            tokio::select! {
                biased;
                command = commands.recv() => {
                    if !command.is_some_and(|command| self.carry_out(command)) {
                        return Ok(());
                    }
                }
                ready = events.readable() => ready?.clear_ready(),
                () = end_of(self.peers.next_end()) => self.disconnect_overdue(),
            }
        }
    }

    /// Returns whether to go on.
    fn carry_out(&mut self, command: Command) -> bool {
        match command {
            Command::Send { peer, frames } => self.send(peer, frames),
            Command::Release { peer } => self.peers.released(&peer, Instant::now()),
            Command::ShutDown => return false,
        }
        true
    }

    /// Takes a burst of messages; whether there are no more.
    fn receive(&mut self) -> bool {
        let mut bytes = 0;
        for _ in 0..RECEIVE_BURST {
            let Some((peer, arrival)) = self.socket.receive(|peer| self.peers.is_new(peer)) else {
                return true;
            };
            if let Arrival::Disconnected = arrival {
                self.lose(peer, Loss::Disconnected);
                continue;
            }
            if !self.peers.contains(&peer) {
                if let Some(oldest) = self.peers.connected(peer.clone(), Instant::now()) {
                    debug!(peer = %oldest, "too many connections without a registration, closing the oldest");
                    self.lose(oldest, Loss::Disconnected);
                }
                if let Arrival::Empty = arrival {
                    continue;
                }
            }
            let frames = match arrival {
                Arrival::Message { frames, address } => {
                    if let Some(address) = address {
                        self.reception.located(&peer, address);
                    }
                    frames
                }
                Arrival::Empty | Arrival::Disconnected => vec![Bytes::new()],
            };
            bytes += frames.iter().map(Bytes::len).sum::<usize>();
            self.hear(peer, Frames::from_multipart(frames));
            if bytes > RECEIVE_BURST_BYTES {
                break;
            }
        }
        false
    }

    fn hear(&mut self, peer: PeerId, message: Result<Frames, CodecError>) {
        match self.reception.received(peer.clone(), message) {
            Standing::Registered => {
                if self.peers.registered(&peer) {
                    self.socket.admit(&peer);
                }
            }
            Standing::Stranger => {
                if self.peers.heard_stranger(&peer, Instant::now()) {
                    debug!(%peer, "too many messages without a registration");
                    self.lose(peer, Loss::Disconnected);
                }
            }
        }
    }

    fn send(&mut self, peer: PeerId, frames: Frames) {
        match self.socket.send(&peer, frames) {
            Ok(()) => {}
            // That its connection has ended comes after the last message that it sent, perhaps
            // still to be received.
            Err(zmq::Error::EHOSTUNREACH) => debug!(%peer, "a message for a connection that has ended"),
            Err(zmq::Error::EAGAIN) => self.lose(peer, Loss::Stuck),
            Err(error) => warn!(%peer, %error, "cannot send to a container"),
        }
    }

    /// Closes a connection, unless it has ended by itself.
    fn lose(&mut self, peer: PeerId, loss: Loss) {
        self.socket.disconnect(&peer);
        if self.peers.remove(&peer) {
            self.reception.lost(peer, loss);
        }
    }

    /// Closes the connections that have gone without a registration for too long.
    fn disconnect_overdue(&mut self) {
        while let Some(peer) = self.peers.overdue(Instant::now()) {
            debug!(%peer, "no registration in time");
            self.lose(peer, Loss::Disconnected);
        }
    }
}

/// Tells when a socket may have something to read, or a peer to write to.
#[allow(
    deprecated,
    reason = "the successor wants a descriptor with an owner, which libzmq does not give away"
)]
fn readable(descriptor: RawFd) -> std::io::Result<AsyncFd<RawFd>> {
    AsyncFd::with_interest(descriptor, Interest::READABLE)
}

async fn end_of(wait: Option<Instant>) {
    match wait {
        Some(end) => tokio::time::sleep_until(end.into()).await,
        None => std::future::pending().await,
    }
}
