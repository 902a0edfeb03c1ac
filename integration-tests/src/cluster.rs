//! A cluster of its own for one test, and what is asked of it.
//!
//! Invariant: when it is dropped, none of its processes is left, the replicas that management started included.

use std::fs::Permissions;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::answer::Answer;
use crate::program;
use crate::server::{Addresses, Launch, Server};
use crate::survivors::marked;
use crate::wait::{LIMIT, eventually};

/// A running cluster: one `clipper start`, or one `clipper management` with several `clipper frontend`.
pub struct Cluster {
    /// `clipper start` or `clipper management`.
    pub main: Server,
    /// Each `clipper frontend`.
    pub frontends: Vec<Server>,
    template: Launch,
    http: reqwest::Client,
    directory: TempDir,
}

impl Cluster {
    /// Starts a cluster in one process.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts a cluster in one process with further flags.
    pub async fn start_with(flags: &[&str]) -> Self {
        let cluster = Self::launch("start", flags, &[], own_host()).await;
        cluster.ready(0).await;
        cluster
    }

    /// Starts a cluster in one process that listens for containers at every address of this host.
    pub async fn start_beyond_loopback(flags: &[&str]) -> Self {
        Self::start_beyond_loopback_with(flags, &[]).await
    }

    /// Likewise, with further variables.
    pub async fn start_beyond_loopback_with(flags: &[&str], variables: &[(&str, &str)]) -> Self {
        let cluster = Self::launch("start", flags, variables, Ipv4Addr::UNSPECIFIED.into()).await;
        cluster.ready(0).await;
        cluster
    }

    /// Starts management and as many frontends, each in a process of its own.
    pub async fn split(frontends: usize) -> Self {
        Self::split_at(frontends, &[], &[], own_host()).await
    }

    /// Starts management and as many frontends, with further flags of management and of each frontend.
    pub async fn split_with(frontends: usize, flags: &[&str], frontend_flags: &[&str]) -> Self {
        Self::split_at(frontends, flags, frontend_flags, own_host()).await
    }

    /// Likewise, with frontends that listen for containers at every address of this host.
    pub async fn split_beyond_loopback(frontends: usize) -> Self {
        Self::split_at(frontends, &[], &[], Ipv4Addr::UNSPECIFIED.into()).await
    }

    async fn split_at(frontends: usize, flags: &[&str], frontend_flags: &[&str], rpc_host: IpAddr) -> Self {
        let mut cluster = Self::launch("management", flags, &[], rpc_host).await;
        for index in 0..frontends {
            cluster.start_frontend(frontend_flags).await;
            cluster.ready(index).await;
        }
        cluster
    }

    async fn launch(role: &str, flags: &[&str], variables: &[(&str, &str)], rpc_host: IpAddr) -> Self {
        // Also where the umask is generous: what every user can replace is refused.
        let directory = tempfile::Builder::new().permissions(Permissions::from_mode(0o700)).tempdir();
        let directory = directory.expect("there is room for a temporary directory");
        let any = Some(SocketAddr::new(own_host(), 0));
        let rpc = Some(SocketAddr::new(rpc_host, 0));
        let is_frontend = role == "start";
        let template = Launch {
            arguments: Vec::new(),
            environment: Vec::new(),
            addresses: Addresses { query: any, admin: None, rpc },
            directory: directory.path().to_owned(),
            name: String::new(),
            mark: directory.path().display().to_string(),
        };
        let data_dir = directory.path().join("data").display().to_string();
        // A cluster that runs no Python model needs no interpreter.
        let python = program::named_python().unwrap_or_else(|| "python3".into()).display().to_string();
        let settings = [role, "--data-dir", &data_dir, "--python", &python];
        let launch = Launch {
            arguments: settings.iter().chain(flags).map(|&text| text.to_owned()).collect(),
            environment: variables.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect(),
            addresses: Addresses {
                query: any.filter(|_| is_frontend),
                admin: any,
                rpc: rpc.filter(|_| is_frontend),
            },
            name: role.to_owned(),
            ..template.clone()
        };
        let http = reqwest::Client::builder().pool_max_idle_per_host(0).timeout(2 * LIMIT).build();
        Self {
            main: Server::start(launch).await,
            frontends: Vec::new(),
            template,
            http: http.expect("a client without TLS needs nothing"),
            directory,
        }
    }

    /// Starts one more frontend, and waits until it serves.
    pub async fn add_frontend(&mut self) {
        self.start_frontend(&[]).await;
        self.ready(self.frontends.len() - 1).await;
    }

    /// Starts one more frontend with further flags, and waits until it listens. It may be unable to serve.
    pub async fn start_frontend(&mut self, flags: &[&str]) {
        let management = self.admin_url();
        let arguments = ["frontend", "--management", &management];
        let launch = Launch {
            arguments: arguments.iter().chain(flags).map(|&text| text.to_owned()).collect(),
            name: format!("frontend-{}", self.frontends.len()),
            ..self.template.clone()
        };
        self.frontends.push(Server::start(launch).await);
    }

    /// Waits until a frontend says that it serves.
    pub async fn ready(&self, frontend: usize) {
        let url = format!("{}/readyz", self.query_url(frontend));
        eventually("a frontend is ready", async || {
            self.http.get(&url).send().await.is_ok_and(|response| response.status() == 200)
        })
        .await;
    }

    /// The data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// A temporary directory that is gone with the cluster.
    pub fn directory(&self) -> PathBuf {
        self.directory.path().to_owned()
    }

    /// The process that holds a frontend.
    pub fn frontend(&self, index: usize) -> &Server {
        self.frontends.get(index).unwrap_or(&self.main)
    }

    /// Where applications reach a frontend.
    pub fn query_url(&self, frontend: usize) -> String {
        url(self.frontend(frontend).addresses().query)
    }

    /// Where applications reach a frontend, as `host:port`.
    pub fn query_address(&self, frontend: usize) -> String {
        self.query_url(frontend).trim_start_matches("http://").to_owned()
    }

    /// Where operators reach management.
    pub fn admin_url(&self) -> String {
        url(self.main.addresses().admin)
    }

    /// Where containers of this host reach a frontend.
    pub fn rpc_address(&self, frontend: usize) -> SocketAddr {
        let bound = self.frontend(frontend).addresses().rpc.expect("a frontend listens for containers");
        let host = if bound.ip().is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { bound.ip() };
        SocketAddr::new(host, bound.port())
    }

    /// The processes that management has started: every one but the servers, replicas with their guards.
    pub fn offspring(&self) -> Vec<(nix::unistd::Pid, String)> {
        let servers = ["clipper start", "clipper management", "clipper frontend"];
        let mut found = marked(&self.template.mark);
        found.retain(|(_, command)| !servers.iter().any(|server| command.contains(server)));
        found
    }

    /// Calls management: `path` is what follows `/admin/`.
    pub async fn admin(&self, path: &str, body: Value) -> Answer {
        self.post(format!("{}/admin/{path}", self.admin_url()), body.to_string()).await
    }

    /// Calls management, which must do what it is asked.
    pub async fn must(&self, path: &str, body: Value) -> String {
        self.admin(path, body).await.success()
    }

    /// Calls management, which must answer JSON.
    pub async fn read(&self, path: &str, body: Value) -> Value {
        let answer = self.admin(path, body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    /// Sends a frontend a prediction request, whatever comes of it.
    pub async fn ask(&self, frontend: usize, app: &str, body: impl ToString) -> Answer {
        self.post(format!("{}/{app}/predict", self.query_url(frontend)), body.to_string()).await
    }

    /// A prediction by the first frontend, which must answer 200.
    pub async fn predict(&self, app: &str, body: Value) -> Value {
        self.predict_at(0, app, body).await
    }

    /// A prediction by a frontend, which must answer 200.
    pub async fn predict_at(&self, frontend: usize, app: &str, body: Value) -> Value {
        let answer = self.ask(frontend, app, &body).await;
        assert_eq!(answer.status, 200, "{body}: {answer:?}");
        answer.json()
    }

    /// The value of one series of a frontend's metrics, if there is one.
    pub async fn metric(&self, frontend: usize, series: &str) -> Option<f64> {
        let url = format!("{}/metrics", self.query_url(frontend));
        let response = self.http.get(&url).send().await.unwrap_or_else(|error| panic!("{url}: {error:?}"));
        let text = response.text().await.unwrap_or_else(|error| panic!("{url}: {error:?}"));
        let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
        Some(value.parse().unwrap_or_else(|error| panic!("{error}: {series} {value}")))
    }

    /// Waits until a series of the first frontend's metrics has that value.
    pub async fn measures(&self, series: &str, value: f64) {
        eventually(&format!("{series} is {value}"), async || self.metric(0, series).await == Some(value))
            .await;
    }

    /// Waits until as many queries wait for version 1 of a model at the first frontend.
    pub async fn waiting(&self, model: &str, count: u32) {
        let series = format!("clipper_model_queue_depth{{model=\"{model}\",version=\"1\"}}");
        self.measures(&series, count.into()).await;
    }

    /// The client of this cluster's requests. It keeps no connection open.
    pub fn http(&self) -> &reqwest::Client {
        &self.http
    }

    async fn post(&self, url: String, body: String) -> Answer {
        let request = self.http.post(&url).header("content-type", "application/json").body(body);
        let response = request.send().await.unwrap_or_else(|error| panic!("{url}: {error:?}"));
        Answer::read(response).await.unwrap_or_else(|error| panic!("{url}: {error:?}"))
    }

    /// Registers an application with that objective, linked to a model of the same name if it is to be.
    pub async fn add_app(&self, name: &str, input_type: &str, objective: Duration, linked: bool) {
        let body = json!({
            "name": name, "input_type": input_type, "default_output": "\"default\"",
            "latency_slo_micros": u64::try_from(objective.as_micros()).expect("objectives are seconds"),
            "linked_models": if linked { vec![name] } else { vec![] },
        });
        self.must("add_app", body).await;
    }

    /// Registers version 1 of a model that is given batches of at most `size`, and an application as [`Cluster::serve`].
    pub async fn serve_batches_of(&self, size: u32, name: &str, input_type: &str, objective: Duration) {
        self.must(
            "add_model",
            json!({
                "model_name": name, "model_version": "1", "input_type": input_type, "cache": false,
                "batching": "fixed", "batch_size": size,
            }),
        )
        .await;
        self.add_app(name, input_type, objective, true).await;
    }

    /// Registers version 1 of a model, and an application of the same name that is linked to it. Nothing is cached.
    pub async fn serve(&self, name: &str, input_type: &str, objective: Duration) {
        self.add_model(name, "1", input_type).await;
        self.add_app(name, input_type, objective, true).await;
    }

    /// Registers a version of a model, which becomes its current one. Nothing is cached.
    pub async fn add_model(&self, name: &str, version: &str, input_type: &str) {
        let body =
            json!({"model_name": name, "model_version": version, "input_type": input_type, "cache": false});
        self.must("add_model", body).await;
    }

    /// Deploys a version of a model as the Rust example `sum` or `noop`. Nothing is cached.
    pub async fn deploy(&self, example: &str, name: &str, version: &str, input_type: &str, replicas: u32) {
        let body = json!({
            "model_name": name, "model_version": version, "input_type": input_type, "num_replicas": replicas,
            "command": [program::example(example)], "cache": false,
        });
        self.must("deploy_model", body).await;
    }

    /// The containers that management knows, as `model:version:replica`.
    pub async fn containers(&self) -> Vec<String> {
        let listed = self.read("get_all_containers", json!({"verbose": false})).await;
        serde_json::from_value(listed).expect("it is a list of names")
    }

    /// Waits until as many containers of `model:version` are connected.
    pub async fn connected(&self, model: &str, count: usize) {
        let prefix = format!("{model}:");
        eventually(&format!("{count} containers of {model} are connected"), async || {
            self.containers().await.iter().filter(|name| name.starts_with(&prefix)).count() == count
        })
        .await;
    }

    /// Waits until a frontend answers a request by a model's output; the answer.
    pub async fn served(&self, frontend: usize, app: &str, body: Value) -> Value {
        crate::eventually_some(&format!("frontend {frontend} serves {app}"), async || {
            let answer = self.ask(frontend, app, &body).await;
            let json = (answer.status == 200).then(|| answer.json())?;
            (json["default"] == false).then_some(json)
        })
        .await
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.main.kill();
        self.frontends.iter_mut().for_each(Server::kill);
        let deadline = Instant::now() + LIMIT;
        let mut left = marked(&self.template.mark);
        while !left.is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
            left = marked(&self.template.mark);
        }
        for (pid, _) in &left {
            // It may end at this very moment.
            let _ = kill(*pid, Signal::SIGKILL);
        }
        if std::thread::panicking() {
            eprintln!("--- outlived the cluster: {left:?}");
        } else {
            assert!(left.is_empty(), "these processes outlived the cluster: {left:?}");
        }
    }
}

fn url(address: Option<SocketAddr>) -> String {
    format!("http://{}", address.expect("it listens there"))
}

/// A loopback address that no other test of this machine uses, so that ports can be bound again without a race.
fn own_host() -> IpAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, high | 0x80, low, NEXT.fetch_add(1, Ordering::Relaxed)).into()
}
