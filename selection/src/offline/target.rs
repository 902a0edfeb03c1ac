//! A policy to evaluate: one of those that applications have, or a fixed rule.

use std::fmt;
use std::str::FromStr;

use clipper_rpc::names::ModelName;
use clipper_rpc::selection::{Policy, Selection};
use serde_json::{Value, json};

use crate::validate::validate;

/// What is evaluated.
#[derive(Debug, Clone, PartialEq)]
pub enum Target {
    /// Any model, each as likely.
    Uniform,
    /// One model, always.
    Always(ModelName),
    /// A policy, which learns.
    Policy(Policy),
}

impl Target {
    /// Whether it asks every model for every query.
    pub fn asks_all(&self) -> bool {
        matches!(self, Self::Policy(Policy::Exp4 { .. } | Policy::MajorityVote {} | Policy::Mean {}))
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "uniform" {
            return Ok(Self::Uniform);
        }
        if let Some(model) = text.strip_prefix("always:") {
            return model
                .parse()
                .map(Self::Always)
                .map_err(|error: clipper_rpc::names::NameError| error.to_string());
        }
        let value: Value = if text.trim_start().starts_with('{') {
            serde_json::from_str(text).map_err(|error| format!("expected a JSON object: {error}"))?
        } else {
            json!({ "policy": text })
        };
        let policy: Policy = serde_json::from_value(value).map_err(|error| {
            format!("expected 'uniform', 'always:MODEL', a policy's name, or its JSON object: {error}")
        })?;
        if policy == Policy::DefaultOutput {
            return Err("'default_output' is what one model answers: name it, as 'always:MODEL'".to_owned());
        }
        validate(&Selection { policy: policy.clone(), ..Selection::default() })?;
        Ok(Self::Policy(policy))
    }
}

impl fmt::Display for Target {
    /// As it is read, without the parameters that have their defaults.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let policy = match self {
            Self::Uniform => return f.write_str("uniform"),
            Self::Always(model) => return write!(f, "always:{model}"),
            Self::Policy(policy) => policy,
        };
        let full = serde_json::to_value(policy).unwrap_or_default();
        let name = full["policy"].as_str().unwrap_or_default();
        match name.parse::<Self>() {
            Ok(Self::Policy(default)) if default == *policy => f.write_str(name),
            _ => write!(f, "{full}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_read_and_written() {
        for text in ["uniform", "always:m-1", "exp4", "ucb1"] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
        let tuned: Target = r#"{"policy": "exp4", "eta": 0.5}"#.parse().unwrap();
        assert!(tuned.asks_all());
        assert_eq!(tuned.to_string().parse::<Target>().unwrap(), tuned);
    }

    #[test]
    fn what_is_none_is_refused_with_what_was_expected() {
        let problem = |text: &str| text.parse::<Target>().unwrap_err();
        assert!(problem("exp5").contains("expected 'uniform', 'always:MODEL'"));
        assert!(problem("default_output").contains("always:MODEL"));
        assert!(problem("always:/").contains("not a valid"));
        assert!(problem(r#"{"policy": "exp4", "eta": -1}"#).contains("eta"));
        assert!(problem("{").contains("expected a JSON object"));
    }
}
