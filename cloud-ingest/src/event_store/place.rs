//! Beside the line: where a deployment's store is, and the ways to open it. Knows both databases, and nobody else needs to.

use std::fmt;
use std::path::PathBuf;

use super::postgres::{Address, PostgresStore};
use super::sqlite::SqliteStore;
use super::{EventStore, StoreError, UtcMs};

/// A store of either kind, opened.
pub type AnyStore = Box<dyn EventStore + Send>;

/// Where the store is.
#[derive(Debug, Clone)]
pub enum Place {
    /// In this file; its folder is made if it is not there.
    File(PathBuf),
    /// On this server.
    Server(Box<Address>),
}

impl Place {
    /// Opens the store for reading and writing; makes it, with an epoch from `now`, if there is none.
    pub fn open(&self, now: UtcMs) -> Result<AnyStore, StoreError> {
        Ok(match self {
            Place::File(path) => {
                if let Some(folder) = path.parent() {
                    std::fs::create_dir_all(folder).map_err(|error| StoreError::Unavailable(error.into()))?;
                }
                Box::new(SqliteStore::open(path, now)?)
            }
            Place::Server(address) => Box::new(PostgresStore::open(Address::clone(address), now)?),
        })
    }

    /// Opens the store for the reading methods alone; it must be there.
    pub fn open_reader(&self) -> Result<AnyStore, StoreError> {
        Ok(match self {
            Place::File(path) => Box::new(SqliteStore::open_reader(path)?),
            Place::Server(address) => Box::new(PostgresStore::open_reader(Address::clone(address))?),
        })
    }

    /// Opens the store for reading and writing if it is there, and makes none.
    pub fn open_existing(&self, now: UtcMs) -> Result<AnyStore, StoreError> {
        // A reader makes nothing, and says what is wrong.
        drop(self.open_reader()?);
        self.open(now)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::File(path) => path.display().fmt(f),
            Place::Server(address) => address.fmt(f),
        }
    }
}
