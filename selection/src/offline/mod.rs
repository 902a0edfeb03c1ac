//! Replay and offline evaluation: what the decision log proves, and what another policy would have earned.
//!
//! Reads what it is handed, line by line, and opens no file. Everything follows from its arguments, so that a result can be
//! had again.
//!
//! # Layout
//! - [`lines`]: the lines of a file, and a log's records.
//! - [`replay`]: whether the logged choices and changes can be computed again, with [`timeline`] for the states they read.
//! - [`join`]: decisions with their feedback.
//! - [`target`]: a policy to evaluate, and [`simulated`]: it with states of its own.
//! - [`off_policy`]: what a target would have earned, from what one model at a time earned; with [`reward_model`] for what the
//!   others might have, and [`estimate`] for the figures.
//! - [`full_information`]: what a target would have earned, where it is known of every model; with [`rounds`] for what is read.
//! - [`export`]: for other programs.

pub mod estimate;
pub mod export;
pub mod full_information;
pub mod join;
pub mod lines;
pub mod off_policy;
pub mod replay;
pub mod reward_model;
pub mod rounds;
pub mod simulated;
pub mod target;
mod timeline;

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Unreadable(#[from] std::io::Error),
    /// A line makes no sense.
    #[error("line {line}: {problem}")]
    Line {
        /// Its number, from 1.
        line: u64,
        /// What is wrong, and what was expected.
        problem: String,
    },
    /// The whole makes no sense.
    #[error("{0}")]
    Unfit(String),
}
