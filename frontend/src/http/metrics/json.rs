//! What is counted, in the JSON of the original Clipper and under its names, as far as the same thing exists here.

use std::time::Instant;

use clipper_server::Report;
use clipper_server::report::Summary;

use super::prometheus::Served;
use crate::directory::Directory;
use crate::metrics::{ApplicationMetrics, CacheLookup, Histogram, ModelMetrics, Outcome};

/// Reports of everything in a directory.
pub fn report(directory: &Directory, now: Instant) -> Report {
    let served = Served::of(directory);
    let mut report = Report::default();
    for view in &served.applications {
        report_application(&mut report, &format!("app:{}", view.name), &view.metrics, now);
    }
    let mut all = Totals::default();
    for (id, queue) in &served.models {
        let of_model =
            report_model(&mut report, &format!("model:{}:{}", id.name, id.version), queue.metrics(), now);
        all.predictions += of_model.predictions;
        all.lookups += of_model.lookups;
        all.hits += of_model.hits;
    }
    report.counter("internal:aggregate_num_predictions".to_owned(), all.predictions);
    report.counter("internal:prediction_cache_lookups".to_owned(), all.lookups);
    report.ratio("internal:prediction_cache_hit_ratio".to_owned(), all.hits, all.lookups);
    report
}

/// What is summed up over all models.
#[derive(Default)]
struct Totals {
    predictions: u64,
    lookups: u64,
    hits: u64,
}

fn report_application(report: &mut Report, prefix: &str, metrics: &ApplicationMetrics, now: Instant) {
    let defaults = Outcome::ALL.iter().filter(|outcome| outcome.is_default());
    let defaults: u64 = defaults.map(|&outcome| metrics.answers(outcome)).sum();
    let all: u64 = Outcome::ALL.iter().map(|&outcome| metrics.answers(outcome)).sum();
    report.counter(format!("{prefix}:num_predictions"), all);
    report.ratio(format!("{prefix}:default_prediction_ratio"), defaults, all);
    report.meter(format!("{prefix}:prediction_throughput"), metrics.throughput.rates(all, now));
    report.histogram(format!("{prefix}:prediction_latency"), "microseconds", summary(&metrics.latency));
}

fn report_model(report: &mut Report, prefix: &str, metrics: &ModelMetrics, now: Instant) -> Totals {
    let replicas = metrics.totals();
    let predictions = replicas.batch_size.snapshot().sum;
    let hits = metrics.lookups(CacheLookup::Hit);
    let lookups = CacheLookup::ALL.iter().map(|&lookup| metrics.lookups(lookup)).sum();
    report.counter(format!("{prefix}:num_predictions"), predictions);
    report.ratio(format!("{prefix}:cache_hit_ratio"), hits, lookups);
    report.meter(format!("{prefix}:prediction_throughput"), metrics.throughput.rates(predictions, now));
    report.histogram(format!("{prefix}:prediction_latency"), "microseconds", summary(&replicas.round_trip));
    report.histogram(format!("{prefix}:batch_size"), "queries", summary(&replicas.batch_size));
    Totals { predictions, lookups, hits }
}

fn summary(histogram: &Histogram) -> Summary {
    let counts = histogram.snapshot().counts;
    Summary {
        size: counts.len(),
        min: counts.min(),
        max: counts.max(),
        mean: counts.mean(),
        std_dev: counts.stdev(),
        p50: counts.value_at_quantile(0.5),
        p95: counts.value_at_quantile(0.95),
        p99: counts.value_at_quantile(0.99),
        p999: counts.value_at_quantile(0.999),
    }
}
