//! Reads the log that qemu's `blklogwrites` keeps of a disk: every write and every flush, in the order in which the guest
//! was told that they were done. Pure: bytes in, entries out.
//!
//! The format is that of the kernel's dm-log-writes: a sector with a superblock, then for each entry a sector that
//! describes it and the sectors that were written. How many entries the superblock speaks of is not read: it is written
//! now and then, and a killed qemu leaves it behind the truth.

use std::ops::Range;

const MAGIC: u64 = 0x6a_7366_7773_6872;
const VERSION: u64 = 1;

const FLUSH: u64 = 1 << 0;
const FORCE_UNIT_ACCESS: u64 = 1 << 1;
const DISCARD: u64 = 1 << 2;
const MARK: u64 = 1 << 3;

/// Larger sectors than any disk has would only mean that the file is no log.
const MAX_SECTOR_BYTES: u64 = 64 * 1024;

/// What a disk was told, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockLog {
    /// Writes are in whole sectors of this size.
    pub sector_bytes: u64,
    /// From the first on.
    pub entries: Vec<Entry>,
}

/// One thing that a disk was told, and has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What.
    pub act: Act,
    /// Where this entry ends in the log's file: a log that was as long as this had it whole.
    pub log_end: u64,
}

/// What a disk can be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Bytes to the disk, from `at` on.
    Write {
        /// Where on the disk.
        at: u64,
        /// Which bytes of the log they are.
        bytes: Range<usize>,
        /// Whether it was durable by itself, without a flush.
        is_durable: bool,
    },
    /// Everything that was done before it is durable.
    Flush,
    /// These bytes of the disk are nobody's any more. They may keep what they have.
    Discard {
        /// Which.
        on_disk: Range<u64>,
    },
}

/// Why a file is not such a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoLog {
    /// It begins with something else.
    Foreign,
    /// It is of a version that nobody has told us about.
    Version(u64),
    /// Its sectors have no sensible size.
    SectorBytes(u64),
    /// The entry that begins at this byte has flags that are not known.
    Flags(u64),
}

impl std::fmt::Display for NoLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            NoLog::Foreign => write!(f, "this is no log of blklogwrites: it begins with other bytes"),
            NoLog::Version(version) => {
                write!(f, "the log is of version {version}; only {VERSION} can be read")
            }
            NoLog::SectorBytes(bytes) => write!(f, "the log speaks of sectors of {bytes} bytes"),
            NoLog::Flags(at) => write!(f, "the log's entry at byte {at} has flags that are not known"),
        }
    }
}

impl std::error::Error for NoLog {}

impl BlockLog {
    /// Reads all whole entries; one that breaks off at the end was under way when qemu was killed, and nobody was told.
    ///
    /// # Errors
    ///
    /// When the bytes are something else.
    pub fn read(log: &[u8]) -> Result<BlockLog, NoLog> {
        if number(log, 0) != Some(MAGIC) {
            return Err(NoLog::Foreign);
        }
        match number(log, 8) {
            Some(VERSION) => {}
            version => return Err(NoLog::Version(version.unwrap_or_default())),
        }
        let sector_bytes = number(log, 24).unwrap_or_default() & u64::from(u32::MAX);
        if !sector_bytes.is_power_of_two() || !(512..=MAX_SECTOR_BYTES).contains(&sector_bytes) {
            return Err(NoLog::SectorBytes(sector_bytes));
        }
        let (mut entries, mut at) = (Vec::new(), sector_bytes);
        while let Some(entry) = read_entry(log, at, sector_bytes)? {
            at = entry.log_end;
            entries.push(entry);
        }
        Ok(BlockLog { sector_bytes, entries })
    }
}

fn read_entry(log: &[u8], at: u64, sector_bytes: u64) -> Result<Option<Entry>, NoLog> {
    let field = |n: u64| number(log, at + 8 * n);
    let (Some(sector), Some(sectors), Some(flags), Some(_)) = (field(0), field(1), field(2), field(3)) else {
        return Ok(None);
    };
    if flags & !(FLUSH | FORCE_UNIT_ACCESS | DISCARD | MARK) != 0 {
        return Err(NoLog::Flags(at));
    }
    // A hole: this entry was not written any more, only one behind it.
    if sectors == 0 && flags == 0 {
        return Ok(None);
    }
    let has_data = flags & (DISCARD | FLUSH) == 0;
    let begins = at + sector_bytes;
    let overflow = NoLog::Flags(at);
    let (on_disk, length) = (sector.checked_mul(sector_bytes), sectors.checked_mul(sector_bytes));
    let (Some(on_disk), Some(length)) = (on_disk, length) else { return Err(overflow) };
    let log_end = if has_data { begins.checked_add(length).ok_or(overflow)? } else { begins };
    if log_end > log.len() as u64 {
        return Ok(None);
    }
    let act = if flags & FLUSH != 0 {
        Act::Flush
    } else if flags & DISCARD != 0 {
        Act::Discard { on_disk: on_disk..on_disk.checked_add(length).ok_or(overflow)? }
    } else {
        let bytes = begins as usize..log_end as usize;
        Act::Write { at: on_disk, bytes, is_durable: flags & FORCE_UNIT_ACCESS != 0 }
    };
    Ok(Some(Entry { act, log_end }))
}

/// The 64 bits at this byte, little end first.
fn number(log: &[u8], at: u64) -> Option<u64> {
    let at = usize::try_from(at).ok()?;
    let bytes = log.get(at..at.checked_add(8)?)?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A log as qemu would write it.
    pub(crate) struct Writer(pub(crate) Vec<u8>);

    impl Writer {
        pub(crate) fn new() -> Writer {
            let mut log = Vec::new();
            for number in [MAGIC, VERSION, 0, 512] {
                log.extend(u64::to_le_bytes(number));
            }
            log.resize(512, 0);
            Writer(log)
        }

        fn entry(&mut self, sector: u64, sectors: u64, flags: u64, data: &[u8]) {
            let begins = self.0.len();
            for number in [sector, sectors, flags, 0] {
                self.0.extend(u64::to_le_bytes(number));
            }
            self.0.resize(begins + 512, 0);
            self.0.extend(data);
        }

        /// So many sectors full of this byte.
        pub(crate) fn write(&mut self, sector: u64, sectors: u64, byte: u8) {
            self.entry(sector, sectors, 0, &vec![byte; sectors as usize * 512]);
        }

        pub(crate) fn write_through(&mut self, sector: u64, sectors: u64, byte: u8) {
            self.entry(sector, sectors, FORCE_UNIT_ACCESS, &vec![byte; sectors as usize * 512]);
        }

        pub(crate) fn flush(&mut self) {
            self.entry(0, 0, FLUSH, &[]);
        }

        pub(crate) fn discard(&mut self, sector: u64, sectors: u64) {
            self.entry(sector, sectors, DISCARD, &[]);
        }
    }

    #[test]
    fn entries_come_in_their_order_and_say_where_they_end() {
        let mut log = Writer::new();
        log.write(7, 2, 0xaa);
        log.flush();
        log.discard(100, 8);
        log.write_through(3, 1, 0xbb);
        let read = BlockLog::read(&log.0).unwrap();
        assert_eq!(read.sector_bytes, 512);
        let acts: Vec<_> = read.entries.iter().map(|entry| entry.act.clone()).collect();
        let expected = [
            Act::Write { at: 7 * 512, bytes: 1024..2048, is_durable: false },
            Act::Flush,
            Act::Discard { on_disk: 51_200..55_296 },
            Act::Write { at: 3 * 512, bytes: 3584..4096, is_durable: true },
        ];
        assert_eq!(acts, expected);
        let ends: Vec<_> = read.entries.iter().map(|entry| entry.log_end).collect();
        assert_eq!(ends, [2048, 2560, 3072, 4096]);
        assert!(log.0[1024..2048].iter().all(|byte| *byte == 0xaa));
    }

    #[test]
    fn the_superblock_of_a_killed_qemu_counts_too_few_and_is_not_asked() {
        let mut log = Writer::new();
        log.write(0, 1, 1);
        log.write(1, 1, 2);
        assert_eq!(log.0[16..24], [0; 8]);
        assert_eq!(BlockLog::read(&log.0).unwrap().entries.len(), 2);
    }

    #[test]
    fn an_entry_that_breaks_off_anywhere_was_told_to_nobody() {
        let mut log = Writer::new();
        log.write(0, 1, 1);
        let whole = log.0.len();
        log.write(1, 3, 2);
        for length in whole..log.0.len() {
            assert_eq!(BlockLog::read(&log.0[..length]).unwrap().entries.len(), 1, "{length}");
        }
        assert_eq!(BlockLog::read(&log.0).unwrap().entries.len(), 2);
    }

    #[test]
    fn a_hole_ends_the_log() {
        let mut log = Writer::new();
        log.write(0, 1, 1);
        let hole = log.0.len();
        log.write(1, 1, 2);
        log.flush();
        log.0[hole..hole + 512].fill(0);
        assert_eq!(BlockLog::read(&log.0).unwrap().entries.len(), 1);
    }

    #[test]
    fn other_files_are_refused_with_a_reason() {
        let log = Writer::new().0;
        let with = |at: usize, byte: u8| {
            let mut log = log.clone();
            log[at] = byte;
            BlockLog::read(&log).unwrap_err()
        };
        assert_eq!(with(0, 0), NoLog::Foreign);
        assert_eq!(BlockLog::read(&[]).unwrap_err(), NoLog::Foreign);
        assert_eq!(with(8, 2), NoLog::Version(2));
        assert_eq!(with(24, 1), NoLog::SectorBytes(513));
        let mut log = Writer::new();
        log.flush();
        log.0[512 + 16] = 0x20;
        assert_eq!(BlockLog::read(&log.0).unwrap_err(), NoLog::Flags(512));
    }

    #[test]
    fn absurd_sizes_are_refused_and_not_believed() {
        let mut log = Writer::new();
        log.write(0, 1, 1);
        log.0[512 + 8..512 + 16].fill(0xff);
        assert_eq!(BlockLog::read(&log.0).unwrap_err(), NoLog::Flags(512));
    }
}
