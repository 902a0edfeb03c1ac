//! What this process uses, under the names that Prometheus gives it.
//!
//! Read at the scrape, from `/proc`; on systems without it there are none of these families.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

/// Collects the `process_*` families.
#[derive(Debug)]
pub struct Process;

impl Collector for Process {
    #[cfg(target_os = "linux")]
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        match linux::Usage::read() {
            Ok(usage) => usage.write(encoder),
            // It is this process that runs: only a hidden `/proc` can be the cause, and that is no reason to say nothing else.
            Err(_) => Ok(()),
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn encode(&self, _: DescriptorEncoder) -> fmt::Result {
        Ok(())
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::fmt;

    use procfs::ProcResult;
    use procfs::process::{LimitValue, Process};
    use prometheus_client::encoding::DescriptorEncoder;
    use prometheus_client::registry::Unit;

    use crate::families::Families;

    /// What the kernel says of this process.
    pub(super) struct Usage {
        cpu_seconds: f64,
        start_time_seconds: f64,
        resident_bytes: u64,
        virtual_bytes: u64,
        threads: i64,
        open_fds: u64,
        max_fds: f64,
    }

    impl Usage {
        #[allow(clippy::cast_precision_loss, reason = "seconds and limits stay far below 2^53")]
        pub(super) fn read() -> ProcResult<Self> {
            let process = Process::myself()?;
            let stat = process.stat()?;
            let ticks = procfs::ticks_per_second() as f64;
            let max_fds = match process.limits()?.max_open_files.soft_limit {
                LimitValue::Value(limit) => limit as f64,
                LimitValue::Unlimited => f64::INFINITY,
            };
            Ok(Self {
                cpu_seconds: (stat.utime + stat.stime) as f64 / ticks,
                start_time_seconds: procfs::boot_time_secs()? as f64 + stat.starttime as f64 / ticks,
                resident_bytes: stat.rss * procfs::page_size(),
                virtual_bytes: stat.vsize,
                threads: stat.num_threads,
                open_fds: process.fd_count()? as u64,
                max_fds,
            })
        }

        #[allow(clippy::cast_precision_loss, reason = "bytes and counts stay below 2^53")]
        pub(super) fn write(self, encoder: DescriptorEncoder) -> fmt::Result {
            let mut families = Families::new(encoder);
            families.lone_counter(
                "process_cpu",
                "CPU time spent by this process, user and system",
                Some(&Unit::Seconds),
                self.cpu_seconds,
            )?;
            let mut gauge = |name, help, unit: Option<Unit>, value: f64| {
                families.lone_gauge(name, help, unit.as_ref(), value)
            };
            gauge(
                "process_start_time",
                "When this process started, since the Unix epoch",
                Some(Unit::Seconds),
                self.start_time_seconds,
            )?;
            gauge("process_resident_memory", "Memory in RAM", Some(Unit::Bytes), self.resident_bytes as f64)?;
            gauge("process_virtual_memory", "Address space", Some(Unit::Bytes), self.virtual_bytes as f64)?;
            gauge("process_threads", "Threads", None, self.threads as f64)?;
            gauge("process_open_fds", "Open file descriptors", None, self.open_fds as f64)?;
            gauge("process_max_fds", "The most file descriptors that may be open", None, self.max_fds)
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;

    use super::*;

    #[test]
    fn this_process_has_memory_threads_and_descriptors() {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Process));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        let value = |name: &str| -> f64 {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.unwrap_or_else(|| panic!("{name} in {text}")).parse().unwrap()
        };
        assert!(value("process_resident_memory_bytes") > 100_000.0, "{text}");
        assert!(value("process_virtual_memory_bytes") >= value("process_resident_memory_bytes"), "{text}");
        assert!(value("process_threads") >= 1.0, "{text}");
        assert!((3.0..=value("process_max_fds")).contains(&value("process_open_fds")), "{text}");
        assert!(value("process_cpu_seconds_total") >= 0.0, "{text}");
        assert!(value("process_start_time_seconds") > 1.0e9, "{text}");
    }
}
