//! Load for long, while versions are deployed and deleted: nothing may grow, and no query be lost.

use std::time::{Duration, Instant};

use clipper_benchmarks::report::Report;
use clipper_benchmarks::report::plot::{Curve, Plot};
use serde_json::json;

use crate::cell::{ms, percent, rate};
use crate::cluster::Cluster;
use crate::generator::Measurement;
use crate::process::program;
use crate::section::Section;

/// How long a version is served.
const SERVED: Duration = Duration::from_secs(10);

pub fn measure(section: &mut Section) -> anyhow::Result<()> {
    let minutes = section.options.soak.unwrap_or(if section.options.quick { 0.5 } else { 10.0 });
    let mut cluster = Cluster::start(&section.options.python, &[])?;
    cluster.deploy("noop", &["noop"], json!({}))?;
    cluster.add_app("noop", "noop", 1000, json!({}))?;
    cluster.note("every 10 s the next version is deployed and the last one deleted");
    section.commands(cluster.transcript());
    let flags =
        format!("--unique --rate 2000 --objective 1s --connections 256 --duration {:.0}s", minutes * 60.0);
    let load = Measurement::new("soak", &cluster.query(), "noop/predict", &flags);
    section.commands(std::slice::from_ref(&load.command));
    let noop = program("examples/noop")?.display().to_string();
    let started = Instant::now();
    let end = started + Duration::from_secs_f64(minutes * 60.0);
    let running = load.start()?;
    let mut version = 1;
    let mut memory = vec![(0.0, cluster.server().megabytes()?)];
    while Instant::now() + SERVED < end {
        std::thread::sleep(SERVED);
        let model = |version: u32| json!({"model_name": "noop", "model_version": version.to_string()});
        let mut next = model(version + 1);
        (next["input_type"], next["command"]) = (json!("doubles"), json!([noop]));
        cluster.must_silently("deploy_model", &next)?;
        cluster.must_silently("delete_versioned_model", &model(version))?;
        version += 1;
        memory.push((started.elapsed().as_secs_f64() / 60.0, cluster.server().megabytes()?));
    }
    let report: Report = running.finish()?;
    let (first, last) = (memory[memory.len() / 4].1, memory[memory.len() - 1].1);
    section.say(&format!("{minutes} minutes of 2,000 queries/s, {} redeployments:", version - 1));
    let latency = report.latency_ms;
    let row = vec![
        rate(report.requests.total as f64),
        percent(report.good_share),
        report.requests.failures.values().chain(report.requests.statuses.values()).sum::<u64>().to_string(),
        report.defaults().to_string(),
        latency.map_or_else(String::new, |latency| ms(latency.p99)),
        format!("{first:.0} MB, {last:.0} MB"),
    ];
    section.table(
        &["queries", "good", "failed or refused", "defaults", "p99", "memory after a quarter, at the end"],
        &[row],
    );
    let plot = Plot {
        title: "Memory of the cluster's process".to_owned(),
        x: "minute".to_owned(),
        y: "MB (resident)".to_owned(),
        log_x: false,
        log_y: false,
        curves: vec![Curve { name: "memory".to_owned(), points: memory }],
    };
    section.plot("soak", &plot)
}
