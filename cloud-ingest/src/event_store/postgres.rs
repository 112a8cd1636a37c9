//! Step 9 of 12: the event store on a PostgreSQL server: for several replicas of the service, and for who has a server with
//! backups and a standby already. Knows no MQTT and no HTTP, and nothing of what is stored: that is [`super::sql`]'s.
//!
//! A store has one connection and makes a new one when it is lost; what was under way is rolled back and worth another try.
//! A transaction that writes begins by locking the store's one row, so that writers of all replicas take turns; one that
//! reads has a snapshot. Timeouts on the server see to it that a replica that froze in its turn loses it.

mod migrating;
mod sessions;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, fs};

use postgres::config::SslMode;
use postgres::{Client, Config, IsolationLevel};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio_postgres_rustls::MakeRustlsConnect;

use self::sessions::{InTransaction, Parsed};
use super::sql::session::{Session, one};
use super::sql::{Database, SqlStore, statements as sql};
use super::{Position, StoreError, UtcMs};

/// So many positions before the end of the last partition the next one is made: half of a range, which is days even at the
/// largest customer's.
const ROOM_AHEAD: u64 = 500_000;

/// A connection that is not there by then is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What was sent and not confirmed for so long ends the connection.
const UNHEARD_TIMEOUT: Duration = Duration::from_secs(10);

/// How every connection is set up. A replica that stops in its turn keeps the others waiting for ten seconds at most; a
/// statement runs for a minute at most. What is committed is on the server's disk, even if its administrator prefers speed.
const SET_UP: &str = "SET idle_in_transaction_session_timeout = '10s'; SET lock_timeout = '20s'; \
     SET statement_timeout = '60s'; SET client_min_messages = 'warning'; \
     SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'";

/// Every statement of ours is written to walk an index, and stops after some rows. The server plans by what it has counted,
/// and where rows have come by the million since it counted last, it would rather read whole tables: a dispatcher's turn
/// then takes seconds. So it joins as a statement is written, by an index wherever there is one: its plan follows from the statement alone.
const PLANS: &str = "SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_seqscan = off; \
     SET enable_bitmapscan = off; SET join_collapse_limit = 1; SET jit = off";

/// The event store on a server.
pub type PostgresStore = SqlStore<PostgresServer>;

/// How to get to a server: `postgres://user@host/database`, and who it must prove to be.
#[derive(Clone)]
pub struct Address {
    config: Config,
    tls: MakeRustlsConnect,
}

/// An address makes no sense.
#[derive(Debug, thiserror::Error)]
pub enum BadAddress {
    /// It cannot be parsed.
    #[error("this is no address like postgres://user@host/database")]
    Unreadable(#[source] postgres::Error),
    /// A file that it needs cannot be used.
    #[error("{path} cannot be used")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Address {
    /// From a URL as libpq takes it, a file with the password, and a file with the certificates that the server's must come
    /// from. With such a file the connection is always encrypted; without, only over a socket or on request is it in clear.
    pub fn new(
        url: &str,
        password_file: Option<&Path>,
        ca_file: Option<&Path>,
    ) -> Result<Address, BadAddress> {
        let mut config: Config = url.parse().map_err(BadAddress::Unreadable)?;
        config.application_name(&migrating::application_name());
        config.connect_timeout(CONNECT_TIMEOUT);
        config.tcp_user_timeout(UNHEARD_TIMEOUT);
        config.keepalives_idle(UNHEARD_TIMEOUT);
        if let Some(path) = password_file {
            let password = fs::read_to_string(path)
                .map_err(|source| BadAddress::File { path: path.to_owned(), source: source.into() })?;
            config.password(password.trim_end_matches('\n'));
        }
        let mut roots = RootCertStore::empty();
        if let Some(path) = ca_file {
            let wrong = |source| BadAddress::File { path: path.to_owned(), source };
            let certificates = CertificateDer::pem_file_iter(path).map_err(|error| wrong(error.into()))?;
            for certificate in certificates {
                let certificate = certificate.map_err(|error| wrong(error.into()))?;
                roots.add(certificate).map_err(|error| wrong(error.into()))?;
            }
            if roots.is_empty() {
                return Err(wrong("it holds no certificate in PEM".into()));
            }
            config.ssl_mode(SslMode::Require);
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider knows the protocol's versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Address { config, tls: MakeRustlsConnect::new(tls) })
    }

    fn connect(&self) -> Result<Client, StoreError> {
        // Whatever keeps us out may pass: a server that starts, a password that is being changed.
        let unavailable = |error: postgres::Error| StoreError::Unavailable(error.into());
        let mut client = self.config.connect(self.tls.clone()).map_err(unavailable)?;
        client.batch_execute(SET_UP).map_err(unavailable)?;
        Ok(client)
    }

    /// For the statements of every day. Migrations read whole tables and are planned as the server likes.
    fn connect_to_serve(&self) -> Result<Client, StoreError> {
        let mut client = self.connect()?;
        client.batch_execute(PLANS)?;
        Ok(client)
    }
}

/// Where to, and never the password.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let database = self.config.get_dbname().or(self.config.get_user()).unwrap_or("?");
        let host = match self.config.get_hosts().first() {
            Some(postgres::config::Host::Tcp(name)) => name.clone(),
            Some(postgres::config::Host::Unix(path)) => path.display().to_string(),
            None => "?".to_owned(),
        };
        write!(f, "PostgreSQL database {database} at {host}")
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A PostgreSQL database.
pub struct PostgresServer {
    address: Address,
    open: Option<(Client, Parsed)>,
    reads_only: bool,
    /// Where the last partition ends, as far as that was asked for.
    room_until: Option<u64>,
}

impl fmt::Debug for PostgresServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.address, f)
    }
}

impl PostgresStore {
    /// Opens the store for reading and writing; makes it, with an epoch from `now`, if there is none. One of an older
    /// version is refused: [`PostgresStore::migrate`] brings it up to date. Needs a server that answers; later it may come
    /// and go. Must not be called on a thread that runs asynchronous code.
    pub fn open(address: Address, now: UtcMs) -> Result<PostgresStore, StoreError> {
        let mut client = address.connect_to_serve()?;
        if migrating::version(&mut client)? == 0 {
            PostgresStore::migrate(&address, now, &mut |_| {})?;
        }
        migrating::usable(&mut client)?;
        Ok(PostgresStore::over(address, client, false))
    }

    /// Opens an existing store for the reading methods alone; all others fail.
    pub fn open_reader(address: Address) -> Result<PostgresStore, StoreError> {
        let mut client = address.connect_to_serve()?;
        migrating::usable(&mut client)?;
        Ok(PostgresStore::over(address, client, true))
    }

    fn over(address: Address, client: Client, reads_only: bool) -> PostgresStore {
        let open = Some((client, Parsed::new()));
        SqlStore { database: PostgresServer { address, open, reads_only, room_until: None } }
    }
}

impl PostgresServer {
    /// Sees to it that there are partitions for the positions to come; what the service's role may not do itself, a function
    /// of the owner's does for it.
    fn make_room(&mut self) {
        let made = self.in_transaction(true, |session| one(session, sql::MAKE_RANGES, [], |row| row.get(0)));
        self.room_until = made.ok().flatten();
    }

    fn in_transaction<T>(
        &mut self,
        to_write: bool,
        job: impl FnOnce(&dyn Session) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        if self.open.as_ref().is_none_or(|(client, _)| client.is_closed()) {
            self.open = None;
            self.open = Some((self.address.connect_to_serve()?, Parsed::new()));
        }
        let (client, parsed) = self.open.as_mut().expect("it was opened just now");
        let mut transaction = match to_write {
            // Each statement sees what was committed before it, and so everything before our turn.
            true => client.build_transaction().isolation_level(IsolationLevel::ReadCommitted),
            false => {
                client.build_transaction().isolation_level(IsolationLevel::RepeatableRead).read_only(true)
            }
        }
        .start()?;
        let done = job(&InTransaction::new(&mut transaction, parsed))?;
        transaction.commit()?;
        Ok(done)
    }
}

impl Database for PostgresServer {
    fn write<T>(&mut self, job: impl FnOnce(&dyn Session) -> Result<T, StoreError>) -> Result<T, StoreError> {
        if self.reads_only {
            return Err(StoreError::broken("this store was opened readonly"));
        }
        let done = self.in_transaction(true, job);
        if done.as_ref().is_err_and(sessions::lacks_room) {
            self.make_room();
        }
        done
    }

    fn as_archivist<T>(
        &mut self,
        job: impl FnOnce(&dyn Session) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        // Whether it may is for the server to say: it depends on the role that we are.
        self.write(job)
    }

    fn has_given(&mut self, last: Position) {
        // Without success there is half a range of room, and each next record asks again.
        if self.room_until.is_none_or(|end| last.0.saturating_add(ROOM_AHEAD) >= end) {
            self.make_room();
        }
    }

    fn read<T>(&mut self, job: impl FnOnce(&dyn Session) -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.in_transaction(false, job)
    }
}

#[cfg(test)]
#[path = "postgres/plans_tests.rs"]
mod plans_tests;
#[cfg(test)]
#[path = "postgres/room_tests.rs"]
mod room_tests;
#[cfg(test)]
#[path = "postgres/turns_tests.rs"]
mod turns_tests;

#[cfg(test)]
#[path = "postgres/migrating_tests.rs"]
mod migrating_tests;
