//! What a reader saw: the seam between step 1 and step 2. Pure.

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
