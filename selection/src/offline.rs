//! Replay and offline evaluation.
