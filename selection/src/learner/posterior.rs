//! How likely each of several independent Beta variables, each times a factor, is the largest: the propensities of Thompson
//! sampling.
//!
//! By integration: P(i is largest) is the integral of its density times the product of the others' distribution
//! functions. Invariant: the parameters are at least 1, so that densities are bounded.

/// How far from its mean each variable is looked at closely, in standard deviations, and in how many steps.
const REACH: f64 = 12.0;
const STEPS: i32 = 96;
/// How often something must have happened to count.
const NOTHING: f64 = 1e-9;

/// A Beta variable times a factor.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scaled {
    pub(super) alpha: f64,
    pub(super) beta: f64,
    /// In (0, 1].
    pub(super) factor: f64,
}

/// The probability of each of the variables to be the largest; they add up to 1.
pub(super) fn best_of(variables: &[Scaled]) -> Vec<f64> {
    let intervals = Intervals::new(variables);
    let curves: Vec<Curve> = variables.iter().map(|&of| Curve::new(of, &intervals)).collect();
    let mut best = vec![0.0; variables.len()];
    let mut others = vec![1.0; variables.len()];
    for (point, weight) in intervals.weights().enumerate() {
        // The product of the others, by what is before and what is after each.
        let mut before = 1.0;
        for (others, curve) in others.iter_mut().zip(&curves) {
            *others = before;
            before *= curve.distribution[point];
        }
        let mut after = 1.0;
        for (index, curve) in curves.iter().enumerate().rev() {
            best[index] += weight * curve.density[point] * others[index] * after;
            after *= curve.distribution[point];
        }
    }
    let sum: f64 = best.iter().sum();
    best.iter_mut().for_each(|best| *best /= sum);
    best
}

/// Neighbouring intervals from 0 to 1, small where a density changes; each has three points: its start, its middle, and
/// its end.
struct Intervals(Vec<f64>);

impl Intervals {
    fn new(variables: &[Scaled]) -> Self {
        let mut ends: Vec<f64> = (0..=STEPS).map(|step| f64::from(step) / f64::from(STEPS)).collect();
        for &Scaled { alpha, beta, factor } in variables {
            let sum = alpha + beta;
            let mean = alpha / sum;
            let deviation = (mean * (1.0 - mean) / (sum + 1.0)).sqrt();
            let reach = |step| mean + deviation * REACH * (2.0 * f64::from(step) / f64::from(STEPS) - 1.0);
            // Then in ever wider steps, since what lies at an end of the range falls off no faster than exponentially.
            let wider = (1..).map(|power| deviation * REACH * f64::from(1 << power));
            let far =
                wider.take_while(|step| *step < 1.0).take(30).flat_map(|step| [mean - step, mean + step]);
            let near = (0..=STEPS).map(reach).chain(far).filter(|end| (0.0..=1.0).contains(end));
            // Its density may end in the middle of nowhere.
            ends.extend(near.map(|end| end * factor).chain([factor]));
        }
        ends.sort_by(f64::total_cmp);
        ends.dedup();
        Self(ends)
    }

    /// The points of each interval.
    fn triples(&self) -> impl Iterator<Item = [f64; 3]> {
        self.0.windows(2).map(|ends| [ends[0], ends[0].midpoint(ends[1]), ends[1]])
    }

    /// Simpson's weights of the points.
    fn weights(&self) -> impl Iterator<Item = f64> {
        self.0.windows(2).flat_map(|ends| {
            let sixth = (ends[1] - ends[0]) / 6.0;
            [sixth, 4.0 * sixth, sixth]
        })
    }
}

/// A distribution at the points of intervals.
struct Curve {
    density: Vec<f64>,
    distribution: Vec<f64>,
}

impl Curve {
    fn new(Scaled { alpha, beta, factor }: Scaled, intervals: &Intervals) -> Self {
        // What is left of the forgotten is nothing: so little bends a density at an end alone, between two points.
        let [over_alpha, over_beta] = [alpha, beta].map(|of| if of - 1.0 > NOTHING { of - 1.0 } else { 0.0 });
        // As a part of the density at the mode, so that nothing overflows; normalised by its own integral below.
        let log = |x: f64| {
            let power = |exponent: f64, log: f64| if exponent > 0.0 { exponent * log } else { 0.0 };
            power(over_alpha, x.ln()) + power(over_beta, (-x).ln_1p())
        };
        // Differences first, and the mode kept from 0 and 1: where nearly all is forgotten, rounding would make it an end at
        // which the density is zero.
        let mode = if over_alpha + over_beta > 0.0 { over_alpha / (over_alpha + over_beta) } else { 0.5 };
        let highest = log(mode.clamp(f64::MIN_POSITIVE, 1.0 - f64::EPSILON));
        let density = intervals.triples().flat_map(|points| {
            // It may jump at the end of its range, which belongs to the interval before.
            let is_within = points[0] < factor;
            points.map(|x| if is_within { (log((x / factor).min(1.0)) - highest).exp() } else { 0.0 })
        });
        let mut density: Vec<f64> = density.collect();
        let mut distribution = Vec::with_capacity(density.len());
        let mut passed = 0.0;
        for (ends, at) in intervals.0.windows(2).zip(density.chunks_exact(3)) {
            let width = ends[1] - ends[0];
            distribution.push(passed);
            // The integral of the parabola through the three points, to the middle and to the end.
            distribution.push((passed + width / 24.0 * (5.0 * at[0] + 8.0 * at[1] - at[2])).max(passed));
            passed += width / 6.0 * (at[0] + 4.0 * at[1] + at[2]);
            distribution.push(passed);
        }
        density.iter_mut().chain(&mut distribution).for_each(|value| *value /= passed);
        Self { density, distribution }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;
    use rand_distr::{Beta, Distribution};

    use super::*;

    /// The probabilities of variables of those parameters, not scaled.
    fn best_of(parameters: &[(f64, f64)]) -> Vec<f64> {
        let plain = |&(alpha, beta): &(f64, f64)| Scaled { alpha, beta, factor: 1.0 };
        super::best_of(&parameters.iter().map(plain).collect::<Vec<_>>())
    }

    fn assert_close(found: &[f64], expected: &[f64], tolerance: f64) {
        for (one, other) in found.iter().zip(expected) {
            assert!((one - other).abs() < tolerance, "{found:?} instead of {expected:?}");
        }
    }

    #[test]
    fn it_is_what_closed_forms_say() {
        assert_close(&best_of(&[(1.0, 1.0)]), &[1.0], 1e-12);
        assert_close(&best_of(&[(1.0, 1.0); 4]), &[0.25; 4], 1e-9);
        // P(X > Y) for X of density 2x and Y uniform is the mean of X.
        assert_close(&best_of(&[(2.0, 1.0), (1.0, 1.0)]), &[2.0 / 3.0, 1.0 / 3.0], 1e-6);
        // For X of density a x^(a-1): a / (a + b), however steep.
        assert_close(&best_of(&[(300.0, 1.0), (100.0, 1.0)]), &[0.75, 0.25], 1e-4);
        assert_close(&best_of(&[(1e6, 1.0), (1.0, 1.0)]), &[1.0, 1e-6], 1e-5);
    }

    #[test]
    fn a_model_of_which_nearly_all_is_forgotten_is_like_one_of_which_nothing_is_known() {
        let little = 1.0 + f64::EPSILON;
        for parameters in [(little, little), (1.0 + 2.0 * f64::EPSILON, little), (little, 1.0)] {
            assert_close(&best_of(&[parameters, (1.0, 1.0)]), &[0.5, 0.5], 1e-3);
        }
        assert_close(&best_of(&[(300.0, little), (100.0, 1.0)]), &[0.75, 0.25], 1e-4);
    }

    #[test]
    fn it_is_what_draws_say() {
        let mut chance = ChaCha8Rng::seed_from_u64(3);
        for parameters in [
            vec![(30.0, 10.0), (25.5, 12.25), (1.0, 1.0), (2.0, 9.0)],
            vec![(1.0, 40.0), (1.5, 60.0), (3.0, 100.0)],
            vec![(100_000.0, 20_000.0), (80.0, 16.0), (100_200.0, 20_000.0)],
        ] {
            const DRAWS: usize = 200_000;
            let distributions: Vec<Beta<f64>> =
                parameters.iter().map(|&(alpha, beta)| Beta::new(alpha, beta).unwrap()).collect();
            let mut wins = vec![0.0; parameters.len()];
            for _ in 0..DRAWS {
                let draws = distributions.iter().map(|distribution| distribution.sample(&mut chance));
                wins[super::super::largest(draws)] += 1.0 / DRAWS as f64;
            }
            // The deviation of the draws themselves is about 0.001.
            assert_close(&best_of(&parameters), &wins, 0.005);
        }
    }
}
