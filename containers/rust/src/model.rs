//! What a model author implements, and the care that surrounds each call of it.
//!
//! Invariant: each batch gets exactly one answer, whatever the model does.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use clipper_rpc::input::InputBatch;
use clipper_rpc::message::{FromContainer, Predict, Prediction};
use clipper_rpc::output::{Element, OutputBatch};

/// A model. One batch is computed at a time.
pub trait Model {
    /// Answers a batch: one output for each input, in order.
    ///
    /// # Errors
    /// A sentence that says why the whole batch failed; operators and applications read it. Outputs that fail
    /// one by one are [`Element::Nil`].
    fn predict(&mut self, inputs: &InputBatch) -> Result<OutputBatch, String>;
}

/// Calls the model and says what came of it.
pub(crate) fn answer(model: &mut impl Model, batch: &Predict) -> FromContainer {
    let id = batch.id;
    let started = Instant::now();
    let outcome = catch_unwind(AssertUnwindSafe(|| model.predict(&batch.inputs)))
        .unwrap_or_else(|panic| Err(format!("the model panicked: {}", panic_message(&*panic))));
    let elapsed_micros = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
    match outcome.and_then(|outputs| sendable(outputs, batch.inputs.len())) {
        Ok((outputs, errors)) => {
            FromContainer::Prediction(Prediction { id, elapsed_micros, outputs, errors })
        }
        Err(message) => FromContainer::Error { id, message },
    }
}

/// Outputs that the protocol can carry, and by index why others were taken out of them.
///
/// # Errors
/// If there is not one output for each of `count` inputs, or together they are too large.
fn sendable(mut outputs: OutputBatch, count: usize) -> Result<(OutputBatch, BTreeMap<u32, String>), String> {
    outputs.check()?;
    if outputs.len() != count {
        let found = outputs.len();
        return Err(format!(
            "the model returned {found} outputs for {count} inputs; it must return one for each"
        ));
    }
    let mut errors = BTreeMap::new();
    if let OutputBatch::Elements(elements) = &mut outputs {
        for (index, element) in (0..).zip(elements) {
            let size = element.size();
            if size > MAX_OUTPUT_BYTES {
                *element = Element::Nil;
                errors.insert(
                    index,
                    format!("the output has {size} bytes; the most allowed are {MAX_OUTPUT_BYTES}"),
                );
            }
        }
    }
    let size = outputs.size();
    if size > MAX_OUTPUT_BYTES {
        return Err(format!("the outputs have {size} bytes; the most allowed are {MAX_OUTPUT_BYTES}"));
    }
    Ok((outputs, errors))
}

/// The most bytes of the outputs of a batch: those of a message, without what is around them.
const MAX_OUTPUT_BYTES: usize = (256 << 20) - (1 << 20);

fn panic_message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use clipper_rpc::input::{Input, InputType};

    use super::*;

    struct Function<F>(F);

    impl<F: FnMut(&InputBatch) -> Result<OutputBatch, String>> Model for Function<F> {
        fn predict(&mut self, inputs: &InputBatch) -> Result<OutputBatch, String> {
            self.0(inputs)
        }
    }

    fn answer_two(model: impl FnMut(&InputBatch) -> Result<OutputBatch, String>) -> FromContainer {
        let inputs = InputBatch::join(InputType::Strings, &[Input::string("a"), Input::string("b")]);
        answer(&mut Function(model), &Predict { id: 9, budget_micros: 0, inputs })
    }

    #[test]
    fn a_wrong_number_of_outputs_fails_the_batch() {
        let FromContainer::Error { id: 9, message } = answer_two(|_| Ok(OutputBatch::texts(["x"]))) else {
            panic!("expected an error")
        };
        assert_eq!(message, "the model returned 1 outputs for 2 inputs; it must return one for each");
    }

    #[test]
    fn an_output_that_is_too_large_fails_its_own_input() {
        let large = Bytes::from(vec![0; MAX_OUTPUT_BYTES + 1]);
        let outputs = vec![Element::Bytes(large), Element::Text("ok".into())];
        let FromContainer::Prediction(prediction) =
            answer_two(|_| Ok(OutputBatch::Elements(outputs.clone())))
        else {
            panic!("expected a prediction")
        };
        assert_eq!(prediction.outputs, OutputBatch::Elements(vec![Element::Nil, Element::Text("ok".into())]));
        assert_eq!(prediction.errors[&0], "the output has 267386881 bytes; the most allowed are 267386880");
    }

    #[test]
    fn outputs_that_the_protocol_cannot_carry_fail_the_batch_and_not_the_container() {
        let data = Bytes::from(vec![0; 12]);
        let large = Element::Bytes(Bytes::from(vec![0; MAX_OUTPUT_BYTES / 2 + 1]));
        for (outputs, reason) in [
            (OutputBatch::Elements(vec![large; 2]), "the outputs have 267386882 bytes; the most allowed"),
            (
                OutputBatch::Scalars { dtype: InputType::Doubles, data: data.clone() },
                "12 bytes are no whole number of doubles",
            ),
            (
                OutputBatch::Scalars { dtype: InputType::Strings, data: data.slice(..2) },
                "strings are no numbers",
            ),
            (
                OutputBatch::Vectors { dtype: InputType::Ints, lengths: vec![1, 1], data },
                "the lengths of the vectors add up to 8 bytes of ints, and there are 12",
            ),
        ] {
            let FromContainer::Error { message, .. } = answer_two(|_| Ok(outputs.clone())) else {
                panic!("expected an error")
            };
            assert!(message.contains(reason), "{message}");
        }
    }

    #[test]
    fn a_panic_fails_the_batch_and_not_the_container() {
        let FromContainer::Error { message, .. } = answer_two(|_| panic!("out of cheese")) else {
            panic!("expected an error")
        };
        assert_eq!(message, "the model panicked: out of cheese");
    }
}
