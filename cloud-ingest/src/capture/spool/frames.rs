//! Step 7 of 12, over HTTP, while the store is away: the bytes of a spool file. Pure: knows no files.
//!
//! ```text
//! file  = "TAPSPOOL" ‖ version 1 ‖ sitting (16 bytes) ‖ frames
//! frame = "TAP>" ‖ length (u32, little-endian) ‖ check (8 bytes) ‖ payload
//! check = the first 8 bytes of SHA-256(sitting ‖ length ‖ payload)
//! ```
//!
//! The sitting is in each check, so that a block that the disk took from an older file is never taken for a frame of this
//! one. Where a frame does not hold, the next one that does is looked for: a torn end is what a power cut leaves of taps
//! that nobody was answered, damage in the middle costs what it covers and nothing behind it.

use ring::digest::{Context, SHA256};
use tap_protocol::codec::{self, VERSION_1};

use serde::{Deserialize, Serialize};
use tap_protocol::ids::Seq;

use crate::event_store::capture::{CapturedTap, Sitting};

const FILE_MARK: &[u8; 8] = b"TAPSPOOL";
const FRAME_MARK: &[u8; 4] = b"TAP>";
const FRAME_HEAD_BYTES: usize = 4 + 4 + 8;

/// What a file begins with.
pub const HEADER_BYTES: usize = 8 + 1 + 16;

/// An entry is a record (1 KiB at most), some ids, and a print per token key there ever was.
pub const MAX_PAYLOAD_BYTES: usize = 64 * 1024;

/// A tap that waits for the store, and the number it was promised.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its number among its source's taps of this file.
    pub seq: Seq,
    /// The tap.
    pub tap: CapturedTap,
}

/// What could be read of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// Its sitting.
    pub sitting: Sitting,
    /// Whole entries, in the order in which they were written.
    pub entries: Vec<Entry>,
    /// Bytes in front of an entry that belong to none: what was there is gone.
    pub damaged_bytes: usize,
    /// Bytes behind the last entry that belong to none: cut off while being written.
    pub torn_bytes: usize,
}

/// What a new file begins with.
pub fn header(sitting: Sitting) -> Vec<u8> {
    [FILE_MARK.as_slice(), &[VERSION_1], &sitting.0].concat()
}

/// One entry's bytes.
pub fn frame(sitting: Sitting, entry: &Entry) -> Vec<u8> {
    let payload = codec::encode(VERSION_1, entry);
    assert!(payload.len() <= MAX_PAYLOAD_BYTES, "an entry of {} bytes was made", payload.len());
    let length = u32::try_from(payload.len()).expect("it is at most 64 KiB").to_le_bytes();
    let check = check(sitting, &length, &payload);
    [FRAME_MARK.as_slice(), &length, &check, &payload].concat()
}

/// Reads a file; `None` if not even its header holds, so that nothing in it was ever promised.
pub fn read(bytes: &[u8]) -> Option<Content> {
    let (header, mut rest) = bytes.split_at_checked(HEADER_BYTES)?;
    let (mark, header) = header.split_at(FILE_MARK.len());
    let (version, sitting) = header.split_at(1);
    if mark != FILE_MARK || version != [VERSION_1] {
        return None;
    }
    let sitting = Sitting(sitting.try_into().expect("the header has 16 bytes of it"));
    let mut content = Content { sitting, entries: Vec::new(), damaged_bytes: 0, torn_bytes: 0 };
    while !rest.is_empty() {
        match first(sitting, rest) {
            Some((entry, behind)) => {
                content.damaged_bytes += std::mem::take(&mut content.torn_bytes);
                content.entries.push(entry);
                rest = behind;
            }
            None => {
                content.torn_bytes += 1;
                rest = &rest[1..];
            }
        }
    }
    Some(content)
}

/// The entry that these bytes begin with, and what is behind it.
fn first(sitting: Sitting, bytes: &[u8]) -> Option<(Entry, &[u8])> {
    let (head, rest) = bytes.split_at_checked(FRAME_HEAD_BYTES)?;
    let (mark, head) = head.split_at(FRAME_MARK.len());
    let (length, sum) = head.split_at(4);
    if mark != FRAME_MARK {
        return None;
    }
    let count = u32::from_le_bytes(length.try_into().ok()?) as usize;
    if count > MAX_PAYLOAD_BYTES {
        return None;
    }
    let (payload, behind) = rest.split_at_checked(count)?;
    if check(sitting, length, payload) != sum {
        return None;
    }
    Some((codec::decode(payload, MAX_PAYLOAD_BYTES).ok()?, behind))
}

fn check(sitting: Sitting, length: &[u8], payload: &[u8]) -> [u8; 8] {
    let mut hashing = Context::new(&SHA256);
    [sitting.0.as_slice(), length, payload].into_iter().for_each(|part| hashing.update(part));
    hashing.finish().as_ref()[..8].try_into().expect("SHA-256 gives 32 bytes")
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;
    use tap_protocol::badge::TokenKeyId;

    use super::*;
    use crate::event_store::UtcMs;
    use crate::event_store::capture::Print;

    const SITTING: Sitting = Sitting([7; 16]);

    /// A tap of source `api-1` under the `n`th idempotency key.
    pub fn tap(n: u8) -> CapturedTap {
        CapturedTap {
            source: "api-1".parse().unwrap(),
            api_key: [1; 5],
            key_sha256: [n; 32],
            prints: vec![Print { token_key: TokenKeyId(1), sha256: [n; 32] }],
            received: UtcMs(i64::from(n)),
            record: vec![n; 1 + usize::from(n) % 40],
        }
    }

    fn entries(count: u8) -> Vec<Entry> {
        (1..=count).map(|n| Entry { seq: Seq(n.into()), tap: tap(n) }).collect()
    }

    fn file(entries: &[Entry]) -> Vec<u8> {
        let frames = entries.iter().flat_map(|entry| frame(SITTING, entry));
        header(SITTING).into_iter().chain(frames).collect()
    }

    #[test]
    fn what_was_written_is_read() {
        let content = read(&file(&entries(5))).unwrap();
        assert_eq!((content.sitting, content.entries), (SITTING, entries(5)));
        assert_eq!((content.damaged_bytes, content.torn_bytes), (0, 0));
    }

    #[test]
    fn a_file_cut_at_any_byte_has_just_the_whole_entries_before_it() {
        let all = entries(6);
        let bytes = file(&all);
        let ends: Vec<usize> = (0..=all.len()).map(|n| file(&all[..n]).len()).collect();
        for cut in 0..=bytes.len() {
            let content = read(&bytes[..cut]);
            let whole = ends.iter().filter(|end| **end <= cut).count();
            match whole.checked_sub(1) {
                None => assert_eq!(content, None, "cut at {cut}"),
                Some(whole) => {
                    let content = content.unwrap();
                    assert_eq!(content.entries, all[..whole], "cut at {cut}");
                    assert_eq!(content.torn_bytes, cut - ends[whole]);
                    assert_eq!(content.damaged_bytes, 0);
                }
            }
        }
    }

    #[test]
    fn a_changed_bit_costs_the_entry_that_it_is_in_and_no_other() {
        let all = entries(4);
        let bytes = file(&all);
        let ends: Vec<usize> = (0..=all.len()).map(|n| file(&all[..n]).len()).collect();
        for bit in HEADER_BYTES * 8..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let hit = ends.iter().position(|end| bit / 8 < *end).unwrap() - 1;
            let expected: Vec<_> =
                all.iter().enumerate().filter(|(n, _)| *n != hit).map(|(_, entry)| entry.clone()).collect();
            assert_eq!(read(&changed).unwrap().entries, expected, "bit {bit}");
        }
    }

    #[test]
    fn frames_of_another_file_are_not_taken() {
        let other = frame(Sitting([8; 16]), &entries(1)[0]);
        let content = read(&[header(SITTING), other.clone()].concat()).unwrap();
        assert_eq!((content.entries.len(), content.torn_bytes), (0, other.len()));
    }

    #[test]
    fn what_is_no_spool_file_is_not_read() {
        for bytes in [b"".as_slice(), b"TAPSPOOL", b"SQLite format 3\0 and so on and on", &[0; 64]] {
            assert_eq!(read(bytes), None);
        }
        let mut newer = file(&entries(1));
        newer[8] = 2;
        assert_eq!(read(&newer), None);
    }

    proptest! {
        /// A power cut leaves a prefix, with anything behind it: nothing that was never written is ever read.
        #[test]
        fn whatever_stands_behind_a_cut_nothing_is_made_up(
            cut in any::<prop::sample::Index>(),
            junk in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let all = entries(6);
            let bytes = file(&all);
            let cut = HEADER_BYTES + cut.index(bytes.len() - HEADER_BYTES);
            let content = read(&[&bytes[..cut], &junk].concat()).unwrap();
            prop_assert!(all.starts_with(&content.entries));
        }
    }
}
