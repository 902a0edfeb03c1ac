//! Reading HTTP/1.1 answers from whatever pieces they arrive in.
//!
//! Invariant: [`Reader::feed`] yields the same answer however its bytes are cut, and copies none that arrive in one piece.

use std::ops::Range;

/// An answer that is complete.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer<'a> {
    /// Its status.
    pub status: u16,
    /// Its body; of a chunked one still with the sizes of the chunks in between.
    pub body: &'a [u8],
    /// Whether the connection may be used again.
    pub keep_alive: bool,
}

/// Bytes that are no answer to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an HTTP/1.1 answer")]
pub struct Malformed;

/// The most header lines that an answer may have.
const MOST_HEADERS: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Length(usize),
    Chunked,
    /// It ends with the connection.
    UntilClose,
}

#[derive(Debug, Clone, Copy)]
struct Head {
    status: u16,
    length: usize,
    framing: Framing,
    keep_alive: bool,
}

/// Reads the answers of one connection, one after the other.
#[derive(Debug, Default)]
pub struct Reader {
    held: Vec<u8>,
    head: Option<Head>,
    /// How far the chunks of `held` are known to be whole, from the end of the head.
    chunks: usize,
    /// Whether `held` was yielded, and goes with the next bytes.
    done: bool,
}

impl Reader {
    /// Takes what has arrived; the answer, if that completes it.
    ///
    /// # Errors
    /// If the bytes are no answer, or more than one.
    pub fn feed<'a>(&'a mut self, bytes: &'a [u8]) -> Result<Option<Answer<'a>>, Malformed> {
        self.begin();
        if self.held.is_empty() {
            if let Some(range) = self.complete(bytes)? {
                return Ok(Some(self.take(bytes, range)));
            }
            self.held.extend_from_slice(bytes);
            return Ok(None);
        }
        self.held.extend_from_slice(bytes);
        let held = std::mem::take(&mut self.held);
        let complete = self.complete(&held);
        self.held = held;
        Ok(complete?.map(|range| {
            self.done = true;
            let head = self.head.unwrap_or(CLOSED);
            Answer { status: head.status, body: &self.held[range], keep_alive: head.keep_alive }
        }))
    }

    /// The answer that the end of the connection completes.
    pub fn close(&mut self) -> Option<Answer<'_>> {
        self.begin();
        let head = self.head.filter(|head| head.framing == Framing::UntilClose)?;
        self.done = true;
        Some(Answer { status: head.status, body: &self.held[head.length..], keep_alive: false })
    }

    /// Forgets what has arrived so far.
    pub fn reset(&mut self) {
        self.done = true;
        self.begin();
    }

    fn begin(&mut self) {
        if std::mem::take(&mut self.done) {
            self.held.clear();
            self.head = None;
            self.chunks = 0;
        }
    }

    fn take<'a>(&mut self, bytes: &'a [u8], range: Range<usize>) -> Answer<'a> {
        self.done = true;
        let head = self.head.unwrap_or(CLOSED);
        Answer { status: head.status, body: &bytes[range], keep_alive: head.keep_alive }
    }

    /// Where the body is, if all of it is there.
    fn complete(&mut self, bytes: &[u8]) -> Result<Option<Range<usize>>, Malformed> {
        let head = match self.head {
            Some(head) => head,
            None => match head(bytes)? {
                Some(head) => *self.head.insert(head),
                None => return Ok(None),
            },
        };
        let body = &bytes[head.length..];
        match head.framing {
            Framing::UntilClose => Ok(None),
            Framing::Length(length) => match body.len().cmp(&length) {
                std::cmp::Ordering::Less => Ok(None),
                std::cmp::Ordering::Equal => Ok(Some(head.length..bytes.len())),
                std::cmp::Ordering::Greater => Err(Malformed),
            },
            Framing::Chunked => {
                let complete = skip_chunks(body, &mut self.chunks)?;
                Ok(complete.then_some(head.length..bytes.len()))
            }
        }
    }
}

/// What cannot be asked for: an answer is only complete once its head is known.
const CLOSED: Head = Head { status: 0, length: 0, framing: Framing::UntilClose, keep_alive: false };

/// The head of an answer, if all of it is there. Those of informational answers are passed over.
fn head(bytes: &[u8]) -> Result<Option<Head>, Malformed> {
    let mut start = 0;
    loop {
        let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        let httparse::Status::Complete(length) = response.parse(&bytes[start..]).map_err(|_| Malformed)?
        else {
            return Ok(None);
        };
        let status = response.code.ok_or(Malformed)?;
        start += length;
        if (100..200).contains(&status) {
            continue;
        }
        let mut keep_alive = response.version == Some(1);
        let mut framing = Framing::UntilClose;
        for header in response.headers.iter() {
            if header.name.eq_ignore_ascii_case("content-length") {
                let digits = std::str::from_utf8(header.value).map_err(|_| Malformed)?;
                framing = Framing::Length(digits.trim().parse().map_err(|_| Malformed)?);
            } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
                framing = Framing::Chunked;
            } else if header.name.eq_ignore_ascii_case("connection") {
                keep_alive = !header.value.eq_ignore_ascii_case(b"close");
            }
        }
        if status == 204 || status == 304 {
            framing = Framing::Length(0);
        }
        return Ok(Some(Head { status, length: start, framing, keep_alive }));
    }
}

/// Goes from chunk to chunk, from where it was; whether the last one and the trailers are there.
fn skip_chunks(body: &[u8], position: &mut usize) -> Result<bool, Malformed> {
    loop {
        let rest = &body[*position..];
        let httparse::Status::Complete((line, size)) =
            httparse::parse_chunk_size(rest).map_err(|_| Malformed)?
        else {
            return Ok(false);
        };
        if size == 0 {
            return ends(&rest[line..]);
        }
        let size = usize::try_from(size).map_err(|_| Malformed)?;
        let next = line.checked_add(size).and_then(|end| end.checked_add(2)).ok_or(Malformed)?;
        if rest.len() < next {
            return Ok(false);
        }
        if &rest[next - 2..next] != b"\r\n" {
            return Err(Malformed);
        }
        *position += next;
    }
}

/// Whether these bytes are all trailers up to and including the empty line.
fn ends(trailers: &[u8]) -> Result<bool, Malformed> {
    let end = match trailers {
        [b'\r', b'\n', ..] => Some(2),
        _ => memchr::memmem::find(trailers, b"\r\n\r\n").map(|at| at + 4),
    };
    match end {
        Some(end) if end < trailers.len() => Err(Malformed),
        end => Ok(end.is_some()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a reader makes of pieces: the one answer, owned.
    fn read(pieces: &[&[u8]]) -> Result<Option<(u16, Vec<u8>, bool)>, Malformed> {
        let mut reader = Reader::default();
        for (index, piece) in pieces.iter().enumerate() {
            if let Some(answer) = reader.feed(piece)? {
                assert_eq!(index, pieces.len() - 1, "it was complete too early");
                return Ok(Some((answer.status, answer.body.to_vec(), answer.keep_alive)));
            }
        }
        Ok(None)
    }

    const ANSWERS: [(&[u8], u16, bool); 5] = [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", 200, true),
        (b"HTTP/1.1 503 Busy\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", 503, false),
        (b"HTTP/1.1 204 No Content\r\nx: y\r\n\r\n", 204, true),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", 200, true),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\na;x=y\r\n0123456789\r\n0\r\na: b\r\n\r\n", 200, true),
    ];

    #[test]
    fn an_answer_is_the_same_wherever_it_is_cut_once() {
        for (bytes, status, keep_alive) in ANSWERS {
            let whole = read(&[bytes]).unwrap().unwrap();
            assert_eq!((whole.0, whole.2), (status, keep_alive));
            for cut in 1..bytes.len() {
                let (first, second) = bytes.split_at(cut);
                assert_eq!(read(&[first, second]).unwrap().as_ref(), Some(&whole), "{cut}");
            }
        }
    }

    proptest! {
        #[test]
        fn an_answer_is_the_same_in_any_pieces(which in 0..ANSWERS.len(), size in 1_usize..9) {
            let (bytes, ..) = ANSWERS[which];
            let pieces: Vec<&[u8]> = bytes.chunks(size).collect();
            prop_assert_eq!(read(&pieces), read(&[bytes]));
        }

        #[test]
        fn noise_is_refused_or_waited_for_and_never_a_panic(bytes: Vec<u8>, size in 1_usize..9) {
            let mut reader = Reader::default();
            for piece in bytes.chunks(size) {
                if reader.feed(piece).is_err() {
                    break;
                }
            }
        }
    }

    #[test]
    fn one_reader_reads_one_answer_after_the_other() {
        let mut reader = Reader::default();
        for (bytes, status, _) in ANSWERS {
            let (first, second) = bytes.split_at(bytes.len() / 2);
            assert_eq!(reader.feed(first).unwrap(), None);
            assert_eq!(reader.feed(second).unwrap().unwrap().status, status);
            assert_eq!(reader.feed(bytes).unwrap().unwrap().status, status);
        }
    }

    #[test]
    fn a_body_without_a_length_ends_with_the_connection() {
        let mut reader = Reader::default();
        assert_eq!(reader.feed(b"HTTP/1.0 200 OK\r\n\r\nhel").unwrap(), None);
        assert_eq!(reader.feed(b"lo").unwrap(), None);
        assert_eq!(reader.close(), Some(Answer { status: 200, body: b"hello", keep_alive: false }));
        assert_eq!(reader.close(), None);
    }

    #[test]
    fn more_than_was_asked_for_is_refused() {
        assert_eq!(read(&[b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nab"]), Err(Malformed));
        assert_eq!(
            read(&[b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nHTTP"]),
            Err(Malformed)
        );
        assert_eq!(read(&[b"SSH-2.0-OpenSSH\r\n"]), Err(Malformed));
    }
}
