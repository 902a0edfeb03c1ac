//! One connection to the server: at most one request at a time.
//!
//! Invariant: a connection is `Busy` exactly from a request's first byte to its answer's last, or to its failure, after which it is made anew.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

use crate::load::response::{Answer, Reader};
use crate::load::tally::Failure;

/// How long a connection that failed stays down before it is made anew.
const PAUSE: Duration = Duration::from_millis(100);

/// Where a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It is being made.
    Connecting,
    /// It takes a request.
    Idle,
    /// It has one.
    Busy(InFlight),
    /// It is to be made anew at this moment.
    Down(Instant),
}

/// A request that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InFlight {
    /// When it was meant to be.
    pub intended: Instant,
    /// When it was.
    pub sent: Instant,
}

/// What came of looking at a connection.
pub enum Arrival<'a> {
    /// An answer.
    Answer(InFlight, Answer<'a>),
    /// The end of a request, or of an idle connection.
    Failure(Option<InFlight>, Failure),
    /// It is connected, and takes a request.
    Connected,
    /// It has to be looked at again.
    More,
    /// Nothing yet.
    Nothing,
}

/// A connection.
pub struct Connection {
    stream: Option<TcpStream>,
    state: State,
    reader: Reader,
    /// What the socket has not taken yet.
    unsent: Vec<u8>,
}

impl Connection {
    /// One that is made at the next [`Connection::revive`].
    pub fn new(now: Instant) -> Self {
        Self { stream: None, state: State::Down(now), reader: Reader::default(), unsent: Vec::new() }
    }

    /// Where it is.
    pub fn state(&self) -> State {
        self.state
    }

    /// Begins to connect if it is down for long enough.
    pub fn revive(&mut self, server: SocketAddr, registry: &Registry, token: Token, now: Instant) {
        let State::Down(until) = self.state else { return };
        if now < until {
            return;
        }
        let connect = || {
            let mut stream = TcpStream::connect(server)?;
            registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
            Ok::<_, io::Error>(stream)
        };
        self.reader.reset();
        self.unsent.clear();
        match connect() {
            Ok(stream) => (self.stream, self.state) = (Some(stream), State::Connecting),
            Err(_) => self.state = State::Down(now + PAUSE),
        }
    }

    /// Closes it, to be made anew after a pause, or at once after an answer that was the connection's last.
    pub fn drop_stream(&mut self, now: Instant, at_once: bool) {
        self.stream = None;
        self.state = State::Down(if at_once { now } else { now + PAUSE });
    }

    /// Sends a request. It must be idle.
    pub fn send(&mut self, request: &[u8], in_flight: InFlight) -> Result<(), Failure> {
        let stream = self.stream.as_mut().ok_or(Failure::Broken)?;
        let written = match stream.write(request) {
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(_) => return Err(Failure::Broken),
        };
        self.unsent.extend_from_slice(&request[written..]);
        self.state = State::Busy(in_flight);
        // It may have taken some only because it was full for a moment: no event would follow.
        self.flush()
    }

    fn flush(&mut self) -> Result<(), Failure> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        let mut done = 0;
        let outcome = loop {
            if done == self.unsent.len() {
                break Ok(());
            }
            match stream.write(&self.unsent[done..]) {
                Ok(written) => done += written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break Err(Failure::Broken),
            }
        };
        self.unsent.drain(..done);
        outcome
    }

    /// Acts on an event. `buffer` is where bytes are read to.
    pub fn handle<'a>(&'a mut self, event: &mio::event::Event, buffer: &'a mut [u8]) -> Arrival<'a> {
        match self.state {
            State::Down(_) => Arrival::Nothing,
            State::Connecting => self.connected(),
            State::Idle => self.read(None, buffer),
            State::Busy(in_flight) => {
                if event.is_writable()
                    && !self.unsent.is_empty()
                    && let Err(failure) = self.flush()
                {
                    return Arrival::Failure(Some(in_flight), failure);
                }
                self.read(Some(in_flight), buffer)
            }
        }
    }

    fn connected(&mut self) -> Arrival<'_> {
        let Some(stream) = &self.stream else { return Arrival::Nothing };
        if !matches!(stream.take_error(), Ok(None)) {
            return Arrival::Failure(None, Failure::Connect);
        }
        match stream.peer_addr() {
            Ok(_) => {
                // Each request is one write, so that nothing is gained by waiting for more.
                let _ = stream.set_nodelay(true);
                self.state = State::Idle;
                Arrival::Connected
            }
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Arrival::Nothing,
            Err(_) => Arrival::Failure(None, Failure::Connect),
        }
    }

    fn read<'a>(&'a mut self, in_flight: Option<InFlight>, buffer: &'a mut [u8]) -> Arrival<'a> {
        let Some(stream) = &mut self.stream else { return Arrival::Nothing };
        let read = match stream.read(buffer) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Arrival::Nothing,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Arrival::More,
            Err(_) => return Arrival::Failure(in_flight, Failure::Broken),
        };
        let Some(in_flight) = in_flight else { return Arrival::Failure(None, Failure::Closed) };
        // An event is told once, so a buffer that was filled may mean that there is more.
        let more = read == buffer.len();
        let answer = match read {
            0 => self.reader.close().ok_or(Failure::Closed).map(Some),
            read => self.reader.feed(&buffer[..read]).map_err(|_| Failure::Malformed),
        };
        match answer {
            Ok(Some(answer)) => {
                self.state = State::Idle;
                Arrival::Answer(in_flight, answer)
            }
            Ok(None) if more => Arrival::More,
            Ok(None) => Arrival::Nothing,
            Err(failure) => Arrival::Failure(Some(in_flight), failure),
        }
    }
}
