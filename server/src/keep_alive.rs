//! Which connections of one HTTP worker stay open between requests.
//!
//! A proxy reuses idle connections, and loses a request that it sends while the server closes one. So connections stay
//! open for longer than proxies keep them. Idle ones are closed earlier where they would keep new clients out.
//! Invariant: a connection without a request in progress does not keep new clients waiting, unless it is so new that
//! its first request may be on its way.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::connection::{Connection, Ending, Waiting};

/// Time between two looks at the connections. They stay open for that much longer at most.
const SWEEP: Duration = Duration::from_secs(1);
/// How long the line and the headers of a request may take.
pub(crate) const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long idle connections stay open once the server stops, so that requests on their way still arrive. The server
/// itself looks for open connections once a second.
const DRAIN_GRACE: Duration = Duration::from_millis(500);

/// Connections of one HTTP worker.
#[derive(Debug)]
pub(crate) struct WorkerConnections {
    /// Open connections, with some that have been closed since the last look.
    known: RefCell<Vec<Weak<Connection>>>,
    /// Number of known connections at which they are looked at without waiting for the next time.
    sweep_at: Cell<usize>,
    keep_alive: Duration,
    /// Idle connections are closed if there are this many connections or more.
    room: usize,
    /// How new connections end.
    ending: Cell<Ending>,
}

impl WorkerConnections {
    /// No connection yet. Idle ones stay open for `keep_alive`, unless there are nearly `most` connections.
    pub(crate) fn new(keep_alive: Duration, most: usize) -> Rc<Self> {
        let room = most - most / 8;
        let (known, ending) = (RefCell::default(), Cell::default());
        Rc::new(Self { known, sweep_at: Cell::new(room), keep_alive, room, ending })
    }

    /// State of a new connection.
    pub(crate) fn open(&self) -> Rc<Connection> {
        if self.known.borrow().len() >= self.sweep_at.get() {
            self.sweep(Instant::now());
        }
        let connection = Rc::new(Connection::default());
        connection.end(self.ending.get());
        self.known.borrow_mut().push(Rc::downgrade(&connection));
        connection
    }

    /// Closes idle connections in time, for ever.
    pub(crate) async fn sweep_for_ever(self: Rc<Self>) {
        let mut ticks = interval(SWEEP);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.sweep(ticks.tick().await.into_std());
        }
    }

    /// Ends all connections: at once those that stay idle, the others by their next answers.
    pub(crate) async fn drain(self: Rc<Self>) {
        self.end_all(Ending::AfterAnswer);
        sleep(DRAIN_GRACE).await;
        self.end_all(Ending::Now);
    }

    fn end_all(&self, ending: Ending) {
        self.ending.set(ending);
        self.known.borrow().iter().filter_map(Weak::upgrade).for_each(|connection| connection.end(ending));
    }

    /// Ends the connections that have waited too long for a request, and further ones if room is short.
    fn sweep(&self, now: Instant) {
        let mut known = self.known.borrow_mut();
        known.retain(|connection| connection.strong_count() > 0);
        let (mut staying, mut waiting) = (0, Vec::new());
        for connection in known.iter().filter_map(Weak::upgrade) {
            match connection.waiting(now) {
                Some((Waiting::Idle, since)) if now - since >= self.keep_alive => connection.end(Ending::Now),
                Some((Waiting::Head, since)) if now - since >= HEAD_TIMEOUT => connection.end(Ending::Late),
                Some((_, since)) if connection.has_begun() || now - since >= SWEEP => {
                    waiting.push((since, connection));
                }
                _ => staying += usize::from(connection.ends_now().is_none()),
            }
        }
        let some = self.room / 16 + 1;
        if waiting.len() + staying >= self.room {
            // Some more than there must be, so that the next clients need not look for room again. Connections are in
            // the order in which they were opened, and the sort keeps it.
            let surplus = waiting.len() + staying - self.room + some;
            waiting.sort_by_key(|&(since, _)| since);
            waiting.iter().take(surplus).for_each(|(_, connection)| connection.end(Ending::Now));
        }
        self.sweep_at.set(if known.len() < self.room { self.room } else { known.len() + some });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP_ALIVE: Duration = Duration::from_secs(75);

    fn ending(connections: &[Rc<Connection>]) -> Vec<usize> {
        (0..connections.len()).filter(|&index| connections[index].is_ending()).collect()
    }

    #[test]
    fn an_idle_connection_is_closed_after_its_time_and_no_earlier() {
        let worker = WorkerConnections::new(KEEP_ALIVE, 100);
        let (connection, begin) = (worker.open(), Instant::now());
        for seconds in 0..75 {
            worker.sweep(begin + Duration::from_secs(seconds));
            assert!(!connection.is_ending(), "after {seconds} s");
        }
        worker.sweep(begin + KEEP_ALIVE);
        assert_eq!(connection.ends_now(), Some(Ending::Now));
    }

    #[test]
    fn a_later_request_whose_head_does_not_arrive_is_given_up_however_its_bytes_trickle() {
        let worker = WorkerConnections::new(KEEP_ALIVE, 100);
        let (connection, begin) = (worker.open(), Instant::now());
        connection.begin();
        connection.finish();
        for seconds in 0..5 {
            connection.read_some();
            worker.sweep(begin + Duration::from_secs(seconds));
            assert!(!connection.is_ending(), "after {seconds} s");
        }
        connection.read_some();
        worker.sweep(begin + HEAD_TIMEOUT);
        assert_eq!(connection.ends_now(), Some(Ending::Late));
    }

    #[test]
    fn the_longest_idle_connections_make_room_for_new_ones() {
        let worker = WorkerConnections::new(KEEP_ALIVE, 36);
        let answered = || {
            let connection = worker.open();
            connection.begin();
            connection.finish();
            connection
        };
        let mut connections: Vec<_> = (0..31).map(|_| answered()).collect();
        let now = Instant::now();
        // The first one computes, the second one has just been answered.
        worker.sweep(now);
        connections[0].begin();
        connections[1].begin();
        connections[1].finish();
        connections.extend([worker.open(), worker.open()]);
        assert_eq!(ending(&connections), [2, 3, 4]);
    }

    #[test]
    fn connections_that_were_closed_take_no_room() {
        let worker = WorkerConnections::new(KEEP_ALIVE, 36);
        let kept: Vec<_> = (0..20).map(|_| worker.open()).collect();
        (0..1000).for_each(|_| drop(worker.open()));
        assert_eq!(ending(&kept), [0; 0]);
        assert!(worker.known.borrow().len() <= 32, "{worker:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_stops_says_so_at_once_and_closes_idle_connections_soon() {
        let worker = WorkerConnections::new(KEEP_ALIVE, 100);
        let (idle, busy) = (worker.open(), worker.open());
        busy.begin();
        let begin = tokio::time::Instant::now();
        let early = async {
            tokio::task::yield_now().await;
            (idle.is_ending(), idle.ends_now(), worker.open().is_ending())
        };
        let ((), early) = tokio::join!(Rc::clone(&worker).drain(), early);
        assert_eq!(early, (true, None, true));
        assert_eq!(begin.elapsed(), DRAIN_GRACE);
        assert_eq!((idle.ends_now(), busy.ends_now()), (Some(Ending::Now), None));
        assert!(busy.is_ending());
    }
}
