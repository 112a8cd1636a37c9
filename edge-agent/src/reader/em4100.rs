//! Step 1 of 12, serial: frames of 125 kHz readers become EM4100 numbers. Pure: knows no port and no time.
//!
//! | reader | frame |
//! |---|---|
//! | RDM6300 | `02`, ten hexadecimal digits (version or customer, then the tag), two of checksum, `03` |
//! | ID-12LA, ID-20LA in ASCII mode | the same with `0D 0A` before `03` |
//!
//! The checksum is the exclusive or of the five bytes. `02` is legal nowhere inside a frame, so it always starts one:
//! a good frame is found after any rubbish at all. Both frames are told apart by their ends; nothing is configured.
#![deny(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

use tap_protocol::badge::{Credential, Technology};

use super::card_read::Reject;

const START: u8 = 0x02;
const END: u8 = 0x03;
const DIGITS: u8 = 12;

/// Finds frames in a stream of bytes, which may come in any pieces. Its memory is one frame.
#[derive(Debug, Default)]
pub struct Parser {
    place: Place,
    /// This run of rubbish, which lasts until the next whole frame, was told.
    told: bool,
}

/// Where in a frame the next byte belongs. `value` holds the digits so far, four bits each.
#[derive(Debug, Clone, Copy, Default)]
enum Place {
    #[default]
    Outside,
    Digits {
        value: u64,
        have: u8,
    },
    End {
        value: u64,
    },
    LineFeed {
        value: u64,
    },
    EndOfLine {
        value: u64,
    },
}

impl Parser {
    /// Takes a byte and gives what it completes: a number, or the reason for none.
    pub fn push(&mut self, byte: u8) -> Option<Result<Credential, Reject>> {
        match (self.place, byte) {
            (Place::Outside | Place::Digits { have: 0, .. }, START) => {
                self.place = Place::Digits { value: 0, have: 0 };
                None
            }
            (_, START) => {
                self.place = Place::Digits { value: 0, have: 0 };
                self.tell(Reject::CutFrame)
            }
            (Place::Outside, _) => self.tell(Reject::Noise),
            (Place::Digits { value, have }, _) => match hex_digit(byte) {
                Some(digit) => {
                    let (value, have) = (value << 4 | u64::from(digit), have + 1);
                    self.place =
                        if have < DIGITS { Place::Digits { value, have } } else { Place::End { value } };
                    None
                }
                None => self.abandon(),
            },
            (Place::End { value } | Place::EndOfLine { value }, END) => Some(self.complete(value)),
            (Place::End { value }, b'\r') => {
                self.place = Place::LineFeed { value };
                None
            }
            (Place::LineFeed { value }, b'\n') => {
                self.place = Place::EndOfLine { value };
                None
            }
            (Place::End { .. } | Place::LineFeed { .. } | Place::EndOfLine { .. }, _) => self.abandon(),
        }
    }

    fn complete(&mut self, value: u64) -> Result<Credential, Reject> {
        *self = Parser::default();
        let [_, _, number @ .., checksum] = value.to_be_bytes();
        if number.iter().fold(0, |xor, byte| xor ^ byte) != checksum {
            return Err(Reject::BadChecksum);
        }
        if number == [0; 5] {
            return Err(Reject::ZeroNumber);
        }
        Credential::from_bytes(Technology::Em4100, &number).map_err(|_| Reject::BadFrame)
    }

    fn abandon(&mut self) -> Option<Result<Credential, Reject>> {
        self.place = Place::Outside;
        self.tell(Reject::BadFrame)
    }

    fn tell(&mut self, why: Reject) -> Option<Result<Credential, Reject>> {
        let first = !std::mem::replace(&mut self.told, true);
        first.then_some(Err(why))
    }
}

fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &[u8] = b"\x0262E3086CED08\x03";
    const GOOD_NUMBER: &str = "em4100:62E3086CED";

    fn parse(bytes: &[u8]) -> Vec<Result<String, Reject>> {
        let mut parser = Parser::default();
        let found = bytes.iter().filter_map(|byte| parser.push(*byte));
        found.map(|found| found.map(|credential| credential.reveal())).collect()
    }

    #[track_caller]
    fn reads(bytes: &[u8], number: &str) {
        assert_eq!(parse(bytes), [Ok(format!("em4100:{number}"))]);
    }

    /// The rubbish gives this one reject, and a good frame right behind it is read.
    #[track_caller]
    fn rejects(bytes: &[u8], why: Reject) {
        assert_eq!(
            parse(&[bytes, GOOD].concat()),
            [Err(why), Ok(GOOD_NUMBER.to_owned())],
            "{}",
            bytes.escape_ascii()
        );
    }

    #[test]
    fn published_rdm6300_frames() {
        reads(b"\x0262E3086CED08\x03", "62E3086CED");
        reads(b"\x0201000734E0D2\x03", "01000734E0");
        rejects(b"\x0262E3086CEE08\x03", Reject::BadChecksum);
    }

    #[test]
    fn id12la_frames_and_lower_case() {
        reads(b"\x0262E3086CED08\r\n\x03", "62E3086CED");
        reads(b"\x0262e3086ced08\x03", "62E3086CED");
        reads(b"\x0262e3086CeD08\r\n\x03", "62E3086CED");
    }

    #[test]
    fn a_card_that_stays_is_read_again_and_again() {
        assert_eq!(parse(&GOOD.repeat(5)), vec![Ok(GOOD_NUMBER.to_owned()); 5]);
    }

    #[test]
    fn rubbish_is_told_once_and_the_next_frame_is_read() {
        rejects(b"\0", Reject::Noise);
        rejects(b"\x03", Reject::Noise);
        rejects(b"\r\n", Reject::Noise);
        rejects(b"62E3086CED08\x03", Reject::Noise);
        rejects(&[0xFF; 1000], Reject::Noise);
        rejects(b"\xff\x02\xff\x02\xff\x02", Reject::Noise);
        rejects(b"\x0262E3", Reject::CutFrame);
        rejects(b"\x0262E3086CED08", Reject::CutFrame);
        rejects(b"\x0262E3086CED08\r", Reject::CutFrame);
        rejects(b"\x0262E3086CED08\r\n", Reject::CutFrame);
        rejects(&b"\x026".repeat(1000), Reject::CutFrame);
        rejects(b"\x02\x03", Reject::BadFrame);
        rejects(b"\x0262E3086CED0\x03", Reject::BadFrame);
        rejects(b"\x0262E3086CED088\x03", Reject::BadFrame);
        rejects(b"\x0262E3086CED08\n\x03", Reject::BadFrame);
        rejects(b"\x0262E3086CED08\r\x03", Reject::BadFrame);
        rejects(b"\x0262E3086CED08\r\n\r\n\x03", Reject::BadFrame);
        rejects(b"\x0262E3086CEG08\x03", Reject::BadFrame);
        rejects(b"\x02 62E3086CED08\x03", Reject::BadFrame);
        rejects(b"\x0262E3\x0008\x03", Reject::BadFrame);
        rejects(b"\x0262E3086CED80\x03", Reject::BadChecksum);
        rejects(b"\x02FFFFFFFFFF00\x03", Reject::BadChecksum);
        rejects(b"\x02000000000000\x03", Reject::ZeroNumber);
    }

    #[test]
    fn stray_starts_alone_are_no_news() {
        assert_eq!(parse(&[&[START; 1000], GOOD].concat()), [Ok(GOOD_NUMBER.to_owned())]);
    }

    #[test]
    fn each_run_of_rubbish_is_told_anew() {
        let stream = [b"\xff\xff".as_slice(), GOOD, b"\xff\xff", GOOD, b"\x0262E3", GOOD].concat();
        let good = || Ok(GOOD_NUMBER.to_owned());
        let expect = [Err(Reject::Noise), good(), Err(Reject::Noise), good(), Err(Reject::CutFrame), good()];
        assert_eq!(parse(&stream), expect);
    }

    fn frame(number: [u8; 5], lower: bool, id12la: bool) -> Vec<u8> {
        let checksum = number.iter().fold(0, |xor, byte| xor ^ byte);
        let digits: String = number.iter().chain([&checksum]).map(|byte| format!("{byte:02X}")).collect();
        let digits = if lower { digits.to_lowercase() } else { digits };
        let end: &[u8] = if id12la { b"\r\n\x03" } else { b"\x03" };
        [b"\x02", digits.as_bytes(), end].concat()
    }

    /// Bytes that look like frames more often than chance would have it.
    fn noise() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![
            any::<u8>(),
            Just(START),
            Just(END),
            Just(b'\r'),
            Just(b'\n'),
            b'0'..=b'9',
            b'A'..=b'F'
        ];
        proptest::collection::vec(byte, 0..200)
    }

    proptest! {
        #[test]
        fn a_good_frame_is_found_after_any_bytes(
            noise in noise(),
            number in any::<[u8; 5]>().prop_filter("0 is no number", |number| *number != [0; 5]),
            lower: bool,
            id12la: bool,
        ) {
            let found = parse(&[noise, frame(number, lower, id12la)].concat());
            let expect = Credential::from_bytes(Technology::Em4100, &number).unwrap().reveal();
            prop_assert_eq!(found.last(), Some(&Ok(expect)));
        }

        #[test]
        fn rubbish_never_floods(noise in noise()) {
            // A whole frame, good or bad, is at least 14 bytes, and each run between two is told once.
            prop_assert!(parse(&noise).len() <= 2 * (noise.len() / 14) + 1);
        }
    }
}
