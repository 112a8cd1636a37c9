//! Looks at SQLite's log before SQLite does. Recovery stops at the first frame that does not check out and forgets all
//! behind it, without a word: right after a power cut in the middle of a commit, and the loss of accepted taps after a
//! flipped bit. The difference is that a power cut leaves nothing behind the transaction that it cut off. Pure: knows
//! frames, no file.

use std::hash::{DefaultHasher, Hash, Hasher};

/// Bytes of the log's header.
pub const HEADER_BYTES: usize = 32;

/// Bytes of a frame's header.
pub const FRAME_HEADER_BYTES: usize = 24;

/// What the log turned out to be, after all frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    /// SQLite will find all that was committed. At most one transaction that was cut off is behind that.
    Fine,
    /// A transaction was committed behind a frame that does not check out.
    Broken,
    /// Its header does not check out: SQLite will ignore all of it.
    Headless,
}

/// The scan of one log.
#[derive(Debug)]
pub struct Scan {
    big_endian: bool,
    salts: [u8; 8],
    /// The sum up to here as the last frame says it.
    sum: (u32, u32),
    in_chain: bool,
    /// Pages of the file as the last commit in the chain says.
    committed_pages: u32,
    /// Frames since then.
    frames: u32,
    previous: Option<(u32, u64)>,
    saw_commit: bool,
    finding: Finding,
}

impl Scan {
    /// Begins with the log's header.
    pub fn begin(header: &[u8; HEADER_BYTES]) -> Scan {
        let magic = word(&header[0..4], true);
        let big_endian = magic & 1 == 1;
        let sum = add((0, 0), &header[..24], big_endian);
        let is_right =
            magic & !1 == 0x377f_0682 && sum == (word(&header[24..28], true), word(&header[28..32], true));
        Scan {
            big_endian,
            salts: header[16..24].try_into().expect("eight bytes"),
            sum,
            in_chain: true,
            committed_pages: 0,
            frames: 0,
            previous: None,
            saw_commit: false,
            finding: if is_right { Finding::Fine } else { Finding::Headless },
        }
    }

    /// Takes in the next frame, header and page.
    pub fn frame(&mut self, frame: &[u8]) {
        if self.finding != Finding::Fine || frame.len() < FRAME_HEADER_BYTES {
            return;
        }
        let (header, page) = frame.split_at(FRAME_HEADER_BYTES);
        let stored = (word(&header[16..20], true), word(&header[20..24], true));
        let sum = add(add(self.sum, &header[..8], self.big_endian), page, self.big_endian);
        let is_of_this_log = header[8..16] == self.salts;
        let commit_pages = word(&header[4..8], true);
        // Against what the frame before says of itself, so that the frames behind a broken one still tell.
        let checks_out = is_of_this_log && sum == stored;
        self.sum = stored;
        self.frames += 1;
        if self.in_chain && checks_out {
            if commit_pages != 0 {
                self.committed_pages = commit_pages;
                self.frames = 0;
            }
            return;
        }
        // A frame that does not check out may still be legible as a commit. Of a torn one nothing is believed but what a
        // commit could say here; and of those behind it nothing at all.
        let is_plausible =
            (self.committed_pages..=self.committed_pages.saturating_add(self.frames)).contains(&commit_pages);
        let is_break = std::mem::take(&mut self.in_chain);
        let is_commit = commit_pages != 0 && (checks_out || (is_break && is_plausible));
        let number = word(&header[..4], true);
        let mut content = DefaultHasher::new();
        page.hash(&mut content);
        let this = (number, content.finish());
        // Where a disk may tear sectors, SQLite fills the last one with copies of the commit's frame.
        let is_copy = self.previous == Some(this);
        // Not where a page comes a second time: a transaction larger than the page cache writes pages again and again.
        if checks_out && !is_copy && self.saw_commit {
            self.finding = Finding::Broken;
        }
        if is_of_this_log {
            self.saw_commit |= is_commit;
        }
        self.previous = Some(this);
    }

    /// What it is, as far as it was seen.
    pub fn finding(&self) -> Finding {
        self.finding
    }
}

/// Finds whole transactions in a log whose header says nothing: each frame says what the next must sum up to.
#[derive(Debug, Default)]
pub struct Transactions {
    sum: Option<(u32, u32)>,
    /// The frames since the last commit check out, and so does that commit.
    is_whole: bool,
}

/// Where a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// It, or the beginning of its transaction, does not check out.
    Unsure,
    /// In a transaction that checks out so far.
    Inside,
    /// At the end of one that checks out.
    Commit,
}

impl Transactions {
    /// Takes in the next frame, header and page.
    pub fn frame(&mut self, frame: &[u8]) -> Place {
        let Some((header, page)) = frame.split_first_chunk::<FRAME_HEADER_BYTES>() else {
            return Place::Unsure;
        };
        let stored = (word(&header[16..20], true), word(&header[20..24], true));
        // The broken header would have said how words were written: as this machine writes them.
        let big_endian = cfg!(target_endian = "big");
        let before = self.sum.replace(stored);
        let checks_out =
            before.is_some_and(|sum| add(add(sum, &header[..8], big_endian), page, big_endian) == stored);
        let is_commit = word(&header[4..8], true) != 0;
        let was_whole = self.is_whole;
        self.is_whole = checks_out && (was_whole || is_commit);
        match (checks_out && was_whole, is_commit) {
            (false, _) => Place::Unsure,
            (true, false) => Place::Inside,
            (true, true) => Place::Commit,
        }
    }
}

fn add((mut a, mut b): (u32, u32), bytes: &[u8], big_endian: bool) -> (u32, u32) {
    for pair in bytes.chunks_exact(8) {
        a = a.wrapping_add(word(&pair[..4], big_endian)).wrapping_add(b);
        b = b.wrapping_add(word(&pair[4..], big_endian)).wrapping_add(a);
    }
    (a, b)
}

fn word(bytes: &[u8], big_endian: bool) -> u32 {
    let bytes = bytes.try_into().expect("four bytes");
    if big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: usize = FRAME_HEADER_BYTES + 1024;

    /// A log as SQLite writes it: one transaction per record.
    fn log(records: u32) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        let db = rusqlite::Connection::open(&path).unwrap();
        db.execute_batch("PRAGMA page_size = 1024; PRAGMA journal_mode = wal; CREATE TABLE t (a INTEGER PRIMARY KEY, b BLOB)")
            .unwrap();
        for n in 0..records {
            db.execute("INSERT INTO t (b) VALUES (?1)", [vec![n as u8; 200]]).unwrap();
        }
        std::fs::read(folder.path().join("a.db-wal")).unwrap()
    }

    fn finding(log: &[u8]) -> Finding {
        let (header, frames) = log.split_first_chunk().unwrap();
        let mut scan = Scan::begin(header);
        frames.chunks_exact(FRAME).for_each(|frame| scan.frame(frame));
        scan.finding()
    }

    #[test]
    fn a_whole_log_and_one_that_was_cut_off_are_fine() {
        let whole = log(20);
        assert_eq!(finding(&whole), Finding::Fine);
        for frames in 0..(whole.len() - HEADER_BYTES) / FRAME {
            assert_eq!(finding(&whole[..HEADER_BYTES + frames * FRAME]), Finding::Fine, "{frames} frames");
        }
        let mut torn = whole.clone();
        let last = torn.len() - 600;
        torn[last..].fill(0xa5);
        assert_eq!(finding(&torn), Finding::Fine, "the last commit was under way");
    }

    #[test]
    fn whole_transactions_are_found_without_the_header() {
        let whole = log(3);
        let places = |log: &[u8]| {
            let mut transactions = Transactions::default();
            log[HEADER_BYTES..].chunks_exact(FRAME).map(|frame| transactions.frame(frame)).collect::<Vec<_>>()
        };
        let found = places(&whole);
        // The table's own transaction is two frames; of the first frame nothing tells.
        assert_eq!(found, [vec![Place::Unsure; 2], vec![Place::Commit; 3]].concat());
        let mut torn = whole;
        torn[HEADER_BYTES + 3 * FRAME + 100] ^= 1;
        assert_eq!(places(&torn)[2..], [Place::Commit, Place::Unsure, Place::Unsure]);
    }

    #[test]
    fn any_flipped_bit_before_the_last_transaction_is_noticed() {
        let whole = log(20);
        // Each of the last transactions is one or two frames.
        for byte in (HEADER_BYTES..whole.len() - 3 * FRAME).step_by(7) {
            let mut flipped = whole.clone();
            flipped[byte] ^= 4;
            assert_eq!(finding(&flipped), Finding::Broken, "byte {byte}");
        }
        for byte in 0..HEADER_BYTES {
            let mut flipped = whole.clone();
            flipped[byte] ^= 4;
            assert_eq!(finding(&flipped), Finding::Headless, "byte {byte}");
        }
    }
}
