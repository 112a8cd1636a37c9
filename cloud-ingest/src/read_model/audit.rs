//! Beside the line: whether everything that a store says of its records holds: every chain from h(0) on, every signature
//! under its controller's record key, every mark and total. Pure: fed by [`EventStore::walk`], it remembers the last
//! batch's worth of records and what it found wrong.
//!
//! It believes the record keys and nothing else. Where a record's bytes and its hash do not belong together, either may
//! be the wrong one; both ways on are tried, so that one damaged place is told once and the signature says which it was.
//!
//! [`EventStore::walk`]: crate::event_store::EventStore::walk

use std::collections::{BTreeSet, VecDeque};
use std::ops::ControlFlow;

use serde::Serialize;
use tap_protocol::chain::ChainHash;
use tap_protocol::envelope::{Batch, UnverifiedBatch, VerifiedBatch};
use tap_protocol::ids::{ControllerId, OutboxId, OutboxPrefix, Seq};
use tap_protocol::keys::PublicKey;
use tap_protocol::limits::MAX_BATCH_RECORDS;

use crate::event_store::archive::Archived;
use crate::event_store::{OutboxMark, Position, SignedBatch, StoredRecord, Totals, Walked};

/// So many wrong places are told; more are counted. One cause rarely has more than a few.
pub const MAX_FINDINGS: usize = 100;

/// Something that does not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Whose record it is, if it is anybody's.
    pub controller: Option<ControllerId>,
    /// In which outbox.
    pub outbox: Option<OutboxId>,
    /// At which record: the first that is wrong.
    pub seq: Option<u64>,
    /// What is wrong, for people.
    pub what: String,
}

/// What an audit came to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Audited {
    /// Whether everything holds.
    pub holds: bool,
    /// Outboxes that were walked.
    pub outboxes: u64,
    /// Records, each with its place in its chain.
    pub records: u64,
    /// Signatures, each over its records.
    pub signatures: u64,
    /// The record keys that signed.
    pub keys: BTreeSet<String>,
    /// The first [`MAX_FINDINGS`] wrong places, in the order of the walk.
    pub findings: Vec<Finding>,
    /// All of them.
    pub found: u64,
}

/// An audit under way.
#[derive(Debug, Default)]
pub struct Audit {
    audited: Audited,
    totals: Option<Totals>,
    expected_records: u64,
    taps: u64,
    outbox: Option<Outbox>,
    archived: Archived,
    positions: u64,
    last_position: u64,
    position_is_missing: bool,
    /// Records may follow those that are here: this is a part of a store.
    is_a_part: bool,
}

/// The outbox that is being walked.
#[derive(Debug)]
struct Outbox {
    mark: OutboxMark,
    record_keys: Vec<PublicKey>,
    /// What went before those that are here.
    archived: Seq,
    /// As [`Audit::is_a_part`].
    is_a_part: bool,
    last_seq: Seq,
    last_position: Position,
    /// `h(last_seq)`: as worked out, and as stored where that is another.
    hash: Candidates,
    /// Records 1 ..= this are covered by signatures.
    signed_through: Seq,
    /// The newest records, as many as a batch may cover: seq, the hash before, bytes.
    recent: VecDeque<(Seq, Candidates, Vec<u8>)>,
}

/// A hash as worked out, and as stored if that differs: one of them is right.
type Candidates = (ChainHash, Option<ChainHash>);

fn both(candidates: Candidates) -> impl Iterator<Item = ChainHash> {
    std::iter::once(candidates.0).chain(candidates.1)
}

impl Audited {
    /// Something beside the walk does not hold.
    pub fn also(&mut self, what: String) {
        (self.holds, self.found) = (false, self.found + 1);
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(Finding { controller: None, outbox: None, seq: None, what });
        }
    }
}

impl Audit {
    /// An audit of what left a store, which ends anywhere.
    pub fn of_a_part() -> Audit {
        Audit { is_a_part: true, ..Audit::default() }
    }

    /// Takes the next thing of the walk.
    pub fn take(&mut self, walked: Walked<'_>) -> ControlFlow<()> {
        match walked {
            Walked::Store { totals, records, archived } => {
                (self.totals, self.expected_records) = (Some(totals), records);
                (self.archived, self.last_position) = (archived, archived.through);
            }
            Walked::Outbox { mark, prefix, record_keys, archived } => {
                self.begin(mark, prefix, record_keys, archived);
            }
            Walked::Record(record) => self.record(record),
            Walked::Batch(batch) => self.batch(&batch),
            Walked::Position(position) => self.position(position),
            Walked::Unreadable(what) => {
                let seq = self.outbox.as_ref().map(|outbox| outbox.last_seq.next());
                self.found(seq, format!("cannot be read: {what}"));
            }
        }
        ControlFlow::Continue(())
    }

    /// How many records were seen, of how many.
    pub fn progress(&self) -> (u64, u64) {
        (self.audited.records, self.expected_records)
    }

    /// The walk is over.
    pub fn end(mut self) -> Audited {
        self.end_outbox();
        if let Some(totals) = self.totals.filter(|_| self.walks_positions()) {
            self.totals(totals);
        }
        self.audited.holds = self.audited.found == 0;
        self.audited
    }

    /// The totals are of the whole store, and mean nothing to a walk over one controller's records.
    fn walks_positions(&self) -> bool {
        self.positions > 0
    }

    fn begin(
        &mut self,
        mark: OutboxMark,
        prefix: [u8; 16],
        record_keys: Vec<PublicKey>,
        (archived, hash): (Seq, ChainHash),
    ) {
        self.end_outbox();
        self.audited.outboxes += 1;
        let is_found_under = OutboxPrefix::new(&mark.controller, mark.outbox).to_bytes();
        let is_a_part = self.is_a_part;
        let starts_wrong = archived == Seq::ZERO && hash != ChainHash::start(mark.outbox);
        self.outbox = Some(Outbox {
            mark,
            record_keys,
            archived,
            is_a_part,
            last_seq: archived,
            last_position: Position(0),
            hash: (hash, None),
            signed_through: archived,
            recent: VecDeque::new(),
        });
        if starts_wrong {
            self.found(None, "its chain does not start where the outbox's name says".into());
        }
        if prefix != is_found_under {
            self.found(None, "its event ids are looked for under those of another outbox".into());
        }
    }

    fn record(&mut self, record: StoredRecord) {
        self.audited.records += 1;
        self.taps += u64::from(record.kind == "tap");
        let Some(outbox) = &mut self.outbox else { return };
        let (seq, expected) = (record.seq, outbox.last_seq.next());
        let contradiction = record.contradiction();
        let is_in_order = record.position > outbox.last_position;
        let mut wrong = Vec::new();
        if seq != expected {
            wrong.push((expected, format!("records {expected} to {} are missing", seq.0.saturating_sub(1))));
            // Without the hash before it, the stored one is all there is to go on from.
            outbox.recent.clear();
            outbox.hash = (record.hash, None);
        } else {
            let before = outbox.hash;
            let worked_out = before.0.next(&record.bytes);
            let fits = both(before).any(|before| before.next(&record.bytes) == record.hash);
            outbox.hash = if fits { (record.hash, None) } else { (worked_out, Some(record.hash)) };
            if !fits {
                wrong.push((seq, "its bytes and its hash do not belong together".into()));
            }
            if outbox.recent.len() == MAX_BATCH_RECORDS {
                outbox.recent.pop_front();
            }
            outbox.recent.push_back((seq, before, record.bytes));
        }
        if !is_in_order {
            wrong.push((seq, format!("its position {} is not above those before it", record.position.0)));
        }
        wrong.extend(contradiction.map(|what| (seq, what)));
        (outbox.last_seq, outbox.last_position) = (seq, record.position);
        wrong.into_iter().for_each(|(seq, what)| self.found(Some(seq), what));
    }

    fn batch(&mut self, batch: &SignedBatch) {
        self.audited.signatures += 1;
        self.audited.keys.insert(batch.proof.key.to_string());
        let Some(outbox) = &mut self.outbox else { return };
        let (from, to) = (batch.first_seq, batch.last_seq);
        let unsigned = outbox.signed_through.next();
        let leaves_a_gap = from > unsigned;
        outbox.signed_through = outbox.signed_through.max(to);
        let is_trusted = outbox.record_keys.contains(&batch.proof.key);
        let refused = outbox.proved(batch).err();
        if leaves_a_gap {
            let last = from.0.saturating_sub(1);
            self.found(Some(unsigned), format!("no signature covers records {unsigned} to {last}"));
        }
        if !is_trusted {
            let key = batch.proof.key;
            self.found(
                Some(from),
                format!(
                    "records {from} to {to} are signed by {key}, which is no record key of this controller"
                ),
            );
        }
        if let Some(why) = refused {
            self.found(Some(from), format!("the signature over records {from} to {to} does not hold: {why}"));
        }
    }

    fn position(&mut self, position: Position) {
        self.positions += 1;
        self.last_position += 1;
        if position.0 != self.last_position && !std::mem::replace(&mut self.position_is_missing, true) {
            self.end_outbox();
            self.found(None, format!("position {} of all records is missing", self.last_position));
        }
    }

    fn end_outbox(&mut self) {
        let Some(outbox) = self.outbox.take() else { return };
        let OutboxMark { stored_through, hash, .. } = outbox.mark;
        let (last, next) = (outbox.last_seq, outbox.last_seq.next());
        let mut wrong = Vec::new();
        if last < stored_through {
            wrong.push((
                next,
                format!("records {next} to {stored_through} are missing: the mark covers them"),
            ));
        } else if last > stored_through {
            let next = stored_through.next();
            wrong.push((next, format!("the mark says {stored_through}, and records follow up to {last}")));
        } else if both(outbox.hash).all(|own| own != hash) {
            wrong.push((last, "the mark's hash is not that of its record".into()));
        }
        if outbox.signed_through < last {
            let unsigned = outbox.signed_through.next();
            wrong.push((unsigned, format!("no signature covers records {unsigned} to {last}")));
        }
        self.outbox = Some(outbox);
        wrong.into_iter().for_each(|(seq, what)| self.found(Some(seq), what));
        self.outbox = None;
    }

    fn totals(&mut self, totals: Totals) {
        let Audited { records, .. } = self.audited;
        let Archived { through, records: gone, taps: gone_taps, .. } = self.archived;
        for (what, said, is) in [
            ("records", totals.records, self.positions + gone),
            ("positions given", totals.last_position, self.positions + through),
            ("records that belong to an outbox", self.positions, records),
            ("taps", totals.taps, self.taps + gone_taps),
        ] {
            if said != is {
                self.found(None, format!("the store counts {said} {what}, and there are {is}"));
            }
        }
    }

    fn found(&mut self, seq: Option<Seq>, what: String) {
        self.audited.found += 1;
        if self.audited.findings.len() < MAX_FINDINGS {
            let mark = self.outbox.as_ref().map(|outbox| &outbox.mark);
            self.audited.findings.push(Finding {
                controller: mark.map(|mark| mark.controller.clone()),
                outbox: mark.map(|mark| mark.outbox),
                seq: seq.map(|seq| seq.0),
                what,
            });
        }
    }
}

impl Outbox {
    /// Whether the signature is over exactly the stored records.
    fn proved(&self, batch: &SignedBatch) -> Result<(), String> {
        let covered = self.recent.iter().filter(|(seq, ..)| (batch.first_seq..=batch.last_seq).contains(seq));
        let covered: Vec<_> = covered.collect();
        let goes_beyond = self.is_a_part && batch.last_seq > self.mark.stored_through;
        if batch.proof.message.is_some() && (batch.first_seq <= self.archived || goes_beyond) {
            return self.proved_in_part(batch, covered.iter().map(|(seq, _, bytes)| (*seq, bytes)));
        }
        let all = batch.last_seq.0.checked_sub(batch.first_seq.0).map(|more| more + 1);
        let Some((_, before, _)) = covered.first().filter(|_| all == Some(covered.len() as u64)) else {
            return Err("not all of them are there".into());
        };
        let records: Vec<Vec<u8>> = covered.iter().map(|(.., bytes)| bytes.clone()).collect();
        let mut last = Err("there is no hash before them".to_owned());
        for hash_before in both(*before) {
            let rebuilt = Batch {
                controller: self.mark.controller.clone(),
                outbox: self.mark.outbox,
                first_seq: batch.first_seq,
                hash_before,
                records: records.clone(),
            };
            last = self.proves(batch, &rebuilt);
            if last.is_ok() {
                break;
            }
        }
        last
    }

    /// A signature over records of which some are archived, or follow elsewhere: those that are here must be among them, and
    /// continue from the hash where what is archived ends.
    fn proved_in_part<'r>(
        &'r self,
        batch: &SignedBatch,
        mut covered: impl Iterator<Item = (Seq, &'r Vec<u8>)>,
    ) -> Result<(), String> {
        let message = batch.proof.message.as_deref().unwrap_or_default();
        let verified = self.verified(batch, message)?;
        let names_the_same = verified.outbox() == self.mark.outbox
            && (verified.first_seq(), verified.last_seq()) == (batch.first_seq, batch.last_seq)
            && verified.proof().signature == batch.proof.signature;
        let here = |seq: &Seq| *seq > self.archived && (!self.is_a_part || *seq <= self.mark.stored_through);
        let mut signed = verified.records().filter(|(seq, _)| here(seq));
        let are_the_same = signed.all(|(seq, record)| covered.next() == Some((seq, &record.bytes)));
        // Where the first that is here follows from: the stored hash, or the one worked out.
        let continues = match self.recent.front() {
            Some((seq, before, _)) if *seq == self.archived.next() && batch.first_seq <= self.archived => {
                verified.hash_at(self.archived).is_some_and(|signed| both(*before).any(|own| own == signed))
            }
            _ => true,
        };
        match names_the_same && are_the_same && covered.next().is_none() && continues {
            true => Ok(()),
            false => Err("the message that was kept is of other records".into()),
        }
    }

    fn verified(&self, batch: &SignedBatch, message: &[u8]) -> Result<VerifiedBatch, String> {
        let parsed = UnverifiedBatch::parse(message).map_err(|error| error.to_string())?;
        parsed.verify(&self.mark.controller, &batch.proof.key).map_err(|_| {
            "the records are not those that were signed, or the signature was changed".to_owned()
        })
    }

    fn proves(&self, batch: &SignedBatch, rebuilt: &Batch) -> Result<(), String> {
        let rewritten = || rebuilt.signed_before(&batch.proof.signature);
        let message = batch.proof.message.clone().unwrap_or_else(rewritten);
        let verified = self.verified(batch, &message)?;
        match is_of(&verified, rebuilt) && verified.proof().signature == batch.proof.signature {
            true => Ok(()),
            false => Err("the message that was kept is of other records".into()),
        }
    }
}

/// Whether a message that was kept as it came says what is stored.
fn is_of(verified: &VerifiedBatch, stored: &Batch) -> bool {
    verified.outbox() == stored.outbox
        && verified.first_seq() == stored.first_seq
        && verified.hash_before() == stored.hash_before
        && verified.records().map(|(_, record)| &record.bytes).eq(&stored.records)
}
