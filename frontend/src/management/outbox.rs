//! What HTTP workers leave for the exchange with management, and what it counts for scrapes.
//!
//! Invariant: the feedback that waits is bounded in number and in bytes, and so is what one exchange takes of it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use clipper_rpc::selection::{ForwardedFeedback, Verdict};

/// How many feedbacks may wait to be passed on to other frontends.
const MOST_FORWARDED: usize = 10_000;
/// How many bytes of them may wait.
const MOST_BYTES: usize = 16 << 20;
/// How many bytes of them are passed on at once: management must have them before its time for an answer is over.
const BYTES_AT_ONCE: usize = 1 << 20;

/// The outbox of one frontend.
#[derive(Default)]
pub struct Outbox {
    /// Held for a push or to take some.
    forwarded: Mutex<Forwarded>,
    made: AtomicU64,
    failed: AtomicU64,
}

/// Feedback that waits, each with its size.
#[derive(Default)]
struct Forwarded {
    waiting: VecDeque<(usize, ForwardedFeedback)>,
    bytes: usize,
}

impl Outbox {
    /// Has feedback passed on to the frontend that answered the query; whether there is room for it.
    pub fn forward(&self, feedback: ForwardedFeedback) -> bool {
        let size = size(&feedback);
        let mut forwarded = self.lock();
        let room = forwarded.waiting.len() < MOST_FORWARDED && forwarded.bytes + size <= MOST_BYTES;
        if room {
            forwarded.bytes += size;
            forwarded.waiting.push_back((size, feedback));
        }
        room
    }

    /// Takes what is to be passed on next, and whether there is more.
    pub fn take(&self) -> (Vec<ForwardedFeedback>, bool) {
        let mut forwarded = self.lock();
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while bytes < BYTES_AT_ONCE
            && let Some((size, feedback)) = forwarded.waiting.pop_front()
        {
            forwarded.bytes -= size;
            bytes += size;
            taken.push(feedback);
        }
        (taken, !forwarded.waiting.is_empty())
    }

    /// Counts an exchange.
    pub fn succeed(&self) {
        self.made.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a call that failed.
    pub fn fail(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    /// How many exchanges there were.
    pub fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }

    /// How many calls failed.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Forwarded> {
        self.forwarded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What feedback takes in a request, in bytes, roughly.
fn size(feedback: &ForwardedFeedback) -> usize {
    let label = match &feedback.verdict {
        Verdict::Reward(_) => 0,
        Verdict::Label(label) => label.to_string().len(),
    };
    size_of::<ForwardedFeedback>() + feedback.application.as_str().len() + label
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feedback(query_id: u64, label: usize) -> ForwardedFeedback {
        let verdict = Verdict::Label("x".repeat(label).into());
        ForwardedFeedback { application: "app".parse().unwrap(), query_id, verdict }
    }

    #[test]
    fn large_feedback_is_passed_on_in_several_exchanges_and_none_is_lost() {
        let outbox = Outbox::default();
        (0..200).for_each(|query_id| assert!(outbox.forward(feedback(query_id, 16 << 10))));
        let mut passed_on = Vec::new();
        loop {
            let (taken, more) = outbox.take();
            let bytes = taken.iter().map(size).sum::<usize>();
            assert!(bytes <= BYTES_AT_ONCE + size(&feedback(0, 16 << 10)), "{bytes}");
            passed_on.extend(taken.iter().map(|feedback| feedback.query_id));
            if !more {
                break;
            }
        }
        assert_eq!(passed_on, (0..200).collect::<Vec<_>>());
    }

    #[test]
    fn what_waits_is_bounded_in_number_and_in_bytes() {
        let outbox = Outbox::default();
        let taken = (0..20_000).take_while(|&query_id| outbox.forward(feedback(query_id, 0))).count();
        assert_eq!(taken, MOST_FORWARDED);
        let outbox = Outbox::default();
        let taken = (0..20_000).take_while(|&query_id| outbox.forward(feedback(query_id, 16 << 10))).count();
        assert!((900..=1024).contains(&taken), "{taken}");
    }
}
