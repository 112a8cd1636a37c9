//! The event store's place: the real store, in memory, with the troubles that a database has. What was committed survives
//! every process; a backup can be put back. Knows no process.

use cloud_ingest::event_store::sqlite::SqliteStore;
use cloud_ingest::event_store::{Proof, StoreError, UtcMs};

/// The store and its troubles.
pub struct Vault {
    /// The store itself: for the oracle, which may always look.
    pub store: SqliteStore,
    /// A backup.
    pub backup: Option<SqliteStore>,
    /// Nothing can be asked or changed until then.
    pub away_until_ms: u64,
    /// So many times more, a change is committed and the answer is lost.
    pub lost_answers: u32,
    /// It was called since the oracle last looked.
    pub touched: bool,
}

impl Vault {
    /// A new, empty store.
    pub fn new(now: UtcMs) -> Vault {
        Vault {
            store: SqliteStore::in_memory(now),
            backup: None,
            away_until_ms: 0,
            lost_answers: 0,
            touched: true,
        }
    }

    /// One call, as a process makes it.
    pub fn call<T>(
        &mut self,
        now_ms: u64,
        call: impl FnOnce(&mut SqliteStore) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        if now_ms < self.away_until_ms {
            return Err(StoreError::Unavailable("the simulated store is away".into()));
        }
        self.touched = true;
        let done = call(&mut self.store)?;
        match self.lost_answers.checked_sub(1) {
            Some(left) => {
                self.lost_answers = left;
                Err(StoreError::Unavailable("committed, and the connection broke before the answer".into()))
            }
            None => Ok(done),
        }
    }

    /// Puts the backup back: older content, a new epoch. Says whether there was one.
    pub fn restore(&mut self, now: UtcMs) -> bool {
        let Some(backup) = self.backup.take() else { return false };
        self.store = backup;
        self.store.new_epoch(None, now).expect("memory takes it");
        true
    }
}
