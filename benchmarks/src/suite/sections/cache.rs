//! What the cache spares where inputs repeat, and what it costs where they do not.

use clipper_benchmarks::report::plot::Bars;
use serde_json::json;

use crate::cell::{ms, rate, times};
use crate::cluster::Cluster;
use crate::generator::Measurement;
use crate::section::Section;

pub fn measure(section: &mut Section) -> anyhow::Result<()> {
    let mut cluster = Cluster::start(&section.options.python, &[])?;
    for (model, command) in
        [("noop", &["noop"][..]), ("slow", &["simulated", "--fixed-ms", "5", "--per-item-ms", "0.05"])]
    {
        cluster.deploy(model, command, json!({}))?;
        for (suffix, cache) in [("on", true), ("off", false)] {
            cluster.add_app(&format!("{model}-{suffix}"), model, 1000, json!({"cache": cache}))?;
        }
    }
    section.commands(cluster.transcript());
    let query = cluster.query();
    let mut bars = Vec::new();
    let mut rows = Vec::new();
    for (load, flags) in [
        ("10,000 inputs, Zipf of 1", "--distinct 10000 --zipf 1"),
        ("1,000,000 inputs, Zipf of 1", "--distinct 1000000 --zipf 1"),
        ("none twice", "--unique"),
    ] {
        for model in ["noop", "slow"] {
            let flags = format!("{flags} --connections 64 {}", section.duration());
            let [on, off] = ["on", "off"].map(|cache| {
                let app = format!("{model}-{cache}");
                Measurement::new(app.clone(), &query, &format!("{app}/predict"), &flags)
            });
            let rounds = section.compare(&[on, off])?;
            let (on, off) = (&rounds[0], &rounds[1]);
            rows.push(vec![
                model.to_owned(),
                load.to_owned(),
                rate(on.throughput()),
                rate(off.throughput()),
                times(on.to(off)),
                ms(on.p50()),
                ms(off.p50()),
            ]);
            bars.push((format!("{model}, {load}"), on.throughput() / off.throughput()));
        }
    }
    section.say(
        "`noop` costs nothing, `slow` takes 5 ms a batch and 0.05 ms an input. 64 connections, closed loop.",
    );
    section.table(&["model", "inputs", "on, answers/s", "off", "ratio", "on, p50", "off"], &rows);
    section.bars(
        "cache",
        &Bars { title: "Answers/s with the cache to without".to_owned(), y: "ratio".to_owned(), bars },
    )
}
