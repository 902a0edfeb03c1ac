//! Applications' clients that know what is right: they ask, compare, and tell.
//!
//! `clipper bench` does not look into answers, so studies of what is learned have clients of their own. Invariant: which queries they
//! send follows from their numbers alone.

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::cluster::Place;

/// How many labels there are.
pub const CLASSES: u64 = 10;

/// How long feedback that is to be sent again is kept back.
const FULL: Duration = Duration::from_millis(5);

/// A query whose right answer is known.
#[derive(Debug, Clone, Copy)]
pub struct Question {
    /// Which; the models' mistakes follow from it.
    pub id: u64,
    /// In which of the models' cases.
    pub case: u32,
}

impl Question {
    /// What is right.
    pub fn label(self) -> u64 {
        // Neighbours are to have labels that nobody could guess; the models are shown them anyway.
        (self.id.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33) % CLASSES
    }

    /// As the models get it.
    pub fn input(self) -> Value {
        json!([self.id as f64, self.label() as f64, f64::from(self.case)])
    }
}

/// What a frontend answers.
#[derive(Debug, Deserialize)]
pub struct Answer {
    /// Of the query.
    pub query_id: u64,
    /// The label, or the default.
    pub output: Value,
    /// Whether it is the default.
    pub default: bool,
    /// None where nothing is selected.
    pub confidence: Option<f64>,
}

impl Answer {
    /// 1 if it is wrong, as a default output always is.
    pub fn error(&self, question: Question) -> f64 {
        let right = !self.default && self.output.as_f64() == Some(question.label() as f64);
        f64::from(u8::from(!right))
    }
}

/// A client of one frontend, and the runtime that all it does runs on.
pub struct Client {
    runtime: Runtime,
    asker: Asker,
}

/// What requests are sent with.
#[derive(Clone)]
pub struct Asker {
    http: reqwest::Client,
    place: Place,
}

impl Client {
    /// One of the frontend there.
    pub fn new(place: Place) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        // The server closes those that rest for longer, while nobody polls the runtime.
        let idle = Duration::from_secs(1);
        let http = reqwest::Client::builder()
            .tcp_nodelay(true)
            .pool_idle_timeout(idle)
            .timeout(Duration::from_secs(30))
            .build()?;
        Ok(Self { runtime, asker: Asker { http, place } })
    }

    /// Does one thing.
    pub fn run<T>(&self, work: impl AsyncFnOnce(&Asker) -> anyhow::Result<T>) -> anyhow::Result<T> {
        self.runtime.block_on(work(&self.asker))
    }

    /// Does one thing for each item, so many at a time, in a closed loop; the results in the order of the items.
    pub fn each<I, T, F>(
        &self,
        concurrency: usize,
        items: impl IntoIterator<Item = I>,
        work: impl Fn(Asker, I) -> F,
    ) -> anyhow::Result<Vec<T>>
    where
        F: Future<Output = anyhow::Result<T>>,
    {
        let work = stream::iter(items).map(|item| work(self.asker.clone(), item));
        self.runtime.block_on(work.buffered(concurrency).try_collect())
    }

    /// Does one thing for each item, so many a second whatever becomes of them; the results in the order of the items.
    pub fn paced<I, T, F>(
        &self,
        per_second: f64,
        items: impl IntoIterator<Item = I>,
        work: impl Fn(Asker, I) -> F,
    ) -> anyhow::Result<Vec<T>>
    where
        T: Send + 'static,
        F: Future<Output = anyhow::Result<T>> + Send + 'static,
    {
        self.runtime.block_on(async {
            let begun = Instant::now();
            let mut tasks = Vec::new();
            for (number, item) in items.into_iter().enumerate() {
                let due = begun + Duration::from_secs_f64(number as f64 / per_second);
                tokio::time::sleep_until(due.into()).await;
                tasks.push(tokio::spawn(work(self.asker.clone(), item)));
            }
            let mut done = Vec::new();
            for task in tasks {
                done.push(task.await??);
            }
            Ok(done)
        })
    }

    /// Waits until models answer an application's queries: so many of them, where it selects.
    pub fn until_served(&self, app: &str, models: usize) -> anyhow::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(60);
        self.run(async |asker| {
            let mut id = 0;
            loop {
                let question = Question { id: (1 << 40) + id, case: 0 };
                id += 1;
                let body = json!({"input": question.input()});
                let answer: Value = asker.post(app, "predict", &body).await?;
                let asked = answer["models"].as_array().map_or(models, Vec::len);
                if answer["default"] == false && asked >= models {
                    return Ok(());
                }
                if Instant::now() > deadline {
                    bail!("waited in vain for {models} models of {app}: {answer}");
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
    }
}

impl Asker {
    async fn post<T: for<'de> Deserialize<'de>>(
        &self,
        app: &str,
        what: &str,
        body: &Value,
    ) -> anyhow::Result<T> {
        self.send(app, what, body).await?.with_context(|| format!("{app}/{what} had no room"))
    }

    /// None where the frontend asks to come again.
    async fn send<T: for<'de> Deserialize<'de>>(
        &self,
        app: &str,
        what: &str,
        body: &Value,
    ) -> anyhow::Result<Option<T>> {
        let (url, _) = self.place.at(&format!("{app}/{what}"));
        let answer = self.http.post(url).json(body).send().await?;
        let (status, bytes) = (answer.status(), answer.bytes().await?);
        if status == reqwest::StatusCode::SERVICE_UNAVAILABLE {
            return Ok(None);
        }
        if !status.is_success() {
            bail!("{app}/{what} {body}: {status} {}", String::from_utf8_lossy(&bytes));
        }
        Ok(Some(serde_json::from_slice(&bytes)?))
    }

    /// Asks, as a user or as nobody.
    pub async fn predict(&self, app: &str, question: Question, user: Option<u64>) -> anyhow::Result<Answer> {
        let mut body = json!({"input": question.input()});
        if let Some(user) = user {
            body["uid"] = user.into();
        }
        self.post(app, "predict", &body).await
    }

    /// Says what would have been right, as often as there is no room for it; how often that was.
    pub async fn tell(&self, app: &str, query_id: u64, label: u64) -> anyhow::Result<u64> {
        let body = json!({"query_id": query_id, "label": label});
        let mut refused = 0;
        loop {
            let told: Option<Value> = self.send(app, "feedback", &body).await?;
            match told {
                Some(told) if told["status"] == "applied" => return Ok(refused),
                Some(told) => bail!("feedback {body} was not applied: {told}"),
                None => refused += 1,
            }
            tokio::time::sleep(FULL).await;
        }
    }

    /// Says what is right of a question, whatever was answered.
    pub async fn teach(&self, app: &str, question: Question) -> anyhow::Result<()> {
        let body = json!({"input": question.input(), "label": question.label()});
        let told: Value = self.post(app, "feedback", &body).await?;
        if told["status"] != "applied" {
            bail!("feedback {body} was not applied: {told}");
        }
        Ok(())
    }

    /// Asks and, once answered, says what would have been right; the error.
    pub async fn ask_and_tell(
        &self,
        app: &str,
        question: Question,
        user: Option<u64>,
    ) -> anyhow::Result<f64> {
        let answer = self.predict(app, question, user).await?;
        self.tell(app, answer.query_id, question.label()).await?;
        Ok(answer.error(question))
    }
}

/// The arithmetic mean.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_label_is_right_now_and_then() {
        let mut counts = [0; CLASSES as usize];
        for id in 0..10_000 {
            counts[Question { id, case: 0 }.label() as usize] += 1;
        }
        assert!(counts.iter().all(|count| (900..1100).contains(count)), "{counts:?}");
    }
}
