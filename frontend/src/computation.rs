//! What a model is asked once, for every query that waits for the answer.
//!
//! It waits in a queue, travels in a batch, or both where it is hedged. Invariant: each query that waits is told exactly
//! once: the first outcome, or, by its reply being dropped, that its deadline has passed.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use clipper_rpc::input::Input;
use smallvec::{SmallVec, smallvec};

use crate::cache::{Place, Source};
use crate::failure::{Failure, Verdict};
use crate::queue::Shared;
use crate::reply::{Delivery, Reply};

/// How often an input is handed to a container before it counts as the cause of their deaths.
pub const MAX_ATTEMPTS: u8 = 3;

/// One input on its way to a model and back.
pub struct Computation {
    input: Input,
    /// Where the output is to be kept, if anywhere.
    place: Option<Place>,
    /// With whom it shares its batch.
    bond: Option<Bond>,
    /// How often a container was given it, and how many hold it.
    attempts: AtomicU8,
    holders: AtomicU8,
    /// Held for a look at the few that wait.
    state: Mutex<State>,
}

/// Computations of one bond are to be in one batch, however often it takes.
#[derive(Clone, Default)]
pub struct Bond(Arc<()>);

/// A query that waits.
pub struct Waiter {
    /// When an answer is of no use to it any more.
    pub deadline: Instant,
    /// Where its outcome goes.
    pub reply: Reply,
    /// Its place in the queue, if it shares the computation of another query.
    pub shared: Option<Shared>,
}

enum State {
    /// At least one query waits, or it is in a batch.
    Open(SmallVec<[Waiter; 1]>),
    /// Nobody waits, and nobody can join; a late answer is still of use to the cache.
    Abandoned,
    /// It has an outcome.
    Finished,
}

impl Computation {
    /// A computation for one query so far.
    pub fn new(input: Input, place: Option<Place>, waiter: Waiter) -> Self {
        let state = Mutex::new(State::Open(smallvec![waiter]));
        Self { input, place, bond: None, attempts: AtomicU8::new(0), holders: AtomicU8::new(0), state }
    }

    /// The same, with a bond if there is one.
    pub fn bound_by(mut self, bond: Option<Bond>) -> Self {
        self.bond = bond;
        self
    }

    /// Whether both are to be in the same batch.
    pub fn goes_with(&self, other: &Self) -> bool {
        match (&self.bond, &other.bond) {
            (Some(bond), Some(other)) => Arc::ptr_eq(&bond.0, &other.0),
            _ => false,
        }
    }

    /// What the model is asked.
    pub fn input(&self) -> &Input {
        &self.input
    }

    /// Has one more query wait for it.
    ///
    /// # Errors
    /// The query, if it must be computed on its own: the outcome is there or given up already, or is due too late for it: the
    /// earliest deadline is what counts, as queries that come at once may do so in any order.
    pub fn join(&self, waiter: Waiter) -> Result<(), Waiter> {
        match &mut *self.lock() {
            State::Open(waiters) if waiters.iter().any(|first| first.deadline <= waiter.deadline) => {
                waiters.push(waiter);
                Ok(())
            }
            _ => Err(waiter),
        }
    }

    /// The earliest deadline of those that wait at `now`. Without any it is abandoned.
    pub fn due(&self, now: Instant) -> Option<Instant> {
        self.retain(|waiter| waiter.deadline > now && !waiter.reply.is_closed(), drop)
    }

    /// Tells those whose deadline is at most `due` why they get nothing; the earliest deadline of the others, without any of
    /// which it is abandoned.
    pub fn give_up(&self, due: Instant, failure: &Failure, delivery: &mut Delivery) -> Option<Instant> {
        let tell = |waiter: Waiter| waiter.reply.send(Err(failure.clone()), delivery);
        self.retain(|waiter| waiter.deadline > due, tell)
    }

    /// Ends it for everybody who waits with what a container said, and keeps an output for those
    /// who will ask. What comes later is of no effect.
    pub fn answer(&self, outcome: &Verdict, source: &Arc<Source>, delivery: &mut Delivery) {
        self.end(outcome, Some(source), delivery);
    }

    /// Ends it for everybody who waits, and keeps nothing. What comes later is of no effect.
    pub fn finish(&self, outcome: &Verdict, delivery: &mut Delivery) {
        self.end(outcome, None, delivery);
    }

    fn end(&self, outcome: &Verdict, source: Option<&Arc<Source>>, delivery: &mut Delivery) {
        let state = std::mem::replace(&mut *self.lock(), State::Finished);
        if matches!(state, State::Finished) {
            return;
        }
        if let Some(Place { cache, key }) = &self.place {
            if let (Ok(output), Some(source)) = (outcome, source) {
                cache.insert(key, output, source);
            }
            cache.land(key, self);
        }
        if let State::Open(waiters) = state {
            waiters.into_iter().for_each(|waiter| waiter.reply.send(outcome.clone(), delivery));
        }
    }

    /// Counts that a container is given it.
    pub fn attempt(&self) {
        self.attempts.fetch_add(1, Ordering::Relaxed);
        self.holders.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts that a container holds it no more; whether another one does.
    pub fn let_go(&self) -> bool {
        self.holders.fetch_sub(1, Ordering::Relaxed) > 1
    }

    /// Takes back a count: its container did not die of it.
    pub fn exonerate(&self) {
        self.attempts.fetch_sub(1, Ordering::Relaxed);
    }

    /// How often a container was given it.
    pub fn attempts(&self) -> u8 {
        self.attempts.load(Ordering::Relaxed)
    }

    /// Keeps the queries that `keep` names; the earliest deadline of those.
    fn retain(&self, keep: impl Fn(&Waiter) -> bool, mut leave: impl FnMut(Waiter)) -> Option<Instant> {
        let mut state = self.lock();
        let State::Open(waiters) = &mut *state else { return None };
        let mut index = 0;
        while index < waiters.len() {
            if keep(&waiters[index]) {
                index += 1;
            } else {
                leave(waiters.swap_remove(index));
            }
        }
        let due = waiters.iter().map(|waiter| waiter.deadline).min();
        if due.is_none() {
            *state = State::Abandoned;
        }
        due
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Computation {
    fn drop(&mut self) {
        if let Some(Place { cache, key }) = &self.place
            && !matches!(*self.lock(), State::Finished)
        {
            cache.land(key, self);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use clipper_rpc::output::Output;
    use tokio::sync::oneshot;

    use super::*;
    use crate::reply::Mailbox;

    /// A query that is due at `deadline`, and where its outcome arrives once the mailbox is delivered.
    pub(crate) fn waiter(mailbox: &Arc<Mailbox>, deadline: Instant) -> (Waiter, oneshot::Receiver<Verdict>) {
        let (reply, outcome) = mailbox.reply();
        (Waiter { deadline, reply, shared: None }, outcome)
    }

    /// A computation of a text, outside of any cache, for one query.
    pub(crate) fn computation(
        mailbox: &Arc<Mailbox>,
        text: &str,
        deadline: Instant,
    ) -> (Arc<Computation>, oneshot::Receiver<Verdict>) {
        let (waiter, outcome) = waiter(mailbox, deadline);
        (Arc::new(Computation::new(Input::string(text), None, waiter)), outcome)
    }

    fn failure() -> Failure {
        Failure::NoLinkedModels
    }

    #[test]
    fn everybody_who_waits_is_told_the_first_outcome() {
        let mailbox = Arc::new(Mailbox::default());
        let due = Instant::now() + Duration::from_secs(9);
        let (shared, mut first) = computation(&mailbox, "x", due);
        let (second, mut second_outcome) = waiter(&mailbox, due);
        assert!(shared.join(second).is_ok());
        let mut delivery = Delivery::default();
        shared.finish(&Ok(Output::text("1")), &mut delivery);
        shared.finish(&Ok(Output::text("2")), &mut delivery);
        drop(delivery);
        mailbox.hand_out();
        for outcome in [&mut first, &mut second_outcome] {
            assert_eq!(outcome.try_recv().unwrap(), Ok(Output::text("1")));
        }
        assert!(shared.join(waiter(&mailbox, due).0).is_err(), "it has ended");
    }

    #[test]
    fn a_query_that_is_due_earlier_does_not_wait_for_a_later_one() {
        let mailbox = Arc::new(Mailbox::default());
        let due = Instant::now() + Duration::from_secs(9);
        let (shared, _first) = computation(&mailbox, "x", due);
        assert!(shared.join(waiter(&mailbox, due - Duration::from_secs(1)).0).is_err());
    }

    #[test]
    fn giving_up_one_query_leaves_those_that_have_more_time() {
        let mailbox = Arc::new(Mailbox::default());
        let due = Instant::now() + Duration::from_secs(9);
        let (shared, mut first) = computation(&mailbox, "x", due);
        let later = due + Duration::from_secs(1);
        let (second, mut second_outcome) = waiter(&mailbox, later);
        assert!(shared.join(second).is_ok());
        assert_eq!(shared.give_up(due, &failure(), &mut Delivery::default()), Some(later));
        mailbox.hand_out();
        assert_eq!(first.try_recv().unwrap(), Err(failure()));
        assert!(second_outcome.try_recv().is_err());
        assert_eq!(shared.give_up(later, &failure(), &mut Delivery::default()), None);
        assert!(shared.join(waiter(&mailbox, later).0).is_err(), "it is abandoned");
    }

    #[test]
    fn a_computation_is_due_at_nobody_once_its_clients_have_gone() {
        let mailbox = Arc::new(Mailbox::default());
        let now = Instant::now();
        let (shared, outcome) = computation(&mailbox, "x", now + Duration::from_secs(9));
        assert!(shared.due(now).is_some());
        drop(outcome);
        assert_eq!(shared.due(now), None);
    }
}
