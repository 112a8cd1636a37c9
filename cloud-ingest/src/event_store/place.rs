//! Beside the line: where a deployment's store is, and the ways to open it. Knows both databases, and nobody else needs to.

use std::fmt;
use std::path::PathBuf;

use super::migrations::{Migrated, Plan, Told};
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
    /// Opens the store for reading and writing; makes it, with an epoch from `now`, if there is none. One of an older version
    /// is refused.
    pub fn open(&self, now: UtcMs) -> Result<AnyStore, StoreError> {
        Ok(match self {
            Place::File(path) => {
                self.make_folder()?;
                Box::new(SqliteStore::open(path, now)?)
            }
            Place::Server(address) => Box::new(PostgresStore::open(Address::clone(address), now)?),
        })
    }

    /// What [`Place::migrate`] would do.
    pub fn plan(&self) -> Result<Plan, StoreError> {
        match self {
            Place::File(path) => SqliteStore::plan(path),
            Place::Server(address) => PostgresStore::plan(address),
        }
    }

    /// Brings the store up to date; makes it, with an epoch from `now`, if there is none.
    pub fn migrate(&self, now: UtcMs, told: &mut dyn FnMut(Told)) -> Result<Migrated, StoreError> {
        match self {
            Place::File(path) => {
                self.make_folder()?;
                SqliteStore::migrate(path, now, told)
            }
            Place::Server(address) => PostgresStore::migrate(address, now, told),
        }
    }

    fn make_folder(&self) -> Result<(), StoreError> {
        if let Place::File(path) = self
            && let Some(folder) = path.parent()
        {
            std::fs::create_dir_all(folder).map_err(|error| StoreError::Unavailable(error.into()))?;
        }
        Ok(())
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
