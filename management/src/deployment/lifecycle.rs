//! The life of one replica as a pure state machine: when to start its process, when to end it, when to give it up.
//!
//! ```text
//! waiting ──frontend──▶ running: starting ⇄ ready ──exit──▶ backing off ──delay──▶ waiting
//!                          │ unconnected for too long            │ five exits, and never ready
//!                          ▼                                     ▼
//!                        ending ──exit──▶ backing off          failed
//! ```
//! The replica's actor feeds it the clock and what frontends report ([`Lifecycle::advance`]) and the exits of the
//! process ([`Lifecycle::exited`]). Invariant: a process is started only while none runs.

use std::fmt;
use std::time::{Duration, Instant};

use super::status::ReplicaState;

const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(10);
/// Being ready for this long resets the delay.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);
/// A replica that has exited so often without ever having been ready is left alone. One that has been will be again:
/// what ails it then is more likely its surroundings.
const MOST_EXITS: u32 = 5;

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Exit {
    /// It returned this status.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
    /// It never ran.
    NotStarted(String),
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exited with code {code}"),
            Self::Signal(number) => match nix::sys::signal::Signal::try_from(*number) {
                Ok(signal) => write!(f, "was killed by signal {number} ({signal})"),
                Err(_) => write!(f, "was killed by signal {number}"),
            },
            Self::NotStarted(reason) => write!(f, "could not be started: {reason}"),
        }
    }
}

/// In how many places a replica's process is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    /// The frontends that there are.
    pub(super) frontends: usize,
    /// Those of them that it is connected to.
    pub(super) connected: usize,
}

/// What to do with a replica's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Start one.
    Start,
    /// End the one that runs.
    End,
}

#[derive(Debug)]
enum Phase {
    /// Nothing runs, for want of a frontend to connect to.
    Waiting,
    Running(Run),
    /// It was ordered to end, for want of a connection, and has not yet.
    Ending {
        was_ready: bool,
    },
    BackingOff {
        until: Instant,
        reason: String,
    },
    Failed {
        reason: String,
    },
}

/// A process that runs.
#[derive(Debug)]
struct Run {
    seen: Seen,
    /// Whether the process runs. Before, its files are copied, or it waits for its turn.
    started: bool,
    /// Whether every frontend that there was reported it, some time.
    was_ready: bool,
    ready_since: Option<Instant>,
    /// Since when there is a frontend, and none that it is connected to.
    unconnected_since: Option<Instant>,
}

impl Run {
    fn new(now: Instant, seen: Seen) -> Self {
        let mut run =
            Self { seen, started: false, was_ready: false, ready_since: None, unconnected_since: None };
        run.observe(now, Seen { connected: 0, ..seen });
        run
    }

    fn observe(&mut self, now: Instant, seen: Seen) {
        self.seen = seen;
        self.unconnected_since = (self.started && seen.frontends > 0 && seen.connected == 0)
            .then(|| self.unconnected_since.unwrap_or(now));
        // Once ready, it stays so while one frontend has it: a frontend that is new takes a moment to be found.
        let ready = seen.connected > 0 && (seen.connected >= seen.frontends || self.ready_since.is_some());
        self.ready_since = ready.then(|| self.ready_since.unwrap_or(now));
        self.was_ready |= ready;
    }

    fn reason(&self) -> Option<String> {
        match self {
            Self { ready_since: Some(_), .. } => None,
            Self { started: false, .. } => Some("being started".to_owned()),
            Self { seen: Seen { frontends: 0, .. }, .. } => {
                Some("running, but no frontend is connected".to_owned())
            }
            Self { seen: Seen { connected: 0, .. }, .. } => Some("running but not connected".to_owned()),
            Self { seen: Seen { frontends, connected }, .. } => {
                Some(format!("running, but connected to {connected} of {frontends} frontends only"))
            }
        }
    }
}

/// The state of one replica.
#[derive(Debug)]
pub(super) struct Lifecycle {
    phase: Phase,
    /// How long a process may run without being connected to any frontend.
    connect_timeout: Duration,
    next_delay: Duration,
    /// Exits in a row without having been ready.
    futile_exits: u32,
    /// Whether any process of it was ready.
    ever_ready: bool,
    starts: u32,
}

impl Lifecycle {
    pub(super) fn new(connect_timeout: Duration) -> Self {
        Self {
            phase: Phase::Waiting,
            connect_timeout,
            next_delay: FIRST_DELAY,
            futile_exits: 0,
            ever_ready: false,
            starts: 0,
        }
    }

    /// Takes note of the time and of who sees the process; says what is to be done now.
    pub(super) fn advance(&mut self, now: Instant, seen: Seen) -> Option<Order> {
        match &mut self.phase {
            Phase::BackingOff { until, .. } if *until <= now => self.phase = Phase::Waiting,
            Phase::Running(run) => run.observe(now, seen),
            _ => {}
        }
        match &self.phase {
            Phase::Waiting if seen.frontends > 0 => {
                self.phase = Phase::Running(Run::new(now, seen));
                self.starts += 1;
                Some(Order::Start)
            }
            Phase::Running(Run { unconnected_since: Some(since), was_ready, .. })
                if now.duration_since(*since) >= self.connect_timeout =>
            {
                self.phase = Phase::Ending { was_ready: *was_ready };
                Some(Order::End)
            }
            _ => None,
        }
    }

    /// The process runs from now on: its time to connect begins.
    pub(super) fn started(&mut self, now: Instant) {
        if let Phase::Running(run) = &mut self.phase {
            run.started = true;
            run.observe(now, run.seen);
        }
    }

    /// The process has ended.
    pub(super) fn exited(&mut self, now: Instant, exit: &Exit) {
        let (was_ready, reason) = match &self.phase {
            Phase::Running(run) => {
                if run.ready_since.is_some_and(|since| now.duration_since(since) >= HEALTHY_AFTER) {
                    self.next_delay = FIRST_DELAY;
                }
                (run.was_ready, exit.to_string())
            }
            Phase::Ending { was_ready } => (*was_ready, self.reason_of_ending(*was_ready)),
            Phase::Waiting | Phase::BackingOff { .. } | Phase::Failed { .. } => return,
        };
        self.futile_exits = if was_ready { 0 } else { self.futile_exits + 1 };
        self.ever_ready |= was_ready;
        self.phase = if self.futile_exits >= MOST_EXITS && !self.ever_ready {
            Phase::Failed { reason: format!("{reason}; it never became ready in {MOST_EXITS} starts") }
        } else {
            let delay = self.next_delay;
            self.next_delay = LONGEST_DELAY.min(delay * 2);
            Phase::BackingOff { until: now + delay, reason }
        };
    }

    /// Begins anew if it has failed.
    pub(super) fn retry(&mut self) {
        if matches!(self.phase, Phase::Failed { .. }) {
            self.phase = Phase::Waiting;
            self.next_delay = FIRST_DELAY;
            self.futile_exits = 0;
        }
    }

    /// When to call [`Lifecycle::advance`] if nothing else happens before.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match &self.phase {
            Phase::BackingOff { until, .. } => Some(*until),
            Phase::Running(run) => run.unconnected_since.map(|since| since + self.connect_timeout),
            Phase::Waiting | Phase::Ending { .. } | Phase::Failed { .. } => None,
        }
    }

    pub(super) fn state(&self) -> ReplicaState {
        match &self.phase {
            Phase::Running(Run { ready_since: Some(_), .. }) => ReplicaState::Ready,
            Phase::Waiting | Phase::Running(_) => ReplicaState::Starting,
            Phase::Ending { .. } | Phase::BackingOff { .. } => ReplicaState::BackingOff,
            Phase::Failed { .. } => ReplicaState::Failed,
        }
    }

    /// Why it is not ready, to follow "the replica" in a sentence or to stand alone.
    pub(super) fn reason(&self) -> Option<String> {
        match &self.phase {
            Phase::Waiting => Some("waiting for a frontend to connect to".to_owned()),
            Phase::Running(run) => run.reason(),
            Phase::Ending { was_ready } => Some(self.reason_of_ending(*was_ready)),
            Phase::BackingOff { reason, .. } | Phase::Failed { reason } => Some(reason.clone()),
        }
    }

    /// Exits in a row without having been ready.
    pub(super) fn futile_exits(&self) -> u32 {
        self.futile_exits
    }

    /// How often a process was started again.
    pub(super) fn restarts(&self) -> u32 {
        self.starts.saturating_sub(1)
    }

    fn reason_of_ending(&self, was_ready: bool) -> String {
        let seconds = self.connect_timeout.as_secs_f64();
        if was_ready {
            format!("was ended: it had lost its connections and made no new one for {seconds} s")
        } else {
            format!("was ended: it had not connected within {seconds} s")
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(60);
    const NONE: Seen = Seen { frontends: 0, connected: 0 };
    const NOWHERE: Seen = Seen { frontends: 2, connected: 0 };
    const PARTLY: Seen = Seen { frontends: 2, connected: 1 };
    const EVERYWHERE: Seen = Seen { frontends: 2, connected: 2 };

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    /// A replica whose process has just been started.
    fn started() -> (Lifecycle, Instant) {
        let now = Instant::now();
        let mut replica = Lifecycle::new(TIMEOUT);
        assert_eq!(replica.advance(now, NOWHERE), Some(Order::Start));
        replica.started(now);
        (replica, now)
    }

    #[test]
    fn nothing_starts_before_there_is_a_frontend() {
        let now = Instant::now();
        let mut replica = Lifecycle::new(TIMEOUT);
        assert_eq!(replica.advance(now, NONE), None);
        assert_eq!(replica.state(), ReplicaState::Starting);
        assert_eq!(replica.advance(now, NOWHERE), Some(Order::Start));
    }

    #[test]
    fn a_replica_is_ready_once_every_frontend_has_it_and_stays_so_while_one_has() {
        let (mut replica, now) = started();
        assert_eq!(replica.advance(now, PARTLY), None);
        assert_eq!(replica.state(), ReplicaState::Starting);
        assert!(replica.reason().unwrap().contains("1 of 2 frontends"));
        replica.advance(now, EVERYWHERE);
        assert_eq!((replica.state(), replica.reason()), (ReplicaState::Ready, None));
        replica.advance(now, PARTLY);
        assert_eq!(replica.state(), ReplicaState::Ready);
        replica.advance(now, NOWHERE);
        assert_eq!(replica.state(), ReplicaState::Starting);
    }

    #[test]
    fn the_delay_doubles_from_a_tenth_of_a_second_to_ten_seconds() {
        let (mut replica, mut now) = started();
        let mut delays = Vec::new();
        for _ in 0..9 {
            replica.advance(now, EVERYWHERE);
            replica.exited(now, &Exit::Code(0));
            let deadline = replica.deadline().unwrap();
            delays.push((deadline - now).as_secs_f64());
            assert_eq!(replica.advance(deadline - seconds(0.001), NOWHERE), None);
            assert_eq!(replica.advance(deadline, NOWHERE), Some(Order::Start));
            now = deadline;
        }
        assert_eq!(delays, [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]);
        assert_eq!(replica.restarts(), 9);
    }

    #[test]
    fn a_minute_of_health_resets_the_delay() {
        let (mut replica, now) = started();
        replica.exited(now, &Exit::Code(1));
        replica.advance(now + seconds(1.0), EVERYWHERE);
        replica.advance(now + seconds(2.0), EVERYWHERE);
        replica.exited(now + seconds(63.0), &Exit::Signal(9));
        assert_eq!(replica.deadline(), Some(now + seconds(63.1)));
        assert_eq!(replica.reason().unwrap(), "was killed by signal 9 (SIGKILL)");
    }

    #[test]
    fn five_exits_without_ever_having_been_ready_are_enough() {
        let (mut replica, mut now) = started();
        for exits in 1..=5 {
            assert_eq!(replica.futile_exits(), exits - 1);
            replica.exited(now, &Exit::Code(3));
            now += LONGEST_DELAY;
            replica.advance(now, NOWHERE);
        }
        assert_eq!(replica.state(), ReplicaState::Failed);
        assert!(replica.reason().unwrap().starts_with("exited with code 3"));
        assert_eq!((replica.deadline(), replica.advance(now + TIMEOUT, NOWHERE)), (None, None));
    }

    #[test]
    fn a_replica_that_was_ready_once_is_never_given_up() {
        let (mut replica, mut now) = started();
        replica.advance(now, EVERYWHERE);
        for _ in 0..20 {
            replica.exited(now, &Exit::Code(3));
            assert_eq!(replica.state(), ReplicaState::BackingOff);
            now += LONGEST_DELAY;
            assert_eq!(replica.advance(now, NOWHERE), Some(Order::Start));
        }
    }

    #[test]
    fn a_failed_replica_can_be_tried_again() {
        let (mut replica, mut now) = started();
        for _ in 0..5 {
            replica.exited(now, &Exit::Code(3));
            now += LONGEST_DELAY;
            replica.advance(now, NOWHERE);
        }
        replica.retry();
        assert_eq!(replica.advance(now, NOWHERE), Some(Order::Start));
        replica.exited(now, &Exit::Code(3));
        assert_eq!((replica.futile_exits(), replica.state()), (1, ReplicaState::BackingOff));
    }

    #[test]
    fn a_process_that_does_not_connect_is_ended_and_started_again() {
        let (mut replica, now) = started();
        assert_eq!(replica.deadline(), Some(now + TIMEOUT));
        assert_eq!(replica.advance(now + seconds(59.9), NOWHERE), None);
        assert_eq!(replica.advance(now + TIMEOUT, NOWHERE), Some(Order::End));
        assert_eq!(replica.advance(now + TIMEOUT, NOWHERE), None);
        replica.exited(now + TIMEOUT, &Exit::Signal(15));
        assert_eq!(replica.reason().unwrap(), "was ended: it had not connected within 60 s");
        assert_eq!(replica.advance(now + TIMEOUT + seconds(0.1), NOWHERE), Some(Order::Start));
    }

    #[test]
    fn the_time_to_connect_begins_when_the_process_runs() {
        let mut replica = Lifecycle::new(TIMEOUT);
        let now = Instant::now();
        assert_eq!(replica.advance(now, NOWHERE), Some(Order::Start));
        assert_eq!(replica.advance(now + 2 * TIMEOUT, NOWHERE), None, "its files are being copied");
        replica.started(now + 2 * TIMEOUT);
        assert_eq!(replica.deadline(), Some(now + 3 * TIMEOUT));
    }

    #[test]
    fn a_process_is_not_blamed_for_a_time_without_frontends() {
        let (mut replica, now) = started();
        replica.advance(now, EVERYWHERE);
        assert_eq!(replica.advance(now + seconds(100.0), NONE), None);
        assert_eq!(replica.advance(now + seconds(200.0), NOWHERE), None);
        assert_eq!(replica.advance(now + seconds(259.0), NOWHERE), None);
        assert_eq!(replica.advance(now + seconds(260.0), NOWHERE), Some(Order::End));
        replica.exited(now + seconds(260.0), &Exit::Signal(15));
        assert_eq!(replica.futile_exits(), 0, "it had been ready");
    }

    #[derive(Debug, Clone)]
    enum Event {
        Advance(Seen),
        Exited(Exit),
    }

    fn event() -> impl Strategy<Value = (u64, Event)> {
        let seen = (0..3usize, 0..3usize)
            .prop_map(|(frontends, connected)| Seen { frontends, connected: connected.min(frontends) });
        let exit = prop_oneof![
            (0..3).prop_map(Exit::Code),
            (1..16).prop_map(Exit::Signal),
            Just(Exit::NotStarted("no such file".to_owned()))
        ];
        let event = prop_oneof![3 => seen.prop_map(Event::Advance), 1 => exit.prop_map(Event::Exited)];
        (prop_oneof![0..500u64, 0..100_000u64], event)
    }

    proptest! {
        #[test]
        fn whatever_happens_at_most_one_process_runs_and_failure_is_final(
            events in prop::collection::vec(event(), 0..200)
        ) {
            let mut now = Instant::now();
            let mut replica = Lifecycle::new(TIMEOUT);
            let (mut running, mut exited_at, mut failed, mut ready) = (false, None, false, false);
            for (millis, event) in events {
                now += Duration::from_millis(millis);
                match event {
                    Event::Advance(seen) => match replica.advance(now, seen) {
                        Some(Order::Start) => {
                            prop_assert!(!running && !failed && seen.frontends > 0);
                            let rested = exited_at.is_none_or(|at| now.duration_since(at) >= FIRST_DELAY);
                            prop_assert!(rested);
                            running = true;
                        }
                        Some(Order::End) => prop_assert!(running && seen.connected == 0),
                        None => {}
                    },
                    Event::Exited(exit) if running => {
                        replica.exited(now, &exit);
                        (running, exited_at) = (false, Some(now));
                        if let Some(deadline) = replica.deadline() {
                            prop_assert!(deadline - now <= LONGEST_DELAY);
                        }
                    }
                    Event::Exited(_) => {}
                }
                failed |= replica.state() == ReplicaState::Failed;
                ready |= replica.state() == ReplicaState::Ready;
                prop_assert!(!(failed && ready));
                prop_assert_eq!(failed, replica.state() == ReplicaState::Failed);
                prop_assert_eq!(replica.reason().is_none(), replica.state() == ReplicaState::Ready);
                prop_assert!(replica.state() != ReplicaState::Ready || running);
                if replica.advance(now, NONE).is_some() {
                    prop_assert!(false, "there is nothing to do without a frontend");
                }
            }
        }
    }
}
