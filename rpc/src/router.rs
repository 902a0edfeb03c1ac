//! The frontend's end of the container protocol: one task around a ROUTER socket.
//!
//! A ZeroMQ socket must not leave its thread, so everybody else hands messages to a [`RouterHandle`] and hears through
//! a [`Reception`]. The task sleeps until the socket's or its monitor's file descriptor, a command or a probe wakes it: where those
//! who send and hear run on the same thread, a batch costs no switch between threads here. Invariant: before it sleeps the
//! sockets were read until they had nothing, after their readiness was cleared; so no edge of the descriptors is missed.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tracing::{debug, warn};
use zmq::{DONTWAIT, SNDMORE, SocketEvent};

use crate::codec::{CodecError, Frames};
use crate::endpoint;
use crate::message::{FromContainer, ToContainer};
use crate::multipart;

/// Messages taken from the socket before queued sends get their turn.
const RECEIVE_BURST: usize = 256;
/// The largest message that is accepted, in bytes; libzmq drops the connection of whoever sends a larger one.
const MAX_MESSAGE_BYTES: i64 = 256 << 20;
/// ZMTP heartbeats, answered by libzmq itself: they find a stopped host or process, not a slow model.
const ZMTP_HEARTBEAT: Duration = Duration::from_secs(1);
const ZMTP_TIMEOUT: Duration = Duration::from_secs(4);
/// When to probe the peers after a connection broke: the monitor may tell of it before the socket has dropped the peer.
const PROBE_DELAYS: [Duration; 3] = [Duration::ZERO, Duration::from_millis(5), Duration::from_millis(50)];
/// How long the last messages may take to leave at shutdown.
const LINGER: Duration = Duration::from_millis(200);

/// One connection of a container, as the ROUTER socket names it. Never used again for a later connection.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct PeerId(Arc<[u8]>);

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

/// Who hears what arrives. Called by the router's task, so it must not block.
pub trait Reception {
    /// A message arrived, or something that is none.
    fn received(&mut self, peer: PeerId, message: Result<FromContainer, CodecError>);

    /// A peer that was sent to is gone: nothing reaches it any more, and nothing will come from it.
    fn lost(&mut self, peer: PeerId, loss: Loss);
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

/// A ROUTER socket that is bound, so that its port is known and containers may connect, but is not served yet.
pub struct BoundRouter {
    // Closed in this order: the context waits until the sockets are.
    socket: zmq::Socket,
    monitor: zmq::Socket,
    _context: zmq::Context,
    address: SocketAddr,
    handle: RouterHandle,
    commands: mpsc::UnboundedReceiver<Command>,
}

/// Sends to containers from any thread. Cheap to clone.
#[derive(Clone)]
pub struct RouterHandle {
    commands: mpsc::UnboundedSender<Command>,
}

enum Command {
    Send { peer: PeerId, frames: Frames },
    ShutDown,
}

impl BoundRouter {
    /// Binds a TCP address, and the Unix sockets of the same name; port 0 takes a free one.
    ///
    /// # Errors
    /// If the address is in use or not of this host.
    pub fn bind(address: SocketAddr) -> Result<Self, BindError> {
        Self::try_bind(address).map_err(|source| BindError { address, source })
    }

    fn try_bind(address: SocketAddr) -> Result<Self, zmq::Error> {
        let context = zmq::Context::new();
        let socket = context.socket(zmq::ROUTER)?;
        socket.set_router_mandatory(true)?;
        socket.set_linger(millis(LINGER))?;
        socket.set_maxmsgsize(MAX_MESSAGE_BYTES)?;
        socket.set_heartbeat_ivl(millis(ZMTP_HEARTBEAT))?;
        socket.set_heartbeat_timeout(millis(ZMTP_TIMEOUT))?;
        socket.set_ipv6(address.is_ipv6())?;
        let monitor_endpoint = "inproc://router-monitor";
        socket.monitor(monitor_endpoint, SocketEvent::DISCONNECTED as i32)?;
        let monitor = context.socket(zmq::PAIR)?;
        monitor.connect(monitor_endpoint)?;
        let port = if address.port() == 0 { "*".to_owned() } else { address.port().to_string() };
        let host = match address {
            SocketAddr::V4(v4) => v4.ip().to_string(),
            SocketAddr::V6(v6) => format!("[{}]", v6.ip()),
        };
        socket.bind(&endpoint::tcp(format_args!("{host}:{port}")))?;
        let bound = socket.get_last_endpoint()?.unwrap_or_default();
        let address = bound.strip_prefix("tcp://").and_then(|bound| bound.parse().ok()).unwrap_or(address);
        for endpoint in endpoint::local(address) {
            socket.bind(&endpoint)?;
        }
        let (sender, commands) = mpsc::unbounded_channel();
        Ok(Self {
            socket,
            monitor,
            _context: context,
            address,
            handle: RouterHandle { commands: sender },
            commands,
        })
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
        let Self { socket, monitor, _context, mut commands, .. } = self;
        let (peers, probes) = (HashSet::new(), VecDeque::new());
        let mut worker = Worker { socket, monitor, _context, peers, probes, reception };
        worker.run(&mut commands).await
    }
}

impl RouterHandle {
    /// Sends a message. That the peer is gone is heard through [`Reception::lost`].
    pub fn send(&self, peer: &PeerId, message: &ToContainer) {
        self.push(Command::Send { peer: peer.clone(), frames: message.encode() });
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
    socket: zmq::Socket,
    monitor: zmq::Socket,
    _context: zmq::Context,
    /// Peers that were sent to and are not known to be gone.
    peers: HashSet<PeerId>,
    /// When to look for the dead, in order.
    probes: VecDeque<Instant>,
    reception: R,
}

impl<R: Reception> Worker<R> {
    async fn run(&mut self, commands: &mut mpsc::UnboundedReceiver<Command>) -> std::io::Result<()> {
        let socket_events = readable(&self.socket)?;
        let monitor_events = readable(&self.monitor)?;
        // A socket that was never found empty says nothing of its first message.
        self.plan_probes();
        loop {
            while let Ok(command) = commands.try_recv() {
                match command {
                    Command::Send { peer, frames } => self.send(peer, frames),
                    Command::ShutDown => return Ok(()),
                }
            }
            if !self.receive() {
                // Those who hear have their turn, too.
                tokio::task::yield_now().await;
                continue;
            }
            let probe = self.probes.front().copied();
            tokio::select! {
                biased;
                ready = monitor_events.readable() => {
                    ready?.clear_ready();
                    self.plan_probes();
                }
                () = probe_due(probe) => self.probe(),
                command = commands.recv() => match command {
                    Some(Command::Send { peer, frames }) => self.send(peer, frames),
                    Some(Command::ShutDown) | None => return Ok(()),
                },
                ready = socket_events.readable() => ready?.clear_ready(),
            }
        }
    }

    /// Takes a burst of messages; whether there are no more.
    fn receive(&mut self) -> bool {
        for _ in 0..RECEIVE_BURST {
            let Some((identity, frames)) = multipart::receive_from(&self.socket) else {
                return true;
            };
            let peer = PeerId(Arc::from(&*identity));
            let message = Frames::from_multipart(frames).and_then(|frames| FromContainer::decode(&frames));
            self.reception.received(peer, message);
        }
        false
    }

    fn send(&mut self, peer: PeerId, frames: Frames) {
        match send_to(&self.socket, &peer, frames) {
            Ok(()) => drop(self.peers.insert(peer)),
            Err(zmq::Error::EHOSTUNREACH) => self.lose(peer, Loss::Disconnected),
            Err(zmq::Error::EAGAIN) => self.lose(peer, Loss::Stuck),
            Err(error) => warn!(%peer, %error, "cannot send to a container"),
        }
    }

    fn lose(&mut self, peer: PeerId, loss: Loss) {
        self.peers.remove(&peer);
        self.reception.lost(peer, loss);
    }

    /// Notes when to look for peers that have gone, if a connection broke.
    fn plan_probes(&mut self) {
        let mut broken = false;
        while self.monitor.recv_msg(DONTWAIT).is_ok() {
            broken = true;
        }
        if broken {
            let now = Instant::now();
            self.probes = PROBE_DELAYS.iter().map(|&delay| now + delay).collect();
        }
    }

    /// Looks for peers that have gone.
    fn probe(&mut self) {
        self.probes.pop_front();
        debug!(peers = self.peers.len(), "a connection broke, looking whose");
        let heartbeat = ToContainer::Heartbeat { frontends: None }.encode();
        for peer in self.peers.clone() {
            self.send(peer, heartbeat.clone());
        }
    }
}

/// Tells when a socket may have something to read, or a peer to write to.
#[allow(
    deprecated,
    reason = "the successor wants a descriptor with an owner, which libzmq does not give away"
)]
fn readable(socket: &zmq::Socket) -> std::io::Result<AsyncFd<RawFd>> {
    AsyncFd::with_interest(socket.get_fd()?, Interest::READABLE)
}

async fn probe_due(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

fn send_to(socket: &zmq::Socket, peer: &PeerId, frames: Frames) -> Result<(), zmq::Error> {
    let more = DONTWAIT | SNDMORE;
    socket.send(&*peer.0, more)?;
    socket.send(zmq::Message::new(), more)?;
    match frames.payload {
        None => socket.send(message(frames.header), DONTWAIT),
        Some(payload) => {
            socket.send(message(frames.header), more)?;
            socket.send(message(payload), DONTWAIT)
        }
    }
}

/// Without a copy where the bytes are not shared.
fn message(bytes: Bytes) -> zmq::Message {
    Vec::from(bytes).into()
}

fn millis(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis()).expect("socket timeouts are a few seconds")
}
