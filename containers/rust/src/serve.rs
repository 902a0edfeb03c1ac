//! The loop of a container: the sessions with every frontend, one model, one thread that does it all.
//!
//! A second thread has the sessions while the model computes, and sends heartbeats meanwhile: a
//! frontend that waits for nothing from this container would take it for lost otherwise. It reads
//! nothing. At all other times the first thread holds the lock on them.
//!
//! Invariant: there is a session with each frontend that the cluster last listed, up to
//! [`MOST_FRONTENDS`]; a signal ends the loop after
//! the batch that is being computed. It sleeps on the sockets' descriptors, whose readiness is an edge, so only when
//! the last that it asked of each socket was a message, and there was none.

use std::collections::HashSet;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use clipper_rpc::message::{Feedback, FromContainer, Register};
use clipper_rpc::session::{Session, SessionEvent};
use signal_hook::consts::{SIGINT, SIGTERM};
use tracing::{error, info, warn};
use zmq::{POLLIN, PollItem};

use crate::model::answer;
use crate::{Config, ConfigError, Model};

/// The most frontends with which there are sessions: libzmq has 1,023 sockets, and a process often
/// no more files.
const MOST_FRONTENDS: usize = 256;

/// How often the thread of the heartbeats looks, until a frontend has said how often it wants them.
const IDLE_BEAT: Duration = Duration::from_millis(500);
/// The least time between two looks, whatever a frontend wants.
const LEAST_BEAT: Duration = Duration::from_millis(5);

/// Why a container ended other than by a signal.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The environment does not say what to serve.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// No frontend will have this container.
    #[error("rejected by {frontend}: {reason}")]
    Rejected {
        /// The frontend's address.
        frontend: String,
        /// What it said.
        reason: String,
    },
    /// Signals cannot be received, or sockets not be polled.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// A socket cannot be polled.
    #[error(transparent)]
    Socket(#[from] zmq::Error),
}

/// Serves a model until SIGTERM or SIGINT: it then answers the batch at hand, says goodbye, and returns. A second
/// signal ends the process at once.
///
/// # Errors
/// If every frontend refuses this container for good.
pub fn serve(config: Config, mut model: impl Model) -> Result<(), Error> {
    let (signals, signalled) = UnixStream::pair()?;
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(&stop))?;
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
        signal_hook::low_level::pipe::register(signal, signalled.try_clone()?)?;
    }
    let shared = Mutex::new(Vec::new());
    let mut container = Container {
        context: zmq::Context::new(),
        shared: &shared,
        listed: HashSet::new(),
        too_many: Once::new(),
        configured: config.frontends.into_iter().collect(),
        register: config.register,
        failures: FailureLog::default(),
    };
    thread::scope(|scope| {
        let _beating = beat_while_computing(scope, &shared);
        let mut sessions = lock(&shared);
        while !stop.load(Ordering::Relaxed) {
            container.tick(&mut sessions);
            let heard;
            (sessions, heard) = container.answer(sessions, &mut model)?;
            if !heard {
                wait(&sessions, &signals)?;
            }
        }
        info!("stopping");
        sessions.iter_mut().for_each(|session| session.leave(Instant::now()));
        Ok(())
    })
}

type Sessions<'a> = MutexGuard<'a, Vec<Session>>;

/// Locks the sessions. A panic while they were locked has ended the loop.
fn lock(shared: &Mutex<Vec<Session>>) -> Sessions<'_> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts the thread that sends heartbeats whenever the sessions are not locked, until the sender
/// is dropped.
fn beat_while_computing<'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    shared: &'scope Mutex<Vec<Session>>,
) -> Sender<()> {
    let (sender, ended) = channel();
    scope.spawn(move || {
        let mut pause = IDLE_BEAT;
        while ended.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
            let mut sessions = match shared.try_lock() {
                Ok(sessions) => sessions,
                Err(TryLockError::WouldBlock) => continue,
                Err(TryLockError::Poisoned(_)) => return,
            };
            let now = Instant::now();
            sessions.iter_mut().for_each(|session| session.beat(now));
            let wanted = sessions.iter().filter_map(Session::heartbeat).min();
            pause = wanted.map_or(IDLE_BEAT, |wanted| (wanted / 2).clamp(LEAST_BEAT, IDLE_BEAT));
        }
    });
    sender
}

struct Container<'a> {
    context: zmq::Context,
    /// The sessions, which the loop has locked except while the model computes.
    shared: &'a Mutex<Vec<Session>>,
    /// The frontends to begin with.
    configured: HashSet<String>,
    /// The frontends of the cluster, as last heard.
    listed: HashSet<String>,
    /// Told when there were too many frontends for the first time.
    too_many: Once,
    register: Register,
    failures: FailureLog,
}

/// Logs batches that fail: one a second, and with it how many were left out since.
#[derive(Default)]
struct FailureLog {
    last: Option<Instant>,
    left_out: u64,
}

impl FailureLog {
    fn record(&mut self, inputs: usize, message: &str, now: Instant) {
        if self.last.is_some_and(|last| now.saturating_duration_since(last) < Duration::from_secs(1)) {
            self.left_out += 1;
            return;
        }
        error!(inputs, left_out = self.left_out, "a batch failed: {message}");
        *self = Self { last: Some(now), left_out: 0 };
    }
}

impl<'a> Container<'a> {
    /// Opens sessions with frontends that are new, drops those that are neither listed nor there, and keeps the rest alive.
    fn tick(&mut self, sessions: &mut Vec<Session>) {
        let now = Instant::now();
        let Self { context, listed, too_many, configured, register, .. } = self;
        let accepted = sessions.iter().any(Session::is_accepted);
        if !accepted {
            sessions.retain(|session| {
                !(session.was_rejected_long_ago(now) && configured.contains(session.address()))
            });
        }
        // Until it is accepted, what was configured may lead to the cluster again, under whatever addresses it has now.
        let wanted = || configured.iter().filter(|_| !accepted).chain(&*listed);
        sessions
            .retain(|session| !session.is_pausing() || wanted().any(|wanted| wanted == session.address()));
        for frontend in wanted() {
            if sessions.iter().any(|session| session.address() == frontend) {
                continue;
            }
            if sessions.len() >= MOST_FRONTENDS {
                warn_of_too_many(too_many);
                break;
            }
            sessions.push(Session::new(context, frontend, register.clone(), now));
        }
        sessions.iter_mut().for_each(|session| session.tick(now));
    }

    /// Answers the next message of each session. Returns whether there was one.
    fn answer(
        &mut self,
        mut sessions: Sessions<'a>,
        model: &mut impl Model,
    ) -> Result<(Sessions<'a>, bool), Error> {
        let mut heard = false;
        let mut computed = false;
        let mut rejected = None;
        for index in 0..sessions.len() {
            let Some(event) = sessions[index].receive(Instant::now()) else { continue };
            heard = true;
            let session = &mut sessions[index];
            match event {
                SessionEvent::Predict(batch) => {
                    let registration = session.registration();
                    drop(sessions);
                    let message = answer(model, &batch);
                    if let FromContainer::Error { message, .. } = &message {
                        self.failures.record(batch.inputs.len(), message, Instant::now());
                    }
                    sessions = lock(self.shared);
                    let (session, now) = (&mut sessions[index], Instant::now());
                    session.catch_up(now);
                    session.answer(now, registration, &message);
                    computed = true;
                }
                SessionEvent::Feedback(Feedback { id, .. }) => {
                    session.send(Instant::now(), &FromContainer::FeedbackAck { id });
                }
                SessionEvent::Drain => session.leave(Instant::now()),
                SessionEvent::Frontends(frontends) => {
                    if frontends.len() > MOST_FRONTENDS {
                        warn_of_too_many(&self.too_many);
                    }
                    self.listed = frontends.into_iter().take(MOST_FRONTENDS).collect();
                }
                SessionEvent::Rejected { reason } => {
                    let frontend = session.address().to_owned();
                    warn!(frontend, reason, "rejected");
                    rejected = Some(Error::Rejected { frontend, reason });
                }
            }
        }
        if computed {
            let now = Instant::now();
            sessions.iter_mut().for_each(|session| session.listening(now));
        }
        match rejected {
            Some(error) if sessions.iter().all(Session::is_rejected) => Err(error),
            _ => Ok((sessions, heard)),
        }
    }
}

fn warn_of_too_many(once: &Once) {
    once.call_once(|| warn!("there are too many frontends; sessions with {MOST_FRONTENDS} of them are kept"));
}

/// Waits until a session may have something to read, has something to do, or a signal came.
fn wait(sessions: &[Session], signals: &UnixStream) -> Result<(), zmq::Error> {
    let mut items = Vec::with_capacity(1 + sessions.len());
    items.push(PollItem::from_fd(signals.as_raw_fd(), POLLIN));
    for socket in sessions.iter().filter_map(Session::socket) {
        items.push(PollItem::from_fd(socket.get_fd()?, POLLIN));
    }
    let next = sessions.iter().filter_map(Session::next_tick).min();
    let timeout = next.map_or(-1, |at| {
        i64::try_from(at.saturating_duration_since(Instant::now()).as_millis()).unwrap_or(0) + 1
    });
    match zmq::poll(&mut items, timeout) {
        Ok(_) | Err(zmq::Error::EINTR) => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use clipper_rpc::input::InputType;
    use clipper_rpc::message::PROTOCOL_VERSION;

    use super::*;

    fn container<'a>(
        shared: &'a Mutex<Vec<Session>>,
        configured: &[String],
        listed: Vec<String>,
    ) -> Container<'a> {
        Container {
            context: zmq::Context::new(),
            shared,
            configured: configured.iter().cloned().collect(),
            listed: listed.into_iter().collect(),
            too_many: Once::new(),
            register: Register {
                protocol: PROTOCOL_VERSION,
                model: "m".to_owned(),
                version: "1".to_owned(),
                input_type: InputType::Ints,
                token: None,
                max_batch_size: None,
                replica: None,
                sdk: None,
                instance: None,
            },
            failures: FailureLog::default(),
        }
    }

    #[test]
    fn there_are_no_more_sessions_than_sockets_however_many_frontends_are_listed() {
        let address = |port: usize| format!("127.0.0.1:{port}");
        let configured = [address(1)];
        let shared = Mutex::default();
        let mut container = container(&shared, &configured, (2..3000).map(address).collect());
        let mut sessions = lock(&shared);
        container.tick(&mut sessions);
        container.tick(&mut sessions);
        assert_eq!(sessions.len(), MOST_FRONTENDS);
        assert!(sessions.iter().any(|session| session.address() == configured[0]));
        assert!(container.too_many.is_completed(), "there is a warning");
    }
}
