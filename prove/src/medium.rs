//! The outbox's file system, in memory: hands each call on to the disk that loses power.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use edge_agent::outbox::medium::Medium;
use power_loss_vfs::Disk;

/// A [`Disk`] where an outbox expects its file system.
#[derive(Debug, Clone)]
pub struct InMemory(pub Arc<Disk>);

impl Medium for InMemory {
    fn vfs(&self) -> Option<&str> {
        Some(self.0.vfs_name())
    }

    fn create_folder(&self, folder: &Path) -> io::Result<()> {
        self.0.create_folder(folder)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        self.0.list(folder)
    }

    fn create_new(&self, file: &Path) -> io::Result<()> {
        self.0.create_new(file)
    }

    fn sync_file(&self, file: &Path) -> io::Result<()> {
        self.0.sync_file(file)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        self.0.sync_folder(folder)
    }

    fn remove(&self, file: &Path) -> io::Result<()> {
        self.0.remove(file)
    }

    fn size(&self, file: &Path) -> io::Result<u64> {
        self.0.size(file).map(|bytes| bytes as u64)
    }

    fn read_at(&self, file: &Path, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        self.0.read_at(file, offset as usize, len)
    }

    fn preallocate(&self, file: &Path, bytes: u64) -> io::Result<()> {
        self.0.preallocate(file, bytes as usize)
    }

    fn free_bytes(&self, _folder: &Path) -> io::Result<u64> {
        self.0.free_bytes().map(|bytes| bytes as u64)
    }
}
