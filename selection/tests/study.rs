//! The failure study: five models, of which the best answers at random for a while and recovers.
//!
//! What the figures are of each policy is printed: `cargo test -p clipper-selection --test study -- --nocapture`.

mod simulation;

use clipper_rpc::selection::Policy;

use self::simulation::{Simulation, policy};

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

#[test]
fn tune() {
    for text in std::env::var("POLICIES").unwrap_or_default().lines() {
        let mut rows = Vec::new();
        for seed in 0..4 {
            let study = Study::of(&serde_json::from_str(text).unwrap(), 2, seed);
            rows.push(study);
        }
        let mean = |f: &dyn Fn(&Study) -> f64| rows.iter().map(f).sum::<f64>() / rows.len() as f64;
        println!(
            "{text}: {:.4} {:.4} {:.4} {:.4} all {:.4} left {:?} back {:?}",
            mean(&|s| s.segments[0]),
            mean(&|s| s.segments[1]),
            mean(&|s| s.segments[2]),
            mean(&|s| s.segments[3]),
            mean(&|s| s.error()),
            rows.iter().map(|s| s.left_after).collect::<Vec<_>>(),
            rows.iter().map(|s| s.taken_back_after).collect::<Vec<_>>(),
        );
    }
}

#[test]
fn exp4_errs_less_than_the_best_model_in_hindsight_and_is_with_the_best_after_its_recovery() {
    for classes in [2, 10] {
        for seed in 1..4 {
            let study = Study::of(&policy("exp4"), classes, seed);
            study.print("exp4", classes);
            assert!(study.error() < study.best_in_hindsight);
            assert!(study.segments[3] < study.best_at_last + 0.02);
            assert!(study.left_after.is_some_and(|queries| queries < 300));
            assert!(study.taken_back_after.is_some_and(|queries| queries < 500));
        }
    }
}
