//! How outcomes reach the requests that wait for them: through one mailbox for each HTTP worker.
//!
//! A batch ends on the actors' thread, its requests wait on others. To wake each of them from there is a system call
//! each; to leave all outcomes of a batch in a worker's mailbox and wake the worker once is one. A worker hands out some of each
//! parcel in turn, and lets the requests have theirs in between: a batch of a thousand keeps neither another model's answers
//! waiting nor requests that have just come. Invariant: what is sent is posted when its [`Delivery`] is dropped, and no mailbox
//! that was posted to stays unwoken.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::vec;

use futures_util::task::AtomicWaker;
use tokio::sync::oneshot;

use crate::computation::failure::Verdict;

/// So many outcomes of one parcel are handed out before the next parcel has its turn,
const SLICE: usize = 8;
/// and so many in all before the requests that they are for.
const MOST_AT_ONCE: usize = 32;

/// Outcomes on their way to the requests of one HTTP worker.
#[derive(Default)]
pub struct Mailbox {
    /// Held for a push or a pop.
    posted: Mutex<VecDeque<Parcel>>,
    worker: AtomicWaker,
}

/// What one delivery has for one mailbox.
type Parcel = vec::IntoIter<Letter>;

/// An outcome, and the request that it is for.
type Letter = (oneshot::Sender<Verdict>, Verdict);

/// Where one query's outcome goes.
pub struct Reply {
    sender: oneshot::Sender<Verdict>,
    mailbox: Arc<Mailbox>,
}

/// Posts, when it is dropped, what was sent with it.
#[derive(Default)]
pub struct Delivery {
    /// Only a few workers.
    parcels: Vec<(Arc<Mailbox>, Vec<Letter>)>,
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
            if self.hand_out_some() {
                context.waker().wake_by_ref();
            }
            Poll::Pending
        })
        .await;
    }

    /// Hands out all that is posted by now, for who does not run a worker.
    pub fn hand_out(&self) {
        while self.hand_out_some() {}
    }

    /// Hands out some of what is posted; whether there is more.
    fn hand_out_some(&self) -> bool {
        let mut handed_out = 0;
        while handed_out < MOST_AT_ONCE {
            let Some(mut parcel) = self.lock().pop_front() else { return false };
            for (sender, outcome) in parcel.by_ref().take(SLICE) {
                // Fails only if the request has had its default output, or its client has gone.
                let _ = sender.send(outcome);
                handed_out += 1;
            }
            if parcel.len() > 0 {
                self.lock().push_back(parcel);
            }
        }
        !self.lock().is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Parcel>> {
        self.posted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reply {
    /// Whether nobody waits for it any more.
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Sends the outcome.
    pub fn send(self, outcome: Verdict, delivery: &mut Delivery) {
        let known = delivery.parcels.iter_mut().find(|(mailbox, _)| Arc::ptr_eq(mailbox, &self.mailbox));
        match known {
            Some((_, parcel)) => parcel.push((self.sender, outcome)),
            None => delivery.parcels.push((self.mailbox, vec![(self.sender, outcome)])),
        }
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        for (mailbox, parcel) in self.parcels.drain(..) {
            mailbox.lock().push_back(parcel.into_iter());
            mailbox.worker.wake();
        }
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
    fn a_small_parcel_does_not_wait_for_a_large_one() {
        let mailbox = Arc::new(Mailbox::default());
        let post = |size: usize| {
            let (replies, receivers): (Vec<_>, Vec<_>) = (0..size).map(|_| mailbox.reply()).unzip();
            let mut delivery = Delivery::default();
            replies.into_iter().for_each(|reply| reply.send(Ok(Output::text("x")), &mut delivery));
            receivers
        };
        let (mut large, mut small) = (post(100 * MOST_AT_ONCE), post(1));
        let arrived = |receivers: &mut [oneshot::Receiver<Verdict>]| {
            receivers.iter_mut().filter_map(|receiver| receiver.try_recv().ok()).count()
        };
        assert!(mailbox.hand_out_some());
        assert_eq!(arrived(&mut small), 1);
        let first = arrived(&mut large);
        assert!((1..=MOST_AT_ONCE).contains(&first));
        mailbox.hand_out();
        assert_eq!(first + arrived(&mut large), 100 * MOST_AT_ONCE);
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
