//! Beside the line: old events into files, one range of positions after the other: written, brought to the disk, read back
//! and proved, named, and only then cut out of the store (docs/archive.md). Whatever kills the process in between, all rows
//! are still there, or the file is whole and the store knows of it.

pub mod parts;
mod reading;
mod writing;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use tap_protocol::ids::StoreEpoch;

pub use self::reading::{Contents, Found, NotGood, Segment, file_hash, verify, walk};
pub use self::writing::Progress;
use crate::crash;
use crate::event_store::archive::{Cut, NewSegment, Range};
use crate::event_store::{EventStore, StoreError, UtcMs};

/// Whoever may read a segment reads names and attendance.
const MODE: u32 = 0o600;

/// Why a range was not archived. It is in the store as before.
#[derive(Debug, thiserror::Error)]
pub enum NotArchived {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The disk.
    #[error("cannot write {path}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What was written is not good, or not what is in the store.
    #[error(
        "{path} was written and does not hold: the store keeps the range; run cloud-ingest events verify"
    )]
    NotGood {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: NotGood,
    },
    /// The store has changed meanwhile.
    #[error("the range stays: {0}")]
    Changed(String),
}

/// By whom, when, and where to.
#[derive(Debug, Clone)]
pub struct Deed<'a> {
    /// Where segments are.
    pub folder: &'a Path,
    /// When.
    pub now: UtcMs,
    /// By whom.
    pub by: &'a str,
}

/// The name of a segment's file. A store that was put back from a backup is another life: its segments do not take the names
/// of those before.
pub fn file_name(epoch: StoreEpoch, range: Range) -> String {
    format!("segment-{}-{:012}-{:012}.tapseg.gz", epoch.0, range.from.0, range.to.0)
}

/// Archives one range, which must be the next one. The rows are there until [`remove`].
pub fn archive(
    store: &mut dyn EventStore,
    range: Range,
    deed: &Deed<'_>,
    progress: Progress<'_>,
) -> Result<NewSegment, NotArchived> {
    let epoch = store.store_epoch()?;
    let name = file_name(epoch, range);
    let path = deed.folder.join(&name);
    let draft = deed.folder.join(format!("{name}.partial"));
    let doing = |source| NotArchived::File { path: draft.clone(), source };
    fs::create_dir_all(deed.folder).map_err(doing)?;
    let file =
        File::options().write(true).create(true).truncate(true).mode(MODE).open(&draft).map_err(doing)?;
    let written = writing::write(store, range, epoch, deed, file, progress).map_err(|error| match error {
        writing::Failed::Store(error) => NotArchived::Store(error),
        writing::Failed::File(source) => doing(source),
    })?;
    crash::point("after-segment-draft");
    // What counts is what is on the disk, and whether it proves itself.
    let not_good = |source| NotArchived::NotGood { path: draft.clone(), source };
    let found = verify(&draft).map_err(not_good)?;
    let segment = NewSegment { file: name, bytes: found.bytes, sha256: found.sha256, ..written };
    reading::is_the_same(&found.contents, &segment, epoch).map_err(not_good)?;
    crash::point("after-segment-verified");
    fs::rename(&draft, &path)
        .and_then(|()| File::open(deed.folder)?.sync_all())
        .map_err(|source| NotArchived::File { path: path.clone(), source })?;
    crash::point("after-segment-named");
    match store.archive(&segment)? {
        Cut::Done => {}
        Cut::Changed(what) => {
            // Nobody knows of the file, and what is in it has changed.
            let _ = fs::remove_file(&path);
            return Err(NotArchived::Changed(what));
        }
    }
    crash::point("after-archive-commit");
    Ok(segment)
}

/// Removes the rows of what is archived, some at a time. `others_first` is asked before each try again when others keep a
/// partition busy, and says whether to go on.
pub fn remove(
    store: &mut dyn EventStore,
    others_first: &mut dyn FnMut() -> bool,
) -> Result<bool, StoreError> {
    loop {
        match store.remove_archived() {
            Ok(true) => crash::point("while-removing-archived"),
            Ok(false) => return Ok(true),
            Err(error) if error.is_retryable() => {
                if !others_first() {
                    return Ok(false);
                }
            }
            Err(error) => return Err(error),
        }
    }
}
