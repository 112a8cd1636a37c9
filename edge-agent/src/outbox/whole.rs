//! Beside the line: whether an outbox is what was written, all of it: for `edge-agent outbox verify`. Reads alone.

use rusqlite::params;
use tap_protocol::chain::ChainHash;
use tap_protocol::ids::Seq;

use super::head::record_check;
use super::{Outbox, OutboxError};

/// What holds of an outbox in which nothing is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Whole {
    /// The chain is proved from the record after this one on: earlier ones are deleted. 0: from the first record on.
    pub after: Seq,
    /// The last record.
    pub last: Seq,
    /// `h(last)`: stands for all of them.
    pub hash: ChainHash,
}

impl Outbox {
    /// Proves up to `limit` records from `from` on: each continues the chain, and each row's own check holds. Returns where
    /// to go on, if there is more.
    pub fn prove(&self, from: Seq, limit: usize) -> Result<Option<Seq>, OutboxError> {
        let first = from.max(self.pruned_through().next());
        let next = self.check(from, limit)?;
        let at = |source| OutboxError::Read { source };
        let mut rows = self
            .db
            .prepare_cached(
                "SELECT seq, hash, bytes, own_check FROM record WHERE seq >= ?1 ORDER BY seq LIMIT ?2",
            )
            .map_err(at)?;
        let mut rows = rows.query(params![first.0, limit]).map_err(at)?;
        while let Some(row) = rows.next().map_err(at)? {
            let (seq, hash): (u64, [u8; 32]) = (row.get(0).map_err(at)?, row.get(1).map_err(at)?);
            let bytes: Vec<u8> = row.get(2).map_err(at)?;
            let own_check: Option<i64> = row.get(3).map_err(at)?;
            let is_right = |check| check == record_check(self.id(), Seq(seq), ChainHash(hash), &bytes);
            // Records of the first file version have none: for them the chain is all there is.
            if !own_check.is_none_or(is_right) {
                let what = format!("the check of record {seq} is not the one that was written");
                return Err(OutboxError::Damaged { what });
            }
        }
        Ok(next)
    }

    /// What holds if [`Outbox::prove`] found nothing wrong from the first record to the last.
    pub fn whole(&self) -> Result<Whole, OutboxError> {
        self.boots()?;
        let (last, hash) = self.last;
        Ok(Whole { after: self.pruned_through(), last, hash })
    }
}

#[cfg(test)]
mod tests {
    use super::super::medium::Disk;
    use super::*;
    use tap_protocol::ids::OutboxId;

    fn outbox(folder: &std::path::Path) -> Outbox {
        let path = folder.join("a.outbox");
        let controller = "hq-door-12".parse().unwrap();
        let mut outbox = Outbox::create(&Disk, &path, OutboxId([7; 16]), &controller, b"pi", 1).unwrap();
        outbox.append(&[b"one".to_vec(), b"two".to_vec(), b"three".to_vec()]).unwrap();
        outbox
    }

    /// What is found after the file was changed behind the outbox's back.
    #[track_caller]
    fn check(change: &str, expected: Option<&str>) {
        let folder = tempfile::tempdir().unwrap();
        let outbox = outbox(folder.path());
        outbox.db.execute_batch(change).unwrap();
        let mut from = Some(Seq(1));
        let mut found = None;
        while let (Some(next), None) = (from, &found) {
            match outbox.prove(next, 2) {
                Ok(next) => from = next,
                Err(error) => found = Some(error.to_string()),
            }
        }
        assert_eq!(found.is_some(), expected.is_some(), "{found:?}");
        let found = found.unwrap_or_default();
        assert!(found.contains(expected.unwrap_or_default()), "{found}");
    }

    #[test]
    fn every_part_of_a_row_is_proved() {
        check("", None);
        check("UPDATE record SET bytes = x'00' WHERE seq = 3", Some("record 3 is not the one"));
        check("UPDATE record SET hash = zeroblob(32) WHERE seq = 2", Some("record 2 is not the one"));
        check("UPDATE record SET own_check = own_check + 1 WHERE seq = 1", Some("check of record 1"));
        check("DELETE FROM record WHERE seq = 2", Some(""));
    }

    #[test]
    fn what_holds_is_the_hash_that_stands_for_all_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let outbox = outbox(folder.path());
        let records: [&[u8]; 3] = [b"one", b"two", b"three"];
        let hash = records.iter().fold(ChainHash::start(outbox.id()), |hash, record| hash.next(record));
        assert_eq!(outbox.whole().unwrap(), Whole { after: Seq(0), last: Seq(3), hash });
    }
}
