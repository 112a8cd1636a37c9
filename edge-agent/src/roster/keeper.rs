//! Beside the line: the roster on the disk, with a thread of its own, so that neither a start nor a tap waits for it. Knows
//! files; what is asked of the cloud is for [`super::assembler`] to say.
//!
//! In the folder lie the head as the cloud signed it, and its chunks under their hashes. So nothing here has a form of its
//! own: the signature and the hashes that proved the roster on the wire prove it again at every start, and what is damaged
//! is found out and fetched anew, and nothing else of it. The head is written last and replaced as a whole.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use data_encoding::HEXLOWER;
use tap_protocol::codec::OpenError;
use tap_protocol::ids::ControllerId;
use tap_protocol::keys::PublicKey;
use tap_protocol::roster::{RosterHead, RosterMessage, chunk_hash};
use tokio::sync::mpsc::Sender;

use super::assembler::ASK_CHUNKS;
use super::book::{Book, NotARoster};
use crate::clock;

/// The signed head of the roster in use.
const HEAD_FILE: &str = "head";

/// While a file is written it has this ending.
const UNFINISHED: &str = "part";

/// Jobs that may wait: chunks, and a few words beside them. No more chunks come than were asked for.
const MAX_WAITING_JOBS: usize = ASK_CHUNKS as usize * 2 + 8;

/// What the thread can be asked to do.
#[derive(Debug)]
pub enum Job {
    /// Say which chunks of it are there. Chunks of neither this nor the roster in use are deleted.
    Look(RosterHead),
    /// Write a chunk.
    Write {
        /// Of which roster.
        version: u64,
        /// Which.
        index: u32,
        /// Of the bytes.
        hash: [u8; 32],
        /// The entries.
        bytes: Vec<u8>,
    },
    /// Put a roster together of which all chunks are there.
    Finish {
        /// Which.
        head: RosterHead,
        /// The head as the cloud signed it.
        message: Vec<u8>,
    },
    /// The roster in use has a later head.
    Redate {
        /// The head as the cloud signed it.
        message: Vec<u8>,
    },
    /// No more.
    Stop,
}

/// What the thread says.
#[derive(Debug)]
pub enum Kept {
    /// What was there at the start; the first answer.
    Opened(Result<Option<Box<Book>>, KeeperError>),
    /// Which chunks of that roster are there.
    Looked {
        /// Of which roster.
        version: u64,
        /// Which chunks.
        on_disk: BTreeSet<u32>,
    },
    /// What became of a chunk.
    Written {
        /// Of which roster.
        version: u64,
        /// Which.
        index: u32,
        /// Whether it is there now.
        done: Result<(), KeeperError>,
    },
    /// The roster that was put together.
    Finished {
        /// Which.
        version: u64,
        /// The roster, or why there is none.
        book: Result<Box<Book>, KeeperError>,
    },
    /// A later head could not be kept. The roster in use is the same, and says its age after the next start.
    NotRedated(KeeperError),
}

/// Why the disk has no roster.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// A file or folder cannot be used.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What we were doing.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The kept head was damaged, or was signed under a key that the cloud no longer uses.
    #[error("the kept roster's head is not one that the cloud signed")]
    Head(#[source] OpenError),
    /// The kept head is no head.
    #[error("the kept roster's head is another message")]
    NotAHead,
    /// A chunk is gone, or its bytes are others.
    #[error("chunk {index} of the kept roster {version} is gone or damaged")]
    Chunk {
        /// Of which roster.
        version: u64,
        /// Which.
        index: usize,
    },
    /// All chunks are as announced, and break a rule.
    #[error("roster {version} breaks the protocol's rules")]
    Rules {
        /// Which.
        version: u64,
        /// Which rule.
        source: NotARoster,
    },
}

impl KeeperError {
    /// Whether it is the roster itself that is wrong, and not the disk: then trying again brings the same.
    pub fn is_the_clouds(&self) -> bool {
        match self {
            KeeperError::Rules { .. } => true,
            KeeperError::Io { .. }
            | KeeperError::Head(_)
            | KeeperError::NotAHead
            | KeeperError::Chunk { .. } => false,
        }
    }
}

/// The running thread.
#[derive(Debug)]
pub struct RosterThread {
    jobs: SyncSender<Job>,
    thread: JoinHandle<()>,
}

/// The queue is full, or the thread is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused;

impl RosterThread {
    /// Starts the thread. Its first answer is [`Kept::Opened`].
    pub fn start(
        folder: PathBuf,
        controller: ControllerId,
        keys: Vec<PublicKey>,
        answers: Sender<Kept>,
    ) -> io::Result<RosterThread> {
        let (jobs, queue) = sync_channel(MAX_WAITING_JOBS);
        let keeper = Keeper { folder, in_use: BTreeSet::new() };
        let work = move || run(keeper, &controller, &keys, &queue, &answers);
        let thread = std::thread::Builder::new().name("roster".into()).spawn(work)?;
        Ok(RosterThread { jobs, thread })
    }

    /// Asks for something, now or not at all.
    pub fn submit(&self, job: Job) -> Result<(), Refused> {
        self.jobs.try_send(job).map_err(|_| Refused)
    }

    /// Ends the thread. The other end of its answers must be read or closed meanwhile.
    pub fn stop(self) {
        let _ = self.jobs.send(Job::Stop);
        let _ = self.thread.join();
    }
}

fn run(
    mut keeper: Keeper,
    controller: &ControllerId,
    keys: &[PublicKey],
    queue: &Receiver<Job>,
    answers: &Sender<Kept>,
) {
    let opened = keeper.open(controller, keys);
    if answers.blocking_send(Kept::Opened(opened)).is_err() {
        return;
    }
    while let Ok(job) = queue.recv() {
        let kept = match job {
            Job::Look(head) => Kept::Looked { version: head.version, on_disk: keeper.look(&head) },
            Job::Write { version, index, hash, bytes } => {
                Kept::Written { version, index, done: keeper.write(&hash, &bytes) }
            }
            Job::Finish { head, message } => {
                Kept::Finished { version: head.version, book: keeper.finish(head, &message) }
            }
            Job::Redate { message } => match keeper.replace(HEAD_FILE, &message) {
                Ok(()) => continue,
                Err(error) => Kept::NotRedated(error),
            },
            Job::Stop => return,
        };
        if answers.blocking_send(kept).is_err() {
            return;
        }
    }
}

/// The folder.
#[derive(Debug)]
struct Keeper {
    folder: PathBuf,
    /// The chunks of the roster in use.
    in_use: BTreeSet<[u8; 32]>,
}

impl Keeper {
    /// What was kept, if anything and if all of it is good.
    fn open(
        &mut self,
        controller: &ControllerId,
        keys: &[PublicKey],
    ) -> Result<Option<Box<Book>>, KeeperError> {
        let path = self.folder.join(HEAD_FILE);
        let message = match fs::read(&path) {
            Ok(message) => message,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(KeeperError::Io { doing: "read", path, source }),
        };
        let opened = match RosterMessage::open(&message, controller, keys) {
            Ok(RosterMessage::Head(head)) => self.book(head).map(Some),
            Ok(RosterMessage::Chunk(_)) => Err(KeeperError::NotAHead),
            Err(error) => Err(KeeperError::Head(error)),
        };
        if opened.is_err() {
            // It would be found out at every start. Its good chunks stay, until there is another roster.
            let _ = fs::remove_file(&path);
        }
        opened
    }

    /// Reads all chunks into one piece of memory, and checks every one.
    fn book(&mut self, head: RosterHead) -> Result<Box<Book>, KeeperError> {
        let version = head.version;
        let mut bytes = Vec::with_capacity(head.entries as usize * tap_protocol::roster::ENTRY_BYTES);
        for (index, hash) in head.chunks.iter().enumerate() {
            let chunk = self.chunk(hash).ok_or(KeeperError::Chunk { version, index })?;
            bytes.extend_from_slice(&chunk);
        }
        self.in_use = head.chunks.iter().copied().collect();
        let book = Book::new(head, bytes, clock::boottime_ms());
        book.map(Box::new).map_err(|source| KeeperError::Rules { version, source })
    }

    /// The chunk with that hash, if it is there and still has it.
    fn chunk(&self, hash: &[u8; 32]) -> Option<Vec<u8>> {
        let bytes = fs::read(self.folder.join(name(hash))).ok()?;
        (chunk_hash(&bytes) == *hash).then_some(bytes)
    }

    fn look(&mut self, head: &RosterHead) -> BTreeSet<u32> {
        self.keep_only(&head.chunks.iter().copied().chain(self.in_use.iter().copied()).collect());
        let there = (0..).zip(&head.chunks).filter(|(_, hash)| self.chunk(hash).is_some());
        there.map(|(index, _)| index).collect()
    }

    /// Deletes all chunks but these, and what was never finished. What cannot be deleted is tried again the next time.
    fn keep_only(&self, hashes: &BTreeSet<[u8; 32]>) {
        let names: BTreeSet<String> = hashes.iter().map(name).chain([HEAD_FILE.into()]).collect();
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            if entry.file_name().to_str().is_none_or(|name| !names.contains(name)) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// Not forced to the medium yet: [`Keeper::finish`] does that, once for all.
    fn write(&self, hash: &[u8; 32], bytes: &[u8]) -> Result<(), KeeperError> {
        fs::create_dir_all(&self.folder).map_err(self.failed("make", ""))?;
        let name = name(hash);
        fs::write(self.folder.join(&name), bytes).map_err(self.failed("write", &name))
    }

    fn finish(&mut self, head: RosterHead, message: &[u8]) -> Result<Box<Book>, KeeperError> {
        let before = std::mem::take(&mut self.in_use);
        let new: Vec<_> = head.chunks.iter().filter(|hash| !before.contains(*hash)).copied().collect();
        let kept = self.book(head).and_then(|book| {
            fs::create_dir_all(&self.folder).map_err(self.failed("make", ""))?;
            for hash in &new {
                let name = name(hash);
                let synced = File::open(self.folder.join(&name)).and_then(|file| file.sync_all());
                synced.map_err(self.failed("sync", &name))?;
            }
            self.replace(HEAD_FILE, message)?;
            Ok(book)
        });
        match kept {
            Ok(book) => {
                self.keep_only(&self.in_use);
                Ok(book)
            }
            Err(error) => {
                self.in_use = before;
                Err(error)
            }
        }
    }

    /// Puts a file in another's place: after a power cut there is the one or the other.
    fn replace(&self, name: &str, content: &[u8]) -> Result<(), KeeperError> {
        let unfinished = format!("{name}.{UNFINISHED}");
        let path = self.folder.join(&unfinished);
        let write = |path: &Path| {
            let mut file = File::create(path)?;
            file.write_all(content)?;
            file.sync_all()
        };
        write(&path).map_err(self.failed("write", &unfinished))?;
        fs::rename(&path, self.folder.join(name)).map_err(self.failed("replace", name))?;
        let synced = File::open(&self.folder).and_then(|folder| folder.sync_all());
        synced.map_err(self.failed("sync", ""))
    }

    fn failed(&self, doing: &'static str, name: &str) -> impl FnOnce(io::Error) -> KeeperError {
        let path = if name.is_empty() { self.folder.clone() } else { self.folder.join(name) };
        move |source| KeeperError::Io { doing, path, source }
    }
}

fn name(hash: &[u8; 32]) -> String {
    HEXLOWER.encode(hash)
}

#[cfg(test)]
mod tests {
    use tap_protocol::badge::Token;
    use tap_protocol::keys::SigningKey;
    use tap_protocol::limits::ROSTER_CHUNK_ENTRIES;
    use tap_protocol::roster::{ENTRY_BYTES, Standing, entry};
    use tempfile::TempDir;

    use super::*;

    fn door() -> ControllerId {
        "hq-door-1".parse().unwrap()
    }

    fn key() -> SigningKey {
        SigningKey::from_seed(&[5; 32])
    }

    /// A roster of so many badges, the last one revoked.
    fn roster(version: u64, badges: u32) -> (RosterHead, Vec<Vec<u8>>) {
        let standing = |n| if n + 1 == badges { Standing::Revoked } else { Standing::Known };
        let bytes: Vec<u8> = (0..badges).flat_map(|n| entry(token(n), standing(n))).collect();
        let chunks: Vec<Vec<u8>> =
            bytes.chunks(ROSTER_CHUNK_ENTRIES * ENTRY_BYTES).map(<[u8]>::to_vec).collect();
        let hashes = chunks.iter().map(|chunk| chunk_hash(chunk)).collect();
        let head = RosterHead {
            controller: door(),
            version,
            issued_utc_ms: 1,
            expires_utc_ms: 2,
            entries: badges,
            chunks: hashes,
        };
        (head, chunks)
    }

    fn token(n: u32) -> Token {
        let mut token = [0; 16];
        token[..4].copy_from_slice(&n.to_be_bytes());
        Token(token)
    }

    struct Folder(TempDir);

    impl Folder {
        fn new() -> Folder {
            Folder(tempfile::tempdir().unwrap())
        }

        fn keeper(&self) -> Keeper {
            Keeper { folder: self.0.path().join("roster"), in_use: BTreeSet::new() }
        }

        fn kept(&self) -> Result<Option<Box<Book>>, KeeperError> {
            self.keeper().open(&door(), &[key().public()])
        }

        fn files(&self) -> usize {
            fs::read_dir(self.0.path().join("roster")).map_or(0, Iterator::count)
        }

        /// Brings a roster in from its first chunk to its head.
        fn bring(&self, keeper: &mut Keeper, (head, chunks): &(RosterHead, Vec<Vec<u8>>)) -> Box<Book> {
            for (hash, bytes) in head.chunks.iter().zip(chunks) {
                keeper.write(hash, bytes).unwrap();
            }
            let message = RosterMessage::Head(head.clone()).sign(&key());
            keeper.finish(head.clone(), &message).unwrap()
        }
    }

    #[test]
    fn a_roster_is_there_again_after_a_start() {
        let folder = Folder::new();
        assert!(folder.kept().unwrap().is_none(), "there is nothing at first");
        let book = folder.bring(&mut folder.keeper(), &roster(7, 4_000));
        let kept = folder.kept().unwrap().unwrap();
        assert_eq!(kept.head(), book.head());
        let said = [3_998, 3_999, 4_000].map(|n| kept.standing(token(n)));
        assert_eq!(said, [Some(Standing::Known), Some(Standing::Revoked), None]);
    }

    #[test]
    fn a_roster_without_badges_is_a_roster() {
        let folder = Folder::new();
        folder.bring(&mut folder.keeper(), &roster(7, 0));
        assert_eq!(folder.kept().unwrap().unwrap().badges(), 0);
    }

    #[test]
    fn whatever_bit_flips_the_roster_is_dropped_and_all_but_the_damaged_chunk_is_kept() {
        let folder = Folder::new();
        let made = roster(7, 4_000);
        for victim in made.0.chunks.iter().map(name).chain([HEAD_FILE.into()]) {
            folder.bring(&mut folder.keeper(), &made);
            let path = folder.0.path().join("roster").join(&victim);
            let mut bytes = fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(&path, bytes).unwrap();
            let error = folder.kept().unwrap_err();
            let good = folder.keeper().look(&made.0).len();
            match error {
                KeeperError::Chunk { .. } => assert_eq!(good, 2, "{victim}"),
                KeeperError::Head(_) => assert_eq!(good, 3, "{victim}"),
                other => panic!("{other}"),
            }
            assert!(folder.kept().unwrap().is_none(), "it is complained about once");
        }
    }

    #[test]
    fn another_controllers_roster_or_another_clouds_is_dropped() {
        let folder = Folder::new();
        folder.bring(&mut folder.keeper(), &roster(7, 1));
        let other = folder.keeper().open(&"hq-door-2".parse().unwrap(), &[key().public()]);
        assert!(matches!(other, Err(KeeperError::Head(OpenError::WrongController { .. }))), "{other:?}");
        folder.bring(&mut folder.keeper(), &roster(7, 1));
        let stranger = SigningKey::from_seed(&[6; 32]).public();
        let other = folder.keeper().open(&door(), &[stranger]);
        assert!(matches!(other, Err(KeeperError::Head(OpenError::Signature(_)))), "{other:?}");
    }

    #[test]
    fn what_two_rosters_share_is_kept_and_the_rest_goes() {
        let folder = Folder::new();
        let mut keeper = folder.keeper();
        folder.bring(&mut keeper, &roster(7, 4_000));
        // One badge more at the end: the first two chunks are the same.
        let (head, chunks) = roster(8, 4_001);
        assert_eq!(keeper.look(&head), [0, 1].into());
        keeper.write(&head.chunks[2], &chunks[2]).unwrap();
        assert_eq!(folder.files(), 5, "two shared, one each, and the head");
        let message = RosterMessage::Head(head.clone()).sign(&key());
        keeper.finish(head, &message).unwrap();
        assert_eq!(folder.files(), 4);
        assert_eq!(folder.kept().unwrap().unwrap().head().version, 8);
    }

    #[test]
    fn what_was_never_finished_goes_with_the_next_roster_and_leaves_the_old_one() {
        let folder = Folder::new();
        let mut keeper = folder.keeper();
        folder.bring(&mut keeper, &roster(7, 1));
        let (head, chunks) = roster(8, 2);
        keeper.write(&head.chunks[0], &chunks[0]).unwrap();
        fs::write(folder.0.path().join("roster/head.part"), b"half").unwrap();
        keeper.look(&roster(9, 3).0);
        assert_eq!(folder.files(), 2);
        assert_eq!(folder.kept().unwrap().unwrap().head().version, 7);
    }

    #[test]
    fn a_roster_that_cannot_be_finished_leaves_the_one_in_use() {
        let folder = Folder::new();
        let mut keeper = folder.keeper();
        folder.bring(&mut keeper, &roster(7, 1));
        let (head, _) = roster(8, 2);
        let message = RosterMessage::Head(head.clone()).sign(&key());
        let missing = keeper.finish(head, &message);
        assert!(matches!(missing, Err(KeeperError::Chunk { version: 8, index: 0 })), "{missing:?}");
        assert_eq!(keeper.in_use.len(), 1);
        assert_eq!(folder.kept().unwrap().unwrap().head().version, 7);
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_named() {
        let folder = Folder::new();
        fs::write(folder.0.path().join("roster"), b"a file").unwrap();
        let error = folder.keeper().write(&[0; 32], b"").unwrap_err().to_string();
        assert!(error.starts_with("cannot make ") && error.ends_with("/roster"), "{error}");
    }
}
