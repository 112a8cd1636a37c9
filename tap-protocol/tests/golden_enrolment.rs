//! Golden texts of enrolment, version 1: what is signed, byte for byte, and each JSON body. Frozen like the records.

use std::path::PathBuf;

use data_encoding::HEXLOWER;
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tap_protocol::enrolment::{
    Bundle, Challenge, ENROLL_LABEL, EnrollRequest, EnrollToken, Keys, RENEW_LABEL, RenewRequest,
    TokenKeyEntry, transcript,
};
use tap_protocol::keys::SigningKey;

/// The TLS key whose private half is the number 1: its point is the generator of P-256.
const TLS_POINT: &str = "046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c2964fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5";

/// ECDSA signatures are another each time; these are two that hold.
const ENROLL_PROOF: &str = "30460221008cc9086c1ab60302a49f603e8a41f90dbc65be0899ddd51fe4eac06bde4e95b7022100e6192fbc298da651a7e138ed9c14cf749add8ecaf6f3fe32408452abd0f58b0a";
const RENEW_PROOF: &str = "30440220279ce6ae4e41d73b95230f137998692421ce8101c5973d95e735d84cbcf0ed6502205359a6a84c904aa9bba658c96feeefe3e810ee3a33478860ece45501aff9d81f";

fn challenge() -> String {
    "c4".repeat(32)
}

/// The record key from now on; the one that the cloud knows has the seed `44…`.
fn record_key() -> SigningKey {
    SigningKey::from_seed(&[0x11; 32])
}

fn token() -> EnrollToken {
    EnrollToken { id: [1; 5], secret: [2; 16], root_pin: [3; 16] }
}

fn keys(label: &[u8], who: &str, tls_proof: &str) -> (Vec<u8>, Keys) {
    let point = HEXLOWER.decode(TLS_POINT.as_bytes()).unwrap();
    let signed = transcript(label, &challenge(), who, &point, &record_key().public());
    let proof = HEXLOWER.decode(tls_proof.as_bytes()).unwrap();
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &point)
        .verify(&signed, &proof)
        .expect("the proof is over the frozen transcript");
    let keys = Keys {
        tls_public_key: TLS_POINT.into(),
        record_public_key: record_key().public().to_string(),
        tls_proof: tls_proof.into(),
        record_proof: HEXLOWER.encode(&record_key().sign(&signed)),
    };
    (signed, keys)
}

fn bundle() -> Bundle {
    Bundle {
        controller: "hq-door-12".parse().unwrap(),
        label: "Main entrance".into(),
        site: "hq".into(),
        certificate: "-----BEGIN CERTIFICATE-----\n…\n-----END CERTIFICATE-----\n".into(),
        not_after_utc_ms: 1_797_840_000_000,
        roots: "-----BEGIN CERTIFICATE-----\n…\n-----END CERTIFICATE-----\n".into(),
        broker_url: "mqtts://broker.example.com:8883".into(),
        enrolment_url: "https://tapline.example.com:8443".into(),
        token_keys: vec![
            TokenKeyEntry { id: 1, key: "33".repeat(32) },
            TokenKeyEntry { id: 2, key: "34".repeat(32) },
        ],
        token_key_id: 2,
        receipt_keys: vec!["a09aa5f47a6759802ff955f8dc2d2a14a5c99d23be97f864127ff9383455a4f0".into()],
        control_keys: vec!["22fc297792f0b6ffc0bfcfdb7edb0c0aa14e025a365ec0e342e86e3829cb74b6".into()],
        cloud_utc_ms: 1_795_248_000_040,
    }
}

fn frozen(name: &str, now: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1/enrolment").join(name);
    let Ok(frozen) = std::fs::read_to_string(&path) else {
        std::fs::write(&path, format!("{now}\n")).unwrap();
        panic!("{name} was not there and has been written: look at it and commit it");
    };
    assert_eq!(now, frozen.trim_end(), "{name} is not what version 1 is");
}

#[track_caller]
fn body<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(name: &str, value: &T) {
    let text = serde_json::to_string_pretty(value).unwrap();
    frozen(name, &text);
    assert_eq!(serde_json::from_str::<T>(&text).unwrap(), *value, "{name}");
    let more = text.replacen('{', "{\"more\": 1,", 1);
    assert!(serde_json::from_str::<T>(&more).is_err(), "{name}: what is not known is refused");
}

#[test]
fn the_challenge_is_as_frozen() {
    body("enrol-challenge.json", &Challenge { challenge: challenge() });
}

#[test]
fn an_enrolment_is_as_frozen() {
    let (signed, keys) = keys(ENROLL_LABEL, &token().id_text(), ENROLL_PROOF);
    frozen("enrol-transcript.hex", &HEXLOWER.encode(&signed));
    body(
        "enrol-request.json",
        &EnrollRequest {
            challenge: challenge(),
            token_id: token().id_text(),
            token_secret: token().secret_text(),
            keys,
            agent_version: "0.1.0".into(),
        },
    );
}

#[test]
fn a_renewal_is_as_frozen() {
    let (signed, keys) = keys(RENEW_LABEL, "hq-door-12", RENEW_PROOF);
    frozen("renew-transcript.hex", &HEXLOWER.encode(&signed));
    body(
        "renew-request.json",
        &RenewRequest {
            challenge: challenge(),
            controller: "hq-door-12".parse().unwrap(),
            keys,
            current_proof: HEXLOWER.encode(&SigningKey::from_seed(&[0x44; 32]).sign(&signed)),
            agent_version: "0.1.0".into(),
        },
    );
}

#[test]
fn a_bundle_is_as_frozen() {
    body("enrol-bundle.json", &bundle());
}
