//! What a model is asked once, for every query that waits for the answer.
//!
//! It is pending in a queue, with a container, or in several such places where it is hedged or lent. Invariants: each query that
//! waits is told exactly once: the first outcome, or, by its reply being dropped, that its deadline has passed. It fails only
//! once it is pending nowhere else.

pub mod cache;
pub mod failure;
pub mod mailbox;

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use clipper_rpc::input::Input;
use smallvec::{SmallVec, smallvec};

use crate::computation::cache::{Place, Source};
use crate::computation::failure::{Failure, Verdict};
use crate::computation::mailbox::{Delivery, Reply};

/// One input on its way to a model and back.
pub struct Computation {
    input: Input,
    /// Where the output is to be kept, if anywhere.
    place: Option<Place>,
    /// With whom it shares its batch.
    bond: Option<Bond>,
    /// In how many places it is pending.
    places: AtomicU16,
    /// Whether a container was ever given it.
    begun: AtomicBool,
    /// Whether another container was given it because the first one stalled.
    hedged: AtomicBool,
    /// How many containers were lost while they held it.
    losses: AtomicU8,
    /// Held for a look at the few that wait.
    state: Mutex<State>,
}

/// A computation in a place where it may still be computed: a queue, or the batch of a container.
pub struct Pending(Arc<Computation>);

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

/// A place in a queue for a query that shares the computation of another one; free again once it is dropped.
pub struct Shared(Arc<AtomicUsize>);

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
        Self {
            input,
            place,
            bond: None,
            places: AtomicU16::new(0),
            begun: AtomicBool::new(false),
            hedged: AtomicBool::new(false),
            losses: AtomicU8::new(0),
            state: Mutex::new(State::Open(smallvec![waiter])),
        }
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

    /// Notes that a container is given it.
    pub fn begin(&self) {
        self.begun.store(true, Ordering::Relaxed);
    }

    /// Whether a container was ever given it.
    pub fn is_begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }

    /// Notes that it is hedged; whether it is so for the first time.
    pub fn hedge(&self) -> bool {
        !self.hedged.swap(true, Ordering::Relaxed)
    }

    /// Counts that a container was lost while it held it; how many were by now.
    pub fn lose(&self) -> u8 {
        self.losses.fetch_add(1, Ordering::Relaxed).saturating_add(1)
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

impl Shared {
    /// One more of those that are counted.
    pub(crate) fn of(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pending {
    /// One more place where the computation is pending.
    pub fn new(computation: Arc<Computation>) -> Self {
        computation.places.fetch_add(1, Ordering::AcqRel);
        Self(computation)
    }

    /// The same computation, pending in one more place.
    pub fn again(&self) -> Self {
        Self::new(Arc::clone(&self.0))
    }

    /// Whether it is pending in another place, too.
    pub fn is_elsewhere(&self) -> bool {
        self.0.places.load(Ordering::Acquire) > 1
    }

    /// It is not computed here. Unless it is pending elsewhere, it ends with that failure for everybody who waits.
    pub fn fail(self, outcome: &Verdict, delivery: &mut Delivery) {
        let computation = Arc::clone(&self.0);
        drop(self);
        if computation.places.load(Ordering::Acquire) == 0 {
            computation.finish(outcome, delivery);
        }
    }
}

impl Deref for Pending {
    type Target = Computation;

    fn deref(&self) -> &Computation {
        &self.0
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.places.fetch_sub(1, Ordering::AcqRel);
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
    use crate::computation::mailbox::Mailbox;

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

    #[test]
    fn a_computation_fails_only_once_it_is_pending_nowhere_else() {
        let mailbox = Arc::new(Mailbox::default());
        let (shared, mut outcome) = computation(&mailbox, "x", Instant::now() + Duration::from_secs(9));
        let first = Pending::new(shared);
        let [second, third] = [first.again(), first.again()];
        assert!(first.is_elsewhere());
        let mut fail = |pending: Pending| {
            pending.fail(&Err(failure()), &mut Delivery::default());
            mailbox.hand_out();
            outcome.try_recv().ok()
        };
        assert_eq!(fail(second), None);
        drop(third);
        assert!(!first.is_elsewhere());
        assert_eq!(fail(first), Some(Err(failure())));
    }
}
