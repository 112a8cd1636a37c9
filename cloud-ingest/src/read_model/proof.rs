//! Beside the line: a file that proves a controller's records to somebody who believes neither the controller's owner nor
//! the cloud's: signed batches, and the cloud's signed receipt for exactly these. Pure: fed by [`Proof::walk`], twice:
//! once to choose, once to write. See "Proof" in `docs/protocol.md`.
//!
//! Batches are given whole, because that is what was signed: a proof of one tap shows its neighbours too, badges sealed.
//! Nothing is written that does not prove itself here first.
//!
//! [`Proof::walk`]: crate::event_store::Proof::walk

use std::collections::{BTreeMap, VecDeque};
use std::ops::{ControlFlow, Range};

use tap_protocol::chain::ChainHash;
use tap_protocol::envelope::{Batch, UnverifiedBatch};
use tap_protocol::export::{PROOF, PartKind, part};
use tap_protocol::ids::{OutboxId, Seq, StoreEpoch};
use tap_protocol::keys::{PublicKey, SigningKey};
use tap_protocol::limits::MAX_BATCH_RECORDS;
use tap_protocol::receipt::Receipt;

use crate::event_store::{OutboxMark, SignedBatch, UtcMs, Walked};

/// Which records are to be proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// All there are.
    All,
    /// These numbers, both ends included, of every outbox that is asked for.
    Seqs(Seq, Seq),
    /// From the first to the last tap within this time: true time where it is known, else when it was stored.
    Time(Range<UtcMs>),
}

/// The first walk: which records of which outbox.
#[derive(Debug)]
pub struct Choosing {
    wanted: Wanted,
    only: Option<OutboxId>,
    outbox: Option<OutboxId>,
    chosen: BTreeMap<OutboxId, (Seq, Seq)>,
}

/// What was chosen: first and last record per outbox.
pub type Chosen = BTreeMap<OutboxId, (Seq, Seq)>;

impl Choosing {
    /// Of one outbox, or of all.
    pub fn new(wanted: Wanted, only: Option<OutboxId>) -> Choosing {
        Choosing { wanted, only, outbox: None, chosen: BTreeMap::new() }
    }

    /// Takes the next thing of the walk.
    pub fn take(&mut self, walked: &Walked<'_>) -> ControlFlow<()> {
        match walked {
            Walked::Outbox { mark, .. } => {
                self.outbox = Some(mark.outbox).filter(|id| self.only.is_none_or(|only| only == *id));
            }
            Walked::Record(record) => {
                let is_wanted = match &self.wanted {
                    Wanted::All => true,
                    Wanted::Seqs(from, to) => (*from..=*to).contains(&record.seq),
                    Wanted::Time(time) => {
                        record.token.is_some() && time.contains(&record.occurred.unwrap_or(record.received))
                    }
                };
                if let Some(outbox) = self.outbox.filter(|_| is_wanted) {
                    self.chosen.entry(outbox).or_insert((record.seq, record.seq)).1 = record.seq;
                }
            }
            Walked::Store { .. } | Walked::Batch(_) | Walked::Position(_) | Walked::Unreadable(_) => {}
        }
        ControlFlow::Continue(())
    }

    /// What was found.
    pub fn end(self) -> Chosen {
        self.chosen
    }
}

/// Why there is no proof.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoProof {
    /// The store's file was changed or damaged.
    #[error("record {seq} of outbox {outbox} does not prove itself any more: run cloud-ingest events verify")]
    DoesNotHold {
        /// Where.
        outbox: OutboxId,
        /// The first record that is not proved.
        seq: Seq,
    },
    /// Signed by a key that is not the controller's.
    #[error("record {seq} of outbox {outbox} is signed by a key that is no record key of this controller")]
    ForeignKey {
        /// Where.
        outbox: OutboxId,
        /// The first record under that key.
        seq: Seq,
    },
}

/// Records of one outbox that are in the proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proved {
    /// Which.
    pub outbox: OutboxId,
    /// The first record.
    pub from: Seq,
    /// The last one: what the receipt is for.
    pub to: Seq,
}

/// What a proof came to.
#[derive(Debug)]
pub struct Written {
    /// What is still to be written.
    pub last_bytes: Vec<u8>,
    /// What is proved.
    pub proved: Vec<Proved>,
    /// The record keys that signed it.
    pub signers: Vec<PublicKey>,
}

/// The second walk: writes what was chosen.
pub struct Writing<'k> {
    chosen: Chosen,
    receipt_key: &'k SigningKey,
    store_epoch: StoreEpoch,
    now: UtcMs,
    outbox: Option<Outbox>,
    /// Bytes that the caller has not taken yet.
    bytes: Vec<u8>,
    proved: Vec<Proved>,
    signers: Vec<PublicKey>,
    failed: Option<NoProof>,
}

struct Outbox {
    mark: OutboxMark,
    record_keys: Vec<PublicKey>,
    hash: ChainHash,
    recent: VecDeque<(Seq, ChainHash, Vec<u8>)>,
    /// First and last record written, and the hash at the last.
    written: Option<(Seq, Seq, ChainHash)>,
}

impl<'k> Writing<'k> {
    /// `receipt_key` signs what the store says at `now`, in its life `store_epoch`.
    pub fn new(
        chosen: Chosen,
        receipt_key: &'k SigningKey,
        store_epoch: StoreEpoch,
        now: UtcMs,
    ) -> Writing<'k> {
        let bytes = PROOF.to_vec();
        let (proved, signers) = (Vec::new(), Vec::new());
        Writing { chosen, receipt_key, store_epoch, now, outbox: None, bytes, proved, signers, failed: None }
    }

    /// Takes the next thing of the walk; breaks off when there is no proof.
    pub fn take(&mut self, walked: Walked<'_>) -> ControlFlow<()> {
        match walked {
            Walked::Outbox { mark, record_keys, archived: (_, hash), .. } => {
                self.receipt();
                let recent = VecDeque::new();
                self.outbox = Some(Outbox { mark, record_keys, hash, recent, written: None });
            }
            Walked::Record(record) => {
                if let Some(outbox) = &mut self.outbox {
                    if outbox.recent.len() == MAX_BATCH_RECORDS {
                        outbox.recent.pop_front();
                    }
                    outbox.recent.push_back((record.seq, outbox.hash, record.bytes));
                    outbox.hash = record.hash;
                }
            }
            Walked::Batch(batch) => {
                if let Err(failed) = self.batch(&batch) {
                    self.failed = Some(failed);
                    return ControlFlow::Break(());
                }
            }
            Walked::Store { .. } | Walked::Position(_) | Walked::Unreadable(_) => {}
        }
        ControlFlow::Continue(())
    }

    /// What is to be written by now.
    pub fn take_bytes(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }

    /// Everything is written but the last bytes.
    pub fn end(mut self) -> Result<Written, NoProof> {
        self.receipt();
        // A signature that is not there at all shows as an end that came too early.
        for (outbox, (_, last)) in &self.chosen {
            let proved = self.proved.iter().find(|proved| proved.outbox == *outbox).map(|proved| proved.to);
            if self.failed.is_none() && proved.is_none_or(|to| to < *last) {
                let seq = proved.unwrap_or(Seq::ZERO).next();
                self.failed = Some(NoProof::DoesNotHold { outbox: *outbox, seq });
            }
        }
        match self.failed {
            Some(failed) => Err(failed),
            None => Ok(Written { last_bytes: self.bytes, proved: self.proved, signers: self.signers }),
        }
    }

    fn batch(&mut self, batch: &SignedBatch) -> Result<(), NoProof> {
        let Some(outbox) = &mut self.outbox else { return Ok(()) };
        let Some((from, to)) = self.chosen.get(&outbox.mark.outbox) else { return Ok(()) };
        if batch.last_seq < *from || batch.first_seq > *to {
            return Ok(());
        }
        let id = outbox.mark.outbox;
        let fails = NoProof::DoesNotHold { outbox: id, seq: batch.first_seq };
        let message = outbox.message(batch).ok_or(fails.clone())?;
        let parsed = UnverifiedBatch::parse(&message).map_err(|_| fails.clone())?;
        let verified = parsed.verify(&outbox.mark.controller, &batch.proof.key).map_err(|_| fails.clone())?;
        let continues = match outbox.written {
            Some((first, last, _)) => (first..=last.next()).contains(&verified.first_seq()),
            None => true,
        };
        if !continues || verified.hash_at(batch.last_seq) != outbox.hash_at(batch.last_seq) {
            return Err(fails);
        }
        if !outbox.record_keys.contains(&batch.proof.key) {
            return Err(NoProof::ForeignKey { outbox: id, seq: batch.first_seq });
        }
        if !self.signers.contains(&batch.proof.key) {
            self.signers.push(batch.proof.key);
        }
        let last = verified.records().last().map_or(verified.hash_before(), |(_, record)| record.hash);
        let first = outbox.written.map_or(batch.first_seq, |(first, ..)| first);
        outbox.written = Some((first, batch.last_seq, last));
        self.bytes.extend(part(PartKind::Batch, &message));
        Ok(())
    }

    /// Ends an outbox with the cloud's word for exactly what was written of it. True whatever came later: a receipt says
    /// "stored through", and a controller that is shown an older one than it has takes no notice.
    fn receipt(&mut self) {
        let Some(Outbox { mark, written: Some((from, to, hash)), .. }) = self.outbox.take() else { return };
        let receipt = Receipt {
            controller: mark.controller,
            store_epoch: self.store_epoch,
            outbox: mark.outbox,
            stored_through: to,
            hash,
            resend: false,
            echo: None,
            cloud_utc_ms: self.now.0,
        };
        self.bytes.extend(part(PartKind::Receipt, &receipt.sign(self.receipt_key)));
        self.proved.push(Proved { outbox: mark.outbox, from, to });
    }
}

impl Outbox {
    /// The message that was signed.
    fn message(&self, batch: &SignedBatch) -> Option<Vec<u8>> {
        if let Some(message) = &batch.proof.message {
            return Some(message.clone());
        }
        let covered = self.recent.iter().filter(|(seq, ..)| (batch.first_seq..=batch.last_seq).contains(seq));
        let (_, hash_before, _) = covered.clone().next()?;
        let rebuilt = Batch {
            controller: self.mark.controller.clone(),
            outbox: self.mark.outbox,
            first_seq: batch.first_seq,
            hash_before: *hash_before,
            records: covered.map(|(.., bytes)| bytes.clone()).collect(),
        };
        Some(rebuilt.signed_before(&batch.proof.signature))
    }

    /// The stored hash at the newest record.
    fn hash_at(&self, seq: Seq) -> Option<ChainHash> {
        self.recent.back().filter(|(last, ..)| *last == seq).map(|_| self.hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event_store::sqlite::SqliteStore;
    use crate::event_store::{EventStore, Proof, RecordKey};
    use crate::fixture::{self, Door, START};
    use tap_protocol::export::portion_length;

    /// Door 1 with records 1 to 9 under three signatures, and door 2 with a few.
    fn filled() -> (SqliteStore, Door) {
        let mut store = fixture::store();
        let mut door = Door::new(1);
        (1..9).for_each(|badge| {
            door.tap(badge);
        });
        for (from, to) in [(1, 3), (4, 6), (7, 9)] {
            let message = door.message(from, to);
            let batch =
                UnverifiedBatch::parse(&message).unwrap().verify(&door.id, &door.key.public()).unwrap();
            store.append(&[batch], START).unwrap();
        }
        store.append(&[Door::new(2).batch()], START).unwrap();
        (store, door)
    }

    fn receipt_key() -> SigningKey {
        SigningKey::from_seed(&[0x22; 32])
    }

    fn proof(store: &mut SqliteStore, wanted: Wanted) -> Result<(Vec<u8>, Vec<Proved>), NoProof> {
        let door = "door-1".parse().unwrap();
        let mut choosing = Choosing::new(wanted, None);
        store.walk(Some(&door), &mut |walked| choosing.take(&walked)).unwrap();
        let key = receipt_key();
        let mut writing = Writing::new(choosing.end(), &key, StoreEpoch(5), START);
        store.walk(Some(&door), &mut |walked| writing.take(walked)).unwrap();
        let Written { last_bytes, proved, signers } = writing.end()?;
        assert!(signers.len() <= 1);
        Ok((last_bytes, proved))
    }

    /// Kind and message of each part.
    fn parts(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
        bytes = bytes.strip_prefix(PROOF).unwrap();
        let mut parts = Vec::new();
        while let Some((length, rest)) = bytes.split_first_chunk::<4>() {
            let (content, rest) = rest.split_at(portion_length(*length).unwrap());
            parts.push((content[0], content[1..].to_vec()));
            bytes = rest;
        }
        parts
    }

    #[track_caller]
    fn check(wanted: Wanted, from: u64, to: u64, batches: &[(usize, usize)]) {
        let (mut store, door) = filled();
        let (bytes, proved) = proof(&mut store, wanted).unwrap();
        assert_eq!(proved, [Proved { outbox: door.outbox, from: Seq(from), to: Seq(to) }]);
        let mut parts = parts(&bytes);
        let (kind, receipt) = parts.pop().unwrap();
        assert_eq!(kind, PartKind::Receipt as u8);
        let receipt = Receipt::open(&receipt, &door.id, &[receipt_key().public()]).unwrap();
        assert_eq!((receipt.stored_through, receipt.store_epoch), (Seq(to), StoreEpoch(5)));
        let expected = batches.iter().map(|(from, to)| (PartKind::Batch as u8, door.message(*from, *to)));
        assert_eq!(parts, expected.collect::<Vec<_>>(), "the very messages that the controller sent");
    }

    #[test]
    fn all_that_was_signed_is_in_it_and_the_receipt_is_for_the_last_of_it() {
        check(Wanted::All, 1, 9, &[(1, 3), (4, 6), (7, 9)]);
    }

    #[test]
    fn what_is_asked_for_comes_in_whole_batches() {
        check(Wanted::Seqs(Seq(5), Seq(5)), 4, 6, &[(4, 6)]);
        check(Wanted::Seqs(Seq(3), Seq(4)), 1, 6, &[(1, 3), (4, 6)]);
        // Record n of the fixture is at START + n seconds.
        let second = |n: i64| UtcMs(START.0 + n * 1_000);
        check(Wanted::Time(second(8)..second(9)), 7, 9, &[(7, 9)]);
    }

    #[test]
    fn nothing_wanted_is_nothing_proved() {
        let (mut store, _) = filled();
        let (bytes, proved) = proof(&mut store, Wanted::Seqs(Seq(10), Seq(12))).unwrap();
        assert_eq!((bytes.as_slice(), proved.len()), (PROOF.as_slice(), 0));
    }

    #[test]
    fn a_record_key_that_was_replaced_still_proves_what_it_signed() {
        let (mut store, door) = filled();
        let mut controller = store.controller(&door.id).unwrap().unwrap();
        controller.record_keys = vec![RecordKey::new(PublicKey([1; 32]))];
        store.put_controller(&controller).unwrap();
        assert!(proof(&mut store, Wanted::All).is_ok());
    }
}
