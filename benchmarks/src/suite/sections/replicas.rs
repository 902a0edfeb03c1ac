//! Whether more replicas do more, and what they cost.

use clipper_benchmarks::report::plot::{Curve, Plot};
use serde_json::json;

use crate::cell::{ms, rate, ratio, times};
use crate::cluster::{Bare, Cluster};
use crate::generator::Measurement;
use crate::section::Section;

/// What one replica of the model that takes time can do, a second.
const CAPACITY: f64 = 200.0;

const OBJECTIVE_MS: u64 = 5000;

pub fn measure(section: &mut Section) -> anyhow::Result<()> {
    let bare = Bare::start()?;
    let mut cluster = Cluster::start(&section.options.python, &[])?;
    cluster.deploy("noop", &["noop"], json!({}))?;
    cluster.deploy("sleeper", &["simulated", "--per-item-ms", "5"], json!({"batch_size": 1}))?;
    for model in ["noop", "sleeper"] {
        // One replica keeps 256 connections waiting for more than a second.
        cluster.add_app(model, model, OBJECTIVE_MS, json!({}))?;
    }
    let mut rows = Vec::new();
    let mut points = Vec::new();
    let mut before = 0;
    for count in [1_u32, 4, 16, 64] {
        if count > 1 {
            for model in ["noop", "sleeper"] {
                let body = json!({"model_name": model, "num_replicas": count, "timeout_seconds": 120});
                cluster.must("set_num_replicas", &body)?;
            }
        }
        section.commands(&cluster.transcript()[before..]);
        before = cluster.transcript().len();
        let flags = format!("--unique --connections 256 {}", section.duration());
        let measurements = [
            Measurement::new("bare", &bare.query(), "doubles/predict", &flags),
            Measurement::new("noop", &cluster.query(), "noop/predict", &flags),
            Measurement::new("sleeper", &cluster.query(), "sleeper/predict", &flags),
        ];
        let rounds = section.compare(&measurements)?;
        let possible = CAPACITY * f64::from(count);
        points.push((f64::from(count), rounds[2].throughput()));
        rows.push(vec![
            count.to_string(),
            rate(rounds[1].throughput()),
            times(rounds[1].to(&rounds[0])),
            ms(rounds[1].p50()),
            rate(rounds[2].throughput()),
            ratio(rounds[2].throughput(), possible),
        ]);
    }
    section.say(
        "`noop` costs nothing, so that replicas only cost; `sleeper` takes 5 ms for each input, 200/s at most, so that replicas add up. \
         256 connections, closed loop, in turns with the bare server.",
    );
    section.table(
        &["replicas", "noop, answers/s", "to bare", "p50", "sleeper, answers/s", "to 200/s a replica"],
        &rows,
    );
    let ideal = points.iter().map(|(count, _)| (*count, CAPACITY * count)).collect();
    let plot = Plot {
        title: "A model of 5 ms an input".to_owned(),
        x: "replicas".to_owned(),
        y: "answers/s".to_owned(),
        log_x: true,
        log_y: true,
        curves: vec![
            Curve { name: "measured".to_owned(), points },
            Curve { name: "200/s a replica".to_owned(), points: ideal },
        ],
    };
    section.plot("replicas", &plot)
}
