//! What a medium surely holds, what it perhaps holds, and what is left of it when the power goes. Pure: knows neither
//! SQLite nor who wrote.
//!
//! The model is that of POSIX and of disks with a volatile cache, without the kindness of any one file system:
//! - a write is sure when a sync *of that file* after it returned; until then each of its sectors may have arrived or
//!   not, in any order, also before other files' earlier writes;
//! - a name (a new file, a rename, a deletion) is sure when a sync *of its folder* after it returned;
//! - a write that was under way may leave garbage, but only in the bytes it was writing. SQLite calls that power-safe
//!   overwrite and relies on it, as production does;
//! - a sync that failed leaves the writes before it undecided for ever, even if a later one succeeds: Linux reports
//!   such an error once and takes the pages for clean.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::dice::Dice;

/// What reaches a medium whole or not at all, if it reaches it whole or not at all.
pub const SECTOR_BYTES: usize = 512;

/// Names one file's content, whatever it is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Inode(pub u32);

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// A file.
    File(Inode),
    /// A folder.
    Folder,
}

/// A change that a program asked the medium for.
#[derive(Debug, Clone)]
pub enum Op {
    /// Bytes at a place.
    Write {
        /// Whose.
        inode: Inode,
        /// Where.
        at: usize,
        /// What.
        bytes: Arc<[u8]>,
    },
    /// A new length.
    Truncate {
        /// Whose.
        inode: Inode,
        /// How long.
        len: usize,
    },
    /// Everything that was written to the file before is on the medium.
    Sync {
        /// Which file.
        inode: Inode,
    },
    /// A sync came back with an error.
    SyncFailed {
        /// Which file.
        inode: Inode,
    },
    /// Names that change together: a creation, a deletion, a rename.
    Name(Vec<(PathBuf, Option<Entry>)>),
    /// The names in the folder are on the medium.
    SyncFolder {
        /// Which folder.
        folder: PathBuf,
    },
}

/// The files and folders of a medium at rest: what a boot finds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Image {
    /// What is where.
    pub entries: BTreeMap<PathBuf, Content>,
}

/// What an image holds under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A file's bytes.
    File(Arc<Vec<u8>>),
    /// A folder.
    Folder,
}

impl Image {
    /// With one empty folder.
    pub fn with_folder(folder: impl Into<PathBuf>) -> Image {
        Image { entries: [(folder.into(), Content::Folder)].into() }
    }

    /// A file's bytes.
    pub fn file(&self, path: &Path) -> Option<&Arc<Vec<u8>>> {
        match self.entries.get(path)? {
            Content::File(bytes) => Some(bytes),
            Content::Folder => None,
        }
    }

    /// A file's bytes, to be changed.
    pub fn file_mut(&mut self, path: &Path) -> Option<&mut Vec<u8>> {
        match self.entries.get_mut(path)? {
            Content::File(bytes) => Some(Arc::make_mut(bytes)),
            Content::Folder => None,
        }
    }

    /// All files.
    pub fn files(&self) -> impl Iterator<Item = (&Path, &Arc<Vec<u8>>)> {
        self.entries.iter().filter_map(|(path, content)| match content {
            Content::File(bytes) => Some((path.as_path(), bytes)),
            Content::Folder => None,
        })
    }
}

/// A medium while it is being written.
#[derive(Debug, Clone, Default)]
pub struct Medium {
    names: BTreeMap<PathBuf, Entry>,
    names_undecided: Vec<Vec<(PathBuf, Option<Entry>)>>,
    files: BTreeMap<Inode, OnMedium>,
}

#[derive(Debug, Clone, Default)]
struct OnMedium {
    sure: Arc<Vec<u8>>,
    later: Vec<Later>,
}

#[derive(Debug, Clone)]
struct Later {
    what: Change,
    fate: Fate,
}

#[derive(Debug, Clone)]
enum Change {
    Write { at: usize, bytes: Arc<[u8]> },
    Truncate { len: usize },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// A sync decides it.
    Undecided,
    /// It is on the medium, but an older undecided change must be applied before it.
    Sure,
    /// A sync failed: nothing decides it any more.
    Forsaken,
}

impl Medium {
    /// At rest, as a boot finds it. Files are numbered in the order of their paths, from zero.
    pub fn at_rest(image: &Image) -> Medium {
        let mut medium = Medium::default();
        for (path, content) in &image.entries {
            let entry = match content {
                Content::Folder => Entry::Folder,
                Content::File(bytes) => {
                    let inode = Inode(medium.files.len() as u32);
                    medium.files.insert(inode, OnMedium { sure: bytes.clone(), later: Vec::new() });
                    Entry::File(inode)
                }
            };
            medium.names.insert(path.clone(), entry);
        }
        medium
    }

    /// Takes note of what was asked for.
    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::Write { inode, at, bytes } => {
                self.file(*inode).change(Change::Write { at: *at, bytes: bytes.clone() });
            }
            Op::Truncate { inode, len } => self.file(*inode).change(Change::Truncate { len: *len }),
            Op::Sync { inode } => self.file(*inode).sync(),
            Op::SyncFailed { inode } => self.file(*inode).sync_failed(),
            Op::Name(changes) => self.names_undecided.push(changes.clone()),
            Op::SyncFolder { folder } => self.sync_folder(folder),
        }
    }

    /// The power goes: each undecided change arrived, did not, or arrived in part, as the dice say.
    pub fn cut(&self, dice: &mut Dice) -> Image {
        let temper = Temper::roll(dice);
        let mut names = self.names.clone();
        for changes in &self.names_undecided {
            if temper.arrives(dice) {
                set(&mut names, changes);
            }
        }
        self.image(&names, |file| file.cut(temper, dice))
    }

    /// As if everything arrived: what a process that starts after a kill finds.
    pub fn as_seen(&self) -> Image {
        let mut names = self.names.clone();
        self.names_undecided.iter().for_each(|changes| set(&mut names, changes));
        self.image(&names, |file| file.cut(Temper::AllArrive, &mut Dice::new(0)))
    }

    /// Whether everything that was asked for is sure.
    pub fn is_settled(&self) -> bool {
        self.names_undecided.is_empty() && self.files.values().all(|file| file.later.is_empty())
    }

    fn image(
        &self,
        names: &BTreeMap<PathBuf, Entry>,
        mut content: impl FnMut(&OnMedium) -> Arc<Vec<u8>>,
    ) -> Image {
        let mut image = Image::default();
        for (path, entry) in names {
            // Sorted by path: a folder comes before what is in it. What lies in a lost folder is lost.
            let is_in_place = path.parent().is_none_or(|parent| {
                parent == Path::new("/") || image.entries.get(parent) == Some(&Content::Folder)
            });
            if is_in_place {
                let held = match entry {
                    Entry::Folder => Content::Folder,
                    Entry::File(inode) => {
                        Content::File(self.files.get(inode).map(&mut content).unwrap_or_default())
                    }
                };
                image.entries.insert(path.clone(), held);
            }
        }
        image
    }

    fn file(&mut self, inode: Inode) -> &mut OnMedium {
        self.files.entry(inode).or_default()
    }

    fn sync_folder(&mut self, folder: &Path) {
        // What happens together in several folders is sure when one of them is synced: a rename is one change.
        let (sure, undecided) = std::mem::take(&mut self.names_undecided)
            .into_iter()
            .partition(|changes| changes.iter().any(|(path, _)| path.parent() == Some(folder)));
        self.names_undecided = undecided;
        let sure: Vec<_> = sure;
        sure.iter().for_each(|changes| set(&mut self.names, changes));
    }
}

fn set(names: &mut BTreeMap<PathBuf, Entry>, changes: &[(PathBuf, Option<Entry>)]) {
    for (path, entry) in changes {
        match entry {
            Some(entry) => names.insert(path.clone(), *entry),
            None => names.remove(path),
        };
    }
}

impl OnMedium {
    fn change(&mut self, what: Change) {
        self.later.push(Later { what, fate: Fate::Undecided });
    }

    fn sync(&mut self) {
        for later in &mut self.later {
            if later.fate == Fate::Undecided {
                later.fate = Fate::Sure;
            }
        }
        let settled = self.later.iter().take_while(|later| later.fate == Fate::Sure).count();
        for later in self.later.drain(..settled) {
            later.what.arrive(Arc::make_mut(&mut self.sure));
        }
    }

    fn sync_failed(&mut self) {
        for later in &mut self.later {
            if later.fate == Fate::Undecided {
                later.fate = Fate::Forsaken;
            }
        }
    }

    fn cut(&self, temper: Temper, dice: &mut Dice) -> Arc<Vec<u8>> {
        if self.later.is_empty() {
            return self.sure.clone();
        }
        let mut content = self.sure.to_vec();
        for (n, later) in self.later.iter().enumerate() {
            let is_last = n + 1 == self.later.len();
            let content = &mut content;
            match later.fate {
                Fate::Sure => later.what.arrive(content),
                Fate::Undecided | Fate::Forsaken => match temper {
                    Temper::NoneArrives => {}
                    Temper::AllArrive => later.what.arrive(content),
                    Temper::LastIsTorn if !is_last => later.what.arrive(content),
                    Temper::Whole { .. } if temper.arrives(dice) => later.what.arrive(content),
                    Temper::Whole { .. } => {}
                    Temper::LastIsTorn | Temper::Torn { .. } => {
                        later.what.arrive_torn(content, temper, dice);
                    }
                },
            }
        }
        Arc::new(content)
    }
}

impl Change {
    fn arrive(&self, content: &mut Vec<u8>) {
        match self {
            Change::Write { at, bytes } => put(content, *at, bytes),
            Change::Truncate { len } => content.resize(*len, 0),
        }
    }

    /// Sector by sector: arrived, not, or garbage.
    fn arrive_torn(&self, content: &mut Vec<u8>, temper: Temper, dice: &mut Dice) {
        let Change::Write { at, bytes } = self else {
            if temper.arrives(dice) {
                self.arrive(content);
            }
            return;
        };
        let end = at + bytes.len();
        let mut from = *at;
        while from < end {
            let to = ((from / SECTOR_BYTES + 1) * SECTOR_BYTES).min(end);
            let part = &bytes[from - at..to - at];
            if temper.arrives(dice) {
                put(content, from, part);
            } else if temper.is_garbage(dice) {
                put(content, from, &garbage(part.len(), dice));
            }
            from = to;
        }
    }
}

fn put(content: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    let end = at + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[at..end].copy_from_slice(bytes);
}

/// Zeros, an erased cell's ones, or noise.
fn garbage(len: usize, dice: &mut Dice) -> Vec<u8> {
    match dice.below(3) {
        0 => vec![0; len],
        1 => vec![0xff; len],
        _ => (0..len).map(|_| dice.bits() as u8).collect(),
    }
}

/// How a cut treats what is undecided.
#[derive(Debug, Clone, Copy)]
enum Temper {
    NoneArrives,
    AllArrive,
    /// Everything arrived but the last change of each file, which was under way.
    LastIsTorn,
    /// Each change arrives or does not.
    Whole {
        percent: u64,
    },
    /// Each sector arrives, does not, or becomes garbage.
    Torn {
        percent: u64,
        garbage_percent: u64,
    },
}

impl Temper {
    fn roll(dice: &mut Dice) -> Temper {
        let percent = [10, 50, 90][dice.below(3) as usize];
        match dice.below(8) {
            0 => Temper::NoneArrives,
            1 => Temper::AllArrive,
            2 => Temper::LastIsTorn,
            3 | 4 => Temper::Whole { percent },
            5 => Temper::Torn { percent, garbage_percent: 0 },
            _ => Temper::Torn { percent, garbage_percent: 50 },
        }
    }

    fn arrives(self, dice: &mut Dice) -> bool {
        match self {
            Temper::NoneArrives => false,
            Temper::AllArrive => true,
            Temper::LastIsTorn => dice.percent(50),
            Temper::Whole { percent } | Temper::Torn { percent, .. } => dice.percent(percent),
        }
    }

    fn is_garbage(self, dice: &mut Dice) -> bool {
        match self {
            Temper::Torn { garbage_percent, .. } => dice.percent(garbage_percent),
            Temper::LastIsTorn => dice.percent(50),
            Temper::NoneArrives | Temper::AllArrive | Temper::Whole { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: Inode = Inode(0);

    fn path() -> PathBuf {
        "/data/a".into()
    }

    fn medium(content: &[u8]) -> Medium {
        let mut image = Image::with_folder("/data");
        image.entries.insert(path(), Content::File(Arc::new(content.to_vec())));
        Medium::at_rest(&image)
    }

    fn write(at: usize, bytes: &[u8]) -> Op {
        Op::Write { inode: FILE, at, bytes: bytes.into() }
    }

    /// All contents that 1,000 cuts leave.
    fn outcomes(medium: &Medium) -> std::collections::BTreeSet<Option<Vec<u8>>> {
        let cut = |seed| medium.cut(&mut Dice::new(seed)).file(&path()).map(|bytes| bytes.to_vec());
        (0..1000).map(cut).collect()
    }

    #[test]
    fn what_was_synced_stays_and_what_was_not_may_go() {
        let mut medium = medium(b"old");
        medium.apply(&write(0, b"new"));
        let unsynced = outcomes(&medium);
        assert!(unsynced.contains(&Some(b"old".to_vec())) && unsynced.contains(&Some(b"new".to_vec())));
        assert!(unsynced.len() > 2, "and garbage");
        medium.apply(&Op::Sync { inode: FILE });
        assert_eq!(outcomes(&medium), [Some(b"new".to_vec())].into());
        assert!(medium.is_settled());
    }

    #[test]
    fn a_later_write_may_arrive_without_an_earlier_one() {
        let mut medium = medium(b"..");
        medium.apply(&write(0, b"a"));
        medium.apply(&write(1, b"b"));
        assert!(outcomes(&medium).contains(&Some(b".b".to_vec())));
    }

    #[test]
    fn a_write_tears_at_sectors_and_harms_no_byte_beside_it() {
        let mut medium = medium(&vec![b'o'; 3 * SECTOR_BYTES]);
        medium.apply(&write(100, &vec![b'n'; 2 * SECTOR_BYTES]));
        let outcomes = outcomes(&medium);
        let torn = |content: &[u8]| {
            content[100..SECTOR_BYTES].iter().all(|b| *b == b'n') && content[SECTOR_BYTES] == b'o'
        };
        assert!(
            outcomes.iter().flatten().any(|content| torn(content)),
            "the first sector and not the second"
        );
        for content in outcomes.iter().flatten() {
            assert!(content[..100].iter().chain(&content[100 + 2 * SECTOR_BYTES..]).all(|b| *b == b'o'));
        }
    }

    #[test]
    fn a_failed_sync_forsakes_what_was_before_it_and_not_what_is_written_again() {
        let mut medium = medium(b"old");
        medium.apply(&write(0, b"new"));
        medium.apply(&Op::SyncFailed { inode: FILE });
        medium.apply(&Op::Sync { inode: FILE });
        assert!(outcomes(&medium).contains(&Some(b"old".to_vec())), "the second sync is no proof");
        medium.apply(&write(0, b"new"));
        medium.apply(&Op::Sync { inode: FILE });
        assert_eq!(outcomes(&medium), [Some(b"new".to_vec())].into());
    }

    #[test]
    fn a_name_is_sure_when_its_folder_was_synced() {
        let mut medium = medium(b"old");
        let renamed: PathBuf = "/data/b".into();
        medium.apply(&Op::Name(vec![(path(), None), (renamed.clone(), Some(Entry::File(FILE)))]));
        assert!(outcomes(&medium).contains(&Some(b"old".to_vec())), "under its old name");
        assert!(outcomes(&medium).contains(&None), "under its new name");
        medium.apply(&Op::SyncFolder { folder: "/data".into() });
        assert_eq!(outcomes(&medium), [None].into());
        assert_eq!(medium.cut(&mut Dice::new(0)).file(&renamed).unwrap().as_slice(), b"old");
    }

    #[test]
    fn what_lies_in_a_lost_folder_is_lost() {
        let mut medium = medium(b"old");
        let inner: PathBuf = "/data/in".into();
        medium.apply(&Op::Name(vec![(inner.clone(), Some(Entry::Folder))]));
        medium.apply(&Op::Name(vec![(inner.join("c"), Some(Entry::File(Inode(1))))]));
        medium.apply(&Op::SyncFolder { folder: inner.clone() });
        let lost = (0..100).any(|seed| medium.cut(&mut Dice::new(seed)).file(&inner.join("c")).is_none());
        assert!(lost, "the folder's own name was never synced");
    }
}
