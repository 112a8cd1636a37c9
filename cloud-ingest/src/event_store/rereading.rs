//! Beside the line: records that could not be read when they were stored, because the controller was newer than the cloud.
//! In words of the domain; knows no SQL.
//!
//! They are kept as `opaque`, in their place. A later program that can read them makes of them what they are: taps with
//! deliveries at their positions, anchors, boots. What was sent meanwhile stays as it was; all else is as if they had been
//! readable at once, but that their deliveries are of the class of old taps, so that many of them starve nobody.

use serde::Serialize;

use super::{StoreError, UtcMs};

/// Reading anew.
pub trait Rereading {
    /// How many records could not be read, and how many of those were read since.
    fn rereading(&mut self) -> Result<Reread, StoreError>;

    /// Reads the next portion anew, in the order of positions, in one transaction: at most `room` records.
    fn read_anew(&mut self, room: usize, now: UtcMs) -> Result<Portion, StoreError>;
}

/// So many records are read anew in one transaction: a tap among them may be told to several destinations, and everybody
/// else who writes waits meanwhile.
pub const MAX_READ_AT_ONCE: usize = 100;

/// So many older events are looked through at once for such records.
pub const LOOKED_THROUGH_AT_ONCE: u64 = 10_000;

/// Records that could not be read when they were stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Reread {
    /// That no program so far could read.
    pub unreadable: u64,
    /// That a later program has read.
    pub read_later: u64,
    /// Older events that have not been looked through for such records.
    pub to_look_through: u64,
}

/// What became of a portion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Portion {
    /// Read now.
    pub read: usize,
    /// Taps among them.
    pub taps: usize,
    /// Still not readable.
    pub unreadable: usize,
    /// There is more to do.
    pub more: bool,
}

impl Portion {
    /// Both.
    #[must_use]
    pub fn and(self, next: Portion) -> Portion {
        Portion {
            read: self.read + next.read,
            taps: self.taps + next.taps,
            unreadable: self.unreadable + next.unreadable,
            more: next.more,
        }
    }
}
