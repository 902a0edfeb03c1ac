//! One part of the report: its words, tables, plots and commands.

use std::fmt::Write;

use anyhow::Context;
use clipper_benchmarks::report::Report;
use clipper_benchmarks::report::plot::{Bars, Plot};

use crate::generator::Measurement;
use crate::{Options, machine, report};

/// A part that comes about.
pub struct Section {
    name: &'static str,
    /// How it is to be measured.
    pub options: Options,
    text: String,
    commands: Vec<String>,
}

/// The reports of one measurement, of all rounds.
pub struct Rounds {
    /// What was measured.
    pub name: String,
    reports: Vec<Report>,
}

impl Rounds {
    /// The median of a number of the reports.
    pub fn median(&self, of: impl Fn(&Report) -> f64) -> f64 {
        median(self.reports.iter().map(of).collect())
    }

    /// Median of the answers a second.
    pub fn throughput(&self) -> f64 {
        self.median(|report| report.throughput_per_second)
    }

    /// By how many times there were more answers a second than of another: the median over the rounds, as a machine that is slow for a
    /// while is slow for both.
    pub fn to(&self, other: &Self) -> f64 {
        let pairs = self.reports.iter().zip(&other.reports);
        median(pairs.map(|(one, other)| one.throughput_per_second / other.throughput_per_second).collect())
    }

    /// Median of the median latencies, in milliseconds.
    pub fn p50(&self) -> f64 {
        self.median(|report| report.latency_ms.map_or(f64::NAN, |latency| latency.p50))
    }

    /// Median of the 99th percentiles, in milliseconds.
    pub fn p99(&self) -> f64 {
        self.median(|report| report.latency_ms.map_or(f64::NAN, |latency| latency.p99))
    }

    /// Median of the shares of good answers.
    pub fn good_share(&self) -> f64 {
        self.median(|report| report.good_share)
    }
}

/// The median of some numbers; of an even number of them, the mean of the middle two.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => values[count / 2],
        count => f64::midpoint(values[count / 2 - 1], values[count / 2]),
    }
}

impl Section {
    /// An empty one.
    pub fn new(name: &'static str, options: &Options) -> Self {
        Self { name, options: options.clone(), text: String::new(), commands: Vec::new() }
    }

    /// How long one round is, as a flag.
    pub fn duration(&self) -> &'static str {
        if self.options.quick { "--duration 1s --warm-up 200ms" } else { "--duration 1s --warm-up 300ms" }
    }

    /// How often each thing is measured.
    pub fn rounds(&self) -> usize {
        if self.options.quick { 1 } else { 7 }
    }

    /// Runs measurements in turns, so that what disturbs the machine disturbs all of them.
    pub fn compare(&mut self, measurements: &[Measurement]) -> anyhow::Result<Vec<Rounds>> {
        self.commands.extend(measurements.iter().map(|measurement| measurement.command.clone()));
        let mut rounds: Vec<Rounds> = measurements
            .iter()
            .map(|measurement| Rounds { name: measurement.name.clone(), reports: Vec::new() })
            .collect();
        for _ in 0..self.rounds() {
            for (measurement, rounds) in measurements.iter().zip(&mut rounds) {
                let report = measurement.run().with_context(|| measurement.name.clone())?;
                eprintln!("{}: {:.0}/s", measurement.name, report.throughput_per_second);
                rounds.reports.push(report);
            }
        }
        Ok(rounds)
    }

    /// Notes commands that led here.
    pub fn commands(&mut self, commands: &[String]) {
        self.commands.extend_from_slice(commands);
    }

    /// A paragraph.
    pub fn say(&mut self, words: &str) {
        self.text.push_str(words);
        self.text.push_str("\n\n");
    }

    /// A table.
    pub fn table(&mut self, head: &[&str], rows: &[Vec<String>]) {
        let _ = writeln!(self.text, "| {} |\n|{}", head.join(" | "), "---|".repeat(head.len()));
        for row in rows {
            let _ = writeln!(self.text, "| {} |", row.join(" | "));
        }
        self.text.push('\n');
    }

    /// A plot with curves.
    pub fn plot(&mut self, file: &str, plot: &Plot) -> anyhow::Result<()> {
        plot.write(&self.picture(file, &plot.title))?;
        Ok(())
    }

    /// A plot with bars.
    pub fn bars(&mut self, file: &str, bars: &Bars) -> anyhow::Result<()> {
        bars.write(&self.picture(file, &bars.title))?;
        Ok(())
    }

    fn picture(&mut self, file: &str, title: &str) -> std::path::PathBuf {
        let file = format!("{file}.svg");
        self.say(&format!("![{title}]({file})"));
        self.options.output.join(file)
    }

    /// Writes the part to a file of its own.
    pub fn write(self) -> anyhow::Result<()> {
        let quick = if self.options.quick {
            " **Measured with `--quick`: each number once, for a second.**"
        } else {
            ""
        };
        let text = format!(
            "{}Measured {}.{quick} Repeat with `make bench ARGS='--only {}'`, or step by step:\n\n```sh\n{}\n```\n",
            self.text,
            machine::describe(),
            self.name,
            self.commands.join("\n")
        );
        let file = report::part(&self.options.output, self.name);
        std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_in_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(Vec::new()).is_nan());
    }
}
