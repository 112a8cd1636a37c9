//! Step 1 of 12, serial: readers that print one number a line. Pure: knows no port and no time.
//!
//! What a line looks like is configured, because nothing in it tells: the same card is `0040856634`, `07302202` or
//! `01026F6C3A` at three readers. The number of digits must be said, and every line must have exactly so many: the
//! tail of a line that a cable cut is a number as well, and another card's.
#![deny(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

use serde::Deserialize;
use tap_protocol::badge::{Credential, Technology};

use super::card_read::Reject;
use super::line::{Lines, between};

/// The most digits: of 80 bits, as an ISO 14443 triple-size UID has, in decimal.
const MAX_DIGITS: u8 = 25;

/// The most bits of a number: those of a triple-size UID.
const MAX_BITS: u16 = 80;

/// How a reader prints numbers.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LineFormat {
    /// What stands before the number, exactly.
    #[serde(default)]
    pub prefix: String,
    /// What stands behind it, before the end of the line.
    #[serde(default)]
    pub suffix: String,
    /// The digits' base.
    pub base: Base,
    /// How many digits there are, leading zeros included.
    pub digits: u8,
    /// What kind of number it is.
    pub technology: LineTechnology,
    /// How many bits of the card's number are printed; four for each hexadecimal digit if not said.
    pub bits: Option<u16>,
}

/// The base of a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Base {
    /// 0 to 9.
    Decimal,
    /// 0 to 9 and A to F in either case.
    Hex,
}

/// What kind of number a line holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LineTechnology {
    /// The UID of a 13.56 MHz card.
    Hf,
    /// A 125 kHz EM4100 number, or the lower 32 or 24 bits of one.
    Em4100,
    /// The bits of a Wiegand frame without parity.
    Wiegand,
}

impl LineTechnology {
    fn technology(self) -> Technology {
        match self {
            LineTechnology::Hf => Technology::Hf,
            LineTechnology::Em4100 => Technology::Em4100,
            LineTechnology::Wiegand => Technology::Wiegand,
        }
    }

    /// The bit counts that a badge of this kind can have.
    fn takes(self, bits: u16) -> bool {
        match self {
            LineTechnology::Hf => matches!(bits, 32 | 56 | 64 | 80),
            LineTechnology::Em4100 => matches!(bits, 24 | 32 | 40),
            LineTechnology::Wiegand => (1..=MAX_BITS).contains(&bits),
        }
    }
}

impl LineFormat {
    /// How many bits a number has.
    pub fn bit_count(&self) -> Option<u16> {
        match self.base {
            Base::Decimal => self.bits,
            Base::Hex => Some(self.bits.unwrap_or(u16::from(self.digits) * 4)),
        }
    }

    /// What is wrong with it, if anything.
    pub fn check(&self) -> Result<(), String> {
        if !(1..=MAX_DIGITS).contains(&self.digits) {
            return Err(format!("digits is 1 to {MAX_DIGITS}"));
        }
        let Some(bits) = self.bit_count() else {
            return Err(
                "with base = \"decimal\" say bits too: how many bits of the card's number are printed".into(),
            );
        };
        if !self.technology.takes(bits) {
            let which = match self.technology {
                LineTechnology::Hf => "a card's UID has bits = 32, 56, 64 or 80",
                LineTechnology::Em4100 => {
                    "an EM4100 number has bits = 40, of which readers print 40, 32 or 24"
                }
                LineTechnology::Wiegand => "a Wiegand number has bits = 1 to 80",
            };
            return Err(format!("{bits} bits: {which}"));
        }
        if [&self.prefix, &self.suffix]
            .iter()
            .any(|text| text.len() > 16 || text.contains(['\r', '\n', '\u{2}', '\u{3}']))
        {
            return Err("prefix and suffix are at most 16 bytes and hold no end of a line".into());
        }
        Ok(())
    }

    fn number(&self, line: &[u8]) -> Result<Credential, Reject> {
        let digits = between(line, &self.prefix, &self.suffix).ok_or(Reject::BadFrame)?;
        let radix = match self.base {
            Base::Decimal => 10,
            Base::Hex => 16,
        };
        // `from_str_radix` would take a sign.
        if digits.len() != usize::from(self.digits) || !digits.chars().all(|digit| digit.is_digit(radix)) {
            return Err(Reject::BadFrame);
        }
        let value = u128::from_str_radix(digits, radix).map_err(|_| Reject::BadFrame)?;
        let bits = self.bit_count().filter(|bits| (1..=MAX_BITS).contains(bits)).ok_or(Reject::BadFrame)?;
        if value == 0 {
            return Err(Reject::ZeroNumber);
        }
        if value >> bits != 0 {
            return Err(Reject::NumberTooLarge(bits));
        }
        left_justified(self.technology.technology(), bits, value).ok_or(Reject::BadFrame)
    }
}

/// The lowest `bits` of a number as a credential.
pub(super) fn left_justified(technology: Technology, bits: u16, value: u128) -> Option<Credential> {
    let shifted = value.checked_shl(128u32.checked_sub(bits.into())?)?.to_be_bytes();
    let bytes = shifted.get(..usize::from(bits).div_ceil(8))?;
    Credential::new(technology, bits, bytes.to_vec()).ok()
}

/// Finds numbers in a stream of bytes, which may come in any pieces.
#[derive(Debug)]
pub struct Parser {
    format: LineFormat,
    lines: Lines,
}

impl Parser {
    /// For lines of this format.
    pub fn new(format: LineFormat) -> Parser {
        Parser { format, lines: Lines::default() }
    }

    /// Takes a byte and gives what it completes: a number, or the reason for none.
    pub fn push(&mut self, byte: u8) -> Option<Result<Credential, Reject>> {
        let line = self.lines.push(byte)?;
        Some(line.and_then(|line| self.format.number(&line)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decimal(digits: u8, technology: LineTechnology, bits: u16) -> LineFormat {
        LineFormat {
            prefix: String::new(),
            suffix: String::new(),
            base: Base::Decimal,
            digits,
            technology,
            bits: Some(bits),
        }
    }

    fn hex(digits: u8, technology: LineTechnology) -> LineFormat {
        LineFormat { base: Base::Hex, bits: None, ..decimal(digits, technology, 0) }
    }

    fn parse(format: &LineFormat, bytes: &[u8]) -> Vec<Result<String, Reject>> {
        let mut parser = Parser::new(format.clone());
        let found = bytes.iter().filter_map(|byte| parser.push(*byte));
        found.map(|found| found.map(|credential| credential.reveal())).collect()
    }

    #[track_caller]
    fn reads(format: LineFormat, line: &str, badge: &str) {
        assert_eq!(format.check(), Ok(()));
        assert_eq!(parse(&format, format!("{line}\r\n").as_bytes()), [Ok(badge.to_owned())], "{line}");
        let again: Credential = badge.parse().unwrap();
        assert_eq!(again.reveal(), badge, "HR can write it as it is shown");
    }

    #[test]
    fn published_prints_of_one_em4100_card() {
        use LineTechnology::Em4100;
        reads(hex(10, Em4100), "01026F6C3A", "em4100:01026F6C3A");
        reads(decimal(12, Em4100, 40), "004335823930", "em4100:01026F6C3A");
        reads(decimal(10, Em4100, 32), "0040856634", "em4100:026F6C3A");
        reads(decimal(8, Em4100, 24), "07302202", "em4100:6F6C3A");
    }

    #[test]
    fn prints_of_13_56_mhz_cards_and_stripped_wiegand_frames() {
        reads(decimal(10, LineTechnology::Hf, 32), "3829098359", "hf:E43B6777");
        reads(hex(14, LineTechnology::Hf), "04a224b1c2d380", "hf:04A224B1C2D380");
        reads(hex(6, LineTechnology::Wiegand), "153E12", "wiegand:24:153E12");
        let format = LineFormat { prefix: "UID=".into(), suffix: ";".into(), ..hex(8, LineTechnology::Hf) };
        reads(format, "UID=E43B6777;", "hf:E43B6777");
    }

    #[test]
    fn a_line_of_another_shape_is_no_number() {
        let format = decimal(10, LineTechnology::Em4100, 32);
        let bad = |line: &str, why: Reject| {
            let stream = format!("{line}\r\n0040856634\r\n");
            assert_eq!(
                parse(&format, stream.as_bytes()),
                [Err(why), Ok("em4100:026F6C3A".into())],
                "{line:?}"
            );
        };
        bad("040856634", Reject::BadFrame);
        bad("00040856634", Reject::BadFrame);
        bad("004085663A", Reject::BadFrame);
        bad("+040856634", Reject::BadFrame);
        bad("-040856634", Reject::BadFrame);
        bad(" 040856634", Reject::BadFrame);
        bad("0040856634 ", Reject::BadFrame);
        bad("004085\u{663}634", Reject::BadFrame);
        bad("4294967296", Reject::NumberTooLarge(32));
        bad("0000000000", Reject::ZeroNumber);
        bad("ready", Reject::BadFrame);
    }

    #[track_caller]
    fn refused(format: LineFormat, why: &str) {
        assert!(format.check().unwrap_err().contains(why), "{:?}", format.check());
    }

    #[test]
    fn what_cannot_be_a_badge_is_refused_before_anything_starts() {
        use LineTechnology::{Em4100, Hf, Wiegand};
        refused(decimal(0, Em4100, 32), "digits is 1 to 25");
        refused(decimal(26, Em4100, 32), "digits is 1 to 25");
        refused(LineFormat { bits: None, ..decimal(10, Em4100, 32) }, "say bits too");
        refused(decimal(10, Em4100, 36), "readers print 40, 32 or 24");
        refused(hex(10, Hf), "32, 56, 64 or 80");
        refused(decimal(10, Wiegand, 0), "1 to 80");
        refused(LineFormat { prefix: "a\r".into(), ..hex(8, Hf) }, "no end of a line");
    }

    proptest! {
        #[test]
        fn every_number_is_read_as_it_was_printed(value in 1u64..1 << 40) {
            let bytes = value.to_be_bytes();
            let expect = Credential::from_bytes(Technology::Em4100, &bytes[3..]).unwrap().reveal();
            let line = format!("{value:013}\r\n");
            prop_assert_eq!(parse(&decimal(13, LineTechnology::Em4100, 40), line.as_bytes()), [Ok(expect.clone())]);
            let line = format!("{value:010x}\n");
            prop_assert_eq!(parse(&hex(10, LineTechnology::Em4100), line.as_bytes()), [Ok(expect)]);
        }

        #[test]
        fn no_bytes_break_it_and_the_next_line_is_read(
            noise in proptest::collection::vec(prop_oneof![any::<u8>(), b'0'..=b'9', Just(b'\n')], 0..300),
        ) {
            let found = parse(&decimal(10, LineTechnology::Em4100, 32), &[&noise, b"\n0040856634\r".as_slice()].concat());
            prop_assert_eq!(found.last(), Some(&Ok("em4100:026F6C3A".to_owned())));
        }
    }
}
