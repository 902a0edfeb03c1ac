//! Where and of what something was measured.

use std::process::Command;

/// One line on the machine, the commit and the tools.
pub fn describe() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, name)| name));
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kilobytes = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().trim_end_matches(" kB").parse::<f64>().ok());
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!(
        "{} UTC; commit {}; {cores} cores ({}), {:.0} GB, Linux {}; {}",
        said("date", &["-u", "+%Y-%m-%d %H:%M"]),
        said("git", &["describe", "--always", "--dirty"]),
        model.unwrap_or("unknown processor"),
        kilobytes.unwrap_or_default() / (1024.0 * 1024.0),
        said("uname", &["-r"]),
        said("rustc", &["--version"]),
    )
}

fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text =
        output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
    if text.is_empty() { "unknown".to_owned() } else { text }
}
