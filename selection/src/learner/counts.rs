//! Plays and rewards: `epsilon_greedy`, `ucb1` and `thompson`, and the means of rewards of every policy.
//!
//! The figures of a policy that forgets are, beyond the totals, the plays and the rewards that it remembers: all scaled
//! at each feedback, then added to. Invariant: rewards are never more than plays, and neither is below zero.

use clipper_rpc::selection::{Affine, Policy, TOTALS};
use smallvec::SmallVec;

use super::{PerModel, Told, figure, largest};

/// How many plays of a model what all users say of it is worth, at most, beside what a user says.
const PRIOR_PLAYS: f64 = 2.0;

/// How often candidates were played and what they earned, as beliefs.
#[derive(Debug, Clone)]
pub(super) struct Counts {
    plays: PerModel,
    rewards: PerModel,
    /// How many losses became known, remembered or not.
    feedbacks: f64,
}

/// Which models a policy forgets something of, at each feedback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Forgets {
    /// Those whose loss it tells.
    Judged,
    /// All.
    All,
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

    /// A user's own counts, with the shared ones as the prior: worth a few plays of each model.
    pub(super) fn shrunk_towards(&self, shared: &Self) -> Self {
        let worth = |plays: f64| if plays > PRIOR_PLAYS { PRIOR_PLAYS / plays } else { 1.0 };
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
            feedbacks: self.feedbacks + shared.feedbacks.min(PRIOR_PLAYS * shared.plays.len() as f64),
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
    pub(super) fn epsilon_greedy(&self, epsilon: f64, decay: f64) -> PerModel {
        let models = self.plays.len();
        let epsilon = epsilon / (1.0 + decay * self.feedbacks);
        let mut probabilities = PerModel::from_elem(epsilon / models as f64, models);
        probabilities[largest((0..models).map(|model| self.mean_reward(model)))] += 1.0 - epsilon;
        probabilities
    }

    /// The first model that was never played; then the one with the highest bound.
    pub(super) fn ucb1(&self, exploration: f64) -> usize {
        let log_plays = self.plays.iter().sum::<f64>().max(1.0).ln();
        largest(self.plays.iter().enumerate().map(|(model, plays)| {
            if *plays > 0.0 {
                self.mean_reward(model) + exploration * (2.0 * log_plays / plays).sqrt()
            } else {
                f64::INFINITY
            }
        }))
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

/// The change of each candidate.
pub(super) fn learn(discount: f64, forgets: Forgets, told: &[Option<Told>]) -> Vec<Affine> {
    let change = |told: &Option<Told>| {
        let add = told.map_or_else(Vec::new, |told| vec![0.0, 0.0, 1.0, 1.0 - told.loss]);
        let scale = if told.is_some() || forgets == Forgets::All { discount } else { 1.0 };
        Affine { scale, add }
    };
    told.iter().map(change).collect()
}
