//! What a controller does to its shelf, as data, and who does it. Knows nothing of faults: they happen to the disk
//! underneath.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use edge_agent::outbox::OutboxError;
use edge_agent::outbox::shelf::{Owner, Shelf};
use edge_agent::relay::Mark;
use power_loss_vfs::{Disk, Image};
use rusqlite::{Connection, OpenFlags, params};
use tap_protocol::chain::ChainHash;
use tap_protocol::ids::{BootId, OutboxId, Seq, StoreEpoch};

use crate::bait::Bait;
use crate::medium::InMemory;
use crate::promise::{Event, Promises};

/// Where the medium is mounted. Nothing above it is ours.
pub const MOUNT: &str = "/data";

/// Where the outboxes are.
pub const FOLDER: &str = "/data/outbox";

/// One thing that is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Opens the shelf, as at a start.
    Open,
    /// Commits one group of so many records of so many bytes.
    Append {
        /// How many.
        records: usize,
        /// How long each is.
        bytes: usize,
    },
    /// A receipt for all but the newest `but`.
    Receipt {
        /// How many are left without.
        but: u64,
    },
    /// Writes the marks.
    Flush,
    /// Deletes what is receipted.
    Prune {
        /// Except the newest so many.
        keep: u64,
        /// At most so many.
        limit: u32,
    },
    /// Gives a boot its number, and notes that a run begins.
    Boot(u8),
    /// Starts a new outbox that says the newest one again.
    SayAgain,
    /// Salvages what was set aside, so many pages at a time, until there is nothing more to do, and tells what is lost.
    Salvage {
        /// How many.
        pages: usize,
    },
    /// Notes a clean end and closes everything.
    Stop,
    /// Ends without a word.
    Kill,
}

/// Who acts, keeps the promises' record, and forgets it at no crash.
#[derive(Debug)]
pub struct Actor {
    disk: Arc<Disk>,
    shelf: Option<Shelf>,
    minted: Arc<AtomicU8>,
    written: u64,
    /// What happened, and after how many changes of the disk.
    pub events: Vec<(usize, Event)>,
    /// The same, told.
    pub promises: Promises,
    /// Bait: what is to be committed counts as accepted already.
    pub is_hasty: bool,
}

/// A script's run on tape: enough to cut the power anywhere in it.
#[derive(Debug)]
pub struct Tape {
    /// The medium when it began.
    pub start: Image,
    /// What was accepted before.
    pub promises: Promises,
    /// The changes of the medium.
    pub ops: Vec<power_loss_vfs::Op>,
    /// What happened, and after how many changes.
    pub events: Vec<(usize, Event)>,
}

/// An empty medium.
pub fn empty() -> Image {
    Image::with_folder(MOUNT)
}

/// This controller.
pub fn owner() -> Owner {
    Owner { controller: "hq-door-1".parse().expect("a valid name"), machine: b"pi".to_vec() }
}

impl Actor {
    /// On a disk that has just booted.
    pub fn new(disk: Arc<Disk>, promises: Promises) -> Actor {
        let minted = Arc::new(AtomicU8::new(promises.newest().map_or(0, |id| id.0[0])));
        // Far from whatever was written before without being accepted.
        let written = promises.accepted() as u64 + 100_000;
        Actor { disk, shelf: None, minted, written, events: Vec::new(), promises, is_hasty: false }
    }

    /// What is open.
    pub fn shelf(&mut self) -> Option<&mut Shelf> {
        self.shelf.as_mut()
    }

    /// Does one thing. An error changes nothing that was promised. Without a shelf only [`Act::Open`] does anything.
    pub fn act(&mut self, act: &Act) -> Result<(), OutboxError> {
        match act {
            Act::Open => self.open(),
            _ if self.shelf.is_none() => Ok(()),
            Act::Append { records, bytes } => self.append(*records, *bytes),
            Act::Receipt { but } => {
                self.receipt(*but);
                Ok(())
            }
            Act::Flush => self.flush(),
            Act::Prune { keep, limit } => self.prune(*keep, *limit),
            Act::Boot(n) => self.boot(*n),
            Act::SayAgain => self.say_again(),
            Act::Salvage { pages } => self.salvage(*pages),
            Act::Stop => self.stop(),
            Act::Kill => {
                self.disk.kill();
                self.shelf = None;
                Ok(())
            }
        }
    }

    /// Does all of it. On a sound disk nothing may fail.
    pub fn act_all(&mut self, acts: &[Act]) {
        for act in acts {
            if let Err(error) = self.act(act) {
                panic!("{act:?} on a sound disk: {}", edge_agent::agent::with_causes(&error));
            }
        }
    }

    /// Closes without a word, as a program that ends does.
    pub fn close(&mut self) {
        self.shelf = None;
    }

    fn open(&mut self) -> Result<(), OutboxError> {
        self.shelf = None;
        let medium = Arc::new(InMemory(self.disk.clone()));
        // Whether a new outbox is needed is the shelf's to say, so that one is perhaps being made.
        let id = OutboxId([self.minted.load(Ordering::Relaxed) + 1; 16]);
        self.note(Event::Making(id));
        let minted = self.minted.clone();
        let mut shelf = Shelf::open(medium, &PathBuf::from(FOLDER), &owner(), move || mint(&minted))?;
        if shelf.newest().id() == id {
            self.note(Event::Made(id));
        }
        for outbox in shelf.all() {
            let (id, mark, last) = (outbox.id(), outbox.mark(), outbox.last_seq());
            // Of the last record the outbox knows the hash without reading.
            let hash = outbox.hash_at(last)?.unwrap_or(ChainHash([0; 32]));
            self.note(Event::Opened { outbox: id, mark, last, hash });
        }
        self.shelf = Some(shelf);
        Ok(())
    }

    fn append(&mut self, records: usize, bytes: usize) -> Result<(), OutboxError> {
        let group: Vec<Vec<u8>> = (0..records).map(|_| self.record(bytes)).collect();
        let outbox = self.open_shelf().newest().id();
        self.note(Event::Appending { outbox, records: group.clone(), continues: None });
        let appended = Event::Appended { outbox, records: group.clone(), continues: None };
        if self.is_hasty {
            self.note(appended.clone());
        }
        self.open_shelf().newest().append(&group)?;
        if !self.is_hasty {
            self.note(appended);
        }
        Ok(())
    }

    fn receipt(&mut self, but: u64) {
        let newest = self.open_shelf().newest();
        let (id, through) = (newest.id(), Seq(newest.last_seq().0.saturating_sub(but)));
        let mark = Mark { receipted_through: through, store_epoch: Some(StoreEpoch(1)) };
        if through > newest.mark().receipted_through {
            newest.set_mark(mark);
            self.note(Event::MarkSet(id, mark));
        }
    }

    fn flush(&mut self) -> Result<(), OutboxError> {
        self.open_shelf().flush_marks()?;
        for id in self.ids() {
            self.note(Event::MarkFlushed(id));
        }
        Ok(())
    }

    fn prune(&mut self, keep: u64, limit: u32) -> Result<(), OutboxError> {
        for id in self.ids() {
            let outbox = self.open_shelf().all().find(|outbox| outbox.id() == id);
            let through = outbox.map_or(Seq::ZERO, |outbox| outbox.mark().receipted_through);
            self.note(Event::Pruning(id, through));
        }
        for id in self.ids() {
            let outbox = self.open_shelf().find(id).expect("it was listed");
            let through = Seq(outbox.last_seq().0.saturating_sub(keep));
            outbox.prune(through, limit)?;
        }
        for id in self.ids() {
            let outbox = self.open_shelf().all().find(|outbox| outbox.id() == id);
            let pruned = outbox.map_or(Seq::ZERO, |outbox| outbox.pruned_through());
            if pruned > self.promises.pruned(id) {
                self.note(Event::Pruned(id, pruned));
            }
        }
        Ok(())
    }

    fn boot(&mut self, n: u8) -> Result<(), OutboxError> {
        let (boot, id) = (BootId([n; 16]), self.open_shelf().newest().id());
        self.note(Event::Booting(id, boot));
        let number = self.open_shelf().newest().boot_number(boot)?;
        self.note(Event::Booted(id, boot, number));
        self.note(Event::Stopping(id, false));
        self.open_shelf().newest().set_stopped_cleanly(false)?;
        self.note(Event::Stopped(id, false));
        Ok(())
    }

    fn say_again(&mut self) -> Result<(), OutboxError> {
        let old = self.open_shelf().newest().id();
        let id = mint(&self.minted);
        self.note(Event::Making(id));
        self.open_shelf().start_new(&owner(), id)?;
        self.note(Event::Made(id));
        let again = self.promises.without_receipt(old);
        self.note(Event::Appending { outbox: id, records: again.clone(), continues: Some(old) });
        let (newest, old_outbox) = self.open_shelf().newest_and(old).expect("it was the newest just now");
        let mut from = old_outbox.mark().receipted_through.next();
        let after = old_outbox.mark().receipted_through;
        newest.append_continuing(old, after, || {
            let chunk = old_outbox.read(from)?;
            from = from.plus(chunk.records.len() as u64);
            Ok((!chunk.records.is_empty()).then_some(chunk.records))
        })?;
        self.note(Event::Appended { outbox: id, records: again, continues: Some(old) });
        Ok(())
    }

    fn salvage(&mut self, pages: usize) -> Result<(), OutboxError> {
        while self.open_shelf().repair(pages)? {}
        while let Some((id, ranges)) = self.open_shelf().untold()? {
            self.open_shelf().told(id, ranges)?;
        }
        Ok(())
    }

    fn stop(&mut self) -> Result<(), OutboxError> {
        self.flush()?;
        let id = self.open_shelf().newest().id();
        self.note(Event::Stopping(id, true));
        self.open_shelf().newest().set_stopped_cleanly(true)?;
        self.note(Event::Stopped(id, true));
        self.shelf = None;
        Ok(())
    }

    fn open_shelf(&mut self) -> &mut Shelf {
        self.shelf.as_mut().expect("`act` looks first")
    }

    fn ids(&mut self) -> Vec<OutboxId> {
        self.open_shelf().all().map(|outbox| outbox.id()).collect()
    }

    /// The next record; no two are the same.
    pub fn record(&mut self, bytes: usize) -> Vec<u8> {
        self.written += 1;
        let text = format!("record {} of this controller, ", self.written);
        text.bytes().cycle().take(bytes.max(text.len())).collect()
    }

    /// Takes note of what happens now.
    pub fn note(&mut self, event: Event) {
        self.promises.hear(&event);
        self.events.push((self.disk.position(), event));
    }
}

fn mint(minted: &AtomicU8) -> OutboxId {
    OutboxId([minted.fetch_add(1, Ordering::Relaxed) + 1; 16])
}

/// Runs `before` on an empty medium; what is then there, as after a kill.
pub fn prepare(disk: &Arc<Disk>, before: &[Act]) -> (Image, Promises) {
    disk.reboot(&empty());
    let mut actor = Actor::new(disk.clone(), Promises::default());
    actor.act_all(before);
    let start = disk.seen();
    actor.close();
    actor.promises.settle();
    (start, actor.promises)
}

/// An outbox of version 1, as the first release left it when it was killed: 40 records, a mark, two boots.
pub fn prepare_version_1(disk: &Arc<Disk>) -> (Image, Promises) {
    disk.reboot(&empty());
    let mut actor = Actor::new(disk.clone(), Promises::default());
    let id = OutboxId([1; 16]);
    disk.create_folder(Path::new(FOLDER)).expect("an empty disk");
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
    let path = PathBuf::from(FOLDER).join(format!("{id}.outbox"));
    let db = Connection::open_with_flags_and_vfs(path, flags, disk.vfs_name()).expect("a sound disk");
    let sql = |text: &str| db.execute_batch(text).expect("version 1");
    sql("PRAGMA page_size = 1024; PRAGMA journal_mode = wal; PRAGMA synchronous = full; BEGIN");
    sql(include_str!("version_1.sql"));
    let start = ChainHash::start(id);
    db.execute(
        "INSERT INTO outbox (only_row, outbox_id, controller, machine, ordinal, pruned_hash, receipted_through, store_epoch)
         VALUES (1, ?1, 'hq-door-1', ?2, 1, ?3, 12, 1)",
        params![id.0, b"pi", start.0],
    )
    .expect("version 1");
    sql("PRAGMA application_id = 0x5441506f; PRAGMA user_version = 1; COMMIT");
    actor.note(Event::Making(id));
    actor.note(Event::Made(id));
    for n in 1..=2u8 {
        let boot = BootId([n; 16]);
        db.execute("INSERT INTO boot (boot, boot_id) VALUES (?1, ?2)", params![n, boot.0])
            .expect("version 1");
        actor.note(Event::Booting(id, boot));
        actor.note(Event::Booted(id, boot, n.into()));
    }
    let (mut hash, mut records) = (start, Vec::new());
    for seq in 1..=40u64 {
        let bytes = actor.record(90);
        hash = hash.next(&bytes);
        db.execute("INSERT INTO record (seq, hash, bytes) VALUES (?1, ?2, ?3)", params![seq, hash.0, bytes])
            .expect("version 1");
        records.push(bytes);
    }
    actor.note(Event::Appended { outbox: id, records, continues: None });
    actor.note(Event::MarkSet(id, Mark { receipted_through: Seq(12), store_epoch: Some(StoreEpoch(1)) }));
    actor.note(Event::MarkFlushed(id));
    let image = disk.seen();
    drop(db);
    actor.promises.settle();
    (image, actor.promises)
}

/// An outbox with 60 records in its file and some in its log, some of which became garbage.
pub fn prepare_damaged(disk: &Arc<Disk>) -> (Image, Promises) {
    let tap = || Act::Append { records: 1, bytes: 90 };
    let group = Act::Append { records: 60, bytes: 90 };
    let acts = [Act::Open, Act::Boot(1), group, Act::Receipt { but: 45 }, Act::Stop, Act::Open, tap(), tap()];
    let (mut image, mut promises) = prepare(disk, &acts);
    let id = promises.newest().expect("one was made");
    promises.harm(id);
    let files: Vec<PathBuf> = image.files().map(|(path, _)| path.to_owned()).collect();
    for path in files {
        let content = image.file_mut(&path).expect("listed from it");
        let is_log = path.to_string_lossy().ends_with("-wal");
        // The last page but one of the file, and the first frame of the log.
        let at = if is_log { 32 + 24 + 512 } else { content.len().saturating_sub(2 * 1024) };
        if let Some(sector) = content.get_mut(at..at + 512) {
            sector.fill(0xa5);
        }
    }
    (image, promises)
}

/// Runs `before` and then tapes `acts`, with a planted bug if asked for.
pub fn tape(before: impl FnOnce(&Arc<Disk>) -> (Image, Promises), acts: &[Act], bait: Option<Bait>) -> Tape {
    let disk = Arc::new(Disk::boot(&empty()));
    let (start, promises) = before(&disk);
    disk.reboot(&start);
    let mut actor = Actor::new(disk.clone(), promises.clone());
    if let Some(bait) = bait {
        actor.is_hasty = bait == Bait::GreenBeforeCommit;
        bait.lie().into_iter().for_each(|lie| disk.lie(lie));
    }
    actor.act_all(acts);
    let (start, ops) = disk.recording();
    Tape { start, promises, ops, events: actor.events }
}
