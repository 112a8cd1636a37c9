//! The event store alone: groups of batches as intake hands them over, beside a bare insert of the same rows in commits of
//! the same size on the same disk or server.

use anyhow::Context as _;
use cloud_ingest::event_store::{
    Deed, EventStore, NewDestination, UtcMs,
    postgres::{Address, PostgresStore},
    sqlite::SqliteStore,
};
use postgres_rig::Cluster;

use super::{Figure, Goal, bare, doors::Doors, median};
use crate::{site::StoreKind, stopwatch::Stopwatch};

const ROUNDS: usize = 3;

/// What intake takes in at once when a backlog drains: the most messages, and about the most records.
const GROUP_MESSAGES: usize = 64;
const MESSAGE_RECORDS: usize = 128;
const GROUPS: usize = 12;

const DOORS: u8 = 16;
const PERSONS: u32 = 2_000;
const DESTINATION: &str = "legacy";
const NOW: UtcMs = UtcMs(1_795_000_000_000);

pub(super) async fn measure() -> anyhow::Result<Vec<Figure>> {
    // The store's calls block.
    tokio::task::spawn_blocking(|| {
        let cluster = Cluster::start()?;
        let (mut sqlite, mut postgres) = (Vec::new(), Vec::new());
        for round in 1..=ROUNDS {
            eprintln!("  round {round} of {ROUNDS}");
            for (rounds, measured) in [(&mut sqlite, on_sqlite()?), (&mut postgres, on_postgres(&cluster)?)] {
                eprintln!("    {:.0} records a second beside {:.0}", measured.0, measured.1);
                rounds.push(measured);
            }
        }
        Ok(vec![figure(StoreKind::Sqlite, &sqlite), figure(StoreKind::Postgres, &postgres)])
    })
    .await?
}

fn figure(kind: StoreKind, rounds: &[(f64, f64)]) -> Figure {
    let name = format!("append of records, {}", kind.name());
    Figure::new(name, median(rounds.iter().map(|(ours, _)| *ours)), "records/s")
        .beside("bare insert of the same rows", median(rounds.iter().map(|(_, bare)| *bare)))
        .goal(Goal::RatioAtLeast(0.5))
}

/// Ours, and the bare insert.
fn on_sqlite() -> anyhow::Result<(f64, f64)> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("ours.db");
    let mut store = SqliteStore::open(&path, NOW)?;
    let ours = append(&mut store)?;
    drop(store);
    let bare = bare::into_sqlite(&path, &dir.path().join("bare.db"), GROUP_MESSAGES * MESSAGE_RECORDS)?;
    Ok((ours, bare))
}

fn on_postgres(cluster: &Cluster) -> anyhow::Result<(f64, f64)> {
    let (ours_at, bare_at) = (cluster.url(&cluster.new_database()), cluster.url(&cluster.new_database()));
    let mut store = PostgresStore::open(Address::new(&ours_at, None, None)?, NOW)?;
    let ours = append(&mut store)?;
    drop(store);
    drop(
        PostgresStore::open(Address::new(&bare_at, None, None)?, NOW)
            .context("a schema for the bare rows")?,
    );
    let bare = bare::into_postgres(&ours_at, &bare_at, GROUP_MESSAGES * MESSAGE_RECORDS)?;
    Ok((ours, bare))
}

fn append(store: &mut dyn EventStore) -> anyhow::Result<f64> {
    let mut doors = Doors::new(1..=DOORS, 0..PERSONS);
    doors.introduce(store)?;
    doors.bind(store)?;
    store.add_destination(
        &NewDestination::from_now(DESTINATION, "{}"),
        &Deed::by_itself(NOW, "add", DESTINATION),
    )?;
    let groups: Vec<_> = (0..GROUPS).map(|_| doors.group(GROUP_MESSAGES, MESSAGE_RECORDS)).collect();
    let taken = Stopwatch::start();
    for group in &groups {
        store.append(group, NOW)?;
    }
    let records = GROUPS * GROUP_MESSAGES * MESSAGE_RECORDS;
    Ok(records as f64 / taken.elapsed().as_secs_f64())
}
