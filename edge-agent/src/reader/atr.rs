//! Step 1 of 12, PC/SC: what a card's answer to reset says of the card. Diagnostics and one rule of step 2. Pure.
//!
//! Field data breaks the standard: of the contactless ATRs in Debian's collection one in seventy has a wrong length or
//! checksum, and vendors write what they like into the card's name. So nothing here can fail, and nothing of it stops
//! a tap: an ATR that makes no sense is [`Kind::Malformed`] and that is all.
//!
//! Layouts: PC/SC part 3, 3.1.3.2.3 (contactless cards), ISO 7816-3 section 8 (all others).
#![deny(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

use std::fmt;

/// The PC/SC workgroup, which names storage cards.
const PCSC_RID: [u8; 5] = [0xA0, 0x00, 0x00, 0x03, 0x06];

/// ISO 7816-3: no ATR is longer.
pub const MAX_ATR: usize = 33;

/// What an ATR says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A contactless storage card (MIFARE Classic, Ultralight, ISO 15693, FeliCa).
    Storage {
        /// Which air interface.
        standard: Standard,
        /// The card's name; vendors' noise at times, never to be relied on.
        name: u16,
    },
    /// A contactless card with a processor (ISO 14443-4): DESFire, bank cards, phones, passports.
    Iso14443_4 {
        /// Its historical bytes are those of a DESFire.
        desfire: bool,
    },
    /// A card with contacts, or one whose reader says so.
    Contact,
    /// It breaks the standard.
    Malformed(Why),
}

/// The air interface of a storage card (PC/SC part 3, supplement: SS).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standard {
    /// ISO 14443-A, part 3.
    Iso14443A,
    /// ISO 14443-B.
    Iso14443B,
    /// ISO 15693.
    Iso15693,
    /// FeliCa.
    Felica,
    /// Another one, or none said.
    Other(u8),
}

/// What is wrong with an ATR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// None at all.
    Empty,
    /// More than 33 bytes.
    TooLong,
    /// The first byte is neither 3B nor 3F.
    Start,
    /// It ends before all that it announces.
    CutShort,
    /// It goes on after all that it announces.
    Rest,
    /// The exclusive or of all bytes after the first is not 0.
    Checksum,
}

/// Reads an ATR.
pub fn read(atr: &[u8]) -> Kind {
    match parts(atr) {
        Err(why) => Kind::Malformed(why),
        Ok(Parts { contactless: false, .. }) => Kind::Contact,
        Ok(Parts { historical, .. }) => storage(historical).unwrap_or(Kind::Iso14443_4 {
            desfire: matches!(historical, [0x80] | [0x75, 0x77, 0x81, 0x02, ..]),
        }),
    }
}

/// Whether the card says that it has a processor. A storage card's number is never made up; one of these may be.
pub fn has_processor(atr: &[u8]) -> bool {
    matches!(read(atr), Kind::Iso14443_4 { .. })
}

struct Parts<'a> {
    /// `3B 8n 80 01`: how readers announce contactless cards.
    contactless: bool,
    historical: &'a [u8],
}

fn parts(atr: &[u8]) -> Result<Parts<'_>, Why> {
    let [start, t0, ..] = atr else { return Err(if atr.is_empty() { Why::Empty } else { Why::CutShort }) };
    if atr.len() > MAX_ATR {
        return Err(Why::TooLong);
    }
    if !matches!(start, 0x3B | 0x3F) {
        return Err(Why::Start);
    }
    // Interface bytes come in groups; the upper half of T0 and of each TD says which of TA, TB, TC, TD follow.
    let mut at = 2;
    let mut follow = t0 >> 4;
    let mut has_checksum = false;
    while follow != 0 {
        at += (follow & 0b0111).count_ones() as usize;
        if follow & 0b1000 == 0 {
            break;
        }
        let td = *atr.get(at).ok_or(Why::CutShort)?;
        at += 1;
        has_checksum |= td & 0x0F != 0;
        follow = td >> 4;
    }
    let end = at + usize::from(t0 & 0x0F);
    let historical = atr.get(at..end).ok_or(Why::CutShort)?;
    match (has_checksum, atr.get(end..)) {
        (true, Some([_])) => {
            let xor = atr.iter().skip(1).fold(0, |xor, byte| xor ^ byte);
            if xor != 0 {
                return Err(Why::Checksum);
            }
        }
        (true, Some([]) | None) => return Err(Why::CutShort),
        (false, Some([])) => {}
        _ => return Err(Why::Rest),
    }
    let contactless = matches!(atr, [0x3B, t0, 0x80, 0x01, ..] if t0 & 0xF0 == 0x80);
    Ok(Parts { contactless, historical })
}

/// `80 4F length`, the RID, SS, the name, and nothing of interest.
fn storage(historical: &[u8]) -> Option<Kind> {
    let [0x80, 0x4F, _, rid @ ..] = historical else { return None };
    let [ss, high, low, ..] = rid.strip_prefix(&PCSC_RID)? else { return None };
    let standard = match ss {
        0x01..=0x03 => Standard::Iso14443A,
        0x05..=0x07 => Standard::Iso14443B,
        0x09..=0x0C => Standard::Iso15693,
        0x11 => Standard::Felica,
        other => Standard::Other(*other),
    };
    Some(Kind::Storage { standard, name: u16::from_be_bytes([*high, *low]) })
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Storage { standard, name } => {
                write!(f, "storage card, {standard}, ")?;
                match card_name(*name) {
                    Some(known) => f.write_str(known),
                    None => write!(f, "name {name:04X}"),
                }
            }
            Kind::Iso14443_4 { desfire: true } => {
                f.write_str("card with processor (ISO 14443-4), as DESFire")
            }
            Kind::Iso14443_4 { desfire: false } => {
                f.write_str("card with processor (ISO 14443-4): bank card, phone or the like")
            }
            Kind::Contact => f.write_str("card with contacts, or a reader that does not say more"),
            Kind::Malformed(why) => write!(f, "malformed ({why}); the number counts all the same"),
        }
    }
}

impl fmt::Display for Standard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Standard::Iso14443A => f.write_str("ISO 14443-A"),
            Standard::Iso14443B => f.write_str("ISO 14443-B"),
            Standard::Iso15693 => f.write_str("ISO 15693"),
            Standard::Felica => f.write_str("FeliCa"),
            Standard::Other(ss) => write!(f, "standard {ss:02X}"),
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Why::Empty => "empty",
            Why::TooLong => "longer than 33 bytes",
            Why::Start => "does not begin with 3B or 3F",
            Why::CutShort => "cut short",
            Why::Rest => "goes on after its end",
            Why::Checksum => "checksum does not fit",
        })
    }
}

/// The names that are met at doors (PC/SC part 3, supplement: NN).
fn card_name(name: u16) -> Option<&'static str> {
    Some(match name {
        0x0001 => "MIFARE Classic 1K",
        0x0002 => "MIFARE Classic 4K",
        0x0003 => "MIFARE Ultralight or NTAG",
        0x0026 => "MIFARE Mini",
        0x003A => "MIFARE Ultralight C",
        0x003B => "FeliCa",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXUPPER;
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn says(atr: &str, text: &str) {
        let bytes = HEXUPPER.decode(atr.replace(' ', "").as_bytes()).unwrap();
        assert_eq!(read(&bytes).to_string(), text, "{atr}");
    }

    #[test]
    fn published_atrs() {
        says(
            "3B 8F 80 01 80 4F 0C A0 00 00 03 06 03 00 01 00 00 00 00 6A",
            "storage card, ISO 14443-A, MIFARE Classic 1K",
        );
        says("3B 8F 80 01 80 4F 0C A0 00 00 03 06 11 00 3B 00 00 00 00 42", "storage card, FeliCa, FeliCa");
        says(
            "3B 8F 80 01 80 4F 0C A0 00 00 03 06 03 FF 88 00 00 00 00 1C",
            "storage card, ISO 14443-A, name FF88",
        );
        says("3B 81 80 01 80 80", "card with processor (ISO 14443-4), as DESFire");
        says("3B 80 80 01 01", "card with processor (ISO 14443-4): bank card, phone or the like");
        says("3B 02 14 50", "card with contacts, or a reader that does not say more");
    }

    #[test]
    fn malformed_atrs_are_called_that() {
        let bad = |atr: &str, why: &str| {
            says(atr, &format!("malformed ({why}); the number counts all the same"));
        };
        bad("3B 84 80 01 01 11 20 03 36 90 00", "goes on after its end");
        bad("3B 81 80 01 80 81", "checksum does not fit");
        bad("3B 81 80 01 80", "cut short");
        bad("3B 8F 80 01 80 4F", "cut short");
        bad("3B", "cut short");
        bad("", "empty");
        bad("00 00", "does not begin with 3B or 3F");
        bad(&"3B".repeat(34), "longer than 33 bytes");
        bad("3B F0", "cut short");
        bad("3B 80", "cut short");
    }

    #[test]
    fn only_a_sound_atr_of_a_processor_card_says_so() {
        assert!(has_processor(&[0x3B, 0x81, 0x80, 0x01, 0x80, 0x80]));
        assert!(!has_processor(&[0x3B, 0x81, 0x80, 0x01, 0x80, 0x81]));
        assert!(!has_processor(&[0x3B, 0x02, 0x14, 0x50]));
        assert!(!has_processor(&[]));
    }

    proptest! {
        #[test]
        fn no_bytes_break_it(atr in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = read(&atr).to_string();
        }

        #[test]
        fn no_likely_bytes_break_it(
            atr in proptest::collection::vec(
                prop_oneof![Just(0x3B), Just(0x80), Just(0x01), Just(0x8F), Just(0xFF), any::<u8>()],
                0..40,
            ),
        ) {
            let _ = read(&atr).to_string();
        }
    }
}
