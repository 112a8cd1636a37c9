//! Messages as somebody else would write them: from any bytes, under any label, with any key. Written from
//! `docs/protocol.md` alone, because the products' own code refuses to make what breaks a rule.

use serde::Serialize;
use tap_protocol::codec::{VERSION_1, encode};
use tap_protocol::keys::SigningKey;

/// What a signature begins with, for each kind of message.
pub mod label {
    /// Records.
    pub const BATCH: &[u8] = b"tapline/batch/v1\0";
    /// What a controller says of itself.
    pub const HELLO: &[u8] = b"tapline/hello/v1\0";
    /// What a controller asks for, or tells of a command.
    pub const REPORT: &[u8] = b"tapline/report/v1\0";
    /// What the cloud has stored.
    pub const RECEIPT: &[u8] = b"tapline/receipt/v1\0";
    /// Which badges are known.
    pub const ROSTER: &[u8] = b"tapline/roster/v1\0";
    /// What the cloud asks for.
    pub const COMMAND: &[u8] = b"tapline/command/v1\0";

    /// All of them.
    pub const ALL: [&[u8]; 6] = [BATCH, HELLO, REPORT, RECEIPT, ROSTER, COMMAND];
}

/// Bytes behind a message that are its signature.
pub const SIGNATURE_BYTES: usize = tap_protocol::keys::SIGNATURE_BYTES;

/// `bytes` with a signature that holds.
pub fn signed(label: &[u8], bytes: &[u8], key: &SigningKey) -> Vec<u8> {
    let signature = key.sign(&[label, bytes].concat());
    [bytes, &signature].concat()
}

/// A message of version 1 with any body at all.
pub fn message<T: Serialize>(label: &[u8], body: &T, key: &SigningKey) -> Vec<u8> {
    signed(label, &encode(VERSION_1, body), key)
}

/// What the signature of `message` is over.
pub fn unsigned(message: &[u8]) -> &[u8] {
    &message[..message.len() - SIGNATURE_BYTES]
}
