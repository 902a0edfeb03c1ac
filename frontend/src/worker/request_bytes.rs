//! The bound on the memory of all requests that are in progress.
//!
//! A request counts with its body while that arrives, with its inputs while they are answered, and with its answer until
//! the client has taken it: with the largest of the three. Each HTTP worker keeps a little more than its requests hold, so
//! that most of them touch nothing that other workers do. Invariant: what all workers have is within the limit, what
//! requests hold is within what their worker has, and it is given back when its [`Held`] is dropped, whatever ended the
//! request.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The most bytes that a worker keeps for requests to come, twice.
const MOST_SPARE: usize = 128 << 10;
/// One part in so many of the limit, at most, is kept by a worker, twice.
const SPARE_SHARE: usize = 1024;

/// The bytes of one frontend's requests.
#[derive(Debug)]
pub struct RequestBytes {
    limit: usize,
    /// What workers have.
    taken: AtomicUsize,
}

/// The bytes of one HTTP worker's requests. Never leaves its thread.
#[derive(Debug)]
pub struct WorkerBytes {
    all: Arc<RequestBytes>,
    taken: Cell<usize>,
    held: Cell<usize>,
}

/// Bytes of one request, counted as long as this lives.
pub struct Held {
    of: Rc<WorkerBytes>,
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
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, taken: AtomicUsize::new(0) })
    }

    /// Those of one more worker.
    pub fn worker(self: &Arc<Self>) -> Rc<WorkerBytes> {
        Rc::new(WorkerBytes { all: Arc::clone(self), taken: Cell::new(0), held: Cell::new(0) })
    }

    /// Takes so many bytes for a worker; if there are not as many, those that workers have.
    fn take(&self, bytes: usize) -> Result<(), usize> {
        // First counted, then compared: two that come at once cannot both take the last bytes.
        let before = self.taken.fetch_add(bytes, Ordering::Relaxed);
        if bytes <= self.limit.saturating_sub(before) {
            return Ok(());
        }
        self.taken.fetch_sub(bytes, Ordering::Relaxed);
        Err(before)
    }

    fn spare(&self) -> usize {
        MOST_SPARE.min(self.limit / SPARE_SHARE)
    }
}

impl WorkerBytes {
    /// Counts a new request with so many bytes.
    ///
    /// # Errors
    /// If there is no room for them.
    pub fn hold(self: &Rc<Self>, bytes: usize) -> Result<Held, NoRoom> {
        let mut held = Held { of: Rc::clone(self), bytes: 0 };
        held.grow_to(bytes)?;
        Ok(held)
    }

    /// Makes sure that the worker has `more` bytes than its requests hold; if that cannot be, what others hold.
    fn reserve(&self, more: usize) -> Result<(), usize> {
        let missing = more.saturating_sub(self.taken.get() - self.held.get());
        if missing == 0 {
            return Ok(());
        }
        let with_spare = missing.saturating_add(self.all.spare());
        let taken = self.all.take(with_spare).map(|()| with_spare);
        let taken = taken.or_else(|_| self.all.take(missing).map(|()| missing))?;
        self.taken.update(|before| before + taken);
        Ok(())
    }

    /// Takes back what a request held, and gives back what is too much to keep.
    fn release(&self, bytes: usize) {
        self.held.update(|held| held - bytes);
        let (spare, free) = (self.all.spare(), self.taken.get() - self.held.get());
        if free > 2 * spare {
            let back = free - spare;
            self.taken.update(|taken| taken - back);
            self.all.taken.fetch_sub(back, Ordering::Relaxed);
        }
    }
}

impl Held {
    /// Counts the request with at least so many bytes.
    ///
    /// # Errors
    /// If there is no room for them. The request stays counted as before.
    pub fn grow_to(&mut self, bytes: usize) -> Result<(), NoRoom> {
        let Some(more) = bytes.checked_sub(self.bytes) else { return Ok(()) };
        let limit = self.of.all.limit;
        self.of.reserve(more).map_err(|taken| {
            let free = self.of.taken.get() - self.of.held.get();
            NoRoom { needed: bytes, held: taken.saturating_sub(self.bytes + free), limit }
        })?;
        self.of.held.update(|held| held + more);
        self.bytes = bytes;
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.of.release(self.bytes);
    }
}

impl Drop for WorkerBytes {
    fn drop(&mut self) {
        self.all.taken.fetch_sub(self.taken.get(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_share_a_limit_and_give_back_what_they_took() {
        let all = RequestBytes::new(100);
        let (worker, other) = (all.worker(), all.worker());
        let mut first = worker.hold(40).unwrap();
        first.grow_to(60).unwrap();
        first.grow_to(10).unwrap();
        assert_eq!(other.hold(41).err(), Some(NoRoom { needed: 41, held: 60, limit: 100 }));
        let second = other.hold(40).unwrap();
        assert_eq!(first.grow_to(61), Err(NoRoom { needed: 61, held: 40, limit: 100 }));
        drop(first);
        assert!(other.hold(60).is_ok() && other.hold(61).is_err());
        drop(second);
        assert!(worker.hold(100).is_ok());
    }

    #[test]
    fn a_request_beyond_the_limit_never_has_room() {
        let worker = RequestBytes::new(100).worker();
        assert_eq!(worker.hold(101).err(), Some(NoRoom { needed: 101, held: 0, limit: 100 }));
        assert_eq!(worker.hold(usize::MAX).err().map(|error| error.held), Some(0));
        assert!(worker.hold(100).is_ok());
    }

    #[test]
    fn a_worker_keeps_a_little_for_requests_to_come_and_no_more() {
        let all = RequestBytes::new(1 << 30);
        let worker = all.worker();
        let taken = || all.taken.load(Ordering::Relaxed);
        drop(worker.hold(10).unwrap());
        let kept = taken();
        assert!(kept > 0);
        for _ in 0..10 {
            drop(worker.hold(MOST_SPARE / 2).unwrap());
            assert_eq!(taken(), kept, "small requests change nothing that workers share");
        }
        let large: Vec<_> = (0..100).map(|_| worker.hold(1 << 20).unwrap()).collect();
        assert!(taken() >= 100 << 20);
        drop(large);
        assert!(taken() <= 2 * MOST_SPARE);
        drop(worker);
        assert_eq!(taken(), 0);
    }

    #[test]
    fn what_others_keep_does_not_count_as_room_that_is_taken_for_long() {
        let all = RequestBytes::new(1 << 20);
        let workers: Vec<_> = (0..8).map(|_| all.worker()).collect();
        workers.iter().for_each(|worker| drop(worker.hold(1).unwrap()));
        assert!(workers[0].hold((1 << 20) - 8 * 2 * all.spare()).is_ok());
    }
}
