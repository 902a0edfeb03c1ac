//! Trajectories against independent implementations: see `oracle/generate.py`, which writes what is compared with here.
//!
//! The bounds of `ucb1` and `linucb`, which a choice does not show, are compared in the learner's own tests.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use clipper_rpc::names::ModelName;
use clipper_rpc::selection::{Policy, Statistics};
use clipper_selection::learner::{Asked, Beliefs, Choice, Learner, Lesson};
use serde::Deserialize;
use serde::de::DeserializeOwned;

const TOLERANCE: f64 = 1e-9;

/// A script of a model and its reward (or, where weights are learned, its loss, and its propensity) at each lesson, and
/// what is expected then.
#[derive(Deserialize)]
struct Script<L, E> {
    lessons: Vec<L>,
    expected: Vec<E>,
    #[serde(default)]
    eta: f64,
    #[serde(default)]
    floor: f64,
    #[serde(default)]
    share: f64,
    #[serde(default)]
    exploration: f64,
}

#[derive(Deserialize)]
struct LinUcb {
    dimensions: usize,
    alpha: f64,
    ridge: f64,
    lessons: Vec<(usize, f64, Vec<f64>)>,
    probes: Vec<Vec<f64>>,
    expected: Vec<Vec<f64>>,
    sums: Vec<Vec<f64>>,
}

fn read<T: DeserializeOwned>(text: &str) -> T {
    serde_json::from_str(text).unwrap()
}

/// A learner of five models, and what it has learned.
struct Pupil {
    learner: Learner,
    statistics: Statistics,
}

impl Pupil {
    fn new(policy: &Policy) -> Self {
        let models: Vec<ModelName> = "abcde".chars().map(|name| name.to_string().parse().unwrap()).collect();
        Self { learner: Learner::new(policy, &models), statistics: Statistics::default() }
    }

    fn learn(&mut self, lesson: &Lesson<'_>) {
        let change = self.learner.learn(&self.statistics, lesson);
        self.statistics.apply(&change);
    }

    fn partial(&mut self, model: usize, loss: f64, propensity: f64) {
        self.learn(&Lesson::Partial { model, loss, propensity, context: None });
    }

    fn beliefs(&self) -> Beliefs {
        self.learner.beliefs(&self.statistics)
    }

    fn choose(&self, context: Option<&[f64]>) -> Choice {
        self.learner.choose(&self.beliefs(), None, &[], context, 1, 1).unwrap()
    }

    fn means(&self) -> Vec<f64> {
        let beliefs = self.beliefs();
        (0..5).map(|model| self.learner.mean_reward(&beliefs, None, model)).collect()
    }
}

fn assert_close(found: &[f64], expected: &[f64], step: usize) {
    assert_eq!(found.len(), expected.len());
    for (one, other) in found.iter().zip(expected) {
        assert!((one - other).abs() <= TOLERANCE, "{found:?} instead of {expected:?} after {step}");
    }
}

fn highest(of: &[f64]) -> Asked {
    Asked::One((0..of.len()).rev().max_by(|one, other| of[*one].total_cmp(&of[*other])).unwrap())
}

#[test]
fn exp3_follows_numpy() {
    let script: Script<(usize, f64, f64), Vec<f64>> = read(include_str!("oracle/exp3.json"));
    let mut pupil = Pupil::new(&Policy::Exp3 { eta: script.eta, floor: script.floor });
    for (step, (&(model, loss, propensity), expected)) in
        script.lessons.iter().zip(&script.expected).enumerate()
    {
        pupil.partial(model, loss, propensity);
        assert_close(&pupil.choose(None).weights, expected, step);
    }
}

#[test]
fn exp3_ix_follows_numpy() {
    let script: Script<(usize, f64, f64), Vec<f64>> = read(include_str!("oracle/exp3_ix.json"));
    let mut pupil = Pupil::new(&Policy::Exp3Ix {});
    for (step, (&(model, loss, propensity), expected)) in
        script.lessons.iter().zip(&script.expected).enumerate()
    {
        pupil.partial(model, loss, propensity);
        assert_close(&pupil.choose(None).weights, expected, step);
    }
}

#[test]
fn exp4_follows_numpy() {
    let script: Script<Vec<Option<f64>>, Vec<f64>> = read(include_str!("oracle/exp4.json"));
    let mut pupil = Pupil::new(&Policy::Exp4 { eta: script.eta, share: script.share });
    for (step, (losses, expected)) in script.lessons.iter().zip(&script.expected).enumerate() {
        pupil.learn(&Lesson::Full { losses, context: None });
        assert_close(&pupil.choose(None).weights, expected, step);
    }
}

#[test]
fn epsilon_greedy_follows_mabwiser() {
    let script: Script<(usize, f64), Vec<f64>> = read(include_str!("oracle/epsilon_greedy.json"));
    let mut pupil = Pupil::new(&Policy::EpsilonGreedy { epsilon: 0.0, decay: 0.0, discount: 1.0 });
    let mut expected = script.expected.iter();
    for (step, &(model, reward)) in script.lessons.iter().enumerate() {
        pupil.partial(model, 1.0 - reward, 0.3);
        if step + 1 >= 5 {
            let expected = expected.next().unwrap();
            assert_close(&pupil.means(), expected, step);
            assert_eq!(pupil.choose(None).asked, highest(expected));
        }
    }
}

#[test]
fn ucb1_follows_mabwiser() {
    let script: Script<(usize, f64), Vec<f64>> = read(include_str!("oracle/ucb1.json"));
    let mut pupil = Pupil::new(&Policy::Ucb1 { exploration: script.exploration });
    let mut expected = script.expected.iter();
    for (step, &(model, reward)) in script.lessons.iter().enumerate() {
        // Every model is played once first, in order.
        if step < 5 {
            assert_eq!(pupil.choose(None).asked, Asked::One(step));
        }
        pupil.partial(model, 1.0 - reward, 1.0);
        if step + 1 >= 5 {
            assert_eq!(pupil.choose(None).asked, highest(expected.next().unwrap()));
        }
    }
}

#[test]
fn thompson_follows_mabwiser() {
    let script: Script<(usize, f64), Vec<(f64, f64)>> = read(include_str!("oracle/thompson.json"));
    let mut pupil = Pupil::new(&Policy::Thompson { discount: 1.0 });
    let mut expected = script.expected.iter();
    for (step, &(model, reward)) in script.lessons.iter().enumerate() {
        pupil.partial(model, 1.0 - reward, 0.1);
        if step + 1 >= 5 {
            for (name, (successes, failures)) in
                pupil.learner.candidates().iter().zip(expected.next().unwrap())
            {
                // mabwiser counts the prior's one success and one failure.
                let figures = pupil.statistics.of(name);
                assert_close(&[figures[2], figures[3]], &[successes + failures - 2.0, successes - 1.0], step);
            }
        }
    }
}

#[test]
fn linucb_follows_mabwiser() {
    let script: LinUcb = read(include_str!("oracle/linucb.json"));
    let mut pupil = Pupil::new(&Policy::LinUcb {
        dimensions: script.dimensions,
        alpha: script.alpha,
        ridge: script.ridge,
    });
    let mut expected = script.probes.iter().zip(&script.expected);
    for (step, (model, reward, context)) in script.lessons.iter().enumerate() {
        let loss = 1.0 - reward;
        pupil.learn(&Lesson::Partial { model: *model, loss, propensity: 1.0, context: Some(context) });
        if step + 1 >= 5 {
            let (probe, bounds) = expected.next().unwrap();
            assert_eq!(pupil.choose(Some(probe)).asked, highest(bounds), "after {step}");
        }
    }
    for (name, sums) in pupil.learner.candidates().iter().zip(&script.sums) {
        assert_close(&pupil.statistics.of(name)[2..], sums, script.lessons.len());
    }
}
