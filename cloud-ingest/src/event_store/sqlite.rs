//! Step 9 of 12: the event store in one SQLite file: the embedded default for one node. Knows no MQTT and no HTTP, and
//! nothing of what is stored: that is [`super::sql`]'s.
//!
//! One connection writes, under `BEGIN IMMEDIATE`, with `synchronous=FULL` in WAL mode: what a method returned is on
//! the medium. Any number of read-only connections ([`SqliteStore::open_reader`]) answer the reading methods from a
//! consistent snapshot meanwhile.

mod sessions;

use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use self::sessions::InTransaction;
use super::migrations::{ALL, Migrated, Plan, Told, VERSION, WrongVersion};
use super::sql::session::Session;
use super::sql::{APPEND_ONLY, Database, SqlStore, statements as sql};
use super::{StoreError, UtcMs, first_epoch};
use crate::crash;

/// "Tapc" in ASCII: what `file` and a person with a hex editor know a store by.
const APPLICATION_ID: i32 = 0x5461_7063;

/// How long a writer waits for another process's lock (a backup, a person with `sqlite3`) before it says so.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// More than all statements there are, so that each is parsed once.
const CACHED_STATEMENTS: usize = 512;

/// 64 MiB in KiB, negative as SQLite wants it: the newest part of every index stays in memory.
const CACHE_KIB: i32 = -65_536;

/// After a burst, the WAL file is cut back to this.
const WAL_LIMIT_BYTES: i32 = 64 * 1024 * 1024;

/// Pages of 4 KiB in the WAL before it is copied back: a full group of batches touches some hundreds.
const CHECKPOINT_PAGES: i32 = 4_000;

/// The event store in a file, or in memory.
pub type SqliteStore = SqlStore<SqliteFile>;

/// An SQLite database.
#[derive(Debug)]
pub struct SqliteFile {
    conn: Connection,
}

impl SqliteStore {
    /// Opens the store for reading and writing; makes it, with an epoch from `now`, if there is none. One of an older
    /// version is refused: [`SqliteStore::migrate`] brings it up to date.
    pub fn open(path: &Path, now: UtcMs) -> Result<SqliteStore, StoreError> {
        let mut conn = connect(path)?;
        if version(&conn)? == 0 {
            migrate(&mut conn, now, &mut |_| {})?;
        }
        usable(&conn)?;
        guard(&mut conn)?;
        Ok(SqlStore { database: SqliteFile { conn } })
    }

    /// What [`SqliteStore::migrate`] would do to the store in that file.
    pub fn plan(path: &Path) -> Result<Plan, StoreError> {
        let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        conn.busy_timeout(BUSY_TIMEOUT)?;
        let from = version(&conn)?;
        // The tables that grow are counted by the store itself.
        let counted = |table: &str| {
            let column = match table {
                "events" => "records",
                "taps" | "deliveries" | "attempts" => table,
                _ => return 0,
            };
            conn.query_row(&format!("SELECT {column} FROM store"), [], |row| row.get(0)).unwrap_or(0)
        };
        Ok(Plan::new(from, |migration| vec![migration.sqlite], &counted))
    }

    /// Brings the store up to date, version by version; makes it, with an epoch from `now`, if there is none.
    pub fn migrate(path: &Path, now: UtcMs, told: &mut dyn FnMut(Told)) -> Result<Migrated, StoreError> {
        migrate(&mut connect(path)?, now, told)
    }

    /// A store in memory, for tests and for the simulator: all is as in a file, but that nothing outlives the process.
    pub fn in_memory(now: UtcMs) -> SqliteStore {
        let opened = Connection::open_in_memory().map_err(StoreError::from).and_then(|mut conn| {
            keep_statements(&conn)?;
            set_and_read_back(&conn, "foreign_keys", 1)?;
            migrate(&mut conn, now, &mut |_| {})?;
            guard(&mut conn)?;
            Ok(conn)
        });
        SqlStore { database: SqliteFile { conn: opened.expect("memory takes our own schema") } }
    }

    /// A copy of a store in memory, as a backup is one.
    pub fn copy(&self) -> Result<SqliteStore, StoreError> {
        let mut conn = Connection::open_in_memory()?;
        keep_statements(&conn)?;
        let backup = rusqlite::backup::Backup::new(&self.database.conn, &mut conn)?;
        backup.run_to_completion(std::ffi::c_int::MAX, Duration::ZERO, None)?;
        drop(backup);
        set_and_read_back(&conn, "foreign_keys", 1)?;
        guard(&mut conn)?;
        Ok(SqlStore { database: SqliteFile { conn } })
    }

    /// Opens an existing store for the reading methods alone; all others fail.
    pub fn open_reader(path: &Path) -> Result<SqliteStore, StoreError> {
        let conn = Connection::open_with_flags(
            path,
            OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        )?;
        conn.busy_timeout(BUSY_TIMEOUT)?;
        keep_statements(&conn)?;
        usable(&conn)?;
        Ok(SqlStore { database: SqliteFile { conn } })
    }

    /// Writes a whole and consistent copy of everything that is committed to `to`, which must be empty or not there.
    /// Works beside a running service, which goes on meanwhile. The caller sees to it that the copy is on the medium.
    pub fn back_up(&mut self, to: &Path) -> Result<(), StoreError> {
        let path = to.to_str().ok_or_else(|| StoreError::broken("SQLite takes no such file name"))?;
        self.database.conn.execute(sql::BACK_UP, [path])?;
        Ok(())
    }
}

impl Database for SqliteFile {
    fn write<T>(&mut self, job: impl FnOnce(&dyn Session) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let transaction = self.conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let done = job(&InTransaction(&transaction))?;
        transaction.commit()?;
        Ok(done)
    }

    fn as_archivist<T>(
        &mut self,
        job: impl FnOnce(&dyn Session) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.conn.authorizer(None::<Guard>)?;
        // What is archived goes whole, children first; looking for children of each row would read all of them.
        set_and_read_back(&self.conn, "foreign_keys", 0)?;
        let done = self.write(job);
        set_and_read_back(&self.conn, "foreign_keys", 1)?;
        guard(&mut self.conn)?;
        done
    }

    fn read<T>(&mut self, job: impl FnOnce(&dyn Session) -> Result<T, StoreError>) -> Result<T, StoreError> {
        job(&InTransaction(&self.conn.transaction_with_behavior(TransactionBehavior::Deferred)?))
    }
}

/// Judges what a statement means to do, when it is parsed.
type Guard = fn(AuthContext<'_>) -> Authorization;

/// Refuses to change or remove what is append-only, whatever code asks for it. A file cannot be kept from whoever may write to
/// it; this keeps our own mistakes from it. (`DROP TABLE` begins as a removal of all rows.)
fn guard(conn: &mut Connection) -> Result<(), StoreError> {
    let judge: Guard = |context| match context.action {
        AuthAction::Update { table_name, .. } | AuthAction::Delete { table_name }
            if APPEND_ONLY.contains(&table_name) =>
        {
            Authorization::Deny
        }
        _ => Authorization::Allow,
    };
    Ok(conn.authorizer(Some(judge))?)
}

/// Parses each statement once. By default SQLite plans a statement again whenever another value is bound to it, in the hope
/// of a better plan from statistics; we have no statistics, and say by `INDEXED BY` which plan we want.
fn keep_statements(conn: &Connection) -> Result<(), StoreError> {
    conn.set_prepared_statement_cache_capacity(CACHED_STATEMENTS);
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(())
}

/// Opens a file for reading and writing, as every promise here wants it.
fn connect(path: &Path) -> Result<Connection, StoreError> {
    let conn = Connection::open(path)?;
    conn.busy_timeout(BUSY_TIMEOUT)?;
    keep_statements(&conn)?;
    version(&conn)?;
    set_and_read_back(&conn, "journal_mode", "wal".to_owned())?;
    set_and_read_back(&conn, "synchronous", 2)?;
    set_and_read_back(&conn, "foreign_keys", 1)?;
    set_and_read_back(&conn, "cache_size", CACHE_KIB)?;
    set_and_read_back(&conn, "journal_size_limit", WAL_LIMIT_BYTES)?;
    set_and_read_back(&conn, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    Ok(conn)
}

/// The version of the store that is there: 0 if there is none. Says no to a database of another program, and to one that a
/// newer program keeps from us, before anything is changed in it.
fn version(conn: &Connection) -> Result<usize, StoreError> {
    let application_id: i32 = conn.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let is: usize = conn.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let tables: u32 = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    let is_new = application_id == 0 && is == 0 && tables == 0;
    if application_id != APPLICATION_ID && !is_new {
        return Err(StoreError::broken("the file is an SQLite database of another program"));
    }
    if is > VERSION {
        // Only a program that this one may work beside has left it here.
        let oldest: usize = conn.query_row("SELECT oldest_program FROM store", [], |row| row.get(0))?;
        if oldest > VERSION {
            return Err(StoreError::Broken(WrongVersion::Ahead { is }.into()));
        }
    }
    Ok(is)
}

/// Whether this program can work with the store that is there.
fn usable(conn: &Connection) -> Result<(), StoreError> {
    match version(conn)? {
        is if is < VERSION => Err(StoreError::Broken(WrongVersion::Behind { is }.into())),
        _ => Ok(()),
    }
}

/// Sets a pragma and refuses to go on if SQLite did not take it: a promise may hang on it.
fn set_and_read_back(conn: &Connection, name: &str, value: impl Into<Value>) -> Result<(), StoreError> {
    let value = value.into();
    conn.pragma_update(None, name, &value)?;
    let got: Value = conn.pragma_query_value(None, name, |row| row.get(0))?;
    match got == value {
        true => Ok(()),
        false => Err(StoreError::broken(format!("SQLite keeps {name} at {got:?} and not {value:?} here"))),
    }
}

/// Brings the schema up to date, one transaction per version.
fn migrate(conn: &mut Connection, now: UtcMs, told: &mut dyn FnMut(Told)) -> Result<Migrated, StoreError> {
    let from = version(conn)?;
    for (before, migration) in ALL.iter().enumerate().skip(from) {
        told(Told::Begins { version: before + 1, part: 1, of: 1 });
        let transaction = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        if version(&transaction)? > before {
            // Another process was quicker.
            continue;
        }
        transaction.execute_batch(migration.sqlite)?;
        match before {
            0 => transaction.execute(sql::CREATE_STORE, [first_epoch(now).0])?,
            _ => transaction.execute("UPDATE store SET oldest_program = ?1", [migration.oldest_program])?,
        };
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", before + 1)?;
        crash::point("before-migration-commit");
        transaction.commit()?;
        crash::point("after-migration-commit");
        told(Told::Reached(before + 1));
    }
    Ok(Migrated { from, to: VERSION.max(from) })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use tap_protocol::envelope::VerifiedBatch;
    use tempfile::TempDir;

    use super::*;
    use crate::event_store::EventStore;
    use crate::event_store::contract::world::{self, Door, HR};

    const NOW: UtcMs = UtcMs(1_700_000_000_000);

    struct Folder(TempDir);

    impl Folder {
        fn new() -> Folder {
            Folder(tempfile::tempdir().unwrap())
        }

        fn store(&self) -> PathBuf {
            self.0.path().join("store.db")
        }

        /// A store with one door and one destination.
        fn filled(&self) -> SqliteStore {
            let mut store = SqliteStore::open(&self.store(), NOW).unwrap();
            store.put_site(&world::hq()).unwrap();
            store.put_controller(&world::controller("hq-door-1")).unwrap();
            crate::fixture::add_destination(&mut store, HR);
            store
        }

        /// What a process finds after the one before was killed: the files as they are now.
        fn as_after_a_kill(&self) -> Folder {
            let copy = Folder::new();
            for file in fs::read_dir(self.0.path()).unwrap().map(Result::unwrap) {
                fs::copy(file.path(), copy.0.path().join(file.file_name())).unwrap();
            }
            copy
        }
    }

    /// The next tap of `door` as a batch.
    fn next_tap(door: &mut Door) -> Vec<VerifiedBatch> {
        door.tap(1);
        vec![door.unsent()]
    }

    #[track_caller]
    fn is_broken<T: std::fmt::Debug>(opened: Result<T, StoreError>, because: &str) {
        let Err(StoreError::Broken(reason)) = opened else { panic!("{opened:?} is not broken") };
        assert!(reason.to_string().contains(because), "{reason}");
    }

    #[test]
    fn what_was_committed_outlives_a_kill() {
        let folder = Folder::new();
        let mut store = folder.filled();
        let mut door = Door::new(1);
        for count in 1..=20 {
            store.append(&next_tap(&mut door), NOW).unwrap();
            let copy = folder.as_after_a_kill();
            let mut found = SqliteStore::open(&copy.store(), UtcMs(NOW.0 + 1)).unwrap();
            assert_eq!(found.marks().unwrap(), store.marks().unwrap());
            assert_eq!(found.totals().unwrap().taps, count);
            assert_eq!(found.store_epoch().unwrap(), store.store_epoch().unwrap());
            world::check(&mut found);
        }
    }

    #[test]
    fn a_store_of_a_newer_version_is_refused_and_left_alone() {
        let folder = Folder::new();
        let store = folder.filled();
        store.database.conn.pragma_update(None, "user_version", 99).unwrap();
        store.database.conn.execute("UPDATE store SET oldest_program = 99", []).unwrap();
        drop(store);
        let before = fs::read(folder.store()).unwrap();
        is_broken(SqliteStore::open(&folder.store(), NOW), "by a newer cloud-ingest");
        is_broken(SqliteStore::open_reader(&folder.store()), "by a newer cloud-ingest");
        assert_eq!(fs::read(folder.store()).unwrap(), before);
    }

    #[test]
    fn a_database_of_another_program_is_refused_and_left_alone() {
        let folder = Folder::new();
        let other = Connection::open(folder.store()).unwrap();
        other.execute_batch("CREATE TABLE groceries (name TEXT)").unwrap();
        drop(other);
        let before = fs::read(folder.store()).unwrap();
        is_broken(SqliteStore::open(&folder.store(), NOW), "another program");
        assert_eq!(fs::read(folder.store()).unwrap(), before);
    }

    #[test]
    fn a_file_that_is_no_database_is_broken() {
        let folder = Folder::new();
        fs::write(folder.store(), "not a database, just a text that is long enough to look at").unwrap();
        is_broken(SqliteStore::open(&folder.store(), NOW), "not a database");
    }

    #[test]
    fn a_database_that_cannot_keep_its_promise_is_refused() {
        is_broken(SqliteStore::open(":memory:".as_ref(), NOW), "journal_mode");
    }

    #[test]
    fn a_reader_sees_every_commit_and_changes_nothing() {
        let folder = Folder::new();
        let mut store = folder.filled();
        let mut reader = SqliteStore::open_reader(&folder.store()).unwrap();
        let mut door = Door::new(1);
        for taps in 1..=3 {
            store.append(&next_tap(&mut door), NOW).unwrap();
            assert_eq!(reader.totals().unwrap().taps, taps);
        }
        world::check(&mut reader);
        is_broken(reader.append(&next_tap(&mut door), NOW), "readonly");
        is_broken(reader.put_site(&world::hq()), "readonly");
    }

    #[test]
    fn a_reader_needs_a_store() {
        let folder = Folder::new();
        let missing = SqliteStore::open_reader(&folder.store());
        assert!(missing.is_err_and(|error| error.is_retryable()), "it may be made at any moment");
        drop(Connection::open(folder.store()).unwrap().pragma_update(None, "user_version", 0));
        is_broken(SqliteStore::open_reader(&folder.store()), "cloud-ingest store migrate");
    }

    #[test]
    fn a_full_disk_stores_nothing_and_is_worth_another_try() {
        let folder = Folder::new();
        let mut store = folder.filled();
        let mut door = Door::new(1);
        store.append(&next_tap(&mut door), NOW).unwrap();
        let pages: u32 =
            store.database.conn.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
        store.database.conn.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(())).unwrap();
        (0..200).for_each(|_| door.tap(2));
        let batch = vec![door.unsent()];
        let refused = store.append(&batch, NOW);
        assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
        assert_eq!(store.totals().unwrap().taps, 1);
        world::check(&mut store);
        store.database.conn.pragma_update_and_check(None, "max_page_count", 10_000, |_| Ok(())).unwrap();
        store.append(&batch, NOW).unwrap();
        assert_eq!(store.totals().unwrap().taps, 201);
        world::check(&mut store);
    }
}
