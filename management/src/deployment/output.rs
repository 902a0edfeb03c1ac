//! What a replica prints: its last lines in memory, and all of it in a log file of bounded size.
//!
//! Standard output and standard error arrive together, through one pipe. Invariant: memory is bounded by
//! [`TAIL_LINES`] lines of [`LINE_BYTES`], disk by two files of the stated limit (or one line, if that is longer).
//! Escaped characters come on top of these: `\u{0}` takes five bytes for one.
//!
//! Lines are made [`Printable`] as they arrive: neither the file nor an answer holds characters that
//! control a terminal.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use clipper_rpc::printable::Printable;
use tokio::fs::{self, File, OpenOptions};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tracing::warn;

use super::logs;

/// The most lines that are kept in memory.
const TAIL_LINES: usize = 200;
/// A line that is longer goes on in the next; where the cut falls within a character, that shows.
const LINE_BYTES: usize = 8 * 1024;

/// So much of a line is shown where lines are quoted.
const QUOTED_CHARS: usize = 400;

/// The output of one replica, over all its processes. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Output {
    path: PathBuf,
    file_bytes: u64,
    /// The last lines. Held for a few copies of lines, never across an await.
    tail: Arc<Mutex<VecDeque<String>>>,
}

impl Output {
    /// Output that is appended to the log file `path`, which is set aside as `path.1` before it exceeds `file_bytes`.
    pub(super) fn new(path: PathBuf, file_bytes: u64) -> Self {
        Self { path, file_bytes, tail: Arc::default() }
    }

    /// The last lines, at most `count`, oldest first.
    pub(super) fn last_lines(&self, count: usize) -> Vec<String> {
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        tail.iter().skip(tail.len().saturating_sub(count)).cloned().collect()
    }

    /// The last lines, at most `count`, oldest first, from the log file where memory does not reach back so far.
    pub(super) async fn logged_lines(&self, count: usize) -> Vec<String> {
        let remembered = self.last_lines(count);
        if remembered.len() == count { remembered } else { logs::last_lines(&self.path, count).await }
    }

    /// The last lines in memory, cut to a length that can be quoted.
    pub(super) fn quoted_lines(&self, count: usize) -> Vec<String> {
        self.last_lines(count).iter().map(|line| quoted(line)).collect()
    }

    /// Keeps everything that `source` yields, until it ends. A log file that cannot be written costs the file only.
    pub(super) async fn capture(&self, mut source: impl AsyncRead + Unpin) {
        let mut log = self.open().await;
        let mut lines = Lines::default();
        let mut buffer = vec![0; LINE_BYTES];
        loop {
            let count = match source.read(&mut buffer).await {
                Ok(count) => count,
                Err(error) => {
                    warn!(path = %self.path.display(), %error, "output of a replica cannot be read");
                    0
                }
            };
            let complete = if count > 0 { lines.push(&buffer[..count]) } else { lines.finish() };
            if let Some(file) = &mut log
                && let Err(error) = file.append(&complete).await
            {
                warn!(path = %self.path.display(), %error, "log file of a replica cannot be written");
                log = None;
            }
            self.remember(complete);
            if count == 0 {
                return;
            }
        }
    }

    async fn open(&self) -> Option<LogFile> {
        LogFile::open(&self.path, self.file_bytes)
            .await
            .inspect_err(|error| {
                warn!(path = %self.path.display(), %error, "log file of a replica cannot be opened");
            })
            .ok()
    }

    fn remember(&self, lines: Vec<String>) {
        let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        tail.extend(lines);
        let surplus = tail.len().saturating_sub(TAIL_LINES);
        tail.drain(..surplus);
    }
}

fn quoted(line: &str) -> String {
    match line.char_indices().nth(QUOTED_CHARS) {
        Some((end, _)) => format!("{} ...", &line[..end]),
        None => line.to_owned(),
    }
}

/// Cuts bytes into lines.
#[derive(Debug, Default)]
struct Lines {
    /// The line that has not ended yet.
    pending: Vec<u8>,
}

impl Lines {
    /// The lines that `bytes` complete.
    fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut complete = Vec::new();
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            for part in piece.chunks(LINE_BYTES) {
                if part != b"\n" && self.pending.len() + part.len() > LINE_BYTES {
                    complete.push(self.take());
                }
                self.pending.extend_from_slice(part);
            }
            if piece.ends_with(b"\n") {
                complete.push(self.take());
            }
        }
        complete
    }

    /// The last line, if it did not end with a line feed.
    fn finish(&mut self) -> Vec<String> {
        if self.pending.is_empty() { Vec::new() } else { vec![self.take()] }
    }

    fn take(&mut self) -> String {
        let line = std::mem::take(&mut self.pending);
        let line = line.strip_suffix(b"\n").unwrap_or(&line);
        Printable(String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line))).to_string()
    }
}

/// A file of lines that makes room for itself.
struct LogFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    limit: u64,
}

impl LogFile {
    async fn open(path: &Path, limit: u64) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).await?;
        }
        let file = OpenOptions::new().create(true).append(true).open(path).await?;
        let bytes = file.metadata().await?.len();
        Ok(Self { path: path.to_owned(), file, bytes, limit })
    }

    async fn append(&mut self, lines: &[String]) -> io::Result<()> {
        let mut text = String::new();
        for line in lines {
            if self.bytes + (text.len() + line.len()) as u64 >= self.limit {
                self.write(&std::mem::take(&mut text)).await?;
                self.set_aside().await?;
            }
            text.push_str(line);
            text.push('\n');
        }
        self.write(&text).await
    }

    async fn write(&mut self, text: &str) -> io::Result<()> {
        self.bytes += text.len() as u64;
        self.file.write_all(text.as_bytes()).await?;
        self.file.flush().await
    }

    async fn set_aside(&mut self) -> io::Result<()> {
        fs::rename(&self.path, logs::former(&self.path)).await?;
        *self = Self::open(&self.path, self.limit).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn output(folder: &tempfile::TempDir, file_bytes: u64) -> Output {
        Output::new(folder.path().join("logs").join("0.log"), file_bytes)
    }

    #[tokio::test]
    async fn lines_are_kept_in_memory_and_in_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let output = output(&folder, 1000);
        output.capture(&b"one\r\ntwo\n\nth\xffree"[..]).await;
        assert_eq!(output.last_lines(10), ["one", "two", "", "th\u{fffd}ree"]);
        assert_eq!(output.last_lines(1), ["th\u{fffd}ree"]);
        output.capture(&b"four\n"[..]).await;
        let file = std::fs::read_to_string(folder.path().join("logs/0.log")).unwrap();
        assert_eq!(file, "one\ntwo\n\nth\u{fffd}ree\nfour\n");
    }

    #[tokio::test]
    async fn a_full_log_file_is_set_aside() {
        let folder = tempfile::tempdir().unwrap();
        let output = output(&folder, 100);
        for number in 0..50 {
            output.capture(format!("line {number}\n").as_bytes()).await;
        }
        let log = |name| std::fs::read_to_string(folder.path().join("logs").join(name)).unwrap();
        assert!(log("0.log").ends_with("line 49\n"));
        assert!(log("0.log").len() <= 100 && log("0.log.1").len() <= 100);
        assert!(
            (log("0.log.1") + &log("0.log")).contains("line 39\nline 40\n"),
            "nothing is lost between the two"
        );
    }

    #[tokio::test]
    async fn memory_keeps_the_last_lines_only() {
        let folder = tempfile::tempdir().unwrap();
        let output = output(&folder, 1 << 20);
        let printed: String = (0..1000).map(|number| format!("{number}\n")).collect();
        output.capture(printed.as_bytes()).await;
        let lines = output.last_lines(usize::MAX);
        assert_eq!((lines.len(), lines[0].as_str()), (TAIL_LINES, "800"));
    }

    #[tokio::test]
    async fn what_would_control_a_terminal_is_neither_kept_nor_logged() {
        let folder = tempfile::tempdir().unwrap();
        let output = output(&folder, 10_000);
        output.capture("\x1b[31mred\x07\tend\rover\u{2028}there\r\n".as_bytes()).await;
        let line = "\\u{1b}[31mred\\u{7}\tend\\rover\\u{2028}there";
        assert_eq!(output.last_lines(9), [line]);
        assert_eq!(output.quoted_lines(9), [line]);
        let file = std::fs::read_to_string(folder.path().join("logs/0.log")).unwrap();
        assert_eq!(file, format!("{line}\n"));
    }

    #[tokio::test]
    async fn a_quoted_line_is_short() {
        let folder = tempfile::tempdir().unwrap();
        let output = output(&folder, 10_000);
        output.capture("é".repeat(401).as_bytes()).await;
        assert_eq!(output.quoted_lines(1), ["é".repeat(400) + " ..."]);
        output.capture("é".repeat(400).as_bytes()).await;
        assert_eq!(output.quoted_lines(1), ["é".repeat(400)]);
    }

    #[test]
    fn an_endless_line_is_cut() {
        let mut lines = Lines::default();
        let complete: Vec<String> = (0..10).flat_map(|_| lines.push(&[b'x'; 5000])).collect();
        assert!(complete.iter().all(|line| line.len() <= LINE_BYTES));
        let rest = lines.finish();
        assert_eq!(complete.iter().chain(&rest).map(String::len).sum::<usize>(), 50_000);
    }

    proptest! {
        #[test]
        fn lines_do_not_depend_on_how_they_arrive(text in "[a-c\n]{0,200}", cuts in prop::collection::vec(0..200usize, 0..8)) {
            let mut lines = Lines::default();
            let mut arrived = Vec::new();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            for pair in cuts.windows(2) {
                arrived.extend(lines.push(&text.as_bytes()[pair[0]..pair[1]]));
            }
            arrived.extend(lines.finish());
            prop_assert_eq!(arrived, text.lines().collect::<Vec<_>>());
        }
    }
}
