//! The management process of a cluster: what it serves, kept on disk, told to every frontend, and run as
//! processes.
//!
//! # Layout
//! - `applications`, `models`, `deployments`: what can be done to each, as pure functions from the [`catalog`]
//!   to an edit of it, or to a [`refusal`]; `bounds`: how large the records may be;
//!   `bounded`: a queue of bounded memory.
//! - [`writer`]: the one thread that edits the catalog; `store`: the catalog on disk; `database`: how that and the
//!   states of the next line are; `lock`: one process a directory.
//! - [`selection_state`]: what frontends learn of the models, and tell each other.
//! - [`feed`], `frontends`, [`follow`]: the recent changes, who follows them, and the long poll by which they do.
//! - [`deployment`], [`guard`]: the processes of deployed models.
//! - `container_key`: the key of the tokens by which these register with frontends.
//! - [`backup`]: the whole of it in a folder, and a data directory of that.
//! - `admin`: what takes more than one of these; `http`: all of it over HTTP; `access`: who may call it.
//!
//! A change goes `http` → `admin` → `writer` (decide, write, fsync) → `feed` → each frontend's `follow` →
//! `frontends` (acknowledged) → the answer.

use std::ffi::OsString;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clipper_server::Essentials;
use tokio::time::timeout;

pub use access::{Access, SameToken, Tokens};
pub use error::{EditError, OpenError, RunError, StoreError};

use crate::admin::Admin;
use crate::deployment::{ArtifactBounds, Artifacts, Deployments, Owner};
use crate::follow::Follow;
use crate::frontends::Frontends;
use crate::http::Uploads;
use crate::selection_state::SelectionStates;
use crate::writer::Writer;

mod access;
mod admin;
pub mod applications;
pub mod backup;
mod bounded;
mod bounds;
pub mod catalog;
mod container_key;
mod database;
pub mod deployment;
pub mod deployments;
mod error;
pub mod feed;
pub mod follow;
mod frontend_numbers;
pub mod frontends;
pub mod guard;
mod http;
mod lock;
pub mod models;
pub mod refusal;
pub mod selection_state;
mod store;
pub mod writer;

/// Time for the last of the databases to be written at shutdown.
const CLOSE_TIME: Duration = Duration::from_secs(10);

/// How management runs.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where everything is kept. Created if it is missing.
    pub data_dir: PathBuf,
    /// The interpreter of Python container kinds, where a deployment names none.
    pub python: PathBuf,
    /// A program and its arguments that run [`guard::main`]; a replica's command follows them.
    pub guard: Vec<OsString>,
    /// The longest upload of a model's files, in bytes; as long may they be when unpacked.
    pub max_artifact_bytes: u64,
    /// Who may call the admin interface.
    pub access: Access,
    /// The most that all artifacts may take, in bytes: archives and unpacked files.
    pub artifacts_bytes: u64,
    /// The most that uploads may take that no deployment names yet, in bytes.
    pub uploads_bytes: u64,
    /// The most users, of all applications, of whom something is learned.
    pub selection_users: u64,
    /// How long a connection of a client stays open between two requests.
    pub keep_alive: Duration,
}

/// Management on an open data directory.
pub struct Management {
    config: Config,
    essentials: Essentials,
    follow: Follow,
    artifacts: Artifacts,
    uploads: Uploads,
}

impl Management {
    /// Locks and opens the data directory, and removes what was only half there when its last process ended.
    ///
    /// # Errors
    /// One clear line: see [`OpenError`].
    pub async fn open(config: Config) -> Result<Self, OpenError> {
        backup::check_not_restoring(&config.data_dir)?;
        let essentials = Essentials::default();
        let part = essentials.part("the thread that writes the catalog");
        let (writer, feed) = Writer::open(config.data_dir.clone(), part).await?;
        let abandoned = writer.edit(|catalog| Ok(((), deployments::abandon_all(catalog)))).await;
        abandoned.map_err(|error| OpenError::corrupt(&config.data_dir, error.to_string()))?;

        let used = admin::artifacts_of(&feed.catalog());
        let opened = config.clone();
        let owner = Owner { store: feed.store(), has_history: feed.catalog().revision > 0 };
        let folders = move || {
            let bounds = ArtifactBounds {
                max_bytes: opened.max_artifact_bytes,
                artifacts_bytes: opened.artifacts_bytes,
                uploads_bytes: opened.uploads_bytes,
            };
            let artifacts = Artifacts::open(&opened.data_dir, bounds, owner, &used)?;
            Ok((artifacts, Uploads::open(opened.data_dir.join("uploads"), opened.max_artifact_bytes)?))
        };
        let (artifacts, uploads) =
            admin::blocking(folders).await.map_err(|error| OpenError::unreadable(&config.data_dir, error))?;
        let data_dir = config.data_dir.clone();
        let part = essentials.part("the thread that stores what is learned");
        let states =
            SelectionStates::open(data_dir.clone(), feed.clone(), config.selection_users, part).await?;
        let container_key = admin::blocking(move || container_key::open(&data_dir)).await?;
        let follow = Follow { writer, feed, frontends: Frontends::default(), states, container_key };
        Ok(Self { config, essentials, follow, artifacts, uploads })
    }

    /// For a frontend in the same process.
    pub fn follower(&self) -> Arc<dyn clipper_rpc::catalog::Management> {
        Arc::new(self.follow.clone())
    }

    /// Serves the admin interface and runs the deployments until `shutdown`; then lets requests finish, stops
    /// every process, closes the database and unlocks the directory. Must be called within an actix system.
    ///
    /// # Errors
    /// If the interface cannot be served, the last of the database not be written, or an essential part ends. The
    /// process is to end then: guards end the replicas with it.
    pub async fn run(
        self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), RunError> {
        let Self { config, essentials, follow, artifacts, uploads } = self;
        let Follow { writer, frontends, feed, states, container_key } = follow.clone();
        let deployments = Deployments::start(deployment::Config {
            essentials: essentials.clone(),
            ..deployment::Config::new(config.data_dir, config.python, config.guard, container_key)
        });
        let catalog = feed.catalog();
        deployments.sweep_logs(&catalog.deployments.keys().cloned().collect()).await;
        deployments.restore(catalog.deployed()).await;

        let admin = Admin { follow, deployments: deployments.clone(), artifacts };
        let server = http::server(listener, config.keep_alive, config.access, admin.clone(), uploads)?;
        let handle = server.handle();
        let serve = async {
            let mut server = std::pin::pin!(server);
            tokio::select! {
                result = &mut server => {
                    deployments.shutdown().await;
                    return Ok(result?);
                }
                part = essentials.part_ended() => return Err(part.into()),
                () = shutdown => {}
            }
            // Long polls and deployments under way end at once; everything else has time to finish.
            frontends.close();
            let (result, (), ()) = tokio::join!(server, handle.stop(true), deployments.shutdown());
            Ok(result?)
        };
        let supervise = frontends.supervise(|views| deployments.observe(views));
        let served = tokio::select! {
            result = serve => result,
            () = supervise => Ok(()),
            () = states.supervise(&feed) => Ok(()),
            () = admin.supervise_artifacts() => Ok(()),
        };
        if matches!(served, Err(RunError::PartEnded(_))) {
            // What follows may wait for that part.
            return served;
        }
        let close = async {
            // The writer holds the directory's lock, so it is the last.
            let states_closed = states.close().await;
            writer.close().await?;
            Ok(states_closed?)
        };
        let closed = timeout(CLOSE_TIME, close).await.unwrap_or(Err(RunError::Stuck(CLOSE_TIME)));
        served.and(closed)
    }
}
