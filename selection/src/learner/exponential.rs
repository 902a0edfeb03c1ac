//! Exponential weights: `exp3`, `exp3_ix` and `exp4`.
//!
//! The one figure of a model beyond the totals is the logarithm of its weight (`exp3_ix`: minus its estimated loss so
//! far, which its rate turns into one), such that the mean weight of the candidates is 1. So zero is the fair share,
//! with whatever number of candidates.
//!
//! Updates are computed in full and then written as changes. Their scale is the derivative of the update: 1 for a model
//! that the losses moved, 0 for one that was raised to its least weight, whatever it was before. So what two frontends
//! learned of the losses adds up, while raising a model twice is raising it once. Likewise nobody puts right a mean that
//! is off because of changes that were made at once: all would, and overshoot. Weights are normalised when they are read,
//! which does not mind; only a mean that is far off is put right, and then by replacing what was there.
//!
//! What is left: `exp3` overshoots where other frontends learn more between two exchanges than it takes it to change its
//! mind (some hundreds of feedbacks), as with any feedback that comes late. It stays sane, and comes back.

use clipper_rpc::selection::{Affine, Policy, TOTALS};

use super::{PerModel, Told, figure};

/// Whatever the parameters, no weight falls below this part (as a logarithm) of the mean one, so that none becomes zero.
const LEAST_LOG_WEIGHT: f64 = -500.0;

/// The least weight that `exp3_ix` leaves a model, as a part of the mean weight.
const IX_FLOOR: f64 = 0.01;

/// From how many feedbacks on the rate of `exp3_ix` falls no further, so that it can still follow a change.
const IX_HORIZON: f64 = 1000.0;

/// How far off the mean weight (as a logarithm) may be before it is put right.
const GAUGE_LIMIT: f64 = 3.0;

/// After how many feedbacks of a user the shared weights count half.
const PRIOR_FEEDBACKS: f64 = 2.0;

/// Weights of the candidates, as beliefs.
#[derive(Debug, Clone)]
pub(super) struct Weights {
    /// Logarithms; the mean weight is 1.
    logs: PerModel,
    /// Parts of all weight.
    pub(super) shares: PerModel,
    /// How many feedbacks they come from.
    feedbacks: f64,
}

impl Weights {
    pub(super) fn new(policy: &Policy, figures: &[&[f64]]) -> Self {
        let (logs, _) = read(figures, rate(policy, figures));
        let counts = figures.iter().map(|of| figure(of, 0).max(0.0));
        // A feedback on an ensemble counts for every model whose loss it tells.
        let feedbacks = match policy {
            Policy::Exp4 { .. } => counts.fold(0.0, f64::max),
            _ => counts.sum(),
        };
        Self { shares: shares(&logs), logs, feedbacks }
    }

    /// The shares of a user's own weights, with the shared ones as the prior: tempered, the more the user said.
    ///
    /// The rate of `exp4` suits long runs. Where a user said little, it is the best one for so little, sqrt(8 ln K / n)
    /// (Cesa-Bianchi and Lugosi 2006, theorem 2.2), if that is more.
    pub(super) fn shrunk_towards(&self, shared: &Self, policy: &Policy) -> PerModel {
        let n = self.feedbacks;
        let prior = PRIOR_FEEDBACKS / (PRIOR_FEEDBACKS + n);
        let own = match policy {
            Policy::Exp4 { eta, .. } if n > 0.0 => {
                let best_rate = (8.0 * (self.logs.len() as f64).ln() / n).sqrt();
                (best_rate / eta).max(1.0)
            }
            _ => 1.0,
        };
        let mut logs: PerModel =
            self.logs.iter().zip(&shared.logs).map(|(log, shared)| own * log + prior * shared).collect();
        normalise(&mut logs);
        shares(&logs)
    }
}

/// The change of each candidate.
pub(super) fn learn(policy: &Policy, figures: &[&[f64]], told: &[Option<Told>]) -> Vec<Affine> {
    let rate = rate(policy, figures);
    let (mut logs, gauge) = read(figures, rate);
    let heard = usual_loss_of_heard(&logs, figures, told);
    for ((log, told), of) in logs.iter_mut().zip(told).zip(figures) {
        *log -= match (policy, told) {
            (Policy::Exp4 { eta, .. }, Some(Told { loss, .. })) => eta * loss,
            (Policy::Exp4 { eta, .. }, None) => eta * silent_loss(of, heard),
            (_, None) => 0.0,
            (Policy::Exp3 { eta, .. }, Some(Told { loss, propensity })) => eta * loss / propensity,
            // Implicit exploration: the propensity is overstated by half the rate.
            (_, Some(Told { loss, propensity })) => rate * loss / (propensity + rate / 2.0),
        };
    }
    // No step is so large that it could overflow; what falls out here is at the floor anyway.
    logs.iter_mut().for_each(|log| *log = log.max(-f64::MAX.sqrt()));
    let shift = log_mean_exp(&logs);
    logs.iter_mut().for_each(|log| *log -= shift);
    let mut scales = PerModel::from_elem(1.0, logs.len());
    match policy {
        Policy::Exp4 { share, .. } => deal_out(&mut logs, &mut scales, told, *share),
        Policy::Exp3 { floor, .. } => raise(&mut logs, &mut scales, floor.ln()),
        _ => raise(&mut logs, &mut scales, IX_FLOOR.ln()),
    }
    raise(&mut logs, &mut scales, LEAST_LOG_WEIGHT);
    let gauge = if gauge.abs() <= GAUGE_LIMIT {
        gauge
    } else {
        scales.fill(0.0);
        0.0
    };
    logs.iter()
        .zip(&scales)
        .zip(figures)
        .map(|((log, scale), of)| {
            let mut add = vec![0.0; TOTALS + 1];
            add[TOTALS] = (log + gauge) / rate - scale * figure(of, TOTALS);
            Affine { scale: *scale, add, missed: None }
        })
        .collect()
}

/// What a model of an ensemble is taken to have lost where that is not known: what it usually loses, 1/2 if it has never been heard.
/// If it were nothing, a model that never answers would win against all that do, and now and then err. But it is no more than
/// those usually lose that were `heard`: a model that failed for a while, and is heard now and then, would lose more by its past
/// in between than it wins by what it does now.
fn silent_loss(of: &[f64], heard: f64) -> f64 {
    usual_loss(of).map_or(0.5, |usual| usual.min(heard))
}

/// The mean loss of a model so far.
fn usual_loss(of: &[f64]) -> Option<f64> {
    let (count, rewards) = (figure(of, 0), figure(of, 1));
    (count > 0.0).then(|| 1.0 - (rewards / count).clamp(0.0, 1.0))
}

/// The mean loss of the models of which a lesson tells (there is one at least), by their weights.
fn usual_loss_of_heard(logs: &[f64], figures: &[&[f64]], told: &[Option<Told>]) -> f64 {
    let heard = || logs.iter().zip(figures).zip(told).filter(|(_, told)| told.is_some()).map(|(of, _)| of);
    let weight: f64 = heard().map(|(log, _)| log.exp()).sum();
    let loss: f64 = heard().map(|(log, of)| log.exp() * usual_loss(of).unwrap_or(0.5)).sum();
    loss / weight
}

/// What a figure is multiplied with to be the logarithm of a weight: 1, or the rate of `exp3_ix` at this feedback.
fn rate(policy: &Policy, figures: &[&[f64]]) -> f64 {
    match policy {
        Policy::Exp3Ix {} => {
            let models = figures.len().max(2) as f64;
            let feedbacks: f64 = figures.iter().map(|of| figure(of, 0).max(0.0)).sum();
            (models.ln() / (models * (feedbacks + 1.0).min(IX_HORIZON))).sqrt()
        }
        _ => 1.0,
    }
}

/// The logarithms of the weights, normalised, and the logarithm of what the mean was. A model of which nothing is
/// learned has the mean weight.
fn read(figures: &[&[f64]], rate: f64) -> (PerModel, f64) {
    let known: PerModel = figures
        .iter()
        .filter(|of| of.len() > TOTALS)
        .map(|of| rate * figure(of, TOTALS).clamp(-f64::MAX.sqrt(), f64::MAX.sqrt()))
        .collect();
    let gauge = if known.is_empty() { 0.0 } else { log_mean_exp(&known) };
    let mut known = known.into_iter();
    let mut logs: PerModel = figures
        .iter()
        .map(|of| if of.len() > TOTALS { known.next().unwrap_or(gauge) - gauge } else { 0.0 })
        .collect();
    logs.iter_mut().for_each(|log| *log = log.max(LEAST_LOG_WEIGHT));
    (logs, gauge)
}

/// Deals out a part of the weight of all models of which the lesson tells evenly among these: who is silent wins nothing by that.
/// The scale becomes the part of a model's weight that it had already.
fn deal_out(logs: &mut [f64], scales: &mut [f64], told: &[Option<Told>], share: f64) {
    let heard: PerModel =
        logs.iter().zip(told).filter(|(_, told)| told.is_some()).map(|(log, _)| *log).collect();
    let dealt = log_mean_exp(&heard) + share.ln();
    for ((log, scale), _) in logs.iter_mut().zip(scales).zip(told).filter(|(_, told)| told.is_some()) {
        let kept = *log + (1.0 - share).ln();
        let sum = log_sum_exp(&[kept, dealt]);
        *scale *= (kept - sum).exp();
        *log = sum;
    }
}

/// Raises what is below the floor, and normalises. What was raised forgets what it was.
fn raise(logs: &mut [f64], scales: &mut [f64], floor: f64) {
    let mut raised = false;
    for (log, scale) in logs.iter_mut().zip(scales) {
        if *log < floor {
            (*log, *scale, raised) = (floor, 0.0, true);
        }
    }
    if raised {
        normalise(logs);
    }
}

/// Makes the mean weight 1.
fn normalise(logs: &mut [f64]) {
    let shift = log_mean_exp(logs);
    logs.iter_mut().for_each(|log| *log = (*log - shift).max(LEAST_LOG_WEIGHT));
}

/// Parts of all weight, of normalised logarithms.
fn shares(logs: &[f64]) -> PerModel {
    let mut shares: PerModel = logs.iter().map(|log| log.exp()).collect();
    let sum: f64 = shares.iter().sum();
    shares.iter_mut().for_each(|share| *share /= sum);
    shares
}

fn log_mean_exp(logs: &[f64]) -> f64 {
    log_sum_exp(logs) - (logs.len() as f64).ln()
}

/// Of at least one finite logarithm.
fn log_sum_exp(logs: &[f64]) -> f64 {
    let most = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    most + logs.iter().map(|log| (log - most).exp()).sum::<f64>().ln()
}
