//! Beside the line: what a segment is made of, as bytes. Pure: knows no file, no store and no compression. The format is
//! `docs/archive.md`'s, and version 1 of it is frozen (`tests/golden/segment-v1.bin`).
//!
//! A segment is [`MAGIC`], then parts: four bytes of length, little-endian, and so many bytes of postcard. A record is there
//! as its controller signed it, so that the file proves itself; all else is what the store had beside it.

use serde::{Deserialize, Serialize};

/// The first bytes; the last of them is the version.
pub const MAGIC: [u8; 8] = *b"TAPSEG\0\x01";

/// No part is longer: the longest has a request's body in it.
pub const MAX_PART_BYTES: usize = 16 * 1024 * 1024;

/// One part. The list only grows at its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Part {
    /// First.
    Header(Header),
    /// An outbox; its records follow.
    Outbox(Outbox),
    /// A record of that outbox, in the order of seq.
    Record(Record),
    /// A signature over records of that outbox, after the last one here that it covers.
    Signature(Signature),
    /// After all outboxes: a destination; what it was told follows.
    Destination(String),
    /// A delivery, in the order of positions.
    Delivery(Delivery),
    /// An attempt, in the order of positions.
    Attempt(Attempt),
    /// What came out otherwise than the destination was told.
    Difference(Difference),
    /// Last.
    End(End),
}

/// Which segment this is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Which life of the store it left.
    pub store_epoch: u64,
    /// Its first position.
    pub from: u64,
    /// Its last one: all between are here.
    pub to: u64,
    /// When it was made, in milliseconds of UTC.
    pub made_ms: i64,
    /// By whom.
    pub made_by: String,
    /// By which version of this program.
    pub version: String,
}

/// An outbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outbox {
    /// Whose.
    pub controller: String,
    /// Which.
    pub outbox: [u8; 16],
    /// What the event ids of its records begin with.
    pub prefix: [u8; 16],
    /// The controller's record keys, those of old included.
    pub record_keys: Vec<[u8; 32]>,
    /// The record before the first one here.
    pub seq_before: u64,
    /// The hash there.
    pub hash_before: [u8; 32],
}

/// A record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its place among all.
    pub position: u64,
    /// Its number in the outbox.
    pub seq: u64,
    /// When it was stored.
    pub received_ms: i64,
    /// What it was taken for.
    pub kind: String,
    /// As received.
    pub bytes: Vec<u8>,
    /// `h(seq)`.
    pub hash: [u8; 32],
    /// If it was taken for a tap: what was known of its time.
    pub time: Option<Time>,
}

/// What was known of a tap's time. The list only grows at its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Time {
    /// Known.
    Known {
        /// When, true time.
        at_ms: i64,
        /// Give or take.
        uncertainty_ms: u64,
        /// The middle between what was known before and after.
        estimated: bool,
    },
    /// Nothing.
    Unknown,
    /// Too little.
    Between {
        /// Not before.
        not_before_ms: i64,
        /// Not after.
        not_after_ms: i64,
    },
    /// What was known contradicted itself.
    Disputed,
}

/// A signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// The first record that it covers.
    pub first_seq: u64,
    /// The last one.
    pub last_seq: u64,
    /// Whose.
    pub key: [u8; 32],
    /// Itself: 64 bytes.
    pub signature: Vec<u8>,
    /// The message that was signed, if the records here do not give it again.
    pub message: Option<Vec<u8>>,
}

/// A delivery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// Of which record.
    pub position: u64,
    /// Whose tap it was, if that was known.
    pub person: Option<String>,
    /// `delivered` or `discarded`.
    pub state: String,
    /// When it was due.
    pub due_ms: i64,
    /// Attempts started.
    pub attempts: u32,
    /// Those that failed.
    pub failures: u32,
    /// What kind of work it was.
    pub class: String,
    /// What was sent.
    pub body: Option<String>,
    /// Which way it was told to go, where that is not as the reader was placed.
    pub direction: Option<String>,
}

/// An attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Of which record.
    pub position: u64,
    /// 1, 2, 3 …
    pub number: u32,
    /// When it started.
    pub started_ms: i64,
    /// When its end was known.
    pub finished_ms: Option<i64>,
    /// How it ended.
    pub outcome: Option<String>,
    /// The HTTP status.
    pub status: Option<u16>,
    /// What was answered.
    pub answer: Option<String>,
}

/// What a destination was told and came out otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Of which record.
    pub position: u64,
    /// `person` or `direction`.
    pub what: String,
    /// What it was told.
    pub told: String,
    /// What it is, if anything.
    pub is: Option<String>,
    /// Since when that was known.
    pub noted_ms: i64,
}

/// What is in the segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Records.
    pub records: u64,
    /// Taps among them.
    pub taps: u64,
    /// Attempts.
    pub attempts: u64,
    /// When the first record was received.
    pub received_from_ms: i64,
    /// When the last was.
    pub received_to_ms: i64,
    /// Each outbox, in the order in which they are here.
    pub outboxes: Vec<Ended>,
    /// Destination, state, and how many deliveries there are.
    pub deliveries: Vec<(String, String, u64)>,
    /// SHA-256 over all bytes before this part.
    pub sha256: [u8; 32],
}

/// What the segment has of an outbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Whose.
    pub controller: String,
    /// Which.
    pub outbox: [u8; 16],
    /// Its first record here.
    pub from: u64,
    /// Its last one.
    pub to: u64,
    /// `h(from - 1)`.
    pub hash_before: [u8; 32],
    /// `h(to)`.
    pub hash_after: [u8; 32],
}

/// Bytes are no segment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoPart {
    /// Something else, or changed.
    #[error("the file is no segment of an archive")]
    Foreign,
    /// By a later version of this program.
    #[error(
        "the segment has version {0}, and this program reads 1: use the program that wrote it, or a later one"
    )]
    Newer(u8),
    /// Longer than any part.
    #[error("a part says that it has {0} bytes, and none has so many")]
    TooLong(u32),
    /// Not as a part is written.
    #[error("a part cannot be read")]
    Malformed,
}

impl Part {
    /// With its length in front.
    pub fn encode(&self) -> Vec<u8> {
        let body = postcard::to_stdvec(self).expect("a part has nothing that cannot be written");
        let length = u32::try_from(body.len()).expect("no part is so long");
        [length.to_le_bytes().as_slice(), &body].concat()
    }

    /// From its bytes without the length.
    pub fn decode(body: &[u8]) -> Result<Part, NoPart> {
        match postcard::take_from_bytes(body) {
            Ok((part, [])) => Ok(part),
            Ok(_) | Err(_) => Err(NoPart::Malformed),
        }
    }
}

/// Whether these are the first bytes of a segment that can be read.
pub fn check_magic(first: &[u8; 8]) -> Result<(), NoPart> {
    match first.split_last() {
        Some((version, name)) if name == &MAGIC[..7] => match version {
            1 => Ok(()),
            version => Err(NoPart::Newer(*version)),
        },
        _ => Err(NoPart::Foreign),
    }
}

/// How long the part is that begins with these bytes.
pub fn part_length(first: [u8; 4]) -> Result<usize, NoPart> {
    let length = u32::from_le_bytes(first);
    let fits = usize::try_from(length).ok().filter(|length| *length <= MAX_PART_BYTES);
    fits.ok_or(NoPart::TooLong(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One of everything.
    fn all() -> Vec<Part> {
        let (outbox, hash_before, hash_after) = ([7; 16], [8; 32], [9; 32]);
        let record = |seq, time| Record {
            position: 100 + seq,
            seq,
            received_ms: 1_700_000_000_000,
            kind: "tap".into(),
            bytes: vec![1, 2, 3],
            hash: hash_after,
            time,
        };
        vec![
            Part::Header(Header {
                store_epoch: 1_700_000_000_000,
                from: 101,
                to: 104,
                made_ms: 1_710_000_000_000,
                made_by: "ana".into(),
                version: "0.1.0".into(),
            }),
            Part::Outbox(Outbox {
                controller: "hq-door-1".into(),
                outbox,
                prefix: [6; 16],
                record_keys: vec![[5; 32]],
                seq_before: 0,
                hash_before,
            }),
            Part::Record(record(
                1,
                Some(Time::Known { at_ms: 1_700_000_000_001, uncertainty_ms: 5, estimated: true }),
            )),
            Part::Record(record(2, Some(Time::Unknown))),
            Part::Record(record(3, Some(Time::Between { not_before_ms: 1, not_after_ms: 2 }))),
            Part::Record(record(4, Some(Time::Disputed))),
            Part::Signature(Signature {
                first_seq: 1,
                last_seq: 4,
                key: [5; 32],
                signature: vec![4; 64],
                message: Some(vec![1]),
            }),
            Part::Destination("hr".into()),
            Part::Delivery(Delivery {
                position: 101,
                person: Some("ana".into()),
                state: "delivered".into(),
                due_ms: 1_700_000_000_002,
                attempts: 2,
                failures: 1,
                class: "live".into(),
                body: Some("{}".into()),
                direction: Some("out".into()),
            }),
            Part::Attempt(Attempt {
                position: 101,
                number: 1,
                started_ms: 1_700_000_000_003,
                finished_ms: Some(1_700_000_000_004),
                outcome: Some("server_error".into()),
                status: Some(503),
                answer: Some("later".into()),
            }),
            Part::Difference(Difference {
                position: 101,
                what: "person".into(),
                told: "ana".into(),
                is: None,
                noted_ms: 1_700_000_000_005,
            }),
            Part::End(End {
                records: 4,
                taps: 4,
                attempts: 1,
                received_from_ms: 1_700_000_000_000,
                received_to_ms: 1_700_000_000_000,
                outboxes: vec![Ended {
                    controller: "hq-door-1".into(),
                    outbox,
                    from: 1,
                    to: 4,
                    hash_before,
                    hash_after,
                }],
                deliveries: vec![("hr".into(), "delivered".into(), 1)],
                sha256: [3; 32],
            }),
        ]
    }

    fn encoded(parts: &[Part]) -> Vec<u8> {
        parts.iter().fold(MAGIC.to_vec(), |bytes, part| [bytes, part.encode()].concat())
    }

    fn decoded(bytes: &[u8]) -> Result<Vec<Part>, NoPart> {
        let (first, mut rest) = bytes.split_first_chunk::<8>().ok_or(NoPart::Foreign)?;
        check_magic(first)?;
        let mut parts = Vec::new();
        while let Some((length, behind)) = rest.split_first_chunk::<4>() {
            let (body, behind) = behind.split_at_checked(part_length(*length)?).ok_or(NoPart::Malformed)?;
            parts.push(Part::decode(body)?);
            rest = behind;
        }
        Ok(parts)
    }

    #[test]
    fn version_1_is_written_and_read_as_it_always_was() {
        let golden = include_bytes!("../../tests/golden/segment-v1.bin");
        assert!(encoded(&all()) == golden, "the bytes of version 1 have changed");
        assert_eq!(decoded(golden).unwrap(), all());
    }

    #[test]
    fn what_is_no_segment_is_refused_in_words() {
        assert_eq!(check_magic(b"TAPSEG\0\x02"), Err(NoPart::Newer(2)));
        assert_eq!(check_magic(b"TAPSEX\0\x01"), Err(NoPart::Foreign));
        assert_eq!(part_length([0, 0, 0, 2]), Err(NoPart::TooLong(1 << 25)));
        let mut part = all()[1].encode().split_off(4);
        part.push(0);
        assert_eq!(Part::decode(&part), Err(NoPart::Malformed));
        assert_eq!(Part::decode(&[99]), Err(NoPart::Malformed));
    }

    #[test]
    fn any_cut_or_changed_part_is_an_error_or_another_part_and_never_a_panic() {
        for part in all() {
            let body = part.encode().split_off(4);
            for length in 0..body.len() {
                assert!(Part::decode(&body[..length]).is_err(), "{part:?} cut to {length}");
            }
            for bit in 0..body.len() * 8 {
                let mut changed = body.clone();
                changed[bit / 8] ^= 1 << (bit % 8);
                assert!(Part::decode(&changed).ok().as_ref() != Some(&part), "bit {bit} of {part:?}");
            }
        }
    }
}
