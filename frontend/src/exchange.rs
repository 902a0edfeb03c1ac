//! The exchange with management of what is learned: one task of a frontend.
//!
//! Every now and then, and sooner when a state is wanted, it collects what the applications have learned, sends it, and hands
//! them what others have learned. Predictions and feedback never wait for it. Invariant: one call is in progress at a
//! time, and after a failure the same request is sent again, so that nothing is lost or stored twice.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix::Addr;
use clipper_rpc::catalog::{FollowError, Management};
use clipper_rpc::selection::{ExchangePosition, ExchangeRequest, ExchangeResponse, ForwardedFeedback};
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{info, warn};
use uuid::Uuid;

use crate::application::{Application, Collect, TakeIn};
use crate::directory::Directory;
use crate::query_ids::QueryIds;
use crate::selection::Facilities;
use crate::selection::feedback::{FeedbackError, judge};
use crate::selection::learning::News;

/// How many feedbacks may wait to be passed on to other frontends.
const MOST_FORWARDED: usize = 10_000;
/// The most figures in one request: a few megabytes as text.
const FIGURES: usize = 200_000;
/// The least time between two exchanges: states that are wanted at once are asked for together.
const LEAST_PAUSE: Duration = Duration::from_millis(10);
/// How long management may take for an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long feedback of others waits for room.
const ROOM_PAUSE: Duration = Duration::from_millis(5);

/// What is given to the exchange, and what is counted of it.
#[derive(Default)]
pub struct Outbox {
    /// Held for a push or a swap.
    forwarded: Mutex<Vec<ForwardedFeedback>>,
    made: AtomicU64,
    failed: AtomicU64,
}

/// Owns the conversation of one frontend.
pub struct Exchange {
    /// Where it goes.
    pub management: Arc<dyn Management>,
    /// The applications.
    pub directory: Arc<Directory>,
    /// What wakes it, and the decisions.
    pub facilities: Arc<Facilities>,
    /// What is to be passed on.
    pub outbox: Arc<Outbox>,
    /// Where the frontend's number is known.
    pub query_ids: Arc<QueryIds>,
    /// This run of the frontend.
    pub frontend: Uuid,
    /// How long what is learned may wait.
    pub period: Duration,
}

/// Where the conversation stands.
#[derive(Default)]
struct Course {
    /// How many requests there were.
    number: u64,
    known: Option<ExchangePosition>,
    /// The request that is not answered yet.
    request: Option<ExchangeRequest>,
    /// Whether there was more to say than fits into it.
    more: bool,
    /// What the next one is to explain.
    explain: Vec<u64>,
    /// Whether the last call failed.
    failing: bool,
}

impl Outbox {
    /// Has feedback passed on to the frontend that answered the query; whether there is room for it.
    pub fn forward(&self, feedback: ForwardedFeedback) -> bool {
        let mut forwarded = self.lock();
        let room = forwarded.len() < MOST_FORWARDED;
        if room {
            forwarded.push(feedback);
        }
        room
    }

    /// How many exchanges there were.
    pub fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }

    /// How many calls failed.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<ForwardedFeedback>> {
        self.forwarded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Exchange {
    /// Exchanges until `shutdown`, then once more what is left, unless management fails.
    pub async fn run(self, mut shutdown: oneshot::Receiver<oneshot::Sender<()>>) {
        let mut course = Course::default();
        let finished = loop {
            let began = Instant::now();
            self.advance(&mut course).await;
            let earliest = began + if course.failing { self.period } else { LEAST_PAUSE };
            let next = if course.more && !course.failing { earliest } else { began + self.period };
            tokio::select! {
                finished = &mut shutdown => break finished,
                () = sleep_until(next) => {}
                () = async { sleep_until(earliest).await; self.facilities.wake.notified().await } => {}
            }
        };
        // Until all that was learned is stored: what was being sent, then what came after it.
        loop {
            self.advance(&mut course).await;
            if course.failing {
                warn!("what was learned last is lost, as management does not take it");
                break;
            }
            if !course.more && !self.has_unsent() {
                break;
            }
        }
        if let Ok(finished) = finished {
            let _ = finished.send(());
        }
    }

    /// Sends what there is to say, if there is anybody to say it, and takes in the answer.
    async fn advance(&self, course: &mut Course) {
        if course.request.is_none() {
            course.request = self.compose(course).await;
        }
        let Some(request) = &course.request else { return };
        let answered = timeout(PATIENCE, self.management.exchange(request.clone())).await;
        let answered =
            answered.unwrap_or_else(|_| Err(FollowError(format!("no answer within {PATIENCE:?}"))));
        match answered {
            Ok(response) => {
                self.outbox.made.fetch_add(1, Ordering::Relaxed);
                if std::mem::take(&mut course.failing) {
                    info!("management takes what is learned again");
                }
                course.request = None;
                self.take_in(course, response).await;
            }
            Err(error) => {
                self.outbox.failed.fetch_add(1, Ordering::Relaxed);
                if !std::mem::replace(&mut course.failing, true) {
                    warn!(%error, "what is learned waits");
                }
            }
        }
    }

    /// Collects what there is to say; nothing while no application has a policy.
    async fn compose(&self, course: &mut Course) -> Option<ExchangeRequest> {
        let mut actors = self.actors();
        // Another one is first each time, or those at the end would never have their say.
        let first = course.number as usize % actors.len().max(1);
        actors.rotate_left(first);
        let (mut figures, mut any, mut more) = (FIGURES, false, false);
        let (mut changes, mut load) = (Vec::new(), Vec::new());
        for actor in actors {
            // An actor that has ended has nothing to say.
            let Ok(Some((collected, left))) = actor.send(Collect { figures }).await else { continue };
            (any, figures, more) = (true, left, more || collected.more);
            changes.extend(collected.changes);
            load.extend(collected.load);
        }
        let forward = std::mem::take(&mut *self.outbox.lock());
        if !any && forward.is_empty() && course.explain.is_empty() {
            return None;
        }
        let explain =
            |query_id| (query_id, self.facilities.decisions.explain(query_id).unwrap_or(Value::Null));
        course.more = more;
        course.number += 1;
        Some(ExchangeRequest {
            frontend: self.frontend,
            frontend_number: self.query_ids.number(),
            number: course.number,
            known: course.known,
            changes,
            load,
            forward,
            explanations: std::mem::take(&mut course.explain).into_iter().map(explain).collect(),
        })
    }

    async fn take_in(&self, course: &mut Course, response: ExchangeResponse) {
        let ExchangeResponse { position, reset, changes, loaded, feedback, explain } = response;
        course.known = Some(position);
        course.more |= reset || !explain.is_empty();
        course.explain = explain;
        let applications = self.directory.applications.load_full();
        let each = applications.keys().map(|name| (name, News { reset, ..News::default() }));
        let mut news: HashMap<_, News> = each.collect();
        for change in changes {
            if let Some(news) = news.get_mut(&change.key.application) {
                news.changes.push(change);
            }
        }
        for (key, statistics) in loaded {
            if let Some(news) = news.get_mut(&key.application) {
                news.loaded.push((key, statistics));
            }
        }
        for (name, news) in news {
            // An actor that has ended needs no news.
            let _ = applications[name].actor.send(TakeIn(news)).await;
        }
        for feedback in feedback {
            self.receive(feedback).await;
        }
    }

    /// Handles feedback that came to another frontend as if it had come here.
    async fn receive(&self, feedback: ForwardedFeedback) {
        let ForwardedFeedback { application, query_id, verdict } = feedback;
        loop {
            let Some(view) = self.directory.application(application.as_str()) else { return };
            let Some(selector) = &view.selector else { return };
            let decided = self.facilities.decisions.get(query_id);
            let Some(decided) = decided.filter(|decided| decided.application == application) else { return };
            match judge(selector, &decided, verdict.clone()) {
                Ok(status) => return view.metrics.feedback.record(status),
                Err(FeedbackError::Verdict(_)) => return view.metrics.feedback.refuse(),
                Err(FeedbackError::Full) => sleep(ROOM_PAUSE).await,
            }
        }
    }

    fn actors(&self) -> Vec<Addr<Application>> {
        self.directory.applications.load().values().map(|handle| handle.actor.clone()).collect()
    }

    /// Whether an application has changes that are not stored.
    fn has_unsent(&self) -> bool {
        let applications = self.directory.applications.load();
        applications.values().any(|handle| handle.view.load().metrics.feedback.unsent() > 0)
    }
}
