//! A ridge regression of rewards on contexts for each model: `linucb` (Li et al. 2010, disjoint models).
//!
//! The figures beyond the totals are the upper triangle of the sum of x x' (row by row) and the sum of r x: plain sums,
//! so that those of several frontends add up. The inverse is made anew from the sums for each beliefs, since one that
//! Sherman and Morrison's formula carries along would be one frontend's only, and collects rounding. Invariant: the
//! matrix is at least `ridge` times the identity.

use clipper_rpc::selection::{Affine, TOTALS};

use super::{Told, figure, unchanged};

/// The largest feature, in either direction: squares of larger ones drown the rest of a sum.
const LARGEST_FEATURE: f64 = 1e6;

/// One model's regression, as beliefs.
#[derive(Debug, Clone)]
pub(super) struct Arm {
    /// The lower triangle of the Cholesky factor's inverse, row by row: x' A^-1 x is the square of this times x.
    whitening: Vec<f64>,
    /// The regression's coefficients.
    theta: Vec<f64>,
}

/// The context that a query must have.
pub(super) fn check(context: Option<&[f64]>, dimensions: usize) -> Result<&[f64], String> {
    let expected =
        format_args!("linucb needs a context of {dimensions} numbers between -1e6 and 1e6").to_string();
    match context {
        None => Err(format!("{expected}, but the query has none")),
        Some(context) if context.len() != dimensions => {
            Err(format!("{expected}, but the query's has {}", context.len()))
        }
        Some(context) => match context.iter().find(|x| !(-LARGEST_FEATURE..=LARGEST_FEATURE).contains(*x)) {
            Some(x) => Err(format!("{expected}, but one of the query's is {x}")),
            None => Ok(context),
        },
    }
}

/// The upper confidence bound of each model's reward.
pub(super) fn bounds(arms: &[Arm], context: &[f64], alpha: f64) -> impl Iterator<Item = f64> {
    arms.iter().map(move |arm| arm.bound(context, alpha))
}

/// The change of each candidate.
pub(super) fn learn(context: &[f64], told: &[Option<Told>]) -> Vec<Affine> {
    let mut changes = unchanged(told.len());
    for (change, told) in changes.iter_mut().zip(told) {
        if let Some(told) = told {
            change.add = vec![0.0; TOTALS];
            for (row, x) in context.iter().enumerate() {
                change.add.extend(context[row..].iter().map(|y| x * y));
            }
            change.add.extend(context.iter().map(|x| (1.0 - told.loss) * x));
        }
    }
    changes
}

impl Arm {
    pub(super) fn new(figures: &[f64], dimensions: usize, ridge: f64) -> Self {
        let factor = cholesky(figures, dimensions, ridge);
        let whitening = invert(&factor, dimensions);
        let first = TOTALS + dimensions * (dimensions + 1) / 2;
        // theta = W' W b.
        let white: Vec<f64> = (0..dimensions)
            .map(|row| {
                triangle_row(&whitening, row)
                    .iter()
                    .enumerate()
                    .map(|(column, w)| w * figure(figures, first + column))
                    .sum()
            })
            .collect();
        let mut theta = vec![0.0; dimensions];
        for (row, white) in white.iter().enumerate() {
            for (theta, w) in theta.iter_mut().zip(triangle_row(&whitening, row)) {
                *theta += w * white;
            }
        }
        Self { whitening, theta }
    }

    fn bound(&self, context: &[f64], alpha: f64) -> f64 {
        let mean: f64 = self.theta.iter().zip(context).map(|(theta, x)| theta * x).sum();
        let square: f64 =
            (0..context.len()).map(|row| dot(triangle_row(&self.whitening, row), context).powi(2)).sum();
        mean + alpha * square.sqrt()
    }
}

/// The lower triangle L of ridge I + sum of x x' = L L', row by row.
fn cholesky(figures: &[f64], dimensions: usize, ridge: f64) -> Vec<f64> {
    let mut factor: Vec<f64> = Vec::with_capacity(dimensions * (dimensions + 1) / 2);
    for row in 0..dimensions {
        for column in 0..=row {
            // In the upper triangle, what is right of the diagonal of row `column`.
            let upper = column * dimensions - column * (column + 1) / 2 + row;
            let sum = figure(figures, TOTALS + upper);
            let done = dot(triangle_row(&factor, row), &triangle_row(&factor, column)[..column]);
            factor.push(if row == column {
                // Exactly, what remains on the diagonal is at least the ridge.
                (sum + ridge - done).max(ridge).sqrt()
            } else {
                (sum - done) / factor[triangle(column) + column]
            });
        }
    }
    factor
}

/// The inverse of a lower triangle.
fn invert(factor: &[f64], dimensions: usize) -> Vec<f64> {
    let mut inverse = vec![0.0; factor.len()];
    for row in 0..dimensions {
        let of = triangle_row(factor, row);
        let diagonal = of[row];
        // Row by row: what this row of the factor makes of the rows above, taken away, and divided.
        let (above, this) = inverse.split_at_mut(triangle(row));
        for (upper, weight) in of[..row].iter().enumerate() {
            for (entry, of_upper) in this.iter_mut().zip(&above[triangle(upper)..triangle(upper + 1)]) {
                *entry -= weight * of_upper;
            }
        }
        this[..row].iter_mut().for_each(|entry| *entry /= diagonal);
        this[row] = 1.0 / diagonal;
    }
    inverse
}

/// Where a row of a lower triangle begins.
fn triangle(row: usize) -> usize {
    row * (row + 1) / 2
}

/// A row of a lower triangle, as far as it is there.
fn triangle_row(entries: &[f64], row: usize) -> &[f64] {
    &entries[triangle(row)..entries.len().min(triangle(row + 1))]
}

fn dot(one: &[f64], other: &[f64]) -> f64 {
    one.iter().zip(other).map(|(one, other)| one * other).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize)]
    struct Script {
        dimensions: usize,
        alpha: f64,
        ridge: f64,
        probes: Vec<Vec<f64>>,
        expected: Vec<Vec<f64>>,
        sums: Vec<Vec<f64>>,
    }

    #[test]
    fn bounds_are_those_of_mabwiser() {
        let script: Script = serde_json::from_str(include_str!("../../tests/oracle/linucb.json")).unwrap();
        let bounds = script.expected.last().unwrap();
        for (sums, expected) in script.sums.iter().zip(bounds) {
            let figures: Vec<f64> = [0.0, 0.0].iter().chain(sums).copied().collect();
            let arm = Arm::new(&figures, script.dimensions, script.ridge);
            let bound = arm.bound(script.probes.last().unwrap(), script.alpha);
            assert!((bound - expected).abs() < 1e-9, "{bound} instead of {expected}");
        }
    }

    #[test]
    fn contexts_as_large_as_allowed_leave_every_bound_finite() {
        let context = vec![1e6; 128];
        let told = Some(Told { loss: 0.0, propensity: 1.0 });
        let mut figures = learn(&context, &[told]).remove(0).add;
        figures.iter_mut().for_each(|figure| *figure *= 1e6);
        let arm = Arm::new(&figures, 128, 1e-3);
        assert!(arm.bound(&context, 1.0).is_finite());
        let mut other = vec![-1e6; 128];
        other[5] = 3.0;
        assert!(arm.bound(&other, 1.0).is_finite());
    }

    #[test]
    fn a_context_that_does_not_fit_is_named() {
        let expected = "linucb needs a context of 2 numbers between -1e6 and 1e6";
        assert_eq!(check(None, 2), Err(format!("{expected}, but the query has none")));
        assert_eq!(check(Some(&[1.0]), 2), Err(format!("{expected}, but the query's has 1")));
        assert_eq!(
            check(Some(&[1.0, f64::NAN]), 2),
            Err(format!("{expected}, but one of the query's is NaN"))
        );
        assert!(check(Some(&[1.0, -1e6]), 2).is_ok());
    }
}
