//! The oracle: what was promised by whom, and whether a shelf still keeps it. Pure bookkeeping beside the outbox, by
//! other means: plain lists in memory.
//!
//! *Accepted* is what `append` returned `Ok` for. What was under way or refused may be there whole or not at all.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use edge_agent::agent::with_causes;
use edge_agent::outbox::shelf::{Aside, Shelf};
use edge_agent::outbox::{Outbox, OutboxError};
use edge_agent::relay::Mark;
use tap_protocol::chain::ChainHash;
use tap_protocol::ids::{BootId, OutboxId, Seq};

/// What happened, in order. `…ing` is before the call, the past tense after it returned `Ok`.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "they are called as what they are")]
pub enum Event {
    Making(OutboxId),
    Made(OutboxId),
    /// It was opened, without a power cut, and says this of itself.
    Opened {
        outbox: OutboxId,
        mark: Mark,
        last: Seq,
        hash: ChainHash,
    },
    Appending {
        outbox: OutboxId,
        records: Vec<Vec<u8>>,
        continues: Option<OutboxId>,
    },
    Appended {
        outbox: OutboxId,
        records: Vec<Vec<u8>>,
        continues: Option<OutboxId>,
    },
    MarkSet(OutboxId, Mark),
    MarkFlushed(OutboxId),
    Pruning(OutboxId, Seq),
    Pruned(OutboxId, Seq),
    Booting(OutboxId, BootId),
    Booted(OutboxId, BootId, u32),
    Stopping(OutboxId, bool),
    Stopped(OutboxId, bool),
}

/// What is wrong with a shelf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wrong {
    /// The outbox says so itself: it cannot be opened or read.
    Damaged(String),
    /// It says that all is well, and accepted records are missing at its end.
    Shorter {
        /// How many.
        missing: u64,
        /// In words.
        what: String,
    },
    /// It says that all is well, and it is not.
    Silently(String),
}

impl Wrong {
    /// The same, with what was being done.
    #[must_use]
    pub fn when(self, when: &str) -> Wrong {
        match self {
            Wrong::Damaged(what) => Wrong::Damaged(format!("{when}: {what}")),
            Wrong::Shorter { missing, what } => Wrong::Shorter { missing, what: format!("{when}: {what}") },
            Wrong::Silently(what) => Wrong::Silently(format!("{when}: {what}")),
        }
    }

    /// An error that an outbox gave.
    pub fn damaged(error: &OutboxError) -> Wrong {
        Wrong::Damaged(with_causes(error))
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Wrong::Damaged(what) | Wrong::Shorter { what, .. } | Wrong::Silently(what)) = self;
        f.write_str(what)
    }
}

/// All promises.
#[derive(Debug, Clone, Default)]
pub struct Promises {
    outboxes: BTreeMap<OutboxId, Promise>,
}

/// Records that are there together or not at all, and whom they say again.
type Group = (Vec<Vec<u8>>, Option<OutboxId>);

/// What one outbox promised.
#[derive(Debug, Clone)]
struct Promise {
    is_made: bool,
    /// Its file was harmed: what is left of it is looked at by `repair.rs`.
    is_harmed: bool,
    /// Accepted: record `n` is at `n − 1`.
    records: Vec<Vec<u8>>,
    /// `h(n)` at `n`.
    hashes: Vec<ChainHash>,
    /// Groups that were refused and came to light when the outbox was opened again. They may go with the next power cut,
    /// but not once a later group is accepted: it hangs on them.
    afloat: Vec<Group>,
    /// Groups under way or refused since the last that was accepted: one of them may be there.
    unsure: Vec<Group>,
    continues: Option<OutboxId>,
    /// All marks that were ever set; the medium has this one or a later one.
    marks: Vec<Mark>,
    mark_on_medium: usize,
    pruned: Seq,
    prune_unsure: Seq,
    boots: BTreeMap<BootId, u32>,
    boots_unsure: BTreeSet<BootId>,
    stopped: bool,
    stopped_unsure: Option<bool>,
}

/// What a shelf was found to hold.
#[derive(Debug, Clone, Default)]
pub struct Found {
    outboxes: BTreeMap<OutboxId, FoundOutbox>,
}

#[derive(Debug, Clone)]
struct FoundOutbox {
    records: Vec<Vec<u8>>,
    continues: Option<OutboxId>,
    mark: Mark,
    pruned: Seq,
    boots: Vec<(u32, BootId)>,
    stopped: bool,
}

impl Promises {
    /// Takes note of an event.
    pub fn hear(&mut self, event: &Event) {
        match event {
            Event::Making(id) => {
                self.outboxes.entry(*id).or_insert_with(|| Promise::new(*id));
            }
            Event::Made(id) => self.of(*id).is_made = true,
            Event::Opened { outbox, mark, last, hash } => self.of(*outbox).opened(*mark, *last, *hash),
            Event::Appending { outbox, records, continues } => {
                self.of(*outbox).unsure.push((records.clone(), *continues));
            }
            Event::Appended { outbox, records, continues } => self.of(*outbox).accept(records, *continues),
            Event::MarkSet(id, mark) => self.of(*id).marks.push(*mark),
            Event::MarkFlushed(id) => {
                let promise = self.of(*id);
                promise.mark_on_medium = promise.marks.len() - 1;
            }
            Event::Pruning(id, through) => {
                let promise = self.of(*id);
                promise.prune_unsure = promise.prune_unsure.max(*through);
            }
            Event::Pruned(id, through) => {
                let promise = self.of(*id);
                promise.pruned = promise.pruned.max(*through);
                promise.mark_on_medium = promise.marks.len() - 1;
            }
            Event::Booting(id, boot) => {
                self.of(*id).boots_unsure.insert(*boot);
            }
            Event::Booted(id, boot, number) => {
                self.of(*id).boots.insert(*boot, *number);
            }
            Event::Stopping(id, cleanly) => self.of(*id).stopped_unsure = Some(*cleanly),
            Event::Stopped(id, cleanly) => {
                let promise = self.of(*id);
                (promise.stopped, promise.stopped_unsure) = (*cleanly, None);
            }
        }
    }

    /// The outbox that was named last: their ids count up.
    pub fn newest(&self) -> Option<OutboxId> {
        self.outboxes.keys().next_back().copied()
    }

    /// Whether any outbox was made, and not harmed.
    pub fn is_any_made(&self) -> bool {
        self.outboxes.values().any(|promise| promise.is_made && !promise.is_harmed)
    }

    /// How many records are accepted.
    pub fn accepted(&self) -> usize {
        self.outboxes.values().map(|promise| promise.records.len()).sum()
    }

    /// The last accepted record of an outbox.
    pub fn last_accepted(&self, id: OutboxId) -> Option<Seq> {
        self.outboxes.get(&id).map(|promise| Seq(promise.records.len() as u64))
    }

    /// The accepted records of an outbox: number `n` is at `n − 1`.
    pub fn records(&self, id: OutboxId) -> &[Vec<u8>] {
        self.outboxes.get(&id).map_or(&[], |promise| &promise.records)
    }

    /// From now on an outbox's file is harmed, and reading it proves nothing.
    pub fn harm(&mut self, id: OutboxId) {
        self.of(id).is_harmed = true;
    }

    /// Whether any file is harmed.
    pub fn is_any_harmed(&self) -> bool {
        self.outboxes.values().any(|promise| promise.is_harmed)
    }

    /// The outboxes that were made.
    pub fn made(&self) -> impl Iterator<Item = OutboxId> {
        self.outboxes.iter().filter(|(_, promise)| promise.is_made).map(|(id, _)| *id)
    }

    /// How far receipts ever went.
    pub fn receipted(&self, id: OutboxId) -> Seq {
        let marks = self.outboxes.get(&id).map(|promise| promise.marks.as_slice()).unwrap_or_default();
        marks.iter().map(|mark| mark.receipted_through).max().unwrap_or(Seq::ZERO)
    }

    /// How far an outbox is pruned.
    pub fn pruned(&self, id: OutboxId) -> Seq {
        self.outboxes.get(&id).map_or(Seq::ZERO, |promise| promise.pruned)
    }

    /// The accepted records above the mark that was set last.
    pub fn without_receipt(&self, id: OutboxId) -> Vec<Vec<u8>> {
        let unreceipted = |promise: &Promise| {
            let mark = promise.marks.last().map_or(0, |mark| mark.receipted_through.0);
            promise.records[mark as usize..].to_vec()
        };
        self.outboxes.get(&id).map(unreceipted).unwrap_or_default()
    }

    /// Everything that was under way is decided: it did not happen.
    pub fn settle(&mut self) {
        self.outboxes.retain(|_, promise| promise.is_made);
        for promise in self.outboxes.values_mut() {
            promise.unsure.clear();
            promise.afloat.clear();
            promise.boots_unsure.clear();
            (promise.prune_unsure, promise.stopped_unsure) = (Seq::ZERO, None);
        }
    }

    /// Forgets that refused groups may be there: as long as the outbox is open they are not.
    #[must_use]
    pub fn while_open(&self) -> Promises {
        let mut strict = self.clone();
        strict.outboxes.values_mut().for_each(|promise| promise.unsure.clear());
        strict
    }

    /// Reads everything on the shelf and says what is wrong, if anything.
    pub fn check(&self, shelf: &Shelf) -> Result<Found, Wrong> {
        let mut found = Found::default();
        for outbox in shelf.all() {
            let id = outbox.id();
            let promise =
                self.outboxes.get(&id).ok_or_else(|| Wrong::Silently(format!("nobody made outbox {id}")))?;
            if promise.is_harmed {
                continue;
            }
            let of_this = format!("outbox {id}");
            found.outboxes.insert(id, promise.check(outbox).map_err(|wrong| wrong.when(&of_this))?);
        }
        let aside = shelf.aside().map_err(|error| Wrong::damaged(&error))?;
        for (id, promise) in &self.outboxes {
            if promise.is_harmed {
                continue;
            }
            let is_aside = |aside: &Aside| aside.outbox.is_some_and(|(known, _)| known == *id);
            if promise.is_made && !found.outboxes.contains_key(id) && aside.iter().any(is_aside) {
                return Err(Wrong::Damaged(format!("outbox {id} was damaged and is set aside")));
            }
            if promise.is_made && !found.outboxes.contains_key(id) {
                return Err(Wrong::Silently(format!(
                    "outbox {id} is gone, with {} accepted records",
                    promise.records.len()
                )));
            }
        }
        Ok(found)
    }

    /// What was found on a medium at rest is what counts from now on.
    pub fn adopt(&mut self, found: &Found) {
        self.outboxes.retain(|id, promise| promise.is_harmed || found.outboxes.contains_key(id));
        for (id, outbox) in &found.outboxes {
            let promise = self.of(*id);
            promise.is_made = true;
            let extra = outbox.records[promise.records.len()..].to_vec();
            promise.accept(&extra, outbox.continues);
            promise.continues = outbox.continues;
            (promise.marks, promise.mark_on_medium) = (vec![outbox.mark], 0);
            (promise.pruned, promise.prune_unsure) = (outbox.pruned, Seq::ZERO);
            promise.boots = outbox.boots.iter().map(|(number, boot)| (*boot, *number)).collect();
            promise.boots_unsure.clear();
            (promise.stopped, promise.stopped_unsure) = (outbox.stopped, None);
        }
    }

    fn of(&mut self, id: OutboxId) -> &mut Promise {
        self.outboxes.get_mut(&id).expect("an outbox is made before anything else happens to it")
    }
}

impl Found {
    /// As if that outbox had not been found.
    pub fn forget(&mut self, id: OutboxId) {
        self.outboxes.remove(&id);
    }
}

impl Promise {
    fn new(id: OutboxId) -> Promise {
        Promise {
            is_made: false,
            is_harmed: false,
            records: Vec::new(),
            hashes: vec![ChainHash::start(id)],
            afloat: Vec::new(),
            unsure: Vec::new(),
            continues: None,
            marks: vec![Mark::default()],
            mark_on_medium: 0,
            pruned: Seq::ZERO,
            prune_unsure: Seq::ZERO,
            boots: BTreeMap::new(),
            boots_unsure: BTreeSet::new(),
            stopped: false,
            stopped_unsure: None,
        }
    }

    fn accept(&mut self, records: &[Vec<u8>], continues: Option<OutboxId>) {
        for (group, its_continues) in std::mem::take(&mut self.afloat) {
            self.push(&group, its_continues);
        }
        self.push(records, continues);
        self.unsure.clear();
    }

    fn push(&mut self, records: &[Vec<u8>], continues: Option<OutboxId>) {
        for bytes in records {
            self.hashes.push(self.hashes[self.records.len()].next(bytes));
            self.records.push(bytes.clone());
        }
        self.continues = continues.or(self.continues);
    }

    fn opened(&mut self, mark: Mark, last: Seq, hash: ChainHash) {
        // A later mark that was never written is forgotten.
        let at = self.marks.iter().rposition(|told| *told == mark);
        self.marks.truncate(at.map_or(self.marks.len(), |at| at + 1));
        let known = self.records.len() + self.afloat.iter().map(|(group, _)| group.len()).sum::<usize>();
        if last.0 as usize > known {
            let afloat = self.afloat.iter().flat_map(|(group, _)| group);
            let before = afloat.fold(self.hashes[self.records.len()], |hash, bytes| hash.next(bytes));
            let is_it = |group: &[Vec<u8>]| group.iter().fold(before, |hash, bytes| hash.next(bytes)) == hash;
            if let Some(at) = self.unsure.iter().position(|(group, _)| is_it(group)) {
                self.afloat.push(self.unsure.remove(at));
            }
        }
    }

    /// What may be behind the accepted records: nothing, some of the groups afloat, or all of them and one more.
    fn tails(&self) -> Vec<Group> {
        let mut tails = vec![Group::default()];
        for (group, continues) in &self.afloat {
            let (mut records, before) = tails.last().cloned().unwrap_or_default();
            records.extend(group.iter().cloned());
            tails.push((records, continues.or(before)));
        }
        let (afloat, before) = tails.last().cloned().unwrap_or_default();
        for (group, continues) in &self.unsure {
            tails.push(([afloat.as_slice(), group].concat(), continues.or(before)));
        }
        tails
    }

    fn check(&self, outbox: &Outbox) -> Result<FoundOutbox, Wrong> {
        let records = self.check_records(outbox)?;
        let stopped = outbox.stopped_cleanly();
        if stopped != self.stopped && Some(stopped) != self.stopped_unsure {
            return Err(Wrong::Silently(format!("it says stopped_cleanly = {stopped}")));
        }
        let mark = outbox.mark();
        if !self.marks[self.mark_on_medium..].contains(&mark) {
            return Err(Wrong::Silently(format!(
                "its mark is {mark:?}, which was never set or is older than what was written"
            )));
        }
        let pruned = outbox.pruned_through();
        let highest = self.marks.iter().map(|mark| mark.receipted_through).max().unwrap_or(Seq::ZERO);
        if pruned < self.pruned || pruned > self.pruned.max(self.prune_unsure) || pruned > highest {
            return Err(Wrong::Silently(format!("it is pruned through {pruned}; receipts go to {highest}")));
        }
        let boots = self.check_boots(outbox)?;
        Ok(FoundOutbox { records, continues: outbox.continues(), mark, pruned, boots, stopped })
    }

    fn check_boots(&self, outbox: &Outbox) -> Result<Vec<(u32, BootId)>, Wrong> {
        let boots = outbox.boots().map_err(|error| Wrong::damaged(&error))?;
        for (boot, number) in &self.boots {
            if !boots.contains(&(*number, *boot)) {
                return Err(Wrong::Silently(format!("boot {boot} was number {number} and is no more")));
            }
        }
        for (number, boot) in &boots {
            if !self.boots.contains_key(boot) && !self.boots_unsure.contains(boot) {
                return Err(Wrong::Silently(format!(
                    "boot number {number} stands for {boot}, which never was"
                )));
            }
        }
        Ok(boots)
    }

    /// All records, those that were pruned as they were.
    fn check_records(&self, outbox: &Outbox) -> Result<Vec<Vec<u8>>, Wrong> {
        let last = outbox.last_seq().0 as usize;
        let accepted = self.records.len();
        let pruned = outbox.pruned_through().0 as usize;
        let read = read_all(outbox).map_err(|error| Wrong::damaged(&error))?;
        if last < accepted {
            if self.records.get(pruned..last) != Some(read.as_slice()) {
                return Err(Wrong::Silently(format!("it ends at record {last}, and they are other ones")));
            }
            let what = format!("it ends at record {last}, but {accepted} were accepted");
            return Err(Wrong::Shorter { missing: (accepted - last) as u64, what });
        }
        let extra = read.get(accepted - pruned.min(accepted)..).unwrap_or_default();
        let tails = self.tails();
        let Some((tail, its_continues)) = tails.iter().find(|(tail, _)| tail == extra) else {
            return Err(Wrong::Silently(format!("records {} to {last} are no whole group", accepted + 1)));
        };
        let expected: Vec<&Vec<u8>> = self.records.iter().chain(tail).collect();
        let continues = its_continues.or(self.continues);
        if outbox.continues() != continues {
            return Err(Wrong::Silently(format!(
                "it says again {:?}, not {continues:?}",
                outbox.continues()
            )));
        }
        for (n, bytes) in read.iter().enumerate() {
            let seq = pruned + 1 + n;
            if expected.get(seq - 1) != Some(&bytes) {
                return Err(Wrong::Silently(format!("record {seq} has other bytes than were accepted")));
            }
        }
        if pruned + read.len() != last {
            return Err(Wrong::Silently(format!(
                "records {} to {last} cannot be read",
                pruned + read.len() + 1
            )));
        }
        let mut hash = self.hashes[accepted];
        expected[accepted..].iter().for_each(|bytes| hash = hash.next(bytes));
        for (seq, expected) in [(pruned.min(accepted), self.hashes[pruned.min(accepted)]), (last, hash)] {
            if outbox.hash_at(Seq(seq as u64)).map_err(|error| Wrong::damaged(&error))? != Some(expected) {
                return Err(Wrong::Silently(format!("the hash at {seq} is another one")));
            }
        }
        Ok(expected.into_iter().cloned().collect())
    }
}

/// Everything that is not pruned.
pub fn read_all(outbox: &Outbox) -> Result<Vec<Vec<u8>>, OutboxError> {
    let mut records = Vec::new();
    let mut from = outbox.pruned_through().next();
    while from <= outbox.last_seq() {
        let chunk = outbox.read(from)?;
        if chunk.records.is_empty() {
            break;
        }
        from = from.plus(chunk.records.len() as u64);
        records.extend(chunk.records);
    }
    Ok(records)
}
