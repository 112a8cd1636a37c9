//! Everything that the outbox's thread does, without a thread: blocking, over a [`super::medium::Medium`], so that the
//! proofs drive exactly what production runs. Decides what follows from an error: a damaged outbox is set aside and the same
//! records go to a new one; a full disk is pruned; anything else is refused, and tried again with the next record.

use std::collections::BTreeMap;

use tap_protocol::chain::ChainHash;
use tap_protocol::ids::{BootId, OutboxId, Seq};
use tap_protocol::receipt::Receipt;
use tap_protocol::record::{Body, LossReason, PreviousStop, Record, short_text};

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

    /// See [`Outbox::read`]. `None` if there is no such outbox any more.
    pub fn read(&mut self, id: OutboxId, from: Seq, now: Now) -> Result<Option<Chunk>, OutboxError> {
        self.look(id, now, |outbox| outbox.read(from))
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

    /// An outbox was rewound: what it says without a receipt is said again in a new one, so that it reaches the cloud
    /// under numbers that were never used. The old one stays on the disk, retired.
    pub fn start_new(&mut self, rewound: OutboxId, now: Now) -> Result<(), OutboxError> {
        if self.shelf.is_retired(rewound) {
            return Ok(());
        }
        self.shelf.start_another()?;
        self.say_again(rewound, now)
    }

    /// The same records in the newest outbox's terms: boots and taps have other numbers there. A record that this agent
    /// cannot read is said again as it is.
    fn say_again(&mut self, rewound: OutboxId, now: Now) -> Result<(), OutboxError> {
        let Some((newest, old)) = self.shelf.newest_and(rewound) else { return Ok(()) };
        let boot = newest.boot_number(self.boot_id)?;
        let mut boots = BTreeMap::new();
        for (number, boot_id) in old.boots()? {
            boots.insert(number, newest.boot_number(boot_id)?);
        }
        let old_mark = old.mark().receipted_through;
        // The new outbox begins with its own start; then the old records follow in their order.
        let renumbered = |seq: Seq| if seq > old_mark { Seq(seq.0 - old_mark.0 + 1) } else { Seq::ZERO };
        let translate = |bytes: &Vec<u8>| {
            let Ok(mut record) = Record::decode(bytes) else { return bytes.clone() };
            record.at.boot = boots.get(&record.at.boot).copied().unwrap_or(record.at.boot);
            if let Body::Repeats { seq, .. } = &mut record.body {
                *seq = renumbered(*seq);
            }
            record.encode()
        };
        let version = short_text(env!("CARGO_PKG_VERSION"));
        let body = Body::AgentStarted { boot_id: self.boot_id, version, previous_stop: PreviousStop::None };
        let mut own_start = Some(vec![Record { at: now.stamp(boot), body }.encode()]);
        let mut from = old_mark.next();
        newest.append_continuing(rewound, || {
            if let Some(start) = own_start.take() {
                return Ok(Some(start));
            }
            let chunk = old.read(from)?;
            from = from.plus(chunk.records.len() as u64);
            Ok((!chunk.records.is_empty()).then(|| chunk.records.iter().map(translate).collect()))
        })?;
        self.started = Some((newest.id(), boot));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::medium::Disk;
    use super::super::shelf::Owner;
    use super::super::worker::mint_outbox_id;
    use super::*;
    use std::path::{Path, PathBuf};
    use tap_protocol::ids::StoreEpoch;
    use tap_protocol::receipt::Echo;
    use tap_protocol::record::ClockState;

    const NOW: Now = Now { boottime_ms: 1_000, wall_ms: 2, clock: ClockState::Unsynced };
    const BOOT: BootId = BootId([1; 16]);
    const LIMITS: Limits =
        Limits { max_bytes: 1 << 30, min_free_bytes: 0, keep_receipted: 1_000, keep_receipted_days: 30 };

    fn keeper(folder: &Path) -> Keeper {
        let owner = Owner { controller: "hq-door-1".parse().unwrap(), machine: b"pi".to_vec() };
        let shelf = Shelf::open(Disk::shared(), folder, &owner, mint_outbox_id).unwrap();
        Keeper::new(shelf, LIMITS, BOOT, NOW)
    }

    fn body(n: usize) -> Body {
        Body::ReaderUp { reader: format!("in-{n}").parse().unwrap() }
    }

    /// Appends so many records, one by one, and gives what was written.
    fn write(keeper: &mut Keeper, count: usize) -> Vec<(OutboxId, Seq, Record)> {
        let one = |n| {
            let appended = keeper.append(&[(NOW, body(n))]).unwrap();
            (appended.outbox, appended.first, appended.records[0].clone())
        };
        (0..count).map(one).collect()
    }

    fn repair(keeper: &mut Keeper) {
        while keeper.repair(NOW).unwrap() {}
    }

    fn read_all(keeper: &mut Keeper, id: OutboxId) -> Vec<(Seq, Record)> {
        let (mut all, mut from) = (Vec::new(), keeper.shelf.find(id).unwrap().pruned_through().next());
        loop {
            let chunk = keeper.read(id, from, NOW).unwrap().expect("it is there");
            if chunk.records.is_empty() {
                return all;
            }
            for bytes in chunk.records {
                all.push((from, Record::decode(&bytes).unwrap()));
                from = from.next();
            }
        }
    }

    fn receipt(id: OutboxId, through: Seq, hash: ChainHash) -> Receipt {
        Receipt {
            controller: "hq-door-1".parse().unwrap(),
            store_epoch: StoreEpoch(1),
            outbox: id,
            stored_through: through,
            hash,
            resend: false,
            echo: Some(Echo { boot_id: BOOT, boottime_ms: NOW.boottime_ms }),
            cloud_utc_ms: 0,
        }
    }

    /// Overwrites `len` bytes of an outbox's file, as a medium does that goes bad.
    fn spoil(path: &Path, at: u64, len: usize) {
        use std::os::unix::fs::FileExt;
        let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        file.write_all_at(&vec![0xa5; len], at).unwrap();
    }

    /// An outbox of 300 records whose log is in the file.
    fn written(folder: &Path) -> (OutboxId, PathBuf, Vec<(OutboxId, Seq, Record)>) {
        let mut keeper = keeper(folder);
        let all = write(&mut keeper, 300);
        keeper.end_run().unwrap();
        let newest = keeper.shelf.newest();
        (newest.id(), newest.path().to_owned(), all)
    }

    #[test]
    fn a_start_that_could_not_be_written_is_written_before_the_first_record() {
        let folder = tempfile::tempdir().unwrap();
        let mut keeper = keeper(folder.path());
        let id = write(&mut keeper, 2)[0].0;
        let kinds: Vec<_> = read_all(&mut keeper, id)
            .iter()
            .map(|(_, record)| (record.body.kind(), record.at.boot))
            .collect();
        assert_eq!(kinds, [("agent_started", 1), ("reader_up", 1), ("reader_up", 1)]);
    }

    #[test]
    fn a_damaged_page_costs_its_own_records_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let (id, path, all) = written(folder.path());
        spoil(&path, 10 * 1024, 1024);
        let mut keeper = keeper(folder.path());
        // Found in reading: it was not at the file's end.
        assert_eq!(keeper.read(id, Seq(1), NOW).unwrap(), None);
        let fresh = write(&mut keeper, 3);
        assert!(fresh[0].0 != id);
        repair(&mut keeper);

        let news = keeper.take_news();
        let [
            News::SetAside { outbox: Some(aside), file, .. },
            News::Salvaged(salvaged),
            News::Lost { ranges, .. },
        ] = news.as_slice()
        else {
            panic!("{news:?}")
        };
        assert_eq!((*aside, salvaged.outbox), (id, id));
        assert!(file.exists() && !path.exists());
        let [(from, to)] = ranges.as_slice() else { panic!("one page, one range: {ranges:?}") };
        assert!(to.0 - from.0 < 20, "{ranges:?}");

        // The tombstone is in the new outbox, and the old one waits for the cloud's word.
        let told = read_all(&mut keeper, fresh[0].0);
        assert!(told.iter().any(|(_, record)| record.body
            == Body::Lost { outbox: id, from: *from, to: *to, why: LossReason::Damaged }));
        assert_eq!(
            keeper.receipt(&receipt(id, Seq(0), ChainHash::start(id)), NOW).unwrap(),
            Some(ChainHash::start(id))
        );
        repair(&mut keeper);
        assert_eq!(keeper.take_news(), [News::Mended(id)]);

        let again = read_all(&mut keeper, id);
        assert_eq!(again.len(), 301);
        for (seq, record) in &again[1..] {
            let lost = (*from..=*to).contains(seq);
            let expected = match lost {
                true => Body::Lost { outbox: id, from: *seq, to: *seq, why: LossReason::Damaged },
                false => all[seq.0 as usize - 2].2.body.clone(),
            };
            assert_eq!(record.body, expected, "{seq}");
        }
    }

    #[test]
    fn what_the_cloud_already_has_is_not_lost() {
        let folder = tempfile::tempdir().unwrap();
        let (id, path, _) = written(folder.path());
        let at_250 = keeper(folder.path()).shelf.find(id).unwrap().hash_at(Seq(250)).unwrap().unwrap();
        spoil(&path, 10 * 1024, 1024);
        let mut keeper = keeper(folder.path());
        assert_eq!(keeper.read(id, Seq(1), NOW).unwrap(), None);
        repair(&mut keeper);
        keeper.receipt(&receipt(id, Seq(250), at_250), NOW).unwrap();
        repair(&mut keeper);
        let rest = read_all(&mut keeper, id);
        assert_eq!(rest.first().unwrap().0, Seq(251));
        assert!(rest.iter().all(|(_, record)| !matches!(record.body, Body::Lost { .. })));
        assert_eq!(rest.len(), 51);
    }

    #[test]
    fn an_old_answer_is_not_the_clouds_word() {
        let folder = tempfile::tempdir().unwrap();
        let (id, path, _) = written(folder.path());
        spoil(&path, 10 * 1024, 1024);
        let mut keeper = keeper(folder.path());
        let later = Now { boottime_ms: 5_000, ..NOW };
        assert_eq!(keeper.read(id, Seq(1), later).unwrap(), None);
        repair(&mut keeper);
        keeper.receipt(&receipt(id, Seq(0), ChainHash::start(id)), later).unwrap();
        assert!(!keeper.shelf.find(id).unwrap().stage().is_sound(), "the hello was from before the damage");
    }

    #[test]
    fn a_start_with_a_damaged_file_accepts_at_once_and_tells_that_the_end_is_unknown() {
        let folder = tempfile::tempdir().unwrap();
        let (id, path, all) = written(folder.path());
        spoil(&path, 0, 100); // SQLite's own header
        let mut keeper = keeper(folder.path());
        let fresh = write(&mut keeper, 1)[0].0;
        assert!(fresh != id);
        repair(&mut keeper);
        let told = read_all(&mut keeper, fresh);
        let lost = told.iter().find_map(|(_, record)| match record.body {
            Body::Lost { outbox, from, to, .. } => Some((outbox, from, to)),
            _ => None,
        });
        assert_eq!(lost, Some((id, Seq(302), super::super::carve::MAX_SEQ)));
        keeper.receipt(&receipt(id, Seq(0), ChainHash::start(id)), NOW).unwrap();
        repair(&mut keeper);
        let again = read_all(&mut keeper, id);
        assert_eq!(again.len(), 301);
        assert!(again[1..].iter().zip(&all).all(|((_, record), (_, _, expected))| record == expected));
    }

    #[test]
    fn a_restart_in_the_middle_of_everything_goes_on_where_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let (id, path, _) = written(folder.path());
        spoil(&path, 10 * 1024, 1024);
        let mut first = keeper(folder.path());
        assert_eq!(first.read(id, Seq(1), NOW).unwrap(), None);
        let newest = first.shelf.newest().id();
        for steps in 0..12 {
            let mut again = keeper(folder.path());
            for _ in 0..steps {
                again.repair(NOW).unwrap();
            }
            again.receipt(&receipt(id, Seq(0), ChainHash::start(id)), NOW).unwrap();
            assert_eq!(again.shelf.newest().id(), newest, "no further outbox");
        }
        let mut last = keeper(folder.path());
        repair(&mut last);
        assert_eq!(read_all(&mut last, id).len(), 301);
        let tombstones = read_all(&mut last, newest);
        let tombstones = tombstones.iter().filter(|(_, record)| matches!(record.body, Body::Lost { .. }));
        assert_eq!(tombstones.count(), 1);
    }

    #[test]
    fn an_append_that_meets_damage_goes_to_a_new_outbox() {
        let folder = tempfile::tempdir().unwrap();
        let (id, path, _) = written(folder.path());
        spoil(&path, 2 * 1024, 1024); // the boots, which opening does not look at
        let mut keeper = keeper(folder.path());
        let appended = keeper.append(&[(NOW, body(1))]).unwrap();
        assert!(appended.outbox != id);
        let news = keeper.take_news();
        assert!(matches!(news[0], News::SetAside { .. }), "{news:?}");
    }

    #[test]
    fn a_full_outbox_prunes_history_first_warns_refuses_and_comes_round() {
        let folder = tempfile::tempdir().unwrap();
        let mut keeper = keeper(folder.path());
        keeper.limits.max_bytes = 400 * 1024;
        let group: Vec<(Now, Body)> = (0..100).map(|n| (NOW, body(n))).collect();
        let mut written = 0;
        let fill = |keeper: &mut Keeper, written: &mut u64| {
            loop {
                match keeper.append(&group) {
                    Ok(_) => *written += 100,
                    Err(OutboxError::Full { .. }) => return,
                    Err(error) => panic!("{error}"),
                }
                repair(keeper);
            }
        };
        fill(&mut keeper, &mut written);
        let id = keeper.shelf.newest().id();
        let levels: Vec<Level> = keeper
            .take_news()
            .iter()
            .filter_map(|news| if let News::Room(verdict) = news { Some(verdict.level) } else { None })
            .collect();
        assert_eq!(levels, [Level::Full], "80 % of so little is full");
        let before = written;

        // A receipt for half of it: that may go now, and exactly so much fits again.
        let through = Seq(written / 2);
        keeper.set_mark(id, Mark { receipted_through: through, store_epoch: None });
        fill(&mut keeper, &mut written);
        assert!(written > before + before / 4, "{before} {written}");
        let newest = keeper.shelf.newest();
        assert_eq!(newest.pruned_through(), through);
        assert!(newest.last_seq().0 >= written, "nothing without a receipt went");
    }

    #[test]
    fn the_warning_is_a_record_and_is_written_once() {
        let folder = tempfile::tempdir().unwrap();
        let mut keeper = keeper(folder.path());
        keeper.limits.max_bytes = 1_200 * 1024;
        let group: Vec<(Now, Body)> = (0..100).map(|n| (NOW, body(n))).collect();
        while keeper.append(&group).is_ok() {
            repair(&mut keeper);
        }
        let id = keeper.shelf.newest().id();
        let high = read_all(&mut keeper, id);
        let high: Vec<_> =
            high.iter().filter(|(_, record)| matches!(record.body, Body::BufferHigh { .. })).collect();
        assert_eq!(high.len(), 1, "{high:?}");
    }

    /// Flips one bit after the other in a file whose log has most of the records. Every record must be there as it was
    /// written, or told as lost; and the next one must be accepted.
    #[test]
    fn after_a_flipped_bit_every_record_is_as_written_or_told_as_lost() {
        let original = tempfile::tempdir().unwrap();
        let (all, id) = {
            let mut keeper = keeper(original.path());
            let all = write(&mut keeper, 40);
            let id = all[0].0;
            // As a kill leaves it: the log is not brought into the file.
            let _ = keeper
                .shelf
                .newest()
                .db
                .set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
            (all, id)
        };
        let names = [format!("{id}.outbox"), format!("{id}.outbox-wal")];
        let files: Vec<Vec<u8>> =
            names.iter().map(|name| std::fs::read(original.path().join(name)).unwrap()).collect();
        // What was committed last cannot be told from what a power cut tore.
        let sure = all.len() - 2;
        for (which, file) in files.iter().enumerate() {
            for bit in (0..file.len() * 8).step_by(if which == 0 { 449 } else { 4_001 }) {
                let folder = tempfile::tempdir().unwrap();
                for (name, bytes) in names.iter().zip(&files) {
                    std::fs::write(folder.path().join(name), bytes).unwrap();
                }
                let mut flipped = file.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                std::fs::write(folder.path().join(&names[which]), flipped).unwrap();

                let what = format!("bit {bit} of {}", names[which]);
                let mut keeper = keeper(folder.path());
                let fresh = write(&mut keeper, 1)[0].clone();
                while keeper.check_next.is_none_or(|(_, next)| next != Seq(1)) {
                    keeper.check(1_000, NOW).unwrap();
                }
                repair(&mut keeper);
                keeper.receipt(&receipt(id, Seq(0), ChainHash::start(id)), NOW).unwrap();
                repair(&mut keeper);
                let newest = keeper.shelf.newest().id();
                let open_end =
                    read_all(&mut keeper, newest).into_iter().find_map(|(_, record)| match record.body {
                        Body::Lost { outbox, from, to, .. }
                            if outbox == id && to == super::super::carve::MAX_SEQ =>
                        {
                            Some(from)
                        }
                        _ => None,
                    });
                let old = read_all(&mut keeper, id);
                for (_, seq, written) in &all[..sure] {
                    let is_told = open_end.is_some_and(|from| *seq >= from);
                    match old.iter().find(|(other, _)| other == seq) {
                        Some((_, found)) => {
                            let lost =
                                Body::Lost { outbox: id, from: *seq, to: *seq, why: LossReason::Damaged };
                            assert!(found == written || found.body == lost, "{what}: {seq} is {found:?}");
                        }
                        None => assert!(is_told, "{what}: {seq} is gone without a word"),
                    }
                }
                let (outbox, seq, record) = fresh;
                assert!(read_all(&mut keeper, outbox).contains(&(seq, record)), "{what}: the new one");
            }
        }
    }
}
