//! The loop of a container: the sessions with every frontend, one model, one thread.
//!
//! Invariant: there is a session with each frontend that the cluster last listed; a signal ends the loop after
//! the batch that is being computed.

use std::collections::HashSet;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use clipper_rpc::message::{Feedback, FromContainer, Register};
use clipper_rpc::session::{Session, SessionEvent};
use signal_hook::consts::{SIGINT, SIGTERM};
use tracing::{info, warn};
use zmq::POLLIN;

use crate::model::answer;
use crate::{Config, ConfigError, Model};

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
    let (signals, signalled) = std::os::unix::net::UnixStream::pair()?;
    let impatient = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(&impatient))?;
        signal_hook::flag::register(signal, Arc::clone(&impatient))?;
        signal_hook::low_level::pipe::register(signal, signalled.try_clone()?)?;
    }
    let mut container = Container {
        context: zmq::Context::new(),
        sessions: Vec::new(),
        listed: HashSet::new(),
        configured: config.frontends.into_iter().collect(),
        register: config.register,
    };
    loop {
        container.tick();
        if wait(&container.sessions, &signals)? {
            info!("stopping");
            container.sessions.iter_mut().for_each(|session| session.leave(Instant::now()));
            return Ok(());
        }
        container.answer(&mut model)?;
    }
}

struct Container {
    context: zmq::Context,
    sessions: Vec<Session>,
    /// The frontends to begin with.
    configured: HashSet<String>,
    /// The frontends of the cluster, as last heard.
    listed: HashSet<String>,
    register: Register,
}

impl Container {
    /// Opens sessions with frontends that are new, drops those that are neither listed nor there, and keeps the rest alive.
    fn tick(&mut self) {
        let now = Instant::now();
        let mut wanted: HashSet<&str> = self.listed.iter().map(String::as_str).collect();
        if !self.sessions.iter().any(Session::is_accepted) {
            // What was configured may lead to the cluster again, under whatever addresses it has now.
            wanted.extend(self.configured.iter().map(String::as_str));
            self.sessions
                .retain(|session| !(session.is_rejected() && self.configured.contains(session.address())));
        }
        self.sessions.retain(|session| wanted.contains(session.address()) || !session.is_pausing());
        for frontend in wanted {
            if self.sessions.iter().all(|session| session.address() != frontend) {
                self.sessions.push(Session::new(&self.context, frontend, self.register.clone(), now));
            }
        }
        self.sessions.iter_mut().for_each(|session| session.tick(now));
    }

    /// Answers everything that has arrived.
    fn answer(&mut self, model: &mut impl Model) -> Result<(), Error> {
        let mut computed = false;
        let mut rejected = None;
        for session in &mut self.sessions {
            while let Some(event) = session.receive(Instant::now()) {
                match event {
                    SessionEvent::Predict(batch) => {
                        let message = answer(model, &batch);
                        session.send(Instant::now(), &message);
                        computed = true;
                    }
                    SessionEvent::Feedback(Feedback { id, .. }) => {
                        session.send(Instant::now(), &FromContainer::FeedbackAck { id });
                    }
                    SessionEvent::Drain => session.leave(Instant::now()),
                    SessionEvent::Frontends(frontends) => self.listed = frontends.into_iter().collect(),
                    SessionEvent::Rejected { reason } => {
                        let frontend = session.address().to_owned();
                        warn!(frontend, reason, "rejected");
                        rejected = Some(Error::Rejected { frontend, reason });
                    }
                }
            }
        }
        if computed {
            let now = Instant::now();
            self.sessions.iter_mut().for_each(|session| session.listening(now));
        }
        match rejected {
            Some(error) if self.sessions.iter().all(Session::is_rejected) => Err(error),
            _ => Ok(()),
        }
    }
}

/// Waits until a session has something to read or to do; whether a signal came.
fn wait(sessions: &[Session], signals: &std::os::unix::net::UnixStream) -> Result<bool, zmq::Error> {
    let mut items = vec![zmq::PollItem::from_fd(signals.as_raw_fd(), POLLIN)];
    items.extend(sessions.iter().filter_map(Session::socket).map(|socket| socket.as_poll_item(POLLIN)));
    let next = sessions.iter().filter_map(Session::next_tick).min();
    let timeout = next.map_or(-1, |at| {
        i64::try_from(at.saturating_duration_since(Instant::now()).as_millis()).unwrap_or(0) + 1
    });
    match zmq::poll(&mut items, timeout) {
        Ok(_) | Err(zmq::Error::EINTR) => Ok(items[0].is_readable()),
        Err(error) => Err(error),
    }
}
