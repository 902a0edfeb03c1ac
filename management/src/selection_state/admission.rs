//! Bounds of what changes may add to the states of an application.
//!
//! Invariant: a change that is admitted leaves numbers where there were numbers, adds no model that the application is
//! not linked to, and no more figures than the policy has. So the size of a state is bounded by the catalog.

use std::collections::{HashMap, HashSet};

use clipper_rpc::catalog::Application;
use clipper_rpc::names::{AppName, ModelName};
use clipper_rpc::selection::{Change, Policy, StateChange, StateKey, Statistics, TOTALS};

use crate::catalog::Catalog;

/// The most models in one change or state.
const MAX_MODELS: usize = 2048;
/// The most figures of a model, for every policy but `linucb`.
const MAX_FIGURES: usize = 8;

/// The applications of a catalog, as far as one exchange concerns them.
pub(super) struct Admission<'a> {
    catalog: &'a Catalog,
    linked: HashMap<AppName, HashSet<&'a ModelName>>,
    /// Number of changes that were left out, whole or in part.
    pub(super) left_out: usize,
}

impl<'a> Admission<'a> {
    pub(super) fn new(catalog: &'a Catalog) -> Self {
        Self { catalog, linked: HashMap::new(), left_out: 0 }
    }

    /// The application that learns what the key names, as it is now.
    fn application(&self, key: &StateKey) -> Option<&'a Application> {
        let application = self.catalog.applications.get(&key.application)?;
        (application.selection.since == key.since).then_some(application)
    }

    /// Whether a state can be that of an application as it is now.
    pub(super) fn is_learned(&self, key: &StateKey) -> bool {
        let is_possible =
            |application: &Application| key.uid.is_none() || application.selection.policy.is_personal();
        self.application(key).is_some_and(is_possible)
    }

    /// The part of a change that may be applied to a state.
    pub(super) fn admit(&mut self, sent: &StateChange, state: &Statistics) -> Option<StateChange> {
        let application = self.application(&sent.key)?;
        let most = max_figures(&application.selection.policy);
        let change = &sent.change.0;
        let fits =
            change.len() <= MAX_MODELS && change.values().all(|it| it.add.len() <= most && it.is_sound());
        if !fits {
            self.left_out += 1;
            return None;
        }
        if change.keys().all(|model| state.0.contains_key(model)) {
            return Some(sent.clone());
        }
        let linked = self
            .linked
            .entry(application.name.clone())
            .or_insert_with(|| application.linked_models.iter().collect());
        let known = change.iter().filter(|(model, _)| state.0.contains_key(*model) || linked.contains(model));
        let admitted = Change(known.map(|(model, affine)| (model.clone(), affine.clone())).collect());
        if admitted.0.len() < change.len() {
            self.left_out += 1;
        }
        (!admitted.0.is_empty()).then(|| StateChange { key: sent.key.clone(), change: admitted })
    }

    /// Forgets models that the application is no longer linked to, once a state has too many.
    pub(super) fn prune(&self, key: &StateKey, state: &mut Statistics) {
        if state.0.len() > MAX_MODELS
            && let Some(linked) = self.linked.get(&key.application)
        {
            state.0.retain(|model, _| linked.contains(model));
        }
    }
}

/// The most figures of one model, as its policy keeps them.
fn max_figures(policy: &Policy) -> usize {
    match policy {
        Policy::LinUcb { dimensions, .. } => TOTALS + dimensions * (dimensions + 1) / 2 + dimensions,
        _ => MAX_FIGURES,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use clipper_rpc::selection::{Affine, Selection};

    use super::super::tests::{change, key, statistics};
    use super::*;
    use crate::applications::tests::{app, edited};

    fn catalog(policy: &str, linked: &[&str]) -> Catalog {
        let policy = serde_json::from_str(policy).unwrap();
        let selection = Selection { policy, ..Selection::default() };
        let application = Application { selection, ..app("a", linked) };
        let before = Catalog { revision: 6, ..Catalog::default() };
        let mut catalog = edited(before.clone(), crate::applications::add(&before, application));
        // As the keys of these tests have it.
        let application = catalog.applications.get_mut("a").unwrap();
        Arc::make_mut(application).selection.since = key(None).since;
        catalog
    }

    #[test]
    fn a_change_adds_linked_models_only_and_may_alter_those_that_are_there() {
        let catalog = catalog(r#"{"policy": "exp3"}"#, &["m", "n"]);
        let mut admission = Admission::new(&catalog);
        let mut sent = change(key(None), 1.0, &[1.0]);
        let affine = Affine { scale: 1.0, add: vec![1.0], missed: None };
        sent.change.0.insert("stranger".parse().unwrap(), affine.clone());
        let admitted = admission.admit(&sent, &Statistics::default()).unwrap();
        assert_eq!(admitted, change(key(None), 1.0, &[1.0]));
        assert_eq!(admission.left_out, 1);
        let mut state = statistics(&[1.0]);
        state.0.insert("stranger".parse().unwrap(), vec![1.0].into());
        assert_eq!(admission.admit(&sent, &state), Some(sent));
        sent = change(key(None), 1.0, &[]);
        sent.change.0 =
            (0..=MAX_MODELS).map(|it| (format!("m{it}").parse().unwrap(), affine.clone())).collect();
        assert_eq!(admission.admit(&sent, &state), None);
    }

    #[test]
    fn a_model_has_as_many_figures_as_its_policy() {
        let linucb = r#"{"policy": "linucb", "dimensions": 3}"#;
        for (policy, most) in [(linucb, 2 + 6 + 3), (r#"{"policy": "exp3"}"#, MAX_FIGURES)] {
            let catalog = catalog(policy, &["m"]);
            let mut admission = Admission::new(&catalog);
            let mut admits = |figures| {
                let sent = change(key(None), 1.0, &vec![1.0; figures]);
                admission.admit(&sent, &Statistics::default()).is_some()
            };
            assert_eq!([admits(most), admits(most + 1)], [true, false], "{policy}");
        }
    }

    #[test]
    fn a_state_with_too_many_models_forgets_those_that_are_not_linked() {
        let catalog = catalog(r#"{"policy": "exp3"}"#, &["m"]);
        let mut admission = Admission::new(&catalog);
        let mut state = Statistics::default();
        admission.admit(&change(key(None), 1.0, &[1.0]), &state).unwrap();
        state.0.extend((0..MAX_MODELS).map(|it| (format!("former{it}").parse().unwrap(), vec![1.0].into())));
        admission.prune(&key(None), &mut state);
        assert_eq!(state.0.len(), MAX_MODELS);
        state.0.insert("m".parse().unwrap(), vec![1.0].into());
        admission.prune(&key(None), &mut state);
        assert_eq!(state, statistics(&[1.0]));
    }

    #[test]
    fn users_have_states_only_where_the_policy_is_personal() {
        for (policy, personal) in [("exp3", true), ("mean", false)] {
            let catalog = catalog(&format!(r#"{{"policy": "{policy}"}}"#), &["m"]);
            let admission = Admission::new(&catalog);
            assert!(admission.is_learned(&key(None)));
            assert_eq!(admission.is_learned(&key(Some("u"))), personal);
        }
    }
}
