//! What a model author implements, and the care that surrounds each call of it.
//!
//! Invariant: each batch gets exactly one answer, whatever the model does.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use clipper_rpc::input::InputBatch;
use clipper_rpc::message::{FromContainer, Predict, Prediction};
use clipper_rpc::output::OutputBatch;

/// A model. One batch is computed at a time.
pub trait Model {
    /// Answers a batch: one output for each input, in order.
    ///
    /// # Errors
    /// A sentence that says why the whole batch failed; operators and applications read it. Outputs that fail
    /// one by one are [`Element::Nil`](clipper_rpc::output::Element::Nil).
    fn predict(&mut self, inputs: &InputBatch) -> Result<OutputBatch, String>;
}

/// Calls the model and says what came of it.
pub(crate) fn answer(model: &mut impl Model, batch: &Predict) -> FromContainer {
    let id = batch.id;
    let started = Instant::now();
    let outcome = catch_unwind(AssertUnwindSafe(|| model.predict(&batch.inputs)))
        .unwrap_or_else(|panic| Err(format!("the model panicked: {}", panic_message(&*panic))));
    match outcome {
        Ok(outputs) if outputs.len() == batch.inputs.len() => FromContainer::Prediction(Prediction {
            id,
            elapsed_micros: u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX),
            outputs,
            errors: BTreeMap::new(),
        }),
        Ok(outputs) => FromContainer::Error {
            id,
            message: format!(
                "the model returned {} outputs for {} inputs; it must return one for each",
                outputs.len(),
                batch.inputs.len()
            ),
        },
        Err(message) => FromContainer::Error { id, message },
    }
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}

#[cfg(test)]
mod tests {
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
    fn a_panic_fails_the_batch_and_not_the_container() {
        let FromContainer::Error { message, .. } = answer_two(|_| panic!("out of cheese")) else {
            panic!("expected an error")
        };
        assert_eq!(message, "the model panicked: out of cheese");
    }
}
