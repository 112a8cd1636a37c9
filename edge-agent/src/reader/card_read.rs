//! What a reader saw, or why that is nothing: the seam between step 1 and step 2. Pure.

use std::fmt;

use tap_protocol::badge::Credential;
use tap_protocol::hello::ReaderKind;
use tap_protocol::ids::ReaderName;

/// What a reader saw, as it saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CardRead {
    /// Which reader of the controller.
    pub reader: ReaderName,
    /// The number that the card gave.
    pub credential: Credential,
    /// When it was seen: milliseconds of CLOCK_BOOTTIME.
    pub seen_at_boottime_ms: u64,
    /// Diagnostics: the card's answer to reset, which field data proves to be malformed at times (PC/SC only).
    pub atr: Option<Vec<u8>>,
    /// Diagnostics: cards that came and went unread just before this one (PC/SC only).
    pub missed: u32,
}

/// Whether a reader of this kind says [`ReaderEvent::Removed`](super::ReaderEvent::Removed). If so a card is there until it says so; if not, presence
/// can only be told by repeated reads.
pub fn reports_removal(kind: ReaderKind) -> bool {
    match kind {
        ReaderKind::Pcsc => true,
        ReaderKind::Serial | ReaderKind::Simulated => false,
    }
}

/// Why something that was shown gave no number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reject {
    /// PC/SC: the answer is too short for a status word.
    NoStatusWord,
    /// PC/SC: the answer ends in another status word than 90 00. 6A 81 and 6E 00: the card or reader gives no UID.
    StatusWord(u16),
    /// PC/SC: success, and no UID. Seen in the field right after an insertion, and tried again.
    EmptyUid,
    /// PC/SC: a UID of this many bytes; 4, 7, 8 and 10 exist.
    BadUidLength(usize),
    /// PC/SC: the card does not answer.
    Mute,
    /// PC/SC: another program holds the card.
    Busy,
    /// PC/SC: the card left before it was read.
    CardGone,
    /// PC/SC: the exchange failed with this code of PC/SC.
    Transmit(u32),
    /// PC/SC: the reader counted this many cards that came and went unread, and none is there now.
    TooQuick(u32),
    /// Serial: bytes outside of any frame. Said once per run of rubbish.
    Noise,
    /// Serial: a frame was cut short by the next one, as when a card leaves. Said once per run of rubbish.
    CutFrame,
    /// Serial: a frame with a strange character or length. Said once per run of rubbish.
    BadFrame,
    /// Serial: a whole frame whose checksum does not fit.
    BadChecksum,
    /// Serial: the number 0, which readers make up when a card leaves.
    ZeroNumber,
    /// Serial, lines: the number does not fit into this many bits, so `bits` or `digits` is configured wrongly.
    NumberTooLarge(u16),
    /// Wiegand: a frame of this many bits, which is no length that is configured. Keypads send 4 or 8.
    BadBitCount(u16),
    /// Wiegand: a parity bit does not fit.
    BadParity,
    /// Wiegand: the reader's data wires are swapped at the converter, as several cards in a row have shown.
    WiresSwapped,
}

impl Reject {
    /// The name under which it is counted.
    pub fn kind(&self) -> &'static str {
        match self {
            Reject::NoStatusWord => "no_status_word",
            Reject::StatusWord(_) => "status_word",
            Reject::EmptyUid => "empty_uid",
            Reject::BadUidLength(_) => "bad_uid_length",
            Reject::Mute => "mute",
            Reject::Busy => "busy",
            Reject::CardGone => "card_gone",
            Reject::Transmit(_) => "transmit",
            Reject::TooQuick(_) => "too_quick",
            Reject::Noise => "noise",
            Reject::CutFrame => "cut_frame",
            Reject::BadFrame => "bad_frame",
            Reject::BadChecksum => "bad_checksum",
            Reject::ZeroNumber => "zero_number",
            Reject::NumberTooLarge(_) => "number_too_large",
            Reject::BadBitCount(_) => "bad_bit_count",
            Reject::BadParity => "bad_parity",
            Reject::WiresSwapped => "wires_swapped",
        }
    }
}

impl fmt::Display for Reject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reject::NoStatusWord => f.write_str("the answer has no status word"),
            Reject::StatusWord(sw) => write!(f, "the card gives no number (status word {sw:04X})"),
            Reject::EmptyUid => f.write_str("the card gave an empty number"),
            Reject::BadUidLength(n) => write!(f, "a number of {n} bytes is no card's"),
            Reject::Mute => f.write_str("the card does not answer"),
            Reject::Busy => f.write_str("another program holds the card"),
            Reject::CardGone => f.write_str("the card left before it was read"),
            Reject::Transmit(code) => write!(f, "the exchange with the card failed (PC/SC {code:08X})"),
            Reject::TooQuick(n) => write!(f, "cards came and went too quickly to be read: {n}"),
            Reject::Noise => f.write_str("noise on the line"),
            Reject::CutFrame => f.write_str("a frame was cut short"),
            Reject::BadFrame => f.write_str("a frame is malformed"),
            Reject::BadChecksum => f.write_str("a frame's checksum does not fit"),
            Reject::ZeroNumber => f.write_str("the reader gave the number 0"),
            Reject::NumberTooLarge(bits) => {
                write!(f, "a number has more than {bits} bits: check `bits` and `digits` of this reader's line")
            }
            Reject::BadBitCount(n) => write!(
                f,
                "a frame of {n} bits, which is none of this reader's `lengths`: another card format, or a pulse was lost"
            ),
            Reject::BadParity => {
                f.write_str("a frame's parity does not fit: another card format, or disturbance on the wires")
            }
            Reject::WiresSwapped => f.write_str(
                "the two data wires are swapped at the converter, so no card can be read: exchange D0 (green) and D1 (white)",
            ),
        }
    }
}

/// Something that a person should know of, though it neither gave nor cost a tap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Oddity {
    /// The same number right after its card had left. Mostly the same card; but readers are known that give the next
    /// person the last one's number from a stale buffer, so it is counted where it can be seen.
    SameNumberAgain,
    /// A signal that the reader's driver did not let through.
    LampNotAllowed,
    /// A signal that the reader did not show.
    LampFailed,
    /// A signal that could not be shown in time, and was not.
    LampLate,
}

impl Oddity {
    /// The name under which it is counted.
    pub fn kind(&self) -> &'static str {
        match self {
            Oddity::SameNumberAgain => "same_number_again",
            Oddity::LampNotAllowed => "lamp_not_allowed",
            Oddity::LampFailed => "lamp_failed",
            Oddity::LampLate => "lamp_late",
        }
    }
}

impl fmt::Display for Oddity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Oddity::SameNumberAgain => f.write_str(
                "the same number was read again right after its card had left: the card was shown twice, or the reader \
                 repeats an old number; if taps of different people go missing here, update or replace the reader",
            ),
            Oddity::LampNotAllowed => f.write_str("the driver let no signal through to the reader"),
            Oddity::LampFailed => f.write_str("the reader did not show a signal"),
            Oddity::LampLate => f.write_str("a signal could not be shown in time"),
        }
    }
}
