//! The body of a long answer: written while the client takes it.
//!
//! Invariant: what is in memory of its text is one chunk, whatever the outputs become as JSON, and after some of it other
//! requests have their turn.

use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::vec;

use actix_web::body::{BodySize, MessageBody};
use bytes::Bytes;
use clipper_rpc::output::Output;
use tokio::task::yield_now;

use super::answer::Answer;
use crate::output_json::OutputPieces;
use crate::prediction::Prediction;
use crate::worker::request_bytes::Held;

/// The least bytes of a chunk, unless it is the last one.
const CHUNK_BYTES: usize = 16 << 10;

/// After so many bytes, other requests have their turn.
const TURN_BYTES: usize = 128 << 10;

/// A prediction, and whether its output is JSON if that is known.
pub(super) type Checked = (Prediction, Option<bool>);

/// The answers of a request that are not written yet.
pub(super) struct AnswerBody {
    answers: vec::IntoIter<Checked>,
    is_batch: bool,
    /// The output that is being written, and what follows it in its answer.
    output: Option<(OutputPieces, String)>,
    place: Place,
    /// Bytes of this turn.
    written: usize,
    /// The request counts until the client has taken the last chunk.
    _held: Held,
}

/// Where the text stands.
#[derive(PartialEq, Eq)]
enum Place {
    Beginning,
    Within,
    End,
}

impl AnswerBody {
    /// The body that answers `input_batch`, if it `is_batch`, or `input`.
    pub(super) fn new(answers: Vec<Checked>, is_batch: bool, held: Held) -> Self {
        let answers = answers.into_iter();
        Self { answers, is_batch, output: None, place: Place::Beginning, written: 0, _held: held }
    }

    /// Appends a little; whether there is more.
    fn write(&mut self, json: &mut Vec<u8>) -> bool {
        if let Some((output, rest)) = &mut self.output {
            if !output.write(json) {
                json.extend_from_slice(rest.as_bytes());
                self.output = None;
            }
            return true;
        }
        let before: &[u8] = match (&self.place, self.is_batch) {
            (Place::End, _) => return false,
            (Place::Beginning, true) => b"{\"batch_predictions\":[",
            (Place::Within, true) if self.answers.len() > 0 => b",",
            _ => b"",
        };
        json.extend_from_slice(before);
        self.place = Place::Within;
        match self.answers.next() {
            Some((mut prediction, is_json)) => {
                let output = std::mem::replace(&mut prediction.output, Output::text(PLACEHOLDER));
                let answer = serde_json::to_string(&Answer::new(prediction));
                let answer = answer.expect("an answer can be written to memory");
                let (first, rest) = answer.split_once(PLACEHOLDER).expect("every answer has an output");
                json.extend_from_slice(first.as_bytes());
                self.output = Some((OutputPieces::new(output, is_json), rest.to_owned()));
            }
            None => {
                self.place = Place::End;
                if self.is_batch {
                    json.extend_from_slice(b"]}");
                }
            }
        }
        true
    }
}

/// Stands for the output, which comes right after the query's id, while the rest of an answer is written.
const PLACEHOLDER: &str = "null";

impl MessageBody for AnswerBody {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Infallible>>> {
        let this = self.get_mut();
        if this.written >= TURN_BYTES {
            this.written = 0;
            // Woken only once the worker has looked for news from its connections: a task that wakes itself is run again
            // many times before that. It is dropped, as its waker is all that it is for.
            return pin!(yield_now()).poll(context).map(|()| None);
        }
        let mut chunk = Vec::with_capacity(2 * CHUNK_BYTES);
        while chunk.len() < CHUNK_BYTES && this.write(&mut chunk) {}
        this.written += chunk.len();
        Poll::Ready((!chunk.is_empty()).then(|| Ok(chunk.into())))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::poll_fn;
    use serde_json::{Value, json};

    use super::*;
    use crate::computation::failure::Failure;
    use crate::http::answer::{BatchAnswer, PredictAnswer};
    use crate::prediction::Origin;
    use crate::worker::request_bytes::RequestBytes;

    fn predictions() -> Vec<Prediction> {
        let outputs = [Output::text("cat"), Output::text("[null]"), Output::text("x".repeat(100_000))];
        let failures = [None, Some(Failure::TooManyRequests { limit: 7 }), None];
        let all = (0..).zip(outputs.into_iter().zip(failures));
        all.map(|(query_id, (output, failure))| {
            let origin = failure.map_or(Origin::Model, Origin::Failure);
            Prediction { query_id, output, origin, selected: None }
        })
        .collect()
    }

    async fn text(predictions: Vec<Prediction>, is_batch: bool) -> String {
        let held = RequestBytes::new(1).worker().hold(0).unwrap();
        let checked = predictions.into_iter().map(|prediction| (prediction, None)).collect();
        let mut body = AnswerBody::new(checked, is_batch, held);
        let mut text = Vec::new();
        while let Some(Ok(chunk)) = poll_fn(|context| Pin::new(&mut body).poll_next(context)).await {
            text.extend_from_slice(&chunk);
        }
        String::from_utf8(text).unwrap()
    }

    #[actix::test]
    async fn a_long_answer_is_the_same_text_as_a_short_one() {
        let whole = |answer: &PredictAnswer| serde_json::to_string(answer).unwrap();
        let batch_predictions = predictions().into_iter().map(Answer::new).collect();
        let batch = PredictAnswer::Many(BatchAnswer { batch_predictions });
        assert_eq!(text(predictions(), true).await, whole(&batch));
        let one = PredictAnswer::One(Answer::new(predictions().remove(1)));
        assert_eq!(text(predictions().drain(1..2).collect(), false).await, whole(&one));
        let none: Value = serde_json::from_str(&text(Vec::new(), true).await).unwrap();
        assert_eq!(none, json!({"batch_predictions": []}));
    }

    #[actix::test]
    async fn others_have_their_turn_in_the_middle_of_a_long_answer() {
        let bytes = RequestBytes::new(1 << 20).worker();
        let output = Output::text("\u{1}".repeat(1 << 20));
        let prediction = Prediction { query_id: 1, output, origin: Origin::Model, selected: None };
        let mut body = AnswerBody::new(vec![(prediction, None)], false, bytes.hold(1 << 20).unwrap());
        let (mut turns, mut longest) = (0, 0);
        poll_fn(|context| {
            loop {
                match Pin::new(&mut body).poll_next(context) {
                    Poll::Ready(Some(Ok(chunk))) => longest = longest.max(chunk.len()),
                    Poll::Ready(None) => return Poll::Ready(()),
                    Poll::Pending => {
                        turns += 1;
                        return Poll::Pending;
                    }
                    Poll::Ready(Some(Err(never))) => match never {},
                }
            }
        })
        .await;
        assert!(turns >= 6 * (1 << 20) / (2 * TURN_BYTES), "{turns}");
        assert!(longest <= 200_000, "{longest}");
        assert!(bytes.hold(1).is_err(), "it counts until the last chunk is taken");
        drop(body);
        assert!(bytes.hold(1 << 20).is_ok());
    }
}
