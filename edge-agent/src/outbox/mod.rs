//! Step 3 of 12: the outbox. A record that [`Outbox::append`] returned is on the medium: that is what *accepted* means.
//!
//! One SQLite file is one outbox: an id, records 1, 2, 3 … with their chain hashes, and a mark. This type is blocking
//! and owns its connection; [`worker`] gives it a thread. It knows nothing of cards, brokers or time.
//!
//! What is deliberately absent: any way to change or reorder a record, and any deletion that a receipt did not cover.

use std::path::{Path, PathBuf};

use medium::Medium;
use rusqlite::{Connection, OptionalExtension, params};
use tap_protocol::chain::ChainHash;
use tap_protocol::ids::{BootId, ControllerId, OutboxId, Seq, StoreEpoch};
use tap_protocol::limits::{MAX_BATCH_RECORD_BYTES, MAX_BATCH_RECORDS};

use crate::relay::Mark;

pub mod medium;
pub mod shelf;
pub mod worker;

/// "TAPo": tells an outbox from any other SQLite file.
const APPLICATION_ID: i32 = 0x5441_506f;
const SCHEMA_VERSION: i32 = 1;
const SCHEMA: &str = include_str!("schema.sql");

/// Bytes of a database page. See `schema.sql`.
const PAGE_BYTES: u32 = 1024;

/// The log is checkpointed into the file at this many pages, and cut back to this size.
const WAL_PAGES: u32 = 1000;

/// What a new outbox's file ends in until it is whole.
const DRAFT: &str = "draft";

/// SQLite's page cache, KiB: enough for appending and for reading a batch.
const CACHE_KIB: i32 = 256;

/// One outbox, open.
#[derive(Debug)]
pub struct Outbox {
    db: Connection,
    path: PathBuf,
    id: OutboxId,
    controller: ControllerId,
    machine: Vec<u8>,
    ordinal: u32,
    /// The last record on the medium and its hash.
    last: (Seq, ChainHash),
    /// The last record that was deleted and its hash: where the chain of what is left begins.
    pruned: (Seq, ChainHash),
    mark: Mark,
    /// `mark` differs from what is on the medium.
    mark_is_dirty: bool,
    stopped_cleanly: bool,
    continues: Option<OutboxId>,
    /// The log holds nothing that was there before it was opened. See [`Outbox::settle_log`].
    log_is_settled: bool,
}

/// Consecutive records as they are on the medium.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// The first record's number.
    pub first_seq: Seq,
    /// `h(first_seq − 1)`.
    pub hash_before: ChainHash,
    /// The records' bytes.
    pub records: Vec<Vec<u8>>,
}

impl Outbox {
    /// Makes a new, empty outbox. The file must not be there yet.
    pub fn create(
        medium: &dyn Medium,
        path: &Path,
        id: OutboxId,
        controller: &ControllerId,
        machine: &[u8],
        ordinal: u32,
    ) -> Result<Outbox, OutboxError> {
        let at = |source| OutboxError::Create { path: path.to_owned(), source };
        // Under another name until it is whole: a power cut in between must not leave a file that is taken for an outbox.
        let draft = path.with_extension(DRAFT);
        let folder_error = |source| OutboxError::Folder { path: draft.clone(), source };
        medium.create_new(&draft).map_err(folder_error)?;
        let mut db = medium::open(medium, &draft).map_err(at)?;
        db.pragma_update(None, "page_size", PAGE_BYTES).map_err(at)?;
        db.pragma_update(None, "journal_mode", "wal").map_err(at)?;
        db.pragma_update(None, "synchronous", "full").map_err(at)?;
        let first = db.transaction().map_err(at)?;
        first.execute_batch(SCHEMA).map_err(at)?;
        first
            .execute(
                "INSERT INTO outbox (only_row, outbox_id, controller, machine, ordinal, pruned_hash) VALUES (1, ?1, ?2, ?3, ?4, ?5)",
                params![id.0, controller.as_str(), machine, ordinal, ChainHash::start(id).0],
            )
            .map_err(at)?;
        first.pragma_update(None, "application_id", APPLICATION_ID).map_err(at)?;
        first.pragma_update(None, "user_version", SCHEMA_VERSION).map_err(at)?;
        first.commit().map_err(at)?;
        // Closing would do that too, and would not tell if it failed: only the file gets the new name, not its log.
        checkpoint(&db).map_err(at)?;
        db.close().map_err(|(_, source)| at(source))?;
        medium.sync_file(&draft).and_then(|()| medium.rename(&draft, path)).map_err(folder_error)?;
        // Makes the new name itself durable.
        let folder = medium::parent(path);
        medium
            .sync_folder(folder)
            .map_err(|source| OutboxError::Folder { path: folder.to_owned(), source })?;
        Outbox::open(medium, path)
    }

    /// Opens an outbox and makes sure that commits to it are durable.
    pub fn open(medium: &dyn Medium, path: &Path) -> Result<Outbox, OutboxError> {
        let at = |source| OutboxError::Open { path: path.to_owned(), source };
        let db = medium::open(medium, path).map_err(at)?;
        configure(&db, path)?;
        check_version(&db, path)?;

        type Row = ([u8; 16], String, Vec<u8>, u32, u64, [u8; 32], u64, Option<u64>, bool, Option<[u8; 16]>);
        let row: Row = db
            .query_row(
                "SELECT outbox_id, controller, machine, ordinal, pruned_through, pruned_hash, receipted_through, store_epoch, stopped_cleanly, continues FROM outbox",
                [],
                |row| row.try_into(),
            )
            .map_err(at)?;
        let (
            id,
            controller,
            machine,
            ordinal,
            pruned,
            pruned_hash,
            receipted,
            epoch,
            stopped_cleanly,
            continues,
        ) = row;
        let id = OutboxId(id);
        let controller =
            controller.parse().map_err(|_| OutboxError::NotAnOutbox { path: path.to_owned() })?;
        let pruned = (Seq(pruned), ChainHash(pruned_hash));
        let newest: Option<(u64, [u8; 32])> = db
            .query_row("SELECT seq, hash FROM record ORDER BY seq DESC LIMIT 1", [], |row| row.try_into())
            .optional()
            .map_err(at)?;
        let last = newest.map_or(pruned, |(seq, hash)| (Seq(seq), ChainHash(hash)));
        let mark = Mark { receipted_through: Seq(receipted), store_epoch: epoch.map(StoreEpoch) };
        // Our own invariant: whatever is lost on the way to a receipt was never pruned.
        assert!(pruned.0 <= mark.receipted_through, "{}: pruned beyond the receipts", path.display());
        let path = path.to_owned();
        let mark_is_dirty = false;
        let continues = continues.map(OutboxId);
        Ok(Outbox {
            db,
            path,
            id,
            controller,
            machine,
            ordinal,
            last,
            pruned,
            mark,
            mark_is_dirty,
            stopped_cleanly,
            continues,
            log_is_settled: false,
        })
    }

    /// Which outbox.
    pub fn id(&self) -> OutboxId {
        self.id
    }

    /// Whose.
    pub fn controller(&self) -> &ControllerId {
        &self.controller
    }

    /// What it was pinned to when it was made.
    pub fn machine(&self) -> &[u8] {
        &self.machine
    }

    /// 1, 2, 3 … per controller.
    pub fn ordinal(&self) -> u32 {
        self.ordinal
    }

    /// The last record on the medium; zero before the first.
    pub fn last_seq(&self) -> Seq {
        self.last.0
    }

    /// How far receipts go.
    pub fn mark(&self) -> Mark {
        self.mark
    }

    /// The last record that was deleted.
    pub fn pruned_through(&self) -> Seq {
        self.pruned.0
    }

    /// Whether the last run ended as it was asked to.
    pub fn stopped_cleanly(&self) -> bool {
        self.stopped_cleanly
    }

    /// The rewound outbox that this one says again, if any: it is not sent any more.
    pub fn continues(&self) -> Option<OutboxId> {
        self.continues
    }

    /// Writes the records in one transaction and returns the number of the first. When this returns, all of them are
    /// on the medium; if it fails, none is there.
    pub fn append(&mut self, records: &[Vec<u8>]) -> Result<Seq, OutboxError> {
        let mut all = Some(records.to_vec());
        self.write(None, || Ok(all.take()))
    }

    /// Writes everything that `next` gives, until it gives nothing more, and that this outbox says `old` again: in one
    /// transaction, so that a power cut leaves either all of it or nothing.
    pub fn append_continuing(
        &mut self,
        old: OutboxId,
        next: impl FnMut() -> Result<Option<Vec<Vec<u8>>>, OutboxError>,
    ) -> Result<Seq, OutboxError> {
        self.write(Some(old), next)
    }

    fn write(
        &mut self,
        continues: Option<OutboxId>,
        mut next: impl FnMut() -> Result<Option<Vec<Vec<u8>>>, OutboxError>,
    ) -> Result<Seq, OutboxError> {
        let at = |source| OutboxError::Append { source };
        self.settle_log().map_err(at)?;
        let (mut seq, mut hash) = self.last;
        let first = seq.next();
        let transaction =
            self.db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).map_err(at)?;
        {
            let mut insert = transaction
                .prepare_cached("INSERT INTO record (seq, hash, bytes) VALUES (?1, ?2, ?3)")
                .map_err(at)?;
            while let Some(records) = next()? {
                for bytes in &records {
                    seq = seq.next();
                    hash = hash.next(bytes);
                    insert.execute(params![seq.0, hash.0, bytes]).map_err(at)?;
                }
            }
        }
        if let Some(old) = continues {
            transaction.execute("UPDATE outbox SET continues = ?1", [old.0]).map_err(at)?;
        }
        transaction.commit().map_err(at)?;
        self.last = (seq, hash);
        self.continues = continues.or(self.continues);
        Ok(first)
    }

    /// Up to a batch of records from `from` on; fewer at the end, none behind it.
    pub fn read(&self, from: Seq) -> Result<Chunk, OutboxError> {
        let at = |source| OutboxError::Read { source };
        if from <= self.pruned.0 {
            return Err(OutboxError::Hole { at: from });
        }
        let before = Seq(from.0 - 1);
        let hash_before = self.hash_at(before)?.ok_or(OutboxError::Hole { at: before })?;
        let mut rows = self
            .db
            .prepare_cached("SELECT seq, bytes FROM record WHERE seq >= ?1 ORDER BY seq LIMIT ?2")
            .map_err(at)?;
        let mut rows = rows.query(params![from.0, MAX_BATCH_RECORDS]).map_err(at)?;
        let (mut records, mut bytes_total, mut expected) = (Vec::new(), 0, from);
        while let Some(row) = rows.next().map_err(at)? {
            let seq = Seq(row.get(0).map_err(at)?);
            let bytes: Vec<u8> = row.get(1).map_err(at)?;
            if seq != expected {
                return Err(OutboxError::Hole { at: expected });
            }
            bytes_total += bytes.len();
            if bytes_total > MAX_BATCH_RECORD_BYTES {
                break;
            }
            records.push(bytes);
            expected = expected.next();
        }
        Ok(Chunk { first_seq: from, hash_before, records })
    }

    /// `h(seq)`, where it is still known: not below what was pruned, not above the last record.
    pub fn hash_at(&self, seq: Seq) -> Result<Option<ChainHash>, OutboxError> {
        if seq == self.last.0 {
            return Ok(Some(self.last.1));
        }
        if seq == self.pruned.0 {
            return Ok(Some(self.pruned.1));
        }
        let hash: Option<[u8; 32]> = self
            .db
            .prepare_cached("SELECT hash FROM record WHERE seq = ?1")
            .and_then(|mut query| query.query_row([seq.0], |row| row.get(0)).optional())
            .map_err(|source| OutboxError::Read { source })?;
        Ok(hash.map(ChainHash))
    }

    /// Notes how far receipts go. Kept in memory until the next [`Outbox::flush_mark`]: a mark that is lost in a power
    /// cut only means that some records are sent once more, and a write per receipt would double an SD card's wear.
    pub fn set_mark(&mut self, mark: Mark) {
        assert!(mark.receipted_through <= self.last.0, "a receipt for records that were never written");
        // The cloud was restored to before what is still here: what is gone cannot be sent again, and the mark says so.
        if mark.receipted_through < self.pruned.0 {
            return;
        }
        self.mark_is_dirty |= mark != self.mark;
        self.mark = mark;
    }

    /// Writes the mark to the medium if it changed.
    pub fn flush_mark(&mut self) -> Result<(), OutboxError> {
        if self.mark_is_dirty {
            self.settle_log().map_err(|source| OutboxError::Mark { source })?;
            self.db
                .prepare_cached("UPDATE outbox SET receipted_through = ?1, store_epoch = ?2")
                .and_then(|mut update| {
                    update.execute(params![
                        self.mark.receipted_through.0,
                        self.mark.store_epoch.map(|epoch| epoch.0)
                    ])
                })
                .map_err(|source| OutboxError::Mark { source })?;
            self.mark_is_dirty = false;
        }
        Ok(())
    }

    /// Deletes records 1 ..= `through`, at most `limit` of them, and keeps the hash that the rest hangs on. Only what a
    /// receipt covered can go. Returns how many went.
    pub fn prune(&mut self, through: Seq, limit: u32) -> Result<u32, OutboxError> {
        let at = |source| OutboxError::Prune { source };
        let through = through.min(self.mark.receipted_through).min(self.pruned.0.plus(limit.into()));
        if through <= self.pruned.0 {
            return Ok(0);
        }
        let hash = self.hash_at(through)?.ok_or(OutboxError::Hole { at: through })?;
        self.settle_log().map_err(at)?;
        let transaction =
            self.db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).map_err(at)?;
        let gone = transaction.execute("DELETE FROM record WHERE seq <= ?1", [through.0]).map_err(at)?;
        transaction
            .execute(
                "UPDATE outbox SET pruned_through = ?1, pruned_hash = ?2, receipted_through = ?3, store_epoch = ?4",
                params![
                    through.0,
                    hash.0,
                    self.mark.receipted_through.0,
                    self.mark.store_epoch.map(|epoch| epoch.0)
                ],
            )
            .map_err(at)?;
        transaction.commit().map_err(at)?;
        self.pruned = (through, hash);
        self.mark_is_dirty = false;
        Ok(u32::try_from(gone).unwrap_or(u32::MAX))
    }

    /// The number that stands for `boot_id` in this outbox's stamps, minted at the first sight of a boot.
    pub fn boot_number(&mut self, boot_id: BootId) -> Result<u32, OutboxError> {
        let at = |source| OutboxError::Mark { source };
        self.settle_log().map_err(at)?;
        let known = self
            .db
            .query_row("SELECT boot FROM boot WHERE boot_id = ?1", [boot_id.0], |row| row.get(0))
            .optional()
            .map_err(at)?;
        match known {
            Some(boot) => Ok(boot),
            None => {
                // A row of RETURNING comes before its commit: by itself, a commit that fails behind it is told to nobody.
                let transaction = self.db.transaction().map_err(at)?;
                let boot = transaction
                    .query_row("INSERT INTO boot (boot_id) VALUES (?1) RETURNING boot", [boot_id.0], |row| {
                        row.get(0)
                    })
                    .map_err(at)?;
                transaction.commit().map_err(at)?;
                Ok(boot)
            }
        }
    }

    /// All boots in the order in which they were: the numbers in this outbox's stamps and what they stand for.
    pub fn boots(&self) -> Result<Vec<(u32, BootId)>, OutboxError> {
        let at = |source| OutboxError::Read { source };
        let mut rows = self.db.prepare("SELECT boot, boot_id FROM boot ORDER BY boot").map_err(at)?;
        let boots = rows.query_map([], |row| Ok((row.get(0)?, BootId(row.get(1)?)))).map_err(at)?;
        boots.collect::<Result<_, _>>().map_err(at)
    }

    /// Notes that a run begins (`false`) or ends as it was asked to (`true`).
    pub fn set_stopped_cleanly(&mut self, cleanly: bool) -> Result<(), OutboxError> {
        let at = |source| OutboxError::Mark { source };
        self.settle_log().map_err(at)?;
        self.db.execute("UPDATE outbox SET stopped_cleanly = ?1", [cleanly]).map_err(at)?;
        self.stopped_cleanly = cleanly;
        Ok(())
    }

    /// Commits the next record's place and that it is empty again: the same pages are written and synced as for a record,
    /// and nothing has changed. (An update to the same value would not do: SQLite sees that and writes nothing.)
    pub fn try_write(&mut self) -> Result<(), OutboxError> {
        let at = |source| OutboxError::Append { source };
        self.settle_log().map_err(at)?;
        let next = self.last.0.next();
        let transaction =
            self.db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).map_err(at)?;
        transaction
            .execute("INSERT INTO record (seq, hash, bytes) VALUES (?1, x'', x'')", [next.0])
            .and_then(|_| transaction.execute("DELETE FROM record WHERE seq = ?1", [next.0]))
            .map_err(at)?;
        transaction.commit().map_err(at)
    }

    /// Before the first write: brings what the run before left in the log into the file, and begins the log anew.
    ///
    /// If a sync failed in that run, Linux reported it once and takes those pages for clean. They are read from its cache
    /// as if they were on the medium, and a later sync does not write them. A record behind them in the log would be
    /// accepted and gone after a power cut. Copied into the file they are written again.
    fn settle_log(&mut self) -> rusqlite::Result<()> {
        if !self.log_is_settled {
            checkpoint(&self.db)?;
            self.log_is_settled = true;
        }
        Ok(())
    }

    /// Bytes of the file in use, its log not counted.
    pub fn used_bytes(&self) -> Result<u64, OutboxError> {
        let pragma = |name: &str| -> rusqlite::Result<u64> {
            self.db.pragma_query_value(None, name, |row| row.get(0))
        };
        let pages = pragma("page_count").and_then(|all| Ok(all - pragma("freelist_count")?));
        Ok(pages.map_err(|source| OutboxError::Read { source })? * u64::from(PAGE_BYTES))
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Brings the whole log into the file and empties it.
fn checkpoint(db: &Connection) -> rusqlite::Result<()> {
    let is_busy: bool = db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
    if is_busy {
        let busy = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY);
        return Err(rusqlite::Error::SqliteFailure(busy, None));
    }
    Ok(())
}

/// Sets what durability rests on, and reads it back: a setting that did not take is an error, not a hope.
fn configure(db: &Connection, path: &Path) -> Result<(), OutboxError> {
    let at = |source| OutboxError::Open { path: path.to_owned(), source };
    db.pragma_update(None, "journal_mode", "wal").map_err(at)?;
    db.pragma_update(None, "synchronous", "full").map_err(at)?;
    db.pragma_update(None, "cache_size", -CACHE_KIB).map_err(at)?;
    db.pragma_update(None, "wal_autocheckpoint", WAL_PAGES).map_err(at)?;
    db.pragma_update(None, "journal_size_limit", i64::from(WAL_PAGES) * i64::from(PAGE_BYTES)).map_err(at)?;
    db.pragma_update(None, "temp_store", "memory").map_err(at)?;
    db.busy_timeout(std::time::Duration::from_secs(5)).map_err(at)?;
    let journal: String = db.pragma_query_value(None, "journal_mode", |row| row.get(0)).map_err(at)?;
    let synchronous: i64 = db.pragma_query_value(None, "synchronous", |row| row.get(0)).map_err(at)?;
    const FULL: i64 = 2;
    if journal != "wal" || synchronous != FULL {
        return Err(OutboxError::NotDurable { path: path.to_owned(), journal, synchronous });
    }
    Ok(())
}

fn check_version(db: &Connection, path: &Path) -> Result<(), OutboxError> {
    let pragma =
        |name: &str| -> rusqlite::Result<i32> { db.pragma_query_value(None, name, |row| row.get(0)) };
    let at = |source| OutboxError::Open { path: path.to_owned(), source };
    if pragma("application_id").map_err(at)? != APPLICATION_ID {
        return Err(OutboxError::NotAnOutbox { path: path.to_owned() });
    }
    match pragma("user_version").map_err(at)? {
        SCHEMA_VERSION => Ok(()),
        version => Err(OutboxError::UnknownVersion { path: path.to_owned(), version }),
    }
}

/// What an outbox could not do.
#[derive(Debug, thiserror::Error)]
pub enum OutboxError {
    /// No new file.
    #[error("cannot create the outbox {}", path.display())]
    Create {
        /// Which.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// The file cannot be opened or read.
    #[error("cannot open the outbox {}", path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// Some other SQLite file.
    #[error("{} is not an outbox", path.display())]
    NotAnOutbox {
        /// Which.
        path: PathBuf,
    },
    /// Written by a newer agent.
    #[error("the outbox {} has version {version}; this agent knows version {SCHEMA_VERSION}: install the newer agent again", path.display())]
    UnknownVersion {
        /// Which.
        path: PathBuf,
        /// Which version it has.
        version: i32,
    },
    /// SQLite would not promise durability.
    #[error("commits to {} would not be durable (journal_mode {journal}, synchronous {synchronous}): green would be a lie", path.display())]
    NotDurable {
        /// Which.
        path: PathBuf,
        /// What `journal_mode` read back as.
        journal: String,
        /// What `synchronous` read back as.
        synchronous: i64,
    },
    /// The folder of the outboxes, or a file in it, cannot be used.
    #[error("cannot use {}", path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// No record was written.
    #[error("cannot write to the outbox")]
    Append {
        /// Why.
        source: rusqlite::Error,
    },
    /// Records cannot be read.
    #[error("cannot read from the outbox")]
    Read {
        /// Why.
        source: rusqlite::Error,
    },
    /// A record that must be there is not.
    #[error("record {at} of the outbox is missing")]
    Hole {
        /// Which.
        at: Seq,
    },
    /// Something beside the records could not be written.
    #[error("cannot write the outbox's own row")]
    Mark {
        /// Why.
        source: rusqlite::Error,
    },
    /// Receipted records could not be deleted.
    #[error("cannot prune the outbox")]
    Prune {
        /// Why.
        source: rusqlite::Error,
    },
}

#[cfg(test)]
mod tests {
    use super::medium::Disk;
    use super::*;

    fn new_outbox(folder: &Path) -> Outbox {
        Outbox::create(
            &Disk,
            &folder.join("a.outbox"),
            OutboxId([7; 16]),
            &"hq-door-1".parse().unwrap(),
            b"this",
            1,
        )
        .unwrap()
    }

    fn records(range: std::ops::RangeInclusive<u64>) -> Vec<Vec<u8>> {
        range.map(|n| format!("record {n}").into_bytes()).collect()
    }

    #[test]
    fn records_are_numbered_without_a_gap_and_chained() {
        let folder = tempfile::tempdir().unwrap();
        let mut outbox = new_outbox(folder.path());
        assert_eq!(outbox.append(&records(1..=2)).unwrap(), Seq(1));
        assert_eq!(outbox.append(&records(3..=3)).unwrap(), Seq(3));
        let chunk = outbox.read(Seq(1)).unwrap();
        assert_eq!(chunk.records, records(1..=3));
        assert_eq!(chunk.hash_before, ChainHash::start(OutboxId([7; 16])));
        let folded = chunk.records.iter().fold(chunk.hash_before, |hash, bytes| hash.next(bytes));
        assert_eq!(outbox.hash_at(Seq(3)).unwrap(), Some(folded));
        assert_eq!(outbox.hash_at(Seq(4)).unwrap(), None);
    }

    #[test]
    fn what_was_appended_is_there_after_reopening() {
        let folder = tempfile::tempdir().unwrap();
        let mut outbox = new_outbox(folder.path());
        outbox.append(&records(1..=300)).unwrap();
        let (path, last) = (outbox.path().to_owned(), outbox.last);
        std::mem::forget(outbox); // as a kill would
        let reopened = Outbox::open(&Disk, &path).unwrap();
        assert_eq!(reopened.last, last);
        assert_eq!(reopened.read(Seq(290)).unwrap().records, records(290..=300));
    }

    #[test]
    fn a_chunk_is_no_larger_than_a_batch() {
        let folder = tempfile::tempdir().unwrap();
        let mut outbox = new_outbox(folder.path());
        outbox.append(&records(1..=300)).unwrap();
        outbox.append(&vec![vec![0; 1000]; 40]).unwrap();
        assert_eq!(outbox.read(Seq(1)).unwrap().records.len(), MAX_BATCH_RECORDS);
        assert_eq!(outbox.read(Seq(301)).unwrap().records.len(), MAX_BATCH_RECORD_BYTES / 1000);
        assert_eq!(outbox.read(Seq(341)).unwrap().records.len(), 0);
    }

    #[test]
    fn only_what_a_receipt_covered_can_be_pruned_and_the_chain_holds() {
        let folder = tempfile::tempdir().unwrap();
        let mut outbox = new_outbox(folder.path());
        outbox.append(&records(1..=10)).unwrap();
        let at_four = outbox.hash_at(Seq(4)).unwrap();
        assert_eq!(outbox.prune(Seq(10), 100).unwrap(), 0, "no receipt, no pruning");
        outbox.set_mark(Mark { receipted_through: Seq(4), store_epoch: Some(StoreEpoch(1)) });
        assert_eq!(outbox.prune(Seq(10), 3).unwrap(), 3);
        assert_eq!(outbox.prune(Seq(10), 100).unwrap(), 1);
        assert_eq!(outbox.read(Seq(5)).unwrap().records, records(5..=10));

        let path = outbox.path().to_owned();
        drop(outbox);
        let mut reopened = Outbox::open(&Disk, &path).unwrap();
        assert_eq!(reopened.mark(), Mark { receipted_through: Seq(4), store_epoch: Some(StoreEpoch(1)) });
        assert_eq!(reopened.hash_at(Seq(4)).unwrap(), at_four);
        assert_eq!(reopened.hash_at(Seq(3)).unwrap(), None);
        assert_eq!(reopened.append(&records(11..=11)).unwrap(), Seq(11));
    }

    #[test]
    fn an_outbox_pruned_to_the_end_counts_on() {
        let folder = tempfile::tempdir().unwrap();
        let mut outbox = new_outbox(folder.path());
        outbox.append(&records(1..=3)).unwrap();
        outbox.set_mark(Mark { receipted_through: Seq(3), store_epoch: None });
        outbox.prune(Seq(3), 100).unwrap();
        let (path, last) = (outbox.path().to_owned(), outbox.last);
        drop(outbox);
        let mut reopened = Outbox::open(&Disk, &path).unwrap();
        assert_eq!(reopened.last, last);
        assert_eq!(reopened.append(&records(4..=4)).unwrap(), Seq(4));
    }

    #[test]
    fn a_mark_never_falls_below_what_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let mut outbox = new_outbox(folder.path());
        outbox.append(&records(1..=10)).unwrap();
        outbox.set_mark(Mark { receipted_through: Seq(8), store_epoch: Some(StoreEpoch(1)) });
        outbox.prune(Seq(6), 100).unwrap();
        outbox.set_mark(Mark { receipted_through: Seq(5), store_epoch: Some(StoreEpoch(2)) });
        assert!(matches!(outbox.read(Seq(6)), Err(OutboxError::Hole { at: Seq(6) })));
        outbox.flush_mark().unwrap();
        let path = outbox.path().to_owned();
        drop(outbox);
        assert_eq!(Outbox::open(&Disk, &path).unwrap().mark().receipted_through, Seq(8));
    }

    #[test]
    fn a_trial_write_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut outbox = new_outbox(folder.path());
        outbox.append(&records(1..=3)).unwrap();
        outbox.try_write().unwrap();
        assert_eq!(outbox.append(&records(4..=4)).unwrap(), Seq(4));
        assert_eq!(outbox.read(Seq(1)).unwrap().records, records(1..=4));
    }

    #[test]
    fn a_boot_keeps_its_number() {
        let folder = tempfile::tempdir().unwrap();
        let mut outbox = new_outbox(folder.path());
        assert_eq!(outbox.boot_number(BootId([1; 16])).unwrap(), 1);
        assert_eq!(outbox.boot_number(BootId([2; 16])).unwrap(), 2);
        assert_eq!(outbox.boot_number(BootId([1; 16])).unwrap(), 1);
    }

    /// 3.51.3 mends the WAL-reset bug that could lose committed transactions.
    #[test]
    fn the_sqlite_inside_is_new_enough() {
        assert!(rusqlite::version_number() >= 3_051_003, "SQLite {}", rusqlite::version());
    }

    #[test]
    fn other_files_and_newer_versions_are_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let other = folder.path().join("other.sqlite");
        Connection::open(&other).unwrap().execute_batch("CREATE TABLE t (a)").unwrap();
        assert!(matches!(Outbox::open(&Disk, &other), Err(OutboxError::NotAnOutbox { .. })));

        let outbox = new_outbox(folder.path());
        outbox.db.pragma_update(None, "user_version", 2).unwrap();
        let path = outbox.path().to_owned();
        drop(outbox);
        assert!(matches!(Outbox::open(&Disk, &path), Err(OutboxError::UnknownVersion { version: 2, .. })));
    }

    #[test]
    fn a_full_commit_is_what_is_set() {
        let folder = tempfile::tempdir().unwrap();
        let outbox = new_outbox(folder.path());
        let full: i64 = outbox.db.pragma_query_value(None, "synchronous", |row| row.get(0)).unwrap();
        assert_eq!(full, 2);
        outbox.db.pragma_update(None, "journal_mode", "delete").unwrap();
        outbox.db.pragma_update(None, "synchronous", "normal").unwrap();
        configure(&outbox.db, outbox.path()).unwrap();
        let full: i64 = outbox.db.pragma_query_value(None, "synchronous", |row| row.get(0)).unwrap();
        assert_eq!(full, 2, "opening sets it again, whatever was there");
    }
}
