//! `POST /{app}/predict`

use std::mem;
use std::rc::Rc;
use std::time::{Duration, Instant};

use actix_web::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::{Bytes, BytesMut};
use clipper_rpc::catalog::OnOverload;
use futures_util::StreamExt;
use utoipa::ToSchema;

use super::Worker;
use super::answer::{PredictAnswer, respond};
use super::error::{ApiError, Refusal};
use crate::application::ApplicationView;
use crate::computation::failure::Failure;
use crate::prediction::{Origin, Prediction};
use crate::query::{Inputs, Query, QueryError};
use crate::worker::Turns;
use crate::worker::request_bytes::{Held, WorkerBytes};

/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest body, in bytes, that an HTTP worker parses itself: less than a millisecond of work.
pub(super) const LONGEST_PARSED_HERE: usize = 512 << 10;

/// What a request takes besides its body, in bytes; an estimate. It leaves room for the input of most requests, and for
/// their answer, so that they are counted once.
const REQUEST_BYTES: usize = 4 << 10;

/// So much of a body is gathered without a further allocation.
const LEAST_GATHERED: usize = 32 << 10;

/// What a prediction request says. Read by [`Query::parse`]; this is its description.
#[derive(ToSchema)]
#[schema(as = PredictRequest)]
#[allow(dead_code, reason = "it exists for the OpenAPI document")]
pub(crate) struct PredictRequest {
    /// One input, by the application's input type: a list of numbers (null for a missing one), a list of integers, a
    /// text, or a base64 text.
    #[schema(value_type = Option<Value>)]
    input: Option<()>,
    /// Several inputs; the answer holds one prediction for each. Exactly one of this and `input` must be given.
    #[schema(value_type = Option<Vec<Value>>)]
    input_batch: Option<()>,
    /// The user whose selection state applies: an integer or a text of at most 256 bytes; 0 is nobody in particular.
    #[schema(value_type = Option<Value>)]
    uid: Option<()>,
    /// Pins a version of the linked model, where only one is linked.
    version: Option<String>,
    /// Features for contextual policies, at most 1024.
    context: Option<Vec<f64>>,
    /// Whether the inputs of `input_batch` must be in one batch of the model.
    keep_together: Option<bool>,
    /// Tightens, and never widens, the application's latency objective for this request.
    #[schema(minimum = 1)]
    latency_slo_micros: Option<u64>,
}

/// Predicts the output of one input, or of each of several.
#[utoipa::path(
    post,
    path = "/{app}/predict",
    params(("app" = String, Path, description = "The application's name")),
    request_body = PredictRequest,
    responses(
        (status = 200, description = "A prediction, or one for each input of `input_batch`", body = PredictAnswer),
        (status = 400, description = "The body does not fit", body = Refusal),
        (status = 404, description = "There is no such application", body = Refusal),
        (status = 408, description = "The body did not arrive in time", body = Refusal),
        (status = 413, description = "The body is too large", body = Refusal),
        (status = 415, description = "The body is not JSON", body = Refusal),
        (status = 429, description = "The application's bound on concurrent requests is reached", body = Refusal),
        (status = 503, description = "Not ready yet, or there is no room for the request", body = Refusal),
    )
)]
pub(crate) async fn predict(
    worker: &Worker,
    request: &HttpRequest,
    app: &str,
    payload: web::Payload,
) -> Result<HttpResponse, ApiError> {
    let arrived = Instant::now();
    let application = worker.state.application(app)?;
    application.metrics.request();
    let refused = Refused(&application);
    let answered = answer(worker, request, payload, &application, arrived).await?;
    mem::forget(refused);
    Ok(answered)
}

/// Counts a request as refused when it is dropped: by a refusal, or because the client is gone.
struct Refused<'a>(&'a ApplicationView);

impl Drop for Refused<'_> {
    fn drop(&mut self) {
        self.0.metrics.refuse();
    }
}

/// Answers a request to an application, or says why it is refused.
async fn answer(
    worker: &Worker,
    request: &HttpRequest,
    payload: web::Payload,
    application: &ApplicationView,
    arrived: Instant,
) -> Result<HttpResponse, ApiError> {
    let admitted = application.admission.admit(application.max_concurrent_requests);
    let refuses = application.on_overload == OnOverload::Refuse;
    if let Err(limit) = admitted
        && refuses
    {
        return Err(ApiError::TooManyRequests { limit });
    }
    let (body, mut held) = read(worker, request, payload, arrived).await?;
    let (input_type, max_inputs) = (application.input_type, worker.state.max_inputs);
    let query = parse(worker, body, move |body| Query::parse(body, input_type, max_inputs)).await?;
    held.grow_to(query.size())?;
    let (inputs, is_batch) = match query.inputs {
        Inputs::One(input) => (vec![input], false),
        Inputs::Many(inputs) => (inputs, true),
    };
    let predictor = &worker.predictor;
    let predictions = match admitted {
        Ok(_) => predictor.predict(application, inputs, &query.options, arrived).await?,
        Err(limit) => {
            predictor.defaults(application, inputs.len(), &Failure::TooManyRequests { limit }).await
        }
    };
    if let Some(refusal) = refusal(&predictions, refuses) {
        return Err(refusal);
    }
    let latency = arrived.elapsed();
    let mut turns = Turns::default();
    for prediction in &predictions {
        turns.next().await;
        application.metrics.record(prediction.origin.outcome(), latency);
    }
    respond(predictions, is_batch, held).await
}

/// What is said in place of default outputs, if all are for want of room and the application `refuses` then; or if inputs
/// that belong together are too many.
fn refusal(predictions: &[Prediction], refuses: bool) -> Option<ApiError> {
    let failures = predictions.iter().map(|prediction| match &prediction.origin {
        Origin::Failure(failure) => Some(failure),
        Origin::Model | Origin::Cache => None,
    });
    let first = failures.clone().next()??;
    match first {
        Failure::TooManyTogether { .. } => Some(ApiError::TooManyTogether(first.clone())),
        Failure::QueueFull { .. } if refuses => {
            let all =
                failures.flatten().filter(|failure| matches!(failure, Failure::QueueFull { .. })).count();
            (all == predictions.len()).then(|| ApiError::QueueFull(first.clone()))
        }
        _ => None,
    }
}

/// The body of a request that `arrived` then, and what it counts for.
pub(super) async fn read(
    worker: &Worker,
    request: &HttpRequest,
    payload: web::Payload,
    arrived: Instant,
) -> Result<(Bytes, Held), ApiError> {
    let header = |name| request.headers().get(name).map(HeaderValue::as_bytes);
    let shown = |found| String::from_utf8_lossy(found).into_owned();
    if let Some(found) = header(CONTENT_TYPE).filter(|found| !may_be_json(found)) {
        return Err(ApiError::ContentType { found: shown(found) });
    }
    if let Some(found) = header(CONTENT_ENCODING).filter(|&found| found != b"identity") {
        return Err(ApiError::ContentEncoding { found: shown(found) });
    }
    let limit = worker.state.max_body_bytes;
    let announced = header(CONTENT_LENGTH).and_then(|length| str::from_utf8(length).ok()?.parse().ok());
    if announced.is_some_and(|length: usize| length > limit) {
        return Err(ApiError::TooLarge { limit });
    }
    let body = gather(payload, announced.unwrap_or(0), limit, &worker.request_bytes);
    let body = worker.predictor.models.timers.by(arrived + BODY_TIMEOUT, body).await;
    body.unwrap_or(Err(ApiError::Stalled { waited: BODY_TIMEOUT }))
}

/// A body of at most `limit` bytes, about `announced` of them, and what it counts for. One that comes in one piece, as
/// nearly all do, is not copied. What is announced takes no memory until it comes.
async fn gather(
    mut payload: web::Payload,
    announced: usize,
    limit: usize,
    request_bytes: &Rc<WorkerBytes>,
) -> Result<(Bytes, Held), ApiError> {
    let mut next =
        async || payload.next().await.transpose().map_err(|error| ApiError::Unreadable(error.into()));
    let fits = |length| if length <= limit { Ok(()) } else { Err(ApiError::TooLarge { limit }) };
    let first = next().await?.unwrap_or_default();
    fits(first.len())?;
    let mut held = request_bytes.hold(first.len() + REQUEST_BYTES)?;
    let Some(mut piece) = next().await? else { return Ok((first, held)) };
    let mut body = BytesMut::with_capacity(announced.min(LEAST_GATHERED).max(first.len()));
    body.extend_from_slice(&first);
    loop {
        let length = body.len() + piece.len();
        fits(length)?;
        if length > body.capacity() {
            let capacity = (2 * length).min(announced.max(length));
            held.grow_to(capacity + REQUEST_BYTES)?;
            body.reserve(capacity - body.len());
        }
        body.extend_from_slice(&piece);
        match next().await? {
            Some(next) => piece = next,
            None => return Ok((body.freeze(), held)),
        }
    }
}

/// Parses here, or on a thread of its own what would keep other requests waiting.
pub(super) async fn parse<T: Send + 'static>(
    worker: &Worker,
    body: Bytes,
    parse: impl FnOnce(&[u8]) -> Result<T, QueryError> + Send + 'static,
) -> Result<T, ApiError> {
    if body.len() <= LONGEST_PARSED_HERE {
        return Ok(parse(&body)?);
    }
    let _turn = worker.state.parsers.acquire().await.expect("it is never closed");
    let parsed = web::block(move || parse(&body)).await;
    Ok(parsed.map_err(|error| ApiError::Unreadable(error.into()))??)
}

/// Whether a body of this content type may be meant as JSON: `curl -d` calls it a form, and many clients plain text.
fn may_be_json(content_type: &[u8]) -> bool {
    let essence = content_type.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii();
    let is = |name: &[u8]| essence.eq_ignore_ascii_case(name);
    essence.last_chunk::<4>().is_some_and(|end| end.eq_ignore_ascii_case(b"json"))
        || [&b""[..], b"text/plain", b"application/x-www-form-urlencoded", b"application/octet-stream"]
            .into_iter()
            .any(is)
}
