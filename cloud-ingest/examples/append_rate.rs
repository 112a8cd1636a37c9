//! How fast the SQLite store takes taps in, beside a bare insert of the same rows into the same schema.
//!
//! `cargo run --release -p cloud-ingest --example append_rate [DIRECTORY]`. The directory decides what disk is measured;
//! without one it is the directory for temporary files. Both ways do the same: 100,000 taps in groups of 20 batches of
//! 256, one transaction per group, `synchronous=FULL`. The second reads no record, asks no mark and keeps no counter:
//! it shows what the disk and SQLite alone would allow.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cloud_ingest::event_store::sqlite::SqliteStore;
use cloud_ingest::event_store::{Binding, Controller, EventStore, PersonId, Site, UtcMs};
use rusqlite::Connection;
use rusqlite::types::Value;
use tap_protocol::badge::{SealedBadge, Token, TokenKeyId};
use tap_protocol::chain::ChainHash;
use tap_protocol::envelope::{Batch, UnverifiedBatch, VerifiedBatch};
use tap_protocol::ids::{ControllerId, OutboxId, Seq};
use tap_protocol::keys::SigningKey;
use tap_protocol::record::{Body, ClockState, Record, Stamp};
use tap_protocol::tap::{Direction, Tap, Verdict};

const TAPS: u64 = 100_000;
const BATCH: u64 = 256;
const GROUP: usize = 20;
/// Persons who tap in turn: each of them about fifty times, so most taps stand behind another.
const BADGES: u64 = 2_000;
const NOW: UtcMs = UtcMs(1_700_000_000_000);

/// What both ways fill, in this order.
const TABLES: [&str; 3] = ["events", "taps", "deliveries"];

fn main() -> Result<(), Box<dyn Error>> {
    let directory = std::env::args_os().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let folder = tempfile::tempdir_in(directory)?;
    let batches = batches()?;
    let (store_file, bare_file) = (folder.path().join("store.db"), folder.path().join("bare.db"));

    let mut store = SqliteStore::open(&store_file, NOW)?;
    fill(&mut store)?;
    let took = timed(|| {
        for group in batches.chunks(GROUP) {
            store.append(group, NOW)?;
        }
        Ok(())
    })?;
    assert_eq!(store.totals()?.taps, TAPS);
    drop(store);
    let appended = rate("append to the store", took);

    fill(&mut SqliteStore::open(&bare_file, NOW)?)?;
    let inserted = rate("bare insert of its rows", bare_insert(&store_file, &bare_file)?);
    println!("append is {:.0} % of the bare insert", 100.0 * appended / inserted);
    Ok(())
}

fn fill(store: &mut SqliteStore) -> Result<(), Box<dyn Error>> {
    store.put_site(&Site { id: "hq".into(), label: "Headquarters".into(), zone: "Europe/Berlin".into() })?;
    store.put_controller(&Controller {
        id: controller(),
        label: "Door".into(),
        site: "hq".into(),
        record_key: key().public(),
    })?;
    store.put_destination("hr")?;
    let bindings: Vec<Binding> = (0..BADGES)
        .map(|badge| Binding { token: token(badge), person: PersonId(format!("E-{badge:05}")) })
        .collect();
    store.bind_badges(&bindings, NOW)?;
    Ok(())
}

/// Copies the rows of the store into a file of the same schema: read beforehand, inserted in groups.
fn bare_insert(from: &Path, to: &Path) -> Result<Duration, Box<dyn Error>> {
    let rows = {
        let from = Connection::open(from)?;
        let read = |table: &&str| -> rusqlite::Result<Vec<Vec<Value>>> {
            let mut statement = from.prepare(&format!("SELECT * FROM {table} ORDER BY position"))?;
            let columns = statement.column_count();
            let rows = statement.query_map([], |row| (0..columns).map(|column| row.get(column)).collect())?;
            rows.collect()
        };
        TABLES.iter().map(read).collect::<rusqlite::Result<Vec<_>>>()?
    };
    let mut to = Connection::open(to)?;
    to.execute(
        "INSERT INTO outboxes (no, controller_no, id, prefix, stored_through, hash, last_seq) VALUES (1, 1, x'', x'', 0, x'', 0)",
        [],
    )?;
    for (pragma, value) in
        [("synchronous", 2), ("foreign_keys", 1), ("cache_size", -65_536), ("wal_autocheckpoint", 4_000)]
    {
        to.pragma_update(None, pragma, value)?;
    }
    let group = usize::try_from(BATCH)? * GROUP;
    timed(|| {
        for first in (0..rows[0].len()).step_by(group) {
            let transaction = to.transaction()?;
            let mut inserts = Vec::new();
            for (table, rows) in TABLES.iter().zip(&rows) {
                let values = vec!["?"; rows[0].len()].join(", ");
                inserts.push(transaction.prepare(&format!("INSERT INTO {table} VALUES ({values})"))?);
            }
            for row in first..(first + group).min(rows[0].len()) {
                for (insert, rows) in inserts.iter_mut().zip(&rows) {
                    insert.execute(rusqlite::params_from_iter(&rows[row]))?;
                }
            }
            drop(inserts);
            transaction.commit()?;
        }
        Ok(())
    })
}

#[expect(clippy::disallowed_methods, reason = "a measurement owns its clock")]
fn timed(job: impl FnOnce() -> Result<(), Box<dyn Error>>) -> Result<Duration, Box<dyn Error>> {
    let start = std::time::Instant::now();
    job()?;
    Ok(start.elapsed())
}

fn rate(what: &str, took: Duration) -> f64 {
    let rate = TAPS as f64 / took.as_secs_f64();
    println!("{what}: {rate:.0} taps a second");
    rate
}

fn controller() -> ControllerId {
    "hq-door-1".parse().expect("a slug")
}

fn key() -> SigningKey {
    SigningKey::from_seed(&[9; 32])
}

fn token(badge: u64) -> Token {
    // Spread over the key space, as AES-SIV's tokens are.
    Token((u128::from(badge + 1) * 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835).to_be_bytes())
}

/// All taps, signed and proved.
fn batches() -> Result<Vec<VerifiedBatch>, Box<dyn Error>> {
    let outbox = OutboxId([7; 16]);
    let mut hash_before = ChainHash::start(outbox);
    let mut batches = Vec::new();
    for first_seq in (1..=TAPS).step_by(usize::try_from(BATCH)?) {
        let records: Vec<Vec<u8>> = (first_seq..=TAPS.min(first_seq + BATCH - 1)).map(record).collect();
        let batch =
            Batch { controller: controller(), outbox, first_seq: Seq(first_seq), hash_before, records };
        let message = batch.sign(&key());
        let verified = UnverifiedBatch::parse(&message)?.verify(&controller(), &key().public())?;
        hash_before =
            verified.hash_at(verified.last_seq()).expect("a batch knows the hash of its last record");
        batches.push(verified);
    }
    Ok(batches)
}

fn record(seq: u64) -> Vec<u8> {
    let boottime_ms = seq * 100;
    let wall_ms = NOW.0 + i64::try_from(boottime_ms).expect("a day or so");
    let badge = SealedBadge { key_id: TokenKeyId(1), token: token(seq % BADGES), ciphertext: vec![7; 10] };
    let body = Body::Tap(Tap {
        reader: "in".parse().expect("a slug"),
        badge,
        direction: Direction::In,
        verdict: Verdict::Known,
    });
    Record { at: Stamp { boot: 1, boottime_ms, wall_ms, clock: ClockState::Synced }, body }.encode()
}
