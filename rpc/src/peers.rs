//! The connections of a ROUTER socket, and which of them have not registered.
//!
//! Kept by the router's task. Invariant: a connection that has not registered is closed after
//! [`LIFETIME`], after [`MOST_MESSAGES`] messages, or when [`MOST_STRANGERS`] newer ones have come;
//! so strangers cost a bounded amount of memory and time, and cannot keep a container from
//! registering.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use crate::router_socket::PeerId;

/// How long a connection may last without a registration.
const LIFETIME: Duration = Duration::from_secs(10);
/// Messages that a peer may send without being registered.
const MOST_MESSAGES: u32 = 100;
/// Connections without a registration.
const MOST_STRANGERS: usize = 512;

/// Open connections.
#[derive(Default)]
pub(crate) struct Peers {
    peers: HashMap<PeerId, Peer>,
    /// Peers that have not registered, in the order in which they came, and when their time is up.
    strangers: BTreeMap<u64, (PeerId, Instant)>,
    next_number: u64,
}

enum Peer {
    Registered,
    Stranger { number: u64, messages: u32 },
}

impl Peers {
    /// Whether the connection is open.
    pub(crate) fn contains(&self, peer: &PeerId) -> bool {
        self.peers.contains_key(peer)
    }

    /// Whether nothing was heard of a peer since it connected, or since its registration ended.
    pub(crate) fn is_new(&self, peer: &PeerId) -> bool {
        !matches!(self.peers.get(peer), Some(Peer::Registered | Peer::Stranger { messages: 1.., .. }))
    }

    /// Notes a new connection. Returns the stranger to be disconnected for it, if there are too
    /// many.
    #[must_use]
    pub(crate) fn connected(&mut self, peer: PeerId, now: Instant) -> Option<PeerId> {
        self.enter(peer, now);
        let (_, (oldest, _)) =
            self.strangers.first_key_value().filter(|_| self.strangers.len() > MOST_STRANGERS)?;
        Some(oldest.clone())
    }

    /// Forgets a connection. Returns whether there was one.
    pub(crate) fn remove(&mut self, peer: &PeerId) -> bool {
        let removed = self.peers.remove(peer);
        if let Some(Peer::Stranger { number, .. }) = &removed {
            self.strangers.remove(number);
        }
        removed.is_some()
    }

    /// Notes that a peer is registered. Returns whether it is so only now.
    pub(crate) fn registered(&mut self, peer: &PeerId) -> bool {
        let Some(known) = self.peers.get_mut(peer) else { return false };
        match std::mem::replace(known, Peer::Registered) {
            Peer::Registered => false,
            Peer::Stranger { number, .. } => self.strangers.remove(&number).is_some(),
        }
    }

    /// Notes that a peer is not registered any more.
    pub(crate) fn released(&mut self, peer: &PeerId, now: Instant) {
        if matches!(self.peers.get(peer), Some(Peer::Registered)) {
            self.enter(peer.clone(), now);
        }
    }

    /// Notes a message of a peer that is not registered. Returns whether it has sent too many.
    #[must_use]
    pub(crate) fn heard_stranger(&mut self, peer: &PeerId, now: Instant) -> bool {
        self.released(peer, now);
        let Some(Peer::Stranger { messages, .. }) = self.peers.get_mut(peer) else { return false };
        *messages += 1;
        *messages >= MOST_MESSAGES
    }

    /// A stranger whose time is up.
    pub(crate) fn overdue(&self, now: Instant) -> Option<PeerId> {
        let (_, (oldest, end)) = self.strangers.first_key_value()?;
        (*end <= now).then(|| oldest.clone())
    }

    /// When [`Peers::overdue`] finds a stranger next.
    pub(crate) fn next_end(&self) -> Option<Instant> {
        self.strangers.first_key_value().map(|(_, &(_, end))| end)
    }

    fn enter(&mut self, peer: PeerId, now: Instant) {
        let number = self.next_number;
        self.next_number += 1;
        self.strangers.insert(number, (peer.clone(), now + LIFETIME));
        self.peers.insert(peer, Peer::Stranger { number, messages: 0 });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: usize) -> PeerId {
        let [.., a, b] = number.to_be_bytes();
        PeerId::from([0, 0, 0, a, b])
    }

    #[test]
    fn the_oldest_stranger_makes_room_for_a_newer_one() {
        let (mut peers, now) = (Peers::default(), Instant::now());
        for number in 0..MOST_STRANGERS {
            assert_eq!(peers.connected(id(number), now), None);
        }
        // A registration takes its peer out of the strangers.
        assert!(peers.registered(&id(0)));
        assert!(!peers.registered(&id(0)));
        assert_eq!(peers.connected(id(MOST_STRANGERS), now), None);
        assert_eq!(peers.connected(id(MOST_STRANGERS + 1), now), Some(id(1)));
        assert!(peers.remove(&id(1)));
        assert!(!peers.remove(&id(1)));
        assert_eq!(peers.connected(id(MOST_STRANGERS + 2), now), Some(id(2)));
    }

    #[test]
    fn a_stranger_has_some_seconds_and_some_messages() {
        let (mut peers, now) = (Peers::default(), Instant::now());
        assert_eq!(peers.next_end(), None);
        assert_eq!(peers.connected(id(1), now), None);
        let later = now + LIFETIME / 2;
        assert_eq!(peers.connected(id(2), later), None);
        assert_eq!(peers.next_end(), Some(now + LIFETIME));
        assert_eq!(peers.overdue(later), None);
        assert_eq!(peers.overdue(now + LIFETIME), Some(id(1)));
        assert!(peers.remove(&id(1)));
        for _ in 1..MOST_MESSAGES {
            assert!(!peers.heard_stranger(&id(2), later));
        }
        assert!(peers.heard_stranger(&id(2), later));
    }

    #[test]
    fn a_peer_whose_registration_ends_is_a_stranger_from_then_on() {
        let (mut peers, now) = (Peers::default(), Instant::now());
        assert_eq!(peers.connected(id(1), now), None);
        assert!(peers.registered(&id(1)));
        assert_eq!(peers.next_end(), None);
        let later = now + 10 * LIFETIME;
        peers.released(&id(1), later);
        assert_eq!(peers.next_end(), Some(later + LIFETIME));
        // A second time makes it no younger, and one that has gone does not come back.
        peers.released(&id(1), later + LIFETIME / 2);
        peers.released(&id(2), later);
        assert_eq!(peers.overdue(later + LIFETIME), Some(id(1)));
        assert!(peers.remove(&id(1)));
        assert_eq!(peers.next_end(), None);
    }
}
