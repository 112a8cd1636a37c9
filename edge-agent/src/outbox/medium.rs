//! Where outbox files live. [`Disk`] is the real one. The proofs put one in memory in its place that tears writes, runs
//! full and loses power, so that exactly the calls that production makes are the ones that fail there.
//!
//! Everything that an outbox does to the file system beside SQLite goes through [`Medium`], and SQLite through the
//! VFS that it names.

use std::fmt::Debug;
use std::io::{self, Read, Seek};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::{Connection, OpenFlags};

/// A file system for outboxes.
pub trait Medium: Debug + Send + Sync {
    /// The SQLite VFS to open databases with; SQLite's own if none.
    fn vfs(&self) -> Option<&str>;

    /// Makes one folder. An error if it is there, or if the one above it is not.
    fn create_folder(&self, folder: &Path) -> io::Result<()>;

    /// The files in a folder, in any order.
    fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>>;

    /// Makes an empty file that only its owner can read; fails if it is there.
    fn create_new(&self, file: &Path) -> io::Result<()>;

    /// Brings a file's content to the medium.
    fn sync_file(&self, file: &Path) -> io::Result<()>;

    /// Gives a file another name in the same folder.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Brings the names in a folder to the medium.
    fn sync_folder(&self, folder: &Path) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, file: &Path) -> io::Result<()>;

    /// How long a file is, bytes.
    fn size(&self, file: &Path) -> io::Result<u64>;

    /// Up to `len` bytes from `offset` on; fewer at the file's end, and none behind it.
    fn read_at(&self, file: &Path, offset: u64, len: usize) -> io::Result<Vec<u8>>;

    /// Makes a file of zeroes that takes up its space from now on; an error, and no file, if there is not so much.
    fn preallocate(&self, file: &Path, bytes: u64) -> io::Result<()>;

    /// Bytes that can still be written to the file system of a folder.
    fn free_bytes(&self, folder: &Path) -> io::Result<u64>;
}

/// The real file system.
#[derive(Debug, Clone, Copy, Default)]
pub struct Disk;

impl Disk {
    /// Shared, as a shelf wants it.
    pub fn shared() -> Arc<dyn Medium> {
        Arc::new(Disk)
    }
}

impl Medium for Disk {
    fn vfs(&self) -> Option<&str> {
        None
    }

    fn create_folder(&self, folder: &Path) -> io::Result<()> {
        std::fs::create_dir(folder)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect()
    }

    fn create_new(&self, file: &Path) -> io::Result<()> {
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(file).map(drop)
    }

    fn sync_file(&self, file: &Path) -> io::Result<()> {
        std::fs::File::open(file)?.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        std::fs::File::open(folder)?.sync_all()
    }

    fn remove(&self, file: &Path) -> io::Result<()> {
        std::fs::remove_file(file)
    }

    fn size(&self, file: &Path) -> io::Result<u64> {
        Ok(std::fs::metadata(file)?.len())
    }

    fn read_at(&self, file: &Path, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(file)?;
        file.seek(io::SeekFrom::Start(offset))?;
        let mut bytes = Vec::with_capacity(len);
        file.take(len as u64).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn preallocate(&self, path: &Path, bytes: u64) -> io::Result<()> {
        let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        let made = match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes) {
            // A file system that cannot promise space gets real bytes.
            Err(rustix::io::Errno::OPNOTSUPP) => {
                io::copy(&mut io::repeat(0).take(bytes), &mut &file).and_then(|_| file.sync_all())
            }
            other => other.map_err(io::Error::from),
        };
        made.inspect_err(|_| drop(std::fs::remove_file(path)))
    }

    fn free_bytes(&self, folder: &Path) -> io::Result<u64> {
        let found = rustix::fs::statvfs(folder)?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }
}

/// Makes a folder and those above it, unless it is there, and brings their names to the medium: a folder whose name a
/// power cut takes is gone with everything in it.
pub(super) fn make_folder(medium: &dyn Medium, folder: &Path) -> io::Result<()> {
    let made = medium.create_folder(folder).or_else(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            make_folder(medium, parent(folder))?;
            medium.create_folder(folder)
        }
        _ => Err(error),
    });
    match made {
        Ok(()) => medium.sync_folder(parent(folder)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// The folder that a name is in.
pub(super) fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Opens a database that is there.
pub(super) fn open(medium: &dyn Medium, path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    match medium.vfs() {
        None => Connection::open_with_flags(path, flags),
        Some(vfs) => Connection::open_with_flags_and_vfs(path, flags, vfs),
    }
}
