//! Users of eight hidden groups, to each of which one model is tuned.

use crate::simulation::{Simulation, policy};

const GROUPS: usize = 8;
const OWN_ACCURACY: f64 = 0.9;
const USERS: usize = 600;
const QUERIES: usize = 20;

/// The mean error of a policy for users who gave as many feedbacks as the index says, and for nobody in particular.
struct Study {
    personal: [f64; 9],
    shared: f64,
}

impl Study {
    /// A model is right as often as `other` where the user is of another group than its own.
    fn of(classes: u32, other: f64, seed: u64) -> Self {
        let mut simulation = Simulation::new(&policy("exp4"), GROUPS, classes, seed);
        let accuracies = |user: usize| {
            let mut accuracies = [other; GROUPS];
            accuracies[user % GROUPS] = OWN_ACCURACY;
            accuracies
        };
        // The shared state is that of an application that has been running.
        for user in 0..1000 {
            simulation.round(&accuracies(user * 5), None);
        }
        let mut study = Self { personal: [0.0; 9], shared: 0.0 };
        let asked = (USERS * QUERIES) as f64;
        for feedbacks in 0..9 {
            for user in 0..USERS {
                let accuracies = accuracies(user);
                for _ in 0..QUERIES {
                    study.personal[feedbacks] += simulation.error(&accuracies, Some(user)) / asked;
                    study.shared += simulation.error(&accuracies, None) / asked / 9.0;
                }
                simulation.round(&accuracies, Some(user));
            }
        }
        let [none, one, two, _, four, .., eight] = study.personal;
        println!(
            "exp4, {classes:2} classes, {other:.1} in other groups: {none:.3} {one:.3} {two:.3} {four:.3} {eight:.3} \
             after 0, 1, 2, 4, 8 feedbacks; shared {:.3}",
            study.shared
        );
        study
    }
}

#[test]
fn after_one_feedback_a_user_is_better_off_than_with_what_all_share() {
    for (classes, other) in [(2, 0.5), (10, 0.1), (10, 0.3), (10, 0.5)] {
        let study = Study::of(classes, other, 1);
        assert!(study.personal[1] < study.shared);
        assert!(study.personal[8] < study.personal[2]);
    }
}

/// Where chance hides the best model least. With two classes, eight answers cannot tell the best of eight models with
/// certainty: the accuracy is then within 10 % of the best model's, which is as good as the Bayesian posterior's.
#[test]
fn after_eight_feedbacks_a_user_is_within_a_tenth_of_the_best_model_of_the_group() {
    let best = 1.0 - OWN_ACCURACY;
    for (classes, other) in [(10, 0.1), (10, 0.2)] {
        assert!(Study::of(classes, other, 2).personal[8] < best * 1.1);
    }
    for (classes, other) in [(2, 0.5), (10, 0.5)] {
        assert!(1.0 - Study::of(classes, other, 2).personal[8] > OWN_ACCURACY * 0.9);
    }
}
