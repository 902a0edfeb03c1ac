//! Clients in the background that ask for predictions, one after the other, and count what they get.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tokio::task::JoinHandle;

use crate::answer::Answer;
use crate::cluster::Cluster;
use crate::wait::{LIMIT, eventually};

/// What became of requests.
#[derive(Debug, Clone, Default)]
pub struct Outcomes {
    /// How many were answered by the model, by output.
    pub outputs: BTreeMap<String, u64>,
    /// How many got the default output, by reason.
    pub defaults: BTreeMap<String, u64>,
    /// How many failed, by error or refusal.
    pub errors: BTreeMap<String, u64>,
    /// The ids of all queries that were answered.
    pub query_ids: HashSet<u64>,
    /// Ids that were seen twice.
    pub repeated_ids: Vec<u64>,
}

impl Outcomes {
    /// How many were answered by the model.
    pub fn ok(&self) -> u64 {
        self.outputs.values().sum()
    }

    /// Panics unless every request was answered by the model, and there were some.
    pub fn assert_flawless(&self) {
        let ids = &self.repeated_ids;
        let flawless = self.defaults.is_empty() && self.errors.is_empty() && ids.is_empty() && self.ok() > 0;
        let (defaults, errors) = (&self.defaults, &self.errors);
        assert!(
            flawless,
            "{} answers, defaults {defaults:?}, errors {errors:?}, repeated ids {ids:?}",
            self.ok()
        );
    }

    fn count(&mut self, answer: reqwest::Result<Answer>) {
        let answer = match answer {
            Ok(Answer { status: 200, text }) => {
                serde_json::from_str::<Value>(&text).map_err(|error| error.to_string())
            }
            Ok(refusal) => Err(format!("{} {}", refusal.status, refusal.text)),
            Err(error) => Err(format!("{error:?}")),
        };
        let (outcomes, name) = match answer {
            Ok(answer) => {
                let id = answer["query_id"].as_u64().expect("an answer has an id");
                if !self.query_ids.insert(id) {
                    self.repeated_ids.push(id);
                }
                match answer["default_reason"].as_str() {
                    Some(reason) => (&mut self.defaults, reason.to_owned()),
                    None => (&mut self.outputs, answer["output"].to_string()),
                }
            }
            Err(error) => (&mut self.errors, error),
        };
        *outcomes.entry(name).or_default() += 1;
    }
}

/// Clients that ask until they are stopped.
pub struct Load {
    outcomes: Arc<Mutex<Outcomes>>,
    stopping: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts clients that send the same request to a frontend, each over one connection, the next when the last is
    /// answered.
    pub fn start(cluster: &Cluster, frontend: usize, app: &str, body: &Value, clients: usize) -> Self {
        let url = format!("{}/{app}/predict", cluster.query_url(frontend));
        let outcomes = Arc::new(Mutex::new(Outcomes::default()));
        let stopping = Arc::new(AtomicBool::new(false));
        let clients = (0..clients).map(|_| {
            let (url, body) = (url.clone(), body.to_string());
            let (outcomes, stopping) = (Arc::clone(&outcomes), Arc::clone(&stopping));
            tokio::spawn(async move {
                let client = reqwest::Client::builder().timeout(2 * LIMIT).build();
                let client = client.expect("a client without TLS needs nothing");
                while !stopping.load(Ordering::Relaxed) {
                    let answer = ask(&client, &url, body.clone()).await;
                    let failed = answer.is_err();
                    outcomes.lock().expect("counting does not panic").count(answer);
                    // A test must not drown in failures: whoever is refused waits a little.
                    if failed {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                }
            })
        });
        Self { clients: clients.collect(), outcomes, stopping }
    }

    /// What came of the requests so far.
    pub fn outcomes(&self) -> Outcomes {
        self.outcomes.lock().expect("counting does not panic").clone()
    }

    /// Waits until the model has answered as many further requests.
    pub async fn answered(&self, further: u64) {
        let goal = self.outcomes().ok() + further;
        eventually("the load is answered", async || self.outcomes().ok() >= goal).await;
    }

    /// Waits until the model has answered with this output.
    pub async fn answered_with(&self, output: &str) {
        eventually(&format!("the load is answered with {output}"), async || {
            self.outcomes().outputs.contains_key(output)
        })
        .await;
    }

    /// Lets every client finish its request; what came of all.
    pub async fn finish(self) -> Outcomes {
        self.stopping.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await.expect("a client does not panic");
        }
        Arc::into_inner(self.outcomes)
            .expect("no client is left")
            .into_inner()
            .expect("counting does not panic")
    }
}

async fn ask(client: &reqwest::Client, url: &str, body: String) -> reqwest::Result<Answer> {
    let request = client.post(url).header("content-type", "application/json").body(body);
    Answer::read(request.send().await?).await
}
