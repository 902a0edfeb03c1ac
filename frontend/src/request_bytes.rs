//! The bound on the memory of all requests that are in progress.
//!
//! A request counts with its body while that arrives, with its inputs while they are answered, and with its answer until
//! the client has taken it: with the largest of the three. Invariant: what is held is within the limit, and is given back
//! when its [`Held`] is dropped, whatever ended the request.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts the bytes of one frontend's requests.
#[derive(Debug)]
pub struct RequestBytes {
    limit: usize,
    held: AtomicUsize,
}

/// Bytes of one request, counted as long as this lives.
pub struct Held {
    of: Arc<RequestBytes>,
    bytes: usize,
}

/// A request for which there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the request needs {needed} bytes, and {held} of {limit} are taken by requests in progress (--request-bytes)"
)]
pub struct NoRoom {
    /// The bytes that the request would have taken.
    pub needed: usize,
    /// The bytes that other requests take.
    pub held: usize,
    /// The bytes that all requests may take.
    pub limit: usize,
}

impl RequestBytes {
    /// Nothing is held yet, and never more than `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { limit, held: AtomicUsize::new(0) }
    }

    /// Counts a new request with so many bytes.
    ///
    /// # Errors
    /// If there is no room for them.
    pub fn hold(self: &Arc<Self>, bytes: usize) -> Result<Held, NoRoom> {
        let mut held = Held { of: Arc::clone(self), bytes: 0 };
        held.grow_to(bytes)?;
        Ok(held)
    }

    /// Bytes that are held.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }
}

impl Held {
    /// Counts the request with at least so many bytes.
    ///
    /// # Errors
    /// If there is no room for them. The request stays counted as before.
    pub fn grow_to(&mut self, bytes: usize) -> Result<(), NoRoom> {
        let Some(more) = bytes.checked_sub(self.bytes).filter(|&more| more > 0) else { return Ok(()) };
        let RequestBytes { limit, ref held } = *self.of;
        // First counted, then compared: two that come at once cannot both take the last bytes.
        let before = held.fetch_add(more, Ordering::Relaxed);
        if more > limit.saturating_sub(before) {
            held.fetch_sub(more, Ordering::Relaxed);
            return Err(NoRoom { needed: bytes, held: before - self.bytes, limit });
        }
        self.bytes = bytes;
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.of.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_share_a_limit_and_give_back_what_they_took() {
        let bytes = Arc::new(RequestBytes::new(100));
        let mut first = bytes.hold(40).unwrap();
        first.grow_to(60).unwrap();
        first.grow_to(10).unwrap();
        assert_eq!(bytes.hold(41).err(), Some(NoRoom { needed: 41, held: 60, limit: 100 }));
        let second = bytes.hold(40).unwrap();
        assert_eq!(first.grow_to(61), Err(NoRoom { needed: 61, held: 40, limit: 100 }));
        assert_eq!(bytes.held(), 100);
        drop(first);
        assert_eq!(bytes.held(), 40);
        drop(second);
        assert_eq!(bytes.held(), 0);
    }

    #[test]
    fn a_request_beyond_the_limit_never_has_room() {
        let bytes = Arc::new(RequestBytes::new(100));
        assert_eq!(bytes.hold(101).err(), Some(NoRoom { needed: 101, held: 0, limit: 100 }));
        assert_eq!(bytes.hold(usize::MAX).err().map(|error| error.held), Some(0));
        assert!(bytes.hold(100).is_ok());
    }
}
