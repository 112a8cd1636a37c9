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
}
