//! What can be done to applications and their links: pure decisions from the catalog as it is to an edit of it.
//!
//! Called by the HTTP handlers inside the store's single writer. Invariant: an application is linked to at most
//! one model, as the single linked model is its only policy, and that model's current version takes the
//! application's inputs.

use clipper_rpc::catalog::{Application, Change, OnOverload};
use clipper_rpc::names::{AppName, ModelName};

use crate::catalog::{Catalog, Edit};
use crate::refusal::Refusal;

/// Adds an application, with the links that it already names.
///
/// # Errors
/// If its name is taken, a setting makes no sense, or its links do not fit.
pub fn add(catalog: &Catalog, application: Application) -> Result<Edit, Refusal> {
    if catalog.applications.contains_key(&application.name) {
        return Err(Refusal::ApplicationExists { name: application.name });
    }
    check(&application)?;
    let mut linked = Application { linked_models: Vec::new(), ..application };
    for model in application.linked_models {
        link_one(catalog, &mut linked, model)?;
    }
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
}

impl ApplicationUpdate {
    /// The names of the fields, for people.
    const FIELDS: &str = "default_output, latency_slo_micros, cache, max_concurrent_requests, on_overload";
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
        selection: before.selection.clone(),
    };
    check(&application)?;
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
    let mut application = Application::clone(application);
    for model in models {
        if !catalog.models.contains_key(&model) {
            return Err(Refusal::NoSuchModel { model });
        }
        link_one(catalog, &mut application, model)?;
    }
    Ok(Edit::change(Change::PutApplication { application }))
}

/// A model that is not there yet is checked when it comes.
fn link_one(catalog: &Catalog, application: &mut Application, model: ModelName) -> Result<(), Refusal> {
    if let Some(model_type) = catalog.current_input_type(&model)
        && model_type != application.input_type
    {
        return Err(Refusal::IncompatibleLink { model, model_type, app_type: application.input_type });
    }
    let app = application.name.clone();
    if application.linked_models.contains(&model) {
        return Err(Refusal::AlreadyLinked { model, app });
    }
    if let Some(linked) = application.linked_models.first() {
        return Err(Refusal::OneModelOnly { linked: linked.clone(), app });
    }
    application.linked_models.push(model);
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
    for model in models {
        let position = application.linked_models.iter().position(|linked| linked == model);
        application.linked_models.remove(position.ok_or_else(|| no_link(model))?);
    }
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
        let catalog = edited(catalog.clone(), add(&catalog, app("a", &["m"])));
        let bound = |requests| ApplicationUpdate {
            max_concurrent_requests: Some(requests),
            ..ApplicationUpdate::default()
        };
        let bounded = Application { max_concurrent_requests: Some(9), ..app("a", &["m"]) };
        let catalog = edited(catalog.clone(), update(&catalog, bounded.name.clone(), bound(Some(9))));
        assert_eq!(*catalog.applications["a"], bounded);

        let everything_else = ApplicationUpdate {
            default_output: Some("none".into()),
            latency_slo_micros: Some(7),
            cache: Some(false),
            max_concurrent_requests: None,
            on_overload: Some(OnOverload::Refuse),
        };
        let changed = Application {
            default_output: "none".into(),
            latency_slo_micros: 7,
            cache: false,
            on_overload: OnOverload::Refuse,
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
        assert_eq!(refused("b", objective(1)).to_string(), "Application 'b' does not exist");
        assert_eq!(
            refused("a", ApplicationUpdate::default()).to_string(),
            "There is nothing to update; expected at least one of: default_output, latency_slo_micros, cache, \
             max_concurrent_requests, on_overload"
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
