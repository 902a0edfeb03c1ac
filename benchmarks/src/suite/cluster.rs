//! A cluster to be measured, the bare server beside it, and what operators say to it.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::process::{Running, program};

/// How long a cluster may take to start, or a deployment to be ready.
const STARTING: Duration = Duration::from_secs(120);

/// Where commands of the report say that a cluster listens.
const DOCUMENTED_QUERY: &str = "http://127.0.0.1:1337";
const DOCUMENTED_SECOND: &str = "http://127.0.0.1:1347";
const DOCUMENTED_ADMIN: &str = "127.0.0.1:1338";
const DOCUMENTED_BARE: &str = "http://127.0.0.1:8080";

#[derive(Debug, Deserialize)]
struct Addresses {
    query: String,
    admin: String,
    rpc: String,
}

/// A server, by where it is and where the report says that it is.
#[derive(Debug, Clone)]
pub struct Place {
    url: String,
    documented: &'static str,
}

impl Place {
    /// The URL of a path, to use and to print.
    pub fn at(&self, path: &str) -> (String, String) {
        (format!("{}/{path}", self.url), format!("{}/{path}", self.documented))
    }
}

/// A cluster in one process.
pub struct Cluster {
    server: Running,
    runtime: Runtime,
    http: reqwest::Client,
    addresses: Addresses,
    /// What was asked of it, as a user would.
    transcript: Vec<String>,
    directory: TempDir,
}

impl Cluster {
    /// Starts one, with an interpreter for Python models and further flags.
    pub fn start(python: &Path, flags: &[&str]) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let data = directory.path().join("data");
        let mut command = Command::new(program("clipper")?);
        command.arg("start").arg("--data-dir").arg(&data).arg("--python").arg(python).args(flags);
        for address in ["--query-address", "--admin-address", "--rpc-address"] {
            command.args([address, "127.0.0.1:0"]);
        }
        // A settings file of whoever measures is not for this cluster.
        command.current_dir(directory.path());
        let mut server = Running::start(command, &directory.path().join("log"))?;
        let file = data.join("addresses.json");
        let addresses: Addresses = server.until("the cluster listens", STARTING, || {
            serde_json::from_str(&std::fs::read_to_string(&file).ok()?).ok()
        })?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        // A connection kept open would be closed by the server while nobody polls the runtime.
        let http = reqwest::Client::builder().pool_max_idle_per_host(0).timeout(STARTING).build()?;
        let ready = format!("http://{}/readyz", addresses.query);
        server.until("the frontend is ready", STARTING, || {
            let answer = runtime.block_on(async { http.get(&ready).send().await }).ok()?;
            answer.status().is_success().then_some(())
        })?;
        let started = format!("clipper start {}", flags.join(" "));
        let transcript = vec![started.trim().to_owned()];
        Ok(Self { server, runtime, http, addresses, transcript, directory })
    }

    /// Where it answers applications.
    pub fn query(&self) -> Place {
        Place { url: format!("http://{}", self.addresses.query), documented: DOCUMENTED_QUERY }
    }

    /// The process.
    pub fn server(&self) -> &Running {
        &self.server
    }

    /// What was asked of it, as commands.
    pub fn transcript(&self) -> &[String] {
        &self.transcript
    }

    /// Calls management, and writes the call down.
    pub fn must(&mut self, path: &str, body: &Value) -> anyhow::Result<()> {
        let documented = body.to_string().replace(&folder_of_examples()?, "target/release/examples");
        self.transcript.push(format!(
            "curl -H 'Content-Type: application/json' -d '{documented}' {DOCUMENTED_ADMIN}/admin/{path}"
        ));
        self.must_silently(path, body)
    }

    /// Calls management for what is one of many.
    pub fn must_silently(&self, path: &str, body: &Value) -> anyhow::Result<()> {
        let url = format!("http://{}/admin/{path}", self.addresses.admin);
        let (status, text) = self.runtime.block_on(async {
            let answer = self.http.post(&url).json(body).send().await?;
            Ok::<_, reqwest::Error>((answer.status(), answer.text().await?))
        })?;
        if !status.is_success() {
            bail!("{path} {body}: {status} {text}");
        }
        Ok(())
    }

    /// Says in the transcript what was done besides.
    pub fn note(&mut self, words: impl Into<String>) {
        self.transcript.push(format!("# {}", words.into()));
    }

    /// Deploys a Rust example as version 1 of a model of doubles; `settings` are further fields.
    pub fn deploy(&mut self, model: &str, command: &[&str], settings: Value) -> anyhow::Result<()> {
        let example = program(&format!("examples/{}", command[0]))?;
        let mut words = vec![example.display().to_string()];
        words.extend(command[1..].iter().map(|&word| word.to_owned()));
        let body =
            json!({"model_name": model, "model_version": "1", "input_type": "doubles", "command": words});
        self.must("deploy_model", &merged(body, settings))
    }

    /// Adds an application of doubles, linked to a model; `settings` are further fields.
    pub fn add_app(
        &mut self,
        name: &str,
        model: &str,
        objective_ms: u64,
        settings: Value,
    ) -> anyhow::Result<()> {
        self.must("add_app", &app(name, model, objective_ms, settings))
    }

    /// Adds an application of doubles over several models that answer labels, with a selection policy.
    pub fn add_selecting_app(
        &mut self,
        name: &str,
        models: &[String],
        objective_ms: u64,
        policy: &str,
    ) -> anyhow::Result<()> {
        let settings = json!({"linked_models": models, "selection_policy": policy, "output_kind": "labels"});
        self.must("add_app", &merged(app(name, "", objective_ms, json!({})), settings))
    }

    /// Starts one more frontend; where it answers.
    pub fn join_frontend(&mut self) -> anyhow::Result<(Running, Place)> {
        let management = format!("http://{}", self.addresses.admin);
        let mut command = Command::new(program("clipper")?);
        command.args(["frontend", "--management", &management]).current_dir(self.directory.path());
        command.args(["--query-address", "127.0.0.1:0", "--rpc-address", "127.0.0.1:0"]);
        let log = self.directory.path().join("frontend.log");
        let mut running = Running::start(command, &log)?;
        let url = running.until("the frontend listens", STARTING, || {
            let printed = std::fs::read_to_string(&log).ok()?;
            printed.lines().find_map(|line| line.strip_prefix("query ").map(str::to_owned))
        })?;
        let ready = format!("{url}/readyz");
        running.until("the frontend is ready", STARTING, || {
            let answer = self.runtime.block_on(async { self.http.get(&ready).send().await }).ok()?;
            answer.status().is_success().then_some(())
        })?;
        self.transcript.push(format!("clipper frontend --management http://{DOCUMENTED_ADMIN} --query-address 127.0.0.1:1347 --rpc-address 127.0.0.1:7010 &"));
        Ok((running, Place { url, documented: DOCUMENTED_SECOND }))
    }

    /// What management answers.
    pub fn read(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let url = format!("http://{}/admin/{path}", self.addresses.admin);
        Ok(self.runtime.block_on(async {
            self.http.post(&url).json(body).send().await?.error_for_status()?.json().await
        })?)
    }

    /// Starts one more container of a model by hand, beside those that are deployed.
    pub fn join(&mut self, model: &str, command: &[&str]) -> anyhow::Result<Running> {
        let (host, port) = self.addresses.rpc.rsplit_once(':').context("an address has a port")?;
        let mut container = Command::new(program(&format!("examples/{}", command[0]))?);
        container.args(&command[1..]).current_dir(self.directory.path());
        let variables = [
            ("CLIPPER_MODEL_NAME", model),
            ("CLIPPER_MODEL_VERSION", "1"),
            ("CLIPPER_INPUT_TYPE", "doubles"),
            ("CLIPPER_IP", host),
            ("CLIPPER_PORT", port),
        ];
        container.envs(variables);
        self.transcript.push(format!(
            "CLIPPER_MODEL_NAME={model} CLIPPER_MODEL_VERSION=1 CLIPPER_INPUT_TYPE=doubles target/release/examples/{} &",
            command.join(" ")
        ));
        let before = self.containers()?;
        let mut running = Running::start(container, &self.directory.path().join(format!("{model}.log")))?;
        running.until("the container is connected", STARTING, || {
            (self.containers().ok()? > before).then_some(())
        })?;
        Ok(running)
    }

    /// How many containers are connected.
    fn containers(&self) -> anyhow::Result<usize> {
        let url = format!("http://{}/admin/get_all_containers", self.addresses.admin);
        let body = json!({"verbose": false});
        let names: Vec<String> =
            self.runtime.block_on(async { self.http.post(&url).json(&body).send().await?.json().await })?;
        Ok(names.len())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.server.has_ended() {
            let log = std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
            eprintln!("the cluster has ended by itself; it logged:\n{log}");
        }
    }
}

/// The body that adds an application of doubles.
pub fn app(name: &str, model: &str, objective_ms: u64, settings: Value) -> Value {
    let body = json!({
        "name": name, "input_type": "doubles", "default_output": "-1.0",
        "latency_slo_micros": objective_ms * 1000, "linked_models": [model],
    });
    merged(body, settings)
}

fn merged(mut body: Value, settings: Value) -> Value {
    if let (Some(body), Value::Object(settings)) = (body.as_object_mut(), settings) {
        body.extend(settings);
    }
    body
}

fn folder_of_examples() -> anyhow::Result<String> {
    Ok(program("clipper")?.with_file_name("examples").display().to_string())
}

/// The bare server.
pub struct Bare {
    place: Place,
    _server: Running,
    _directory: TempDir,
}

impl Bare {
    /// Starts it with one HTTP worker for each core.
    pub fn start() -> anyhow::Result<Self> {
        Self::start_with(None)
    }

    /// Starts it with so many HTTP workers, or with one for each core.
    pub fn start_with(workers: Option<usize>) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let log = directory.path().join("log");
        let mut command = Command::new(program("bare")?);
        command.args(workers.map(|workers| workers.to_string()));
        let mut server = Running::start(command, &log)?;
        let url = server.until("the bare server listens", STARTING, || {
            let printed = std::fs::read_to_string(&log).ok()?;
            let (line, _) = printed.split_once('\n')?;
            line.strip_prefix("query ").map(str::to_owned)
        })?;
        Ok(Self { place: Place { url, documented: DOCUMENTED_BARE }, _server: server, _directory: directory })
    }

    /// Where it answers.
    pub fn query(&self) -> Place {
        self.place.clone()
    }
}
