//! A batch: consecutive records of one outbox, chained and signed by the controller's record key. What travels on
//! `tap/v1/{controller}/records` and in a USB export.
//!
//! Three types, so that nothing unproved is ever stored: [`Batch`] is what the controller signs, [`UnverifiedBatch`]
//! what arrives, [`VerifiedBatch`] what the signature held for.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::chain::ChainHash;
use crate::codec::{self, DecodeError, OpenError, VERSION_1};
use crate::ids::{ControllerId, OutboxId, Seq};
use crate::keys::{PublicKey, SIGNATURE_BYTES, SigningKey};
use crate::limits::{MAX_BATCH_RECORD_BYTES, MAX_BATCH_RECORDS, MAX_RECORD_BYTES};

const LABEL: &[u8] = b"tapline/batch/v1\0";

/// The largest seq that an event id can carry.
const MAX_SEQ: u64 = (1 << 48) - 1;

/// Consecutive records on their way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Whose.
    pub controller: ControllerId,
    /// From which outbox.
    pub outbox: OutboxId,
    /// The first record's number.
    pub first_seq: Seq,
    /// `h(first_seq − 1)`.
    pub hash_before: ChainHash,
    /// The records' bytes, in order; 1 to [`MAX_BATCH_RECORDS`].
    pub records: Vec<Vec<u8>>,
}

impl Batch {
    /// The signed message.
    pub fn sign(&self, key: &SigningKey) -> Vec<u8> {
        assert!(
            !self.records.is_empty() && self.records.len() <= MAX_BATCH_RECORDS,
            "a batch has 1 to 256 records"
        );
        codec::sign(LABEL, &self.wire(), key)
    }

    /// The message under a signature that was given before: what a [`BatchProof`] belongs to.
    pub fn signed_before(&self, signature: &[u8; SIGNATURE_BYTES]) -> Vec<u8> {
        let mut message = codec::encode(VERSION_1, &self.wire());
        message.extend_from_slice(signature);
        message
    }

    fn wire(&self) -> Wire<'_> {
        Wire {
            controller: self.controller.clone(),
            outbox: self.outbox,
            first_seq: self.first_seq,
            hash_before: self.hash_before,
            records: self.records.iter().map(|bytes| RecordBytes(bytes)).collect(),
        }
    }
}

/// A batch as it came in: it claims a sender, nothing is proved yet.
#[derive(Debug)]
pub struct UnverifiedBatch<'a> {
    message: &'a [u8],
    wire: Wire<'a>,
}

impl<'a> UnverifiedBatch<'a> {
    /// Reads the message and checks every rule that needs no key.
    pub fn parse(message: &'a [u8]) -> Result<Self, DecodeError> {
        let wire: Wire<'a> = codec::peek(message)?;
        let count = wire.records.len();
        if count == 0 || count > MAX_BATCH_RECORDS {
            return Err(DecodeError::Rule("a batch has 1 to 256 records"));
        }
        if wire.records.iter().any(|r| r.0.is_empty() || r.0.len() > MAX_RECORD_BYTES) {
            return Err(DecodeError::Rule("a record has 1 to 1024 bytes"));
        }
        if wire.records.iter().map(|r| r.0.len()).sum::<usize>() > MAX_BATCH_RECORD_BYTES {
            return Err(DecodeError::Rule("a batch's records have at most 32 KiB"));
        }
        if wire.first_seq == Seq::ZERO || wire.first_seq.0 > MAX_SEQ - MAX_BATCH_RECORDS as u64 {
            return Err(DecodeError::Rule("seq counts from 1 and stays below 2^48"));
        }
        Ok(UnverifiedBatch { message, wire })
    }

    /// Whom it claims to be from.
    pub fn claimed_controller(&self) -> &ControllerId {
        &self.wire.controller
    }

    /// Proves that `controller`, whose record key is `key`, signed exactly these bytes, and works out each hash.
    pub fn verify(&self, controller: &ControllerId, key: &PublicKey) -> Result<VerifiedBatch, OpenError> {
        codec::verify(LABEL, self.message, key)?;
        codec::meant_for(&self.wire.controller, controller)?;
        let (signed, signature) = codec::split(self.message)?;
        let is_as_we_write = codec::encode(VERSION_1, &self.wire) == signed;
        let proof = BatchProof {
            key: *key,
            signature: *signature,
            message: (!is_as_we_write).then(|| self.message.to_vec()),
        };
        let mut hash = self.wire.hash_before;
        let records = self.wire.records.iter().map(|record| {
            hash = hash.next(record.0);
            ChainedRecord { bytes: record.0.to_vec(), hash }
        });
        Ok(VerifiedBatch {
            records: records.collect(),
            controller: self.wire.controller.clone(),
            outbox: self.wire.outbox,
            first_seq: self.wire.first_seq,
            hash_before: self.wire.hash_before,
            proof,
        })
    }
}

/// A batch that its controller signed. Whether it continues what is stored is for admission to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedBatch {
    controller: ControllerId,
    outbox: OutboxId,
    first_seq: Seq,
    hash_before: ChainHash,
    records: Vec<ChainedRecord>,
    proof: BatchProof,
}

/// What proves a batch again when only its records and the hash before them are kept: whoever has those and the public
/// key needs to believe nobody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchProof {
    /// The record key that it was verified with.
    pub key: PublicKey,
    /// By that key.
    pub signature: [u8; SIGNATURE_BYTES],
    /// The whole message, if [`Batch::signed_before`] would give other bytes: postcard lets a number be written in more
    /// than one way, and the signature is over the way it came.
    pub message: Option<Vec<u8>>,
}

/// A record's bytes and `h(n)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainedRecord {
    /// As received.
    pub bytes: Vec<u8>,
    /// `h(n)` of this record, worked out from the batch's `hash_before`.
    pub hash: ChainHash,
}

impl VerifiedBatch {
    /// Who signed it.
    pub fn controller(&self) -> &ControllerId {
        &self.controller
    }

    /// Which outbox it is from.
    pub fn outbox(&self) -> OutboxId {
        self.outbox
    }

    /// The first record's number.
    pub fn first_seq(&self) -> Seq {
        self.first_seq
    }

    /// The last record's number.
    pub fn last_seq(&self) -> Seq {
        Seq(self.first_seq.0 + self.records.len() as u64 - 1)
    }

    /// `h(first_seq − 1)`, as the controller claims.
    pub fn hash_before(&self) -> ChainHash {
        self.hash_before
    }

    /// What proves it again later.
    pub fn proof(&self) -> &BatchProof {
        &self.proof
    }

    /// The records with their numbers, in order.
    pub fn records(&self) -> impl DoubleEndedIterator<Item = (Seq, &ChainedRecord)> {
        self.records.iter().enumerate().map(|(i, record)| (self.first_seq.plus(i as u64), record))
    }

    /// Its records up to that one; `None` if it has none of them.
    pub fn up_to(mut self, last: Seq) -> Option<VerifiedBatch> {
        let kept = last.next().0.saturating_sub(self.first_seq.0);
        self.records.truncate(usize::try_from(kept).unwrap_or(usize::MAX));
        (!self.records.is_empty()).then_some(self)
    }

    /// `h(seq)` according to this batch, for `first_seq − 1 ≤ seq ≤ last_seq`.
    pub fn hash_at(&self, seq: Seq) -> Option<ChainHash> {
        if seq.next() == self.first_seq {
            return Some(self.hash_before);
        }
        let index = seq.0.checked_sub(self.first_seq.0)?;
        self.records.get(usize::try_from(index).ok()?).map(|record| record.hash)
    }
}

/// The signed part on the wire. Frozen.
#[derive(Debug, Serialize, Deserialize)]
struct Wire<'a> {
    controller: ControllerId,
    outbox: OutboxId,
    first_seq: Seq,
    hash_before: ChainHash,
    #[serde(borrow)]
    records: Vec<RecordBytes<'a>>,
}

/// A length and that many bytes.
#[derive(Debug)]
struct RecordBytes<'a>(&'a [u8]);

impl Serialize for RecordBytes<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(self.0)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for RecordBytes<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        <&'a [u8]>::deserialize(from).map(RecordBytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> SigningKey {
        SigningKey::from_seed(&[9; 32])
    }

    fn batch(first_seq: u64, records: &[&[u8]]) -> Batch {
        let outbox = OutboxId([7; 16]);
        Batch {
            controller: "hq-door-12".parse().unwrap(),
            outbox,
            first_seq: Seq(first_seq),
            hash_before: ChainHash::start(outbox),
            records: records.iter().map(|r| r.to_vec()).collect(),
        }
    }

    fn open(message: &[u8]) -> Result<VerifiedBatch, OpenError> {
        UnverifiedBatch::parse(message)?.verify(&"hq-door-12".parse().unwrap(), &key().public())
    }

    #[test]
    fn a_signed_batch_arrives_with_its_hashes() {
        let sent = batch(1, &[b"one", b"two"]);
        let got = open(&sent.sign(&key())).unwrap();
        let first = sent.hash_before.next(b"one");
        assert_eq!((got.first_seq(), got.last_seq()), (Seq(1), Seq(2)));
        assert_eq!(got.hash_at(Seq(0)), Some(sent.hash_before));
        assert_eq!(got.hash_at(Seq(1)), Some(first));
        assert_eq!(got.hash_at(Seq(2)), Some(first.next(b"two")));
        assert_eq!(got.hash_at(Seq(3)), None);
    }

    #[test]
    fn a_batch_is_proved_again_from_its_records_and_its_signature() {
        let sent = batch(1, &[b"one", b"two"]);
        let message = sent.sign(&key());
        let got = open(&message).unwrap();
        assert_eq!((got.proof().key, &got.proof().message), (key().public(), &None));
        assert_eq!(sent.signed_before(&got.proof().signature), message);
    }

    /// `first_seq` 1 written as `81 00`: authentic, and not what we would write.
    #[test]
    fn a_batch_that_is_written_otherwise_keeps_its_message() {
        let mut message = batch(1, &[b"one"]).sign(&key());
        message.truncate(message.len() - SIGNATURE_BYTES);
        let first_seq = 1 + 1 + "hq-door-12".len() + 16;
        assert_eq!(message[first_seq], 1);
        message.splice(first_seq..=first_seq, [0x81, 0x00]);
        let signature = key().sign(&[LABEL, &message].concat());
        message.extend_from_slice(&signature);
        let got = open(&message).unwrap();
        assert_eq!(got.first_seq(), Seq(1));
        assert_eq!(got.proof().message.as_ref(), Some(&message));
    }

    #[test]
    fn a_batch_in_another_name_is_refused_though_the_key_is_right() {
        let message = batch(1, &[b"one"]).sign(&key());
        let parsed = UnverifiedBatch::parse(&message).unwrap();
        let refused = parsed.verify(&"hq-door-13".parse().unwrap(), &key().public());
        assert!(matches!(refused, Err(OpenError::WrongController { .. })), "{refused:?}");
    }

    #[test]
    fn every_cut_flip_and_tail_is_refused() {
        let message = batch(1, &[b"one", b"two"]).sign(&key());
        for end in 0..message.len() {
            assert!(open(&message[..end]).is_err(), "cut at {end}");
        }
        for bit in 0..message.len() * 8 {
            let mut changed = message.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(open(&changed).is_err(), "bit {bit}");
        }
        assert!(open(&[message, vec![0]].concat()).is_err());
    }

    #[test]
    fn rules_hold_before_any_key_is_asked() {
        let empty_record = batch(1, &[b""]).sign(&key());
        assert_eq!(open(&empty_record), Err(DecodeError::Rule("a record has 1 to 1024 bytes").into()));
        let seq_zero = batch(0, &[b"one"]).sign(&key());
        assert_eq!(open(&seq_zero), Err(DecodeError::Rule("seq counts from 1 and stays below 2^48").into()));
        let large = vec![0u8; MAX_RECORD_BYTES];
        let too_much = batch(1, &[large.as_slice(); 33]).sign(&key());
        assert_eq!(open(&too_much), Err(DecodeError::Rule("a batch's records have at most 32 KiB").into()));
    }
}
