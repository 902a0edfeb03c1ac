//! What can be done to applications and their links: pure decisions from the catalog as it is to an edit of it.
//!
//! Called by the HTTP handlers inside the store's single writer. Invariant: an application whose policy does not select
//! among models is linked to at most one; the current version of each linked model takes the application's inputs.

use std::collections::HashSet;
use std::mem::discriminant;

use clipper_rpc::catalog::{Application, Change, Generation, OnOverload};
use clipper_rpc::names::{AppName, ModelName};
use clipper_rpc::selection::{Loss, OutputKind, Policy, Selection};
use clipper_selection::validate::validate;

use crate::bounds;
use crate::catalog::{Catalog, Edit};
use crate::refusal::Refusal;

/// Seeds are below it: up to there, every reader of JSON reads whole numbers exactly.
pub const SEEDS: u64 = 1 << 53;

/// Adds an application, with the links that it already names. What it learns is of a new generation.
///
/// # Errors
/// If its name is taken, a setting makes no sense, or its links do not fit.
pub fn add(catalog: &Catalog, application: Application) -> Result<Edit, Refusal> {
    if catalog.applications.contains_key(&application.name) {
        return Err(Refusal::ApplicationExists { name: application.name });
    }
    bounds::one_more_application(catalog)?;
    bounds::application(&application, None)?;
    check(&application)?;
    check_selection(&application.selection)?;
    let selection = Selection { since: catalog.next_generation(), ..application.selection };
    let mut linked = Application { linked_models: Vec::new(), selection, ..application };
    link_all(catalog, &mut linked, application.linked_models)?;
    Ok(Edit::change(Change::PutApplication { application: linked }))
}

/// What can be changed of an application. `None` leaves it as it is.
#[derive(Debug, Default, PartialEq)]
pub struct ApplicationUpdate {
    /// The output that is given where no model's output can be.
    pub default_output: Option<String>,
    /// The latency objective, in microseconds.
    pub latency_slo_micros: Option<u64>,
    /// Whether queries may be answered from the prediction cache.
    pub cache: Option<bool>,
    /// The most requests in progress at one frontend; `Some(None)` removes the bound.
    pub max_concurrent_requests: Option<Option<u32>>,
    /// What happens to a query for which there is no room.
    pub on_overload: Option<OnOverload>,
    /// How it selects among its models.
    pub selection: SelectionUpdate,
}

/// What can be changed of how an application selects. `None` leaves it as it is.
#[derive(Debug, Default, PartialEq)]
pub struct SelectionUpdate {
    /// Which models are asked, and what is learned; another policy learns anew, other parameters do not.
    pub policy: Option<Policy>,
    /// The confidence below which the default output is given; `Some(None)`: any will do.
    pub confidence_threshold: Option<Option<f64>>,
    /// What an output costs.
    pub loss: Option<Loss>,
    /// Whether outputs are labels or numbers.
    pub output_kind: Option<OutputKind>,
    /// Whether decisions are logged.
    pub log_decisions: Option<bool>,
    /// Where all chance comes from.
    pub seed: Option<u64>,
}

impl ApplicationUpdate {
    /// The names of the fields, for people.
    const FIELDS: &str = "default_output, latency_slo_micros, cache, max_concurrent_requests, on_overload, \
        selection_policy, confidence_threshold, loss, output_kind, log_decisions, selection_seed";
}

impl SelectionUpdate {
    /// What comes of a selection, in an edit whose generation is `next`.
    fn of(self, before: &Selection, next: Generation) -> Selection {
        let policy = self.policy.unwrap_or_else(|| before.policy.clone());
        let is_another = match (&policy, &before.policy) {
            // What it learned is laid out by the number of features.
            (Policy::LinUcb { dimensions, .. }, Policy::LinUcb { dimensions: before, .. }) => {
                dimensions != before
            }
            (policy, before) => discriminant(policy) != discriminant(before),
        };
        Selection {
            policy,
            confidence_threshold: self.confidence_threshold.unwrap_or(before.confidence_threshold),
            loss: self.loss.unwrap_or(before.loss),
            output_kind: self.output_kind.unwrap_or(before.output_kind),
            log_decisions: self.log_decisions.unwrap_or(before.log_decisions),
            seed: self.seed.unwrap_or(before.seed),
            since: if is_another { next } else { before.since },
        }
    }
}

/// Changes an application, whose input type and links stay.
///
/// # Errors
/// If there is none of that name, a setting makes no sense, or nothing is to be changed.
pub fn update(catalog: &Catalog, name: AppName, update: ApplicationUpdate) -> Result<Edit, Refusal> {
    if update == ApplicationUpdate::default() {
        return Err(Refusal::NothingToUpdate { fields: ApplicationUpdate::FIELDS });
    }
    let Some(before) = catalog.applications.get(&name) else {
        return Err(Refusal::NoSuchApplication { name });
    };
    let application = Application {
        name,
        input_type: before.input_type,
        default_output: update.default_output.unwrap_or_else(|| before.default_output.clone()),
        latency_slo_micros: update.latency_slo_micros.unwrap_or(before.latency_slo_micros),
        linked_models: before.linked_models.clone(),
        cache: update.cache.unwrap_or(before.cache),
        max_concurrent_requests: update.max_concurrent_requests.unwrap_or(before.max_concurrent_requests),
        on_overload: update.on_overload.unwrap_or(before.on_overload),
        selection: update.selection.of(&before.selection, catalog.next_generation()),
    };
    check(&application)?;
    bounds::application(&application, Some(before))?;
    if application.selection != before.selection {
        check_selection(&application.selection)?;
    }
    if !selects(&application) && application.linked_models.len() > 1 {
        let (app, linked) = (application.name, application.linked_models);
        return Err(Refusal::LinkedToSeveral {
            policy: policy_name(&application.selection.policy),
            app,
            linked,
        });
    }
    Ok(Edit::change(Change::PutApplication { application }))
}

/// What must hold of an application by itself.
fn check(application: &Application) -> Result<(), Refusal> {
    if application.latency_slo_micros == 0 {
        return Err(Refusal::NoLatencyObjective { micros: 0 });
    }
    if application.max_concurrent_requests == Some(0) {
        return Err(Refusal::NoConcurrentRequests);
    }
    Ok(())
}

/// What must hold of a selection by itself.
fn check_selection(selection: &Selection) -> Result<(), Refusal> {
    if selection.seed >= SEEDS {
        return Err(Refusal::SelectionSeed { seed: selection.seed });
    }
    validate(selection).map_err(|sentence| {
        let names_its_field = ["confidence_threshold", "loss", "output_kind", "selection_policy"]
            .iter()
            .any(|field| sentence.starts_with(field));
        let sentence = if names_its_field { sentence } else { format!("selection_policy: {sentence}") };
        Refusal::Selection { sentence }
    })
}

/// Whether an application selects among models, and so may be linked to several.
fn selects(application: &Application) -> bool {
    application.selection.policy != Policy::DefaultOutput
}

/// The name of a policy in requests and answers.
pub fn policy_name(policy: &Policy) -> &'static str {
    match policy {
        Policy::DefaultOutput => "default_output",
        Policy::Exp3 { .. } => "exp3",
        Policy::Exp3Ix {} => "exp3_ix",
        Policy::EpsilonGreedy { .. } => "epsilon_greedy",
        Policy::Ucb1 { .. } => "ucb1",
        Policy::Thompson { .. } => "thompson",
        Policy::LinUcb { .. } => "linucb",
        Policy::Exp4 { .. } => "exp4",
        Policy::MajorityVote {} => "majority_vote",
        Policy::Mean {} => "mean",
    }
}

/// Deletes an application, its links with it.
///
/// # Errors
/// If there is none of that name.
pub fn delete(catalog: &Catalog, name: AppName) -> Result<Edit, Refusal> {
    if !catalog.applications.contains_key(&name) {
        return Err(Refusal::NoSuchApplication { name });
    }
    Ok(Edit::change(Change::DeleteApplication { name }))
}

/// Links models to an application: all of them, or none.
///
/// # Errors
/// If the application or a model is not there, a model takes other inputs, or a link is there already.
pub fn link(catalog: &Catalog, app: &AppName, models: Vec<ModelName>) -> Result<Edit, Refusal> {
    let application =
        catalog.applications.get(app).ok_or_else(|| Refusal::NoAppToLink { name: app.clone() })?;
    if models.is_empty() {
        return Err(Refusal::NothingToLink);
    }
    let before = application;
    let mut application = Application::clone(before);
    if let Some(model) = models.iter().find(|model| !catalog.models.contains_key(*model)) {
        return Err(Refusal::NoSuchModel { model: model.clone() });
    }
    link_all(catalog, &mut application, models)?;
    bounds::application(&application, Some(before))?;
    Ok(Edit::change(Change::PutApplication { application }))
}

/// Adds links. A model that is not there yet is checked when it comes.
fn link_all(catalog: &Catalog, application: &mut Application, models: Vec<ModelName>) -> Result<(), Refusal> {
    let mut linked: HashSet<ModelName> = application.linked_models.iter().cloned().collect();
    for model in models {
        if let Some(model_type) = catalog.current_input_type(&model)
            && model_type != application.input_type
        {
            return Err(Refusal::IncompatibleLink { model, model_type, app_type: application.input_type });
        }
        let app = application.name.clone();
        if !linked.insert(model.clone()) {
            return Err(Refusal::AlreadyLinked { model, app });
        }
        if let Some(linked) = application.linked_models.first()
            && !selects(application)
        {
            return Err(Refusal::OneModelOnly { linked: linked.clone(), app });
        }
        application.linked_models.push(model);
    }
    Ok(())
}

/// Removes links of an application: all of them, or none.
///
/// # Errors
/// If one of the links is not there.
pub fn unlink(catalog: &Catalog, app: &AppName, models: &[ModelName]) -> Result<Edit, Refusal> {
    if models.is_empty() {
        return Err(Refusal::NothingToLink);
    }
    let application = catalog.applications.get(app);
    let no_link = |model: &ModelName| Refusal::NoSuchLink { app: app.clone(), model: model.clone() };
    let mut application = Application::clone(application.ok_or_else(|| no_link(&models[0]))?);
    let mut linked: HashSet<ModelName> = application.linked_models.iter().cloned().collect();
    if let Some(model) = models.iter().find(|model| !linked.remove(*model)) {
        return Err(no_link(model));
    }
    application.linked_models.retain(|model| linked.contains(model));
    Ok(Edit::change(Change::PutApplication { application }))
}

/// The models that an application is linked to.
///
/// # Errors
/// If there is no such application.
pub fn linked_models<'a>(catalog: &'a Catalog, app: &AppName) -> Result<&'a [ModelName], Refusal> {
    match catalog.applications.get(app) {
        Some(application) => Ok(&application.linked_models),
        None => Err(Refusal::NoAppWithLinks { name: app.clone() }),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use clipper_rpc::input::InputType;

    use super::*;
    use crate::models::tests::{doubles, model_id, registered};

    pub(crate) fn app(name: &str, linked: &[&str]) -> Application {
        Application {
            name: name.parse().unwrap(),
            input_type: InputType::Doubles,
            default_output: "-1.0".into(),
            latency_slo_micros: 100_000,
            linked_models: linked.iter().map(|model| model.parse().unwrap()).collect(),
            cache: true,
            max_concurrent_requests: None,
            on_overload: OnOverload::Default,
            selection: Default::default(),
        }
    }

    fn names(names: &[&str]) -> Vec<ModelName> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    pub(crate) fn edited(mut catalog: Catalog, edit: Result<Edit, Refusal>) -> Catalog {
        catalog.apply(&edit.unwrap());
        catalog
    }

    #[test]
    fn an_application_may_name_a_model_that_does_not_exist_yet() {
        let catalog = Catalog::default();
        let catalog = edited(catalog.clone(), add(&catalog, app("a", &["m"])));
        assert_eq!(linked_models(&catalog, &"a".parse().unwrap()).unwrap(), names(&["m"]));
    }

    #[test]
    fn an_application_is_linked_to_one_model_only() {
        let refused = add(&Catalog::default(), app("a", &["m", "n"])).unwrap_err();
        assert_eq!(refused.to_string(), "A model with name m is already linked to 'a'.");
        let refused = add(&Catalog::default(), app("a", &["m", "m"])).unwrap_err();
        assert_eq!(refused.to_string(), "The model with name 'm' is already linked to 'a'");
    }

    fn policy(policy: Policy) -> ApplicationUpdate {
        let selection = SelectionUpdate { policy: Some(policy), ..SelectionUpdate::default() };
        ApplicationUpdate { selection, ..ApplicationUpdate::default() }
    }

    #[test]
    fn an_application_that_selects_is_linked_to_any_number_of_models_each_once() {
        let selection = Selection { policy: Policy::Mean {}, ..Selection::default() };
        let selecting = |linked| Application { selection: selection.clone(), ..app("a", linked) };
        let refused = add(&Catalog::default(), selecting(&["m", "n", "m"])).unwrap_err();
        assert_eq!(refused.to_string(), "The model with name 'm' is already linked to 'a'");
        let catalog = Catalog::default();
        let catalog = edited(catalog.clone(), add(&catalog, selecting(&["m", "n", "o"])));
        let name: AppName = "a".parse().unwrap();
        let refused = update(&catalog, name.clone(), policy(Policy::DefaultOutput)).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "selection_policy: 'default_output' has one model answer, and application 'a' is linked to 'm', 'n', 'o': \
             unlink all but one first"
        );
        let catalog = edited(catalog.clone(), unlink(&catalog, &name, &names(&["m", "o"])));
        let catalog = edited(catalog.clone(), update(&catalog, name, policy(Policy::DefaultOutput)));
        assert_eq!(linked_models(&catalog, &"a".parse().unwrap()).unwrap(), names(&["n"]));
    }

    #[test]
    fn an_application_learns_since_it_was_added_or_its_policy_became_another() {
        let name: AppName = "a".parse().unwrap();
        let catalog = Catalog { revision: 4, ..Catalog::default() };
        let catalog = edited(catalog.clone(), add(&catalog, app("a", &[])));
        let since = |catalog: &Catalog| catalog.applications["a"].selection.since;
        let first = since(&catalog);
        let exp4 = |eta| policy(Policy::Exp4 { eta, share: 0.0 });
        let catalog = edited(catalog.clone(), update(&catalog, name.clone(), exp4(0.1)));
        let second = since(&catalog);
        assert_ne!(second, first);
        let catalog = edited(catalog.clone(), update(&catalog, name.clone(), exp4(0.2)));
        let log = SelectionUpdate { log_decisions: Some(true), ..SelectionUpdate::default() };
        let log = ApplicationUpdate { selection: log, ..ApplicationUpdate::default() };
        let catalog = edited(catalog.clone(), update(&catalog, name.clone(), log));
        assert_eq!(since(&catalog), second);
        let linear = |dimensions, alpha| policy(Policy::LinUcb { dimensions, alpha, ridge: 1.0 });
        let catalog = edited(catalog.clone(), update(&catalog, name.clone(), linear(3, 1.0)));
        let third = since(&catalog);
        assert_ne!(third, second);
        let catalog = edited(catalog.clone(), update(&catalog, name.clone(), linear(3, 2.0)));
        assert_eq!(since(&catalog), third);
        let catalog = edited(catalog.clone(), update(&catalog, name, linear(2, 2.0)));
        assert_ne!(since(&catalog), third, "figures of three features are of no use with two");
    }

    #[test]
    fn every_policy_is_called_what_it_is_in_requests() {
        for name in [
            "default_output",
            "exp3",
            "exp3_ix",
            "epsilon_greedy",
            "ucb1",
            "thompson",
            "linucb",
            "exp4",
            "majority_vote",
            "mean",
        ] {
            let policy = serde_json::json!({"policy": name, "dimensions": 1});
            let policy = match name {
                "linucb" => serde_json::from_value(policy),
                _ => serde_json::from_value(serde_json::json!({"policy": name})),
            };
            assert_eq!(policy_name(&policy.unwrap()), name);
        }
    }

    #[test]
    fn an_application_is_not_linked_to_a_model_of_another_input_type() {
        let mut spec = doubles();
        spec.input_type = InputType::Ints;
        let catalog = registered(Catalog::default(), &model_id("m", "1"), spec);
        let refused = add(&catalog, app("a", &["m"])).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "Model with name 'm' has incompatible input_type 'ints'. Requested app to link to has input_type \
             'doubles'."
        );
    }

    #[test]
    fn a_failed_link_among_several_links_nothing() {
        let catalog = registered(Catalog::default(), &model_id("m", "1"), doubles());
        let catalog = edited(catalog.clone(), add(&catalog, app("a", &[])));
        let refused = link(&catalog, &"a".parse().unwrap(), names(&["m", "n"])).unwrap_err();
        assert_eq!(refused.to_string(), "No model with name 'n' exists.");
    }

    #[test]
    fn an_update_changes_what_it_names_and_nothing_else() {
        let catalog = Catalog::default();
        let since = catalog.next_generation();
        let catalog = edited(catalog.clone(), add(&catalog, app("a", &["m"])));
        let bound = |requests| ApplicationUpdate {
            max_concurrent_requests: Some(requests),
            ..ApplicationUpdate::default()
        };
        let selection = Selection { since, ..Selection::default() };
        let bounded = Application { max_concurrent_requests: Some(9), selection, ..app("a", &["m"]) };
        let catalog = edited(catalog.clone(), update(&catalog, bounded.name.clone(), bound(Some(9))));
        assert_eq!(*catalog.applications["a"], bounded);

        let everything_else = ApplicationUpdate {
            default_output: Some("none".into()),
            latency_slo_micros: Some(7),
            cache: Some(false),
            max_concurrent_requests: None,
            on_overload: Some(OnOverload::Refuse),
            selection: SelectionUpdate {
                policy: None,
                confidence_threshold: Some(Some(0.5)),
                loss: Some(Loss::Absolute { scale: 2.0 }),
                output_kind: Some(OutputKind::Numbers),
                log_decisions: Some(true),
                seed: Some(SEEDS - 1),
            },
        };
        let changed = Application {
            default_output: "none".into(),
            latency_slo_micros: 7,
            cache: false,
            on_overload: OnOverload::Refuse,
            selection: Selection {
                policy: Policy::DefaultOutput,
                confidence_threshold: Some(0.5),
                loss: Loss::Absolute { scale: 2.0 },
                output_kind: OutputKind::Numbers,
                log_decisions: true,
                seed: SEEDS - 1,
                since,
            },
            ..bounded
        };
        let catalog = edited(catalog.clone(), update(&catalog, changed.name.clone(), everything_else));
        assert_eq!(*catalog.applications["a"], changed);
        let catalog = edited(catalog.clone(), update(&catalog, changed.name, bound(None)));
        assert_eq!(catalog.applications["a"].max_concurrent_requests, None);
    }

    #[test]
    fn an_update_that_makes_no_sense_is_refused() {
        let catalog = Catalog::default();
        let catalog = edited(catalog.clone(), add(&catalog, app("a", &[])));
        let refused = |name: &str, given| update(&catalog, name.parse().unwrap(), given).unwrap_err();
        let objective =
            |micros| ApplicationUpdate { latency_slo_micros: Some(micros), ..ApplicationUpdate::default() };
        assert_eq!(refused("a", objective(0)), Refusal::NoLatencyObjective { micros: 0 });
        let no_requests =
            ApplicationUpdate { max_concurrent_requests: Some(Some(0)), ..ApplicationUpdate::default() };
        assert_eq!(refused("a", no_requests), Refusal::NoConcurrentRequests);
        let seed = SelectionUpdate { seed: Some(SEEDS), ..SelectionUpdate::default() };
        let seed = ApplicationUpdate { selection: seed, ..ApplicationUpdate::default() };
        assert_eq!(refused("a", seed), Refusal::SelectionSeed { seed: SEEDS });
        assert_eq!(refused("b", objective(1)).to_string(), "Application 'b' does not exist");
        assert_eq!(
            refused("a", ApplicationUpdate::default()).to_string(),
            "There is nothing to update; expected at least one of: default_output, latency_slo_micros, cache, \
             max_concurrent_requests, on_overload, selection_policy, confidence_threshold, loss, output_kind, \
             log_decisions, selection_seed"
        );
    }

    #[test]
    fn a_recreated_application_does_not_inherit_links() {
        let catalog = Catalog::default();
        let catalog = edited(catalog.clone(), add(&catalog, app("a", &["m"])));
        let catalog = edited(catalog.clone(), delete(&catalog, "a".parse().unwrap()));
        let catalog = edited(catalog.clone(), add(&catalog, app("a", &[])));
        assert!(linked_models(&catalog, &"a".parse().unwrap()).unwrap().is_empty());
    }
}
