//! What a target would have earned, from a log in which one model at a time answered.
//!
//! A target that does not learn is estimated from every event. One that learns is estimated by DR-ns (Dudík et al. 2014,
//! section 4): each event tells what the target would earn in the state that it has by then, and is accepted into what the
//! target learns from with a probability proportional to how much likelier the target is to do what was done. So it learns
//! from events as it would have met them itself, but from fewer of them. Invariant: no state depends on the event that it is
//! weighed with, or on a later one.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use clipper_rpc::names::ModelName;
use clipper_rpc::selection::{Policy, Uid};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use crate::learner::{Choice, Lesson};
use crate::log::Decision;
use crate::offline::estimate::{Estimate, Estimates, Term};
use crate::offline::join::Judgement;
use crate::offline::reward_model::{MAX_FEATURES, RewardModel};
use crate::offline::simulated::Simulated;
use crate::offline::target::Target;

/// Of the quotients of propensities, this part may be so small that their events count less than they should: without it, one
/// rare event would leave the target next to nothing to learn from.
const CUT_OFF: f64 = 0.05;
/// Estimates that rest on less than so many events are doubtful.
const FEW_EVENTS: f64 = 100.0;
/// So much of what a target does should be possible for the logged policy.
const ENOUGH_SUPPORT: f64 = 0.99;

/// Judged decisions for each of which one model was asked.
#[derive(Default)]
pub struct Events {
    arms: Vec<ModelName>,
    /// Each list of candidates, as indices of arms.
    groups: Vec<Vec<usize>>,
    events: Vec<Event>,
}

struct Event {
    time_micros: u64,
    query_id: u64,
    group: usize,
    /// The candidate that was asked.
    asked: usize,
    reward: f64,
    propensities: Box<[f64]>,
    /// The candidates that nobody could ask.
    away: Box<[usize]>,
    /// Whether the feedback says something of the model: not if it gave no output.
    is_judged: bool,
    /// Whether it answered in time, where that says something of the model.
    answered: Option<bool>,
    context: Option<Box<[f64]>>,
    uid: Option<Uid>,
}

/// What the logged policy earned.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Logged {
    /// How many judged decisions there are.
    pub events: usize,
    /// What they earned.
    pub reward: Estimate,
    /// The share of decisions that left nothing to chance.
    pub certain: f64,
}

/// What a target would have earned.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Evaluated {
    /// The target.
    pub policy: String,
    /// How many events could be used: those whose candidates the target could choose among.
    pub events: usize,
    /// From how many of them the target learned, if it learns.
    pub learned_from: Option<usize>,
    /// The estimates.
    #[serde(flatten)]
    pub estimates: Estimates,
    /// The share of what the target does that the logged policy might have done.
    pub support: f64,
    /// Why not to trust the estimates.
    pub cautions: Vec<String>,
}

impl Events {
    /// Takes in a judged decision. False if all models were asked.
    pub fn add(&mut self, decision: Decision, judgement: &Judgement) -> bool {
        let Some(asked) = decision.asked else { return false };
        let propensity = decision.propensities.get(asked).copied().unwrap_or_default();
        if decision.propensities.len() != decision.candidates.len()
            || propensity.is_nan()
            || propensity <= 0.0
        {
            return false;
        }
        let group = self.group(&decision.candidates);
        let is_judged = judgement.losses.get(asked).is_none_or(Option::is_some);
        self.events.push(Event {
            time_micros: decision.time_micros,
            query_id: decision.query_id,
            group,
            asked,
            reward: judgement.reward,
            propensities: decision.propensities.into(),
            away: decision.away.into(),
            is_judged,
            answered: decision.answered,
            context: decision.context.map(Into::into),
            uid: decision.uid,
        });
        true
    }

    fn group(&mut self, candidates: &[ModelName]) -> usize {
        let arms = &mut self.arms;
        let of = |arms: &[ModelName], group: &[usize]| {
            group.len() == candidates.len()
                && group.iter().zip(candidates).all(|(arm, model)| arms[*arm] == *model)
        };
        if let Some(known) = self.groups.iter().rposition(|group| of(arms, group)) {
            return known;
        }
        let group = candidates.iter().map(|model| match arms.iter().position(|arm| arm == model) {
            Some(arm) => arm,
            None => {
                arms.push(model.clone());
                arms.len() - 1
            }
        });
        let group = group.collect();
        self.groups.push(group);
        self.groups.len() - 1
    }

    /// The models that were candidates.
    pub fn models(&self) -> &[ModelName] {
        &self.arms
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Brings the events of several files into the order in which they happened.
    pub fn sort(&mut self) {
        self.events.sort_by_key(|event| (event.time_micros, event.query_id));
    }

    /// What the logged policy earned.
    pub fn logged(&self) -> Logged {
        let certain = self.events.iter().filter(|event| event.propensity() >= 1.0 - 1e-9).count();
        Logged {
            events: self.events.len(),
            reward: Estimate::mean(self.events.iter().map(|event| event.reward)),
            certain: certain as f64 / self.events.len().max(1) as f64,
        }
    }

    /// The reward model that doubly robust estimates take.
    pub fn reward_model(&self) -> RewardModel {
        let length = |event: &Event| event.context.as_ref().map_or(0, |context| context.len());
        let first = self.events.first().map_or(0, length);
        let uniform = first <= MAX_FEATURES && self.events.iter().all(|event| length(event) == first);
        let mut model = RewardModel::new(self.arms.len(), if uniform { first } else { 0 });
        for (index, event) in self.events.iter().enumerate() {
            model.add(index, self.groups[event.group][event.asked], event.context(), event.reward);
        }
        model.fit();
        model
    }

    /// Estimates what a target would have earned. What is left to chance follows from the seed.
    ///
    /// # Errors
    /// If the target cannot be estimated from these events; says in one sentence why.
    pub fn evaluate(&self, target: &Target, model: &RewardModel, seed: u64) -> Result<Evaluated, String> {
        if target.asks_all() {
            return Err(format!(
                "{target} asks every model, and the log has the answer of one for each query: what it would have \
                 earned needs --full-information"
            ));
        }
        let mut turns = match target {
            Target::Policy(policy) => Some(Turns::new(policy, seed)),
            Target::Uniform | Target::Always(_) => None,
        };
        let mut terms = Vec::with_capacity(self.events.len());
        let mut support = 0.0;
        for (index, event) in self.events.iter().enumerate() {
            let group = &self.groups[event.group];
            let does: Vec<f64> = match (target, &mut turns) {
                (Target::Always(always), _) => {
                    let is_it = |(model, arm): (usize, &usize)| {
                        self.arms[*arm] == *always && !event.away.contains(&model)
                    };
                    let shares = group.iter().enumerate().map(|of| f64::from(u8::from(is_it(of))));
                    let shares: Vec<f64> = shares.collect();
                    if shares.iter().all(|share| *share == 0.0) {
                        continue;
                    }
                    shares
                }
                (_, Some(turns)) => {
                    let candidates: Vec<ModelName> =
                        group.iter().map(|arm| self.arms[*arm].clone()).collect();
                    turns.propensities(&candidates, event)?
                }
                _ => {
                    let here = (0..group.len()).map(|model| !event.away.contains(&model));
                    let share = 1.0 / (group.len() - event.away.len().min(group.len() - 1)) as f64;
                    here.map(|is_here| if is_here { share } else { 0.0 }).collect()
                }
            };
            let guess = |arm: &usize| model.guess(index, *arm, event.context());
            let weight = does[event.asked] / event.propensity();
            terms.push(Term {
                turn: turns.as_ref().map_or(1.0, |turns| turns.pace),
                weight,
                reward: event.reward,
                predicted: guess(&group[event.asked]),
                direct: does
                    .iter()
                    .zip(group)
                    .filter(|(share, _)| **share > 0.0)
                    .map(|(share, arm)| share * guess(arm))
                    .sum(),
            });
            let possible = does.iter().zip(&event.propensities).filter(|(_, logged)| **logged > 0.0);
            support += possible.map(|(share, _)| share).sum::<f64>();
            if let Some(turns) = &mut turns {
                turns.offer(event, does[event.asked], weight);
            }
        }
        if terms.is_empty() {
            return Err(format!("{target}: no decision of the log had that model among its candidates"));
        }
        let estimates = Estimates::of(&terms);
        let support = support / terms.len() as f64;
        let learned_from = turns.map(|turns| turns.accepted);
        let cautions = self.cautions(&estimates, terms.len(), support, learned_from);
        Ok(Evaluated {
            policy: target.to_string(),
            events: terms.len(),
            learned_from,
            estimates,
            support,
            cautions,
        })
    }

    fn cautions(
        &self,
        estimates: &Estimates,
        used: usize,
        support: f64,
        learned: Option<usize>,
    ) -> Vec<String> {
        let mut cautions = Vec::new();
        let certain = self.logged().certain;
        if certain > ENOUGH_SUPPORT {
            cautions.push(format!(
                "{:.1} % of the logged decisions left nothing to chance (as ucb1, linucb and 'always' do): of what was \
                 not done, nothing is known",
                certain * 100.0
            ));
        }
        if support < ENOUGH_SUPPORT {
            cautions.push(format!(
                "the logged policy would never have done {:.1} % of what this one does: IPS and SNIPS leave it out, and \
                 DR guesses it",
                (1.0 - support) * 100.0
            ));
        }
        if estimates.effective_sample_size < FEW_EVENTS {
            cautions.push(format!(
                "rests on as much as {:.0} events, which is little: the intervals are too narrow",
                estimates.effective_sample_size
            ));
        }
        if used < self.events.len() {
            cautions.push(format!("{} decisions did not have this model to ask", self.events.len() - used));
        }
        if let Some(learned) = learned.filter(|learned| *learned * 20 < used) {
            cautions.push(format!("it could learn from {learned} of the {used} events only"));
        }
        cautions
    }
}

impl Event {
    fn propensity(&self) -> f64 {
        self.propensities[self.asked]
    }

    fn context(&self) -> &[f64] {
        self.context.as_deref().unwrap_or_default()
    }
}

/// A target that learns from the events that are accepted.
struct Turns {
    simulated: Option<Simulated>,
    policy: Policy,
    seed: u64,
    chance: ChaCha8Rng,
    /// What an event's weight is multiplied with for its probability to be accepted: how much of a turn an event is.
    pace: f64,
    quotients: Quantile,
    accepted: usize,
}

impl Turns {
    fn new(policy: &Policy, seed: u64) -> Self {
        Self {
            simulated: None,
            policy: policy.clone(),
            seed,
            chance: ChaCha8Rng::seed_from_u64(seed),
            pace: 1.0,
            quotients: Quantile::new(CUT_OFF),
            accepted: 0,
        }
    }

    fn propensities(&mut self, candidates: &[ModelName], event: &Event) -> Result<Vec<f64>, String> {
        let simulated =
            self.simulated.get_or_insert_with(|| Simulated::new(&self.policy, candidates, self.seed));
        simulated.set_candidates(candidates);
        let choice: Choice =
            simulated.choose(event.uid.as_ref(), &event.away, event.context.as_deref(), event.query_id)?;
        Ok(simulated.propensities(event.uid.as_ref(), &event.away, &choice))
    }

    fn offer(&mut self, event: &Event, propensity: f64, weight: f64) {
        if weight > 0.0 {
            self.quotients.add(1.0 / weight);
        }
        if self.chance.random::<f64>() >= self.pace * weight {
            return;
        }
        let (context, model) = (event.context.as_deref(), event.asked);
        let lesson = Lesson::Partial { model, loss: 1.0 - event.reward, propensity, context };
        if let Some(simulated) = &mut self.simulated {
            if let Some(answered) = event.answered {
                simulated.learn_outcome(model, answered);
            }
            if event.is_judged {
                simulated.learn(event.uid.as_ref(), &lesson);
            }
        }
        self.accepted += 1;
        self.pace = self.quotients.value().unwrap_or(1.0).min(1.0);
    }
}

/// A quantile of positive numbers that come one by one. Their bits are in the order of the numbers.
struct Quantile {
    part: f64,
    low: BinaryHeap<u64>,
    high: BinaryHeap<Reverse<u64>>,
}

impl Quantile {
    fn new(part: f64) -> Self {
        Self { part, low: BinaryHeap::new(), high: BinaryHeap::new() }
    }

    fn add(&mut self, number: f64) {
        self.high.push(Reverse(number.to_bits()));
        if let (Some(low), Some(Reverse(high))) = (self.low.peek().copied(), self.high.peek().copied())
            && high < low
        {
            self.low.pop();
            self.high.pop();
            self.low.push(high);
            self.high.push(Reverse(low));
        }
        let wanted = 1 + (self.part * (self.low.len() + self.high.len() - 1) as f64) as usize;
        while self.low.len() < wanted
            && let Some(Reverse(next)) = self.high.pop()
        {
            self.low.push(next);
        }
    }

    fn value(&self) -> Option<f64> {
        self.low.peek().map(|bits| f64::from_bits(*bits))
    }
}
