//! Finds records in the bytes of a damaged file, without SQLite: whatever is wrong with the tree above them, a row that is
//! still there can be told by its shape, and by its check. Pure: knows no file, only pages.
//!
//! A row of `record` is `payload length ‖ seq ‖ header length ‖ 0 ‖ 76 ‖ type of bytes ‖ [type of check] ‖ hash ‖ bytes ‖
//! [check]`: 0 stands for the rowid, 76 for a blob of 32 bytes. `0 76` is what is looked for. Rows that overflow their page
//! (records of more than 900 bytes; this agent writes none) are not found.

use tap_protocol::chain::ChainHash;
use tap_protocol::ids::{OutboxId, Seq};

use super::head::record_check;

/// The largest seq that there can be.
pub const MAX_SEQ: Seq = Seq((1 << 48) - 1);

/// A row that looks like a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its number.
    pub seq: Seq,
    /// `h(seq)`, as it was written.
    pub hash: ChainHash,
    /// The record.
    pub bytes: Vec<u8>,
    /// Its check; rows of version 1 have none.
    pub own_check: Option<i64>,
}

impl Row {
    /// Whether it is as it was written to this outbox. `None` if only its neighbours can tell.
    pub fn is_proved(&self, outbox: OutboxId) -> Option<bool> {
        self.own_check.map(|check| check == record_check(outbox, self.seq, self.hash, &self.bytes))
    }
}

/// All rows on a page that look like records, in the order of their places.
pub fn rows(page: &[u8]) -> impl Iterator<Item = Row> + '_ {
    // Two bytes must come before the header: at least one of payload length, one of seq.
    (2..page.len()).filter_map(|at| row_with_header_at(page, at))
}

fn row_with_header_at(page: &[u8], at: usize) -> Option<Row> {
    let header_len: usize = (*page.get(at)?).into();
    if !(4..=7).contains(&header_len) || page.get(at + 1..at + 3)? != [0, 76] {
        return None;
    }
    let header_end = at + header_len;
    let (bytes_type, used) = varint(page.get(at + 3..header_end)?)?;
    let check_type = match page.get(at + 3 + used..header_end)? {
        [] => None,
        [kind] => Some(*kind),
        _ => return None,
    };
    let bytes_len = match bytes_type.checked_sub(12)? {
        twice if twice % 2 == 0 => usize::try_from(twice / 2).ok()?,
        _ => return None,
    };
    let check_len = match check_type {
        None | Some(0 | 8 | 9) => 0,
        Some(kind @ 1..=4) => kind.into(),
        Some(5) => 6,
        Some(6) => 8,
        Some(_) => return None,
    };
    let payload = header_len.checked_add(32)?.checked_add(bytes_len)?.checked_add(check_len)?;
    let seq = seq_before(page, at, payload as u64)?;
    let body = page.get(header_end..at.checked_add(payload)?)?;
    let (hash, rest) = body.split_first_chunk::<32>()?;
    let (bytes, check) = rest.split_at(bytes_len);
    let own_check = match check_type {
        None | Some(0) => None,
        Some(8) => Some(0),
        Some(9) => Some(1),
        Some(_) => Some(big_endian(check)),
    };
    Some(Row { seq, hash: ChainHash(*hash), bytes: bytes.to_vec(), own_check })
}

/// The seq whose varint ends before `header`, behind the varint of this payload length.
fn seq_before(page: &[u8], header: usize, payload: u64) -> Option<Seq> {
    let payload = as_varint(payload);
    (1..=7).find_map(|len| {
        let begin = header.checked_sub(len)?;
        let (seq, used) = varint(&page[begin..header])?;
        let is_behind_payload = page.get(begin.checked_sub(payload.len())?..begin)? == payload;
        (used == len && is_behind_payload && (1..=MAX_SEQ.0).contains(&seq)).then_some(Seq(seq))
    })
}

/// A varint as SQLite writes it (7 bits a byte, most significant first) and how many bytes it took. Eight bytes at most:
/// nothing here is longer.
fn varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut value = 0u64;
    for (i, byte) in bytes.iter().take(8).enumerate() {
        value = value << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return Some((value, i + 1));
        }
    }
    None
}

fn as_varint(mut value: u64) -> Vec<u8> {
    let mut bytes = vec![(value & 0x7f) as u8];
    while value > 0x7f {
        value >>= 7;
        bytes.insert(0, (value & 0x7f) as u8 | 0x80);
    }
    bytes
}

fn big_endian(bytes: &[u8]) -> i64 {
    let first = if bytes.first().is_some_and(|byte| byte & 0x80 != 0) { -1 } else { 0 };
    bytes.iter().fold(first, |value, byte| value << 8 | i64::from(*byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OUTBOX: OutboxId = OutboxId([7; 16]);

    /// A database file with these records, as SQLite writes it.
    fn file(records: &[(u64, Vec<u8>)], with_check: bool) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        let db = rusqlite::Connection::open(&path).unwrap();
        db.execute_batch("PRAGMA page_size = 1024; CREATE TABLE record (seq INTEGER PRIMARY KEY, hash BLOB, bytes BLOB, own_check INTEGER)")
            .unwrap();
        for (seq, bytes) in records {
            let hash = ChainHash::start(OUTBOX).next(bytes);
            let check = with_check.then(|| record_check(OUTBOX, Seq(*seq), hash, bytes));
            db.execute(
                "INSERT INTO record VALUES (?1, ?2, ?3, ?4)",
                rusqlite::params![seq, hash.0, bytes, check],
            )
            .unwrap();
        }
        db.close().unwrap();
        std::fs::read(path).unwrap()
    }

    fn found(file: &[u8]) -> Vec<Row> {
        let mut found: Vec<Row> = file.chunks(1024).flat_map(rows).collect();
        found.retain(|row| row.is_proved(OUTBOX) != Some(false));
        found.sort_by_key(|row| row.seq);
        found.dedup();
        found
    }

    #[test]
    fn every_row_that_sqlite_wrote_is_found_and_proves_itself() {
        let seqs = (1..300).chain(16_300..16_500).chain([1 << 30, MAX_SEQ.0]);
        let records: Vec<_> = seqs.map(|seq| (seq, vec![seq as u8; 1 + seq as usize % 300])).collect();
        let rows = found(&file(&records, true));
        assert_eq!(rows.len(), records.len());
        for (row, (seq, bytes)) in rows.iter().zip(&records) {
            assert_eq!((row.seq.0, &row.bytes, row.is_proved(OUTBOX)), (*seq, bytes, Some(true)));
        }
    }

    #[test]
    fn rows_of_version_1_are_found_without_a_proof() {
        let records: Vec<_> = (1..50).map(|seq| (seq, vec![seq as u8; 60])).collect();
        let rows = found(&file(&records, false));
        assert!(rows.iter().all(|row| row.is_proved(OUTBOX).is_none()), "leftovers of moved rows too");
        for (seq, bytes) in &records {
            assert!(rows.iter().any(|row| row.seq.0 == *seq && row.bytes == *bytes), "{seq}");
        }
    }

    #[test]
    fn what_is_left_of_a_torn_page_is_found() {
        let records: Vec<_> = (1..=8).map(|seq| (seq, vec![seq as u8; 40])).collect();
        let mut bytes = file(&records, true);
        // The first half of the page goes, and with it everything that says where rows are.
        bytes[1024..1024 + 512].fill(0);
        let left: Vec<u64> = found(&bytes).iter().map(|row| row.seq.0).collect();
        assert_eq!(left, [1, 2, 3, 4, 5], "rows are written from the page's end");
    }

    proptest! {
        #[test]
        fn no_page_makes_it_panic(page in prop::collection::vec(any::<u8>(), 0..600), at in any::<prop::sample::Index>()) {
            let mut page = page;
            if page.len() > 8 {
                let at = at.index(page.len() - 4);
                page[at..at + 3].copy_from_slice(&[5, 0, 76]);
            }
            rows(&page).count();
        }
    }

    #[test]
    fn a_flipped_bit_never_gives_another_record() {
        let records: Vec<_> = (1..=20).map(|seq| (seq, vec![seq as u8; 40])).collect();
        let whole = file(&records, true);
        for bit in (0..whole.len() * 8).step_by(5) {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            for row in bytes.chunks(1024).flat_map(rows).filter(|row| row.is_proved(OUTBOX) == Some(true)) {
                assert_eq!(row.bytes, vec![row.seq.0 as u8; 40], "bit {bit}");
            }
        }
    }
}
