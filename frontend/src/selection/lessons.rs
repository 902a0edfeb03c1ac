//! What feedback teaches, and what became of queries, on its way from the requests to the application's actor.
//!
//! Outcomes of queries are counted by model, as their order does not matter: so many as there may be, they take no more
//! memory. Invariant: a lesson whose place was reserved is applied; without a place the application is told to come again.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use actix::WeakRecipient;
use actix::prelude::*;
use clipper_rpc::names::ModelName;
use clipper_rpc::selection::Uid;
use clipper_selection::learner::availability::Outcomes;
use clipper_selection::log::Record;
use serde_json::Value;
use serde_json::value::RawValue;

use super::decisions::Decided;
use crate::output_json::OutputJson;

/// The most lessons of one application that may wait.
const CAPACITY: usize = 10_000;
/// The most memory that they take, in bytes, with the decisions that they are about.
const MOST_BYTES: usize = 64 << 20;

/// What one feedback says.
pub struct Taught {
    /// What it is about.
    pub subject: Subject,
    /// The loss of each candidate of the subject, in [0, 1], where it is known.
    pub losses: Vec<Option<f64>>,
    /// What would have been right, where it was said: as text, which takes less memory than the
    /// value.
    pub label: Option<Box<RawValue>>,
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
    /// The feedback as it is logged.
    pub fn record(&self) -> Record {
        let label = self.label.as_ref().map(|label| {
            serde_json::from_str(label.get()).expect("it was written from a value that had been read")
        });
        Record::Feedback {
            time_micros: self.time_micros,
            query_id: self.subject.query_id(),
            uid: self.subject.uid().cloned(),
            label,
            reward: self.reward,
            losses: self.losses.clone(),
            outputs: self.outputs_since(),
        }
    }

    /// The memory that it takes, in bytes, with the decision that it is about.
    pub fn size(&self) -> usize {
        let label = self.label.as_ref().map_or(0, |label| label.get().len());
        size_of::<Self>() + size_of_val(self.losses.as_slice()) + label + self.subject.size()
    }

    /// What is judged of what models answered after the answer, as it is logged.
    fn outputs_since(&self) -> Vec<Value> {
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
    /// The memory that it takes besides itself, in bytes.
    pub fn size(&self) -> usize {
        match self {
            Self::Answer(decided) => decided.size(),
            Self::Input { uid, context, candidates } => {
                uid.as_ref().map_or(0, |uid| uid.as_str().len())
                    + size_of_val(context.as_deref().unwrap_or_default())
                    + size_of_val(candidates.as_slice())
            }
        }
    }

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

/// The lessons and outcomes of one application that wait for its actor.
#[derive(Default)]
pub struct Lessons {
    /// The number of those that wait and of those that have a place,
    taken: AtomicUsize,
    /// and their size in bytes.
    bytes: AtomicUsize,
    /// Each with its size. Held for a push or a swap.
    waiting: Mutex<Vec<(Arc<Taught>, usize)>>,
    /// The outcomes that wait, by model. Held for an addition or a swap.
    outcomes: Mutex<BTreeMap<ModelName, Outcomes>>,
    /// Who is told that some wait; unset for a moment at the start.
    actor: OnceLock<WeakRecipient<LessonsWait>>,
}

/// Lessons or outcomes wait where none did.
#[derive(Message)]
#[rtype(result = "()")]
pub struct LessonsWait;

/// Room for one lesson.
pub struct Reserved<'a> {
    lessons: &'a Lessons,
    bytes: usize,
}

impl Lessons {
    /// Has an actor told when lessons wait. The first one to ask is the only one.
    pub fn tell(&self, actor: WeakRecipient<LessonsWait>) {
        let _ = self.actor.set(actor);
    }

    /// Room for one lesson of at most `bytes`; none if too many wait, or too much. One that is
    /// larger than all room has a place while no other waits.
    pub fn reserve(&self, bytes: usize) -> Option<Reserved<'_>> {
        // First counted, then compared: two that come at once cannot both take the last place.
        let before = self.taken.fetch_add(1, Ordering::Relaxed);
        let bytes_before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let reserved = Reserved { lessons: self, bytes };
        let fits = before < CAPACITY && (bytes_before == 0 || bytes_before + bytes <= MOST_BYTES);
        fits.then_some(reserved)
    }

    /// The first of those that wait, at most so many; whether more do.
    pub fn take(&self, most: usize) -> (Vec<Arc<Taught>>, bool) {
        let mut waiting = self.lock();
        let most = most.min(waiting.len());
        let rest = waiting.split_off(most);
        let more = !rest.is_empty();
        let taken = std::mem::replace(&mut *waiting, rest);
        drop(waiting);
        self.taken.fetch_sub(taken.len(), Ordering::Relaxed);
        self.bytes.fetch_sub(taken.iter().map(|(_, bytes)| bytes).sum(), Ordering::Relaxed);
        (taken.into_iter().map(|(taught, _)| taught).collect(), more)
    }

    /// Counts a query for which a model was asked, which it answered in time or not.
    pub fn count(&self, model: &ModelName, answered: bool) {
        let mut outcomes = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        let first = outcomes.is_empty();
        let of = outcomes.entry(model.clone()).or_default();
        let counted = if answered { &mut of.answered } else { &mut of.missed };
        *counted = counted.saturating_add(1);
        drop(outcomes);
        if first {
            self.wake();
        }
    }

    /// All outcomes that wait.
    pub fn take_outcomes(&self) -> BTreeMap<ModelName, Outcomes> {
        std::mem::take(&mut *self.outcomes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn wake(&self) {
        if let Some(actor) = self.actor.get().and_then(WeakRecipient::upgrade) {
            actor.do_send(LessonsWait);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(Arc<Taught>, usize)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reserved<'_> {
    /// Puts the lesson where it waits.
    pub fn put(self, taught: Taught) {
        let (lessons, bytes) = (self.lessons, self.bytes);
        std::mem::forget(self);
        let mut waiting = lessons.lock();
        waiting.push((Arc::new(taught), bytes));
        let first = waiting.len() == 1;
        drop(waiting);
        if first {
            lessons.wake();
        }
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.lessons.taken.fetch_sub(1, Ordering::Relaxed);
        self.lessons.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
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
            lessons.reserve(100).unwrap().put(taught(1.0));
        }
        assert!(lessons.reserve(100).is_none());
        let (taken, more) = lessons.take(1);
        assert!(taken.len() == 1 && more);
        drop(lessons.reserve(100).unwrap());
        lessons.reserve(100).unwrap().put(taught(1.0));
        assert!(lessons.reserve(100).is_none());
    }

    #[test]
    fn lessons_wait_within_a_bound_in_bytes_too() {
        let lessons = Lessons::default();
        let large = MOST_BYTES / 4;
        for _ in 0..4 {
            lessons.reserve(large).unwrap().put(taught(1.0));
        }
        assert!(lessons.reserve(large).is_none() && lessons.reserve(1).is_none());
        lessons.take(1);
        drop(lessons.reserve(large).unwrap());
        lessons.reserve(large).unwrap().put(taught(1.0));
        lessons.take(usize::MAX);
        lessons.reserve(2 * MOST_BYTES).unwrap().put(taught(1.0));
        assert!(lessons.reserve(1).is_none(), "the largest waits alone");
    }

    #[test]
    fn a_lesson_is_as_large_as_its_label_and_what_it_is_about() {
        let label = serde_json::value::to_raw_value(&"x".repeat(10_000)).unwrap();
        let labelled = Taught { label: Some(label), ..taught(1.0) };
        assert!((10_000..10_500).contains(&labelled.size()), "{}", labelled.size());
        let output = Output::text("x".repeat(20_000));
        let subject = Subject::Answer(Arc::new(Decided { output, ..decided(1) }));
        assert!(Taught { subject, ..taught(1.0) }.size() > 20_000);
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
    fn outcomes_are_counted_by_model_until_they_are_taken() {
        let lessons = Lessons::default();
        let [a, b]: [ModelName; 2] = ["a", "b"].map(|name| name.parse().unwrap());
        lessons.count(&a, true);
        lessons.count(&b, false);
        lessons.count(&a, false);
        lessons.count(&a, true);
        let expected = [(a, Outcomes { answered: 2, missed: 1 }), (b, Outcomes { answered: 0, missed: 1 })];
        assert_eq!(lessons.take_outcomes(), BTreeMap::from(expected));
        assert!(lessons.take_outcomes().is_empty());
    }

    #[test]
    fn lessons_are_taken_in_the_order_in_which_they_came() {
        let lessons = Lessons::default();
        for number in 0..5 {
            lessons.reserve(100).unwrap().put(taught(f64::from(number)));
        }
        let rewards = |taken: Vec<Arc<Taught>>| taken.iter().map(|taught| taught.reward).collect::<Vec<_>>();
        assert_eq!(rewards(lessons.take(2).0), [0.0, 1.0]);
        let (rest, more) = lessons.take(9);
        assert_eq!((rewards(rest), more), (vec![2.0, 3.0, 4.0], false));
    }
}
