//! Texts that are nested in an answer, because they are JSON that every client reads as it was meant.
//!
//! Invariant: one output can make no answer unreadable, and its numbers are read as numbers. Numbers are passed on as they
//! are written: integers beyond 2^53 and long fractions are exact in the text, and how precisely they are read is up to the client.

use serde_json::value::RawValue;

/// The deepest level of lists and objects: many parsers go 127 levels deep, and there is something around an output.
pub(super) const DEEPEST: usize = 100;

/// The fewest digits of an integer that may be beyond the largest double, which has as many.
const LONG: usize = 309;

/// The text as JSON to nest. `None` if it is none; or if it holds a number that is infinite as a double, an escape of half a
/// UTF-16 surrogate pair, or more than [`DEEPEST`] levels.
pub(super) fn nested(text: &str) -> Option<&RawValue> {
    let json = serde_json::from_str::<&RawValue>(text).ok()?;
    is_portable(json.get().as_bytes()).then_some(json)
}

/// Whether parsers agree on a text that is JSON. It goes from one byte to the next of those that matter, as most do not.
fn is_portable(json: &[u8]) -> bool {
    let mut depth = 0_usize;
    let mut at = 0;
    loop {
        let next = next_that_matters(json, at);
        if !long_numbers_are_finite(json, at, next) {
            return false;
        }
        at = next + 1;
        match json.get(next) {
            None => return true,
            Some(b'"') => match string_end(json, at) {
                Some(end) => at = end,
                None => return false,
            },
            Some(b'[' | b'{') => {
                depth += 1;
                if depth > DEEPEST {
                    return false;
                }
            }
            Some(b']' | b'}') => depth -= 1,
            // Otherwise it is the `e` of `true` or `false`.
            Some(_) if json[next - 1].is_ascii_digit() => {
                let (begin, end) = number_around(json, next);
                if !is_finite(&json[begin..end], next - begin) {
                    return false;
                }
                at = end;
            }
            Some(_) => {}
        }
    }
}

/// The place of the next byte that begins or ends something, or with which an exponent may begin; or the end.
fn next_that_matters(json: &[u8], mut at: usize) -> usize {
    // Compilers make few instructions of such a loop over a number of bytes that they know.
    while let Some(bytes) = json[at..].first_chunk::<32>() {
        if bytes.iter().map(|&byte| u8::from(matters(byte))).sum::<u8>() > 0 {
            break;
        }
        at += bytes.len();
    }
    json[at..].iter().position(|&byte| matters(byte)).map_or(json.len(), |length| at + length)
}

/// Whether it is one of `"[]{}eE`: brackets, braces and cases differ in one bit.
fn matters(byte: u8) -> bool {
    let lower = byte | 0x20;
    (byte == b'"') | (lower == b'{') | (lower == b'}') | (lower == b'e')
}

/// The end of a string of which `at` is the first byte within; `None` if half a surrogate pair is escaped in it.
fn string_end(json: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at += memchr::memchr2(b'"', b'\\', &json[at..])?;
        if json[at] == b'"' {
            return Some(at + 1);
        }
        at += match escaped_unit(&json[at..]) {
            None => 2,
            Some(0xd800..0xdc00) if matches!(escaped_unit(&json[at + 6..]), Some(0xdc00..0xe000)) => 12,
            Some(0xd800..0xe000) => return None,
            Some(_) => 6,
        };
    }
}

/// The UTF-16 unit whose `\u` escape comes next.
fn escaped_unit(json: &[u8]) -> Option<u16> {
    let digits = json.strip_prefix(b"\\u")?.get(..4)?;
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// Whether numbers of [`LONG`] digits or more are finite, of those that begin between two places outside strings.
fn long_numbers_are_finite(json: &[u8], begin: usize, end: usize) -> bool {
    // No number that is as long fits between two places at which one looks.
    let mut at = begin + LONG - 1;
    while at < end {
        if json[at].is_ascii_digit() {
            let (begin, end) = number_around(json, at);
            let is_long = end - begin >= LONG;
            if is_long && !fast_float2::parse::<f64, _>(&json[begin..end]).is_ok_and(f64::is_finite) {
                return false;
            }
            at = end;
        }
        at += LONG;
    }
    true
}

/// The beginning and the end of the number of which a byte is part.
fn number_around(json: &[u8], at: usize) -> (usize, usize) {
    let is_outside = |byte: &u8| !matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-');
    let begin = json[..at].iter().rposition(is_outside).map_or(0, |before| before + 1);
    let length = json[at..].iter().position(is_outside).unwrap_or(json.len() - at);
    (begin, at + length)
}

/// Whether a number is finite as a double. It is if it is short and its exponent has at most two digits.
fn is_finite(number: &[u8], exponent_at: usize) -> bool {
    let exponent = &number[exponent_at + 1..];
    let exponent_digits = exponent.iter().filter(|byte| byte.is_ascii_digit()).count();
    let is_small = number.len() < LONG - 100 && exponent_digits <= 2;
    is_small || fast_float2::parse::<f64, _>(number).is_ok_and(f64::is_finite)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn is_nested(text: &str) -> bool {
        nested(text).is_some()
    }

    #[test]
    fn a_number_that_is_infinite_to_clients_is_not_nested_however_and_wherever_it_is_written() {
        let integer = |digits: usize| format!("1{}", "0".repeat(digits - 1));
        let (largest, beyond) = (integer(309), integer(310));
        let finite = [
            "0",
            "-0.0",
            "1.5",
            "1e308",
            "1e-999",
            "0e999",
            "0.0001e311",
            "1.7976931348623157E+308",
            &largest,
        ];
        let infinite = [
            "1e999",
            "-1e400",
            "1E309",
            "1e+309",
            "10e308",
            "1.8e308",
            "-0.1e310",
            "1e99999999999999",
            &beyond,
        ];
        for within in ["{}", " {}\n", "[{}]", "[1, {} , 2]", r#"{"a": [{"b": {}}, "1e999"], "c": null}"#] {
            for number in finite {
                assert!(is_nested(&within.replace("{}", number)), "{within} {number}");
            }
            for number in infinite {
                assert!(!is_nested(&within.replace("{}", number)), "{within} {number}");
            }
        }
    }

    #[test]
    fn what_only_looks_like_such_a_number_is_nested() {
        let digits = format!("[{}]", ["123456789"; 200].join(","));
        let fraction = format!("0.{}", "1".repeat(1000));
        let long_text = format!("[\"{}\", \"{}\"]", "1".repeat(1000), "1e999, ".repeat(1000));
        let shrunk = format!("[1, {}e-300, true, false]", "1".repeat(600));
        assert!(!is_nested(&shrunk.replace("-300", "-200")));
        for text in [
            &long_text,
            &shrunk,
            r#""1e999""#,
            r#"{"1e999": "\"1e999"}"#,
            r#"["\\", "\\1e999"]"#,
            &digits,
            &fraction,
        ] {
            assert!(is_nested(text), "{text}");
        }
        for text in ["NaN", "Infinity", "1e", "", "cat", "[1", "1 2", "\u{feff}1"] {
            assert!(!is_nested(text), "{text}");
        }
    }

    #[test]
    fn integers_are_passed_on_digit_by_digit() {
        assert_eq!(nested("[9007199254740993, 1.10]").unwrap().get(), "[9007199254740993, 1.10]");
    }

    #[test]
    fn half_a_surrogate_pair_is_not_nested() {
        for text in [r#""\ud83d\ude00""#, r#"["\\ud800", "\u0041\ud83D\uDe00\n"]"#, r#""\\\\ud800""#] {
            assert!(is_nested(text), "{text}");
        }
        for text in [r#""\ud83d""#, r#""\ude00\ud83d""#, r#"{"a\uD800b": 1}"#, r#""\ud83d\ud83d\ude00""#] {
            assert!(!is_nested(text), "{text}");
        }
    }

    #[test]
    fn what_is_nested_deeper_than_parsers_go_is_not_nested() {
        let deep = |levels: usize| format!("{}{}", r#"{"a":["#.repeat(levels / 2), "]}".repeat(levels / 2));
        assert!(is_nested(&deep(DEEPEST)));
        assert!(!is_nested(&deep(DEEPEST + 2)));
        assert!(is_nested(&format!("[{}[]]", "[],".repeat(DEEPEST))), "levels that were left do not count");
    }

    proptest! {
        #[test]
        fn what_is_nested_can_be_read(text in r#"[\[{]?("(a|\\u[dD][89aAcCfF]00|\\n)*"|-?[1-9]{1,3}(\.[0-9])?([eE]\+?[0-9]{1,3})?|[,:\]}])*"#) {
            let is_read = serde_json::from_str::<Value>(&text).is_ok();
            prop_assert_eq!(is_nested(&text), is_read);
        }
    }
}
