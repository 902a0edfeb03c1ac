//! The bytes of the requests of one thread.
//!
//! Invariant: what [`Requests::make`] yields is one whole HTTP/1.1 request. Where values are made up, only their digits are
//! written anew; where they are listed, their lengths differ and the request is put together each time.

use std::ops::Range;
use std::time::SystemTime;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rand_distr::{Distribution, Zipf};

use crate::load::inputs::{Inputs, Variety, write_digits};

/// What requests are made of.
#[derive(Debug, Clone)]
pub struct Shape {
    /// The request line and all headers but the length, each line ended.
    pub head: String,
    /// The body, with `{input}` where a value goes (each another one) and `{id}` where a number goes that no other request has.
    pub body: String,
    /// The values.
    pub inputs: Inputs,
    /// Which of them.
    pub variety: Variety,
}

impl Shape {
    /// Whether the body holds values at all.
    pub fn has_inputs(&self) -> bool {
        self.body.contains(INPUT)
    }
}

const INPUT: &str = "{input}";
const ID: &str = "{id}";
/// Numbers of requests begin here, so that all have the same number of digits.
const FIRST_ID: u64 = 1_000_000_000_000;
const ID_DIGITS: usize = 13;

/// A piece of the body.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Input,
    Id,
}

fn pieces(body: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut rest = body;
    while let Some(start) = rest.find(INPUT).into_iter().chain(rest.find(ID)).min() {
        let (text, found) = rest.split_at(start);
        let (piece, length) =
            if found.starts_with(INPUT) { (Piece::Input, INPUT.len()) } else { (Piece::Id, ID.len()) };
        pieces.extend([Piece::Text(text.to_owned()), piece]);
        rest = &found[length..];
    }
    pieces.push(Piece::Text(rest.to_owned()));
    pieces
}

/// The numbers of the values to send.
struct Numbers {
    next: u64,
    step: u64,
    random: StdRng,
    variety: Variety,
    zipf: Option<Zipf<f64>>,
}

impl Numbers {
    fn new(variety: Variety, thread: usize, threads: usize, seed: u64) -> Self {
        let zipf = match variety {
            Variety::Zipf { distinct, exponent } => Zipf::new(distinct as f64, exponent).ok(),
            Variety::Unique | Variety::Distinct(_) | Variety::InOrder => None,
        };
        // A cache may hold what an earlier run has sent, so runs begin at different numbers.
        let first = match variety {
            Variety::Unique => SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_micros() as u64,
            Variety::Distinct(_) | Variety::Zipf { .. } | Variety::InOrder => 0,
        };
        let random = StdRng::seed_from_u64(seed.wrapping_add(thread as u64));
        Self { next: first + thread as u64, step: threads as u64, random, variety, zipf }
    }

    fn next(&mut self) -> u64 {
        match (self.variety, &self.zipf) {
            (Variety::Distinct(distinct), _) => self.random.random_range(0..distinct),
            (Variety::Zipf { .. }, Some(zipf)) => zipf.sample(&mut self.random) as u64,
            _ => {
                let number = self.next;
                self.next += self.step;
                number
            }
        }
    }
}

/// Makes the requests of one thread.
pub struct Requests {
    shape: Shape,
    pieces: Vec<Piece>,
    numbers: Numbers,
    id: u64,
    step: u64,
    bytes: Vec<u8>,
    /// Where made-up values begin.
    inputs: Vec<usize>,
    ids: Vec<Range<usize>>,
}

impl Requests {
    /// Those of one of several threads.
    pub fn new(shape: Shape, thread: usize, threads: usize, seed: u64) -> Self {
        let mut requests = Self {
            pieces: pieces(&shape.body),
            numbers: Numbers::new(shape.variety, thread, threads, seed),
            id: FIRST_ID + thread as u64,
            step: threads as u64,
            bytes: Vec::new(),
            inputs: Vec::new(),
            ids: Vec::new(),
            shape,
        };
        requests.assemble();
        requests
    }

    /// The next request.
    pub fn make(&mut self) -> &[u8] {
        match &self.shape.inputs {
            Inputs::Pattern(pattern) => {
                for &offset in &self.inputs {
                    write_digits(&mut self.bytes, offset, &pattern.digits, self.numbers.next());
                }
            }
            Inputs::Listed(_) => self.assemble(),
        }
        for range in &self.ids {
            write_digits(&mut self.bytes, 0, std::slice::from_ref(range), self.id);
        }
        self.id += self.step;
        &self.bytes
    }

    /// Puts a request together.
    fn assemble(&mut self) {
        let values: Vec<&str> = self
            .pieces
            .iter()
            .filter(|piece| **piece == Piece::Input)
            .map(|_| match &self.shape.inputs {
                Inputs::Pattern(pattern) => pattern.text.as_str(),
                Inputs::Listed(values) => &values[(self.numbers.next() % values.len() as u64) as usize],
            })
            .collect();
        let texts = self.pieces.iter().map(|piece| match piece {
            Piece::Text(text) => text.len(),
            Piece::Input => 0,
            Piece::Id => ID_DIGITS,
        });
        let length = texts.sum::<usize>() + values.iter().map(|value| value.len()).sum::<usize>();
        self.bytes.clear();
        self.inputs.clear();
        self.ids.clear();
        self.bytes.extend_from_slice(self.shape.head.as_bytes());
        if length > 0 {
            self.bytes.extend_from_slice(format!("content-length: {length}\r\n").as_bytes());
        }
        self.bytes.extend_from_slice(b"\r\n");
        let mut values = values.into_iter();
        for piece in &self.pieces {
            let start = self.bytes.len();
            match piece {
                Piece::Text(text) => self.bytes.extend_from_slice(text.as_bytes()),
                Piece::Input => {
                    self.inputs.push(start);
                    self.bytes.extend_from_slice(values.next().unwrap_or_default().as_bytes());
                }
                Piece::Id => {
                    self.ids.push(start..start + ID_DIGITS);
                    self.bytes.resize(start + ID_DIGITS, b'0');
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::inputs::{InputKind, Pattern};

    fn shape(body: &str, inputs: Inputs, variety: Variety) -> Shape {
        Shape { head: "POST / HTTP/1.1\r\n".to_owned(), body: body.to_owned(), inputs, variety }
    }

    fn pattern() -> Inputs {
        Inputs::Pattern(Pattern::new(InputKind::Ints, 2, 0))
    }

    fn body(requests: &mut Requests) -> String {
        let text = String::from_utf8(requests.make().to_vec()).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.ends_with(&format!("\r\ncontent-length: {}", body.len())), "{head}");
        body.to_owned()
    }

    #[test]
    fn each_place_of_the_template_gets_a_value_of_its_own() {
        let shape = shape("{\"a\": {input}, \"b\": [{input}], \"id\": {id}}", pattern(), Variety::Unique);
        let mut requests = Requests::new(shape, 0, 1, 0);
        let parsed: serde_json::Value = serde_json::from_str(&body(&mut requests)).unwrap();
        assert_ne!(parsed["a"], parsed["b"][0]);
        assert_eq!(parsed["id"], FIRST_ID);
        let next: serde_json::Value = serde_json::from_str(&body(&mut requests)).unwrap();
        assert_ne!(parsed["b"][0], next["a"]);
        assert_eq!(next["id"], FIRST_ID + 1);
    }

    #[test]
    fn values_of_a_file_are_sent_in_order_over_and_over() {
        let listed = Inputs::Listed(["1", "[2, 3]", "\"x\""].map(str::to_owned).to_vec());
        let mut requests = Requests::new(shape("{input}", listed, Variety::InOrder), 0, 1, 0);
        let bodies: Vec<String> = (0..4).map(|_| body(&mut requests)).collect();
        assert!(bodies.windows(2).all(|pair| pair[0] != pair[1]) && bodies[0] == bodies[3], "{bodies:?}");
    }

    #[test]
    fn repeating_values_are_as_many_as_asked_for() {
        for variety in [Variety::Distinct(10), Variety::Zipf { distinct: 10, exponent: 1.0 }] {
            let mut requests = Requests::new(shape("{input}", pattern(), variety), 0, 1, 3);
            let bodies: std::collections::HashSet<String> = (0..1_000).map(|_| body(&mut requests)).collect();
            assert_eq!(bodies.len(), 10, "{variety:?}");
        }
    }

    #[test]
    fn threads_send_different_values() {
        let make = |thread| Requests::new(shape("{id}", pattern(), Variety::Unique), thread, 2, 0);
        let (mut first, mut second) = (make(0), make(1));
        let ids: std::collections::HashSet<String> =
            (0..10).flat_map(|_| [body(&mut first), body(&mut second)]).collect();
        assert_eq!(ids.len(), 20);
    }

    #[test]
    fn a_request_without_a_body_has_no_length() {
        let mut requests = Requests::new(shape("", pattern(), Variety::Distinct(1)), 0, 1, 0);
        assert_eq!(requests.make(), b"POST / HTTP/1.1\r\n\r\n");
    }
}
