//! What came of a run, for people and for programs.
//!
//! Invariant: `docs/bench.md` names every key of [`Report`]'s JSON; keys are added, not changed.
//!
//! # Layout
//! - [`series`]: the course over time.
//! - [`table`], [`plot`], [`progress`]: for people.

pub mod plot;
pub mod progress;
pub mod series;
pub mod table;

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

pub use self::series::{Point, Series};
use crate::load::tally::Tally;
use crate::load::{Arrivals, Pace, Plan};

/// A generator that sends later than this, at its 99th percentile, has not kept up.
const TOLERATED_LAG_MS: f64 = 1.0;
/// A generator that computes for more of the time than this may itself be what limits a measurement.
const TOLERATED_CPU_SHARE: f64 = 0.95;

/// The result of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// What was measured.
    pub url: String,
    /// `closed`, `poisson` or `constant`.
    pub mode: String,
    /// Requests a second that were to be sent; none in a closed loop.
    pub offered_per_second: Option<f64>,
    /// How many connections there were.
    pub connections: usize,
    /// How many threads sent.
    pub threads: usize,
    /// How long was measured.
    pub duration_seconds: f64,
    /// Within which time an answer is good.
    pub objective_ms: f64,
    /// What random choices followed from.
    pub seed: u64,
    /// Successful answers a second.
    pub throughput_per_second: f64,
    /// Good answers a second: real and within the objective.
    pub goodput_per_second: f64,
    /// The share of all requests whose answers are good.
    pub good_share: f64,
    /// How many requests there were, and what became of them.
    pub requests: Requests,
    /// Latencies of successful answers; none without any.
    pub latency_ms: Option<Latency>,
    /// Whether the generator was up to it.
    pub generator: Generator,
    /// The course over time.
    pub series: Vec<Point>,
    /// All latencies, for [`Report::hdr`].
    #[serde(skip)]
    pub histogram: Option<Histogram<u64>>,
}

/// What became of requests.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Requests {
    /// Every request that was meant to be sent.
    pub total: u64,
    /// Those with an answer of status 200 to 299.
    pub answered: u64,
    /// Those of them that are real and within the objective.
    pub good: u64,
    /// Those of them that held a default output, by reason.
    pub defaults: BTreeMap<String, u64>,
    /// Answers of other statuses, by status.
    pub statuses: BTreeMap<String, u64>,
    /// Requests without an answer, by kind of failure.
    pub failures: BTreeMap<String, u64>,
}

/// Latencies in milliseconds. In an open loop they count from when a request was meant to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// The least.
    pub min: f64,
    /// The arithmetic mean.
    pub mean: f64,
    /// The median.
    pub p50: f64,
    /// The 90th percentile.
    pub p90: f64,
    /// The 99th percentile.
    pub p99: f64,
    /// The 99.9th percentile.
    pub p999: f64,
    /// The greatest.
    pub max: f64,
}

impl Latency {
    /// Those of a histogram of microseconds.
    pub fn of(histogram: &Histogram<u64>) -> Option<Self> {
        let ms = |micros: u64| micros as f64 / 1e3;
        let at = |quantile| ms(histogram.value_at_quantile(quantile));
        (!histogram.is_empty()).then(|| Self {
            min: ms(histogram.min()),
            mean: histogram.mean() / 1e3,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: ms(histogram.max()),
        })
    }
}

/// How the generator itself fared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Generator {
    /// Processor time by the time of measuring, for each of its threads.
    pub cpu_share: f64,
    /// The 99th percentile of how late it sent what it could have sent, in milliseconds.
    pub lag_p99_ms: f64,
    /// The greatest of these.
    pub lag_max_ms: f64,
    /// Requests for which no connection was free when they were due.
    pub waited_for_connection: u64,
    /// Whether the numbers are the server's: if not, `problem` says why.
    pub kept_up: bool,
    /// What is in doubt.
    pub problem: Option<String>,
}

impl Report {
    /// Sums a run up, which was `measured` for that long: less than was planned if it was ended early.
    pub fn new(plan: &Plan, measured: Duration, total: &Tally, series: &Series) -> Self {
        let seconds = measured.as_secs_f64();
        let per_second = |count: u64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
        let (mode, rate) = match plan.pace {
            Pace::Closed => ("closed", None),
            Pace::Open { rate, arrivals: Arrivals::Poisson } => ("poisson", Some(rate)),
            Pace::Open { rate, arrivals: Arrivals::Constant } => ("constant", Some(rate)),
        };
        Self {
            url: plan.target.url.clone(),
            mode: mode.to_owned(),
            offered_per_second: rate,
            connections: plan.connections,
            threads: plan.threads,
            duration_seconds: seconds,
            objective_ms: plan.objective.as_secs_f64() * 1e3,
            seed: plan.seed,
            throughput_per_second: per_second(total.completed),
            goodput_per_second: per_second(total.completed_good),
            good_share: if total.requests() == 0 { 0.0 } else { total.good as f64 / total.requests() as f64 },
            requests: Requests {
                total: total.requests(),
                answered: total.latency.len(),
                good: total.good,
                defaults: total.defaults.clone(),
                statuses: total.statuses.iter().map(|(status, count)| (status.to_string(), *count)).collect(),
                failures: total
                    .failures
                    .iter()
                    .map(|(failure, count)| (failure.name().to_owned(), *count))
                    .collect(),
            },
            latency_ms: Latency::of(&total.latency),
            generator: Generator::new(total, measured, plan.threads, rate.is_some()),
            series: series.points(),
            histogram: Some(total.latency.clone()),
        }
    }

    /// How many answers held a default output.
    pub fn defaults(&self) -> u64 {
        self.requests.defaults.values().sum()
    }

    /// The distribution of latencies in milliseconds, in the text form of HdrHistogram's plotters.
    pub fn hdr(&self) -> String {
        let Some(histogram) = &self.histogram else { return String::new() };
        let mut text = format!(
            "{:>12} {:>14} {:>10} {:>14}\n\n",
            "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
        );
        let mut count = 0;
        for step in histogram.iter_quantiles(5) {
            count += step.count_since_last_iteration();
            let quantile = step.quantile_iterated_to();
            let value = step.value_iterated_to() as f64 / 1e3;
            let inverse =
                if quantile < 1.0 { format!("{:14.2}", 1.0 / (1.0 - quantile)) } else { "inf".into() };
            text.push_str(&format!("{value:12.3} {quantile:14.12} {count:10} {inverse:>14}\n"));
        }
        text.push_str(&format!(
            "#[Mean    = {:12.3}, StdDeviation   = {:12.3}]\n#[Max     = {:12.3}, Total count    = {:12}]\n",
            histogram.mean() / 1e3,
            histogram.stdev() / 1e3,
            histogram.max() as f64 / 1e3,
            histogram.len(),
        ));
        text
    }
}

impl Generator {
    fn new(total: &Tally, measured: Duration, threads: usize, open: bool) -> Self {
        let cpu_share = total.busy.as_secs_f64() / measured.as_secs_f64().max(f64::EPSILON) / threads as f64;
        let lag_p99_ms = total.lag.value_at_quantile(0.99) as f64 / 1e3;
        let problem = if open && lag_p99_ms > TOLERATED_LAG_MS {
            Some(format!(
                "1 % of the requests were sent more than {lag_p99_ms:.1} ms late by the generator itself"
            ))
        } else if cpu_share > TOLERATED_CPU_SHARE {
            Some(format!(
                "the generator used {:.0} % of the time of its threads and may be the limit; try --threads {}",
                cpu_share * 100.0,
                threads + 1
            ))
        } else {
            None
        };
        Self {
            cpu_share,
            lag_p99_ms,
            lag_max_ms: total.lag.max() as f64 / 1e3,
            waited_for_connection: total.waited,
            kept_up: problem.is_none(),
            problem,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::inputs::Pattern;
    use crate::load::tally::Failure;
    use crate::load::{InputKind, Inputs, Shape, Target, Variety};

    const SECONDS: Duration = Duration::from_secs(2);

    fn plan() -> Plan {
        Plan {
            target: Target::parse("http://127.0.0.1:1/").unwrap(),
            shape: Shape {
                head: String::new(),
                body: String::new(),
                inputs: Inputs::Pattern(Pattern::new(InputKind::Doubles, 1, 0)),
                variety: Variety::Unique,
            },
            pace: Pace::Open { rate: 50.0, arrivals: Arrivals::Poisson },
            connections: 1,
            threads: 1,
            warm_up: Duration::ZERO,
            duration: SECONDS,
            timeout: Duration::from_secs(1),
            objective: Duration::from_millis(20),
            seed: 0,
        }
    }

    fn tally() -> Tally {
        let mut tally = Tally::default();
        (0..97).for_each(|_| tally.answered(Duration::from_millis(10), None, true));
        tally.answered(Duration::from_millis(30), Some("deadline"), false);
        tally.failed(Failure::Timeout);
        tally.statuses.insert(503, 1);
        (tally.completed, tally.completed_good) = (98, 97);
        tally
    }

    #[test]
    fn a_report_sums_up_what_was_counted() {
        let mut series = Series::new(SECONDS);
        series.add(0, &tally());
        let report = Report::new(&plan(), SECONDS, &tally(), &series);
        assert_eq!((report.requests.total, report.requests.answered, report.defaults()), (100, 98, 1));
        assert!((report.good_share - 0.97).abs() < 1e-9);
        assert!((report.throughput_per_second - 49.0).abs() < 1e-9);
        assert!((report.goodput_per_second - 48.5).abs() < 1e-9);
        let latency = report.latency_ms.unwrap();
        assert!((latency.p50 - 10.0).abs() < 0.1 && (latency.max - 30.0).abs() < 0.1, "{latency:?}");
        assert!(report.generator.kept_up);
        assert!(report.hdr().contains("Total count    =           98"), "{}", report.hdr());
    }

    #[test]
    fn a_report_survives_its_json() {
        let report = Report::new(&plan(), SECONDS, &tally(), &Series::new(SECONDS));
        let json = serde_json::to_string(&report).unwrap();
        let read: Report = serde_json::from_str(&json).unwrap();
        assert_eq!(Report { histogram: None, ..report }, read);
    }

    #[test]
    fn a_generator_that_is_late_or_has_no_time_left_says_so() {
        let mut late = tally();
        late.lagged(Duration::from_millis(5));
        let report = Report::new(&plan(), SECONDS, &late, &Series::new(SECONDS));
        assert!(report.generator.problem.unwrap().contains("ms late"));
        let busy = Tally { busy: Duration::from_secs(2), ..tally() };
        let report = Report::new(&plan(), SECONDS, &busy, &Series::new(SECONDS));
        assert!(report.generator.problem.unwrap().contains("--threads 2"));
    }
}
