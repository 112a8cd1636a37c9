//! Beside the line: whether who asks has the private halves of the keys that it brings. Pure: knows no request and no
//! store.

use data_encoding::HEXLOWER_PERMISSIVE as HEX;
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use tap_protocol::enrolment::{Keys, transcript};
use tap_protocol::keys::{PublicKey, SIGNATURE_BYTES};

use crate::event_store::DeviceKeys;

/// An uncompressed point: `04`, then two coordinates.
const POINT_BYTES: usize = 65;

/// Why the keys are not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadKeys {
    /// Not a point of P-256 as text.
    #[error("the TLS key is no P-256 key")]
    TlsKey,
    /// Not an Ed25519 key as text.
    #[error("the record key is no Ed25519 key")]
    RecordKey,
    /// The TLS key's proof does not hold.
    #[error("the TLS key did not sign this request")]
    TlsProof,
    /// The record key's proof does not hold.
    #[error("the record key did not sign this request")]
    RecordProof,
}

/// The keys, once both proofs over `label`, `challenge` and `who` hold.
pub fn prove(label: &[u8], challenge: &str, who: &str, keys: &Keys) -> Result<DeviceKeys, BadKeys> {
    let tls = HEX.decode(keys.tls_public_key.as_bytes()).map_err(|_| BadKeys::TlsKey)?;
    if tls.len() != POINT_BYTES || tls[0] != 4 {
        return Err(BadKeys::TlsKey);
    }
    let record: PublicKey = keys.record_public_key.parse().map_err(|_| BadKeys::RecordKey)?;
    let signed = transcript(label, challenge, who, &tls, &record);
    let tls_proof = HEX.decode(keys.tls_proof.as_bytes()).map_err(|_| BadKeys::TlsProof)?;
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &tls)
        .verify(&signed, &tls_proof)
        .map_err(|_| BadKeys::TlsProof)?;
    if !is_by(&record, &signed, &keys.record_proof) {
        return Err(BadKeys::RecordProof);
    }
    Ok(DeviceKeys { tls, record })
}

/// Which of `known` signed the same, if any.
pub fn signed_by(
    known: &[PublicKey],
    label: &[u8],
    challenge: &str,
    who: &str,
    keys: &DeviceKeys,
    proof: &str,
) -> Option<PublicKey> {
    let signed = transcript(label, challenge, who, &keys.tls, &keys.record);
    known.iter().find(|key| is_by(key, &signed, proof)).copied()
}

fn is_by(key: &PublicKey, signed: &[u8], proof: &str) -> bool {
    let proof = HEX.decode(proof.as_bytes()).ok();
    let proof: Option<[u8; SIGNATURE_BYTES]> = proof.and_then(|bytes| bytes.try_into().ok());
    proof.is_some_and(|proof| key.verify(signed, &proof).is_ok())
}
