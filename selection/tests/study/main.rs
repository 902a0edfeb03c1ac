//! Policies at work, in simulation. Everything is seeded.
//!
//! What each policy reached is printed: `cargo test -p clipper-selection --test study -- --nocapture`.

mod failure;
mod personalization;
mod simulation;
