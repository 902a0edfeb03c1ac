//! What was decided for recent queries, by query id: what feedback is joined to, and what can be explained.
//!
//! Requests record on their own threads, feedback reads on its own. Invariant: bounded in number, in bytes and in age; where
//! there is no more room, the oldest are forgotten first.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use clipper_rpc::names::AppName;
use clipper_rpc::output::Output;
use smallvec::SmallVec;
use tokio::sync::SetOnce;
use tokio::time::timeout_at;

use super::explanation::{self, Course};

/// How long a decision is kept at most.
const MAX_AGE: Duration = Duration::from_secs(600);

/// The most memory that decisions take, in bytes.
const MOST_BYTES: usize = 256 << 20;

/// The memory that a decision takes besides what it names: allocations, its place by id and by age.
/// In bytes; an estimate.
const DECISION_BYTES: usize = 256;

/// The memory that each candidate takes in a decision besides its output: its name, its propensity,
/// the place of its output. In bytes; an estimate.
const CANDIDATE_BYTES: usize = 64;

/// The longest time for which models are listened to after the answer, whatever the query's
/// objective is.
pub const LISTENING: Duration = Duration::from_secs(60);

/// The most queries whose slower models are listened to at once.
const MOST_LISTENING: usize = 10_000;

/// How long after that time those who listened may take to say what they have heard.
const GRACE: Duration = Duration::from_millis(50);

/// So many locks share the decisions, where there is room for as many.
const SHARDS: usize = 16;

/// The largest decision that is kept where there are all shards, and the largest that is logged, in
/// bytes.
pub const LARGEST_DECISION: usize = MOST_BYTES / SHARDS;

/// A decision, and what feedback on it needs to know.
pub struct Decided {
    /// The application.
    pub application: AppName,
    /// As it is logged, but for the outputs, which are empty in it.
    pub decision: clipper_selection::log::Decision,
    /// What each candidate had answered by then.
    pub outputs: Vec<Option<Output>>,
    /// What others have answered since, by their indices: unset while models are listened to.
    pub since: SetOnce<Vec<(usize, Output)>>,
    /// Until when models are listened to.
    pub deadline: Instant,
    /// What was answered.
    pub output: Output,
    /// How it came to that.
    pub course: Course,
    /// Whether feedback was applied: there is one for each query.
    pub judged: AtomicBool,
}

/// The recent decisions of a frontend.
pub struct Decisions {
    shards: Vec<Shard>,
    /// The most decisions in one shard.
    capacity: usize,
    /// How many queries' slower models are listened to.
    listening: AtomicUsize,
}

/// A place among those who listen to the slower models of a query.
pub struct Listening(Arc<Decisions>);

impl Listening {
    /// Where it is added what they answer.
    pub fn decisions(&self) -> &Decisions {
        &self.0
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.listening.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Held for a look-up or an insertion, which may have to make room for more.
type Shard = Mutex<Recent>;

#[derive(Default)]
struct Recent {
    known: HashMap<u64, (Instant, Arc<Decided>)>,
    /// The same by age, the oldest first.
    order: VecDeque<(Instant, u64)>,
    /// What they hold.
    bytes: usize,
}

impl Decided {
    /// What a candidate has answered by now.
    pub fn known(&self, model: usize) -> Option<&Output> {
        self.outputs[model].as_ref().or_else(|| self.known_since(model))
    }

    /// The same, if it came after the answer.
    pub fn known_since(&self, model: usize) -> Option<&Output> {
        self.since.get()?.iter().find(|(of, _)| *of == model).map(|(_, output)| output)
    }

    /// Waits until every model has answered that is listened to, or none is any longer; not at all if it has been judged.
    pub async fn listened(&self) {
        if self.judged.load(Ordering::Relaxed) {
            return;
        }
        // Whoever listens says so then, unless its worker has gone.
        let _ = timeout_at((self.deadline + GRACE).into(), self.since.wait()).await;
    }

    /// The memory that it takes, in bytes; an estimate.
    pub fn size(&self) -> usize {
        let Self { decision, outputs, since, output, course, .. } = self;
        let outputs = outputs.iter().flatten().chain([output]).map(Output::size).sum::<usize>();
        size_of::<Self>()
            + DECISION_BYTES
            + CANDIDATE_BYTES * decision.candidates.len()
            + outputs
            + since.get().map_or(0, |since| size(since))
            + size_of_val(decision.context.as_deref().unwrap_or_default())
            + decision.uid.as_ref().map_or(0, |uid| uid.as_str().len())
            + course.size()
    }
}

impl Decisions {
    /// Keeps at most `capacity` decisions.
    pub fn new(capacity: usize) -> Self {
        let shards = SHARDS.min(capacity).max(1);
        Self {
            shards: (0..shards).map(|_| Shard::default()).collect(),
            capacity: capacity / shards,
            listening: AtomicUsize::new(0),
        }
    }

    /// Keeps a decision.
    pub fn record(&self, decided: Arc<Decided>) {
        self.record_at(decided, Instant::now());
    }

    /// Adds what models have answered since, all at once; nothing of it if the decision would
    /// become too large to be kept.
    pub fn add(&self, decided: &Arc<Decided>, mut since: Vec<(usize, Output)>) {
        if decided.size() + size(&since) > self.most_bytes() {
            since.clear();
        }
        let (query_id, size) = (decided.decision.query_id, size(&since));
        let mut shard = lock(self.shard(query_id));
        // Under the lock, so that a decision that is kept holds what is counted of it. The next one makes room for both.
        let is_first = decided.since.set(since).is_ok();
        let is_kept = shard.known.get(&query_id).is_some_and(|(_, kept)| Arc::ptr_eq(kept, decided));
        if is_first && is_kept {
            shard.bytes += size;
        }
    }

    /// A place to listen to the slower models of a query; none if too many are listened to.
    pub fn listen(self: &Arc<Self>) -> Option<Listening> {
        // First counted, then compared: two that come at once cannot both take the last place.
        let before = self.listening.fetch_add(1, Ordering::Relaxed);
        let place = Listening(Arc::clone(self));
        (before < MOST_LISTENING).then_some(place)
    }

    /// The decision on a query, unless it is forgotten.
    pub fn get(&self, query_id: u64) -> Option<Arc<Decided>> {
        self.get_at(query_id, Instant::now())
    }

    /// Says of a query what was asked, what each model answered, and why the answer was what it
    /// was, as JSON of a bounded length; none if the query is forgotten.
    pub fn explain(&self, query_id: u64) -> Option<String> {
        self.get(query_id).map(|decided| explanation::text(&decided))
    }

    fn record_at(&self, decided: Arc<Decided>, now: Instant) {
        if self.capacity == 0 {
            return;
        }
        let (query_id, size) = (decided.decision.query_id, decided.size());
        let most_bytes = self.most_bytes();
        if size > most_bytes {
            // It would push out all others.
            return;
        }
        // Dropped after the lock: that is most of the work. For each that comes two may go, so that what is too old soon has.
        let mut forgotten: SmallVec<[Arc<Decided>; 2]> = SmallVec::new();
        let mut shard = lock(self.shard(query_id));
        while let Some(&(since, oldest)) = shard.order.front() {
            let full = shard.order.len() >= self.capacity || shard.bytes + size > most_bytes;
            let old = now.saturating_duration_since(since) > MAX_AGE && forgotten.len() < 2;
            if !full && !old {
                break;
            }
            shard.order.pop_front();
            if let Some((_, decided)) = shard.known.remove(&oldest) {
                shard.bytes -= decided.size();
                forgotten.push(decided);
            }
        }
        shard.bytes += size;
        shard.order.push_back((now, query_id));
        if let Some((_, same)) = shard.known.insert(query_id, (now, decided)) {
            shard.bytes -= same.size();
        }
        drop(shard);
    }

    fn get_at(&self, query_id: u64, now: Instant) -> Option<Arc<Decided>> {
        let shard = lock(self.shard(query_id));
        let (since, decided) = shard.known.get(&query_id)?;
        (now.saturating_duration_since(*since) <= MAX_AGE).then(|| Arc::clone(decided))
    }

    /// The most bytes of one shard.
    fn most_bytes(&self) -> usize {
        MOST_BYTES / self.shards.len()
    }

    fn shard(&self, query_id: u64) -> &Shard {
        // Ids count up, and applications may take turns: only a hash spreads each one's evenly.
        let hash = query_id.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        &self.shards[hash as usize % self.shards.len()]
    }
}

/// In bytes.
fn size(outputs: &[(usize, Output)]) -> usize {
    outputs.iter().map(|(_, output)| output.size()).sum()
}

fn lock(shard: &Shard) -> MutexGuard<'_, Recent> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
pub(crate) mod tests {
    use clipper_rpc::names::ModelId;
    use clipper_rpc::selection::Uid;
    use clipper_selection::log::Decision;
    use serde_json::Value;

    use super::super::explanation::Absence;
    use super::*;

    impl Decisions {
        /// Number of decisions.
        pub(crate) fn len(&self) -> usize {
            self.shards.iter().map(|shard| lock(shard).order.len()).sum()
        }
    }
    use crate::computation::failure::Failure;

    /// A decision of a query that two of three models answered.
    pub(crate) fn decided(query_id: u64) -> Decided {
        let names = ["a", "b", "c"].map(|name| name.parse().unwrap());
        Decided {
            application: "app".parse().unwrap(),
            decision: Decision {
                query_id,
                time_micros: 0,
                uid: None,
                context: None,
                candidates: names.to_vec(),
                propensities: vec![0.5, 0.3, 0.2],
                asked: None,
                away: Vec::new(),
                answered: None,
                outputs: Vec::new(),
                output: Value::Null,
                default_reason: None,
                confidence: 0.5,
                latency_micros: 1500,
                shared_version: 7,
                own_version: None,
            },
            outputs: vec![Some(Output::text("cat")), None, Some(Output::text("dog"))],
            since: SetOnce::new_with(Some(Vec::new())),
            deadline: Instant::now(),
            output: Output::text("cat"),
            course: Course::default(),
            judged: AtomicBool::new(false),
        }
    }

    #[test]
    fn a_decision_is_found_until_there_is_no_room_for_it() {
        let decisions = Decisions::new(160);
        (0..1000).for_each(|id| decisions.record(Arc::new(decided(id))));
        assert!(decisions.len() <= 160, "{}", decisions.len());
        assert!(decisions.len() > 140, "they spread: {}", decisions.len());
        assert_eq!(decisions.get(999).unwrap().decision.query_id, 999);
        assert!(decisions.get(0).is_none());
        assert!(decisions.get(1000).is_none(), "nobody asked");
        let kept: Vec<_> = (0..1000).filter(|&id| decisions.get(id).is_some()).collect();
        assert!(kept[0] > 700, "the oldest go first: {}", kept[0]);
    }

    #[test]
    fn large_outputs_push_out_the_oldest_as_many_small_ones_do() {
        let decisions = Decisions::new(16 * 1000);
        let large = Output::text("x".repeat(MOST_BYTES / 160));
        for id in 0..1000 {
            let outputs = vec![Some(large.clone()), None, None];
            decisions.record(Arc::new(Decided { outputs, ..decided(id) }));
        }
        assert!((100..=160).contains(&decisions.len()), "{}", decisions.len());
        assert!(decisions.get(999).is_some() && decisions.get(0).is_none());
    }

    #[test]
    fn what_is_added_later_takes_room_as_well() {
        let decisions = Decisions::new(16 * 1000);
        let large = Output::text("x".repeat(MOST_BYTES / 160));
        for id in 0..1000 {
            let decided = Arc::new(Decided { since: SetOnce::new(), ..decided(id) });
            decisions.record(Arc::clone(&decided));
            decisions.add(&decided, vec![(1, large.clone())]);
            assert_eq!(decided.known(1), Some(&large));
        }
        assert!((100..=160).contains(&decisions.len()), "{}", decisions.len());

        let forgotten = Arc::new(Decided { since: SetOnce::new(), ..decided(0) });
        (0..1000).for_each(|_| decisions.add(&forgotten, vec![(1, large.clone())]));
        (1000..2000).for_each(|id| decisions.record(Arc::new(decided(id))));
        assert!(decisions.shards.iter().all(|shard| lock(shard).bytes < 100_000_000), "it is counted once");
        assert!(decisions.get(999).is_some(), "what is forgotten takes none");
    }

    #[test]
    fn whatever_a_decision_holds_is_counted() {
        let large = |size| Output::text("x".repeat(size));
        let model = || ModelId { name: "m".parse().unwrap(), version: "1".parse().unwrap() };
        let failure = || Failure::ContainerError { model: model(), problem: "x".repeat(10_000).into() };
        let (plain, mut full) = (decided(1), decided(1));
        full.course.unused = Some(large(20_000));
        full.course.absences = vec![(1, Absence::Failed(failure()))];
        full.course.failure = Some(failure());
        full.decision.uid = Uid::new("u".repeat(256));
        full.decision.context = Some(vec![0.0; 1000]);
        let held = 20_000 + 2 * 10_000 + 256 + 8_000;
        assert!((held..held + 1000).contains(&(full.size() - plain.size())), "{}", full.size());
        full.decision.candidates = vec!["a".parse().unwrap(); 1003];
        assert!(full.size() - plain.size() > held + 1000 * 40);
        assert!(plain.size() > 500, "nothing is free: {}", plain.size());
    }

    #[test]
    fn a_decision_that_is_larger_than_its_share_of_the_memory_pushes_out_no_other() {
        let decisions = Decisions::new(16);
        (0..16).for_each(|id| decisions.record(Arc::new(decided(id))));
        let kept = decisions.len();
        let large = Output::text("x".repeat(MOST_BYTES / SHARDS));
        let output = large.clone();
        decisions.record(Arc::new(Decided { output, ..decided(17) }));
        assert!(decisions.get(17).is_none());
        assert_eq!(decisions.len(), kept);

        let answered = Arc::new(Decided { since: SetOnce::new(), ..decided(18) });
        decisions.record(Arc::clone(&answered));
        decisions.add(&answered, vec![(1, large)]);
        assert!(decisions.get(18).unwrap().since.get().unwrap().is_empty(), "nobody waits for it any more");
    }

    #[test]
    fn no_more_queries_are_listened_to_at_once_than_there_is_room_for() {
        let decisions = Arc::new(Decisions::new(1));
        let mut places: Vec<_> = (0..MOST_LISTENING).map(|_| decisions.listen().unwrap()).collect();
        assert!(decisions.listen().is_none() && decisions.listen().is_none());
        places.pop();
        assert!(decisions.listen().is_some());
    }

    #[test]
    fn ids_of_every_second_query_spread_as_well() {
        for stride in [2, 16, 1 << 10] {
            let decisions = Decisions::new(160);
            (0..1000).for_each(|count| decisions.record(Arc::new(decided(count * stride))));
            assert!(decisions.len() > 120, "{} at {stride}", decisions.len());
        }
    }

    #[test]
    fn a_decision_is_forgotten_when_it_is_too_old() {
        let decisions = Decisions::new(1);
        let now = Instant::now();
        decisions.record_at(Arc::new(decided(1)), now);
        assert!(decisions.get_at(1, now + MAX_AGE).is_some());
        assert!(decisions.get_at(1, now + MAX_AGE + Duration::from_secs(1)).is_none());
        assert_eq!(decisions.len(), 1, "nothing runs in the background");

        let decisions = Decisions::new(10_000);
        (0..100).for_each(|id| decisions.record_at(Arc::new(decided(id)), now));
        let later = now + 2 * MAX_AGE;
        (1000..2000).for_each(|id| decisions.record_at(Arc::new(decided(id)), later));
        assert_eq!(decisions.len(), 1000, "what comes pushes out what is too old");
    }

    #[test]
    fn without_room_nothing_is_kept() {
        let decisions = Decisions::new(0);
        decisions.record(Arc::new(decided(1)));
        assert!(decisions.get(1).is_none() && decisions.len() == 0);
    }
}
