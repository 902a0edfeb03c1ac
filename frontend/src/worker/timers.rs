//! Timers of one HTTP worker: for the bodies of requests, the answers of models, the checks of clients.
//!
//! The runtime's own timers take a lock when they are set and when they are dropped, and a system
//! call when one is set that expires before all others. Most requests end long before their timer,
//! so one timer of the runtime serves the whole worker here. It stays set when the timer that it was
//! set for is dropped, and then expires for nothing. Invariant: while a timer is set, the runtime's
//! timer is set for its time or an earlier one, or the worker is about to set it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use tokio::time::sleep_until;

/// The timers of one HTTP worker. Never leave its thread.
#[derive(Default)]
pub struct Timers {
    /// Tasks to wake, by time; a number tells timers of the same time apart.
    set: RefCell<BTreeMap<(Instant, u64), Waker>>,
    numbers: Cell<u64>,
    /// Time for which the runtime's timer is set, if it is.
    next: Cell<Option<Instant>>,
    worker: Cell<Option<Waker>>,
}

/// Resolves at its time. Set when it is first polled; dropping it unsets it.
pub struct Timer<'a> {
    timers: &'a Timers,
    time: Instant,
    number: Option<u64>,
}

impl Timers {
    /// A timer that expires at `time`, to the millisecond of the runtime's timers.
    pub fn at(&self, time: Instant) -> Timer<'_> {
        Timer { timers: self, time, number: None }
    }

    /// Output of `future`, unless `time` comes first.
    pub async fn by<T>(&self, time: Instant, future: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            output = future => Some(output),
            () = self.at(time) => None,
        }
    }

    /// Wakes the tasks whose timers expire, for ever. Run by the worker itself.
    pub async fn run(self: Rc<Self>) {
        let mut sleep = pin!(sleep_until(tokio::time::Instant::now()));
        poll_fn::<(), _>(|context| {
            self.worker.set(Some(context.waker().clone()));
            loop {
                let first = self.set.borrow().first_key_value().map(|(&(time, _), _)| time);
                if let Some(first) = first.filter(|&first| self.is_before_next(first)) {
                    sleep.as_mut().reset(first.into());
                    self.next.set(Some(first));
                }
                if self.next.get().is_none() || sleep.as_mut().poll(context).is_pending() {
                    return Poll::Pending;
                }
                self.next.set(None);
                let now = Instant::now();
                while let Some(expired) = self.pop_expired(now) {
                    expired.wake();
                }
            }
        })
        .await;
    }

    fn is_before_next(&self, time: Instant) -> bool {
        self.next.get().is_none_or(|next| time < next)
    }

    fn pop_expired(&self, now: Instant) -> Option<Waker> {
        let mut set = self.set.borrow_mut();
        let first = set.first_entry().filter(|first| first.key().0 <= now)?;
        Some(first.remove())
    }
}

impl Future for Timer<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let timers = self.timers;
        let mut set = timers.set.borrow_mut();
        if let Some(number) = self.number {
            let Some(waker) = set.get_mut(&(self.time, number)) else { return Poll::Ready(()) };
            waker.clone_from(context.waker());
            return Poll::Pending;
        }
        let is_first = timers.is_before_next(self.time);
        // A timer that is late expires at once. Otherwise each input of a large batch would take the
        // worker another turn.
        if is_first && self.time <= Instant::now() {
            return Poll::Ready(());
        }
        let number = timers.numbers.get();
        timers.numbers.set(number.wrapping_add(1));
        set.insert((self.time, number), context.waker().clone());
        self.number = Some(number);
        if is_first && let Some(worker) = timers.worker.take() {
            worker.wake();
        }
        Poll::Pending
    }
}

impl Drop for Timer<'_> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.timers.set.borrow_mut().remove(&(self.time, number));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::time::Duration;

    use super::*;

    const TICK: Duration = Duration::from_millis(20);
    /// So late that nobody waits for it.
    const NEVER: Duration = Duration::from_secs(600);

    fn timers() -> Rc<Timers> {
        let timers = Rc::<Timers>::default();
        actix_rt::spawn(Rc::clone(&timers).run());
        timers
    }

    #[actix::test]
    async fn timers_expire_by_their_time_in_whatever_order_they_were_set() {
        let (timers, begin) = (timers(), Instant::now());
        let expired = Rc::new(RefCell::new(Vec::new()));
        let waiting = [3, 1, 4, 2, 1].map(|ticks| {
            let (timers, expired) = (Rc::clone(&timers), Rc::clone(&expired));
            actix_rt::spawn(async move {
                timers.at(begin + ticks * TICK).await;
                assert!(begin.elapsed() >= ticks * TICK);
                expired.borrow_mut().push(ticks);
            })
        });
        for waits in waiting {
            waits.await.unwrap();
        }
        assert_eq!(*expired.borrow(), [1, 1, 2, 3, 4]);
    }

    #[actix::test]
    async fn a_dropped_timer_leaves_nothing_and_holds_up_no_other() {
        let (timers, begin) = (timers(), Instant::now());
        assert!(timers.by(begin + TICK, tokio::task::yield_now()).await.is_some());
        assert!(timers.set.borrow().is_empty());
        timers.at(begin + 2 * TICK).await;
        assert!(begin.elapsed() >= 2 * TICK);
    }

    #[actix::test]
    async fn what_comes_in_time_is_passed_on_and_what_does_not_is_given_up() {
        let (timers, begin) = (timers(), Instant::now());
        assert_eq!(timers.by(begin, ready(7)).await, Some(7), "it is there, if late");
        assert_eq!(timers.by(begin + NEVER, ready(7)).await, Some(7));
        assert_eq!(timers.by(begin + TICK, pending::<()>()).await, None);
    }

    #[actix::test]
    async fn a_late_timer_expires_at_once() {
        let (timers, begin) = (timers(), Instant::now());
        timers.at(begin + TICK).await;
        let mut late = Box::pin(timers.at(begin + TICK));
        assert!(futures_util::poll!(&mut late).is_ready());
    }

    #[actix::test]
    async fn a_timer_wakes_the_task_that_waits_for_it_last() {
        let (timers, begin) = (timers(), Instant::now());
        let mut timer = Box::pin({
            let timers = Rc::clone(&timers);
            async move { timers.at(begin + TICK).await }
        });
        assert!(futures_util::poll!(&mut timer).is_pending());
        actix_rt::spawn(timer).await.unwrap();
    }
}
