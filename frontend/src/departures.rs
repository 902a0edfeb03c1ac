//! How the queries of one HTTP worker reach the models' queues: together, at the end of the worker's turn.
//!
//! A worker that wakes finds as many requests as have come meanwhile. Were each queued at once, an idle replica would be sent the
//! first by itself, and the others would wait until it is back. So they are gathered, and queued when those tasks have had their
//! turn that were ready with them. Invariant: what is added is queued by the worker's next turn at the latest.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use crate::queue::{Entry, Queue};

/// So many queries are not held back any longer.
const MOST: usize = 64;
/// Nor is the first of them once it has waited for so long: the others may be large, and take their time to be parsed.
const LONGEST: Duration = Duration::from_micros(500);

/// Queries of one HTTP worker that are not queued yet. Never leaves its thread.
#[derive(Default)]
pub struct Departures {
    /// By queue; only a few of them are asked in one turn.
    waiting: RefCell<Vec<(Arc<Queue>, Vec<Entry>)>>,
    queries: Cell<usize>,
    /// When the first of them was added.
    since: Cell<Option<Instant>>,
    /// Which queue comes first changes: of a model that is always the last, an ensemble would be certain before it has begun, and learn less.
    turns: Cell<usize>,
    worker: Cell<Option<Waker>>,
}

impl Departures {
    /// Adds entries for a queue.
    pub fn add(&self, queue: &Arc<Queue>, entries: impl IntoIterator<Item = Entry>, now: Instant) {
        let mut waiting = self.waiting.borrow_mut();
        let place = waiting.iter().position(|(known, _)| Arc::ptr_eq(known, queue)).unwrap_or_else(|| {
            waiting.push((Arc::clone(queue), Vec::new()));
            waiting.len() - 1
        });
        let (_, of_queue) = &mut waiting[place];
        let before = of_queue.len();
        of_queue.extend(entries);
        self.queries.update(|queries| queries + of_queue.len() - before);
        drop(waiting);
        let since = self.since.get().unwrap_or(now);
        self.since.set(Some(since));
        if self.queries.get() >= MOST || now - since >= LONGEST {
            self.depart();
        } else if let Some(worker) = self.worker.take() {
            worker.wake();
        }
    }

    /// Queues what was added in each turn, for ever. To be run by the worker itself.
    pub async fn run(self: Rc<Self>) {
        poll_fn::<(), _>(|context| {
            self.depart();
            self.worker.set(Some(context.waker().clone()));
            Poll::Pending
        })
        .await;
    }

    /// Queues what was added by now.
    pub fn depart(&self) {
        self.queries.set(0);
        self.since.set(None);
        let now = Instant::now();
        let mut waiting = self.waiting.take();
        if waiting.len() > 1 {
            self.turns.update(|turns| turns.wrapping_add(1));
            let first = self.turns.get() % waiting.len();
            waiting.rotate_left(first);
        }
        for (queue, entries) in waiting {
            queue.push(entries, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use clipper_rpc::input::InputType;
    use clipper_rpc::names::ModelId;

    use super::*;
    use crate::computation::tests::computation;
    use crate::queue::Capacity;
    use crate::reply::Mailbox;

    fn queue(number: u64) -> Arc<Queue> {
        let model = ModelId { name: "m".parse().unwrap(), version: "1".parse().unwrap() };
        let queue = Queue::new(number, model, InputType::Strings, Capacity { queries: 1000, bytes: 1 << 20 });
        queue.join(1, 1000, Box::new(|| ()));
        Arc::new(queue)
    }

    fn add(departures: &Departures, queue: &Arc<Queue>, now: Instant) {
        let due = now + Duration::from_secs(60);
        let (computation, _) = computation(&Arc::new(Mailbox::default()), "x", due);
        departures.add(queue, [Entry::new(computation, due, now)], now);
    }

    #[actix::test]
    async fn what_ready_tasks_ask_is_queued_once_all_of_them_have_asked() {
        let departures = Rc::new(Departures::default());
        let (queues, now) = ([queue(1), queue(2)], Instant::now());
        actix_rt::spawn(Rc::clone(&departures).run());
        tokio::task::yield_now().await;
        let asking = (0..10).map(|index| {
            let (departures, queues) = (Rc::clone(&departures), queues.clone());
            actix_rt::spawn(async move {
                add(&departures, &queues[index % 2], now);
                queues.map(|queue| queue.depth().queries)
            })
        });
        for asked in asking.collect::<Vec<_>>() {
            assert_eq!(asked.await.unwrap(), [0, 0], "another one had not asked yet");
        }
        tokio::task::yield_now().await;
        assert_eq!(queues.map(|queue| queue.depth().queries), [5, 5]);
    }

    #[test]
    fn many_are_not_held_back() {
        let (departures, queue) = (Departures::default(), queue(1));
        let now = Instant::now();
        (0..MOST + 1).for_each(|_| add(&departures, &queue, now));
        assert_eq!(queue.depth().queries, MOST);
    }

    #[test]
    fn nobody_is_held_back_for_long() {
        let (departures, queue) = (Departures::default(), queue(1));
        let now = Instant::now();
        for (after, queued) in [(0, 0), (499, 0), (500, 3), (501, 3), (1001, 5)] {
            add(&departures, &queue, now + Duration::from_micros(after));
            assert_eq!(queue.depth().queries, queued, "after {after} us");
        }
    }
}
