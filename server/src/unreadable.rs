//! Requests that actix-http cannot read, and what their clients are told.
//!
//! actix-http refuses them below everything that it lets a server configure, by a bare head without a body. Such a head
//! is recognised on its way out, and replaced. Invariant: no answer of a handler is taken for one, as each has a body.

use std::fmt::Write as _;

use serde_json::json;

/// The most bytes of a request's line and headers that actix-http reads.
const MOST_HEAD_BYTES: usize = 131_072;
/// The most headers that it reads.
const MOST_HEADERS: usize = 96;
/// The most bytes of a URI that the `http` crate takes.
const MOST_URI_BYTES: usize = 65_534;
/// The longest method, with the space behind it, that is taken into account for the length of a URI.
const METHOD_BYTES: usize = 8;
/// No head of actix-http's own is longer.
const LONGEST_REFUSAL: usize = 512;

/// The first line of what a client has sent since it was last answered.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct FirstLine {
    bytes: usize,
    is_complete: bool,
}

/// Why a request cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// 400
    Malformed,
    /// 408
    Late,
    /// 431
    TooLarge,
}

impl FirstLine {
    /// Takes note of what was read.
    pub(crate) fn read(&mut self, bytes: &[u8]) {
        if !self.is_complete {
            let end = bytes.iter().position(|&byte| byte == b'\n');
            self.bytes += end.unwrap_or(bytes.len());
            self.is_complete = end.is_some();
        }
    }

    fn is_too_long(self) -> bool {
        self.bytes > MOST_URI_BYTES + METHOD_BYTES
    }
}

/// Whether bytes that are written end with a refusal of actix-http's own: where it begins, and which it is.
pub(crate) fn refusal(bytes: &[u8]) -> Option<(usize, Unreadable)> {
    // Answers of handlers end with their bodies, which are JSON or text.
    if !bytes.ends_with(b"\r\n\r\n") {
        return None;
    }
    let from = bytes.len().saturating_sub(LONGEST_REFUSAL);
    let tail = &bytes[from..];
    let begin = tail.windows(7).rposition(|window| window == b"HTTP/1.")?;
    let head = &tail[begin..];
    let is_empty = head.windows(21).any(|window| window == b"\r\ncontent-length: 0\r\n");
    let why = match head.get(8..13)? {
        b" 400 " => Unreadable::Malformed,
        b" 408 " => Unreadable::Late,
        b" 431 " => Unreadable::TooLarge,
        _ => return None,
    };
    is_empty.then_some((from + begin, why))
}

/// A refusal that says what was wrong and what was expected.
pub(crate) fn explained(why: Unreadable, first_line: FirstLine) -> Vec<u8> {
    let (status, error, cause) = match why {
        _ if first_line.is_too_long() => (
            "414 URI Too Long",
            "URI too long",
            format!("the request's URI is longer than {MOST_URI_BYTES} bytes"),
        ),
        Unreadable::TooLarge => (
            "431 Request Header Fields Too Large",
            "Headers too large",
            format!("the request has more than {MOST_HEADERS} headers, or {MOST_HEAD_BYTES} bytes of them"),
        ),
        Unreadable::Malformed => (
            "400 Bad Request",
            "Unreadable request",
            "this is not an HTTP/1.1 request: its first line or a header is malformed; expected such as \
             POST /app/predict HTTP/1.1 with one Host header, and with Content-Length or chunks for a body"
                .to_owned(),
        ),
        Unreadable::Late => (
            "408 Request Timeout",
            "Request too slow",
            "the request's headers did not arrive in time".to_owned(),
        ),
    };
    let body = json!({"error": error, "cause": cause}).to_string();
    let mut answer = format!("HTTP/1.1 {status}\r\n");
    let _ = write!(answer, "content-length: {}\r\ncontent-type: application/json\r\n", body.len());
    let _ = write!(answer, "connection: close\r\n\r\n{body}");
    answer.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFUSAL: &str =
        "HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

    #[test]
    fn a_bare_refusal_is_found_behind_answers_that_go_before_it() {
        assert_eq!(refusal(REFUSAL.as_bytes()), Some((0, Unreadable::TooLarge)));
        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
        let both = format!("{answer}{REFUSAL}");
        assert_eq!(refusal(both.as_bytes()), Some((answer.len(), Unreadable::TooLarge)));
    }

    #[test]
    fn other_answers_are_left_alone() {
        for answer in [
            "",
            "\r\n\r\n",
            "HTTP/1.1 100 Continue\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 57\r\n\r\n",
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\n\r\n{}",
        ] {
            assert_eq!(refusal(answer.as_bytes()), None, "{answer}");
        }
    }

    #[test]
    fn the_refusal_of_a_long_uri_is_told_from_that_of_long_headers() {
        let mut line = FirstLine::default();
        line.read(b"GET / HTTP/1.1\r\n");
        line.read(&[b'x'; 100_000]);
        let said = |line| String::from_utf8(explained(Unreadable::TooLarge, line)).unwrap();
        assert!(said(line).starts_with("HTTP/1.1 431 "), "{}", said(line));
        let mut line = FirstLine::default();
        line.read(&[b'x'; 40_000]);
        line.read(&[b'x'; 40_000]);
        assert!(said(line).starts_with("HTTP/1.1 414 ") && said(line).contains("65534"), "{}", said(line));
    }
}
