//! Step 1 of 12, serial: Wiegand frames from a converter that sends the bit count. Pure: knows no port and no time.
//!
//! A line is `COUNT:DIGITS`, as in `26:22A7C24`: the bits as they came over the two data wires, parity included.
//! Wiegand has no end mark and no checksum but two parity bits, which one random frame in four passes. So the length
//! is the strong test: only configured lengths are accepted, and nothing is ever repaired.
//!
//! | bits | layout | parity |
//! |---|---|---|
//! | 26 (H10301) | P, 8 facility, 16 card, P | even over the first 13, odd over the last 13 |
//! | 34 | P, 16 facility, 16 card, P | even over the first 17, odd over the last 17 |
//!
//! Both halves have an odd number of bits, so a reader whose two data wires are swapped fails both parities each time,
//! and inverting all bits mends both. A single frame proves nothing (one random frame in four looks so); several in a
//! row, not all of one card, do.
#![deny(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

use serde::Deserialize;
use tap_protocol::badge::{Credential, Technology};

use super::card_read::Reject;
use super::line::{Lines, between};
use super::number_line::left_justified;

/// Frames in a row that look inverted, of at least two cards, before the wires are blamed.
const SWAPPED_AFTER: u32 = 3;

/// Lengths whose parity is known.
pub const LENGTHS: [u16; 2] = [26, 34];

/// How a converter prints frames.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WiegandFormat {
    /// What stands before the bit count, exactly.
    pub prefix: String,
    /// What stands between the bit count and the digits.
    pub separator: String,
    /// What stands behind the digits, before the end of the line.
    pub suffix: String,
    /// How the bits are written.
    pub digits: Digits,
    /// The lengths that this door's cards have; any other is refused.
    pub lengths: Vec<u16>,
}

impl Default for WiegandFormat {
    fn default() -> WiegandFormat {
        WiegandFormat {
            prefix: String::new(),
            separator: ":".to_owned(),
            suffix: String::new(),
            digits: Digits::default(),
            lengths: LENGTHS.to_vec(),
        }
    }
}

/// How bits are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Digits {
    /// Hexadecimal, as one number: zero bits in front fill the first digit, or the first byte. `26:22A7C24`.
    #[default]
    HexRight,
    /// Hexadecimal, the first bit first: zero bits at the end fill the last digit, or the last byte. `26:8A9F0900`.
    HexLeft,
    /// A 0 or a 1 for each bit. `26:10001010100111110000100100`.
    Binary,
}

impl WiegandFormat {
    /// What is wrong with it, if anything.
    pub fn check(&self) -> Result<(), String> {
        if self.lengths.is_empty() || self.lengths.iter().any(|length| !LENGTHS.contains(length)) {
            return Err("lengths is a list of 26 and 34: of no other length is the parity known".into());
        }
        let breaks_line = |text: &&String| text.len() > 16 || text.contains(['\r', '\n', '\u{2}', '\u{3}']);
        if [&self.prefix, &self.separator, &self.suffix].iter().any(breaks_line) {
            return Err("prefix, separator and suffix are at most 16 bytes and hold no end of a line".into());
        }
        let first = self.separator.chars().next();
        if first.is_none_or(|c| c.is_ascii_digit()) {
            return Err(
                "separator is what ends the bit count, so it is there and begins with no digit".into()
            );
        }
        Ok(())
    }

    /// The frame in a line.
    fn frame(&self, line: &[u8]) -> Option<Frame> {
        let inner = between(line, &self.prefix, &self.suffix)?;
        let (count, digits) = inner.split_once(self.separator.as_str())?;
        if !count.bytes().chain(digits.bytes()).all(|byte| byte.is_ascii_hexdigit()) || count.len() > 3 {
            return None;
        }
        let count: u16 = count.parse().ok().filter(|count| (1..=64).contains(count))?;
        let (radix, bits_each) = match self.digits {
            Digits::HexRight | Digits::HexLeft => (16, 4),
            Digits::Binary => (2, 1),
        };
        let room = digits.len().checked_mul(bits_each)?;
        let excess = room.checked_sub(count.into()).filter(|excess| *excess < 8 && room <= 72)?;
        let value = u128::from_str_radix(digits, radix).ok()?;
        let bits = match self.digits {
            Digits::HexRight => value,
            Digits::HexLeft if value & ((1 << excess) - 1) == 0 => value >> excess,
            Digits::Binary if excess == 0 => value,
            Digits::HexLeft | Digits::Binary => return None,
        };
        // A bit beyond the count says that count and digits are not of one frame.
        if bits >> count != 0 { None } else { Some(Frame { bits: u64::try_from(bits).ok()?, count }) }
    }
}

/// Bits as they came over the wires, the first one highest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// The lowest `count` of these.
    pub bits: u64,
    /// How many.
    pub count: u16,
}

/// Whether a frame's parity bits fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parity {
    /// The first bit, even over the first half.
    pub leading: bool,
    /// The last bit, odd over the second half.
    pub trailing: bool,
}

impl Frame {
    /// From a credential of this technology.
    pub fn of(credential: &Credential) -> Option<Frame> {
        if credential.technology() != Technology::Wiegand || credential.bit_count() > 64 {
            return None;
        }
        let (count, bytes) = (credential.bit_count(), credential.bits());
        let value = bytes.iter().fold(0u128, |value, byte| value << 8 | u128::from(*byte));
        let bits = value >> (bytes.len() * 8).checked_sub(count.into())?;
        Some(Frame { bits: u64::try_from(bits).ok()?, count })
    }

    /// Where the parity of this length is known.
    pub fn parity(self) -> Option<Parity> {
        if !LENGTHS.contains(&self.count) {
            return None;
        }
        let half = self.count / 2;
        let ones = |bits: u64| (bits & ((1 << half) - 1)).count_ones();
        Some(Parity {
            leading: ones(self.bits >> half).is_multiple_of(2),
            trailing: !ones(self.bits).is_multiple_of(2),
        })
    }

    /// Facility and card number, where this length's layout is known.
    pub fn facility_and_card(self) -> Option<(u64, u64)> {
        let facility_bits = match self.count {
            26 => 8,
            34 => 16,
            _ => return None,
        };
        Some((self.bits >> 17 & ((1 << facility_bits) - 1), self.bits >> 1 & 0xFFFF))
    }

    /// What it would be if the two data wires were exchanged.
    pub fn inverted(self) -> Frame {
        let all = if self.count >= 64 { u64::MAX } else { (1 << self.count) - 1 };
        Frame { bits: !self.bits & all, ..self }
    }

    /// Both parities fail, and both fit after inverting.
    pub fn looks_inverted(self) -> bool {
        let neither = Some(Parity { leading: false, trailing: false });
        self.parity() == neither && self.inverted().parity() == Some(Parity { leading: true, trailing: true })
    }
}

/// Finds frames in a stream of bytes, which may come in any pieces.
#[derive(Debug)]
pub struct Parser {
    format: WiegandFormat,
    lines: Lines,
    inverted: InvertedRun,
}

/// Frames in a row that look inverted.
#[derive(Debug, Default)]
struct InvertedRun {
    frames: u32,
    first: Option<Frame>,
    several_cards: bool,
}

impl Parser {
    /// For lines of this format.
    pub fn new(format: WiegandFormat) -> Parser {
        Parser { format, lines: Lines::default(), inverted: InvertedRun::default() }
    }

    /// Takes a byte and gives what it completes: a credential, or the reason for none.
    pub fn push(&mut self, byte: u8) -> Option<Result<Credential, Reject>> {
        let line = self.lines.push(byte)?;
        Some(line.and_then(|line| {
            let frame = self.format.frame(&line).ok_or(Reject::BadFrame)?;
            self.judge(frame)
        }))
    }

    fn judge(&mut self, frame: Frame) -> Result<Credential, Reject> {
        if !self.format.lengths.contains(&frame.count) {
            return Err(Reject::BadBitCount(frame.count));
        }
        match frame.parity() {
            Some(Parity { leading: true, trailing: true }) => {
                self.inverted = InvertedRun::default();
                if frame.bits == 0 {
                    return Err(Reject::ZeroNumber);
                }
                left_justified(Technology::Wiegand, frame.count, frame.bits.into()).ok_or(Reject::BadFrame)
            }
            _ if frame.looks_inverted() => {
                let run = &mut self.inverted;
                run.several_cards |= *run.first.get_or_insert(frame) != frame;
                run.frames = run.frames.saturating_add(1);
                let proved = run.several_cards && run.frames >= SWAPPED_AFTER;
                Err(if proved { Reject::WiresSwapped } else { Reject::BadParity })
            }
            _ => {
                self.inverted = InvertedRun::default();
                Err(Reject::BadParity)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Facility 21, card 15890.
    const PUBLISHED: &str = "10001010100111110000100100";

    /// Published as read with D0 and D1 swapped.
    const SWAPPED: &str = "0100111010100101111001011110111000";

    fn frame(bits: &str) -> Frame {
        Frame { bits: u64::from_str_radix(bits, 2).unwrap(), count: u16::try_from(bits.len()).unwrap() }
    }

    fn format(digits: Digits) -> WiegandFormat {
        WiegandFormat { digits, ..WiegandFormat::default() }
    }

    fn parse(format: WiegandFormat, text: &str) -> Vec<Result<String, Reject>> {
        assert_eq!(format.check(), Ok(()));
        let mut parser = Parser::new(format);
        let found = text.bytes().filter_map(|byte| parser.push(byte));
        found.map(|found| found.map(|credential| credential.reveal())).collect()
    }

    #[track_caller]
    fn reads(format: WiegandFormat, line: &str, badge: &str) {
        assert_eq!(parse(format, &format!("{line}\r\n")), [Ok(badge.to_owned())], "{line}");
    }

    #[test]
    fn published_frames_in_every_way_of_writing() {
        let badge = "wiegand:26:8A9F0900";
        reads(format(Digits::Binary), &format!("26:{PUBLISHED}"), badge);
        reads(format(Digits::HexRight), "26:22A7C24", badge);
        reads(format(Digits::HexRight), "26:022a7c24", badge);
        reads(format(Digits::HexLeft), "26:8A9F090", badge);
        reads(format(Digits::HexLeft), "26:8a9f0900", badge);
        let chatty = WiegandFormat {
            prefix: "card ".into(),
            separator: "bits / ".into(),
            suffix: " ok".into(),
            ..format(Digits::HexRight)
        };
        reads(chatty, "card 26bits / 022A7C24 ok", badge);
        reads(format(Digits::Binary), "26:00101101000000001010001000", "wiegand:26:2D00A200");
    }

    #[test]
    fn facility_and_card_of_published_frames() {
        assert_eq!(frame(PUBLISHED).facility_and_card(), Some((21, 15_890)));
        assert_eq!(frame("00101101000000001010001000").facility_and_card(), Some((90, 324)));
        assert_eq!(frame(SWAPPED).inverted().bits >> 1 & 0xFFFF_FFFF, 0x62B4_3423);
        assert_eq!(frame(SWAPPED).inverted().facility_and_card(), Some((0x62B4, 0x3423)));
    }

    #[test]
    fn a_frame_survives_becoming_a_credential() {
        for bits in [PUBLISHED, "00101101000000001010001000", SWAPPED] {
            let frame = frame(bits);
            let credential = left_justified(Technology::Wiegand, frame.count, frame.bits.into()).unwrap();
            assert_eq!(Frame::of(&credential), Some(frame));
        }
    }

    #[test]
    fn a_wrong_length_or_parity_is_never_a_tap() {
        let good = format!("26:{PUBLISHED}\r\n");
        let bad = |line: &str, why: Reject| {
            let found = parse(format(Digits::Binary), &format!("{line}\r\n{good}"));
            assert_eq!(found, [Err(why), Ok("wiegand:26:8A9F0900".into())], "{line}");
        };
        for bit in 0..26 {
            let mut bits = frame(PUBLISHED);
            bits.bits ^= 1 << bit;
            bad(&format!("26:{:026b}", bits.bits), Reject::BadParity);
        }
        bad("4:1010", Reject::BadBitCount(4));
        bad("8:10101010", Reject::BadBitCount(8));
        bad(&format!("25:{}", &PUBLISHED[1..]), Reject::BadBitCount(25));
        bad(&format!("27:{PUBLISHED}0"), Reject::BadBitCount(27));
        bad(&format!("25:{PUBLISHED}"), Reject::BadFrame);
        bad(&format!("27:{PUBLISHED}"), Reject::BadFrame);
        bad(PUBLISHED, Reject::BadFrame);
        bad(&format!(":{PUBLISHED}"), Reject::BadFrame);
        bad(&format!("+26:{PUBLISHED}"), Reject::BadFrame);
        bad(&format!("26:{}2", &PUBLISHED[1..]), Reject::BadFrame);
        bad("65:0", Reject::BadFrame);
        bad("0:", Reject::BadFrame);
        let only_34 = WiegandFormat { lengths: vec![34], ..format(Digits::Binary) };
        assert_eq!(parse(only_34, &good), [Err(Reject::BadBitCount(26))]);
    }

    #[test]
    fn digits_and_count_must_be_of_one_frame() {
        let bad = |digits: Digits, line: &str| {
            assert_eq!(parse(format(digits), &format!("{line}\n")), [Err(Reject::BadFrame)], "{line}");
        };
        bad(Digits::HexRight, "26:622A7C24");
        bad(Digits::HexRight, "26:42A7C24");
        bad(Digits::HexRight, "26:22A7C2");
        bad(Digits::HexRight, "26:0022A7C24");
        bad(Digits::HexLeft, "26:8A9F0901");
        bad(Digits::HexLeft, "26:8A9F09");
        bad(Digits::HexLeft, "26:8A9F090000");
    }

    #[test]
    fn swapped_wires_are_named_after_several_cards_and_never_repaired() {
        let inverted = |bits: &str| {
            format!(
                "{}:{}\n",
                bits.len(),
                bits.chars().map(|b| if b == '0' { '1' } else { '0' }).collect::<String>()
            )
        };
        let swapped = format!("34:{SWAPPED}\n");
        let other = inverted(PUBLISHED);
        let find = |text: String| -> Vec<Reject> {
            parse(format(Digits::Binary), &text).into_iter().map(|found| found.unwrap_err()).collect()
        };
        use Reject::{BadParity, WiresSwapped};
        assert_eq!(
            find([&swapped, &other, &swapped, &swapped].map(String::as_str).concat()),
            [BadParity, BadParity, WiresSwapped, WiresSwapped]
        );
        assert_eq!(find(swapped.repeat(5)), [BadParity; 5], "one card may be of another format");
        let good = format!("26:{PUBLISHED}\n");
        let found = parse(
            format(Digits::Binary),
            &[&swapped, &other, &good, &swapped, &other].map(String::as_str).concat(),
        );
        assert_eq!(
            found.iter().filter(|found| **found == Err(WiresSwapped)).count(),
            0,
            "a good frame clears the wires"
        );
    }

    #[test]
    fn what_cannot_work_is_refused_before_anything_starts() {
        let refused = |format: WiegandFormat, why: &str| assert!(format.check().unwrap_err().contains(why));
        refused(WiegandFormat { lengths: vec![37], ..WiegandFormat::default() }, "26 and 34");
        refused(WiegandFormat { lengths: vec![], ..WiegandFormat::default() }, "26 and 34");
        refused(WiegandFormat { separator: String::new(), ..WiegandFormat::default() }, "separator");
        refused(WiegandFormat { separator: "0x".into(), ..WiegandFormat::default() }, "separator");
        refused(WiegandFormat { suffix: "\n".into(), ..WiegandFormat::default() }, "no end of a line");
    }

    /// A frame with right parity.
    fn sound(value: u64, count: u16) -> Frame {
        let middle = Frame { bits: (value & ((1 << (count - 2)) - 1)) << 1, count };
        let half = count / 2;
        let parity = middle.parity().unwrap();
        let bits = middle.bits | u64::from(!parity.leading) << (2 * half - 1) | u64::from(!parity.trailing);
        Frame { bits, count }
    }

    fn noise() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![any::<u8>(), b'0'..=b'9', b'A'..=b'F', Just(b':'), Just(b'\r'), Just(b'\n')];
        proptest::collection::vec(byte, 0..300)
    }

    proptest! {
        #[test]
        fn a_sound_frame_is_read_after_any_bytes_in_any_way_of_writing(
            noise in noise(), value: u64, count in prop_oneof![Just(26u16), Just(34)], digits in 0..3,
        ) {
            let frame = sound(value, count);
            prop_assume!(frame.bits != 0);
            let (digits, text) = match digits {
                0 => (Digits::HexRight, format!("{:X}", u128::from(frame.bits) | 1 << 64)),
                1 => (Digits::HexLeft, format!("{:010x}", frame.bits << (40 - count))),
                _ => (Digits::Binary, format!("{:064b}", frame.bits)[usize::from(64 - count)..].to_owned()),
            };
            let text = match digits {
                Digits::HexRight => text[1 + 16 - usize::from(count).div_ceil(4)..].to_owned(),
                Digits::HexLeft => text[..usize::from(count).div_ceil(8) * 2].to_owned(),
                Digits::Binary => text,
            };
            let mut parser = Parser::new(format(digits));
            let stream = [&noise, format!("\n{count}:{text}\n").as_bytes()].concat();
            let last = stream.iter().filter_map(|byte| parser.push(*byte)).last();
            let credential = last.unwrap().unwrap();
            prop_assert_eq!(Frame::of(&credential), Some(frame));
            prop_assert_eq!(frame.parity(), Some(Parity { leading: true, trailing: true }));
            prop_assert!(frame.inverted().looks_inverted());
        }

        #[test]
        fn what_is_read_has_a_configured_length_and_both_parities(noise in noise()) {
            let mut parser = Parser::new(format(Digits::HexRight));
            for credential in noise.iter().filter_map(|byte| parser.push(*byte)).flatten() {
                let frame = Frame::of(&credential).unwrap();
                prop_assert!(LENGTHS.contains(&frame.count));
                prop_assert_eq!(frame.parity(), Some(Parity { leading: true, trailing: true }));
            }
        }
    }
}
