//! Step 3 of 12: the outbox. A record that [`Outbox::append`] returned is on the medium: that is what *accepted* means.
//!
//! One SQLite file is one outbox: an id, records 1, 2, 3 … with their chain hashes, and a mark. This type is blocking
//! and owns its connection; [`worker`] gives it a thread. It knows nothing of cards, brokers or time.
//!
//! What is deliberately absent: any way to change or reorder a record, and any deletion that a receipt did not cover.

use std::path::{Path, PathBuf};

use head::{Head, boot_check, record_check};
use medium::Medium;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OptionalExtension, params};
use space::{Days, Limits};
use tap_protocol::chain::ChainHash;
use tap_protocol::ids::{BootId, ControllerId, OutboxId, Seq};
use tap_protocol::limits::{MAX_BATCH_RECORD_BYTES, MAX_BATCH_RECORDS};

use crate::relay::Mark;

pub mod carve;
pub mod error;
pub mod export;
pub mod head;
pub mod keeper;
pub mod lock;
pub mod medium;
pub mod mounts;
mod opening;
pub mod salvage;
pub mod say_again;
pub mod shelf;
pub mod space;
pub mod wal;
pub mod whole;
pub mod worker;

pub use error::OutboxError;

/// "TAPo": tells an outbox from any other SQLite file.
const APPLICATION_ID: i32 = 0x5441_506f;
const SCHEMA_VERSION: i32 = 3;
const SCHEMA: &str = include_str!("schema.sql");
const FROM_1_TO_2: &str = include_str!("from_1_to_2.sql");
const FROM_2_TO_3: &str = include_str!("from_2_to_3.sql");

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
    head: Head,
    /// The last record on the medium and its hash.
    last: (Seq, ChainHash),
    /// `head` differs from what is on the medium.
    head_is_dirty: bool,
    /// The log holds nothing but what this run committed. See [`Outbox::settle_log`].
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

impl Chunk {
    /// Leaves out what comes after `last`.
    pub fn end_at(&mut self, last: Seq) {
        let count = (last.0 + 1).saturating_sub(self.first_seq.0);
        self.records.truncate(usize::try_from(count).unwrap_or(usize::MAX));
    }
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
        // Under another name until it is whole: a power cut in between must not leave a file that is taken for an outbox.
        let draft = path.with_extension(DRAFT);
        let made = Outbox::create_as(&draft, medium, path, Head::new(id, controller, machine, ordinal));
        made.inspect_err(|_| {
            // Otherwise a full disk would get one more for each tap that it refuses.
            for leftover in ["", "-journal", "-wal", "-shm"] {
                let _ = medium.remove(&opening::beside(&draft, leftover));
            }
        })?;
        Outbox::open(medium, path)
    }

    fn create_as(draft: &Path, medium: &dyn Medium, path: &Path, head: Head) -> Result<(), OutboxError> {
        let at = |source| OutboxError::Create { path: path.to_owned(), source };
        let folder_error = |source| OutboxError::Folder { path: draft.to_owned(), source };
        medium.create_new(draft).map_err(folder_error)?;
        let mut db = medium::open(medium, draft).map_err(at)?;
        db.pragma_update(None, "page_size", PAGE_BYTES).map_err(at)?;
        db.pragma_update(None, "journal_mode", "wal").map_err(at)?;
        db.pragma_update(None, "synchronous", "full").map_err(at)?;
        let first = db.transaction().map_err(at)?;
        first.execute_batch(SCHEMA).map_err(at)?;
        head.write(&first).map_err(at)?;
        first.pragma_update(None, "application_id", APPLICATION_ID).map_err(at)?;
        first.pragma_update(None, "user_version", SCHEMA_VERSION).map_err(at)?;
        first.commit().map_err(at)?;
        // Closing would do that too, and would not tell if it failed: only the file gets the new name, not its log.
        checkpoint(&db).map_err(at)?;
        db.close().map_err(|(_, source)| at(source))?;
        medium.sync_file(draft).and_then(|()| medium.rename(draft, path)).map_err(folder_error)?;
        // Makes the new name itself durable.
        let folder = medium::parent(path);
        medium.sync_folder(folder).map_err(|source| OutboxError::Folder { path: folder.to_owned(), source })
    }

    /// Opens an outbox to look at it, beside an agent that may be writing to it: nothing is changed, brought to a newer version
    /// or set aside.
    pub fn open_to_read(path: &Path) -> Result<Outbox, OutboxError> {
        let at = |source| OutboxError::Open { path: path.to_owned(), source };
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE | rusqlite::OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut db = Connection::open_with_flags(path, flags).map_err(at)?;
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(at)?;
        db.pragma_update(None, "query_only", true).map_err(at)?;
        db.busy_timeout(std::time::Duration::from_secs(5)).map_err(at)?;
        let head = opening::read_head(&mut db, path)?;
        let last = opening::check_tail(&db, &head)?;
        Ok(Outbox { db, path: path.to_owned(), head, last, head_is_dirty: false, log_is_settled: false })
    }

    /// What SQLite itself finds wrong with the file; nothing if it is fine.
    pub fn quick_check(&self) -> Result<Vec<String>, OutboxError> {
        let at = |source| OutboxError::Read { source };
        let mut rows = self.db.prepare("PRAGMA quick_check").map_err(at)?;
        let found = rows.query_map([], |row| row.get(0)).map_err(at)?;
        let mut found: Vec<String> = found.collect::<Result<_, _>>().map_err(at)?;
        found.retain(|line| line != "ok");
        Ok(found)
    }

    /// Opens an outbox, makes sure that commits to it are durable, and checks what can be checked at once: its log, its own
    /// row, its last records. An error that [`OutboxError::is_damage`] leaves the file as it was.
    pub fn open(medium: &dyn Medium, path: &Path) -> Result<Outbox, OutboxError> {
        let at = |source| OutboxError::Open { path: path.to_owned(), source };
        let log = opening::examine_log(medium, path)?;
        let mut db = medium::open(medium, path).map_err(at)?;
        // Closing brings the log into the file: not into one that turns out to be damaged.
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(at)?;
        opening::configure(&db, path)?;
        let head = opening::read_head(&mut db, path)?;
        let last = opening::check_tail(&db, &head)?;
        if log == wal::Finding::Headless {
            opening::check_headless_log(medium, path, head.id, last.0)?;
        }
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false).map_err(at)?;
        Ok(Outbox { db, path: path.to_owned(), head, last, head_is_dirty: false, log_is_settled: false })
    }

    /// Which outbox.
    pub fn id(&self) -> OutboxId {
        self.head.id
    }

    /// Whose.
    pub fn controller(&self) -> &ControllerId {
        &self.head.controller
    }

    /// What it was pinned to when it was made.
    pub fn machine(&self) -> &[u8] {
        &self.head.machine
    }

    /// 1, 2, 3 … per controller.
    pub fn ordinal(&self) -> u32 {
        self.head.ordinal
    }

    /// The last record on the medium; zero before the first. Of a salvaged outbox with holes: the last that was given, as
    /// far as anybody knows.
    pub fn last_seq(&self) -> Seq {
        if self.head.stage.is_sound() { self.last.0 } else { self.end() }
    }

    /// How far receipts go.
    pub fn mark(&self) -> Mark {
        self.head.mark
    }

    /// The last record that was deleted.
    pub fn pruned_through(&self) -> Seq {
        self.head.pruned.0
    }

    /// Whether the last run ended as it was asked to.
    pub fn stopped_cleanly(&self) -> bool {
        self.head.stopped_cleanly
    }

    /// The outbox whose end this one says again, if any: of that nothing is sent any more from there on.
    pub fn continues(&self) -> Option<OutboxId> {
        self.head.continues
    }

    /// The last record that [`Outbox::continues`] still says itself. Nothing in what version 2 wrote.
    pub fn continues_after(&self) -> Option<Seq> {
        self.head.continues_after
    }

    /// Writes the records in one transaction and returns the number of the first. When this returns, all of them are
    /// on the medium; if it fails, none is there.
    pub fn append(&mut self, records: &[Vec<u8>]) -> Result<Seq, OutboxError> {
        let mut all = Some(records.to_vec());
        self.write(None, || Ok(all.take()))
    }

    /// Writes everything that `next` gives, until it gives nothing more, and that this outbox says again what `old` has
    /// after `after`: in one transaction, so that a power cut leaves either all of it or nothing.
    pub fn append_continuing(
        &mut self,
        old: OutboxId,
        after: Seq,
        next: impl FnMut() -> Result<Option<Vec<Vec<u8>>>, OutboxError>,
    ) -> Result<Seq, OutboxError> {
        self.write(Some((old, after)), next)
    }

    fn write(
        &mut self,
        continues: Option<(OutboxId, Seq)>,
        mut next: impl FnMut() -> Result<Option<Vec<Vec<u8>>>, OutboxError>,
    ) -> Result<Seq, OutboxError> {
        let at = |source| OutboxError::Append { source };
        assert!(self.head.stage.is_sound(), "nothing is written behind a hole");
        self.settle_log().map_err(at)?;
        let (mut seq, mut hash) = self.last;
        let first = seq.next();
        let transaction =
            self.db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).map_err(at)?;
        {
            let mut insert = transaction
                .prepare_cached("INSERT INTO record (seq, hash, bytes, own_check) VALUES (?1, ?2, ?3, ?4)")
                .map_err(at)?;
            while let Some(records) = next()? {
                for bytes in &records {
                    seq = seq.next();
                    hash = hash.next(bytes);
                    let check = record_check(self.head.id, seq, hash, bytes);
                    insert.execute(params![seq.0, hash.0, bytes, check]).map_err(at)?;
                }
            }
        }
        let mut head = self.head.clone();
        if let Some((old, after)) = continues {
            (head.continues, head.continues_after) = (Some(old), Some(after));
        }
        if head != self.head {
            head.write(&transaction).map_err(at)?;
        }
        transaction.commit().map_err(at)?;
        self.log_is_settled = true;
        self.last = (seq, hash);
        self.head = head;
        Ok(first)
    }

    /// Up to a batch of records from `from` on; fewer at the end, none behind it. Each is checked against the chain: what
    /// the medium gives back must be what was written.
    pub fn read(&self, from: Seq) -> Result<Chunk, OutboxError> {
        let (mut records, mut bytes_total) = (Vec::new(), 0);
        let hash_before = self.walk(from, MAX_BATCH_RECORDS, |bytes| {
            bytes_total += bytes.len();
            let fits = bytes_total <= MAX_BATCH_RECORD_BYTES;
            if fits {
                records.push(bytes);
            }
            fits
        })?;
        Ok(Chunk { first_seq: from, hash_before, records })
    }

    /// Checks up to `limit` records from `from` on. Returns where to go on, or nothing at the end.
    pub fn check(&self, from: Seq, limit: usize) -> Result<Option<Seq>, OutboxError> {
        let from = from.max(self.head.pruned.0.next());
        let mut next = from;
        self.walk(from, limit, |_| {
            next = next.next();
            true
        })?;
        Ok((next <= self.last.0).then_some(next))
    }

    /// Gives records `from`, `from + 1` … to `take` until that says no, each proved by the chain. Returns `h(from − 1)`.
    fn walk(
        &self,
        from: Seq,
        limit: usize,
        mut take: impl FnMut(Vec<u8>) -> bool,
    ) -> Result<ChainHash, OutboxError> {
        let at = |source| OutboxError::Read { source };
        if from <= self.head.pruned.0 {
            return Err(OutboxError::Hole { at: from });
        }
        let before = Seq(from.0 - 1);
        let hash_before = self.hash_at(before)?.ok_or(OutboxError::Hole { at: before })?;
        let mut rows = self
            .db
            .prepare_cached("SELECT seq, hash, bytes FROM record WHERE seq >= ?1 ORDER BY seq LIMIT ?2")
            .map_err(at)?;
        let mut rows = rows.query(params![from.0, limit]).map_err(at)?;
        let (mut expected, mut hash, mut wants_more) = (from, hash_before, true);
        while let Some(row) = rows.next().map_err(at)? {
            let (seq, stored): (u64, [u8; 32]) = (row.get(0).map_err(at)?, row.get(1).map_err(at)?);
            let bytes: Vec<u8> = row.get(2).map_err(at)?;
            if Seq(seq) != expected {
                return Err(OutboxError::Hole { at: expected });
            }
            hash = hash.next(&bytes);
            if hash.0 != stored {
                return Err(OutboxError::Damaged {
                    what: format!("record {seq} is not the one that was written"),
                });
            }
            wants_more = take(bytes);
            if !wants_more {
                break;
            }
            expected = expected.next();
        }
        let is_short = wants_more && expected <= self.last.0 && expected.0 - from.0 < limit as u64;
        if is_short { Err(OutboxError::Hole { at: expected }) } else { Ok(hash_before) }
    }

    /// `h(seq)`, where it is still known: not below what was pruned, not above the last record.
    pub fn hash_at(&self, seq: Seq) -> Result<Option<ChainHash>, OutboxError> {
        if seq == self.last.0 {
            return Ok(Some(self.last.1));
        }
        if seq == self.head.pruned.0 {
            return Ok(Some(self.head.pruned.1));
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
        if mark.receipted_through < self.head.pruned.0 {
            return;
        }
        self.head_is_dirty |= mark != self.head.mark;
        self.head.mark = mark;
    }

    /// Writes the mark to the medium if it changed, and how far records go.
    pub fn flush_mark(&mut self) -> Result<(), OutboxError> {
        self.head_is_dirty |= self.head.stage.is_sound() && self.head.written_through != self.last.0;
        if self.head_is_dirty {
            let written_through = self.head.written_through.max(self.last.0);
            self.put_head(Head { written_through, ..self.head.clone() })?;
        }
        Ok(())
    }

    fn put_head(&mut self, head: Head) -> Result<(), OutboxError> {
        self.settle_log().map_err(|source| OutboxError::Mark { source })?;
        head.write(&self.db).map_err(|source| OutboxError::Mark { source })?;
        self.log_is_settled = true;
        self.head = head;
        self.head_is_dirty = false;
        Ok(())
    }

    /// Deletes records 1 ..= `through`, at most `limit` of them, and keeps the hash that the rest hangs on. Only what a
    /// receipt covered can go. Returns how many went.
    pub fn prune(&mut self, through: Seq, limit: u32) -> Result<u32, OutboxError> {
        let at = |source| OutboxError::Prune { source };
        let through =
            through.min(self.head.mark.receipted_through).min(self.head.pruned.0.plus(limit.into()));
        if through <= self.head.pruned.0 || !self.head.stage.is_sound() {
            return Ok(0);
        }
        let hash = self.hash_at(through)?.ok_or(OutboxError::Hole { at: through })?;
        let head = Head { pruned: (through, hash), ..self.head.clone() };
        self.settle_log().map_err(at)?;
        let transaction =
            self.db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).map_err(at)?;
        let gone = transaction.execute("DELETE FROM record WHERE seq <= ?1", [through.0]).map_err(at)?;
        head.write(&transaction).map_err(at)?;
        transaction.commit().map_err(at)?;
        self.log_is_settled = true;
        self.head = head;
        self.head_is_dirty = false;
        Ok(u32::try_from(gone).unwrap_or(u32::MAX))
    }

    /// The number that stands for `boot_id` in this outbox's stamps, minted at the first sight of a boot.
    pub fn boot_number(&mut self, boot_id: BootId) -> Result<u32, OutboxError> {
        if let Some((boot, _)) = self.boots()?.into_iter().find(|(_, known)| *known == boot_id) {
            return Ok(boot);
        }
        let at = |source| OutboxError::Mark { source };
        self.settle_log().map_err(at)?;
        let transaction =
            self.db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).map_err(at)?;
        let boot: u32 = transaction
            .query_row("INSERT INTO boot (boot_id) VALUES (?1) RETURNING boot", [boot_id.0], |row| row.get(0))
            .map_err(at)?;
        let check = boot_check(self.head.id, boot, boot_id.0);
        transaction
            .execute("UPDATE boot SET own_check = ?1 WHERE boot = ?2", params![check, boot])
            .map_err(at)?;
        transaction.commit().map_err(at)?;
        self.log_is_settled = true;
        Ok(boot)
    }

    /// All boots in the order in which they were: the numbers in this outbox's stamps and what they stand for.
    pub fn boots(&self) -> Result<Vec<(u32, BootId)>, OutboxError> {
        let at = |source| OutboxError::Read { source };
        let mut rows =
            self.db.prepare("SELECT boot, boot_id, own_check FROM boot ORDER BY boot").map_err(at)?;
        let mut rows = rows.query([]).map_err(at)?;
        let mut boots = Vec::new();
        while let Some(row) = rows.next().map_err(at)? {
            let (boot, boot_id): (u32, [u8; 16]) = (row.get(0).map_err(at)?, row.get(1).map_err(at)?);
            let check: Option<i64> = row.get(2).map_err(at)?;
            if check != Some(boot_check(self.head.id, boot, boot_id)) {
                return Err(OutboxError::Damaged {
                    what: format!("boot {boot} is not the one that was written"),
                });
            }
            boots.push((boot, BootId(boot_id)));
        }
        Ok(boots)
    }

    /// Notes that a run begins (`false`) or ends as it was asked to (`true`).
    pub fn set_stopped_cleanly(&mut self, cleanly: bool) -> Result<(), OutboxError> {
        let written_through = self.head.written_through.max(self.last.0);
        self.put_head(Head { stopped_cleanly: cleanly, written_through, ..self.head.clone() })
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
            .execute("INSERT INTO record (seq, hash, bytes, own_check) VALUES (?1, x'', x'', 0)", [next.0])
            .and_then(|_| transaction.execute("DELETE FROM record WHERE seq = ?1", [next.0]))
            .map_err(at)?;
        transaction.commit().map_err(at)?;
        self.log_is_settled = true;
        Ok(())
    }

    /// Before a write: if this is the run's first or the one before failed, brings what is in the log into the file and
    /// begins the log anew. Each write says at its end that it is settled again.
    ///
    /// If a sync fails, Linux reports it once and takes those pages for clean. A later run reads them from its cache as if
    /// they were on the medium, and later syncs do not write them: a record behind them in the log would be accepted, and
    /// gone after a power cut. Copied into the file they are written again. And what is left of several failed writes one
    /// behind the other would look like a log that lost what was committed.
    fn settle_log(&mut self) -> rusqlite::Result<()> {
        if !self.log_is_settled {
            checkpoint(&self.db)?;
        }
        self.log_is_settled = false;
        Ok(())
    }

    /// Bytes of the file that are in use, and those that are not and can be filled again. Its log is not counted.
    pub fn used_and_spare_bytes(&self) -> Result<(u64, u64), OutboxError> {
        let pragma = |name: &str| -> rusqlite::Result<u64> {
            self.db.pragma_query_value(None, name, |row| row.get(0))
        };
        let pages = pragma("page_count").and_then(|all| Ok((all, pragma("freelist_count")?)));
        let (all, spare) = pages.map_err(|source| OutboxError::Read { source })?;
        let page = u64::from(PAGE_BYTES);
        Ok((all.saturating_sub(spare) * page, spare * page))
    }

    /// A receipt went up to here, at this time of the cloud.
    pub fn receipted_at(&mut self, through: Seq, cloud_utc_ms: i64) {
        let mut days = Days::from_bytes(&self.head.days);
        if days.receipted(through, cloud_utc_ms) {
            self.head.days = days.to_bytes();
            self.head_is_dirty = true;
        }
    }

    /// What is history and may go: beyond so many records, or older than so many days. Never beyond the receipts.
    pub fn old_through(&self, limits: &Limits) -> Seq {
        let beyond_count = Seq(self.last.0.0.saturating_sub(limits.keep_receipted));
        let beyond_days = Days::from_bytes(&self.head.days).old_through(limits.keep_receipted_days);
        beyond_count.max(beyond_days)
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

#[cfg(test)]
mod tests {
    use super::medium::Disk;
    use super::*;
    use tap_protocol::ids::StoreEpoch;

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
        outbox.db.pragma_update(None, "user_version", 4).unwrap();
        outbox.db.execute("UPDATE outbox SET own_check = 7", []).unwrap();
        let path = outbox.path().to_owned();
        drop(outbox);
        assert!(matches!(Outbox::open(&Disk, &path), Err(OutboxError::UnknownVersion { version: 4, .. })));
    }

    #[test]
    fn a_full_commit_is_what_is_set() {
        let folder = tempfile::tempdir().unwrap();
        let outbox = new_outbox(folder.path());
        let full: i64 = outbox.db.pragma_query_value(None, "synchronous", |row| row.get(0)).unwrap();
        assert_eq!(full, 2);
        outbox.db.pragma_update(None, "journal_mode", "delete").unwrap();
        outbox.db.pragma_update(None, "synchronous", "normal").unwrap();
        opening::configure(&outbox.db, outbox.path()).unwrap();
        let full: i64 = outbox.db.pragma_query_value(None, "synchronous", |row| row.get(0)).unwrap();
        assert_eq!(full, 2, "opening sets it again, whatever was there");
    }
}
