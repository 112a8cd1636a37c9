//! Step 1 of 12, serial: lines of text from a stream of bytes. Pure: knows no port, no time and no number.
//!
//! A line ends with CR, LF or ETX and starts after one, or at STX; empty lines are nothing. Whatever came before a
//! line's end is judged with the line, so a good line is found right after any rubbish that has ended.
#![deny(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

use super::card_read::Reject;

/// No reader's line is longer: a number of 64 bits in binary, and as much again around it.
pub const MAX_LINE: usize = 128;

const STX: u8 = 0x02;
const ETX: u8 = 0x03;

/// Finds lines, which may come in any pieces. Its memory is one line.
#[derive(Debug, Default)]
pub struct Lines {
    line: Vec<u8>,
    too_long: bool,
}

impl Lines {
    /// Takes a byte and gives the line that it ends: its bytes, or that it was longer than any reader's.
    pub fn push(&mut self, byte: u8) -> Option<Result<Vec<u8>, Reject>> {
        match byte {
            b'\r' | b'\n' | ETX => {
                let line = std::mem::take(&mut self.line);
                if std::mem::take(&mut self.too_long) {
                    return Some(Err(Reject::BadFrame));
                }
                (!line.is_empty()).then_some(Ok(line))
            }
            STX if !self.line.is_empty() || self.too_long => {
                *self = Lines::default();
                Some(Err(Reject::CutFrame))
            }
            STX => None,
            _ if self.line.len() == MAX_LINE => {
                self.too_long = true;
                None
            }
            byte => {
                self.line.push(byte);
                None
            }
        }
    }
}

/// The part of a line between what is configured to stand around it.
pub fn between<'a>(line: &'a [u8], prefix: &str, suffix: &str) -> Option<&'a str> {
    let inner = line.strip_prefix(prefix.as_bytes())?.strip_suffix(suffix.as_bytes())?;
    std::str::from_utf8(inner).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lines(bytes: &[u8]) -> Vec<Result<String, Reject>> {
        let mut lines = Lines::default();
        let found = bytes.iter().filter_map(|byte| lines.push(*byte));
        found.map(|line| line.map(|line| String::from_utf8_lossy(&line).into_owned())).collect()
    }

    #[track_caller]
    fn finds(bytes: &[u8], expect: &[&str]) {
        let expect: Vec<_> = expect.iter().map(|line| Ok((*line).to_owned())).collect();
        assert_eq!(lines(bytes), expect, "{}", bytes.escape_ascii());
    }

    #[test]
    fn lines_end_in_every_usual_way() {
        finds(b"123\r\n456\r\n", &["123", "456"]);
        finds(b"123\r456\n", &["123", "456"]);
        finds(b"\x02123\x03\x02456\r\n\x03", &["123", "456"]);
        finds(b"\r\n\r\n\x03\x02\x02\n123\n", &["123"]);
        finds(b"123", &[]);
    }

    #[test]
    fn a_line_that_is_cut_short_or_too_long_is_told_and_the_next_is_found() {
        assert_eq!(lines(b"12\x02345\x03"), [Err(Reject::CutFrame), Ok("345".into())]);
        let long = [&[b'1'; MAX_LINE + 1][..], b"\r\n12\r\n"].concat();
        assert_eq!(lines(&long), [Err(Reject::BadFrame), Ok("12".into())]);
        let longest = [&[b'1'; MAX_LINE][..], b"\r\n"].concat();
        assert_eq!(lines(&longest), [Ok("1".repeat(MAX_LINE))]);
    }

    #[test]
    fn what_stands_around_a_number_must_be_there_exactly() {
        assert_eq!(between(b"No:123#", "No:", "#"), Some("123"));
        assert_eq!(between(b"123", "", ""), Some("123"));
        assert_eq!(between(b"no:123#", "No:", "#"), None);
        assert_eq!(between(b"No:123", "No:", "#"), None);
        assert_eq!(between(b"ab", "ab", "b"), None);
        assert_eq!(between(b"\xff", "", ""), None);
    }

    proptest! {
        #[test]
        fn memory_is_one_line_whatever_comes(bytes in proptest::collection::vec(any::<u8>(), 0..2_000)) {
            let mut lines = Lines::default();
            for byte in bytes {
                lines.push(byte);
                prop_assert!(lines.line.len() <= MAX_LINE);
            }
        }

        #[test]
        fn a_line_is_found_after_any_bytes_that_ended(noise in proptest::collection::vec(any::<u8>(), 0..300)) {
            let found = lines(&[&noise, b"\n04A2\n".as_slice()].concat());
            prop_assert_eq!(found.last(), Some(&Ok("04A2".to_owned())));
        }
    }
}
