//! The actor that follows management: the only writer of the directory.
//!
//! It asks for what has changed, applies it, and asks again, each time with all that management should know of this
//! frontend; a change of the containers breaks the wait off and asks anew. Invariant: the position that it reports is
//! reached only after every view shows it and every container's batches follow it.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use clipper_rpc::catalog::{
    self, Change, ConnectedContainer, FollowError, FollowRequest, FollowResponse, Management, Model,
    Position, Snapshot, Update,
};
use clipper_rpc::names::{AppName, ModelId, ModelName};
use clipper_server::{EssentialPart, Essentials};
use futures_util::future::{join, join_all};
use tokio::sync::oneshot;
use tracing::{info, warn};
use uuid::Uuid;

use crate::application::actor::{Application, ApplicationHandle, Configure};
use crate::computation::cache::PredictionCache;
use crate::directory::{Directory, Progress};
use crate::query::ids::QueryIds;
use crate::queue::{Capacity, Queue};
use crate::queue::{ModelView, VersionView};
use crate::replicas::model::{FrontendsChanged, ModelHandle, ModelQueue, Resize, Withdraw};
use crate::replicas::slots::{ContainerChanged, Sizing, Slots};
use crate::selection::Facilities;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Least time between two calls that report containers. Each names all of them, so a burst of
/// connections is reported at once and not one by one.
const REPORT_PAUSE: Duration = Duration::from_millis(20);

/// What the follower is told at its start.
pub struct FollowerConfig {
    /// This run of the frontend.
    pub frontend: Uuid,
    /// The thread of the applications' actors, which learn there without keeping a batch waiting.
    pub applications: ArbiterHandle,
    /// Where applications reach this frontend.
    pub query_address: String,
    /// Where containers reach this frontend.
    pub rpc_address: String,
    /// The bound of each model's queue.
    pub queue_capacity: Capacity,
    /// The most inputs of a batch, where the model states no number of its own.
    pub max_batch_size: u32,
    /// The follower and the actors that it starts belong to these.
    pub essentials: Essentials,
}

/// Owns this frontend's picture of the cluster.
pub struct Follower {
    management: Arc<dyn Management>,
    directory: Arc<Directory>,
    query_ids: Arc<QueryIds>,
    cache: Arc<PredictionCache>,
    facilities: Arc<Facilities>,
    /// Reports the end of this actor.
    _part: EssentialPart,
    config: FollowerConfig,
    number: Option<u64>,
    position: Option<Position>,
    applications: HashMap<AppName, catalog::Application>,
    models: HashMap<ModelName, Model>,
    application_handles: HashMap<AppName, ApplicationHandle>,
    /// The registered versions, each of which has a queue.
    served: HashMap<ModelId, ModelHandle>,
    /// Queues that were told of another sizing, each done once its containers are given batches of it.
    resized: Vec<Pin<Box<Request<ModelQueue, Resize>>>>,
    /// How many queues there have been.
    queues: u64,
    /// The containers by queue and replica, withdrawn queues included. No queue is without one.
    containers: HashMap<u64, BTreeMap<u32, ConnectedContainer>>,
    /// This actor, for the queues' actors that it starts.
    observer: Option<Recipient<ContainerChanged>>,
    /// Told once the first snapshot is in force.
    followed: Option<oneshot::Sender<()>>,
    /// Told once the last container has left, while standing down.
    emptied: Option<oneshot::Sender<()>>,
    wait: Option<SpawnHandle>,
    pause: Duration,
    /// The time of the last call.
    called: Instant,
    /// Reports changed containers once [`REPORT_PAUSE`] is over.
    report: Option<SpawnHandle>,
}

/// Withdraw every model; the sender is told when no container is left.
#[derive(Message)]
#[rtype(result = "()")]
pub struct StandDown(pub oneshot::Sender<()>);

impl Follower {
    /// A follower that knows nothing yet; `followed` is told once it does.
    pub fn new(
        management: Arc<dyn Management>,
        directory: Arc<Directory>,
        query_ids: Arc<QueryIds>,
        cache: Arc<PredictionCache>,
        facilities: Arc<Facilities>,
        config: FollowerConfig,
        followed: oneshot::Sender<()>,
    ) -> Self {
        Self {
            management,
            directory,
            query_ids,
            cache,
            facilities,
            _part: config.essentials.part("the actor that follows management"),
            config,
            number: None,
            position: None,
            applications: HashMap::new(),
            models: HashMap::new(),
            application_handles: HashMap::new(),
            served: HashMap::new(),
            resized: Vec::new(),
            queues: 0,
            containers: HashMap::new(),
            observer: None,
            followed: Some(followed),
            emptied: None,
            wait: None,
            pause: FIRST_PAUSE,
            called: Instant::now(),
            report: None,
        }
    }

    fn follow(&mut self, ctx: &mut Context<Self>) {
        self.called = Instant::now();
        let request = FollowRequest {
            frontend: self.config.frontend,
            number: self.number,
            query_address: self.config.query_address.clone(),
            rpc_address: self.config.rpc_address.clone(),
            applied: self.position,
            known_frontends: self.directory.models.frontends.load().to_vec(),
            containers: self.containers.values().flat_map(BTreeMap::values).cloned().collect(),
        };
        let management = Arc::clone(&self.management);
        let news = async move { management.follow(request).await };
        let wait = ctx.spawn(news.into_actor(self).map(|news, follower, ctx| follower.hear(news, ctx)));
        if let Some(former) = self.wait.replace(wait) {
            ctx.cancel_future(former);
        }
    }

    /// Tells management of changed containers: at once, or when [`REPORT_PAUSE`] is over.
    fn report(&mut self, ctx: &mut Context<Self>) {
        if self.report.is_some() {
            return;
        }
        let rest = REPORT_PAUSE.saturating_sub(self.called.elapsed());
        if !rest.is_zero() {
            self.report = Some(ctx.run_later(rest, |follower, ctx| {
                follower.report = None;
                follower.report(ctx);
            }));
        } else if self.wait.is_some() {
            self.follow(ctx);
        }
    }

    fn hear(&mut self, news: Result<FollowResponse, FollowError>, ctx: &mut Context<Self>) {
        let response = match news {
            Ok(response) => response,
            Err(error) => {
                warn!(%error, pause = ?self.pause, "serving what is known");
                self.wait = Some(ctx.run_later(self.pause, Self::follow));
                self.pause = (2 * self.pause).min(LONGEST_PAUSE);
                return;
            }
        };
        self.pause = FIRST_PAUSE;
        self.number = Some(response.number);
        self.query_ids.begin(response.number);
        self.learn_frontends(response.frontends);
        self.directory.models.container_key.store(response.container_key.map(Arc::new));
        let affected = match response.update {
            Update::Snapshot { snapshot } => self.replace(snapshot),
            Update::Changes { changes } => {
                changes.into_iter().flat_map(|change| self.apply(change)).collect()
            }
        };
        let configured = self.publish(affected);
        let position = response.position;
        let answered = Instant::now();
        self.wait = None;
        configured
            .into_actor(self)
            .map(move |(), follower, ctx| {
                follower.position = Some(position);
                let progress = Progress { revision: position.revision, answered };
                follower.directory.progress.store(Some(Arc::new(progress)));
                if let Some(followed) = follower.followed.take() {
                    info!(
                        applications = follower.applications.len(),
                        models = follower.models.len(),
                        "following management"
                    );
                    // Fails only if this frontend is already shutting down.
                    let _ = followed.send(());
                }
                follower.follow(ctx);
            })
            .wait(ctx);
    }

    fn learn_frontends(&mut self, frontends: Vec<String>) {
        if **self.directory.models.frontends.load() == frontends {
            return;
        }
        let frontends = Arc::new(frontends);
        self.directory.models.frontends.store(Arc::clone(&frontends));
        for handle in self.served.values() {
            handle.actor.do_send(FrontendsChanged(Arc::clone(&frontends)));
        }
    }

    /// Takes a snapshot for all there is; the applications whose view it may alter.
    fn replace(&mut self, snapshot: Snapshot) -> HashSet<AppName> {
        let kept: HashSet<_> =
            snapshot.applications.iter().map(|application| application.name.clone()).collect();
        let gone = self.applications.keys().filter(|name| !kept.contains(*name)).cloned();
        let mut changes: Vec<_> = gone.map(|name| Change::DeleteApplication { name }).collect();
        let kept: HashSet<_> = snapshot.models.iter().map(|model| model.name.clone()).collect();
        let gone = self.models.keys().filter(|name| !kept.contains(*name)).cloned();
        changes.extend(gone.map(|name| Change::DeleteModel { name }));
        changes.extend(snapshot.models.into_iter().map(|model| Change::PutModel { model }));
        changes.extend(
            snapshot.applications.into_iter().map(|application| Change::PutApplication { application }),
        );
        changes.into_iter().flat_map(|change| self.apply(change)).collect()
    }

    /// Applies one change; the applications whose view it may alter.
    fn apply(&mut self, change: Change) -> Vec<AppName> {
        match change {
            Change::PutApplication { application } => {
                let name = application.name.clone();
                self.applications.insert(name.clone(), application);
                vec![name]
            }
            Change::DeleteApplication { name } => {
                self.applications.remove(&name);
                vec![name]
            }
            Change::PutModel { model } => {
                let name = model.name.clone();
                self.serve(&model);
                self.models.insert(name.clone(), model);
                self.linked_to(&name)
            }
            Change::DeleteModel { name } => {
                let none = Model { name: name.clone(), current_version: None, versions: BTreeMap::new() };
                self.serve(&none);
                self.models.remove(&name);
                self.linked_to(&name)
            }
        }
    }

    fn linked_to(&self, model: &ModelName) -> Vec<AppName> {
        let linked =
            self.applications.values().filter(|application| application.linked_models.contains(model));
        linked.map(|application| application.name.clone()).collect()
    }

    /// Starts queues for versions that are new, withdraws those of versions that are gone or were registered anew, and
    /// applies to the others what has changed.
    fn serve(&mut self, model: &Model) {
        self.served.retain(|id, served| {
            let kept = id.name != model.name
                || model.versions.get(&id.version).is_some_and(|spec| {
                    (spec.generation, spec.input_type) == (served.generation, served.queue.input_type())
                });
            if !kept {
                served.actor.do_send(Withdraw);
                forget(&self.cache, served.queue.number());
            }
            kept
        });
        for (version, spec) in &model.versions {
            let id = ModelId { name: model.name.clone(), version: version.clone() };
            let batch_size = spec.batch_size.unwrap_or(self.config.max_batch_size);
            let sizing = Sizing { batching: spec.batching, batch_size };
            if let Some(handle) = self.served.get_mut(&id) {
                handle.cache = spec.cache;
                if handle.sizing != sizing {
                    handle.sizing = sizing;
                    self.resized.push(Box::pin(handle.actor.send(Resize(sizing))));
                }
                continue;
            }
            self.queues += 1;
            let queue = Queue::new(self.queues, id.clone(), spec.input_type, self.config.queue_capacity);
            let queue = Arc::new(queue);
            let observer = self.observer.clone().expect("it is set at the start");
            let part = self.config.essentials.part(format!("the actor of model {id}"));
            let slots = Arc::new(Slots::new(Arc::clone(&queue), sizing, observer));
            let actor = ModelQueue::new(Arc::clone(&queue), Arc::clone(&slots), part).start();
            let generation = spec.generation;
            let handle = ModelHandle { queue, slots, actor, sizing, cache: spec.cache, generation };
            self.served.insert(id, handle);
        }
    }

    /// Makes the directory show what is known; done when each affected application has published its view, and batches
    /// are sized as they are to be.
    fn publish(&mut self, affected: HashSet<AppName>) -> impl Future<Output = ()> + 'static {
        let handles = self.served.iter().map(|(id, served)| (id.clone(), served.clone()));
        self.directory.models.versions.store(Arc::new(handles.collect()));
        let mut pending = Vec::new();
        for name in affected {
            let Some(application) = self.applications.get(&name) else {
                self.application_handles.remove(&name);
                continue;
            };
            let models = application.linked_models.iter().map(|model| self.view_of(model)).collect();
            let configure = Configure { application: application.clone(), models };
            match self.application_handles.get(&name) {
                Some(handle) => pending.push(handle.actor.send(configure)),
                None => {
                    let part = self.config.essentials.part(format!("the actor of application {name}"));
                    let handle =
                        Application::launch(configure, &self.facilities, &self.config.applications, part);
                    self.application_handles.insert(name, handle);
                }
            }
        }
        self.directory.applications.store(Arc::new(self.application_handles.clone()));
        let resized = std::mem::take(&mut self.resized);
        async move { drop(join(join_all(pending), join_all(resized)).await) }
    }

    /// The last container of a queue has left.
    fn empty(&mut self, queue: &Arc<Queue>) {
        if !self.served.values().any(|served| Arc::ptr_eq(&served.queue, queue)) {
            // Outputs that came after the withdrawal are in the cache, and nobody will ask for them.
            forget(&self.cache, queue.number());
        }
        if self.containers.is_empty()
            && let Some(emptied) = self.emptied.take()
        {
            let _ = emptied.send(());
        }
    }

    fn view_of(&self, name: &ModelName) -> ModelView {
        let current = self.models.get(name).and_then(|model| model.current_version.clone());
        let served = self.served.iter().filter(|(id, _)| id.name == *name);
        let versions = served.map(|(id, handle)| {
            let view = VersionView { queue: Arc::clone(&handle.queue), cache: handle.cache };
            (id.version.clone(), view)
        });
        let versions = versions.collect();
        ModelView { name: name.clone(), current, versions }
    }
}

/// Forgets what a withdrawn version has answered: on a thread of its own, as the whole cache is looked through.
fn forget(cache: &Arc<PredictionCache>, queue: u64) {
    let cache = Arc::clone(cache);
    actix_rt::task::spawn_blocking(move || cache.forget(queue));
}

impl Actor for Follower {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.observer = Some(ctx.address().recipient());
        self.follow(ctx);
    }
}

impl Handler<ContainerChanged> for Follower {
    type Result = ();

    fn handle(&mut self, changed: ContainerChanged, ctx: &mut Self::Context) {
        let ContainerChanged { queue, replica, container } = changed;
        match (self.containers.entry(queue.number()), container) {
            (of_queue, Some(container)) => {
                of_queue.or_default().insert(replica, container);
            }
            (Entry::Occupied(mut of_queue), None) => {
                of_queue.get_mut().remove(&replica);
                if of_queue.get().is_empty() {
                    of_queue.remove();
                    self.empty(&queue);
                }
            }
            (Entry::Vacant(_), None) => {}
        }
        self.report(ctx);
    }
}

impl Handler<StandDown> for Follower {
    type Result = ();

    fn handle(&mut self, StandDown(emptied): StandDown, _: &mut Self::Context) {
        for handle in self.served.values() {
            handle.actor.do_send(Withdraw);
        }
        if self.containers.is_empty() {
            let _ = emptied.send(());
        } else {
            self.emptied = Some(emptied);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use clipper_rpc::catalog::{ExchangeError, ModelVersionSpec};
    use clipper_rpc::input::{Input, InputType};
    use clipper_rpc::output::Output;
    use clipper_rpc::selection::{ExchangeRequest, ExchangeResponse};
    use futures_util::FutureExt;
    use futures_util::future::{self, BoxFuture};

    use super::*;
    use crate::computation::cache::Source;
    use crate::selection::tests::facilities;

    /// Answers each call with the next update, and never again after the last.
    struct Script(Mutex<Vec<Update>>);

    impl Management for Script {
        fn follow(&self, request: FollowRequest) -> BoxFuture<'_, Result<FollowResponse, FollowError>> {
            let mut updates = self.0.lock().unwrap();
            if updates.is_empty() {
                return future::pending().boxed();
            }
            let update = updates.remove(0);
            let revision = request.applied.map_or(1, |applied| applied.revision + 1);
            let position = Position { run: Uuid::nil(), revision };
            let frontends = Vec::new();
            let response = FollowResponse { number: 0, position, update, frontends, container_key: None };
            future::ready(Ok(response)).boxed()
        }

        fn exchange(&self, _: ExchangeRequest) -> BoxFuture<'_, Result<ExchangeResponse, ExchangeError>> {
            future::pending().boxed()
        }
    }

    fn snapshot(input_type: InputType) -> Update {
        let spec = ModelVersionSpec {
            input_type,
            labels: Vec::new(),
            container_name: String::new(),
            model_data_path: String::new(),
            batch_size: None,
            batching: clipper_rpc::catalog::Batching::default(),
            cache: true,
            generation: 0,
        };
        let version: clipper_rpc::names::ModelVersion = "1".parse().unwrap();
        let model = Model {
            name: "m".parse().unwrap(),
            current_version: Some(version.clone()),
            versions: BTreeMap::from([(version, spec)]),
        };
        Update::Snapshot { snapshot: Snapshot { applications: Vec::new(), models: vec![model] } }
    }

    #[actix::test]
    async fn a_version_that_a_snapshot_shows_to_be_another_now_gets_another_queue() {
        let directory = Arc::new(Directory::default());
        let script = Script(Mutex::new(vec![snapshot(InputType::Doubles), snapshot(InputType::Ints)]));
        let (followed, first_snapshot) = oneshot::channel();
        let config = FollowerConfig {
            frontend: Uuid::nil(),
            applications: Arbiter::current(),
            query_address: String::new(),
            rpc_address: String::new(),
            queue_capacity: Capacity { queries: 1, bytes: 1 },
            max_batch_size: 1,
            essentials: Essentials::default(),
        };
        let facilities = Arc::new(facilities());
        let (directory_of_follower, cache) = (Arc::clone(&directory), Arc::new(PredictionCache::new(0)));
        let follower = Follower::new(
            Arc::new(script),
            directory_of_follower,
            Arc::default(),
            cache,
            facilities,
            config,
            followed,
        )
        .start();
        first_snapshot.await.unwrap();
        let id = ModelId { name: "m".parse().unwrap(), version: "1".parse().unwrap() };
        while directory.models.versions.load()[&id].queue.input_type() != InputType::Ints {
            tokio::task::yield_now().await;
        }
        drop(follower);
    }

    #[actix::test]
    async fn what_a_withdrawn_queue_still_answered_is_forgotten_once_its_last_container_has_left() {
        let cache = Arc::new(PredictionCache::new(1 << 20));
        let id = ModelId { name: "m".parse().unwrap(), version: "1".parse().unwrap() };
        let capacity = Capacity { queries: 1, bytes: 1 };
        let withdrawn = Arc::new(Queue::new(7, id, InputType::Strings, capacity));
        let key = cache.key(7, Input::string("x"));
        let source = Arc::new(Source::new(Arc::clone(withdrawn.metrics())));
        cache.insert(&key, &Output::text("1"), &source);
        let config = FollowerConfig {
            frontend: Uuid::nil(),
            applications: Arbiter::current(),
            query_address: String::new(),
            rpc_address: String::new(),
            queue_capacity: capacity,
            max_batch_size: 1,
            essentials: Essentials::default(),
        };
        let management = Arc::new(Script(Mutex::default()));
        let (followed, _) = oneshot::channel();
        let known = Arc::clone(&cache);
        let facilities = Arc::new(facilities());
        let follower =
            Follower::new(management, Arc::default(), Arc::default(), known, facilities, config, followed)
                .start();
        let changed = |container| ContainerChanged { queue: Arc::clone(&withdrawn), replica: 3, container };
        follower.send(changed(Some(container()))).await.unwrap();
        assert!(cache.get(&key).is_some());
        follower.send(changed(None)).await.unwrap();
        while cache.get(&key).is_some() {
            tokio::task::yield_now().await;
        }
    }
    /// Answers no call, and remembers how many containers each named.
    #[derive(Default)]
    struct Silent(Mutex<Vec<usize>>);

    impl Management for Silent {
        fn follow(&self, request: FollowRequest) -> BoxFuture<'_, Result<FollowResponse, FollowError>> {
            self.0.lock().unwrap().push(request.containers.len());
            future::pending().boxed()
        }

        fn exchange(&self, _: ExchangeRequest) -> BoxFuture<'_, Result<ExchangeResponse, ExchangeError>> {
            future::pending().boxed()
        }
    }

    fn container() -> ConnectedContainer {
        ConnectedContainer {
            model: ModelId { name: "m".parse().unwrap(), version: "1".parse().unwrap() },
            replica: 0,
            instance: None,
            input_type: InputType::Strings,
            batch_size: 1,
        }
    }

    #[actix::test]
    async fn a_burst_of_connections_is_reported_at_once_and_not_one_by_one() {
        const CONTAINERS: u32 = 1000;
        let management = Arc::new(Silent::default());
        let capacity = Capacity { queries: 1, bytes: 1 };
        let config = FollowerConfig {
            frontend: Uuid::nil(),
            applications: Arbiter::current(),
            query_address: String::new(),
            rpc_address: String::new(),
            queue_capacity: capacity,
            max_batch_size: 1,
            essentials: Essentials::default(),
        };
        let (followed, _) = oneshot::channel();
        let follower = Follower::new(
            Arc::clone(&management) as Arc<dyn Management>,
            Arc::default(),
            Arc::default(),
            Arc::new(PredictionCache::new(0)),
            Arc::new(facilities()),
            config,
            followed,
        )
        .start();
        let queue = Arc::new(Queue::new(1, container().model, InputType::Strings, capacity));
        for replica in 0..CONTAINERS {
            let changed =
                ContainerChanged { queue: Arc::clone(&queue), replica, container: Some(container()) };
            follower.send(changed).await.unwrap();
        }
        while management.0.lock().unwrap().last() != Some(&(CONTAINERS as usize)) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let calls = management.0.lock().unwrap().len();
        assert!(calls < CONTAINERS as usize / 2, "{calls} calls");
    }
}
