//! The metrics as the original Clipper reported them: lists of objects of one metric each, by kind.
//!
//! Two things differ: numbers are numbers, not texts, and what cannot be computed is null, not "nan".

use serde::Serialize;
use serde_json::{Map, Value, json};

/// A report that is being filled.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    counters: Vec<Value>,
    ratio_counters: Vec<Value>,
    meters: Vec<Value>,
    histograms: Vec<Value>,
}

/// Events per second.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Rates {
    /// Since the beginning.
    pub rate: f64,
    /// Averaged with weights that decay over a minute,
    pub rate_1min: f64,
    /// over five minutes,
    pub rate_5min: f64,
    /// and over fifteen.
    pub rate_15min: f64,
}

/// What is told of a distribution.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Summary {
    /// How many values there are.
    pub size: u64,
    /// The least.
    pub min: u64,
    /// The greatest.
    pub max: u64,
    /// Their mean.
    pub mean: f64,
    /// Their standard deviation.
    pub std_dev: f64,
    /// Their median.
    pub p50: u64,
    /// The value that 95 % do not exceed,
    pub p95: u64,
    /// 99 %,
    pub p99: u64,
    /// and 99.9 %; the original had not this one.
    #[serde(rename = "p99.9")]
    pub p999: u64,
}

impl Report {
    /// The report as it is answered.
    pub fn to_json(&self) -> String {
        json!(self).to_string()
    }

    /// Adds a counter.
    pub fn counter(&mut self, name: String, count: u64) {
        self.counters.push(named(name, json!({"count": count})));
    }

    /// Adds the ratio of two counts.
    #[allow(clippy::cast_precision_loss, reason = "a ratio needs no more digits")]
    pub fn ratio(&mut self, name: String, numerator: u64, denominator: u64) {
        let ratio = (denominator > 0).then(|| numerator as f64 / denominator as f64);
        self.ratio_counters.push(named(name, json!({"ratio": ratio})));
    }

    /// Adds a meter.
    pub fn meter(&mut self, name: String, rates: Rates) {
        self.meters.push(named(name, with_unit("events per second", json!(rates))));
    }

    /// Adds a histogram.
    pub fn histogram(&mut self, name: String, unit: &str, summary: Summary) {
        self.histograms.push(named(name, with_unit(unit, json!(summary))));
    }
}

fn named(name: String, metric: Value) -> Value {
    Value::Object(Map::from_iter([(name, metric)]))
}

fn with_unit(unit: &str, mut metric: Value) -> Value {
    metric["unit"] = unit.into();
    metric
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_lists_objects_of_one_metric_each_by_kind() {
        let mut report = Report::default();
        report.counter("app:a:num_predictions".to_owned(), 7);
        report.ratio("app:a:default_prediction_ratio".to_owned(), 1, 4);
        report.ratio("app:b:default_prediction_ratio".to_owned(), 0, 0);
        let rates = Rates { rate: 1.0, rate_1min: 2.0, rate_5min: 3.0, rate_15min: 4.0 };
        report.meter("app:a:prediction_throughput".to_owned(), rates);
        let summary =
            Summary { size: 2, min: 1, max: 3, mean: 2.0, std_dev: 1.0, p50: 1, p95: 3, p99: 3, p999: 3 };
        report.histogram("app:a:prediction_latency".to_owned(), "microseconds", summary);
        let expected = json!({
            "counters": [{"app:a:num_predictions": {"count": 7}}],
            "ratio_counters": [
                {"app:a:default_prediction_ratio": {"ratio": 0.25}},
                {"app:b:default_prediction_ratio": {"ratio": null}},
            ],
            "meters": [{"app:a:prediction_throughput": {
                "unit": "events per second", "rate": 1.0, "rate_1min": 2.0, "rate_5min": 3.0, "rate_15min": 4.0,
            }}],
            "histograms": [{"app:a:prediction_latency": {
                "unit": "microseconds", "size": 2, "min": 1, "max": 3, "mean": 2.0, "std_dev": 1.0,
                "p50": 1, "p95": 3, "p99": 3, "p99.9": 3,
            }}],
        });
        assert_eq!(json!(report), expected);
    }
}
