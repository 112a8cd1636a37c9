//! Step 2 of 12, in part: what the roster says of a badge. Pure: sorted bytes and a look-up. Knows no cloud and no disk.
//!
//! The entries stay the bytes that they came as: 100,000 badges are 1.7 MB here and would be three times that in a map.

use tap_protocol::badge::Token;
use tap_protocol::limits::ROSTER_CHUNK_ENTRIES;
use tap_protocol::roster::{ENTRY_BYTES, RosterHead, Standing};
use tap_protocol::tap::Verdict;

/// One whole roster, ready to be looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Book {
    head: RosterHead,
    bytes: Vec<u8>,
    revoked: u32,
    /// CLOCK_BOOTTIME when the head came: the cloud's clock showed no less than `issued_utc_ms` then.
    dated_boottime_ms: u64,
}

/// Chunks that are as the head says, and make no roster all the same: the cloud made a mistake, and asking again brings
/// the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotARoster {
    /// Not as many as the head says.
    #[error("it has {found} entries and its head says {said}")]
    Count {
        /// What the head says.
        said: u32,
        /// What there is.
        found: usize,
    },
    /// Two entries are equal or the wrong way round.
    #[error("entry {at} is not above the one before it")]
    Order {
        /// Which, from 0.
        at: usize,
    },
    /// An entry's last byte means nothing here.
    #[error("entry {at} has a standing that this agent does not know")]
    Standing {
        /// Which, from 0.
        at: usize,
    },
}

impl Book {
    /// Puts a roster together from the bytes of all chunks.
    pub fn new(head: RosterHead, bytes: Vec<u8>, boottime_ms: u64) -> Result<Book, NotARoster> {
        let found = bytes.len() / ENTRY_BYTES;
        if !bytes.len().is_multiple_of(ENTRY_BYTES) || found != head.entries as usize {
            return Err(NotARoster::Count { said: head.entries, found });
        }
        let revoked = check(&bytes)?;
        Ok(Book { head, bytes, revoked, dated_boottime_ms: boottime_ms })
    }

    /// Its announcement.
    pub fn head(&self) -> &RosterHead {
        &self.head
    }

    /// How many badges are on it.
    pub fn badges(&self) -> u32 {
        self.head.entries
    }

    /// How many of them were revoked.
    pub fn revoked(&self) -> u32 {
        self.revoked
    }

    /// Takes over when it was last confirmed and how long it counts, from a later head of the same roster.
    pub fn redate(&mut self, head: &RosterHead, boottime_ms: u64) {
        (self.head.issued_utc_ms, self.head.expires_utc_ms) = (head.issued_utc_ms, head.expires_utc_ms);
        self.dated_boottime_ms = boottime_ms;
    }

    /// Whether it is so old that a badge which is not on it may be new. `best_utc_ms` is the best time that the agent has,
    /// if it has any; the head itself says what time it cannot be any more.
    pub fn is_stale(&self, best_utc_ms: Option<i64>, boottime_ms: u64) -> bool {
        self.utc_ms(best_utc_ms, boottime_ms) > self.head.expires_utc_ms
    }

    /// How long ago the cloud last said that this is the roster, milliseconds.
    pub fn age_ms(&self, best_utc_ms: Option<i64>, boottime_ms: u64) -> u64 {
        self.utc_ms(best_utc_ms, boottime_ms).saturating_sub(self.head.issued_utc_ms).max(0).unsigned_abs()
    }

    fn utc_ms(&self, best_utc_ms: Option<i64>, boottime_ms: u64) -> i64 {
        let since_ms = i64::try_from(boottime_ms.saturating_sub(self.dated_boottime_ms)).unwrap_or(i64::MAX);
        let at_least_ms = self.head.issued_utc_ms.saturating_add(since_ms);
        best_utc_ms.unwrap_or(at_least_ms).max(at_least_ms)
    }

    /// What it says of a badge; `None` if that is not on it.
    pub fn standing(&self, token: Token) -> Option<Standing> {
        let (mut low, mut high) = (0, self.bytes.len() / ENTRY_BYTES);
        while low < high {
            let middle = low.midpoint(high);
            let entry = self.entry(middle);
            match entry[..16].cmp(&token.0) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Standing::from_byte(entry[16]),
            }
        }
        None
    }

    fn entry(&self, at: usize) -> &[u8] {
        &self.bytes[at * ENTRY_BYTES..(at + 1) * ENTRY_BYTES]
    }
}

/// What a tap says of a badge. What is on the roster is said however old it is; what is not on it may be new, once the
/// roster is stale.
pub fn verdict(book: Option<&Book>, token: Token, best_utc_ms: Option<i64>, boottime_ms: u64) -> Verdict {
    let Some(book) = book else { return Verdict::NoRoster };
    match book.standing(token) {
        Some(standing) => standing.verdict(),
        None if book.is_stale(best_utc_ms, boottime_ms) => Verdict::NoRoster,
        None => Verdict::Unknown,
    }
}

/// Checks that entries ascend and mean something; returns how many are revoked.
pub fn check(bytes: &[u8]) -> Result<u32, NotARoster> {
    let mut revoked = 0;
    let mut before: Option<&[u8]> = None;
    for (at, entry) in bytes.chunks_exact(ENTRY_BYTES).enumerate() {
        let (token, standing) = entry.split_at(16);
        if before.is_some_and(|before| before >= token) {
            return Err(NotARoster::Order { at });
        }
        match Standing::from_byte(standing[0]) {
            Some(Standing::Known) => {}
            Some(Standing::Revoked) => revoked += 1,
            None => return Err(NotARoster::Standing { at }),
        }
        before = Some(token);
    }
    Ok(revoked)
}

/// How many bytes chunk `index` of that roster has, if it has such a chunk.
pub fn chunk_bytes(head: &RosterHead, index: u32) -> Option<usize> {
    let first = (index as usize).checked_mul(ROSTER_CHUNK_ENTRIES)?;
    let entries = (head.entries as usize).checked_sub(first)?.min(ROSTER_CHUNK_ENTRIES);
    (entries > 0).then_some(entries * ENTRY_BYTES)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tap_protocol::roster::entry;

    use super::*;

    const DAY_MS: i64 = 86_400_000;

    fn head(entries: u32) -> RosterHead {
        RosterHead {
            controller: "hq-door-1".parse().unwrap(),
            version: 7,
            issued_utc_ms: 1_000 * DAY_MS,
            expires_utc_ms: 1_007 * DAY_MS,
            entries,
            chunks: Vec::new(),
        }
    }

    fn book(entries: &[(u8, Standing)]) -> Result<Book, NotARoster> {
        let bytes = entries.iter().flat_map(|(n, standing)| entry(Token([*n; 16]), *standing)).collect();
        Book::new(head(entries.len() as u32), bytes, 5_000)
    }

    const BOOK: &[(u8, Standing)] = &[(3, Standing::Known), (5, Standing::Revoked), (9, Standing::Known)];

    #[test]
    fn every_badge_is_found_and_no_other() {
        let book = book(BOOK).unwrap();
        let found: Vec<_> = (0..=10).filter_map(|n| Some((n, book.standing(Token([n; 16]))?))).collect();
        assert_eq!(found, BOOK);
        assert_eq!((book.badges(), book.revoked()), (3, 1));
    }

    #[test]
    fn what_is_unsorted_doubled_miscounted_or_unheard_of_is_no_roster() {
        let (known, revoked) = (Standing::Known, Standing::Revoked);
        assert_eq!(book(&[(5, known), (3, known)]), Err(NotARoster::Order { at: 1 }));
        assert_eq!(book(&[(3, known), (5, known), (5, revoked)]), Err(NotARoster::Order { at: 2 }));
        let one = entry(Token([1; 16]), known).to_vec();
        assert_eq!(Book::new(head(2), one.clone(), 0), Err(NotARoster::Count { said: 2, found: 1 }));
        let strange = [&one[..16], &[2]].concat();
        assert_eq!(Book::new(head(1), strange, 0), Err(NotARoster::Standing { at: 0 }));
    }

    #[test]
    fn a_stale_roster_still_tells_what_is_on_it_and_calls_nobody_unknown() {
        let book = book(BOOK).unwrap();
        let say = |n, utc_ms| verdict(Some(&book), Token([n; 16]), utc_ms, 5_000);
        let (fresh, stale) = (Some(1_007 * DAY_MS), Some(1_007 * DAY_MS + 1));
        assert_eq!([3, 5, 4].map(|n| say(n, fresh)), [Verdict::Known, Verdict::Revoked, Verdict::Unknown]);
        assert_eq!([3, 5, 4].map(|n| say(n, stale)), [Verdict::Known, Verdict::Revoked, Verdict::NoRoster]);
        assert_eq!(verdict(None, Token([3; 16]), fresh, 0), Verdict::NoRoster);
    }

    #[test]
    fn a_clock_that_is_behind_or_unknown_cannot_keep_a_roster_fresh_for_ever() {
        let mut book = book(BOOK).unwrap();
        let week_ms = 7 * DAY_MS.unsigned_abs();
        for behind in [None, Some(0)] {
            assert!(!book.is_stale(behind, 5_000 + week_ms));
            assert!(book.is_stale(behind, 5_001 + week_ms));
        }
        assert_eq!(book.age_ms(None, 5_000 + week_ms), week_ms);
        let later = RosterHead {
            issued_utc_ms: 1_006 * DAY_MS,
            expires_utc_ms: 1_013 * DAY_MS,
            ..book.head().clone()
        };
        book.redate(&later, 5_000 + week_ms);
        assert!(!book.is_stale(None, 5_001 + week_ms));
    }

    #[test]
    fn every_chunk_but_the_last_is_full() {
        let full = ROSTER_CHUNK_ENTRIES as u32;
        let sizes = |entries, index| chunk_bytes(&head(entries), index).map(|bytes| bytes / ENTRY_BYTES);
        assert_eq!([0, 1].map(|index| sizes(full, index)), [Some(1_900), None]);
        assert_eq!([0, 1, 2].map(|index| sizes(full + 1, index)), [Some(1_900), Some(1), None]);
        assert_eq!(sizes(0, 0), None);
        assert_eq!(sizes(1, u32::MAX), None);
    }

    proptest! {
        /// Whatever the roster and whenever it is asked, there is a verdict, and only what is on it decides it.
        #[test]
        fn a_look_up_agrees_with_a_map(
            entries in prop::collection::btree_map(any::<[u8; 16]>(), any::<bool>(), 0..200),
            others in prop::collection::vec(any::<[u8; 16]>(), 0..50),
            utc_ms in any::<Option<i64>>(),
            boottime_ms in any::<u64>(),
        ) {
            let standing = |revoked| if revoked { Standing::Revoked } else { Standing::Known };
            let bytes = entries.iter().flat_map(|(token, revoked)| entry(Token(*token), standing(*revoked)));
            let book = Book::new(head(entries.len() as u32), bytes.collect(), 0).unwrap();
            let stale = book.is_stale(utc_ms, boottime_ms);
            for token in entries.keys().chain(&others) {
                let expected = match entries.get(token) {
                    Some(revoked) => standing(*revoked).verdict(),
                    None if stale => Verdict::NoRoster,
                    None => Verdict::Unknown,
                };
                prop_assert_eq!(verdict(Some(&book), Token(*token), utc_ms, boottime_ms), expected);
            }
        }
    }
}
