//! The floor under a store: the same rows into an empty one with the same tables, indexes and commits, in the best form
//! that the database has for it. Nobody admits, proves, counts or looks anything up.

use std::{io::Read as _, io::Write as _, path::Path};

use anyhow::ensure;
use postgres::{Client, NoTls};
use rusqlite::{Connection, OpenFlags, types::Value};

use crate::stopwatch::Stopwatch;

/// What a stored record becomes, in the order of their references.
const TABLES: [&str; 3] = ["events", "taps", "deliveries"];

/// Records a second into another file: prepared statements, `synchronous=FULL`, so many records a transaction.
pub(super) fn into_sqlite(from: &Path, to: &Path, commit_records: usize) -> anyhow::Result<f64> {
    let source = Connection::open_with_flags(from, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let target = Connection::open(to)?;
    target.pragma_update(None, "journal_mode", "wal")?;
    target.pragma_update(None, "synchronous", "full")?;
    let schema: Vec<String> = source
        .prepare(
            "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%' ORDER BY rowid",
        )?
        .query_map([], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    target.execute_batch(&schema.join(";\n"))?;
    // In its favour: nobody checks what refers to what, and what these rows refer to is there before the clock starts.
    target.pragma_update(None, "foreign_keys", false)?;
    let others: Vec<String> = source
        .prepare(&format!(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT IN ('{}')
             AND name NOT LIKE 'sqlite_%' ORDER BY rowid",
            TABLES.join("', '")
        ))?
        .query_map([], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    for table in &others {
        insert_rows(&target, table, &all_rows(&source, table, "1")?)?;
    }
    let rows = TABLES.map(|table| all_rows(&source, table, "position"));
    let rows = rows.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    let records = rows.first().map_or(0, Vec::len);
    ensure!(rows.iter().all(|rows| rows.len() * 10 > records * 9), "every table has its share of the records");

    let taken = Stopwatch::start();
    for first in (0..records).step_by(commit_records) {
        target.execute_batch("BEGIN IMMEDIATE")?;
        for (table, rows) in TABLES.iter().zip(&rows) {
            let until = rows.len().min(first + commit_records);
            insert_rows(&target, table, rows.get(first..until).unwrap_or_default())?;
        }
        target.execute_batch("COMMIT")?;
    }
    Ok(records as f64 / taken.elapsed().as_secs_f64())
}

fn insert_rows(target: &Connection, table: &str, rows: &[Vec<Value>]) -> anyhow::Result<()> {
    let Some(first) = rows.first() else { return Ok(()) };
    let places = vec!["?"; first.len()].join(", ");
    let mut insert = target.prepare_cached(&format!("INSERT OR REPLACE INTO {table} VALUES ({places})"))?;
    for row in rows {
        insert.execute(rusqlite::params_from_iter(row))?;
    }
    Ok(())
}

fn all_rows(source: &Connection, table: &str, order: &str) -> anyhow::Result<Vec<Vec<Value>>> {
    let mut select = source.prepare(&format!("SELECT * FROM {table} ORDER BY {order}"))?;
    let columns = select.column_count();
    let rows = select.query_map([], |row| (0..columns).map(|i| row.get(i)).collect())?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Records a second into another database of the same server: `COPY … (FORMAT binary)`, rendered before the clock starts,
/// so many records a transaction. `to` has the schema and nothing in these tables.
pub(super) fn into_postgres(from: &str, to: &str, commit_records: usize) -> anyhow::Result<f64> {
    let mut source = Client::connect(from, NoTls)?;
    let mut target = Client::connect(to, NoTls)?;
    // In its favour: nobody checks what refers to what.
    target.batch_execute("SET session_replication_role = replica; SET synchronous_commit = on")?;
    let records: i64 = source.query_one("SELECT max(position) FROM events", &[])?.get(0);
    let mut commits = Vec::new();
    for first in (1..=records).step_by(commit_records) {
        let until = first + i64::try_from(commit_records)?;
        let mut commit = Vec::new();
        for table in TABLES {
            let select = format!("SELECT * FROM {table} WHERE position >= {first} AND position < {until}");
            let mut bytes = Vec::new();
            source
                .copy_out(&format!("COPY ({select} ORDER BY position) TO STDOUT (FORMAT binary)"))?
                .read_to_end(&mut bytes)?;
            commit.push((table, bytes));
        }
        commits.push(commit);
    }
    let taken = Stopwatch::start();
    for commit in &commits {
        let mut transaction = target.transaction()?;
        for (table, bytes) in commit {
            let mut rows = transaction.copy_in(&format!("COPY {table} FROM STDIN (FORMAT binary)"))?;
            rows.write_all(bytes)?;
            rows.finish()?;
        }
        transaction.commit()?;
    }
    let rate = records as f64 / taken.elapsed().as_secs_f64();
    let copied: i64 = target.query_one("SELECT count(*) FROM deliveries", &[])?.get(0);
    let expected: i64 = source.query_one("SELECT count(*) FROM deliveries", &[])?.get(0);
    ensure!(copied == expected, "{copied} of {expected} deliveries were copied");
    Ok(rate)
}
