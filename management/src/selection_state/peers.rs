//! The frontends that exchange, and what waits for each until it does so next.
//!
//! Kept in memory by the states' thread. Invariant: a frontend that has not been heard of for [`PRESENT`] has nothing
//! waiting for it.

use std::collections::{BTreeMap, HashMap};
use std::mem::size_of;
use std::time::{Duration, Instant};

use clipper_rpc::selection::{ExchangeRequest, ExchangeResponse, ForwardedFeedback, Verdict};
use serde_json::Value;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::NoExplanation;
use super::bounded::{Bounded, Bounds};

/// How long after its last exchange a frontend is taken to be there. They make one a second, or so.
const PRESENT: Duration = Duration::from_secs(30);
/// How much feedback waits for one frontend.
const FEEDBACK: Bounds = Bounds { count: 1 << 16, bytes: 16 << 20 };
/// How many bytes of it are in one answer, which must arrive in time; the frontend comes again at once for more.
const FEEDBACK_AT_ONCE: usize = 1 << 20;
/// How many queries one frontend is asked to explain in one exchange.
const EXPLANATIONS: usize = 1000;
/// The bits of a query id that count the queries of a frontend, and those above them of its number: see
/// `frontend/src/query_ids.rs`.
const COUNTER_BITS: u32 = 40;
const NUMBER_BITS: u32 = 13;

/// The frontends that exchange.
#[derive(Debug, Default)]
pub(super) struct Peers {
    present: HashMap<Uuid, Peer>,
    /// Who waits for an explanation, by query.
    waiting: BTreeMap<u64, Vec<Explained>>,
}

/// Whom an explanation is sent to.
pub(super) type Explained = oneshot::Sender<Result<String, NoExplanation>>;

#[derive(Debug)]
struct Peer {
    /// As it is in query ids.
    number: u64,
    heard: Instant,
    feedback: Bounded<ForwardedFeedback>,
    explain: Vec<u64>,
    /// The number of its last exchange, and what that was answered: all of it, as what waited was handed over.
    answered: Option<(u64, ExchangeResponse)>,
}

impl Peers {
    /// Takes note of an exchange, and of what it brings for others.
    pub(super) fn hear(&mut self, request: &ExchangeRequest, now: Instant) {
        self.present.retain(|_, peer| now.duration_since(peer.heard) <= PRESENT);
        let number = request.frontend_number % (1 << NUMBER_BITS);
        let peer = self.present.entry(request.frontend).or_insert_with(|| Peer {
            number,
            heard: now,
            feedback: Bounded::new(FEEDBACK),
            explain: Vec::new(),
            answered: None,
        });
        peer.number = number;
        peer.heard = now;
        for (query_id, explanation) in &request.explanations {
            let explained = explanation.clone().ok_or(NoExplanation::Unknown);
            for waiting in self.waiting.remove(query_id).into_iter().flatten() {
                // It may have waited long enough.
                let _ = waiting.send(explained.clone());
            }
        }
    }

    /// Has feedback wait for the frontends that it is for. What is for none that exchanges is dropped.
    pub(super) fn forward(&mut self, feedback: &[ForwardedFeedback]) {
        let mut dropped = 0;
        for item in feedback {
            let bytes = size_of_feedback(item);
            match self.of_query(item.query_id) {
                Some(peer) => dropped += peer.feedback.push(item.clone(), bytes),
                None => dropped += 1,
            }
        }
        if dropped > 0 {
            tracing::warn!(dropped, "feedback for a frontend that is gone or does not keep up is dropped");
        }
    }

    /// The number of the last exchange that a frontend was answered.
    pub(super) fn last(&self, frontend: Uuid) -> Option<u64> {
        Some(self.present.get(&frontend)?.answered.as_ref()?.0)
    }

    /// What an exchange was answered, if it was the frontend's last.
    pub(super) fn answered(&self, frontend: Uuid, number: u64) -> Option<&ExchangeResponse> {
        let (last, response) = self.present.get(&frontend)?.answered.as_ref()?;
        (*last == number).then_some(response)
    }

    /// Completes the answer to an exchange by what waits for the frontend, and keeps it.
    pub(super) fn answer(&mut self, frontend: Uuid, number: u64, response: &mut ExchangeResponse) {
        if let Some(peer) = self.present.get_mut(&frontend) {
            response.feedback = peer.feedback.take(FEEDBACK_AT_ONCE);
            response.explain = std::mem::take(&mut peer.explain);
            peer.answered = Some((number, response.clone()));
        }
    }

    /// Has the frontend that answered a query asked how.
    pub(super) fn explain(&mut self, query_id: u64, answer: Explained, now: Instant) {
        self.waiting.retain(|_, waiting| {
            waiting.retain(|answer| !answer.is_closed());
            !waiting.is_empty()
        });
        let explained = match self.of_query(query_id).filter(|peer| now.duration_since(peer.heard) <= PRESENT)
        {
            None => Err(NoExplanation::FrontendGone),
            Some(peer) if peer.explain.len() >= EXPLANATIONS => Err(NoExplanation::Silent),
            Some(peer) => {
                if !peer.explain.contains(&query_id) {
                    peer.explain.push(query_id);
                }
                self.waiting.entry(query_id).or_default().push(answer);
                return;
            }
        };
        let _ = answer.send(explained);
    }

    /// The frontend that answered a query: of several of the same number, the one that was heard last.
    fn of_query(&mut self, query_id: u64) -> Option<&mut Peer> {
        let number = query_id >> COUNTER_BITS;
        self.present.values_mut().filter(|peer| peer.number == number).max_by_key(|peer| peer.heard)
    }
}

/// How much memory a feedback takes, roughly.
fn size_of_feedback(feedback: &ForwardedFeedback) -> usize {
    let label = match &feedback.verdict {
        Verdict::Reward(_) => 0,
        Verdict::Label(Value::Null | Value::Bool(_) | Value::Number(_)) => 0,
        Verdict::Label(Value::String(text)) => text.len(),
        // Rare, and so measured by what it is written as.
        Verdict::Label(other) => 8 * other.to_string().len(),
    };
    size_of::<ForwardedFeedback>() + label
}

#[cfg(test)]
mod tests {
    use super::super::tests::{feedback, request};
    use super::*;

    fn response() -> ExchangeResponse {
        ExchangeResponse {
            position: clipper_rpc::selection::ExchangePosition { run: Uuid::nil(), sequence: 0 },
            reset: false,
            changes: Vec::new(),
            loaded: Vec::new(),
            feedback: Vec::new(),
            explain: Vec::new(),
        }
    }

    fn answer(peers: &mut Peers, frontend: u128) -> ExchangeResponse {
        let mut response = response();
        peers.answer(Uuid::from_u128(frontend), 1, &mut response);
        response
    }

    #[test]
    fn feedback_waits_for_the_frontend_whose_number_is_in_the_query_id() {
        let mut peers = Peers::default();
        let now = Instant::now();
        peers.hear(&request(1, 1), now);
        // Numbers recur in query ids.
        peers.hear(&ExchangeRequest { frontend_number: 8192 + 2, ..request(2, 1) }, now);
        let (first, second, nobody) = (feedback(1 << 40), feedback((2 << 40) + 9), feedback(3 << 40));
        peers.forward(&[first.clone(), second.clone(), nobody]);
        assert_eq!(answer(&mut peers, 1).feedback, [first]);
        assert_eq!(answer(&mut peers, 2).feedback, [second]);
        assert_eq!(answer(&mut peers, 2).feedback, []);
    }

    #[test]
    fn feedback_for_a_frontend_that_does_not_ask_for_it_is_bounded() {
        let mut peers = Peers::default();
        peers.hear(&request(1, 1), Instant::now());
        let label = Verdict::Label("x".repeat(1 << 20).into());
        let large = ForwardedFeedback { verdict: label, ..feedback(1 << 40) };
        for _ in 0..100 {
            peers.forward(std::slice::from_ref(&large));
        }
        let mut waited = 0;
        loop {
            match answer(&mut peers, 1).feedback.len() {
                0 => break,
                handed_over => assert_eq!(handed_over, 1, "an answer is bounded, too"),
            }
            waited += 1;
        }
        assert!((8..=16).contains(&waited), "{waited}");
    }

    #[test]
    fn a_frontend_that_has_not_exchanged_for_long_has_nothing_waiting() {
        let mut peers = Peers::default();
        let now = Instant::now();
        peers.hear(&request(1, 1), now);
        answer(&mut peers, 1);
        peers.hear(&request(2, 1), now + 2 * PRESENT);
        peers.forward(&[feedback(1 << 40)]);
        assert!(peers.answered(Uuid::from_u128(1), 1).is_none());
        peers.hear(&request(1, 2), now + 2 * PRESENT);
        assert_eq!(answer(&mut peers, 1).feedback, []);
    }

    #[test]
    fn a_query_is_explained_by_the_frontend_that_answered_it() {
        let mut peers = Peers::default();
        let now = Instant::now();
        peers.hear(&request(1, 1), now);
        let asked = |peers: &mut Peers, query_id, now| {
            let (answer, explained) = oneshot::channel();
            peers.explain(query_id, answer, now);
            explained
        };
        let query = (1 << 40) + 5;
        let (mut known, mut again) = (asked(&mut peers, query, now), asked(&mut peers, query, now));
        let mut unknown = asked(&mut peers, query + 1, now);
        assert_eq!(answer(&mut peers, 1).explain, [query, query + 1]);
        let explanations = vec![(query, Some("because".to_owned())), (query + 1, None)];
        peers.hear(&ExchangeRequest { explanations, ..request(1, 2) }, now);
        for known in [&mut known, &mut again] {
            assert_eq!(known.try_recv().unwrap(), Ok("because".to_owned()));
        }
        assert_eq!(unknown.try_recv().unwrap(), Err(NoExplanation::Unknown));

        let mut elsewhere = asked(&mut peers, 2 << 40, now);
        assert_eq!(elsewhere.try_recv().unwrap(), Err(NoExplanation::FrontendGone));
        let mut late = asked(&mut peers, query, now + 2 * PRESENT);
        assert_eq!(late.try_recv().unwrap(), Err(NoExplanation::FrontendGone));
    }
}
