//! The actor of one replica: keeps its process running, as its [`Lifecycle`] says, until it is told to stop.
//!
//! Invariant: the actor, and with it the channel of its [`Snapshot`]s, lives exactly as long as something of the
//! replica may run. To wait until a replica is gone is to wait until that channel closes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use actix_rt::ArbiterHandle;
use clipper_server::EssentialPart;
use tokio::sync::{Semaphore, oneshot, watch};
use tracing::{info, warn};
use uuid::Uuid;

use super::deployments::Deployment;
use super::lifecycle::{Exit, Lifecycle, Order, Seen};
use super::output::Output;
use super::process::{self, Launch};
use super::status::{ReplicaState, ReplicaStatus};
use super::{Config, Frontends};

/// How many of its last lines a replica's status shows.
const STATUS_LINES: usize = 20;

/// What the replicas of a host share.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) config: Config,
    /// Where their actors run.
    pub(super) arbiter: ArbiterHandle,
    /// A permit for each process that may be on its way at once.
    pub(super) starts: Arc<Semaphore>,
}

/// How a replica is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Snapshot {
    pub(super) state: ReplicaState,
    pub(super) reason: Option<String>,
    /// Exits in a row without having been ready.
    pub(super) futile_exits: u32,
    pub(super) restarts: u32,
    /// How its latest process ended.
    pub(super) last_exit: Option<Exit>,
    pub(super) instance: Option<String>,
    pub(super) pid: Option<u32>,
}

/// What is needed to watch a replica and to stop it. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct ReplicaHandle {
    pub(super) number: u32,
    pub(super) output: Output,
    pub(super) snapshots: watch::Receiver<Snapshot>,
    address: Addr<Replica>,
}

impl ReplicaHandle {
    /// Starts a replica.
    pub(super) fn start(host: &Host, deployment: &Deployment, number: u32, frontends: Frontends) -> Self {
        let Host { arbiter, config, starts } = host;
        let launch = Launch::new(config, deployment, number, Arc::clone(starts));
        let output = Output::new(launch.log_file.clone(), config.log_bytes);
        let lifecycle = Lifecycle::new(deployment.spec.startup_timeout.get());
        let (sender, snapshots) = watch::channel(Snapshot {
            state: lifecycle.state(),
            reason: lifecycle.reason(),
            futile_exits: 0,
            restarts: 0,
            last_exit: None,
            instance: None,
            pid: None,
        });
        let replica = Replica {
            launch: Arc::new(launch),
            lifecycle,
            output: output.clone(),
            frontends,
            process: None,
            last_exit: None,
            timer: None,
            stopping: false,
            snapshots: sender,
            part: config
                .essentials
                .part(format!("the actor of replica {number} of {}", deployment.spec.model)),
        };
        let address = Replica::start_in_arbiter(arbiter, |_| replica);
        Self { number, output, snapshots, address }
    }

    /// Tells it which frontends there are, and whom they see.
    pub(super) fn observe(&self, frontends: Frontends) {
        self.address.do_send(Observe(frontends));
    }

    /// Has it try again, if it has failed; returns when that shows.
    pub(super) async fn retry(&self) {
        // One that has gone shows that, too.
        let _ = self.address.send(Retry).await;
    }

    /// Has it end its process and itself.
    pub(super) fn stop(&self) {
        self.address.do_send(Stop);
    }

    /// Waits until nothing of it runs.
    pub(super) async fn gone(mut self) {
        while self.snapshots.changed().await.is_ok() {}
    }

    pub(super) fn is_gone(&self) -> bool {
        self.snapshots.has_changed().is_err()
    }

    pub(super) fn has_failed(&self) -> bool {
        self.snapshots.borrow().state == ReplicaState::Failed
    }

    pub(super) fn status(&self) -> ReplicaStatus {
        let Snapshot { state, reason, restarts, instance, pid, .. } = self.snapshots.borrow().clone();
        ReplicaStatus {
            replica_id: self.number,
            instance,
            state,
            pid,
            restarts,
            last_lines: self.output.quoted_lines(STATUS_LINES),
            reason,
        }
    }
}

/// The actor.
#[derive(Debug)]
struct Replica {
    launch: Arc<Launch>,
    lifecycle: Lifecycle,
    output: Output,
    /// As last observed.
    frontends: Frontends,
    /// The process, while it runs.
    process: Option<Process>,
    last_exit: Option<Exit>,
    /// Wakes the actor at the lifecycle's deadline.
    timer: Option<SpawnHandle>,
    stopping: bool,
    snapshots: watch::Sender<Snapshot>,
    /// Reports an end of this actor that nobody asked for.
    part: EssentialPart,
}

#[derive(Debug)]
struct Process {
    instance: String,
    /// Known once the guard has reported it.
    pid: Option<u32>,
    /// Ends the process when sent or dropped. `None` once that has been done.
    terminate: Option<oneshot::Sender<()>>,
}

/// Which frontends there are, and whom they see.
#[derive(Message)]
#[rtype(result = "()")]
struct Observe(Frontends);

/// The process runs, under this id.
#[derive(Message)]
#[rtype(result = "()")]
struct Started(u32);

/// Try again, in spite of having failed.
#[derive(Message)]
#[rtype(result = "()")]
struct Retry;

/// End the process and yourself.
#[derive(Message)]
#[rtype(result = "()")]
struct Stop;

impl Actor for Replica {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        self.advance(ctx);
    }

    /// Not called after a panic.
    fn stopped(&mut self, _: &mut Context<Self>) {
        self.part.finish();
    }
}

impl Handler<Observe> for Replica {
    type Result = ();

    fn handle(&mut self, Observe(frontends): Observe, ctx: &mut Context<Self>) {
        self.frontends = frontends;
        self.advance(ctx);
    }
}

impl Handler<Started> for Replica {
    type Result = ();

    fn handle(&mut self, Started(pid): Started, ctx: &mut Context<Self>) {
        if let Some(process) = &mut self.process {
            info!(model = %self.launch.model, replica = self.launch.number, pid, "replica started");
            process.pid = Some(pid);
            self.lifecycle.started(Instant::now());
            // A frontend may have seen it before the guard's report was read.
            self.advance(ctx);
        }
    }
}

impl Handler<Retry> for Replica {
    type Result = ();

    fn handle(&mut self, _: Retry, ctx: &mut Context<Self>) {
        self.lifecycle.retry();
        self.last_exit = None;
        self.advance(ctx);
    }
}

impl Handler<Stop> for Replica {
    type Result = ();

    fn handle(&mut self, _: Stop, ctx: &mut Context<Self>) {
        if std::mem::replace(&mut self.stopping, true) {
            return;
        }
        match &mut self.process {
            Some(process) => process.terminate = None,
            None => self.leave(ctx),
        }
    }
}

impl Replica {
    /// Does what the lifecycle asks for now, and arranges to be woken when it may ask for more.
    fn advance(&mut self, ctx: &mut Context<Self>) {
        if self.stopping {
            return;
        }
        let now = Instant::now();
        match self.lifecycle.advance(now, self.seen()) {
            Some(Order::Start) => self.start_process(ctx),
            Some(Order::End) => {
                if let Some(process) = &mut self.process {
                    process.terminate = None;
                }
            }
            None => {}
        }
        if let Some(timer) = self.timer.take() {
            ctx.cancel_future(timer);
        }
        self.timer = self.lifecycle.deadline().map(|deadline| {
            // Timers count in milliseconds: one more, lest it be woken just before the deadline and over and over.
            let delay = deadline.saturating_duration_since(now) + Duration::from_millis(1);
            ctx.run_later(delay, |replica, ctx| {
                replica.timer = None;
                replica.advance(ctx);
            })
        });
        self.publish();
    }

    /// Where the present process is seen, once its id is known: whoever reads that it is ready may want that, too.
    fn seen(&self) -> Seen {
        let known = self.process.as_ref().filter(|process| process.pid.is_some());
        let instance = known.map(|process| process.instance.as_str());
        let connected =
            |instance| self.frontends.iter().filter(|view| view.instances.contains(instance)).count();
        Seen { frontends: self.frontends.len(), connected: instance.map_or(0, connected) }
    }

    fn start_process(&mut self, ctx: &mut Context<Self>) {
        let instance = Uuid::new_v4().to_string();
        let (terminate, terminated) = oneshot::channel();
        self.process = Some(Process { instance: instance.clone(), pid: None, terminate: Some(terminate) });
        let frontends: Vec<String> = self.frontends.iter().map(|view| view.rpc_address.clone()).collect();
        let (launch, output, address) = (Arc::clone(&self.launch), self.output.clone(), ctx.address());
        let run = async move {
            let started = |pid| address.do_send(Started(pid));
            process::run(&launch, &instance, &frontends, &output, terminated, started).await
        };
        ctx.spawn(run.into_actor(self).map(|exit, replica, ctx| replica.exited(exit, ctx)));
    }

    fn exited(&mut self, exit: Exit, ctx: &mut Context<Self>) {
        self.process = None;
        if self.stopping {
            info!(model = %self.launch.model, replica = self.launch.number, "replica stopped");
            return self.leave(ctx);
        }
        self.lifecycle.exited(Instant::now(), &exit);
        let reason = self.lifecycle.reason().unwrap_or_default();
        warn!(model = %self.launch.model, replica = self.launch.number, %exit, %reason, "replica ended");
        self.last_exit = Some(exit);
        self.advance(ctx);
    }

    /// Clears away the working directory, and ends the actor.
    fn leave(&mut self, ctx: &mut Context<Self>) {
        let launch = Arc::clone(&self.launch);
        let removal = async move {
            let removed = tokio::fs::remove_dir_all(&launch.work_dir).await;
            if let Err(error) = removed.or_else(|error| match error.kind() {
                std::io::ErrorKind::NotFound => Ok(()),
                _ => Err(error),
            }) {
                warn!(path = %launch.work_dir.display(), %error, "working directory of a replica cannot be removed");
            }
        };
        ctx.spawn(removal.into_actor(self).map(|(), _, ctx| ctx.stop()));
    }

    fn publish(&self) {
        let snapshot = Snapshot {
            state: self.lifecycle.state(),
            reason: self.lifecycle.reason(),
            futile_exits: self.lifecycle.futile_exits(),
            restarts: self.lifecycle.restarts(),
            last_exit: self.last_exit.clone(),
            instance: self.process.as_ref().map(|process| process.instance.clone()),
            pid: self.process.as_ref().and_then(|process| process.pid),
        };
        self.snapshots.send_if_modified(|current| {
            let changed = *current != snapshot;
            if changed {
                *current = snapshot;
            }
            changed
        });
    }
}
