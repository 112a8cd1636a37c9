//! Enrolment: how a controller comes by its certificate and keys, and how it gets new ones. JSON over HTTPS, away from
//! the broker, because who has no certificate yet cannot speak to the broker.
//!
//! ```text
//! GET  /enrol/v1/challenge                      → Challenge
//! POST /enrol/v1/enroll    EnrollRequest        → Bundle     with an enrolment token: one use
//! POST /enrol/v1/renew     RenewRequest         → Bundle     with the record key: also when the certificate expired
//! ```
//!
//! Both private keys are made on the controller and stay there. What travels is their public halves, each with a
//! signature over the cloud's challenge: proof of possession, and no answer can be asked for twice.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE32_NOPAD;
use serde::{Deserialize, Serialize};

use crate::ids::ControllerId;
use crate::keys::PublicKey;

/// Begins what an enrolling controller signs.
pub const ENROLL_LABEL: &[u8] = b"tapline/enroll/v1\0";

/// Begins what a renewing controller signs.
pub const RENEW_LABEL: &[u8] = b"tapline/renew/v1\0";

/// What the cloud wants signed: 32 random bytes as 64 hexadecimal digits, good for a few minutes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Challenge {
    /// To be given back as it is.
    pub challenge: String,
}

/// The keys that a controller brings, and the proof that it has their private halves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keys {
    /// The TLS key: ECDSA P-256, the uncompressed point (65 bytes, first `04`) in hexadecimal.
    pub tls_public_key: String,
    /// The record key, Ed25519, in hexadecimal.
    pub record_public_key: String,
    /// ECDSA-P256-SHA256 over [`transcript`] by the TLS key, ASN.1 DER in hexadecimal.
    pub tls_proof: String,
    /// Ed25519 over [`transcript`] by the record key, in hexadecimal.
    pub record_proof: String,
}

/// Asks for a first certificate, or for another one where everything else was lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrollRequest {
    /// The cloud's challenge.
    pub challenge: String,
    /// The token's number: which of them.
    pub token_id: String,
    /// The token's secret.
    pub token_secret: String,
    /// The new keys. `who` in the transcript is the token's number.
    pub keys: Keys,
    /// The agent's version.
    pub agent_version: String,
}

/// Asks for the next certificate and whatever keys have changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RenewRequest {
    /// The cloud's challenge.
    pub challenge: String,
    /// Who.
    pub controller: ControllerId,
    /// The keys from now on; the record key may be a new one. `who` in the transcript is the controller's id.
    pub keys: Keys,
    /// Ed25519 over [`transcript`] by the record key that the cloud knows, in hexadecimal.
    pub current_proof: String,
    /// The agent's version.
    pub agent_version: String,
}

/// All that a controller needs to work, from its enrolment or its renewal.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bundle {
    /// Who it is.
    pub controller: ControllerId,
    /// What people call it.
    pub label: String,
    /// Where it hangs.
    pub site: String,
    /// Its certificate, and those between it and the root: PEM.
    pub certificate: String,
    /// When the certificate ends: milliseconds since 1970-01-01 UTC.
    pub not_after_utc_ms: i64,
    /// All roots to be trusted, for the broker as for the next renewal: PEM.
    pub roots: String,
    /// `mqtts://host:port`.
    pub broker_url: String,
    /// Where to renew: `https://host:port`.
    pub enrolment_url: String,
    /// All token keys in use; badges are sealed with the one of `token_key_id`.
    pub token_keys: Vec<TokenKeyEntry>,
    /// Which of them seals.
    pub token_key_id: u16,
    /// Whose receipts to believe, hexadecimal.
    pub receipt_keys: Vec<String>,
    /// Whose rosters and commands to believe, hexadecimal.
    pub control_keys: Vec<String>,
    /// The cloud's clock: milliseconds since 1970-01-01 UTC.
    pub cloud_utc_ms: i64,
}

/// A token key with its number.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenKeyEntry {
    /// Its number.
    pub id: u16,
    /// 32 bytes in hexadecimal. Secret.
    pub key: String,
}

impl fmt::Debug for TokenKeyEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenKeyEntry(id {})", self.id)
    }
}

impl fmt::Debug for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bundle({}, token key {})", self.controller, self.token_key_id)
    }
}

/// What is signed: `label ‖ (length, 2 bytes big-endian ‖ bytes)` of challenge, who, TLS point and record key, in this
/// order; challenge and who as their ASCII text, the keys as bytes.
pub fn transcript(
    label: &[u8],
    challenge: &str,
    who: &str,
    tls_point: &[u8],
    record_key: &PublicKey,
) -> Vec<u8> {
    let mut bytes = label.to_vec();
    for part in [challenge.as_bytes(), who.as_bytes(), tls_point, &record_key.0] {
        let length = u16::try_from(part.len()).expect("all parts are short");
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(part);
    }
    bytes
}

/// An enrolment token, as a person carries it to the door: `tle1.NUMBER.SECRET.PIN` in base 32. The pin is the start of
/// the root certificate's SHA-256: it tells the new controller whom to trust before it trusts anybody.
#[derive(Clone, PartialEq, Eq)]
pub struct EnrollToken {
    /// Which token.
    pub id: [u8; 5],
    /// Known to the cloud by its hash alone.
    pub secret: [u8; 16],
    /// The first 16 bytes of the SHA-256 of the root certificate's DER.
    pub root_pin: [u8; 16],
}

/// Text that is no enrolment token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this is no enrolment token: it begins with tle1. and has three more parts; copy all of it")]
pub struct NotAToken;

const TOKEN_PREFIX: &str = "tle1";

impl EnrollToken {
    /// The number as text.
    pub fn id_text(&self) -> String {
        base32(&self.id)
    }

    /// The secret as text.
    pub fn secret_text(&self) -> String {
        base32(&self.secret)
    }
}

impl fmt::Display for EnrollToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{TOKEN_PREFIX}.{}.{}.{}", self.id_text(), self.secret_text(), base32(&self.root_pin))
    }
}

impl fmt::Debug for EnrollToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EnrollToken({})", self.id_text())
    }
}

impl FromStr for EnrollToken {
    type Err = NotAToken;
    fn from_str(text: &str) -> Result<Self, NotAToken> {
        let mut parts = text.trim().split('.');
        if parts.next() != Some(TOKEN_PREFIX) {
            return Err(NotAToken);
        }
        let mut part = || {
            let upper = parts.next().ok_or(NotAToken)?.to_ascii_uppercase();
            BASE32_NOPAD.decode(upper.as_bytes()).map_err(|_| NotAToken)
        };
        let (id, secret, pin) = (part()?, part()?, part()?);
        let token = EnrollToken {
            id: id.try_into().map_err(|_| NotAToken)?,
            secret: secret.try_into().map_err(|_| NotAToken)?,
            root_pin: pin.try_into().map_err(|_| NotAToken)?,
        };
        if parts.next().is_some() { Err(NotAToken) } else { Ok(token) }
    }
}

fn base32(bytes: &[u8]) -> String {
    BASE32_NOPAD.encode(bytes).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_as_it_is_written() {
        let token = EnrollToken { id: [1; 5], secret: [2; 16], root_pin: [3; 16] };
        let text = token.to_string();
        assert_eq!(text, "tle1.aeaqcaib.aibaeaqcaibaeaqcaibaeaqcai.ambqgaydambqgaydambqgaydam");
        assert_eq!(text.parse(), Ok(token.clone()));
        assert_eq!(format!("  {}\n", text.replace(".a", ".A")).parse(), Ok(token.clone()));
        assert!(!format!("{token:?}").contains("aibaeaqc"), "the secret is never shown by accident");
    }

    #[test]
    fn half_a_token_is_refused() {
        let text = EnrollToken { id: [1; 5], secret: [2; 16], root_pin: [3; 16] }.to_string();
        for end in 0..text.len() {
            assert_eq!(text[..end].parse::<EnrollToken>(), Err(NotAToken), "{end}");
        }
        for bad in [format!("{text}.aa"), text.replace("tle1", "tle2"), text.replace('a', "1")] {
            assert_eq!(bad.parse::<EnrollToken>(), Err(NotAToken), "{bad}");
        }
    }

    #[test]
    fn a_transcript_cannot_be_read_in_two_ways() {
        let key = PublicKey([7; 32]);
        let one = transcript(ENROLL_LABEL, "ab", "c", &[4], &key);
        assert_ne!(one, transcript(ENROLL_LABEL, "a", "bc", &[4], &key));
        assert_ne!(one, transcript(RENEW_LABEL, "ab", "c", &[4], &key));
        let tail = [&[0, 2, b'a', b'b', 0, 1, b'c', 0, 1, 4, 0, 32][..], &[7; 32]].concat();
        assert_eq!(one, [ENROLL_LABEL, &tail].concat());
    }
}
