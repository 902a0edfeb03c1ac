//! Policies at work, in simulation. Everything is seeded.
//!
//! What each policy reached is printed: `cargo test -p clipper-selection --test study -- --nocapture`.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

mod availability;
mod failure;
mod personalization;
mod simulation;
