//! A running machine's view of its disk: names, contents, open files, locks, and the faults that were asked for. Safe
//! code; `vfs.rs` lends it to SQLite.
//!
//! It behaves as SQLite's own VFS does on Linux, down to when a folder is synced, so that what is proved here is what
//! production does.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use crate::fault::{Call, Fault, Lie, Trouble};
use crate::medium::{Content, Entry, Image, Inode, Medium, Op};

/// What went wrong with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// As the fault plan says.
    Fault(Trouble),
    /// No such file or folder.
    NotFound,
    /// The name is taken.
    Exists,
    /// Another connection holds it.
    Busy,
    /// The machine that opened this file is off.
    Off,
}

impl From<Failure> for io::Error {
    fn from(failure: Failure) -> io::Error {
        match failure {
            Failure::NotFound => io::ErrorKind::NotFound.into(),
            Failure::Exists => io::ErrorKind::AlreadyExists.into(),
            Failure::Fault(Trouble::Full) => io::ErrorKind::StorageFull.into(),
            Failure::Fault(trouble) => io::Error::other(trouble.to_string()),
            Failure::Busy | Failure::Off => io::Error::other("the machine is off"),
        }
    }
}

/// How far a connection has locked a database, as SQLite counts it.
pub(crate) type LockLevel = i32;
pub(crate) const UNLOCKED: LockLevel = 0;
pub(crate) const SHARED: LockLevel = 1;
pub(crate) const RESERVED: LockLevel = 2;
pub(crate) const PENDING: LockLevel = 3;
pub(crate) const EXCLUSIVE: LockLevel = 4;

/// A piece of a WAL's index, shared by all connections. SQLite writes it through a pointer; nobody here looks at it.
pub(crate) type Region = Arc<[AtomicU64]>;

/// What a disk without a limit says is free.
const PLENTY: usize = 1 << 40;

/// Locks on a WAL's index: as many slots as SQLite has.
pub(crate) const SHM_LOCKS: usize = 8;

#[derive(Debug)]
struct Handle {
    inode: Inode,
    path: PathBuf,
    /// The first sync also brings the file's name to the medium, as for journals and logs on Linux.
    syncs_its_folder: bool,
    lock: LockLevel,
    shm: Option<ShmHold>,
    deletes_on_close: bool,
}

/// What one connection has of a WAL's index.
#[derive(Debug, Default)]
struct ShmHold {
    regions: Vec<Region>,
    shared: [bool; SHM_LOCKS],
    exclusive: [bool; SHM_LOCKS],
}

/// How a file is to be opened.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Opening {
    pub create: bool,
    pub exclusive: bool,
    pub is_journal: bool,
    pub delete_on_close: bool,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    names: BTreeMap<PathBuf, Entry>,
    contents: BTreeMap<Inode, Arc<Vec<u8>>>,
    next_inode: u32,
    handles: BTreeMap<u64, Handle>,
    /// Of machines that are off: SQLite may still look at what it mapped.
    stale: BTreeMap<u64, Handle>,
    next_handle: u64,
    start: Image,
    ops: Vec<Op>,
    calls: u64,
    trace: Option<Vec<Call>>,
    fault: Option<Fault>,
    lies: Vec<Lie>,
    capacity: Option<usize>,
}

type Outcome<T> = Result<T, Failure>;

impl State {
    /// Boots from `image`. Files that are open belong to the machine before and work no more.
    pub fn boot(&mut self, image: &Image) {
        self.kill();
        self.names.clear();
        self.contents.clear();
        for (path, content) in &image.entries {
            let entry = match content {
                Content::Folder => Entry::Folder,
                // The same numbers as in `Medium::at_rest`.
                Content::File(bytes) => {
                    let inode = Inode(self.contents.len() as u32);
                    self.contents.insert(inode, bytes.clone());
                    Entry::File(inode)
                }
            };
            self.names.insert(path.clone(), entry);
        }
        self.next_inode = self.contents.len() as u32;
        self.start = image.clone();
        self.ops.clear();
        self.calls = 0;
        self.trace = None;
        self.fault = None;
        self.lies.clear();
        self.capacity = None;
    }

    /// The process ends: what it had open works no more.
    pub fn kill(&mut self) {
        self.stale.append(&mut self.handles);
    }

    /// What the running machine sees.
    pub fn seen(&self) -> Image {
        let held = |entry: &Entry| match entry {
            Entry::Folder => Content::Folder,
            Entry::File(inode) => Content::File(self.contents[inode].clone()),
        };
        Image { entries: self.names.iter().map(|(path, entry)| (path.clone(), held(entry))).collect() }
    }

    /// What the medium surely and perhaps holds now.
    pub fn medium(&self) -> Medium {
        let mut medium = Medium::at_rest(&self.start);
        self.ops.iter().for_each(|op| medium.apply(op));
        medium
    }

    pub fn recording(&self) -> (Image, Vec<Op>) {
        (self.start.clone(), self.ops.clone())
    }

    pub fn position(&self) -> usize {
        self.ops.len()
    }

    pub fn calls(&self) -> u64 {
        self.calls
    }

    pub fn start_trace(&mut self) {
        self.trace = Some(Vec::new());
    }

    pub fn trace(&self) -> Vec<Call> {
        self.trace.clone().unwrap_or_default()
    }

    pub fn set_fault(&mut self, fault: Option<Fault>) {
        self.fault = fault;
    }

    pub fn lie(&mut self, lie: Lie) {
        self.lies.push(lie);
    }

    // --- files, as the outbox uses them beside SQLite --------------------------------------------------------------

    pub fn create_folder(&mut self, folder: &Path) -> Outcome<()> {
        self.admit(Call::CreateFolder)?;
        self.expect_parent(folder)?;
        if self.names.contains_key(folder) {
            return Err(Failure::Exists);
        }
        self.name(vec![(folder.to_owned(), Some(Entry::Folder))]);
        Ok(())
    }

    pub fn list(&mut self, folder: &Path) -> Outcome<Vec<PathBuf>> {
        self.admit(Call::List)?;
        if self.names.get(folder) != Some(&Entry::Folder) {
            return Err(Failure::NotFound);
        }
        Ok(self.names.keys().filter(|path| path.parent() == Some(folder)).cloned().collect())
    }

    pub fn create_new(&mut self, path: &Path) -> Outcome<()> {
        self.admit(Call::CreateNew)?;
        if self.names.contains_key(path) {
            return Err(Failure::Exists);
        }
        self.new_file(path).map(drop)
    }

    pub fn file_size(&mut self, path: &Path) -> Outcome<usize> {
        self.admit(Call::Size)?;
        let inode = self.inode(path)?;
        Ok(self.contents[&inode].len())
    }

    /// Up to `len` bytes; fewer at the end.
    pub fn read_at(&mut self, path: &Path, at: usize, len: usize) -> Outcome<Vec<u8>> {
        self.admit(Call::ReadFile)?;
        let inode = self.inode(path)?;
        let rest = self.contents[&inode].get(at..).unwrap_or_default();
        Ok(rest[..rest.len().min(len)].to_vec())
    }

    /// A new file of zeros that takes up its space.
    pub fn preallocate(&mut self, path: &Path, len: usize) -> Outcome<()> {
        self.admit(Call::Preallocate)?;
        if self.names.contains_key(path) {
            return Err(Failure::Exists);
        }
        self.expect_room(len)?;
        let inode = self.new_file(path)?;
        self.contents.insert(inode, Arc::new(vec![0; len]));
        self.ops.push(Op::Truncate { inode, len });
        Ok(())
    }

    pub fn free_bytes(&mut self) -> Outcome<usize> {
        self.admit(Call::FreeBytes)?;
        let free = self.capacity.map(|capacity| capacity.saturating_sub(self.used_bytes()));
        Ok(free.unwrap_or(PLENTY))
    }

    pub fn set_capacity(&mut self, capacity: Option<usize>) {
        self.capacity = capacity;
    }

    pub fn sync_file(&mut self, path: &Path) -> Outcome<()> {
        let admitted = self.admit(Call::SyncFile);
        let inode = self.inode(path)?;
        self.sync_inode(inode, path, admitted)
    }

    pub fn sync_folder(&mut self, folder: &Path) -> Outcome<()> {
        self.admit(Call::SyncFolder)?;
        if !self.is_folder(folder) {
            return Err(Failure::NotFound);
        }
        self.do_sync_folder(folder);
        Ok(())
    }

    pub fn rename(&mut self, from: &Path, to: &Path) -> Outcome<()> {
        self.admit(Call::Rename)?;
        let inode = self.inode(from)?;
        self.expect_parent(to)?;
        self.name(vec![(from.to_owned(), None), (to.to_owned(), Some(Entry::File(inode)))]);
        Ok(())
    }

    pub fn remove(&mut self, path: &Path) -> Outcome<()> {
        self.admit(Call::Delete)?;
        self.inode(path)?;
        self.name(vec![(path.to_owned(), None)]);
        Ok(())
    }

    // --- files, as SQLite uses them ----------------------------------------------------------------------------------

    /// `None` opens a nameless temporary file.
    pub fn open(&mut self, path: Option<&Path>, opening: Opening) -> Outcome<u64> {
        self.admit(Call::Open)?;
        let (inode, path) = match path {
            None => (self.new_inode(), PathBuf::new()),
            Some(path) => {
                let inode = match self.inode(path) {
                    Ok(_) if opening.create && opening.exclusive => return Err(Failure::Exists),
                    Ok(inode) => inode,
                    Err(_) if opening.create => self.new_file(path)?,
                    Err(failure) => return Err(failure),
                };
                (inode, path.to_owned())
            }
        };
        let handle = Handle {
            inode,
            path,
            syncs_its_folder: opening.create && opening.is_journal,
            lock: UNLOCKED,
            shm: None,
            deletes_on_close: opening.delete_on_close,
        };
        self.next_handle += 1;
        self.handles.insert(self.next_handle, handle);
        Ok(self.next_handle)
    }

    /// Never fails: a kernel closes whatever happens.
    pub fn close(&mut self, id: u64) {
        self.stale.remove(&id);
        if let Some(handle) = self.handles.remove(&id)
            && handle.deletes_on_close
            && self.names.contains_key(&handle.path)
        {
            self.name(vec![(handle.path, None)]);
        }
    }

    /// Fills `into`; says how much was there. The rest is zeros.
    pub fn read(&mut self, id: u64, into: &mut [u8], at: usize) -> Outcome<usize> {
        let admitted = self.admit(Call::Read);
        let inode = self.handle(id)?.inode;
        into.fill(0);
        let content = self.contents[&inode].get(at..).unwrap_or_default();
        let mut there = content.len().min(into.len());
        match admitted {
            Ok(()) => {}
            Err(Failure::Fault(Trouble::ShortRead)) => there /= 2,
            Err(failure) => return Err(failure),
        }
        into[..there].copy_from_slice(&content[..there]);
        Ok(there)
    }

    pub fn write(&mut self, id: u64, bytes: &[u8], at: usize) -> Outcome<()> {
        let inode = self.handle(id)?.inode;
        let grows_by = (at + bytes.len()).saturating_sub(self.contents[&inode].len());
        let admitted = self.admit(Call::Write).and_then(|()| self.expect_room(grows_by));
        // A write that fails may have been done in part: the worst part is half of it.
        let done = if admitted.is_ok() { bytes } else { &bytes[..bytes.len() / 2] };
        if !done.is_empty() {
            let content = Arc::make_mut(self.contents.entry(inode).or_default());
            if content.len() < at + done.len() {
                content.resize(at + done.len(), 0);
            }
            content[at..at + done.len()].copy_from_slice(done);
            self.ops.push(Op::Write { inode, at, bytes: done.into() });
        }
        admitted
    }

    pub fn truncate(&mut self, id: u64, len: usize) -> Outcome<()> {
        self.admit(Call::Truncate)?;
        let inode = self.handle(id)?.inode;
        Arc::make_mut(self.contents.entry(inode).or_default()).resize(len, 0);
        self.ops.push(Op::Truncate { inode, len });
        Ok(())
    }

    pub fn sync(&mut self, id: u64) -> Outcome<()> {
        let admitted = self.admit(Call::Sync);
        let handle = self.handle(id)?;
        let (inode, path) = (handle.inode, handle.path.clone());
        let syncs_its_folder = handle.syncs_its_folder;
        self.sync_inode(inode, &path, admitted)?;
        if syncs_its_folder && let Some(folder) = path.parent() {
            self.do_sync_folder(folder);
            self.handle(id)?.syncs_its_folder = false;
        }
        Ok(())
    }

    pub fn size(&mut self, id: u64) -> Outcome<usize> {
        self.admit(Call::Size)?;
        let inode = self.handle(id)?.inode;
        Ok(self.contents[&inode].len())
    }

    pub fn delete(&mut self, path: &Path, then_sync_folder: bool) -> Outcome<()> {
        self.remove(path)?;
        if then_sync_folder && let Some(folder) = path.parent() {
            self.do_sync_folder(folder);
        }
        Ok(())
    }

    /// As on Linux: to SQLite an empty file does not exist.
    pub fn exists(&mut self, path: &Path, may_be_empty: bool) -> Outcome<bool> {
        self.admit(Call::Access)?;
        let inode = self.inode(path).ok();
        Ok(inode.is_some_and(|inode| may_be_empty || !self.contents[&inode].is_empty()))
    }

    pub fn lock(&mut self, id: u64, level: LockLevel) -> Outcome<()> {
        let (inode, own) = self.handle(id).map(|handle| (handle.inode, handle.lock))?;
        if own >= level {
            return Ok(());
        }
        self.admit(Call::Lock)?;
        let others = self.handles.iter().filter(|(other, handle)| **other != id && handle.inode == inode);
        let highest = others.map(|(_, handle)| handle.lock).max().unwrap_or(UNLOCKED);
        let granted = match level {
            SHARED if highest < PENDING => Ok(SHARED),
            RESERVED if highest < RESERVED => Ok(RESERVED),
            EXCLUSIVE if highest == UNLOCKED => Ok(EXCLUSIVE),
            // Nobody new comes in; those who read may finish.
            EXCLUSIVE if highest == SHARED => Err(PENDING),
            _ => Err(own),
        };
        let (Ok(now) | Err(now)) = granted;
        self.handle(id)?.lock = now;
        granted.map(drop).map_err(|_| Failure::Busy)
    }

    pub fn unlock(&mut self, id: u64, level: LockLevel) -> Outcome<()> {
        let handle = self.handle(id)?;
        handle.lock = handle.lock.min(level);
        Ok(())
    }

    pub fn is_reserved(&mut self, id: u64) -> Outcome<bool> {
        self.admit(Call::Lock)?;
        let inode = self.handle(id)?.inode;
        Ok(self.handles.values().any(|handle| handle.inode == inode && handle.lock >= RESERVED))
    }

    /// The WAL index's region `n`, made if it is not there and `extend` says so.
    pub fn shm_region(
        &mut self,
        id: u64,
        n: usize,
        bytes: usize,
        extend: bool,
    ) -> Outcome<Option<*const AtomicU64>> {
        self.admit(Call::ShmMap)?;
        let inode = self.handle(id)?.inode;
        let of_others = self.handles.values().filter(|handle| handle.inode == inode);
        let mut known: Vec<Region> = of_others
            .filter_map(|handle| handle.shm.as_ref())
            .map(|shm| shm.regions.clone())
            .max_by_key(Vec::len)
            .unwrap_or_default();
        if known.len() <= n && !extend {
            self.handle(id)?.shm.get_or_insert_default();
            return Ok(None);
        }
        while known.len() <= n {
            known.push((0..bytes.div_ceil(8)).map(|_| AtomicU64::new(0)).collect());
        }
        let region = known[n].as_ptr();
        self.handle(id)?.shm.get_or_insert_default().regions = known;
        Ok(Some(region))
    }

    /// Takes or gives back slots of the WAL index's locks. As on Linux, giving back does not fail.
    pub fn shm_lock(
        &mut self,
        id: u64,
        slots: std::ops::Range<usize>,
        exclusive: bool,
        take: bool,
    ) -> Outcome<()> {
        let inode = self.handle(id)?.inode;
        let others = self.handles.iter().filter(|(other, handle)| **other != id && handle.inode == inode);
        let is_free = others.filter_map(|(_, handle)| handle.shm.as_ref()).all(|other| {
            slots.clone().all(|slot| !(other.exclusive[slot] || exclusive && other.shared[slot]))
        });
        if take && !is_free {
            return Err(Failure::Busy);
        }
        let shm = self.handle(id)?.shm.get_or_insert_default();
        let held = if exclusive { &mut shm.exclusive } else { &mut shm.shared };
        held[slots].fill(take);
        Ok(())
    }

    pub fn shm_unmap(&mut self, id: u64) {
        for handles in [&mut self.handles, &mut self.stale] {
            if let Some(handle) = handles.get_mut(&id) {
                handle.shm = None;
            }
        }
    }

    // --- parts -------------------------------------------------------------------------------------------------------

    /// Counts a call and lets the fault plan speak.
    fn admit(&mut self, call: Call) -> Outcome<()> {
        let n = self.calls;
        self.calls += 1;
        if let Some(trace) = &mut self.trace {
            trace.push(call);
        }
        match self.fault.and_then(|fault| fault.strikes(n, call)) {
            Some(trouble) => Err(Failure::Fault(trouble)),
            None => Ok(()),
        }
    }

    fn handle(&mut self, id: u64) -> Outcome<&mut Handle> {
        self.handles.get_mut(&id).ok_or(Failure::Off)
    }

    fn inode(&self, path: &Path) -> Outcome<Inode> {
        match self.names.get(path) {
            Some(Entry::File(inode)) => Ok(*inode),
            _ => Err(Failure::NotFound),
        }
    }

    fn is_folder(&self, path: &Path) -> bool {
        path == Path::new("/") || self.names.get(path) == Some(&Entry::Folder)
    }

    fn expect_parent(&self, path: &Path) -> Outcome<()> {
        if path.parent().is_some_and(|parent| self.is_folder(parent)) {
            Ok(())
        } else {
            Err(Failure::NotFound)
        }
    }

    /// A full disk can still be written where it was written before.
    fn expect_room(&self, grows_by: usize) -> Outcome<()> {
        match self.capacity {
            Some(capacity) if grows_by > 0 && self.used_bytes() + grows_by > capacity => {
                Err(Failure::Fault(Trouble::Full))
            }
            _ => Ok(()),
        }
    }

    fn used_bytes(&self) -> usize {
        let named = self.names.values().filter_map(|entry| match entry {
            Entry::File(inode) => self.contents.get(inode),
            Entry::Folder => None,
        });
        named.map(|content| content.len()).sum()
    }

    fn new_file(&mut self, path: &Path) -> Outcome<Inode> {
        self.expect_parent(path)?;
        let inode = self.new_inode();
        self.name(vec![(path.to_owned(), Some(Entry::File(inode)))]);
        Ok(inode)
    }

    fn new_inode(&mut self) -> Inode {
        let inode = Inode(self.next_inode);
        self.next_inode += 1;
        self.contents.insert(inode, Arc::default());
        inode
    }

    fn name(&mut self, changes: Vec<(PathBuf, Option<Entry>)>) {
        for (path, entry) in &changes {
            match entry {
                Some(entry) => self.names.insert(path.clone(), *entry),
                None => self.names.remove(path),
            };
        }
        self.ops.push(Op::Name(changes));
    }

    fn sync_inode(&mut self, inode: Inode, path: &Path, admitted: Outcome<()>) -> Outcome<()> {
        let is_lie = self.lies.iter().any(|lie| lie.is_about_file(path));
        match admitted {
            Ok(()) if is_lie => {}
            Ok(()) => self.ops.push(Op::Sync { inode }),
            Err(_) => self.ops.push(Op::SyncFailed { inode }),
        }
        admitted
    }

    fn do_sync_folder(&mut self, folder: &Path) {
        if !self.lies.contains(&Lie::FolderSyncs) {
            self.ops.push(Op::SyncFolder { folder: folder.to_owned() });
        }
    }
}
