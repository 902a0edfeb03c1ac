//! Model selection without a cluster: which models to ask, what to make of their outputs, what to learn from feedback.
//!
//! Pure functions of their arguments: no clock, no lock, no global chance. A frontend calls them on the path of a
//! prediction and of a feedback; the offline tools call the same ones on what was logged.
//!
//! # Layout
//! - [`validate`]: what a policy's parameters must be.
//! - [`learner`]: a policy over its candidates: from statistics to beliefs, from beliefs to a choice, from a lesson to a change.
//! - [`combine`]: from outputs to one output with a confidence.
//! - [`mod@loss`]: what an output costs, given a label.
//! - [`value`]: outputs as JSON values.
//! - [`log`]: the decision log's records.
//! - [`offline`]: replay and offline evaluation.

pub mod combine;
pub mod learner;
pub mod log;
pub mod loss;
pub mod offline;
pub mod validate;
pub mod value;
