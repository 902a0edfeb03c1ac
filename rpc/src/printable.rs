//! Makes text of others safe to print: it stays on one line, controls no terminal, and is read in
//! the order in which it is stored.
//!
//! Every log line and every error that is written to a terminal passes through here. Tabs, quotes
//! and backslashes stay as they are.

use std::fmt::{self, Write};

/// Displays a value with every character that [`is_printable`] rejects escaped, as in `\n` or
/// `\u{1b}`.
#[derive(Debug, Clone, Copy)]
pub struct Printable<T>(pub T);

impl<T: fmt::Display> fmt::Display for Printable<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(PrintableWriter(f), "{}", self.0)
    }
}

/// Passes text on to another writer as [`Printable`] displays it.
#[derive(Debug)]
pub struct PrintableWriter<W>(pub W);

impl<W: Write> Write for PrintableWriter<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some((start, character)) = rest.char_indices().find(|&(_, it)| !is_printable(it)) {
            self.0.write_str(&rest[..start])?;
            write!(self.0, "{}", character.escape_default())?;
            rest = &rest[start + character.len_utf8()..];
        }
        self.0.write_str(rest)
    }
}

/// Whether a character neither ends a line, nor controls a terminal, nor changes the order or the
/// visibility of the text around it. Joiners and combining marks are printable: many scripts need
/// them.
pub fn is_printable(character: char) -> bool {
    match character {
        '\t' => true,
        // Soft hyphen, zero-width space, word joiner and invisible operators, byte order mark.
        '\u{ad}' | '\u{200b}' | '\u{2060}'..='\u{2064}' | '\u{feff}' => false,
        // Line and paragraph separators.
        '\u{2028}' | '\u{2029}' => false,
        // Marks, embeddings, overrides and isolates of the direction of writing; deprecated format
        // characters.
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{206f}' => false,
        // Interlinear annotations, tags.
        '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}' => false,
        // C0, DEL and C1.
        other => !other.is_control(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_a_line_controls_a_terminal_or_reorders_text_is_escaped() {
        for (text, printed) in [
            ("one\ntwo\r\n", r"one\ntwo\r\n"),
            ("\x1b[2Jgone\x07\x08\x7f", r"\u{1b}[2Jgone\u{7}\u{8}\u{7f}"),
            ("\u{85}\u{9b}31m", r"\u{85}\u{9b}31m"),
            ("a\u{2028}b\u{2029}c\u{b}d\u{c}e", r"a\u{2028}b\u{2029}c\u{b}d\u{c}e"),
            ("\u{202e}drow\u{202c}\u{2066}", r"\u{202e}drow\u{202c}\u{2066}"),
            ("in\u{200b}vis\u{feff}ible\u{e0041}", r"in\u{200b}vis\u{feff}ible\u{e0041}"),
            ("\0", r"\u{0}"),
        ] {
            assert_eq!(Printable(text).to_string(), printed);
        }
    }

    #[test]
    fn text_of_any_language_stays_as_it_is() {
        for text in ["", "a\tb \"c\" \\n 'd'", "größer, e\u{301}", "नमस्ते", "שלום", "日本語", "👩\u{200d}🔬"]
        {
            assert_eq!(Printable(text).to_string(), text);
        }
    }
}
