//! The programs that the suite starts.
//!
//! Invariant: none outlives its [`Running`].

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long a program may take to end in order.
const ENDING: Duration = Duration::from_secs(20);
/// How often a condition is looked at.
const PAUSE: Duration = Duration::from_millis(20);

/// A program that was built along with this one: `clipper`, `bare`, `examples/noop`.
pub fn program(name: &str) -> anyhow::Result<PathBuf> {
    let suite = std::env::current_exe().context("cannot find this program's own file")?;
    let program = suite.with_file_name("").join(name);
    if !program.is_file() {
        bail!("{} is missing: `make bench` builds it", program.display());
    }
    Ok(program)
}

/// A process, ended when it is dropped.
pub struct Running {
    child: Child,
}

impl Running {
    /// Starts one that prints to a file. It does not see the `CLIPPER_*` variables of whoever measures.
    pub fn start(mut command: Command, log: &Path) -> anyhow::Result<Self> {
        let own: Vec<_> = command.get_envs().map(|(name, _)| name.to_owned()).collect();
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("CLIPPER_") && !own.contains(&name) {
                command.env_remove(name);
            }
        }
        let log = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn();
        Ok(Self { child: child.with_context(|| format!("cannot start {:?}", command.get_program()))? })
    }

    /// Waits until something is there, as long as the process runs and at most for `limit`.
    pub fn until<T>(
        &mut self,
        what: &str,
        limit: Duration,
        mut look: impl FnMut() -> Option<T>,
    ) -> anyhow::Result<T> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(found) = look() {
                return Ok(found);
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("waited until {what}, but the process ended: {status}");
            }
            if Instant::now() > deadline {
                bail!("waited in vain for {limit:?} until {what}");
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Processor time used so far.
    pub fn cpu_time(&self) -> anyhow::Result<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // The name of the program, in brackets, may hold anything.
        let fields: Vec<&str> =
            stat.rsplit_once(')').map(|(_, fields)| fields.split_whitespace().collect()).unwrap_or_default();
        let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok());
        let (user, system) = (ticks(11), ticks(12));
        let ticks = user.zip(system).map(|(user, system)| user + system).context("cannot read /proc")?;
        let a_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.unwrap_or(100);
        Ok(Duration::from_secs_f64(ticks as f64 / a_second as f64))
    }

    /// Memory in use (resident), in megabytes.
    pub fn megabytes(&self) -> anyhow::Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line =
            status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("cannot read /proc")?;
        let kilobytes: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
        Ok(kilobytes / 1024.0)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM);
        let deadline = Instant::now() + ENDING;
        while Instant::now() < deadline {
            if self.has_ended() {
                return;
            }
            std::thread::sleep(PAUSE);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
