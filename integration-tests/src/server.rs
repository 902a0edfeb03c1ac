//! One `clipper` process: started, killed, and started again on the same ports.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, ExitStatus};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::program;
use crate::survivors::MARK;
use crate::wait::eventually_some;

/// Where a process listens.
#[derive(Debug, Clone, Copy, Default)]
pub struct Addresses {
    /// For applications.
    pub query: Option<SocketAddr>,
    /// For operators.
    pub admin: Option<SocketAddr>,
    /// For containers.
    pub rpc: Option<SocketAddr>,
}

impl Addresses {
    /// Reads the lines that `clipper` prints, once all are there.
    fn parse(printed: &str) -> Option<Self> {
        let mut addresses = Self::default();
        for line in printed.lines() {
            let (name, url) = line.split_once(' ')?;
            let address = Some(url.split_once("://")?.1.parse().ok()?);
            match name {
                "query" => addresses.query = address,
                "admin" => addresses.admin = address,
                "rpc" => addresses.rpc = address,
                _ => panic!("clipper printed: {line}"),
            }
        }
        (printed.ends_with('\n') && addresses.query.is_some() == addresses.rpc.is_some()).then_some(addresses)
    }

    /// The flags that make a process listen there again.
    fn flags(self) -> Vec<String> {
        let named =
            [("--query-address", self.query), ("--admin-address", self.admin), ("--rpc-address", self.rpc)];
        let known =
            named.into_iter().filter_map(|(flag, address)| Some([flag.to_owned(), address?.to_string()]));
        known.flatten().collect()
    }
}

/// How a process is started.
#[derive(Debug, Clone)]
pub struct Launch {
    /// The role and the flags that are not addresses.
    pub arguments: Vec<String>,
    /// Variables beside those of whoever runs the tests.
    pub environment: Vec<(String, String)>,
    /// Where to listen, port 0 for any.
    pub addresses: Addresses,
    /// Where to put what it prints, under which name.
    pub directory: PathBuf,
    /// Names the files.
    pub name: String,
    /// The mark of its cluster.
    pub mark: String,
}

/// A `clipper` process.
pub struct Server {
    launch: Launch,
    child: Option<Child>,
}

impl Server {
    /// Starts a process and waits until it listens. Panics with what it logged if it ends instead.
    pub async fn start(launch: Launch) -> Self {
        let mut server = Self { launch, child: None };
        server.restart().await;
        server
    }

    /// Starts the process again where it listened before. It must not be running.
    pub async fn restart(&mut self) {
        assert!(self.child.is_none(), "{} is running", self.launch.name);
        let Launch { arguments, environment, addresses, directory, name, mark } = &self.launch;
        let printed = directory.join(format!("{name}.out"));
        let log = File::options().create(true).append(true).open(self.log_file());
        let child = program::isolated(program::clipper())
            .args(arguments)
            .args(addresses.flags())
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .env(MARK, mark)
            .current_dir(directory)
            .stdout(File::create(&printed).expect("the directory is writable"))
            .stderr(log.expect("the directory is writable"))
            .spawn()
            .expect("clipper can be started");
        let what = format!("{name} listens");
        self.child = Some(child);
        let addresses = eventually_some(&what, async || {
            let text = fs::read_to_string(&printed).ok().filter(|text| !text.is_empty());
            let ended = self.child.as_mut().expect("it was started").try_wait().expect("it is a child");
            assert!(ended.is_none(), "{what} in vain: it ended with {ended:?}");
            text.as_deref().and_then(Addresses::parse)
        });
        self.launch.addresses = addresses.await;
    }

    /// Where it listens, or listened when it ran.
    pub fn addresses(&self) -> Addresses {
        self.launch.addresses
    }

    /// Whether it was started, and neither killed nor waited for since.
    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        let child = self.child.as_ref().expect("it runs");
        Pid::from_raw(child.id().cast_signed())
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("it is a child that was not waited for");
    }

    /// Kills it (signal 9).
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("it is a child that was not waited for");
            child.wait().expect("it is a child");
        }
    }

    /// Waits until it ends by itself.
    pub async fn end(&mut self) -> ExitStatus {
        let child = self.child.as_mut().expect("it runs");
        let what = format!("{} has ended", self.launch.name);
        let status = eventually_some(&what, async || child.try_wait().expect("it is a child")).await;
        self.child = None;
        status
    }

    /// Asks it to end (SIGTERM), and waits until it has; its exit code.
    pub async fn terminate(&mut self) -> i32 {
        self.signal(Signal::SIGTERM);
        let status = self.end().await;
        status.code().unwrap_or_else(|| panic!("it ended by signal {:?}", status.signal()))
    }

    /// What it has logged, in all of its runs.
    pub fn log(&self) -> String {
        let log = fs::read(self.log_file()).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    fn log_file(&self) -> PathBuf {
        self.launch.directory.join(format!("{}.log", self.launch.name))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- {} logged:\n{}", self.launch.name, self.log());
        }
        self.kill();
    }
}
