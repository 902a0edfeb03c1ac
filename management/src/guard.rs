//! Runs one command so that nothing of it outlives whoever asked for it.
//!
//! Management starts every replica through a guard: a small process of its own (`clipper guard -- COMMAND...`) whose
//! standard input is one end of a socket pair. However management ends, SIGKILL included, the kernel closes the other
//! end, and the guard kills the command with all its descendants. The guard ends when the command does, then too with
//! all that the command left behind, and takes over its exit status: 128 + n if signal n ended it.
//!
//! Invariant: the guard exits only when no descendant of the command is left. On Linux that includes those that
//! moved to a session of their own: as child subreaper the guard inherits every orphan. Elsewhere it reaches the
//! command's process group.

#[cfg(target_os = "linux")]
use std::ffi::CString;
use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::str::FromStr;
use std::thread;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

/// The exit status of a guard that could not start its command, as shells have it.
const NOT_STARTED: u8 = 127;

/// What process lists show of a guard, so that whoever kills management by its name spares the guards, which then see
/// to the replicas. (The kernel keeps 15 bytes.)
pub(crate) const NAME: &str = "replica-guard";

/// What a guard tells its owner, each in one line on its standard input: first whether the command runs, at the end how
/// it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Report {
    /// The command runs under this process id, which is also its process group.
    Started(u32),
    /// The command cannot be started, and the guard ends.
    Refused(String),
    /// The command has ended with this status.
    Exited(u8),
    /// This signal has ended the command.
    Killed(i32),
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Started(pid) => write!(f, "started {pid}"),
            Self::Refused(reason) => write!(f, "refused {reason}"),
            Self::Exited(code) => write!(f, "exited {code}"),
            Self::Killed(signal) => write!(f, "killed {signal}"),
        }
    }
}

impl FromStr for Report {
    type Err = ();

    fn from_str(line: &str) -> Result<Self, ()> {
        match line.split_once(' ').ok_or(())? {
            ("started", pid) => pid.parse().map(Self::Started).map_err(|_| ()),
            ("exited", code) => code.parse().map(Self::Exited).map_err(|_| ()),
            ("killed", signal) => signal.parse().map(Self::Killed).map_err(|_| ()),
            ("refused", reason) => Ok(Self::Refused(reason.to_owned())),
            _ => Err(()),
        }
    }
}

/// Runs `command` until it ends or standard input does; the whole of a guard process. Must be called on the main
/// thread, before any other is started.
///
/// SIGTERM, SIGINT and SIGHUP are passed to the command as SIGTERM. How long the command may then take is the owner's
/// affair, who ends its patience by closing the socket.
pub fn main(command: Vec<OsString>) -> ExitCode {
    let signals: SigSet = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].into_iter().collect();
    let started = prepare(&signals).and_then(|()| start(command));
    // Standard input may not be a socket where a person runs a guard: the report then goes nowhere.
    let mut owner = match io::stdin().as_fd().try_clone_to_owned() {
        Ok(input) => File::from(input),
        Err(error) => {
            eprintln!("a guard needs a standard input: {error}");
            return ExitCode::from(NOT_STARTED);
        }
    };
    let child = match started {
        Ok(child) => child,
        Err(error) => {
            let _ = writeln!(owner, "{}", Report::Refused(error.to_string()));
            return ExitCode::from(NOT_STARTED);
        }
    };
    let _ = writeln!(owner, "{}", Report::Started(child.as_raw().cast_unsigned()));
    let mut reports = owner.try_clone();
    // These two outlive the child by the moment that it takes to kill what it left. Its id cannot have come round to
    // somebody else by then: the kernel hands out ids in turn.
    thread::spawn(move || {
        wait_for_end(&mut owner);
        let _ = killpg(child, Signal::SIGKILL);
    });
    thread::spawn(move || {
        while signals.wait().is_ok() {
            let _ = kill(child, Signal::SIGTERM);
        }
    });
    let end = wait_for(child);
    let _ = killpg(child, Signal::SIGKILL);
    #[cfg(target_os = "linux")]
    kill_children();
    let Some(end) = end else { return ExitCode::from(NOT_STARTED) };
    if let Ok(reports) = &mut reports {
        let _ = writeln!(reports, "{end}");
    }
    match end {
        Report::Killed(signal) => ExitCode::from(128 | signal as u8),
        Report::Exited(code) => ExitCode::from(code),
        Report::Started(_) | Report::Refused(_) => ExitCode::FAILURE,
    }
}

/// Gives this process its name, makes signals wait for the thread that handles them, and orphans children of it.
fn prepare(signals: &SigSet) -> io::Result<()> {
    signals.thread_block()?;
    #[cfg(target_os = "linux")]
    {
        nix::sys::prctl::set_name(&CString::new(NAME)?)?;
        nix::sys::prctl::set_child_subreaper(true)?;
    }
    Ok(())
}

/// Starts the command in a process group of its own, to die with this process.
fn start(command: Vec<OsString>) -> io::Result<Pid> {
    let mut arguments = command.into_iter();
    let program = arguments.next().ok_or_else(|| io::Error::other("there is no command to run"))?;
    let mut command = Command::new(&program);
    command.args(arguments).stdin(Stdio::null()).process_group(0);
    on_fork(&mut command);
    let child = command
        .spawn()
        .map_err(|error| io::Error::new(error.kind(), format!("'{}': {error}", program.display())))?;
    Ok(Pid::from_raw(child.id().cast_signed()))
}

/// What the child does between fork and exec.
#[allow(unsafe_code)]
fn on_fork(command: &mut Command) {
    #[cfg(target_os = "linux")]
    let guard = nix::unistd::getpid();
    let in_child = move || {
        SigSet::empty().thread_set_mask()?;
        #[cfg(target_os = "linux")]
        {
            // Covers the guard's own death by SIGKILL; the second line, a death before the first.
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            if nix::unistd::getppid() != guard {
                return Err(Errno::ESRCH.into());
            }
        }
        Ok(())
    };
    // SAFETY: between fork and exec only async-signal-safe functions may be called. These are plain system calls
    // (sigprocmask, prctl, getppid), and an `io::Error` of an errno allocates nothing.
    unsafe { command.pre_exec(in_child) };
}

/// Returns when the owner has closed its end, by whatever means.
fn wait_for_end(owner: &mut File) {
    let mut ignored = [0; 64];
    loop {
        match owner.read(&mut ignored) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// Waits until `child` has ended, reaping inherited orphans meanwhile. Returns how.
fn wait_for(child: Pid) -> Option<Report> {
    loop {
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, code)) if pid == child => {
                return Some(Report::Exited((code & 0xff) as u8));
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => {
                return Some(Report::Killed(signal as i32));
            }
            Ok(_) | Err(Errno::EINTR) => {}
            // Reachable only where SIGCHLD was ignored by whoever started us: there is no child any more.
            Err(_) => return None,
        }
    }
}

/// Kills every descendant. The children of one that is killed become our own, so the next round meets them; once
/// there is no child, there is no descendant.
#[cfg(target_os = "linux")]
fn kill_children() {
    let own_id = std::process::id();
    loop {
        // Without /proc nothing can be found; waiting would then last as long as the descendants please.
        let Ok(processes) = std::fs::read_dir("/proc") else { return };
        for process in processes.flatten() {
            let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            if std::fs::read(process.path().join("stat")).ok().and_then(|stat| parent_id(&stat))
                == Some(own_id)
            {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        match waitpid(None, None) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return,
        }
    }
}

/// The parent's process id from `/proc/PID/stat`, `PID (NAME) STATE PARENT ...`, where the name may hold anything.
#[cfg(target_os = "linux")]
fn parent_id(stat: &[u8]) -> Option<u32> {
    let end_of_name = stat.iter().rposition(|&byte| byte == b')')?;
    let rest = std::str::from_utf8(stat.get(end_of_name + 1..)?).ok()?;
    rest.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_reads_back_as_written() {
        let refused = Report::Refused("No such file or directory (os error 2)".into());
        for report in [Report::Started(77), refused, Report::Exited(255), Report::Killed(9)] {
            assert_eq!(report.to_string().parse(), Ok(report));
        }
        for line in ["", "started", "started x", "exited 256", "hello there"] {
            assert_eq!(line.parse::<Report>(), Err(()));
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_parent_is_found_whatever_the_process_is_called() {
        assert_eq!(parent_id(b"12 (a) b) c) S 7 12 12 0"), Some(7));
        assert_eq!(parent_id(b"12 (\xff\xfe) Z 1 1"), Some(1));
        assert_eq!(parent_id(b"garbage"), None);
    }
}
