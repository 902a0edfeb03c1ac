//! What models answer: one output, and the outputs of a batch as they travel.
//!
//! Invariant: the data of numeric outputs is a whole number of little-endian elements of their `dtype`.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::input::InputType;
use crate::number::Number;

/// One model's output for one input. Cheap to clone.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Text: a JSON document, or any other.
    Text(Arc<str>),
    /// Opaque bytes.
    Bytes(Bytes),
    /// One number.
    Number(Number),
    /// A vector of numbers, as little-endian elements of the type.
    Numbers(InputType, Bytes),
}

impl Output {
    /// A text.
    pub fn text(text: impl Into<Arc<str>>) -> Self {
        Self::Text(text.into())
    }

    /// What it holds, in bytes.
    pub fn size(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Bytes(data) | Self::Numbers(_, data) => data.len(),
            Self::Number(number) => size_of_val(number),
        }
    }

    /// The same in memory of its own: vectors that came in a batch hold on to the whole batch.
    pub fn detached(&self) -> Self {
        match self {
            Self::Text(text) => Self::Text(Arc::clone(text)),
            Self::Bytes(data) => Self::Bytes(data.clone()),
            Self::Number(number) => Self::Number(*number),
            Self::Numbers(dtype, data) => Self::Numbers(*dtype, Bytes::copy_from_slice(data)),
        }
    }
}

/// The outputs of a batch, in one of the two forms in which they travel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutputBatch {
    /// Each output on its own: [`Output::Text`], [`Output::Bytes`], or none.
    Elements(Vec<Element>),
    /// One number for each input.
    Scalars {
        /// A numeric type.
        dtype: InputType,
        /// One element for each input.
        data: Bytes,
    },
    /// One vector of numbers for each input.
    Vectors {
        /// A numeric type.
        dtype: InputType,
        /// The number of elements of each vector.
        lengths: Vec<u32>,
        /// The vectors, back to back.
        data: Bytes,
    },
}

/// An output that travels on its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Element {
    /// No output for this input.
    Nil,
    /// Text.
    Text(Arc<str>),
    /// Opaque bytes.
    Bytes(Bytes),
}

impl Element {
    /// The data, in bytes.
    pub fn size(&self) -> usize {
        match self {
            Self::Nil => 0,
            Self::Text(text) => text.len(),
            Self::Bytes(data) => data.len(),
        }
    }
}

impl OutputBatch {
    /// One double for each input.
    pub fn doubles(values: &[f64]) -> Self {
        Self::Scalars {
            dtype: InputType::Doubles,
            data: values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        }
    }

    /// One text for each input.
    pub fn texts<T: Into<Arc<str>>>(texts: impl IntoIterator<Item = T>) -> Self {
        Self::Elements(texts.into_iter().map(|text| Element::Text(text.into())).collect())
    }

    /// The number of outputs.
    pub fn len(&self) -> usize {
        match self {
            Self::Elements(elements) => elements.len(),
            Self::Scalars { dtype, data } => data.len() / dtype.element_size(),
            Self::Vectors { lengths, .. } => lengths.len(),
        }
    }

    /// The data of all outputs, in bytes.
    pub fn size(&self) -> usize {
        match self {
            Self::Elements(elements) => elements.iter().map(Element::size).sum(),
            Self::Scalars { data, .. } | Self::Vectors { data, .. } => data.len(),
        }
    }

    /// Makes sure that the data is what `dtype` and the lengths say.
    ///
    /// # Errors
    /// A sentence that says what does not fit.
    pub fn check(&self) -> Result<(), String> {
        let (dtype, data) = match self {
            Self::Elements(_) => return Ok(()),
            Self::Scalars { dtype, data } | Self::Vectors { dtype, data, .. } => (*dtype, data),
        };
        if !dtype.is_numeric() {
            return Err(format!("{dtype} are no numbers; expected ints, floats or doubles"));
        }
        let found = data.len();
        if !found.is_multiple_of(dtype.element_size()) {
            return Err(format!("{found} bytes are no whole number of {dtype}"));
        }
        let Self::Vectors { lengths, .. } = self else { return Ok(()) };
        let elements: u64 = lengths.iter().map(|&length| u64::from(length)).sum();
        let expected = elements.saturating_mul(dtype.element_size() as u64);
        if expected != found as u64 {
            return Err(format!(
                "the lengths of the vectors add up to {expected} bytes of {dtype}, and there are {found}"
            ));
        }
        Ok(())
    }

    /// Whether there is no output.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The outputs one by one, in order; an input that `errors` names, or that has no output, yields why.
    pub fn into_outputs(self, errors: &BTreeMap<u32, String>) -> Vec<Result<Output, String>> {
        let outputs: Vec<Option<Output>> = match self {
            Self::Elements(elements) => elements
                .into_iter()
                .map(|element| match element {
                    Element::Nil => None,
                    Element::Text(text) => Some(Output::Text(text)),
                    Element::Bytes(bytes) => Some(Output::Bytes(bytes)),
                })
                .collect(),
            Self::Scalars { dtype, data } => {
                Number::all(dtype, &data).map(|number| Some(Output::Number(number))).collect()
            }
            Self::Vectors { dtype, lengths, mut data } => lengths
                .into_iter()
                .map(|length| {
                    Some(Output::Numbers(dtype, data.split_to(length as usize * dtype.element_size())))
                })
                .collect(),
        };
        (0..)
            .zip(outputs)
            .map(|(index, output)| match (errors.get(&index), output) {
                (Some(error), _) => Err(error.clone()),
                (None, Some(output)) => Ok(output),
                (None, None) => Err("the container gave no output for this input".to_owned()),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_come_apart_by_their_lengths() {
        let data: Bytes = [1i32, 2, 3].iter().flat_map(|v| v.to_le_bytes()).collect();
        let batch =
            OutputBatch::Vectors { dtype: InputType::Ints, lengths: vec![2, 0, 1], data: data.clone() };
        let outputs = batch.into_outputs(&BTreeMap::new());
        assert_eq!(outputs[0], Ok(Output::Numbers(InputType::Ints, data.slice(..8))));
        assert_eq!(outputs[1], Ok(Output::Numbers(InputType::Ints, Bytes::new())));
        assert_eq!(outputs[2], Ok(Output::Numbers(InputType::Ints, data.slice(8..))));
    }

    #[test]
    fn an_input_named_in_the_errors_has_no_output() {
        let outputs =
            OutputBatch::doubles(&[1.0, 2.0]).into_outputs(&BTreeMap::from([(1, "too cold".to_owned())]));
        assert!(outputs[0].is_ok());
        assert_eq!(outputs[1], Err("too cold".to_owned()));
    }
}
