//! A controller's disk: its outboxes as the real ones behave at their seam, in memory. Knows no time and no chance.
//!
//! What is in [`Disk`] is on the medium, but for one thing: the mark is written lazily, so after a crash it may be older
//! than it was. A clone is a backup.

use std::collections::VecDeque;

use edge_agent::outbox::Chunk;
use edge_agent::outbox::say_again::SaidAgain;
use edge_agent::relay::Mark;
use tap_protocol::chain::ChainHash;
use tap_protocol::ids::{BootId, OutboxId, Seq};
use tap_protocol::limits::{MAX_BATCH_RECORD_BYTES, MAX_BATCH_RECORDS};

/// A tap as the simulation numbers it. The acting code never sees it.
pub type TapNo = usize;

/// Records said again, and which taps they are.
pub type Again = Vec<(Vec<u8>, Option<TapNo>)>;

/// All outboxes of a controller, oldest first. The last one is written.
#[derive(Debug, Clone, Default)]
pub struct Disk {
    /// Oldest first.
    pub outboxes: Vec<DiskOutbox>,
}

/// One outbox file.
#[derive(Debug, Clone)]
pub struct DiskOutbox {
    /// Which.
    pub id: OutboxId,
    /// How far receipts go, in memory.
    pub mark: Mark,
    /// Whether the last run ended as it was asked to.
    pub stopped_cleanly: bool,
    /// The mark as it was last written to the medium.
    mark_on_medium: Mark,
    /// The last record deleted, and its hash.
    pruned: (Seq, ChainHash),
    records: VecDeque<Written>,
    /// Boot number 1 is at index 0.
    boots: Vec<BootId>,
    /// The outbox whose end this one says again, and after which record.
    continues: Option<(OutboxId, Seq)>,
}

/// One record on the medium.
#[derive(Debug, Clone)]
pub struct Written {
    /// The record.
    pub bytes: Vec<u8>,
    /// `h(n)`.
    pub hash: ChainHash,
    /// Which tap it is, for the oracle.
    pub tap: Option<TapNo>,
}

impl Disk {
    /// The outbox that is written.
    pub fn newest(&mut self) -> &mut DiskOutbox {
        self.outboxes.last_mut().expect("a disk is never without an outbox")
    }

    /// That outbox, if it is here.
    pub fn find(&mut self, id: OutboxId) -> Option<&mut DiskOutbox> {
        self.outboxes.iter_mut().find(|outbox| outbox.id == id)
    }

    /// A new, empty outbox; it is written from now on.
    pub fn start_new(&mut self, id: OutboxId) {
        self.outboxes.push(DiskOutbox {
            id,
            mark: Mark::default(),
            stopped_cleanly: false,
            mark_on_medium: Mark::default(),
            pruned: (Seq::ZERO, ChainHash::start(id)),
            records: VecDeque::new(),
            boots: Vec::new(),
            continues: None,
        });
    }

    /// The process or the power is gone: what was only in memory is forgotten.
    pub fn crash(&mut self) {
        self.outboxes.iter_mut().for_each(|outbox| outbox.mark = outbox.mark_on_medium);
    }

    /// What is on the medium: a backup.
    pub fn medium(&self) -> Disk {
        let mut copy = self.clone();
        copy.crash();
        copy
    }

    /// Writes all marks to the medium.
    pub fn flush_marks(&mut self) {
        self.outboxes.iter_mut().for_each(|outbox| outbox.mark_on_medium = outbox.mark);
    }

    /// As `Shelf::says_through`.
    pub fn says_through(&self, outbox: &DiskOutbox) -> Option<Seq> {
        let others = self.outboxes.iter().filter_map(|other| other.continues);
        match others.filter(|(id, _)| *id == outbox.id).map(|(_, after)| after).min() {
            None => Some(outbox.last().0),
            after => after.filter(|through| *through > outbox.pruned.0),
        }
    }

    /// Whether another outbox says its end again.
    pub fn is_settled(&self, id: OutboxId) -> bool {
        self.outboxes.iter().any(|outbox| outbox.continues.is_some_and(|(old, _)| old == id))
    }

    /// What an outbox has after `after` and up to `last`, in the newest one's terms. As `Keeper::say_again`.
    pub fn say_again(&mut self, old: OutboxId, after: Seq, last: Seq) -> (Again, SaidAgain) {
        let (new, older) = self.outboxes.split_last_mut().expect("a disk is never without an outbox");
        let old_outbox = older.iter().find(|outbox| outbox.id == old).expect("what is left is on the disk");
        let boots = (1..).zip(old_outbox.boots.iter().map(|boot_id| (new.boot_number(*boot_id), *boot_id)));
        let mut said = SaidAgain::new(after, boots.collect());
        let mut again = Vec::new();
        for (_, written) in old_outbox.records().filter(|(seq, _)| *seq > after && *seq <= last) {
            let mut records = said.record(&written.bytes);
            let own = records.pop();
            again.extend(records.into_iter().map(|start| (start, None)));
            again.extend(own.map(|own| (own, written.tap)));
        }
        new.continues = Some((old, after));
        (again, said)
    }
}

impl DiskOutbox {
    /// The last record and its hash.
    pub fn last(&self) -> (Seq, ChainHash) {
        match self.records.back() {
            Some(written) => (self.pruned.0.plus(self.records.len() as u64), written.hash),
            None => self.pruned,
        }
    }

    /// The last record deleted.
    pub fn pruned_through(&self) -> Seq {
        self.pruned.0
    }

    /// Appends in one commit; gives the first number.
    pub fn append(&mut self, records: Vec<(Vec<u8>, Option<TapNo>)>) -> Seq {
        let (last, mut hash) = self.last();
        for (bytes, tap) in records {
            hash = hash.next(&bytes);
            self.records.push_back(Written { bytes, hash, tap });
        }
        last.next()
    }

    /// Up to a batch of records from `from` on. `None` if records from there on are deleted: the real outbox asserts
    /// that this is never asked for.
    pub fn read(&self, from: Seq) -> Option<Chunk> {
        if from <= self.pruned.0 {
            return None;
        }
        let hash_before = self.hash_at(Seq(from.0 - 1))?;
        let (mut bytes_total, mut records) = (0, Vec::new());
        for written in
            self.records.iter().skip((from.0 - self.pruned.0.0 - 1) as usize).take(MAX_BATCH_RECORDS)
        {
            bytes_total += written.bytes.len();
            if bytes_total > MAX_BATCH_RECORD_BYTES {
                break;
            }
            records.push(written.bytes.clone());
        }
        Some(Chunk { first_seq: from, hash_before, records })
    }

    /// `h(seq)`, where it is still known.
    pub fn hash_at(&self, seq: Seq) -> Option<ChainHash> {
        match seq.0.checked_sub(self.pruned.0.0)? {
            0 => Some(self.pruned.1),
            n => self.records.get(n as usize - 1).map(|written| written.hash),
        }
    }

    /// Deletes receipted records beyond the newest `keep`. Gives the numbers that went.
    pub fn prune(&mut self, keep: u64, receipted_or_not: bool) -> std::ops::RangeInclusive<u64> {
        let first = self.pruned.0.0 + 1;
        let old = self.last().0.0.saturating_sub(keep);
        let through = if receipted_or_not { old } else { old.min(self.mark.receipted_through.0) };
        while self.pruned.0.0 < through {
            let gone = self.records.pop_front().expect("what is below the last record is there");
            self.pruned = (self.pruned.0.next(), gone.hash);
        }
        if first <= through {
            self.mark_on_medium = self.mark;
        }
        first..=through
    }

    /// The number that stands for a boot in this outbox.
    pub fn boot_number(&mut self, boot_id: BootId) -> u32 {
        let known = self.boots.iter().position(|known| *known == boot_id);
        let index = known.unwrap_or_else(|| {
            self.boots.push(boot_id);
            self.boots.len() - 1
        });
        index as u32 + 1
    }

    /// The number of a boot that is known here.
    pub fn known_boot(&self, boot_id: BootId) -> Option<u32> {
        self.boots.iter().position(|known| *known == boot_id).map(|index| index as u32 + 1)
    }

    /// All records with their numbers.
    pub fn records(&self) -> impl Iterator<Item = (Seq, &Written)> {
        (self.pruned.0.0 + 1..).map(Seq).zip(&self.records)
    }
}
