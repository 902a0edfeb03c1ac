//! The models that are asked for one query, and what they answer.
//!
//! Owned by the request that waits for them. Invariant: it is closed at the deadline at the latest, and what its worker has
//! been handed by then counts, even if the request comes to look at it later. Whoever it was closed without has not spoken in vain:
//! what [`Stragglers`] answer is for feedback to judge.

use std::cell::OnceCell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use clipper_rpc::output::Output;
use clipper_rpc::selection::Selection;
use clipper_selection::combine::{self, Combined, Vote};
use clipper_selection::learner::{Asked, Choice};
use clipper_selection::value::output_json;
use serde_json::Value;
use smallvec::SmallVec;

use super::ask::{Answer, Awaited};
use crate::computation::failure::{Failure, Verdict};
use crate::metrics::Contribution;
use crate::selection::explanation::{Absence, Ended};
use crate::selection::rounded;
use crate::worker::Timers;

/// The largest output whose JSON is kept while other models are waited for, in bytes: it may take
/// 16 times as much memory.
const SMALL: usize = 4 << 10;

/// One query, the models that were chosen for it, and their answers.
pub struct Ballot {
    pub(super) query_id: u64,
    pub(super) choice: Choice,
    /// One for each model that is asked, in the order of the candidates.
    papers: SmallVec<[Paper; 8]>,
    /// Those of them that are still listened to, now that it is closed.
    pub(super) stragglers: Stragglers,
}

/// Models that containers had begun to compute for when the answer was certain without them, by their indices among the
/// candidates.
#[derive(Default)]
pub(super) struct Stragglers(SmallVec<[(usize, Awaited); 2]>);

/// What one model was asked.
struct Paper {
    /// Its index among the candidates.
    model: usize,
    state: State,
}

enum State {
    Waiting(Awaited),
    Answered {
        /// In memory of its own.
        output: Output,
        /// The output as JSON, once it was needed, if it is small: it is compared again whenever
        /// another model answers.
        value: OnceCell<Value>,
        kept: bool,
    },
    /// Boxed, as it is rare and large.
    Failed(Box<Failure>),
    /// Its queue has seen the deadline pass.
    Late,
    /// The answer was certain before it had answered.
    Unneeded,
}

impl State {
    fn answered(output: Output, kept: bool) -> Self {
        Self::Answered { output, value: OnceCell::new(), kept }
    }
}

impl Ballot {
    /// Nobody has been asked yet.
    pub(super) fn new(query_id: u64, choice: Choice) -> Self {
        Self { query_id, choice, papers: SmallVec::new(), stragglers: Stragglers::default() }
    }

    /// Whether that model is to be asked.
    pub(super) fn asks(&self, model: usize) -> bool {
        match self.choice.asked {
            Asked::One(chosen) => chosen == model,
            Asked::All => true,
        }
    }

    /// A model has been asked; models are asked in the order of the candidates.
    pub(super) fn add(&mut self, model: usize, answer: Answer) {
        let state = match answer {
            Answer::Kept(output) => State::answered(output, true),
            Answer::Later(awaited) => State::Waiting(awaited),
        };
        self.papers.push(Paper { model, state });
    }

    /// A model cannot be asked; likewise.
    pub(super) fn fail(&mut self, model: usize, failure: Failure) {
        self.papers.push(Paper { model, state: State::Failed(Box::new(failure)) });
    }

    /// Waits for the models: until all have answered, the answer is certain, or the deadline passes.
    pub(super) async fn close(&mut self, selection: &Selection, timers: &Timers, deadline: Instant) -> Ended {
        if !self.is_waiting() {
            return Ended::Complete;
        }
        let closed = poll_fn(|context| self.poll(selection, context));
        if let Some(ended) = timers.by(deadline, closed).await {
            if ended == Ended::Certain {
                self.dismiss();
            }
            return ended;
        }
        // A task that was kept from running may find the deadline passed, and answers that were there in time.
        for paper in &mut self.papers {
            if let State::Waiting(awaited) = &mut paper.state
                && let Ok(verdict) = awaited.verdict.try_recv()
            {
                paper.hear(Some(verdict));
            }
        }
        self.ended()
    }

    fn poll(&mut self, selection: &Selection, context: &mut Context<'_>) -> Poll<Ended> {
        let mut news = false;
        for paper in &mut self.papers {
            if let State::Waiting(awaited) = &mut paper.state
                && let Poll::Ready(verdict) = Pin::new(&mut awaited.verdict).poll(context)
            {
                paper.hear(verdict.ok());
                news = true;
            }
        }
        if !self.is_waiting() {
            return Poll::Ready(self.ended());
        }
        if news && self.is_certain(selection) { Poll::Ready(Ended::Certain) } else { Poll::Pending }
    }

    /// Waits no more. To be heard of all the same costs nothing where a container is at it already; elsewhere it would cost those who do
    /// wait: nobody listens there any more, so that the query is dropped from the queue.
    fn dismiss(&mut self) {
        for paper in &mut self.papers {
            if !matches!(paper.state, State::Waiting(_)) {
                continue;
            }
            if let State::Waiting(awaited) = std::mem::replace(&mut paper.state, State::Unneeded)
                && awaited.is_begun()
            {
                self.stragglers.0.push((paper.model, awaited));
            }
        }
    }

    fn is_waiting(&self) -> bool {
        self.papers.iter().any(|paper| matches!(paper.state, State::Waiting(_)))
    }

    /// As what it ends unless it was certain.
    fn ended(&self) -> Ended {
        let complete =
            self.papers.iter().all(|paper| matches!(paper.state, State::Answered { .. } | State::Failed(_)));
        if complete { Ended::Complete } else { Ended::Deadline }
    }

    /// Whether those that are still to come can change neither the output nor whether it is sure enough.
    fn is_certain(&self, selection: &Selection) -> bool {
        let answered = self.papers.iter().filter(|paper| matches!(paper.state, State::Answered { .. }));
        let arrived: f64 = answered.map(|paper| self.weight(paper)).sum();
        let waiting = self.papers.iter().filter(|paper| matches!(paper.state, State::Waiting(_)));
        let waiting: f64 = waiting.map(|paper| self.weight(paper)).sum();
        // No party outweighs what is to come. Cheap, and mostly so while it is early.
        if arrived <= waiting {
            return false;
        }
        let mut votes = self.votes();
        let confidence = || rounded(combine::combine(selection.output_kind, &votes).confidence);
        let is_decided = selection.confidence_threshold.is_none_or(|threshold| {
            let confidence = confidence();
            confidence >= threshold || rounded(confidence + waiting) < threshold
        });
        // Those who have failed will not vote: the rest is what waits.
        let all = arrived + waiting;
        votes.iter_mut().for_each(|vote| vote.weight /= all);
        is_decided && combine::is_certain(selection.output_kind, &votes)
    }

    /// What the models that have answered amount to; none if none has.
    pub(super) fn combined(&self, selection: &Selection) -> Option<Combined> {
        let votes = self.votes();
        (!votes.is_empty()).then(|| combine::combine(selection.output_kind, &votes))
    }

    fn votes(&self) -> SmallVec<[Vote<'_>; 8]> {
        let votes = self.papers.iter().filter_map(|paper| match &paper.state {
            State::Answered { output, value, .. } if output.size() <= SMALL => {
                let value = value.get_or_init(|| output_json(output));
                Some(Vote::read(self.weight(paper), output, value))
            }
            State::Answered { output, .. } => Some(Vote::new(self.weight(paper), output)),
            _ => None,
        });
        votes.collect()
    }

    /// A weight may have become too small to be told from 0.
    fn weight(&self, paper: &Paper) -> f64 {
        self.choice.weights.get(paper.model).copied().unwrap_or_default().max(f64::MIN_POSITIVE)
    }

    /// The models that have answered, and what.
    pub(super) fn outputs(&self) -> impl Iterator<Item = (usize, &Output)> {
        self.papers.iter().filter_map(|paper| match &paper.state {
            State::Answered { output, .. } => Some((paper.model, output)),
            _ => None,
        })
    }

    /// Whether each answer had been given before.
    pub(super) fn is_all_kept(&self) -> bool {
        let answered = |paper: &Paper| !matches!(paper.state, State::Answered { kept: false, .. });
        self.papers.iter().all(answered)
    }

    /// The other models, and why they have not.
    pub(super) fn absences(&self) -> impl Iterator<Item = (usize, Absence)> {
        self.papers.iter().filter_map(|paper| {
            let absence = match &paper.state {
                State::Answered { .. } => return None,
                State::Failed(failure) => Absence::Failed(Failure::clone(failure)),
                State::Unneeded => Absence::Unneeded,
                State::Waiting(_) | State::Late => Absence::Late,
            };
            Some((paper.model, absence))
        })
    }

    /// Whether the one model that was asked has answered in time; none where that says nothing of the model.
    pub(super) fn answered(&self) -> Option<bool> {
        match &self.papers.first()?.state {
            // It was not asked now.
            State::Answered { kept: true, .. } | State::Unneeded => None,
            State::Answered { kept: false, .. } => Some(true),
            State::Failed(failure) => failure.is_miss().then_some(false),
            State::Waiting(_) | State::Late => Some(false),
        }
    }

    /// What is to be counted of each model that was asked.
    pub(super) fn contributions(&self) -> impl Iterator<Item = (usize, Contribution)> {
        self.papers.iter().map(|paper| {
            let contribution = match &paper.state {
                State::Answered { .. } => Contribution::Answered,
                State::Failed(_) => Contribution::Failed,
                State::Unneeded => Contribution::Unneeded,
                State::Waiting(_) | State::Late => Contribution::Late,
            };
            (paper.model, contribution)
        })
    }
}

impl Stragglers {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What they answer by the deadline.
    pub(super) async fn outputs(self, timers: &Timers, deadline: Instant) -> Vec<(usize, Output)> {
        let mut outputs = Vec::new();
        for (model, awaited) in self.0 {
            if let Some(Ok(Ok(output))) = timers.by(deadline, awaited.verdict).await {
                outputs.push((model, output.detached()));
            }
        }
        outputs
    }
}

impl Paper {
    fn hear(&mut self, verdict: Option<Verdict>) {
        self.state = match verdict {
            // A vector would hold on to its whole batch until the slowest model has answered, and
            // as long as it is kept.
            Some(Ok(output)) => State::answered(output.detached(), false),
            Some(Err(failure)) => State::Failed(Box::new(failure)),
            None => State::Late,
        };
    }
}

#[cfg(test)]
mod tests {
    use smallvec::smallvec;

    use super::*;

    #[test]
    fn a_small_output_is_read_once_and_a_large_one_is_not_kept_as_json() {
        let choice = Choice { asked: Asked::All, weights: smallvec![0.5; 2] };
        let mut ballot = Ballot::new(1, choice);
        ballot.add(0, Answer::Kept(Output::text("[1, 2]")));
        ballot.add(1, Answer::Kept(Output::text(format!("[{}0]", "0,".repeat(SMALL)))));
        assert_eq!(ballot.votes().len(), 2);
        let kept = |paper: &Paper| match &paper.state {
            State::Answered { value, .. } => value.get().cloned(),
            _ => None,
        };
        assert_eq!(
            ballot.papers.iter().map(kept).collect::<Vec<_>>(),
            [Some(serde_json::json!([1, 2])), None]
        );
    }
}
