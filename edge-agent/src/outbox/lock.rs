//! One writer per folder: two agents on one outbox would each believe that they alone number its records.

use std::fs::{File, TryLockError};
use std::path::Path;

use super::OutboxError;
use super::medium::{self, Disk};

/// Held as long as it lives. The kernel lets go of it when the process ends, however it ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Takes the lock of a folder of outboxes, or says that somebody has it.
pub fn take(folder: &Path) -> Result<Option<Lock>, OutboxError> {
    let path = folder.join("lock");
    let error = |source| OutboxError::Folder { path: path.clone(), source };
    medium::make_folder(&Disk, folder).map_err(error)?;
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(error)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(Lock { _file: file })),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(source)) => Err(error(source)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_writer_and_the_next_when_that_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let first = take(folder.path()).unwrap();
        assert!(first.is_some());
        assert!(take(folder.path()).unwrap().is_none());
        drop(first);
        assert!(take(folder.path()).unwrap().is_some());
    }
}
