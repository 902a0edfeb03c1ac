//! Takes a running frontend apart: in order, and each step within a time of its own.
//!
//! Called by the frontend once it is told to end. Invariant: a step that takes too long is logged and does not keep the
//! steps after it from being taken, so that the whole ends in time. `docs/limits.md` lists the times.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actix::{Addr, Arbiter};
use actix_rt::task::{JoinHandle, spawn_blocking};
use actix_web::dev::ServerHandle;
use clipper_rpc::router::RouterHandle;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::management::follower::{Follower, StandDown};
use crate::selection::Facilities;

/// Time for HTTP workers to close the connections whose requests have not finished in time.
const CLOSING: Duration = Duration::from_secs(1);
/// Time for all containers to leave. Each connection gives its container half of it.
const CONTAINERS: Duration = Duration::from_secs(2);
/// Time for the router to end.
const ROUTER: Duration = Duration::from_secs(1);
/// Time for management to store what was learned last.
const LAST_EXCHANGE: Duration = Duration::from_secs(3);
/// Time for the last entries of the decision log to be written.
const LAST_ENTRIES: Duration = Duration::from_secs(5);

/// The parts of a frontend that must be told that it ends.
pub(crate) struct Running {
    pub(crate) http: ServerHandle,
    pub(crate) server: JoinHandle<io::Result<()>>,
    /// Time for requests to finish.
    pub(crate) drain: Duration,
    pub(crate) follower: Addr<Follower>,
    /// `None` while containers are not served yet.
    pub(crate) router: Option<RunningRouter>,
    /// Has the exchange store what was learned last, and say so.
    pub(crate) exchange: oneshot::Sender<oneshot::Sender<()>>,
    pub(crate) facilities: Arc<Facilities>,
    pub(crate) arbiters: [Arbiter; 2],
}

/// A router, and its end.
pub(crate) struct RunningRouter {
    pub(crate) handle: RouterHandle,
    /// Has containers that register turned away.
    pub(crate) stopping: Arc<AtomicBool>,
    pub(crate) ended: oneshot::Receiver<()>,
}

impl Running {
    /// Finishes what was accepted, and ends every part.
    ///
    /// # Errors
    /// If the HTTP server has failed.
    pub(crate) async fn stop(self) -> io::Result<()> {
        let Self { http, server, drain, follower, router, exchange, facilities, arbiters } = self;
        info!("frontend stopping");
        if let Some(router) = &router {
            router.stopping.store(true, Ordering::Relaxed);
        }
        within(drain + CLOSING, "requests", http.stop(true)).await;
        if let Some(RunningRouter { handle, ended, .. }) = router {
            let (emptied, all_gone) = oneshot::channel();
            follower.do_send(StandDown(emptied));
            within(CONTAINERS, "containers", all_gone).await;
            handle.shut_down();
            within(ROUTER, "the router of the container port", ended).await;
        }
        let (finished, exchanged) = oneshot::channel();
        if exchange.send(finished).is_ok() {
            within(LAST_EXCHANGE, "management to store what was learned last", exchanged).await;
        }
        let flush = move || facilities.log.as_ref().map_or(Ok(()), |log| log.flush(LAST_ENTRIES));
        if let Ok(Err(error)) = spawn_blocking(flush).await {
            warn!("{error}, and are lost");
        }
        stop_all(&arbiters);
        // It has ended with the requests, unless a worker is stuck.
        match timeout(CLOSING, server).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) | Err(_) => Ok(()),
        }
    }

    /// Ends every part at once.
    pub(crate) fn abandon(self) {
        // The order is given here, and its end not waited for.
        drop(self.http.stop(false));
        stop_all(&self.arbiters);
    }
}

fn stop_all(arbiters: &[Arbiter]) {
    for arbiter in arbiters {
        arbiter.stop();
    }
}

async fn within<T>(limit: Duration, whom: &str, step: impl Future<Output = T>) {
    if timeout(limit, step).await.is_err() {
        warn!(?limit, "shutdown waits no longer for {whom}");
    }
}
