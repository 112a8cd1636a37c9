//! What is done when an outbox is opened, before anything is believed of it: settings, version, and the checks that are
//! quick enough for a start. The rest of the records is checked bit by bit later.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, params};
use tap_protocol::chain::ChainHash;
use tap_protocol::ids::{OutboxId, Seq};

use super::head::{Head, boot_check, record_check};
use super::medium::Medium;
use super::wal::{FRAME_HEADER_BYTES, Finding, HEADER_BYTES, Place, Scan, Transactions};
use super::{
    APPLICATION_ID, CACHE_KIB, FROM_1_TO_2, FROM_2_TO_3, OutboxError, PAGE_BYTES, SCHEMA_VERSION, WAL_PAGES,
    carve,
};

/// Records at the end whose chain is checked at the start: what the last commits before a power cut wrote.
const TAIL_RECORDS: usize = 64;

/// Bytes of a log's frame: its header and a page.
pub const FRAME_BYTES: usize = FRAME_HEADER_BYTES + PAGE_BYTES as usize;

/// Frames of the log that are read at a time.
const FRAMES_AT_ONCE: usize = 64;

/// Sets what durability rests on, and reads it back: a setting that did not take is an error, not a hope.
pub fn configure(db: &Connection, path: &Path) -> Result<(), OutboxError> {
    let at = |source| OutboxError::Open { path: path.to_owned(), source };
    db.pragma_update(None, "journal_mode", "wal").map_err(at)?;
    db.pragma_update(None, "synchronous", "full").map_err(at)?;
    db.pragma_update(None, "cache_size", -CACHE_KIB).map_err(at)?;
    db.pragma_update(None, "wal_autocheckpoint", WAL_PAGES).map_err(at)?;
    db.pragma_update(None, "journal_size_limit", i64::from(WAL_PAGES) * i64::from(PAGE_BYTES)).map_err(at)?;
    db.pragma_update(None, "temp_store", "memory").map_err(at)?;
    db.pragma_update(None, "cell_size_check", true).map_err(at)?;
    // Otherwise a statement is planned again whenever another value is bound to it.
    db.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map_err(at)?;
    db.busy_timeout(std::time::Duration::from_secs(5)).map_err(at)?;
    let journal: String = db.pragma_query_value(None, "journal_mode", |row| row.get(0)).map_err(at)?;
    let synchronous: i64 = db.pragma_query_value(None, "synchronous", |row| row.get(0)).map_err(at)?;
    const FULL: i64 = 2;
    if journal != "wal" || synchronous != FULL {
        return Err(OutboxError::NotDurable { path: path.to_owned(), journal, synchronous });
    }
    Ok(())
}

/// Looks at the log before SQLite may write to it: what recovery would forget in silence is damage.
pub fn examine_log(medium: &dyn Medium, path: &Path) -> Result<Finding, OutboxError> {
    let mut scan = None;
    each_part_of_log(medium, path, &mut |part| match (&mut scan, part) {
        (scan @ None, Part::Header(header)) => *scan = Some(Scan::begin(header)),
        (Some(scan), Part::Frame(frame)) => scan.frame(frame),
        _ => {}
    })?;
    match scan.map_or(Finding::Fine, |scan| scan.finding()) {
        Finding::Broken => Err(OutboxError::Damaged { what: "its log is broken before its end".into() }),
        finding => Ok(finding),
    }
}

/// A log whose header does not check out was just begun anew, or it is damaged: then it has records that SQLite, which
/// ignores it, does not have.
pub fn check_headless_log(
    medium: &dyn Medium,
    path: &Path,
    id: OutboxId,
    last: Seq,
) -> Result<(), OutboxError> {
    // Only what was surely committed counts: two power cuts, one in a commit and one when the log was begun anew behind it,
    // leave a broken header and records that were never accepted.
    let (mut beyond, mut pending) = (None, None);
    let mut transactions = Transactions::default();
    each_part_of_log(medium, path, &mut |part| {
        if let Part::Frame(frame) = part {
            let proved = carve::rows(frame).filter(|row| row.is_proved(id) == Some(true));
            let rows = proved.map(|row| row.seq).max();
            match transactions.frame(frame) {
                Place::Unsure => pending = None,
                Place::Inside => pending = pending.max(rows),
                Place::Commit => beyond = beyond.max(pending.take()).max(rows),
            }
        }
    })?;
    match beyond {
        Some(seq) if seq > last => {
            Err(OutboxError::Damaged { what: format!("its log has record {seq}, and its header is broken") })
        }
        _ => Ok(()),
    }
}

/// A part of a log.
pub enum Part<'a> {
    /// Its header.
    Header(&'a [u8; HEADER_BYTES]),
    /// A frame; the last one may be short.
    Frame(&'a [u8]),
}

/// Goes through the log beside a database, if there is one.
pub fn each_part_of_log(
    medium: &dyn Medium,
    path: &Path,
    take: &mut dyn FnMut(Part<'_>),
) -> Result<(), OutboxError> {
    let log = beside(path, "-wal");
    let folder = |source| OutboxError::Folder { path: log.clone(), source };
    let size = match medium.size(&log) {
        Ok(size) => size,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(folder(error)),
    };
    if size <= HEADER_BYTES as u64 {
        return Ok(());
    }
    let header = medium.read_at(&log, 0, HEADER_BYTES).map_err(folder)?;
    let Ok(header) = <&[u8; HEADER_BYTES]>::try_from(header.as_slice()) else { return Ok(()) };
    take(Part::Header(header));
    let mut at = HEADER_BYTES as u64;
    while at < size {
        let bytes = medium.read_at(&log, at, FRAMES_AT_ONCE * FRAME_BYTES).map_err(folder)?;
        if bytes.is_empty() {
            break;
        }
        bytes.chunks(FRAME_BYTES).for_each(|frame| take(Part::Frame(frame)));
        at += bytes.len() as u64;
    }
    Ok(())
}

/// The name of a file that SQLite keeps beside a database.
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The outbox's own row, after bringing an older file to this version.
pub fn read_head(db: &mut Connection, path: &Path) -> Result<Head, OutboxError> {
    let at = |source| OutboxError::Open { path: path.to_owned(), source };
    let pragma = |db: &Connection, name: &str| -> Result<i32, OutboxError> {
        db.pragma_query_value(None, name, |row| row.get(0)).map_err(at)
    };
    if pragma(db, "application_id")? != APPLICATION_ID {
        return Err(OutboxError::NotAnOutbox { path: path.to_owned() });
    }
    match pragma(db, "user_version")? {
        SCHEMA_VERSION => {}
        1 => migrate_from_1(db, path)?,
        2 => migrate_from_2(db, path)?,
        version => {
            // A row that checks out under this version was not written by another one: then the number itself is damaged.
            let is_damage = version < 1 || Head::read(db).is_ok_and(|head| head.is_ok());
            return Err(match is_damage {
                true => OutboxError::Damaged { what: format!("it says that its version is {version}") },
                false => OutboxError::UnknownVersion { path: path.to_owned(), version },
            });
        }
    }
    let head = Head::read(db).map_err(at)?.map_err(|what| OutboxError::Damaged { what })?;
    if head.pruned.0 > head.mark.receipted_through {
        return Err(OutboxError::Damaged { what: "it was pruned beyond its receipts".into() });
    }
    Ok(head)
}

/// In one transaction: a power cut leaves either version.
fn migrate_from_1(db: &mut Connection, path: &Path) -> Result<(), OutboxError> {
    let at = |source| OutboxError::Open { path: path.to_owned(), source };
    let transaction = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).map_err(at)?;
    let head = Head::read_version_1(&transaction).map_err(at)?;
    let head = head.map_err(|what| OutboxError::Damaged { what })?;
    transaction.execute_batch(FROM_1_TO_2).map_err(at)?;
    transaction.execute_batch(FROM_2_TO_3).map_err(at)?;
    head.write(&transaction).map_err(at)?;
    {
        let mut boots = transaction.prepare("SELECT boot, boot_id FROM boot").map_err(at)?;
        let boots = boots.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).map_err(at)?;
        for (boot, boot_id) in boots.collect::<Result<Vec<(u32, [u8; 16])>, _>>().map_err(at)? {
            let check = boot_check(head.id, boot, boot_id);
            transaction
                .execute("UPDATE boot SET own_check = ?1 WHERE boot = ?2", params![check, boot])
                .map_err(at)?;
        }
    }
    transaction.pragma_update(None, "user_version", SCHEMA_VERSION).map_err(at)?;
    transaction.commit().map_err(at)
}

/// A new column at the end of the row, which says nothing as yet.
fn migrate_from_2(db: &mut Connection, path: &Path) -> Result<(), OutboxError> {
    let at = |source| OutboxError::Open { path: path.to_owned(), source };
    let transaction = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).map_err(at)?;
    transaction.execute_batch(FROM_2_TO_3).map_err(at)?;
    transaction.pragma_update(None, "user_version", SCHEMA_VERSION).map_err(at)?;
    transaction.commit().map_err(at)
}

/// The last record, after checking that the last few are what was written.
pub fn check_tail(db: &Connection, head: &Head) -> Result<(Seq, ChainHash), OutboxError> {
    let at = |source| OutboxError::Read { source };
    let mut rows = db
        .prepare("SELECT seq, hash, bytes, own_check FROM record ORDER BY seq DESC LIMIT ?1")
        .map_err(at)?;
    let mut rows = rows.query([TAIL_RECORDS]).map_err(at)?;
    let mut last: Option<(Seq, ChainHash)> = None;
    let mut next: Option<(Seq, ChainHash, Vec<u8>)> = None;
    let damaged =
        |seq: Seq| OutboxError::Damaged { what: format!("record {seq} is not the one that was written") };
    while let Some(row) = rows.next().map_err(at)? {
        let (seq, hash) = (Seq(row.get(0).map_err(at)?), ChainHash(row.get(1).map_err(at)?));
        let bytes: Vec<u8> = row.get(2).map_err(at)?;
        let check: Option<i64> = row.get(3).map_err(at)?;
        if check.is_some_and(|check| check != record_check(head.id, seq, hash, &bytes)) {
            return Err(damaged(seq));
        }
        if let (Some((next_seq, next_hash, next_bytes)), true) = (&next, head.stage.is_sound()) {
            if seq.next() != *next_seq {
                return Err(OutboxError::Hole { at: seq.next() });
            }
            if hash.next(next_bytes) != *next_hash {
                return Err(damaged(*next_seq));
            }
        }
        last = last.or(Some((seq, hash)));
        next = Some((seq, hash, bytes));
    }
    // Where the chain begins is checked too, as soon as it is among the last few.
    if let (Some((seq, hash, bytes)), true) = (&next, head.stage.is_sound())
        && seq.0 == head.pruned.0.0 + 1
        && head.pruned.1.next(bytes) != *hash
    {
        return Err(damaged(*seq));
    }
    let last = last.unwrap_or(head.pruned);
    let known = head.written_through.max(head.mark.receipted_through).max(head.pruned.0);
    if head.stage.is_sound() && last.0 < known {
        return Err(OutboxError::Damaged {
            what: format!("it ends with record {}, and had {known}", last.0),
        });
    }
    Ok(last)
}

#[cfg(test)]
mod tests {
    use super::super::Outbox;
    use super::super::medium::Disk;
    use super::*;
    use crate::relay::Mark;
    use tap_protocol::ids::{BootId, StoreEpoch};

    /// Written by the last code of version 1: records 6 to 50, receipts to 12, two boots.
    const VERSION_1: &[u8] = include_bytes!("../../tests/fixtures/version-1.outbox");

    #[test]
    fn a_file_of_version_1_is_brought_to_this_version_with_all_that_it_has() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.outbox");
        std::fs::write(&path, VERSION_1).unwrap();
        let before: Vec<(u64, [u8; 32], Vec<u8>)> = {
            let db = Connection::open(&path).unwrap();
            let mut rows = db.prepare("SELECT seq, hash, bytes FROM record ORDER BY seq").unwrap();
            rows.query_map([], |row| row.try_into()).unwrap().collect::<Result<_, _>>().unwrap()
        };
        assert_eq!(before.len(), 45);
        for round in ["migrated", "opened again"] {
            let mut outbox = Outbox::open(&Disk, &path).unwrap();
            assert_eq!(outbox.id(), OutboxId([0x0b; 16]), "{round}");
            assert_eq!((outbox.ordinal(), outbox.machine()), (3, b"this machine".as_slice()));
            assert_eq!(outbox.mark(), Mark { receipted_through: Seq(12), store_epoch: Some(StoreEpoch(7)) });
            assert_eq!((outbox.pruned_through(), outbox.stopped_cleanly()), (Seq(5), true));
            assert_eq!(outbox.continues(), Some(OutboxId([0x0a; 16])));
            assert_eq!(outbox.boots().unwrap(), [(1, BootId([1; 16])), (2, BootId([2; 16]))]);
            let records = outbox.read(Seq(6)).unwrap().records;
            assert!(records[..45].iter().eq(before.iter().map(|(_, _, bytes)| bytes)), "{round}");
            for (seq, hash, _) in &before {
                assert_eq!(outbox.hash_at(Seq(*seq)).unwrap(), Some(ChainHash(*hash)));
            }
            let next = outbox.last_seq().next();
            assert_eq!(outbox.append(&[b"more".to_vec()]).unwrap(), next);
        }
    }

    #[test]
    fn a_file_of_version_2_is_brought_to_this_version_and_its_row_checks_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.outbox");
        std::fs::write(&path, VERSION_1).unwrap();
        drop(Outbox::open(&Disk, &path).unwrap());
        let db = Connection::open(&path).unwrap();
        db.execute_batch("ALTER TABLE outbox DROP COLUMN continues_after; PRAGMA user_version = 2").unwrap();
        drop(db);
        let outbox = Outbox::open(&Disk, &path).unwrap();
        assert_eq!((outbox.continues(), outbox.continues_after()), (Some(OutboxId([0x0a; 16])), None));
        assert_eq!(outbox.last_seq(), Seq(50));
    }

    #[test]
    fn a_version_number_that_the_row_contradicts_is_damage_and_no_newer_version() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.outbox");
        std::fs::write(&path, VERSION_1).unwrap();
        drop(Outbox::open(&Disk, &path).unwrap());
        Connection::open(&path).unwrap().pragma_update(None, "user_version", 6).unwrap();
        let error = Outbox::open(&Disk, &path).unwrap_err();
        assert!(matches!(error, OutboxError::Damaged { .. }), "{error}");
    }

    #[test]
    fn fewer_records_than_there_were_is_damage() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.outbox");
        std::fs::write(&path, VERSION_1).unwrap();
        let mut outbox = Outbox::open(&Disk, &path).unwrap();
        outbox.flush_mark().unwrap();
        drop(outbox);
        Connection::open(&path).unwrap().execute("DELETE FROM record WHERE seq > 45", []).unwrap();
        let error = Outbox::open(&Disk, &path).unwrap_err();
        assert_eq!(error.to_string(), "the outbox is damaged: it ends with record 45, and had 50");
    }
}
