//! Shortens what others said before it is repeated to them or to a log.

use std::borrow::Cow;

/// The longest text that is repeated whole, in bytes.
const LONGEST: usize = 400;

/// The text, or its beginning and its end if it is long.
pub fn excerpt(text: &str) -> Cow<'_, str> {
    if text.len() <= LONGEST {
        return text.into();
    }
    let head = text.floor_char_boundary(LONGEST / 2);
    let tail = text.ceil_char_boundary(text.len() - LONGEST / 2);
    format!("{} ... {}", &text[..head], &text[tail..]).into()
}

/// The longest error text of a container that is kept, in bytes.
const LONGEST_ERROR: usize = 4096;

/// The text of a container's error, or its beginning and its length if it is too long to keep.
pub fn error_text(text: &str) -> Cow<'_, str> {
    if text.len() <= LONGEST_ERROR {
        return text.into();
    }
    let mark = format!(" ... (cut, {} bytes)", text.len());
    let head = text.floor_char_boundary(LONGEST_ERROR - mark.len());
    format!("{}{mark}", &text[..head]).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_error_keeps_its_beginning_and_says_that_it_was_cut() {
        let text = format!("x{}", "é".repeat(5000));
        let kept = error_text(&text);
        assert!(kept.starts_with("xéé") && kept.ends_with("é ... (cut, 10001 bytes)"), "{kept}");
        assert!(kept.len() <= LONGEST_ERROR && kept.len() > LONGEST_ERROR - 4);
        let whole = "é".repeat(LONGEST_ERROR / 2);
        assert_eq!(error_text(&whole), whole);
    }

    #[test]
    fn a_long_text_keeps_its_ends_and_no_character_is_cut() {
        let text = format!("begin{}end", "é".repeat(1000));
        let shortened = excerpt(&text);
        assert!(shortened.starts_with("begin") && shortened.ends_with("end") && shortened.len() < 410);
        assert_eq!(excerpt("short"), "short");
    }
}
