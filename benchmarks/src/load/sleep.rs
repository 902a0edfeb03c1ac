//! Waiting for events, or for a moment, whichever is first, to some microseconds.
//!
//! `epoll_wait` counts in milliseconds, which is many arrivals at high rates, so that a timer that is polled as a file wakes the thread on
//! Linux. Nothing spins.

use std::io;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};

/// The token of events that only end a wait.
pub const WOKEN: Token = Token(usize::MAX);

/// The processor time that this thread has used.
pub fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

/// A thread's way to wait.
pub struct Sleep {
    poll: Poll,
    #[cfg(target_os = "linux")]
    timer: timer::Timer,
}

impl Sleep {
    pub fn new() -> io::Result<Self> {
        let poll = Poll::new()?;
        Ok(Self {
            #[cfg(target_os = "linux")]
            timer: timer::Timer::new(poll.registry())?,
            poll,
        })
    }

    pub fn registry(&self) -> &mio::Registry {
        self.poll.registry()
    }

    /// Waits until there are events, at most until `until`, and yields those that there are.
    pub fn wait(&mut self, events: &mut Events, until: Instant) -> io::Result<()> {
        let left = until.saturating_duration_since(Instant::now());
        #[cfg(target_os = "linux")]
        let left = if left.is_zero() {
            Some(left)
        } else {
            self.timer.set(until, left)?;
            None
        };
        #[cfg(not(target_os = "linux"))]
        let left = Some(left);
        match self.poll.poll(events, left) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            outcome => outcome,
        }
    }
}

#[cfg(target_os = "linux")]
mod timer {
    use std::io;
    use std::os::fd::{AsRawFd, OwnedFd};
    use std::time::{Duration, Instant};

    use mio::unix::SourceFd;
    use mio::{Interest, Registry};
    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    };

    /// A timer that is polled. Events are told once for each time it goes off, so that it is never read.
    pub struct Timer {
        descriptor: OwnedFd,
        /// When it goes off, or did.
        at: Option<Instant>,
    }

    impl Timer {
        pub fn new(registry: &Registry) -> io::Result<Self> {
            let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
            let descriptor = timerfd_create(TimerfdClockId::Monotonic, flags)?;
            registry.register(&mut SourceFd(&descriptor.as_raw_fd()), super::WOKEN, Interest::READABLE)?;
            Ok(Self { descriptor, at: None })
        }

        /// Lets it go off at a moment that is `left` away.
        pub fn set(&mut self, at: Instant, left: Duration) -> io::Result<()> {
            if self.at == Some(at) {
                return Ok(());
            }
            let after = Timespec::try_from(left).map_err(io::Error::other)?;
            let never_again = Timespec { tv_sec: 0, tv_nsec: 0 };
            let time = Itimerspec { it_interval: never_again, it_value: after };
            timerfd_settime(&self.descriptor, TimerfdTimerFlags::empty(), &time)?;
            self.at = Some(at);
            Ok(())
        }
    }
}
