//! A disk in memory under SQLite, for proofs: it records every write, sync and name, fails at the call it is told to,
//! and loses power. What is left then is what a real disk may leave: synced bytes, and of the rest whatever the seed
//! says. Never shipped: only tests and proofs may depend on it.
//!
//! `medium.rs` is the model of what a medium holds, `state.rs` the running machine's view of it, and `vfs.rs`, the only
//! file of Tapline with `unsafe`, lends that to SQLite.

mod dice;
mod fault;
mod medium;
mod state;
mod vfs;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::MutexGuard;

pub use dice::Dice;
pub use fault::{Call, Fault, Lie, Trouble};
pub use medium::{Content, Entry, Image, Inode, Medium, Op, SECTOR_BYTES};
use state::State;
pub use vfs::make_salts_repeat;

/// A disk in a machine that runs. Registered with SQLite under a name of its own while it lives.
#[derive(Debug)]
pub struct Disk {
    vfs: vfs::Registration,
}

impl Disk {
    /// Boots a machine from `image`.
    pub fn boot(image: &Image) -> Disk {
        let disk = Disk { vfs: vfs::Registration::new() };
        disk.reboot(image);
        disk
    }

    /// What to tell SQLite.
    pub fn vfs_name(&self) -> &str {
        self.vfs.name()
    }

    /// Boots again from `image`, without faults and lies. Connections that are still open belong to the machine before:
    /// whatever they ask for fails.
    pub fn reboot(&self, image: &Image) {
        self.state().boot(image);
    }

    /// Ends the process that uses the disk, and not the machine: nothing is synced and nothing is lost, but whatever is
    /// open works no more.
    pub fn kill(&self) {
        self.state().kill();
    }

    /// What the running machine sees: what a process finds that starts after a kill.
    pub fn seen(&self) -> Image {
        self.state().seen()
    }

    /// What the medium surely and perhaps holds now.
    pub fn medium(&self) -> Medium {
        self.state().medium()
    }

    /// What was found at the boot, and all changes since.
    pub fn recording(&self) -> (Image, Vec<Op>) {
        self.state().recording()
    }

    /// How many changes since the boot.
    pub fn position(&self) -> usize {
        self.state().position()
    }

    /// How many calls since the boot.
    pub fn calls(&self) -> u64 {
        self.state().calls()
    }

    /// Notes the kind of each call from here to the next boot. To be called right after a boot.
    pub fn start_trace(&self) {
        self.state().start_trace();
    }

    /// The kinds of calls since the boot.
    pub fn trace(&self) -> Vec<Call> {
        self.state().trace()
    }

    /// Lets calls fail from now on, or no more.
    pub fn set_fault(&self, fault: Option<Fault>) {
        self.state().set_fault(fault);
    }

    /// Lets the disk lie until the next boot.
    pub fn lie(&self, lie: Lie) {
        self.state().lie(lie);
    }

    /// Makes one folder; its parent must be there.
    pub fn create_folder(&self, folder: &Path) -> io::Result<()> {
        Ok(self.state().create_folder(folder)?)
    }

    /// The files and folders in a folder.
    pub fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        Ok(self.state().list(folder)?)
    }

    /// Makes an empty file; fails if the name is taken.
    pub fn create_new(&self, path: &Path) -> io::Result<()> {
        Ok(self.state().create_new(path)?)
    }

    /// How long a file is.
    pub fn size(&self, path: &Path) -> io::Result<usize> {
        Ok(self.state().file_size(path)?)
    }

    /// Up to `len` bytes from `at` on; fewer at the end.
    pub fn read_at(&self, path: &Path, at: usize, len: usize) -> io::Result<Vec<u8>> {
        Ok(self.state().read_at(path, at, len)?)
    }

    /// Makes a file of zeros; an error, and no file, if there is not so much room.
    pub fn preallocate(&self, path: &Path, len: usize) -> io::Result<()> {
        Ok(self.state().preallocate(path, len)?)
    }

    /// What is left of the capacity.
    pub fn free_bytes(&self) -> io::Result<usize> {
        Ok(self.state().free_bytes()?)
    }

    /// Holds so many bytes from now on, until the next boot; without a limit if none.
    pub fn set_capacity(&self, bytes: Option<usize>) {
        self.state().set_capacity(bytes);
    }

    /// Brings a file's content to the medium.
    pub fn sync_file(&self, path: &Path) -> io::Result<()> {
        Ok(self.state().sync_file(path)?)
    }

    /// Brings the names in a folder to the medium.
    pub fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        Ok(self.state().sync_folder(folder)?)
    }

    /// Gives a file another name, in place of whatever had it.
    pub fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        Ok(self.state().rename(from, to)?)
    }

    /// Deletes a file.
    pub fn remove(&self, path: &Path) -> io::Result<()> {
        Ok(self.state().remove(path)?)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.vfs.state()
    }
}
