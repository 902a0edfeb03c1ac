//! What each role of a process starts, and in which order it stops.
//!
//! Invariant: `addresses.json` is there exactly while a process listens on what it says, unless the process was killed.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};

use clipper_frontend::{Capacity, DecisionLogConfig, Frontend, ManagementClient};
use clipper_management::{Access, Management, Tokens};
use clipper_server::door::Door;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::Serialize;
use tempfile::NamedTempFile;
use tokio::sync::oneshot;
use tracing::{debug, warn};

use crate::settings::{FrontendSettings, HttpSettings, ManagementSettings, Role, ShutdownSettings};
use crate::signals::Shutdown;
use crate::{backup, bench, offline, tokens};

/// The first argument of a process that guards another; its command follows.
pub const GUARD: &str = "guard";

/// The most time that a frontend's requests have to finish at shutdown.
const LONGEST_DRAIN: Duration = Duration::from_secs(30);

/// Runs a role until a signal asks for its end.
///
/// # Errors
/// If it cannot start, or fails.
pub async fn run(role: Role) -> anyhow::Result<()> {
    let on_signals = |limit| Shutdown::on_signals(limit).context("cannot receive signals");
    match role {
        // A signal ends them at once: they leave nothing behind.
        Role::Replay { replay } => offline::replay::run(&replay),
        Role::Evaluate { evaluate } => offline::evaluate::run(&evaluate),
        Role::Export { export } => offline::export::run(&export),
        Role::Backup { backup } => backup::back_up(backup).await,
        Role::Restore { restore } => backup::bring_back(&restore),
        Role::Start { management, frontend, http, shutdown } => {
            allow_connections();
            let signals = on_signals(Some(shutdown.limit()))?;
            run_cluster(management, frontend, http, shutdown, signals).await
        }
        Role::Management { management, http, shutdown } => {
            allow_connections();
            run_management(management, http, on_signals(Some(shutdown.limit()))?).await
        }
        Role::Frontend { management_url, cluster_token_file, frontend, http, shutdown } => {
            allow_connections();
            let token = tokens::CLUSTER.read(cluster_token_file.as_deref())?;
            let management = ManagementClient::new(&management_url, token)?;
            let signals = on_signals(Some(shutdown.limit()))?;
            run_frontend(management, frontend.config(http, shutdown)?, signals).await
        }
        Role::Bench { bench } => bench::run(*bench, on_signals(None)?).await,
    }
}

/// Lets the process have as many file descriptors as it may: a connection of a client takes one, and many systems allow 1,024
/// unless they are asked.
fn allow_connections() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most).map(|()| most));
    match raised {
        Ok(descriptors) => debug!(descriptors, "raised the limit of file descriptors"),
        Err(error) => warn!(%error, "cannot raise the limit of file descriptors"),
    }
}

/// Management and a frontend in one process. The frontend stops first: while it finishes what it accepted, the
/// processes of the models still run.
async fn run_cluster(
    management: ManagementSettings,
    mut frontend: FrontendSettings,
    http: HttpSettings,
    shutdown: ShutdownSettings,
    signals: Shutdown,
) -> anyhow::Result<()> {
    let data_dir = management.data_dir.clone();
    frontend.decision_log_dir.get_or_insert_with(|| data_dir.join("decisions"));
    let admin_address = management.admin_address;
    let frontend = frontend.config(http.clone(), shutdown)?;
    let management = open(management, &http).await?;
    let frontend = Frontend::bind(frontend)?;
    let (listener, admin) = listen(admin_address)?;
    let addresses = Addresses {
        query: Some(frontend.query_address()),
        admin: Some(admin),
        rpc: Some(frontend.rpc_address()),
    };
    let _announced = addresses.announce(Some(&data_dir))?;

    let follower = management.follower();
    let (running, frontend_stopped) = oneshot::channel::<()>();
    let serve = async {
        let result = frontend.run(follower, signals.asked()).await;
        drop(running);
        result.map_err(anyhow::Error::from)
    };
    let manage = async {
        let stop = async {
            let _ = frontend_stopped.await;
        };
        Ok(management.run(listener, stop).await?)
    };
    tokio::try_join!(serve, manage)?;
    Ok(())
}

async fn run_management(
    settings: ManagementSettings,
    http: HttpSettings,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let data_dir = settings.data_dir.clone();
    let admin_address = settings.admin_address;
    let management = open(settings, &http).await?;
    let (listener, admin) = listen(admin_address)?;
    let _announced = Addresses { admin: Some(admin), ..Addresses::default() }.announce(Some(&data_dir))?;
    Ok(management.run(listener, shutdown.asked()).await?)
}

async fn run_frontend(
    management: ManagementClient,
    config: clipper_frontend::Config,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    if config.rpc_address.ip().is_loopback()
        && config.advertised_host.is_none()
        && !management.is_on_loopback()
    {
        warn!(
            rpc = %config.rpc_address,
            "containers on other hosts, and replicas that management starts there, do not reach this frontend: give it \
             an --rpc-address beyond loopback, such as 0.0.0.0:7000"
        );
    }
    let frontend = Frontend::bind(config)?;
    let addresses = Addresses {
        query: Some(frontend.query_address()),
        rpc: Some(frontend.rpc_address()),
        ..Addresses::default()
    };
    let _announced = addresses.announce(None)?;
    Ok(frontend.run(Arc::new(management), shutdown.asked()).await?)
}

async fn open(settings: ManagementSettings, http: &HttpSettings) -> anyhow::Result<Management> {
    let admin = tokens::ADMIN.read(settings.admin_token_file.as_deref())?;
    let cluster = tokens::CLUSTER.read(settings.cluster_token_file.as_deref())?;
    let tokens = Tokens::new(admin, cluster)?;
    let address = settings.admin_address;
    if !address.ip().to_canonical().is_loopback() && !tokens.has_admin() && !settings.insecure_management {
        bail!(
            "management would answer everybody on {address}, and whoever it answers runs commands on this host: \
             give it a token with --admin-token-file, or --insecure-management if only operators reach that address"
        );
    }
    let door = Door::of_management(http.allowed_hosts.clone(), settings.allowed_origins);
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    Ok(Management::open(clipper_management::Config {
        data_dir: settings.data_dir,
        python: settings.python,
        guard: vec![program.into(), GUARD.into()],
        max_artifact_bytes: settings.max_artifact_bytes,
        access: Access::new(door, tokens),
        artifacts_bytes: settings.artifacts_bytes,
        uploads_bytes: settings.uploads_bytes,
        selection_users: settings.selection_users,
        keep_alive: http.keep_alive(),
    })
    .await?)
}

fn listen(address: SocketAddr) -> anyhow::Result<(TcpListener, SocketAddr)> {
    let bound = TcpListener::bind(address).and_then(|listener| {
        let address = listener.local_addr()?;
        Ok((listener, address))
    });
    bound.with_context(|| format!("cannot listen for operators on {address}"))
}

/// Where a process listens, with the ports that were picked.
#[derive(Debug, Default, Serialize)]
struct Addresses {
    #[serde(skip_serializing_if = "Option::is_none")]
    query: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    admin: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rpc: Option<SocketAddr>,
}

impl Addresses {
    /// Prints them, a line each, and writes them to the data directory, if there is one.
    fn announce(&self, data_dir: Option<&Path>) -> anyhow::Result<Option<AddressFile>> {
        let mut stdout = std::io::stdout().lock();
        let named = [("query", self.query, "http"), ("admin", self.admin, "http"), ("rpc", self.rpc, "tcp")];
        for (name, address, scheme) in named {
            if let Some(address) = address {
                // Nobody has to read it.
                let _ = writeln!(stdout, "{name} {scheme}://{address}");
            }
        }
        let _ = stdout.flush();
        data_dir.map(|data_dir| AddressFile::write(self, data_dir)).transpose()
    }
}

/// `addresses.json`, removed when the process ends in order.
struct AddressFile(PathBuf);

impl AddressFile {
    fn write(addresses: &Addresses, data_dir: &Path) -> anyhow::Result<Self> {
        let path = data_dir.join("addresses.json");
        let write = || -> std::io::Result<()> {
            let mut file = NamedTempFile::new_in(data_dir)?;
            serde_json::to_writer(&mut file, addresses)?;
            file.persist(&path)?;
            Ok(())
        };
        write().with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for AddressFile {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            warn!(%error, file = %self.0.display(), "cannot remove the address file");
        }
    }
}

impl FrontendSettings {
    /// How a frontend runs that is called by these names.
    fn config(
        self,
        http: HttpSettings,
        shutdown: ShutdownSettings,
    ) -> anyhow::Result<clipper_frontend::Config> {
        let settings = self;
        let container_token = tokens::CONTAINER.read(settings.container_token_file.as_deref())?;
        Ok(clipper_frontend::Config {
            query_address: settings.query_address,
            rpc_address: settings.rpc_address,
            container_token,
            insecure_containers: settings.insecure_containers,
            advertised_host: settings.advertised_host,
            http_workers: settings.http_workers,
            keep_alive: http.keep_alive(),
            door: Door::of_queries(http.allowed_hosts, settings.cors_origins),
            max_body_bytes: settings.max_body_bytes,
            max_inputs: settings.max_inputs,
            request_bytes: settings.request_bytes,
            queue_capacity: Capacity { queries: settings.queue_capacity, bytes: settings.queue_bytes },
            cache_bytes: settings.cache_bytes,
            decision_capacity: settings.decision_capacity,
            selection_bytes: settings.selection_bytes,
            state_flush: Duration::from_millis(settings.state_flush_millis),
            decision_log: settings.decision_log_dir.map(|directory| DecisionLogConfig {
                directory,
                file_bytes: settings.decision_log_file_bytes,
                files: settings.decision_log_files,
            }),
            max_batch_size: settings.max_batch_size,
            drain_timeout: LONGEST_DRAIN.min(shutdown.limit() / 2),
            ..clipper_frontend::Config::default()
        })
    }
}
