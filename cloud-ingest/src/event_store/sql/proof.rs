//! Step 9 of 12: the signatures that came with stored records, and the walk over all that proves them. Knows no chain and
//! checks nothing: what is damaged is told as it is found.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use tap_protocol::badge::Token;
use tap_protocol::chain::ChainHash;
use tap_protocol::envelope::BatchProof;
use tap_protocol::ids::{ControllerId, OutboxId, Seq, StoreEpoch};
use tap_protocol::keys::PublicKey;

use super::session::{Dialect, Row, Session, all, one};
use super::values::capped;
use super::writing::{Writing, counters};
use super::{archive, reading, statements as sql};
use crate::delivery::limiter;
use crate::event_store::{
    DeadLetter, MAX_DEAD_LETTER_BYTES, OutboxMark, Position, SignedBatch, StoreError, StoredRecord, UtcMs,
    Walked, next_epoch,
};
use crate::telemetry::with_causes;

/// Keeps the signature of a batch of which something was just stored.
pub fn keep(writing: &Writing<'_>, outbox_no: i64, batch: &SignedBatch) -> Result<(), StoreError> {
    let BatchProof { key, signature, message } = &batch.proof;
    let signer_no = writing.signer_no(key.0)?;
    writing.new_batch((outbox_no, batch.last_seq.0, batch.first_seq.0, signer_no, signature, message));
    Ok(())
}

pub fn new_epoch(
    writing: &Writing<'_>,
    heard_of: Option<StoreEpoch>,
    now: UtcMs,
) -> Result<StoreEpoch, StoreError> {
    let before = writing.one(sql::EPOCH, [], |row| row.get(0).map(StoreEpoch))?;
    let before = before.ok_or_else(|| StoreError::broken("the store's counter row is gone"))?;
    let epoch = next_epoch(heard_of.into_iter().fold(before, StoreEpoch::max), now);
    writing.execute(sql::PUT_EPOCH, [epoch.0])?;
    let until = UtcMs(now.0.saturating_add_unsigned(limiter::REMEMBERS_MS));
    let why = "the store was put back from a backup, which does not know of the last minute's calls";
    writing.execute(sql::HOLD_ALL, (limiter::REMEMBERS_MS, until, why))?;
    Ok(epoch)
}

pub fn is_quarantined(snapshot: &dyn Session, letter: &DeadLetter) -> Result<bool, StoreError> {
    let bytes = &letter.bytes[..letter.bytes.len().min(MAX_DEAD_LETTER_BYTES)];
    Ok(one(snapshot, sql::IS_QUARANTINED, (letter.kind.as_ref(), bytes), |_| Ok(()))?.is_some())
}

/// So many rows are read at once.
const ROWS_AT_ONCE: usize = 1_000;

/// Who is told, until no more is wanted.
type Told<'t> = &'t mut dyn FnMut(Walked<'_>) -> ControlFlow<()>;

pub fn walk(snapshot: &dyn Session, only: Option<&ControllerId>, told: Told<'_>) -> Result<(), StoreError> {
    let only = only.map(ControllerId::as_str);
    let records = one(snapshot, sql::RECORDS_MARKED, [only], |row| row.get(0))?.unwrap_or(0);
    let archived = archive::archived(snapshot)?;
    if told(Walked::Store { totals: counters(snapshot, false)?.totals, records, archived }).is_break() {
        return Ok(());
    }
    if only.is_none() && snapshot.dialect() == Dialect::Sqlite {
        let found: Option<String> = one(snapshot, sql::CHECK_FILE, [], |row| row.get(0))?;
        let found = found.filter(|found| found != "ok");
        if found.is_some_and(|found| told(Walked::Unreadable(&found)).is_break()) {
            return Ok(());
        }
    }
    for outbox in all(snapshot, sql::WALKED_OUTBOXES, [only], |row| Ok(WalkedOutbox::read(row)))? {
        let went_on = match outbox {
            Ok(outbox) => outbox.walk(snapshot, told)?,
            Err(error) => told(Walked::Unreadable(&format!("the row of an outbox: {}", with_causes(&error)))),
        };
        if went_on.is_break() {
            return Ok(());
        }
    }
    if only.is_none() {
        let mut after = Position(archived.through);
        loop {
            let page = all(snapshot, sql::WALKED_POSITIONS, (after, ROWS_AT_ONCE), |row| row.get(0))?;
            let Some(last) = page.last() else { break };
            after = *last;
            if page.into_iter().any(|position| told(Walked::Position(position)).is_break()) {
                return Ok(());
            }
        }
    }
    Ok(())
}

struct WalkedOutbox {
    no: i64,
    controller: String,
    id: OutboxId,
    prefix: [u8; 16],
    stored_through: Seq,
    hash: ChainHash,
    controller_no: i64,
    /// How far it is archived, and the hash there.
    archived: (Seq, ChainHash),
}

impl WalkedOutbox {
    fn read(row: &Row<'_>) -> Result<WalkedOutbox, StoreError> {
        let id = OutboxId(row.get(2)?);
        let archived_hash: Option<[u8; 32]> = row.get(8)?;
        Ok(WalkedOutbox {
            no: row.get(0)?,
            controller: row.get(1)?,
            id,
            prefix: row.get(3)?,
            stored_through: Seq(row.get(4)?),
            hash: ChainHash(row.get(5)?),
            controller_no: row.get(6)?,
            archived: (Seq(row.get(7)?), archived_hash.map_or(ChainHash::start(id), ChainHash)),
        })
    }

    /// Its records and its signatures, each signature right after the last record that it covers.
    fn walk(self, snapshot: &dyn Session, told: Told<'_>) -> Result<ControlFlow<()>, StoreError> {
        let mark = OutboxMark {
            controller: reading::controller_id(&self.controller)?,
            outbox: self.id,
            stored_through: self.stored_through,
            hash: self.hash,
        };
        let record_keys = reading::record_keys(snapshot, self.controller_no)?;
        let record_keys = record_keys.into_iter().map(|known| known.key).collect();
        let outbox = Walked::Outbox { mark, prefix: self.prefix, record_keys, archived: self.archived };
        if told(outbox).is_break() {
            return Ok(ControlFlow::Break(()));
        }
        let mut after = self.archived.0.0;
        let mut signatures = Signatures::after(snapshot, self.no, self.archived.0);
        loop {
            let page = all(snapshot, sql::WALKED_RECORDS, (self.no, after, ROWS_AT_ONCE), |row| {
                Ok((row.get::<u64>(1)?, stored_record(row)))
            });
            let page = match page {
                Ok(page) => page,
                Err(error) => {
                    let what = format!("the rows of records: {}", with_causes(&error));
                    if told(Walked::Unreadable(&what)).is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                    break;
                }
            };
            let Some((last, _)) = page.last() else { break };
            after = *last;
            for (seq, record) in page {
                let went_on = match record {
                    Ok(record) => told(Walked::Record(record)),
                    Err(error) => {
                        told(Walked::Unreadable(&format!("the row of a record: {}", with_causes(&error))))
                    }
                };
                if went_on.is_break() || signatures.tell(Seq(seq), told).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
        }
        Ok(signatures.tell(Seq(u64::MAX), told))
    }
}

/// The signatures of an outbox in their order, read a page at a time.
pub(super) struct Signatures<'s> {
    session: &'s dyn Session,
    outbox_no: i64,
    /// Under the seq at which each ends.
    page: VecDeque<(u64, Result<SignedBatch, StoreError>)>,
    after: u64,
}

impl<'s> Signatures<'s> {
    /// Those that end after that record.
    pub(super) fn after(session: &'s dyn Session, outbox_no: i64, after: Seq) -> Signatures<'s> {
        Signatures { session, outbox_no, page: VecDeque::new(), after: after.0 }
    }

    /// Those that end at `through` or before, as long as they can be read.
    pub(super) fn through(&mut self, through: Seq) -> Result<Vec<SignedBatch>, StoreError> {
        let mut batches = Vec::new();
        loop {
            if self.page.is_empty() {
                self.read_on()?;
            }
            if self.page.front().is_none_or(|(last_seq, _)| *last_seq > through.0) {
                return Ok(batches);
            }
            if let Some((_, batch)) = self.page.pop_front() {
                batches.push(batch?);
            }
        }
    }

    /// Tells those that end at `through` or before.
    fn tell(&mut self, through: Seq, told: Told<'_>) -> ControlFlow<()> {
        loop {
            if self.page.is_empty()
                && let Err(error) = self.read_on()
            {
                return told(Walked::Unreadable(&format!("the rows of signatures: {}", with_causes(&error))));
            }
            if self.page.front().is_none_or(|(last_seq, _)| *last_seq > through.0) {
                return ControlFlow::Continue(());
            }
            match self.page.pop_front() {
                None => return ControlFlow::Continue(()),
                Some((_, Ok(batch))) => told(Walked::Batch(batch))?,
                Some((_, Err(error))) => {
                    told(Walked::Unreadable(&format!("the row of a signature: {}", with_causes(&error))))?;
                }
            }
        }
    }

    fn read_on(&mut self) -> Result<(), StoreError> {
        let after = (self.outbox_no, capped(self.after), ROWS_AT_ONCE);
        self.page =
            all(self.session, sql::WALKED_BATCHES, after, |row| Ok((row.get(1)?, signed_batch(row))))?.into();
        // Nothing more is looked for once nothing was found.
        self.after = self.page.back().map_or(u64::MAX, |(last_seq, _)| *last_seq);
        Ok(())
    }
}

pub(super) fn signed_batch(row: &Row<'_>) -> Result<SignedBatch, StoreError> {
    Ok(SignedBatch {
        first_seq: Seq(row.get(0)?),
        last_seq: Seq(row.get(1)?),
        proof: BatchProof { key: PublicKey(row.get(2)?), signature: row.get(3)?, message: row.get(4)? },
    })
}

pub(super) fn stored_record(row: &Row<'_>) -> Result<StoredRecord, StoreError> {
    Ok(StoredRecord {
        position: row.get(0)?,
        seq: Seq(row.get(1)?),
        received: row.get(2)?,
        kind: row.get(3)?,
        bytes: row.get(4)?,
        hash: ChainHash(row.get(5)?),
        token: row.get::<Option<[u8; 16]>>(6)?.map(Token),
        occurred: row.get(7)?,
    })
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;
    use tempfile::TempDir;

    use crate::event_store::contract::world::{self, Door};
    use crate::event_store::sqlite::SqliteStore;
    use crate::event_store::{EventStore, Proof, UtcMs};
    use crate::read_model::audit::Audited;

    const NOW: UtcMs = UtcMs(1_700_000_000_000);

    /// Two doors in turns: outbox 1 has records 1–3, 4–6 and 7–9 under three signatures at positions 1–3, 7–9 and 10–12,
    /// outbox 2 has 1–3 at positions 4–6.
    fn filled() -> (TempDir, SqliteStore) {
        let folder = tempfile::tempdir().unwrap();
        let mut store = SqliteStore::open(&folder.path().join("store.db"), NOW).unwrap();
        store.put_site(&world::hq()).unwrap();
        let (mut one, mut two) = (Door::new(1), Door::new(2));
        for door in [&one, &two] {
            store.put_controller(&world::controller(door.controller.as_str())).unwrap();
        }
        for (door, cards) in [(&mut one, 1..4), (&mut two, 4..7)] {
            cards.for_each(|card| door.tap(card));
            store.append(&[door.unsent()], NOW).unwrap();
        }
        for cards in [7..10, 10..13] {
            cards.for_each(|card| one.tap(card));
            store.append(&[one.unsent()], NOW).unwrap();
        }
        (folder, store)
    }

    fn audit_after(tampering: &str) -> Audited {
        let (folder, mut store) = filled();
        let other = Connection::open(folder.path().join("store.db")).unwrap();
        other.pragma_update(None, "foreign_keys", false).unwrap();
        other.execute_batch(tampering).unwrap();
        world::audit(&mut store)
    }

    /// Controller, seq and sentence of everything that is found after the file was changed behind the store's back.
    #[track_caller]
    fn check(tampering: &str, expected: &[(&str, u64, &str)]) {
        let audited = audit_after(tampering);
        let found = audited.findings.iter().map(|finding| {
            let controller = finding.controller.as_ref().map_or("", |id| id.as_str());
            (controller, finding.seq.unwrap_or(0), finding.what.as_str())
        });
        assert_eq!(found.collect::<Vec<_>>(), expected, "{tampering}");
        assert_eq!((audited.holds, audited.found), (false, expected.len() as u64));
    }

    const ONE: &str = "hq-door-1";
    const NOT_TOGETHER: &str = "its bytes and its hash do not belong together";
    const UNSIGNED: &str = "the signature over records 4 to 6 does not hold: the records are not those that were signed, or the signature was changed";

    #[test]
    fn nothing_is_found_in_what_nobody_touched() {
        let audited = audit_after("");
        assert!(audited.holds, "{audited:#?}");
        assert_eq!((audited.outboxes, audited.records, audited.signatures), (2, 12, 4));
    }

    #[test]
    fn a_changed_byte_of_a_record_is_named_once_and_its_signature_with_it() {
        // The last byte is the verdict: the record stays a tap of the same badge.
        check(
            "UPDATE events SET bytes = CAST(substr(bytes, 1, length(bytes) - 1) || x'01' AS BLOB) WHERE position = 8",
            &[(ONE, 5, NOT_TOGETHER), (ONE, 4, UNSIGNED)],
        );
    }

    #[test]
    fn any_changed_bit_of_a_record_is_found() {
        let (folder, mut store) = filled();
        let other = Connection::open(folder.path().join("store.db")).unwrap();
        let read = "SELECT bytes FROM events WHERE position = 5";
        let bytes: Vec<u8> = other.query_row(read, [], |row| row.get(0)).unwrap();
        let write = "UPDATE events SET bytes = ?1 WHERE position = 5";
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            other.execute(write, [&changed]).unwrap();
            let first = world::audit(&mut store).findings.remove(0);
            assert_eq!((first.controller.unwrap().as_str(), first.seq), ("hq-door-2", Some(2)), "bit {bit}");
        }
        other.execute(write, [&bytes]).unwrap();
        assert!(world::audit(&mut store).holds);
    }

    #[test]
    fn a_changed_hash_is_named_and_the_signature_says_that_the_bytes_are_right() {
        check("UPDATE events SET hash = zeroblob(32) WHERE position = 8", &[(ONE, 5, NOT_TOGETHER)]);
        // At the end of a batch: the next one begins from it.
        check("UPDATE events SET hash = zeroblob(32) WHERE position = 9", &[(ONE, 6, NOT_TOGETHER)]);
    }

    #[test]
    fn a_missing_record_is_named_in_its_outbox_and_by_its_position() {
        check(
            "DELETE FROM deliveries; DELETE FROM taps WHERE position = 8; DELETE FROM events WHERE position = 8",
            &[
                (ONE, 5, "records 5 to 5 are missing"),
                (ONE, 4, "the signature over records 4 to 6 does not hold: not all of them are there"),
                ("", 0, "position 8 of all records is missing"),
                ("", 0, "the store counts 12 records, and there are 11"),
                ("", 0, "the store counts 12 positions given, and there are 11"),
                ("", 0, "the store counts 12 taps, and there are 11"),
            ],
        );
        check(
            "DELETE FROM taps WHERE position = 12; DELETE FROM events WHERE position = 12;
             UPDATE store SET records = 11, taps = 11, last_position = 11",
            &[
                (ONE, 7, "the signature over records 7 to 9 does not hold: not all of them are there"),
                (ONE, 9, "records 9 to 9 are missing: the mark covers them"),
            ],
        );
    }

    #[test]
    fn two_records_that_changed_places_are_named() {
        let swap = |columns: &str| {
            format!(
                "CREATE TEMP TABLE t AS SELECT * FROM events WHERE position IN (7, 8);
                 UPDATE events SET ({columns}) = (SELECT {columns} FROM t WHERE t.position = 15 - events.position)
                 WHERE position IN (7, 8)"
            )
        };
        let badge = "it is delivered under another badge than its bytes say";
        for columns in ["bytes, hash", "bytes"] {
            let audited = audit_after(&swap(columns));
            let first = &audited.findings[0];
            assert_eq!((first.seq, first.what.as_str()), (Some(4), NOT_TOGETHER), "{audited:#?}");
            assert_eq!(audited.findings[1].what, badge);
        }
        // Their seqs alone: the chain is whole, and the order of storing is not.
        let seqs =
            "UPDATE events SET seq = 99 WHERE position = 7; UPDATE events SET seq = 4 WHERE position = 8;
                    UPDATE events SET seq = 5 WHERE position = 7";
        assert_eq!(audit_after(seqs).findings[0].seq, Some(4));
    }

    #[test]
    fn a_changed_mark_is_named() {
        let mark = |set: &str| format!("UPDATE outboxes SET {set} WHERE no = 1");
        check(&mark("stored_through = 8"), &[(ONE, 9, "the mark says 8, and records follow up to 9")]);
        check(
            &mark("stored_through = 11"),
            &[(ONE, 10, "records 10 to 11 are missing: the mark covers them")],
        );
        check(&mark("hash = zeroblob(32)"), &[(ONE, 9, "the mark's hash is not that of its record")]);
        let prefix = "its event ids are looked for under those of another outbox";
        check(&mark("prefix = zeroblob(16)"), &[(ONE, 0, prefix)]);
    }

    #[test]
    fn a_changed_missing_or_foreign_signature_is_named() {
        let signed = |change: &str| format!("{change} WHERE outbox_no = 1 AND last_seq = 6");
        check(&signed("UPDATE batches SET signature = zeroblob(64)"), &[(ONE, 4, UNSIGNED)]);
        check(&signed("DELETE FROM batches"), &[(ONE, 4, "no signature covers records 4 to 6")]);
        check(
            "DELETE FROM batches WHERE outbox_no = 1 AND last_seq = 9",
            &[(ONE, 7, "no signature covers records 7 to 9")],
        );
        let first = &audit_after("UPDATE signers SET key = zeroblob(32)").findings[0];
        assert!(first.what.contains("is no record key of this controller"), "{first:?}");
        let first = &audit_after(&signed("UPDATE batches SET signature = x'00'")).findings[0];
        assert!(first.what.starts_with("cannot be read: the row of a signature"), "{first:?}");
    }

    #[test]
    fn a_kept_message_of_other_records_proves_nothing() {
        let other = "UPDATE batches SET message = x'00' WHERE outbox_no = 1 AND last_seq = 6";
        let first = &audit_after(other).findings[0];
        assert!(first.what.starts_with("the signature over records 4 to 6 does not hold"), "{first:?}");
    }

    #[test]
    fn what_stands_beside_a_record_is_compared_with_it() {
        check(
            "UPDATE taps SET token = zeroblob(16) WHERE position = 8",
            &[(ONE, 5, "it is delivered under another badge than its bytes say")],
        );
        check(
            "UPDATE events SET kind = 'buffer_high' WHERE position = 8",
            &[
                (ONE, 5, "it is kept as \"buffer_high\" and its bytes say tap"),
                ("", 0, "the store counts 12 taps, and there are 11"),
            ],
        );
    }

    #[test]
    fn wrong_totals_are_named() {
        check("UPDATE store SET records = 13", &[("", 0, "the store counts 13 records, and there are 12")]);
        check(
            "DELETE FROM outboxes WHERE no = 2",
            &[
                ("", 0, "the store counts 12 records that belong to an outbox, and there are 9"),
                ("", 0, "the store counts 12 taps, and there are 9"),
            ],
        );
    }

    /// Every page of the file in turn, where SQLite itself may stumble: never a panic, never "it holds" about changed rows.
    #[test]
    fn a_page_that_went_bad_is_an_error_or_a_finding() {
        let (folder, store) = filled();
        drop(store);
        let path = folder.path().join("store.db");
        let whole = std::fs::read(&path).unwrap();
        let mut refused = 0;
        for page in 1..whole.len() / 4096 {
            let mut bad = whole.clone();
            bad[page * 4096..][..4096].fill(0xa5);
            std::fs::write(&path, &bad).unwrap();
            let mut audit = crate::read_model::audit::Audit::default();
            let walked = SqliteStore::open_reader(&path)
                .and_then(|mut store| store.walk(None, &mut |walked| audit.take(walked)));
            assert!(walked.is_err() || !audit.end().holds, "page {page}");
            refused += 1;
        }
        assert!(refused > 20, "{refused} pages");
    }
}
