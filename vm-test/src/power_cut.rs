//! Which of a disk's writes are on it after the power went. Pure: a log and dice in, an image out.
//!
//! What was flushed is there. Of what came after the last flush, a disk may have kept anything: each write by itself, and
//! of each write any of its sectors.

use crate::block_log::{Act, BlockLog, Entry};

/// Disks write this many bytes at once or not at all.
const SECTOR_BYTES: usize = 512;

/// What becomes of the writes that no flush covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// All are gone: the disk kept them in its cache.
    Dropped,
    /// A random half of them is gone, whatever their order was.
    Half,
    /// A random half of their sectors is gone.
    Torn,
}

impl Fate {
    /// Each that there is.
    pub const ALL: [Fate; 3] = [Fate::Dropped, Fate::Half, Fate::Torn];

    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Fate::Dropped => "dropped",
            Fate::Half => "half of them dropped",
            Fate::Torn => "torn at sectors",
        }
    }
}

/// The power goes after the entry `after` was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Which entry of the log, from 0 on.
    pub after: usize,
    /// What becomes of what no flush covers.
    pub fate: Fate,
    /// Where chance comes from.
    pub seed: u64,
}

/// A disk that is brought forward through its log, from cut to cut.
#[derive(Debug)]
pub struct Disk<'a> {
    bytes: &'a [u8],
    log: &'a BlockLog,
    /// What is on it for good.
    durable: Vec<u8>,
    /// How many entries of the log that is.
    through: usize,
}

impl<'a> Disk<'a> {
    /// As it was before the first entry of `log`, which was read from `bytes`.
    pub fn new(before: Vec<u8>, log: &'a BlockLog, bytes: &'a [u8]) -> Disk<'a> {
        Disk { bytes, log, durable: before, through: 0 }
    }

    /// What is on it after the cut. Cuts must come in the order of their entries.
    ///
    /// # Panics
    ///
    /// When they don't.
    pub fn cut(&mut self, cut: Cut) -> Vec<u8> {
        assert!(cut.after + 1 >= self.through, "a disk does not go back");
        let done = self.log.entries.get(..=cut.after).unwrap_or(&self.log.entries);
        let flushed = done.iter().rposition(|entry| entry.act == Act::Flush).map_or(0, |at| at + 1);
        for entry in done.get(self.through..flushed).unwrap_or_default() {
            apply(&mut self.durable, entry, self.bytes, |_| true);
        }
        self.through = self.through.max(flushed);
        let mut left = self.durable.clone();
        let mut dice = Dice(cut.seed);
        for entry in done.get(flushed..).unwrap_or_default() {
            let is_durable = matches!(entry.act, Act::Write { is_durable: true, .. });
            match cut.fate {
                _ if is_durable => apply(&mut left, entry, self.bytes, |_| true),
                Fate::Dropped => {}
                Fate::Half => {
                    let stays = dice.coin();
                    apply(&mut left, entry, self.bytes, |_| stays);
                }
                Fate::Torn => apply(&mut left, entry, self.bytes, |_| dice.coin()),
            }
        }
        left
    }
}

/// Brings those sectors of a write to the disk that `stays` wants. What is discarded keeps its bytes, as a disk may do.
fn apply(disk: &mut [u8], entry: &Entry, log: &[u8], mut stays: impl FnMut(usize) -> bool) {
    let Act::Write { at, bytes, .. } = &entry.act else { return };
    let written = log.get(bytes.clone()).unwrap_or_default();
    let Some(place) = usize::try_from(*at).ok().and_then(|at| disk.get_mut(at..)) else { return };
    let sectors = place.chunks_mut(SECTOR_BYTES).zip(written.chunks(SECTOR_BYTES)).enumerate();
    for (n, (place, written)) in sectors {
        if stays(n)
            && let Some(place) = place.get_mut(..written.len())
        {
            place.copy_from_slice(written);
        }
    }
}

/// So many different moments out of `among`, with all fates in turn, in the order of a log. The seed decides.
pub fn cuts(among: std::ops::Range<usize>, count: usize, seed: u64) -> Vec<Cut> {
    let mut dice = Dice(seed);
    let mut cuts: Vec<Cut> = Fate::ALL
        .into_iter()
        .cycle()
        .take(if among.is_empty() { 0 } else { count })
        .map(|fate| Cut { after: among.start + dice.below(among.len()), fate, seed: dice.next() })
        .collect();
    cuts.sort_by_key(|cut| cut.after);
    cuts
}

/// SplitMix64: small, and the same for ever.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn coin(&mut self) -> bool {
        self.next() & 1 == 1
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block_log::tests::Writer;

    const SECTORS: usize = 16;

    /// The first byte of each sector after a cut of this log.
    fn after(log: &Writer, cuts: &[Cut]) -> Vec<[u8; SECTORS]> {
        let read = BlockLog::read(&log.0).unwrap();
        let mut disk = Disk::new(vec![0; SECTORS * 512], &read, &log.0);
        let firsts = |image: Vec<u8>| std::array::from_fn(|sector| image[sector * 512]);
        cuts.iter().map(|cut| firsts(disk.cut(*cut))).collect()
    }

    fn cut(after: usize, fate: Fate, seed: u64) -> Cut {
        Cut { after, fate, seed }
    }

    fn sectors(set: &[(usize, u8)]) -> [u8; SECTORS] {
        let mut all = [0; SECTORS];
        set.iter().for_each(|(sector, byte)| all[*sector] = *byte);
        all
    }

    #[test]
    fn what_was_flushed_stays_and_what_was_not_is_dropped() {
        let mut log = Writer::new();
        log.write(1, 1, 10);
        log.flush();
        log.write(1, 1, 11);
        log.write(2, 1, 20);
        log.flush();
        let cuts: Vec<Cut> = (0..5).map(|at| cut(at, Fate::Dropped, 0)).collect();
        let expected = [
            sectors(&[]),
            sectors(&[(1, 10)]),
            sectors(&[(1, 10)]),
            sectors(&[(1, 10)]),
            sectors(&[(1, 11), (2, 20)]),
        ];
        assert_eq!(after(&log, &cuts), expected);
    }

    #[test]
    fn a_half_is_whole_writes_in_any_order_and_torn_is_sectors() {
        let mut log = Writer::new();
        log.write(0, 4, 1);
        log.write(4, 4, 2);
        let seeds = 0..64;
        let halves = after(&log, &seeds.clone().map(|seed| cut(1, Fate::Half, seed)).collect::<Vec<_>>());
        let torn = after(&log, &seeds.map(|seed| cut(1, Fate::Torn, seed)).collect::<Vec<_>>());
        let is_whole = |left: &[u8; SECTORS]| {
            left[..4].iter().all(|byte| *byte == left[0]) && left[4..8].iter().all(|byte| *byte == left[4])
        };
        assert!(halves.iter().all(is_whole));
        for (first, second) in [(0, 0), (1, 0), (0, 2), (1, 2)] {
            assert!(halves.iter().any(|left| (left[0], left[4]) == (first, second)), "{first} {second}");
        }
        assert!(torn.iter().any(|left| !is_whole(left)));
    }

    #[test]
    fn a_write_that_went_through_needs_no_flush() {
        let mut log = Writer::new();
        log.write_through(3, 1, 30);
        log.write(4, 1, 40);
        assert_eq!(after(&log, &[cut(1, Fate::Dropped, 0)]), [sectors(&[(3, 30)])]);
    }

    #[test]
    fn what_is_discarded_keeps_its_bytes_and_a_write_beyond_the_disk_harms_nothing() {
        let mut log = Writer::new();
        log.write(5, 1, 50);
        log.discard(5, 1);
        log.write(SECTORS as u64 + 1, 1, 9);
        log.flush();
        assert_eq!(after(&log, &[cut(3, Fate::Dropped, 0)]), [sectors(&[(5, 50)])]);
    }

    #[test]
    fn cuts_are_in_order_within_the_range_and_the_same_for_the_same_seed() {
        let made = cuts(100..900, 300, 7);
        assert_eq!(made, cuts(100..900, 300, 7));
        assert_ne!(made, cuts(100..900, 300, 8));
        assert!(made.is_sorted_by_key(|cut| cut.after));
        assert!(made.iter().all(|cut| (100..900).contains(&cut.after)));
        for fate in Fate::ALL {
            assert_eq!(made.iter().filter(|cut| cut.fate == fate).count(), 100, "{}", fate.name());
        }
        assert!(cuts(5..5, 10, 1).is_empty());
    }
}
