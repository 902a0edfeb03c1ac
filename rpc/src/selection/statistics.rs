//! What is learned of each model, and how it changes.
//!
//! Two things are learned of a model: how good its outputs are, by feedback, and how often it fails to answer in time, by
//! the queries that asked it. Either forgets at a pace of its own, so each is scaled by itself. Invariant: a model of
//! which nothing is known is the same as one that is not there, and as one whose figures are all zero.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::names::ModelName;

/// What is learned of each model. A model that is not in it has neither figures nor misses.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Statistics(pub BTreeMap<ModelName, ModelStatistics>);

/// What is learned of one model.
///
/// Written as the list of its figures where the model missed no query lately, as it was before misses were learned;
/// otherwise as a pair of that list and the part that was missed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "Written", into = "Written")]
pub struct ModelStatistics {
    /// The first [`TOTALS`] are how often the model's loss became known and the sum of its rewards; the meaning of the rest
    /// is the policy's. A figure past the end is zero.
    pub figures: Vec<f64>,
    /// The part of the queries that asked the model lately and that it did not answer in time, in [0, 1]. Of the shared state
    /// only: users share the models' containers.
    pub missed: f64,
}

/// [`ModelStatistics`] as they are written.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Figures(Vec<f64>),
    WithMisses(Vec<f64>, f64),
}

/// How many figures of a model only ever have something added, so that no feedback goes uncounted when others forget.
pub const TOTALS: usize = 2;

/// A change of [`Statistics`], by model.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Change(pub BTreeMap<ModelName, Affine>);

/// A change of one model's statistics: `figure + add` for the first [`TOTALS`] figures, and `figure * scale + add` for the
/// rest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Affine {
    /// What each figure but the first [`TOTALS`] is multiplied with, first.
    pub scale: f64,
    /// What is added to each figure, then. Figures past its end have nothing added.
    pub add: Vec<f64>,
    /// The change of [`ModelStatistics::missed`], if it changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missed: Option<Decay>,
}

/// A change of a mean that forgets: `mean * scale + add`. A mean in [0, 1] stays there if `scale` and `add` are not
/// negative and add up to at most 1, and so does one that several such changes are applied to, in any order.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Decay {
    /// What the mean is multiplied with, first.
    pub scale: f64,
    /// What is added to it, then.
    pub add: f64,
}

impl Statistics {
    /// The figures of a model; none if nothing is learned of it.
    pub fn of(&self, model: &ModelName) -> &[f64] {
        self.0.get(model).map_or(&[], |of| of.figures.as_slice())
    }

    /// The part of the queries that asked a model lately and that it did not answer in time, in [0, 1].
    pub fn missed(&self, model: &ModelName) -> f64 {
        let missed = self.0.get(model).map_or(0.0, |of| of.missed);
        if missed.is_nan() { 0.0 } else { missed.clamp(0.0, 1.0) }
    }

    /// Changes what `change` names.
    pub fn apply(&mut self, change: &Change) {
        for (model, affine) in &change.0 {
            let of = self.0.entry(model.clone()).or_default();
            affine.apply_to(&mut of.figures);
            if let Some(decay) = affine.missed {
                of.missed = decay.of(of.missed);
            }
        }
    }
}

impl Change {
    /// Has `later` come after it: to apply the result is to apply both, in order.
    pub fn then(&mut self, later: &Self) {
        for (model, affine) in &later.0 {
            match self.0.get_mut(model) {
                Some(earlier) => earlier.then(affine),
                None => drop(self.0.insert(model.clone(), affine.clone())),
            }
        }
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Affine {
    /// A change of nothing but the part of missed queries.
    pub fn of_missed(decay: Decay) -> Self {
        Self { scale: 1.0, add: Vec::new(), missed: Some(decay) }
    }

    /// Whether all its numbers are finite, and the part of missed queries stays in [0, 1].
    pub fn is_sound(&self) -> bool {
        self.scale.is_finite()
            && self.add.iter().all(|add| add.is_finite())
            && self.missed.is_none_or(Decay::is_sound)
    }

    fn then(&mut self, later: &Self) {
        self.scale *= later.scale;
        later.apply_to(&mut self.add);
        self.missed = match (self.missed, later.missed) {
            (Some(earlier), Some(later)) => Some(earlier.then(later)),
            (earlier, later) => later.or(earlier),
        };
    }

    /// Applies it to a vector, which becomes at least as long as what is added.
    fn apply_to(&self, figures: &mut Vec<f64>) {
        if figures.len() < self.add.len() {
            figures.resize(self.add.len(), 0.0);
        }
        figures.iter_mut().skip(TOTALS).for_each(|figure| *figure *= self.scale);
        figures.iter_mut().zip(&self.add).for_each(|(figure, add)| *figure += add);
    }
}

impl Decay {
    /// The mean after the change.
    pub fn of(self, mean: f64) -> f64 {
        mean * self.scale + self.add
    }

    /// Both changes as one.
    pub fn then(self, later: Self) -> Self {
        Self { scale: self.scale * later.scale, add: later.of(self.add) }
    }

    /// Whether it keeps a mean in [0, 1], but for rounding.
    fn is_sound(self) -> bool {
        self.scale >= 0.0 && self.add >= 0.0 && self.scale + self.add <= 1.0 + 1e-9
    }
}

impl From<Vec<f64>> for ModelStatistics {
    /// The figures of a model that missed nothing.
    fn from(figures: Vec<f64>) -> Self {
        Self { figures, missed: 0.0 }
    }
}

impl From<Written> for ModelStatistics {
    fn from(written: Written) -> Self {
        match written {
            Written::Figures(figures) => figures.into(),
            Written::WithMisses(figures, missed) => Self { figures, missed },
        }
    }
}

impl From<ModelStatistics> for Written {
    fn from(ModelStatistics { figures, missed }: ModelStatistics) -> Self {
        if missed == 0.0 { Self::Figures(figures) } else { Self::WithMisses(figures, missed) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decay() -> impl Strategy<Value = Decay> {
        (0.0..=1.0, 0.0..=1.0).prop_map(|(scale, part)| Decay { scale, add: (1.0 - scale) * part })
    }

    fn change() -> impl Strategy<Value = Change> {
        let scale = prop_oneof![Just(1.0), 0.0..1.0];
        let affine = (scale, prop::collection::vec(-9.0..9.0, 0..6), prop::option::of(decay()))
            .prop_map(|(scale, add, missed)| Affine { scale, add, missed });
        prop::collection::btree_map("[abc]".prop_map(|name| name.parse().unwrap()), affine, 0..4)
            .prop_map(Change)
    }

    proptest! {
        #[test]
        fn a_composed_change_is_both_in_order(first in change(), second in change(), third in change()) {
            let mut one_by_one = Statistics::default();
            [&first, &second, &third].into_iter().for_each(|change| one_by_one.apply(change));
            let mut at_once = Statistics::default();
            at_once.apply(&first);
            let mut composed = second;
            composed.then(&third);
            at_once.apply(&composed);
            prop_assert_eq!(one_by_one.0.len(), at_once.0.len());
            for (model, one) in &one_by_one.0 {
                for (one, other) in one.figures.iter().zip(at_once.of(model)) {
                    prop_assert!((one - other).abs() < 1e-9);
                }
                prop_assert!((one.missed - at_once.missed(model)).abs() < 1e-9);
                prop_assert!((0.0..=1.0).contains(&one.missed));
            }
            prop_assert!(composed.0.values().all(Affine::is_sound));
        }

        #[test]
        fn statistics_are_read_as_they_were_written(figures in prop::collection::vec(-9.0..9.0, 0..6), missed in 0.0..1.0) {
            for missed in [0.0, missed] {
                let model = ModelStatistics { figures: figures.clone(), missed };
                let statistics = Statistics(BTreeMap::from([("a".parse().unwrap(), model)]));
                let json = serde_json::to_string(&statistics).unwrap();
                prop_assert_eq!(&serde_json::from_str::<Statistics>(&json).unwrap(), &statistics);
                let packed = rmp_serde::to_vec(&statistics).unwrap();
                prop_assert_eq!(&rmp_serde::from_slice::<Statistics>(&packed).unwrap(), &statistics);
            }
        }
    }

    #[test]
    fn what_is_counted_is_not_scaled() {
        let model: ModelName = "a".parse().unwrap();
        let change = |add: &[f64]| {
            Change(BTreeMap::from([(model.clone(), Affine { scale: 0.5, add: add.to_vec(), missed: None })]))
        };
        let mut statistics = Statistics::default();
        statistics.apply(&change(&[1.0, 0.5, 8.0]));
        statistics.apply(&change(&[1.0]));
        assert_eq!(statistics.of(&model), [2.0, 0.5, 4.0]);
    }

    #[test]
    fn statistics_and_changes_of_a_clipper_that_did_not_learn_misses_are_read() {
        let model: ModelName = "a".parse().unwrap();
        let old = BTreeMap::from([(model.clone(), vec![3.0, 2.0, -0.5])]);
        let packed = rmp_serde::to_vec(&old).unwrap();
        let read: Statistics = rmp_serde::from_slice(&packed).unwrap();
        assert_eq!((read.of(&model), read.missed(&model)), (&[3.0, 2.0, -0.5][..], 0.0));
        assert_eq!(
            rmp_serde::to_vec(&read).unwrap(),
            packed,
            "nothing was missed, so it is written as before"
        );
        let change: Change = serde_json::from_str(r#"{"a": {"scale": 1.0, "add": [1.0]}}"#).unwrap();
        assert_eq!(change.0[&model].missed, None);
    }
}
