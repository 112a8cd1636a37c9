//! The roster: which badges are known and which were revoked, for the light at the door and for nothing else. A
//! controller with an old roster, or with none, records every tap all the same.
//!
//! A snapshot, never a difference. The cloud announces it ([`RosterHead`], small, for one controller), the controller
//! asks for the chunks that it lacks ([`crate::report::What::RosterWanted`]), and each chunk is proved by its hash in
//! the head. Both travel on `tap/v1/{controller}/roster`, signed by the cloud's control key.

use ring::digest;
use serde::{Deserialize, Serialize};

use crate::badge::Token;
use crate::codec::{self, DecodeError, OpenError};
use crate::ids::ControllerId;
use crate::keys::{PublicKey, SigningKey};
use crate::limits::{MAX_ROSTER_CHUNKS, ROSTER_CHUNK_ENTRIES};
use crate::tap::Verdict;

const LABEL: &[u8] = b"tapline/roster/v1\0";

/// Bytes of one entry: the token, and one byte that says what is known of it.
pub const ENTRY_BYTES: usize = 17;

/// What travels on the roster channel, version 1. Append only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RosterMessage {
    /// There is this roster.
    Head(RosterHead),
    /// A part of it.
    Chunk(RosterChunk),
}

/// The announcement of a roster. Frozen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RosterHead {
    /// For whom.
    pub controller: ControllerId,
    /// Which snapshot. It only grows, also when the cloud is restored from a backup.
    pub version: u64,
    /// When this head was signed, by the cloud's clock: milliseconds since 1970-01-01 UTC. A later head of the same
    /// version only moves `expires_utc_ms`.
    pub issued_utc_ms: i64,
    /// After this the roster is stale: a badge that is not in it may be new.
    pub expires_utc_ms: i64,
    /// Entries in all chunks together.
    pub entries: u32,
    /// SHA-256 of each chunk's bytes, in order; at most [`MAX_ROSTER_CHUNKS`].
    pub chunks: Vec<[u8; 32]>,
}

/// A part of a roster. Frozen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RosterChunk {
    /// Of which snapshot.
    pub version: u64,
    /// Which part, from 0.
    pub index: u32,
    /// Its entries, [`ENTRY_BYTES`] each, in ascending order of tokens over all chunks; every chunk but the last has
    /// [`ROSTER_CHUNK_ENTRIES`].
    #[serde(with = "crate::codec::byte_string")]
    pub bytes: Vec<u8>,
}

/// What the roster says of one badge. The number is on the wire; append only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Standing {
    /// Somebody's.
    Known = 0,
    /// Somebody's once; lost, or its owner has left.
    Revoked = 1,
}

impl Standing {
    /// What a tap says of it.
    pub fn verdict(self) -> Verdict {
        match self {
            Standing::Known => Verdict::Known,
            Standing::Revoked => Verdict::Revoked,
        }
    }

    /// The standing with that number.
    pub fn from_byte(byte: u8) -> Option<Standing> {
        [Standing::Known, Standing::Revoked].into_iter().find(|standing| *standing as u8 == byte)
    }
}

/// One entry's bytes.
pub fn entry(token: Token, standing: Standing) -> [u8; ENTRY_BYTES] {
    let mut bytes = [0; ENTRY_BYTES];
    bytes[..16].copy_from_slice(&token.0);
    bytes[16] = standing as u8;
    bytes
}

/// What a head lists for a chunk with these bytes.
pub fn chunk_hash(bytes: &[u8]) -> [u8; 32] {
    digest::digest(&digest::SHA256, bytes).as_ref().try_into().expect("SHA-256 has 32 bytes")
}

impl RosterMessage {
    /// The signed message.
    pub fn sign(&self, key: &SigningKey) -> Vec<u8> {
        codec::sign(LABEL, self, key)
    }

    /// Reads a message that came on `controller`'s topic and checks that one of the cloud's control keys signed it. A
    /// chunk names no controller: it is the same for all, and counts only where a head lists its hash.
    pub fn open(
        message: &[u8],
        controller: &ControllerId,
        keys: &[PublicKey],
    ) -> Result<RosterMessage, OpenError> {
        let opened: RosterMessage = codec::peek(message)?;
        codec::verify_any(LABEL, message, keys)?;
        match &opened {
            RosterMessage::Head(head) => {
                codec::meant_for(&head.controller, controller)?;
                head.check()?;
            }
            RosterMessage::Chunk(chunk) => {
                let entries = chunk.bytes.len() / ENTRY_BYTES;
                if !chunk.bytes.len().is_multiple_of(ENTRY_BYTES) || entries > ROSTER_CHUNK_ENTRIES {
                    return Err(DecodeError::Rule("a chunk has whole entries, at most 1900").into());
                }
            }
        }
        Ok(opened)
    }
}

impl RosterHead {
    fn check(&self) -> Result<(), DecodeError> {
        if self.chunks.len() > MAX_ROSTER_CHUNKS {
            return Err(DecodeError::Rule("a roster has at most 600 chunks"));
        }
        if (self.entries as usize).div_ceil(ROSTER_CHUNK_ENTRIES) != self.chunks.len() {
            return Err(DecodeError::Rule("a roster has as many chunks as its entries need"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> SigningKey {
        SigningKey::from_seed(&[5; 32])
    }

    fn head(entries: u32, chunks: usize) -> RosterMessage {
        RosterMessage::Head(RosterHead {
            controller: "hq-door-12".parse().unwrap(),
            version: 7,
            issued_utc_ms: 1,
            expires_utc_ms: 2,
            entries,
            chunks: vec![[0xaa; 32]; chunks],
        })
    }

    fn open(message: &[u8]) -> Result<RosterMessage, OpenError> {
        RosterMessage::open(message, &"hq-door-12".parse().unwrap(), &[key().public()])
    }

    #[test]
    fn heads_and_chunks_arrive_as_they_were_sent() {
        let token = Token([9; 16]);
        let bytes = entry(token, Standing::Revoked).to_vec();
        let chunk = RosterMessage::Chunk(RosterChunk { version: 7, index: 0, bytes });
        for sent in [head(0, 0), head(1, 1), head(1_901, 2), chunk] {
            assert_eq!(open(&sent.sign(&key())), Ok(sent));
        }
    }

    #[test]
    fn a_full_chunk_and_the_longest_head_fit_a_message() {
        let bytes = vec![0; ROSTER_CHUNK_ENTRIES * ENTRY_BYTES];
        let chunk = RosterMessage::Chunk(RosterChunk { version: u64::MAX, index: u32::MAX, bytes });
        assert!(open(&chunk.sign(&key())).is_ok());
        let most = (MAX_ROSTER_CHUNKS * ROSTER_CHUNK_ENTRIES) as u32;
        assert!(open(&head(most, MAX_ROSTER_CHUNKS).sign(&key())).is_ok());
    }

    #[test]
    fn what_breaks_a_rule_is_refused_though_it_is_signed() {
        let refused = |message: RosterMessage| open(&message.sign(&key())).unwrap_err().to_string();
        for bad in [head(1, 0), head(1_900, 2), head(0, 1)] {
            assert_eq!(refused(bad), "not a message of this protocol");
        }
        let half = RosterChunk { version: 7, index: 0, bytes: vec![0; 18] };
        assert_eq!(refused(RosterMessage::Chunk(half)), "not a message of this protocol");
    }

    #[test]
    fn another_controllers_head_and_another_keys_are_refused() {
        let message = head(0, 0).sign(&key());
        let other = RosterMessage::open(&message, &"hq-door-13".parse().unwrap(), &[key().public()]);
        assert!(matches!(other, Err(OpenError::WrongController { .. })));
        let stranger = SigningKey::from_seed(&[6; 32]).public();
        let forged = RosterMessage::open(&message, &"hq-door-12".parse().unwrap(), &[stranger]);
        assert!(matches!(forged, Err(OpenError::Signature(_))));
    }
}
