//! What feedback teaches, on its way from the requests to the application's actor.
//!
//! Invariant: a lesson whose place was reserved is applied; without a place the application is told to come again.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use actix::WeakRecipient;
use actix::prelude::*;
use clipper_rpc::names::ModelName;
use clipper_rpc::selection::Uid;
use serde_json::Value;

use super::decisions::Decided;
use crate::output_json::OutputJson;

/// How many lessons of one application may wait.
pub const CAPACITY: usize = 10_000;

/// What one feedback says.
pub struct Taught {
    /// What it is about.
    pub subject: Subject,
    /// The loss of each candidate of the subject, in [0, 1], where it is known.
    pub losses: Vec<Option<f64>>,
    /// What would have been right, where it was said.
    pub label: Option<Value>,
    /// The reward of the answer, in [0, 1].
    pub reward: f64,
    /// When it came: microseconds since 1970.
    pub time_micros: u64,
}

/// What feedback is about.
pub enum Subject {
    /// An answer that was given.
    Answer(Arc<Decided>),
    /// An input of which the models were asked for the sake of the feedback.
    Input {
        /// The user.
        uid: Option<Uid>,
        /// The features that came with it.
        context: Option<Vec<f64>>,
        /// The models.
        candidates: Vec<ModelName>,
    },
}

impl Taught {
    /// What is judged of what models answered after the answer, as it is logged.
    pub fn outputs_since(&self) -> Vec<Value> {
        let Subject::Answer(decided) = &self.subject else { return Vec::new() };
        let judged = self.losses.iter().enumerate().map(|(model, loss)| {
            let output = loss.and_then(|_| decided.known_since(model));
            output.map(OutputJson::value).unwrap_or_default()
        });
        let outputs: Vec<_> = judged.collect();
        if outputs.iter().all(Value::is_null) { Vec::new() } else { outputs }
    }
}

impl Subject {
    /// Of whom it is.
    pub fn uid(&self) -> Option<&Uid> {
        match self {
            Self::Answer(decided) => decided.decision.uid.as_ref(),
            Self::Input { uid, .. } => uid.as_ref(),
        }
    }

    /// The query's features.
    pub fn context(&self) -> Option<&[f64]> {
        match self {
            Self::Answer(decided) => decided.decision.context.as_deref(),
            Self::Input { context, .. } => context.as_deref(),
        }
    }

    /// The models that could have been asked, in the order of the losses.
    pub fn candidates(&self) -> &[ModelName] {
        match self {
            Self::Answer(decided) => &decided.decision.candidates,
            Self::Input { candidates, .. } => candidates,
        }
    }

    /// The query, if there was one.
    pub fn query_id(&self) -> Option<u64> {
        match self {
            Self::Answer(decided) => Some(decided.decision.query_id),
            Self::Input { .. } => None,
        }
    }
}

/// The lessons of one application that wait for its actor.
#[derive(Default)]
pub struct Lessons {
    /// Those that wait and those that have a place.
    taken: AtomicUsize,
    /// Held for a push or a swap.
    waiting: Mutex<Vec<Taught>>,
    /// Who is told that some wait; unset for a moment at the start.
    actor: OnceLock<WeakRecipient<LessonsWait>>,
}

/// Lessons wait where none did.
#[derive(Message)]
#[rtype(result = "()")]
pub struct LessonsWait;

/// Room for one lesson.
pub struct Reserved<'a>(&'a Lessons);

impl Lessons {
    /// Has an actor told when lessons wait. The first one to ask is the only one.
    pub fn tell(&self, actor: WeakRecipient<LessonsWait>) {
        let _ = self.actor.set(actor);
    }

    /// Room for one lesson; none if too many wait.
    pub fn reserve(&self) -> Option<Reserved<'_>> {
        // First counted, then compared: two that come at once cannot both take the last place.
        let before = self.taken.fetch_add(1, Ordering::Relaxed);
        let reserved = Reserved(self);
        (before < CAPACITY).then_some(reserved)
    }

    /// The first of those that wait, at most so many; whether more do.
    pub fn take(&self, most: usize) -> (Vec<Taught>, bool) {
        let mut waiting = self.lock();
        let most = most.min(waiting.len());
        let rest = waiting.split_off(most);
        let more = !rest.is_empty();
        let taken = std::mem::replace(&mut *waiting, rest);
        drop(waiting);
        self.taken.fetch_sub(taken.len(), Ordering::Relaxed);
        (taken, more)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Taught>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reserved<'_> {
    /// Puts the lesson where it waits.
    pub fn put(self, taught: Taught) {
        let lessons = self.0;
        std::mem::forget(self);
        let mut waiting = lessons.lock();
        waiting.push(taught);
        let first = waiting.len() == 1;
        drop(waiting);
        if first && let Some(actor) = lessons.actor.get().and_then(WeakRecipient::upgrade) {
            actor.do_send(LessonsWait);
        }
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use clipper_rpc::output::Output;
    use serde_json::json;
    use tokio::sync::SetOnce;

    use super::super::decisions::tests::decided;
    use super::*;

    fn taught(reward: f64) -> Taught {
        let subject = Subject::Input { uid: None, context: None, candidates: Vec::new() };
        Taught { subject, losses: Vec::new(), label: None, reward, time_micros: 0 }
    }

    #[test]
    fn there_is_room_again_once_lessons_are_taken_or_given_up() {
        let lessons = Lessons::default();
        for _ in 0..CAPACITY {
            lessons.reserve().unwrap().put(taught(1.0));
        }
        assert!(lessons.reserve().is_none());
        let (taken, more) = lessons.take(1);
        assert!(taken.len() == 1 && more);
        drop(lessons.reserve().unwrap());
        lessons.reserve().unwrap().put(taught(1.0));
        assert!(lessons.reserve().is_none());
    }

    #[test]
    fn an_output_that_came_after_the_answer_is_logged_if_it_is_judged() {
        let since = SetOnce::new_with(Some(vec![(1, Output::text("cat"))]));
        let subject = Subject::Answer(Arc::new(Decided { since, ..decided(1) }));
        let mut taught = Taught { subject, losses: vec![Some(0.0), Some(0.0), None], ..taught(1.0) };
        assert_eq!(taught.outputs_since(), [Value::Null, json!("cat"), Value::Null]);
        taught.losses[1] = None;
        assert!(taught.outputs_since().is_empty(), "it came after the feedback, too");
    }

    #[test]
    fn lessons_are_taken_in_the_order_in_which_they_came() {
        let lessons = Lessons::default();
        for number in 0..5 {
            lessons.reserve().unwrap().put(taught(f64::from(number)));
        }
        let rewards = |taken: Vec<Taught>| taken.iter().map(|taught| taught.reward).collect::<Vec<_>>();
        assert_eq!(rewards(lessons.take(2).0), [0.0, 1.0]);
        let (rest, more) = lessons.take(9);
        assert_eq!((rewards(rest), more), (vec![2.0, 3.0, 4.0], false));
    }
}
