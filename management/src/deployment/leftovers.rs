//! Processes of replicas whose guard could not see to their end, because it was killed itself.
//!
//! They are known by a variable of the environment that every process of a replica inherits. Invariant: when
//! [`kill_all`] returns, no process with that variable was left, but for those that the kernel does not let die.

#[cfg(target_os = "linux")]
use std::time::{Duration, Instant};

/// The data directory of the management that a process belongs to. Management's own: containers need not know it.
pub(super) const REPLICA_OF: &str = "CLIPPER_REPLICA_OF";
/// The process of a replica, as `docs/protocol.md` has it.
pub(super) const INSTANCE: &str = "CLIPPER_INSTANCE";

/// How long to wait for processes to die.
#[cfg(target_os = "linux")]
const PATIENCE: Duration = Duration::from_secs(5);

/// Kills every process that was started with this variable, and waits until they are dead. Blocks.
#[cfg(target_os = "linux")]
pub(super) fn kill_all(variable: &str, value: &[u8]) {
    use nix::sys::signal::{Signal, kill};

    let deadline = Instant::now() + PATIENCE;
    let mut killed = std::collections::BTreeSet::new();
    let mut empty_passes = 0;
    loop {
        // Those that were killed are met again until they are dead, and what they started meanwhile is met, too.
        let left = processes_with(variable, value);
        // Whatever is just becoming another program has no environment for a moment, so one look is not enough.
        empty_passes = if left.is_empty() { empty_passes + 1 } else { 0 };
        if empty_passes >= 2 {
            break;
        }
        for pid in &left {
            let _ = kill(*pid, Signal::SIGKILL);
        }
        killed.extend(left.iter().map(|pid| pid.as_raw()));
        if Instant::now() >= deadline {
            tracing::error!(?left, "processes of former replicas cannot be killed");
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    if !killed.is_empty() {
        tracing::warn!(processes = ?killed, "killed what was left of replicas whose guards were killed");
    }
}

/// Elsewhere other processes' environments cannot be read.
#[cfg(not(target_os = "linux"))]
pub(super) fn kill_all(_: &str, _: &[u8]) {}

/// The processes that were started with this variable, other than this one. Zombies have no environment any more.
#[cfg(target_os = "linux")]
fn processes_with(variable: &str, value: &[u8]) -> Vec<nix::unistd::Pid> {
    let sought = [variable.as_bytes(), b"=", value].concat();
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    processes
        .flatten()
        .filter(|process| {
            std::fs::read(process.path().join("environ"))
                .is_ok_and(|environment| environment.split(|&byte| byte == 0).any(|entry| entry == sought))
        })
        .filter_map(|process| process.file_name().to_str()?.parse().ok())
        .filter(|&pid| pid != std::process::id().cast_signed())
        .map(nix::unistd::Pid::from_raw)
        .collect()
}
