//! Beside the line: one service per store. What must not happen under a running service asks for the same lock. The
//! kernel gives it back when the process ends, however it ends.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

/// The file beside the store that is locked; its content says nothing.
const NAME: &str = "cloud-ingest.lock";

/// Held as long as this lives.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Why the store is not ours.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody has it.
    #[error("cloud-ingest serve runs on {}: stop it first (systemctl stop cloud-ingest)", .0.display())]
    Held(PathBuf),
    /// It cannot even be asked for.
    #[error("cannot lock {}", .path.display())]
    Io {
        /// The lock's file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Takes the lock of the store in `data_dir`, at once or not at all.
pub fn take(data_dir: &Path) -> Result<Lock, LockError> {
    let path = data_dir.join(NAME);
    let io = |source| LockError::Io { path: path.clone(), source };
    let file = File::options().create(true).append(true).open(&path).map_err(io)?;
    match file.try_lock() {
        Ok(()) => Ok(Lock { _file: file }),
        Err(TryLockError::WouldBlock) => Err(LockError::Held(data_dir.to_owned())),
        Err(TryLockError::Error(source)) => Err(io(source)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let lock = take(folder.path()).unwrap();
        assert!(matches!(take(folder.path()), Err(LockError::Held(_))));
        drop(lock);
        take(folder.path()).unwrap();
        assert!(matches!(take(&folder.path().join("nowhere")), Err(LockError::Io { .. })));
    }
}
