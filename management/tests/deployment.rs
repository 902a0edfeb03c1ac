//! Deployments of real processes, seen by frontends that exist in name only.

#![allow(clippy::unwrap_used, reason = "clippy knows the functions marked as tests, not what they share")]

use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clipper_management::deployment::{
    Config, ContainerKind, DeployError, DeploymentSpec, Deployments, Environment, FrontendView, NumReplicas,
    ReplicaState, ReplicaStatus, Run, StartupTimeout,
};
use clipper_rpc::input::InputType;
use clipper_rpc::names::ModelId;
use clipper_rpc::secret::Secret;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const GUARD: &str = env!("CARGO_BIN_EXE_clipper-test-guard");
/// For what must happen, soon or late.
const GENEROUS: Duration = Duration::from_secs(30);
const SLEEP: &str = "exec sleep 1000";

struct Host {
    folder: tempfile::TempDir,
    container_key: Secret,
    deployments: Deployments,
}

impl Host {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(adjust: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config =
            Config::new(folder.path().into(), "python3".into(), vec![GUARD.into()], Secret::random());
        adjust(&mut config);
        let container_key = config.container_key.clone();
        Self { folder, container_key, deployments: Deployments::start(config) }
    }

    /// There are frontends from now on, which nobody ever connects to.
    fn lonely_frontends(&self, addresses: &[&str]) {
        let view =
            |address: &&str| FrontendView { rpc_address: (*address).to_owned(), instances: Arc::default() };
        self.deployments.observe(addresses.iter().map(view).collect());
    }

    /// There is a frontend from now on, which every process connects to at once.
    fn frontend(&self) -> actix_rt::task::JoinHandle<()> {
        self.frontend_of(|replica| replica.pid.is_some())
    }

    /// There is a frontend from now on, which processes like these connect to.
    fn frontend_of(
        &self,
        connects: impl Fn(&ReplicaStatus) -> bool + 'static,
    ) -> actix_rt::task::JoinHandle<()> {
        let deployments = self.deployments.clone();
        actix_rt::spawn(async move {
            loop {
                let replicas =
                    deployments.list().await.into_iter().flat_map(|deployment| deployment.replicas);
                let instances = replicas.filter(&connects).filter_map(|replica| replica.instance);
                let view = FrontendView {
                    rpc_address: "10.0.0.1:7000".into(),
                    instances: Arc::new(instances.collect()),
                };
                deployments.observe(vec![view]);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
    }

    async fn replicas(&self) -> Vec<ReplicaStatus> {
        self.deployments.list().await.into_iter().flat_map(|deployment| deployment.replicas).collect()
    }

    /// The only replica, once it is as described.
    async fn replica_that(&self, what: &str, is: impl Fn(&ReplicaStatus) -> bool) -> ReplicaStatus {
        until(what, async || self.replicas().await.into_iter().find(&is)).await
    }

    /// What a process wrote into a file of this name, once it has.
    async fn number_in(&self, file: &str) -> i32 {
        let path = self.folder.path().join(file);
        until(file, async || std::fs::read_to_string(&path).ok()?.strip_suffix('\n')?.parse().ok()).await
    }
}

/// Waits until `condition` has a value.
async fn until<T, F: Future<Output = Option<T>>>(what: &str, condition: impl Fn() -> F) -> T {
    let deadline = Instant::now() + GENEROUS;
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(Instant::now() < deadline, "waited in vain for: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Whether a process exists and is no zombie.
fn is_alive(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap().trim_start().starts_with('Z'))
}

async fn until_dead(pid: i32) {
    until("the end of a process", async || (!is_alive(pid)).then_some(())).await;
}

fn kill_now(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
}

fn model() -> ModelId {
    ModelId { name: "m".parse().unwrap(), version: "1".parse().unwrap() }
}

fn number(of_replicas: u64) -> NumReplicas {
    of_replicas.try_into().unwrap()
}

fn shell(script: &str) -> DeploymentSpec {
    command(&["sh", "-c", script])
}

fn command(words: &[&str]) -> DeploymentSpec {
    DeploymentSpec {
        model: model(),
        input_type: InputType::Doubles,
        num_replicas: NumReplicas::ONE,
        run: Run::Command(words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>().try_into().unwrap()),
        environment: Environment::default(),
        artifact: None,
        model_data_path: None,
        python: None,
        startup_timeout: StartupTimeout::default(),
    }
}

/// A process that also starts one in a session of its own, whose id it writes into a file.
fn with_daemon(file: &Path) -> DeploymentSpec {
    let script = r#"setsid sh -c 'echo $$ >"$0.new"; mv "$0.new" "$0"; trap "" TERM; while :; do sleep 1; done' "$0" & wait"#;
    command(&["sh", "-c", script, file.to_str().unwrap()])
}

#[actix_rt::test]
async fn a_deployment_is_ready_once_every_replica_is_connected() {
    let host = Host::new();
    host.frontend();
    host.deployments
        .deploy(DeploymentSpec { num_replicas: number(3), ..shell(SLEEP) }, 1, GENEROUS)
        .await
        .unwrap();
    let replicas = host.replicas().await;
    assert!(replicas.iter().all(|replica| replica.state == ReplicaState::Ready && replica.reason.is_none()));
    assert_eq!(replicas.iter().map(|replica| replica.replica_id).collect::<Vec<_>>(), [0, 1, 2]);
    let again = host.deployments.deploy(shell(SLEEP), 1, GENEROUS).await;
    assert_eq!(again.unwrap_err(), DeployError::AlreadyDeployed { model: model() });
    host.deployments.shutdown().await;
    assert!(replicas.iter().all(|replica| !is_alive(replica.pid.unwrap() as i32)));
    assert!(!host.folder.path().join("replicas/m/1/0").exists());
}

#[actix_rt::test]
async fn a_replica_is_told_what_the_protocol_promises() {
    let host = Host::new();
    host.lonely_frontends(&["10.0.0.1:7000", "10.0.0.2:7001", "10.0.0.3:7002"]);
    let spec = DeploymentSpec {
        environment: [("GREETING", "hello"), ("CLIPPER_TOKEN", "mine"), ("CLIPPER_TOKEN_FILE", "mine")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into_iter()
            .collect::<BTreeMap<_, _>>()
            .into(),
        model_data_path: Some("/models/m".into()),
        ..shell("pwd; env; exec sleep 1000")
    };
    host.deployments.restore(vec![(spec, 17)]).await;
    let log = until("the environment", async || {
        let log = std::fs::read_to_string(host.folder.path().join("logs/m/1/0.log")).ok()?;
        log.contains("GREETING").then_some(log)
    });
    let log = log.await;
    let instance =
        host.replica_that("an instance", |replica| replica.instance.is_some()).await.instance.unwrap();
    let work_dir = host.folder.path().join("replicas/m/1/0");
    for line in [
        work_dir.to_str().unwrap(),
        "CLIPPER_MODEL_NAME=m",
        "CLIPPER_MODEL_VERSION=1",
        "CLIPPER_INPUT_TYPE=doubles",
        "CLIPPER_IP=10.0.0.1",
        "CLIPPER_PORT=7000",
        "CLIPPER_FRONTENDS=10.0.0.2:7001,10.0.0.3:7002",
        "CLIPPER_MODEL_PATH=/models/m",
        &format!("CLIPPER_INSTANCE={instance}"),
        "CLIPPER_REPLICA=0",
        &format!("CLIPPER_REPLICA_OF={}", host.folder.path().canonicalize().unwrap().display()),
        "PYTHONUNBUFFERED=1",
        "GREETING=hello",
        &format!("CLIPPER_TOKEN={}", host.container_key.registration_token(&model(), 17).reveal()),
    ] {
        assert!(log.lines().any(|printed| printed == line), "{line} is not in:\n{log}");
    }
    assert!(!log.contains("CLIPPER_TOKEN_FILE") && !log.contains(host.container_key.reveal()), "{log}");
    host.deployments.shutdown().await;
}

#[actix_rt::test]
async fn a_container_kind_runs_in_the_given_python() {
    let host = Host::new();
    host.lonely_frontends(&["127.0.0.1:7000"]);
    let python = Some(PathBuf::from("/bin/echo"));
    let spec = DeploymentSpec { run: Run::Kind(ContainerKind::PythonClosure), python, ..shell("") };
    let error = host.deployments.deploy(spec, 1, GENEROUS).await.unwrap_err();
    let DeployError::Replica { last_lines, .. } = error else { panic!("{error}") };
    assert_eq!(last_lines, ["-m clipper_container python-closure", "-m clipper_container python-closure"]);
    host.deployments.shutdown().await;
}

#[actix_rt::test]
async fn a_deploy_whose_replica_exits_fails_with_its_last_lines() {
    let host = Host::new();
    host.lonely_frontends(&["127.0.0.1:7000"]);
    let error =
        host.deployments.deploy(shell("echo out; echo err >&2; exit 3"), 1, GENEROUS).await.unwrap_err();
    let message = error.to_string();
    assert!(message.starts_with("Replica 0 of m:1 exited with code 3, 2 times in a row."), "{message}");
    assert!(message.ends_with("\n    out\n    err\n    out\n    err"), "{message}");
    assert!(host.deployments.list().await.is_empty(), "nothing of it is left");
    host.deployments.shutdown().await;
}

#[actix_rt::test]
async fn a_restored_replica_that_always_exits_has_failed_after_five_times() {
    let host = Host::new();
    host.deployments.restore(vec![(shell("echo $CLIPPER_REPLICA is unwell; kill -9 $$"), 1)]).await;
    let waiting = &host.replicas().await[0];
    assert_eq!((waiting.state, waiting.restarts), (ReplicaState::Starting, 0));
    assert!(waiting.reason.as_ref().unwrap().contains("waiting for a frontend"));
    host.lonely_frontends(&["127.0.0.1:7000"]);
    let failed = host.replica_that("failure", |replica| replica.state == ReplicaState::Failed).await;
    assert_eq!((failed.restarts, failed.pid, failed.instance), (4, None, None));
    assert_eq!(failed.last_lines, ["0 is unwell"; 5]);
    assert!(failed.reason.unwrap().starts_with("was killed by signal 9 (SIGKILL)"));
    host.deployments.stop(host.deployments.running(&[model()])).await;
    assert!(host.deployments.list().await.is_empty());
    host.deployments.shutdown().await;
}

#[actix_rt::test]
async fn a_failed_replica_is_started_again_when_the_number_is_set() {
    let host = Host::new();
    let cure = host.folder.path().join("cure");
    let script = format!("[ -e {} ] || exit 3; exec sleep 1000", cure.display());
    host.lonely_frontends(&["127.0.0.1:7000"]);
    host.deployments.restore(vec![(shell(&script), 1)]).await;
    host.replica_that("failure", |replica| replica.state == ReplicaState::Failed).await;
    let error = host.deployments.scale(model(), number(1), GENEROUS).await.unwrap_err().to_string();
    assert!(error.contains("exited with code 3, 2 times in a row"), "{error}");
    host.replica_that("failure", |replica| replica.state == ReplicaState::Failed).await;
    std::fs::write(cure, "").unwrap();
    host.frontend();
    host.deployments.scale(model(), number(2), GENEROUS).await.unwrap();
    assert!(host.replicas().await.iter().all(|replica| replica.state == ReplicaState::Ready));
    host.deployments.shutdown().await;
}

#[actix_rt::test]
async fn a_deploy_that_takes_too_long_fails_and_leaves_nothing() {
    let host = Host::new();
    host.lonely_frontends(&["127.0.0.1:7000"]);
    let pid_file = host.folder.path().join("pid");
    let script = format!("echo $$ >{}; echo loading; exec sleep 1000", pid_file.display());
    let error = host.deployments.deploy(shell(&script), 1, Duration::from_secs(1)).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "Replica 0 of m:1 is still starting after 1 s: running but not connected. The last that it printed:\n    loading"
    );
    assert!(!is_alive(host.number_in("pid").await));
    assert!(host.deployments.list().await.is_empty());
    host.deployments.shutdown().await;
}

#[actix_rt::test]
async fn a_deploy_whose_caller_goes_away_is_taken_back() {
    let host = Host::new();
    host.lonely_frontends(&["127.0.0.1:7000"]);
    let deploy = host.deployments.deploy(shell(SLEEP), 1, GENEROUS);
    let pid = tokio::select! {
        _ = deploy => panic!("nobody connects"),
        replica = host.replica_that("a process", |replica| replica.pid.is_some()) => replica.pid.unwrap(),
    };
    assert!(host.deployments.list().await.is_empty());
    until_dead(pid as i32).await;
    host.frontend();
    host.deployments.deploy(shell(SLEEP), 1, GENEROUS).await.unwrap();
    host.deployments.shutdown().await;
}

#[actix_rt::test]
async fn a_program_that_cannot_be_started_is_reported_at_once() {
    let host = Host::new();
    host.lonely_frontends(&["127.0.0.1:7000"]);
    let error =
        host.deployments.deploy(command(&["no-such-program"]), 1, GENEROUS).await.unwrap_err().to_string();
    assert!(error.contains("could not be started: 'no-such-program': No such file"), "{error}");
    let data = host.folder.path().join("data");
    std::fs::write(&data, "not a program").unwrap();
    let spec = command(&[data.to_str().unwrap()]);
    let error = host.deployments.deploy(spec, 1, GENEROUS).await.unwrap_err().to_string();
    assert!(error.contains("data': Permission denied"), "{error}");
    host.deployments.shutdown().await;
}

#[actix_rt::test]
async fn a_relative_program_is_one_of_the_models_files_or_begins_where_management_runs() {
    let host = Host::new();
    host.frontend();
    let files = host.folder.path().join("model");
    std::fs::create_dir(&files).unwrap();
    std::os::unix::fs::symlink("/bin/sleep", files.join("server")).unwrap();
    let of_model = DeploymentSpec { model_data_path: Some(files), ..command(&["./server", "1000"]) };
    host.deployments.deploy(of_model, 1, GENEROUS).await.unwrap();
    host.deployments.stop(host.deployments.running(&[model()])).await;
    let up = "../".repeat(std::env::current_dir().unwrap().components().count());
    let elsewhere = format!("{up}bin/sleep");
    host.deployments.deploy(command(&[&elsewhere, "1000"]), 1, GENEROUS).await.unwrap();
    host.deployments.shutdown().await;
}

#[actix_rt::test]
async fn without_a_frontend_a_deploy_fails_soon_and_says_what_to_do() {
    let host = Host::with(|config| config.frontend_timeout = Duration::from_millis(50));
    let error = host.deployments.deploy(shell(SLEEP), 1, GENEROUS).await.unwrap_err().to_string();
    assert!(error.contains("clipper frontend --management URL"), "{error}");
    assert!(host.deployments.list().await.is_empty());
    host.deployments.shutdown().await;
}

#[actix_rt::test]
async fn a_killed_replica_is_started_again() {
    let host = Host::new();
    host.frontend();
    host.deployments.deploy(shell(SLEEP), 1, GENEROUS).await.unwrap();
    let first = host.replicas().await.remove(0);
    kill_now(first.pid.unwrap() as i32);
    let second =
        host.replica_that("a second life", |replica| replica.restarts == 1 && replica.reason.is_none()).await;
    assert_eq!(second.state, ReplicaState::Ready);
    assert_ne!(second.instance, first.instance);
    host.deployments.shutdown().await;
}

#[actix_rt::test]
async fn a_replica_that_does_not_connect_is_started_again() {
    let host = Host::new();
    host.lonely_frontends(&["127.0.0.1:7000"]);
    let startup_timeout = StartupTimeout::try_from(1).unwrap();
    host.deployments.restore(vec![(DeploymentSpec { startup_timeout, ..shell(SLEEP) }, 1)]).await;
    let ended = host.replica_that("an end", |replica| replica.state == ReplicaState::BackingOff).await;
    assert_eq!(ended.reason.unwrap(), "was ended: it had not connected within 1 s");
    host.replica_that("a second life", |replica| replica.restarts > 0).await;
    host.deployments.shutdown().await;
}

#[actix_rt::test]
async fn a_model_may_load_as_long_as_its_deployment_says_now_and_after_a_restart_of_management() {
    let loading = |seconds: u64| DeploymentSpec {
        startup_timeout: seconds.try_into().unwrap(),
        ..shell("sleep 2; echo loaded; exec sleep 1000")
    };
    let has_loaded = |replica: &ReplicaStatus| replica.last_lines.iter().any(|line| line == "loaded");
    let host = Host::new();
    host.frontend_of(has_loaded);
    let timeout = loading(30).startup_timeout.get();
    host.deployments.deploy(loading(30), 1, timeout).await.unwrap();
    host.deployments.shutdown().await;

    let restarted = Host::new();
    restarted.frontend_of(has_loaded);
    restarted.deployments.restore(vec![(loading(30), 1)]).await;
    let ready = restarted.replica_that("readiness", |replica| replica.state == ReplicaState::Ready).await;
    assert_eq!(ready.restarts, 0);
    restarted.deployments.shutdown().await;

    let hasty = Host::new();
    hasty.frontend_of(has_loaded);
    hasty.deployments.restore(vec![(loading(1), 1)]).await;
    let ended = hasty.replica_that("an end", |replica| replica.state == ReplicaState::BackingOff).await;
    assert_eq!(ended.reason.unwrap(), "was ended: it had not connected within 1 s");
    hasty.deployments.shutdown().await;
}

#[actix_rt::test]
async fn working_directories_that_a_killed_management_left_are_removed() {
    let folder = tempfile::tempdir().unwrap();
    let left = folder.path().join("replicas/old/1/0");
    std::fs::create_dir_all(&left).unwrap();
    let deployments = Deployments::start(Config::new(
        folder.path().into(),
        "python3".into(),
        vec![GUARD.into()],
        Secret::random(),
    ));
    assert!(!left.exists());
    deployments.shutdown().await;
}

#[actix_rt::test]
async fn stopping_kills_whatever_a_replica_has_started() {
    let host = Host::new();
    host.frontend();
    let file = host.folder.path().join("daemon");
    host.deployments.deploy(with_daemon(&file), 1, GENEROUS).await.unwrap();
    let daemon = host.number_in("daemon").await;
    let replica = host.replicas().await[0].pid.unwrap() as i32;
    host.deployments.stop(host.deployments.running(&[model()])).await;
    assert!(!is_alive(daemon) && !is_alive(replica));
    host.deployments.shutdown().await;
}

#[actix_rt::test]
async fn a_replica_that_ignores_the_signal_is_killed_after_its_grace() {
    let host = Host::with(|config| config.grace = Duration::from_millis(100));
    host.frontend();
    let script = "trap '' TERM; echo ready; while :; do sleep 1; done";
    host.deployments
        .deploy(DeploymentSpec { num_replicas: number(2), ..shell(script) }, 1, GENEROUS)
        .await
        .unwrap();
    let pids: Vec<_> = host.replicas().await.into_iter().map(|replica| replica.pid.unwrap() as i32).collect();
    host.replica_that("its trap", |replica| replica.last_lines == ["ready"]).await;
    host.deployments.stop(host.deployments.running(&[model()])).await;
    assert!(pids.into_iter().all(|pid| !is_alive(pid)));
    host.deployments.shutdown().await;
}

#[actix_rt::test]
async fn a_replica_may_end_in_its_own_way() {
    let host = Host::new();
    host.frontend();
    let script = "trap 'echo goodbye; exit 0' TERM; echo ready; while :; do sleep 0.01; done";
    host.deployments.deploy(shell(script), 1, GENEROUS).await.unwrap();
    host.replica_that("its trap", |replica| replica.last_lines == ["ready"]).await;
    host.deployments.halt(host.deployments.running(&[model()])).await;
    let log = host.folder.path().join("logs/m/1/0.log");
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "ready\ngoodbye\n");
    host.deployments.stop(host.deployments.running(&[model()])).await;
    assert!(!log.exists(), "it goes with the version");
    host.deployments.shutdown().await;
}

#[actix_rt::test]
async fn the_number_of_replicas_goes_up_and_down() {
    let host = Host::new();
    let frontend = host.frontend();
    host.deployments.deploy(shell("echo I am $CLIPPER_REPLICA; exec sleep 1000"), 1, GENEROUS).await.unwrap();
    let first = host.replicas().await.remove(0);
    host.deployments.scale(model(), number(3), GENEROUS).await.unwrap();
    let replicas = host.replicas().await;
    assert_eq!(replicas.len(), 3);
    assert_eq!(replicas[0].instance, first.instance, "the first goes on undisturbed");
    host.replica_that("a line", |replica| replica.last_lines == ["I am 2"]).await;
    let logs = host.deployments.logs(model(), Some(2), 10).await.unwrap();
    assert_eq!(logs, BTreeMap::from([("m:1:2".to_owned(), vec!["I am 2".to_owned()])]));
    assert!(matches!(
        host.deployments.logs(model(), Some(3), 10).await,
        Err(DeployError::UnknownReplica { replica: 3, num_replicas: 3, .. })
    ));
    host.deployments.scale(model(), number(1), GENEROUS).await.unwrap();
    assert!(replicas[1..].iter().all(|replica| !is_alive(replica.pid.unwrap() as i32)));
    assert_eq!(host.replicas().await.len(), 1);

    // New replicas that do not become ready are taken back.
    frontend.abort();
    let instances = Arc::new([first.instance.clone().unwrap()].into());
    host.deployments.observe(vec![FrontendView { rpc_address: "10.0.0.1:7000".into(), instances }]);
    let error = host.deployments.scale(model(), number(2), Duration::from_millis(300)).await.unwrap_err();
    assert!(error.to_string().starts_with("Replica 1 of m:1 is still starting after 0.3 s"), "{error}");
    let deployment = host.deployments.list().await.remove(0);
    assert_eq!((deployment.num_replicas, deployment.replicas.len()), (1, 1));
    assert_eq!(deployment.replicas[0].pid, first.pid);
    host.deployments.shutdown().await;
}

#[actix_rt::test]
async fn many_replicas_are_not_started_all_at_once() {
    // Guards that never report that they have started.
    let guard = ["sh", "-c", "echo >../$$; exec sleep 1000"];
    let host = Host::with(|config| config.guard = guard.map(Into::into).into());
    host.lonely_frontends(&["127.0.0.1:7000"]);
    host.deployments.restore(vec![(DeploymentSpec { num_replicas: number(40), ..shell(SLEEP) }, 1)]).await;
    let guards = || -> Vec<i32> {
        let names = std::fs::read_dir(host.folder.path().join("replicas/m/1")).into_iter().flatten();
        let files = names.map(Result::unwrap).filter(|entry| entry.file_type().unwrap().is_file());
        files.map(|file| file.file_name().to_str().unwrap().parse().unwrap()).collect()
    };
    let first = until("guards", async || Some(guards()).filter(|pids| pids.len() >= 16)).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(guards().len(), 16);
    kill_now(first[0]);
    until("another one", async || (guards().len() > 16).then_some(())).await;
    host.deployments.shutdown().await;
}

#[actix_rt::test]
async fn a_deployment_can_be_stopped_while_somebody_waits_for_it() {
    let host = Host::new();
    host.lonely_frontends(&["127.0.0.1:7000"]);
    let stop = async {
        host.replica_that("a process", |replica| replica.pid.is_some()).await;
        host.deployments.stop(host.deployments.running(&[model()])).await;
    };
    let (deployed, ()) = tokio::join!(host.deployments.deploy(shell(SLEEP), 1, GENEROUS), stop);
    assert_eq!(deployed.unwrap_err(), DeployError::Stopped { model: model() });
    host.deployments.shutdown().await;
}

#[actix_rt::test]
async fn a_deployment_is_not_stopped_in_place_of_a_former_one_of_the_same_version() {
    let host = Host::new();
    host.frontend();
    let former = host.deployments.deploy(shell(SLEEP), 1, GENEROUS).await.unwrap();
    host.deployments.stop(vec![former.clone()]).await;
    host.deployments.deploy(shell(SLEEP), 1, GENEROUS).await.unwrap();
    host.deployments.stop(vec![former]).await;
    assert_eq!(host.replicas().await[0].state, ReplicaState::Ready);
    host.deployments.shutdown().await;
}

#[actix_rt::test]
async fn a_full_log_file_is_set_aside_and_the_last_lines_are_at_hand() {
    let host = Host::with(|config| config.log_bytes = 1000);
    host.frontend();
    let script = "i=0; while [ $i -lt 300 ]; do echo line $i; i=$((i+1)); done; exec sleep 1000";
    host.deployments.deploy(shell(script), 1, GENEROUS).await.unwrap();
    let is_done = |replica: &ReplicaStatus| replica.last_lines.last().is_some_and(|line| line == "line 299");
    let replica = host.replica_that("all lines", is_done).await;
    assert_eq!((replica.last_lines.len(), replica.last_lines[0].as_str()), (20, "line 280"));
    let logs = host.deployments.logs(model(), None, 100).await.unwrap();
    assert_eq!(logs["m:1:0"][0], "line 200");
    for name in ["0.log", "0.log.1"] {
        let bytes = std::fs::metadata(host.folder.path().join("logs/m/1").join(name)).unwrap().len();
        assert!((1..=1000).contains(&bytes), "{name} has {bytes} bytes");
    }
    host.deployments.shutdown().await;
}

#[actix_rt::test]
async fn nothing_outlives_an_owner_that_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("daemon");
    let Run::Command(words) = with_daemon(&file).run else { unreachable!() };
    // The guard's standard input is a pipe from a process that dies without a word.
    let mut owner = std::process::Command::new("sleep").arg("1000").stdout(Stdio::piped()).spawn().unwrap();
    let input = owner.stdout.take().unwrap();
    let mut guard = std::process::Command::new(GUARD).args(words.as_slice()).stdin(input).spawn().unwrap();
    let daemon =
        until("the daemon", async || std::fs::read_to_string(&file).ok()?.trim().parse::<i32>().ok());
    let daemon = daemon.await;
    assert!(is_alive(daemon));
    kill_now(owner.id() as i32);
    owner.wait().unwrap();
    let status = guard.wait().unwrap();
    assert_eq!(status.code(), Some(128 + 9));
    assert!(!is_alive(daemon));
}

#[actix_rt::test]
async fn a_guard_that_is_killed_takes_its_command_with_it_and_the_replica_starts_again() {
    let host = Host::new();
    host.frontend();
    host.deployments.deploy(shell("echo $PPID; sleep 1000 & wait"), 1, GENEROUS).await.unwrap();
    let replica = host.replica_that("a line", |replica| !replica.last_lines.is_empty()).await;
    kill_now(replica.last_lines[0].parse().unwrap());
    until_dead(replica.pid.unwrap() as i32).await;
    host.replica_that("a second life", |replica| replica.restarts == 1 && replica.reason.is_none()).await;
    host.deployments.shutdown().await;
}

#[actix_rt::test]
async fn what_left_the_group_of_a_command_dies_with_its_guard_too() {
    let host = Host::new();
    host.frontend();
    host.deployments.deploy(with_daemon(&host.folder.path().join("daemon")), 1, GENEROUS).await.unwrap();
    let daemon = host.number_in("daemon").await;
    kill_now(guard_of(&host.replicas().await[0]));
    until_dead(daemon).await;
    host.replica_that("a second life", |replica| replica.restarts == 1 && replica.reason.is_none()).await;
    host.deployments.shutdown().await;
}

#[actix_rt::test]
async fn a_guard_that_does_not_do_its_duty_is_killed_with_all_that_it_guards() {
    let host = Host::with(|config| config.grace = Duration::from_millis(100));
    host.frontend();
    host.deployments.deploy(with_daemon(&host.folder.path().join("daemon")), 1, GENEROUS).await.unwrap();
    let daemon = host.number_in("daemon").await;
    let replica = host.replicas().await.remove(0);
    kill(Pid::from_raw(guard_of(&replica)), Signal::SIGSTOP).unwrap();
    let stopping = host.deployments.stop(host.deployments.running(&[model()]));
    tokio::time::timeout(GENEROUS, stopping).await.unwrap();
    assert!(!is_alive(daemon) && !is_alive(replica.pid.unwrap() as i32));
    host.deployments.shutdown().await;
}

#[actix_rt::test]
async fn a_high_exit_code_is_not_taken_for_a_signal() {
    let host = Host::new();
    host.lonely_frontends(&["127.0.0.1:7000"]);
    for code in [129, 255] {
        let error = host.deployments.deploy(shell(&format!("exit {code}")), 1, GENEROUS).await.unwrap_err();
        let expected = format!("Replica 0 of m:1 exited with code {code}, 2 times");
        assert!(error.to_string().starts_with(&expected), "{error}");
    }
    host.deployments.shutdown().await;
}

#[actix_rt::test]
async fn a_guard_is_not_taken_for_management() {
    let host = Host::new();
    host.frontend();
    host.deployments.deploy(shell(SLEEP), 1, GENEROUS).await.unwrap();
    let guard = guard_of(&host.replicas().await[0]);
    let of_guard = |file| std::fs::read_to_string(format!("/proc/{guard}/{file}")).unwrap();
    assert_eq!(of_guard("comm"), "replica-guard\n");
    assert!(of_guard("cmdline").starts_with("replica-guard\0"));
    host.deployments.shutdown().await;
}

#[actix_rt::test]
async fn what_outlived_a_killed_cluster_ends_at_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let left = |data_dir: &Path| {
        let mut command = std::process::Command::new("sleep");
        command
            .arg("1000")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .env("CLIPPER_REPLICA_OF", data_dir.canonicalize().unwrap());
        command.spawn().unwrap()
    };
    let other_folder = tempfile::tempdir().unwrap();
    let (own, mut other) = (left(folder.path()), left(other_folder.path()));
    let deployments = Deployments::start(Config::new(
        folder.path().into(),
        "python3".into(),
        vec![GUARD.into()],
        Secret::random(),
    ));
    assert!(!is_alive(own.id() as i32));
    assert!(is_alive(other.id() as i32), "it belongs to somebody else");
    other.kill().unwrap();
    deployments.shutdown().await;
}

/// The process id of a replica's guard.
fn guard_of(replica: &ReplicaStatus) -> i32 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", replica.pid.unwrap())).unwrap();
    stat.rsplit(')').next().unwrap().split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_guard_takes_over_the_exit_status() {
    let status = |script: &str| {
        let mut guard = std::process::Command::new(GUARD);
        let mut guard = guard.args(["sh", "-c", script]).stdin(Stdio::piped()).spawn().unwrap();
        // Waiting closes standard input, unless somebody else has it.
        let _owner = guard.stdin.take();
        guard.wait().unwrap().code()
    };
    assert_eq!(status("exit 7"), Some(7));
    assert_eq!(status("kill -SEGV $$"), Some(128 + 11));
    assert_eq!(status("sleep 1000 & exit 0"), Some(0));
}
