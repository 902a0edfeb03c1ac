//! What was decided for recent queries, by query id: what feedback is joined to, and what can be explained.
//!
//! Bounded in number and in age: the oldest are forgotten first.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clipper_rpc::names::AppName;
use clipper_rpc::output::Output;

/// A decision, and what feedback on it needs to know.
pub struct Decided {
    /// The application.
    pub application: AppName,
    /// As it is logged, but for the outputs, which are empty in it.
    pub decision: clipper_selection::log::Decision,
    /// What each candidate answered in time.
    pub outputs: Vec<Option<Output>>,
    /// What was answered.
    pub output: Output,
    /// Whether feedback was applied: there is one for each query.
    pub judged: AtomicBool,
}

/// The recent decisions of a frontend.
pub struct Decisions {}

impl Decisions {
    /// Keeps a decision.
    pub fn record(&self, decided: Arc<Decided>) {
        todo!("{}", decided.decision.query_id)
    }

    /// The decision on a query, unless it is forgotten.
    pub fn get(&self, query_id: u64) -> Option<Arc<Decided>> {
        todo!("{query_id}")
    }
}
