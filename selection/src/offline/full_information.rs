//! Runs policies exactly, where the output of every model and the label are known: they are asked, answer, are judged and
//! learn as in a cluster whose feedback comes at once.
//!
//! The rounds stream through every trial of every policy side by side, on several threads. Invariant: what comes out does not
//! depend on the number of threads.

use std::num::NonZeroUsize;

use clipper_rpc::names::ModelName;
use clipper_rpc::selection::{Loss, OutputKind};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use crate::combine::{Vote, combine};
use crate::learner::{Asked, Lesson};
use crate::loss::loss;
use crate::offline::OfflineError;
use crate::offline::rounds::{Contents, Round};
use crate::offline::simulated::Simulated;
use crate::offline::target::Target;

/// So many rounds are in memory at once.
const BLOCK: usize = 4_096;
/// What an answer costs that nobody gave.
const NO_ANSWER: f64 = 1.0;

/// What is run.
#[derive(Debug, Clone, PartialEq)]
pub struct Study {
    /// The policies.
    pub targets: Vec<Target>,
    /// How often each is run, trial `i` from seed `seed + i`.
    pub trials: NonZeroUsize,
    /// Where all chance comes from.
    pub seed: u64,
    /// Into how many parts of equal length the errors are divided.
    pub segments: NonZeroUsize,
    /// What an output costs.
    pub loss: Loss,
    /// What outputs are.
    pub output_kind: OutputKind,
    /// On how many threads.
    pub threads: NonZeroUsize,
}

/// What came of it. Errors are mean losses.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StudyReport {
    /// How many rounds there were.
    pub rounds: u64,
    /// How many trials.
    pub trials: usize,
    /// The first one's seed.
    pub seed: u64,
    /// How many rounds each segment has.
    pub segment_rounds: Vec<u64>,
    /// Each policy.
    pub policies: Vec<PolicyErrors>,
    /// Each model by itself.
    pub models: Vec<ModelErrors>,
    /// The model with the least error in all rounds.
    pub best_model: ModelErrors,
    /// The models with the least errors in each segment.
    pub best_of_segments: Vec<BestOfSegment>,
    /// The error of whoever always asks the best model of the segment.
    pub best_of_segments_error: f64,
}

/// The errors of one policy, over trials.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PolicyErrors {
    /// The policy.
    pub policy: String,
    /// Over all rounds.
    pub error: OverTrials,
    /// By segment.
    pub segments: Vec<OverTrials>,
}

/// A figure of several trials.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct OverTrials {
    /// Its mean.
    pub mean: f64,
    /// Its standard deviation; 0 of one trial.
    pub sd: f64,
}

/// The errors of one model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelErrors {
    /// The model.
    pub model: ModelName,
    /// Over all rounds.
    pub error: f64,
    /// By segment.
    pub segments: Vec<f64>,
}

/// The best model of a segment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BestOfSegment {
    /// The model,
    pub model: ModelName,
    /// and its error there.
    pub error: f64,
}

/// One trial of one target.
struct Trial {
    player: Player,
    /// By segment.
    costs: Vec<f64>,
}

enum Player {
    Uniform(Box<ChaCha8Rng>),
    Always(usize),
    Policy(Box<Simulated>),
}

impl Study {
    /// Runs all policies over the rounds, of which there must be as many as `contents` says.
    ///
    /// # Errors
    /// If a round cannot be had, does not fit a policy, or there are more or fewer than there should be.
    pub fn run(
        &self,
        contents: &Contents,
        mut rounds: impl Iterator<Item = Result<Round, OfflineError>>,
    ) -> Result<StudyReport, OfflineError> {
        let models = &contents.models;
        let segments = self.segments.get();
        let mut trials = self.trials(models)?;
        let mut alone = vec![vec![0.0; segments]; models.len()];
        let mut lengths = vec![0u64; segments];
        let mut done = 0;
        loop {
            let block: Vec<Round> = rounds.by_ref().take(BLOCK).collect::<Result<_, _>>()?;
            if block.is_empty() {
                break;
            }
            if done + block.len() as u64 > contents.rounds {
                return Err(OfflineError::Unfit("has become longer while it was read".to_owned()));
            }
            let segment_of =
                |index: usize| ((done + index as u64) * segments as u64 / contents.rounds) as usize;
            for (index, round) in block.iter().enumerate() {
                lengths[segment_of(index)] += 1;
                for (costs, loss) in alone.iter_mut().zip(&round.losses) {
                    costs[segment_of(index)] += loss.unwrap_or(NO_ANSWER);
                }
            }
            self.play(&mut trials, &block, &segment_of)?;
            done += block.len() as u64;
        }
        if done != contents.rounds {
            return Err(OfflineError::Unfit(
                "has become shorter; it is read twice, which a pipe cannot be".to_owned(),
            ));
        }
        Ok(self.report(contents, &lengths, &trials, &alone))
    }

    fn trials(&self, models: &[ModelName]) -> Result<Vec<Trial>, OfflineError> {
        let mut trials = Vec::new();
        for target in &self.targets {
            for trial in 0..self.trials.get() {
                let seed = self.seed.wrapping_add(trial as u64);
                let player = match target {
                    Target::Uniform => Player::Uniform(Box::new(ChaCha8Rng::seed_from_u64(seed))),
                    Target::Always(always) => {
                        let index = models.iter().position(|model| model == always);
                        Player::Always(index.ok_or_else(|| {
                            let known: Vec<&str> = models.iter().map(ModelName::as_str).collect();
                            OfflineError::Unfit(format!(
                                "has no model '{always}'; expected one of {}",
                                known.join(", ")
                            ))
                        })?)
                    }
                    Target::Policy(policy) => Player::Policy(Box::new(Simulated::new(policy, models, seed))),
                };
                trials.push(Trial { player, costs: vec![0.0; self.segments.get()] });
            }
        }
        Ok(trials)
    }

    fn play(
        &self,
        trials: &mut [Trial],
        block: &[Round],
        segment_of: &(impl Fn(usize) -> usize + Sync),
    ) -> Result<(), OfflineError> {
        if trials.is_empty() {
            return Ok(());
        }
        let play = |trials: &mut [Trial]| {
            for trial in trials {
                for (index, round) in block.iter().enumerate() {
                    trial.costs[segment_of(index)] += self
                        .round(&mut trial.player, round)
                        .map_err(|problem| OfflineError::Line { line: round.number, problem })?;
                }
            }
            Ok(())
        };
        let share = trials.len().div_ceil(self.threads.get());
        std::thread::scope(|scope| {
            let threads: Vec<_> =
                trials.chunks_mut(share).map(|trials| scope.spawn(|| play(trials))).collect();
            threads.into_iter().try_for_each(|thread| match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            })
        })
    }

    /// What one round costs a player, who learns from it.
    fn round(&self, player: &mut Player, round: &Round) -> Result<f64, String> {
        let cost = |model: usize| round.losses[model].unwrap_or(NO_ANSWER);
        let simulated = match player {
            Player::Uniform(chance) => return Ok(cost(chance.random_range(0..round.losses.len()))),
            Player::Always(model) => return Ok(cost(*model)),
            Player::Policy(simulated) => simulated,
        };
        let (uid, context) = (round.uid.as_ref(), round.context.as_deref());
        let choice = simulated.choose(uid, &[], context, round.number)?;
        match choice.asked {
            Asked::One(model) => {
                simulated.learn_outcome(model, round.outputs[model].is_some());
                if let Some(loss) = round.losses[model] {
                    let propensity = choice.weights[model];
                    simulated.learn(uid, &Lesson::Partial { model, loss, propensity, context });
                }
                Ok(cost(model))
            }
            Asked::All => {
                let votes: Vec<Vote<'_>> = round
                    .outputs
                    .iter()
                    .zip(&choice.weights)
                    .filter_map(|(output, weight)| Some(Vote::new(*weight, output.as_ref()?)))
                    .collect();
                let cost = match votes.as_slice() {
                    [] => NO_ANSWER,
                    votes => loss(self.loss, &combine(self.output_kind, votes).output, &round.label)?,
                };
                simulated.learn(uid, &Lesson::Full { losses: &round.losses, context });
                Ok(cost)
            }
        }
    }

    fn report(
        &self,
        contents: &Contents,
        lengths: &[u64],
        trials: &[Trial],
        alone: &[Vec<f64>],
    ) -> StudyReport {
        let error = |costs: &[f64]| costs.iter().sum::<f64>() / contents.rounds as f64;
        let in_segment = |costs: &[f64], segment: usize| costs[segment] / lengths[segment].max(1) as f64;
        let by_segment = |costs: &[f64]| -> Vec<f64> {
            (0..lengths.len()).map(|segment| in_segment(costs, segment)).collect()
        };
        let policies = self.targets.iter().zip(trials.chunks(self.trials.get()));
        let policies = policies.map(|(target, trials)| PolicyErrors {
            policy: target.to_string(),
            error: OverTrials::of(trials.iter().map(|trial| error(&trial.costs))),
            segments: (0..lengths.len())
                .map(|segment| OverTrials::of(trials.iter().map(|trial| in_segment(&trial.costs, segment))))
                .collect(),
        });
        let models = contents.models.iter().zip(alone).map(|(model, costs)| ModelErrors {
            model: model.clone(),
            error: error(costs),
            segments: by_segment(costs),
        });
        let models: Vec<ModelErrors> = models.collect();
        let best = |error: &dyn Fn(&ModelErrors) -> f64| {
            let best = models.iter().min_by(|one, other| error(one).total_cmp(&error(other)));
            best.expect("there is no round without a model").clone()
        };
        let best_of_segments: Vec<BestOfSegment> = (0..lengths.len())
            .map(|segment| {
                let best = best(&|model| model.segments[segment]);
                BestOfSegment { error: best.segments[segment], model: best.model }
            })
            .collect();
        let costs = best_of_segments.iter().zip(lengths).map(|(best, length)| best.error * *length as f64);
        StudyReport {
            rounds: contents.rounds,
            trials: self.trials.get(),
            seed: self.seed,
            segment_rounds: lengths.to_vec(),
            policies: policies.collect(),
            best_model: best(&|model| model.error),
            best_of_segments_error: costs.sum::<f64>() / contents.rounds as f64,
            best_of_segments,
            models,
        }
    }
}

impl OverTrials {
    fn of(figures: impl Iterator<Item = f64>) -> Self {
        let figures: Vec<f64> = figures.collect();
        let count = figures.len() as f64;
        let mean = figures.iter().sum::<f64>() / count;
        let squares: f64 = figures.iter().map(|figure| (figure - mean).powi(2)).sum();
        Self { mean, sd: (squares / (count - 1.0).max(1.0)).sqrt() }
    }
}
