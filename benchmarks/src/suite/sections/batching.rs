//! The highest rate at which 99 % of the answers are the model's and come within the objective, by what sizes the batches.

use clipper_benchmarks::report::plot::Bars;
use serde_json::{Value, json};

use crate::cell::{rate, ratio};
use crate::cluster::Cluster;
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
        guess: 2000,
    },
    Kind {
        name: "steps",
        meaning: "10 ms a batch and 8 ms for each 32 inputs begun",
        flags: &["--fixed-ms", "10", "--step-ms", "8", "--step-size", "32"],
        guess: 2000,
    },
    Kind {
        name: "noisy",
        meaning: "as linear, times a lognormal factor of sigma 0.3",
        flags: &["--fixed-ms", "20", "--per-item-ms", "0.2", "--noise", "0.3"],
        guess: 1500,
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
         `fixed` is the best of the sizes {SIZES:?}, found by measuring each: what a person could set who knew the model and the load."
    ));
    let mut rows = Vec::new();
    let mut bars = Vec::new();
    for kind in &KINDS {
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
            "--unique --find-rate --objective {OBJECTIVE_MS}ms --rate {guess} --connections 2048 --duration 1s --warm-up 500ms"
        );
        Measurement::new(app, &query, &format!("{app}/predict"), &flags)
    };
    let mut best = (String::new(), 0.0);
    for size in sizes {
        let app = format!("fixed-{size}");
        let measurement = search(&app, kind.guess);
        section.commands(&[measurement.command.clone()]);
        let found = measurement.search()?.highest_rate.unwrap_or_default();
        eprintln!("{} {app}: {found:.0}/s", kind.name);
        if found >= best.1 {
            best = (app, found);
        }
    }
    let mut contenders: Vec<String> = STRATEGIES.map(str::to_owned).to_vec();
    contenders.push(best.0);
    let mut found: Vec<Vec<f64>> = vec![Vec::new(); contenders.len()];
    for _ in 0..if section.options.quick { 1 } else { 2 } {
        for (contender, found) in contenders.iter().zip(&mut found) {
            let measurement = search(contender, kind.guess);
            let highest = measurement.search()?.highest_rate.unwrap_or_default();
            eprintln!("{} {contender}: {highest:.0}/s", kind.name);
            found.push(highest);
        }
    }
    let commands: Vec<String> =
        contenders.iter().map(|contender| search(contender, kind.guess).command).collect();
    section.commands(&commands);
    Ok(contenders.into_iter().zip(found.into_iter().map(median)).collect())
}
