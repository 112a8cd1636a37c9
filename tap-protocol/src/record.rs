//! A record: one line of an outbox. Taps are records, and so is everything that explains them later: boots, clock
//! anchors, readers that came and went, losses.
//!
//! On disk and on the wire a record is `version byte ‖ postcard`; see [`crate::codec`].

use serde::{Deserialize, Serialize};

use crate::codec::{self, DecodeError, VERSION_1};
use crate::ids::{BootId, OutboxId, ReaderName, Seq};
use crate::limits::{MAX_RECORD_BYTES, MAX_TEXT_BYTES};
use crate::tap::Tap;

/// One record, version 1. Frozen: a change of shape is a new version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// When, as the controller knew it.
    pub at: Stamp,
    /// What.
    pub body: Body,
}

/// When something happened, as the controller knew it then. True time is worked out from it later
/// ([`crate::time_repair`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// Which boot, counted per outbox from 1; [`Body::AgentStarted`] gives its boot id.
    pub boot: u32,
    /// Milliseconds of CLOCK_BOOTTIME: since boot, suspend included, never stepped.
    pub boottime_ms: u64,
    /// Milliseconds of the wall clock since 1970-01-01 UTC, as seen, right or wrong.
    pub wall_ms: i64,
    /// Whether the wall clock was to be believed.
    pub clock: ClockState,
}

impl Stamp {
    /// Of a record that stands for one that is gone: of no boot and no time.
    pub const NONE: Stamp = Stamp { boot: 0, boottime_ms: 0, wall_ms: 0, clock: ClockState::Unsynced };
}

/// What the kernel said of the wall clock. Append only: the order is on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClockState {
    /// Disciplined by NTP or the like (`adjtimex` without `STA_UNSYNC`).
    Synced,
    /// Not disciplined since boot.
    Unsynced,
    /// Not disciplined, and set by hand or by a jump since boot.
    Stepped,
}

impl ClockState {
    /// The name in JSON and metrics.
    pub fn name(self) -> &'static str {
        match self {
            ClockState::Synced => "synced",
            ClockState::Unsynced => "unsynced",
            ClockState::Stepped => "stepped",
        }
    }
}

/// What a record tells. Append only: the order is on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    /// A badge was shown and accepted.
    Tap(Tap),
    /// The tap at `seq` was repeated `n` more times without the card having been away.
    Repeats {
        /// The tap that was repeated.
        seq: Seq,
        /// How many times more the reader reported it.
        n: u32,
    },
    /// True time became known: at some boottime within [earliest, latest] it was `utc_ms`, give or take.
    ClockAnchor {
        /// How it became known.
        source: AnchorSource,
        /// Earliest CLOCK_BOOTTIME that the anchor may belong to, milliseconds.
        earliest_boottime_ms: u64,
        /// Latest CLOCK_BOOTTIME that the anchor may belong to, milliseconds.
        latest_boottime_ms: u64,
        /// Milliseconds since 1970-01-01 UTC.
        utc_ms: i64,
        /// How far `utc_ms` itself may be off, milliseconds.
        uncertainty_ms: u32,
    },
    /// A reader is there and answers.
    ReaderUp {
        /// Which.
        reader: ReaderName,
    },
    /// A reader is gone or silent: taps there are refused or impossible from here on.
    ReaderDown {
        /// Which.
        reader: ReaderName,
        /// Why, in a word.
        why: String,
    },
    /// The agent started. The first record of every outbox and of every start.
    AgentStarted {
        /// The kernel's boot id that [`Stamp::boot`] stands for from here on.
        boot_id: BootId,
        /// The agent's version.
        version: String,
        /// How the run before ended.
        previous_stop: PreviousStop,
    },
    /// The outbox fills up.
    BufferHigh {
        /// Bytes in use.
        used_bytes: u64,
        /// Bytes allowed.
        limit_bytes: u64,
    },
    /// A tombstone: these records of an outbox (this one or an older one) are gone, and why.
    Lost {
        /// Whose.
        outbox: OutboxId,
        /// First lost.
        from: Seq,
        /// Last lost.
        to: Seq,
        /// Why.
        why: LossReason,
    },
    /// The configuration is another one since the last start.
    ConfigChanged {
        /// The first 16 bytes of the SHA-256 of the effective configuration.
        digest: [u8; 16],
    },
    /// What was promised this number is the tap at that place: it was brought twice, to two who could not ask each other.
    /// No tap of its own. Only the cloud writes it, for what comes over HTTP.
    SameAs {
        /// The outbox of the tap, of the same source.
        outbox: OutboxId,
        /// The tap.
        seq: Seq,
    },
}

impl Body {
    /// The names of all kinds that this version can read, in the order of the wire.
    pub const KINDS: [&str; 10] = [
        "tap",
        "repeats",
        "clock_anchor",
        "reader_up",
        "reader_down",
        "agent_started",
        "buffer_high",
        "lost",
        "config_changed",
        "same_as",
    ];

    /// The kind's name in JSON, metrics and the store.
    pub fn kind(&self) -> &'static str {
        match self {
            Body::Tap(_) => "tap",
            Body::Repeats { .. } => "repeats",
            Body::ClockAnchor { .. } => "clock_anchor",
            Body::ReaderUp { .. } => "reader_up",
            Body::ReaderDown { .. } => "reader_down",
            Body::AgentStarted { .. } => "agent_started",
            Body::BufferHigh { .. } => "buffer_high",
            Body::Lost { .. } => "lost",
            Body::ConfigChanged { .. } => "config_changed",
            Body::SameAs { .. } => "same_as",
        }
    }
}

/// How true time became known. Append only: the order is on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum AnchorSource {
    /// The kernel says that the wall clock is disciplined.
    Kernel,
    /// The wall clock was stepped; it showed `wall_before_ms` just before.
    Step {
        /// Milliseconds since 1970-01-01, as the clock showed before the step.
        wall_before_ms: i64,
    },
    /// A receipt: the cloud's time between hello sent and receipt received.
    Receipt,
}

/// How a run of the agent ended. Append only: the order is on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PreviousStop {
    /// There was none: a new outbox.
    None,
    /// It was asked to stop.
    Clean,
    /// Killed, crashed or out of power.
    Unclean,
}

/// Why records are gone. Append only: the order is on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossReason {
    /// The medium gave back something else than was written.
    Damaged,
    /// Receipted, pruned, and then asked for again by a cloud that was restored from a backup.
    Pruned,
    /// A person said so.
    Discarded,
}

impl Record {
    /// `version ‖ postcard`. Texts are cut to [`MAX_TEXT_BYTES`], so every record fits [`MAX_RECORD_BYTES`].
    pub fn encode(&self) -> Vec<u8> {
        let bytes = codec::encode(VERSION_1, self);
        assert!(bytes.len() <= MAX_RECORD_BYTES, "a record of {} bytes was made", bytes.len());
        bytes
    }

    /// Reads exactly one record.
    pub fn decode(bytes: &[u8]) -> Result<Record, DecodeError> {
        codec::decode(bytes, MAX_RECORD_BYTES)
    }
}

/// `text`, cut to [`MAX_TEXT_BYTES`] at a character's boundary: what every free text inside a message goes through.
pub fn short_text(text: &str) -> String {
    let mut end = text.len().min(MAX_TEXT_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_texts_end_at_a_character() {
        assert_eq!(short_text("fine"), "fine");
        assert_eq!(short_text(&"ä".repeat(40)), "ä".repeat(32));
        assert_eq!(short_text(&format!("x{}", "ä".repeat(40))), format!("x{}", "ä".repeat(31)));
    }

    #[test]
    fn the_record_of_a_newer_version_is_told_from_a_broken_one() {
        assert_eq!(Record::decode(&[2, 0, 0]), Err(DecodeError::UnknownVersion(2)));
        assert_eq!(Record::decode(&[1, 0]), Err(DecodeError::Truncated(2)));
    }
}
