//! Beside the line: what a store keeps so that its records can be proved again, and the one walk over all of it. Knows
//! no SQL and decides nothing: [`crate::read_model::audit`] says whether it holds.

use std::ops::ControlFlow;

use tap_protocol::badge::Token;
use tap_protocol::chain::ChainHash;
use tap_protocol::envelope::{BatchProof, VerifiedBatch};
use tap_protocol::ids::{ControllerId, Seq, StoreEpoch};
use tap_protocol::keys::PublicKey;

use super::archive::Archived;
use super::meaning::{Meaning, OPAQUE};
use super::{DeadLetter, OutboxMark, Position, StoreError, Totals, UtcMs};

/// What proves the records, and what happens to a store as a whole.
pub trait Proof {
    /// Tells everything that proves the records, or those of one controller, from one snapshot: outbox by outbox, as
    /// long as `told` wants to hear more. What cannot be read is told too; an error is that there is nothing to read.
    fn walk(
        &mut self,
        only: Option<&ControllerId>,
        told: &mut dyn FnMut(Walked<'_>) -> ControlFlow<()>,
    ) -> Result<(), StoreError>;

    /// This content was put back from a backup: from here on it is another life of the store, with an epoch above all
    /// before it and above `heard_of`, and controllers send again what it lacks.
    fn new_epoch(&mut self, heard_of: Option<StoreEpoch>, now: UtcMs) -> Result<StoreEpoch, StoreError>;

    /// Whether these very bytes are in quarantine for that reason already.
    fn is_quarantined(&mut self, letter: &DeadLetter) -> Result<bool, StoreError>;
}

/// The signature over one batch of which something was stored. Consecutive ones may overlap, and leave nothing out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedBatch {
    /// The first record that it covers.
    pub first_seq: Seq,
    /// The last one.
    pub last_seq: Seq,
    /// With these records and the hash before them.
    pub proof: BatchProof,
}

impl SignedBatch {
    /// What is kept of `batch`.
    pub fn of(batch: &VerifiedBatch) -> SignedBatch {
        SignedBatch { first_seq: batch.first_seq(), last_seq: batch.last_seq(), proof: batch.proof().clone() }
    }
}

/// One stored record with everything that was worked out from its bytes and stands beside them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRecord {
    /// Its place among all.
    pub position: Position,
    /// Its number.
    pub seq: Seq,
    /// When it was stored.
    pub received: UtcMs,
    /// As [`super::EventRow::kind`].
    pub kind: String,
    /// As received.
    pub bytes: Vec<u8>,
    /// `h(seq)`.
    pub hash: ChainHash,
    /// The token of the tap that it is, where deliveries look for it; `None` if it is none.
    pub token: Option<Token>,
    /// When it was, true time, if it is a tap whose time is known.
    pub occurred: Option<UtcMs>,
}

impl StoredRecord {
    /// What stands beside the bytes and is not what they say. (What an earlier version could not read stays opaque.)
    pub fn contradiction(&self) -> Option<String> {
        let meaning = Meaning::of(&self.bytes);
        let token = match &meaning {
            Meaning::Tap(_, tap) if self.kind != OPAQUE => Some(tap.badge.token),
            _ => None,
        };
        if self.kind != meaning.kind() && self.kind != OPAQUE {
            Some(format!("it is kept as {:?} and its bytes say {}", self.kind, meaning.kind()))
        } else if self.token != token {
            Some("it is delivered under another badge than its bytes say".into())
        } else {
            None
        }
    }
}

/// What a walk comes across.
#[derive(Debug)]
pub enum Walked<'a> {
    /// First: the store's own counters, and how many records will follow.
    Store {
        /// As [`super::EventStore::totals`].
        totals: Totals,
        /// By the marks.
        records: u64,
        /// What is archived, and not here any more.
        archived: Archived,
    },
    /// An outbox; its records follow.
    Outbox {
        /// As stored.
        mark: OutboxMark,
        /// What all its event ids begin with, as stored.
        prefix: [u8; 16],
        /// The controller's record keys.
        record_keys: Vec<PublicKey>,
        /// How far it is archived, and the hash there: its records follow from the next one on.
        archived: (Seq, ChainHash),
    },
    /// A record of that outbox, in the order of seq.
    Record(StoredRecord),
    /// A signature over records of that outbox, right after the last one that it covers.
    Batch(SignedBatch),
    /// After all outboxes, if the whole store is walked: every position that is taken, in order.
    Position(Position),
    /// Something of that outbox, or of the file as a whole, cannot even be read.
    Unreadable(&'a str),
}
