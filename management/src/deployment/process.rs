//! One process of a replica: what it is told, how it is started through the guard, and how it ends.
//!
//! Called by the replica's actor, on whose thread everything here waits without blocking. Invariant: when [`run`]
//! returns, nothing of the process is left; when it is dropped instead, the guard sees to that.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use clipper_rpc::names::ModelId;
use clipper_rpc::secret::Secret;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::net::unix::pipe::Receiver;
use tokio::process::{Child, Command};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;
use tracing::warn;

use super::deployments::Deployment;
use super::leftovers;
use super::lifecycle::Exit;
use super::logs;
use super::model_files::ModelFiles;
use super::output::Output;
use super::{Config, DeploymentSpec, Environment};
use crate::guard::{self, Report};

/// How long to wait for the last output of a process that is gone. Only where a guard cannot reach every descendant
/// may one hold on to the pipe.
const LAST_OUTPUT: Duration = Duration::from_secs(1);

/// Variables that may hold the cluster's tokens, or name their files. No model gets those of management.
const TOKEN_VARIABLES: [&str; 6] = [
    "CLIPPER_ADMIN_TOKEN",
    "CLIPPER_ADMIN_TOKEN_FILE",
    "CLIPPER_CLUSTER_TOKEN",
    "CLIPPER_CLUSTER_TOKEN_FILE",
    "CLIPPER_CONTAINER_TOKEN",
    "CLIPPER_CONTAINER_TOKEN_FILE",
];

/// All that stays the same from one process of a replica to the next.
#[derive(Debug)]
pub(super) struct Launch {
    pub(super) model: ModelId,
    pub(super) number: u32,
    pub(super) work_dir: PathBuf,
    pub(super) log_file: PathBuf,
    data_dir: PathBuf,
    guard: Vec<OsString>,
    command: Vec<OsString>,
    /// The deployment's copy of its artifact, to be made before a process starts.
    files: Option<Arc<ModelFiles>>,
    model_path: Option<PathBuf>,
    input_type: &'static str,
    environment: Environment,
    token: Secret,
    grace: Duration,
    starts: Arc<Semaphore>,
}

impl Launch {
    pub(super) fn new(config: &Config, deployment: &Deployment, number: u32, starts: Arc<Semaphore>) -> Self {
        let Deployment { spec, token, files, .. } = deployment;
        let DeploymentSpec { model, input_type, run, environment, model_data_path, python, .. } = spec;
        let folder =
            |kind: &str| config.data_dir.join(kind).join(model.name.as_str()).join(model.version.as_str());
        let python = located(python.as_deref().unwrap_or(&config.python));
        let copied = files.as_ref().map(|files| files.folder().to_owned());
        Self {
            model: model.clone(),
            number,
            work_dir: folder("replicas").join(number.to_string()),
            log_file: logs::folder(&config.data_dir, model).join(format!("{number}.log")),
            data_dir: config.data_dir.clone(),
            guard: config.guard.clone(),
            command: run.command_line(&python),
            files: files.clone(),
            model_path: copied.or_else(|| model_data_path.as_deref().map(absolute)),
            input_type: input_type.as_str(),
            environment: environment.clone(),
            token: token.clone(),
            grace: config.grace,
            starts,
        }
    }

    /// The program and its arguments. A path that is relative is one of the model's files if there is such a one, and
    /// begins where management runs otherwise: the directory where the replica will run is empty.
    async fn words(&self) -> Vec<OsString> {
        let mut words = self.command.clone();
        if let Some(program) = words.first_mut()
            && is_path(program.as_ref())
        {
            let of_model = self.model_path.as_ref().map(|folder| folder.join(&*program));
            *program = match of_model {
                Some(path) if tokio::fs::try_exists(&path).await.unwrap_or(false) => path.into(),
                _ => absolute(program.as_ref()).into(),
            };
        }
        words
    }

    /// A command that starts the guard, with all that a container is told by `docs/protocol.md`.
    fn command(&self, words: Vec<OsString>, instance: &str, frontends: &[String]) -> io::Result<Command> {
        let (program, arguments) =
            self.guard.split_first().ok_or_else(|| io::Error::other("no guard is configured"))?;
        let mut command = Command::new(program);
        command
            .arg0(guard::NAME)
            .args(arguments)
            .args(words)
            .current_dir(&self.work_dir)
            .process_group(0)
            .env("CLIPPER_MODEL_NAME", self.model.name.as_str())
            .env("CLIPPER_MODEL_VERSION", self.model.version.as_str())
            .env("CLIPPER_INPUT_TYPE", self.input_type)
            .env(leftovers::INSTANCE, instance)
            .env("CLIPPER_REPLICA", self.number.to_string())
            .env("PYTHONUNBUFFERED", "1")
            .env_remove("CLIPPER_MODEL_PATH");
        for variable in TOKEN_VARIABLES {
            command.env_remove(variable);
        }
        if let Some(path) = &self.model_path {
            command.env("CLIPPER_MODEL_PATH", path);
        }
        if let [first, others @ ..] = frontends
            && let Some((host, port)) = first.rsplit_once(':')
        {
            command
                .env("CLIPPER_IP", host)
                .env("CLIPPER_PORT", port)
                .env("CLIPPER_FRONTENDS", others.join(","));
        }
        command.envs(self.environment.iter());
        command
            .env(leftovers::REPLICA_OF, &self.data_dir)
            .env("CLIPPER_TOKEN", self.token.reveal())
            // A replica that was told two tokens would not start.
            .env_remove("CLIPPER_TOKEN_FILE");
        Ok(command)
    }
}

/// Runs one process to its end, which `terminate` (or its sender's disappearance) brings about. Calls `started` with
/// the process's id once it runs.
pub(super) async fn run(
    launch: &Launch,
    instance: &str,
    frontends: &[String],
    output: &Output,
    mut terminate: oneshot::Receiver<()>,
    started: impl FnOnce(u32),
) -> Exit {
    if let Some(files) = &launch.files {
        let provided = tokio::select! {
            provided = files.provide() => provided,
            _ = &mut terminate => return Exit::NotStarted("it was stopped before its files were copied".to_owned()),
        };
        if let Err(error) = provided {
            return Exit::NotStarted(format!("the model's files cannot be copied: {error}"));
        }
    }
    // Held until the guard has reported.
    let permit = tokio::select! {
        permit = launch.starts.acquire() => permit,
        _ = &mut terminate => return Exit::NotStarted("it was stopped before its turn came".to_owned()),
    };
    let guarded = match start(launch, instance, frontends).await {
        Ok(guarded) => guarded,
        Err(error) => return Exit::NotStarted(error.to_string()),
    };
    let Guarded { mut guard, owner, printed } = guarded;
    let capturing = tokio::spawn({
        let output = output.clone();
        async move { output.capture(printed).await }
    });
    let (report, hold) = owner.into_split();
    let end = async {
        tokio::select! {
            status = guard.wait() => return status,
            _ = &mut terminate => signal(&guard, Signal::SIGTERM),
        }
        if let Ok(status) = timeout(launch.grace, guard.wait()).await {
            return status;
        }
        // The guard takes this for our death, and kills what it guards.
        drop(hold);
        if let Ok(status) = timeout(launch.grace, guard.wait()).await {
            return status;
        }
        // It would, but somebody has stopped it.
        signal(&guard, Signal::SIGKILL);
        guard.wait().await
    };
    let started = |pid| {
        drop(permit);
        started(pid);
    };
    let (told, status) = tokio::join!(relay(report, started), end);
    if timeout(LAST_OUTPUT, capturing).await.is_err() {
        warn!(model = %launch.model, replica = launch.number, "somebody holds on to the output of a replica that is gone");
    }
    if status.as_ref().is_ok_and(|status| status.signal().is_some()) {
        // The guard was killed. Its command dies with it, but what that has started may not.
        if let Some(Report::Started(pid)) = told.first {
            let _ = killpg(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
        }
        let instance = instance.to_owned();
        let killing = move || leftovers::kill_all(leftovers::INSTANCE, instance.as_bytes());
        let _ = tokio::task::spawn_blocking(killing).await;
    }
    exit_of(told, status)
}

/// A guard that has been started.
struct Guarded {
    guard: Child,
    /// Our end of the socket pair that is the guard's standard input.
    owner: UnixStream,
    /// What the command prints.
    printed: Receiver,
}

async fn start(launch: &Launch, instance: &str, frontends: &[String]) -> io::Result<Guarded> {
    tokio::fs::create_dir_all(&launch.work_dir).await?;
    let (owner, standard_input) = StdUnixStream::pair()?;
    let (printed, standard_output) = io::pipe()?;
    owner.set_nonblocking(true)?;
    let guard = launch
        .command(launch.words().await, instance, frontends)?
        .stdin(Stdio::from(OwnedFd::from(standard_input)))
        .stderr(standard_output.try_clone()?)
        .stdout(standard_output)
        .spawn()?;
    let printed = Receiver::from_owned_fd(printed.into())?;
    Ok(Guarded { guard, owner: UnixStream::from_std(owner)?, printed })
}

/// What a guard has reported.
#[derive(Debug)]
struct Told {
    /// Whether the command ran.
    first: Option<Report>,
    /// How it ended.
    last: Option<Report>,
}

/// Reads what the guard reports until it ends, and passes the process id on.
async fn relay(report: OwnedReadHalf, started: impl FnOnce(u32)) -> Told {
    let mut reports = BufReader::new(report).lines();
    let mut next = async || reports.next_line().await.ok().flatten()?.parse().ok();
    let first = next().await;
    if let Some(Report::Started(pid)) = first {
        started(pid);
    }
    Told { first, last: next().await }
}

fn exit_of(told: Told, status: io::Result<ExitStatus>) -> Exit {
    match (told.first, told.last, status) {
        (Some(Report::Refused(reason)), ..) => Exit::NotStarted(reason),
        (Some(Report::Started(_)), Some(Report::Exited(code)), _) => Exit::Code(code.into()),
        (Some(Report::Started(_)), Some(Report::Killed(signal)), _) => Exit::Signal(signal),
        // The kernel has killed the command along with its guard.
        (Some(Report::Started(_)), _, Ok(status)) if status.signal().is_some() => {
            Exit::Signal(status.signal().unwrap_or_default())
        }
        (_, _, Ok(status)) => Exit::NotStarted(format!("the guard ended early: {status}")),
        (_, _, Err(error)) => Exit::NotStarted(format!("its end cannot be waited for: {error}")),
    }
}

/// Sends a signal to a guard that has not been waited for, so that the id is certainly its own.
fn signal(guard: &Child, signal: Signal) {
    if let Some(pid) = guard.id() {
        let _ = kill(Pid::from_raw(pid.cast_signed()), signal);
    }
}

/// A program by its path from here, since it will be run from elsewhere. A bare name is left to be searched for.
pub(super) fn located(program: &Path) -> PathBuf {
    if is_path(program) { absolute(program) } else { program.to_owned() }
}

/// Whether a program is named by its path, not to be searched for.
fn is_path(program: &Path) -> bool {
    program.as_os_str().as_encoded_bytes().contains(&b'/')
}

/// Symbolic links are kept: a virtual environment's interpreter knows itself by its link.
pub(super) fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
