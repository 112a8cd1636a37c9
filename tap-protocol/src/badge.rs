//! The badge: what a card said, and how it is sealed. Knows nothing of persons; the cloud's directory does.
//!
//! The clear text never leaves the controller unsealed. AES-SIV (RFC 5297) is deterministic, so equal cards give
//! equal tokens: the token can be indexed and compared, and the ciphertext opened by the directory alone.

use std::fmt;
use std::str::FromStr;

use aes_siv::KeyInit;
use aes_siv::siv::Aes128Siv;
use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE, HEXUPPER};
use serde::{Deserialize, Serialize};

use crate::limits::MAX_CREDENTIAL_BITS;

/// Bound into every seal, so that a sealed badge can never be taken for something else.
const ASSOCIATED_DATA: &[u8] = b"tapline/badge/v1";

/// What kind of number a credential is. Coarse on purpose: it is part of what is sealed, so one card must get the
/// same value at every reader that can read it. What exactly a PC/SC reader's ATR claims is diagnostics only.
///
/// Append only: the number is on the wire and inside every token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Technology {
    /// The UID of a 13.56 MHz card (ISO 14443, ISO 15693, FeliCa): 4, 7, 8 or 10 bytes as the reader gave them.
    Hf = 1,
    /// A 125 kHz EM4100 number: 5 bytes, version or customer first, or the last 4 or 3 of them where the reader gives
    /// no more.
    Em4100 = 2,
    /// A Wiegand frame with its parity bits.
    Wiegand = 3,
}

impl Technology {
    fn from_byte(byte: u8) -> Option<Technology> {
        [Technology::Hf, Technology::Em4100, Technology::Wiegand].into_iter().find(|t| *t as u8 == byte)
    }

    /// The prefix in the text form of a badge: `hf:04a224b1c2d380`.
    pub fn name(self) -> &'static str {
        match self {
            Technology::Hf => "hf",
            Technology::Em4100 => "em4100",
            Technology::Wiegand => "wiegand",
        }
    }
}

/// What the reader gave: technology, bit count and the bits as read (most significant first, left-justified, zero
/// padded). `Debug` never shows the bits.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Credential {
    technology: Technology,
    bit_count: u16,
    bits: Vec<u8>,
}

/// Why something is not a credential.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadCredential {
    /// No bits at all, or more than any reader sends.
    #[error("a credential has 1 to {MAX_CREDENTIAL_BITS} bits, not {0}")]
    BitCount(usize),
    /// The bytes do not hold exactly the bits that were announced, or the padding is not zero.
    #[error("{bit_count} bits were announced, and {bytes} bytes do not hold exactly those")]
    Padding {
        /// Bits announced.
        bit_count: u16,
        /// Bytes given.
        bytes: usize,
    },
    /// Text that is not a badge.
    #[error(
        "write a badge as hexadecimal, such as 04A224B1C2D380 (a card's UID of 4, 7, 8 or 10 bytes), 01000734E0 (an EM4100 number of 5 bytes) or wiegand:26:8A9F0900"
    )]
    Text,
}

impl Credential {
    /// Checks bit count and padding.
    pub fn new(technology: Technology, bit_count: u16, bits: Vec<u8>) -> Result<Self, BadCredential> {
        if bit_count == 0 || bit_count > MAX_CREDENTIAL_BITS {
            return Err(BadCredential::BitCount(bit_count.into()));
        }
        let padding = (8 - bit_count % 8) % 8;
        let padding_is_zero = bits.last().is_some_and(|last| last & ((1u8 << padding) - 1) == 0);
        if bits.len() != usize::from(bit_count).div_ceil(8) || !padding_is_zero {
            return Err(BadCredential::Padding { bit_count, bytes: bits.len() });
        }
        Ok(Credential { technology, bit_count, bits })
    }

    /// Whole bytes, as card UIDs and EM4100 numbers are.
    pub fn from_bytes(technology: Technology, bytes: &[u8]) -> Result<Self, BadCredential> {
        let bit_count = u16::try_from(bytes.len() * 8).map_err(|_| BadCredential::BitCount(bytes.len()))?;
        Credential::new(technology, bit_count, bytes.to_vec())
    }

    /// Which kind of number this is.
    pub fn technology(&self) -> Technology {
        self.technology
    }

    /// How many bits the reader gave.
    pub fn bit_count(&self) -> u16 {
        self.bit_count
    }

    /// The bits, left-justified. Personal data: for feedback decisions and sealing only, never for a log.
    pub fn bits(&self) -> &[u8] {
        &self.bits
    }

    /// The text form, clear: for the directory and the person who holds the card, never for a log.
    pub fn reveal(&self) -> String {
        let hex = HEXUPPER.encode(&self.bits);
        match self.technology {
            Technology::Wiegand => format!("wiegand:{}:{hex}", self.bit_count),
            Technology::Hf | Technology::Em4100 => format!("{}:{hex}", self.technology.name()),
        }
    }

    /// technology ‖ bit count (big-endian) ‖ bits.
    fn to_plaintext(&self) -> Vec<u8> {
        let mut plain = vec![self.technology as u8];
        plain.extend_from_slice(&self.bit_count.to_be_bytes());
        plain.extend_from_slice(&self.bits);
        plain
    }

    fn from_plaintext(plain: &[u8]) -> Option<Credential> {
        let [technology, high, low, bits @ ..] = plain else { return None };
        let technology = Technology::from_byte(*technology)?;
        Credential::new(technology, u16::from_be_bytes([*high, *low]), bits.to_vec()).ok()
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credential({}, {} bits)", self.technology.name(), self.bit_count)
    }
}

/// Text as people and CSV files give it: an optional `hf:`, `em4100:` or `wiegand:BITS:` and hexadecimal digits, in
/// which spaces, colons and hyphens between bytes do not count. Without a prefix, 5 bytes are an EM4100 number and 4,
/// 7, 8 or 10 a card UID. With one, an EM4100 number may have the 4 or 3 bytes that some readers give of it.
impl FromStr for Credential {
    type Err = BadCredential;
    fn from_str(text: &str) -> Result<Self, BadCredential> {
        let lower = text.trim().to_ascii_lowercase();
        let (prefix, rest) = match lower.split_once(':') {
            Some((name @ ("hf" | "em4100" | "wiegand"), rest)) => (Some(name), rest),
            _ => (None, lower.as_str()),
        };
        let (bit_count, rest) = match (prefix, rest.split_once(':')) {
            (Some("wiegand"), Some((count, rest))) => {
                (Some(count.parse().map_err(|_| BadCredential::Text)?), rest)
            }
            (Some("wiegand"), None) => return Err(BadCredential::Text),
            _ => (None, rest),
        };
        let digits: String = rest.chars().filter(|c| !matches!(c, ' ' | ':' | '-')).collect();
        let bytes = HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).map_err(|_| BadCredential::Text)?;
        match (prefix, bytes.len()) {
            (Some("wiegand"), _) => {
                Credential::new(Technology::Wiegand, bit_count.ok_or(BadCredential::Text)?, bytes)
            }
            (None, 5) | (Some("em4100"), 3..=5) => Credential::from_bytes(Technology::Em4100, &bytes),
            (Some("hf") | None, 4 | 7 | 8 | 10) => Credential::from_bytes(Technology::Hf, &bytes),
            _ => Err(BadCredential::Text),
        }
    }
}

/// The synthetic IV of a sealed badge: equal for equal cards under one key, and the only thing that is ever
/// indexed, compared or logged.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Token(pub [u8; 16]);

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({self})")
    }
}

/// Which token key sealed a badge. Keys are numbered by the tenant, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TokenKeyId(pub u16);

/// A badge as it is stored and sent: token, ciphertext (as long as the credential's clear form) and key id.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SealedBadge {
    /// Which key opens it.
    pub key_id: TokenKeyId,
    /// AES-SIV's synthetic IV.
    pub token: Token,
    /// AES-SIV's ciphertext.
    pub ciphertext: Vec<u8>,
}

/// The tenant's key for sealing badges: AES-128-SIV, 32 bytes. `Debug` shows the id alone.
#[derive(Clone)]
pub struct TokenKey {
    id: TokenKeyId,
    key: [u8; 32],
}

/// The badge was not sealed under this key, or was changed since.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the badge was not sealed under token key {}, or was changed since", .0.0)]
pub struct CannotOpen(TokenKeyId);

impl TokenKey {
    /// A key with its number.
    pub fn new(id: TokenKeyId, key: [u8; 32]) -> TokenKey {
        TokenKey { id, key }
    }

    /// The key's number.
    pub fn id(&self) -> TokenKeyId {
        self.id
    }

    /// Seals: the same card always gives the same bytes.
    pub fn seal(&self, credential: &Credential) -> SealedBadge {
        let sealed = Aes128Siv::new(&self.key.into())
            .encrypt([ASSOCIATED_DATA], &credential.to_plaintext())
            .expect("AES-SIV takes any input of this size");
        let (iv, ciphertext) = sealed.split_at(16);
        let token = Token(iv.try_into().expect("an IV has 16 bytes"));
        SealedBadge { key_id: self.id, token, ciphertext: ciphertext.to_vec() }
    }

    /// Opens what [`TokenKey::seal`] made; fails on another key and on any changed bit.
    pub fn open(&self, badge: &SealedBadge) -> Result<Credential, CannotOpen> {
        let sealed = [badge.token.0.as_slice(), &badge.ciphertext].concat();
        Aes128Siv::new(&self.key.into())
            .decrypt([ASSOCIATED_DATA], &sealed)
            .ok()
            .and_then(|plain| Credential::from_plaintext(&plain))
            .ok_or(CannotOpen(self.id))
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenKey(id {})", self.id.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> TokenKey {
        TokenKey::new(TokenKeyId(1), [0x42; 32])
    }

    #[track_caller]
    fn parses(text: &str, revealed: &str) {
        assert_eq!(text.parse::<Credential>().unwrap().reveal(), revealed);
    }

    #[test]
    fn badges_are_read_as_people_write_them() {
        parses("04A224B1C2D380", "hf:04A224B1C2D380");
        parses("04:a2:24:b1:c2:d3:80", "hf:04A224B1C2D380");
        parses(" hf:e43b6777 ", "hf:E43B6777");
        parses("01 00 07 34 E0", "em4100:01000734E0");
        parses("em4100:01000734E0", "em4100:01000734E0");
        parses("em4100:000734E0", "em4100:000734E0");
        parses("em4100:07 34 E0", "em4100:0734E0");
        parses("wiegand:26:8A9F0900", "wiegand:26:8A9F0900");
    }

    #[test]
    fn text_that_is_no_badge_is_refused() {
        for bad in ["", "0", "04A2", "xyz", "wiegand:8A9F0900", "em4100:04A2", "hf:01000734E0A1"] {
            let refused = bad.parse::<Credential>();
            assert!(refused.is_err(), "{bad:?} gave {refused:?}");
        }
    }

    #[test]
    fn padding_must_be_zero_and_exact() {
        let new = |count, bits: &[u8]| Credential::new(Technology::Wiegand, count, bits.to_vec());
        assert!(new(26, &[0x8a, 0x9f, 0x09, 0x00]).is_ok());
        assert!(new(26, &[0x8a, 0x9f, 0x09, 0x01]).is_err());
        assert!(new(26, &[0x8a, 0x9f, 0x09]).is_err());
        assert!(new(0, &[]).is_err());
        assert!(new(MAX_CREDENTIAL_BITS + 1, &[0; 129]).is_err());
    }

    #[test]
    fn equal_cards_share_a_token_and_others_do_not() {
        let seal = |text: &str| key().seal(&text.parse().unwrap());
        assert_eq!(seal("04A224B1C2D380"), seal("hf:04a224b1c2d380"));
        assert_ne!(seal("04A224B1C2D380").token, seal("04A224B1C2D381").token);
        assert_ne!(seal("wiegand:32:E43B6777").token, seal("hf:E43B6777").token);
        let other_key = TokenKey::new(TokenKeyId(2), [0x43; 32]);
        assert_ne!(seal("E43B6777").token, other_key.seal(&"E43B6777".parse().unwrap()).token);
    }

    #[test]
    fn only_the_right_key_opens_and_a_changed_bit_is_noticed() {
        let card: Credential = "04A224B1C2D380".parse().unwrap();
        let sealed = key().seal(&card);
        assert_eq!(key().open(&sealed), Ok(card));
        assert!(TokenKey::new(TokenKeyId(1), [0x43; 32]).open(&sealed).is_err());
        for bit in 0..sealed.ciphertext.len() * 8 {
            let mut changed = sealed.clone();
            changed.ciphertext[bit / 8] ^= 1 << (bit % 8);
            assert!(key().open(&changed).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn nothing_shows_the_card_by_accident() {
        let card: Credential = "04A224B1C2D380".parse().unwrap();
        assert_eq!(format!("{card:?}"), "Credential(hf, 56 bits)");
        assert_eq!(format!("{:?}", key()), "TokenKey(id 1)");
    }
}
