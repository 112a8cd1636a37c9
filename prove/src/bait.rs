//! Planted bugs: a proof that does not catch them proves nothing. None of them is in the product; each is in what is
//! under it or in who counts.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use power_loss_vfs::{Disk, Lie};
use rusqlite::{Connection, OpenFlags, params};
use tap_protocol::chain::ChainHash;

use crate::promise::Event;
use crate::scenario::Scenario;
use crate::script::{Act, Actor, FOLDER, Tape, empty, prepare};

/// A bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bait {
    /// Commits return before the log is on the medium.
    SynchronousNormal,
    /// A record counts as accepted before its commit.
    GreenBeforeCommit,
    /// New and renamed files' names never reach the medium.
    FolderNotSynced,
    /// A new outbox gets its name before its content is on the medium.
    RenameBeforeSync,
    /// The medium says it wrote and did not: a file system mounted `nobarrier`.
    SyncIgnored,
}

impl Bait {
    /// All.
    pub const ALL: [Bait; 5] = [
        Bait::SynchronousNormal,
        Bait::GreenBeforeCommit,
        Bait::FolderNotSynced,
        Bait::RenameBeforeSync,
        Bait::SyncIgnored,
    ];

    /// A tape with the bug in it, of the scenario that it does harm in.
    pub fn tape(self) -> Tape {
        let scenario = |name| Scenario::named(name).expect("in the list");
        match self {
            Bait::SynchronousNormal => tape_of_sql("normal"),
            Bait::GreenBeforeCommit | Bait::SyncIgnored => scenario("append").tape_with(self),
            Bait::FolderNotSynced | Bait::RenameBeforeSync => scenario("first-open").tape_with(self),
        }
    }

    pub(crate) fn lie(self) -> Option<Lie> {
        match self {
            Bait::SynchronousNormal | Bait::GreenBeforeCommit => None,
            Bait::FolderNotSynced => Some(Lie::FolderSyncs),
            Bait::RenameBeforeSync => Some(Lie::FileSyncs { suffix: ".draft" }),
            Bait::SyncIgnored => Some(Lie::FileSyncs { suffix: "" }),
        }
    }
}

impl fmt::Display for Bait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Bait::SynchronousNormal => "synchronous=NORMAL",
            Bait::GreenBeforeCommit => "green before the commit",
            Bait::FolderNotSynced => "folder not synced",
            Bait::RenameBeforeSync => "rename before sync",
            Bait::SyncIgnored => "syncs ignored (nobarrier)",
        })
    }
}

/// Records written as the outbox writes them, but by our own connection, so that `synchronous` can be chosen: the
/// product's is read back at start and cannot be. With `full` it is the bait's control.
pub fn tape_of_sql(synchronous: &str) -> Tape {
    let disk = Arc::new(Disk::boot(&empty()));
    let tap = Act::Append { records: 1, bytes: 90 };
    let (start, promises) = prepare(&disk, &[Act::Open, Act::Boot(1), tap, Act::Stop]);
    disk.reboot(&start);
    let mut actor = Actor::new(disk.clone(), promises.clone());
    let outbox = promises.newest().expect("one was made");
    let path = PathBuf::from(FOLDER).join(format!("{outbox}.outbox"));
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE;
    let db = Connection::open_with_flags_and_vfs(path, flags, disk.vfs_name()).expect("a sound file");
    db.pragma_update(None, "synchronous", synchronous).expect("a known setting");
    for _ in 0..12 {
        let bytes = actor.record(90);
        let (seq, hash): (u64, [u8; 32]) = db
            .query_row("SELECT seq, hash FROM record ORDER BY seq DESC LIMIT 1", [], |row| row.try_into())
            .expect("one was written");
        let hash = ChainHash(hash).next(&bytes);
        let records = vec![bytes.clone()];
        actor.note(Event::Appending { outbox, records: records.clone(), continues: None });
        db.execute(
            "INSERT INTO record (seq, hash, bytes) VALUES (?1, ?2, ?3)",
            params![seq + 1, hash.0, bytes],
        )
        .expect("a sound file");
        actor.note(Event::Appended { outbox, records, continues: None });
    }
    let (start, ops) = disk.recording();
    Tape { start, promises, ops, events: actor.events }
}
