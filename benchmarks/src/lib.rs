//! Measuring prediction servers over HTTP: the load generator behind `clipper bench`.
//!
//! `cli` turns flags into a [`load::Plan`] and calls [`load::run`] or [`search::find_rate`]; `bin/suite` repeats such commands and
//! compares what they report.
//!
//! # Layout
//! - [`load`]: what to send when, and the event loop that does it.
//! - [`report`]: what came of it, as a table, JSON and a plot.
//! - [`search`]: the highest rate that still meets an objective.

pub mod load;
pub mod report;
pub mod search;
