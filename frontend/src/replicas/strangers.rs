//! What the reception remembers of its peers: their addresses, and what it has told them or the log.
//!
//! Invariant: memory is bounded by the open connections, and by [`MOST_LINES`] lines of the log.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use clipper_rpc::router::PeerId;

/// Address of a peer that has none, since it came over a Unix socket.
const THIS_HOST: &str = "this host";
/// How long a peer has to answer `unknown` before it is told again. It may have sent several
/// messages before it read the first `unknown`, and each further one might make it register again.
const TELL_AGAIN: Duration = Duration::from_secs(1);
/// How long a line is left out of the log after it was written. A container that is refused for now
/// comes back twice a second.
const LOG_AGAIN: Duration = Duration::from_secs(60);
/// Lines that are remembered.
const MOST_LINES: usize = 1024;

/// Memory of the reception.
#[derive(Debug, Default)]
pub struct Strangers {
    /// IP addresses of open connections.
    addresses: HashMap<PeerId, String>,
    /// Peers that were told that they are unknown and have not registered since.
    told: HashMap<PeerId, Instant>,
    /// Lines that were logged in the last [`LOG_AGAIN`].
    logged: HashMap<String, Instant>,
}

impl Strangers {
    /// Notes the address of a peer.
    pub fn located(&mut self, peer: &PeerId, address: String) {
        self.addresses.insert(peer.clone(), address);
    }

    /// The address of a peer, for logs.
    pub fn address(&self, peer: &PeerId) -> &str {
        self.addresses.get(peer).map_or(THIS_HOST, String::as_str)
    }

    /// Whether a peer is to be told now that it is unknown.
    pub fn tell_unknown(&mut self, peer: &PeerId, now: Instant) -> bool {
        let due = self.told.get(peer).is_none_or(|&told| now - told >= TELL_AGAIN);
        if due {
            self.told.insert(peer.clone(), now);
        }
        due
    }

    /// Notes that a peer has asked to be registered.
    pub fn introduced(&mut self, peer: &PeerId) {
        self.told.remove(peer);
    }

    /// Whether a line about the address of a peer is to be logged now.
    pub fn log(&mut self, peer: &PeerId, line: &str, now: Instant) -> bool {
        let line = format!("{}: {line}", self.address(peer));
        if self.logged.get(&line).is_some_and(|&logged| now - logged < LOG_AGAIN) {
            return false;
        }
        if self.logged.len() >= MOST_LINES {
            self.logged.retain(|_, &mut logged| now - logged < LOG_AGAIN);
        }
        // Rather a line too many than memory without a bound.
        if self.logged.len() >= MOST_LINES {
            self.logged.clear();
        }
        self.logged.insert(line, now);
        true
    }

    /// Forgets a connection.
    pub fn lost(&mut self, peer: &PeerId) {
        self.addresses.remove(peer);
        self.told.remove(peer);
    }
}
