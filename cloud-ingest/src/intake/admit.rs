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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tap_protocol::envelope::{Batch, UnverifiedBatch};
    use tap_protocol::ids::OutboxId;
    use tap_protocol::keys::SigningKey;

    use super::*;

    const OUTBOX: OutboxId = OutboxId([7; 16]);

    /// `h(n)` of an outbox whose records are one byte each.
    fn hash_through(records: &[u8]) -> ChainHash {
        records.iter().fold(ChainHash::start(OUTBOX), |hash, record| hash.next(&[*record]))
    }

    /// The batch of `records[first..]`, as a controller sends it that has all of `records`.
    fn batch(records: &[u8], first_seq: u64) -> VerifiedBatch {
        let (before, sent) = records.split_at(first_seq as usize - 1);
        batch_after(hash_through(before), sent, first_seq)
    }

    fn batch_after(hash_before: ChainHash, records: &[u8], first_seq: u64) -> VerifiedBatch {
        let key = SigningKey::from_seed(&[9; 32]);
        let controller = "hq-door-12".parse().unwrap();
        let message = Batch {
            controller,
            outbox: OUTBOX,
            first_seq: Seq(first_seq),
            hash_before,
            records: records.iter().map(|record| vec![*record]).collect(),
        }
        .sign(&key);
        let parsed = UnverifiedBatch::parse(&message).unwrap();
        parsed.verify(&"hq-door-12".parse().unwrap(), &key.public()).unwrap()
    }

    /// What a store that has `stored` says to `batch`.
    fn admitted(stored: &[u8], batch: &VerifiedBatch) -> Admission {
        let mark = Mark { stored_through: Seq(stored.len() as u64), hash: hash_through(stored) };
        let at = compare_at(mark.stored_through, batch);
        admit(&mark, batch, Some(hash_through(&stored[..at.0 as usize])))
    }

    #[test]
    fn the_first_batch_of_an_outbox_is_stored_from_its_start() {
        assert_eq!(admitted(b"", &batch(b"abc", 1)), Admission::Store { from: Seq(1) });
    }

    #[test]
    fn a_batch_that_continues_the_mark_is_stored() {
        assert_eq!(admitted(b"ab", &batch(b"abcd", 3)), Admission::Store { from: Seq(3) });
    }

    #[test]
    fn an_overlapping_batch_is_stored_from_the_mark_on() {
        assert_eq!(admitted(b"ab", &batch(b"abcd", 1)), Admission::Store { from: Seq(3) });
    }

    #[test]
    fn the_same_batch_again_is_a_duplicate() {
        assert_eq!(admitted(b"abcd", &batch(b"abcd", 3)), Admission::Duplicate);
        assert_eq!(admitted(b"abcd", &batch(b"ab", 1)), Admission::Duplicate);
    }

    #[test]
    fn a_batch_after_a_hole_is_beyond() {
        assert_eq!(admitted(b"ab", &batch(b"abcd", 4)), Admission::Beyond);
        assert_eq!(admitted(b"", &batch(b"ab", 2)), Admission::Beyond);
    }

    #[test]
    fn other_content_below_the_mark_is_a_fork() {
        assert_eq!(admitted(b"abcd", &batch(b"aXc", 2)), Admission::Fork { at: Seq(3) });
    }

    #[test]
    fn a_chain_that_does_not_continue_the_mark_is_a_fork() {
        assert_eq!(admitted(b"ab", &batch(b"aXc", 3)), Admission::Fork { at: Seq(2) });
        let wrong_start = batch_after(ChainHash([0; 32]), b"a", 1);
        assert_eq!(admitted(b"", &wrong_start), Admission::Fork { at: Seq(0) });
    }

    #[test]
    fn an_overlap_that_differs_below_the_mark_is_a_fork_though_it_goes_further() {
        assert_eq!(admitted(b"abc", &batch(b"aXcde", 1)), Admission::Fork { at: Seq(3) });
    }

    #[test]
    fn a_duplicate_whose_hash_is_archived_passes() {
        let mark = Mark { stored_through: Seq(4), hash: hash_through(b"abcd") };
        assert_eq!(admit(&mark, &batch(b"ab", 1), None), Admission::Duplicate);
    }

    proptest! {
        /// Against the obvious definition, over all ways in which two histories can relate.
        #[test]
        fn admission_is_what_the_two_histories_say(
            stored in prop::collection::vec(0..2u8, 0..6),
            sent in prop::collection::vec(0..2u8, 1..6),
            first in any::<prop::sample::Index>(),
        ) {
            let first_seq = first.index(sent.len()) as u64 + 1;
            let both = stored.len().min(sent.len());
            let expected = if first_seq > stored.len() as u64 + 1 {
                Admission::Beyond
            } else if stored[..both] != sent[..both] {
                Admission::Fork { at: Seq(both as u64) }
            } else if sent.len() <= stored.len() {
                Admission::Duplicate
            } else {
                Admission::Store { from: Seq(stored.len() as u64 + 1) }
            };
            prop_assert_eq!(admitted(&stored, &batch(&sent, first_seq)), expected);
        }
    }
}
