//! Serve a model from Rust: implement [`Model`], call [`serve()`].
//!
//! ```no_run
//! use clipper_container::{Config, InputBatch, Model, OutputBatch, serve};
//!
//! struct Sum;
//!
//! impl Model for Sum {
//!     fn predict(&mut self, inputs: &InputBatch) -> Result<OutputBatch, String> {
//!         let rows = inputs.numbers().ok_or("this model takes numbers")?;
//!         Ok(OutputBatch::doubles(&rows.map(|row| row.iter().sum()).collect::<Vec<f64>>()))
//!     }
//! }
//!
//! fn main() -> Result<(), clipper_container::Error> {
//!     serve(Config::from_environment()?, Sum)
//! }
//! ```
//!
//! # Layout
//! - [`config`]: what to serve and where, from the `CLIPPER_*` variables of `docs/protocol.md`.
//! - [`model`]: the trait, and what surrounds a call of it.
//! - [`serve`](serve()): the loop over the sessions with every frontend.

pub mod config;
pub mod model;
mod serve;

pub use clipper_rpc::input::{InputBatch, InputType};
pub use clipper_rpc::output::{Element, OutputBatch};

pub use self::config::{Config, ConfigError};
pub use self::model::Model;
pub use self::serve::{Error, serve};
