//! The highest rate at which 99 % of the answers are the model's and come within the objective, by what sizes the batches.

use anyhow::Context;
use clipper_benchmarks::report::plot::Bars;
use serde_json::{Value, json};

use crate::cell::{rate, ratio};
use crate::cluster::{Cluster, Place};
use crate::generator::Measurement;
use crate::section::{Section, median};

const OBJECTIVE_MS: u64 = 100;
const STRATEGIES: [&str; 3] = ["adaptive", "aimd", "quantile"];
/// What a person would try who sets the size by hand.
const SIZES: [u32; 4] = [16, 64, 128, 256];

/// A model by the time that its batches take.
struct Kind {
    name: &'static str,
    meaning: &'static str,
    flags: &'static [&'static str],
    /// A rate from which a search is soon done, a second.
    guess: u32,
}

const KINDS: [Kind; 4] = [
    Kind {
        name: "linear",
        meaning: "20 ms a batch and 0.2 ms an input",
        flags: &["--fixed-ms", "20", "--per-item-ms", "0.2"],
        guess: 2400,
    },
    Kind {
        name: "steps",
        meaning: "10 ms a batch and 8 ms for each 32 inputs begun",
        flags: &["--fixed-ms", "10", "--step-ms", "8", "--step-size", "32"],
        guess: 2400,
    },
    Kind {
        name: "noisy",
        meaning: "as linear, times a lognormal factor of sigma 0.3",
        flags: &["--fixed-ms", "20", "--per-item-ms", "0.2", "--noise", "0.3"],
        guess: 1800,
    },
    Kind {
        name: "vectorised",
        meaning: "5 ms a batch of any size",
        flags: &["--fixed-ms", "5"],
        guess: 20_000,
    },
];

pub fn measure(section: &mut Section) -> anyhow::Result<()> {
    section.say(&format!(
        "Models that sleep as long as their batches are to take, one replica each, {OBJECTIVE_MS} ms objective, random arrivals. \
         `fixed` is the best of the sizes {SIZES:?}, found by measuring each at one rate: what a person could set who knew the model and the load."
    ));
    let mut rows = Vec::new();
    let mut bars = Vec::new();
    let kinds = if section.options.quick { &KINDS[..1] } else { &KINDS };
    for kind in kinds {
        let found = measure_kind(section, kind)?;
        let adaptive = found[0].1;
        let mut row = vec![format!("{}: {}", kind.name, kind.meaning)];
        row.extend(found.iter().map(|(_, found)| format!("{} ({})", rate(*found), ratio(*found, adaptive))));
        let best = &found[found.len() - 1].0;
        row.push(best.clone());
        rows.push(row);
        bars.extend(found.iter().map(|(name, found)| {
            let name = if name.starts_with("fixed") { "fixed" } else { name };
            (format!("{} {name}", &kind.name[..3]), found / adaptive)
        }));
    }
    section.table(&["model", "adaptive/s (ratio)", "aimd/s", "quantile/s", "best fixed/s", "which"], &rows);
    let title = "Highest rate with 99 % good, to that of adaptive".to_owned();
    section.bars("batching", &Bars { title, y: "ratio".to_owned(), bars })
}

/// The rate of each strategy, the best fixed size last.
fn measure_kind(section: &mut Section, kind: &Kind) -> anyhow::Result<Vec<(String, f64)>> {
    let mut cluster = Cluster::start(&section.options.python, &["--max-batch-size", "1024"])?;
    let command = [&["simulated"], kind.flags].concat();
    let mut serve = |name: &str, settings: Value| {
        cluster.deploy(name, &command, settings)?;
        cluster.add_app(name, name, OBJECTIVE_MS, json!({}))
    };
    for strategy in STRATEGIES {
        serve(strategy, json!({"batching": strategy}))?;
    }
    let sizes: &[u32] = if section.options.quick { &SIZES[1..2] } else { &SIZES };
    for size in sizes {
        serve(&format!("fixed-{size}"), json!({"batching": {"strategy": "fixed"}, "batch_size": size}))?;
    }
    section.commands(cluster.transcript());
    let query = cluster.query();
    let search = |app: &str, guess: u32| {
        let flags = format!(
            "--unique --find-rate --objective {OBJECTIVE_MS}ms --rate {guess} --connections 2048 --duration 1s --warm-up 300ms"
        );
        Measurement::new(app, &query, &format!("{app}/predict"), &flags)
    };
    let contender = |name: &str| search(name, kind.guess);
    let mut contenders: Vec<String> = STRATEGIES.map(str::to_owned).to_vec();
    contenders.push(best_size(section, kind, &query, sizes)?);
    let mut found: Vec<Vec<f64>> = vec![Vec::new(); contenders.len()];
    for _ in 0..if section.options.quick { 1 } else { 2 } {
        for (name, found) in contenders.iter().zip(&mut found) {
            let highest = contender(name).search()?.highest_rate.unwrap_or_default();
            eprintln!("{} {name}: {highest:.0}/s", kind.name);
            found.push(highest);
        }
    }
    let commands: Vec<String> = contenders.iter().map(|name| contender(name).command).collect();
    section.commands(&commands);
    Ok(contenders.into_iter().zip(found.into_iter().map(median)).collect())
}

/// The application of the fixed size that has the most good answers at the rate where searches begin.
fn best_size(section: &mut Section, kind: &Kind, query: &Place, sizes: &[u32]) -> anyhow::Result<String> {
    let flags = format!(
        "--unique --objective {OBJECTIVE_MS}ms --rate {} --connections 2048 {}",
        kind.guess,
        section.duration()
    );
    let measurements: Vec<Measurement> = sizes
        .iter()
        .map(|size| format!("fixed-{size}"))
        .map(|app| Measurement::new(app.clone(), query, &format!("{app}/predict"), &flags))
        .collect();
    let rounds = section.compare(&measurements)?;
    // Of sizes that are all good enough, the quickest is the one that will bear most.
    let best = rounds
        .into_iter()
        .max_by(|a, b| a.good_share().total_cmp(&b.good_share()).then_with(|| b.p99().total_cmp(&a.p99())));
    best.map(|best| best.name).context("there are sizes to choose from")
}
