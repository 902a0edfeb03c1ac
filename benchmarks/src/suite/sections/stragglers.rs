//! Two replicas, one of which stalls now and then: what the others' queries feel of it.

use clipper_benchmarks::report::plot::Bars;
use serde_json::json;

use crate::cell::{ms, percent, ratio};
use crate::cluster::Cluster;
use crate::generator::Measurement;
use crate::section::Section;

const OBJECTIVE_MS: u64 = 100;
const HEALTHY: [&str; 5] = ["simulated", "--fixed-ms", "5", "--per-item-ms", "0.1"];
const STALLS: [&str; 4] = ["--stall-probability", "0.05", "--stall-ms", "500"];

pub fn measure(section: &mut Section) -> anyhow::Result<()> {
    let mut cluster = Cluster::start(&section.options.python, &[])?;
    let mut joined = Vec::new();
    for (model, second) in [("healthy", HEALTHY.to_vec()), ("straggling", [&HEALTHY[..], &STALLS].concat())] {
        cluster.deploy(model, &HEALTHY, json!({}))?;
        joined.push(cluster.join(model, &second)?);
        cluster.add_app(model, model, OBJECTIVE_MS, json!({}))?;
    }
    section.commands(cluster.transcript());
    let query = cluster.query();
    let flags =
        format!("--unique --rate 300 --objective {OBJECTIVE_MS}ms --connections 256 {}", section.duration());
    let measurements =
        ["healthy", "straggling"].map(|app| Measurement::new(app, &query, &format!("{app}/predict"), &flags));
    let rounds = section.compare(&measurements)?;
    section.say(&format!(
        "Two replicas of 5 ms a batch and 0.1 ms an input, 300 queries/s at random moments, {OBJECTIVE_MS} ms objective. Of `straggling`, \
         one replica stalls for 500 ms in 5 % of its batches."
    ));
    let rows: Vec<Vec<String>> = rounds
        .iter()
        .map(|round| {
            vec![
                round.name.clone(),
                ms(round.p50()),
                ms(round.p99()),
                ratio(round.p99(), rounds[0].p99()),
                percent(round.good_share()),
                percent(
                    round.median(|report| report.defaults() as f64 / report.requests.total.max(1) as f64),
                ),
            ]
        })
        .collect();
    section.table(&["", "p50", "p99", "to healthy", "good", "defaults"], &rows);
    let bars = rounds.iter().map(|round| (round.name.clone(), round.p99())).collect();
    section.bars("stragglers", &Bars { title: "99th percentile".to_owned(), y: "ms".to_owned(), bars })
}
