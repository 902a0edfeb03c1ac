//! `make bench`: measures Clipper on this machine, and writes a report with plots.
//!
//! Every number comes from `clipper bench`, run as a user would; the report holds the commands. What is compared is measured in turns, and
//! reported as ratios of medians, since machines are noisy.
//!
//! # Layout
//! - [`cluster`], [`process`]: what is measured, started and stopped; [`generator`]: what measures.
//! - [`section`]: one part of the report, [`cell`]: its numbers; [`report`]: all of them; [`machine`]: where they were measured.
//! - [`sections`]: the measurements themselves, a file each.

mod cell;
mod cluster;
mod generator;
mod machine;
mod process;
mod report;
mod section;
mod sections;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Parser;

use self::section::Section;

/// Measures Clipper on this machine, and writes REPORT.md with plots.
#[derive(Debug, Clone, Parser)]
struct Options {
    /// Measure this section only; can be repeated. The others keep what was measured before
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Measure each thing once, for a second: whether all works, rather than how fast
    #[arg(long)]
    quick: bool,
    /// Also load a cluster for so many minutes while it redeploys, and watch its memory
    #[arg(long, value_name = "MINUTES")]
    soak: Option<f64>,
    /// Run Python containers with this interpreter [default: CLIPPER_TEST_PYTHON, or .venv/bin/python]
    #[arg(long, env = "CLIPPER_TEST_PYTHON", default_value = ".venv/bin/python", value_name = "PROGRAM")]
    python: PathBuf,
    /// Write the results here
    #[arg(long, value_name = "DIR", default_value = "benchmarks/results")]
    output: PathBuf,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("suite: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> anyhow::Result<()> {
    let known: Vec<&str> = sections::ALL.iter().map(|(name, _)| *name).collect();
    if let Some(unknown) = options.only.iter().find(|name| !known.contains(&name.as_str())) {
        bail!("there is no section '{unknown}'; expected one of {}", known.join(", "));
    }
    std::fs::create_dir_all(options.output.join("parts"))
        .with_context(|| format!("cannot make {}", options.output.display()))?;
    let mut failed = Vec::new();
    for (name, measure) in sections::ALL {
        let wanted = if options.only.is_empty() {
            name != sections::SOAK || options.soak.is_some()
        } else {
            options.only.iter().any(|only| only == name)
        };
        if !wanted {
            continue;
        }
        eprintln!("== {name}");
        let mut section = Section::new(name, options);
        match measure(&mut section) {
            Ok(()) => section.write()?,
            Err(error) => {
                eprintln!("{name} failed: {error:#}");
                failed.push(name);
            }
        }
    }
    report::write(&options.output)?;
    eprintln!("wrote {}", options.output.join(report::FILE).display());
    if failed.is_empty() { Ok(()) } else { bail!("failed: {}", failed.join(", ")) }
}
