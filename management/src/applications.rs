//! What can be done to applications and their links: pure decisions from the catalog as it is to an edit of it.
//!
//! Called by the HTTP handlers inside the store's single writer. Invariant: an application is linked to at most
//! one model, as the single linked model is its only policy, and that model's current version takes the
//! application's inputs.

use clipper_rpc::catalog::{Application, Change};
use clipper_rpc::names::{AppName, ModelName};

use crate::catalog::{Catalog, Edit};
use crate::refusal::Refusal;

/// Adds an application, with the links that it already names.
///
/// # Errors
/// If its name is taken, its objective is zero, or its links do not fit.
pub fn add(catalog: &Catalog, application: Application) -> Result<Edit, Refusal> {
    if catalog.applications.contains_key(&application.name) {
        return Err(Refusal::ApplicationExists { name: application.name });
    }
    if application.latency_slo_micros == 0 {
        return Err(Refusal::NoLatencyObjective { micros: 0 });
    }
    let mut linked = Application { linked_models: Vec::new(), ..application };
    for model in application.linked_models {
        link_one(catalog, &mut linked, model)?;
    }
    Ok(Edit::change(Change::PutApplication { application: linked }))
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
            on_overload: clipper_rpc::catalog::OnOverload::Default,
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
    fn a_recreated_application_does_not_inherit_links() {
        let catalog = Catalog::default();
        let catalog = edited(catalog.clone(), add(&catalog, app("a", &["m"])));
        let catalog = edited(catalog.clone(), delete(&catalog, "a".parse().unwrap()));
        let catalog = edited(catalog.clone(), add(&catalog, app("a", &[])));
        assert!(linked_models(&catalog, &"a".parse().unwrap()).unwrap().is_empty());
    }
}
