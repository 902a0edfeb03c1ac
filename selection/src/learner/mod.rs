//! A policy over its candidates: from statistics to beliefs, from beliefs to a choice, from a lesson to a change.
//!
//! Called by frontends for every query and every feedback, and by the offline tools for what was logged. All functions
//! are pure; statistics are by model name, and only here do names become indices. Invariant: the first figures of every
//! model, whatever the policy, are how often its loss became known and the sum of its rewards, and nothing is ever
//! taken from them. The rest is the policy's own, and zero is always what a model begins with, so that one that is
//! linked later joins in without a word, and one that is unlinked takes nothing with it.
//!
//! # Layout
//! - [`exponential`]: `exp3`, `exp3_ix` and `exp4`: weights, as logarithms.
//! - [`counts`]: `epsilon_greedy`, `ucb1` and `thompson`: plays and rewards.
//! - [`linear`]: `linucb`: a ridge regression for each model.
//! - [`posterior`]: how likely each of several Beta variables is the largest.
//! - [`draw`]: chance.

mod counts;
mod draw;
mod exponential;
mod linear;
mod posterior;

use clipper_rpc::names::ModelName;
use clipper_rpc::selection::{Affine, Change, Policy, Statistics, TOTALS};
use smallvec::{SmallVec, smallvec};

use self::counts::Counts;
use self::draw::Draw;
use self::exponential::Weights;
use self::linear::Arm;

/// A number for each candidate.
pub(crate) type PerModel = SmallVec<[f64; 8]>;

/// A policy over an ordered list of candidates, which is what is fixed until the application's configuration changes.
#[derive(Debug, Clone)]
pub struct Learner {
    policy: Policy,
    candidates: Vec<ModelName>,
}

/// What one state (the shared one, or a user's) says of the candidates, ready to choose by. Immutable; cheap to read from
/// many threads.
#[derive(Debug, Clone)]
pub struct Beliefs {
    /// What the means of rewards are taken from.
    counts: Counts,
    policy: PolicyBeliefs,
}

/// What only some policies believe.
#[derive(Debug, Clone)]
enum PolicyBeliefs {
    /// Nothing but counts, if anything.
    Counts,
    Weights(Weights),
    Arms(Vec<Arm>),
}

/// What was chosen for one query.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// Which models are asked.
    pub asked: Asked,
    /// The weight of each candidate in the answer, adding up to 1; in the order of the candidates. For a policy that asks
    /// one model, the probability of each (its propensity); but see [`Learner::propensities`].
    pub weights: SmallVec<[f64; 8]>,
}

/// Which models are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// The candidate of this index.
    One(usize),
    /// Every candidate.
    All,
}

/// What feedback says of the candidates, with losses in [0, 1].
#[derive(Debug, Clone, PartialEq)]
pub enum Lesson<'a> {
    /// The loss of the one model that answered, drawn with this propensity.
    Partial {
        /// Its index.
        model: usize,
        /// Its loss.
        loss: f64,
        /// The probability with which it was chosen.
        propensity: f64,
        /// The query's features.
        context: Option<&'a [f64]>,
    },
    /// The loss of each candidate, where it is known.
    Full {
        /// In the order of the candidates.
        losses: &'a [Option<f64>],
        /// The query's features.
        context: Option<&'a [f64]>,
    },
}

/// A loss that a lesson tells, and the propensity of the model that it is of.
#[derive(Debug, Clone, Copy)]
struct Told {
    /// In [0, 1].
    loss: f64,
    /// In (0, 1].
    propensity: f64,
}

/// The least propensity that a loss is divided by: so unlikely a draw tells nothing more, and no quotient overflows.
const LEAST_PROPENSITY: f64 = 1e-9;

impl Learner {
    /// A policy over candidates, of which there is at least one, each once.
    pub fn new(policy: &Policy, candidates: &[ModelName]) -> Self {
        Self { policy: policy.clone(), candidates: candidates.to_vec() }
    }

    /// The candidates, in order.
    pub fn candidates(&self) -> &[ModelName] {
        &self.candidates
    }

    /// Prepares a state for choosing.
    pub fn beliefs(&self, statistics: &Statistics) -> Beliefs {
        let figures = self.figures(statistics);
        let policy = match &self.policy {
            Policy::Exp3 { .. } | Policy::Exp3Ix {} | Policy::Exp4 { .. } => {
                PolicyBeliefs::Weights(Weights::new(&self.policy, &figures))
            }
            Policy::LinUcb { dimensions, ridge, .. } => {
                PolicyBeliefs::Arms(figures.iter().map(|of| Arm::new(of, *dimensions, *ridge)).collect())
            }
            Policy::DefaultOutput
            | Policy::EpsilonGreedy { .. }
            | Policy::Ucb1 { .. }
            | Policy::Thompson { .. }
            | Policy::MajorityVote {}
            | Policy::Mean {} => PolicyBeliefs::Counts,
        };
        Beliefs { counts: Counts::new(&self.policy, &figures), policy }
    }

    /// Chooses for one query. A user's `own` beliefs are shrunk towards the `shared` ones, the less, the more feedback the
    /// user gave; but `linucb` knows users by the query's context alone. All chance comes from `seed` and `query_id`.
    /// Takes microseconds.
    ///
    /// # Errors
    /// If the policy needs a context of another length; says in one sentence what was expected.
    pub fn choose(
        &self,
        shared: &Beliefs,
        own: Option<&Beliefs>,
        context: Option<&[f64]>,
        seed: u64,
        query_id: u64,
    ) -> Result<Choice, String> {
        let models = self.candidates.len();
        let draw = || Draw::new(seed, query_id);
        Ok(match &self.policy {
            Policy::DefaultOutput => Choice::certain(0, models),
            Policy::MajorityVote {} | Policy::Mean {} => {
                Choice { asked: Asked::All, weights: smallvec![1.0 / models as f64; models] }
            }
            Policy::Exp4 { .. } => Choice { asked: Asked::All, weights: self.weights(shared, own) },
            Policy::Exp3 { .. } | Policy::Exp3Ix {} => {
                let weights = self.weights(shared, own);
                Choice { asked: Asked::One(draw().index(&weights)), weights }
            }
            Policy::EpsilonGreedy { epsilon, decay, .. } => {
                let weights = self.counts(shared, own).epsilon_greedy(*epsilon, *decay);
                Choice { asked: Asked::One(draw().index(&weights)), weights }
            }
            Policy::Ucb1 { exploration } => {
                Choice::certain(self.counts(shared, own).ucb1(*exploration), models)
            }
            Policy::Thompson { .. } => {
                Choice::certain(draw().best(&self.counts(shared, own).posteriors()), models)
            }
            Policy::LinUcb { dimensions, alpha, .. } => {
                let context = linear::check(context, *dimensions)?;
                let arms = match &shared.policy {
                    PolicyBeliefs::Arms(arms) => arms.as_slice(),
                    PolicyBeliefs::Counts | PolicyBeliefs::Weights(_) => &[],
                };
                Choice::certain(linear::best(arms, context, *alpha), models)
            }
        })
    }

    /// The mean reward of each candidate as believed, in [0, 1], 1/2 where nothing is known: the confidence in the answer of
    /// a policy that asks one model.
    pub fn mean_reward(&self, shared: &Beliefs, own: Option<&Beliefs>, model: usize) -> f64 {
        self.counts(shared, own).mean_reward(model)
    }

    /// The probability of each candidate to be chosen, exactly or to 1e-3, where [`Choice::weights`] does not have it
    /// (`thompson`, whose weights only say what was chosen); may take a millisecond.
    pub fn propensities(&self, shared: &Beliefs, own: Option<&Beliefs>, choice: &Choice) -> Vec<f64> {
        match self.policy {
            Policy::Thompson { .. } => posterior::best_of(&self.counts(shared, own).posteriors()),
            _ => choice.weights.to_vec(),
        }
    }

    /// What a lesson changes of the state `before` it: to be applied to that state, and to be sent to whoever has a copy.
    pub fn learn(&self, before: &Statistics, lesson: &Lesson<'_>) -> Change {
        let (told, context) = self.told(lesson);
        if told.iter().all(Option::is_none) {
            return Change::default();
        }
        let figures = self.figures(before);
        let mut changes: Vec<Affine> = match &self.policy {
            Policy::Exp3 { .. } | Policy::Exp3Ix {} | Policy::Exp4 { .. } => {
                exponential::learn(&self.policy, &figures, &told)
            }
            Policy::EpsilonGreedy { discount, .. } | Policy::Thompson { discount } => {
                counts::learn(*discount, &told)
            }
            Policy::LinUcb { dimensions, .. } => match linear::check(context, *dimensions) {
                Ok(context) => linear::learn(context, &told),
                Err(_) => unchanged(told.len()),
            },
            Policy::DefaultOutput | Policy::Ucb1 { .. } | Policy::MajorityVote {} | Policy::Mean {} => {
                unchanged(told.len())
            }
        };
        for (change, told) in changes.iter_mut().zip(&told) {
            if let Some(told) = told {
                change.add.resize(change.add.len().max(TOTALS), 0.0);
                change.add[0] += 1.0;
                change.add[1] += 1.0 - told.loss;
            }
        }
        let changed = changes.into_iter().zip(&self.candidates);
        Change(
            changed
                .filter(|(change, _)| change.scale != 1.0 || change.add.iter().any(|add| *add != 0.0))
                .map(|(change, model)| (model.clone(), change))
                .collect(),
        )
    }

    /// The figures of each candidate.
    fn figures<'a>(&self, statistics: &'a Statistics) -> Vec<&'a [f64]> {
        self.candidates.iter().map(|model| statistics.of(model)).collect()
    }

    /// What a lesson says of each candidate. A loss that is no number says nothing.
    fn told<'a>(&self, lesson: &Lesson<'a>) -> (Vec<Option<Told>>, Option<&'a [f64]>) {
        let mut told = vec![None; self.candidates.len()];
        let loss_of = |loss: f64| (!loss.is_nan()).then(|| loss.clamp(0.0, 1.0));
        match *lesson {
            Lesson::Partial { model, loss, propensity, context } => {
                // A propensity that is no number has been lost: as if it had been certain.
                let propensity =
                    if propensity.is_nan() { 1.0 } else { propensity.clamp(LEAST_PROPENSITY, 1.0) };
                if let Some(told) = told.get_mut(model) {
                    *told = loss_of(loss).map(|loss| Told { loss, propensity });
                }
                (told, context)
            }
            Lesson::Full { losses, context } => {
                for (told, loss) in told.iter_mut().zip(losses) {
                    *told = loss.and_then(loss_of).map(|loss| Told { loss, propensity: 1.0 });
                }
                (told, context)
            }
        }
    }

    fn weights(&self, shared: &Beliefs, own: Option<&Beliefs>) -> PerModel {
        let weights = |beliefs: &'_ Beliefs| match &beliefs.policy {
            PolicyBeliefs::Weights(weights) => Some(weights.clone()),
            PolicyBeliefs::Counts | PolicyBeliefs::Arms(_) => None,
        };
        let even = || smallvec![1.0 / self.candidates.len() as f64; self.candidates.len()];
        match (&shared.policy, own.map(|own| &own.policy)) {
            (PolicyBeliefs::Weights(shared), Some(PolicyBeliefs::Weights(own))) => {
                own.shrunk_towards(shared, &self.policy)
            }
            _ => weights(shared).map_or_else(even, |weights| weights.shares),
        }
    }

    fn counts(&self, shared: &Beliefs, own: Option<&Beliefs>) -> Counts {
        own.map_or_else(|| shared.counts.clone(), |own| own.counts.shrunk_towards(&shared.counts))
    }
}

impl Choice {
    /// The one model, of that many.
    fn certain(model: usize, models: usize) -> Self {
        let mut weights: PerModel = smallvec![0.0; models];
        weights[model] = 1.0;
        Self { asked: Asked::One(model), weights }
    }
}

/// A change of nothing for each of that many models.
fn unchanged(models: usize) -> Vec<Affine> {
    vec![Affine { scale: 1.0, add: Vec::new() }; models]
}

/// A figure of a model; zero if it has none, or if it has been spoilt.
fn figure(figures: &[f64], index: usize) -> f64 {
    figures.get(index).copied().filter(|figure| figure.is_finite()).unwrap_or(0.0)
}

/// The index of the largest number, of equals the lowest.
fn largest(numbers: impl IntoIterator<Item = f64>) -> usize {
    let mut best = (0, f64::NEG_INFINITY);
    for (index, number) in numbers.into_iter().enumerate() {
        if number > best.1 {
            best = (index, number);
        }
    }
    best.0
}
