//! How applications select among models, and what is learned of them: the words that management, frontends and
//! the offline tools share. The algorithms are in the crate `clipper-selection`.
//!
//! What is learned is in [`statistics`], and only ever changes by a [`Change`]: scale, then add. Changes compose, so that each frontend sends what it has learned since it last did, management applies it, and
//! everybody else gets the same change. Invariant: no change is lost or applied twice, whoever restarts.

mod statistics;

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use self::statistics::{Affine, Change, Decay, ModelStatistics, Statistics, TOTALS};
use crate::catalog::Generation;
use crate::names::AppName;

/// How an application selects among its models, and what it makes of their outputs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Selection {
    /// Which models are asked, and what is learned from feedback.
    #[serde(default)]
    pub policy: Policy,
    /// Below this confidence (0 to 1) the default output is given. `None`: any confidence will do.
    #[serde(default)]
    pub confidence_threshold: Option<f64>,
    /// What an output costs, given the label.
    #[serde(default)]
    pub loss: Loss,
    /// Whether outputs are labels, which vote, or numbers, which average.
    #[serde(default)]
    pub output_kind: OutputKind,
    /// Whether each decision and each feedback is written to the decision log.
    #[serde(default)]
    pub log_decisions: bool,
    /// Where all chance of this application comes from.
    #[serde(default)]
    pub seed: u64,
    /// Generation of what is learned: that of the application, or of its last change of policy (not of a policy's
    /// parameters). States of other generations mean nothing to this policy.
    #[serde(default)]
    pub since: Generation,
}

/// Which models are asked, and what is learned from feedback. Losses are in [0, 1]; a reward is 1 - loss.
///
/// As JSON `{"policy": "exp4", "eta": 0.2}`, or the name alone. What each does is in `docs/selection.md`.
///
/// With their defaults `exp3`, `epsilon_greedy`, `thompson` and `exp4` leave a model that fails within hundreds of
/// feedbacks, and take it back within hundreds. `exp3_ix` takes thousands. `ucb1` and `linucb` weigh all feedback alike,
/// however old, so that what they have long known they change the more slowly; so do `thompson` and `epsilon_greedy` with
/// a `discount` of 1.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "policy", rename_all = "snake_case", deny_unknown_fields)]
pub enum Policy {
    /// The one linked model answers.
    #[default]
    DefaultOutput,
    /// One model, drawn by exponential weights.
    Exp3 {
        /// The learning rate, above 0.
        #[serde(default = "defaults::exp3_eta")]
        eta: f64,
        /// The least weight that a model keeps, as a part of the mean weight, in [0, 1).
        #[serde(default = "defaults::exp3_floor")]
        floor: f64,
    },
    /// One model, drawn by exponential weights with implicit exploration (Neu 2015); no knob to set. The rate falls with
    /// the feedback so far, up to 1,000, and no weight below 1 % of the mean one.
    Exp3Ix {},
    /// The best model so far, or now and then any other.
    EpsilonGreedy {
        /// How often any model is drawn, in [0, 1].
        #[serde(default = "defaults::epsilon")]
        epsilon: f64,
        /// With t feedbacks, models are drawn with probability epsilon / (1 + decay * t); at least 0.
        #[serde(default)]
        decay: f64,
        /// What remains of what was known, at each feedback, in (0, 1].
        #[serde(default = "defaults::epsilon_greedy_discount")]
        discount: f64,
    },
    /// The model with the highest upper confidence bound (Auer et al. 2002).
    Ucb1 {
        /// Factor of the bound's width, at least 0. That of the paper is 1, for rewards that vary as much as any can.
        #[serde(default = "defaults::ucb1_exploration")]
        exploration: f64,
    },
    /// One model, drawn as likely as it is the best by what is known (Beta posteriors).
    Thompson {
        /// What remains of what was known, at each feedback, in (0, 1].
        #[serde(default = "defaults::thompson_discount")]
        discount: f64,
    },
    /// The model with the highest upper confidence bound given the query's `context` (Li et al. 2010, disjoint). The
    /// context is all that it knows a user by.
    #[serde(rename = "linucb")]
    LinUcb {
        /// The number of features in `context`, 1 to 128.
        dimensions: usize,
        /// Factor of the bound's width, at least 0.
        #[serde(default = "defaults::one")]
        alpha: f64,
        /// The ridge regression's regularisation, above 0.
        #[serde(default = "defaults::one")]
        ridge: f64,
    },
    /// All models, weighted by Hedge with fixed share (Herbster and Warmuth 1998).
    Exp4 {
        /// The learning rate, above 0.
        #[serde(default = "defaults::exp4_eta")]
        eta: f64,
        /// The part of all weight that is dealt out evenly at each feedback, in [0, 1).
        #[serde(default = "defaults::exp4_share")]
        share: f64,
    },
    /// All models, one vote each.
    MajorityVote {},
    /// All models, averaged.
    Mean {},
}

impl Policy {
    /// Whether it selects by what it learned from the user. `linucb` knows users by their context alone.
    pub fn is_personal(&self) -> bool {
        match self {
            Self::Exp3 { .. }
            | Self::Exp3Ix {}
            | Self::EpsilonGreedy { .. }
            | Self::Ucb1 { .. }
            | Self::Thompson { .. }
            | Self::Exp4 { .. } => true,
            Self::DefaultOutput | Self::LinUcb { .. } | Self::MajorityVote {} | Self::Mean {} => false,
        }
    }
}

/// The values of parameters that are not given.
mod defaults {
    pub(super) fn one() -> f64 {
        1.0
    }
    pub(super) fn ucb1_exploration() -> f64 {
        0.35
    }
    pub(super) fn exp3_eta() -> f64 {
        0.1
    }
    pub(super) fn exp3_floor() -> f64 {
        0.02
    }
    pub(super) fn epsilon() -> f64 {
        0.1
    }
    pub(super) fn epsilon_greedy_discount() -> f64 {
        0.995
    }
    pub(super) fn thompson_discount() -> f64 {
        0.998
    }
    pub(super) fn exp4_eta() -> f64 {
        0.2
    }
    pub(super) fn exp4_share() -> f64 {
        0.001
    }
}

/// What an output costs, given the label: in [0, 1].
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "loss", rename_all = "snake_case", deny_unknown_fields)]
pub enum Loss {
    /// 0 if it equals the label, 1 otherwise.
    #[default]
    ZeroOne,
    /// The distance of two numbers, as a part of `scale`; at most 1.
    Absolute {
        /// The distance that costs 1; above 0.
        scale: f64,
    },
    /// The square of that.
    Squared {
        /// The distance that costs 1; above 0.
        scale: f64,
    },
}

/// What outputs are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputKind {
    /// Numbers where every output is a number and at least one has a fraction or an exponent; labels otherwise.
    #[default]
    Detected,
    /// They vote. `1` and `1.0` are the same label.
    Labels,
    /// They average.
    Numbers,
}

/// Whose selection state is meant: a user's, as an application names it. The integer 7 and the text `7` are the same.
///
/// The integer 0, which stands for nobody in the original's requests, is no user: it is the application's shared
/// state, as is none.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Uid(Arc<str>);

/// Names one piece of state.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StateKey {
    /// The application.
    pub application: AppName,
    /// [`Selection::since`] of its policy.
    pub since: Generation,
    /// The user; `None` is the shared state.
    pub uid: Option<Uid>,
}

/// One piece of state, and how it changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StateChange {
    /// Which.
    pub key: StateKey,
    /// How.
    pub change: Change,
}

/// Feedback on a query that another frontend answered, on its way there: the high bits of the id are its number.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ForwardedFeedback {
    /// The application that it was sent to.
    pub application: AppName,
    /// The query.
    pub query_id: u64,
    /// What is said of its answer.
    pub verdict: Verdict,
}

/// What an application says of an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// What would have been right, as JSON.
    Label(serde_json::Value),
    /// How good it was, in [0, 1].
    Reward(f64),
}

/// One exchange of a frontend with management: what it has learned, and what it wants to know. A frontend has one in
/// flight at a time; after a failure it sends the same number, changes, feedback and explanations again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExchangeRequest {
    /// This run of the frontend.
    pub frontend: Uuid,
    /// Its number, which is in its query ids.
    pub frontend_number: u64,
    /// Counts the exchanges of this run, so that one that is sent again is not applied again.
    pub number: u64,
    /// Up to where it knows what others learned.
    pub known: Option<ExchangePosition>,
    /// What it has learned since the last exchange: at most one change for each key.
    pub changes: Vec<StateChange>,
    /// The states that it wants in full.
    pub load: Vec<StateKey>,
    /// Feedback for other frontends.
    pub forward: Vec<ForwardedFeedback>,
    /// Answers to some of [`ExchangeResponse::explain`], the others follow: JSON, as a text that is passed on as it is; none for a
    /// query of which it knows nothing.
    pub explanations: Vec<(u64, Option<String>)>,
}

/// A place in the sequence of changes that one run of management has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExchangePosition {
    /// The run of management.
    pub run: Uuid,
    /// How many changes it had seen.
    pub sequence: u64,
}

/// The answer, given once the request's changes are stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExchangeResponse {
    /// Up to where the frontend knows what others learned once it has taken in this answer.
    pub position: ExchangePosition,
    /// Whether it has missed changes: then it must load each state anew that it holds.
    pub reset: bool,
    /// What others learned since [`ExchangeRequest::known`], in order; nothing of the keys in `loaded`.
    pub changes: Vec<StateChange>,
    /// What was asked for in full, as of `position`, with every change of the request.
    pub loaded: Vec<(StateKey, Statistics)>,
    /// Feedback on queries of this frontend that others received.
    pub feedback: Vec<ForwardedFeedback>,
    /// Queries that somebody wants explained.
    pub explain: Vec<u64>,
}

impl Uid {
    /// The user of that name; none for the empty text and for `0`.
    pub fn new(name: impl Into<Arc<str>>) -> Option<Self> {
        let name = name.into();
        (!name.is_empty() && &*name != "0").then_some(Self(name))
    }

    /// As a text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_read_with_its_defaults_and_unknown_parameters_are_refused() {
        let read = |text: &str| serde_json::from_str::<Policy>(text);
        assert_eq!(
            read(r#"{"policy": "exp4", "eta": 0.5}"#).unwrap(),
            Policy::Exp4 { eta: 0.5, share: 0.001 }
        );
        assert_eq!(
            read(r#"{"policy": "linucb", "dimensions": 3}"#).unwrap(),
            Policy::LinUcb { dimensions: 3, alpha: 1.0, ridge: 1.0 }
        );
        for wrong in [r#"{"policy": "exp4", "etta": 1}"#, r#"{"policy": "exp5"}"#, r#"{"policy": "linucb"}"#]
        {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        for policy in [
            "exp3",
            "exp3_ix",
            "epsilon_greedy",
            "ucb1",
            "thompson",
            "majority_vote",
            "mean",
            "default_output",
        ] {
            let read = read(&format!(r#"{{"policy": "{policy}"}}"#)).unwrap();
            assert_eq!(serde_json::to_value(&read).unwrap()["policy"], policy);
        }
    }

    #[test]
    fn nobody_is_user_0() {
        assert_eq!(Uid::new("0"), None);
        assert_eq!(Uid::new("7").unwrap().as_str(), "7");
    }
}
