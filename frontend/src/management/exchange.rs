//! The exchange with management of what is learned: one task of a frontend.
//!
//! Every now and then, and sooner when a state is wanted, it collects what the applications have learned, sends it, and hands
//! them what others have learned. Predictions and feedback never wait for it. Invariant: one call is in progress at a
//! time, and after a failure the same request is sent again, so that nothing is lost or stored twice. A request is
//! bounded, and has more time whenever it had too little: it arrives in the end. One that management refuses is dropped.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use actix::Addr;
use clipper_rpc::catalog::{ExchangeError, Management};
use clipper_rpc::selection::{ExchangePosition, ExchangeRequest, ExchangeResponse, ForwardedFeedback};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{info, warn};
use uuid::Uuid;

use crate::application::actor::{Application, Collect, DropSent, TakeIn};
use crate::directory::Directory;
use crate::management::inbox::Inbox;
use crate::management::outbox::Outbox;
use crate::query::ids::QueryIds;
use crate::selection::Facilities;
use crate::selection::feedback::{FeedbackError, judge};
use crate::selection::learning::{News, Room};

/// From so many bytes of explanations on, the others are for the next request.
const EXPLANATION_BYTES: usize = 8 << 20;
/// The most queries that wait to be explained. Management soon tells whoever asked that there is no
/// answer.
const MOST_EXPLAINED: usize = 10_000;
/// The least time between two exchanges: states that are wanted at once are asked for together.
const LEAST_PAUSE: Duration = Duration::from_millis(10);
/// How long management may take for an answer; twice as long each time that this was too short,
const PATIENCE: Duration = Duration::from_secs(5);
/// up to this.
const MOST_PATIENCE: Duration = Duration::from_secs(160);

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
    /// What the next ones are to explain.
    explain: VecDeque<u64>,
    /// Feedback that others received, for which there was no room yet.
    received: Inbox,
    /// Whether the last call failed.
    failing: bool,
    /// How often in a row the answer came too late.
    late: u32,
}

impl Course {
    fn patience(&self) -> Duration {
        PATIENCE.saturating_mul(2_u32.saturating_pow(self.late)).min(MOST_PATIENCE)
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
        let patience = course.patience();
        let answered = timeout(patience, self.management.exchange(request.clone())).await;
        course.late = if answered.is_ok() { 0 } else { course.late.saturating_add(1) };
        let late = |_| Err(ExchangeError::Failed(format!("no answer within {patience:?}")));
        match answered.unwrap_or_else(late) {
            Ok(response) => {
                self.outbox.succeed();
                if std::mem::take(&mut course.failing) {
                    info!("management takes what is learned again");
                }
                course.request = None;
                self.take_in(course, response).await;
            }
            Err(error @ ExchangeError::Refused(_)) => {
                self.outbox.fail();
                course.failing = true;
                let ExchangeRequest { changes, load, forward, explanations, .. } = request;
                warn!(
                    %error,
                    changes = changes.len(),
                    states = load.len(),
                    feedback = forward.len(),
                    explanations = explanations.len(),
                    "what was to be exchanged is dropped"
                );
                self.drop_request(course).await;
            }
            Err(error @ ExchangeError::Failed(_)) => {
                self.outbox.fail();
                if !std::mem::replace(&mut course.failing, true) {
                    warn!(%error, "what is learned waits");
                }
            }
        }
    }

    /// Has the applications forget what a request held, and learn anew what management has.
    async fn drop_request(&self, course: &mut Course) {
        course.request = None;
        course.known = None;
        for actor in self.actors() {
            // An actor that has ended has nothing to forget.
            let _ = actor.send(DropSent).await;
        }
    }

    /// Collects what there is to say; nothing while no application has a policy.
    async fn compose(&self, course: &mut Course) -> Option<ExchangeRequest> {
        let mut actors = self.actors();
        // Another one is first each time, or those at the end would never have their say.
        let first = course.number as usize % actors.len().max(1);
        actors.rotate_left(first);
        let (mut room, mut any, mut more) = (Room::default(), false, false);
        let (mut changes, mut load) = (Vec::new(), Vec::new());
        for actor in actors {
            // An actor that has ended has nothing to say.
            let Ok(Some((collected, left))) = actor.send(Collect(room)).await else { continue };
            (any, room, more) = (true, left, more || collected.more);
            changes.extend(collected.changes);
            load.extend(collected.load);
        }
        let (forward, more_forward) = self.outbox.take();
        more |= more_forward;
        if !any && forward.is_empty() && course.explain.is_empty() {
            course.more = false;
            return None;
        }
        let explanations = self.explain(&mut course.explain);
        course.more = more || !course.explain.is_empty();
        course.number += 1;
        Some(ExchangeRequest {
            frontend: self.frontend,
            frontend_number: self.query_ids.number(),
            number: course.number,
            known: course.known,
            changes,
            load,
            forward,
            explanations,
        })
    }

    /// Explains queries, as far as there is room for it in one request.
    fn explain(&self, queries: &mut VecDeque<u64>) -> Vec<(u64, Option<String>)> {
        let (mut explanations, mut bytes) = (Vec::new(), 0);
        while bytes < EXPLANATION_BYTES
            && let Some(query_id) = queries.pop_front()
        {
            let explanation = self.facilities.decisions.explain(query_id);
            bytes += explanation.as_ref().map_or(0, String::len);
            explanations.push((query_id, explanation));
        }
        explanations
    }

    async fn take_in(&self, course: &mut Course, response: ExchangeResponse) {
        let ExchangeResponse { position, reset, changes, loaded, feedback, explain } = response;
        course.known = Some(position);
        course.more |= reset || !explain.is_empty();
        course.explain.extend(explain);
        course.explain.truncate(MOST_EXPLAINED);
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
        let any_feedback = !feedback.is_empty();
        for feedback in feedback {
            let application = feedback.application.clone();
            if !course.received.put(feedback)
                && let Some(view) = self.directory.application(application.as_str())
            {
                view.metrics.feedback.refuse();
            }
        }
        course.received.hand_over(|feedback| self.receive(feedback));
        // What was learned of it just now is to be stored, and what had no room is to be tried again.
        course.more |= any_feedback || !course.received.is_empty();
    }

    /// Handles feedback that came to another frontend as if it had come here, but waits for no model that is still listened to, as
    /// what is learned would wait with it; whether there was room for it.
    fn receive(&self, feedback: &ForwardedFeedback) -> bool {
        let ForwardedFeedback { application, query_id, verdict } = feedback;
        let Some(view) = self.directory.application(application.as_str()) else { return true };
        let Some(selector) = &view.selector else { return true };
        let decided = self.facilities.decisions.get(*query_id);
        let Some(decided) = decided.filter(|decided| decided.application == *application) else {
            return true;
        };
        match judge(selector, &decided, verdict) {
            Ok(status) => view.metrics.feedback.record(status),
            Err(FeedbackError::Verdict(_)) => view.metrics.feedback.refuse(),
            Err(FeedbackError::Full) => return false,
        }
        true
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::{Mutex, MutexGuard};
    use std::thread;

    use actix::Arbiter;
    use clipper_rpc::catalog::{self, FollowError, FollowRequest, FollowResponse};
    use clipper_rpc::input::InputType;
    use clipper_rpc::names::{ModelId, ModelName};
    use clipper_rpc::selection::{Policy, Selection, StateKey, Statistics, Verdict};
    use clipper_server::Essentials;
    use futures_util::FutureExt;
    use futures_util::future::{self, BoxFuture};

    use tokio::time::sleep;

    use super::*;
    use crate::application::actor::{ApplicationHandle, Configure};
    use crate::metrics::FeedbackStatus;
    use crate::queue::{Capacity, Queue};
    use crate::queue::{ModelView, VersionView};
    use crate::selection::decisions::tests::decided;
    use crate::selection::lessons::{Subject, Taught};
    use crate::selection::tests::facilities;

    /// Management as its documentation has it, which loses every third request and every third answer.
    #[derive(Default)]
    struct Lossy(Mutex<Stored>);

    #[derive(Default)]
    struct Stored {
        calls: u64,
        last: Option<(ExchangeRequest, ExchangeResponse)>,
        states: HashMap<StateKey, Statistics>,
        /// Told with the next answer.
        feedback: Vec<ForwardedFeedback>,
        explain: Vec<u64>,
        explanations: Vec<(u64, Option<String>)>,
        lossless: bool,
        /// Whether the next request with a change is refused, and the one that was.
        refuses: bool,
        refused: Option<ExchangeRequest>,
    }

    impl Management for Lossy {
        fn follow(&self, _: FollowRequest) -> BoxFuture<'_, Result<FollowResponse, FollowError>> {
            future::pending().boxed()
        }

        fn exchange(
            &self,
            request: ExchangeRequest,
        ) -> BoxFuture<'_, Result<ExchangeResponse, ExchangeError>> {
            future::ready(self.0.lock().unwrap().exchange(request)).boxed()
        }
    }

    impl Stored {
        fn exchange(&mut self, request: ExchangeRequest) -> Result<ExchangeResponse, ExchangeError> {
            self.calls += 1;
            if self.refuses && !request.changes.is_empty() {
                (self.refuses, self.refused) = (false, Some(request));
                return Err(ExchangeError::Refused("it is too large".to_owned()));
            }
            let lost = || Err(ExchangeError::Failed("lost".to_owned()));
            if self.calls % 3 == 1 && !self.lossless {
                return lost();
            }
            let again = self.last.as_ref().filter(|(last, _)| last.number == request.number);
            let response = if let Some((last, response)) = again {
                assert_eq!(*last, request, "it is the same when it is sent again");
                response.clone()
            } else {
                self.apply(request)
            };
            if self.calls % 3 == 2 && !self.lossless { lost() } else { Ok(response) }
        }

        fn apply(&mut self, request: ExchangeRequest) -> ExchangeResponse {
            let seen = self.last.iter().map(|(last, _)| last).chain(&self.refused).map(|seen| seen.number);
            assert_eq!(request.number, seen.max().unwrap_or(0) + 1);
            for change in &request.changes {
                self.states.entry(change.key.clone()).or_default().apply(&change.change);
            }
            self.explanations.extend(request.explanations.iter().cloned());
            let stored = |key: &StateKey| (key.clone(), self.states.get(key).cloned().unwrap_or_default());
            let response = ExchangeResponse {
                position: ExchangePosition { run: Uuid::nil(), sequence: request.number },
                reset: request.known.is_none(),
                changes: Vec::new(),
                loaded: request.load.iter().map(stored).collect(),
                feedback: std::mem::take(&mut self.feedback),
                explain: std::mem::take(&mut self.explain),
            };
            self.last = Some((request, response.clone()));
            response
        }

        /// How often the loss of model `a` is known to the shared state.
        fn count(&self) -> f64 {
            let shared = self.states.iter().find(|(key, _)| key.uid.is_none());
            shared.and_then(|(_, state)| state.of(&"a".parse().unwrap()).first().copied()).unwrap_or(0.0)
        }
    }

    struct Fixture {
        management: Arc<Lossy>,
        application: ApplicationHandle,
        facilities: Arc<Facilities>,
        stop: oneshot::Sender<oneshot::Sender<()>>,
    }

    impl Fixture {
        fn start(period: Duration) -> Self {
            let facilities = Arc::new(facilities());
            let names = ["a", "b"].map(|name| name.parse::<ModelName>().unwrap());
            let model = |name: &ModelName| {
                let id = ModelId { name: name.clone(), version: "1".parse().unwrap() };
                let capacity = Capacity { queries: 1, bytes: 1 };
                let queue = Arc::new(Queue::new(1, id, InputType::Ints, capacity));
                let version = VersionView { queue, cache: true };
                let current = "1".parse().unwrap();
                let versions = BTreeMap::from([("1".parse().unwrap(), version)]);
                ModelView { name: name.clone(), current: Some(current), versions }
            };
            let application = catalog::Application {
                name: "app".parse().unwrap(),
                input_type: InputType::Ints,
                default_output: String::new(),
                latency_slo_micros: 1,
                linked_models: names.to_vec(),
                cache: true,
                max_concurrent_requests: None,
                on_overload: catalog::OnOverload::default(),
                selection: Selection {
                    policy: Policy::Exp4 { eta: 0.1, share: 0.01 },
                    ..Selection::default()
                },
            };
            let configure = Configure { application, models: names.iter().map(model).collect() };
            let part = Essentials::default().part("the actor of an application");
            let application = crate::application::actor::Application::launch(
                configure,
                &facilities,
                &Arbiter::current(),
                part,
            );
            let directory = Arc::new(Directory::default());
            let applications = HashMap::from([("app".parse().unwrap(), application.clone())]);
            directory.applications.store(Arc::new(applications));
            let management = Arc::new(Lossy::default());
            let exchange = Exchange {
                management: Arc::clone(&management) as Arc<dyn Management>,
                directory,
                facilities: Arc::clone(&facilities),
                outbox: Arc::default(),
                query_ids: Arc::default(),
                frontend: Uuid::nil(),
                period,
            };
            let (stop, stopped) = oneshot::channel();
            actix_rt::spawn(exchange.run(stopped));
            Self { management, application, facilities, stop }
        }

        /// Feedback from several threads at once.
        fn teach(&self, threads: usize, each: usize) {
            let teachers = (0..threads).map(|_| {
                let view = self.application.view.load_full();
                thread::spawn(move || {
                    let selector = view.selector.as_ref().unwrap();
                    for _ in 0..each {
                        let candidates = selector.learner.candidates().to_vec();
                        let subject = Subject::Input { uid: None, context: None, candidates };
                        let losses = vec![Some(0.0), Some(1.0)];
                        let taught = Taught { subject, losses, label: None, reward: 0.5, time_micros: 0 };
                        selector.states.lessons().reserve(0).unwrap().put(taught);
                    }
                })
            });
            teachers.collect::<Vec<_>>().into_iter().for_each(|teacher| teacher.join().unwrap());
        }

        fn stored(&self) -> MutexGuard<'_, Stored> {
            self.management.0.lock().unwrap()
        }

        async fn until(&self, condition: impl Fn(&Stored) -> bool) {
            while !condition(&self.stored()) {
                sleep(Duration::from_millis(1)).await;
            }
        }
    }

    #[actix::test]
    async fn lost_requests_and_lost_answers_lose_no_change_and_double_none() {
        let fixture = Fixture::start(Duration::from_millis(1));
        for round in 1..=5 {
            fixture.teach(4, 400);
            fixture.until(|stored| stored.count() >= f64::from(round * 1600)).await;
            assert_eq!(fixture.stored().count(), f64::from(round * 1600));
        }
        let unsent = || fixture.application.view.load().metrics.feedback.unsent();
        while unsent() > 0 {
            sleep(Duration::from_millis(1)).await;
        }
        let shared = fixture.application.view.load().selector.as_ref().unwrap().states.shared();
        assert_eq!(shared.statistics.of(&"a".parse().unwrap())[0], 8000.0);
    }

    #[actix::test]
    async fn what_was_learned_last_is_stored_at_the_end() {
        let fixture = Fixture::start(Duration::from_secs(3600));
        fixture.stored().lossless = true;
        fixture.teach(1, 10);
        let (finished, end) = oneshot::channel();
        let stored = Arc::clone(&fixture.management);
        fixture.stop.send(finished).unwrap();
        end.await.unwrap();
        assert_eq!(stored.0.lock().unwrap().count(), 10.0);
    }

    #[actix::test]
    async fn feedback_that_came_to_another_frontend_is_applied_once_and_queries_are_explained() {
        let fixture = Fixture::start(Duration::from_millis(1));
        let mut answered = decided(17);
        answered.decision.candidates = vec!["a".parse().unwrap(), "b".parse().unwrap()];
        answered.outputs.truncate(2);
        fixture.facilities.decisions.record(Arc::new(answered));
        let feedback = ForwardedFeedback {
            application: "app".parse().unwrap(),
            query_id: 17,
            verdict: Verdict::Label("cat".into()),
        };
        {
            let mut stored = fixture.stored();
            stored.feedback = vec![feedback.clone(), feedback];
            stored.explain = vec![17, 18];
        }
        fixture.until(|stored| stored.count() == 1.0 && stored.explanations.len() == 2).await;
        let explanations = fixture.stored().explanations.clone();
        let known = explanations[0].1.as_deref().unwrap();
        assert_eq!(serde_json::from_str::<serde_json::Value>(known).unwrap()["query_id"], 17);
        assert_eq!(explanations[1], (18, None));
        let view = fixture.application.view.load();
        assert_eq!(view.metrics.feedback.recorded(FeedbackStatus::Applied), 1);
        assert_eq!(view.metrics.feedback.recorded(FeedbackStatus::Duplicate), 1);
    }

    #[actix::test]
    async fn what_management_refuses_is_dropped_and_what_comes_after_it_is_stored() {
        let fixture = Fixture::start(Duration::from_millis(1));
        {
            let mut stored = fixture.stored();
            (stored.lossless, stored.refuses) = (true, true);
        }
        fixture.teach(1, 5);
        fixture.until(|stored| stored.refused.is_some()).await;
        let view = fixture.application.view.load_full();
        while view.metrics.feedback.unsent() > 0 {
            sleep(Duration::from_millis(1)).await;
        }
        let refused = fixture.stored().refused.clone().unwrap();
        let lost = refused.changes[0].change.0[&"a".parse::<ModelName>().unwrap()].add[0];
        fixture.teach(1, 3);
        fixture.until(|stored| stored.count() == 8.0 - lost).await;
        // The frontend knows what is stored, and not what was dropped.
        let shared = || view.selector.as_ref().unwrap().states.shared();
        while shared().statistics.of(&"a".parse().unwrap()).first() != Some(&(8.0 - lost)) {
            sleep(Duration::from_millis(1)).await;
        }
    }

    #[test]
    fn a_request_has_twice_the_time_after_it_had_too_little() {
        let patience = |late| Course { late, ..Course::default() }.patience();
        assert_eq!([0, 1, 2, 5].map(patience), [1, 2, 4, 32].map(|times| times * PATIENCE));
        assert_eq!([6, 1000].map(patience), [MOST_PATIENCE; 2]);
    }
}
