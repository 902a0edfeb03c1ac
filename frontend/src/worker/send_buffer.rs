//! Queries of one HTTP worker on their way to the models' queues.
//!
//! A worker that wakes finds all requests that arrived meanwhile. If each were queued at once, an idle
//! replica would be sent the first one alone, and the others would wait until it is back. So a turn's
//! queries are gathered, and queued when all tasks that were ready have run. Invariant: a query that
//! was added is queued by the worker's next turn at the latest.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use crate::queue::{Entry, Queue};

/// Flush once this many queries are buffered.
const MOST: usize = 64;
/// Flush once the first query has been buffered for this long: others may be large and take long to
/// parse.
const LONGEST: Duration = Duration::from_micros(500);

/// Queries of one HTTP worker that are not queued yet.
#[derive(Default)]
pub struct SendBuffer {
    /// Entries by queue. A turn asks only a few queues.
    buffered: RefCell<Vec<(Arc<Queue>, Vec<Entry>)>>,
    queries: Cell<usize>,
    /// Time at which the first entry was added.
    since: Cell<Option<Instant>>,
    /// Number of flushes. The queue that comes first changes with each: an ensemble would otherwise
    /// be certain before its last model has begun, and learn less of it.
    flushes: Cell<usize>,
    worker: Cell<Option<Waker>>,
}

impl SendBuffer {
    /// Adds entries for a queue.
    pub fn add(&self, queue: &Arc<Queue>, entries: impl IntoIterator<Item = Entry>, now: Instant) {
        let mut buffered = self.buffered.borrow_mut();
        let place = buffered.iter().position(|(known, _)| Arc::ptr_eq(known, queue)).unwrap_or_else(|| {
            buffered.push((Arc::clone(queue), Vec::new()));
            buffered.len() - 1
        });
        let (_, of_queue) = &mut buffered[place];
        let before = of_queue.len();
        of_queue.extend(entries);
        self.queries.update(|queries| queries + of_queue.len() - before);
        drop(buffered);
        let since = self.since.get().unwrap_or(now);
        self.since.set(Some(since));
        if self.queries.get() >= MOST || now - since >= LONGEST {
            self.flush();
        } else if let Some(worker) = self.worker.take() {
            worker.wake();
        }
    }

    /// Flushes at the end of each turn of the worker, for ever. Run by the worker itself.
    pub async fn run(self: Rc<Self>) {
        poll_fn::<(), _>(|context| {
            self.flush();
            self.worker.set(Some(context.waker().clone()));
            Poll::Pending
        })
        .await;
    }

    /// Queues everything that is buffered.
    pub fn flush(&self) {
        self.queries.set(0);
        self.since.set(None);
        let now = Instant::now();
        let mut buffered = self.buffered.take();
        if buffered.len() > 1 {
            self.flushes.update(|flushes| flushes.wrapping_add(1));
            let first = self.flushes.get() % buffered.len();
            buffered.rotate_left(first);
        }
        for (queue, entries) in buffered {
            queue.push(entries, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use clipper_rpc::input::InputType;
    use clipper_rpc::names::ModelId;

    use super::*;
    use crate::computation::mailbox::Mailbox;
    use crate::computation::tests::computation;
    use crate::queue::Capacity;

    fn queue(number: u64) -> Arc<Queue> {
        let model = ModelId { name: "m".parse().unwrap(), version: "1".parse().unwrap() };
        let queue = Queue::new(number, model, InputType::Strings, Capacity { queries: 1000, bytes: 1 << 20 });
        queue.join(1, 1000, Box::new(|| ()));
        Arc::new(queue)
    }

    fn add(buffer: &SendBuffer, queue: &Arc<Queue>, now: Instant) {
        let due = now + Duration::from_secs(60);
        let (computation, _) = computation(&Arc::new(Mailbox::default()), "x", due);
        buffer.add(queue, [Entry::new(computation, due, now)], now);
    }

    #[actix::test]
    async fn what_ready_tasks_ask_is_queued_once_all_of_them_have_asked() {
        let send_buffer = Rc::new(SendBuffer::default());
        let (queues, now) = ([queue(1), queue(2)], Instant::now());
        actix_rt::spawn(Rc::clone(&send_buffer).run());
        tokio::task::yield_now().await;
        let asking = (0..10).map(|index| {
            let (send_buffer, queues) = (Rc::clone(&send_buffer), queues.clone());
            actix_rt::spawn(async move {
                add(&send_buffer, &queues[index % 2], now);
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
        let (send_buffer, queue) = (SendBuffer::default(), queue(1));
        let now = Instant::now();
        (0..MOST + 1).for_each(|_| add(&send_buffer, &queue, now));
        assert_eq!(queue.depth().queries, MOST);
    }

    #[test]
    fn nobody_is_held_back_for_long() {
        let (send_buffer, queue) = (SendBuffer::default(), queue(1));
        let now = Instant::now();
        for (after, queued) in [(0, 0), (499, 0), (500, 3), (501, 3), (1001, 5)] {
            add(&send_buffer, &queue, now + Duration::from_micros(after));
            assert_eq!(queue.depth().queries, queued, "after {after} us");
        }
    }
}
