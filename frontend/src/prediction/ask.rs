//! Asking one version of a model: from the cache, from a computation in progress, or by its queue.
//!
//! Called for every application, whether one model answers or several. Invariant: every input gets
//! one [`Answer`], in order, which resolves by the deadline of the query or is dropped then.

use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use clipper_rpc::input::Input;
use clipper_rpc::output::Output;
use smallvec::SmallVec;
use tokio::sync::oneshot;

use crate::computation::cache::{Claim, PredictionCache};
use crate::computation::failure::{Failure, Verdict};
use crate::computation::mailbox::{Delivery, Mailbox};
use crate::computation::{Bond, Computation, Waiter};
use crate::metrics::CacheLookup;
use crate::queue::{Entry, Queue, VersionView};
use crate::worker::{SendBuffer, Timers, Turns};

/// Queries of one request that are queued together. This is mostly a whole batch of a model, which
/// one turn would cut up.
const MOST_SENT_AT_ONCE: usize = 4096;

/// Asks on behalf of the requests of one HTTP worker.
pub struct ModelCaller {
    /// Outputs that were computed before, and computations in progress.
    pub cache: Arc<PredictionCache>,
    /// Deadlines of the worker's requests.
    pub timers: Rc<Timers>,
    /// Queries on their way to the queues.
    pub send_buffer: Rc<SendBuffer>,
    /// Outcomes on their way to the worker's requests.
    pub mailbox: Arc<Mailbox>,
}

/// A query's answer, or where it will arrive.
pub(super) enum Answer {
    Kept(Output),
    Later(Awaited),
}

/// An answer that is to come.
pub(super) struct Awaited {
    pub(super) verdict: oneshot::Receiver<Verdict>,
    /// Weak, as who waits for it does not keep it.
    computation: Weak<Computation>,
}

impl Awaited {
    /// Whether a container was given the query, and may have answered by now.
    pub(super) fn is_begun(&self) -> bool {
        self.computation.upgrade().is_none_or(|computation| computation.is_begun())
    }
}

impl ModelCaller {
    /// Answers from the cache (if the application `may` use it), joins what is computed, and queues the rest. Other
    /// requests have their turn in between.
    pub(super) async fn ask(
        &self,
        version: &VersionView,
        inputs: impl Iterator<Item = Input>,
        may: bool,
        keep_together: bool,
        deadline: Instant,
    ) -> SmallVec<[Answer; 1]> {
        let queue = &version.queue;
        // Inputs that belong together are computed together, whatever is known of some of them.
        let kept = may && version.cache && !keep_together;
        let bond = keep_together.then(Bond::default);
        let mut new = Vec::new();
        let mut answers = SmallVec::new();
        let mut turns = Turns::default();
        for input in inputs {
            if turns.are_over() {
                if !keep_together && new.len() >= MOST_SENT_AT_ONCE {
                    self.send(queue, new.drain(..), deadline);
                }
                tokio::task::yield_now().await;
            }
            let (reply, verdict) = self.mailbox.reply();
            let waiter = Waiter { deadline, reply, shared: None };
            let computation = if kept {
                let key = self.cache.key(queue.number(), input);
                if let Some(output) = self.cache.get(&key) {
                    queue.metrics().look_up(CacheLookup::Hit);
                    answers.push(Answer::Kept(output));
                    continue;
                }
                match self.cache.claim(key, waiter, || queue.share(), queue.metrics()) {
                    Claim::Shared(computation) => Arc::downgrade(&computation),
                    Claim::New(computation) => {
                        let known = Arc::downgrade(&computation);
                        new.push(computation);
                        known
                    }
                    Claim::Full(waiter) => {
                        waiter.reply.send(Err(queue.full()), &mut Delivery::default());
                        Weak::new()
                    }
                }
            } else {
                let computation = Computation::new(input, None, waiter).bound_by(bond.clone());
                let computation = Arc::new(computation);
                let known = Arc::downgrade(&computation);
                new.push(computation);
                known
            };
            answers.push(Answer::Later(Awaited { verdict, computation }));
        }
        if keep_together && !new.is_empty() {
            let now = Instant::now();
            self.send_buffer.add(queue, [Entry::together(new, deadline, now)], now);
        } else {
            self.send(queue, new.drain(..), deadline);
        }
        answers
    }

    /// Queues computations, each by itself.
    fn send(
        &self,
        queue: &Arc<Queue>,
        new: impl ExactSizeIterator<Item = Arc<Computation>>,
        deadline: Instant,
    ) {
        if new.len() > 0 {
            let now = Instant::now();
            self.send_buffer.add(queue, new.map(|computation| Entry::new(computation, deadline, now)), now);
        }
    }
}

/// Why a query has no answer at its deadline.
pub(super) fn too_slow(queue: &Queue, objective: Duration) -> Failure {
    let depth = queue.depth();
    let model = queue.model().clone();
    Failure::Deadline { model, objective, queued: depth.queries, replicas: depth.replicas }
}
