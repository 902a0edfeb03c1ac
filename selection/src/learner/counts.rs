//! Plays and rewards: `epsilon_greedy`, `ucb1` and `thompson`, and the means of rewards of every policy.
//!
//! The figures of a policy that forgets are, beyond the totals, the plays and the rewards that it remembers: those of
//! all models are scaled at each feedback, so that a mean of long ago yields to a few new plays, and then added to. Invariant: rewards are never more than plays, and neither is below zero.

use clipper_rpc::selection::{Affine, Policy, TOTALS};
use smallvec::SmallVec;

use super::availability::Prospects;
use super::{PerModel, Told, figure};

/// How many plays of a model what all users say of it is worth, at most, beside what a user says who said much; twice
/// that for one who gave as many feedbacks as this is.
const PRIOR_PLAYS: f64 = 4.0;

/// How often candidates were played and what they earned, as beliefs.
#[derive(Debug, Clone)]
pub(super) struct Counts {
    plays: PerModel,
    rewards: PerModel,
    /// How many losses became known, remembered or not.
    feedbacks: f64,
}

impl Counts {
    pub(super) fn new(policy: &Policy, figures: &[&[f64]]) -> Self {
        let first = match policy {
            Policy::EpsilonGreedy { .. } | Policy::Thompson { .. } => TOTALS,
            _ => 0,
        };
        let plays: PerModel = figures.iter().map(|of| figure(of, first).max(0.0)).collect();
        let rewards =
            figures.iter().zip(&plays).map(|(of, plays)| figure(of, first + 1).clamp(0.0, *plays)).collect();
        Self { plays, rewards, feedbacks: figures.iter().map(|of| figure(of, 0).max(0.0)).sum() }
    }

    /// A user's own counts, with the shared ones as the prior: all of them for a user who said nothing, and soon only
    /// a few plays of each model.
    pub(super) fn shrunk_towards(&self, shared: &Self) -> Self {
        let most = PRIOR_PLAYS * (1.0 + PRIOR_PLAYS / self.feedbacks);
        let worth = |plays: f64| if plays > most { most / plays } else { 1.0 };
        let add = |own: &PerModel, prior: &PerModel| {
            own.iter()
                .zip(prior)
                .zip(&shared.plays)
                .map(|((own, prior), plays)| own + prior * worth(*plays))
                .collect()
        };
        Self {
            plays: add(&self.plays, &shared.plays),
            rewards: add(&self.rewards, &shared.rewards),
            feedbacks: self.feedbacks + shared.feedbacks.min(most * shared.plays.len() as f64),
        }
    }

    /// In [0, 1]; 1/2 where nothing is known.
    pub(super) fn mean_reward(&self, model: usize) -> f64 {
        match (self.plays.get(model), self.rewards.get(model)) {
            (Some(plays), Some(rewards)) if *plays > 0.0 => (rewards / plays).clamp(0.0, 1.0),
            _ => 0.5,
        }
    }

    /// The probability of each model: most of it is the best one's, and all share what is left.
    pub(super) fn epsilon_greedy(&self, epsilon: f64, decay: f64, prospects: &Prospects) -> PerModel {
        let models = self.plays.len();
        let epsilon = epsilon / (1.0 + decay * self.feedbacks);
        let even = PerModel::from_elem(epsilon / models as f64, models);
        let mut probabilities = prospects.weigh(even, epsilon);
        probabilities[prospects.best((0..models).map(|model| self.mean_reward(model)))] += 1.0 - epsilon;
        probabilities
    }

    /// The upper confidence bound of each model's mean reward. That of a model that was never played is above all others.
    pub(super) fn bounds(&self, exploration: f64) -> impl Iterator<Item = f64> {
        let log_plays = self.plays.iter().sum::<f64>().max(1.0).ln();
        self.plays.iter().enumerate().map(move |(model, plays)| {
            if *plays > 0.0 {
                self.mean_reward(model) + exploration * (2.0 * log_plays / plays).sqrt()
            } else {
                2.0 + exploration * (2.0 * log_plays).sqrt()
            }
        })
    }

    /// The Beta posterior of each model's mean reward, from a uniform prior. A reward between 0 and 1 is that part of a
    /// success, and the rest of a failure.
    pub(super) fn posteriors(&self) -> SmallVec<[(f64, f64); 8]> {
        self.plays
            .iter()
            .zip(&self.rewards)
            .map(|(plays, rewards)| (1.0 + rewards, 1.0 + plays - rewards))
            .collect()
    }
}

/// The change of each candidate, by a policy that forgets.
pub(super) fn learn(discount: f64, told: &[Option<Told>]) -> Vec<Affine> {
    let change = |told: &Option<Told>| Affine {
        scale: discount,
        add: told.map_or_else(Vec::new, |told| vec![0.0, 0.0, 1.0, 1.0 - told.loss]),
        missed: None,
    };
    told.iter().map(change).collect()
}

#[cfg(test)]
mod tests {
    use clipper_rpc::selection::Statistics;
    use smallvec::smallvec;

    use super::super::availability::Availability;
    use super::*;

    #[derive(serde::Deserialize)]
    struct Script {
        exploration: f64,
        lessons: Vec<(usize, f64)>,
        expected: Vec<Vec<f64>>,
    }

    #[test]
    fn bounds_of_ucb1_are_those_of_mabwiser() {
        let script: Script = serde_json::from_str(include_str!("../../tests/oracle/ucb1.json")).unwrap();
        let mut figures = vec![vec![0.0; 2]; 5];
        let mut expected = script.expected.iter();
        for (step, (model, reward)) in script.lessons.iter().enumerate() {
            figures[*model][0] += 1.0;
            figures[*model][1] += reward;
            if step + 1 >= 5 {
                let figures: Vec<&[f64]> = figures.iter().map(Vec::as_slice).collect();
                let counts = Counts::new(&Policy::Ucb1 { exploration: 1.0 }, &figures);
                for (bound, expected) in counts.bounds(script.exploration).zip(expected.next().unwrap()) {
                    assert!((bound - expected).abs() < 1e-9, "{bound} instead of {expected} after {step}");
                }
            }
        }
    }

    #[test]
    fn epsilon_decays_with_feedback() {
        let counts = Counts { plays: smallvec![5.0, 5.0], rewards: smallvec![1.0, 2.0], feedbacks: 10.0 };
        let statistics = Statistics::default();
        let models = ["a", "b"].map(|model| model.parse().unwrap());
        let prospects = Availability::new(&models, &statistics).prospects(&[]);
        assert_eq!(counts.epsilon_greedy(0.5, 0.1, &prospects).as_slice(), [0.125, 0.875]);
    }

    #[test]
    fn what_all_say_is_worth_a_few_plays_beside_what_a_user_says() {
        let shared = Counts { plays: smallvec![100.0, 1.0], rewards: smallvec![90.0, 1.0], feedbacks: 101.0 };
        let own = Counts { plays: smallvec![2.0, 0.0], rewards: smallvec![0.0, 0.0], feedbacks: 2.0 };
        let both = own.shrunk_towards(&shared);
        assert_eq!(both.plays.as_slice(), [2.0 + 12.0, 1.0]);
        assert!((both.mean_reward(0) - 0.9 * 12.0 / 14.0).abs() < 1e-12);
        assert_eq!(both.mean_reward(1), 1.0);
        let silent = Counts { plays: smallvec![0.0; 2], rewards: smallvec![0.0; 2], feedbacks: 0.0 };
        assert_eq!(silent.shrunk_towards(&shared).plays, shared.plays);
    }
}
