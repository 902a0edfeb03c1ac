//! State of one HTTP connection that its stream, its requests and its worker share.
//!
//! actix-http tells neither when a connection is idle nor whether a client that has closed its sending side still
//! waits for answers. Invariant: the end of a client's bytes is not passed on to actix-http before every request that
//! was read has been answered, or waits for bytes that will not come.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use actix_web::HttpRequest;

/// State of one connection. Never leaves the thread of its HTTP worker.
#[derive(Debug, Default)]
pub(crate) struct Connection {
    /// Number of requests that have begun.
    begun: Cell<u64>,
    is_in_progress: Cell<bool>,
    /// Whether the request in progress waits for more of its body.
    awaits_body: Cell<bool>,
    /// Whether a part of the next request's head has been read.
    has_begun_head: Cell<bool>,
    /// Time at which the worker first saw the connection in its present phase between requests.
    waiting_since: Cell<Option<(Waiting, Instant)>>,
    /// Whether the client has closed its sending side.
    is_half_closed: Cell<bool>,
    /// Number of requests that had begun when the end of the client's bytes was last asked for.
    begun_before: Cell<Option<u64>>,
    ending: Cell<Ending>,
    /// Task that reads the connection.
    reader: RefCell<Option<Waker>>,
    /// Task of a request that waits for the client to close its sending side.
    watcher: RefCell<Option<Waker>>,
}

/// Phase of a connection between two requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// Nothing of the next request has come.
    Idle,
    /// A part of the next request's head has come.
    Head,
}

/// Whether and how the server ends a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) enum Ending {
    /// The connection stays open.
    #[default]
    No,
    /// The next answer says that it is the last.
    AfterAnswer,
    /// The connection is closed once no request is in progress.
    Now,
    /// As [`Ending::Now`], and the client is told that the head of its request was too slow.
    Late,
}

impl Connection {
    /// Notes that bytes other than line ends were read.
    pub(crate) fn read_some(&self) {
        self.has_begun_head.set(true);
    }

    /// Notes that a request begins.
    pub(crate) fn begin(&self) {
        self.begun.update(|begun| begun + 1);
        self.is_in_progress.set(true);
        self.has_begun_head.set(false);
        self.waiting_since.set(None);
    }

    /// Notes that the head of the answer is complete. Its body may still be written.
    pub(crate) fn finish(&self) {
        self.is_in_progress.set(false);
        self.awaits_body.set(false);
        self.has_begun_head.set(false);
        if self.is_half_closed.get() || self.ending.get() >= Ending::Now {
            self.wake_reader();
        }
    }

    /// Notes whether the request in progress waits for more of its body.
    pub(crate) fn await_body(&self, awaits: bool) {
        self.awaits_body.set(awaits);
        if awaits && self.is_half_closed.get() {
            self.wake_reader();
        }
    }

    /// Notes that the client has closed its sending side.
    pub(crate) fn half_close(&self) {
        self.is_half_closed.set(true);
        if let Some(watcher) = self.watcher.take() {
            watcher.wake();
        }
    }

    /// Whether a first request has begun.
    pub(crate) fn has_begun(&self) -> bool {
        self.begun.get() > 0
    }

    /// Whether answers must say that the connection will be closed.
    pub(crate) fn is_ending(&self) -> bool {
        self.ending.get() != Ending::No
    }

    /// How the reader must end the connection now, if it must.
    pub(crate) fn ends_now(&self) -> Option<Ending> {
        let ending = self.ending.get();
        (ending >= Ending::Now && !self.is_in_progress.get()).then_some(ending)
    }

    /// Ends the connection. An earlier decision to end it sooner holds.
    pub(crate) fn end(&self, ending: Ending) {
        self.ending.set(self.ending.get().max(ending));
        if ending >= Ending::Now {
            self.wake_reader();
        }
    }

    /// Phase between two requests, and the time at which this was first called in it. None while a request is in
    /// progress, or once the connection ends.
    pub(crate) fn waiting(&self, now: Instant) -> Option<(Waiting, Instant)> {
        if self.is_in_progress.get() || self.ending.get() >= Ending::Now {
            return None;
        }
        let phase = if self.has_begun_head.get() { Waiting::Head } else { Waiting::Idle };
        let since = self.waiting_since.get().filter(|&(known, _)| known == phase);
        let waiting = since.unwrap_or((phase, now));
        self.waiting_since.set(Some(waiting));
        Some(waiting)
    }

    /// Has the task be woken when the connection must be read again.
    pub(crate) fn wake_later(&self, context: &Context<'_>) {
        let mut reader = self.reader.borrow_mut();
        match &mut *reader {
            Some(waker) => waker.clone_from(context.waker()),
            None => *reader = Some(context.waker().clone()),
        }
    }

    fn wake_reader(&self) {
        if let Some(reader) = &*self.reader.borrow() {
            reader.wake_by_ref();
        }
    }

    /// Ready once actix-http may learn that no more bytes come. It loses requests that it has read and not parsed by
    /// then, and parses only so many at once.
    pub(crate) fn poll_end(&self, context: &Context<'_>) -> Poll<()> {
        if self.awaits_body.get() {
            return Poll::Ready(());
        }
        self.wake_later(context);
        if self.is_in_progress.get() {
            return Poll::Pending;
        }
        let begun = self.begun.get();
        if self.begun_before.replace(Some(begun)) == Some(begun) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Returns once the client has closed its sending side. A client that has ended looks like one that waits for its
/// answer: both have sent their last byte. Only for callers that never close it before they are answered.
pub async fn half_closed(request: &HttpRequest) {
    let Some(connection) = request.conn_data::<Rc<Connection>>() else { return std::future::pending().await };
    poll_fn(|context| {
        if connection.is_half_closed.get() {
            return Poll::Ready(());
        }
        connection.watcher.replace(Some(context.waker().clone()));
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn end(connection: &Connection) -> Poll<()> {
        connection.poll_end(&Context::from_waker(Waker::noop()))
    }

    #[test]
    fn the_end_is_told_once_no_further_request_begins() {
        let connection = Connection::default();
        connection.read_some();
        connection.half_close();
        assert!(end(&connection).is_pending(), "what was read is not parsed yet");
        for _ in 0..3 {
            connection.begin();
            assert!(end(&connection).is_pending(), "a request is in progress");
            connection.finish();
            assert!(end(&connection).is_pending(), "another request may follow");
        }
        assert!(end(&connection).is_ready());
    }

    #[test]
    fn a_request_that_waits_for_its_body_is_told_the_end() {
        let connection = Connection::default();
        connection.begin();
        connection.half_close();
        assert!(end(&connection).is_pending());
        connection.await_body(true);
        assert!(end(&connection).is_ready());
    }

    #[test]
    fn waiting_begins_anew_with_each_request_and_with_each_head() {
        let connection = Connection::default();
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        assert_eq!(connection.waiting(at(0)), Some((Waiting::Idle, at(0))));
        assert_eq!(connection.waiting(at(1)), Some((Waiting::Idle, at(0))));
        connection.read_some();
        assert_eq!(connection.waiting(at(2)), Some((Waiting::Head, at(2))));
        connection.read_some();
        assert_eq!(connection.waiting(at(3)), Some((Waiting::Head, at(2))));
        connection.begin();
        connection.read_some();
        assert_eq!(connection.waiting(at(4)), None);
        connection.finish();
        assert_eq!(connection.waiting(at(5)), Some((Waiting::Idle, at(5))));
    }

    #[test]
    fn a_connection_ends_only_between_requests() {
        let connection = Connection::default();
        connection.begin();
        connection.end(Ending::Now);
        assert!(connection.is_ending());
        assert_eq!(connection.ends_now(), None);
        connection.finish();
        assert_eq!(connection.ends_now(), Some(Ending::Now));
    }
}
