//! Files of signed messages: what a controller writes for a USB stick, and what the cloud gives to somebody who is to
//! believe neither. Knows no files: bytes alone. See "Export" and "Proof" in `docs/protocol.md`.
//!
//! Either is 16 bytes that say what it is, then portions: a length and that many bytes.

use crate::limits::MAX_MESSAGE_BYTES;

/// What an export begins with: its name, a zero and its version. Each portion is a batch.
pub const EXPORT: &[u8; 16] = b"tapline/export\0\x01";

/// What a proof begins with. The first byte of each portion says what the rest is: see [`PartKind`].
pub const PROOF: &[u8; 16] = b"tapline/proof\0\0\x01";

/// The longest portion: a whole message, and in a proof a byte before it.
pub const MAX_PORTION_BYTES: usize = MAX_MESSAGE_BYTES + 1;

/// What a portion of a proof is. Append only: the number is in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum PartKind {
    /// A batch, signed by the controller. Those of one outbox follow each other.
    Batch = 1,
    /// The cloud's receipt for the outbox whose batches came before it: its last word on them.
    Receipt = 2,
}

/// `content` behind its length: 4 bytes, big-endian.
pub fn portion(content: &[u8]) -> Vec<u8> {
    assert!(content.len() <= MAX_PORTION_BYTES, "a portion is a message");
    let length = u32::try_from(content.len()).expect("messages are short");
    [&length.to_be_bytes(), content].concat()
}

/// A portion of a proof.
pub fn part(kind: PartKind, message: &[u8]) -> Vec<u8> {
    portion(&[&[kind as u8], message].concat())
}

/// How long the portion is whose length was read; `None` if it cannot be a portion.
pub fn portion_length(length: [u8; 4]) -> Option<usize> {
    usize::try_from(u32::from_be_bytes(length)).ok().filter(|length| (1..=MAX_PORTION_BYTES).contains(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_portion_says_its_length_and_an_absurd_one_is_none() {
        assert_eq!(portion(b"abc"), b"\0\0\0\x03abc");
        assert_eq!(part(PartKind::Receipt, b"abc"), b"\0\0\0\x04\x02abc");
        assert_eq!(portion_length([0, 0, 0, 3]), Some(3));
        assert_eq!(portion_length([0, 1, 0, 1]), Some(MAX_PORTION_BYTES));
        for absurd in [[0, 0, 0, 0], [0, 1, 0, 2], [0xff; 4]] {
            assert_eq!(portion_length(absurd), None);
        }
    }
}
