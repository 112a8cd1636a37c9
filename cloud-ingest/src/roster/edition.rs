//! Beside the line: one roster, cut into signed chunks once and for all doors. Pure. Knows no door but by the name in its
//! head.

use tap_protocol::ids::ControllerId;
use tap_protocol::keys::SigningKey;
use tap_protocol::limits::{MAX_ROSTER_CHUNKS, ROSTER_CHUNK_ENTRIES};
use tap_protocol::roster::{ENTRY_BYTES, RosterChunk, RosterHead, RosterMessage, chunk_hash};

use crate::event_store::{Snapshot, UtcMs};

/// A roster counts for so long after a door last heard of it.
pub const LIFE_MS: i64 = 7 * 24 * 60 * 60 * 1_000;

/// A roster as it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edition {
    version: u64,
    entries: u32,
    hashes: Vec<[u8; 32]>,
    /// Signed messages: the same for all doors, so they are signed once.
    chunks: Vec<Vec<u8>>,
}

/// More badges than a roster can have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "there are {badges} badges under the token keys in use, and a roster has room for {MAX_BADGES}: the doors keep the \
     roster before"
)]
pub struct TooManyBadges {
    /// How many there are.
    pub badges: usize,
}

const MAX_BADGES: usize = MAX_ROSTER_CHUNKS * ROSTER_CHUNK_ENTRIES;

impl Edition {
    /// Cuts and signs.
    pub fn of(snapshot: &Snapshot, key: &SigningKey) -> Result<Edition, TooManyBadges> {
        let Snapshot { version, entries } = snapshot;
        let count = entries.len() / ENTRY_BYTES;
        if count > MAX_BADGES {
            return Err(TooManyBadges { badges: count });
        }
        let cut = || entries.chunks(ROSTER_CHUNK_ENTRIES * ENTRY_BYTES);
        let sign = |(index, bytes): (u32, &[u8])| {
            RosterMessage::Chunk(RosterChunk { version: *version, index, bytes: bytes.to_vec() }).sign(key)
        };
        Ok(Edition {
            version: *version,
            entries: count as u32,
            hashes: cut().map(chunk_hash).collect(),
            chunks: (0..).zip(cut()).map(sign).collect(),
        })
    }

    /// Which.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// How many badges are on it, one for each token key in use.
    pub fn entries(&self) -> u32 {
        self.entries
    }

    /// How many chunks it has.
    pub fn chunks(&self) -> u32 {
        self.chunks.len() as u32
    }

    /// One chunk's message, for any door.
    pub fn chunk(&self, index: u32) -> Option<&[u8]> {
        self.chunks.get(index as usize).map(Vec::as_slice)
    }

    /// The head's message for one door.
    pub fn head(&self, controller: &ControllerId, now: UtcMs, key: &SigningKey) -> Vec<u8> {
        let head = RosterHead {
            controller: controller.clone(),
            version: self.version,
            issued_utc_ms: now.0,
            expires_utc_ms: now.0 + LIFE_MS,
            entries: self.entries,
            chunks: self.hashes.clone(),
        };
        RosterMessage::Head(head).sign(key)
    }
}

#[cfg(test)]
mod tests {
    use tap_protocol::badge::Token;
    use tap_protocol::roster::{Standing, entry};

    use super::*;

    fn key() -> SigningKey {
        SigningKey::from_seed(&[5; 32])
    }

    fn snapshot(badges: u32) -> Snapshot {
        let token = |n: u32| Token(u128::from(n).to_be_bytes());
        let entries = (0..badges).flat_map(|n| entry(token(n), Standing::Known)).collect();
        Snapshot { version: 7, entries }
    }

    #[test]
    fn what_is_cut_here_is_what_doors_take() {
        let door: ControllerId = "hq-door-1".parse().unwrap();
        for (badges, chunks) in [(0, 0), (1, 1), (1_900, 1), (1_901, 2)] {
            let snapshot = snapshot(badges);
            let edition = Edition::of(&snapshot, &key()).unwrap();
            assert_eq!((edition.chunks(), edition.chunk(chunks)), (chunks, None));
            let open = |message: &[u8]| RosterMessage::open(message, &door, &[key().public()]).unwrap();
            let RosterMessage::Head(head) = open(&edition.head(&door, UtcMs(5), &key())) else { panic!() };
            assert_eq!((head.version, head.entries, head.expires_utc_ms), (7, badges, 5 + LIFE_MS));
            let mut entries = Vec::new();
            for (index, hash) in (0..).zip(&head.chunks) {
                let RosterMessage::Chunk(chunk) = open(edition.chunk(index).unwrap()) else { panic!() };
                assert_eq!((chunk.version, chunk.index, chunk_hash(&chunk.bytes)), (7, index, *hash));
                entries.extend(chunk.bytes);
            }
            assert_eq!(entries, snapshot.entries);
        }
    }

    #[test]
    fn more_badges_than_fit_are_refused_with_their_number() {
        let badges = MAX_BADGES + 1;
        let too_many = Snapshot { version: 7, entries: vec![0; badges * ENTRY_BYTES] };
        assert_eq!(Edition::of(&too_many, &key()), Err(TooManyBadges { badges }));
    }
}
