//! Where a site's event store is: in a file of cloud-ingest's, or on a PostgreSQL server behind a fault proxy.

use std::net::SocketAddr;
use std::path::Path;

use cloud_ingest::event_store::{place::Place, postgres::Address};

use crate::{
    fault_proxy::FaultProxy,
    rig::{Postgres, start_postgres},
};

/// Room for an empty database, which takes eight, and for the taps of a test.
pub(super) const SMALL_DISK_MB: u32 = 32;

/// Where the event store is to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StoreKind {
    /// In cloud-ingest's own file.
    #[default]
    Sqlite,
    /// On a server of the site's own.
    Postgres,
    /// On such a server, on a disk that a test can fill.
    PostgresOnSmallDisk,
}

impl StoreKind {
    /// Both databases.
    pub const ALL: [StoreKind; 2] = [StoreKind::Sqlite, StoreKind::Postgres];

    /// As people call it.
    pub fn name(self) -> &'static str {
        match self {
            StoreKind::Sqlite => "SQLite",
            StoreKind::Postgres | StoreKind::PostgresOnSmallDisk => "PostgreSQL",
        }
    }
}

/// A site's PostgreSQL.
#[derive(Debug)]
pub struct StoreServer {
    /// The server.
    pub postgres: Postgres,
    /// What every cloud-ingest reaches it through.
    pub line: FaultProxy,
    /// The store's database.
    pub database: String,
}

impl StoreServer {
    pub(super) async fn start(small_disk_mb: Option<u32>) -> anyhow::Result<Self> {
        let (postgres, addr) = start_postgres(small_disk_mb)?;
        let line = FaultProxy::start(SocketAddr::from(([127, 0, 0, 1], 0)), addr).await?;
        let database = postgres.new_database();
        Ok(StoreServer { postgres, line, database })
    }

    /// Where cloud-ingest is told to look.
    fn url(&self) -> String {
        format!("postgres://{}@{}/{}", postgres_rig::SUPERUSER, self.line.addr(), self.database)
    }

    pub(super) fn place(&self) -> anyhow::Result<Place> {
        let address = Address::new(&self.postgres.url(&self.database), None, None)?;
        Ok(Place::Server(Box::new(address)))
    }

    /// The database is gone, whoever is connected; there is an empty one of its name.
    ///
    /// # Errors
    ///
    /// When the server doesn't run, or refuses.
    pub fn drop_database(&self) -> anyhow::Result<()> {
        let name = &self.database;
        self.postgres.query("postgres", &format!("DROP DATABASE {name} WITH (FORCE)"))?;
        self.postgres.query("postgres", &format!("CREATE DATABASE {name}")).map(drop)
    }

    /// Writes the database to a file, as an administrator backs it up.
    ///
    /// # Errors
    ///
    /// When the server doesn't run, or refuses.
    pub fn dump(&self, to: &Path) -> anyhow::Result<()> {
        self.postgres.back_up(&self.database, to)
    }

    /// Puts such a file back into the empty database.
    ///
    /// # Errors
    ///
    /// When the server doesn't run, or refuses.
    pub fn restore(&self, from: &Path) -> anyhow::Result<()> {
        self.postgres.restore(&self.database, from)
    }

    /// Asks the database itself, past the proxy.
    ///
    /// # Errors
    ///
    /// When the server doesn't run, or refuses.
    pub fn query(&self, sql: &str) -> anyhow::Result<String> {
        self.postgres.query(&self.database, sql)
    }
}

/// What a configuration says of the store.
pub(super) fn section(server: Option<&StoreServer>) -> String {
    server.map(|server| format!("[store]\nurl = \"{}\"\n", server.url())).unwrap_or_default()
}
