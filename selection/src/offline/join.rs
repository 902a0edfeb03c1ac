//! Feedback by the query that it is on.
//!
//! Invariant: of several on one query the first counts, as it did when they came.

use std::collections::HashMap;

use serde_json::Value;

use crate::log::Record;

/// What was said of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Judgement {
    /// Microseconds since 1970.
    pub time_micros: u64,
    /// What would have been right.
    pub label: Option<Value>,
    /// The reward of the answer.
    pub reward: f64,
    /// The loss of each candidate, where it is known.
    pub losses: Vec<Option<f64>>,
    /// What candidates answered after the query was: empty, or null for those that did not.
    pub outputs: Vec<Value>,
}

/// The feedback of a log.
#[derive(Debug, Default)]
pub struct Judgements {
    by_query: HashMap<u64, Judgement>,
    /// Feedback that names no query: it says nothing of what an answer earned.
    pub without_query: u64,
}

impl Judgements {
    /// Takes in a record, if it is feedback.
    pub fn add(&mut self, record: Record) {
        if let Record::Feedback { time_micros, query_id, label, reward, losses, outputs, .. } = record {
            match query_id {
                Some(query_id) => {
                    let judgement = Judgement { time_micros, label, reward, losses, outputs };
                    self.by_query.entry(query_id).or_insert(judgement);
                }
                None => self.without_query += 1,
            }
        }
    }

    /// What was said of the answer to a query.
    pub fn on(&self, query_id: u64) -> Option<&Judgement> {
        self.by_query.get(&query_id)
    }
}
