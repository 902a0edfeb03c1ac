//! `clipper export`: logged decisions, joined with their feedback, for other programs.

use std::io::{BufWriter, ErrorKind, Write};
use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, ValueEnum};
use clipper_rpc::names::AppName;
use clipper_selection::log::Record;
use clipper_selection::offline::export::{Actions, Joined};
use clipper_selection::offline::join::Judgements;

use super::{LogReader, log_files};

const EXAMPLES: &str = "\
Examples:
  clipper export ~/.clipper/decisions/my-app > decisions.jsonl
      one JSON object a decision, with its feedback (null where none came)
  clipper export ~/.clipper/decisions/my-app --format vw > decisions.vw
      for `vw --cb`: ACTION:COST:PROBABILITY 'QUERY_ID|context ... |user uid=...; the numbers of the models are told on standard error

docs/evaluation.md describes every key.";

/// Writes logged decisions, joined with their feedback, to standard output.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES, after_help = "`clipper export --help` shows examples.")]
pub struct ExportSettings {
    /// Read these files, or all files of these directories
    #[arg(value_name = "LOG", required = true)]
    logs: Vec<PathBuf>,
    /// Of this application alone
    #[arg(long, value_name = "NAME")]
    app: Option<AppName>,
    /// What to write
    #[arg(long, value_enum, default_value_t = Format::Jsonl)]
    format: Format,
}

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A JSON object a line.
    Jsonl,
    /// Vowpal Wabbit's contextual-bandit text: the decisions for which one model was asked, and on which feedback came.
    Vw,
}

/// Writes the decisions. Whoever reads them may stop.
///
/// # Errors
/// If a file is no log.
pub fn run(settings: &ExportSettings) -> anyhow::Result<()> {
    let files = log_files(&settings.logs)?;
    match write(settings, &files, BufWriter::new(std::io::stdout().lock())) {
        Err(error) if is_broken_pipe(&error) => Ok(()),
        result => result,
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>());
    io.is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}

fn write(settings: &ExportSettings, files: &[PathBuf], mut out: impl Write) -> anyhow::Result<()> {
    const CANNOT: &str = "cannot write the decisions";
    let mut judgements = Judgements::default();
    for record in LogReader::new(files, settings.app.as_ref()) {
        judgements.add(record?);
    }
    let mut actions = Actions::default();
    let mut left_out = 0u64;
    for record in LogReader::new(files, settings.app.as_ref()) {
        let Record::Decision(decision) = record? else { continue };
        let judgement = judgements.on(decision.query_id);
        let line = match settings.format {
            Format::Jsonl => Some(serde_json::to_string(&Joined::new(&decision, judgement))?),
            Format::Vw => judgement.and_then(|judgement| actions.line(&decision, judgement)),
        };
        match line {
            Some(line) => writeln!(out, "{line}").context(CANNOT)?,
            None => left_out += 1,
        }
    }
    out.flush().context(CANNOT)?;
    if settings.format == Format::Vw {
        let mut notes = std::io::stderr();
        for (number, model) in (1..).zip(actions.models()) {
            // That nobody reads it is no reason to fail.
            let _ = writeln!(notes, "action {number} is {model}");
        }
        let _ =
            writeln!(notes, "{left_out} decisions were left out: without feedback, or all models were asked");
    }
    Ok(())
}
