//! The hash chain of an outbox: what makes a changed, dropped or reordered record visible.
//!
//! `h(0) = SHA-256("tapline/chain/v1" ‖ 0 ‖ outbox id)`, `h(n) = SHA-256(h(n−1) ‖ bytes(n))`, where `bytes(n)` are the
//! record's bytes as stored and sent, version byte included.

use std::fmt;

use data_encoding::HEXLOWER;
use ring::digest;
use serde::{Deserialize, Serialize};

use crate::ids::{OutboxId, Seq};

/// `h(n)`: stands for an outbox's records 1 to n, in order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ChainHash(pub [u8; 32]);

impl ChainHash {
    /// `h(0)`, before the first record.
    pub fn start(outbox: OutboxId) -> ChainHash {
        ChainHash::of(&[b"tapline/chain/v1\0", &outbox.0])
    }

    /// `h(n)` from `h(n−1)` and `bytes(n)`.
    #[must_use]
    pub fn next(&self, record: &[u8]) -> ChainHash {
        ChainHash::of(&[&self.0, record])
    }

    fn of(parts: &[&[u8]]) -> ChainHash {
        let mut hasher = digest::Context::new(&digest::SHA256);
        parts.iter().for_each(|part| hasher.update(part));
        ChainHash(hasher.finish().as_ref().try_into().expect("SHA-256 gives 32 bytes"))
    }
}

/// The id of the outbox in which a controller says again what `old` has after `after`: the first 16 bytes of
/// `SHA-256("tapline/outbox/v1" ‖ 0 ‖ old ‖ after as 8 bytes, big-endian ‖ h(after + 1))`. Whoever says the same records
/// again says them in the same outbox, so that the store takes the second telling for a duplicate.
pub fn continued(old: OutboxId, after: Seq, next: ChainHash) -> OutboxId {
    let hash = ChainHash::of(&[b"tapline/outbox/v1\0", &old.0, &after.0.to_be_bytes(), &next.0]);
    OutboxId(hash.0[..16].try_into().expect("a hash has 32 bytes"))
}

impl fmt::Display for ChainHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for ChainHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChainHash({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_depends_on_outbox_content_and_order() {
        let start = ChainHash::start(OutboxId([7; 16]));
        assert_ne!(start, ChainHash::start(OutboxId([8; 16])));
        assert_ne!(start.next(b"a").next(b"b"), start.next(b"b").next(b"a"));
        assert_ne!(start.next(b"a"), start);
    }

    #[test]
    fn another_history_is_continued_in_another_outbox() {
        let id = |outbox, after, next| continued(OutboxId([outbox; 16]), Seq(after), ChainHash([next; 32]));
        let all = [id(1, 2, 3), id(2, 2, 3), id(1, 3, 3), id(1, 2, 4)];
        assert!((0..4).all(|i| !all[..i].contains(&all[i])));
        assert_eq!(id(7, 2, 3).to_string(), "1f91775bb21b0f48240ee88f4fa3ccd6");
    }

    #[test]
    fn the_first_hashes_are_as_documented() {
        let start = ChainHash::start(OutboxId([7; 16]));
        assert_eq!(start.to_string(), "832a63dcf45e49fc787d43bcb3e5baf1363b9abf59ffe37ce9c2b8569f83b45e");
        assert_eq!(
            start.next(&[1, 2, 3]).to_string(),
            "b101f3e39fcf70716fbfc82ce1645bcfc0ff8f844f64608acbb9c9dab7d511d7"
        );
    }
}
