//! The tools that work on files alone: `clipper replay`, `clipper evaluate` and `clipper export`.
//!
//! Each reads what its command names, prints a result, and ends; the settings file is not read for them. Invariant: a result
//! follows from the files and the flags alone.

pub mod evaluate;
pub mod export;
pub mod replay;

use std::fs::File;
use std::io::{BufReader, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clipper_rpc::names::AppName;
use clipper_selection::log::Record;
use clipper_selection::offline::lines::Records;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;

/// What the files of logs are called.
const EXTENSION: &str = "jsonl";

/// The files of a log, in the order in which they were begun: of a directory, all that are in it.
fn log_files(paths: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() {
            let before = files.len();
            collect(path, &mut files).with_context(|| format!("cannot read {}", path.display()))?;
            if files.len() == before {
                bail!(
                    "{} holds no file of a decision log, such as 0-1700000000000000.{EXTENSION}",
                    path.display()
                );
            }
        } else {
            files.push(path.clone());
        }
    }
    files.sort_by_cached_key(|file| (begun(file), file.clone()));
    files.dedup();
    Ok(files)
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == EXTENSION) {
            files.push(path);
        }
    }
    Ok(())
}

/// When a file was begun, by its name (`FRONTEND-MICROSECONDS.jsonl`).
fn begun(file: &Path) -> u64 {
    let name = file.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
    name.rsplit_once('-').and_then(|(_, micros)| micros.parse().ok()).unwrap_or_default()
}

fn open(file: &Path) -> anyhow::Result<BufReader<File>> {
    let opened = File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(BufReader::with_capacity(1 << 20, opened))
}

/// The records of several files, one after the other.
struct LogReader<'a> {
    files: std::slice::Iter<'a, PathBuf>,
    current: Option<(&'a Path, Records<BufReader<File>>)>,
    /// Of which application alone, if of one.
    only: Option<&'a AppName>,
    wanted: bool,
    /// The bytes of records that broke off.
    ignored_bytes: u64,
}

impl<'a> LogReader<'a> {
    fn new(files: &'a [PathBuf], only: Option<&'a AppName>) -> Self {
        Self { files: files.iter(), current: None, only, wanted: false, ignored_bytes: 0 }
    }

    fn read(&mut self) -> anyhow::Result<Option<Record>> {
        loop {
            let Some((file, records)) = &mut self.current else {
                let Some(file) = self.files.next() else { return Ok(None) };
                self.current = Some((file, Records::new(open(file)?)));
                continue;
            };
            match records.next().transpose().with_context(|| file.display().to_string())? {
                Some(record) => {
                    if let Record::Start { application, .. } = &record {
                        self.wanted = self.only.is_none_or(|only| only == application);
                    }
                    if self.wanted {
                        return Ok(Some(record));
                    }
                }
                None => {
                    self.ignored_bytes += records.ignored_bytes();
                    self.current = None;
                }
            }
        }
    }
}

impl Iterator for LogReader<'_> {
    type Item = anyhow::Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

/// A table whose columns but the first are numbers.
fn table<const COLUMNS: usize>(
    header: [&str; COLUMNS],
    rows: impl IntoIterator<Item = [String; COLUMNS]>,
) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED);
    table.set_header(header);
    for row in rows {
        table.add_row(row);
    }
    align(&mut table);
    table
}

fn align(table: &mut Table) {
    table.column_iter_mut().skip(1).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
}

fn print(text: &str) -> anyhow::Result<()> {
    writeln!(std::io::stdout(), "{text}").context("cannot print the result")
}

fn write_json(file: Option<&Path>, result: &impl Serialize) -> anyhow::Result<()> {
    let Some(file) = file else { return Ok(()) };
    let text = serde_json::to_string_pretty(result)?;
    std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_stands_for_its_files_in_the_order_in_which_they_were_begun() {
        let directory = tempfile::tempdir().unwrap();
        let inner = directory.path().join("app");
        std::fs::create_dir(&inner).unwrap();
        for name in ["2-9.jsonl", "1-10.jsonl", "1-9.txt"] {
            std::fs::write(inner.join(name), "").unwrap();
        }
        let files = log_files(&[directory.path().to_owned(), inner.join("2-9.jsonl")]).unwrap();
        assert_eq!(files, [inner.join("2-9.jsonl"), inner.join("1-10.jsonl")]);
        std::fs::remove_dir_all(&inner).unwrap();
        assert!(log_files(&[directory.path().to_owned()]).unwrap_err().to_string().contains("holds no file"));
    }
}
