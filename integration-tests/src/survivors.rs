//! What outlived its cluster.
//!
//! Every process of a cluster has the cluster's mark in its environment, and so has whatever it starts.

use std::fs;

use nix::unistd::Pid;

/// The variable that holds the mark.
pub const MARK: &str = "TEST_CLUSTER";

/// The running processes that carry a mark, with their command lines.
pub fn marked(mark: &str) -> Vec<(Pid, String)> {
    let wanted = format!("{MARK}={mark}").into_bytes();
    let processes = fs::read_dir("/proc").expect("there is a /proc").flatten();
    processes
        .filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            // A process that ends meanwhile cannot be read; one that has ended has no environment.
            let environment = fs::read(entry.path().join("environ")).ok()?;
            environment.split(|&byte| byte == 0).any(|variable| variable == wanted).then_some(())?;
            let command = fs::read(entry.path().join("cmdline")).ok()?;
            Some((Pid::from_raw(pid), String::from_utf8_lossy(&command).replace('\0', " ")))
        })
        .collect()
}
