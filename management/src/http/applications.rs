//! Applications and their links.

use actix_web::{post, web};
use clipper_rpc::catalog::{Application, OnOverload};
use clipper_rpc::input::InputType;
use clipper_rpc::names::{AppName, ModelName};
use clipper_rpc::selection::Selection;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::answer::{Found, List, Listing, Refused, Sentence, Spoken};
use super::body::{Body, RequestBody, word};
use super::error::ApiError;
use super::selection_body::{LossBody, OutputKindBody, PolicyBody, SelectionInfo};
use crate::admin::Admin;
use crate::applications::{self, ApplicationUpdate, SEEDS, SelectionUpdate, policy_name};

/// An application to add.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewApplication {
    #[schema(value_type = String)]
    name: AppName,
    /// `integers`, `floats`, `doubles`, `bytes` or `strings`.
    #[schema(value_type = String)]
    input_type: InputType,
    /// A text, or any other JSON value, which stands for its JSON text.
    #[serde(deserialize_with = "text_or_json")]
    #[schema(value_type = Value)]
    default_output: String,
    #[schema(minimum = 1)]
    latency_slo_micros: u64,
    /// Models to link at once, which need not exist yet; at most one where the policy does not select among models.
    #[schema(value_type = Option<Vec<String>>)]
    linked_models: Option<Vec<ModelName>>,
    /// Whether queries may be answered from the prediction cache; true unless given.
    cache: Option<bool>,
    /// The most requests in progress at one frontend; no bound unless given.
    #[schema(minimum = 1)]
    max_concurrent_requests: Option<u32>,
    /// What a query gets for which there is no room: `default`, the default output, or `refuse`, a refusal; the
    /// default output unless given.
    #[serde(default, deserialize_with = "word")]
    #[schema(value_type = Option<String>)]
    on_overload: Option<OnOverload>,
    /// Which models are asked, and what is learned from feedback; the single linked model answers unless given.
    #[schema(inline)]
    selection_policy: Option<PolicyBody>,
    /// Below this confidence the default output is given; any will do unless given.
    #[schema(minimum = 0, maximum = 1)]
    confidence_threshold: Option<f64>,
    /// What an output costs, given the label; 0 if it equals the label and 1 otherwise, unless given.
    #[schema(inline)]
    loss: Option<LossBody>,
    /// Whether outputs are labels, which vote, or numbers, which average; detected unless given.
    #[schema(inline)]
    output_kind: Option<OutputKindBody>,
    /// Whether decisions and feedback are written to the decision log; false unless given.
    log_decisions: Option<bool>,
    /// Where all chance of this application comes from; a random one unless given.
    #[schema(maximum = 9007199254740991_u64)]
    selection_seed: Option<u64>,
}

impl RequestBody for NewApplication {}

/// What to change of an application; what is not given stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ChangedApplication {
    #[schema(value_type = String)]
    name: AppName,
    /// A text, or any other JSON value, which stands for its JSON text.
    #[serde(default, deserialize_with = "given_text_or_json")]
    #[schema(value_type = Option<Value>)]
    default_output: Option<String>,
    #[schema(minimum = 1)]
    latency_slo_micros: Option<u64>,
    cache: Option<bool>,
    /// `null` removes the bound.
    #[serde(default, deserialize_with = "given_or_null")]
    #[schema(value_type = Option<u32>, minimum = 1)]
    max_concurrent_requests: Option<Option<u32>>,
    /// `default` or `refuse`.
    #[serde(default, deserialize_with = "word")]
    #[schema(value_type = Option<String>)]
    on_overload: Option<OnOverload>,
    /// Another policy begins to learn anew, other parameters of the same one do not.
    #[schema(inline)]
    selection_policy: Option<PolicyBody>,
    /// `null` removes it: any confidence will do.
    #[serde(default, deserialize_with = "given_or_null")]
    #[schema(value_type = Option<f64>, minimum = 0, maximum = 1)]
    confidence_threshold: Option<Option<f64>>,
    #[schema(inline)]
    loss: Option<LossBody>,
    #[schema(inline)]
    output_kind: Option<OutputKindBody>,
    log_decisions: Option<bool>,
    #[schema(maximum = 9007199254740991_u64)]
    selection_seed: Option<u64>,
}

impl RequestBody for ChangedApplication {}

fn text_or_json<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let json = Box::<RawValue>::deserialize(deserializer)?;
    Ok(serde_json::from_str(json.get()).unwrap_or_else(|_| json.get().to_owned()))
}

fn given_text_or_json<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    text_or_json(deserializer).map(Some)
}

/// Tells a `null` from a field that is not there, which is not read at all.
fn given_or_null<'de, T, D>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    Option::deserialize(deserializer).map(Some)
}

/// An application's name.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NamedApplication {
    #[schema(value_type = String)]
    name: AppName,
}

impl RequestBody for NamedApplication {}

/// An application and models.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Links {
    #[schema(value_type = String)]
    app_name: AppName,
    #[schema(value_type = Vec<String>)]
    model_names: Vec<ModelName>,
}

impl RequestBody for Links {}

/// An application whose links are asked for.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LinkedTo {
    #[schema(value_type = String)]
    app_name: AppName,
}

impl RequestBody for LinkedTo {}

/// An application as it is reported.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ApplicationInfo {
    #[schema(value_type = String)]
    name: AppName,
    input_type: &'static str,
    default_output: String,
    latency_slo_micros: u64,
    /// The name of its selection policy.
    policy: &'static str,
    #[schema(value_type = Vec<String>)]
    linked_models: Vec<ModelName>,
    cache: bool,
    max_concurrent_requests: Option<u32>,
    #[schema(value_type = String)]
    on_overload: OnOverload,
    #[serde(flatten)]
    #[schema(inline)]
    selection: SelectionInfo,
}

impl From<&Application> for ApplicationInfo {
    fn from(application: &Application) -> Self {
        Self {
            name: application.name.clone(),
            input_type: application.input_type.reported_name(),
            default_output: application.default_output.clone(),
            latency_slo_micros: application.latency_slo_micros,
            policy: policy_name(&application.selection.policy),
            linked_models: application.linked_models.clone(),
            cache: application.cache,
            max_concurrent_requests: application.max_concurrent_requests,
            on_overload: application.on_overload,
            selection: (&application.selection).into(),
        }
    }
}

/// Adds an application.
#[utoipa::path(request_body = NewApplication, responses(Sentence, Refused), tag = "applications")]
#[post("/admin/add_app")]
pub(super) async fn add_app(admin: web::Data<Admin>, Body(body): Body<NewApplication>) -> Spoken {
    let said = Sentence(format!("Successfully added application with name '{}'", body.name));
    let application = Application {
        name: body.name,
        input_type: body.input_type,
        default_output: body.default_output,
        latency_slo_micros: body.latency_slo_micros,
        linked_models: body.linked_models.unwrap_or_default(),
        cache: body.cache.unwrap_or(true),
        max_concurrent_requests: body.max_concurrent_requests,
        on_overload: body.on_overload.unwrap_or_default(),
        selection: Selection {
            policy: body.selection_policy.map(|body| body.0).unwrap_or_default(),
            confidence_threshold: body.confidence_threshold,
            loss: body.loss.map(|body| body.0).unwrap_or_default(),
            output_kind: body.output_kind.map(|body| body.0).unwrap_or_default(),
            log_decisions: body.log_decisions.unwrap_or_default(),
            seed: body.selection_seed.unwrap_or_else(|| rand::random_range(0..SEEDS)),
            // That of the edit is set with it.
            since: 0,
        },
    };
    admin.change(move |catalog| applications::add(catalog, application)).await?;
    Ok(said)
}

/// Changes an application while it lives.
#[utoipa::path(request_body = ChangedApplication, responses(Sentence, Refused), tag = "applications")]
#[post("/admin/update_app")]
pub(super) async fn update_app(admin: web::Data<Admin>, Body(body): Body<ChangedApplication>) -> Spoken {
    let said = Sentence(format!("Successfully updated application with name '{}'", body.name));
    let update = ApplicationUpdate {
        default_output: body.default_output,
        latency_slo_micros: body.latency_slo_micros,
        cache: body.cache,
        max_concurrent_requests: body.max_concurrent_requests,
        on_overload: body.on_overload,
        selection: SelectionUpdate {
            policy: body.selection_policy.map(|body| body.0),
            confidence_threshold: body.confidence_threshold,
            loss: body.loss.map(|body| body.0),
            output_kind: body.output_kind.map(|body| body.0),
            log_decisions: body.log_decisions,
            seed: body.selection_seed,
        },
    };
    admin.change(move |catalog| applications::update(catalog, body.name, update)).await?;
    Ok(said)
}

/// Deletes an application, its links with it.
#[utoipa::path(request_body = NamedApplication, responses(Sentence, Refused), tag = "applications")]
#[post("/admin/delete_app")]
pub(super) async fn delete_app(admin: web::Data<Admin>, Body(body): Body<NamedApplication>) -> Spoken {
    let said = Sentence(format!("Successfully deleted application with name '{}'", body.name));
    admin.change(move |catalog| applications::delete(catalog, body.name)).await?;
    Ok(said)
}

/// Links a model to an application.
#[utoipa::path(request_body = Links, responses(Sentence, Refused), tag = "applications")]
#[post("/admin/add_model_links")]
pub(super) async fn add_model_links(admin: web::Data<Admin>, Body(body): Body<Links>) -> Spoken {
    let models: Vec<_> = body.model_names.iter().map(|model| format!("'{model}'")).collect();
    let said = Sentence(format!(
        "Successfully linked model with name {} to application '{}'",
        models.join(", "),
        body.app_name
    ));
    admin.change(move |catalog| applications::link(catalog, &body.app_name, body.model_names)).await?;
    Ok(said)
}

/// Removes links of an application.
#[utoipa::path(request_body = Links, responses(Sentence, Refused), tag = "applications")]
#[post("/admin/delete_model_links")]
pub(super) async fn delete_model_links(admin: web::Data<Admin>, Body(body): Body<Links>) -> Spoken {
    admin.change(move |catalog| applications::unlink(catalog, &body.app_name, &body.model_names)).await?;
    Ok(Sentence("Success!".into()))
}

/// Lists the models that an application is linked to.
#[utoipa::path(
    request_body = LinkedTo,
    responses((status = 200, body = Vec<String>, description = "Names of models"), Refused),
    tag = "applications"
)]
#[post("/admin/get_linked_models")]
pub(super) async fn get_linked_models(
    admin: web::Data<Admin>,
    Body(body): Body<LinkedTo>,
) -> Result<web::Json<Vec<ModelName>>, ApiError> {
    Ok(web::Json(applications::linked_models(&admin.catalog(), &body.app_name)?.to_vec()))
}

/// Lists the applications.
#[utoipa::path(
    request_body = Listing,
    responses((status = 200, body = List<ApplicationInfo>, description = "Names, or objects if verbose"), Refused),
    tag = "applications"
)]
#[post("/admin/get_all_applications")]
pub(super) async fn get_all_applications(
    admin: web::Data<Admin>,
    Body(body): Body<Listing>,
) -> web::Json<List<ApplicationInfo>> {
    let catalog = admin.catalog();
    web::Json(if body.verbose {
        List::Objects(catalog.applications.values().map(|application| application.as_ref().into()).collect())
    } else {
        List::Names(catalog.applications.keys().map(ToString::to_string).collect())
    })
}

/// Describes an application.
#[utoipa::path(
    request_body = NamedApplication,
    responses((status = 200, body = Found<ApplicationInfo>, description = "The application, or {}"), Refused),
    tag = "applications"
)]
#[post("/admin/get_application")]
pub(super) async fn get_application(
    admin: web::Data<Admin>,
    Body(body): Body<NamedApplication>,
) -> web::Json<Found<ApplicationInfo>> {
    let catalog = admin.catalog();
    let application = catalog.applications.get(&body.name);
    web::Json(application.map(|application| application.as_ref().into()).into())
}
