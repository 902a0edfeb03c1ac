//! `POST /{app}/feedback`, and `/{app}/update` as the original called it.

use std::time::Instant;

use actix_web::{HttpRequest, HttpResponse, web};
use clipper_rpc::catalog::OnOverload;
use clipper_rpc::input::Input;
use clipper_rpc::output::Output;
use clipper_rpc::selection::{ForwardedFeedback, Verdict};
use utoipa::ToSchema;

use super::error::{ApiError, Refusal};
use super::predict::{parse, read};
use super::{State, Worker};
use crate::application::ApplicationView;
use crate::computation::failure::{self, Failure};
use crate::metrics::FeedbackStatus;
use crate::query::feedback::Feedback;
use crate::query::ids::QueryIds;
use crate::selection::Selector;
use crate::selection::feedback::{FeedbackError, judge, judge_input};

/// What a feedback request says. Read by [`Feedback::parse`]; this is its description.
#[derive(ToSchema)]
#[schema(as = FeedbackRequest)]
#[allow(dead_code, reason = "it exists for the OpenAPI document")]
pub(crate) struct FeedbackRequest {
    /// The query whose answer is judged. Exactly one of this and `input` must be given.
    #[schema(example = 17)]
    query_id: Option<u64>,
    /// What would have been right.
    #[schema(value_type = Option<Value>)]
    label: Option<()>,
    /// How good the answer was. With `query_id`, in place of `label`.
    #[schema(minimum = 0, maximum = 1)]
    reward: Option<f64>,
    /// An input, by the application's input type: every linked model is asked for its output, and judged by `label`.
    #[schema(value_type = Option<Value>)]
    input: Option<()>,
    /// The user: an integer or a text. With `input`.
    #[schema(value_type = Option<Value>)]
    uid: Option<()>,
    /// Features for contextual policies. With `input`.
    context: Option<Vec<f64>>,
}

/// What was done with feedback.
#[derive(serde::Serialize, ToSchema)]
pub(crate) struct FeedbackAnswer {
    /// In a word.
    status: FeedbackStatus,
    /// In words.
    explanation: &'static str,
}

/// Judges an answer, or what the models say of an input, for the application's policy to learn from.
#[utoipa::path(
    post,
    path = "/{app}/feedback",
    params(("app" = String, Path, description = "The application's name")),
    request_body = FeedbackRequest,
    responses(
        (status = 200, description = "What was done with it", body = FeedbackAnswer),
        (status = 400, description = "The body does not fit", body = Refusal),
        (status = 404, description = "There is no such application, or no such query of it", body = Refusal),
        (status = 408, description = "The body did not arrive in time", body = Refusal),
        (status = 413, description = "The body is too large", body = Refusal),
        (status = 415, description = "The body is not JSON", body = Refusal),
        (status = 429, description = "The application's bound on concurrent requests is reached", body = Refusal),
        (status = 503, description = "Not ready yet, or there is no room for the request", body = Refusal),
    )
)]
pub(crate) async fn feedback(
    worker: &Worker,
    request: &HttpRequest,
    app: &str,
    payload: web::Payload,
) -> Result<HttpResponse, ApiError> {
    let arrived = Instant::now();
    let application = worker.state.application(app)?;
    let handled = handle(worker, request, payload, &application, arrived).await;
    match &handled {
        Ok(status) => application.metrics.feedback.record(*status),
        Err(_) => application.metrics.feedback.refuse(),
    }
    handled.map(|status| {
        let explanation = status.explanation();
        HttpResponse::Ok().json(FeedbackAnswer { status, explanation })
    })
}

/// The same, under the name that the original has for it.
#[utoipa::path(
    post,
    path = "/{app}/update",
    params(("app" = String, Path, description = "The application's name")),
    request_body = FeedbackRequest,
    responses(
        (status = 200, description = "What was done with it", body = FeedbackAnswer),
        (status = 400, description = "The body does not fit", body = Refusal),
        (status = 404, description = "There is no such application, or no such query of it", body = Refusal),
        (status = 408, description = "The body did not arrive in time", body = Refusal),
        (status = 413, description = "The body is too large", body = Refusal),
        (status = 415, description = "The body is not JSON", body = Refusal),
        (status = 429, description = "The application's bound on concurrent requests is reached", body = Refusal),
        (status = 503, description = "Not ready yet, or there is no room for the request", body = Refusal),
    )
)]
pub(crate) async fn update(
    worker: &Worker,
    request: &HttpRequest,
    app: &str,
    payload: web::Payload,
) -> Result<HttpResponse, ApiError> {
    feedback(worker, request, app, payload).await
}

async fn handle(
    worker: &Worker,
    request: &HttpRequest,
    payload: web::Payload,
    application: &ApplicationView,
    arrived: Instant,
) -> Result<FeedbackStatus, ApiError> {
    let (body, _held) = read(worker, request, payload, arrived).await?;
    let input_type = application.input_type;
    let feedback = parse(worker, body, move |body| Feedback::parse(body, input_type)).await?;
    let Some(selector) = &application.selector else { return Ok(FeedbackStatus::NoPolicy) };
    match feedback {
        Feedback::Answer { query_id, verdict } => {
            on_answer(&worker.state, application, selector, query_id, verdict).await
        }
        Feedback::Input { uid, input, context, label } => {
            let teaches = selector.learner.check(context.as_deref());
            teaches.map_err(|cause| FeedbackError::Verdict(format!("context: {cause}")))?;
            let outputs = ask(worker, application, selector, &input, arrived).await?;
            Ok(judge_input(selector, uid, context, &outputs, &label)?)
        }
    }
}

async fn on_answer(
    state: &State,
    application: &ApplicationView,
    selector: &Selector,
    query_id: u64,
    verdict: Verdict,
) -> Result<FeedbackStatus, ApiError> {
    if QueryIds::number_in(query_id) != state.query_ids.number() {
        let feedback = ForwardedFeedback { application: application.name.clone(), query_id, verdict };
        if !state.outbox.forward(feedback) {
            return Err(ApiError::Feedback(FeedbackError::Full));
        }
        return Ok(FeedbackStatus::Forwarded);
    }
    let decided = state.facilities.decisions.get(query_id);
    match decided.filter(|decided| decided.application == application.name) {
        Some(decided) => {
            decided.listened().await;
            Ok(judge(selector, &decided, &verdict)?)
        }
        None => Err(ApiError::UnknownQuery { query_id }),
    }
}

/// Asks every model for its output, if the application admits one more request: they are asked as for a prediction.
async fn ask(
    worker: &Worker,
    application: &ApplicationView,
    selector: &Selector,
    input: &Input,
    arrived: Instant,
) -> Result<Vec<Option<Output>>, ApiError> {
    let refuses = application.on_overload == OnOverload::Refuse;
    let _admitted = match application.admission.admit(application.max_concurrent_requests) {
        Ok(admitted) => admitted,
        Err(limit) if refuses => return Err(ApiError::TooManyRequests { limit }),
        // As where a prediction would get the default output: no model's output is known.
        Err(_) => return Ok(vec![None; selector.models.len()]),
    };
    let predictor = &worker.predictor;
    let deadline = arrived + application.latency_slo;
    let verdicts = predictor.ask_all(application, selector, input, deadline).await;
    let is_full = |verdict: &failure::Verdict| matches!(verdict, Err(Failure::QueueFull { .. }));
    if refuses
        && verdicts.iter().all(is_full)
        && let Some(Err(full)) = verdicts.first()
    {
        return Err(ApiError::QueueFull(full.clone()));
    }
    Ok(verdicts.into_iter().map(Result::ok).collect())
}
