//! What the servers count is exposed as Prometheus expects it, documented, and shown by the dashboard.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use clipper_integration_tests::{Answer, Cluster, eventually, eventually_some};
use serde_json::{Value, json};

const OBJECTIVE: Duration = Duration::from_secs(20);

/// An exposition, read as strictly as OpenMetrics is written.
struct Exposition {
    /// The type of each family.
    families: BTreeMap<String, String>,
    /// Each sample, as `name{labels}`, in their order.
    samples: Vec<(String, f64)>,
}

impl Exposition {
    async fn scrape(cluster: &Cluster, url: String) -> Self {
        let response = cluster.http().get(url).send().await.unwrap();
        let content_type = response.headers()["content-type"].to_str().unwrap().to_owned();
        assert_eq!(content_type, "application/openmetrics-text; version=1.0.0; charset=utf-8");
        Self::parse(&Answer::read(response).await.unwrap().success())
    }

    fn parse(text: &str) -> Self {
        let mut read = Self { families: BTreeMap::new(), samples: Vec::new() };
        let mut current = String::new();
        let body = text.strip_suffix("# EOF\n").expect("an exposition ends with EOF");
        for line in body.lines() {
            if let Some(comment) = line.strip_prefix("# ") {
                let mut words = comment.splitn(3, ' ');
                let (kind, name, rest) =
                    (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
                match kind {
                    "HELP" => {
                        assert!(!read.families.contains_key(name), "{name} comes twice");
                        assert!(!rest.is_empty(), "{name} is not explained");
                        current = name.to_owned();
                    }
                    "TYPE" => {
                        assert!(["counter", "gauge", "histogram"].contains(&rest), "{line}");
                        read.families.insert(name.to_owned(), rest.to_owned());
                    }
                    "UNIT" => assert!(name.ends_with(&format!("_{rest}")), "{line}"),
                    _ => panic!("{line}"),
                }
                assert_eq!(name, current, "{line}");
                continue;
            }
            let (series, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
            assert!(labels.ends_with('}') && labels.matches('"').count() % 2 == 0, "{line}");
            let suffixes: &[&str] = match read.families[&current].as_str() {
                "counter" => &["_total"],
                "gauge" => &[""],
                _ => &["_bucket", "_sum", "_count"],
            };
            let suffix = name.strip_prefix(&*current).unwrap_or_else(|| panic!("{line} is not of {current}"));
            assert!(suffixes.contains(&suffix), "{line} in a {}", read.families[&current]);
            let value = value.parse().unwrap_or_else(|error| panic!("{error}: {line}"));
            assert!(!read.samples.iter().any(|(known, _)| known == series), "{series} comes twice");
            read.samples.push((series.to_owned(), value));
        }
        read.check_histograms();
        read
    }

    /// Buckets only grow, and the last holds everything.
    fn check_histograms(&self) {
        let mut last = (String::new(), 0.0);
        for (series, value) in self.samples.iter().filter(|(series, _)| series.contains("_bucket{")) {
            let (before, le) = series.split_once("le=\"").unwrap();
            let (le, after) = le.split_once('"').unwrap();
            let key = format!("{before}{after}");
            if last.0 == key {
                assert!(*value >= last.1, "{series} {value} after {}", last.1);
            }
            if le == "+Inf" {
                let labels = after.trim_start_matches(',');
                let count = format!("{}{{{labels}", before.replace("_bucket{", "_count"));
                assert_eq!(Some(*value), self.find(&count), "{count}");
            }
            last = (key, *value);
        }
    }

    fn find(&self, series: &str) -> Option<f64> {
        self.samples.iter().find(|(known, _)| known == series).map(|(_, value)| *value)
    }

    fn value(&self, series: &str) -> f64 {
        self.find(series).unwrap_or_else(|| panic!("there is no {series} in {:#?}", self.samples))
    }

    /// The families under the names that are asked for: those of counters end in `_total`.
    fn names(&self) -> impl Iterator<Item = String> {
        self.families.iter().map(
            |(name, kind)| {
                if kind == "counter" { format!("{name}_total") } else { name.clone() }
            },
        )
    }
}

async fn both(cluster: &Cluster) -> [Exposition; 2] {
    let query = Exposition::scrape(cluster, format!("{}/metrics", cluster.query_url(0))).await;
    [query, Exposition::scrape(cluster, format!("{}/metrics", cluster.admin_url())).await]
}

async fn as_json(cluster: &Cluster, url: String) -> Value {
    let request = cluster.http().get(url).header("accept", "application/json");
    let answer = Answer::read(request.send().await.unwrap()).await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

/// The metric of that name in a list of the original's JSON.
fn named<'a>(report: &'a Value, kind: &str, name: &str) -> &'a Value {
    let metrics = report[kind].as_array().unwrap();
    metrics.iter().find_map(|metric| metric.get(name)).unwrap_or_else(|| panic!("no {name} in {report}"))
}

fn repository(path: &str) -> String {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    std::fs::read_to_string(root.join(path)).unwrap()
}

/// Every metric's name in a text.
fn mentioned(text: &str) -> BTreeSet<String> {
    let words = text.split(|character: char| !(character.is_ascii_alphanumeric() || character == '_'));
    let names = words.filter(|word| word.starts_with("clipper_") || word.starts_with("process_"));
    names.filter(|name| !name.ends_with('_')).map(str::to_owned).collect()
}

#[tokio::test]
async fn predictions_are_counted_and_timed_by_application_model_and_replica() {
    let cluster = Cluster::start().await;
    cluster.deploy("sum", "m", "1", "doubles", 1).await;
    cluster.add_app("m", "doubles", OBJECTIVE, true).await;
    cluster.add_app("alone", "doubles", OBJECTIVE, false).await;
    cluster.served(0, "m", json!({"input": [1, 2]})).await;
    let earlier = Exposition::scrape(&cluster, format!("{}/metrics", cluster.query_url(0))).await;
    cluster.predict("m", json!({"input_batch": [[1], [2], [3]]})).await;
    cluster.ask(0, "m", json!({"input": "not a list"})).await.refusal(400, "Json error");
    cluster.predict("alone", json!({"input": [1]})).await;

    let [query, admin] = both(&cluster).await;
    let since = |series: &str| query.value(series) - earlier.value(series);
    assert_eq!(since("clipper_application_requests_total{application=\"m\"}"), 2.0);
    assert_eq!(since("clipper_application_refused_requests_total{application=\"m\"}"), 1.0);
    assert_eq!(since("clipper_application_answers_total{application=\"m\",outcome=\"predicted\"}"), 3.0);
    assert_eq!(since("clipper_application_latency_seconds_count{application=\"m\"}"), 3.0);
    assert!(since("clipper_application_latency_seconds_sum{application=\"m\"}") > 0.0);
    assert_eq!(since("clipper_application_in_flight_requests{application=\"m\"}"), 0.0);
    let default = "clipper_application_answers_total{application=\"alone\",outcome=\"no_linked_models\"}";
    assert_eq!(query.value(default), 1.0);
    let p99 = "clipper_application_recent_latency_seconds{application=\"m\",quantile=\"0.99\"}";
    assert!((0.0..=20.0).contains(&query.value(p99)));

    assert_eq!(since("clipper_model_queue_time_seconds_count{model=\"m\",version=\"1\"}"), 3.0);
    assert_eq!(query.value("clipper_model_queue_depth{model=\"m\",version=\"1\"}"), 0.0);
    assert_eq!(query.value("clipper_model_replicas{model=\"m\",version=\"1\"}"), 1.0);
    let replica = "{model=\"m\",version=\"1\",replica=\"0\"}";
    assert_eq!(since(&format!("clipper_replica_batch_size_sum{replica}")), 3.0);
    assert!(since(&format!("clipper_replica_round_trip_seconds_sum{replica}")) > 0.0);
    assert_eq!(query.value(&format!("clipper_replica_in_flight_batches{replica}")), 0.0);

    assert_eq!(admin.value("clipper_management_applications"), 2.0);
    assert_eq!(admin.value("clipper_management_replicas{state=\"ready\"}"), 1.0);
    for server in [&query, &admin] {
        assert!(server.value("process_resident_memory_bytes") > 1e6);
        assert!(server.value("clipper_http_connections") >= 1.0);
    }
}

#[tokio::test]
async fn counts_survive_a_change_of_the_application_and_go_with_it() {
    let cluster = Cluster::start().await;
    cluster.add_app("a", "doubles", OBJECTIVE, false).await;
    cluster.predict("a", json!({"input": [1]})).await;
    cluster.add_model("m", "1", "doubles").await;
    cluster.must("add_model_links", json!({"app_name": "a", "model_names": ["m"]})).await;
    cluster.predict("a", json!({"input": [1]})).await;
    let [query, _] = both(&cluster).await;
    assert_eq!(query.value("clipper_application_requests_total{application=\"a\"}"), 2.0);

    cluster.must("delete_app", json!({"name": "a"})).await;
    let [query, _] = both(&cluster).await;
    assert_eq!(query.find("clipper_application_requests_total{application=\"a\"}"), None);
}

#[tokio::test]
async fn a_replica_that_has_gone_is_counted_no_longer() {
    let cluster = Cluster::start().await;
    cluster.deploy("sum", "m", "1", "doubles", 1).await;
    let series = "clipper_replica_in_flight_batches{model=\"m\",version=\"1\",replica=\"0\"}";
    let [query, _] = both(&cluster).await;
    query.value(series);
    cluster.must("stop_all_models", json!({})).await;
    eventually("the replica's metrics are gone", async || both(&cluster).await[0].find(series).is_none())
        .await;
}

#[tokio::test]
async fn those_who_prefer_json_get_the_report_of_the_original() {
    let cluster = Cluster::start().await;
    cluster.deploy("sum", "m", "1", "doubles", 1).await;
    cluster.add_app("m", "doubles", OBJECTIVE, true).await;
    cluster.served(0, "m", json!({"input": [1, 2]})).await;
    let report = eventually_some("a prediction is reported", async || {
        let report = as_json(&cluster, format!("{}/metrics", cluster.query_url(0))).await;
        (named(&report, "counters", "model:m:1:num_predictions")["count"].as_u64()? > 0).then_some(report)
    })
    .await;
    assert!(named(&report, "counters", "app:m:num_predictions")["count"].as_u64().unwrap() > 0);
    assert!(named(&report, "ratio_counters", "app:m:default_prediction_ratio")["ratio"].as_f64().is_some());
    assert_eq!(named(&report, "ratio_counters", "model:m:1:cache_hit_ratio")["ratio"], Value::Null);
    let meter = named(&report, "meters", "app:m:prediction_throughput");
    assert_eq!(meter["unit"], "events per second");
    assert!(meter["rate_1min"].as_f64().unwrap() > 0.0, "{meter}");
    let latency = named(&report, "histograms", "app:m:prediction_latency");
    assert_eq!(latency["unit"], "microseconds");
    assert!(latency["p99.9"].as_u64() >= latency["p50"].as_u64(), "{latency}");
    assert_eq!(named(&report, "histograms", "model:m:1:batch_size")["max"], 1);

    for path in ["/metrics", "/admin/metrics"] {
        let report = as_json(&cluster, format!("{}{path}", cluster.admin_url())).await;
        assert_eq!(named(&report, "counters", "management:applications"), &json!({"count": 1}));
    }
}

#[tokio::test]
async fn every_metric_is_documented_and_the_dashboard_shows_only_such_as_exist() {
    let cluster = Cluster::start().await;
    let exposed: BTreeSet<_> = both(&cluster).await.iter().flat_map(Exposition::names).collect();
    let documented = mentioned(&repository("docs/metrics.md"));
    assert_eq!(exposed, documented);

    let dashboard: Value = serde_json::from_str(&repository("deploy/grafana/clipper.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let shown: BTreeSet<_> = targets.flat_map(|target| mentioned(target["expr"].as_str().unwrap())).collect();
    let histogram_part = |name: &str| {
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|part| name.strip_suffix(part));
        family.is_some_and(|family| exposed.contains(family))
    };
    let unknown: Vec<_> =
        shown.iter().filter(|name| !exposed.contains(*name) && !histogram_part(name)).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    assert!(shown.len() > 30, "{shown:?}");
}
