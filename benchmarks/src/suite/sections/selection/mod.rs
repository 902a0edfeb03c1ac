//! Selection among models through a running cluster: what the policies make of failures, users and stragglers, and what it costs.
//!
//! - [`failure`], [`personalization`], [`stragglers`]: what is reached; [`feedback`], [`cost`]: at what price.
//! - [`client`]: what asks and tells in all of them.

mod client;
mod cost;
mod failure;
mod feedback;
mod personalization;
mod stragglers;

use crate::section::Section;

pub fn measure(section: &mut Section) -> anyhow::Result<()> {
    section.say(
        "The models are the example `labeller` of the Rust SDK, which is told what is right, and how often to say so. Queries and feedback with labels come \
         from clients of the suite (`benchmarks/src/suite/sections/selection/`), with the numbers of the queries as their only chance.",
    );
    failure::measure(section)?;
    personalization::measure(section)?;
    stragglers::measure(section)?;
    feedback::measure(section)?;
    cost::measure(section)
}
