//! What a policy's parameters must be.

use clipper_rpc::selection::Selection;

/// Says in one sentence what is wrong with a selection and what was expected, naming the parameter.
///
/// # Errors
/// If a parameter is not finite or out of its range, or the parts do not go together (`mean` with outputs declared
/// as labels, `majority_vote` with numbers).
pub fn validate(selection: &Selection) -> Result<(), String> {
    todo!()
}
