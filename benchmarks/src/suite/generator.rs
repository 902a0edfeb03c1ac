//! `clipper bench`, run in a process of its own, as a user runs it.

use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use clipper_benchmarks::report::Report;
use clipper_benchmarks::search::Search;
use serde::de::DeserializeOwned;

use crate::cluster::Place;
use crate::process::program;

/// One measurement that can be repeated.
#[derive(Debug, Clone)]
pub struct Measurement {
    /// What the report calls it.
    pub name: String,
    url: String,
    /// The command that repeats it.
    pub command: String,
    flags: Vec<String>,
}

impl Measurement {
    /// Of a path of a server, with flags of `clipper bench`, as one would type them.
    pub fn new(name: impl Into<String>, place: &Place, path: &str, flags: &str) -> Self {
        let (url, documented) = place.at(path);
        let flags: Vec<String> = flags.split_whitespace().map(str::to_owned).collect();
        let command = format!("clipper bench {documented} {}", flags.join(" "));
        Self { name: name.into(), url, command, flags }
    }

    /// Runs it.
    pub fn run(&self) -> anyhow::Result<Report> {
        self.start()?.finish()
    }

    /// Runs it, for a `--find-rate` among the flags.
    pub fn search(&self) -> anyhow::Result<Search> {
        self.start()?.finish()
    }

    /// Starts it, so that others run at the same time.
    pub fn start(&self) -> anyhow::Result<Started> {
        let file = tempfile::NamedTempFile::new()?;
        let mut command = Command::new(program("clipper")?);
        // A settings file of whoever measures is not for this.
        command.current_dir(std::env::temp_dir());
        command.arg("bench").arg(&self.url).args(&self.flags).arg("--json").arg(file.path());
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        Ok(Started { child, file, command: self.command.clone() })
    }
}

/// A measurement that runs.
pub struct Started {
    child: std::process::Child,
    file: tempfile::NamedTempFile,
    command: String,
}

impl Started {
    /// Waits for its result.
    pub fn finish<T: DeserializeOwned>(self) -> anyhow::Result<T> {
        let output = self.child.wait_with_output()?;
        if !output.status.success() {
            bail!("{}: {}", self.command, String::from_utf8_lossy(&output.stderr).trim());
        }
        let text = std::fs::read_to_string(self.file.path())?;
        serde_json::from_str(&text).with_context(|| format!("the result of {}", self.command))
    }
}
