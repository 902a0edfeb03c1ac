//! The frontend's end of the container protocol: one thread around a ROUTER socket.
//!
//! A ZeroMQ socket must not leave its thread, so everybody else hands messages to a [`RouterHandle`] and hears through
//! a [`Reception`]. The thread sleeps in one poll over the socket, the socket's monitor and a pipe; a sender writes to
//! the pipe only if the thread sleeps. Invariant: while a command is queued, the thread is awake or the pipe is readable.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tracing::{debug, warn};
use zmq::{DONTWAIT, POLLIN, SNDMORE, SocketEvent};

use crate::codec::{CodecError, Frames};
use crate::message::{FromContainer, ToContainer};

/// Messages taken from the socket before queued sends get their turn.
const RECEIVE_BURST: usize = 256;
/// The frames of a message that are kept: one more than any valid message has, so that excess is noticed.
const MAX_FRAMES: usize = 4;
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

/// Who hears what arrives. Called on the router's thread, so it must not block.
pub trait Reception: Send + 'static {
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
    context: zmq::Context,
    socket: zmq::Socket,
    monitor: zmq::Socket,
    address: SocketAddr,
    wake: PipeReader,
    handle: RouterHandle,
}

/// The running thread. [`RouterHandle::shut_down`] ends it.
pub struct Router {
    thread: JoinHandle<()>,
}

/// Sends to containers from any thread. Cheap to clone.
#[derive(Clone)]
pub struct RouterHandle {
    shared: Arc<Shared>,
}

struct Shared {
    /// Commands not yet seen by the thread. Held for a push or a swap.
    commands: Mutex<VecDeque<Command>>,
    /// Whether the thread is, or is about to be, in its poll.
    sleeping: AtomicBool,
    wake: PipeWriter,
}

enum Command {
    Send { peer: PeerId, frames: Frames },
    ShutDown,
}

impl BoundRouter {
    /// Binds a TCP address; port 0 takes a free one.
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
        socket.bind(&format!("tcp://{host}:{port}"))?;
        let endpoint = socket.get_last_endpoint()?.unwrap_or_default();
        let bound = endpoint.strip_prefix("tcp://").and_then(|bound| bound.parse().ok());
        let (wake, writer) = std::io::pipe().map_err(|_| zmq::Error::EMFILE)?;
        let shared = Shared { commands: Mutex::default(), sleeping: AtomicBool::new(false), wake: writer };
        Ok(Self {
            context,
            socket,
            monitor,
            address: bound.unwrap_or(address),
            wake,
            handle: RouterHandle { shared: Arc::new(shared) },
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

    /// Starts the thread.
    pub fn start(self, reception: impl Reception) -> Router {
        let worker = Worker {
            socket: self.socket,
            monitor: self.monitor,
            wake: self.wake,
            shared: self.handle.shared,
            peers: HashSet::new(),
            probes: VecDeque::new(),
            reception,
            _context: self.context,
        };
        let thread = std::thread::Builder::new()
            .name("router".to_owned())
            .spawn(move || worker.run())
            .expect("the process can start one more thread");
        Router { thread }
    }
}

impl Router {
    /// Waits for the end of the thread. Blocks.
    pub fn join(self) {
        if self.thread.join().is_err() {
            warn!("the router thread panicked");
        }
    }
}

impl RouterHandle {
    /// Sends a message. That the peer is gone is heard through [`Reception::lost`].
    pub fn send(&self, peer: &PeerId, message: &ToContainer) {
        self.push(Command::Send { peer: peer.clone(), frames: message.encode() });
    }

    /// Ends the thread, after everything that was sent before.
    pub fn shut_down(&self) {
        self.push(Command::ShutDown);
    }

    fn push(&self, command: Command) {
        self.shared.lock().push_back(command);
        if self.shared.sleeping.swap(false, Ordering::SeqCst) {
            // Fails only if the thread is gone, and then there is nobody to wake.
            let _ = (&self.shared.wake).write_all(&[0]);
        }
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Command>> {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Worker<R> {
    socket: zmq::Socket,
    monitor: zmq::Socket,
    wake: PipeReader,
    shared: Arc<Shared>,
    /// Peers that were sent to and are not known to be gone.
    peers: HashSet<PeerId>,
    /// When to look for the dead, in order.
    probes: VecDeque<Instant>,
    reception: R,
    /// Dropped last: it waits until the sockets are closed.
    _context: zmq::Context,
}

impl<R: Reception> Worker<R> {
    fn run(mut self) {
        loop {
            let commands = std::mem::take(&mut *self.shared.lock());
            let mut busy = !commands.is_empty();
            for command in commands {
                match command {
                    Command::Send { peer, frames } => self.send(peer, frames),
                    Command::ShutDown => return,
                }
            }
            busy |= self.receive();
            self.watch();
            if !busy {
                self.sleep();
            }
        }
    }

    fn sleep(&mut self) {
        self.shared.sleeping.store(true, Ordering::SeqCst);
        if !self.shared.lock().is_empty() {
            self.shared.sleeping.store(false, Ordering::SeqCst);
            return;
        }
        let timeout = match self.probes.front() {
            Some(&at) => {
                i64::try_from(at.saturating_duration_since(Instant::now()).as_millis()).unwrap_or(0) + 1
            }
            None => -1,
        };
        let mut items = [
            self.socket.as_poll_item(POLLIN),
            self.monitor.as_poll_item(POLLIN),
            zmq::PollItem::from_fd(self.wake.as_raw_fd(), POLLIN),
        ];
        if let Err(error) = zmq::poll(&mut items, timeout)
            && error != zmq::Error::EINTR
        {
            warn!(%error, "cannot poll the container socket");
        }
        let woken = items[2].is_readable();
        self.shared.sleeping.store(false, Ordering::SeqCst);
        if woken {
            let _ = self.wake.read(&mut [0; 64]);
        }
    }

    /// Takes a burst of messages; whether there were any.
    fn receive(&mut self) -> bool {
        for received in 0..RECEIVE_BURST {
            let Ok(identity) = self.socket.recv_msg(DONTWAIT) else {
                return received > 0;
            };
            let peer = PeerId(Arc::from(&*identity));
            let mut frames = Vec::with_capacity(MAX_FRAMES);
            let mut more = identity.get_more();
            while more {
                match self.socket.recv_msg(DONTWAIT) {
                    Ok(frame) => {
                        more = frame.get_more();
                        if frames.len() < MAX_FRAMES {
                            frames.push(Bytes::from_owner(OwnedMessage(frame)));
                        }
                    }
                    Err(_) => break,
                }
            }
            let message = Frames::from_multipart(frames).and_then(|frames| FromContainer::decode(&frames));
            self.reception.received(peer, message);
        }
        true
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

    /// Looks for peers that have gone, if a connection broke lately.
    fn watch(&mut self) {
        let mut broken = false;
        while self.monitor.recv_msg(DONTWAIT).is_ok() {
            broken = true;
        }
        let now = Instant::now();
        if broken {
            self.probes = PROBE_DELAYS.iter().map(|&delay| now + delay).collect();
        }
        if self.probes.front().is_some_and(|&at| at <= now) {
            self.probes.pop_front();
            debug!(peers = self.peers.len(), "a connection broke, looking whose");
            let heartbeat = ToContainer::Heartbeat { frontends: None }.encode();
            for peer in self.peers.clone() {
                self.send(peer, heartbeat.clone());
            }
        }
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

/// Lets received bytes be shared without copying them.
struct OwnedMessage(zmq::Message);

impl AsRef<[u8]> for OwnedMessage {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}
