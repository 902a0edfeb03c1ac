//! Everything that is counted, as text for Prometheus: names, units and meanings stand here and in `docs/metrics.md`.
//!
//! A scrape walks what the directory holds, and takes no lock that a prediction takes for more than reading a queue's depth.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use clipper_rpc::names::ModelId;
use clipper_server::Families;
use clipper_server::families::Buckets;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::registry::Unit;

use crate::application::ApplicationView;
use crate::batching::Estimate;
use crate::directory::Directory;
use crate::management::outbox::Outbox;
use crate::metrics::histogram::Snapshot;
use crate::metrics::{CacheLookup, Contribution, FeedbackStatus, Histogram, Outcome, ReplicaMetrics};
use crate::queue::Queue;
use crate::selection::Facilities;

/// The quantiles that are told of recent values.
const QUANTILES: [f64; 4] = [0.5, 0.95, 0.99, 0.999];

/// The upper bounds of the buckets of durations, in microseconds: 0.25 ms to 60 s.
const DURATIONS: [u64; 17] = [
    250, 500, 1_000, 2_500, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000, 30_000_000, 60_000_000,
];

/// The upper bounds of the buckets of batch sizes.
const SIZES: [u64; 13] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096];

const MICROS_PER_SECOND: f64 = 1e6;

/// The labels of a sample.
type Labels<'a, const N: usize> = [(&'static str, &'a str); N];

/// Collects what a frontend counts.
pub struct Scrape {
    directory: Arc<Directory>,
    facilities: Arc<Facilities>,
    outbox: Arc<Outbox>,
}

/// What the directory held when the scrape began.
pub(super) struct Served {
    pub(super) applications: Vec<Arc<ApplicationView>>,
    pub(super) models: Vec<(ModelId, Arc<Queue>)>,
}

/// A connected replica.
struct Replica {
    model: ModelId,
    number: String,
    metrics: Arc<ReplicaMetrics>,
}

impl Served {
    /// Everything in the directory, by name.
    pub(super) fn of(directory: &Directory) -> Self {
        let applications = directory.applications.load();
        let applications = applications.values().map(|application| application.view.load_full());
        let models = directory.models.versions.load();
        let models = models.iter().map(|(id, model)| (id.clone(), Arc::clone(&model.queue)));
        let mut served = Self { applications: applications.collect(), models: models.collect() };
        served.applications.sort_unstable_by(|first, second| first.name.as_str().cmp(second.name.as_str()));
        served.models.sort_unstable_by(|(first, _), (second, _)| {
            let key = |id: &ModelId| (id.name.to_string(), id.version.to_string());
            key(first).cmp(&key(second))
        });
        served
    }

    fn replicas(&self) -> Vec<Replica> {
        let replicas = self.models.iter().flat_map(|(id, queue)| {
            queue.metrics().replicas().into_iter().map(|(number, metrics)| Replica {
                model: id.clone(),
                number: number.to_string(),
                metrics,
            })
        });
        replicas.collect()
    }
}

impl Scrape {
    /// Collects of everything in a directory, and of what is learned.
    pub fn new(directory: Arc<Directory>, facilities: Arc<Facilities>, outbox: Arc<Outbox>) -> Self {
        Self { directory, facilities, outbox }
    }
}

impl fmt::Debug for Scrape {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Scrape").finish_non_exhaustive()
    }
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let now = Instant::now();
        let served = Served::of(&self.directory);
        let mut families = Families::new(encoder);
        write_progress(&mut families, &self.directory, now)?;
        write_applications(&mut families, &served.applications, now)?;
        write_feedback(&mut families, &served.applications)?;
        write_availability(&mut families, &served.applications)?;
        write_selection(&mut families, &self.facilities, &self.outbox)?;
        write_models(&mut families, &served.models, now)?;
        write_cache(&mut families, &served.models)?;
        write_replicas(&mut families, &served.replicas())
    }
}

fn write_progress(families: &mut Families<'_>, directory: &Directory, now: Instant) -> fmt::Result {
    let Some(progress) = directory.progress.load_full() else { return Ok(()) };
    families.lone_gauge(
        "clipper_catalog_revision",
        "The revision of the catalog that this frontend serves",
        None,
        progress.revision,
    )?;
    families.lone_gauge(
        "clipper_management_answer_age",
        "Time since management answered this frontend last",
        Some(&Unit::Seconds),
        now.saturating_duration_since(progress.answered).as_secs_f64(),
    )
}

fn write_applications(
    families: &mut Families<'_>,
    applications: &[Arc<ApplicationView>],
    now: Instant,
) -> fmt::Result {
    fn labels(view: &ApplicationView) -> Labels<'_, 1> {
        [("application", view.name.as_str())]
    }
    let each = || applications.iter().map(|view| (labels(view), &view.metrics));
    families.counter(
        "clipper_application_requests",
        "Prediction requests, however they ended",
        None,
        each().map(|(labels, metrics)| (labels, metrics.requests())),
    )?;
    families.counter(
        "clipper_application_refused_requests",
        "Prediction requests that were refused: their body did not fit, there was no room, or the client had gone",
        None,
        each().map(|(labels, metrics)| (labels, metrics.refused())),
    )?;
    families.gauge(
        "clipper_application_in_flight_requests",
        "Prediction requests that are being answered",
        None,
        applications.iter().map(|view| (labels(view), view.admission.in_progress())),
    )?;
    families.counter(
        "clipper_application_answers",
        "Inputs answered, by what they were answered with: predicted, cached, or why with the default output",
        None,
        each().flat_map(|([application], metrics)| {
            Outcome::ALL
                .iter()
                .map(move |&outcome| ([application, ("outcome", outcome.name())], metrics.answers(outcome)))
        }),
    )?;
    families.counter(
        "clipper_application_asked_models",
        "Inputs for which the policy had a model asked, by what came of it: answered, failed, late, or unneeded",
        None,
        applications.iter().filter_map(|view| Some((labels(view), view.selector.as_ref()?))).flat_map(
            |([application], selector)| {
                selector.models.iter().zip(&selector.counts).flat_map(move |(model, counts)| {
                    let model = ("model", model.name.as_str());
                    Contribution::ALL.map(|contribution| {
                        let result = ("result", contribution.name());
                        ([application, model, result], counts.asked(contribution))
                    })
                })
            },
        ),
    )?;
    families.histogram(
        "clipper_application_latency",
        "Time from the arrival of a request until the answer to each of its inputs",
        Some(&Unit::Seconds),
        each().map(|(labels, metrics)| (labels, durations(&metrics.latency))),
    )?;
    families.gauge(
        "clipper_application_recent_latency",
        "Quantiles of the latency of the last one to two minutes",
        Some(&Unit::Seconds),
        each().flat_map(|([application], metrics)| {
            quantiles(&metrics.recent_latency.recent(&metrics.latency, now))
                .map(move |(quantile, value)| (([application], quantile), value))
        }),
    )
}

/// What is learned of whether models answer in time.
fn write_availability(families: &mut Families<'_>, applications: &[Arc<ApplicationView>]) -> fmt::Result {
    families.gauge(
        "clipper_selection_availability",
        "Part of the queries that asked a model lately and that it answered in time, as policies that ask one model see it",
        None,
        applications.iter().filter_map(|view| Some((view, view.selector.as_ref()?))).flat_map(
            |(view, selector)| {
                let shared = selector.states.shared();
                selector.models.iter().enumerate().map(move |(index, model)| {
                    let labels = [("application", view.name.as_str()), ("model", model.name.as_str())];
                    (labels, shared.beliefs.availability(index))
                })
            },
        ),
    )
}

fn write_feedback(families: &mut Families<'_>, applications: &[Arc<ApplicationView>]) -> fmt::Result {
    let each =
        || applications.iter().map(|view| ([("application", view.name.as_str())], &view.metrics.feedback));
    families.counter(
        "clipper_feedback",
        "Feedback by what was done with it; refused feedback did not fit, or there was no room for it",
        None,
        each().flat_map(|([application], feedback)| {
            let recorded = FeedbackStatus::ALL.map(|status| (status.name(), feedback.recorded(status)));
            let all = recorded.into_iter().chain([("refused", feedback.refused())]);
            all.map(move |(status, count)| ([application, ("status", status)], count))
        }),
    )?;
    families.gauge(
        "clipper_selection_unsent_states",
        "Selection states, the shared one and users', with changes that management has not stored yet",
        None,
        each().map(|(labels, feedback)| (labels, feedback.unsent())),
    )?;
    families.counter(
        "clipper_selection_dropped_changes",
        "Changes of users' states that were dropped, as too many could not be stored or too many states waited to be loaded",
        None,
        each().map(|(labels, feedback)| (labels, feedback.dropped_changes())),
    )?;
    families.counter(
        "clipper_selection_missed_outputs",
        "Queries whose slower models were not listened to after the answer, as too many others' were",
        None,
        each().map(|(labels, feedback)| (labels, feedback.missed_outputs())),
    )?;
    families.counter(
        "clipper_decision_log_dropped_records",
        "Records that are missing in the decision log: it was not written as fast as they came, or a decision was too large",
        None,
        each().map(|(labels, feedback)| (labels, feedback.dropped_records())),
    )
}

fn write_selection(families: &mut Families<'_>, facilities: &Facilities, outbox: &Outbox) -> fmt::Result {
    const NONE: Labels<'_, 0> = [];
    families.gauge(
        "clipper_selection_users",
        "Users' selection states in memory",
        None,
        [(NONE, facilities.users.len())],
    )?;
    families.gauge(
        "clipper_selection_users",
        "Memory that users' selection states take",
        Some(&Unit::Bytes),
        [(NONE, facilities.users.bytes())],
    )?;
    families.counter(
        "clipper_selection_exchanges",
        "Exchanges of what is learned with management, by result",
        None,
        [([("result", "made")], outbox.made()), ([("result", "failed")], outbox.failed())],
    )
}

fn write_models(families: &mut Families<'_>, models: &[(ModelId, Arc<Queue>)], now: Instant) -> fmt::Result {
    let each = || models.iter().map(|(id, queue)| (model_labels(id), queue));
    families.gauge(
        "clipper_model_queue_depth",
        "Queries that wait for a container",
        None,
        each().map(|(labels, queue)| (labels, queue.depth().queries)),
    )?;
    families.gauge(
        "clipper_model_queued",
        "What the inputs of those queries take",
        Some(&Unit::Bytes),
        each().map(|(labels, queue)| (labels, queue.depth().bytes)),
    )?;
    families.gauge(
        "clipper_model_replicas",
        "Containers that are connected to this frontend",
        None,
        each().map(|(labels, queue)| (labels, queue.depth().replicas)),
    )?;
    families.histogram(
        "clipper_model_queue_time",
        "Time from when a query was accepted until it was handed to a container",
        Some(&Unit::Seconds),
        each().map(|(labels, queue)| (labels, durations(&queue.metrics().queue_time))),
    )?;
    families.gauge(
        "clipper_model_recent_queue_time",
        "Quantiles of the queue time of the last one to two minutes",
        Some(&Unit::Seconds),
        each().flat_map(|(labels, queue)| {
            let metrics = queue.metrics();
            quantiles(&metrics.recent_queue_time.recent(&metrics.queue_time, now))
                .map(move |(quantile, value)| ((labels, quantile), value))
        }),
    )?;
    families.counter(
        "clipper_model_given_up_queries",
        "Queries that were answered with the default output before they cost anything: they would have been late",
        None,
        each().map(|(labels, queue)| (labels, queue.metrics().given_up())),
    )?;
    families.counter(
        "clipper_model_hedged_queries",
        "Queries that were given to a second replica while the first had not answered",
        None,
        each().map(|(labels, queue)| (labels, queue.metrics().hedged())),
    )
}

fn write_cache(families: &mut Families<'_>, models: &[(ModelId, Arc<Queue>)]) -> fmt::Result {
    let each = || models.iter().map(|(id, queue)| (model_labels(id), queue.metrics()));
    families.counter(
        "clipper_cache_lookups",
        "Queries looked for in the cache, by what it had: a hit, a miss, or the same query in progress (shared)",
        None,
        each().flat_map(|([model, version], metrics)| {
            CacheLookup::ALL.map(|lookup| {
                ([model, version, ("result", lookup.name())], metrics.lookups(lookup))
            })
        }),
    )?;
    families.gauge(
        "clipper_cache",
        "Memory that the cache holds for a model",
        Some(&Unit::Bytes),
        each().map(|(labels, metrics)| (labels, metrics.cached_bytes())),
    )?;
    families.counter(
        "clipper_cache_evictions",
        "Outputs that left the cache",
        None,
        each().map(|(labels, metrics)| (labels, metrics.evictions())),
    )
}

fn write_replicas(families: &mut Families<'_>, replicas: &[Replica]) -> fmt::Result {
    let each = || replicas.iter().map(|replica| (replica.labels(), &*replica.metrics));
    families.histogram(
        "clipper_replica_batch_size",
        "Inputs of each batch that was answered",
        None,
        each().map(|(labels, metrics)| (labels, buckets(&metrics.batch_size, &SIZES, 1.0))),
    )?;
    families.histogram(
        "clipper_replica_model_time",
        "Time that the model took for each batch, by the container's clock",
        Some(&Unit::Seconds),
        each().map(|(labels, metrics)| (labels, durations(&metrics.model_time))),
    )?;
    families.histogram(
        "clipper_replica_round_trip",
        "Time from when each batch was sent until its answer was there",
        Some(&Unit::Seconds),
        each().map(|(labels, metrics)| (labels, durations(&metrics.round_trip))),
    )?;
    families.gauge(
        "clipper_replica_in_flight_batches",
        "Batches that the container holds",
        None,
        each().map(|(labels, metrics)| (labels, metrics.in_flight())),
    )?;
    families.counter(
        "clipper_replica_failed_batches",
        "Batches that failed as a whole, or were lost with the container",
        None,
        each().map(|(labels, metrics)| (labels, metrics.failed())),
    )?;
    let estimates = |part: fn(Estimate) -> f64| {
        each().filter_map(move |(labels, metrics)| Some((labels, part(metrics.estimate()?))))
    };
    let seconds = Some(&Unit::Seconds);
    families.gauge(
        "clipper_replica_estimated_fixed_cost",
        "What the batching controller believes a batch to take besides its inputs",
        seconds,
        estimates(|estimate| estimate.fixed.as_secs_f64()),
    )?;
    families.gauge(
        "clipper_replica_estimated_cost_per_input",
        "What the batching controller believes each input of a batch to take",
        seconds,
        estimates(|estimate| estimate.per_input.as_secs_f64()),
    )?;
    families.gauge(
        "clipper_replica_estimated_overhead",
        "What the batching controller believes a batch to take outside the model",
        seconds,
        estimates(|estimate| estimate.overhead.as_secs_f64()),
    )?;
    families.gauge(
        "clipper_replica_safety_margin_ratio",
        "How much longer than expected an answer may take and still be in time, to the batching controller",
        None,
        estimates(|estimate| estimate.margin),
    )?;
    families.gauge(
        "clipper_replica_batch_limit",
        "The most inputs that the batching controller puts into the next batch",
        None,
        estimates(|estimate| estimate.limit as f64),
    )
}

impl Replica {
    fn labels(&self) -> Labels<'_, 3> {
        let [model, version] = model_labels(&self.model);
        [model, version, ("replica", &self.number)]
    }
}

fn model_labels(id: &ModelId) -> Labels<'_, 2> {
    [("model", id.name.as_str()), ("version", id.version.as_str())]
}

fn durations(histogram: &Histogram) -> Buckets {
    buckets(histogram, &DURATIONS, MICROS_PER_SECOND)
}

/// A histogram, in units of so many of its own.
#[allow(clippy::cast_precision_loss, reason = "bounds are exact, and a sum needs no more digits")]
fn buckets(histogram: &Histogram, bounds: &[u64], unit: f64) -> Buckets {
    let snapshot = histogram.snapshot();
    let bounds_in_unit = bounds.iter().map(|&bound| bound as f64 / unit).chain([f64::INFINITY]);
    Buckets { sum: snapshot.sum as f64 / unit, counts: bounds_in_unit.zip(snapshot.split(bounds)).collect() }
}

/// The label and the value of each quantile, in seconds; none of no values.
#[allow(clippy::cast_precision_loss, reason = "values are below 2^32")]
fn quantiles(snapshot: &Snapshot) -> impl Iterator<Item = ([(&'static str, f64); 1], f64)> + use<> {
    let values = QUANTILES.map(|quantile| Some((quantile, snapshot.quantile(quantile)?)));
    values
        .into_iter()
        .flatten()
        .map(|(quantile, micros)| ([("quantile", quantile)], micros as f64 / MICROS_PER_SECOND))
}
