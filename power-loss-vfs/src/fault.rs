//! What can be asked to go wrong. Pure.

use std::fmt;
use std::path::Path;

/// The kinds of calls that are counted and can fail. Giving a lock back and closing cannot, as on Linux.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "they are called as what they are")]
pub enum Call {
    Open,
    Read,
    Write,
    Truncate,
    Sync,
    Size,
    Delete,
    Access,
    Lock,
    ShmMap,
    CreateFolder,
    List,
    CreateNew,
    ReadFile,
    Preallocate,
    FreeBytes,
    SyncFile,
    SyncFolder,
    Rename,
}

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    /// The medium reports an error (EIO).
    Error,
    /// The disk is full (ENOSPC). A write may have been done in part.
    Full,
    /// A read gives less than is there.
    ShortRead,
}

impl Trouble {
    /// All.
    pub const ALL: [Trouble; 3] = [Trouble::Error, Trouble::Full, Trouble::ShortRead];

    /// Whether such a call can fail so.
    pub fn befalls(self, call: Call) -> bool {
        match self {
            Trouble::Error => true,
            Trouble::Full => matches!(
                call,
                Call::Write
                    | Call::Open
                    | Call::Sync
                    | Call::SyncFile
                    | Call::ShmMap
                    | Call::CreateFolder
                    | Call::CreateNew
                    | Call::Preallocate
                    | Call::Rename
                    | Call::SyncFolder
            ),
            Trouble::ShortRead => call == Call::Read,
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Trouble::Error => "i/o error",
            Trouble::Full => "disk full",
            Trouble::ShortRead => "short read",
        })
    }
}

/// From which call on what goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// The first call that fails, counted from the last boot, from zero.
    pub at: u64,
    /// How.
    pub trouble: Trouble,
    /// All that it befalls after it fail too, until the fault is taken away.
    pub sticky: bool,
}

impl Fault {
    pub(crate) fn strikes(self, n: u64, call: Call) -> Option<Trouble> {
        let is_time = n == self.at || (self.sticky && n > self.at);
        (is_time && self.trouble.befalls(call)).then_some(self.trouble)
    }
}

/// A medium or a program that says it synced and did not: what a proof must notice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lie {
    /// Folders are never synced.
    FolderSyncs,
    /// Files whose names end in this are never synced.
    FileSyncs {
        /// The end of the name.
        suffix: &'static str,
    },
}

impl Lie {
    pub(crate) fn is_about_file(&self, path: &Path) -> bool {
        match self {
            Lie::FolderSyncs => false,
            Lie::FileSyncs { suffix } => path.as_os_str().to_string_lossy().ends_with(suffix),
        }
    }
}
