//! From values to bytes and back: `version byte ‖ postcard body`, and for messages a signature behind it.
//!
//! Postcard is not canonical (a number may be written in several ways), and its plain decoder ignores what follows a
//! value. So hashes and signatures always cover the **received bytes**, and trailing bytes are refused. A version's
//! structs are frozen and its enums only grow at the end; a new shape is a new version byte.

use postcard::ser_flavors::Flavor;
use serde::{Deserialize, Serialize};

use crate::ids::ControllerId;
use crate::keys::{BadSignature, PublicKey, SIGNATURE_BYTES, SigningKey};
use crate::limits::MAX_MESSAGE_BYTES;

/// The only version so far, of records and of messages alike.
pub const VERSION_1: u8 = 1;

/// Why bytes are not a value of this protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Nothing there, or cut off inside a fixed part.
    #[error("cut off after {0} bytes")]
    Truncated(usize),
    /// More bytes than the protocol allows.
    #[error("{got} bytes are more than the {max} that are allowed")]
    TooLong {
        /// Bytes received.
        got: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// Written by a newer (or no) Tapline.
    #[error("version {0} is not known here")]
    UnknownVersion(u8),
    /// The right version, and not its shape.
    #[error("malformed: {0}")]
    Malformed(postcard::Error),
    /// A whole value, and then something more.
    #[error("{0} bytes too many after the end")]
    TrailingBytes(usize),
    /// A whole value that breaks a rule of the protocol.
    #[error("breaks a rule: {0}")]
    Rule(&'static str),
}

/// Why a message is not taken from its sender.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Not a message of this protocol.
    #[error("not a message of this protocol")]
    Decode(#[from] DecodeError),
    /// The right shape, signed by somebody else or changed since.
    #[error("not authentic")]
    Signature(#[from] BadSignature),
    /// Signed by the right key for another controller.
    #[error("speaks for controller {said}, not for {expected}")]
    WrongController {
        /// Whom the message names.
        said: String,
        /// Whose topic and key it came under.
        expected: String,
    },
}

/// `version ‖ postcard(body)`.
pub fn encode<T: Serialize>(version: u8, body: &T) -> Vec<u8> {
    let mut flavor = postcard::ser_flavors::AllocVec::new();
    flavor.try_push(version).expect("a Vec takes a byte");
    postcard::serialize_with_flavor(body, flavor).expect("protocol values always serialize")
}

/// Reads exactly one version 1 value and nothing behind it.
pub fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8], max: usize) -> Result<T, DecodeError> {
    if bytes.len() > max {
        return Err(DecodeError::TooLong { got: bytes.len(), max });
    }
    match bytes.split_first() {
        None => Err(DecodeError::Truncated(0)),
        Some((&VERSION_1, body)) => match postcard::take_from_bytes(body) {
            Ok((value, [])) => Ok(value),
            Ok((_, rest)) => Err(DecodeError::TrailingBytes(rest.len())),
            Err(postcard::Error::DeserializeUnexpectedEnd) => Err(DecodeError::Truncated(bytes.len())),
            Err(error) => Err(DecodeError::Malformed(error)),
        },
        Some((&version, _)) => Err(DecodeError::UnknownVersion(version)),
    }
}

/// `version ‖ postcard(body) ‖ Ed25519 signature over (label ‖ all before)`. The label keeps one kind of message from
/// ever being taken for another.
pub fn sign<T: Serialize>(label: &'static [u8], body: &T, key: &SigningKey) -> Vec<u8> {
    let mut message = encode(VERSION_1, body);
    let signature = key.sign(&[label, &message].concat());
    message.extend_from_slice(&signature);
    message
}

/// Takes a signed message apart without believing it: the value, for finding the key that should have signed it.
pub fn peek<'a, T: Deserialize<'a>>(message: &'a [u8]) -> Result<T, DecodeError> {
    let (signed, _) = split(message)?;
    decode(signed, MAX_MESSAGE_BYTES)
}

/// Checks the signature of a message, version and all.
pub fn verify(label: &'static [u8], message: &[u8], key: &PublicKey) -> Result<(), OpenError> {
    let (signed, signature) = split(message)?;
    key.verify(&[label, signed].concat(), signature)?;
    Ok(())
}

/// As [`verify`], by any of `keys`: while a key is being replaced, both are good.
pub fn verify_any(label: &'static [u8], message: &[u8], keys: &[PublicKey]) -> Result<(), OpenError> {
    let (signed, signature) = split(message)?;
    let labelled = [label, signed].concat();
    match keys.iter().any(|key| key.verify(&labelled, signature).is_ok()) {
        true => Ok(()),
        false => Err(BadSignature.into()),
    }
}

/// Whether a message that names `said` came under `expected`'s topic and key.
pub(crate) fn meant_for(said: &ControllerId, expected: &ControllerId) -> Result<(), OpenError> {
    match said == expected {
        true => Ok(()),
        false => Err(OpenError::WrongController { said: said.to_string(), expected: expected.to_string() }),
    }
}

/// Bytes of variable length: their length, then the bytes. (Serde's own `Vec<u8>` is a list of numbers, which postcard
/// writes the same way and reads one by one.)
pub(crate) mod byte_string {
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(bytes)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        <&'de [u8]>::deserialize(from).map(<[u8]>::to_vec)
    }
}

/// What is signed, and the signature.
pub(crate) fn split(message: &[u8]) -> Result<(&[u8], &[u8; SIGNATURE_BYTES]), DecodeError> {
    if message.len() > MAX_MESSAGE_BYTES {
        return Err(DecodeError::TooLong { got: message.len(), max: MAX_MESSAGE_BYTES });
    }
    message.split_last_chunk::<SIGNATURE_BYTES>().ok_or(DecodeError::Truncated(message.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Vectors of the postcard wire specification, section varint.
    #[test]
    fn postcard_reads_numbers_as_published() {
        let decode_u16 = |body: &[u8]| decode::<u16>(&[&[VERSION_1], body].concat(), 16);
        assert_eq!(decode_u16(&[0x7f]), Ok(127));
        assert_eq!(decode_u16(&[0x80, 0x01]), Ok(128));
        assert_eq!(decode_u16(&[0x80, 0x80, 0x01]), Ok(16384));
        assert_eq!(decode_u16(&[0xff, 0xff, 0x03]), Ok(65535));
        assert_eq!(decode_u16(&[0x80, 0x80, 0x00]), Ok(0), "not canonical, hence received bytes are hashed");
        assert!(decode_u16(&[0x80, 0x80, 0x80, 0x00]).is_err());
        assert!(decode::<bool>(&[VERSION_1, 2], 16).is_err());
    }

    #[test]
    fn exactly_one_value_of_a_known_version_is_taken() {
        assert_eq!(decode::<u16>(&[VERSION_1, 7], 16), Ok(7));
        assert_eq!(decode::<u16>(&[], 16), Err(DecodeError::Truncated(0)));
        assert_eq!(decode::<u16>(&[VERSION_1], 16), Err(DecodeError::Truncated(1)));
        assert_eq!(decode::<u16>(&[VERSION_1, 7, 0], 16), Err(DecodeError::TrailingBytes(1)));
        assert_eq!(decode::<u16>(&[2, 7], 16), Err(DecodeError::UnknownVersion(2)));
        assert_eq!(decode::<u16>(&[VERSION_1; 17], 16), Err(DecodeError::TooLong { got: 17, max: 16 }));
    }

    #[test]
    fn a_signature_covers_version_body_and_label() {
        let key = SigningKey::from_seed(&[1; 32]);
        let message = sign(b"one\0", &7u16, &key);
        assert_eq!(verify(b"one\0", &message, &key.public()), Ok(()));
        assert!(verify(b"two\0", &message, &key.public()).is_err());
        assert!(verify(b"one\0", &message, &SigningKey::from_seed(&[2; 32]).public()).is_err());
        for bit in 0..message.len() * 8 {
            let mut changed = message.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(verify(b"one\0", &changed, &key.public()).is_err(), "bit {bit}");
        }
    }
}
