//! Two writers on one server take turns: the second waits for the first, whatever becomes of it, and no position is missing.

use std::sync::mpsc;
use std::thread;

use postgres_rig::shared;

use super::*;
use crate::event_store::contract::world::{self, Door};
use crate::event_store::sql::intake_of;
use crate::event_store::{EventStore, Position};

const NOW: UtcMs = UtcMs(1_700_000_000_000);

/// Two connections to a store with two doors.
fn two() -> (String, PostgresStore, PostgresStore) {
    let database = shared().new_database();
    let address = Address::new(&shared().url(&database), None, None).unwrap();
    let mut one = PostgresStore::open(address.clone(), NOW).unwrap();
    one.put_site(&world::hq()).unwrap();
    for door in ["hq-door-1", "hq-door-2"] {
        one.put_controller(&world::controller(door)).unwrap();
    }
    let other = PostgresStore::open(address, NOW).unwrap();
    (database, one, other)
}

/// Three taps of a door as a batch.
fn taps(door: u8) -> Vec<tap_protocol::envelope::VerifiedBatch> {
    let mut door = Door::new(door);
    (1..=3).for_each(|card| door.tap(card));
    vec![door.unsent()]
}

/// How many wait for somebody else's turn to end.
fn waiting_in(database: &str) -> String {
    let waiting = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}' AND wait_event_type = 'Lock'"
    );
    shared().query("postgres", &waiting).unwrap()
}

/// The first writer appends and stays in its transaction until the second waits; then it commits, or gives up. Gives the
/// positions that are stored in the end.
fn positions_after(first_commits: bool) -> Vec<Position> {
    let (database, mut one, mut other) = two();
    let (appended, has_appended) = mpsc::sync_channel(1);
    let (go_on, may_go_on) = mpsc::sync_channel::<()>(1);
    let first = thread::spawn(move || {
        one.database.write(|session| {
            intake_of(session, &taps(1), NOW)?;
            appended.send(()).unwrap();
            may_go_on.recv().unwrap();
            match first_commits {
                true => Ok(()),
                false => Err(StoreError::broken("the first gives up")),
            }
        })
    });
    has_appended.recv().unwrap();
    let second = thread::spawn(move || {
        other.append(&taps(2), NOW).unwrap();
        other
    });
    while waiting_in(&database) != "1" {
        assert!(!second.is_finished(), "the second does not wait");
    }
    go_on.send(()).unwrap();
    assert_eq!(first.join().unwrap().is_ok(), first_commits);
    let mut other = second.join().unwrap();
    world::check(&mut other);
    let stored = shared().query(&database, "SELECT position FROM events ORDER BY position").unwrap();
    stored.lines().map(|position| Position(position.parse().unwrap())).collect()
}

#[test]
fn the_second_writer_waits_for_the_first_and_goes_on_behind_it() {
    assert_eq!(positions_after(true), [1, 2, 3, 4, 5, 6].map(Position));
}

#[test]
fn positions_of_a_writer_that_gave_up_are_given_to_the_next() {
    assert_eq!(positions_after(false), [1, 2, 3].map(Position));
}

/// In production no time is invented, and the caller's counts for nothing.
#[test]
fn what_time_it_is_the_server_says_when_it_is_ones_turn() {
    let (database, mut one, mut other) = two();
    let wants_to_know = "SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)";
    let server_now = || shared().query("postgres", wants_to_know).unwrap().parse::<i64>().unwrap();
    let (holds, is_held) = mpsc::sync_channel(1);
    let (go_on, may_go_on) = mpsc::sync_channel::<()>(1);
    let first = thread::spawn(move || {
        one.database.write(|session| {
            let writing =
                crate::event_store::sql::session::all(session, sql::COUNTERS_TO_WRITE, [], |_| Ok(()))?;
            holds.send(()).unwrap();
            may_go_on.recv().unwrap();
            Ok(writing)
        })
    });
    is_held.recv().unwrap();
    let second = thread::spawn(move || {
        other.append(&taps(2), NOW).unwrap();
        other
    });
    while waiting_in(&database) != "1" {
        assert!(!second.is_finished(), "the second does not wait");
    }
    let before = server_now();
    go_on.send(()).unwrap();
    first.join().unwrap().unwrap();
    let mut other = second.join().unwrap();
    let after = server_now();
    let received = shared().query(&database, "SELECT DISTINCT received_ms FROM events").unwrap();
    let received: i64 = received.parse().unwrap();
    assert!((before..=after).contains(&received), "{before} {received} {after}");
    assert!((after..).contains(&other.clock(NOW).unwrap().0));
}

/// A reader that has seen a position has seen all before it, at any moment.
#[test]
fn what_is_under_way_is_seen_by_nobody() {
    let (database, mut one, _) = two();
    one.append(&taps(1), NOW).unwrap();
    let address = Address::new(&shared().url(&database), None, None).unwrap();
    let mut reader = PostgresStore::open_reader(address).unwrap();
    one.database
        .write(|session| {
            intake_of(session, &taps(2), NOW)?;
            assert_eq!(reader.totals().unwrap().last_position, 3);
            Ok(())
        })
        .unwrap();
    assert_eq!(reader.totals().unwrap().last_position, 6);
}
