//! Whether the choices and the changes in a log can be computed again, bit for bit.
//!
//! Records are kept back until [`LATEST`] more were read, since a decision is logged after changes that it did not know of
//! yet. Invariant: memory is bounded by that, by [`REMEMBERED`], and by the users that one file names.

use std::collections::{BTreeMap, HashMap, VecDeque};

use clipper_rpc::names::{AppName, ModelName};
use clipper_rpc::selection::{Change, Selection, Statistics, Uid};
use serde::Serialize;

use crate::learner::{Asked, Learner, Lesson, availability};
use crate::log::{Decision, Record};
use crate::offline::timeline::{Coming, Timeline};

/// A decision is logged at most this many records after a change that it did not know of.
const LATEST: usize = 10_000;
/// So many decisions are remembered for feedback that may come, and so much feedback for its change.
const REMEMBERED: usize = 200_000;
/// So many differences are shown.
const SHOWN: usize = 5;

/// Replays files of a log, each in order.
#[derive(Default)]
pub struct Replay {
    place: Option<Place>,
    held: VecDeque<Held>,
    held_most: usize,
    decided: Remembered<Decided>,
    judged: Remembered<Vec<Option<f64>>>,
    report: ReplayReport,
}

/// What came of a replay.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ReplayReport {
    /// The applications.
    pub applications: Vec<AppName>,
    /// Of the decisions.
    pub decisions: Tally,
    /// Of the changes.
    pub changes: Tally,
    /// The first differences, in words.
    pub differences: Vec<String>,
}

/// How many were checked, and with what result.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// All of them.
    pub total: u64,
    /// Computed again, with the same result.
    pub reproduced: u64,
    /// Computed again, with another result.
    pub differing: u64,
    /// Not computed again, by reason.
    pub not_checkable: BTreeMap<String, u64>,
}

/// What a file says of the application, and of its states.
struct Place {
    selection: Selection,
    learner: Learner,
    shared: Timeline,
    users: HashMap<Uid, Timeline>,
}

/// A record that waits for what may come after it.
enum Held {
    Decision(Box<Decision>),
    Change { version: u64, uid: Option<Uid> },
}

/// What a lesson takes from a decision.
struct Decided {
    asked: Option<usize>,
    propensity: f64,
    candidates: Vec<ModelName>,
    context: Option<Vec<f64>>,
}

/// The latest of something, by query id.
struct Remembered<T> {
    by_query: HashMap<u64, T>,
    order: VecDeque<u64>,
}

impl Replay {
    /// With nothing read.
    pub fn new() -> Self {
        Self { held_most: LATEST, ..Self::default() }
    }

    /// A file begins: what was read before says nothing of its states.
    pub fn begin_file(&mut self) {
        self.settle();
        self.place = None;
    }

    /// Takes in the next record of the file.
    pub fn push(&mut self, record: Record) {
        match record {
            Record::Start { application, selection, candidates, shared, version, .. } => {
                self.settle();
                if !self.report.applications.contains(&application) {
                    self.report.applications.push(application);
                }
                let users = self.place.take().map(|place| place.users).unwrap_or_default();
                let learner = Learner::new(&selection.policy, &candidates);
                let shared = Timeline::new(version, shared);
                self.place = Some(Place { selection, learner, shared, users });
            }
            Record::User { uid, statistics, version } => {
                // What was decided before was decided by the state before.
                if self.place.as_ref().is_some_and(|place| place.users.contains_key(&uid)) {
                    self.settle();
                }
                if let Some(place) = &mut self.place {
                    place.users.insert(uid, Timeline::new(version, statistics));
                }
            }
            Record::Change { version, query_id, outcomes, uid, change } => {
                let Some(timeline) = self.place.as_mut().and_then(|place| place.timeline(uid.as_ref()))
                else {
                    self.report.changes.total += 1;
                    self.report.changes.excuse("the log does not have the state before it");
                    return;
                };
                timeline.note(Coming { version, query_id, outcomes, change });
                self.hold(Held::Change { version, uid });
            }
            Record::Decision(decision) => {
                if let Some(place) = &mut self.place {
                    place.shared.want(decision.shared_version);
                    let own = decision.uid.as_ref().zip(decision.own_version);
                    if let Some((uid, version)) = own
                        && let Some(timeline) = place.users.get_mut(uid)
                    {
                        timeline.want(version);
                    }
                }
                self.decided.put(decision.query_id, Decided::new(&decision));
                self.hold(Held::Decision(decision));
            }
            Record::Feedback { query_id: Some(query_id), losses, .. } => self.judged.put(query_id, losses),
            Record::Feedback { query_id: None, .. } => {}
        }
    }

    /// All was read.
    pub fn finish(mut self) -> ReplayReport {
        self.settle();
        self.report
    }

    fn hold(&mut self, held: Held) {
        self.held.push_back(held);
        if self.held.len() > self.held_most {
            self.check_oldest();
        }
    }

    fn settle(&mut self) {
        while self.check_oldest() {}
    }

    fn check_oldest(&mut self) -> bool {
        let Some(held) = self.held.pop_front() else { return false };
        match held {
            Held::Change { version, uid } => self.advance(uid.as_ref(), version),
            Held::Decision(decision) => {
                self.advance(None, decision.shared_version);
                if let Some(version) = decision.own_version {
                    self.advance(decision.uid.as_ref(), version);
                }
                let report = &mut self.report;
                report.decisions.total += 1;
                match self
                    .place
                    .as_mut()
                    .map_or(Err("no state is known".to_owned()), |place| place.check(&decision))
                {
                    Ok(None) => report.decisions.reproduced += 1,
                    Ok(Some(difference)) => {
                        report.decisions.differing += 1;
                        report.show(format!("decision {}: {difference}", decision.query_id));
                    }
                    Err(why) => report.decisions.excuse(&why),
                }
            }
        }
        true
    }

    /// Moves a state on, and checks each change by which it moves.
    fn advance(&mut self, uid: Option<&Uid>, to: u64) {
        let Self { place: Some(place), decided, judged, report, .. } = self else { return };
        let Place { learner, shared, users, .. } = place;
        let timeline = match uid {
            None => Some(shared),
            Some(uid) => users.get_mut(uid),
        };
        let Some(timeline) = timeline else { return };
        timeline.advance(to, learner, |before, coming| {
            report.changes.total += 1;
            match recompute(learner, before, coming, decided, judged) {
                Err(why) => report.changes.excuse(why),
                Ok(change) if change == coming.change => report.changes.reproduced += 1,
                Ok(change) => {
                    report.changes.differing += 1;
                    let [logged, computed] = [&coming.change, &change].map(json);
                    report.show(format!("change {}: logged {logged}, computed {computed}", coming.version));
                }
            }
        });
    }
}

/// What the feedback, or the outcomes, behind a change teach.
fn recompute(
    learner: &Learner,
    before: &Statistics,
    coming: &Coming,
    decided: &Remembered<Decided>,
    judged: &Remembered<Vec<Option<f64>>>,
) -> Result<Change, &'static str> {
    if let Some(outcomes) = &coming.outcomes {
        return Ok(availability::learn(before, outcomes));
    }
    let query_id = coming.query_id.ok_or("not by feedback on a query of this frontend")?;
    let decided = decided.by_query.get(&query_id).ok_or("the log does not have the decision")?;
    let losses = judged.by_query.get(&query_id).ok_or("the log does not have the feedback")?;
    // Models may have come and gone since.
    let index_then = |model: &ModelName| decided.candidates.iter().position(|known| known == model);
    let context = decided.context.as_deref();
    let losses: Vec<Option<f64>> =
        learner.candidates().iter().map(|model| losses.get(index_then(model)?).copied().flatten()).collect();
    let lesson = match decided.asked {
        None => Lesson::Full { losses: &losses, context },
        Some(asked) => {
            let model = learner.candidates().iter().position(|model| index_then(model) == Some(asked));
            let known = model.and_then(|model| Some((model, losses[model]?)));
            let (model, loss) = known.ok_or("the feedback teaches nothing")?;
            Lesson::Partial { model, loss, propensity: decided.propensity, context }
        }
    };
    Ok(learner.learn(before, &lesson))
}

impl Place {
    fn timeline(&mut self, uid: Option<&Uid>) -> Option<&mut Timeline> {
        match uid {
            None => Some(&mut self.shared),
            Some(uid) => self.users.get_mut(uid),
        }
    }

    /// How a decision differs from what is chosen now, if it does; or why that cannot be told.
    fn check(&mut self, decision: &Decision) -> Result<Option<String>, String> {
        let Self { selection, learner, shared, users } = self;
        let shared = shared.take(decision.shared_version, learner);
        let own =
            decision.uid.as_ref().zip(decision.own_version).map(|(uid, version)| {
                users.get_mut(uid).and_then(|timeline| timeline.take(version, learner))
            });
        if decision.candidates != learner.candidates() {
            return Err("the models had changed in the meantime".to_owned());
        }
        let shared = shared.ok_or("the log does not have the shared state")?;
        let own = match own {
            Some(own) => Some(own.ok_or("the log does not have the user's state")?),
            None => None,
        };
        let own = own.as_deref();
        let context = decision.context.as_deref();
        let choice =
            learner.choose(&shared, own, &decision.away, context, selection.seed, decision.query_id)?;
        let asked = match choice.asked {
            Asked::One(model) => Some(model),
            Asked::All => None,
        };
        let name = |asked: Option<usize>| match asked {
            Some(model) => learner.candidates().get(model).map_or("no candidate", ModelName::as_str),
            None => "every model",
        };
        if asked != decision.asked {
            return Ok(Some(format!("logged {}, computed {}", name(decision.asked), name(asked))));
        }
        if same_bits(&decision.propensities, &choice.weights) {
            return Ok(None);
        }
        let computed = learner.propensities(&shared, own, &decision.away, &choice);
        Ok((!same_bits(&decision.propensities, &computed)).then(|| {
            format!("logged the propensities {}, computed {}", json(&decision.propensities), json(&computed))
        }))
    }
}

fn same_bits(one: &[f64], other: &[f64]) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(one, other)| one.to_bits() == other.to_bits())
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

impl Decided {
    fn new(decision: &Decision) -> Self {
        let propensity = decision.asked.and_then(|asked| decision.propensities.get(asked));
        Self {
            asked: decision.asked,
            propensity: propensity.copied().unwrap_or(1.0),
            candidates: decision.candidates.clone(),
            context: decision.context.clone(),
        }
    }
}

impl<T> Remembered<T> {
    /// The first of a query is what counts.
    fn put(&mut self, query_id: u64, value: T) {
        if let std::collections::hash_map::Entry::Vacant(place) = self.by_query.entry(query_id) {
            place.insert(value);
            self.order.push_back(query_id);
        }
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.by_query.remove(&oldest);
        }
    }
}

impl<T> Default for Remembered<T> {
    fn default() -> Self {
        Self { by_query: HashMap::new(), order: VecDeque::new() }
    }
}

impl ReplayReport {
    /// How many decisions and changes were computed with another result than the logged one.
    pub fn differing(&self) -> u64 {
        self.decisions.differing + self.changes.differing
    }

    fn show(&mut self, difference: String) {
        if self.differences.len() < SHOWN {
            self.differences.push(difference);
        }
    }
}

impl Tally {
    fn excuse(&mut self, why: &str) {
        *self.not_checkable.entry(why.to_owned()).or_default() += 1;
    }
}
