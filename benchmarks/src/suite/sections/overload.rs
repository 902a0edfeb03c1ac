//! More than a model can do: how much of it is still done in time, and what another application feels of it.

use std::slice;

use anyhow::Context;
use clipper_benchmarks::report::Report;
use clipper_benchmarks::report::plot::{Curve, Plot};
use serde_json::json;

use crate::cell::{ms, percent, rate, ratio};
use crate::cluster::{Cluster, Place};
use crate::generator::{Measurement, Started};
use crate::section::{Section, median};

const OBJECTIVE_MS: u64 = 100;
/// What is offered, to what the model can do.
const LOADS: [f64; 7] = [0.5, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0];
const POLICIES: [&str; 2] = ["default", "refuse"];

pub fn measure(section: &mut Section) -> anyhow::Result<()> {
    let mut cluster = Cluster::start(&section.options.python, &["--max-batch-size", "1024"])?;
    for policy in POLICIES {
        let command = ["simulated", "--fixed-ms", "20", "--per-item-ms", "0.2"];
        cluster.deploy(policy, &command, json!({}))?;
    }
    cluster.add_app("default", "default", OBJECTIVE_MS, json!({}))?;
    cluster.deploy("neighbour", &["noop"], json!({}))?;
    cluster.add_app("neighbour", "neighbour", OBJECTIVE_MS, json!({}))?;
    let query = cluster.query();
    let duration = section.duration();
    let load = |place: &Place, app: &str, rate: f64| {
        let flags =
            format!("--unique --rate {rate:.0} --objective {OBJECTIVE_MS}ms --connections 2048 {duration}");
        Measurement::new(app, place, &format!("{app}/predict"), &flags)
    };

    let search = format!(
        "--unique --find-rate --rate 2000 --objective {OBJECTIVE_MS}ms --connections 2048 --duration 1s"
    );
    let search = Measurement::new("capacity", &query, "default/predict", &search);
    section.commands(cluster.transcript());
    section.commands(slice::from_ref(&search.command));
    let before = cluster.transcript().len();
    let capacity = search.search()?.highest_rate.context("the model meets the objective at no rate")?;
    // As many as it can answer within the objective (Little's law).
    let bound = (capacity * OBJECTIVE_MS as f64 / 1000.0) as u64;
    let settings = json!({"on_overload": "refuse", "max_concurrent_requests": bound});
    cluster.add_app("refuse", "refuse", OBJECTIVE_MS, settings)?;
    section.commands(&cluster.transcript()[before..]);
    let mut curves: Vec<Curve> =
        POLICIES.map(|policy| Curve { name: policy.to_owned(), points: Vec::new() }).to_vec();
    let mut rows = Vec::new();
    let loads = if section.options.quick { vec![0.5, 1.0, 3.0] } else { LOADS.to_vec() };
    for factor in loads {
        let measurements = POLICIES.map(|policy| load(&query, policy, capacity * factor));
        let rounds = section.compare(&measurements)?;
        let mut row = vec![format!("{factor}"), rate(capacity * factor)];
        for (round, curve) in rounds.iter().zip(&mut curves) {
            let goodput = round.median(|report| report.goodput_per_second);
            curve.points.push((factor, goodput / capacity));
            row.extend([rate(goodput), ratio(goodput, capacity), ms(round.p99())]);
        }
        rows.push(row);
    }
    section.say(&format!(
        "A model of 20 ms a batch and 0.2 ms an input; its capacity, {}/s, is the highest rate with 99 % within {OBJECTIVE_MS} ms. \
         What there is no room for gets the default output (`default`), or is refused beyond {bound} requests in progress (`refuse`).",
        rate(capacity)
    ));
    let head = [
        "offered to capacity",
        "offered/s",
        "default: good/s",
        "to capacity",
        "p99",
        "refuse: good/s",
        "to capacity",
        "p99",
    ];
    section.table(&head, &rows);
    curves.push(Curve { name: "ideal".to_owned(), points: vec![(0.0, 0.0), (1.0, 1.0), (3.0, 1.0)] });
    let plot = Plot {
        title: "Good answers under overload".to_owned(),
        x: "offered to capacity".to_owned(),
        y: "good to capacity".to_owned(),
        log_x: false,
        log_y: false,
        curves,
    };
    section.plot("overload", &plot)?;
    let before = cluster.transcript().len();
    let (_second, elsewhere) = cluster.join_frontend()?;
    section.commands(&cluster.transcript()[before..]);
    let overload = |place| load(place, "default", capacity * 3.0);
    neighbour(section, &load(&query, "neighbour", 500.0), &overload(&query), &overload(&elsewhere))
}

/// What an application feels while another is overloaded: at the same frontend, and, to tell the frontend's part in it from what
/// two cores have to do besides, elsewhere on the machine.
fn neighbour(
    section: &mut Section,
    neighbour: &Measurement,
    here: &Measurement,
    elsewhere: &Measurement,
) -> anyhow::Result<()> {
    for overload in [here, elsewhere] {
        section.commands(&[format!("{} &", overload.command), neighbour.command.clone()]);
    }
    let mut reports: [(&str, Vec<Report>); 3] =
        ["alone", "beside the overload", "beside the same at another frontend"]
            .map(|name| (name, Vec::new()));
    for _ in 0..section.rounds() {
        for ((_, reports), overload) in reports.iter_mut().zip([None, Some(here), Some(elsewhere)]) {
            let overloading = overload.map(Measurement::start).transpose()?;
            reports.push(neighbour.run()?);
            overloading.map(Started::finish::<Report>).transpose()?;
        }
    }
    section.say("An application of another model, 500/s, alone and while the first is offered three times its capacity, by the same frontend or by another one on the same machine:");
    let p99 = |reports: &[Report]| {
        median(reports.iter().filter_map(|report| report.latency_ms).map(|latency| latency.p99).collect())
    };
    let good = |reports: &[Report]| median(reports.iter().map(|report| report.good_share).collect());
    let alone = p99(&reports[0].1);
    let rows = reports.each_ref().map(|(name, reports)| {
        vec![(*name).to_owned(), ms(p99(reports)), ratio(p99(reports), alone), percent(good(reports))]
    });
    section.table(&["", "p99", "to alone", "good"], &rows);
    Ok(())
}
