//! All outboxes on the disk: the newest is written, older ones (a restored backup's, a replaced machine's) are drained
//! before it. Knows files and their order; what is sent when is the relay's to say.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::config::DbConfig;
use tap_protocol::chain::ChainHash;
use tap_protocol::ids::{ControllerId, OutboxId, Seq};

use super::carve::MAX_SEQ;
use super::head::Stage;
use super::medium::{self, Medium};
use super::opening::beside;
use super::salvage::{LostRange, Salvage, Salvaged};
use super::space::{Level, Limits, Usage, Verdict};
use super::{Chunk, Outbox, OutboxError};
use crate::relay::Mark;

/// Outbox files end in this.
const SUFFIX: &str = "outbox";

/// Files that were set aside end in this: `OUTBOX.LAST SEQ.ORDINAL OF THE NEXT OUTBOX.damaged`. The name carries what is
/// known at that moment, because one renaming makes it durable.
const ASIDE: &str = "damaged";

/// The file that holds space for a full disk, and how much: a log and what a checkpoint may need beside it.
const RESERVE: &str = "reserve";
const RESERVE_BYTES: u64 = 4 << 20;

/// The outboxes of one controller, oldest first.
pub struct Shelf {
    medium: Arc<dyn Medium>,
    folder: PathBuf,
    owner: Owner,
    mint: Box<dyn FnMut() -> OutboxId + Send>,
    outboxes: Vec<Outbox>,
    /// The outbox that is written has at least this ordinal: newer than everything that was set aside.
    writable_from: u32,
    salvaging: Option<Salvage>,
    news: Vec<News>,
}

/// Something that people should hear of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// A damaged file was set aside.
    SetAside {
        /// Which outbox; none if its name says nothing.
        outbox: Option<OutboxId>,
        /// Where it lies now.
        file: PathBuf,
        /// What was found.
        why: String,
    },
    /// What was readable of it is on the shelf again.
    Salvaged(Salvaged),
    /// These had no receipt and are gone; the newest outbox has the tombstones.
    Lost {
        /// Whose.
        outbox: OutboxId,
        /// First and last numbers; see [`Outbox::lost`].
        ranges: Vec<LostRange>,
    },
    /// There is little room, or none, or enough again.
    Room(Verdict),
    /// The cloud was put back to before records that were deleted here after it had confirmed them.
    HistoryGone {
        /// Whose.
        outbox: OutboxId,
        /// First and last numbers.
        range: LostRange,
    },
    /// A salvaged outbox is without holes and can be sent.
    Mended(OutboxId),
    /// What the cloud has of a salvaged outbox is not what was salvaged.
    Disputed(OutboxId),
}

impl fmt::Display for News {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            News::SetAside { file, why, .. } => write!(
                f,
                "an outbox was damaged and is set aside as {} ({why}). Taps go to a new one; what is readable is being salvaged. Replace the SD card or disk soon",
                file.display()
            ),
            News::Salvaged(found) => {
                write!(f, "{} records of outbox {} are salvaged", found.records, found.outbox)
            }
            News::Lost { outbox, ranges } if ranges.is_empty() => {
                write!(f, "nothing of the damaged outbox {outbox} is lost")
            }
            News::Lost { outbox, ranges } => {
                write!(f, "records of outbox {outbox} cannot be read any more:")?;
                for (from, to) in ranges {
                    match *to == MAX_SEQ {
                        true => write!(f, " {from} and whatever followed")?,
                        false => write!(f, " {from} to {to}")?,
                    }
                }
                write!(f, ". Those that the cloud has not yet are lost")
            }
            News::Room(Verdict { level, used_bytes, limit_bytes }) => match level {
                Level::Fine => write!(f, "there is room for records again"),
                Level::High => write!(
                    f,
                    "the outbox fills up: {used_bytes} of {limit_bytes} bytes have no receipt. Find out why the cloud does not confirm, or make room on the disk"
                ),
                Level::Full => write!(
                    f,
                    "the outbox is full: {used_bytes} of {limit_bytes} bytes have no receipt, and taps are refused"
                ),
            },
            News::HistoryGone { outbox, range: (from, to) } => write!(
                f,
                "the cloud was put back from a backup that lacks records {from} to {to} of outbox {outbox}. It had confirmed them, so they were deleted here: they are told as lost, and what follows them is sent again"
            ),
            News::Mended(outbox) => write!(f, "the salvaged outbox {outbox} is being sent"),
            News::Disputed(outbox) => write!(
                f,
                "the cloud has other records of the damaged outbox {outbox} than were salvaged: nothing is deleted, and somebody must look"
            ),
        }
    }
}

/// Who writes, and where it runs.
#[derive(Debug, Clone)]
pub struct Owner {
    /// The controller.
    pub controller: ControllerId,
    /// What tells this machine from a clone of its disk.
    pub machine: Vec<u8>,
}

impl fmt::Debug for Shelf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shelf").field("folder", &self.folder).field("outboxes", &self.outboxes).finish()
    }
}

impl Shelf {
    /// Opens every outbox in `folder`; damaged ones are set aside. A new one is made if there is none, or if the newest
    /// belongs to another machine or controller, or is older than one that was damaged. `mint` gives 128 random bits.
    pub fn open(
        medium: Arc<dyn Medium>,
        folder: &Path,
        owner: &Owner,
        mint: impl FnMut() -> OutboxId + Send + 'static,
    ) -> Result<Shelf, OutboxError> {
        let folder_error = |source| OutboxError::Folder { path: folder.to_owned(), source };
        medium::make_folder(&*medium, folder).map_err(folder_error)?;
        let mut shelf = Shelf {
            medium,
            folder: folder.to_owned(),
            owner: owner.clone(),
            mint: Box::new(mint),
            outboxes: Vec::new(),
            writable_from: 0,
            salvaging: None,
            news: Vec::new(),
        };
        shelf.finish_setting_aside()?;
        let mut damaged = Vec::new();
        for path in shelf.files(SUFFIX)? {
            match open_twice(&*shelf.medium, &path) {
                Ok(outbox) => shelf.outboxes.push(outbox),
                Err(error) if error.is_damage() => damaged.push((path, error)),
                Err(error) => return Err(error),
            }
        }
        if shelf.outboxes.is_empty() {
            // A start that was killed may have made the folder and not its name durable.
            shelf.medium.sync_folder(medium::parent(folder)).map_err(folder_error)?;
        }
        shelf.outboxes.sort_by_key(Outbox::ordinal);
        shelf.writable_from = shelf.aside()?.iter().map(|aside| aside.next_ordinal).max().unwrap_or_default();
        // Their own ordinals may be lost, but no two outboxes have the same.
        let newest = shelf.outboxes.last().map_or(0, Outbox::ordinal).max(shelf.writable_from);
        let next_ordinal = newest + u32::try_from(damaged.len()).unwrap_or(u32::MAX) + 1;
        for (path, error) in damaged {
            shelf.rename_aside(&path, None, next_ordinal, &error)?;
        }
        shelf.writable()?;
        Ok(shelf)
    }

    /// Makes a new outbox; it is written from now on.
    pub fn start_new(&mut self, owner: &Owner, id: OutboxId) -> Result<(), OutboxError> {
        let newest = self.outboxes.last().map_or(0, Outbox::ordinal);
        let ordinal = (newest + 1).max(self.writable_from);
        let path = self.folder.join(format!("{id}.{SUFFIX}"));
        let outbox = Outbox::create(&*self.medium, &path, id, &owner.controller, &owner.machine, ordinal)?;
        self.outboxes.push(outbox);
        Ok(())
    }

    /// The outbox that is written; a new one if there is none.
    pub fn writable(&mut self) -> Result<&mut Outbox, OutboxError> {
        let is_there = self.outboxes.last().is_some_and(|newest| {
            newest.machine() == self.owner.machine
                && *newest.controller() == self.owner.controller
                && newest.stage() == Stage::Whole
                && newest.ordinal() >= self.writable_from
        });
        if !is_there {
            self.start_another()?;
        }
        Ok(self.newest())
    }

    /// One more outbox, with a new id; it is written from now on.
    pub fn start_another(&mut self) -> Result<(), OutboxError> {
        let id = (self.mint)();
        self.start_new(&self.owner.clone(), id)
    }

    /// Opens an outbox anew, with the checks that this makes. Whether it is as it was: a medium that was only out of sorts
    /// for a moment damaged nothing.
    pub fn look_again(&mut self, id: OutboxId) -> Result<bool, OutboxError> {
        let Some(at) = self.outboxes.iter().position(|outbox| outbox.id() == id) else { return Ok(false) };
        let before = &self.outboxes[at];
        // Nothing goes from the log into a file that may be damaged.
        let _ = before.db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
        let again = match Outbox::open(&*self.medium, before.path()) {
            Err(error) if error.is_damage() => return Ok(false),
            opened => opened?,
        };
        let is_as_before = again.last == before.last && again.stage() == before.stage();
        if is_as_before {
            let mark = before.mark();
            self.outboxes[at] = again;
            self.outboxes[at].set_mark(mark);
        }
        Ok(is_as_before)
    }

    /// Sets an outbox aside that turned out to be damaged.
    pub fn set_aside(&mut self, id: OutboxId, error: &OutboxError) -> Result<(), OutboxError> {
        let Some(at) = self.outboxes.iter().position(|outbox| outbox.id() == id) else { return Ok(()) };
        let outbox = self.outboxes.remove(at);
        let (path, last) = (outbox.path().to_owned(), outbox.last_seq());
        let next_ordinal = self.outboxes.last().map_or(0, Outbox::ordinal).max(outbox.ordinal()) + 1;
        // Nothing is written to it any more.
        let _ = outbox.db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
        drop(outbox);
        self.rename_aside(&path, Some(last), next_ordinal, error)
    }

    fn rename_aside(
        &mut self,
        path: &Path,
        last: Option<Seq>,
        next_ordinal: u32,
        error: &OutboxError,
    ) -> Result<(), OutboxError> {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let last = last.map_or("unknown".into(), |seq| seq.to_string());
        let file = path.with_file_name(format!("{stem}.{last}.{next_ordinal}.{ASIDE}"));
        // Also if that fails: nothing is written to it any more.
        self.writable_from = self.writable_from.max(next_ordinal);
        self.medium
            .rename(path, &file)
            .map_err(|source| OutboxError::Folder { path: path.to_owned(), source })?;
        self.news.push(News::SetAside {
            outbox: id_in(&stem).map(|(id, _)| id),
            file,
            why: crate::agent::with_causes(error),
        });
        // The log goes with it. If that is cut off, the next start does it: nothing opens a log without its file.
        self.finish_setting_aside()
    }

    fn finish_setting_aside(&mut self) -> Result<(), OutboxError> {
        for aside in self.aside()? {
            let was = self.folder.join(format!("{}.{SUFFIX}", aside.stem));
            let files = self.listed()?;
            for suffix in ["-wal", "-shm"] {
                let (from, to) = (beside(&was, suffix), beside(&aside.file, suffix));
                if files.contains(&from) && !files.contains(&was) {
                    self.medium
                        .rename(&from, &to)
                        .map_err(|source| OutboxError::Folder { path: from, source })?;
                }
            }
        }
        self.medium
            .sync_folder(&self.folder)
            .map_err(|source| OutboxError::Folder { path: self.folder.clone(), source })
    }

    fn listed(&self) -> Result<Vec<PathBuf>, OutboxError> {
        self.medium
            .list(&self.folder)
            .map_err(|source| OutboxError::Folder { path: self.folder.clone(), source })
    }

    fn files(&self, suffix: &str) -> Result<Vec<PathBuf>, OutboxError> {
        let mut files = self.listed()?;
        files.retain(|path| path.extension().is_some_and(|extension| extension == suffix));
        files.sort();
        Ok(files)
    }

    /// The files that were set aside.
    pub fn aside(&self) -> Result<Vec<Aside>, OutboxError> {
        Ok(self.files(ASIDE)?.into_iter().filter_map(Aside::of).collect())
    }

    /// What was set aside and is not yet on the shelf again.
    fn to_be_salvaged(&self) -> Result<Option<Aside>, OutboxError> {
        let names: Vec<String> = self
            .listed()?
            .iter()
            .filter(|path| path.extension().is_some_and(|end| end == SUFFIX || end == ASIDE))
            .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
            .collect();
        let is_salvaged = |id: OutboxId, round: u32| {
            names.iter().any(|name| {
                let stem = name.rsplit_once('.').map_or("", |(stem, _)| stem);
                let stem = Aside::of(PathBuf::from(name)).map_or(stem.to_owned(), |aside| aside.stem);
                id_in(&stem).is_some_and(|(other, other_round)| other == id && other_round > round)
            })
        };
        Ok(self
            .aside()?
            .into_iter()
            .find(|aside| aside.outbox.is_some_and(|(id, round)| !is_salvaged(id, round))))
    }

    /// Salvages a little more of what was set aside, or mends a little more of what was salvaged. Returns whether there is
    /// more to do. To be called when nothing else is to be done.
    pub fn repair(&mut self, pages: usize) -> Result<bool, OutboxError> {
        if let Some(outbox) = self.outboxes.iter_mut().find(|outbox| outbox.stage().fills_with().is_some()) {
            let id = outbox.id();
            if outbox.mend(u32::try_from(pages).unwrap_or(u32::MAX))? {
                self.news.push(News::Mended(id));
            }
            return Ok(true);
        }
        if self.salvaging.is_none() {
            let Some(aside) = self.to_be_salvaged()? else { return Ok(false) };
            let (id, round) = aside.outbox.expect("only what has an id can be salvaged");
            let target = self.folder.join(format!("{id}.{}.{SUFFIX}", round + 1));
            let owner = (&self.owner.controller, self.owner.machine.as_slice());
            let medium = self.medium.clone();
            self.salvaging = Some(Salvage::begin(medium, &aside.file, &target, id, aside.last, owner)?);
        }
        let Some(mut salvage) = self.salvaging.take() else { return Ok(false) };
        if let Some(found) = salvage.step(pages)? {
            self.outboxes.push(Outbox::open(&*self.medium, salvage.target())?);
            self.outboxes.sort_by_key(Outbox::ordinal);
            self.news.push(News::Salvaged(found));
        } else {
            self.salvaging = Some(salvage);
        }
        Ok(true)
    }

    /// A salvaged outbox whose tombstones are not yet written, and what it lost.
    pub fn untold(&self) -> Result<Option<(OutboxId, Vec<LostRange>)>, OutboxError> {
        let Some(outbox) = self.outboxes.iter().find(|outbox| outbox.stage() == Stage::Found) else {
            return Ok(None);
        };
        let aside = self.aside()?;
        let same = aside.iter().filter(|aside| aside.outbox.is_some_and(|(id, _)| id == outbox.id()));
        let last_round = same.max_by_key(|aside| aside.outbox);
        Ok(Some((outbox.id(), outbox.lost(last_round.and_then(|aside| aside.last))?)))
    }

    /// The tombstones for what it lost are in the newest outbox.
    pub fn told(&mut self, outbox: OutboxId, ranges: Vec<LostRange>) -> Result<(), OutboxError> {
        self.find(outbox).map_or(Ok(()), Outbox::set_told)?;
        self.news.push(News::Lost { outbox, ranges });
        Ok(())
    }

    /// Takes the cloud's word for a salvaged outbox that waits for it. Returns whether there was one.
    pub fn settle(&mut self, id: OutboxId, mark: Mark, hash: ChainHash) -> Result<bool, OutboxError> {
        let Some(outbox) = self.find(id).filter(|outbox| outbox.stage() == Stage::Told) else {
            return Ok(false);
        };
        if !outbox.settle(mark, hash)? {
            self.news.push(News::Disputed(id));
        }
        Ok(true)
    }

    /// See [`Outbox::refill`]. If it was the one that is written, another one is from here on.
    pub fn refill(&mut self, id: OutboxId, mark: Mark, hash: ChainHash) -> Result<(), OutboxError> {
        if let Some(outbox) = self.find(id)
            && let Some(range) = outbox.refill(mark, hash)?
        {
            self.news.push(News::HistoryGone { outbox: id, range });
        }
        self.writable().map(drop)
    }

    /// Notes something that people should hear of.
    pub fn tell(&mut self, news: News) {
        self.news.push(news);
    }

    /// Whether there are receipted records that may go.
    pub fn has_history(&self) -> bool {
        self.outboxes.iter().any(|outbox| {
            outbox.stage().is_sound() && outbox.pruned_through() < outbox.mark().receipted_through
        })
    }

    /// What happened since this was asked last.
    pub fn take_news(&mut self) -> Vec<News> {
        std::mem::take(&mut self.news)
    }

    /// The outbox that is written.
    pub fn newest(&mut self) -> &mut Outbox {
        self.outboxes.last_mut().expect("a shelf is never empty")
    }

    /// All outboxes, oldest first.
    pub fn all(&self) -> impl Iterator<Item = &Outbox> {
        self.outboxes.iter()
    }

    /// The outbox called `id`.
    pub fn find(&mut self, id: OutboxId) -> Option<&mut Outbox> {
        self.outboxes.iter_mut().find(|outbox| outbox.id() == id)
    }

    /// See [`Outbox::read`]. `None` if there is no such outbox.
    pub fn read(&mut self, id: OutboxId, from: Seq) -> Result<Option<Chunk>, OutboxError> {
        self.find(id).map(|outbox| outbox.read(from)).transpose()
    }

    /// See [`Outbox::hash_at`]. `None` also if there is no such outbox.
    pub fn hash_at(&mut self, id: OutboxId, seq: Seq) -> Result<Option<ChainHash>, OutboxError> {
        self.find(id).map_or(Ok(None), |outbox| outbox.hash_at(seq))
    }

    /// Whether another outbox says its end again.
    pub fn is_retired(&self, id: OutboxId) -> bool {
        self.outboxes.iter().any(|outbox| outbox.continues() == Some(id))
    }

    /// The last record that an outbox says itself: what follows is said by another one. `None` if nothing of it is sent any
    /// more: an agent that wrote version 2 did not note from where on, or nothing before that is left.
    pub fn says_through(&self, outbox: &Outbox) -> Option<Seq> {
        says_through(&self.outboxes, outbox)
    }

    /// Makes a new outbox under this id if no file here has ever been called so, else under a new one.
    pub fn start_another_as(&mut self, id: OutboxId) -> Result<(), OutboxError> {
        let is_taken = self.listed()?.iter().any(|path| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&id.to_string()))
        });
        let id = if is_taken { (self.mint)() } else { id };
        self.start_new(&self.owner.clone(), id)
    }

    /// The newest outbox, to be written, and the one called `id`, to be read; `None` if that is not another one.
    pub fn newest_and(&mut self, id: OutboxId) -> Option<(&mut Outbox, &Outbox)> {
        let (newest, older) = self.outboxes.split_last_mut()?;
        older.iter().find(|outbox| outbox.id() == id).map(|old| (newest, old))
    }

    /// See [`Outbox::set_mark`].
    pub fn set_mark(&mut self, id: OutboxId, mark: Mark) {
        if let Some(outbox) = self.find(id) {
            outbox.set_mark(mark);
        }
    }

    /// Writes all marks to the medium.
    pub fn flush_marks(&mut self) -> Result<(), OutboxError> {
        self.outboxes.iter_mut().try_for_each(Outbox::flush_mark)
    }

    /// Deletes receipted records that are old by these limits, at most `limit` per outbox and call. Returns how many went.
    pub fn prune(&mut self, limits: &Limits, limit: u32) -> Result<u32, OutboxError> {
        self.outboxes.iter_mut().try_fold(0, |gone, outbox| {
            let through = outbox.old_through(limits);
            Ok(gone + outbox.prune(through, limit)?)
        })
    }

    /// Deletes the oldest receipted records, whatever their age, because there is no room. Returns how many went.
    pub fn prune_for_room(&mut self, limit: u32) -> Result<u32, OutboxError> {
        for outbox in &mut self.outboxes {
            let gone = outbox.prune(outbox.mark().receipted_through, limit)?;
            if gone > 0 {
                return Ok(gone);
            }
        }
        Ok(0)
    }

    /// What is used and what is left.
    pub fn usage(&self) -> Result<Usage, OutboxError> {
        let (mut used_bytes, mut spare_bytes) = (0, 0);
        for outbox in &self.outboxes {
            let (used, spare) = outbox.used_and_spare_bytes()?;
            (used_bytes, spare_bytes) = (used_bytes + used, spare_bytes + spare);
        }
        let disk_free_bytes = self
            .medium
            .free_bytes(&self.folder)
            .map_err(|source| OutboxError::Folder { path: self.folder.clone(), source })?;
        Ok(Usage { used_bytes, spare_bytes, disk_free_bytes })
    }

    /// Holds some space, to be given back when the disk is full: deleting needs room too.
    pub fn hold_reserve(&self, min_free_bytes: u64) -> Result<(), OutboxError> {
        let reserve = self.folder.join(RESERVE);
        let folder = |source| OutboxError::Folder { path: reserve.clone(), source };
        match self.medium.size(&reserve) {
            Ok(RESERVE_BYTES) => return Ok(()),
            // Cut off in the making.
            Ok(_) => self.medium.remove(&reserve).map_err(folder)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(folder(error)),
        }
        let free = self.medium.free_bytes(&self.folder).map_err(folder)?;
        if free < RESERVE_BYTES + min_free_bytes {
            return Ok(());
        }
        self.medium.preallocate(&reserve, RESERVE_BYTES).map_err(folder)
    }

    /// Gives the reserve back. Returns whether there was one.
    pub fn give_reserve_back(&self) -> Result<bool, OutboxError> {
        let reserve = self.folder.join(RESERVE);
        match self.medium.remove(&reserve) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(OutboxError::Folder { path: reserve, source }),
        }
    }
}

/// A file that was set aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Aside {
    /// Where it is.
    pub file: PathBuf,
    /// What it was called, without its suffix.
    pub stem: String,
    /// Which outbox it was, and how often that was salvaged before.
    pub outbox: Option<(OutboxId, u32)>,
    /// The last number that was given, if it was known.
    pub last: Option<Seq>,
    /// The ordinal that the outbox after it has at least.
    pub next_ordinal: u32,
}

impl Aside {
    /// What the name of a file says, if it is one.
    pub fn of(file: PathBuf) -> Option<Aside> {
        let name = file.file_name()?.to_str()?.strip_suffix(ASIDE)?.strip_suffix('.')?;
        let (rest, next_ordinal) = name.rsplit_once('.')?;
        let (stem, last) = rest.rsplit_once('.')?;
        Some(Aside {
            stem: stem.to_owned(),
            outbox: id_in(stem),
            last: last.parse().ok().map(Seq),
            next_ordinal: next_ordinal.parse().ok()?,
            file,
        })
    }
}

/// See [`Shelf::says_through`].
pub fn says_through(all: &[Outbox], outbox: &Outbox) -> Option<Seq> {
    let mut others = all.iter().filter(|other| other.continues() == Some(outbox.id())).peekable();
    if others.peek().is_none() {
        return Some(outbox.last_seq());
    }
    let first = others.map(Outbox::continues_after).min().flatten();
    first.filter(|through| *through > outbox.pruned_through())
}

/// `ID`, or `ID.N` of one that was salvaged N times.
fn id_in(stem: &str) -> Option<(OutboxId, u32)> {
    let (id, round) = stem.split_once('.').unwrap_or((stem, "0"));
    Some((id.parse().ok()?, round.parse().ok()?))
}

/// A medium that was out of sorts for a moment is not damaged.
fn open_twice(medium: &dyn Medium, path: &Path) -> Result<Outbox, OutboxError> {
    match Outbox::open(medium, path) {
        Err(error) if error.is_damage() => Outbox::open(medium, path),
        opened => opened,
    }
}

#[cfg(test)]
mod tests {
    use super::super::medium::Disk;
    use super::*;

    fn owner(machine: &[u8]) -> Owner {
        Owner { controller: "hq-door-1".parse().unwrap(), machine: machine.to_vec() }
    }

    fn open(folder: &Path, machine: &[u8], id: u8) -> Shelf {
        Shelf::open(Disk::shared(), folder, &owner(machine), move || OutboxId([id; 16])).unwrap()
    }

    #[test]
    fn the_same_machine_goes_on_with_its_outbox() {
        let folder = tempfile::tempdir().unwrap();
        open(folder.path(), b"pi-1", 1).newest().append(&[b"one".to_vec()]).unwrap();
        let mut again = open(folder.path(), b"pi-1", 2);
        assert_eq!(again.newest().id(), OutboxId([1; 16]));
        assert_eq!(again.newest().last_seq(), Seq(1));
    }

    #[test]
    fn an_outbox_that_was_never_finished_stops_nobody() {
        let folder = tempfile::tempdir().unwrap();
        open(folder.path(), b"pi-1", 1);
        for stray in ["0a.draft", "0a.draft-wal", "0a.draft-shm"] {
            std::fs::write(folder.path().join(stray), b"cut off").unwrap();
        }
        assert_eq!(open(folder.path(), b"pi-1", 2).newest().id(), OutboxId([1; 16]));
    }

    #[test]
    fn a_cloned_disk_in_another_machine_starts_its_own_outbox_and_keeps_the_old_one_for_draining() {
        let folder = tempfile::tempdir().unwrap();
        open(folder.path(), b"pi-1", 9).newest().append(&[b"one".to_vec()]).unwrap();
        let mut elsewhere = open(folder.path(), b"pi-2", 2);
        elsewhere.newest().append(&[b"two".to_vec()]).unwrap();
        let ids: Vec<_> = elsewhere.all().map(Outbox::id).collect();
        assert_eq!(ids, [OutboxId([9; 16]), OutboxId([2; 16])], "oldest first, whatever the ids");
        assert_eq!(elsewhere.read(OutboxId([9; 16]), Seq(1)).unwrap().unwrap().records, [b"one".to_vec()]);
    }

    #[test]
    fn receipted_history_is_kept_up_to_the_limit_and_the_rest_never_goes() {
        let folder = tempfile::tempdir().unwrap();
        let mut shelf = open(folder.path(), b"pi-1", 1);
        shelf.newest().append(&vec![b"x".to_vec(); 10]).unwrap();
        shelf.set_mark(OutboxId([1; 16]), Mark { receipted_through: Seq(8), store_epoch: None });
        let keep = |keep_receipted| Limits {
            max_bytes: 1 << 30,
            min_free_bytes: 0,
            keep_receipted,
            keep_receipted_days: 30,
        };
        assert_eq!(shelf.prune(&keep(5), 100).unwrap(), 5);
        assert_eq!(shelf.prune(&keep(0), 100).unwrap(), 3, "two have no receipt");
    }
}
