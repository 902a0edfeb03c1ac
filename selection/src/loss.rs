//! What an output costs, given a label.

use clipper_rpc::output::Output;
use clipper_rpc::selection::Loss;
use serde_json::Value;

/// The loss in [0, 1] of an output. Numbers are equal by value; anything else by its JSON, or as text.
///
/// # Errors
/// If the loss needs a number and the label is none (a sentence for the application). An output that is no number
/// costs 1.
pub fn loss(loss: Loss, output: &Output, label: &Value) -> Result<f64, String> {
    todo!()
}
