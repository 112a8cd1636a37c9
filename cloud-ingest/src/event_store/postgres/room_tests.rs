//! Partitions for the positions to come, and what there was before there were any.

use postgres_rig::shared;
use tap_protocol::envelope::VerifiedBatch;

use super::*;
use crate::event_store::EventStore;
use crate::event_store::contract::world::{self, Door, HR};
use crate::fixture;

const NOW: UtcMs = UtcMs(1_700_000_000_000);

fn open(database: &str) -> PostgresStore {
    PostgresStore::open(Address::new(&shared().url(database), None, None).unwrap(), NOW).unwrap()
}

/// A store with a door and a destination.
fn filled(database: &str) -> PostgresStore {
    let mut store = open(database);
    store.put_site(&world::hq()).unwrap();
    store.put_controller(&world::controller("hq-door-1")).unwrap();
    fixture::add_destination(&mut store, HR);
    store
}

fn next_tap(door: &mut Door) -> [VerifiedBatch; 1] {
    door.tap(1);
    [door.unsent()]
}

#[test]
fn intake_that_runs_out_of_partitions_makes_one_and_succeeds_with_the_next_try() {
    let database = shared().new_database();
    let mut store = filled(&database);
    let none = "DROP TABLE events_1, taps_1; DELETE FROM ranges; INSERT INTO ranges VALUES (0, 1)";
    shared().query(&database, none).unwrap();
    let mut door = Door::new(1);
    let batch = next_tap(&mut door);
    let refused = store.append(&batch, NOW).unwrap_err();
    assert!(refused.is_retryable(), "{refused:?}");
    store.append(&batch, NOW).unwrap();
    store.append(&next_tap(&mut door), NOW).unwrap();
    world::check(&mut store);
}

/// As after years under version 1: where its rows end, the next partition begins.
#[test]
fn what_an_older_version_stored_becomes_the_first_partition_as_it_lies() {
    let database = shared().new_database();
    let mut store = filled(&database);
    let mut door = Door::new(1);
    for _ in 0..5 {
        store.append(&next_tap(&mut door), NOW).unwrap();
    }
    drop(store);
    // The tables as version 1 has them, and far on.
    let back = "CREATE TABLE old_events AS SELECT * FROM events; CREATE TABLE old_taps AS SELECT * FROM taps; \
         DROP TABLE events, taps, ranges, archiving, segment_outboxes, segment_deliveries, segments, past_badges; \
         DROP FUNCTION make_ranges; ALTER TABLE outboxes DROP COLUMN archived_through, DROP COLUMN archived_hash; \
         ALTER TABLE old_events RENAME TO events; ALTER TABLE events ADD PRIMARY KEY (position), ALTER outbox_no SET NOT NULL, \
         ALTER seq SET NOT NULL, ALTER received_ms SET NOT NULL, ALTER kind SET NOT NULL, ALTER bytes SET NOT NULL, \
         ALTER hash SET NOT NULL; CREATE UNIQUE INDEX events_by_seq ON events (outbox_no, seq); \
         ALTER TABLE old_taps RENAME TO taps; ALTER TABLE taps ADD PRIMARY KEY (position); \
         CREATE INDEX taps_by_badge ON taps (token, occurred_ms, position); \
         CREATE INDEX taps_without_time ON taps (boot_no, position) WHERE occurred_ms IS NULL; \
         UPDATE store SET last_position = 2600000; UPDATE schema_version SET version = 1";
    shared().query(&database, back).unwrap();
    let file = "SELECT pg_relation_filenode('events')";
    let before = shared().query(&database, file).unwrap();
    drop(open(&database));
    assert_eq!(shared().query(&database, "SELECT pg_relation_filenode('events_1')").unwrap(), before);
    let ranges =
        "SELECT string_agg(from_position || '-' || until_position, ' ' ORDER BY from_position) FROM ranges";
    assert_eq!(shared().query(&database, ranges).unwrap(), "1-4000001");
    // No index was built anew for what was there, and the row is found in it.
    let indexes = "SELECT string_agg(indexname, ' ' ORDER BY indexname) FROM pg_indexes WHERE tablename IN ('events_1', 'taps_1')";
    let expected = "events_1_by_seq events_1_pkey taps_1_by_badge taps_1_pkey taps_1_without_time";
    assert_eq!(shared().query(&database, indexes).unwrap(), expected);
    shared().query(&database, "UPDATE store SET last_position = 5").unwrap();
    let mut store = open(&database);
    world::check(&mut store);
    store.append(&next_tap(&mut door), NOW).unwrap();
    world::check(&mut store);
}
