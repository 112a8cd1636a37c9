//! Everything that the outbox's thread does, without a thread: blocking, over a [`super::medium::Medium`], so that the
//! proofs drive exactly what production runs. Decides what follows from an error: a damaged outbox is set aside and the same
//! records go to a new one; a full disk is pruned; anything else is refused, and tried again with the next record.

use std::collections::BTreeMap;

use tap_protocol::chain::ChainHash;
use tap_protocol::ids::{BootId, OutboxId, Seq};
use tap_protocol::receipt::Receipt;
use tap_protocol::record::{Body, LossReason, PreviousStop, Record, short_text};

use super::shelf::{News, Shelf};
use super::{Chunk, Outbox, OutboxError};
use crate::now::Now;
use crate::relay::Mark;

/// Records deleted at a time, so that a tap never waits for a long deletion.
const PRUNE_STEP: u32 = 256;

/// Records checked with each housekeeping: a million in a day.
const CHECK_STEP: usize = 500;

/// Pages salvaged or holes filled at a time, so that a tap never waits long.
const REPAIR_STEP: usize = 500;

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
    pub fn new(shelf: Shelf, boot_id: BootId, now: Now) -> Keeper {
        Keeper {
            shelf,
            boot_id,
            started: None,
            aside_since_ms: now.boottime_ms,
            check_next: None,
            repair_failed: false,
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
        self.undamaged(*now, |keeper| {
            let boot = keeper.boot_started(*now)?;
            let records: Vec<Record> =
                group.iter().map(|(now, body)| Record { at: now.stamp(boot), body: body.clone() }).collect();
            let bytes: Vec<Vec<u8>> = records.iter().map(Record::encode).collect();
            let newest = keeper.shelf.writable()?;
            Ok(Appended { first: newest.append(&bytes)?, outbox: newest.id(), records })
        })
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
        Ok(own.flatten())
    }

    /// See [`Outbox::set_mark`].
    pub fn set_mark(&mut self, id: OutboxId, mark: Mark) {
        self.shelf.set_mark(id, mark);
    }

    /// Writes marks, prunes and checks a little. Returns whether the shelf is another one now.
    pub fn housekeep(&mut self, keep_receipted: u64, now: Now) -> Result<bool, OutboxError> {
        self.repair_failed = false;
        self.shelf.writable()?;
        self.shelf.flush_marks()?;
        let gone = self.shelf.prune(keep_receipted, PRUNE_STEP)?;
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
        self.try_repair(now).inspect_err(|_| self.repair_failed = true)
    }

    fn try_repair(&mut self, now: Now) -> Result<bool, OutboxError> {
        if let Some((outbox, ranges)) = self.shelf.untold()? {
            let tombstones: Vec<(Now, Body)> = ranges
                .iter()
                .map(|(from, to)| {
                    (now, Body::Lost { outbox, from: *from, to: *to, why: LossReason::Damaged })
                })
                .collect();
            self.append(&tombstones)?;
            self.shelf.told(outbox, ranges)?;
            return Ok(true);
        }
        self.shelf.repair(REPAIR_STEP)
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

    fn keeper(folder: &Path) -> Keeper {
        let owner = Owner { controller: "hq-door-1".parse().unwrap(), machine: b"pi".to_vec() };
        let shelf = Shelf::open(Disk::shared(), folder, &owner, mint_outbox_id).unwrap();
        Keeper::new(shelf, BOOT, NOW)
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
}
