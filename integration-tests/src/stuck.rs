//! What a process may wait for in vain: a thread that the kernel does not let go on, and a pipe that nobody reads.

use std::fs::{self, File};
use std::io::{ErrorKind, PipeReader, PipeWriter, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::thread::{self, JoinHandle};

use nix::libc::O_NONBLOCK;
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// A thread of another process that does nothing until that process ends: like one that waits for a disk that does not
/// answer.
pub struct FrozenThread {
    tracer: Option<JoinHandle<()>>,
}

impl FrozenThread {
    /// Stops the thread of that name. Panics if there is none, or if it cannot be traced.
    pub fn freeze(process: Pid, name: &str) -> Self {
        let thread = thread_of(process, name);
        let (frozen, is_frozen) = std::sync::mpsc::channel();
        // Whoever traces a thread must also wait for its end, or its process never ends.
        let tracer = thread::spawn(move || {
            ptrace::seize(thread, ptrace::Options::empty()).expect("a child may be traced");
            ptrace::interrupt(thread).expect("it is traced");
            let wait = || waitpid(thread, Some(WaitPidFlag::__WALL));
            wait().expect("it stops");
            let _ = frozen.send(());
            while !matches!(wait(), Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) | Err(_)) {}
        });
        is_frozen.recv().expect("the thread is frozen");
        Self { tracer: Some(tracer) }
    }
}

impl Drop for FrozenThread {
    /// Waits until the process has ended, which the test sees to.
    fn drop(&mut self) {
        if !thread::panicking()
            && let Some(tracer) = self.tracer.take()
        {
            tracer.join().expect("the tracer does not panic");
        }
    }
}

fn thread_of(process: Pid, name: &str) -> Pid {
    let threads = fs::read_dir(format!("/proc/{process}/task")).expect("it runs");
    let mut threads = threads.flatten().filter(|thread| {
        fs::read_to_string(thread.path().join("comm")).is_ok_and(|thread| thread.trim_end() == name)
    });
    let thread = threads.next().unwrap_or_else(|| panic!("there is no thread {name}"));
    Pid::from_raw(thread.file_name().to_string_lossy().parse().expect("threads are numbers"))
}

/// A pipe that nobody reads. Whoever writes to it waits for ever once it is filled.
pub struct UnreadPipe {
    _reader: PipeReader,
    writer: PipeWriter,
}

impl UnreadPipe {
    /// A pipe with room.
    pub fn new() -> Self {
        let (reader, writer) = std::io::pipe().expect("there are descriptors left");
        Self { _reader: reader, writer }
    }

    /// An end to write to.
    pub fn writer(&self) -> PipeWriter {
        self.writer.try_clone().expect("there are descriptors left")
    }

    /// Leaves no room in it.
    pub fn fill(&self) {
        // Opened anew: what is set for `writer` holds for all its copies.
        let path = format!("/proc/self/fd/{}", self.writer.as_raw_fd());
        let writer = File::options().write(true).custom_flags(O_NONBLOCK).open(path);
        let mut writer = writer.expect("it is ours");
        for size in [4096, 1] {
            let full = loop {
                if let Err(error) = writer.write(&[b'x'; 4096][..size]) {
                    break error;
                }
            };
            assert_eq!(full.kind(), ErrorKind::WouldBlock);
        }
    }
}

impl Default for UnreadPipe {
    fn default() -> Self {
        Self::new()
    }
}
