//! Step 7 of 12, over HTTP, while the store is away: the spool's files in a folder. Knows no store and no threads.
//!
//! A file is written at its end only, and by the process that made it: what a start finds is read and never written to
//! again, so no torn end need ever be cut off. The next tap goes to a new file, which is a new sitting, so a number that
//! was given before an error is never given again. A file goes when all that it promised is in the store.
//!
//! **Invariant**: [`Shelf::put`] returns a number only after the medium has it.

use std::collections::{HashMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use tap_protocol::ids::{ControllerId, EventId, Seq};

use super::frames::{self, Entry, HEADER_BYTES};
use crate::event_store::capture::{CapturedTap, Print, Sitting};

/// Sealed badges and prints are for the service alone.
const FILE: u32 = 0o600;
const FOLDER: u32 = 0o700;

const EXTENSION: &str = "spool";

/// What is damaged stays, under this name: a person may want to look.
const DAMAGED: &str = "damaged";

/// A source and what its idempotency key hashes to.
type Key = (ControllerId, [u8; 32]);

/// The folder and what waits in it.
pub struct Shelf {
    dir: PathBuf,
    limit_bytes: u64,
    used_bytes: u64,
    /// Waiting, in the order in which they came.
    waiting: VecDeque<Waiting>,
    /// By source and idempotency key, so that a request that is repeated meanwhile gets the same answer. Those that are
    /// stored already stay here while others wait: until then nobody asks the store.
    by_key: HashMap<Key, (EventId, Vec<Print>)>,
    files: VecDeque<Kept>,
    /// Whether the last of `files` may be written to.
    current: Option<File>,
    next_seqs: HashMap<ControllerId, Seq>,
    last_number: u64,
}

/// A tap that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// In which sitting it was captured.
    pub sitting: Sitting,
    /// The tap and its number there.
    pub entry: Entry,
    file: u64,
}

/// One write to the medium.
#[derive(Default)]
struct Writing {
    entries: Vec<Entry>,
    bytes: Vec<u8>,
    by_key: HashMap<Key, usize>,
}

enum Answer {
    /// Whatever becomes of the write.
    Known(Result<EventId, NotPut>),
    /// If the write succeeds.
    Written(EventId),
}

struct Kept {
    number: u64,
    path: PathBuf,
    sitting: Sitting,
    bytes: u64,
    is_damaged: bool,
}

/// Why a tap was not put on the shelf.
#[derive(Debug, thiserror::Error)]
pub enum NotPut {
    /// It is full.
    #[error("the spool is full")]
    Full,
    /// Another tap waits there under the same idempotency key.
    #[error("another tap waits in the spool under the same idempotency key")]
    OtherUnderKey,
    /// It was to wait behind others, and they are stored.
    #[error("nobody waits in the spool any more")]
    NobodyWaits,
    /// The disk cannot.
    #[error("the spool cannot be written")]
    Disk(#[source] io::Error),
}

/// What a start found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Found {
    /// Taps that wait for the store.
    pub waiting: usize,
    /// Bytes in the middle of files that cannot be read: taps may be gone.
    pub damaged_bytes: usize,
    /// Files that are none of ours, or whose header is gone.
    pub unreadable: Vec<PathBuf>,
}

impl Shelf {
    /// Opens the folder, and makes it if need be.
    pub fn open(dir: &Path, limit_bytes: u64) -> io::Result<(Shelf, Found)> {
        fs::DirBuilder::new().recursive(true).mode(FOLDER).create(dir)?;
        let mut shelf = Shelf {
            dir: dir.to_owned(),
            limit_bytes,
            used_bytes: 0,
            waiting: VecDeque::new(),
            by_key: HashMap::new(),
            files: VecDeque::new(),
            current: None,
            next_seqs: HashMap::new(),
            last_number: 0,
        };
        let mut found = Found::default();
        let mut numbered = Vec::new();
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == EXTENSION) {
                match path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok()) {
                    Some(number) => numbered.push((number, path)),
                    None => found.unreadable.push(path),
                }
            }
        }
        numbered.sort();
        for (number, path) in numbered {
            shelf.last_number = number;
            shelf.take_back(number, path, &mut found)?;
        }
        found.waiting = shelf.waiting.len();
        Ok((shelf, found))
    }

    /// A file of an earlier run.
    fn take_back(&mut self, number: u64, path: PathBuf, found: &mut Found) -> io::Result<()> {
        let bytes = fs::read(&path)?;
        let content = frames::read(&bytes);
        let length = bytes.len() as u64;
        match content {
            // Its header was never on the medium as a whole: nobody was answered.
            None if bytes.len() < HEADER_BYTES => fs::remove_file(&path),
            None => {
                found.unreadable.push(path);
                Ok(())
            }
            Some(content) if content.entries.is_empty() && content.torn_bytes == 0 => fs::remove_file(&path),
            Some(content) => {
                found.damaged_bytes += content.damaged_bytes;
                let is_damaged = content.damaged_bytes > 0;
                self.used_bytes += length;
                self.files.push_back(Kept {
                    number,
                    path,
                    sitting: content.sitting,
                    bytes: length,
                    is_damaged,
                });
                for entry in content.entries {
                    self.remember(number, content.sitting, entry);
                }
                self.let_go()
            }
        }
    }

    /// How many taps wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Bytes on the disk.
    pub fn used_bytes(&self) -> u64 {
        self.used_bytes
    }

    /// The first of those that wait.
    pub fn first(&self, count: usize) -> Vec<Waiting> {
        self.waiting.iter().take(count).cloned().collect()
    }

    /// Puts taps on the shelf, in their order, with one write to the medium. One answer each: the event id that it will
    /// have, the same again for the same tap under the same idempotency key. `sitting` is for a new file.
    pub fn put(&mut self, taps: Vec<CapturedTap>, sitting: Sitting) -> Vec<Result<EventId, NotPut>> {
        if let Err(error) = self.have_a_file(sitting) {
            return taps.iter().map(|_| Err(NotPut::Disk(again(&error)))).collect();
        }
        let (number, sitting) =
            self.files.back().map(|file| (file.number, file.sitting)).expect("there is one");
        let mut writing = Writing::default();
        let answers: Vec<Answer> =
            taps.into_iter().map(|tap| self.place(tap, sitting, &mut writing)).collect();
        let written = if writing.bytes.is_empty() { Ok(()) } else { self.write(&writing.bytes) };
        if written.is_ok() {
            for entry in writing.entries {
                self.remember(number, sitting, entry);
            }
        } else {
            // What of it is on the medium nobody can say: those numbers are never given again.
            self.current = None;
        }
        // A file that nobody waits in goes.
        if let Err(error) = self.let_go() {
            tracing::warn!(%error, "an empty file of the spool cannot be removed");
        }
        let told = answers.into_iter().map(|answer| match (answer, &written) {
            (Answer::Known(known), _) => known,
            (Answer::Written(id), Ok(())) => Ok(id),
            (Answer::Written(_), Err(error)) => Err(NotPut::Disk(again(error))),
        });
        told.collect()
    }

    /// Where a tap is to stand, or what is known of it.
    fn place(&mut self, tap: CapturedTap, sitting: Sitting, writing: &mut Writing) -> Answer {
        if let Some((id, prints)) = self.by_key.get(&key_of(&tap)) {
            return Answer::Known(if means(&tap, prints) { Ok(*id) } else { Err(NotPut::OtherUnderKey) });
        }
        if let Some(index) = writing.by_key.get(&key_of(&tap)) {
            let entry = &writing.entries[*index];
            return match means(&tap, &entry.tap.prints) {
                true => Answer::Written(event_id(sitting, entry)),
                false => Answer::Known(Err(NotPut::OtherUnderKey)),
            };
        }
        let seq = self.next_seqs.get(&tap.source).copied().unwrap_or_default().next();
        let entry = Entry { seq, tap };
        let frame = frames::frame(sitting, &entry);
        if self.used_bytes + (writing.bytes.len() + frame.len()) as u64 > self.limit_bytes {
            return Answer::Known(Err(NotPut::Full));
        }
        let id = event_id(sitting, &entry);
        self.next_seqs.insert(entry.tap.source.clone(), seq);
        writing.bytes.extend_from_slice(&frame);
        writing.by_key.insert(key_of(&entry.tap), writing.entries.len());
        writing.entries.push(entry);
        Answer::Written(id)
    }

    /// The first `count` are in the store for good.
    pub fn done(&mut self, count: usize) -> io::Result<()> {
        self.waiting.drain(..count.min(self.waiting.len()));
        if self.waiting.is_empty() {
            self.by_key.clear();
            self.current = None;
        }
        self.let_go()
    }

    fn remember(&mut self, file: u64, sitting: Sitting, entry: Entry) {
        self.by_key.insert(key_of(&entry.tap), (event_id(sitting, &entry), entry.tap.prints.clone()));
        self.waiting.push_back(Waiting { sitting, entry, file });
    }

    fn have_a_file(&mut self, sitting: Sitting) -> io::Result<()> {
        if self.current.is_some() {
            return Ok(());
        }
        let number = self.last_number + 1;
        let path = self.dir.join(format!("{number:08}.{EXTENSION}"));
        let mut file = OpenOptions::new().append(true).create_new(true).mode(FILE).open(&path)?;
        self.last_number = number;
        let begun = (|| {
            file.write_all(&frames::header(sitting))?;
            file.sync_all()?;
            File::open(&self.dir)?.sync_all()
        })();
        if let Err(error) = begun {
            // It has promised nothing; if it cannot be removed either, the next start does it.
            let _ = fs::remove_file(&path);
            return Err(error);
        }
        let bytes = HEADER_BYTES as u64;
        self.used_bytes += bytes;
        self.files.push_back(Kept { number, path, sitting, bytes, is_damaged: false });
        self.current = Some(file);
        self.next_seqs.clear();
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let file = self.current.as_mut().expect("there is a file to write to");
        file.write_all(bytes)?;
        file.sync_data()?;
        self.used_bytes += bytes.len() as u64;
        self.files.back_mut().expect("it is the last one").bytes += bytes.len() as u64;
        Ok(())
    }

    /// Removes files in which nobody waits, but the one that is written to.
    fn let_go(&mut self) -> io::Result<()> {
        let first_needed = self.waiting.front().map(|waiting| waiting.file);
        let written_to = self.current.is_some().then_some(self.last_number);
        while let Some(file) = self.files.front() {
            if first_needed.is_some_and(|first| first <= file.number) || written_to == Some(file.number) {
                break;
            }
            match file.is_damaged {
                true => fs::rename(&file.path, file.path.with_extension(DAMAGED))?,
                false => fs::remove_file(&file.path)?,
            }
            self.used_bytes -= file.bytes;
            self.files.pop_front();
        }
        Ok(())
    }
}

fn key_of(tap: &CapturedTap) -> Key {
    (tap.source.clone(), tap.key_sha256)
}

fn means(tap: &CapturedTap, prints: &[Print]) -> bool {
    prints.iter().find_map(|print| tap.means_the_same(print)) == Some(true)
}

fn event_id(sitting: Sitting, entry: &Entry) -> EventId {
    EventId::new(&entry.tap.source, sitting.outbox(&entry.tap.source), entry.seq)
}

/// The same error once more: each of those who wait is told.
fn again(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), error.to_string())
}

#[cfg(test)]
#[path = "shelf_tests.rs"]
mod tests;
