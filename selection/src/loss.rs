//! What an output costs, given a label.
//!
//! Called for every candidate of every feedback. Invariant: a loss is in [0, 1], whatever the models answer.

use clipper_rpc::output::Output;
use clipper_rpc::selection::Loss;
use serde_json::Value;

use crate::value::{number, output_json, same};

/// The loss in [0, 1] of an output. Numbers are equal by value; anything else by its JSON, or as text.
///
/// # Errors
/// If the loss needs a number and the label is none (a sentence for the application). An output that is no number
/// costs 1.
pub fn loss(loss: Loss, output: &Output, label: &Value) -> Result<f64, String> {
    match loss {
        Loss::ZeroOne => Ok(if is_label(output, label) { 0.0 } else { 1.0 }),
        Loss::Absolute { scale } => Ok((distance(output, label)? / scale).min(1.0)),
        Loss::Squared { scale } => Ok((distance(output, label)? / scale).powi(2).min(1.0)),
    }
}

/// Whether an output is what the label says. A string is also compared with the text itself: `"7"` is the text `7`.
fn is_label(output: &Output, label: &Value) -> bool {
    match (output, label) {
        (Output::Text(text), Value::String(label)) if **text == **label => true,
        _ => same(&output_json(output), label),
    }
}

/// How far an output is from the label; infinitely far if it is no number.
fn distance(output: &Output, label: &Value) -> Result<f64, String> {
    let label = number(label).ok_or_else(|| {
        format!("the label must be a number for this application's loss, but it is {label}")
    })?;
    Ok(number(&output_json(output)).map_or(f64::INFINITY, |output| (output - label).abs()))
}

#[cfg(test)]
mod tests {
    use clipper_rpc::number::Number;
    use serde_json::json;

    use super::*;

    fn double(value: f64) -> Output {
        Output::Number(Number::Double(value))
    }

    #[test]
    fn equal_labels_cost_nothing_in_whatever_form() {
        let zero_one = |output: &Output, label: Value| loss(Loss::ZeroOne, output, &label).unwrap();
        assert_eq!(zero_one(&Output::text("cat"), json!("cat")), 0.0);
        assert_eq!(zero_one(&Output::text("\"cat\""), json!("cat")), 0.0);
        assert_eq!(zero_one(&Output::text("7"), json!("7")), 0.0);
        assert_eq!(zero_one(&double(7.0), json!(7)), 0.0);
        assert_eq!(zero_one(&Output::text("[1, 2.0]"), json!([1.0, 2])), 0.0);
        assert_eq!(zero_one(&double(7.0), json!("7")), 1.0);
        assert_eq!(zero_one(&Output::text("cat"), json!("dog")), 1.0);
    }

    #[test]
    fn distances_cost_by_their_scale_and_at_most_1() {
        let absolute = Loss::Absolute { scale: 4.0 };
        let squared = Loss::Squared { scale: 4.0 };
        assert_eq!(loss(absolute, &double(1.0), &json!(3)), Ok(0.5));
        assert_eq!(loss(squared, &double(1.0), &json!(3)), Ok(0.25));
        assert_eq!(loss(absolute, &double(1.0), &json!(300)), Ok(1.0));
        assert_eq!(loss(squared, &double(1e308), &json!(-1e308)), Ok(1.0));
        assert_eq!(loss(absolute, &double(f64::NAN), &json!(3)), Ok(1.0));
        assert_eq!(loss(absolute, &Output::text("many"), &json!(3)), Ok(1.0));
    }

    #[test]
    fn a_label_that_is_no_number_is_named() {
        let error = loss(Loss::Absolute { scale: 1.0 }, &double(1.0), &json!("many")).unwrap_err();
        assert_eq!(error, "the label must be a number for this application's loss, but it is \"many\"");
    }
}
