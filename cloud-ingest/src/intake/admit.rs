//! Step 8 of 12: whether a batch continues its outbox. Pure: knows no store, no broker, no clock.
//!
//! The mark is contiguous by construction, because only `mark + 1` is ever stored; so one comparison of hashes at one
//! place tells a duplicate from a fork, and no index over history is needed.

use tap_protocol::chain::ChainHash;
use tap_protocol::envelope::VerifiedBatch;
use tap_protocol::ids::Seq;

/// How far an outbox is stored, before the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Records 1 ..= this are stored.
    pub stored_through: Seq,
    /// `h(stored_through)`.
    pub hash: ChainHash,
}

/// What is to be done with an authentic batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// Store its records from this one on.
    Store {
        /// `stored_through + 1`.
        from: Seq,
    },
    /// All of it is stored already, with the same content.
    Duplicate,
    /// Something before it is missing: store nothing, answer with the mark.
    Beyond,
    /// It contradicts what is stored: quarantine, alert, answer nothing.
    Fork {
        /// Where both sides have a hash and the hashes differ.
        at: Seq,
    },
}

/// Which place of the outbox must be compared to decide: the last record that both sides have.
pub fn compare_at(mark: Seq, batch: &VerifiedBatch) -> Seq {
    mark.min(batch.last_seq())
}

/// Decides. `stored_hash` is the stored `h(compare_at(…))`; `None` if that record is archived and its hash is no longer
/// at hand (only possible below the mark).
pub fn admit(mark: &Mark, batch: &VerifiedBatch, stored_hash: Option<ChainHash>) -> Admission {
    if batch.first_seq() > mark.stored_through.next() {
        return Admission::Beyond;
    }
    let at = compare_at(mark.stored_through, batch);
    match (stored_hash, batch.hash_at(at)) {
        (Some(stored), Some(claimed)) if stored != claimed => Admission::Fork { at },
        _ if batch.last_seq() <= mark.stored_through => Admission::Duplicate,
        _ => Admission::Store { from: mark.stored_through.next() },
    }
}
