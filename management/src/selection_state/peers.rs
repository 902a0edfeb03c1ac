//! The frontends that exchange, and what waits for each until it does so next.
//!
//! Kept in memory by the states' thread. Invariant: a frontend that has not been heard of for [`PRESENT`] has nothing
//! waiting for it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use clipper_rpc::selection::{
    ExchangeRequest, ExchangeResponse, ForwardedFeedback, StateKey, Statistics, Verdict,
};
use serde_json::Value;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::ring::size_of_change;
use super::{NoExplanation, StateError};
use crate::bounded::{Bounded, Bounds};

/// How long after its last exchange a frontend is taken to be there. They make one a second, or so.
const PRESENT: Duration = Duration::from_secs(30);
/// The most frontends that exchange.
const MAX_PEERS: usize = 256;
/// How much memory the last answers to all frontends may take, roughly. Beyond it the oldest are forgotten: one that is
/// asked for again is answered with `reset`.
const KEPT_BYTES: usize = 256 << 20;
/// How much memory the feedback that waits for all frontends may take, roughly.
const ALL_FEEDBACK_BYTES: usize = 256 << 20;
/// How many queries may wait for an explanation before those that nobody waits for any more are forgotten.
const LEAST_WAITING: usize = 1024;
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
    /// The frontend of each number: of several of the same one, the one that was heard last.
    by_number: HashMap<u64, Uuid>,
    /// Who waits for an explanation, by query.
    waiting: BTreeMap<u64, Vec<Explained>>,
    /// The number of waiting queries at which those that nobody waits for are forgotten.
    forget_at: usize,
    /// Memory of all kept answers.
    kept_bytes: usize,
}

/// Whom an explanation is sent to.
pub(super) type Explained = oneshot::Sender<Result<String, NoExplanation>>;

#[derive(Debug)]
struct Peer {
    /// As it is in query ids.
    number: u64,
    heard: Instant,
    feedback: Bounded<ForwardedFeedback>,
    explain: BTreeSet<u64>,
    answered: Option<Answered>,
}

/// The last exchange of a frontend.
#[derive(Debug)]
struct Answered {
    number: u64,
    /// The answer with its memory: all of it, as what waited was handed over. `None` if it was forgotten.
    response: Option<(usize, ExchangeResponse)>,
}

impl Answered {
    fn bytes(&self) -> usize {
        self.response.as_ref().map_or(0, |(bytes, _)| *bytes)
    }
}

impl Peers {
    /// Takes note of an exchange, and of what it brings for others.
    ///
    /// # Errors
    /// If there are too many frontends already.
    pub(super) fn hear(&mut self, request: &ExchangeRequest, now: Instant) -> Result<(), StateError> {
        self.forget_absent(now);
        let number = request.frontend_number % (1 << NUMBER_BITS);
        let is_full = self.present.len() >= MAX_PEERS;
        match self.present.get_mut(&request.frontend) {
            None if is_full => return Err(StateError::Crowded { most: MAX_PEERS }),
            None => {
                let peer = Peer {
                    number,
                    heard: now,
                    feedback: Bounded::new(FEEDBACK),
                    explain: BTreeSet::new(),
                    answered: None,
                };
                self.present.insert(request.frontend, peer);
            }
            Some(peer) => {
                let is_renumbered = std::mem::replace(&mut peer.number, number) != number;
                peer.heard = now;
                if is_renumbered {
                    self.index_numbers();
                }
            }
        }
        self.by_number.insert(number, request.frontend);
        for (query_id, explanation) in &request.explanations {
            let explained = explanation.clone().ok_or(NoExplanation::Unknown);
            for waiting in self.waiting.remove(query_id).into_iter().flatten() {
                // It may have waited long enough.
                let _ = waiting.send(explained.clone());
            }
        }
        Ok(())
    }

    fn forget_absent(&mut self, now: Instant) {
        let before = self.present.len();
        self.present.retain(|_, peer| now.duration_since(peer.heard) <= PRESENT);
        if self.present.len() < before {
            self.kept_bytes =
                self.present.values().filter_map(|peer| peer.answered.as_ref()).map(Answered::bytes).sum();
            self.index_numbers();
        }
    }

    fn index_numbers(&mut self) {
        let mut peers: Vec<_> = self.present.iter().collect();
        peers.sort_by_key(|(_, peer)| peer.heard);
        self.by_number = peers.into_iter().map(|(frontend, peer)| (peer.number, *frontend)).collect();
    }

    /// Has feedback wait for the frontends that it is for. What is for none that exchanges is dropped.
    pub(super) fn forward(&mut self, feedback: &[ForwardedFeedback]) {
        let mut dropped = 0;
        let mut waiting: usize = self.present.values().map(|peer| peer.feedback.bytes()).sum();
        for item in feedback {
            let bytes = size_of_feedback(item);
            match self.of_query(item.query_id) {
                Some(peer) if waiting + bytes <= ALL_FEEDBACK_BYTES => {
                    let before = peer.feedback.bytes();
                    dropped += peer.feedback.push(item.clone(), bytes);
                    waiting = waiting - before + peer.feedback.bytes();
                }
                Some(_) | None => dropped += 1,
            }
        }
        if dropped > 0 {
            tracing::warn!(dropped, "feedback for a frontend that is gone or does not keep up is dropped");
        }
    }

    /// The number of the last exchange that a frontend was answered.
    pub(super) fn last(&self, frontend: Uuid) -> Option<u64> {
        Some(self.present.get(&frontend)?.answered.as_ref()?.number)
    }

    /// The answer to an exchange, if it was the frontend's last and is not forgotten.
    pub(super) fn answered(&self, frontend: Uuid, number: u64) -> Option<&ExchangeResponse> {
        let answered = self.present.get(&frontend)?.answered.as_ref()?;
        let (_, response) = answered.response.as_ref().filter(|_| answered.number == number)?;
        Some(response)
    }

    /// Completes the answer to an exchange by what waits for the frontend, and keeps it.
    pub(super) fn answer(&mut self, frontend: Uuid, number: u64, response: &mut ExchangeResponse) {
        let Some(peer) = self.present.get_mut(&frontend) else { return };
        response.feedback = peer.feedback.take(FEEDBACK_AT_ONCE);
        response.explain = std::mem::take(&mut peer.explain).into_iter().collect();
        let bytes = size_of_response(response);
        let kept = Answered { number, response: Some((bytes, response.clone())) };
        let before = peer.answered.replace(kept);
        self.kept_bytes += bytes;
        self.kept_bytes -= before.as_ref().map_or(0, Answered::bytes);
        self.forget_answers(KEPT_BYTES);
    }

    /// Forgets the oldest answers until the others fit.
    fn forget_answers(&mut self, most_bytes: usize) {
        while self.kept_bytes > most_bytes {
            let kept = self
                .present
                .values_mut()
                .filter(|peer| peer.answered.as_ref().is_some_and(|it| it.bytes() > 0));
            let Some(oldest) = kept.min_by_key(|peer| peer.heard) else { return };
            if let Some(answered) = &mut oldest.answered {
                self.kept_bytes -= answered.bytes();
                answered.response = None;
            }
        }
    }

    /// Has the frontend that answered a query asked how.
    pub(super) fn explain(&mut self, query_id: u64, answer: Explained, now: Instant) {
        if self.waiting.len() >= self.forget_at {
            self.waiting.retain(|_, waiting| {
                waiting.retain(|answer| !answer.is_closed());
                !waiting.is_empty()
            });
            // So a look through all of them is paid for by as many new ones.
            self.forget_at = (2 * self.waiting.len()).max(LEAST_WAITING);
        }
        let explained = match self.of_query(query_id).filter(|peer| now.duration_since(peer.heard) <= PRESENT)
        {
            None => Err(NoExplanation::FrontendGone),
            Some(peer) if peer.explain.len() >= EXPLANATIONS => Err(NoExplanation::Silent),
            Some(peer) => {
                peer.explain.insert(query_id);
                self.waiting.entry(query_id).or_default().push(answer);
                return;
            }
        };
        let _ = answer.send(explained);
    }

    /// The frontend that answered a query: of several of the same number, the one that was heard last.
    fn of_query(&mut self, query_id: u64) -> Option<&mut Peer> {
        self.present.get_mut(self.by_number.get(&(query_id >> COUNTER_BITS))?)
    }
}

/// How much memory an answer takes, roughly.
fn size_of_response(response: &ExchangeResponse) -> usize {
    let changes = response.changes.iter().map(size_of_change).sum::<usize>();
    let loaded = response.loaded.iter().map(|(key, state)| size_of_state(key, state)).sum::<usize>();
    let feedback = response.feedback.iter().map(size_of_feedback).sum::<usize>();
    size_of::<ExchangeResponse>() + changes + loaded + feedback + size_of_val(response.explain.as_slice())
}

/// How much memory a state takes, roughly.
pub(super) fn size_of_state(key: &StateKey, state: &Statistics) -> usize {
    let uid = key.uid.as_ref().map_or(0, |uid| uid.as_str().len());
    let models = state.0.values().map(|of| 128 + size_of::<f64>() * of.figures.len());
    size_of::<(StateKey, Statistics)>() + uid + models.sum::<usize>()
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
        peers.hear(&request(1, 1), now).unwrap();
        // Numbers recur in query ids.
        peers.hear(&ExchangeRequest { frontend_number: 8192 + 2, ..request(2, 1) }, now).unwrap();
        let (first, second, nobody) = (feedback(1 << 40), feedback((2 << 40) + 9), feedback(3 << 40));
        peers.forward(&[first.clone(), second.clone(), nobody]);
        assert_eq!(answer(&mut peers, 1).feedback, [first]);
        assert_eq!(answer(&mut peers, 2).feedback, [second]);
        assert_eq!(answer(&mut peers, 2).feedback, []);
    }

    #[test]
    fn feedback_for_a_frontend_that_does_not_ask_for_it_is_bounded() {
        let mut peers = Peers::default();
        peers.hear(&request(1, 1), Instant::now()).unwrap();
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
        peers.hear(&request(1, 1), now).unwrap();
        answer(&mut peers, 1);
        peers.hear(&request(2, 1), now + 2 * PRESENT).unwrap();
        peers.forward(&[feedback(1 << 40)]);
        assert!(peers.answered(Uuid::from_u128(1), 1).is_none());
        peers.hear(&request(1, 2), now + 2 * PRESENT).unwrap();
        assert_eq!(answer(&mut peers, 1).feedback, []);
    }

    #[test]
    fn a_query_is_explained_by_the_frontend_that_answered_it() {
        let mut peers = Peers::default();
        let now = Instant::now();
        peers.hear(&request(1, 1), now).unwrap();
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
        peers.hear(&ExchangeRequest { explanations, ..request(1, 2) }, now).unwrap();
        for known in [&mut known, &mut again] {
            assert_eq!(known.try_recv().unwrap(), Ok("because".to_owned()));
        }
        assert_eq!(unknown.try_recv().unwrap(), Err(NoExplanation::Unknown));

        let mut elsewhere = asked(&mut peers, 2 << 40, now);
        assert_eq!(elsewhere.try_recv().unwrap(), Err(NoExplanation::FrontendGone));
        let mut late = asked(&mut peers, query, now + 2 * PRESENT);
        assert_eq!(late.try_recv().unwrap(), Err(NoExplanation::FrontendGone));
    }

    #[test]
    fn the_number_of_frontends_that_exchange_is_bounded_and_those_that_are_gone_make_room() {
        let mut peers = Peers::default();
        let now = Instant::now();
        for frontend in 0..MAX_PEERS as u64 {
            peers.hear(&request(frontend, 1), now).unwrap();
        }
        let refused = peers.hear(&request(9999, 1), now).unwrap_err();
        assert_eq!(refused.to_string(), "256 frontends exchange already, which is the most that are allowed");
        peers.hear(&request(3, 2), now + PRESENT).unwrap();
        peers.hear(&request(9999, 1), now + 2 * PRESENT).unwrap();
        assert_eq!((peers.present.len(), peers.by_number.len()), (2, 2));
    }

    #[test]
    fn of_frontends_of_one_number_the_one_that_was_heard_last_is_meant() {
        let mut peers = Peers::default();
        let now = Instant::now();
        let of_number =
            |frontend, frontend_number| ExchangeRequest { frontend_number, ..request(frontend, 1) };
        peers.hear(&of_number(1, 7), now).unwrap();
        peers.hear(&of_number(2, 7), now + PRESENT / 4).unwrap();
        peers.forward(&[feedback(7 << 40)]);
        assert_eq!([1, 2].map(|frontend| answer(&mut peers, frontend).feedback.len()), [0, 1]);
        peers.hear(&of_number(2, 8), now + PRESENT / 2).unwrap();
        peers.forward(&[feedback(7 << 40)]);
        assert_eq!([1, 2].map(|frontend| answer(&mut peers, frontend).feedback.len()), [1, 0]);
    }

    #[test]
    fn the_oldest_answers_are_forgotten_if_all_take_too_much_memory() {
        let mut peers = Peers::default();
        let now = Instant::now();
        for frontend in 1..=3 {
            peers.hear(&request(frontend, 1), now + Duration::from_secs(frontend)).unwrap();
            answer(&mut peers, frontend.into());
        }
        let kept = peers.kept_bytes;
        peers.forget_answers(kept - 1);
        let is_kept = |peers: &Peers, frontend| peers.answered(Uuid::from_u128(frontend), 1).is_some();
        assert_eq!([1, 2, 3].map(|frontend| is_kept(&peers, frontend)), [false, true, true]);
        assert_eq!(peers.last(Uuid::from_u128(1)), Some(1));
        assert_eq!(peers.kept_bytes, kept / 3 * 2);
        peers.hear(&request(3, 2), now + PRESENT + Duration::from_secs(3)).unwrap();
        assert_eq!(peers.kept_bytes, kept / 3);
    }

    #[test]
    fn explanations_that_nobody_waits_for_are_forgotten_now_and_then() {
        let mut peers = Peers::default();
        let now = Instant::now();
        peers.hear(&request(1, 1), now).unwrap();
        for query in 0..10_000 {
            peers.explain((1 << 40) + query, oneshot::channel().0, now);
            answer(&mut peers, 1);
        }
        assert!(peers.waiting.len() <= 2 * LEAST_WAITING);
    }
}
