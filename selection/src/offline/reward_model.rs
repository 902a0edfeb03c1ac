//! What a model would have earned, guessed from what it earned when it was asked: the "direct" half of the doubly robust
//! estimate.
//!
//! Invariant: what is guessed for an event does not follow from that event (cross-fitting), nor from the others of its fold.

/// Events are dealt out to these many folds in turn.
const FOLDS: usize = 5;
/// Contexts with more features than this are ignored: a matrix for each model and fold would become large.
pub const MAX_FEATURES: usize = 256;
/// Of the ridge regressions, on all but the constant.
const RIDGE: f64 = 1.0;

/// A reward model for arms: linear in the context where every event has one, of one length; the mean otherwise.
pub struct RewardModel {
    features: usize,
    arms: usize,
    /// For each fold and arm.
    sums: Vec<Sums>,
    /// For each fold and arm, from the sums of the other folds: one coefficient for the constant, and one for each feature.
    coefficients: Vec<Vec<f64>>,
}

/// The normal equations of a least-squares fit.
#[derive(Clone)]
struct Sums {
    /// The lower triangle, row by row.
    matrix: Vec<f64>,
    vector: Vec<f64>,
}

impl RewardModel {
    /// For arms `0..arms` and contexts of `features` features; 0 for means.
    pub fn new(arms: usize, features: usize) -> Self {
        let size = features + 1;
        let empty = Sums { matrix: vec![0.0; size * (size + 1) / 2], vector: vec![0.0; size] };
        Self { features, arms, sums: vec![empty; FOLDS * arms], coefficients: Vec::new() }
    }

    /// Takes in the reward that an arm earned at the event of this index.
    pub fn add(&mut self, event: usize, arm: usize, context: &[f64], reward: f64) {
        let row = row(self.features, context);
        self.sums[event % FOLDS * self.arms + arm].add(&row, reward);
    }

    /// Makes guesses possible.
    pub fn fit(&mut self) {
        let coefficients = (0..FOLDS).flat_map(|fold| (0..self.arms).map(move |arm| (fold, arm)));
        self.coefficients = coefficients
            .map(|(fold, arm)| {
                let mut others = Sums {
                    matrix: vec![0.0; self.sums[arm].matrix.len()],
                    vector: vec![0.0; self.features + 1],
                };
                (0..FOLDS)
                    .filter(|other| *other != fold)
                    .for_each(|other| others.merge(&self.sums[other * self.arms + arm]));
                others.solve()
            })
            .collect();
    }

    /// The guess for an arm at the event of this index, in [0, 1]; 1/2 of an arm of which nothing is known.
    pub fn guess(&self, event: usize, arm: usize, context: &[f64]) -> f64 {
        let coefficients = &self.coefficients[event % FOLDS * self.arms + arm];
        let row = row(self.features, context);
        let guess: f64 = row.iter().zip(coefficients).map(|(x, coefficient)| x * coefficient).sum();
        guess.clamp(0.0, 1.0)
    }
}

fn row(features: usize, context: &[f64]) -> Vec<f64> {
    std::iter::once(1.0).chain(context.iter().copied().take(features)).collect()
}

impl Sums {
    fn add(&mut self, row: &[f64], reward: f64) {
        let mut place = self.matrix.iter_mut();
        for (i, x) in row.iter().enumerate() {
            place.by_ref().zip(&row[..=i]).for_each(|(sum, y)| *sum += x * y);
            self.vector[i] += x * reward;
        }
    }

    fn merge(&mut self, other: &Self) {
        self.matrix.iter_mut().zip(&other.matrix).for_each(|(sum, x)| *sum += x);
        self.vector.iter_mut().zip(&other.vector).for_each(|(sum, x)| *sum += x);
    }

    /// The coefficients of the ridge regression whose constant is not shrunk, by a Cholesky decomposition.
    fn solve(mut self) -> Vec<f64> {
        let size = self.vector.len();
        if self.matrix[0] == 0.0 {
            return std::iter::once(0.5).chain(std::iter::repeat_n(0.0, size - 1)).collect();
        }
        let at = |i: usize, j: usize| i * (i + 1) / 2 + j;
        (1..size).for_each(|i| self.matrix[at(i, i)] += RIDGE);
        for i in 0..size {
            for j in 0..=i {
                let sum: f64 = (0..j).map(|k| self.matrix[at(i, k)] * self.matrix[at(j, k)]).sum();
                let rest = self.matrix[at(i, j)] - sum;
                // Positive but for rounding: the matrix is a sum of squares plus the ridge.
                self.matrix[at(i, j)] =
                    if i == j { rest.max(f64::MIN_POSITIVE).sqrt() } else { rest / self.matrix[at(j, j)] };
            }
        }
        let mut solution = self.vector;
        for i in 0..size {
            let sum: f64 = (0..i).map(|k| self.matrix[at(i, k)] * solution[k]).sum();
            solution[i] = (solution[i] - sum) / self.matrix[at(i, i)];
        }
        for i in (0..size).rev() {
            let sum: f64 = (i + 1..size).map(|k| self.matrix[at(k, i)] * solution[k]).sum();
            solution[i] = (solution[i] - sum) / self.matrix[at(i, i)];
        }
        solution
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_context_it_is_the_mean_of_the_other_folds() {
        let mut model = RewardModel::new(2, 0);
        for event in 0..10 {
            model.add(event, 0, &[], if event % FOLDS == 0 { 1.0 } else { 0.25 });
        }
        model.fit();
        assert!((model.guess(0, 0, &[]) - 0.25).abs() < 1e-12);
        assert!((model.guess(1, 0, &[]) - 0.4375).abs() < 1e-12);
        assert_eq!(model.guess(1, 1, &[]), 0.5, "nothing is known of the other arm");
    }

    #[test]
    fn with_a_context_a_linear_reward_is_found() {
        let mut model = RewardModel::new(1, 2);
        let contexts = (0..2000).map(|i| [f64::from(i % 7) / 7.0, f64::from(i % 11) / 11.0]);
        let reward = |context: &[f64]| 0.2 + 0.3 * context[0] + 0.4 * context[1];
        for (event, context) in contexts.enumerate() {
            model.add(event, 0, &context, reward(&context));
        }
        model.fit();
        let context = [0.5, 0.25];
        assert!((model.guess(3, 0, &context) - reward(&context)).abs() < 0.01);
    }
}
