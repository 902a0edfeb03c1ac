//! Feedback that other frontends received, until there is room to learn from it.
//!
//! Owned by the exchange. Invariant: bounded in number and in bytes, however long applications have
//! no room.

use std::collections::{HashSet, VecDeque};

use clipper_rpc::names::AppName;
use clipper_rpc::selection::{ForwardedFeedback, Verdict};
use serde_json::Value;

/// The most feedbacks that wait.
const MOST: usize = 10_000;
/// The most bytes that they take in memory.
const MOST_BYTES: usize = 16 << 20;

/// Feedback that waits, the oldest first.
#[derive(Default)]
pub(crate) struct Inbox {
    /// Each with its size in bytes.
    waiting: VecDeque<(ForwardedFeedback, usize)>,
    bytes: usize,
}

impl Inbox {
    /// Has feedback wait. Returns false if there is no room for it.
    pub fn put(&mut self, feedback: ForwardedFeedback) -> bool {
        let size = size(&feedback);
        let room = self.waiting.len() < MOST && self.bytes + size <= MOST_BYTES;
        if room {
            self.bytes += size;
            self.waiting.push_back((feedback, size));
        }
        room
    }

    /// Hands over what waits. `take` returns false if the application has no room: then this
    /// feedback and what follows of the same application goes on waiting.
    pub fn hand_over(&mut self, mut take: impl FnMut(&ForwardedFeedback) -> bool) {
        let mut full: HashSet<AppName> = HashSet::new();
        self.waiting.retain(|(feedback, size)| {
            let waits = full.contains(&feedback.application) || !take(feedback);
            if !waits {
                self.bytes -= size;
            } else if !full.contains(&feedback.application) {
                full.insert(feedback.application.clone());
            }
            waits
        });
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

/// The memory that a feedback takes, in bytes; an estimate.
fn size(feedback: &ForwardedFeedback) -> usize {
    let label = match &feedback.verdict {
        Verdict::Label(label) => heap(label),
        Verdict::Reward(_) => 0,
    };
    size_of::<ForwardedFeedback>() + feedback.application.as_str().len() + label
}

/// The memory that a value takes besides itself, in bytes. Fields take about twice their own size
/// in the tree of an object.
fn heap(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(values) => size_of_val(values.as_slice()) + values.iter().map(heap).sum::<usize>(),
        Value::Object(fields) => {
            let field = 2 * (size_of::<String>() + size_of::<Value>());
            fields.iter().map(|(name, value)| field + name.len() + heap(value)).sum()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn feedback(application: &str, query_id: u64, label: Value) -> ForwardedFeedback {
        let application = application.parse().unwrap();
        ForwardedFeedback { application, query_id, verdict: Verdict::Label(label) }
    }

    #[test]
    fn no_more_feedback_waits_than_there_is_room_for_in_number_and_in_bytes() {
        let small = |query_id| feedback("a", query_id, json!(1));
        let mut inbox = Inbox::default();
        assert!((0..MOST as u64).all(|query_id| inbox.put(small(query_id))));
        assert!(!inbox.put(small(0)));

        // Some 16 KiB as text, and 16 times as much in memory.
        let large = |query_id| feedback("a", query_id, json!(vec![0; 8000]));
        let mut inbox = Inbox::default();
        let taken = (0..1000).take_while(|&query_id| inbox.put(large(query_id))).count();
        assert!((50..100).contains(&taken), "{taken}");
        inbox.hand_over(|_| true);
        assert!(inbox.is_empty() && inbox.put(large(0)));
    }

    #[test]
    fn an_application_without_room_is_asked_once_and_keeps_nobody_else_waiting() {
        let mut inbox = Inbox::default();
        for query_id in 0..6 {
            assert!(inbox.put(feedback(["a", "b"][query_id as usize % 2], query_id, json!("cat"))));
        }
        let mut asked = Vec::new();
        inbox.hand_over(|feedback| {
            asked.push(feedback.query_id);
            feedback.application.as_str() == "b" || feedback.query_id < 2
        });
        assert_eq!(asked, [0, 1, 2, 3, 5]);
        let mut left = Vec::new();
        inbox.hand_over(|feedback| {
            left.push(feedback.query_id);
            true
        });
        assert_eq!(left, [2, 4]);
    }
}
