//! Whether more applications cost those that there are.

use clipper_benchmarks::report::plot::{Curve, Plot};
use serde_json::json;

use crate::cell::{ms, rate, times};
use crate::cluster::{Bare, Cluster, app};
use crate::generator::Measurement;
use crate::section::Section;

pub fn measure(section: &mut Section) -> anyhow::Result<()> {
    let bare = Bare::start()?;
    let mut cluster = Cluster::start(&section.options.python, &[])?;
    cluster.deploy("noop", &["noop"], json!({}))?;
    cluster.add_app("app-1", "noop", 1000, json!({}))?;
    cluster.note("and so on up to app-1000");
    section.commands(cluster.transcript());
    let flags = format!("--unique --connections 64 {}", section.duration());
    let mut rows = Vec::new();
    let mut points = Vec::new();
    let mut there = 1;
    for count in [1, 10, 100, 1000] {
        while there < count {
            there += 1;
            cluster.must_silently("add_app", &app(&format!("app-{there}"), "noop", 1000, json!({})))?;
        }
        let measurements = [
            Measurement::new("bare", &bare.query(), "doubles/predict", &flags),
            Measurement::new(
                format!("{count} applications"),
                &cluster.query(),
                &format!("app-{count}/predict"),
                &flags,
            ),
        ];
        let rounds = section.compare(&measurements)?;
        let to_bare = rounds[1].throughput() / rounds[0].throughput();
        points.push((f64::from(count), to_bare));
        rows.push(vec![
            rate(f64::from(count)),
            rate(rounds[1].throughput()),
            times(rounds[1].to(&rounds[0])),
            ms(rounds[1].p50()),
            format!("{:.0} MB", cluster.server().megabytes()?),
        ]);
    }
    section.say("All are linked to one noop model; the newest is asked, 64 connections, closed loop, in turns with the bare server.");
    section.table(&["applications", "answers/s", "to bare", "p50", "memory"], &rows);
    let plot = Plot {
        title: "Answers/s to the bare server's".to_owned(),
        x: "applications".to_owned(),
        y: "ratio".to_owned(),
        log_x: true,
        log_y: false,
        curves: vec![Curve { name: "Clipper".to_owned(), points }],
    };
    section.plot("apps", &plot)
}
