//! The log of this process: what is logged, in which form, and where to.
//!
//! Every event of every crate passes through here. Invariant: whatever clients, containers and
//! models put into an event, the event is one line of bounded length, controls no terminal, and
//! comes at a bounded rate. A log file is bounded in bytes as well.
//!
//! # Layout
//! - `fields`: writes the fields of an event for people; `line`: bounds written lines, and escapes
//!   those in JSON.
//! - `rate_limit`: bounds how often one place in the code logs.
//! - `file`: a file that is set aside when it is full.

mod fields;
mod file;
mod line;
mod rate_limit;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io;
use std::num::NonZeroUsize;
use std::panic::{self, PanicHookInfo};
use std::path::PathBuf;
use std::sync::Mutex;

use anyhow::Context;
use clap::{Args, ValueEnum};
use tracing::{Level, enabled, error};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, registry};

use self::fields::PrintableFields;
use self::file::RotatingFile;
use self::line::{Destination, Lines};
use self::rate_limit::RateLimit;
pub use self::rate_limit::Reports;

/// The size of the shortest log file, which has room for many of the longest lines.
const MIN_FILE_BYTES: u64 = 64 << 10;

/// Settings of the log.
#[derive(Debug, Args)]
#[group(skip)]
pub struct LogSettings {
    /// How to write the logs
    #[arg(long, env = "CLIPPER_LOG_FORMAT", global = true, value_enum, default_value_t = LogFormat::Human)]
    pub log_format: LogFormat,
    /// What to log: a level (error, warn, info, debug, trace), or one for each part
    /// (info,clipper_frontend=debug)
    #[arg(long, env = "CLIPPER_LOG_LEVEL", global = true, value_name = "FILTER")]
    #[arg(default_value = "info,actix_server=warn,actix_http=off")]
    pub log_level: String,
    /// Let one place in the code log this many events a second, after a burst of 200; 0 sets no
    /// limit
    #[arg(long, env = "CLIPPER_LOG_RATE", global = true, value_name = "NUMBER", default_value_t = 1)]
    pub log_rate: u32,
    /// Write the logs of a server to this file, which no other process may use [default: standard
    /// error]
    #[arg(long, env = "CLIPPER_LOG_FILE", global = true, value_name = "FILE")]
    pub log_file: Option<PathBuf>,
    /// Begin another log file after so many bytes; the full one is renamed to FILE.1, the one
    /// before to FILE.2
    #[arg(long, env = "CLIPPER_LOG_FILE_BYTES", global = true, value_name = "BYTES", default_value_t = 10 << 20)]
    #[arg(value_parser = clap::value_parser!(u64).range(MIN_FILE_BYTES..))]
    pub log_file_bytes: u64,
    /// Keep at most this many log files, the current one included
    #[arg(long, env = "CLIPPER_LOG_FILES", global = true, value_name = "NUMBER", default_value = "4")]
    pub log_files: NonZeroUsize,
}

/// Form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One line an event, coloured on a terminal.
    Human,
    /// One JSON object an event.
    Json,
}

/// Logs events and panics from now on. Reports what is left out until the result is dropped.
///
/// # Errors
/// If the filter makes no sense, or the log file cannot be opened.
pub fn start(settings: &LogSettings) -> anyhow::Result<Reports> {
    let filter = EnvFilter::builder()
        .parse(&settings.log_level)
        .with_context(|| format!("--log-level '{}'", settings.log_level))?;
    let lines = lines(settings)?;
    let limit = RateLimit::new(settings.log_rate);
    let reports =
        limit.report().context("cannot start the thread that reports what is left out of the log")?;
    registry().with(lines).with(limit).with(filter.add_directive(rate_limit::always_logged())).init();
    log_panics();
    Ok(reports)
}

/// Writes events as the settings say.
fn lines(settings: &LogSettings) -> anyhow::Result<Box<dyn Layer<Registry> + Send + Sync>> {
    let destination = match &settings.log_file {
        Some(path) => {
            let file = RotatingFile::open(path, settings.log_file_bytes, settings.log_files);
            let file = file.with_context(|| format!("cannot write the log file {}", path.display()))?;
            Destination::File(Mutex::new(file))
        }
        None => Destination::StandardError,
    };
    let terminal = settings.log_file.is_none() && io::IsTerminal::is_terminal(&io::stderr());
    let lines = Lines { format: settings.log_format, destination };
    // A line that cannot be written is dropped: complaining of it on standard error would panic
    // where that is broken.
    let lines = fmt::layer().log_internal_errors(false).with_writer(lines);
    Ok(match settings.log_format {
        LogFormat::Human => lines.fmt_fields(PrintableFields).with_ansi(terminal).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    })
}

/// Has panics logged as events, so that they are bounded like these. Where no errors are logged,
/// panics are still printed.
fn log_panics() {
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        if enabled!(Level::ERROR) {
            log_panic(panic);
        } else {
            usual(panic);
        }
    }));
}

fn log_panic(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let backtrace = Backtrace::capture();
    error!(
        thread = thread.name(),
        location = panic.location().map(tracing::field::display),
        backtrace =
            (backtrace.status() == BacktraceStatus::Captured).then(|| tracing::field::display(backtrace)),
        "panicked: {}",
        panic.payload_as_str().unwrap_or("no message"),
    );
}

#[cfg(test)]
mod tests {
    use clipper_rpc::printable::is_printable;
    use serde_json::Value;
    use tempfile::TempDir;
    use tracing::{info, warn};

    use super::*;

    /// An event of another error, a cleared screen, and a line that reads backwards.
    const FORGED: &str =
        "boom\n2026-01-01T00:00:00.000000Z ERROR clipper: all is lost\r\x1b[2J\u{9b}2J\u{2028}\u{202e}x";

    fn logged(log_format: LogFormat, events: impl FnOnce()) -> Vec<String> {
        let directory = TempDir::new().unwrap();
        let file = directory.path().join("log");
        let settings = LogSettings {
            log_format,
            log_level: "info".to_owned(),
            log_rate: 1,
            log_file: Some(file.clone()),
            log_file_bytes: 1 << 20,
            log_files: NonZeroUsize::MIN,
        };
        tracing::subscriber::with_default(registry().with(lines(&settings).unwrap()), events);
        std::fs::read_to_string(file).unwrap().lines().map(str::to_owned).collect()
    }

    /// Logs the forged text in every way in which a macro takes a text.
    fn forge() {
        warn!(error = FORGED, "a batch failed");
        warn!(error = %FORGED, "a batch failed");
        warn!(error = ?[FORGED], "a batch failed");
        warn!("a batch failed: {FORGED}");
        warn!(message = FORGED);
        warn!(error = &io::Error::other(FORGED) as &dyn std::error::Error, "a batch failed");
    }

    #[test]
    fn no_text_in_an_event_forges_a_line_or_controls_a_terminal() {
        for format in [LogFormat::Human, LogFormat::Json] {
            let lines = logged(format, forge);
            assert_eq!(lines.len(), 6, "{lines:#?}");
            for line in lines {
                assert!(line.chars().all(is_printable) && line.contains("all is lost"), "{line:?}");
                assert_ne!(line.find("WARN"), None, "{line}");
                if format == LogFormat::Json {
                    serde_json::from_str::<Value>(&line).unwrap();
                }
            }
        }
    }

    #[test]
    fn an_event_is_one_line_of_its_message_and_its_fields() {
        let lines = logged(
            LogFormat::Human,
            || info!(model = %"m:1", error = "no\tsuch \"thing\"", count = 3, "it failed"),
        );
        let [line] = &lines[..] else { panic!("{lines:?}") };
        let (_, event) = line.split_once("Z  ").unwrap();
        assert_eq!(
            event,
            "INFO clipper::log::tests: it failed model=m:1 error=\"no\\tsuch \\\"thing\\\"\" count=3"
        );
    }
}
