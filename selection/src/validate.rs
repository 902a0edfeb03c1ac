//! What a policy's parameters must be.
//!
//! Called by management before a selection is stored. Invariant: what passes here, a learner takes without a check.

use clipper_rpc::selection::{Loss, OutputKind, Policy, Selection};

/// Says in one sentence what is wrong with a selection and what was expected, naming the parameter.
///
/// # Errors
/// If a parameter is not finite or out of its range, or the parts do not go together (`mean` with outputs declared
/// as labels, `majority_vote` with numbers).
pub fn validate(selection: &Selection) -> Result<(), String> {
    if let Some(threshold) = selection.confidence_threshold {
        Parameter("confidence_threshold", threshold).between_0_and_1()?;
    }
    match selection.loss {
        Loss::ZeroOne => {}
        Loss::Absolute { scale } | Loss::Squared { scale } => Parameter("loss: scale", scale).above_0()?,
    }
    match selection.policy {
        Policy::DefaultOutput | Policy::Exp3Ix {} => {}
        Policy::Exp3 { eta, floor } => {
            Parameter("eta", eta).above_0()?;
            Parameter("floor", floor).at_least_0_below_1()?;
        }
        Policy::EpsilonGreedy { epsilon, decay, discount } => {
            Parameter("epsilon", epsilon).between_0_and_1()?;
            Parameter("decay", decay).at_least_0()?;
            Parameter("discount", discount).above_0_to_1()?;
        }
        Policy::Ucb1 { exploration } => Parameter("exploration", exploration).at_least_0()?,
        Policy::Thompson { discount } => Parameter("discount", discount).above_0_to_1()?,
        Policy::LinUcb { dimensions, alpha, ridge } => {
            if !(1..=128).contains(&dimensions) {
                return Err(format!("dimensions must be from 1 to 128, but it is {dimensions}"));
            }
            Parameter("alpha", alpha).at_least_0()?;
            Parameter("ridge", ridge).above_0()?;
        }
        Policy::Exp4 { eta, share } => {
            Parameter("eta", eta).above_0()?;
            Parameter("share", share).at_least_0_below_1()?;
        }
        Policy::MajorityVote {} if selection.output_kind == OutputKind::Numbers => {
            return Err(
                "majority_vote needs labels, but output_kind is 'numbers'; expected 'labels' or 'detected', \
                        or the policy mean"
                    .to_owned(),
            );
        }
        Policy::Mean {} if selection.output_kind == OutputKind::Labels => {
            return Err(
                "mean needs numbers, but output_kind is 'labels'; expected 'numbers' or 'detected', or the \
                        policy majority_vote"
                    .to_owned(),
            );
        }
        Policy::MajorityVote {} | Policy::Mean {} => {}
    }
    Ok(())
}

/// A parameter's name and its value.
struct Parameter(&'static str, f64);

impl Parameter {
    fn above_0(self) -> Result<(), String> {
        self.must("above 0", |value| value > 0.0)
    }

    fn at_least_0(self) -> Result<(), String> {
        self.must("at least 0", |value| value >= 0.0)
    }

    fn between_0_and_1(self) -> Result<(), String> {
        self.must("from 0 to 1", |value| (0.0..=1.0).contains(&value))
    }

    fn at_least_0_below_1(self) -> Result<(), String> {
        self.must("at least 0 and below 1", |value| (0.0..1.0).contains(&value))
    }

    fn above_0_to_1(self) -> Result<(), String> {
        self.must("above 0 and at most 1", |value| value > 0.0 && value <= 1.0)
    }

    fn must(self, expected: &str, is_so: impl Fn(f64) -> bool) -> Result<(), String> {
        let Self(name, value) = self;
        if value.is_finite() && is_so(value) {
            Ok(())
        } else {
            Err(format!("{name} must be a number {expected}, but it is {value}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(text: &str) -> Selection {
        Selection { policy: serde_json::from_str(text).unwrap(), ..Selection::default() }
    }

    #[test]
    fn every_policy_is_valid_with_its_defaults() {
        for name in [
            "default_output",
            "exp3",
            "exp3_ix",
            "epsilon_greedy",
            "ucb1",
            "thompson",
            "exp4",
            "majority_vote",
            "mean",
        ] {
            assert_eq!(validate(&policy(&format!(r#"{{"policy": "{name}"}}"#))), Ok(()), "{name}");
        }
        assert_eq!(validate(&policy(r#"{"policy": "linucb", "dimensions": 128}"#)), Ok(()));
    }

    #[test]
    fn what_is_out_of_its_range_is_named() {
        for (text, error) in [
            (r#"{"policy": "exp3", "eta": 0}"#, "eta must be a number above 0, but it is 0"),
            (
                r#"{"policy": "exp3", "floor": 1}"#,
                "floor must be a number at least 0 and below 1, but it is 1",
            ),
            (
                r#"{"policy": "epsilon_greedy", "epsilon": 2}"#,
                "epsilon must be a number from 0 to 1, but it is 2",
            ),
            (
                r#"{"policy": "epsilon_greedy", "decay": -1}"#,
                "decay must be a number at least 0, but it is -1",
            ),
            (
                r#"{"policy": "epsilon_greedy", "discount": 0}"#,
                "discount must be a number above 0 and at most 1, but it is 0",
            ),
            (
                r#"{"policy": "ucb1", "exploration": -0.5}"#,
                "exploration must be a number at least 0, but it is -0.5",
            ),
            (
                r#"{"policy": "thompson", "discount": 1.5}"#,
                "discount must be a number above 0 and at most 1, but it is 1.5",
            ),
            (r#"{"policy": "linucb", "dimensions": 0}"#, "dimensions must be from 1 to 128, but it is 0"),
            (
                r#"{"policy": "exp4", "share": -0.1}"#,
                "share must be a number at least 0 and below 1, but it is -0.1",
            ),
        ] {
            assert_eq!(validate(&policy(text)), Err(error.to_owned()), "{text}");
        }
        let infinite = Policy::Exp4 { eta: f64::INFINITY, share: 0.1 };
        let error = validate(&Selection { policy: infinite, ..Selection::default() }).unwrap_err();
        assert_eq!(error, "eta must be a number above 0, but it is inf");
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        let mean = Selection { output_kind: OutputKind::Labels, ..policy(r#"{"policy": "mean"}"#) };
        assert!(validate(&mean).unwrap_err().contains("mean needs numbers"));
        let vote = Selection { output_kind: OutputKind::Numbers, ..policy(r#"{"policy": "majority_vote"}"#) };
        assert!(validate(&vote).unwrap_err().contains("majority_vote needs labels"));
        let loss = Selection { loss: Loss::Absolute { scale: f64::NAN }, ..Selection::default() };
        assert!(validate(&loss).unwrap_err().contains("scale must be a number above 0"));
        let threshold = Selection { confidence_threshold: Some(1.1), ..Selection::default() };
        assert!(
            validate(&threshold).unwrap_err().contains("confidence_threshold must be a number from 0 to 1")
        );
    }
}
