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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_keeps_its_ends_and_no_character_is_cut() {
        let text = format!("begin{}end", "é".repeat(1000));
        let shortened = excerpt(&text);
        assert!(shortened.starts_with("begin") && shortened.ends_with("end") && shortened.len() < 410);
        assert_eq!(excerpt("short"), "short");
    }
}
