//! Messages of the protocol. Each is read twice: as it came, when nobody's signature can hold but that of a message which
//! was really signed; and as the body of a message by somebody who has the key, so that the rules behind the signature
//! are reached.

use std::fmt::Debug;

use cloud_ingest::intake::verify::Arrival;
use data_encoding::HEXLOWER;
use tap_protocol::codec::{DecodeError, OpenError};
use tap_protocol::command::Command;
use tap_protocol::envelope::{Batch, UnverifiedBatch};
use tap_protocol::hello::Hello;
use tap_protocol::ids::ControllerId;
use tap_protocol::keys::SigningKey;
use tap_protocol::receipt::Receipt;
use tap_protocol::record::Record;
use tap_protocol::report::Report;
use tap_protocol::roster::RosterMessage;
use tap_protocol::topic::Topic;

use crate::attacks::production;
use crate::forging::{label, signed};

/// The controller and the keys of the golden files: the seeds of the corpus are real messages.
fn door() -> ControllerId {
    "hq-door-12".parse().expect("a slug")
}

fn record_key() -> SigningKey {
    SigningKey::from_seed(&[0x11; 32])
}

fn cloud_key() -> SigningKey {
    SigningKey::from_seed(&[0x22; 32])
}

/// The only messages that were ever signed with those keys.
fn was_really_signed(message: &[u8]) -> bool {
    let golden = [
        include_str!("../../../tap-protocol/tests/golden/v1/batch.hex"),
        include_str!("../../../tap-protocol/tests/golden/v1/hello.hex"),
        include_str!("../../../tap-protocol/tests/golden/v1/receipt.hex"),
    ];
    golden.iter().any(|hex| HEXLOWER.decode(hex.trim().as_bytes()).is_ok_and(|bytes| bytes == message))
}

/// `open` is the product's; `sign` writes what was opened once more.
fn check<T: PartialEq + Debug>(
    bytes: &[u8],
    label: &[u8],
    key: &SigningKey,
    open: impl Fn(&[u8]) -> Result<T, OpenError>,
    sign: impl Fn(&T) -> Vec<u8>,
) {
    if open(bytes).is_ok() {
        assert!(was_really_signed(bytes), "somebody's bytes were taken for a signed message");
    }
    if let Ok(value) = open(&signed(label, bytes, key)) {
        assert_eq!(open(&sign(&value)).as_ref(), Ok(&value), "written once more it is another message");
    }
}

pub fn batch(bytes: &[u8]) {
    let key = record_key();
    let open = |message: &[u8]| -> Result<Batch, OpenError> {
        let batch = UnverifiedBatch::parse(message)?.verify(&door(), &key.public())?;
        let said = Batch {
            controller: batch.controller().clone(),
            outbox: batch.outbox(),
            first_seq: batch.first_seq(),
            hash_before: batch.hash_before(),
            records: batch.records().map(|(_, record)| record.bytes.clone()).collect(),
        };
        let kept = batch.proof();
        let again = kept.message.clone().unwrap_or_else(|| said.signed_before(&kept.signature));
        assert_eq!(again, message, "what is kept of a batch proves it again");
        Ok(said)
    };
    check(bytes, label::BATCH, &key, open, |batch| batch.sign(&key));
}

pub fn hello(bytes: &[u8]) {
    let key = record_key();
    let open = |message: &[u8]| Hello::open(message, &door(), &key.public());
    check(bytes, label::HELLO, &key, open, |hello| hello.sign(&key));
}

pub fn report(bytes: &[u8]) {
    let key = record_key();
    let open = |message: &[u8]| Report::open(message, &door(), &key.public());
    check(bytes, label::REPORT, &key, open, |report| report.sign(&key));
}

pub fn receipt(bytes: &[u8]) {
    let key = cloud_key();
    let open = |message: &[u8]| Receipt::open(message, &door(), &[key.public()]);
    check(bytes, label::RECEIPT, &key, open, |receipt| receipt.sign(&key));
}

pub fn roster(bytes: &[u8]) {
    let key = cloud_key();
    let open = |message: &[u8]| RosterMessage::open(message, &door(), &[key.public()]);
    check(bytes, label::ROSTER, &key, open, |roster| roster.sign(&key));
}

pub fn command(bytes: &[u8]) {
    let key = cloud_key();
    let open = |message: &[u8]| Command::open(message, &door(), &[key.public()]);
    check(bytes, label::COMMAND, &key, open, |command| command.sign(&key));
}

pub fn record(bytes: &[u8]) {
    match Record::decode(bytes) {
        Ok(record) => assert_eq!(Record::decode(&record.encode()), Ok(record)),
        Err(DecodeError::UnknownVersion(version)) => assert_eq!(bytes.first(), Some(&version)),
        Err(_) => {}
    }
}

pub fn topic(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(topic) = text.parse::<Topic>() {
        assert_eq!(topic.to_string(), text, "one topic is written in one way");
    }
}

/// The first line is the topic, the rest the message: what the broker hands on to the cloud.
pub fn intake(bytes: &[u8]) {
    let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let (topic, message) = (String::from_utf8_lossy(&bytes[..end]), &bytes[(end + 1).min(bytes.len())..]);
    let key = record_key().public();
    match production::verify(&topic, message, |id| if *id == door() { vec![key] } else { vec![] }) {
        Arrival::Records(_) | Arrival::Hello(_) | Arrival::Report(_) => {
            assert!(was_really_signed(message), "somebody's bytes were taken for a signed message");
        }
        Arrival::Gone(controller) => assert_eq!(controller, door()),
        Arrival::Reject(reject) => assert!(production::REJECT_KINDS.contains(&reject.kind)),
    }
}
