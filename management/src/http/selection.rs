//! What is learned for applications, and how their answers came about.

use std::sync::Arc;

use actix_web::http::header::ContentType;
use actix_web::{HttpResponse, get, post, web};
use clipper_rpc::catalog::Application;
use clipper_rpc::excerpt::excerpt;
use clipper_rpc::names::{AppName, ModelName};
use clipper_rpc::selection::{Policy, StateKey, Statistics};
use clipper_selection::learner::Learner;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::answer::{Empty, Found, Refused};
use super::body::{Body, RequestBody};
use super::error::{ApiError, ErrorBody};
use crate::admin::Admin;
use crate::applications::{SEEDS, policy_name};
use crate::refusal::Refusal;
use crate::selection_state::NoExplanation;

/// Whose state is asked for.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct StateOf {
    #[schema(value_type = String)]
    app_name: AppName,
    /// Without it, and with 0, the state that all users share is meant.
    #[schema(inline)]
    uid: Option<Uid>,
}

impl RequestBody for StateOf {}

/// A user of an application: a number or a text.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
#[serde(expecting = "expected uid to be an integer or a text")]
pub(super) enum Uid {
    Number(i64),
    Text(String),
}

/// The state that an application's policy keeps for a user.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SelectionState {
    #[schema(value_type = String)]
    app_name: AppName,
    #[schema(inline)]
    uid: Option<Uid>,
    policy: &'static str,
    /// `{}` where the policy keeps none.
    #[schema(inline)]
    state: Found<Learned>,
}

/// What is learned.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Learned {
    /// `user` or `shared`.
    of: &'static str,
    /// What is to be said of it, in sentences.
    notes: Vec<String>,
    /// The revision of the catalog since which is learned.
    since: u64,
    /// In the order of the links.
    models: Vec<LearnedOfModel>,
}

/// What is learned of one model.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LearnedOfModel {
    #[schema(value_type = String)]
    model_name: ModelName,
    /// How often its loss was known; less where the policy forgets.
    feedbacks: f64,
    /// The mean of its rewards, of 0 to 1, in these feedbacks.
    mean_reward: Option<f64>,
    /// The reward that is expected of it; a user's is drawn to the shared one while the user gave little feedback.
    expected_reward: f64,
    /// The part of the queries that asked it lately and that it answered in time, where one model is asked. For all users alike.
    availability: f64,
    /// Its part in the next answer, or the probability that it will be asked; adds up to 1 over the models.
    weight: Option<f64>,
    /// All that is stored of it, in the order of the policy.
    figures: Vec<f64>,
}

/// Shows what is learned for an application, or for a user of it.
#[utoipa::path(
    request_body = StateOf,
    responses((status = 200, body = SelectionState, description = "The state"), Refused),
    tag = "applications"
)]
#[post("/admin/get_state")]
pub(super) async fn get_state(
    admin: web::Data<Admin>,
    Body(body): Body<StateOf>,
) -> Result<web::Json<SelectionState>, ApiError> {
    let StateOf { app_name, uid } = body;
    let catalog = admin.catalog();
    let Some(application) = catalog.applications.get(&app_name).map(Arc::clone) else {
        return Err(Refusal::NoAppWithLinks { name: app_name }.into());
    };
    let policy = policy_name(&application.selection.policy);
    let state = match application.selection.policy {
        Policy::DefaultOutput => Found::Nothing(Empty {}),
        _ => Found::Object(learned(&admin, &application, uid.as_ref()).await?),
    };
    Ok(web::Json(SelectionState { app_name, uid, policy, state }))
}

async fn learned(admin: &Admin, application: &Application, uid: Option<&Uid>) -> Result<Learned, ApiError> {
    let user = uid.and_then(|uid| match uid {
        Uid::Number(number) => clipper_rpc::selection::Uid::new(number.to_string()),
        Uid::Text(text) => clipper_rpc::selection::Uid::new(text.as_str()),
    });
    let since = application.selection.since;
    let key = |uid| StateKey { application: application.name.clone(), since, uid };
    let keys = [Some(key(None)), user.clone().map(|user| key(Some(user)))];
    let mut states = admin.follow.states.read(keys.into_iter().flatten().collect()).await?.into_iter();
    let shared = states.next().flatten();
    let own = states.next().flatten();
    let mut notes = Vec::new();
    match &user {
        Some(user) if own.is_none() => {
            notes.push(format!("User '{user}' has no state yet, so the shared one applies."));
        }
        _ => {}
    }
    if shared.is_none() {
        notes.push("Nothing has been learned yet.".into());
    }
    let of = if own.is_some() { "user" } else { "shared" };
    let models = models(application, &shared.unwrap_or_default(), own.as_ref(), &mut notes);
    Ok(Learned { of, notes, since, models })
}

/// What is learned of each linked model.
fn models(
    application: &Application,
    shared: &Statistics,
    own: Option<&Statistics>,
    notes: &mut Vec<String>,
) -> Vec<LearnedOfModel> {
    if application.linked_models.is_empty() {
        notes.push("No models are linked.".into());
        return Vec::new();
    }
    let selection = &application.selection;
    let learner = Learner::new(&selection.policy, &application.linked_models);
    let shared_beliefs = learner.beliefs(shared);
    let own_beliefs = own.map(|own| learner.beliefs(own));
    let own_beliefs = own_beliefs.as_ref();
    let weights = match learner.choose(&shared_beliefs, own_beliefs, &[], None, selection.seed, 0) {
        // Its choice is a draw; the others say how they draw.
        Ok(choice) if matches!(selection.policy, Policy::Thompson { .. }) => {
            learner.propensities(&shared_beliefs, own_beliefs, &[], &choice)
        }
        Ok(choice) => choice.weights.to_vec(),
        Err(sentence) => {
            notes.push(format!("The weights depend on the query: {sentence}"));
            Vec::new()
        }
    };
    let statistics = own.unwrap_or(shared);
    let candidates = learner.candidates().iter().enumerate();
    candidates
        .map(|(index, model)| {
            let figures = statistics.of(model).to_vec();
            let feedbacks = figures.first().copied().unwrap_or_default();
            let rewards = figures.get(1).copied().unwrap_or_default();
            LearnedOfModel {
                model_name: model.clone(),
                feedbacks,
                mean_reward: (feedbacks > 0.0).then(|| rewards / feedbacks),
                expected_reward: learner.mean_reward(&shared_beliefs, own_beliefs, index),
                availability: shared_beliefs.availability(index),
                weight: weights.get(index).copied(),
                figures,
            }
        })
        .collect()
}

/// Which application an explanation is of.
#[derive(Deserialize)]
struct Explained {
    application: String,
}

/// Says how the answer to a query came about: what was asked, with which weights, what the models answered and when.
///
/// The frontend that answered the query is asked, which takes up to some seconds.
#[utoipa::path(
    params(("app" = String, Path, description = "The application"), ("query_id" = u64, Path, description = "The query")),
    responses(
        (status = 200, body = Object, description = "The explanation"),
        (status = 400, body = ErrorBody, description = "That is no id of a query"),
        (status = 404, body = ErrorBody, description = "There is no explanation: the sentence says why not")
    ),
    tag = "applications"
)]
#[get("/{app}/explain/{query_id}")]
pub(super) async fn explain(
    admin: web::Data<Admin>,
    path: web::Path<(String, String)>,
) -> Result<HttpResponse, ApiError> {
    let (app, query) = path.into_inner();
    let (app, query) = (excerpt(&app), excerpt(&query));
    let Some(query_id) = query.parse().ok().filter(|query_id| *query_id < SEEDS) else {
        let sentence = format!("query_id must be a whole number from 0 to below 2^53; it is '{query}'");
        return Err(ApiError::Value { sentence });
    };
    if !admin.catalog().applications.contains_key(&*app) {
        return Err(ApiError::Missing { sentence: format!("No application with name '{app}' exists.") });
    }
    let unexplained = |why: NoExplanation| ApiError::Missing {
        sentence: format!("Query {query_id} of application '{app}' cannot be explained: {why}"),
    };
    let explanation = admin.follow.states.explain(query_id).await.map_err(unexplained)?;
    // The frontend knows a query by its id alone.
    match serde_json::from_str(&explanation) {
        Ok(Explained { application }) if application == app => {
            Ok(HttpResponse::Ok().content_type(ContentType::json()).body(explanation))
        }
        _ => Err(unexplained(NoExplanation::Unknown)),
    }
}
