//! Beside the line: what leaves the store for good, for files. Old records go in whole ranges of positions, with all that
//! hangs on them, once nothing more can come of them; what stays says where they went, and the hashes before and after.
//! Knows no SQL and no file's format: `crate::archive` writes the files.

use std::fmt;
use std::ops::ControlFlow;

use serde::Serialize;
use tap_protocol::badge::SealedBadge;
use tap_protocol::chain::ChainHash;
use tap_protocol::ids::{ControllerId, EventId, OutboxId, Seq};
use tap_protocol::keys::PublicKey;

use super::{
    AttemptRow, DeliveryCount, DeliveryState, DestinationName, Occurred, OrderKey, Position, SignedBatch,
    StoreError, StoredRecord, Timeless, UtcMs,
};
use crate::delivery::class::Class;

/// Taking old ranges out of the store.
pub trait Archive {
    /// How much is archived.
    fn archived(&mut self) -> Result<Archived, StoreError>;

    /// The range that comes next after `after` (`0`: the first of the store), if all its positions are taken, and what
    /// keeps it in the store as of `before`.
    fn range_after(&mut self, after: Position, before: UtcMs) -> Result<Option<Candidate>, StoreError>;

    /// Tells all of a range that is in the store, from one snapshot.
    fn read_range(
        &mut self,
        range: Range,
        told: &mut dyn FnMut(Told) -> ControlFlow<()>,
    ) -> Result<(), StoreError>;

    /// The cut: from here on the range is archived in that file, and all of it may be removed. In one transaction, and only
    /// if the range is still what was read.
    fn archive(&mut self, segment: &NewSegment) -> Result<Cut, StoreError>;

    /// Removes some of what is archived. Nobody sees those rows any more; this is for the space. Whether there is more. It
    /// may be broken off at any moment, and is worth another try when others keep a partition busy.
    fn remove_archived(&mut self) -> Result<bool, StoreError>;

    /// What left the store, the oldest first.
    fn segments(&mut self) -> Result<Vec<Segment>, StoreError>;

    /// The file of the segment that has this event, if it is archived.
    fn segment_with(&mut self, id: EventId) -> Result<Option<String>, StoreError>;
}

/// Nothing that was received more recently is archived, whatever anybody asks for. Controllers keep receipted records for
/// at most thirty days and may send them again until then; a tap that comes late changes which way those around it went.
pub const YOUNGEST_MS: i64 = 35 * 24 * 60 * 60 * 1_000;

/// So much is archived: part of the store's totals, which count all there ever was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Archived {
    /// Events up to this position.
    pub through: u64,
    /// In so many segments.
    pub segments: u64,
    /// Records of every kind.
    pub records: u64,
    /// Taps among them.
    pub taps: u64,
    /// Their deliveries.
    pub deliveries: u64,
    /// Attempts of those.
    pub attempts: u64,
}

/// Positions, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Range {
    /// The first.
    pub from: Position,
    /// The last.
    pub to: Position,
}

/// A range that may be archived next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Candidate {
    /// Which.
    #[serde(flatten)]
    pub range: Range,
    /// When its first record was received.
    pub received_from: UtcMs,
    /// When its last one was.
    pub received_to: UtcMs,
    /// What keeps it here; nothing: it can go.
    pub kept_for: Vec<KeptFor>,
}

/// Why a range has to stay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "why")]
pub enum KeptFor {
    /// Some of it was received at that time or later.
    Young {
        /// As of which.
        before: UtcMs,
    },
    /// Deliveries that have not ended, or that a person may still decide about.
    Deliveries {
        /// Where to.
        destination: DestinationName,
        /// In which state they are.
        state: DeliveryState,
        /// How many.
        count: u64,
        /// The first of them.
        first: Position,
    },
    /// A destination is still to be given deliveries of old events, from this position on.
    Backfill {
        /// Which.
        destination: DestinationName,
        /// From here.
        from: Position,
    },
    /// Members of replays whose turn has not come, or that are on their way.
    Replays {
        /// How many.
        count: u64,
        /// The first of them.
        first: Position,
    },
    /// Records that this program cannot read: a later one may, and then they are taps like others.
    Unread {
        /// How many.
        count: u64,
        /// The first of them.
        first: Position,
    },
    /// It has not been looked through yet for records that could not be read.
    NotLookedThrough,
}

/// What is told of a range: each outbox with its records and signatures, then each destination with what it was told.
#[derive(Debug, Clone, PartialEq)]
pub enum Told {
    /// An outbox; its records follow.
    Outbox {
        /// Whose.
        controller: ControllerId,
        /// Which.
        outbox: OutboxId,
        /// What its event ids begin with.
        prefix: [u8; 16],
        /// The controller's record keys, those of old included.
        record_keys: Vec<PublicKey>,
        /// All before the range.
        before: (Seq, ChainHash),
    },
    /// A record of that outbox, in the order of seq; if it is a tap, what is known of its time, and its badge.
    Record(StoredRecord, Option<(Result<Occurred, Timeless>, SealedBadge)>),
    /// A signature over records of that outbox, right after the last one here that it covers. One that covers records
    /// before or after the range too has its whole message.
    Signature(SignedBatch),
    /// A destination; what it was told follows.
    Destination(DestinationName),
    /// A delivery, in the order of positions.
    Delivery(ArchivedDelivery),
    /// After the deliveries: an attempt, in the order of positions.
    Attempt(Position, AttemptRow),
    /// After the attempts: what came out otherwise than the destination was told.
    Difference(ArchivedDifference),
}

/// A delivery, as it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchivedDelivery {
    /// Of which event.
    pub position: Position,
    /// Whose tap it was, or whose badge.
    pub order_key: OrderKey,
    /// Delivered or discarded.
    pub state: DeliveryState,
    /// When it was due.
    pub due: UtcMs,
    /// Attempts started.
    pub attempts: u32,
    /// Those that failed.
    pub failures: u32,
    /// What kind of work it was.
    pub class: Class,
    /// What was sent.
    pub body: Option<String>,
    /// Which way it was told to go, where that is not as the reader is placed.
    pub direction: Option<String>,
}

/// What a destination was told of an event and came out otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchivedDifference {
    /// Of which event.
    pub position: Position,
    /// `person` or `direction`.
    pub what: String,
    /// What it was told.
    pub told: String,
    /// What it is, if anything.
    pub is: Option<String>,
    /// Since when that is known.
    pub noted: UtcMs,
}

/// A range that is in a verified file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSegment {
    /// Which.
    pub range: Range,
    /// The file's name.
    pub file: String,
    /// What is in it.
    pub sha256: [u8; 32],
    /// How long it is.
    pub bytes: u64,
    /// Taps among its records.
    pub taps: u64,
    /// When its first record was received, and its last.
    pub received: (UtcMs, UtcMs),
    /// Its outboxes.
    pub outboxes: Vec<SegmentOutbox>,
    /// Its deliveries, none of them at zero.
    pub deliveries: Vec<DeliveryCount>,
    /// Attempts of those.
    pub attempts: u64,
    /// Badges that were shown.
    pub badges: Vec<SealedBadge>,
    /// When it was archived.
    pub made: UtcMs,
    /// By whom.
    pub made_by: String,
}

/// What a segment has of one outbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SegmentOutbox {
    /// Whose.
    pub controller: ControllerId,
    /// Which.
    pub outbox: OutboxId,
    /// Its first record here.
    pub from: Seq,
    /// Its last one.
    pub to: Seq,
    /// `h(from - 1)`.
    pub hash_before: ChainHash,
    /// `h(to)`.
    pub hash_after: ChainHash,
}

/// What came of a cut.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Cut {
    /// The range is archived.
    Done,
    /// The range is not what was read any more, or not the next one: nothing was changed. Says what has changed.
    Changed(String),
}

/// A range that left the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Segment {
    /// Which.
    #[serde(flatten)]
    pub range: Range,
    /// The file's name.
    pub file: String,
    /// What is in it, in hexadecimal.
    pub sha256: String,
    /// How long it is.
    pub bytes: u64,
    /// Its records.
    pub records: u64,
    /// Taps among them.
    pub taps: u64,
    /// When the first was received.
    pub received_from: UtcMs,
    /// When the last was.
    pub received_to: UtcMs,
    /// Its outboxes.
    pub outboxes: Vec<SegmentOutbox>,
    /// Its deliveries.
    pub deliveries: Vec<DeliveryCount>,
    /// Attempts of those.
    pub attempts: u64,
    /// When it was archived.
    pub made: UtcMs,
    /// By whom.
    pub made_by: String,
    /// Whether its rows are removed.
    pub is_removed: bool,
}

impl Range {
    /// How many positions these are.
    #[expect(clippy::len_without_is_empty, reason = "a range is never empty")]
    pub fn len(&self) -> u64 {
        self.to.0 + 1 - self.from.0
    }
}

impl fmt::Display for KeptFor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeptFor::Young { .. } => write!(f, "some of it is younger"),
            KeptFor::Deliveries { destination, state, count, first } => {
                write!(
                    f,
                    "{count} deliveries to {destination} are {state}, the first of position {}",
                    first.0
                )
            }
            KeptFor::Backfill { destination, from } => {
                write!(f, "{destination} is still to be told of old taps, from position {} on", from.0)
            }
            KeptFor::Replays { count, first } => {
                write!(f, "{count} deliveries are still to be replayed, the first of position {}", first.0)
            }
            KeptFor::Unread { count, first } => {
                write!(
                    f,
                    "{count} records cannot be read by this program, the first of position {}: a newer one may",
                    first.0
                )
            }
            KeptFor::NotLookedThrough => {
                write!(
                    f,
                    "it is not known yet whether all of it could be read: run cloud-ingest store reread"
                )
            }
        }
    }
}
