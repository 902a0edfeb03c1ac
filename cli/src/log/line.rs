//! Bounds the length of written lines, and makes JSON lines printable.
//!
//! The formatter hands over each event as one line, in one call.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

use clipper_rpc::printable::is_printable;
use serde_json::Value;
use tracing_subscriber::fmt::MakeWriter;

use super::LogFormat;
use super::file::RotatingFile;

/// The length beyond which a line is cut, in bytes.
const LONGEST_LINE: usize = 8 << 10;
/// The length beyond which a text in a JSON line that is too long is cut, in bytes.
const LONGEST_TEXT: usize = 1 << 10;

/// Destination of lines.
#[derive(Debug)]
pub(super) enum Destination {
    StandardError,
    /// Locked for the writing of one line, and now and then the renaming of a few files.
    File(Mutex<RotatingFile>),
}

/// Takes the lines of the formatter.
#[derive(Debug)]
pub(super) struct Lines {
    pub(super) format: LogFormat,
    pub(super) destination: Destination,
}

/// Takes one line of the formatter.
pub(super) struct LineWriter<'a>(&'a Lines);

impl<'a> MakeWriter<'a> for Lines {
    type Writer = LineWriter<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        LineWriter(self)
    }
}

impl Write for LineWriter<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        let text = text.strip_suffix('\n').unwrap_or(&text);
        let mut bounded = match self.0.format {
            LogFormat::Human => cut(text, LONGEST_LINE),
            LogFormat::Json => printable_json(&bounded_json(text)).into(),
        }
        .into_owned();
        bounded.push('\n');
        match &self.0.destination {
            Destination::StandardError => io::stderr().write_all(bounded.as_bytes())?,
            Destination::File(file) => {
                file.lock().unwrap_or_else(PoisonError::into_inner).append(bounded.as_bytes())?;
            }
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The beginning of a text that is longer than `longest`, with a note of how much is missing.
fn cut(text: &str, longest: usize) -> Cow<'_, str> {
    if text.len() <= longest {
        return text.into();
    }
    let end = text.floor_char_boundary(longest);
    format!("{} ... ({} bytes were left out)", &text[..end], text.len() - end).into()
}

/// A JSON object with shorter texts, if it is too long.
fn bounded_json(line: &str) -> Cow<'_, str> {
    if line.len() <= LONGEST_LINE {
        return line.into();
    }
    match serde_json::from_str(line) {
        Ok(Value::Object(mut event)) => {
            for value in event.values_mut() {
                if let Value::String(text) = value {
                    *text = cut(text, LONGEST_TEXT).into_owned();
                }
            }
            Value::Object(event).to_string().into()
        }
        // The formatter writes nothing else.
        _ => line.into(),
    }
}

/// JSON in which characters that are not printable are escaped. They occur in texts only.
fn printable_json(json: &str) -> String {
    let mut printable = String::with_capacity(json.len());
    for character in json.chars() {
        if is_printable(character) {
            printable.push(character);
        } else {
            for unit in character.encode_utf16(&mut [0; 2]) {
                write!(printable, "\\u{unit:04x}").expect("a string takes what is written");
            }
        }
    }
    printable
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_escaped_and_still_says_the_same() {
        let text = "\u{9b}31m\u{7f} \u{2028}\u{202e}\u{e0041} größer\n";
        let json = Value::from(text).to_string();
        let printable = printable_json(&json);
        assert!(printable.chars().all(is_printable), "{printable}");
        assert_eq!(serde_json::from_str::<Value>(&printable).unwrap(), text);
    }

    #[test]
    fn a_long_line_is_cut_and_says_so() {
        let text = "é".repeat(LONGEST_LINE);
        let line = cut(&text, LONGEST_LINE);
        assert!(line.len() < LONGEST_LINE + 50, "{}", line.len());
        assert!(line.ends_with(&format!(" ... ({LONGEST_LINE} bytes were left out)")));
        assert_eq!(cut("short", 5), "short");
    }

    #[test]
    fn a_long_json_line_stays_json() {
        let line =
            serde_json::json!({"level": "WARN", "error": "x".repeat(LONGEST_LINE), "count": 3}).to_string();
        let bounded = bounded_json(&line);
        assert!(bounded.len() < LONGEST_TEXT + 200, "{}", bounded.len());
        let event: Value = serde_json::from_str(&bounded).unwrap();
        assert_eq!((&event["level"], &event["count"]), (&"WARN".into(), &3.into()));
    }
}
