//! Partitions for the positions to come, and what there was before there were any.

use postgres_rig::shared;
use tap_protocol::envelope::VerifiedBatch;

use super::*;
use crate::event_store::EventStore;
use crate::event_store::contract::keepsake;
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
    let database = keepsake::first_version_on_server();
    let ask = |question: &str| shared().query(&database, question).unwrap();
    let last = ask("SELECT last_position FROM store");
    ask("UPDATE store SET last_position = 2600000");
    let before = ask("SELECT pg_relation_filenode('events')");
    let address = Address::new(&shared().url(&database), None, None).unwrap();
    PostgresStore::migrate(&address, NOW, &mut |_| {}).unwrap();
    assert_eq!(ask("SELECT pg_relation_filenode('events_1')"), before);
    let ranges =
        "SELECT string_agg(from_position || '-' || until_position, ' ' ORDER BY from_position) FROM ranges";
    assert_eq!(ask(ranges), "1-4000001");
    // No index was built anew for what was there.
    let indexes = "SELECT string_agg(indexname, ' ' ORDER BY indexname) FROM pg_indexes WHERE tablename IN ('events_1', 'taps_1')";
    let by_time = "taps_1_occurred_ms_position_idx";
    let expected =
        format!("events_1_by_seq events_1_pkey taps_1_by_badge {by_time} taps_1_pkey taps_1_without_time");
    assert_eq!(ask(indexes), expected);
    ask(&format!("UPDATE store SET last_position = {last}; UPDATE rereading SET look_through = {last}"));
    keepsake::is_whole_and_takes_more(&mut open(&database));
}
