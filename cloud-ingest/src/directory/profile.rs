//! Beside the line: what a number on a card has to do with what a reader gives of it. Pure: knows no store and no key.
//!
//! One card is a different number at every make of reader: the bytes the other way round, the first of them left out, in
//! a Wiegand frame with parity. What a tap carries is the bits as this reader gave them, sealed; what is printed on the
//! card, and stands in somebody's list, is another number. A *profile* is one way to come from the one to the other, in
//! both directions. Profiles are numbered and never changed: a better understanding is another profile, and since the
//! bits of old taps are all there, it holds for them too.
//!
//! Sources: H10301 and 34 bits (vectors of `monkeyboard/Wiegand-Protocol-Library-for-Arduino` issue 33 and
//! `jessety/wiegand-encoder`), H10302 and H10304 (field and parity ranges as ooaccess.com gives them), the orders of a
//! MIFARE number (Suprema's knowledge base), decimal prints of EM4100 cards (zgznk.com, Suprema).

use std::fmt;

use tap_protocol::badge::{Credential, Technology};

/// A number of which so many bits are not printed is still tried in all ways, and not one of which more are missing.
pub const MAX_UNPRINTED_BITS: u32 = 16;

/// One way to read a card's number out of a reader's bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Profile {
    /// Its name, with its number: `em4100-10d/1`.
    pub name: &'static str,
    /// What it is, for people.
    pub what: &'static str,
    /// An example of a print.
    pub example: &'static str,
    frame: Frame,
    order: Order,
    print: Print,
}

/// What the reader puts the card's bits into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Frame {
    /// So many bytes of a 13.56 MHz card's UID, as they are.
    Uid(u32),
    /// The last so many of the five bytes of an EM4100 number.
    Em4100(u32),
    /// A Wiegand frame of so many bits with its parity at both ends.
    Wiegand(Parity),
}

/// Where a Wiegand frame has its parity: the first bit makes the first part even, the last one the last part odd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Parity {
    bits: u32,
    /// So many of the first bits are even, the parity bit included.
    even: u32,
    /// So many of the last bits are odd, the parity bit included.
    odd: u32,
}

const H10301: Parity = Parity { bits: 26, even: 13, odd: 13 };
const W34: Parity = Parity { bits: 34, even: 17, odd: 17 };
/// H10302 and H10304: the bit in the middle counts in both.
const W37: Parity = Parity { bits: 37, even: 19, odd: 19 };

/// How the reader orders what it gives, seen from the print.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// The same.
    Same,
    /// The last byte first.
    Bytes,
    /// Each byte's bits the other way round.
    BitsInBytes,
    /// All bits the other way round.
    Bits,
}

/// What is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Print {
    /// The last so many bits as a decimal, with zeros in front up to so many digits.
    Decimal { bits: u32, digits: usize },
    /// All as hexadecimal.
    Hex,
    /// Two decimals with something between: so many bits before it and after it, at the end of the card's bits.
    Pair { high: u32, low: u32, digits: (usize, usize), mark: char },
}

/// All profiles there are. Append only: names are in stores and in people's lists.
pub const PROFILES: &[Profile] = &[
    uid("uid4-hex/1", "a UID of 4 bytes as hexadecimal", "E43B6777", 4, Order::Same, Print::Hex),
    uid("uid4-hex-reversed/1", "the same, the bytes reversed", "77673BE4", 4, Order::Bytes, Print::Hex),
    uid("uid4-decimal/1", "a UID of 4 bytes as a decimal", "3829098359", 4, Order::Same, DECIMAL_32),
    uid("uid4-decimal-reversed/1", "the same, the bytes reversed", "2003254244", 4, Order::Bytes, DECIMAL_32),
    uid(
        "uid4-decimal-bits/1",
        "the same, the bits in each byte reversed",
        "668788462",
        4,
        Order::BitsInBytes,
        DECIMAL_32,
    ),
    uid("uid4-decimal-mirrored/1", "the same, all bits reversed", "4008107047", 4, Order::Bits, DECIMAL_32),
    uid("uid7-hex/1", "a UID of 7 bytes as hexadecimal", "04A224B1C2D380", 7, Order::Same, Print::Hex),
    uid("uid7-hex-reversed/1", "the same, the bytes reversed", "80D3C2B124A204", 7, Order::Bytes, Print::Hex),
    uid(
        "uid7-decimal/1",
        "a UID of 7 bytes as a decimal",
        "1304923310904192",
        7,
        Order::Same,
        Print::Decimal { bits: 56, digits: 0 },
    ),
    em4100("em4100-hex/1", "an EM4100 number as hexadecimal", "01026F6C3A", 5, Print::Hex),
    em4100(
        "em4100-12d/1",
        "all of an EM4100 number as a decimal of 12 digits",
        "004335823930",
        5,
        Print::Decimal { bits: 40, digits: 12 },
    ),
    em4100("em4100-10d/1", "its last 4 bytes as a decimal of 10 digits", "0040856634", 5, TEN_DIGITS),
    em4100(
        "em4100-8d/1",
        "its last 3 bytes as a decimal of 8 digits",
        "07302202",
        5,
        Print::Decimal { bits: 24, digits: 8 },
    ),
    em4100(
        "em4100-2h4h/1",
        "its third byte and its last two, as decimals",
        "111,27706",
        5,
        Print::Pair { high: 8, low: 16, digits: (3, 5), mark: ',' },
    ),
    em4100(
        "em4100-4h4h/1",
        "its second and third byte and its last two, as decimals",
        "00623,27706",
        5,
        Print::Pair { high: 16, low: 16, digits: (5, 5), mark: ',' },
    ),
    em4100(
        "em4100-customer/1",
        "its first byte and its last four, as decimals",
        "75-4340757",
        5,
        Print::Pair { high: 8, low: 32, digits: (0, 0), mark: '-' },
    ),
    em4100(
        "em4100-10d-of-4/1",
        "10 digits, at a reader that gives the last 4 bytes",
        "0040856634",
        4,
        TEN_DIGITS,
    ),
    em4100(
        "em4100-8d-of-3/1",
        "8 digits, at a reader that gives the last 3 bytes",
        "07302202",
        3,
        Print::Decimal { bits: 24, digits: 8 },
    ),
    wiegand(
        "h10301/1",
        "26 bits: facility and number",
        "21-15890",
        H10301,
        Order::Same,
        Print::Pair { high: 8, low: 16, digits: (0, 0), mark: '-' },
    ),
    wiegand(
        "h10301-number/1",
        "26 bits: the number alone",
        "15890",
        H10301,
        Order::Same,
        Print::Decimal { bits: 16, digits: 0 },
    ),
    wiegand(
        "h10301-decimal/1",
        "26 bits: both as one decimal",
        "1392146",
        H10301,
        Order::Same,
        Print::Decimal { bits: 24, digits: 0 },
    ),
    wiegand(
        "wiegand34/1",
        "34 bits: facility and number",
        "40253-48388",
        W34,
        Order::Same,
        Print::Pair { high: 16, low: 16, digits: (0, 0), mark: '-' },
    ),
    wiegand(
        "wiegand34-decimal/1",
        "34 bits: both as one decimal",
        "2638068996",
        W34,
        Order::Same,
        DECIMAL_32,
    ),
    wiegand("wiegand34-hex/1", "34 bits: a UID of 4 bytes", "E43B6777", W34, Order::Same, Print::Hex),
    wiegand(
        "wiegand34-hex-reversed/1",
        "34 bits: a UID of 4 bytes, the bytes reversed",
        "E43B6777",
        W34,
        Order::Bytes,
        Print::Hex,
    ),
    wiegand(
        "h10302/1",
        "37 bits: a number without facility",
        "12345678901",
        W37,
        Order::Same,
        Print::Decimal { bits: 35, digits: 0 },
    ),
    wiegand(
        "h10304/1",
        "37 bits: facility and number",
        "1234-456789",
        W37,
        Order::Same,
        Print::Pair { high: 16, low: 19, digits: (0, 0), mark: '-' },
    ),
];

const DECIMAL_32: Print = Print::Decimal { bits: 32, digits: 0 };
const TEN_DIGITS: Print = Print::Decimal { bits: 32, digits: 10 };

const fn uid(
    name: &'static str,
    what: &'static str,
    example: &'static str,
    bytes: u32,
    order: Order,
    print: Print,
) -> Profile {
    Profile { name, what, example, frame: Frame::Uid(bytes), order, print }
}

const fn em4100(
    name: &'static str,
    what: &'static str,
    example: &'static str,
    bytes: u32,
    print: Print,
) -> Profile {
    Profile { name, what, example, frame: Frame::Em4100(bytes), order: Order::Same, print }
}

const fn wiegand(
    name: &'static str,
    what: &'static str,
    example: &'static str,
    parity: Parity,
    order: Order,
    print: Print,
) -> Profile {
    Profile { name, what, example, frame: Frame::Wiegand(parity), order, print }
}

/// The profile of that name; without a number at its end, the newest.
pub fn named(name: &str) -> Option<&'static Profile> {
    let is_it = |profile: &&Profile| {
        profile.name == name || profile.name.rsplit_once('/').is_some_and(|(stem, _)| stem == name)
    };
    PROFILES.iter().rfind(is_it)
}

impl Profile {
    /// What would be printed on the card of which a reader gave this. `None` if the profile is of other cards, or if the
    /// frame's parity is wrong.
    pub fn printed(&self, credential: &Credential) -> Option<String> {
        let bits = self.order.apply(self.frame.open(credential)?, self.frame.payload_bits());
        Some(self.print.write(bits, self.frame.payload_bits()))
    }

    /// What readers may give of the card on which that is printed: one credential, or several where not all of it is
    /// printed. Empty if it is no print of this kind.
    pub fn readings(&self, printed: &str) -> Vec<Credential> {
        let width = self.frame.payload_bits();
        let Some((bits, known_bits)) = self.print.read(printed.trim(), width) else { return Vec::new() };
        let unprinted = width - known_bits;
        if unprinted > MAX_UNPRINTED_BITS {
            return Vec::new();
        }
        let all = (0..1_u64 << unprinted)
            .filter_map(|front| self.frame.close(self.order.apply(front << known_bits | bits, width)));
        all.collect()
    }

    /// So many bits are not printed: what is found through this has to be confirmed by a tap.
    pub fn unprinted_bits(&self) -> u32 {
        self.frame.payload_bits() - self.print.bits(self.frame.payload_bits())
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}, such as {}", self.name, self.what, self.example)
    }
}

impl Frame {
    /// The bits that are the card's own.
    fn payload_bits(self) -> u32 {
        match self {
            Frame::Uid(bytes) | Frame::Em4100(bytes) => bytes * 8,
            Frame::Wiegand(parity) => parity.bits - 2,
        }
    }

    fn technology(self) -> Technology {
        match self {
            Frame::Uid(_) => Technology::Hf,
            Frame::Em4100(_) => Technology::Em4100,
            Frame::Wiegand(_) => Technology::Wiegand,
        }
    }

    fn bits(self) -> u32 {
        match self {
            Frame::Uid(_) | Frame::Em4100(_) => self.payload_bits(),
            Frame::Wiegand(parity) => parity.bits,
        }
    }

    /// The card's own bits, if these are a reader's bits of this kind.
    fn open(self, credential: &Credential) -> Option<u64> {
        if credential.technology() != self.technology() || u32::from(credential.bit_count()) != self.bits() {
            return None;
        }
        let padding = credential.bits().len() as u32 * 8 - self.bits();
        let bits = credential.bits().iter().fold(0, |bits, byte| bits << 8 | u64::from(*byte)) >> padding;
        match self {
            Frame::Uid(_) | Frame::Em4100(_) => Some(bits),
            Frame::Wiegand(parity) => parity.open(bits),
        }
    }

    fn close(self, payload: u64) -> Option<Credential> {
        let bits = match self {
            Frame::Uid(_) | Frame::Em4100(_) => payload,
            Frame::Wiegand(parity) => parity.close(payload),
        };
        let bytes = self.bits().div_ceil(8) as usize;
        let padding = bytes as u32 * 8 - self.bits();
        let all = (bits << padding).to_be_bytes();
        let kept = all.get(all.len() - bytes..)?.to_vec();
        Credential::new(self.technology(), u16::try_from(self.bits()).ok()?, kept).ok()
    }
}

impl Parity {
    fn close(self, payload: u64) -> u64 {
        let body = payload << 1;
        let even = (body >> (self.bits - self.even)).count_ones() & 1;
        let odd = !(body & low_bits(self.odd)).count_ones() & 1;
        u64::from(even) << (self.bits - 1) | body | u64::from(odd)
    }

    fn open(self, frame: u64) -> Option<u64> {
        let payload = (frame >> 1) & low_bits(self.bits - 2);
        (self.close(payload) == frame).then_some(payload)
    }
}

impl Order {
    /// Its own inverse.
    fn apply(self, bits: u64, width: u32) -> u64 {
        match self {
            Order::Same => bits,
            Order::Bytes => bits.swap_bytes() >> (64 - width),
            Order::BitsInBytes => bits.reverse_bits().swap_bytes(),
            Order::Bits => bits.reverse_bits() >> (64 - width),
        }
    }
}

impl Print {
    /// Of so many bits, so many are printed.
    fn bits(self, width: u32) -> u32 {
        match self {
            Print::Decimal { bits, .. } => bits,
            Print::Hex => width,
            Print::Pair { high, low, .. } => high + low,
        }
    }

    fn write(self, bits: u64, width: u32) -> String {
        let bits = bits & low_bits(self.bits(width));
        match self {
            Print::Decimal { digits, .. } => format!("{bits:0digits$}"),
            Print::Hex => format!("{bits:0digits$X}", digits = width.div_ceil(4) as usize),
            Print::Pair { low, digits: (before, after), mark, .. } => {
                format!("{:0before$}{mark}{:0after$}", bits >> low, bits & low_bits(low))
            }
        }
    }

    /// The bits that are printed, and how many. People and spreadsheets leave zeros in front out, and write spaces.
    fn read(self, printed: &str, width: u32) -> Option<(u64, u32)> {
        let known_bits = self.bits(width);
        let within = |number: u64, bits: u32| (number <= low_bits(bits)).then_some(number);
        let bits = match self {
            Print::Decimal { bits, digits } => {
                let text = compact(printed, &[' ']);
                let longest = low_bits(bits).ilog10() as usize + 1;
                within(decimal(&text).filter(|_| digits == 0 || text.len() <= longest)?, bits)?
            }
            Print::Hex => {
                let text = compact(printed, &[' ', ':', '-']);
                let fits = text.len() == width.div_ceil(4) as usize;
                let is_hex = text.bytes().all(|byte| byte.is_ascii_hexdigit());
                u64::from_str_radix(&text, 16).ok().filter(|_| fits && is_hex)?
            }
            Print::Pair { high, low, .. } => {
                let (before, after) = printed.split_once([',', '-', '/', ':'])?;
                let number = |text: &str, bits| within(decimal(text.trim())?, bits);
                number(before, high)? << low | number(after, low)?
            }
        };
        Some((bits, known_bits))
    }
}

fn decimal(text: &str) -> Option<u64> {
    text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
}

fn compact(text: &str, without: &[char]) -> String {
    text.chars().filter(|c| !without.contains(c)).collect()
}

fn low_bits(count: u32) -> u64 {
    u64::MAX.checked_shr(64 - count).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Bits as they come over the wire: `1000…` becomes a Wiegand badge.
    fn frame(bits: &str) -> Credential {
        let all = u64::from_str_radix(bits, 2).unwrap() << (bits.len().div_ceil(8) * 8 - bits.len());
        let bytes = all.to_be_bytes()[8 - bits.len().div_ceil(8)..].to_vec();
        Credential::new(Technology::Wiegand, bits.len() as u16, bytes).unwrap()
    }

    fn profile(name: &str) -> &'static Profile {
        named(name).unwrap_or_else(|| panic!("there is a profile {name}"))
    }

    /// The profile prints that of the card, and finds the card by it.
    #[track_caller]
    fn prints(name: &str, badge: &Credential, printed: &str) {
        assert_eq!(profile(name).printed(badge).as_deref(), Some(printed));
        let readings = profile(name).readings(printed);
        assert!(readings.contains(badge), "{} readings", readings.len());
        assert_eq!(readings.len(), 1 << profile(name).unprinted_bits());
    }

    fn badge(text: &str) -> Credential {
        text.parse().unwrap()
    }

    #[test]
    fn published_wiegand_frames_have_their_published_numbers() {
        let monkeyboard = frame("10001010100111110000100100");
        prints("h10301", &monkeyboard, "21-15890");
        prints("h10301-number", &monkeyboard, "15890");
        prints("h10301-decimal", &monkeyboard, &(21 * 65_536 + 15_890).to_string());
        prints("h10301", &frame("00101101000000001010001000"), "90-324");
        // HID OMNIKEY 5x27-902: facility 10, number 1188, and the decimal that its keyboard wedge types.
        prints("h10301", &frame("00000101000000100101001001"), "10-1188");
    }

    #[test]
    fn a_frame_of_swapped_wires_is_no_card() {
        let swapped = frame("0100111010100101111001011110111000");
        assert_eq!(profile("wiegand34-hex").printed(&swapped), None, "both parities fail");
        let inverted = "1011000101011010000110100001000111";
        prints("wiegand34-hex", &frame(inverted), "62B43423");
    }

    #[test]
    fn one_mifare_card_has_four_decimals() {
        let card = badge("E43B6777");
        prints("uid4-decimal", &card, "3829098359");
        prints("uid4-decimal-reversed", &card, "2003254244");
        prints("uid4-decimal-bits", &card, "668788462");
        prints("uid4-decimal-mirrored", &card, "4008107047");
        prints("uid4-hex-reversed", &badge("4CDDA15F"), "5FA1DD4C");
        prints("uid4-decimal-reversed", &badge("E43AC9D2"), "3536403172");
    }

    #[test]
    fn one_em4100_card_has_many_prints() {
        let card = badge("01026F6C3A");
        prints("em4100-12d", &card, "004335823930");
        prints("em4100-10d", &card, "0040856634");
        prints("em4100-8d", &card, "07302202");
        prints("em4100-2h4h", &card, "111,27706");
        prints("em4100-4h4h", &card, "00623,27706");
        prints("em4100-customer", &badge("4B00423C15"), "75-4340757");
        prints("em4100-12d", &badge("4B00423C15"), "322126887957");
        prints("em4100-10d-of-4", &badge("em4100:026F6C3A"), "0040856634");
    }

    #[test]
    fn prints_are_read_as_people_write_them() {
        let reads = |name: &str, printed: &str| profile(name).readings(printed);
        assert_eq!(reads("em4100-12d", "4335823930"), [badge("01026F6C3A")], "without zeros in front");
        assert_eq!(reads("h10301", " 21 / 15890 "), reads("h10301", "21-15890"));
        assert_eq!(reads("uid7-hex", "04:a2:24:b1:c2:d3:80"), [badge("04A224B1C2D380")]);
        for (name, bad) in [
            ("h10301", "256-1"),
            ("h10301", "21-65536"),
            ("h10301", "15890"),
            ("h10301-number", "65536"),
            ("uid4-hex", "+43B6777"),
            ("uid4-hex", "E43B677"),
            ("uid4-decimal", "4294967296"),
            ("uid4-decimal", "-1"),
            ("em4100-8d", "007302202"),
            ("em4100-10d", ""),
        ] {
            assert_eq!(reads(name, bad), [], "{bad} is no print of {name}");
        }
    }

    #[test]
    fn a_37_bit_card_has_parities_that_overlap() {
        let facility = profile("h10304").readings("1234-136750").remove(0);
        let plain = profile("h10302").readings(&(1234_u64 << 19 | 136_750).to_string()).remove(0);
        assert_eq!((facility.bit_count(), facility.clone()), (37, plain), "the same frame, read in two ways");
        let bit = |n: usize| facility.bits()[n / 8] >> (7 - n % 8) & 1;
        assert_eq!(bit(18), 1, "the one that counts in both");
        assert_eq!((0..19).map(bit).sum::<u8>() % 2, 0, "bits 0 to 18 are even");
        assert_eq!((18..37).map(bit).sum::<u8>() % 2, 1, "bits 18 to 36 are odd");
    }

    #[test]
    fn every_profile_reads_its_own_example_and_has_a_name_of_its_own() {
        for profile in PROFILES {
            let readings = profile.readings(profile.example);
            assert!(!readings.is_empty(), "{profile}");
            let again = readings.iter().filter_map(|reading| profile.printed(reading));
            assert!(again.into_iter().all(|printed| printed == profile.example), "{profile}");
            assert_eq!(named(profile.name), Some(profile));
        }
        let names: BTreeSet<_> = PROFILES.iter().map(|profile| profile.name).collect();
        assert_eq!(names.len(), PROFILES.len());
    }

    proptest! {
        #[test]
        fn what_a_profile_prints_of_a_card_it_finds_the_card_by(bits: u64, which in 0..PROFILES.len()) {
            let profile = &PROFILES[which];
            let card = profile.frame.close(bits & low_bits(profile.frame.payload_bits())).unwrap();
            let printed = profile.printed(&card).unwrap();
            prop_assert!(profile.readings(&printed).contains(&card));
        }

        #[test]
        fn no_text_is_too_strange_and_no_single_bit_goes_unnoticed(text: String, bits: u64, flipped in 0..26_u32) {
            for profile in PROFILES {
                let _ = profile.readings(&text);
            }
            let frame = H10301.close(bits & low_bits(24));
            prop_assert_eq!(H10301.open(frame ^ 1 << flipped), None);
        }
    }
}
