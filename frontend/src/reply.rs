//! How outcomes reach the requests that wait for them: through one mailbox for each HTTP worker.
//!
//! A batch ends on the actors' thread, its requests wait on others. To wake each of them from there is a system call
//! each; to leave all outcomes of a batch in a worker's mailbox and wake the worker once is one. Invariant: whoever
//! posts holds a [`Delivery`], and no mailbox that it posted to stays unwoken once that is dropped.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use futures_util::task::AtomicWaker;
use tokio::sync::oneshot;

use crate::failure::Verdict;

/// Outcomes on their way to the requests of one HTTP worker.
#[derive(Default)]
pub struct Mailbox {
    /// Held for a push or a swap.
    posted: Mutex<Vec<(oneshot::Sender<Verdict>, Verdict)>>,
    worker: AtomicWaker,
}

/// Where one query's outcome goes.
pub struct Reply {
    sender: oneshot::Sender<Verdict>,
    mailbox: Arc<Mailbox>,
}

/// Wakes, when it is dropped, each worker whose mailbox was posted to.
#[derive(Default)]
pub struct Delivery {
    mailboxes: Vec<Arc<Mailbox>>,
}

impl Mailbox {
    /// A reply to a request of this worker, and where it arrives.
    pub fn reply(self: &Arc<Self>) -> (Reply, oneshot::Receiver<Verdict>) {
        let (sender, receiver) = oneshot::channel();
        (Reply { sender, mailbox: Arc::clone(self) }, receiver)
    }

    /// Hands out what is posted, for ever. To be run by the worker itself.
    pub async fn deliver(self: Arc<Self>) {
        poll_fn::<(), _>(|context| {
            self.worker.register(context.waker());
            self.hand_out();
            Poll::Pending
        })
        .await;
    }

    /// Hands out what is posted by now.
    pub fn hand_out(&self) {
        let posted = std::mem::take(&mut *self.lock());
        for (sender, outcome) in posted {
            // Fails only if the request has had its default output, or its client has gone.
            let _ = sender.send(outcome);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(oneshot::Sender<Verdict>, Verdict)>> {
        self.posted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reply {
    /// Whether nobody waits for it any more.
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Posts the outcome.
    pub fn send(self, outcome: Verdict, delivery: &mut Delivery) {
        self.mailbox.lock().push((self.sender, outcome));
        if !delivery.mailboxes.iter().any(|known| Arc::ptr_eq(known, &self.mailbox)) {
            delivery.mailboxes.push(self.mailbox);
        }
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        self.mailboxes.iter().for_each(|mailbox| mailbox.worker.wake());
    }
}

#[cfg(test)]
mod tests {
    use clipper_rpc::output::Output;

    use super::*;

    #[actix::test]
    async fn a_worker_hands_out_what_other_threads_post() {
        let mailbox = Arc::new(Mailbox::default());
        actix_rt::spawn(Arc::clone(&mailbox).deliver());
        let (replies, receivers): (Vec<_>, Vec<_>) = (0..100).map(|_| mailbox.reply()).unzip();
        std::thread::spawn(move || {
            let mut replies = replies.into_iter();
            while replies.len() > 0 {
                let mut delivery = Delivery::default();
                replies.by_ref().take(7).for_each(|reply| reply.send(Ok(Output::text("x")), &mut delivery));
            }
        });
        for receiver in receivers {
            assert_eq!(receiver.await.unwrap(), Ok(Output::text("x")));
        }
    }

    #[test]
    fn a_reply_is_closed_once_its_request_has_gone() {
        let mailbox = Arc::new(Mailbox::default());
        let (reply, receiver) = mailbox.reply();
        assert!(!reply.is_closed());
        drop(receiver);
        assert!(reply.is_closed());
        reply.send(Ok(Output::text("x")), &mut Delivery::default());
        mailbox.hand_out();
    }
}
