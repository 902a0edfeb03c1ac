//! A real container that a test starts by hand, outside of any deployment.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::cluster::Cluster;
use crate::program;
use crate::wait::eventually_some;

/// What a container serves.
#[derive(Debug, Clone, Copy)]
pub struct Serves<'a> {
    /// The model.
    pub model: &'a str,
    /// Its version.
    pub version: &'a str,
    /// Its input type.
    pub input_type: &'a str,
}

/// A running container, killed when it is dropped.
pub struct Container {
    child: Child,
    directory: TempDir,
}

impl Container {
    /// Starts an example of the Rust SDK, `noop` or `sum`, told of the cluster's first frontend.
    pub fn rust(example: &str, cluster: &Cluster, serves: Serves<'_>) -> Self {
        Self::rust_with(&[], example, cluster, serves)
    }

    /// Likewise, with further variables.
    pub fn rust_with(
        variables: &[(&str, &str)],
        example: &str,
        cluster: &Cluster,
        serves: Serves<'_>,
    ) -> Self {
        let mut command = program::isolated(program::example(example));
        command.envs(variables.iter().copied());
        Self::spawn(command, cluster, serves)
    }

    /// Starts a container of the Python SDK, told of the cluster's first frontend: `kind` is `noop`, `sum`, or
    /// `served:FUNCTION`.
    pub fn python(kind: &str, cluster: &Cluster, serves: Serves<'_>) -> Self {
        Self::python_with(&[], kind, cluster, serves)
    }

    /// Likewise, with further variables.
    pub fn python_with(
        variables: &[(&str, &str)],
        kind: &str,
        cluster: &Cluster,
        serves: Serves<'_>,
    ) -> Self {
        let mut command = program::isolated(program::python());
        command.args(["-m", "clipper_container", kind]).current_dir(program::python_models());
        command.env("PYTHONDONTWRITEBYTECODE", "1").envs(variables.iter().copied());
        Self::spawn(command, cluster, serves)
    }

    fn spawn(mut command: Command, cluster: &Cluster, serves: Serves<'_>) -> Self {
        let directory = tempfile::tempdir().expect("there is room for a temporary directory");
        let frontend = cluster.rpc_address(0);
        let log = File::create(directory.path().join("log")).expect("the directory is writable");
        let child = command
            .env("CLIPPER_MODEL_NAME", serves.model)
            .env("CLIPPER_MODEL_VERSION", serves.version)
            .env("CLIPPER_INPUT_TYPE", serves.input_type)
            .env("CLIPPER_IP", frontend.ip().to_string())
            .env("CLIPPER_PORT", frontend.port().to_string())
            .env("MODEL_DIARY", directory.path().join("diary"))
            .stdout(log.try_clone().expect("a file can be shared"))
            .stderr(log)
            .spawn()
            .expect("the container can be started");
        Self { child, directory }
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("it is a child that was not waited for");
    }

    /// Waits until it ends by itself.
    pub async fn end(&mut self) -> ExitStatus {
        eventually_some("the container has ended", async || self.child.try_wait().expect("it is a child"))
            .await
    }

    /// What it has printed.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.log_file()).unwrap_or_default()).into_owned()
    }

    /// The sizes of the batches that its model has begun, if that is `served:slow_sum`.
    pub fn batches(&self) -> Vec<usize> {
        let diary = std::fs::read_to_string(self.directory.path().join("diary")).unwrap_or_default();
        diary.lines().map(|line| line.parse().expect("the model writes numbers")).collect()
    }

    fn log_file(&self) -> PathBuf {
        self.directory.path().join("log")
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- a container printed:\n{}", self.log());
        }
        // Fails only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
