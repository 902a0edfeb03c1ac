//! The event loop of one thread: sends by the schedule, reads answers, counts.
//!
//! Invariant: every request that the schedule or the closed loop calls for ends once, as an answer or as a failure, and is counted if it
//! was meant to be sent after the warm-up.

use std::collections::VecDeque;
use std::io;
use std::iter::Peekable;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use mio::{Events, Token};

use crate::load::connection::{Arrival, Connection, InFlight, State};
use crate::load::requests::Requests;
use crate::load::schedule::Schedule;
use crate::load::sleep::{self, Sleep};
use crate::load::tally::{Failure, Tally};
use crate::load::verdict::default_reason;
use crate::load::{Pace, Plan};

/// How often connections are looked at that nothing happens on.
const PATROL: Duration = Duration::from_millis(100);
/// How long connecting may take before the run starts without those that are not connected.
const CONNECTING: Duration = Duration::from_secs(10);
/// How many connections are made at once, and the least time between two such groups: more than fit a server's backlog (128 is usual) would
/// be dropped, and tried again by the system after a second.
const MADE_AT_ONCE: usize = 64;
const BETWEEN_GROUPS: Duration = Duration::from_millis(2);
/// What is read at once.
const BUFFER: usize = 256 * 1024;
/// How many events are taken at once: more would delay what is due meanwhile.
const EVENTS: usize = 128;

/// What a thread counted in one second since the end of the warm-up.
pub struct Second {
    /// Which.
    pub index: u64,
    /// What.
    pub tally: Tally,
}

/// What all threads of a run share.
pub struct Shared {
    /// Holds them back until all are connected.
    pub start: Barrier,
    /// Tells them to end early.
    pub stop: Arc<AtomicBool>,
}

pub struct Worker<'a> {
    plan: &'a Plan,
    shared: &'a Shared,
    sleep: Sleep,
    connections: Vec<Connection>,
    /// Connections that take a request, the one that waits for longest first.
    idle: VecDeque<usize>,
    /// When requests were meant to be sent that wait for a connection.
    waiting: VecDeque<Instant>,
    schedule: Option<Peekable<Schedule>>,
    requests: Requests,
    in_flight: usize,
    measured: Instant,
    end: Instant,
    patrol: Instant,
    busy: Duration,
    second: Second,
    seconds: Sender<Second>,
}

impl<'a> Worker<'a> {
    pub fn new(
        plan: &'a Plan,
        thread: usize,
        shared: &'a Shared,
        seconds: Sender<Second>,
    ) -> io::Result<Self> {
        let now = Instant::now();
        let share = plan.connections / plan.threads + usize::from(thread < plan.connections % plan.threads);
        let schedule = match plan.pace {
            Pace::Closed => None,
            Pace::Open { rate, arrivals } => {
                Some(Schedule::new(rate, arrivals, thread, plan.threads, plan.seed).peekable())
            }
        };
        Ok(Self {
            requests: Requests::new(plan.shape.clone(), thread, plan.threads, plan.seed),
            sleep: Sleep::new()?,
            connections: (0..share).map(|_| Connection::new(now)).collect(),
            idle: VecDeque::with_capacity(share),
            waiting: VecDeque::new(),
            schedule,
            in_flight: 0,
            measured: now,
            end: now,
            patrol: now,
            busy: Duration::ZERO,
            second: Second { index: 0, tally: Tally::default() },
            seconds,
            plan,
            shared,
        })
    }

    /// Connects, sends, and waits for what is still to come. Hands over what it counted each second, and yields for how long
    /// it measured.
    pub fn run(mut self) -> io::Result<Duration> {
        let mut events = Events::with_capacity(EVENTS);
        let mut buffer = vec![0; BUFFER];
        let connected = self.connect(&mut events, &mut buffer);
        // The others would wait for ever for one that has failed.
        self.shared.start.wait();
        connected?;
        let start = Instant::now();
        self.measured = start + self.plan.warm_up;
        self.end = self.measured + self.plan.duration;
        let mut last_end = self.end + self.plan.timeout;
        self.busy = sleep::thread_time();
        loop {
            let now = Instant::now();
            if now < self.end && self.shared.stop.load(Ordering::Relaxed) {
                self.end = now;
                last_end = now;
            }
            self.send_due(start, now);
            let sending = now < self.end;
            if !sending && ((self.in_flight == 0 && self.waiting.is_empty()) || now >= last_end) {
                break;
            }
            let next = if sending { self.next_due(start).min(self.end) } else { last_end };
            self.sleep.wait(&mut events, next.min(self.patrol))?;
            self.handle(&events, &mut buffer);
            self.turn_second(Instant::now());
            self.look_after();
        }
        self.abandon();
        self.hand_over();
        Ok(self.end.saturating_duration_since(self.measured))
    }

    /// Makes the connections, at most for as long as [`CONNECTING`].
    fn connect(&mut self, events: &mut Events, buffer: &mut [u8]) -> io::Result<()> {
        let limit = Instant::now() + CONNECTING;
        let mut next_group = Instant::now();
        while self.idle.len() < self.connections.len() && Instant::now() < limit {
            let now = Instant::now();
            if now >= next_group {
                let connecting = self.connections.iter().filter(|one| one.state() == State::Connecting);
                self.make_some(MADE_AT_ONCE.saturating_sub(connecting.count()), now);
                next_group = now + BETWEEN_GROUPS;
            }
            self.sleep.wait(events, next_group)?;
            self.handle(events, buffer);
        }
        Ok(())
    }

    /// Begins to make at most so many of the connections that are down.
    fn make_some(&mut self, most: usize, now: Instant) {
        let down = self.connections.iter_mut().enumerate();
        let down = down.filter(|(_, connection)| matches!(connection.state(), State::Down(_)));
        for (index, connection) in down.take(most) {
            connection.revive(self.plan.target.address, self.sleep.registry(), Token(index), now);
        }
    }

    /// When the next request is to be sent, as far as it is known.
    fn next_due(&mut self, start: Instant) -> Instant {
        let next = self.schedule.as_mut().and_then(Peekable::peek);
        next.map_or(self.patrol, |&after| start + after)
    }

    /// Sends what is due, as far as connections are free.
    fn send_due(&mut self, start: Instant, now: Instant) {
        let until = now.min(self.end);
        match &mut self.schedule {
            Some(schedule) => {
                while let Some(after) = schedule.next_if(|&after| start + after <= until) {
                    self.waiting.push_back(start + after);
                }
                while let (Some(&index), Some(&intended)) = (self.idle.front(), self.waiting.front()) {
                    self.idle.pop_front();
                    self.waiting.pop_front();
                    let now = Instant::now();
                    if intended >= self.measured {
                        self.second.tally.lagged(now.saturating_duration_since(intended));
                    }
                    self.send(index, InFlight { intended, sent: now });
                }
                // What is left has to wait for a connection; the rest was sent as soon as the thread could.
            }
            None if now < self.end => {
                while let Some(index) = self.idle.pop_front() {
                    let now = Instant::now();
                    self.send(index, InFlight { intended: now, sent: now });
                }
            }
            None => {}
        }
    }

    fn send(&mut self, index: usize, in_flight: InFlight) {
        self.in_flight += 1;
        if let Err(failure) = self.connections[index].send(self.requests.make(), in_flight) {
            self.fail(index, Some(in_flight), failure, in_flight.sent);
        }
    }

    /// Acts on events. An answered connection gets the next request at once, if there is one.
    fn handle(&mut self, events: &Events, buffer: &mut [u8]) {
        for event in events {
            if event.token() == sleep::WOKEN {
                continue;
            }
            let Token(index) = event.token();
            loop {
                match self.connections[index].handle(event, buffer) {
                    Arrival::More => continue,
                    Arrival::Nothing => {}
                    Arrival::Connected => self.idle.push_back(index),
                    Arrival::Failure(in_flight, failure) => {
                        self.fail(index, in_flight, failure, Instant::now());
                    }
                    Arrival::Answer(in_flight, answer) => {
                        let now = Instant::now();
                        let latency = now - in_flight.intended;
                        let success = (200..300).contains(&answer.status);
                        let default = if success { default_reason(answer.body) } else { None };
                        let good = success && default.is_none() && latency <= self.plan.objective;
                        let tally = &mut self.second.tally;
                        if success && (self.measured..self.end).contains(&now) {
                            tally.completed += 1;
                            tally.completed_good += u64::from(good);
                        }
                        if in_flight.intended >= self.measured {
                            if success {
                                tally.answered(latency, default, good);
                            } else {
                                *tally.statuses.entry(answer.status).or_default() += 1;
                            }
                        }
                        self.in_flight -= 1;
                        if answer.keep_alive {
                            self.next(index, now);
                        } else {
                            self.connections[index].drop_stream(now, true);
                            self.patrol = now;
                        }
                    }
                }
                break;
            }
        }
    }

    /// Gives a connection that has become free the next request.
    fn next(&mut self, index: usize, now: Instant) {
        if self.schedule.is_some() {
            match self.waiting.pop_front() {
                Some(intended) => {
                    self.second.tally.waited += u64::from(intended >= self.measured);
                    self.send(index, InFlight { intended, sent: now });
                }
                None => self.idle.push_back(index),
            }
        } else if now < self.end {
            self.send(index, InFlight { intended: now, sent: now });
        } else {
            self.idle.push_back(index);
        }
    }

    /// Counts a failure and closes the connection.
    fn fail(&mut self, index: usize, in_flight: Option<InFlight>, failure: Failure, now: Instant) {
        match in_flight {
            Some(in_flight) => {
                self.in_flight -= 1;
                if in_flight.intended >= self.measured {
                    self.second.tally.failed(failure);
                }
            }
            None if failure == Failure::Connect && now >= self.measured && now < self.end => {
                // A closed loop would otherwise not tell of a server that is gone.
                if self.schedule.is_none() {
                    self.second.tally.failed(failure);
                }
            }
            None => self.idle.retain(|&idle| idle != index),
        }
        self.connections[index].drop_stream(now, false);
    }

    /// Gives up what takes too long, and makes connections anew.
    fn look_after(&mut self) {
        let now = Instant::now();
        if now < self.patrol {
            return;
        }
        self.patrol = now + PATROL;
        while let Some(&intended) = self.waiting.front()
            && now.saturating_duration_since(intended) > self.plan.timeout
        {
            self.waiting.pop_front();
            if intended >= self.measured {
                self.second.tally.failed(Failure::Unsent);
            }
        }
        for index in 0..self.connections.len() {
            match self.connections[index].state() {
                State::Busy(in_flight)
                    if now.saturating_duration_since(in_flight.sent) > self.plan.timeout =>
                {
                    self.fail(index, Some(in_flight), Failure::Timeout, now);
                }
                State::Down(_) => {
                    let registry = self.sleep.registry();
                    self.connections[index].revive(self.plan.target.address, registry, Token(index), now);
                }
                State::Connecting | State::Idle | State::Busy(_) => {}
            }
        }
    }

    /// Counts what is left at the end as failed, unless the run was ended early.
    fn abandon(&mut self) {
        if self.shared.stop.load(Ordering::Relaxed) {
            return;
        }
        let measured = self.measured;
        let unsent = self.waiting.iter().filter(|&&intended| intended >= measured).count();
        let unanswered = self
            .connections
            .iter()
            .filter(|one| matches!(one.state(), State::Busy(in_flight) if in_flight.intended >= measured));
        let unanswered = unanswered.count();
        (0..unsent).for_each(|_| self.second.tally.failed(Failure::Unsent));
        (0..unanswered).for_each(|_| self.second.tally.failed(Failure::Timeout));
    }

    /// Hands over what was counted when a second is over.
    fn turn_second(&mut self, now: Instant) {
        let index = now.saturating_duration_since(self.measured).as_secs();
        if index > self.second.index {
            self.hand_over();
            self.second.index = index;
        }
    }

    fn hand_over(&mut self) {
        let busy = sleep::thread_time();
        self.second.tally.busy = busy - std::mem::replace(&mut self.busy, busy);
        let tally = std::mem::take(&mut self.second.tally);
        // Nobody listens any more only if the run is over.
        let _ = self.seconds.send(Second { index: self.second.index, tally });
    }
}
