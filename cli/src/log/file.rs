//! A log file that is set aside when it is full.
//!
//! `FILE` becomes `FILE.1`, `FILE.1` becomes `FILE.2`, and the oldest is replaced. Invariant: what
//! a process writes has at most `files * file_bytes` bytes at any time, whatever fails: a line that
//! has no place is not written. A file that was longer when the process began, under other limits,
//! stays until it is the oldest.
//!
//! Crates for this were tried: `file-rotate` panics where a file cannot be created, as when
//! descriptors run out; `logroller` renames in a thread of its own and leaves files behind if it is
//! killed; `tracing-appender` goes by time.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

/// A file of lines, and its predecessors.
#[derive(Debug)]
pub(super) struct RotatingFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    file_bytes: u64,
    files: NonZeroUsize,
}

impl RotatingFile {
    /// Opens a file to append to, with the directory that it is in.
    ///
    /// # Errors
    /// If it cannot be created or opened, or is something else than a file.
    pub(super) fn open(path: &Path, file_bytes: u64, files: NonZeroUsize) -> io::Result<Self> {
        if path.symlink_metadata().is_ok_and(|metadata| !metadata.is_file()) {
            return Err(io::Error::other("it is not a regular file"));
        }
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let file = append_to(path)?;
        let bytes = file.metadata()?.len();
        let opened = Self { path: std::path::absolute(path)?, file, bytes, file_bytes, files };
        opened.remove_surplus();
        Ok(opened)
    }

    /// Appends a line, in another file if this one is full.
    ///
    /// # Errors
    /// If the line cannot be written. The next line may.
    pub(super) fn append(&mut self, line: &[u8]) -> io::Result<()> {
        if self.bytes > 0 && self.bytes + line.len() as u64 > self.file_bytes {
            self.begin_another()?;
        }
        // A line that was written in part counts as a whole.
        self.bytes += line.len() as u64;
        self.file.write_all(line)
    }

    fn begin_another(&mut self) -> io::Result<()> {
        // It is missing if the last attempt has failed after the renaming, which must not be
        // repeated.
        if self.path.try_exists()? {
            self.set_aside()?;
        }
        self.file = append_to(&self.path)?;
        self.bytes = self.file.metadata()?.len();
        Ok(())
    }

    fn set_aside(&self) -> io::Result<()> {
        for number in (1..self.files.get()).rev() {
            match fs::rename(self.numbered(number - 1), self.numbered(number)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        if self.files.get() == 1 { fs::remove_file(&self.path) } else { Ok(()) }
    }

    /// Removes files that a process with more of them has left.
    fn remove_surplus(&self) {
        let mut number = self.files.get();
        while fs::remove_file(self.numbered(number)).is_ok() {
            number += 1;
        }
    }

    /// The name of the file that was set aside so many times.
    fn numbered(&self, number: usize) -> PathBuf {
        if number == 0 {
            return self.path.clone();
        }
        let mut name = OsString::from(&self.path);
        name.push(format!(".{number}"));
        name.into()
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    File::options().create(true).append(true).open(path)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    const FILE_BYTES: u64 = 100;

    struct Fixture(TempDir);

    impl Fixture {
        fn new() -> Self {
            Self(TempDir::new().unwrap())
        }

        fn open(&self, files: usize) -> RotatingFile {
            RotatingFile::open(&self.path("log"), FILE_BYTES, NonZeroUsize::new(files).unwrap()).unwrap()
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn read(&self, name: &str) -> String {
            fs::read_to_string(self.path(name)).unwrap()
        }

        fn names(&self) -> Vec<String> {
            let entries = fs::read_dir(self.0.path()).unwrap();
            let mut names: Vec<_> =
                entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        }
    }

    fn write(file: &mut RotatingFile, lines: std::ops::Range<u32>) {
        for number in lines {
            file.append(format!("line {number:03}\n").as_bytes()).unwrap();
        }
    }

    #[test]
    fn the_latest_lines_are_kept_in_files_of_bounded_size() {
        let fixture = Fixture::new();
        let mut file = fixture.open(3);
        write(&mut file, 0..500);
        assert_eq!(fixture.names(), ["log", "log.1", "log.2"]);
        let kept = ["log.2", "log.1", "log"].map(|name| fixture.read(name));
        assert!(kept.iter().all(|text| text.len() as u64 <= FILE_BYTES), "{kept:?}");
        let expected: String = (500 - 11 - 11 - 5..500).map(|number| format!("line {number:03}\n")).collect();
        assert_eq!(kept.concat(), expected);
    }

    #[test]
    fn one_file_is_begun_anew() {
        let fixture = Fixture::new();
        write(&mut fixture.open(1), 0..12);
        assert_eq!((fixture.names(), fixture.read("log")), (vec!["log".to_owned()], "line 011\n".to_owned()));
    }

    #[test]
    fn a_process_goes_on_with_the_file_of_the_last_one() {
        let fixture = Fixture::new();
        write(&mut fixture.open(3), 0..40);
        write(&mut fixture.open(2), 40..44);
        assert_eq!(fixture.names(), ["log", "log.1"]);
        assert!(fixture.read("log").starts_with("line 033\n"));
        assert!(fixture.read("log").ends_with("line 043\n"));
    }

    #[test]
    fn lines_are_dropped_while_there_can_be_no_file_and_nothing_older_is_lost() {
        let fixture = Fixture::new();
        let mut file = fixture.open(3);
        write(&mut file, 0..22);
        let path = std::mem::replace(&mut file.path, fixture.path("missing/log"));
        for _ in 0..5 {
            assert!(file.append(b"dropped\n").is_err());
        }
        file.path = path;
        write(&mut file, 22..24);
        assert_eq!(fixture.read("log"), "line 022\nline 023\n");
        assert!(fixture.read("log.2").starts_with("line 000\n"));
    }

    #[test]
    fn what_is_not_a_file_is_refused() {
        let fixture = Fixture::new();
        let open =
            |path: &Path| RotatingFile::open(path, FILE_BYTES, NonZeroUsize::MIN).unwrap_err().to_string();
        assert_eq!(open(Path::new("/dev/null")), "it is not a regular file");
        assert_eq!(open(fixture.0.path()), "it is not a regular file");
    }
}
