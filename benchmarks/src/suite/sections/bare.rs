//! What Clipper adds to the least that a server has to do: the same bodies, parsed by actix-web and serde, answered with a constant.

use clipper_benchmarks::report::plot::Bars;
use serde_json::json;

use crate::cell::{ms, rate, ratio, times};
use crate::cluster::{Bare, Cluster};
use crate::generator::Measurement;
use crate::section::{Rounds, Section};

/// Long enough that no answer is late: what is measured is what an answer costs.
const OBJECTIVE_MS: u64 = 1000;

pub fn measure(section: &mut Section) -> anyhow::Result<()> {
    section.say("Both servers with one HTTP worker for each core:");
    measure_workers(section, None)?;
    section.say(
        "Both with one HTTP worker, which leaves the frontend's other threads and the container a core:",
    );
    measure_workers(section, Some(1))
}

/// Measures both servers with so many HTTP workers, or with one for each core.
fn measure_workers(section: &mut Section, workers: Option<usize>) -> anyhow::Result<()> {
    let bare = Bare::start_with(workers)?;
    let number = workers.map(|workers| workers.to_string());
    let flags: Vec<&str> = number.iter().flat_map(|number| ["--http-workers", number]).collect();
    let mut cluster = Cluster::start(&section.options.python, &flags)?;
    cluster.deploy("rust", &["noop"], json!({}))?;
    cluster.add_app("rust", "rust", OBJECTIVE_MS, json!({}))?;
    let python = section.options.python.is_file();
    if python {
        let body = json!({"model_name": "python", "model_version": "1", "input_type": "doubles", "container_kind": "noop"});
        cluster.must("deploy_model", &body)?;
        cluster.add_app("python", "python", OBJECTIVE_MS, json!({}))?;
    }
    section.commands(cluster.transcript());
    let query = cluster.query();
    let load = section.duration();
    for (title, file, flags) in [
        ("8 doubles, 64 connections", "bare-8", "--input-length 8 --connections 64"),
        ("784 doubles, 64 connections", "bare-784", "--input-length 784 --connections 64"),
        ("8 doubles, one connection", "bare-1", "--input-length 8 --connections 1"),
    ] {
        let unique = format!("--unique {flags} {load}");
        let repeated = format!("--distinct 100 {flags} {load}");
        let mut measurements = vec![
            Measurement::new("bare", &bare.query(), "doubles/predict", &unique),
            Measurement::new("Rust noop", &query, "rust/predict", &unique),
            Measurement::new("cached", &query, "rust/predict", &repeated),
        ];
        if python {
            measurements.push(Measurement::new("Python noop", &query, "python/predict", &unique));
        }
        let rounds = section.compare(&measurements)?;
        let (title, file) = match workers {
            None => (title.to_owned(), file.to_owned()),
            Some(workers) => (format!("{title}, {workers} HTTP worker"), format!("{file}-{workers}-worker")),
        };
        section.say(&format!("### {title}"));
        tell(section, &file, &title, &rounds)?;
    }
    if !python {
        section.say(&format!(
            "Python was not measured: there is no interpreter {} (`--python`).",
            section.options.python.display()
        ));
    }
    Ok(())
}

fn tell(section: &mut Section, file: &str, title: &str, rounds: &[Rounds]) -> anyhow::Result<()> {
    let bare = &rounds[0];
    let rows: Vec<Vec<String>> = rounds
        .iter()
        .map(|round| {
            vec![
                round.name.clone(),
                rate(round.throughput()),
                times(round.to(bare)),
                ms(round.p50()),
                ratio(round.p50(), bare.p50()),
                ms(round.p99()),
            ]
        })
        .collect();
    section.table(&["", "answers/s", "to bare", "p50", "to bare", "p99"], &rows);
    let bars = rounds.iter().map(|round| (round.name.clone(), round.throughput())).collect();
    section.bars(file, &Bars { title: title.to_owned(), y: "answers/s".to_owned(), bars })
}
