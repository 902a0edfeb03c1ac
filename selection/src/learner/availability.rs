//! Whether models answer in time: learned of every query for which one model was asked, and heeded by every policy that
//! asks one.
//!
//! A model that does not answer earns no feedback, so that feedback alone never finds out one that is dead. What is
//! learned is the part of its queries that a model missed lately. It begins at zero, returns to zero after a time without
//! misses, and is not touched by answers while it is zero. So a model that answers costs nothing.
//!
//! Invariant: of the models that may be asked, one that missed something lately keeps a probability of its own, whatever
//! is learned of it: otherwise nobody would notice that it is back.

use std::collections::BTreeMap;

use clipper_rpc::names::ModelName;
use clipper_rpc::selection::{Affine, Change, Decay, Statistics};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use super::draw::point;
use super::{Asked, Choice, PerModel, largest};

/// The least weight of one outcome in the part of missed queries: so few late answers among many do not look like many.
const SLOWEST: f64 = 1.0 / 64.0;
/// The largest weight of one outcome. In between it is the square of the part that was missed: a model that misses most of
/// its queries is asked seldom, so that the few outcomes that there are must count.
const FASTEST: f64 = 0.75;
/// A part of missed queries below this one is zero.
const NOTHING: f64 = 0.01;
/// No model is less available than this, so that the product with a model's quality still tells models apart.
const LEAST_AVAILABLE: f64 = 1e-6;
/// The probability that a model that missed something lately keeps.
pub const FLOOR: f64 = 0.01;
/// The most that all those models keep together.
const MOST_KEPT: f64 = 0.05;
/// A policy's own probability of a model is taken to be at least this, so that no sum of them is zero.
const LEAST_PART: f64 = 1e-200;
/// An index of a model, before its availability counts: rewards are in [0, 1], whatever a bound or a regression says.
const INDICES: (f64, f64) = (0.01, 2.0);
/// Outcomes beyond this number, learned at once, count as so many with the same part of misses.
const MOST_AT_ONCE: u64 = 1000;

/// What became of queries for which a model was asked, in no order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcomes {
    /// The queries that it answered in time.
    pub answered: u32,
    /// The queries that it did not answer in time.
    pub missed: u32,
}

/// What outcomes change of the shared state `before` them; nothing of a model that missed nothing, now and lately.
pub fn learn(before: &Statistics, outcomes: &BTreeMap<ModelName, Outcomes>) -> Change {
    let change = outcomes.iter().filter_map(|(model, outcomes)| {
        let decay = outcomes.decay(before.missed(model))?;
        Some((model.clone(), Affine::of_missed(decay)))
    });
    Change(change.collect())
}

impl Outcomes {
    /// The change of the part of missed queries. Misses are taken to be spread evenly.
    fn decay(self, before: f64) -> Option<Decay> {
        let (missed, all) = (u64::from(self.missed), u64::from(self.missed) + u64::from(self.answered));
        if all == 0 || (missed == 0 && before == 0.0) {
            return None;
        }
        let steps = all.min(MOST_AT_ONCE);
        let missed = (missed * steps).div_ceil(all);
        let mut change = Decay { scale: 1.0, add: 0.0 };
        for step in 0..steps {
            let is_missed = (step + 1) * missed / steps > step * missed / steps;
            change = change.then(outcome(change.of(before), is_missed));
        }
        let is_nothing = change.of(before) < NOTHING;
        Some(if is_nothing { Decay { scale: 0.0, add: 0.0 } } else { change })
    }
}

/// The change by one outcome.
fn outcome(before: f64, is_missed: bool) -> Decay {
    let weight = (before * before).clamp(SLOWEST, FASTEST);
    Decay { scale: 1.0 - weight, add: if is_missed { weight } else { 0.0 } }
}

/// The part of its queries that each candidate answers in time, in (0, 1].
#[derive(Debug, Clone)]
pub(super) struct Availability(PerModel);

impl Availability {
    pub(super) fn new(candidates: &[ModelName], statistics: &Statistics) -> Self {
        let available = |model| (1.0 - statistics.missed(model)).max(LEAST_AVAILABLE);
        Self(candidates.iter().map(available).collect())
    }

    pub(super) fn of(&self, model: usize) -> f64 {
        self.0.get(model).copied().unwrap_or(1.0)
    }

    /// What a query may expect of each model. Models that are `away` are no candidates, unless all are.
    pub(super) fn prospects(&self, away: &[usize]) -> Prospects {
        let is_here = |model: &usize| !away.contains(model);
        let all_away = !(0..self.0.len()).any(|model| is_here(&model));
        let of = |(model, available): (usize, &f64)| (all_away || is_here(&model)).then_some(*available);
        let available: SmallVec<[Option<f64>; 8]> = self.0.iter().enumerate().map(of).collect();
        let here = available.iter().flatten().count();
        let doubtful = available.iter().flatten().filter(|available| **available < 1.0).count();
        let is_plain = here == available.len() && doubtful == 0;
        // Where there is no choice, there is nothing to keep.
        let doubtful = if here > 1 { doubtful } else { 0 };
        let kept = if doubtful > 0 { FLOOR.min(MOST_KEPT / doubtful as f64) } else { 0.0 };
        Prospects { available, is_plain, doubtful, kept }
    }
}

/// The models that one query may ask, and how likely each is to answer in time.
pub(super) struct Prospects {
    /// None: it is no candidate.
    available: SmallVec<[Option<f64>; 8]>,
    /// Whether all are candidates, and none has missed anything lately.
    is_plain: bool,
    /// How many models keep a probability,
    doubtful: usize,
    /// and how much each.
    kept: f64,
}

impl Prospects {
    /// The model of which most is to be expected, of equals the first, by bounds or means of rewards.
    pub(super) fn best(&self, indices: impl Iterator<Item = f64>) -> usize {
        if self.is_plain {
            return largest(indices);
        }
        let (least, most) = INDICES;
        self.largest(indices.zip(&self.available).map(|(index, available)| match available {
            Some(1.0) => index.max(least),
            _ => index.clamp(least, most),
        }))
    }

    /// The same, by rewards that may be as they are.
    pub(super) fn largest(&self, rewards: impl Iterator<Item = f64>) -> usize {
        let products = rewards.zip(&self.available);
        largest(products.map(|(reward, available)| match available {
            Some(available) => reward * available,
            None => f64::NEG_INFINITY,
        }))
    }

    /// Parts of `whole`, each times the model's availability; nothing of a model that is no candidate.
    pub(super) fn weigh(&self, parts: PerModel, whole: f64) -> PerModel {
        if self.is_plain {
            return parts;
        }
        let available = |model: usize| self.available[model].unwrap_or(0.0);
        let mut weighed: PerModel =
            parts.iter().enumerate().map(|(model, part)| part.max(LEAST_PART) * available(model)).collect();
        let sum: f64 = weighed.iter().sum();
        weighed.iter_mut().for_each(|part| *part *= whole / sum);
        weighed
    }

    /// Chooses the model that the policy picked, unless it is the turn of one that is to keep its probability. `parts` are
    /// the probabilities with which the policy picks.
    pub(super) fn choose(&self, picked: usize, parts: &[f64], seed: u64, query_id: u64) -> Choice {
        let asked = self.kept_turn(seed, query_id).unwrap_or(picked);
        Choice { asked: Asked::One(asked), weights: self.with_kept(parts) }
    }

    /// The probability of each model, where the policy picks with the probabilities `parts`.
    pub(super) fn with_kept(&self, parts: &[f64]) -> PerModel {
        if self.doubtful == 0 {
            return parts.into();
        }
        let rest = 1.0 - self.kept * self.doubtful as f64;
        let of = |(part, available): (&f64, &Option<f64>)| {
            rest * part + if is_doubtful(*available) { self.kept } else { 0.0 }
        };
        parts.iter().zip(&self.available).map(of).collect()
    }

    /// The model whose turn it is by its kept probability.
    fn kept_turn(&self, seed: u64, query_id: u64) -> Option<usize> {
        if self.doubtful == 0 {
            return None;
        }
        let turn = (point(seed, query_id) / self.kept) as usize;
        let mut doubtful =
            self.available.iter().enumerate().filter(|(_, available)| is_doubtful(**available));
        doubtful.nth(turn).map(|(model, _)| model)
    }

    /// The candidates and their availability, by index.
    pub(super) fn candidates(&self) -> impl Iterator<Item = (usize, f64)> {
        self.available.iter().enumerate().filter_map(|(model, available)| Some((model, (*available)?)))
    }
}

fn is_doubtful(available: Option<f64>) -> bool {
    available.is_some_and(|available| available < 1.0)
}

#[cfg(test)]
mod tests {
    use clipper_rpc::selection::Policy;
    use proptest::prelude::*;

    use super::super::Learner;
    use super::*;

    fn models(count: usize) -> Vec<ModelName> {
        (0..count).map(|model| format!("m{model}").parse().unwrap()).collect()
    }

    fn policies() -> Vec<Policy> {
        let named = ["exp3", "exp3_ix", "epsilon_greedy", "ucb1", "thompson"];
        let named = named.map(|policy| serde_json::json!({ "policy": policy }));
        let linucb = serde_json::json!({"policy": "linucb", "dimensions": 1});
        named.into_iter().chain([linucb]).map(|policy| serde_json::from_value(policy).unwrap()).collect()
    }

    fn learned(missed: &[f64]) -> (Vec<ModelName>, Statistics) {
        let models = models(missed.len());
        let mut statistics = Statistics::default();
        for (model, missed) in models.iter().zip(missed) {
            statistics.0.entry(model.clone()).or_default().missed = *missed;
        }
        (models, statistics)
    }

    fn outcomes(answered: u32, missed: u32) -> Outcomes {
        Outcomes { answered, missed }
    }

    /// The part of missed queries after outcomes, from such a part before.
    fn after(before: f64, outcomes: Outcomes) -> f64 {
        outcomes.decay(before).map_or(before, |decay| decay.of(before))
    }

    #[test]
    fn outcomes_are_learned_by_the_rule() {
        assert_eq!(outcomes(1000, 0).decay(0.0), None, "an answer of a model that missed nothing is no news");
        assert_eq!(after(0.0, outcomes(0, 1)), 1.0 / 64.0);
        assert_eq!(after(0.5, outcomes(1, 0)), 0.5 - 0.5 * 0.25);
        assert_eq!(after(0.5, outcomes(0, 1)), 0.5 + 0.5 * 0.25);
        assert_eq!(after(1.0, outcomes(1, 0)), 0.25);
        assert_eq!(after(0.01, outcomes(1, 0)), 0.0, "so little is nothing");
        assert!((0..25).fold(0.0, |missed, _| after(missed, outcomes(0, 1))) > 0.99);
        assert!((1..=3).fold(1.0, |missed, _| after(missed, outcomes(1, 0))) < 0.25);
        let late = (0..10_000).fold(0.0, |missed, _| after(missed, outcomes(9, 1)));
        assert!((0.08..0.12).contains(&late), "{late}");
    }

    proptest! {
        #[test]
        fn the_part_of_missed_queries_stays_one_however_many_outcomes_are_learned_at_once(
            before in 0.0..=1.0_f64, answered in any::<u32>(), missed in any::<u32>(),
        ) {
            let after = after(before, outcomes(answered, missed));
            prop_assert!((0.0..=1.0 + 1e-9).contains(&after), "{after}");
        }

        #[test]
        fn probabilities_add_up_to_1_and_who_missed_something_keeps_its_own(
            policy in prop::sample::select(policies()),
            missed in prop::collection::vec(prop_oneof![Just(0.0), Just(1.0), 0.0..1.0], 2..9),
            away in prop::collection::btree_set(0..9_usize, 0..4),
            seed in any::<u64>(),
            query_id in 0..1_u64 << 53,
        ) {
            let (models, statistics) = learned(&missed);
            let away: Vec<usize> = away.into_iter().filter(|model| *model < missed.len()).collect();
            let learner = Learner::new(&policy, &models);
            let beliefs = learner.beliefs(&statistics);
            let choice = learner.choose(&beliefs, None, &away, Some(&[1.0]), seed, query_id).unwrap();
            let propensities = learner.propensities(&beliefs, None, &away, &choice);
            prop_assert!((propensities.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{propensities:?}");
            let Asked::One(asked) = choice.asked else { panic!("it asks one") };
            prop_assert!(propensities[asked] > 0.0);
            let here = missed.len() - away.len();
            let doubtful = |model: &usize| missed[*model] > 0.0 && (here == 0 || !away.contains(model));
            let kept = FLOOR.min(MOST_KEPT / (0..missed.len()).filter(doubtful).count().max(1) as f64);
            for (model, propensity) in propensities.iter().enumerate() {
                prop_assert!(propensity.is_finite() && *propensity >= 0.0);
                if here != 0 && away.contains(&model) {
                    prop_assert_eq!(*propensity, 0.0);
                } else if doubtful(&model) {
                    prop_assert!(*propensity >= kept * (1.0 - 1e-9), "{propensities:?}");
                }
            }
        }
    }

    #[test]
    fn who_keeps_a_probability_is_asked_as_often_and_has_its_turn_in_time() {
        for policy in policies() {
            let (models, statistics) = learned(&[0.0, 1.0, 0.9]);
            let learner = Learner::new(&policy, &models);
            let beliefs = learner.beliefs(&statistics);
            for seed in 0..20 {
                let asked = (0..10_000).map(|query_id| {
                    learner
                        .choose(&beliefs, None, &[], Some(&[1.0]), seed, (1 << 52) + query_id)
                        .unwrap()
                        .asked
                });
                let asked: Vec<_> = asked.collect();
                let often = asked.iter().filter(|asked| **asked == Asked::One(1)).count();
                assert!((99..=101).contains(&often), "{policy:?}: {often}");
                assert!(asked.windows(144).all(|queries| queries.contains(&Asked::One(1))), "{policy:?}");
            }
        }
    }

    #[test]
    fn thompson_knows_its_propensities_where_models_are_late() {
        let (models, statistics) = learned(&[0.0, 0.5]);
        let learner = Learner::new(&serde_json::from_str(r#"{"policy": "thompson"}"#).unwrap(), &models);
        let beliefs = learner.beliefs(&statistics);
        let choose = |query_id| learner.choose(&beliefs, None, &[], None, 3, query_id).unwrap();
        let propensities = learner.propensities(&beliefs, None, &[], &choose(0));
        // Of two uniform rewards, one halved: P(x / 2 > y) = 1/4, and 1 in 100 is kept.
        assert!((propensities[1] - (0.99 * 0.25 + 0.01)).abs() < 1e-3, "{propensities:?}");
        let asked = (0..20_000).filter(|query_id| choose(*query_id).asked == Asked::One(1)).count();
        assert!((asked as f64 / 20_000.0 - propensities[1]).abs() < 0.01, "{asked}");
    }
}
