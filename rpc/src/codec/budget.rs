//! The number of values in a header, counted before any of them is read.
//!
//! A MessagePack value may take one byte on the wire and dozens in memory. Invariant: a header that
//! passes has at most as many values as its reader allows, so that reading it costs in proportion
//! to its bytes.

/// Counts the values of a header, the keys of maps included. Returns whether there are at most
/// `most`.
///
/// Counting stops at the first byte that is no MessagePack, which is for the reader to report.
pub(super) fn fits(header: &[u8], most: usize) -> bool {
    let mut rest = header;
    // Values that are still to come. A container's length adds its elements.
    let mut announced: u64 = 1;
    let mut seen: u64 = 0;
    while announced > 0 {
        let Some((elements, after)) = step(rest) else { return true };
        rest = after;
        seen += 1;
        announced = announced - 1 + elements;
        if seen + announced > most as u64 {
            return false;
        }
    }
    true
}

/// The number of elements that the first value announces, and what follows its own bytes.
fn step(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (&marker, rest) = bytes.split_first()?;
    let (skipped, elements, rest) = match marker {
        0x80..=0x8f => (0, 2 * u64::from(marker & 0x0f), rest),
        0x90..=0x9f => (0, u64::from(marker & 0x0f), rest),
        0xa0..=0xbf => (u64::from(marker & 0x1f), 0, rest),
        0xc4 | 0xd9 => length(rest, 1).map(|(length, rest)| (length, 0, rest))?,
        0xc5 | 0xda => length(rest, 2).map(|(length, rest)| (length, 0, rest))?,
        0xc6 | 0xdb => length(rest, 4).map(|(length, rest)| (length, 0, rest))?,
        0xc7 => length(rest, 1).map(|(length, rest)| (length + 1, 0, rest))?,
        0xc8 => length(rest, 2).map(|(length, rest)| (length + 1, 0, rest))?,
        0xc9 => length(rest, 4).map(|(length, rest)| (length + 1, 0, rest))?,
        0xcc | 0xd0 => (1, 0, rest),
        0xcd | 0xd1 => (2, 0, rest),
        0xca | 0xce | 0xd2 => (4, 0, rest),
        0xcb | 0xcf | 0xd3 => (8, 0, rest),
        0xd4..=0xd8 => ((1 << (marker - 0xd4)) + 1, 0, rest),
        0xdc => length(rest, 2).map(|(length, rest)| (0, length, rest))?,
        0xdd => length(rest, 4).map(|(length, rest)| (0, length, rest))?,
        0xde => length(rest, 2).map(|(length, rest)| (0, 2 * length, rest))?,
        0xdf => length(rest, 4).map(|(length, rest)| (0, 2 * length, rest))?,
        0x00..=0x7f | 0xe0..=0xff | 0xc0..=0xc3 => (0, 0, rest),
    };
    Some((elements, rest.get(usize::try_from(skipped).ok()?..)?))
}

/// A big-endian length of `width` bytes, and what follows.
fn length(bytes: &[u8], width: usize) -> Option<(u64, &[u8])> {
    let (length, rest) = bytes.split_at_checked(width)?;
    Some((length.iter().fold(0, |length, &byte| length << 8 | u64::from(byte)), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_values_and_elements_count() {
        // {"a": [nil, "b", {1: 2.0}]}
        let header = b"\x81\xa1a\x93\xc0\xa1b\x81\x01\xcb\0\0\0\0\0\0\0\0";
        assert!(fits(header, 8));
        assert!(!fits(header, 7));
    }

    #[test]
    fn every_kind_of_value_is_one() {
        let values: &[&[u8]] = &[
            b"\xc0",
            b"\xc2",
            b"\x7f",
            b"\xe0",
            b"\xcc\x01",
            b"\xcd\0\x01",
            b"\xce\0\0\0\x01",
            b"\xd0\x01",
            b"\xd1\0\x01",
            b"\xd2\0\0\0\x01",
            b"\xca\0\0\0\0",
            b"\xcb\0\0\0\0\0\0\0\0",
            b"\xcf\0\0\0\0\0\0\0\0",
            b"\xa1x",
            b"\xd9\x01x",
            b"\xda\0\x01x",
            b"\xdb\0\0\0\x01x",
            b"\xc4\x01x",
            b"\xc5\0\x01x",
            b"\xc6\0\0\0\x01x",
            b"\xd4\0x",
            b"\xd5\0xx",
            b"\xd8\0xxxxxxxxxxxxxxxx",
            b"\xc7\x01\0x",
            b"\xc8\0\x01\0x",
            b"\xc9\0\0\0\x01\0x",
            b"\x90",
            b"\xdc\0\0",
            b"\xdd\0\0\0\0",
            b"\x80",
            b"\xde\0\0",
            b"\xdf\0\0\0\0",
        ];
        for value in values {
            let pair = [b"\x92", *value, b"\xc0"].concat();
            assert!(fits(&pair, 3), "{value:x?}");
            assert_eq!(step(value), Some((0, &b""[..])), "{value:x?}");
        }
    }

    #[test]
    fn an_announced_length_is_enough_to_be_refused() {
        assert!(!fits(b"\x81\xa1a\xdd\xff\xff\xff\xff", 1_000_000));
        assert!(!fits(b"\xdf\xff\xff\xff\xff", 1_000_000));
    }

    #[test]
    fn a_header_that_ends_early_is_left_to_its_reader() {
        assert!(fits(b"", 1));
        assert!(fits(b"\x82\xa4ty", 10));
        assert!(fits(b"\xd9", 10));
    }
}
