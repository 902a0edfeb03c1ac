//! What is counted and timed on the way of a prediction.
//!
//! # Layout
//! - [`application`], [`candidate`], [`feedback`], [`model`], [`replica`]: what is kept for each; [`outcome`]: the kinds of answers.
//! - [`histogram`]: durations and sizes, recorded without a lock; [`window`]: those of the last minutes;
//!   [`meter`]: rates.
//!
//! Invariant: recording is some relaxed atomic additions, never a lock. A scrape takes locks, but only such as nothing on
//! the way of a prediction takes, and its numbers may be a moment apart from each other.

pub mod application;
pub mod candidate;
pub mod feedback;
pub mod histogram;
pub mod meter;
pub mod model;
pub mod outcome;
pub mod replica;
pub mod window;

pub use self::application::ApplicationMetrics;
pub use self::candidate::{CandidateMetrics, Contribution};
pub use self::feedback::FeedbackStatus;
pub use self::histogram::Histogram;
pub use self::model::{CacheLookup, ModelMetrics};
pub use self::outcome::Outcome;
pub use self::replica::ReplicaMetrics;
