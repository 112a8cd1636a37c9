//! What an outbox could not do, and what follows from it: damage is set aside and salvaged, a full disk is waited for,
//! and everything else is refused at the reader and tried again.

use std::path::PathBuf;

use rusqlite::ErrorCode;
use tap_protocol::ids::Seq;

use super::SCHEMA_VERSION;

/// What an outbox could not do.
#[derive(Debug, thiserror::Error)]
pub enum OutboxError {
    /// No new file.
    #[error("cannot create the outbox {}", path.display())]
    Create {
        /// Which.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// The file cannot be opened or read.
    #[error("cannot open the outbox {}", path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// Some other SQLite file.
    #[error("{} is not an outbox", path.display())]
    NotAnOutbox {
        /// Which.
        path: PathBuf,
    },
    /// Written by a newer agent.
    #[error("the outbox {} has version {version}; this agent knows version {SCHEMA_VERSION}: install the newer agent again", path.display())]
    UnknownVersion {
        /// Which.
        path: PathBuf,
        /// Which version it has.
        version: i32,
    },
    /// SQLite would not promise durability.
    #[error("commits to {} would not be durable (journal_mode {journal}, synchronous {synchronous}): green would be a lie", path.display())]
    NotDurable {
        /// Which.
        path: PathBuf,
        /// What `journal_mode` read back as.
        journal: String,
        /// What `synchronous` read back as.
        synchronous: i64,
    },
    /// Commits where the outboxes are would not survive a power cut.
    #[error(
        "taps in {} would be gone with the power: {why}. Set state_dir to a folder on a real disk (or, for tests alone, [outbox] allow_volatile = true)",
        folder.display()
    )]
    Volatile {
        /// Where they are.
        folder: PathBuf,
        /// Why.
        why: String,
    },
    /// The folder of the outboxes, or a file in it, cannot be used.
    #[error("cannot use {}", path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// No record was written.
    #[error("cannot write to the outbox")]
    Append {
        /// Why.
        source: rusqlite::Error,
    },
    /// Records cannot be read.
    #[error("cannot read from the outbox")]
    Read {
        /// Why.
        source: rusqlite::Error,
    },
    /// A record that must be there is not.
    #[error("record {at} of the outbox is missing")]
    Hole {
        /// Which.
        at: Seq,
    },
    /// The medium gave back something else than was written.
    #[error("the outbox is damaged: {what}")]
    Damaged {
        /// What does not fit.
        what: String,
    },
    /// There is no room for more records, and nothing that may go.
    #[error(
        "the outbox is full: {used_bytes} of {limit_bytes} bytes have no receipt. Taps are refused until the cloud has taken some, or there is more room on the disk"
    )]
    Full {
        /// Bytes in use.
        used_bytes: u64,
        /// Bytes allowed.
        limit_bytes: u64,
    },
    /// Something beside the records could not be written.
    #[error("cannot write the outbox's own row")]
    Mark {
        /// Why.
        source: rusqlite::Error,
    },
    /// Receipted records could not be deleted.
    #[error("cannot prune the outbox")]
    Prune {
        /// Why.
        source: rusqlite::Error,
    },
    /// What is readable of a damaged file could not be brought to a new one.
    #[error("cannot salvage {}", path.display())]
    Salvage {
        /// From which file.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
}

impl OutboxError {
    /// Whether the file is damaged: then it is set aside. An I/O error is none, the medium may come round.
    pub fn is_damage(&self) -> bool {
        match self {
            OutboxError::NotAnOutbox { .. } | OutboxError::Hole { .. } | OutboxError::Damaged { .. } => true,
            OutboxError::Open { source, .. }
            | OutboxError::Append { source }
            | OutboxError::Read { source }
            | OutboxError::Mark { source }
            | OutboxError::Prune { source } => says_damage(source),
            OutboxError::Create { .. }
            | OutboxError::UnknownVersion { .. }
            | OutboxError::NotDurable { .. }
            | OutboxError::Volatile { .. }
            | OutboxError::Folder { .. }
            | OutboxError::Full { .. }
            | OutboxError::Salvage { .. } => false,
        }
    }

    /// Whether there is no space: then what may go is pruned.
    pub fn is_full(&self) -> bool {
        match self {
            OutboxError::Full { .. } => true,
            OutboxError::Create { source, .. }
            | OutboxError::Open { source, .. }
            | OutboxError::Append { source }
            | OutboxError::Read { source }
            | OutboxError::Mark { source }
            | OutboxError::Prune { source }
            | OutboxError::Salvage { source, .. } => source.sqlite_error_code() == Some(ErrorCode::DiskFull),
            OutboxError::Folder { source, .. } => source.kind() == std::io::ErrorKind::StorageFull,
            OutboxError::NotAnOutbox { .. }
            | OutboxError::UnknownVersion { .. }
            | OutboxError::NotDurable { .. }
            | OutboxError::Volatile { .. }
            | OutboxError::Hole { .. }
            | OutboxError::Damaged { .. } => false,
        }
    }
}

/// Our statements are fixed, so whatever is wrong with them or with the rows they meet is the file's doing.
fn says_damage(error: &rusqlite::Error) -> bool {
    match error.sqlite_error_code() {
        Some(code) => matches!(
            code,
            ErrorCode::DatabaseCorrupt
                | ErrorCode::NotADatabase
                | ErrorCode::ConstraintViolation
                | ErrorCode::TypeMismatch
                | ErrorCode::TooBig
                | ErrorCode::Unknown
        ),
        None => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append_failed(code: i32) -> OutboxError {
        OutboxError::Append { source: rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None) }
    }

    #[test]
    fn damage_is_told_from_trouble_that_may_pass() {
        use rusqlite::ffi;
        for code in [ffi::SQLITE_CORRUPT, ffi::SQLITE_NOTADB, ffi::SQLITE_ERROR, ffi::SQLITE_CONSTRAINT] {
            assert!(append_failed(code).is_damage(), "{code}");
        }
        for code in
            [ffi::SQLITE_IOERR, ffi::SQLITE_FULL, ffi::SQLITE_BUSY, ffi::SQLITE_CANTOPEN, ffi::SQLITE_NOMEM]
        {
            assert!(!append_failed(code).is_damage(), "{code}");
        }
        assert!(append_failed(ffi::SQLITE_FULL).is_full());
        assert!(!append_failed(ffi::SQLITE_IOERR).is_full());
    }
}
