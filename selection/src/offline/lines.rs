//! The lines of a file, one at a time.
//!
//! Invariant: a last line without its end is told from the others: whoever wrote it may have been killed in the middle.

use std::io::BufRead;

use crate::log::Record;
use crate::offline::OfflineError;

/// The lines of a file, with their numbers.
pub struct Lines<R> {
    reader: R,
    buffer: Vec<u8>,
    number: u64,
}

/// One line.
#[derive(Debug, Clone, Copy)]
pub struct Line<'a> {
    /// From 1.
    pub number: u64,
    /// Without its end.
    pub bytes: &'a [u8],
    /// Whether its end was there.
    pub ended: bool,
}

impl<R: BufRead> Lines<R> {
    /// Begins at the reader's place.
    pub fn new(reader: R) -> Self {
        Self { reader, buffer: Vec::new(), number: 0 }
    }

    /// The next line that is not blank.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read(&mut self) -> std::io::Result<Option<Line<'_>>> {
        loop {
            self.buffer.clear();
            if self.reader.read_until(b'\n', &mut self.buffer)? == 0 {
                return Ok(None);
            }
            self.number += 1;
            if !self.buffer.trim_ascii().is_empty() {
                break;
            }
        }
        let ended = self.buffer.last() == Some(&b'\n');
        Ok(Some(Line { number: self.number, bytes: self.buffer.trim_ascii(), ended }))
    }
}

/// The records of one file of a decision log.
pub struct Records<R> {
    lines: Lines<R>,
    started: bool,
    ignored_bytes: u64,
}

impl<R: BufRead> Records<R> {
    /// Begins at the start of a file.
    pub fn new(reader: R) -> Self {
        Self { lines: Lines::new(reader), started: false, ignored_bytes: 0 }
    }

    /// The length of a last record that broke off; known at the end.
    pub fn ignored_bytes(&self) -> u64 {
        self.ignored_bytes
    }

    fn read(&mut self) -> Result<Option<Record>, OfflineError> {
        let Some(line) = self.lines.read()? else { return Ok(None) };
        match serde_json::from_slice(line.bytes) {
            Ok(record) => {
                if !self.started {
                    check_start(&record, line.number)?;
                    self.started = true;
                }
                Ok(Some(record))
            }
            Err(_) if !line.ended => {
                self.ignored_bytes = line.bytes.len() as u64;
                Ok(None)
            }
            Err(error) => Err(OfflineError::Line {
                line: line.number,
                problem: format!("expected a record of a decision log: {}", in_line(&error)),
            }),
        }
    }
}

impl<R: BufRead> Iterator for Records<R> {
    type Item = Result<Record, OfflineError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

/// What is wrong with the JSON of one line, whose number within itself says nothing.
pub(crate) fn in_line(error: &serde_json::Error) -> String {
    error.to_string().replacen(" at line 1 column", " at column", 1)
}

fn check_start(record: &Record, line: u64) -> Result<(), OfflineError> {
    let problem = match record {
        Record::Start { format: 1, .. } => return Ok(()),
        Record::Start { format, .. } => format!("the log is of format {format}; expected 1"),
        _ => "expected a decision log, whose first record is 'start'".to_owned(),
    };
    Err(OfflineError::Line { line, problem })
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: &str = r#"{"record": "start", "format": 1, "time_micros": 1, "application": "a", "selection": {"policy": {"policy": "ucb1"}}, "candidates": ["m"], "shared": {}, "version": 0}"#;

    fn read(text: &str) -> (Vec<Result<Record, String>>, u64) {
        let mut records = Records::new(text.as_bytes());
        let read = records.by_ref().map(|record| record.map_err(|error| error.to_string())).collect();
        (read, records.ignored_bytes())
    }

    #[test]
    fn a_record_that_broke_off_is_left_out_and_counted() {
        let (records, ignored) = read(&format!("{START}\n\n{{\"record\": \"fee"));
        assert_eq!((records.len(), ignored), (1, 15));
        assert!(records[0].is_ok());
        let (records, ignored) = read(&format!("{START}\n{START}"));
        assert_eq!((records.len(), ignored), (2, 0), "only the end of its line is missing");
        assert_eq!(read(""), (vec![], 0));
    }

    #[test]
    fn what_is_no_log_is_refused_by_the_number_of_its_line() {
        let problem = |text: &str| read(text).0.into_iter().find_map(Result::err).unwrap();
        assert!(problem(&format!("{START}\n\n{{}}\n")).starts_with("line 3: expected a record"));
        let change = r#"{"record": "change", "version": 1, "uid": null, "change": {}}"#;
        assert!(problem(&format!("{change}\n")).contains("whose first record is 'start'"));
        let newer = START.replace("\"format\": 1", "\"format\": 2");
        assert_eq!(problem(&format!("{newer}\n")), "line 1: the log is of format 2; expected 1");
    }
}
