//! A management process in a thread, on a free port and a directory of its own, and a client for it.

#![allow(dead_code, reason = "each test program uses a part")]
#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use clipper_rpc::protocol::{PROTOCOL, PROTOCOL_HEADER};
use std::net::TcpListener;
use std::path::Path;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use clipper_management::{Access, Config, Management, OpenError, Tokens};
use clipper_server::door::Door;
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::sync::oneshot;

/// How management is set up in tests.
pub(crate) fn config(data_dir: &Path) -> Config {
    Config {
        data_dir: data_dir.into(),
        python: "python3".into(),
        guard: vec![env!("CARGO_BIN_EXE_clipper-test-guard").into()],
        max_artifact_bytes: 100_000,
        access: access(Tokens::default()),
        artifacts_bytes: 10_000_000,
        uploads_bytes: 10_000_000,
        selection_users: 1_000_000,
        keep_alive: Duration::from_secs(75),
    }
}

/// Access with these tokens, and without further hosts and origins.
pub(crate) fn access(tokens: Tokens) -> Access {
    Access::new(Door::of_management(Vec::new(), Vec::new()), tokens)
}

pub(crate) struct Server {
    pub(crate) client: Client,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) async fn start(data_dir: &Path) -> Self {
        Self::open(data_dir).await.unwrap()
    }

    pub(crate) async fn open(data_dir: &Path) -> Result<Self, OpenError> {
        Self::open_with(config(data_dir)).await
    }

    pub(crate) async fn open_with(config: Config) -> Result<Self, OpenError> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = Client::new(&format!("http://{}", listener.local_addr().unwrap()));
        let (stop, stopped) = oneshot::channel();
        let (opened, has_opened) = oneshot::channel();
        let thread = thread::spawn(move || {
            actix_rt::System::new().block_on(async move {
                match Management::open(config).await {
                    Err(error) => opened.send(Err(error)).unwrap(),
                    Ok(management) => {
                        opened.send(Ok(())).unwrap();
                        let shutdown = async { drop(stopped.await) };
                        management.run(listener, shutdown).await.unwrap();
                    }
                }
            });
        });
        has_opened.await.unwrap()?;
        Ok(Self { client, stop: Some(stop), thread: Some(thread) })
    }

    /// Shuts down in order, and returns when that is done.
    pub(crate) async fn stop(mut self) {
        drop(self.stop.take());
        let thread = self.thread.take().unwrap();
        tokio::task::spawn_blocking(|| thread.join().unwrap()).await.unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || thread::panicking(), "management panicked");
        }
    }
}

#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) base: String,
    pub(crate) http: reqwest::Client,
}

impl Client {
    pub(crate) fn new(base: &str) -> Self {
        let http = reqwest::Client::builder().timeout(Duration::from_secs(60)).no_proxy().build().unwrap();
        Self { base: base.into(), http }
    }

    pub(crate) async fn get(&self, path: &str) -> (StatusCode, String) {
        let response = self.http.get(format!("{}{path}", self.base)).send().await.unwrap();
        (response.status(), response.text().await.unwrap())
    }

    /// A request that posts JSON, or the archive of `add_artifact`.
    pub(crate) fn posting(&self, path: &str, body: impl Into<reqwest::Body>) -> reqwest::RequestBuilder {
        let is_archive = path.ends_with("/add_artifact");
        let content_type = if is_archive { "application/x-tar" } else { "application/json" };
        self.http
            .post(format!("{}{path}", self.base))
            .header("content-type", content_type)
            .header(PROTOCOL_HEADER, PROTOCOL)
            .body(body)
    }

    pub(crate) async fn post_text(&self, path: &str, body: impl Into<reqwest::Body>) -> (StatusCode, String) {
        let response = self.posting(path, body).send().await.unwrap();
        (response.status(), response.text().await.unwrap())
    }

    /// The text of a 200.
    pub(crate) async fn says(&self, call: &str, body: Value) -> String {
        let (status, text) = self.post_text(&format!("/admin/{call}"), body.to_string()).await;
        assert_eq!(status, StatusCode::OK, "{call} {body}: {text}");
        text
    }

    /// The JSON of a 200.
    pub(crate) async fn answers(&self, call: &str, body: Value) -> Value {
        serde_json::from_str(&self.says(call, body).await).unwrap()
    }

    /// The cause of a 400.
    pub(crate) async fn refuses(&self, call: &str, body: Value) -> String {
        self.refuses_text(call, body.to_string()).await
    }

    pub(crate) async fn refuses_text(&self, call: &str, body: String) -> String {
        let (status, text) = self.post_text(&format!("/admin/{call}"), body.clone()).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{call} {body}: {text}");
        let refusal: Value = serde_json::from_str(&text).unwrap();
        assert!(refusal["error"].is_string(), "{text}");
        refusal["cause"].as_str().unwrap().into()
    }

    pub(crate) async fn add_app(&self, name: &str, input_type: &str) {
        let app = json!({"name": name, "input_type": input_type, "default_output": "-1.0", "latency_slo_micros": 100_000});
        self.says("add_app", app).await;
    }

    pub(crate) async fn add_model(&self, name: &str, version: &str, input_type: &str) {
        self.says("add_model", model(name, version, input_type)).await;
    }
}

/// The body of `add_model`.
pub(crate) fn model(name: &str, version: &str, input_type: &str) -> Value {
    json!({"model_name": name, "model_version": version, "input_type": input_type, "labels": ["blue"],
        "container_name": "noop", "model_data_path": "/models", "batch_size": -1})
}

/// Waits until `condition` has a value.
pub(crate) async fn until<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(std::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
