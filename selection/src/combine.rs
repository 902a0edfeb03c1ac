//! From outputs to one output with a confidence.
//!
//! Called for every query of an application that asks several models, when an answer may be given. Invariant: what is
//! missing never counts for anything: it lowers the confidence, and nothing else.

use std::borrow::Cow;

use clipper_rpc::number::Number;
use clipper_rpc::output::Output;
use clipper_rpc::selection::OutputKind;
use serde_json::Value;
use smallvec::SmallVec;

use crate::value::{number, output_json, same};

/// One model's output, and its weight in the answer.
#[derive(Debug, Clone)]
pub struct Vote<'a> {
    /// Above 0; the weights of all models that were asked add up to 1.
    pub weight: f64,
    /// What it answered.
    pub output: &'a Output,
    /// The output as JSON.
    value: Cow<'a, Value>,
}

impl<'a> Vote<'a> {
    /// The vote of a model that answered `output`, which is read.
    pub fn new(weight: f64, output: &'a Output) -> Self {
        Self { weight, output, value: Cow::Owned(output_json(output)) }
    }

    /// The vote of a model whose output has been read before, as [`output_json`] does.
    pub fn read(weight: f64, output: &'a Output, value: &'a Value) -> Self {
        Self { weight, output, value: Cow::Borrowed(value) }
    }
}

/// What the votes amount to.
#[derive(Debug, Clone, PartialEq)]
pub struct Combined {
    /// The label with most weight (of equals, the one of the earliest vote), or the weighted mean as a double. The
    /// weights are those of the votes, which need not add up to 1: what is missing lowers the confidence only.
    pub output: Output,
    /// In [0, 1]. Labels: the weight of those that agree. Numbers: (1 - sd / (|mean| + sd)) times the weight that voted.
    pub confidence: f64,
}

/// Weights add up to 1 but for rounding, so that a lead below this is none.
const ROUNDING: f64 = 1e-9;

/// Combines at least one vote. Where numbers are expected, an output that is no finite number has no vote, unless none
/// is: then they vote as labels.
pub fn combine(kind: OutputKind, votes: &[Vote<'_>]) -> Combined {
    let ballot = Ballot { votes };
    let average = match kind {
        OutputKind::Numbers => ballot.average(),
        OutputKind::Labels => None,
        OutputKind::Detected if ballot.has_fractions_only_in_numbers() => ballot.average(),
        OutputKind::Detected => None,
    };
    average.unwrap_or_else(|| ballot.elect())
}

/// Whether the rest of the weight, wherever it goes, cannot change the output: never with numbers, nor where one more
/// output could turn what looks like labels into numbers.
pub fn is_certain(kind: OutputKind, votes: &[Vote<'_>]) -> bool {
    let ballot = Ballot { votes };
    match kind {
        OutputKind::Labels => {}
        OutputKind::Numbers => return false,
        OutputKind::Detected if ballot.values().all(Value::is_number) => return false,
        OutputKind::Detected => {}
    }
    let parties = ballot.parties();
    let first = parties.iter().map(|party| party.weight).fold(0.0, f64::max);
    // The weights but for the first party's: that of equals counts as one that could win.
    let second = parties
        .iter()
        .map(|party| party.weight)
        .fold((0.0, false), |(most, seen), weight| {
            if weight == first && !seen { (most, true) } else { (f64::max(most, weight), seen) }
        })
        .0;
    let rest = 1.0 - parties.iter().map(|party| party.weight).sum::<f64>();
    !parties.is_empty() && (rest <= ROUNDING || first - second > rest + ROUNDING)
}

/// Whether two outputs are the same label: JSON by its value (`1` is `1.0`), and text that is no JSON as a string (`cat`
/// is `"cat"`).
pub fn same_label(one: &Output, other: &Output) -> bool {
    one == other || same(&output_json(one), &output_json(other))
}

/// The votes of one query.
struct Ballot<'a> {
    votes: &'a [Vote<'a>],
}

/// The votes for one label.
struct Party {
    /// The first vote for it.
    first: usize,
    weight: f64,
}

impl<'a> Ballot<'a> {
    fn values(&self) -> impl Iterator<Item = &'a Value> {
        self.votes.iter().map(|vote| &*vote.value)
    }

    /// Whether all values are numbers, and at least one has a fraction or an exponent.
    fn has_fractions_only_in_numbers(&self) -> bool {
        self.values().all(Value::is_number) && self.values().any(Value::is_f64)
    }

    /// The labels, by their first votes.
    fn parties(&self) -> SmallVec<[Party; 8]> {
        let mut parties: SmallVec<[Party; 8]> = SmallVec::new();
        for (index, vote) in self.votes.iter().enumerate() {
            match parties.iter_mut().find(|party| same(&self.votes[party.first].value, &vote.value)) {
                Some(party) => party.weight += vote.weight,
                None => parties.push(Party { first: index, weight: vote.weight }),
            }
        }
        parties
    }

    fn elect(&self) -> Combined {
        let winner = self
            .parties()
            .into_iter()
            .reduce(|best, party| if party.weight > best.weight { party } else { best });
        match winner {
            Some(Party { first, weight }) => {
                Combined { output: self.votes[first].output.clone(), confidence: weight.clamp(0.0, 1.0) }
            }
            None => Combined { output: Output::text("null"), confidence: 0.0 },
        }
    }

    /// The mean of the votes that are numbers; none if none is.
    fn average(&self) -> Option<Combined> {
        let numbers: SmallVec<[(f64, f64); 8]> = self
            .votes
            .iter()
            .filter_map(|vote| number(&vote.value).map(|number| (vote.weight, number)))
            .collect();
        let voted: f64 = numbers.iter().map(|(weight, _)| weight).sum();
        if numbers.is_empty() || voted <= 0.0 {
            return None;
        }
        // From the first number on, so that the mean of equal numbers is that number, whatever rounding does.
        let first = numbers[0].1;
        let mean = first
            + numbers
                .iter()
                .map(|(weight, number)| weight / voted * number - weight / voted * first)
                .sum::<f64>();
        let variance: f64 =
            numbers.iter().map(|(weight, number)| weight / voted * (number - mean).powi(2)).sum();
        let deviation = variance.sqrt();
        // Nothing deviates from a mean of 0: there is no ratio then. Numbers too large to be squared agree on nothing.
        let spread = if deviation == 0.0 {
            0.0
        } else if deviation.is_finite() {
            deviation / (mean.abs() + deviation)
        } else {
            1.0
        };
        Some(Combined {
            output: Output::Number(Number::Double(mean)),
            confidence: ((1.0 - spread) * voted).clamp(0.0, 1.0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn votes<'a>(outputs: &'a [Output], weights: &[f64]) -> Vec<Vote<'a>> {
        outputs.iter().zip(weights).map(|(output, &weight)| Vote::new(weight, output)).collect()
    }

    fn texts(texts: &[&str]) -> Vec<Output> {
        texts.iter().map(|text| Output::text(*text)).collect()
    }

    fn ints(values: &[i32]) -> Vec<Output> {
        values.iter().map(|&value| Output::Number(Number::Int(value))).collect()
    }

    fn double(value: f64) -> Output {
        Output::Number(Number::Double(value))
    }

    #[test]
    fn labels_vote_by_weight_and_what_agrees_is_the_confidence() {
        let outputs = texts(&["cat", "dog", "\"cat\"", "1", "1.0"]);
        let combined = combine(OutputKind::Detected, &votes(&outputs, &[0.25, 0.3, 0.15, 0.1, 0.2]));
        assert_eq!(combined.output, outputs[0]);
        assert!((combined.confidence - 0.4).abs() < 1e-12);
        let numbers = texts(&["2", "1", "1.0"]);
        let combined = combine(OutputKind::Labels, &votes(&numbers, &[0.4, 0.3, 0.3]));
        assert_eq!(combined, Combined { output: numbers[1].clone(), confidence: 0.6 });
    }

    #[test]
    fn an_output_that_has_been_read_is_not_read_again() {
        let outputs = texts(&["1", "2"]);
        let read = Value::from("the same");
        let votes: Vec<_> = outputs.iter().map(|output| Vote::read(0.5, output, &read)).collect();
        assert_eq!(combine(OutputKind::Labels, &votes).confidence, 1.0);
    }

    #[test]
    fn of_equals_the_earliest_wins() {
        let outputs = texts(&["a", "b"]);
        assert_eq!(combine(OutputKind::Labels, &votes(&outputs, &[0.5, 0.5])).output, outputs[0]);
    }

    #[test]
    fn integers_are_averaged_as_doubles() {
        let combined = combine(OutputKind::Numbers, &votes(&ints(&[1, 2]), &[0.5, 0.5]));
        assert_eq!(combined.output, double(1.5));
        let agreed = combine(OutputKind::Numbers, &votes(&ints(&[i32::MAX; 3]), &[0.25, 0.25, 0.25]));
        assert_eq!(agreed.output, double(f64::from(i32::MAX)));
        assert!((agreed.confidence - 0.75).abs() < 1e-12);
    }

    #[test]
    fn a_missing_number_renormalises_the_mean_and_lowers_the_confidence() {
        let combined = combine(OutputKind::Detected, &votes(&texts(&["1.0", "3"]), &[0.25, 0.25]));
        assert_eq!(combined.output, double(2.0));
        // The mean is 2 and the standard deviation 1: 1 - 1/3, of half the weight.
        assert!((combined.confidence - 1.0 / 3.0).abs() < 1e-12);
    }

    #[test]
    fn what_is_no_number_has_no_vote_among_numbers() {
        let outputs = [Output::text("none"), double(f64::NAN), double(4.0)];
        let combined = combine(OutputKind::Numbers, &votes(&outputs, &[0.4, 0.4, 0.2]));
        assert_eq!(combined.output, double(4.0));
        assert!((combined.confidence - 0.2).abs() < 1e-12);
        let none = combine(OutputKind::Numbers, &votes(&outputs[..1], &[0.4]));
        assert_eq!(none, Combined { output: outputs[0].clone(), confidence: 0.4 });
        let zeros = combine(OutputKind::Numbers, &votes(&[double(0.0), double(0.0)], &[0.5, 0.5]));
        assert_eq!(zeros, Combined { output: double(0.0), confidence: 1.0 });
        let huge = combine(OutputKind::Numbers, &votes(&[double(1e308), double(-1e308)], &[0.5, 0.5]));
        assert_eq!(huge, Combined { output: double(0.0), confidence: 0.0 });
    }

    #[test]
    fn kinds_are_detected_by_fractions() {
        let mixed = texts(&["1", "2.0", "cat"]);
        let thirds = [1.0 / 3.0; 3];
        assert_eq!(combine(OutputKind::Detected, &votes(&mixed, &thirds)).output, mixed[0]);
        assert_eq!(combine(OutputKind::Detected, &votes(&mixed[..2], &thirds)).output, double(1.5));
        assert_eq!(combine(OutputKind::Detected, &votes(&ints(&[3, 4, 4]), &thirds)).output, ints(&[4])[0]);
    }

    #[test]
    fn the_missing_cannot_change_an_answer_that_is_certain() {
        let outputs = texts(&["a", "a", "b"]);
        let labels = OutputKind::Labels;
        assert!(is_certain(labels, &votes(&outputs, &[0.3, 0.3, 0.2])));
        assert!(!is_certain(labels, &votes(&outputs, &[0.3, 0.2, 0.2])));
        // A tie would be decided by the order, in which the missing one may come first.
        assert!(!is_certain(labels, &votes(&outputs[..1], &[0.5])));
        assert!(is_certain(labels, &votes(&outputs[..1], &[0.6])));
        assert!(is_certain(labels, &votes(&outputs[1..], &[0.5, 0.5])));
        assert!(!is_certain(labels, &[]));
        assert!(!is_certain(OutputKind::Numbers, &votes(&ints(&[1]), &[1.0])));
        // 1 and 2.5 would be numbers.
        assert!(!is_certain(OutputKind::Detected, &votes(&ints(&[1]), &[0.9])));
        assert!(is_certain(OutputKind::Detected, &votes(&outputs[..1], &[0.9])));
    }

    #[test]
    fn labels_are_the_same_in_every_form() {
        assert!(same_label(&double(1.0), &ints(&[1])[0]));
        assert!(same_label(&Output::text("cat"), &Output::text("\"cat\"")));
        assert!(!same_label(&Output::text("cat"), &Output::text("dog")));
    }
}
