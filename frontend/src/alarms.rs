//! How long the requests of one HTTP worker wait at most: for their body, for the models, until their client is looked after.
//!
//! The runtime's own timers take a lock when they are set and when they are taken back, and a system call where one is set that
//! goes off before all others: for most requests, though nearly all have ended long before. Here one of them serves the whole
//! worker. It stays set when the alarm that it was set for is taken back, and then goes off for nothing. Invariant: while an
//! alarm is set, the timer is set for that time or an earlier one, or the worker is about to see to it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use tokio::time::sleep_until;

/// The alarms of one HTTP worker. Never leave its thread.
#[derive(Default)]
pub struct Alarms {
    /// Whom to wake, by when; a number tells apart those of the same time.
    set: RefCell<BTreeMap<(Instant, u64), Waker>>,
    numbers: Cell<u64>,
    /// When the timer goes off, if it is set.
    timer: Cell<Option<Instant>>,
    worker: Cell<Option<Waker>>,
}

/// Goes off at its time, or is taken back by being dropped. Set when it is first waited for.
pub struct Alarm<'a> {
    alarms: &'a Alarms,
    time: Instant,
    number: Option<u64>,
}

impl Alarms {
    /// An alarm that goes off at `time`, to the millisecond of a timer.
    pub fn at(&self, time: Instant) -> Alarm<'_> {
        Alarm { alarms: self, time, number: None }
    }

    /// What comes of `future`, unless `time` comes first.
    pub async fn by<T>(&self, time: Instant, future: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            output = future => Some(output),
            () = self.at(time) => None,
        }
    }

    /// Has them go off, for ever. To be run by the worker itself.
    pub async fn run(self: Rc<Self>) {
        let mut timer = pin!(sleep_until(tokio::time::Instant::now()));
        poll_fn::<(), _>(|context| {
            self.worker.set(Some(context.waker().clone()));
            loop {
                let first = self.set.borrow().first_key_value().map(|(&(time, _), _)| time);
                if let Some(first) = first.filter(|&first| self.is_before_timer(first)) {
                    timer.as_mut().reset(first.into());
                    self.timer.set(Some(first));
                }
                if self.timer.get().is_none() || timer.as_mut().poll(context).is_pending() {
                    return Poll::Pending;
                }
                self.timer.set(None);
                let now = Instant::now();
                while let Some(waiting) = self.pop_due(now) {
                    waiting.wake();
                }
            }
        })
        .await;
    }

    fn is_before_timer(&self, time: Instant) -> bool {
        self.timer.get().is_none_or(|timer| time < timer)
    }

    /// Takes out one whose time has come.
    fn pop_due(&self, now: Instant) -> Option<Waker> {
        let mut set = self.set.borrow_mut();
        let due = set.first_entry().filter(|first| first.key().0 <= now)?;
        Some(due.remove())
    }
}

impl Future for Alarm<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let alarms = self.alarms;
        let mut set = alarms.set.borrow_mut();
        if let Some(number) = self.number {
            let Some(waker) = set.get_mut(&(self.time, number)) else { return Poll::Ready(()) };
            waker.clone_from(context.waker());
            return Poll::Pending;
        }
        let is_first = alarms.is_before_timer(self.time);
        // What is late goes off at once: of the inputs of a large batch, each would otherwise take the worker another turn.
        if is_first && self.time <= Instant::now() {
            return Poll::Ready(());
        }
        let number = alarms.numbers.get();
        alarms.numbers.set(number.wrapping_add(1));
        set.insert((self.time, number), context.waker().clone());
        self.number = Some(number);
        if is_first && let Some(worker) = alarms.worker.take() {
            worker.wake();
        }
        Poll::Pending
    }
}

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.alarms.set.borrow_mut().remove(&(self.time, number));
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

    fn alarms() -> Rc<Alarms> {
        let alarms = Rc::<Alarms>::default();
        actix_rt::spawn(Rc::clone(&alarms).run());
        alarms
    }

    #[actix::test]
    async fn alarms_go_off_by_their_time_in_whatever_order_they_were_set() {
        let (alarms, begin) = (alarms(), Instant::now());
        let gone_off = Rc::new(RefCell::new(Vec::new()));
        let waiting = [3, 1, 4, 2, 1].map(|ticks| {
            let (alarms, gone_off) = (Rc::clone(&alarms), Rc::clone(&gone_off));
            actix_rt::spawn(async move {
                alarms.at(begin + ticks * TICK).await;
                assert!(begin.elapsed() >= ticks * TICK);
                gone_off.borrow_mut().push(ticks);
            })
        });
        for waits in waiting {
            waits.await.unwrap();
        }
        assert_eq!(*gone_off.borrow(), [1, 1, 2, 3, 4]);
    }

    #[actix::test]
    async fn an_alarm_that_is_taken_back_leaves_nothing_and_holds_up_no_other() {
        let (alarms, begin) = (alarms(), Instant::now());
        assert!(alarms.by(begin + TICK, tokio::task::yield_now()).await.is_some());
        assert!(alarms.set.borrow().is_empty());
        alarms.at(begin + 2 * TICK).await;
        assert!(begin.elapsed() >= 2 * TICK);
    }

    #[actix::test]
    async fn what_comes_in_time_is_passed_on_and_what_does_not_is_given_up() {
        let (alarms, begin) = (alarms(), Instant::now());
        assert_eq!(alarms.by(begin, ready(7)).await, Some(7), "it is there, if late");
        assert_eq!(alarms.by(begin + NEVER, ready(7)).await, Some(7));
        assert_eq!(alarms.by(begin + TICK, pending::<()>()).await, None);
    }

    #[actix::test]
    async fn what_is_late_goes_off_at_once() {
        let (alarms, begin) = (alarms(), Instant::now());
        alarms.at(begin + TICK).await;
        let mut late = Box::pin(alarms.at(begin + TICK));
        assert!(futures_util::poll!(&mut late).is_ready());
    }

    #[actix::test]
    async fn an_alarm_wakes_the_task_that_waits_for_it_last() {
        let (alarms, begin) = (alarms(), Instant::now());
        let mut alarm = Box::pin({
            let alarms = Rc::clone(&alarms);
            async move { alarms.at(begin + TICK).await }
        });
        assert!(futures_util::poll!(&mut alarm).is_pending());
        actix_rt::spawn(alarm).await.unwrap();
    }
}
