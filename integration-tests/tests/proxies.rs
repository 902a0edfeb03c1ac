//! A cluster behind nginx, which keeps connections to its upstream servers open and reuses them.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use clipper_integration_tests::{Cluster, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use tempfile::TempDir;
use tokio::time::sleep;

const OBJECTIVE: Duration = Duration::from_secs(20);

/// Longer than any time for which servers commonly keep connections open by default and are not behind proxies.
const IDLE: Duration = Duration::from_secs(7);

/// An nginx of whoever runs the tests, with a folder and a port of its own.
struct Nginx {
    process: Child,
    url: String,
    directory: TempDir,
}

impl Nginx {
    /// Starts nginx in front of frontends, and waits until it answers for them.
    async fn start(frontends: &[SocketAddr]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let servers: String = frontends.iter().map(|frontend| format!("server {frontend};")).collect();
        let configuration = format!(
            "daemon off; master_process off; pid nginx.pid; error_log error.log;
             events {{ worker_connections 1024; }}
             http {{
                 access_log off;
                 client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
                 uwsgi_temp_path uwsgi; scgi_temp_path scgi;
                 upstream clipper {{ {servers} keepalive 64; keepalive_timeout 60s; }}
                 server {{
                     listen {address};
                     location / {{
                         proxy_pass http://clipper;
                         proxy_http_version 1.1;
                         proxy_set_header Connection \"\";
                         proxy_set_header Host $host;
                     }}
                 }}
             }}"
        );
        fs::write(directory.path().join("nginx.conf"), configuration).unwrap();
        // Debian has it where only administrators look for programs.
        let path = format!("{}:/usr/sbin:/usr/local/sbin", std::env::var("PATH").unwrap());
        let process = Command::new("nginx")
            .args(["-c", "nginx.conf", "-e", "error.log", "-p"])
            .arg(directory.path())
            .env("PATH", path)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("these tests need nginx: apt-get install nginx");
        let nginx = Self { process, url: format!("http://{address}"), directory };
        eventually("nginx is there", async || {
            reqwest::get(format!("{}/readyz", nginx.url)).await.is_ok_and(|answer| answer.status() == 200)
        })
        .await;
        nginx
    }

    fn errors(&self) -> String {
        fs::read_to_string(self.directory.path().join("error.log")).unwrap_or_default()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- nginx logged:\n{}", self.errors());
        }
        let _ = kill(Pid::from_raw(self.process.id().cast_signed()), Signal::SIGTERM);
        let _ = self.process.wait();
    }
}

/// Asks for predictions, so many at once, each time again after a pause; how many answers had which status.
async fn ask(url: &str, clients: usize, times: usize, pause: Duration) -> BTreeMap<u16, usize> {
    let asking = (0..clients).map(|client| {
        let (url, http) = (format!("{url}/m/predict"), reqwest::Client::new());
        tokio::spawn(async move {
            let mut statuses = Vec::new();
            for time in 0..times {
                let body = json!({"input": [client, time]}).to_string();
                statuses.push(http.post(&url).body(body).send().await.unwrap().status().as_u16());
                sleep(pause).await;
            }
            statuses
        })
    });
    let mut counts = BTreeMap::new();
    for client in asking.collect::<Vec<_>>() {
        for status in client.await.unwrap() {
            *counts.entry(status).or_default() += 1;
        }
    }
    counts
}

#[tokio::test]
async fn connections_that_a_proxy_keeps_are_not_closed_before_the_proxy_closes_them() {
    let cluster = Cluster::start().await;
    cluster.deploy("sum", "m", "1", "doubles", 1).await;
    cluster.add_app("m", "doubles", OBJECTIVE, true).await;
    let nginx = Nginx::start(&[cluster.main.addresses().query.unwrap()]).await;
    assert_eq!(ask(&nginx.url, 32, 1, Duration::ZERO).await, [(200, 32)].into());
    let open = async || cluster.metric(0, "clipper_http_connections").await.unwrap();
    // The metrics are asked for over one more.
    let kept = open().await - 1.0;
    assert!(kept >= 1.0, "nginx keeps {kept}");
    sleep(IDLE).await;
    assert!(open().await > kept, "{} of {kept} are left", open().await - 1.0);
    assert_eq!(ask(&nginx.url, 32, 1, Duration::ZERO).await, [(200, 32)].into());
}

#[tokio::test]
async fn a_proxy_loses_no_request_to_a_frontend_that_goes_away() {
    let mut cluster = Cluster::split(2).await;
    cluster.deploy("sum", "m", "1", "doubles", 1).await;
    cluster.add_app("m", "doubles", OBJECTIVE, true).await;
    let frontends = [0, 1].map(|index| cluster.frontend(index).addresses().query.unwrap());
    for frontend in 0..2 {
        cluster.served(frontend, "m", json!({"input": [1]})).await;
    }
    let nginx = Nginx::start(&frontends).await;
    let load = tokio::spawn({
        let url = nginx.url.clone();
        async move { ask(&url, 8, 500, Duration::from_millis(2)).await }
    });
    sleep(Duration::from_millis(300)).await;
    assert_eq!(cluster.frontends[0].terminate().await, 0);
    assert_eq!(load.await.unwrap(), [(200, 8 * 500)].into(), "{}", nginx.errors());
}
