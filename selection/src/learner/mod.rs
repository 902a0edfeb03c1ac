//! A policy over its candidates: from statistics to beliefs, from beliefs to a choice, from a lesson to a change.
//!
//! Called by frontends for every query and every feedback, and by the offline tools for what was logged. All functions
//! are pure; statistics are by model name, and only here do names become indices. Invariant: the first figures of every
//! model, whatever the policy, are how often its loss became known and the sum of its rewards, and nothing is ever
//! taken from them. The rest is the policy's own, and zero is always what a model begins with, so that one that is
//! linked later joins in without a word, and one that is unlinked takes nothing with it.
//!
//! # Layout
//! - [`availability`]: whether models answer in time, which counts for every policy that asks one.
//! - [`exponential`]: `exp3`, `exp3_ix` and `exp4`: weights, as logarithms.
//! - [`counts`]: `epsilon_greedy`, `ucb1` and `thompson`: plays and rewards.
//! - [`linear`]: `linucb`: a ridge regression for each model.
//! - [`posterior`]: how likely each of several Beta variables is the largest.
//! - [`mod@draw`]: what is drawn for a query.

pub mod availability;
mod counts;
mod draw;
mod exponential;
mod linear;
mod posterior;

use clipper_rpc::names::ModelName;
use clipper_rpc::selection::{Affine, Change, Policy, Statistics, TOTALS};
use smallvec::{SmallVec, smallvec};

use self::availability::{Availability, Prospects};
use self::counts::Counts;
use self::draw::Draw;
use self::exponential::Weights;
use self::linear::Arm;
use self::posterior::Scaled;

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
    /// Of the shared state only.
    availability: Availability,
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
        let availability = Availability::new(&self.candidates, statistics);
        Beliefs { counts: Counts::new(&self.policy, &figures), availability, policy }
    }

    /// The same beliefs, but for whether models answer in time.
    pub fn with_availability(&self, beliefs: &Beliefs, statistics: &Statistics) -> Beliefs {
        Beliefs { availability: Availability::new(&self.candidates, statistics), ..beliefs.clone() }
    }

    /// Chooses for one query. A user's `own` beliefs are shrunk towards the `shared` ones, the less, the more feedback the
    /// user gave; but `linucb` knows users by the query's context alone. Whether models answer in time is what the `shared`
    /// beliefs say. A policy that asks one model asks none of those whose indices are in `away`, unless all are. All chance
    /// comes from `seed` and `query_id`. Takes microseconds.
    ///
    /// # Errors
    /// If the policy needs a context of another length; says in one sentence what was expected.
    pub fn choose(
        &self,
        shared: &Beliefs,
        own: Option<&Beliefs>,
        away: &[usize],
        context: Option<&[f64]>,
        seed: u64,
        query_id: u64,
    ) -> Result<Choice, String> {
        let models = self.candidates.len();
        let prospects = || shared.availability.prospects(away);
        let draw = || Draw::new(seed, query_id);
        let drawn = |prospects: &Prospects, parts: PerModel| {
            prospects.choose(draw().index(&parts), &parts, seed, query_id)
        };
        let certain =
            |prospects: &Prospects, model| prospects.choose(model, &certain(model, models), seed, query_id);
        Ok(match &self.policy {
            Policy::DefaultOutput => Choice::certain(0, models),
            Policy::MajorityVote {} | Policy::Mean {} => {
                Choice { asked: Asked::All, weights: smallvec![1.0 / models as f64; models] }
            }
            Policy::Exp4 { .. } => Choice { asked: Asked::All, weights: self.weights(shared, own) },
            Policy::Exp3 { .. } | Policy::Exp3Ix {} => {
                let prospects = prospects();
                drawn(&prospects, prospects.weigh(self.weights(shared, own), 1.0))
            }
            Policy::EpsilonGreedy { epsilon, decay, .. } => {
                let prospects = prospects();
                drawn(&prospects, self.counts(shared, own).epsilon_greedy(*epsilon, *decay, &prospects))
            }
            Policy::Ucb1 { exploration } => {
                let prospects = prospects();
                certain(&prospects, prospects.best(self.counts(shared, own).bounds(*exploration)))
            }
            Policy::Thompson { .. } => {
                let prospects = prospects();
                let posteriors = self.counts(shared, own).posteriors();
                let choice = certain(&prospects, prospects.largest(draw().rewards(&posteriors)));
                choice.made_certain()
            }
            Policy::LinUcb { dimensions, alpha, .. } => {
                let context = linear::check(context, *dimensions)?;
                let arms = match &shared.policy {
                    PolicyBeliefs::Arms(arms) => arms.as_slice(),
                    PolicyBeliefs::Counts | PolicyBeliefs::Weights(_) => &[],
                };
                let prospects = prospects();
                certain(&prospects, prospects.best(linear::bounds(arms, context, *alpha)))
            }
        })
    }

    /// Whether feedback with this context teaches the policy anything.
    ///
    /// # Errors
    /// If the policy needs a context of another length, as [`Learner::choose`] says it.
    pub fn check(&self, context: Option<&[f64]>) -> Result<(), String> {
        match self.policy {
            Policy::LinUcb { dimensions, .. } => linear::check(context, dimensions).map(drop),
            _ => Ok(()),
        }
    }

    /// The mean reward of each candidate as believed, in [0, 1], 1/2 where nothing is known: the confidence in the answer of
    /// a policy that asks one model.
    pub fn mean_reward(&self, shared: &Beliefs, own: Option<&Beliefs>, model: usize) -> f64 {
        self.counts(shared, own).mean_reward(model)
    }

    /// The probability of each candidate to be chosen, exactly or to 1e-3, where [`Choice::weights`] does not have it
    /// (`thompson`, whose weights only say what was chosen); may take a millisecond. `away` is what [`Learner::choose`] was
    /// told.
    pub fn propensities(
        &self,
        shared: &Beliefs,
        own: Option<&Beliefs>,
        away: &[usize],
        choice: &Choice,
    ) -> Vec<f64> {
        if !matches!(self.policy, Policy::Thompson { .. }) {
            return choice.weights.to_vec();
        }
        let prospects = shared.availability.prospects(away);
        let posteriors = self.counts(shared, own).posteriors();
        let scaled = prospects.candidates().map(|(model, factor)| {
            let (alpha, beta) = posteriors[model];
            Scaled { alpha, beta, factor }
        });
        let best = posterior::best_of(&scaled.collect::<Vec<_>>());
        let mut parts = vec![0.0; posteriors.len()];
        prospects.candidates().zip(best).for_each(|((model, _), part)| parts[model] = part);
        prospects.with_kept(&parts).to_vec()
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

impl Beliefs {
    /// The part of its queries that a model answers in time, in (0, 1]. At 1 it has missed nothing lately, and another answer
    /// in time teaches nothing.
    pub fn availability(&self, model: usize) -> f64 {
        self.availability.of(model)
    }
}

impl Choice {
    /// The one model, of that many.
    fn certain(model: usize, models: usize) -> Self {
        Self { asked: Asked::One(model), weights: certain(model, models) }
    }

    /// The same model, with weights that say nothing but which it is.
    fn made_certain(self) -> Self {
        match self.asked {
            Asked::One(model) => Self::certain(model, self.weights.len()),
            Asked::All => self,
        }
    }
}

/// All of the weight for one model of that many.
fn certain(model: usize, models: usize) -> PerModel {
    let mut weights: PerModel = smallvec![0.0; models];
    weights[model] = 1.0;
    weights
}

/// A change of nothing for each of that many models.
fn unchanged(models: usize) -> Vec<Affine> {
    vec![Affine { scale: 1.0, add: Vec::new(), missed: None }; models]
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

#[cfg(test)]
mod tests {
    use super::*;

    fn models(names: &str) -> Vec<ModelName> {
        names.chars().map(|name| name.to_string().parse().unwrap()).collect()
    }

    fn policy(text: &str) -> Policy {
        let text = if text.starts_with('{') { text.to_owned() } else { format!(r#"{{"policy": "{text}"}}"#) };
        serde_json::from_str(&text).unwrap()
    }

    /// What seed 42 draws for the first queries.
    const DRAWN: [usize; 12] = [1, 2, 1, 2, 0, 1, 0, 1, 1, 2, 2, 0];
    const LINUCB: &str = r#"{"policy": "linucb", "dimensions": 2}"#;
    const ALL: [&str; 10] = [
        "default_output",
        "exp3",
        "exp3_ix",
        "epsilon_greedy",
        "ucb1",
        "thompson",
        LINUCB,
        "exp4",
        "majority_vote",
        "mean",
    ];

    /// A learner and its one state.
    struct Pupil {
        learner: Learner,
        statistics: Statistics,
    }

    impl Pupil {
        fn new(text: &str, names: &str) -> Self {
            Self { learner: Learner::new(&policy(text), &models(names)), statistics: Statistics::default() }
        }

        fn choose(&self, query_id: u64) -> Choice {
            let beliefs = self.learner.beliefs(&self.statistics);
            self.learner.choose(&beliefs, None, &[], Some(&[1.0, 0.5]), 11, query_id).unwrap()
        }

        fn learn(&mut self, lesson: &Lesson<'_>) {
            let change = self.learner.learn(&self.statistics, lesson);
            self.statistics.apply(&change);
        }

        /// Asks and learns, where only one model is ever right.
        fn go_on(&mut self, queries: std::ops::Range<u64>, right: usize) -> Vec<Choice> {
            queries
                .map(|query_id| {
                    let choice = self.choose(query_id);
                    let loss = |model: usize| if model == right { 0.1 } else { 0.9 - 0.1 * model as f64 };
                    let context = Some(&[1.0, 0.5][..]);
                    match choice.asked {
                        Asked::One(model) => self.learn(&Lesson::Partial {
                            model,
                            loss: loss(model),
                            propensity: choice.weights[model],
                            context,
                        }),
                        Asked::All => {
                            let losses: Vec<Option<f64>> =
                                (0..choice.weights.len()).map(|model| Some(loss(model))).collect();
                            self.learn(&Lesson::Full { losses: &losses, context });
                        }
                    }
                    choice
                })
                .collect()
        }

        fn relink(&mut self, names: &str) {
            self.learner = Learner::new(&self.learner.policy, &models(names));
        }
    }

    #[test]
    fn the_same_seed_and_sequence_give_the_same_choices() {
        for text in ALL {
            let go = || Pupil::new(text, "abc").go_on(0..300, 1);
            let (one, other) = (go(), go());
            let bits = |choices: &[Choice]| -> Vec<u64> {
                choices
                    .iter()
                    .flat_map(|choice| choice.weights.iter().map(|weight| weight.to_bits()))
                    .collect()
            };
            assert_eq!(bits(&one), bits(&other), "{text}");
            assert!(one.iter().zip(&other).all(|(one, other)| one.asked == other.asked));
            assert!(one.iter().all(|choice| (choice.weights.iter().sum::<f64>() - 1.0).abs() < 1e-12));
        }
    }

    #[test]
    fn a_draw_depends_on_the_seed_and_the_query_and_on_nothing_else() {
        // These are what every platform must draw.
        let drawn: Vec<usize> =
            (0..12).map(|query_id| Draw::new(42, query_id).index(&[0.2, 0.3, 0.5])).collect();
        assert_eq!(drawn, DRAWN);
        let shares = [0.1, 0.0, 0.9];
        let mut often = [0; 3];
        (0..10_000).for_each(|query_id| often[Draw::new(1, query_id).index(&shares)] += 1);
        assert_eq!(often[1], 0);
        assert!((900..1100).contains(&often[0]), "{often:?}");
    }

    #[test]
    fn every_policy_that_learns_finds_the_model_that_is_right() {
        for text in &ALL[1..8] {
            let mut pupil = Pupil::new(text, "abc");
            let choices = pupil.go_on(0..1000, 1);
            let last = &choices[900..];
            let on_it = match last[0].asked {
                Asked::One(_) => last.iter().filter(|choice| choice.asked == Asked::One(1)).count(),
                Asked::All => last.iter().filter(|choice| choice.weights[1] > 0.9).count(),
            };
            assert!(on_it > 60, "{text}: {on_it}");
            let beliefs = pupil.learner.beliefs(&pupil.statistics);
            assert!((pupil.learner.mean_reward(&beliefs, None, 1) - 0.9).abs() < 1e-6, "{text}");
        }
    }

    /// They err now and then, it never does: but it does not because it says nothing.
    #[test]
    fn a_model_of_an_ensemble_that_ceases_to_answer_wins_nothing_by_that() {
        let mut pupil = Pupil::new("exp4", "abc");
        let mut learn = |queries: std::ops::Range<u64>, last_answers: bool| {
            for query in queries {
                let errs = |every: u64| f64::from(u8::from(query % every == 0));
                let losses = [Some(errs(10)), Some(errs(5)), last_answers.then(|| errs(2))];
                pupil.learn(&Lesson::Full { losses: &losses, context: None });
            }
            pupil.choose(0).weights
        };
        let before = learn(0..300, true);
        let after = learn(300..2000, false);
        assert!(before[2] < 0.01 && after[2] < 0.01 && after[0] > 0.9, "{before:?}, {after:?}");
    }

    /// As by its mean loss it would fall in between: that is of the time when it failed.
    #[test]
    fn a_model_of_an_ensemble_that_recovers_is_taken_back_though_it_is_seldom_heard() {
        let mut pupil = Pupil::new("exp4", "ab");
        let mut learn = |queries: std::ops::Range<u64>, last_fails: bool, every: u64| {
            for query in queries {
                let errs = |often: u64| f64::from(u8::from((query / every).is_multiple_of(often)));
                let last = if last_fails { 1.0 } else { errs(10) };
                let losses = [Some(errs(3)), query.is_multiple_of(every).then_some(last)];
                pupil.learn(&Lesson::Full { losses: &losses, context: None });
            }
            pupil.choose(0).weights[1]
        };
        assert!(learn(0..1000, true, 1) < 0.01);
        assert!(learn(1000..1800, false, 4) > 0.9);
    }

    #[test]
    fn a_model_that_is_linked_later_has_its_fair_share_and_leaves_the_others_as_they_were() {
        for text in ["exp3", "exp3_ix", "exp4"] {
            let mut pupil = Pupil::new(text, "abd");
            pupil.go_on(0..200, 1);
            let before = pupil.choose(0).weights;
            pupil.relink("abcd");
            let after = pupil.choose(0).weights;
            assert!((after[2] - 0.25).abs() < 0.02, "{text}: {after:?}");
            // With another number of models, the rate of exp3_ix is another, and so are all its weights.
            let power = (after[0] / after[1]).ln() / (before[0] / before[1]).ln();
            assert!(text == "exp3_ix" || (power - 1.0).abs() < 1e-9, "{text}: {power}");
            let other = (after[3] / after[1]).ln() / (before[2] / before[1]).ln();
            assert!((other - power).abs() < 1e-9, "{text}: {other} and {power}");
            pupil.go_on(200..1400, 2);
            assert!(pupil.choose(0).weights[2] > 0.5, "{text}: the new one was found to be the best");
        }
        for text in ["epsilon_greedy", "ucb1", "thompson", LINUCB] {
            let mut pupil = Pupil::new(text, "abd");
            pupil.go_on(0..200, 1);
            pupil.relink("abcd");
            let beliefs = pupil.learner.beliefs(&pupil.statistics);
            assert_eq!(pupil.learner.mean_reward(&beliefs, None, 2), 0.5, "{text}: nothing is known of it");
            assert!((pupil.learner.mean_reward(&beliefs, None, 1) - 0.9).abs() < 1e-6, "{text}");
        }
        let mut pupil = Pupil::new("ucb1", "abd");
        pupil.go_on(0..200, 1);
        pupil.relink("abcd");
        assert_eq!(pupil.choose(0).asked, Asked::One(2), "what was never played is played first");
    }

    #[test]
    fn a_model_that_is_unlinked_leaves_the_others_as_they_were_and_comes_back_as_it_left() {
        for text in ["exp3", "exp3_ix", "exp4"] {
            let mut pupil = Pupil::new(text, "abc");
            pupil.go_on(0..100, 1);
            let before = pupil.choose(0).weights;
            let left_with = pupil.statistics.of(&models("b")[0]).to_vec();
            pupil.relink("ac");
            let after = pupil.choose(0).weights;
            let power = (after[0] / after[1]).ln() / (before[0] / before[2]).ln();
            assert!(text == "exp3_ix" || (power - 1.0).abs() < 1e-9, "{text}: {power}");
            pupil.go_on(100..300, 0);
            assert!(pupil.choose(0).weights[0] > 0.5);
            assert_eq!(pupil.statistics.of(&models("b")[0]), left_with, "{text}");
            pupil.relink("abc");
            let back = pupil.choose(0).weights;
            assert!(back.iter().all(|weight| *weight > 1e-4), "{text}: {back:?}");
        }
    }

    #[test]
    fn a_loss_of_an_ensemble_that_is_not_known_is_taken_to_be_the_usual_one_and_not_counted() {
        let mut pupil = Pupil::new(r#"{"policy": "exp4", "eta": 0.5, "share": 0}"#, "abc");
        pupil.learn(&Lesson::Full { losses: &[Some(1.0), None, Some(0.0)], context: None });
        let weights = pupil.choose(0).weights;
        assert!(
            (weights[1] / weights[2] - (-0.25_f64).exp()).abs() < 1e-12,
            "half a loss, as it has none yet"
        );
        assert!((weights[0] / weights[2] - (-0.5_f64).exp()).abs() < 1e-12);
        let counts: Vec<f64> =
            models("abc").iter().map(|model| figure(pupil.statistics.of(model), 0)).collect();
        assert_eq!(counts, [1.0, 0.0, 1.0]);
    }

    #[test]
    fn a_loss_is_weighed_by_the_propensity_of_then_and_a_known_one_counts_once() {
        let text = r#"{"policy": "exp3", "eta": 0.1, "floor": 0}"#;
        let ratio = |lesson: &Lesson<'_>| {
            let mut pupil = Pupil::new(text, "ab");
            pupil.learn(lesson);
            let weights = pupil.choose(0).weights;
            (weights[0] / weights[1]).ln()
        };
        let partial = Lesson::Partial { model: 0, loss: 1.0, propensity: 0.25, context: None };
        assert!((ratio(&partial) + 0.4).abs() < 1e-12);
        let full = Lesson::Full { losses: &[Some(1.0), Some(0.5)], context: None };
        assert!((ratio(&full) + 0.05).abs() < 1e-12);
        // Losses are clipped.
        let wild = Lesson::Partial { model: 0, loss: 17.0, propensity: 1.0, context: None };
        assert!((ratio(&wild) + 0.1).abs() < 1e-12);
    }

    #[test]
    fn what_makes_no_sense_changes_nothing() {
        for text in ALL {
            let pupil = Pupil::new(text, "ab");
            for lesson in [
                Lesson::Partial { model: 0, loss: f64::NAN, propensity: 0.5, context: None },
                Lesson::Partial { model: 9, loss: 0.5, propensity: 0.5, context: None },
                Lesson::Full { losses: &[None, None], context: None },
            ] {
                assert!(pupil.learner.learn(&pupil.statistics, &lesson).is_empty(), "{text}");
            }
        }
    }

    #[test]
    fn thompson_knows_its_propensities_on_request() {
        let mut pupil = Pupil::new("thompson", "ab");
        pupil.learn(&Lesson::Partial { model: 0, loss: 0.0, propensity: 1.0, context: None });
        let beliefs = pupil.learner.beliefs(&pupil.statistics);
        let propensities = pupil.learner.propensities(&beliefs, None, &[], &pupil.choose(0));
        assert!((propensities[0] - 2.0 / 3.0).abs() < 1e-6, "{propensities:?}");
        let drawn = (0..3000).filter(|query_id| pupil.choose(*query_id).asked == Asked::One(0)).count();
        assert!((1900..2100).contains(&drawn), "{drawn}");
    }

    #[test]
    fn a_user_who_said_something_is_answered_by_it() {
        let ucb1 = r#"{"policy": "ucb1", "exploration": 0.1}"#;
        for text in ["exp3", "exp3_ix", "epsilon_greedy", ucb1, "thompson", "exp4"] {
            let mut all = Pupil::new(text, "ab");
            all.go_on(0..300, 0);
            let mut user = Pupil::new(text, "ab");
            user.go_on(0..300, 1);
            let (shared, own) =
                (all.learner.beliefs(&all.statistics), user.learner.beliefs(&user.statistics));
            let choose = |own| {
                let choice = |query_id| all.learner.choose(&shared, own, &[], None, 5, query_id).unwrap();
                let second = (0..200).map(choice).filter(|choice| match choice.asked {
                    Asked::One(model) => model == 1,
                    Asked::All => choice.weights[1] > 0.5,
                });
                second.count()
            };
            assert!(choose(None) < 100, "{text}");
            assert!(choose(Some(&own)) > 100, "{text}");
            let nobody = all.learner.beliefs(&Statistics::default());
            assert!(choose(Some(&nobody)) < 100, "{text}: a user who said nothing is as all are");
        }
    }

    #[test]
    fn linucb_needs_its_context() {
        let pupil = Pupil::new(LINUCB, "ab");
        let beliefs = pupil.learner.beliefs(&pupil.statistics);
        let error = pupil.learner.choose(&beliefs, None, &[], Some(&[1.0]), 1, 1).unwrap_err();
        assert_eq!(error, "linucb needs a context of 2 numbers between -1e6 and 1e6, but the query's has 1");
    }
}
