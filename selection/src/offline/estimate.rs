//! What a policy would have earned, from weighted events.
//!
//! Dudík, Erhan, Langford, Li: "Doubly Robust Policy Evaluation and Optimization", Statistical Science 29 (2014). The
//! intervals are normal approximations: of a mean for IPS and DR, of a ratio (by the delta method) for SNIPS.

use serde::Serialize;

/// Of the normal distribution, 95 % is within this many standard deviations.
const WITHIN: f64 = 1.959_963_984_540_054;

/// One logged event, as it counts for a target policy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Term {
    /// How much of a turn of the target it stands for: 1, but for a target that learns.
    pub turn: f64,
    /// How much likelier the target is to do what was done than the logged policy was.
    pub weight: f64,
    /// What was earned, in [0, 1].
    pub reward: f64,
    /// What the reward model expected of what was done.
    pub predicted: f64,
    /// What it expects of the target.
    pub direct: f64,
}

/// A value with its 95 % confidence interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Estimate {
    /// The mean reward.
    pub value: f64,
    /// The standard error.
    pub standard_error: f64,
    /// The interval's lower end,
    pub low: f64,
    /// and its upper end.
    pub high: f64,
}

/// All estimates for one target.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Estimates {
    /// Inverse propensity scoring.
    pub ips: Estimate,
    /// Self-normalised inverse propensity scoring.
    pub snips: Option<Estimate>,
    /// Doubly robust.
    pub dr: Estimate,
    /// How many unweighted events would tell as much.
    pub effective_sample_size: f64,
    /// The greatest weight.
    pub greatest_weight: f64,
}

impl Estimates {
    /// Those of at least one event. SNIPS is none where the target never does what was done.
    pub fn of(terms: &[Term]) -> Self {
        let ips = Estimate::ratio(terms, |term| term.turn, |term| term.weight * term.reward);
        let dr = Estimate::ratio(
            terms,
            |term| term.turn,
            |term| term.direct + term.weight * (term.reward - term.predicted),
        );
        let matched = terms.iter().any(|term| term.turn * term.weight > 0.0);
        let snips =
            matched.then(|| Estimate::ratio(terms, |term| term.turn * term.weight, |term| term.reward));
        let sum = |power| terms.iter().map(|term| (term.turn * term.weight).powi(power)).sum::<f64>();
        let effective_sample_size = if matched { sum(1).powi(2) / sum(2) } else { 0.0 };
        let greatest_weight = terms.iter().map(|term| term.weight).fold(0.0, f64::max);
        Self { ips, snips, dr, effective_sample_size, greatest_weight }
    }
}

impl Estimate {
    /// The plain mean of what was earned.
    pub fn mean(values: impl Iterator<Item = f64>) -> Self {
        let values: Vec<f64> = values.collect();
        Self::ratio(&values, |_| 1.0, |value| *value)
    }

    /// The mean of values with weights, which are as random as the values.
    fn ratio<T>(terms: &[T], weight: impl Fn(&T) -> f64, value: impl Fn(&T) -> f64) -> Self {
        let count = terms.len() as f64;
        let total: f64 = terms.iter().map(&weight).sum();
        let mean = terms.iter().map(|term| weight(term) * value(term)).sum::<f64>() / total;
        let squares: f64 = terms.iter().map(|term| (weight(term) * (value(term) - mean)).powi(2)).sum();
        // One event says nothing of how much another may differ.
        let correction = if count > 1.0 { count / (count - 1.0) } else { f64::INFINITY };
        let standard_error =
            if squares > 0.0 || count > 1.0 { (squares * correction).sqrt() / total } else { f64::INFINITY };
        let within = WITHIN * standard_error;
        Self { value: mean, standard_error, low: mean - within, high: mean + within }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn term(weight: f64, reward: f64) -> Term {
        Term { turn: 1.0, weight, reward, predicted: 0.5, direct: 0.5 }
    }

    #[test]
    fn the_estimates_of_three_events_are_as_computed_by_hand() {
        let estimates = Estimates::of(&[term(2.0, 1.0), term(0.0, 1.0), term(1.0, 0.0)]);
        assert!((estimates.ips.value - 2.0 / 3.0).abs() < 1e-12);
        assert!((estimates.snips.unwrap().value - 2.0 / 3.0).abs() < 1e-12);
        // 0.5 + 1, 0.5 and 0.5 - 0.5.
        assert!((estimates.dr.value - 2.0 / 3.0).abs() < 1e-12);
        assert!((estimates.effective_sample_size - 9.0 / 5.0).abs() < 1e-12);
        // The values 2, 0 and 0 have the standard deviation sqrt(4 / 3).
        assert!((estimates.ips.standard_error - (4.0f64 / 9.0).sqrt()).abs() < 1e-12);
        assert!((estimates.ips.high - estimates.ips.value - 1.959964 * 2.0 / 3.0).abs() < 1e-6);
    }

    #[test]
    fn a_target_that_never_does_what_was_done_has_no_snips() {
        let estimates = Estimates::of(&[term(0.0, 1.0), term(0.0, 0.0)]);
        assert_eq!((estimates.snips, estimates.effective_sample_size), (None, 0.0));
        assert_eq!(estimates.ips.value, 0.0);
    }

    #[test]
    fn one_event_leaves_everything_open() {
        let estimate = Estimate::mean([0.5].into_iter());
        assert_eq!((estimate.value, estimate.high), (0.5, f64::INFINITY));
    }
}
