//! For people at the door: one number in every way in which readers and cards print it. Pure, and clear text: what is
//! made here is printed by `edge-agent readers test`, to the person who holds the card, and nowhere else.
//!
//! The same card is another number at every brand (byte order, bit order, width, parity, facility code), so whoever
//! compares a card's print, an old system's list and what the reader gives needs all of them side by side.

use serde::Serialize;
use tap_protocol::badge::{Credential, Technology};

use super::wiegand::Frame;

/// One way of writing a number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Interpretation {
    /// What this way is called.
    pub name: &'static str,
    /// The number so written.
    pub value: String,
}

/// Every way.
pub fn interpretations(credential: &Credential) -> Vec<Interpretation> {
    let mut all = Ways::default();
    match credential.technology() {
        Technology::Hf => all.uid(credential.bits()),
        Technology::Em4100 => all.em4100(credential.bits()),
        Technology::Wiegand => all.wiegand(credential),
    }
    all.0
}

#[derive(Default)]
struct Ways(Vec<Interpretation>);

impl Ways {
    fn add(&mut self, name: &'static str, value: String) {
        self.0.push(Interpretation { name, value });
    }

    fn uid(&mut self, bytes: &[u8]) {
        let reversed: Vec<u8> = bytes.iter().rev().copied().collect();
        self.add("hex", hex(bytes));
        self.add("hex, bytes reversed", hex(&reversed));
        self.add("decimal", number(bytes).to_string());
        self.add("decimal, bytes reversed", number(&reversed).to_string());
        let mirrored = |bytes: &[u8]| bytes.iter().map(|byte| byte.reverse_bits()).collect::<Vec<u8>>();
        self.add("decimal, bits of each byte reversed", number(&mirrored(bytes)).to_string());
        self.add("decimal, all bits reversed", number(&mirrored(&reversed)).to_string());
        // What Wiegand readers make of it: the last three bytes, or the first three.
        self.prints(bytes);
        if let [first @ .., _] = bytes
            && first.len() >= 3
        {
            let (high, low) = (number(&first[..1]), number(&first[1..3]));
            self.add("first 24 bits as facility and card", format!("{high:03},{low:05}"));
        }
    }

    fn em4100(&mut self, bytes: &[u8]) {
        let reversed: Vec<u8> = bytes.iter().rev().copied().collect();
        self.add("hex", hex(bytes));
        self.add("hex, bytes reversed", hex(&reversed));
        self.prints(bytes);
        if let [first, second, _, card @ ..] = bytes
            && card.len() == 2
        {
            self.add("13D (all bits)", format!("{:013}", number(bytes)));
            self.add("3.5D A (first byte, 16 bits)", format!("{first:03},{:05}", number(card)));
            self.add("3.5D B (second byte, 16 bits)", format!("{second:03},{:05}", number(card)));
        }
    }

    /// The prints on fobs and cards, all of the last 32 bits.
    fn prints(&mut self, bytes: &[u8]) {
        let low = |n: usize| &bytes[bytes.len().saturating_sub(n)..];
        let (card, facility) = (number(low(2)), number(low(3)) >> 16);
        self.add("10D (32 bits)", format!("{:010}", number(low(4))));
        self.add("8D (24 bits)", format!("{:08}", number(low(3))));
        self.add("2H4H (8 and 16 bits, also 3.5D C)", format!("{facility:03},{card:05}"));
        self.add("4H4H (16 and 16 bits)", format!("{:05},{card:05}", number(low(4)) >> 16));
    }

    fn wiegand(&mut self, credential: &Credential) {
        let Some(frame) = Frame::of(credential) else {
            return self.add("hex", hex(credential.bits()));
        };
        let width = usize::from(frame.count);
        self.add("bits", format!("{:0width$b}", frame.bits));
        self.add("hex, right-justified", format!("{:0digits$X}", frame.bits, digits = width.div_ceil(4)));
        self.add("hex, left-justified", hex(credential.bits()));
        self.add("decimal with parity", frame.bits.to_string());
        if let Some(parity) = frame.parity() {
            let word = |fits| if fits { "fits" } else { "does not fit" };
            self.add("leading parity (even)", word(parity.leading).to_owned());
            self.add("trailing parity (odd)", word(parity.trailing).to_owned());
            let data = frame.bits >> 1 & ((1 << (frame.count - 2)) - 1);
            self.add("hex without parity", format!("{data:0digits$X}", digits = (width - 2) / 4));
            self.add("decimal without parity", data.to_string());
        }
        if let Some((facility, card)) = frame.facility_and_card() {
            self.add("facility and card", format!("{facility},{card}"));
        }
        if frame.looks_inverted() {
            self.add("wires", "looks inverted: are D0 and D1 swapped?".to_owned());
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXUPPER.encode(bytes)
}

/// The bytes as one number; a badge has at most 16 of them that matter.
fn number(bytes: &[u8]) -> u128 {
    bytes.iter().fold(0, |value, byte| value << 8 | u128::from(*byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(badge: &str, name: &str, value: &str) {
        let all = interpretations(&badge.parse().unwrap());
        let found = all.iter().find(|way| way.name == name).map(|way| way.value.as_str());
        assert_eq!(found, Some(value), "{badge} as {name}: {all:?}");
    }

    #[test]
    fn one_mifare_card_under_the_four_published_settings() {
        check("E43B6777", "hex", "E43B6777");
        check("E43B6777", "decimal", "3829098359");
        check("E43B6777", "decimal, bits of each byte reversed", "668788462");
        check("E43B6777", "decimal, bytes reversed", "2003254244");
        check("E43B6777", "decimal, all bits reversed", "4008107047");
        check("E43AC9D2", "decimal, bytes reversed", "3536403172");
        check("4CDDA15F", "hex, bytes reversed", "5FA1DD4C");
    }

    #[test]
    fn one_em4100_card_in_its_published_prints() {
        check("01026F6C3A", "13D (all bits)", "0004335823930");
        check("01026F6C3A", "10D (32 bits)", "0040856634");
        check("01026F6C3A", "8D (24 bits)", "07302202");
        check("01026F6C3A", "2H4H (8 and 16 bits, also 3.5D C)", "111,27706");
        check("01026F6C3A", "4H4H (16 and 16 bits)", "00623,27706");
        check("01026F6C3A", "3.5D A (first byte, 16 bits)", "001,27706");
        check("em4100:026F6C3A", "4H4H (16 and 16 bits)", "00623,27706");
        check("em4100:6F6C3A", "2H4H (8 and 16 bits, also 3.5D C)", "111,27706");
    }

    #[test]
    fn published_wiegand_frames() {
        check("wiegand:26:8A9F0900", "bits", "10001010100111110000100100");
        check("wiegand:26:8A9F0900", "facility and card", "21,15890");
        check("wiegand:26:8A9F0900", "leading parity (even)", "fits");
        check("wiegand:26:8A9F0900", "trailing parity (odd)", "fits");
        check("wiegand:26:8A9F0900", "hex without parity", "153E12");
        // OMNIKEY's example: 0605025240 with its leading byte, 00140949 without.
        check("wiegand:26:05025240", "hex, right-justified", "0140949");
        check("wiegand:26:05025240", "decimal with parity", "1313097");
        check("wiegand:26:05025240", "facility and card", "10,1188");
        check("wiegand:34:4EA5E5EE00", "leading parity (even)", "does not fit");
        check("wiegand:34:4EA5E5EE00", "wires", "looks inverted: are D0 and D1 swapped?");
    }

    proptest! {
        #[test]
        fn any_badge_can_be_written_in_every_way(
            technology in prop_oneof![Just(Technology::Hf), Just(Technology::Em4100), Just(Technology::Wiegand)],
            bytes in proptest::collection::vec(any::<u8>(), 1..128),
        ) {
            let credential = Credential::from_bytes(technology, &bytes).unwrap();
            prop_assert!(!interpretations(&credential).is_empty());
        }
    }
}
