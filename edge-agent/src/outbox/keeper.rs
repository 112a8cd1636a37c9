//! Everything that the outbox's thread does, without a thread: blocking, over a [`super::medium::Medium`], so that the
//! proofs drive exactly what production runs. Decides what follows from an error: a damaged outbox is set aside and the same
//! records go to a new one; a full disk is pruned; anything else is refused, and tried again with the next record.

use std::collections::BTreeMap;
use std::ops::Range;

use tap_protocol::chain::{self, ChainHash};
use tap_protocol::ids::{BootId, OutboxId, Seq, StoreEpoch};
use tap_protocol::receipt::Receipt;
use tap_protocol::record::{Body, LossReason, PreviousStop, Record, short_text};

use super::say_again::SaidAgain;
use super::shelf::{News, Shelf};
use super::space::{self, Level, Limits, Verdict};
use super::{Chunk, Outbox, OutboxError};
use crate::now::Now;
use crate::relay::Mark;

/// Records deleted at a time, so that a tap never waits for a long deletion.
const PRUNE_STEP: u32 = 256;

/// Records checked with each housekeeping: a million in a day.
const CHECK_STEP: usize = 500;

/// Pages salvaged or holes filled at a time, so that a tap never waits long.
const REPAIR_STEP: usize = 500;

/// A tap that finds everything full waits for so many steps of pruning at most.
const PRUNE_STEPS_FOR_A_TAP: usize = 8;

/// Room is measured again after so many bytes; less than what is left when the outbox counts as full.
const MEASURE_EVERY_BYTES: u64 = 64 * 1024;
const _: () = assert!(MEASURE_EVERY_BYTES * 2 <= space::HEADROOM_BYTES, "full must be noticed before it is");

/// What a row takes beside the record's bytes, roughly.
const ROW_BYTES: usize = 60;

/// The blocking outboxes of one run of the agent.
#[derive(Debug)]
pub struct Keeper {
    shelf: Shelf,
    boot_id: BootId,
    /// The outbox in which this run's start is written, and what stands for `boot_id` there.
    started: Option<(OutboxId, u32)>,
    /// When damage was last set aside, CLOCK_BOOTTIME milliseconds: what the cloud says of a salvaged outbox counts only
    /// in answer to a hello from after that.
    aside_since_ms: u64,
    /// Which record of which outbox is checked next.
    check_next: Option<(OutboxId, Seq)>,
    repair_failed: bool,
    limits: Limits,
    room: Verdict,
    /// Bytes that were written since room was last measured.
    unmeasured_bytes: Option<u64>,
    /// The warning of this filling is written.
    high_is_told: bool,
}

/// Records on the medium.
#[derive(Debug)]
pub struct Appended {
    /// In which outbox.
    pub outbox: OutboxId,
    /// The first record's number; the others follow.
    pub first: Seq,
    /// What was written.
    pub records: Vec<Record>,
}

impl Keeper {
    /// Takes the shelf over.
    pub fn new(shelf: Shelf, limits: Limits, boot_id: BootId, now: Now) -> Keeper {
        Keeper {
            shelf,
            boot_id,
            started: None,
            aside_since_ms: now.boottime_ms,
            check_next: None,
            repair_failed: false,
            room: Verdict { level: Level::Fine, used_bytes: 0, limit_bytes: limits.max_bytes },
            limits,
            unmeasured_bytes: None,
            high_is_told: false,
        }
    }

    /// The outboxes.
    pub fn shelf(&self) -> &Shelf {
        &self.shelf
    }

    /// Writes that this run began.
    pub fn begin_run(&mut self, now: Now) -> Result<(), OutboxError> {
        self.undamaged(now, |keeper| {
            let newest = keeper.shelf.writable()?;
            let boot = newest.boot_number(keeper.boot_id)?;
            let previous_stop = match (newest.last_seq(), newest.stopped_cleanly()) {
                (Seq::ZERO, _) => PreviousStop::None,
                (_, true) => PreviousStop::Clean,
                (_, false) => PreviousStop::Unclean,
            };
            newest.set_stopped_cleanly(false)?;
            let version = short_text(env!("CARGO_PKG_VERSION"));
            let body = Body::AgentStarted { boot_id: keeper.boot_id, version, previous_stop };
            newest.append(&[Record { at: now.stamp(boot), body }.encode()])?;
            keeper.started = Some((newest.id(), boot));
            Ok(())
        })
    }

    /// The run ends as it was asked to.
    pub fn end_run(&mut self) -> Result<(), OutboxError> {
        self.shelf.flush_marks()?;
        self.shelf.writable()?.set_stopped_cleanly(true)
    }

    /// The boot's number in the newest outbox. If the start could not be written when it happened (the disk was full), it
    /// is written now: a record under a number that stands for no boot, or for two, would be given a wrong time.
    fn boot_started(&mut self, now: Now) -> Result<u32, OutboxError> {
        let newest = self.shelf.writable()?.id();
        match self.started {
            Some((outbox, boot)) if outbox == newest => Ok(boot),
            _ => {
                self.begin_run(now)?;
                Ok(self.started.expect("a run that began is noted").1)
            }
        }
    }

    /// Commits the records together. If this fails, none of them is on the medium.
    pub fn append(&mut self, group: &[(Now, Body)]) -> Result<Appended, OutboxError> {
        let Some((now, _)) = group.first() else {
            return Ok(Appended {
                outbox: self.shelf.writable()?.id(),
                first: Seq::ZERO,
                records: Vec::new(),
            });
        };
        self.make_room()?;
        self.with_reserve(|keeper| keeper.append_undamaged(*now, group))
    }

    fn append_undamaged(&mut self, now: Now, group: &[(Now, Body)]) -> Result<Appended, OutboxError> {
        let appended = self.undamaged(now, |keeper| {
            let boot = keeper.boot_started(now)?;
            let records: Vec<Record> =
                group.iter().map(|(now, body)| Record { at: now.stamp(boot), body: body.clone() }).collect();
            let bytes: Vec<Vec<u8>> = records.iter().map(Record::encode).collect();
            let newest = keeper.shelf.writable()?;
            let appended = Appended { first: newest.append(&bytes)?, outbox: newest.id(), records };
            let written: usize = bytes.iter().map(|bytes| bytes.len() + ROW_BYTES).sum();
            keeper.unmeasured_bytes = keeper.unmeasured_bytes.map(|before| before + written as u64);
            Ok(appended)
        })?;
        Ok(appended)
    }

    /// Commits something that changes nothing, the way a record is committed: would the next one be taken?
    pub fn try_write(&mut self, now: Now) -> Result<(), OutboxError> {
        self.unmeasured_bytes = None;
        self.make_room()?;
        self.with_reserve(|keeper| keeper.undamaged(now, |keeper| keeper.shelf.writable()?.try_write()))
    }

    /// Measures, unless little was written since, and refuses if there is no room even without history.
    fn make_room(&mut self) -> Result<(), OutboxError> {
        let is_known = self.unmeasured_bytes.is_some_and(|bytes| bytes < MEASURE_EVERY_BYTES);
        if is_known && self.room.level == Level::Fine {
            return Ok(());
        }
        self.measure()?;
        for _ in 0..PRUNE_STEPS_FOR_A_TAP {
            if self.room.level < Level::Full
                || self.with_reserve(|keeper| keeper.shelf.prune_for_room(PRUNE_STEP))? == 0
            {
                break;
            }
            self.measure()?;
        }
        let Verdict { level, used_bytes, limit_bytes } = self.room;
        if level == Level::Full { Err(OutboxError::Full { used_bytes, limit_bytes }) } else { Ok(()) }
    }

    fn measure(&mut self) -> Result<(), OutboxError> {
        let before = self.room.level;
        self.room = space::decide(&self.shelf.usage()?, &self.limits, before);
        self.unmeasured_bytes = Some(0);
        if self.room.level != before {
            self.shelf.tell(News::Room(self.room));
        }
        if self.room.level == Level::Fine {
            self.high_is_told = false;
        }
        Ok(())
    }

    /// Does something; on a full disk history is pruned, with the reserve as its room, and it is done once more.
    fn with_reserve<T>(
        &mut self,
        mut act: impl FnMut(&mut Keeper) -> Result<T, OutboxError>,
    ) -> Result<T, OutboxError> {
        let error = match act(self) {
            Err(error) if error.is_full() => error,
            done => return done,
        };
        if !self.shelf.has_history() {
            return Err(self.full(error));
        }
        self.shelf.give_reserve_back()?;
        self.shelf.prune_for_room(PRUNE_STEP).map_err(|error| self.full(error))?;
        act(self).map_err(|error| self.full(error))
    }

    /// Says in our words that the disk is full.
    fn full(&self, error: OutboxError) -> OutboxError {
        match error.is_full() {
            true => OutboxError::Full {
                used_bytes: self.room.used_bytes,
                limit_bytes: self.room.used_bytes.min(self.room.limit_bytes),
            },
            false => error,
        }
    }

    /// Does something with the newest outbox. If that is damaged, also at a second look, it is set aside and the same is done
    /// with a new one: nobody is refused because of what a medium did to yesterday's records.
    fn undamaged<T>(
        &mut self,
        now: Now,
        mut act: impl FnMut(&mut Keeper) -> Result<T, OutboxError>,
    ) -> Result<T, OutboxError> {
        let error = match act(self) {
            Err(error) if error.is_damage() => error,
            done => return done,
        };
        let newest = self.shelf.writable()?.id();
        let error = match self.shelf.look_again(newest)? {
            false => error,
            true => match act(self) {
                Err(again) if again.is_damage() => again,
                done => return done,
            },
        };
        self.set_aside(newest, &error, now)?;
        act(self)
    }

    fn set_aside(&mut self, id: OutboxId, error: &OutboxError, now: Now) -> Result<(), OutboxError> {
        self.shelf.set_aside(id, error)?;
        self.aside_since_ms = now.boottime_ms;
        self.repair_failed = false;
        self.shelf.writable().map(drop)
    }

    /// Reads something of an outbox. If that is damaged, also at a second look, it is set aside: then there is nothing.
    fn look<T>(
        &mut self,
        id: OutboxId,
        now: Now,
        read: impl Fn(&Outbox) -> Result<T, OutboxError>,
    ) -> Result<Option<T>, OutboxError> {
        let mut looked_again = false;
        loop {
            let Some(outbox) = self.shelf.find(id) else { return Ok(None) };
            match read(outbox) {
                Err(error) if error.is_damage() => {
                    if looked_again || !self.shelf.look_again(id)? {
                        self.set_aside(id, &error, now)?;
                        return Ok(None);
                    }
                    looked_again = true;
                }
                read => return read.map(Some),
            }
        }
    }

    /// See [`Outbox::read`]. `None` if there is no such outbox any more, or it has holes by now; and nothing of what
    /// another one says again.
    pub fn read(&mut self, id: OutboxId, from: Seq, now: Now) -> Result<Option<Chunk>, OutboxError> {
        if self.shelf.find(id).is_some_and(|outbox| !outbox.stage().is_sound()) {
            return Ok(None);
        }
        let Some(mut chunk) = self.look(id, now, |outbox| outbox.read(from))? else { return Ok(None) };
        let outbox = self.shelf.all().find(|outbox| outbox.id() == id);
        let says_through = outbox.and_then(|outbox| self.shelf.says_through(outbox));
        chunk.end_at(says_through.unwrap_or(Seq::ZERO));
        Ok(Some(chunk))
    }

    /// Takes an authentic receipt and returns this outbox's own `h(stored_through)`, if it still has it. A salvaged outbox
    /// that waits for the cloud's word takes it from here.
    pub fn receipt(&mut self, receipt: &Receipt, now: Now) -> Result<Option<ChainHash>, OutboxError> {
        // An answer to a hello that this run sent after the damage: what was under way before that is in it.
        let is_recent = receipt
            .echo
            .is_some_and(|echo| echo.boot_id == self.boot_id && echo.boottime_ms >= self.aside_since_ms);
        if is_recent {
            let mark =
                Mark { receipted_through: receipt.stored_through, store_epoch: Some(receipt.store_epoch) };
            self.shelf.settle(receipt.outbox, mark, receipt.hash)?;
        }
        let own = self.look(receipt.outbox, now, |outbox| outbox.hash_at(receipt.stored_through))?;
        let own = own.flatten();
        if own == Some(receipt.hash)
            && let Some(outbox) = self.shelf.find(receipt.outbox)
        {
            outbox.receipted_at(receipt.stored_through, receipt.cloud_utc_ms);
        }
        Ok(own)
    }

    /// The receipt is of a cloud that was put back to before what was deleted here: see [`Outbox::refill`].
    pub fn refill(&mut self, receipt: &Receipt, now: Now) -> Result<(), OutboxError> {
        let mark = Mark { receipted_through: receipt.stored_through, store_epoch: Some(receipt.store_epoch) };
        self.repair_failed = false;
        self.undamaged(now, |keeper| {
            keeper.shelf.refill(receipt.outbox, mark, receipt.hash)?;
            keeper.boot_started(now).map(drop)
        })
    }

    /// See [`Outbox::set_mark`].
    pub fn set_mark(&mut self, id: OutboxId, mark: Mark) {
        self.shelf.set_mark(id, mark);
    }

    /// Writes marks, prunes and checks a little. Returns whether the shelf is another one now.
    pub fn housekeep(&mut self, now: Now) -> Result<bool, OutboxError> {
        self.repair_failed = false;
        self.with_reserve(|keeper| {
            keeper.shelf.writable()?;
            keeper.shelf.flush_marks()
        })?;
        let gone = self.with_reserve(|keeper| keeper.shelf.prune(&keeper.limits, PRUNE_STEP))?;
        self.measure()?;
        self.shelf.hold_reserve(self.limits.min_free_bytes)?;
        let is_damaged = self.check(CHECK_STEP, now)?;
        Ok(gone > 0 || is_damaged)
    }

    /// Checks the next records against their hashes, around and around. Returns whether an outbox was set aside.
    pub fn check(&mut self, limit: usize, now: Now) -> Result<bool, OutboxError> {
        let sound: Vec<OutboxId> =
            self.shelf.all().filter(|outbox| outbox.stage().is_sound()).map(|outbox| outbox.id()).collect();
        let (id, from) = match self.check_next {
            Some((id, from)) if sound.contains(&id) => (id, from),
            _ => match sound.first() {
                Some(first) => (*first, Seq(1)),
                None => return Ok(false),
            },
        };
        match self.look(id, now, |outbox| outbox.check(from, limit))? {
            Some(Some(next)) => self.check_next = Some((id, next)),
            Some(None) => {
                let at = sound.iter().position(|other| *other == id).unwrap_or(0);
                self.check_next = Some((sound[(at + 1) % sound.len()], Seq(1)));
            }
            None => {
                self.check_next = None;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Salvages and mends a little, if there is anything to. Returns whether there is more to do now. What fails is tried
    /// again after the next housekeeping.
    pub fn repair(&mut self, now: Now) -> Result<bool, OutboxError> {
        if self.repair_failed {
            return Ok(false);
        }
        // Nothing is sent before a salvaged outbox is mended, so nothing would ever make room for it but the reserve.
        let repaired = match self.try_repair(now) {
            Err(error) if error.is_full() && self.shelf.give_reserve_back()? => self.try_repair(now),
            repaired => repaired,
        };
        repaired.inspect_err(|_| self.repair_failed = true)
    }

    fn try_repair(&mut self, now: Now) -> Result<bool, OutboxError> {
        if let Some((outbox, ranges)) = self.shelf.untold()? {
            let tombstones: Vec<(Now, Body)> = ranges
                .iter()
                .map(|(from, to)| {
                    (now, Body::Lost { outbox, from: *from, to: *to, why: LossReason::Damaged })
                })
                .collect();
            // Whatever the limits say: it is little, and what is held back until then is much.
            if !tombstones.is_empty() {
                self.append_undamaged(now, &tombstones)?;
            }
            self.shelf.told(outbox, ranges)?;
            return Ok(true);
        }
        if self.shelf.repair(REPAIR_STEP)? {
            return Ok(true);
        }
        if self.unmeasured_bytes.is_none() {
            self.measure()?;
            self.shelf.hold_reserve(self.limits.min_free_bytes)?;
            return self.check(CHECK_STEP, now);
        }
        if self.room.level == Level::Fine {
            return Ok(false);
        }
        if self.with_reserve(|keeper| keeper.shelf.prune_for_room(PRUNE_STEP))? > 0 {
            self.measure()?;
            return Ok(true);
        }
        if self.room.level == Level::High && !self.high_is_told {
            let Verdict { used_bytes, limit_bytes, .. } = self.room;
            self.append(&[(now, Body::BufferHigh { used_bytes, limit_bytes })])?;
            self.high_is_told = true;
            return Ok(true);
        }
        Ok(false)
    }

    /// What happened since this was asked last.
    pub fn take_news(&mut self) -> Vec<News> {
        self.shelf.take_news()
    }

    /// The store and an outbox go apart after one of its records: what follows is said again in a new one, so that it reaches
    /// the cloud under numbers that were never used. The old one stays on the disk and still says what is before that.
    /// `epoch`: the life of the store that is known to have the records up to there.
    pub fn start_new(
        &mut self,
        old: OutboxId,
        after: Seq,
        epoch: Option<StoreEpoch>,
        now: Now,
    ) -> Result<(), OutboxError> {
        let Some(outbox) = self.shelf.all().find(|outbox| outbox.id() == old) else { return Ok(()) };
        let Some(last) = self.shelf.says_through(outbox) else { return Ok(()) };
        let is_written = self.shelf.all().last().is_some_and(|newest| newest.id() == old);
        let first_of_rest = outbox.hash_at(after.next())?.filter(|_| after < last);
        if let (Some(epoch), Some(outbox)) = (epoch, self.shelf.find(old)) {
            outbox.set_mark(Mark { receipted_through: after, store_epoch: Some(epoch) });
        }
        match first_of_rest {
            Some(hash) => {
                self.shelf.start_another_as(chain::continued(old, after, hash))?;
                self.say_again(old, after..last, now)
            }
            None if is_written => {
                self.shelf.start_another()?;
                self.begin_run(now)
            }
            None => Ok(()),
        }
    }

    /// Records `range.start + 1 ..= range.end` of `old` in the newest outbox's terms.
    fn say_again(&mut self, old: OutboxId, range: Range<Seq>, now: Now) -> Result<(), OutboxError> {
        let Some((newest, old_outbox)) = self.shelf.newest_and(old) else { return Ok(()) };
        // All boots before any record: numbers ascend with time, and the cloud bounds a boot by those around it.
        let mut boots = BTreeMap::new();
        for (number, boot_id) in old_outbox.boots()? {
            boots.insert(number, (newest.boot_number(boot_id)?, boot_id));
        }
        let boot = newest.boot_number(self.boot_id)?;
        let mut said = SaidAgain::new(range.start, boots);
        let mut from = range.start.next();
        let mut is_done = false;
        let (id, boot_id) = (newest.id(), self.boot_id);
        newest.append_continuing(old, range.start, || {
            if from <= range.end {
                let mut chunk = old_outbox.read(from)?;
                chunk.end_at(range.end);
                from = from.plus(chunk.records.len() as u64);
                if !chunk.records.is_empty() {
                    return Ok(Some(chunk.records.iter().flat_map(|bytes| said.record(bytes)).collect()));
                }
            }
            // At the end the start of this run, unless it was among them.
            let own_start = (!std::mem::replace(&mut is_done, true) && !said.has_named(boot)).then(|| {
                let version = short_text(env!("CARGO_PKG_VERSION"));
                let body = Body::AgentStarted { boot_id, version, previous_stop: PreviousStop::None };
                vec![Record { at: now.stamp(boot), body }.encode()]
            });
            Ok(own_start)
        })?;
        self.started = Some((id, boot));
        Ok(())
    }
}

#[cfg(test)]
#[path = "keeper_tests.rs"]
mod tests;
