//! Bounds how often each place in the code logs, and reports how much of it was left out.
//!
//! Clients and containers can cause some events without end, so every call of a logging macro has
//! an allowance of its own: a burst, and a steady rate. What exceeds it is counted, and reported in
//! the log every few seconds and at the end. Events that occur once, and those of a start, are far
//! below the burst.
//!
//! `tracing-throttle` limits events by the values of their fields, which clients choose. Here the
//! memory is bounded by the size of the program.

use std::collections::HashMap;
use std::fmt::{Debug, Write};
use std::io;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber, warn};
use tracing_log::NormalizeEvent;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Directive;
use tracing_subscriber::layer::Context;

/// Events that one place may log at once.
const BURST: u32 = 200;
/// Time between two reports.
const REPORT_EVERY: Duration = Duration::from_secs(5);
/// Bytes of an event's message that are quoted in a report.
const QUOTED_BYTES: usize = 200;
/// The target of reports.
const TARGET: &str = "clipper::left_out";

/// The filter that lets reports pass, whatever else is logged.
pub(super) fn always_logged() -> Directive {
    format!("{TARGET}=warn").parse().expect("it is a target and a level")
}

/// Drops events of places that have used up their allowance.
pub(super) struct RateLimit {
    /// None if there is no limit.
    places: Option<Arc<Places>>,
}

/// Reports what is left out, until it is dropped.
pub struct Reports {
    places: Option<Arc<Places>>,
    /// The thread, and what ends it when dropped.
    thread: Option<(mpsc::Sender<()>, JoinHandle<()>)>,
}

/// The places that have logged.
struct Places {
    /// The time in which an allowance of one event comes back.
    interval: Duration,
    /// Locked for some comparisons. Nothing is formatted or logged meanwhile.
    allowances: Mutex<HashMap<Place, Allowance>>,
}

/// A call of a logging macro.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Place {
    callsite: Identifier,
    /// The module and line of an event of the `log` crate, all of which share one callsite for each
    /// level.
    log: Option<(String, Option<u32>)>,
}

/// Remaining allowance of a place, and the events left out since the last report.
struct Allowance {
    /// The time at which the whole burst is allowed again.
    restored: Instant,
    left_out: u64,
    /// The first event that was left out.
    example: Option<Example>,
}

/// Description of an event in a report.
struct Example {
    message: String,
    target: String,
}

impl RateLimit {
    /// Allows each place `rate` events a second after a burst; any number if it is 0.
    pub(super) fn new(rate: u32) -> Self {
        let interval = Duration::from_secs(1).checked_div(rate);
        Self { places: interval.map(|interval| Arc::new(Places::new(interval))) }
    }

    /// Starts to report what is left out.
    pub(super) fn report(&self) -> io::Result<Reports> {
        let places = self.places.clone();
        let thread = places.clone().map(|places| {
            let (end, ended) = mpsc::channel();
            let report = move || {
                while ended.recv_timeout(REPORT_EVERY) == Err(RecvTimeoutError::Timeout) {
                    places.report();
                }
            };
            Ok::<_, io::Error>((end, thread::Builder::new().name("log-reports".to_owned()).spawn(report)?))
        });
        Ok(Reports { places, thread: thread.transpose()? })
    }
}

impl Drop for Reports {
    fn drop(&mut self) {
        if let Some((end, thread)) = self.thread.take() {
            drop(end);
            // It panics only if logging does.
            let _ = thread.join();
        }
        if let Some(places) = &self.places {
            places.report();
        }
    }
}

impl<S: Subscriber> Layer<S> for RateLimit {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let Some(places) = self.places.as_ref().filter(|_| event.metadata().target() != TARGET) else {
            return true;
        };
        let normalized = event.normalized_metadata();
        let metadata = normalized.as_ref().unwrap_or(event.metadata());
        let place = Place {
            callsite: event.metadata().callsite(),
            log: normalized.as_ref().map(|metadata| (metadata.target().to_owned(), metadata.line())),
        };
        let verdict = places.admit(place.clone(), Instant::now());
        if verdict == Verdict::FirstLeftOut {
            let mut message = Message::default();
            event.record(&mut message);
            let target = metadata.target().to_owned();
            places.exemplify(&place, Example { message: message.0, target });
        }
        verdict == Verdict::Logged
    }
}

/// Decision about an event.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Logged,
    LeftOut,
    /// It is the first one since the last report.
    FirstLeftOut,
}

impl Places {
    fn new(interval: Duration) -> Self {
        Self { interval, allowances: Mutex::default() }
    }

    fn admit(&self, place: Place, now: Instant) -> Verdict {
        let mut allowances = self.allowances();
        let allowance =
            allowances.entry(place).or_insert(Allowance { restored: now, left_out: 0, example: None });
        let restored = allowance.restored.max(now) + self.interval;
        if restored - now <= self.interval * BURST {
            allowance.restored = restored;
            return Verdict::Logged;
        }
        allowance.left_out += 1;
        if allowance.left_out == 1 { Verdict::FirstLeftOut } else { Verdict::LeftOut }
    }

    fn exemplify(&self, place: &Place, example: Example) {
        if let Some(allowance) = self.allowances().get_mut(place) {
            allowance.example = Some(example);
        }
    }

    /// Logs what was left out, and begins to count anew.
    fn report(&self) {
        for (left_out, Example { message, target }) in self.take() {
            warn!(target: TARGET, event = message, from = target, "{left_out} similar events were left out");
        }
    }

    fn take(&self) -> Vec<(u64, Example)> {
        let mut allowances = self.allowances();
        let left_out = allowances.values_mut().filter_map(|allowance| {
            // Without an example, another thread is about to give it: the next report has both.
            let example = allowance.example.take()?;
            Some((std::mem::take(&mut allowance.left_out), example))
        });
        left_out.collect()
    }

    fn allowances(&self) -> MutexGuard<'_, HashMap<Place, Allowance>> {
        self.allowances.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The beginning of an event's message.
#[derive(Default)]
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" && self.0.is_empty() {
            write!(self.0, "{value:?}").expect("a string takes what is written");
            self.0.truncate(self.0.floor_char_boundary(QUOTED_BYTES));
        }
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;
    use tracing_subscriber::registry;

    use super::*;

    /// Keeps the message of each event that passes.
    struct Kept(Arc<Mutex<Vec<String>>>);

    impl<S: Subscriber> Layer<S> for Kept {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            let mut message = Message::default();
            event.record(&mut message);
            self.0.lock().unwrap().push(message.0);
        }
    }

    /// Logs with a limit; what passed, and the places.
    fn logged(rate: u32, work: impl FnOnce(Option<&Places>)) -> Vec<String> {
        let kept = Arc::default();
        let limit = RateLimit::new(rate);
        let places = limit.places.clone();
        let subscriber = registry().with(Kept(Arc::clone(&kept))).with(limit);
        tracing::subscriber::with_default(subscriber, || work(places.as_deref()));
        std::mem::take(&mut *kept.lock().unwrap())
    }

    fn flood(count: u32, what: &str) {
        for number in 0..count {
            warn!(number, "flooded by {what}");
        }
    }

    #[test]
    fn a_flood_is_cut_and_its_rest_counted_while_other_places_log() {
        let messages = logged(1, |places| {
            flood(BURST + 50, "someone");
            warn!("once");
            places.unwrap().report();
            places.unwrap().report();
        });
        // The machine may have been slow, so that some more were allowed.
        let passed = messages.iter().filter(|message| *message == "flooded by someone").count() as u32;
        assert!((BURST..BURST + 50).contains(&passed), "{passed}");
        let rest = ["once".to_owned(), format!("{} similar events were left out", BURST + 50 - passed)];
        assert_eq!(messages[passed as usize..], rest);
    }

    #[test]
    fn without_a_limit_everything_is_logged() {
        assert_eq!(logged(0, |_| flood(3 * BURST, "someone")).len(), 3 * BURST as usize);
    }

    #[test]
    fn a_steady_rate_is_allowed_after_the_burst() {
        let places = Places::new(Duration::from_millis(100));
        let place = Place { callsite: warn_callsite(), log: None };
        let start = Instant::now();
        let admitted = |millis: u64, count: u32| {
            let now = start + Duration::from_millis(millis);
            (0..count).filter(|_| places.admit(place.clone(), now) == Verdict::Logged).count() as u32
        };
        assert_eq!(admitted(0, 2 * BURST), BURST);
        assert_eq!(admitted(99, 5), 0);
        assert_eq!(admitted(1000, 50), 10);
        assert_eq!(admitted(100 * u64::from(BURST) + 1000, 2 * BURST), BURST);
    }

    fn warn_callsite() -> Identifier {
        let seen = Arc::new(Mutex::new(None));
        struct Seen(Arc<Mutex<Option<Identifier>>>);
        impl<S: Subscriber> Layer<S> for Seen {
            fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
                *self.0.lock().unwrap() = Some(event.metadata().callsite());
            }
        }
        tracing::subscriber::with_default(registry().with(Seen(Arc::clone(&seen))), || warn!("here"));
        let callsite = seen.lock().unwrap().clone();
        callsite.unwrap()
    }
}
