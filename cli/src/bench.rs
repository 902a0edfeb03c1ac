//! `clipper bench`: the load generator's flags, and what they come to.
//!
//! The settings file is not read for them: what a measurement does is told by its command alone.

use std::io::Write;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use clipper_benchmarks::load::inputs::Pattern;
use clipper_benchmarks::load::{self, Arrivals, InputKind, Inputs, Pace, Plan, Shape, Target, Variety};
use clipper_benchmarks::report::progress::Progress;
use clipper_benchmarks::report::{Report, plot, table};
use clipper_benchmarks::search::{self, Search};
use clipper_frontend::Query;
use clipper_rpc::input::InputType;
use serde::Serialize;

use crate::signals::Shutdown;

const EXAMPLES: &str = "\
Examples:
  clipper bench http://127.0.0.1:1337/hello/predict --unique
      as fast as 64 connections go, each request another input (a closed loop)
  clipper bench http://127.0.0.1:1337/hello/predict --unique --rate 5000 --plot latency.svg
      5000 requests a second at random moments, as from many users (an open loop)
  clipper bench http://127.0.0.1:1337/hello/predict --unique --find-rate --objective 100ms --duration 3s --connections 512
      the highest rate at which 99 % of the answers are the model's and come within 100 ms
  clipper bench http://10.0.0.2:8080/v1/models/m:predict --body '{\"instances\": [{input}]}' --input-length 784
      any other server

A latency of an open loop counts from when the request was meant to be sent, however late it could be: a server's stall is seen by all
requests that it delays. A connection has one request at a time, so rates need rate x latency connections.
docs/bench.md describes every number of the result.";

/// Measures a prediction server.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES, after_help = "`clipper bench --help` shows examples.")]
pub struct BenchSettings {
    /// Send requests here, such as http://127.0.0.1:1337/hello/predict
    #[arg(value_name = "URL")]
    url: String,

    /// Send these many requests a second, whatever becomes of them (an open loop) [default: as fast as they are answered]
    #[arg(long, value_name = "NUMBER", value_parser = positive, help_heading = "Load")]
    rate: Option<f64>,
    /// How to spread the requests of an open loop
    #[arg(long, value_enum, default_value_t = Spread::Poisson, help_heading = "Load")]
    arrivals: Spread,
    /// Search for the highest rate at which --share of the answers are real and within --objective
    #[arg(long, help_heading = "Load")]
    find_rate: bool,
    /// An answer within this time is good
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "100ms", help_heading = "Load")]
    objective: Duration,
    /// The share of good answers that --find-rate demands
    #[arg(long, value_name = "FRACTION", value_parser = fraction, default_value = "0.99", help_heading = "Load")]
    share: f64,
    /// Keep these many connections, each with one request at a time
    #[arg(long, short, value_name = "NUMBER", default_value = "64", help_heading = "Load")]
    connections: NonZeroUsize,
    /// Send from these many threads
    #[arg(long, value_name = "NUMBER", default_value = "1", help_heading = "Load")]
    threads: NonZeroUsize,
    /// Measure for this long; with --find-rate each rate
    #[arg(long, short, value_name = "TIME", value_parser = duration, default_value = "10s", help_heading = "Load")]
    duration: Duration,
    /// Send for this long before anything counts
    #[arg(long, value_name = "TIME", value_parser = span, default_value = "500ms", help_heading = "Load")]
    warm_up: Duration,
    /// Give a request up after this time
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "10s", help_heading = "Load")]
    timeout: Duration,
    /// What random inputs and moments follow from
    #[arg(long, value_name = "NUMBER", default_value_t = 1, help_heading = "Load")]
    seed: u64,

    /// The type of made-up inputs: doubles, floats, ints, strings, bytes
    #[arg(long, value_name = "TYPE", default_value = "doubles", help_heading = "Requests")]
    input_type: InputKind,
    /// How many numbers, letters or bytes an input has
    #[arg(long, value_name = "NUMBER", default_value_t = 8, help_heading = "Requests")]
    input_length: usize,
    /// Send every request with another input, as no other run has
    #[arg(long, conflicts_with_all = ["distinct", "inputs_file"], help_heading = "Requests")]
    unique: bool,
    /// Send these many different inputs, over and over, in random order [default: 1]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..), help_heading = "Requests")]
    distinct: Option<u64>,
    /// Send the k-th of the distinct inputs with a probability proportional to k^-EXPONENT (Zipf)
    #[arg(long, value_name = "EXPONENT", value_parser = positive, requires = "distinct", help_heading = "Requests")]
    zipf: Option<f64>,
    /// Send the inputs of this file, one JSON value a line, in order, over and over
    #[arg(long, value_name = "FILE", conflicts_with = "distinct", help_heading = "Requests")]
    inputs_file: Option<PathBuf>,
    /// The body: {input} becomes an input (each another one), {id} a number that no other request of the run has
    /// [default: {"input": {input}} where the method has a body]
    #[arg(long, value_name = "TEMPLATE", help_heading = "Requests")]
    body: Option<String>,
    /// The method
    #[arg(long, default_value = "POST", value_parser = method, help_heading = "Requests")]
    method: String,
    /// A further header, such as 'Authorization: Bearer x'; can be repeated
    #[arg(long, value_name = "NAME: VALUE", value_parser = header, help_heading = "Requests")]
    header: Vec<String>,

    /// Write the result as JSON here
    #[arg(long, value_name = "FILE", help_heading = "Results")]
    json: Option<PathBuf>,
    /// Write a plot as SVG here: the latency over time, or with --find-rate over the rate
    #[arg(long, value_name = "FILE", help_heading = "Results")]
    plot: Option<PathBuf>,
    /// Write the distribution of latencies here, as text that HdrHistogram's plotters read
    #[arg(long, value_name = "FILE", help_heading = "Results")]
    hdr: Option<PathBuf>,
}

/// How the requests of an open loop are spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Spread {
    /// Independent of each other, as from many users.
    Poisson,
    /// At equal distances.
    Constant,
}

impl From<Spread> for Arrivals {
    fn from(spread: Spread) -> Self {
        match spread {
            Spread::Poisson => Self::Poisson,
            Spread::Constant => Self::Constant,
        }
    }
}

/// Measures, and prints and writes what came of it. A signal ends the measurement early.
///
/// # Errors
/// If there is nothing to measure, or a result cannot be written.
pub async fn run(settings: BenchSettings, shutdown: Shutdown) -> anyhow::Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    let stopping = Arc::clone(&stop);
    let watch = actix_rt::spawn(async move {
        shutdown.asked().await;
        stopping.store(true, Ordering::Relaxed);
    });
    let outcome = tokio::task::spawn_blocking(move || settings.measure(&stop)).await;
    watch.abort();
    outcome.context("the measurement broke off")?
}

impl BenchSettings {
    fn measure(&self, stop: &Arc<AtomicBool>) -> anyhow::Result<()> {
        let plan = self.plan()?;
        if self.find_rate {
            let search = self.find_rate(&plan, stop)?;
            print(&table::of_search(&search))?;
            let best = search.best().map(|round| &round.report);
            self.write(&search, best, || plot::of_search(&search))
        } else {
            let report = one_run(&plan, stop)?;
            print(&table::of_report(&report))?;
            self.write(&report, Some(&report), || plot::of_report(&report))
        }
    }

    /// Begins near what a closed loop comes to.
    fn find_rate(&self, plan: &Plan, stop: &Arc<AtomicBool>) -> anyhow::Result<Search> {
        let first = match self.rate {
            Some(rate) => rate,
            None => (one_run(plan, stop)?.throughput_per_second / 2.0).max(1.0),
        };
        search::find_rate(first, self.share, |rate| {
            if stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let pace = Pace::Open { rate, arrivals: self.arrivals.into() };
            one_run(&Plan { pace, ..plan.clone() }, stop).map(Some)
        })
    }

    fn plan(&self) -> anyhow::Result<Plan> {
        let target = Target::parse(&self.url)?;
        if self.threads > self.connections {
            bail!("--threads {}: each needs a connection, and there are {}", self.threads, self.connections);
        }
        let shape = self.shape(&target)?;
        let pace = match self.rate {
            Some(rate) if !self.find_rate => Pace::Open { rate, arrivals: self.arrivals.into() },
            _ => Pace::Closed,
        };
        Ok(Plan {
            target,
            shape,
            pace,
            connections: self.connections.get(),
            threads: self.threads.get(),
            warm_up: self.warm_up,
            duration: self.duration,
            timeout: self.timeout,
            objective: self.objective,
            seed: self.seed,
        })
    }

    fn shape(&self, target: &Target) -> anyhow::Result<Shape> {
        let (inputs, variety) = match &self.inputs_file {
            Some(file) => (Inputs::Listed(read_inputs(file)?), Variety::InOrder),
            None => {
                let pattern = Pattern::new(self.input_type, self.input_length, self.seed);
                let variety = match (self.unique, self.distinct.unwrap_or(1), self.zipf) {
                    (true, ..) => Variety::Unique,
                    (false, distinct, None) => Variety::Distinct(distinct),
                    (false, distinct, Some(exponent)) => Variety::Zipf { distinct, exponent },
                };
                let wanted = if self.unique { 2 } else { self.distinct.unwrap_or(1) };
                if pattern.capacity() < wanted {
                    bail!(
                        "--input-length {}: inputs that short are not as different as asked for",
                        self.input_length
                    );
                }
                (Inputs::Pattern(pattern), variety)
            }
        };
        let has_body = !["GET", "HEAD"].contains(&self.method.as_str());
        let body = match &self.body {
            Some(body) => body.clone(),
            None if has_body => "{\"input\": {input}}".to_owned(),
            None => String::new(),
        };
        let mut head = format!("{} {} HTTP/1.1\r\nhost: {}\r\n", self.method, target.path, target.host);
        let typed = self.header.iter().any(|header| header.to_lowercase().starts_with("content-type:"));
        if !body.is_empty() && !typed {
            head.push_str("content-type: application/json\r\n");
        }
        self.header.iter().for_each(|header| head.push_str(&format!("{header}\r\n")));
        let shape = Shape { head, body, inputs, variety };
        if (self.unique || self.distinct.is_some() || self.inputs_file.is_some()) && !shape.has_inputs() {
            bail!("the inputs go nowhere: the body has no {{input}}");
        }
        Ok(shape)
    }

    fn write(
        &self,
        result: &impl Serialize,
        report: Option<&Report>,
        plot: impl FnOnce() -> plot::Plot,
    ) -> anyhow::Result<()> {
        if let Some(file) = &self.json {
            let text = serde_json::to_string_pretty(result)?;
            std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
        }
        if let Some(file) = &self.plot {
            plot().write(file)?;
        }
        if let (Some(file), Some(report)) = (&self.hdr, report) {
            std::fs::write(file, report.hdr()).with_context(|| format!("cannot write {}", file.display()))?;
        }
        Ok(())
    }
}

fn one_run(plan: &Plan, stop: &Arc<AtomicBool>) -> anyhow::Result<Report> {
    let what = match plan.pace {
        Pace::Closed => "closed loop".to_owned(),
        Pace::Open { rate, .. } => format!("{rate:.0}/s"),
    };
    let progress = Progress::new(plan.duration, what);
    Ok(load::run(plan, Arc::clone(stop), &mut |index, total: &_| progress.second(index, total))?)
}

fn print(text: &str) -> anyhow::Result<()> {
    writeln!(std::io::stdout(), "{text}").context("cannot print the result")
}

/// The lines of a file. Each must be JSON, or a list of numbers as Clipper reads it: `NaN` and the infinities may be among them.
fn read_inputs(file: &Path) -> anyhow::Result<Vec<String>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut inputs = Vec::new();
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let numbers = || Query::parse(format!("{{\"input\":{line}}}").as_bytes(), InputType::Doubles, 1);
        let json = serde_json::from_str::<serde::de::IgnoredAny>(line);
        json.or_else(|error| numbers().map(|_| serde::de::IgnoredAny).map_err(|_| error))
            .with_context(|| format!("{}, line {}: expected a JSON value", file.display(), number + 1))?;
        inputs.push(line.trim().to_owned());
    }
    if inputs.is_empty() {
        bail!("{} is empty; expected one JSON value a line", file.display());
    }
    Ok(inputs)
}

/// A time such as 2s, 1.5s, 100ms, 250us or 3m.
fn span(text: &str) -> Result<Duration, String> {
    let expected = || "expected a number with a unit (us, ms, s, m or h), such as 10s or 100ms".to_owned();
    let unit = text.find(|letter: char| letter.is_ascii_alphabetic()).ok_or_else(expected)?;
    let (number, unit) = text.split_at(unit);
    let seconds = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(expected()),
    };
    let number: f64 = number.trim().parse().map_err(|_| expected())?;
    Duration::try_from_secs_f64(number * seconds).map_err(|_| expected())
}

/// A time that is not none.
fn duration(text: &str) -> Result<Duration, String> {
    match span(text)? {
        Duration::ZERO => Err("expected more than none".to_owned()),
        duration => Ok(duration),
    }
}

fn positive(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "expected a number".to_owned())?;
    if number > 0.0 && number.is_finite() { Ok(number) } else { Err("expected more than 0".to_owned()) }
}

fn fraction(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(number) if (0.0..=1.0).contains(&number) => Ok(number),
        _ => Err("expected a fraction such as 0.99".to_owned()),
    }
}

fn method(text: &str) -> Result<String, String> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_uppercase()) {
        Ok(text.to_owned())
    } else {
        Err("expected a method such as POST or GET".to_owned())
    }
}

fn header(text: &str) -> Result<String, String> {
    let fits = text.split_once(':').is_some_and(|(name, _)| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    });
    if !fits || text.bytes().any(|byte| byte.is_ascii_control()) {
        return Err("expected a header such as 'Authorization: Bearer x'".to_owned());
    }
    if text.to_lowercase().starts_with("content-length:") {
        return Err("the length is computed from the body".to_owned());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Bench {
        #[command(flatten)]
        settings: BenchSettings,
    }

    fn settings(flags: &[&str]) -> Result<BenchSettings, String> {
        let arguments = ["bench", "http://127.0.0.1:1/p"].iter().chain(flags);
        Bench::try_parse_from(arguments).map(|bench| bench.settings).map_err(|error| error.to_string())
    }

    fn plan(flags: &[&str]) -> Result<Plan, String> {
        settings(flags)?.plan().map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn times_have_units() {
        assert_eq!(span("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(span("250us"), Ok(Duration::from_micros(250)));
        assert_eq!(span("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(span("0s"), Ok(Duration::ZERO));
        for text in ["10", "ten", "-1s", "1d", "s", ""] {
            assert!(span(text).unwrap_err().starts_with("expected a number with a unit"), "{text}");
        }
    }

    #[test]
    fn flags_come_to_a_plan() {
        let closed = plan(&["--unique", "--connections", "3"]).unwrap();
        assert_eq!((closed.pace, closed.connections), (Pace::Closed, 3));
        assert_eq!(
            (closed.shape.body.as_str(), closed.shape.variety),
            ("{\"input\": {input}}", Variety::Unique)
        );
        assert!(closed.shape.head.starts_with("POST /p HTTP/1.1\r\nhost: 127.0.0.1:1\r\n"));
        let open = plan(&["--rate", "5", "--arrivals", "constant"]).unwrap();
        assert_eq!(open.pace, Pace::Open { rate: 5.0, arrivals: Arrivals::Constant });
        let get = plan(&["--method", "GET"]).unwrap();
        assert_eq!((get.shape.body.as_str(), get.shape.head.contains("content-type")), ("", false));
    }

    #[test]
    fn flags_that_make_no_sense_are_refused_with_the_reason() {
        for (flags, reason) in [
            (&["--unique", "--distinct", "3"][..], "cannot be used with"),
            (&["--zipf", "1.1"], "--distinct"),
            (&["--rate", "0"], "expected more than 0"),
            (&["--duration", "0s"], "expected more than none"),
            (&["--input-type", "tensors"], "expected doubles, floats"),
            (&["--header", "x"], "expected a header"),
            (&["--header", "a: b\r\nc: d"], "expected a header"),
            (&["--header", "Content-Length: 3"], "computed from the body"),
            (&["--unique", "--input-length", "0"], "--input-length 0"),
            (&["--distinct", "5", "--body", "x"], "the body has no {input}"),
            (&["--threads", "65"], "each needs a connection"),
            (&["--inputs-file", "/nowhere"], "cannot read /nowhere"),
        ] {
            let error = plan(flags).unwrap_err();
            assert!(error.contains(reason), "{flags:?}: {error}");
        }
    }

    #[test]
    fn a_file_of_inputs_is_checked_line_by_line() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("inputs");
        std::fs::write(&file, "[1, 2]\n\n\"x\"\n").unwrap();
        assert_eq!(read_inputs(&file).unwrap(), ["[1, 2]", "\"x\""]);
        std::fs::write(&file, "\u{feff}[NaN, -Infinity, null]\n\"x\"\n").unwrap();
        assert_eq!(read_inputs(&file).unwrap(), ["[NaN, -Infinity, null]", "\"x\""]);
        std::fs::write(&file, "[1, 2]\n[3,\n").unwrap();
        assert!(format!("{:#}", read_inputs(&file).unwrap_err()).contains("line 2: expected a JSON value"));
        std::fs::write(&file, "\n").unwrap();
        assert!(read_inputs(&file).unwrap_err().to_string().contains("is empty"));
    }
}
