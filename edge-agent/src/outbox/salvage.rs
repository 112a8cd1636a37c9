//! Brings what is readable of a damaged outbox into a new file under the same outbox id and the same numbers. The damaged
//! file is read and never written.
//!
//! Bytes are carved ([`super::carve`]), page by page and then the log's frames, because nothing that SQLite says of a
//! damaged file can be relied on. A row is kept if its own check or the chain proves it; nothing else is. It is done in
//! steps, so that taps never wait for it, and a draft that a power cut leaves is thrown away: the damaged file is still
//! there.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, params};
use tap_protocol::chain::ChainHash;
use tap_protocol::ids::{ControllerId, OutboxId, Seq};
use tap_protocol::record::{Body, LossReason, Record, Stamp};

use super::carve::{self, MAX_SEQ};
use super::head::{Head, Stage, record_check};
use super::medium::{self, Medium};
use super::opening::{FRAME_BYTES, beside};
use super::wal::{FRAME_HEADER_BYTES, HEADER_BYTES};
use super::{APPLICATION_ID, CACHE_KIB, DRAFT, Outbox, OutboxError, PAGE_BYTES, SCHEMA, SCHEMA_VERSION};

/// Lost ranges that are told one by one; what comes after them is told as one.
const MAX_TOLD: usize = 100;

/// The ordinal of an outbox whose own row is gone: it is older than all others.
const ORDINAL_UNKNOWN: u32 = 0;

/// First and last number of records that are gone.
pub type LostRange = (Seq, Seq);

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Salvaged {
    /// Of which outbox.
    pub outbox: OutboxId,
    /// The records that were brought over.
    pub records: u64,
}

/// The salvaging of one damaged file.
#[derive(Debug)]
pub struct Salvage {
    medium: Arc<dyn Medium>,
    damaged: PathBuf,
    draft: PathBuf,
    target: PathBuf,
    db: Connection,
    head: Head,
    /// The last number that was given, if it is known. What is beyond it was never accepted.
    known_last: Option<Seq>,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    /// Carving the database file, from this byte on.
    File(u64),
    /// Carving the log, from this byte on.
    Log(u64),
    /// Proving each row against the one before it.
    Link(Linking),
}

#[derive(Debug)]
struct Linking {
    /// The row before, with its hash as written, and whether it is kept.
    before: (Seq, ChainHash, bool),
    /// Rows that are kept.
    records: u64,
}

impl Salvage {
    /// Begins with a file that was set aside. `target` is what the outbox will be called.
    pub fn begin(
        medium: Arc<dyn Medium>,
        damaged: &Path,
        target: &Path,
        id: OutboxId,
        known_last: Option<Seq>,
        owner: (&ControllerId, &[u8]),
    ) -> Result<Salvage, OutboxError> {
        let draft = target.with_extension(DRAFT);
        for leftover in ["", "-journal", "-wal", "-shm"].map(|suffix| beside(&draft, suffix)) {
            match medium.remove(&leftover) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(OutboxError::Folder { path: leftover, source: error });
                }
                _ => {}
            }
        }
        let known_head = read_head(&*medium, damaged).filter(|head| head.id == id);
        let mut head = known_head.unwrap_or_else(|| Head::new(id, owner.0, owner.1, ORDINAL_UNKNOWN));
        head.written_through = head.written_through.max(head.mark.receipted_through);
        if let Some(last) = known_last {
            head.written_through = head.written_through.max(last);
        }
        head.stage = Stage::Found;
        let failed = |source| OutboxError::Salvage { path: damaged.to_owned(), source };
        medium.create_new(&draft).map_err(|source| OutboxError::Folder { path: draft.clone(), source })?;
        let db = medium::open(&*medium, &draft).map_err(failed)?;
        db.pragma_update(None, "page_size", PAGE_BYTES).map_err(failed)?;
        // A draft is worth nothing until it is whole; then it is synced.
        db.pragma_update(None, "journal_mode", "off").map_err(failed)?;
        db.pragma_update(None, "synchronous", "off").map_err(failed)?;
        db.pragma_update(None, "cache_size", -CACHE_KIB).map_err(failed)?;
        db.execute_batch(SCHEMA).map_err(failed)?;
        db.pragma_update(None, "application_id", APPLICATION_ID).map_err(failed)?;
        db.pragma_update(None, "user_version", SCHEMA_VERSION).map_err(failed)?;
        Ok(Salvage {
            medium,
            damaged: damaged.to_owned(),
            draft,
            target: target.to_owned(),
            db,
            head,
            known_last,
            phase: Phase::File(0),
        })
    }

    /// Does a little more: `pages` pages, or some rows for each. Returns what was found when all of it is done and the new
    /// file is on the medium.
    pub fn step(&mut self, pages: usize) -> Result<Option<Salvaged>, OutboxError> {
        let page = PAGE_BYTES as usize;
        match self.phase {
            Phase::File(at) => {
                let bytes = self.read(&self.damaged.clone(), at, pages * page)?;
                self.keep(bytes.chunks(page).flat_map(carve::rows))?;
                self.phase = match bytes.len() {
                    0 => Phase::Log(HEADER_BYTES as u64),
                    read => Phase::File(at + read as u64),
                };
            }
            Phase::Log(at) => {
                let bytes = self.read(&beside(&self.damaged, "-wal"), at, pages * FRAME_BYTES)?;
                let frames =
                    bytes.chunks(FRAME_BYTES).map(|frame| &frame[FRAME_HEADER_BYTES.min(frame.len())..]);
                self.keep(frames.flat_map(carve::rows))?;
                self.phase = match bytes.len() {
                    0 => Phase::Link(self.first_link()),
                    read => Phase::Log(at + read as u64),
                };
            }
            Phase::Link(_) => return self.link(pages * 4),
        }
        Ok(None)
    }

    fn read(&self, file: &Path, at: u64, len: usize) -> Result<Vec<u8>, OutboxError> {
        match self.medium.read_at(file, at, len) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            read => read.map_err(|source| OutboxError::Folder { path: file.to_owned(), source }),
        }
    }

    fn keep(&mut self, rows: impl Iterator<Item = carve::Row>) -> Result<(), OutboxError> {
        let failed = |source| OutboxError::Salvage { path: self.damaged.clone(), source };
        let last = self.known_last.unwrap_or(MAX_SEQ);
        let transaction = self.db.unchecked_transaction().map_err(failed)?;
        {
            // One that proves itself displaces one that does not; else the first that is found stays.
            let mut insert = transaction
                .prepare_cached(
                    "INSERT INTO record (seq, hash, bytes, own_check) VALUES (?1, ?2, ?3, ?4) ON CONFLICT (seq) DO UPDATE
                     SET hash = excluded.hash, bytes = excluded.bytes, own_check = excluded.own_check
                     WHERE own_check IS NULL AND excluded.own_check IS NOT NULL",
                )
                .map_err(failed)?;
            for row in rows.filter(|row| row.seq <= last && row.seq > self.head.pruned.0) {
                if row.is_proved(self.head.id) != Some(false) {
                    insert
                        .execute(params![row.seq.0, row.hash.0, row.bytes, row.own_check])
                        .map_err(failed)?;
                }
            }
        }
        transaction.commit().map_err(failed)
    }

    fn first_link(&self) -> Linking {
        let (seq, hash) = self.head.pruned;
        Linking { before: (seq, hash, true), records: 0 }
    }

    fn link(&mut self, limit: usize) -> Result<Option<Salvaged>, OutboxError> {
        let Phase::Link(linking) = &mut self.phase else { return Ok(None) };
        let failed = |source| OutboxError::Salvage { path: self.damaged.clone(), source };
        let transaction = self.db.unchecked_transaction().map_err(failed)?;
        let rows: Vec<(u64, [u8; 32], Vec<u8>, bool)> = transaction
            .prepare_cached(
                "SELECT seq, hash, bytes, own_check IS NOT NULL FROM record WHERE seq > ?1 ORDER BY seq LIMIT ?2",
            )
            .and_then(|mut rows| {
                rows.query_map(params![linking.before.0.0, limit], |row| row.try_into())?.collect()
            })
            .map_err(failed)?;
        let is_end = rows.len() < limit;
        for (seq, hash, bytes, proves_itself) in rows {
            let (seq, hash) = (Seq(seq), ChainHash(hash));
            let (before, hash_before, before_is_kept) = linking.before;
            let is_next = before.next() == seq;
            let links = is_next && hash_before.next(&bytes) == hash;
            let contradicts = is_next && before_is_kept && !links;
            let is_kept = links || (proves_itself && !contradicts);
            linking.before = (seq, hash, is_kept);
            if is_kept {
                linking.records += 1;
            } else {
                transaction.execute("DELETE FROM record WHERE seq = ?1", [seq.0]).map_err(failed)?;
            }
        }
        transaction.commit().map_err(failed)?;
        if !is_end {
            return Ok(None);
        }
        let found = Salvaged { outbox: self.head.id, records: linking.records };
        self.finish()?;
        Ok(Some(found))
    }

    fn finish(&mut self) -> Result<(), OutboxError> {
        let failed = |source| OutboxError::Salvage { path: self.damaged.clone(), source };
        self.head.write(&self.db).map_err(failed)?;
        // Everything is in the file: in this journal mode nothing is kept beside it.
        let db = std::mem::replace(&mut self.db, Connection::open_in_memory().map_err(failed)?);
        db.close().map_err(|(_, source)| failed(source))?;
        let folder = |source| OutboxError::Folder { path: self.target.clone(), source };
        self.medium.sync_file(&self.draft).map_err(folder)?;
        self.medium.rename(&self.draft, &self.target).map_err(folder)?;
        self.medium.sync_folder(medium::parent(&self.target)).map_err(folder)
    }

    /// What the outbox will be called.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Whose file it is that is read.
    pub fn damaged(&self) -> &Path {
        &self.damaged
    }
}

fn tell(lost: &mut Vec<LostRange>, range: LostRange) {
    let is_full = lost.len() >= MAX_TOLD;
    match lost.last_mut() {
        Some(last) if is_full => last.1 = range.1,
        _ => lost.push(range),
    }
}

/// The damaged outbox's own row, if it can still be read and proves itself.
fn read_head(medium: &dyn Medium, damaged: &Path) -> Option<Head> {
    let db = medium::open(medium, damaged).ok()?;
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).ok()?;
    match db.pragma_query_value(None, "user_version", |row| row.get(0)).ok()? {
        1 => Head::read_version_1(&db).ok()?.ok(),
        _ => Head::read(&db).ok()?.ok(),
    }
}

/// What stands at the number of a record that is gone. Always the same bytes, so that filling a hole again gives the same
/// chain.
fn filler(outbox: OutboxId, seq: Seq, why: LossReason) -> Vec<u8> {
    let body = Body::Lost { outbox, from: seq, to: seq, why };
    Record { at: Stamp::NONE, body }.encode()
}

/// The rest of a salvaged outbox's life: its holes are filled, but not before the cloud has said what it has.
impl Outbox {
    /// How far salvaging is.
    pub fn stage(&self) -> Stage {
        self.head.stage
    }

    /// What is surely gone and had no receipt, first and last numbers. `known_last` is the last number that was given; if
    /// nobody knows it, the last range ends with [`MAX_SEQ`].
    pub fn lost(&self, known_last: Option<Seq>) -> Result<Vec<LostRange>, OutboxError> {
        let at = |source| OutboxError::Read { source };
        let mut rows = self.db.prepare("SELECT seq FROM record WHERE seq > ?1 ORDER BY seq").map_err(at)?;
        let mut rows = rows.query([self.head.mark.receipted_through.0]).map_err(at)?;
        // Without its own row nobody knows where it began: what is missing before the first record is no proof of a loss.
        let mut before = match self.head.ordinal {
            ORDINAL_UNKNOWN => None,
            _ => Some(self.head.mark.receipted_through),
        };
        let mut lost = Vec::new();
        while let Some(row) = rows.next().map_err(at)? {
            let seq = Seq(row.get(0).map_err(at)?);
            if let Some(before) = before.filter(|before| before.next() < seq) {
                tell(&mut lost, (before.next(), Seq(seq.0 - 1)));
            }
            before = Some(seq);
        }
        let (from, end) = (before.unwrap_or(Seq::ZERO).next(), known_last.unwrap_or(MAX_SEQ));
        if from <= end {
            tell(&mut lost, (from, end));
        }
        Ok(lost)
    }

    /// The tombstones are in the newest outbox.
    pub fn set_told(&mut self) -> Result<(), OutboxError> {
        assert_eq!(self.head.stage, Stage::Found, "tombstones are told once");
        self.put_head(Head { stage: Stage::Told, ..self.head.clone() })
    }

    /// Takes the cloud's word for what it has: 1 ..= `mark`, with this hash there. What is lost up to there is not lost.
    /// Returns whether that agrees with what was salvaged; if not, nothing is done and a person must look.
    pub fn settle(&mut self, mark: crate::relay::Mark, hash: ChainHash) -> Result<bool, OutboxError> {
        assert_eq!(self.head.stage, Stage::Told, "the cloud is believed once");
        let through = mark.receipted_through;
        if through < self.head.pruned.0 || self.hash_at(through)?.is_some_and(|own| own != hash) {
            return Ok(false);
        }
        let begin = (through, hash);
        self.put_head(Head {
            stage: Stage::Mending,
            mark,
            pruned: begin,
            mended: begin,
            ..self.head.clone()
        })?;
        Ok(true)
    }

    /// The cloud has 1 ..= `mark` with this hash there, since it was put back from a backup, and what follows was deleted
    /// here because an earlier life of it had confirmed it. Those numbers are filled with tombstones from here on, and what
    /// is left behind them is sent again. Returns what is gone; `None` if nothing is, or the word is an old one.
    pub fn refill(
        &mut self,
        mark: crate::relay::Mark,
        hash: ChainHash,
    ) -> Result<Option<LostRange>, OutboxError> {
        let (through, gone) = (mark.receipted_through, self.head.pruned.0);
        let is_another_life = mark.store_epoch > self.head.mark.store_epoch;
        if !self.head.stage.is_sound() || through >= gone || !is_another_life {
            return Ok(None);
        }
        let begin = (through, hash);
        let stage = Stage::Refilling;
        self.put_head(Head { stage, mark, pruned: begin, mended: begin, ..self.head.clone() })?;
        Ok(Some((through.next(), gone)))
    }

    /// Fills up to `limit` holes and chains what is behind them again. Returns whether it is an outbox like any other now.
    pub fn mend(&mut self, limit: u32) -> Result<bool, OutboxError> {
        let why = self.head.stage.fills_with().expect("the cloud was asked first");
        let at = |source| OutboxError::Prune { source };
        let end = self.end();
        let stored = self.head.mark.receipted_through;
        let mut head = self.head.clone();
        self.settle_log().map_err(at)?;
        let transaction =
            self.db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).map_err(at)?;
        // What the cloud has is not needed here; the damaged file has it still.
        let gone = transaction
            .execute(
                "DELETE FROM record WHERE seq IN (SELECT seq FROM record WHERE seq <= ?1 ORDER BY seq LIMIT ?2)",
                params![stored.0, limit],
            )
            .map_err(at)?;
        let mut left = u64::from(limit).saturating_sub(gone as u64);
        {
            let mut find =
                transaction.prepare_cached("SELECT hash, bytes FROM record WHERE seq = ?1").map_err(at)?;
            let mut put = transaction
                .prepare_cached(
                    "INSERT OR REPLACE INTO record (seq, hash, bytes, own_check) VALUES (?1, ?2, ?3, ?4)",
                )
                .map_err(at)?;
            while left > 0 && head.mended.0 < end {
                left -= 1;
                let seq = head.mended.0.next();
                let found: Option<([u8; 32], Vec<u8>)> =
                    rusqlite::OptionalExtension::optional(find.query_row([seq.0], |row| row.try_into()))
                        .map_err(at)?;
                let (stored_hash, bytes) = found.unwrap_or_else(|| ([0; 32], filler(head.id, seq, why)));
                let hash = head.mended.1.next(&bytes);
                if hash.0 != stored_hash {
                    let check = record_check(head.id, seq, hash, &bytes);
                    put.execute(params![seq.0, hash.0, bytes, check]).map_err(at)?;
                }
                head.mended = (seq, hash);
            }
        }
        let is_done = left > 0 && head.mended.0 >= end;
        if is_done {
            head.stage = Stage::Mended;
            head.written_through = head.mended.0;
        }
        head.write(&transaction).map_err(at)?;
        transaction.commit().map_err(at)?;
        self.log_is_settled = true;
        self.head = head;
        self.head_is_dirty = false;
        if is_done {
            self.last = self.head.mended;
        }
        Ok(is_done)
    }

    /// The last number that this outbox gave, as far as anybody knows.
    pub(super) fn end(&self) -> Seq {
        self.last.0.max(self.head.written_through)
    }
}
