//! `clipper replay`: whether the choices of a log can be computed again.

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;
use clipper_selection::offline::lines::Records;
use clipper_selection::offline::replay::{Replay, ReplayReport, Tally};
use serde::Serialize;

use super::{log_files, open, print, table, write_json};

const EXAMPLES: &str = "\
Examples:
  clipper replay ~/.clipper/decisions/my-app
      every file of an application's log
  clipper replay 0-1700000000000000.jsonl --json replay.json

The states that each decision read are built again from the log; the choice is computed again from the application's seed and the
query's id, and the changes that feedback made from the feedback; all must be the same to the last bit. Ends with status 1 where one is not.
docs/evaluation.md describes the log.";

/// Computes the choices of a decision log again.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES, after_help = "`clipper replay --help` shows examples.")]
pub struct ReplaySettings {
    /// Read these files, or all files of these directories
    #[arg(value_name = "LOG", required = true)]
    logs: Vec<PathBuf>,
    /// Write the result as JSON here
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Serialize)]
struct Replayed {
    files: usize,
    #[serde(flatten)]
    report: ReplayReport,
    ignored_bytes: u64,
}

/// Replays, and prints and writes what came of it.
///
/// # Errors
/// If a file is no log, or something is computed otherwise than it was logged.
pub fn run(settings: &ReplaySettings) -> anyhow::Result<()> {
    let files = log_files(&settings.logs)?;
    let mut replay = Replay::new();
    let mut ignored_bytes = 0;
    for file in &files {
        replay.begin_file();
        let mut records = Records::new(open(file)?);
        for record in records.by_ref() {
            replay.push(record.map_err(|error| anyhow::anyhow!("{}: {error}", file.display()))?);
        }
        ignored_bytes += records.ignored_bytes();
    }
    let report = replay.finish();
    let replayed = Replayed { files: files.len(), report, ignored_bytes };
    print(&replayed.text())?;
    write_json(settings.json.as_deref(), &replayed)?;
    match replayed.report.differing() {
        0 => Ok(()),
        differing => bail!("{differing} of what was logged is computed otherwise"),
    }
}

impl Replayed {
    fn text(&self) -> String {
        let report = &self.report;
        let row = |what: &str, tally: &Tally| {
            let unchecked: u64 = tally.not_checkable.values().sum();
            [what.to_owned()]
                .into_iter()
                .chain(
                    [tally.total, tally.reproduced, tally.differing, unchecked]
                        .map(|count| count.to_string()),
                )
                .collect::<Vec<_>>()
        };
        let rows = [row("decisions", &report.decisions), row("changes", &report.changes)];
        let rows = rows.map(|row| <[String; 5]>::try_from(row).unwrap_or_default());
        let mut lines =
            vec![table(["", "logged", "reproduced", "differing", "not checkable"], rows).to_string()];
        for (what, tally) in [("decisions", &report.decisions), ("changes", &report.changes)] {
            let why = tally.not_checkable.iter();
            lines.extend(why.map(|(why, count)| format!("{count} {what} are not checkable: {why}")));
        }
        if self.ignored_bytes > 0 {
            lines.push(format!(
                "{} bytes at the end of a file were ignored: a record that broke off",
                self.ignored_bytes
            ));
        }
        lines.extend(report.differences.iter().cloned());
        lines.join("\n")
    }
}
