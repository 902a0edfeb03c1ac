//! What a peer can do to a router with bytes of its own making, below the messages of the protocol.
//!
//! libzmq runs in the process of these tests: if a peer could make it abort, they would all end.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use clipper_rpc::codec::{CodecError, Frames};
use clipper_rpc::input::InputType;
use clipper_rpc::message::{FromContainer, Introduction, Register, ToContainer};
use clipper_rpc::router::{BoundRouter, Loss, PeerId, Reception, RouterHandle, Standing};

/// Longer than anything takes.
const LIMIT: Duration = Duration::from_secs(60);

/// Flags of a ZMTP frame.
const LAST: u8 = 0;
const MORE: u8 = 1;
const LARGE: u8 = 2;
const COMMAND: u8 = 4;

#[derive(Debug)]
enum Heard {
    Registered(PeerId),
    Message(PeerId, Result<Frames, CodecError>),
    Lost(PeerId, Loss),
}

/// Registers every peer that asks for it. Hears nothing while its gate is shut.
struct Doorman {
    heard: Sender<Heard>,
    registered: Vec<PeerId>,
    gate: Option<Receiver<()>>,
}

impl Reception for Doorman {
    fn received(&mut self, peer: PeerId, message: Result<Frames, CodecError>) -> Standing {
        if let Some(gate) = self.gate.take() {
            gate.recv().expect("the test opens the gate");
        }
        let introduction = message.clone().and_then(|frames| Introduction::decode(&frames));
        if let Ok(Introduction::Register(_)) = introduction {
            self.registered.push(peer.clone());
            let _ = self.heard.send(Heard::Registered(peer));
            return Standing::Registered;
        }
        let known = self.registered.contains(&peer);
        // The test may be over.
        let _ = self.heard.send(Heard::Message(peer, message));
        if known { Standing::Registered } else { Standing::Stranger }
    }

    fn lost(&mut self, peer: PeerId, loss: Loss) {
        let _ = self.heard.send(Heard::Lost(peer, loss));
    }
}

struct Frontend {
    address: SocketAddr,
    handle: RouterHandle,
    heard: Receiver<Heard>,
    router: Option<JoinHandle<()>>,
}

impl Frontend {
    fn start() -> Self {
        Self::with_gate(None)
    }

    fn with_gate(gate: Option<Receiver<()>>) -> Self {
        let bound = BoundRouter::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port is free");
        let (sender, heard) = channel();
        let (address, handle) = (bound.address(), bound.handle());
        let router = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.expect("a runtime needs a few descriptors");
            let doorman = Doorman { heard: sender, registered: Vec::new(), gate };
            runtime.block_on(bound.serve(doorman)).expect("its sockets can be waited for");
        });
        Self { address, handle, heard, router: Some(router) }
    }

    fn connect(&self) -> RawPeer {
        RawPeer::connect(self.address)
    }

    /// A peer that has registered, and its id.
    fn registered(&self) -> (RawPeer, PeerId) {
        let mut peer = self.connect();
        peer.say(&register());
        let id = self.hear(|heard| match heard {
            Heard::Registered(id) => Some(id),
            _ => None,
        });
        (peer, id)
    }

    fn hear<T>(&self, mut wanted: impl FnMut(Heard) -> Option<T>) -> T {
        loop {
            let heard = self.heard.recv_timeout(LIMIT).expect("the router tells what it heard");
            if let Some(found) = wanted(heard) {
                return found;
            }
        }
    }

    fn lost(&self, wanted: &PeerId) -> Loss {
        self.hear(|heard| match heard {
            Heard::Lost(peer, loss) if peer == *wanted => Some(loss),
            _ => None,
        })
    }

    /// Checks that another peer is heard and answered.
    fn assert_serves(&self) {
        let (mut peer, id) = self.registered();
        self.handle.send(&id, &ToContainer::Drain);
        peer.message();
    }
}

impl Drop for Frontend {
    fn drop(&mut self) {
        self.handle.shut_down();
        self.router.take().expect("it is taken here only").join().expect("it does not panic");
    }
}

fn register() -> FromContainer {
    FromContainer::Register(Register {
        protocol: 4,
        model: "m".into(),
        version: "1".into(),
        input_type: InputType::Doubles,
        token: None,
        max_batch_size: None,
        replica: None,
        sdk: None,
        instance: None,
    })
}

/// A TCP connection on which the test speaks ZMTP by hand.
struct RawPeer(TcpStream);

impl RawPeer {
    /// Connects, and says nothing.
    fn silent(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the router listens");
        stream.set_read_timeout(Some(LIMIT)).expect("it is a time");
        Self(stream)
    }

    /// Connects, and completes the handshake of a DEALER.
    fn connect(address: SocketAddr) -> Self {
        let mut peer = Self::silent(address);
        peer.bytes(&greeting(3));
        peer.bytes(&frame(COMMAND, &ready(&[])));
        let mut greeting = [0; 64];
        peer.0.read_exact(&mut greeting).expect("the router greets");
        let (flags, command) = peer.frame();
        assert!(flags & COMMAND != 0 && command.starts_with(b"\x05READY"), "{command:?}");
        peer
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).expect("the router reads");
    }

    /// Sends as much as the router takes before it closes the connection.
    fn bytes_in_vain(&mut self, bytes: &[u8]) {
        // Fails where the router has closed the connection already.
        let _ = self.0.write_all(bytes);
    }

    fn say(&mut self, message: &FromContainer) {
        let frames = message.encode();
        self.bytes(&[frame(MORE, b""), frame(LAST, &frames.header)].concat());
    }

    /// The next frame, and its flags; none if the router has closed the connection.
    fn try_frame(&mut self) -> std::io::Result<(u8, Vec<u8>)> {
        let mut flags = [0];
        self.0.read_exact(&mut flags)?;
        let length = if flags[0] & LARGE == 0 {
            let mut length = [0];
            self.0.read_exact(&mut length)?;
            length[0].into()
        } else {
            let mut length = [0; 8];
            self.0.read_exact(&mut length)?;
            usize::try_from(u64::from_be_bytes(length)).expect("the router sends what fits into memory")
        };
        let mut content = vec![0; length];
        self.0.read_exact(&mut content)?;
        Ok((flags[0], content))
    }

    fn frame(&mut self) -> (u8, Vec<u8>) {
        self.try_frame().expect("a frame arrives")
    }

    /// The last frame of the next message.
    fn message(&mut self) -> Vec<u8> {
        loop {
            let (flags, content) = self.frame();
            if flags & (COMMAND | MORE) == 0 {
                return content;
            }
        }
    }

    /// The next command.
    fn command(&mut self) -> Vec<u8> {
        loop {
            let (flags, content) = self.frame();
            if flags & COMMAND != 0 {
                return content;
            }
        }
    }

    /// Waits until the router closes the connection, and answers each PING of libzmq so that it has
    /// no reason to.
    fn assert_closed(&mut self) {
        loop {
            match self.try_frame() {
                Ok((COMMAND, command)) if command.starts_with(b"\x04PING") => {
                    self.bytes_in_vain(&frame(COMMAND, b"\x04PONG"));
                }
                Ok(_) => {}
                Err(error) if is_end(&error) => return,
                Err(error) => panic!("the router should have closed the connection: {error}"),
            }
        }
    }

    /// Waits until the router closes a connection whose handshake is not complete.
    fn assert_refused(&mut self) {
        match self.0.read_to_end(&mut Vec::new()) {
            Ok(_) => {}
            Err(error) => assert!(is_end(&error), "the router should have closed the connection: {error}"),
        }
    }

    /// Checks that the router has not closed the connection.
    fn assert_open(&mut self) {
        self.0.set_nonblocking(true).expect("it is a socket");
        let end = self.0.read_to_end(&mut Vec::new());
        assert_eq!(end.map_err(|error| error.kind()), Err(ErrorKind::WouldBlock));
    }

    /// Ends the connection, and loses nothing of what it said: a socket that is closed while it holds an unread
    /// PING is reset, and what it has not sent yet is gone.
    fn end(mut self) {
        self.0.shutdown(std::net::Shutdown::Write).expect("the connection is open");
        self.assert_closed();
    }

    /// Closes the connection with a TCP reset.
    fn reset(self) {
        let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
        nix::sys::socket::setsockopt(&self.0, nix::sys::socket::sockopt::Linger, &linger)
            .expect("it is a socket");
    }
}

fn is_end(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset)
}

fn greeting(major: u8) -> Vec<u8> {
    [&b"\xff\0\0\0\0\0\0\0\0\x7f"[..], &[major, 1], b"NULL", &[0; 48]].concat()
}

/// A `READY` command with a property of no meaning.
fn ready(padding: &[u8]) -> Vec<u8> {
    let property = |name: &[u8], value: &[u8]| {
        let length = u32::try_from(value.len()).expect("it is short");
        [&[u8::try_from(name.len()).expect("it is short")], name, &length.to_be_bytes(), value].concat()
    };
    [&b"\x05READY"[..], &property(b"Socket-Type", b"DEALER"), &property(b"X-Padding", padding)].concat()
}

fn frame(flags: u8, content: &[u8]) -> Vec<u8> {
    match u8::try_from(content.len()) {
        Ok(length) => [&[flags, length], content].concat(),
        Err(_) => [&head(flags, content.len() as u64)[..], content].concat(),
    }
}

/// The beginning of a large frame that announces so many bytes.
fn head(flags: u8, announced: u64) -> Vec<u8> {
    [&[flags | LARGE][..], &announced.to_be_bytes()].concat()
}

#[test]
fn an_id_that_a_peer_claims_counts_as_none() {
    let frontend = Frontend::start();
    let (_first, first) = frontend.registered();
    let number = u32::from_str_radix(&first.to_string()[2..], 16).expect("an id is 0 and four bytes");
    let next = number.wrapping_add(1).to_be_bytes();
    let claimed = [&[0], &next[..]].concat();
    let context = zmq::Context::new();
    let claim = |id: &[u8]| {
        let socket = context.socket(zmq::DEALER).expect("a context has sockets");
        socket.set_linger(0).expect("0 is a time");
        socket.set_identity(id).expect("it is short");
        socket.connect(&format!("tcp://{}", frontend.address)).expect("it is an address");
        socket.send_multipart([vec![], register().encode().header.to_vec()], 0).expect("there is room");
        let id = frontend.hear(|heard| match heard {
            Heard::Registered(id) => Some(id),
            _ => None,
        });
        (socket, id)
    };
    // The first is the id that the socket gives next. The last two are the same.
    let mut ids = vec![first];
    let peers: Vec<_> = [&claimed[..], b"a", b"a", &[b'x'; 255]]
        .into_iter()
        .map(claim)
        .inspect(|(_, id)| ids.push(id.clone()))
        .collect();
    let (_last, last) = frontend.registered();
    ids.push(last);
    for (index, id) in ids.iter().enumerate() {
        assert_eq!(id.to_string().len(), 10, "{ids:?}");
        assert!(!ids[..index].contains(id), "{ids:?}");
    }
    for ((socket, _), id) in peers.iter().zip(&ids[1..]) {
        frontend.handle.send(id, &ToContainer::Drain);
        assert_eq!(socket.recv_multipart(0).expect("it is sent to")[1], ToContainer::Drain.encode().header);
    }
}

#[test]
fn a_peer_that_is_reset_while_its_messages_wait_ends_nothing_else() {
    let (open, gate) = channel();
    let frontend = Frontend::with_gate(Some(gate));
    for tail in [frame(LAST, b"x"), frame(COMMAND, b"\x04PING\0\0context")] {
        let mut peer = frontend.connect();
        let flood = [frame(MORE, b""), frame(LAST, b"x")].concat().repeat(20);
        peer.bytes(&[flood.repeat(20), tail, flood].concat());
        peer.reset();
    }
    // By its first PING to a later peer, libzmq has tried to send one to each of those.
    let mut later = frontend.connect();
    assert!(later.command().starts_with(b"\x04PING"));
    open.send(()).expect("the router waits at the gate");
    for _ in 0..2 {
        frontend.hear(|heard| matches!(heard, Heard::Lost(_, Loss::Disconnected)).then_some(()));
    }
    frontend.assert_serves();
}

/// Longer than libzmq waits for the answer to a PING.
const WITHOUT_PONG: Duration = Duration::from_secs(8);

#[test]
fn a_peer_that_has_never_answered_a_ping_stays() {
    let frontend = Frontend::start();
    let (mut peer, id) = frontend.registered();
    std::thread::sleep(WITHOUT_PONG);
    peer.assert_open();
    peer.0.set_nonblocking(false).expect("it is a socket");
    frontend.handle.send(&id, &ToContainer::Drain);
    peer.message();
}

#[test]
fn a_peer_that_stops_answering_pings_is_disconnected() {
    let frontend = Frontend::start();
    let (mut peer, id) = frontend.registered();
    peer.bytes(&frame(COMMAND, b"\x04PONG"));
    assert_eq!(frontend.lost(&id), Loss::Disconnected);
    let _ = peer.0.read_to_end(&mut Vec::new());
}

#[test]
fn a_ping_that_is_too_short_is_not_answered() {
    let frontend = Frontend::start();
    let (mut peer, _) = frontend.registered();
    for malformed in [&b"\x04PING"[..], b"\x04PING\0", b"", b"\xff", b"\x04PONG", b"\x05"] {
        peer.bytes(&frame(COMMAND, malformed));
    }
    peer.bytes(&frame(COMMAND, &[&b"\x04PING\0\0"[..], &[b'c'; 40]].concat()));
    let answer = loop {
        let command = peer.command();
        if command.starts_with(b"\x04PONG") {
            break command;
        }
    };
    assert_eq!(answer, [&b"\x04PONG"[..], &[b'c'; 16]].concat());
}

#[test]
fn a_message_of_many_parts_closes_its_connection() {
    let frontend = Frontend::start();
    let (mut peer, id) = frontend.registered();
    peer.bytes(&frame(MORE, b"").repeat(63));
    peer.bytes(&frame(LAST, b""));
    let parts = frontend.hear(|heard| match heard {
        Heard::Message(_, message) => Some(message),
        _ => None,
    });
    assert!(matches!(parts, Err(CodecError::Frames { .. })), "{parts:?}");
    peer.bytes_in_vain(&frame(MORE, b"").repeat(65));
    peer.assert_closed();
    assert_eq!(frontend.lost(&id), Loss::Disconnected);
    frontend.assert_serves();
}

#[test]
fn the_bytes_of_a_whole_message_are_bounded() {
    let frontend = Frontend::start();
    // A peer that answers no PING stays for some seconds.
    let mut mute = frontend.connect();
    let (mut peer, id) = frontend.registered();
    let most = 256 << 20;
    // Nothing of what is announced needs to arrive.
    peer.bytes(&[frame(MORE, b"x"), head(LAST, most)].concat());
    peer.assert_closed();
    mute.assert_open();
    assert_eq!(frontend.lost(&id), Loss::Disconnected);
    let (mut peer, _) = frontend.registered();
    peer.bytes(&head(LAST, most + 1));
    peer.assert_closed();
    frontend.assert_serves();
}

#[test]
fn a_stranger_sends_no_more_than_a_mebibyte_and_a_registered_peer_does() {
    let frontend = Frontend::start();
    let half = vec![0; 512 << 10];
    for message in
        [head(LAST, (1 << 20) + 1), [frame(MORE, &half), frame(MORE, &half), frame(LAST, b"x")].concat()]
    {
        let mut mute = frontend.connect();
        let mut stranger = frontend.connect();
        stranger.bytes_in_vain(&message);
        stranger.assert_closed();
        mute.assert_open();
    }
    let (mut peer, _) = frontend.registered();
    peer.bytes(&[frame(MORE, b""), frame(MORE, b"header"), frame(LAST, &vec![7; 5 << 20])].concat());
    let frames = frontend.hear(|heard| match heard {
        Heard::Message(_, message) => Some(message),
        _ => None,
    });
    assert_eq!(frames.map(|frames| frames.size()), Ok((5 << 20) + 6));
}

#[test]
fn an_unfinished_message_ends_with_its_connection() {
    let frontend = Frontend::start();
    let (mut peer, id) = frontend.registered();
    peer.bytes(&[frame(MORE, b""), frame(MORE, b"header"), head(LAST, 1000)].concat());
    drop(peer);
    match frontend.heard.recv_timeout(LIMIT).expect("the loss is reported") {
        Heard::Lost(lost, Loss::Disconnected) => assert_eq!(lost, id),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_was_sent_before_a_connection_ended_is_heard_before_its_end() {
    let frontend = Frontend::start();
    let (mut peer, id) = frontend.registered();
    for _ in 0..40 {
        peer.say(&FromContainer::Heartbeat);
    }
    peer.say(&FromContainer::Goodbye);
    peer.end();
    let mut messages = 0;
    frontend.hear(|heard| match heard {
        Heard::Message(from, _) => {
            assert_eq!(from, id);
            messages += 1;
            None
        }
        Heard::Lost(lost, _) => (lost == id).then_some(()),
        Heard::Registered(_) => None,
    });
    assert_eq!(messages, 41);
}

#[test]
fn a_handshake_is_small_and_of_zmtp_3() {
    let frontend = Frontend::start();
    let openings = [
        [greeting(3), frame(COMMAND, &ready(&[b'x'; 2000]))].concat(),
        // What follows the greeting must be a command.
        [greeting(3), frame(LAST, &ready(&[]))].concat(),
        [greeting(3), head(LAST, (1 << 20) + 1)].concat(),
        [greeting(3), frame(COMMAND, b"\x05ERROR\xffx")].concat(),
        // ZMTP 1.0, and 2.0.
        b"\x02\0a\x02\0b".to_vec(),
        b"\xff\0\0\0\0\0\0\0\x01\x7f\x01\x05\0\x01a".to_vec(),
        b"\xff\0\0\0\0\0\0\0\x01\x7f\0\x05\x02\0a".to_vec(),
    ];
    for opening in openings {
        let mut unfinished = RawPeer::silent(frontend.address);
        let mut peer = RawPeer::silent(frontend.address);
        peer.bytes_in_vain(&opening);
        peer.assert_refused();
        // At once, and not because its time was up.
        unfinished.assert_open();
    }
    frontend.assert_serves();
}

#[test]
fn a_peer_that_pretends_to_have_gone_is_disconnected() {
    let frontend = Frontend::start();
    let (mut peer, id) = frontend.registered();
    peer.bytes(&frame(LAST, b"disconnected"));
    assert_eq!(frontend.lost(&id), Loss::Disconnected);
    peer.assert_closed();
    // Before anything else, too, where it is not known yet.
    let mut peer = frontend.connect();
    peer.bytes(&frame(LAST, b"disconnected"));
    peer.assert_closed();
    frontend.assert_serves();
}

#[test]
fn a_stranger_that_goes_on_talking_is_disconnected() {
    let frontend = Frontend::start();
    let mut stranger = frontend.connect();
    for _ in 0..200 {
        stranger.bytes_in_vain(&[frame(MORE, b""), frame(LAST, b"hello")].concat());
    }
    stranger.assert_closed();
    let (mut peer, id) = frontend.registered();
    for _ in 0..200 {
        peer.say(&FromContainer::Heartbeat);
    }
    frontend.handle.send(&id, &ToContainer::Drain);
    peer.message();
}

#[test]
fn connections_without_a_registration_end_after_seconds() {
    let frontend = Frontend::start();
    let mut silent = RawPeer::silent(frontend.address);
    let mut unfinished = RawPeer::silent(frontend.address);
    unfinished.bytes(&greeting(3)[..20]);
    let mut stranger = frontend.connect();
    let (mut released, released_id) = frontend.registered();
    let (mut stays, stays_id) = frontend.registered();
    frontend.handle.release(&released_id);
    // libzmq closes a connection that does not answer its PING after four seconds: these do.
    let mut peers = [&mut stranger, &mut released];
    let mut open = [true, true];
    while open.contains(&true) {
        for (peer, open) in peers.iter_mut().zip(&mut open) {
            *open = *open && peer.0.write_all(&frame(COMMAND, b"\x04PONG")).is_ok();
        }
        stays.bytes(&frame(COMMAND, b"\x04PONG"));
        stays.command();
    }
    for peer in [&mut silent, &mut unfinished] {
        peer.assert_refused();
    }
    assert_eq!(frontend.lost(&released_id), Loss::Disconnected);
    frontend.handle.send(&stays_id, &ToContainer::Drain);
    stays.message();
}

#[test]
fn a_peer_that_reads_nothing_is_disconnected() {
    let frontend = Frontend::start();
    let (mut peer, id) = frontend.registered();
    let reason = "x".repeat(1 << 20);
    for _ in 0..200 {
        frontend.handle.send(&id, &ToContainer::Rejected { reason: reason.clone(), retry_millis: None });
    }
    assert_eq!(frontend.lost(&id), Loss::Stuck);
    peer.assert_closed();
    frontend.assert_serves();
}

#[test]
fn bytes_that_are_no_zmtp_end_their_connection_alone() {
    let frontend = Frontend::start();
    let starts =
        [vec![], greeting(3), [greeting(3), frame(COMMAND, &ready(&[]))].concat(), greeting(1), greeting(0)];
    // A fixed walk through all bytes.
    let mut byte = 7_u8;
    let mut noise = move || {
        byte = byte.wrapping_mul(93).wrapping_add(71);
        byte
    };
    for round in 0..60 {
        for start in &starts {
            let mut peer = RawPeer::silent(frontend.address);
            let bytes: Vec<u8> = (0..round * 5).map(|_| noise()).collect();
            peer.bytes_in_vain(&[&start[..], &bytes].concat());
            if round % 2 == 0 {
                peer.reset();
            }
        }
    }
    frontend.assert_serves();
}

#[test]
fn a_frame_that_only_libzmq_sends_first_is_no_message_later() {
    let frontend = Frontend::start();
    let (mut peer, _) = frontend.registered();
    peer.bytes(&frame(LAST, b""));
    let message = frontend.hear(|heard| match heard {
        Heard::Message(_, message) => Some(message),
        _ => None,
    });
    assert_eq!(message, Err(CodecError::Frames { found: 1 }));
    assert_eq!(Frames::from_multipart(vec![Bytes::new()]), Err(CodecError::Frames { found: 1 }));
}

#[test]
fn peers_that_come_and_go_cost_the_others_nothing() {
    let frontend = Frontend::start();
    let (mut stays, id) = frontend.registered();
    for _ in 0..20 {
        let (peer, gone) = frontend.registered();
        drop(peer);
        frontend.lost(&gone);
    }
    frontend.handle.send(&id, &ToContainer::Drain);
    // Not one message came before it.
    assert_eq!(stays.message(), ToContainer::Drain.encode().header);
}

#[test]
fn connections_are_bounded_and_room_comes_back() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    // Both ends of each connection are descriptors of this process.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("a process has limits");
    setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("it is allowed as many");
    let frontend = Frontend::start();
    // libzmq greets whom it accepts at once.
    let greeted = |peer: &mut RawPeer| peer.0.read_exact(&mut [0]).is_ok();
    let mut accepted = Vec::new();
    loop {
        let mut peer = RawPeer::silent(frontend.address);
        if !greeted(&mut peer) {
            break;
        }
        accepted.push(peer);
        assert!(accepted.len() < 20_000, "there is no bound");
    }
    assert!(accepted.len() >= 4096, "only {} were accepted", accepted.len());
    drop(accepted);
    // libzmq notices in its own time that connections have ended.
    while !greeted(&mut RawPeer::silent(frontend.address)) {}
    frontend.assert_serves();
}
