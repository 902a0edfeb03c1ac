//! The failure study: five models, of which the best answers at random for a while and recovers.

use clipper_rpc::selection::Policy;

use crate::simulation::{Simulation, policy};

const ACCURACIES: [f64; 5] = [0.75, 0.64, 0.82, 0.54, 0.90];
const BEST: usize = 4;
const SEGMENT: usize = 5_000;

/// What a policy, and each model alone, got wrong.
struct Study {
    /// The policy's mean error in each segment,
    segments: [f64; 4],
    /// the least of any single model's over all of it,
    best_in_hindsight: f64,
    /// and that of the best model in the last segment.
    best_at_last: f64,
    /// How many queries after the failure, and after the recovery, 90 of the last 100 had been without, or again with,
    /// most weight on the best model.
    left_after: Option<usize>,
    taken_back_after: Option<usize>,
}

impl Study {
    fn of(policy: &Policy, classes: u32, seed: u64) -> Self {
        let mut simulation = Simulation::new(policy, ACCURACIES.len(), classes, seed);
        let mut errors = [0.0; 4];
        let mut alone = [[0.0; ACCURACIES.len()]; 4];
        let mut followed = Vec::new();
        for query in 0..4 * SEGMENT {
            let segment = query / SEGMENT;
            let mut accuracies = ACCURACIES;
            if segment == 1 {
                accuracies[BEST] = 1.0 / f64::from(classes);
            }
            let round = simulation.round(&accuracies, None);
            errors[segment] += round.error;
            for (sum, loss) in alone[segment].iter_mut().zip(&round.losses) {
                *sum += loss;
            }
            followed.push(round.favourite == BEST);
        }
        let settled = |from: usize, on_best: bool| {
            followed[from..]
                .windows(100)
                .position(|window| window.iter().filter(|best| **best == on_best).count() >= 80)
        };
        let overall = |model: usize| alone.iter().map(|of| of[model]).sum::<f64>() / (4 * SEGMENT) as f64;
        Self {
            segments: errors.map(|sum: f64| sum / SEGMENT as f64),
            best_in_hindsight: (0..ACCURACIES.len()).map(overall).fold(1.0, f64::min),
            best_at_last: alone[3].iter().fold(f64::INFINITY, |least, sum| least.min(*sum)) / SEGMENT as f64,
            left_after: settled(SEGMENT, false),
            taken_back_after: settled(2 * SEGMENT, true),
        }
    }

    fn error(&self) -> f64 {
        self.segments.iter().sum::<f64>() / 4.0
    }

    fn print(&self, name: &str, classes: u32) {
        let [first, failed, recovered, last] = self.segments;
        println!(
            "{name:15} {classes:2} classes: {first:.4} {failed:.4} {recovered:.4} {last:.4}, in all {:.4}; best in \
             hindsight {:.4}, best at last {:.4}; left after {:?}, taken back after {:?}",
            self.error(),
            self.best_in_hindsight,
            self.best_at_last,
            self.left_after,
            self.taken_back_after
        );
    }
}

const SEEDS: [u64; 3] = [1, 2, 3];

/// What a policy makes of the failure, with either number of classes and several seeds.
fn studies(name: &str) -> Vec<Study> {
    let mut studies = Vec::new();
    for classes in [2, 10] {
        for seed in SEEDS {
            let study = Study::of(&policy(name), classes, seed);
            study.print(name, classes);
            studies.push(study);
        }
    }
    studies
}

#[test]
fn exp4_errs_less_than_the_best_model_in_hindsight_and_is_with_the_best_after_its_recovery() {
    for study in studies("exp4") {
        assert!(study.error() < study.best_in_hindsight);
        assert!(study.segments[3] < study.best_at_last + 0.02);
        assert!(study.left_after.is_some_and(|queries| queries < 300));
        assert!(study.taken_back_after.is_some_and(|queries| queries < 500));
    }
}

#[test]
fn bandits_that_track_err_less_than_the_best_model_in_hindsight() {
    for name in ["exp3", "epsilon_greedy", "thompson"] {
        for study in studies(name) {
            assert!(study.error() < study.best_in_hindsight, "{name}");
            assert!(study.segments[3] < study.best_at_last + 0.05, "{name}");
            assert!(study.left_after.is_some_and(|queries| queries < 500), "{name}");
            assert!(study.taken_back_after.is_some_and(|queries| queries < 2000), "{name}");
        }
    }
}

#[test]
fn bandits_that_track_slowly_or_not_err_not_much_more_than_the_best_model_in_hindsight() {
    for name in ["exp3_ix", "ucb1"] {
        for study in studies(name) {
            assert!(study.error() < study.best_in_hindsight + 0.02, "{name}");
            assert!(study.segments[0] < 0.17, "{name}");
        }
    }
}

/// How many queries it takes until a model has most weight, or has not, in 80 of 100.
fn settles(simulation: &mut Simulation, accuracies: &[f64], model: usize, favourite: bool) -> usize {
    let mut last: Vec<bool> = Vec::new();
    while last.len() < 100 || last[last.len() - 100..].iter().filter(|was| **was == favourite).count() < 80 {
        last.push(simulation.round(accuracies, None).favourite == model);
        assert!(last.len() < 10_000, "it never does");
    }
    last.len()
}

#[test]
fn a_model_that_fails_is_left_and_taken_back() {
    for name in ["exp3", "epsilon_greedy", "thompson", "exp4"] {
        for seed in SEEDS {
            let mut simulation = Simulation::new(&policy(name), 3, 10, seed);
            for _ in 0..5000 {
                simulation.round(&[0.9, 0.6, 0.5], None);
            }
            let left = settles(&mut simulation, &[0.1, 0.6, 0.5], 0, false);
            for _ in 0..5000 {
                simulation.round(&[0.1, 0.6, 0.5], None);
            }
            let taken_back = settles(&mut simulation, &[0.9, 0.6, 0.5], 0, true);
            println!("{name:15} left within {left}, taken back within {taken_back}");
            assert!(left < 1000 && taken_back < 1000, "{name}: {left}, {taken_back}");
        }
    }
}
