//! The container's end of the protocol: one session after another with one frontend.
//!
//! Owned by whatever loop polls the sockets of a container, which calls [`Session::tick`] when [`Session::next_tick`] has
//! come and [`Session::receive`] until it yields nothing. Never blocks. Invariant: a socket serves one session; a new
//! session begins on a fresh socket, with a fresh identity. A batch is answered under the registration that it came
//! with, or not at all.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tracing::{debug, info, warn};
use zmq::{DONTWAIT, SNDMORE};

use crate::codec::Frames;
use crate::endpoint;
use crate::message::{Feedback, FromContainer, Predict, Register, Registered, ToContainer};
use crate::multipart;

/// The pause before the second try; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The longest time that a frontend can set.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// How long to wait for the answer to `register`.
const TIMEOUT_BEFORE_WELCOME: Duration = Duration::from_secs(5);
/// The largest frame of a frontend. libzmq ends the connection of one that sends a larger one.
const MAX_FRAME_BYTES: i64 = 256 << 20;
/// The most messages that are read ahead after a batch was computed: a frontend lets a container
/// hold two batches, and says little else.
const MOST_READ_AHEAD: usize = 16;
/// How long the last messages of a session may take to leave.
const LINGER_MILLIS: i32 = 500;

/// What a session has to tell its container.
#[derive(Debug, PartialEq)]
pub enum SessionEvent {
    /// The frontend will not have this container: the session is over for good.
    Rejected {
        /// Why.
        reason: String,
    },
    /// The frontends of the cluster, as `host:port`.
    Frontends(Vec<String>),
    /// A batch to answer.
    Predict(Predict),
    /// A batch to learn from.
    Feedback(Feedback),
    /// The frontend leaves: answer what it is still owed, then call [`Session::leave`].
    Drain,
}

/// The sessions of a container with one frontend, one at a time.
pub struct Session {
    context: zmq::Context,
    address: String,
    register: Register,
    state: State,
    /// The pause before the next session, should this one fail.
    pause: Duration,
    /// What was read ahead by [`Session::catch_up`].
    waiting: VecDeque<SessionEvent>,
    registration: Registration,
}

/// One registration with a frontend. A batch belongs to the registration under which it was
/// received, and is answered under no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registration(u64);

enum State {
    /// No socket; the next session begins at this time.
    Pausing { until: Instant },
    /// Connected or connecting.
    Open(Open),
    /// Refused for good at this time.
    Rejected { since: Instant },
}

struct Open {
    socket: zmq::Socket,
    heartbeat: Duration,
    timeout: Duration,
    /// Whether the frontend has answered `register`.
    accepted: bool,
    last_sent: Instant,
    /// When a message arrived last, or when the container last began to listen.
    last_heard: Instant,
}

impl Session {
    /// A session with the frontend at `address` (`host:port`), to begin at the first tick.
    pub fn new(context: &zmq::Context, address: impl Into<String>, register: Register, now: Instant) -> Self {
        Self {
            context: context.clone(),
            address: address.into(),
            register,
            state: State::Pausing { until: now },
            pause: FIRST_PAUSE,
            waiting: VecDeque::new(),
            registration: Registration(0),
        }
    }

    /// The frontend's address.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The socket to wait for, if there is one at the moment. Whoever waits for its descriptor must have called
    /// [`Session::receive`] until there was nothing, after all else that was done with the session.
    pub fn socket(&self) -> Option<&zmq::Socket> {
        match &self.state {
            State::Open(open) => Some(&open.socket),
            State::Pausing { .. } | State::Rejected { .. } => None,
        }
    }

    /// The registration under which a batch that was just received is to be answered.
    pub fn registration(&self) -> Registration {
        self.registration
    }

    /// Whether the frontend counts on this container.
    pub fn is_accepted(&self) -> bool {
        matches!(&self.state, State::Open(open) if open.accepted)
    }

    /// Whether there is no connection at the moment, and a new session will begin after a pause.
    pub fn is_pausing(&self) -> bool {
        matches!(self.state, State::Pausing { .. })
    }

    /// Whether the frontend has refused this container for good.
    pub fn is_rejected(&self) -> bool {
        matches!(self.state, State::Rejected { .. })
    }

    /// Whether the frontend has refused this container for good, so long ago that it may be asked
    /// once more if no other frontend accepts it.
    pub fn was_rejected_long_ago(&self, now: Instant) -> bool {
        matches!(self.state, State::Rejected { since } if now >= since + LONGEST_PAUSE)
    }

    /// When [`Session::tick`] has something to do next; never, once rejected.
    pub fn next_tick(&self) -> Option<Instant> {
        match &self.state {
            State::Pausing { until } => Some(*until),
            State::Open(open) => {
                let lost = open.last_heard + open.timeout;
                Some(if open.accepted { lost.min(open.last_sent + open.heartbeat) } else { lost })
            }
            State::Rejected { .. } => None,
        }
    }

    /// Sends a heartbeat if one is due, and does nothing else: for another thread while the
    /// container computes.
    pub fn beat(&mut self, now: Instant) {
        if let State::Open(open) = &self.state
            && open.accepted
            && open.last_sent + open.heartbeat <= now
        {
            self.send(now, &FromContainer::Heartbeat);
        }
    }

    /// How long after the last message a heartbeat is due, if the container is registered.
    pub fn heartbeat(&self) -> Option<Duration> {
        match &self.state {
            State::Open(open) if open.accepted => Some(open.heartbeat),
            _ => None,
        }
    }

    /// Begins a session, says that the container is alive, or gives a silent frontend up, as the time demands.
    pub fn tick(&mut self, now: Instant) {
        match &mut self.state {
            State::Pausing { until } if *until <= now => self.begin(now),
            State::Open(open) if open.last_heard + open.timeout <= now => {
                warn!(frontend = %self.address, "nothing heard from the frontend, beginning anew");
                self.fail(now);
            }
            State::Open(_) => self.beat(now),
            State::Pausing { .. } | State::Rejected { .. } => {}
        }
    }

    /// Says that the container listens again after it has computed: silence counts from here.
    pub fn listening(&mut self, now: Instant) {
        if let State::Open(open) = &mut self.state {
            open.last_heard = now;
        }
    }

    /// Takes one message from the socket, if there is one.
    pub fn receive(&mut self, now: Instant) -> Option<SessionEvent> {
        self.waiting.pop_front().or_else(|| self.read(now))
    }

    /// Reads what has arrived while a batch was computed, and hands it out by [`Session::receive`]
    /// later. If the frontend no longer knows this container, the registration is another one
    /// afterwards.
    pub fn catch_up(&mut self, now: Instant) {
        for _ in 0..MOST_READ_AHEAD {
            let Some(event) = self.read(now) else { return };
            self.waiting.push_back(event);
        }
    }

    /// Sends the answer to a batch, unless the container has registered anew since it received
    /// the batch: another container has been given it then.
    pub fn answer(&mut self, now: Instant, registration: Registration, message: &FromContainer) {
        if registration == self.registration {
            self.send(now, message);
        } else {
            debug!(frontend = %self.address, "dropping the answer to a batch of an earlier registration");
        }
    }

    /// Reads one message, and does what is to be done about it here.
    fn read(&mut self, now: Instant) -> Option<SessionEvent> {
        loop {
            let State::Open(open) = &mut self.state else { return None };
            let frames = multipart::receive(&open.socket)?;
            open.last_heard = now;
            let frames = Frames::from_multipart(frames);
            match frames.and_then(|frames| ToContainer::decode(&frames)) {
                Ok(message) => {
                    if let Some(event) = self.handle(message, now) {
                        return Some(event);
                    }
                }
                Err(error) => {
                    warn!(frontend = %self.address, %error, "malformed message from the frontend, beginning anew");
                    self.fail(now);
                }
            }
        }
    }

    fn handle(&mut self, message: ToContainer, now: Instant) -> Option<SessionEvent> {
        let State::Open(open) = &mut self.state else { return None };
        let accepted = open.accepted;
        if let ToContainer::Heartbeat { .. } | ToContainer::Predict(_) | ToContainer::Feedback(_) = &message {
            self.pause = FIRST_PAUSE;
        }
        match message {
            ToContainer::Registered(Registered { replica, heartbeat_millis, timeout_millis, frontends }) => {
                if accepted {
                    // What it held is with others now.
                    self.forget_batches();
                }
                let State::Open(open) = &mut self.state else { return None };
                open.accepted = true;
                open.heartbeat = within_reason(heartbeat_millis);
                open.timeout = within_reason(timeout_millis);
                info!(frontend = %self.address, replica, "registered");
                frontends.map(SessionEvent::Frontends)
            }
            ToContainer::Rejected { reason, retry_millis: Some(millis) } => {
                info!(frontend = %self.address, reason, "not accepted yet");
                self.end(State::Pausing { until: now + within_reason(millis) });
                None
            }
            ToContainer::Rejected { reason, retry_millis: None } => {
                self.end(State::Rejected { since: now });
                Some(SessionEvent::Rejected { reason })
            }
            // A `register` is under way, in answer to an earlier `unknown` or before: a further one
            // would make the frontend begin anew.
            ToContainer::Unknown if !accepted => None,
            ToContainer::Unknown => {
                debug!(frontend = %self.address, "the frontend does not know this container, registering again");
                open.timeout = TIMEOUT_BEFORE_WELCOME;
                self.register(now);
                None
            }
            ToContainer::Heartbeat { frontends } => frontends.map(SessionEvent::Frontends),
            // What arrives before `registered` was sent to an earlier registration.
            ToContainer::Predict(_) | ToContainer::Feedback(_) if !accepted => None,
            ToContainer::Predict(predict) => Some(SessionEvent::Predict(predict)),
            ToContainer::Feedback(feedback) => Some(SessionEvent::Feedback(feedback)),
            ToContainer::Drain => Some(SessionEvent::Drain),
        }
    }

    /// Sends a message; without a session it is dropped, since its frontend has given its batches to others.
    pub fn send(&mut self, now: Instant, message: &FromContainer) {
        let State::Open(open) = &mut self.state else { return };
        let Frames { header, payload } = message.encode();
        let flags = if payload.is_some() { DONTWAIT | SNDMORE } else { DONTWAIT };
        let mut sent = open
            .socket
            .send(zmq::Message::new(), DONTWAIT | SNDMORE)
            .and_then(|()| open.socket.send(Vec::from(header), flags));
        if let Some(payload) = payload {
            sent = sent.and_then(|()| open.socket.send(Vec::from(payload), DONTWAIT));
        }
        open.last_sent = now;
        if let Err(error) = sent {
            warn!(frontend = %self.address, %error, "cannot send to the frontend, beginning anew");
            self.fail(now);
        }
    }

    /// Says goodbye and closes the socket; a new session begins after a pause, unless the container ends before.
    pub fn leave(&mut self, now: Instant) {
        self.send(now, &FromContainer::Goodbye);
        self.fail(now);
    }

    /// Sends `register` on the open socket.
    fn register(&mut self, now: Instant) {
        self.forget_batches();
        if let State::Open(open) = &mut self.state {
            open.accepted = false;
        }
        self.send(now, &FromContainer::Register(self.register.clone()));
    }

    /// Drops what the container holds of this frontend, now or once it is computed.
    fn forget_batches(&mut self) {
        self.registration.0 += 1;
        self.waiting.retain(|event| !matches!(event, SessionEvent::Predict(_) | SessionEvent::Feedback(_)));
    }

    /// Closes the socket.
    fn end(&mut self, state: State) {
        self.forget_batches();
        self.state = state;
    }

    fn begin(&mut self, now: Instant) {
        match self.connect() {
            Ok(socket) => {
                self.state = State::Open(Open {
                    socket,
                    heartbeat: LONGEST_WAIT,
                    timeout: TIMEOUT_BEFORE_WELCOME,
                    accepted: false,
                    last_sent: now,
                    last_heard: now,
                });
                self.register(now);
            }
            Err(error) => {
                warn!(frontend = %self.address, %error, "cannot connect");
                self.fail(now);
            }
        }
    }

    fn connect(&self) -> Result<zmq::Socket, zmq::Error> {
        let socket = self.context.socket(zmq::DEALER)?;
        socket.set_linger(LINGER_MILLIS)?;
        socket.set_maxmsgsize(MAX_FRAME_BYTES)?;
        socket.set_ipv6(true)?;
        socket.connect(&endpoint::nearest(&self.address))?;
        Ok(socket)
    }

    /// Ends the session; the next one begins after a pause.
    fn fail(&mut self, now: Instant) {
        self.end(State::Pausing { until: now + self.pause });
        self.pause = (2 * self.pause).min(LONGEST_PAUSE);
    }
}

/// A frontend's idea of a time, however strange, as one that can be waited for.
fn within_reason(millis: u64) -> Duration {
    Duration::from_millis(millis).clamp(Duration::from_millis(1), LONGEST_WAIT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::InputType;
    use crate::message::PROTOCOL_VERSION;

    #[test]
    fn no_frame_of_a_frontend_is_read_that_is_larger_than_any_it_may_send() {
        let register = Register {
            protocol: PROTOCOL_VERSION,
            model: "m".to_owned(),
            version: "1".to_owned(),
            input_type: InputType::Ints,
            token: None,
            max_batch_size: None,
            replica: None,
            sdk: None,
            instance: None,
        };
        let session = Session::new(&zmq::Context::new(), "127.0.0.1:1", register, Instant::now());
        assert_eq!(session.connect().unwrap().get_maxmsgsize(), Ok(MAX_FRAME_BYTES));
    }
}
