//! Step 9 of 12: a server's schema is brought up to date, beside services that run. Knows no table but those that say the
//! version.
//!
//! Whoever waits for a lock on a table makes everybody wait who comes later. So nobody waits long here: a lock that cannot
//! be had at once is given up, with all that was done in that transaction, and tried again after a pause, and whoever was in
//! the way is named.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use postgres::error::SqlState;
use postgres::{Client, GenericClient};

use super::{Address, PostgresStore};
use crate::crash;
use crate::event_store::migrations::{
    ALL, Connected, Lock, Migrated, Migration, Plan, Step, Told, VERSION, WrongVersion, statements,
};
use crate::event_store::sql::statements as sql;
use crate::event_store::{StoreError, UtcMs, first_epoch};

/// A number of our own for advisory locks: one process at a time migrates.
const MIGRATION_LOCK: i64 = 0x5461_7063;

/// A lock that is not ours by then is given up: everybody who came after us waits as long.
const LOCK_TIMEOUT_MS: u64 = 1_000;

/// The pauses between two attempts grow to this.
const LONGEST_PAUSE_MS: u64 = 10_000;

/// Attempts before somebody is told that it cannot be done now: some minutes.
const MAX_ATTEMPTS: u32 = 25;

/// How often one looks who is in the way, and whether another process is done.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What programs call themselves before the schema version that they know. The first version said no more than this.
pub const PROGRAM: &str = "cloud-ingest";

/// What this program calls itself to the server.
pub fn application_name() -> String {
    format!("{PROGRAM}/{VERSION}")
}

/// The version of the schema that is there: 0 if there is none.
pub fn version(client: &mut Client) -> Result<usize, StoreError> {
    let tables = client.query_one(
        "SELECT to_regclass('schema_version') IS NOT NULL, \
         (SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relnamespace = current_schema()::regnamespace)",
        &[],
    )?;
    let (is_ours, tables): (bool, i64) = (tables.get(0), tables.get(1));
    if !is_ours && tables > 0 {
        return Err(StoreError::broken(
            "the database holds tables of another program: give the store a database (or a schema in search_path) of its own",
        ));
    }
    if !is_ours {
        return Ok(0);
    }
    let version: i64 = client.query_one("SELECT version FROM schema_version", &[])?.get(0);
    let is = usize::try_from(version).map_err(|_| StoreError::broken("the schema's version is no number"))?;
    if is > VERSION {
        // Only a program that this one may work beside has left it here.
        let oldest: i64 = client.query_one("SELECT oldest_program FROM store", &[])?.get(0);
        if usize::try_from(oldest).is_ok_and(|oldest| oldest > VERSION) {
            return Err(StoreError::Broken(WrongVersion::Ahead { is }.into()));
        }
    }
    Ok(is)
}

/// Whether this program can work with the store that is there.
pub fn usable(client: &mut Client) -> Result<(), StoreError> {
    match version(client)? {
        is if is < VERSION => Err(StoreError::Broken(WrongVersion::Behind { is }.into())),
        _ => Ok(()),
    }
}

impl PostgresStore {
    /// What [`PostgresStore::migrate`] would do.
    pub fn plan(address: &Address) -> Result<Plan, StoreError> {
        let mut client = address.connect()?;
        let from = version(&mut client)?;
        let estimated = client.query(
            "SELECT relname::text, greatest(reltuples, 0)::bigint FROM pg_class WHERE relnamespace = current_schema()::regnamespace",
            &[],
        )?;
        let estimated: Vec<(String, i64)> = estimated.iter().map(|row| (row.get(0), row.get(1))).collect();
        let rows = |table: &str| {
            let found = estimated.iter().find(|(name, _)| name == table);
            found.map_or(0, |(_, rows)| rows.unsigned_abs())
        };
        let scripts = |migration: &Migration| migration.parts_before().chain([migration.postgres]).collect();
        let (too_old, may) = (too_old(&mut client, from)?, from == 0 || may(&mut client)?);
        Ok(Plan { too_old, may, ..Plan::new(from, scripts, &rows) })
    }

    /// Brings the schema up to date, version by version; makes the store, with an epoch from `now`, if there is none. Of
    /// several processes one does it, and the others wait for that.
    pub fn migrate(
        address: &Address,
        now: UtcMs,
        told: &mut dyn FnMut(Told),
    ) -> Result<Migrated, StoreError> {
        let mut client = address.connect()?;
        let from = version(&mut client)?;
        if from >= VERSION {
            return Ok(Migrated { from, to: from });
        }
        if from > 0 && !may(&mut client)? {
            return Err(StoreError::Broken(WrongVersion::MayNot { is: from }.into()));
        }
        client.batch_execute(&format!(
            "SET statement_timeout = 0; SET lock_timeout = {LOCK_TIMEOUT_MS}; SET idle_in_transaction_session_timeout = '60s'"
        ))?;
        let mut waited = false;
        while !client.query_one("SELECT pg_try_advisory_lock($1)", &[&MIGRATION_LOCK])?.get::<_, bool>(0) {
            if !std::mem::replace(&mut waited, true) {
                told(Told::AnotherDoes);
            }
            thread::sleep(LOOK_EVERY);
        }
        // The lock goes with the connection, whatever ends that.
        let mut is = version(&mut client)?;
        while is < VERSION {
            step(address, &mut client, is, now, told)?;
            is += 1;
            told(Told::Reached(is));
        }
        Ok(Migrated { from, to: is })
    }
}

/// From version `from` to the next.
fn step(
    address: &Address,
    client: &mut Client,
    from: usize,
    now: UtcMs,
    told: &mut dyn FnMut(Told),
) -> Result<(), StoreError> {
    let migration = &ALL[from];
    let before: Vec<&str> = migration.parts_before().collect();
    let of = before.len() + 1;
    for (script, part) in before.into_iter().zip(1..) {
        told(Told::Begins { version: from + 1, part, of });
        patiently(address, client, told, &mut |client| Ok(client.batch_execute(script)?))?;
    }
    told(Told::Begins { version: from + 1, part: of, of });
    patiently(address, client, told, &mut |client| {
        let too_old = too_old(client, from)?;
        if !too_old.is_empty() {
            return Err(StoreError::Unavailable(WrongVersion::TooOldConnected(too_old).into()));
        }
        let mut transaction = client.transaction()?;
        if from > 0 {
            transaction.batch_execute(&our_turn(migration))?;
        }
        transaction.batch_execute(migration.postgres)?;
        if from == 0 {
            transaction.batch_execute("CREATE TABLE schema_version (version BIGINT NOT NULL)")?;
            transaction.execute("INSERT INTO schema_version VALUES (0)", &[])?;
            let epoch = first_epoch(now).0.cast_signed();
            transaction.execute(sql::CREATE_STORE.replace('?', "$").as_str(), &[&epoch])?;
        } else {
            transaction.execute(
                "UPDATE store SET oldest_program = $1",
                &[&i64::try_from(migration.oldest_program).unwrap_or(i64::MAX)],
            )?;
        }
        let version = i64::try_from(from + 1).unwrap_or(i64::MAX);
        transaction.execute("UPDATE schema_version SET version = $1", &[&version])?;
        crash::point("before-migration-commit");
        transaction.commit()?;
        crash::point("after-migration-commit");
        Ok(())
    })
}

/// Waits for our turn among the writers, so that none waits for us who holds what we want. Whoever waits for a turn already
/// stands at the door of `store`: where that table itself is changed, nobody may even come so far.
fn our_turn(migration: &Migration) -> String {
    let steps = statements(migration.postgres).into_iter().map(|statement| Step::of(statement, &|_| 0));
    let mut about_store = steps.filter(|step| step.table.as_deref() == Some("store"));
    let mode =
        if about_store.any(|step| step.lock == Lock::Moment) { "ACCESS EXCLUSIVE" } else { "EXCLUSIVE" };
    format!("LOCK TABLE store IN {mode} MODE")
}

/// Runs a transaction; gives it up and tries again while a lock cannot be had.
fn patiently(
    address: &Address,
    client: &mut Client,
    told: &mut dyn FnMut(Told),
    job: &mut dyn FnMut(&mut Client) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let mut pause_ms = LOCK_TIMEOUT_MS;
    for attempt in 1.. {
        let (done, by) = watched(address, client, job)?;
        match done {
            Err(error) if was_in_the_way(&error) && attempt < MAX_ATTEMPTS => {
                told(Told::InTheWay { by, again_in_ms: pause_ms });
                thread::sleep(Duration::from_millis(pause_ms));
                pause_ms = (2 * pause_ms).min(LONGEST_PAUSE_MS);
            }
            Err(error) if was_in_the_way(&error) => {
                return Err(StoreError::Unavailable(WrongVersion::InTheWay(by).into()));
            }
            done => return done,
        }
    }
    unreachable!("the last attempt returns")
}

/// A lock that did not come in time, or a deadlock that the server has ended at our cost.
fn was_in_the_way(error: &StoreError) -> bool {
    let StoreError::Unavailable(source) = error else { return false };
    let code = source.downcast_ref::<postgres::Error>().and_then(postgres::Error::code);
    [Some(&SqlState::LOCK_NOT_AVAILABLE), Some(&SqlState::T_R_DEADLOCK_DETECTED)].contains(&code)
}

/// Runs a job while somebody else looks who keeps it waiting. Says who did last.
fn watched(
    address: &Address,
    client: &mut Client,
    job: &mut dyn FnMut(&mut Client) -> Result<(), StoreError>,
) -> Result<(Result<(), StoreError>, Vec<Connected>), StoreError> {
    let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[])?.get(0);
    let mut beside = address.connect()?;
    let (over, seen) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    let done = thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                match blocking(&mut beside, pid) {
                    Ok(by) if !by.is_empty() => *seen.lock().expect("nobody panics here") = by,
                    Ok(_) => {}
                    // It is for people only: without it, the migration goes on.
                    Err(_) => break,
                }
                thread::sleep(LOOK_EVERY);
            }
        });
        let done = job(client);
        over.store(true, Ordering::Relaxed);
        done
    });
    Ok((done, seen.into_inner().expect("nobody panics here")))
}

const CONNECTED: &str = "SELECT pid, coalesce(application_name, ''), coalesce(usename::text, '?'), \
     coalesce(state, 'at work') || coalesce(' for ' || extract(epoch FROM now() - coalesce(xact_start, state_change))::bigint || ' s', '') \
     || coalesce(': ' || left(query, 80), '') FROM pg_stat_activity ";

fn blocking(client: &mut Client, pid: i32) -> Result<Vec<Connected>, postgres::Error> {
    connected(client, "WHERE pid = ANY (pg_blocking_pids($1))", &[&pid])
}

/// Connected programs that could not go on with the version after `from`.
fn too_old(client: &mut Client, from: usize) -> Result<Vec<Connected>, StoreError> {
    let Some(next) = ALL.get(from).filter(|_| from > 0) else { return Ok(Vec::new()) };
    let others = connected(
        client,
        "WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name LIKE $1 || '%'",
        &[&PROGRAM],
    )?;
    Ok(others.into_iter().filter(|other| knows(&other.program) < next.oldest_program).collect())
}

/// The schema version that a program knows, by its name.
fn knows(program: &str) -> usize {
    program.strip_prefix(PROGRAM).and_then(|rest| rest.strip_prefix('/')?.parse().ok()).unwrap_or(1)
}

fn connected(
    client: &mut Client,
    which: &str,
    params: &[&(dyn postgres::types::ToSql + Sync)],
) -> Result<Vec<Connected>, postgres::Error> {
    let rows = client.query(&format!("{CONNECTED}{which} ORDER BY pid"), params)?;
    let one = |row: &postgres::Row| Connected {
        pid: row.get(0),
        program: row.get(1),
        role: row.get(2),
        does: row.get(3),
    };
    Ok(rows.iter().map(one).collect())
}

/// Whether this role may change the store's tables.
fn may(client: &mut impl GenericClient) -> Result<bool, StoreError> {
    let owner = client.query_one(
        "SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = to_regclass('store')",
        &[],
    )?;
    Ok(owner.get(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_say_which_version_they_know() {
        assert_eq!(knows("cloud-ingest"), 1);
        assert_eq!(knows("cloud-ingest/17"), 17);
        assert_eq!(knows(&application_name()), VERSION);
    }
}
