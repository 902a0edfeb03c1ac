//! From outputs to one output with a confidence.

use clipper_rpc::output::Output;
use clipper_rpc::selection::OutputKind;

/// One model's output, and its weight in the answer.
#[derive(Debug, Clone)]
pub struct Vote<'a> {
    /// Above 0; the weights of all models that were asked add up to 1.
    pub weight: f64,
    /// What it answered.
    pub output: &'a Output,
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

/// Combines at least one vote.
pub fn combine(kind: OutputKind, votes: &[Vote<'_>]) -> Combined {
    todo!()
}

/// Whether the rest of the weight, wherever it goes, cannot change the output: never with numbers.
pub fn is_certain(kind: OutputKind, votes: &[Vote<'_>]) -> bool {
    todo!()
}

/// Whether two outputs are the same label.
pub fn same_label(one: &Output, other: &Output) -> bool {
    todo!()
}
