//! What selection costs an application: against one without, over models that cost nothing.

use clipper_benchmarks::report::plot::Bars;
use serde_json::json;

use crate::cell::{ms, rate, times};
use crate::cluster::Cluster;
use crate::generator::Measurement;
use crate::section::Section;

const MODELS: usize = 5;
const OBJECTIVE_MS: u64 = 1000;
const LOADS: [(&str, &str); 2] =
    [("64 connections, closed loop", "--connections 64"), ("1 connection", "--connections 1")];

pub fn measure(section: &mut Section) -> anyhow::Result<()> {
    let mut cluster = Cluster::start(&section.options.python, &[])?;
    let names: Vec<String> = (0..MODELS).map(|model| format!("noop-{model}")).collect();
    for name in &names {
        cluster.deploy(name, &["noop"], json!({}))?;
    }
    cluster.add_app("default_output", &names[0], OBJECTIVE_MS, json!({}))?;
    let mut apps = vec!["default_output".to_owned()];
    for policy in ["exp3", "exp4"] {
        for count in [1, MODELS] {
            let app = format!("{policy}-{count}");
            cluster.add_selecting_app(&app, &names[..count], OBJECTIVE_MS, policy)?;
            apps.push(app);
        }
    }
    section.commands(cluster.transcript());
    let query = cluster.query();
    section.say("### What it costs\n\n`noop` models, each input another; `exp4-5` is `exp4` over five of them, which it asks all.");
    let mut bars = Vec::new();
    for (load, flags) in LOADS {
        let flags = format!("--unique {flags} {}", section.duration());
        let measurements: Vec<Measurement> =
            apps.iter().map(|app| Measurement::new(app, &query, &format!("{app}/predict"), &flags)).collect();
        let rounds = section.compare(&measurements)?;
        let plain = &rounds[0];
        let rows: Vec<Vec<String>> = rounds
            .iter()
            .map(|round| {
                vec![
                    format!("`{}`", round.name),
                    rate(round.throughput()),
                    times(round.to(plain)),
                    ms(round.p50()),
                    ms(round.p99()),
                ]
            })
            .collect();
        section.table(&[load, "answers/s", "to the first", "p50", "p99"], &rows);
        if bars.is_empty() {
            bars = rounds.iter().map(|round| (round.name.clone(), round.throughput())).collect();
        }
    }
    section.bars(
        "selection-cost",
        &Bars { title: "Answers/s, 64 connections".to_owned(), y: "answers/s".to_owned(), bars },
    )
}
