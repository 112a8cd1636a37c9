//! What leaves the store for files: that all still adds up and is proved, on both sides of a cut.

use std::path::Path;

use tempfile::TempDir;

use super::world::{self, Door, HR, World, audit, person, sealed, token};
use crate::archive::{self, Deed, NotArchived};
use crate::event_store::archive::{KeptFor, NewSegment};
use crate::event_store::{
    Deed as StoreDeed, DeliveryState, EventFilter, NewDestination, Next, Occurred, Position, Since,
    StoreError, UtcMs,
};
use crate::intake::admit::Admission;

/// Everything is older than that.
const LATER: UtcMs = UtcMs(i64::MAX);

/// All that is due is sent, until nothing is left.
fn deliver_all(world: &mut World) {
    loop {
        let claimed = world.claim();
        if claimed.is_empty() {
            return;
        }
        claimed.iter().for_each(|claimed| world.send(claimed, Next::Delivered));
    }
}

/// Doors one and two with a tap each in turns, `count` in all, of which the last of ana's and ben's cards are delivered.
fn filled(world: &mut World, count: u8) -> (Door, Door) {
    world.small_ranges(10);
    world.bind(&[(1, "ana"), (2, "ben")]);
    let (mut one, mut two) = (Door::new(1), Door::new(2));
    for number in 0..count {
        let door = if number % 2 == 0 { &mut one } else { &mut two };
        world.tap(door, 1 + number % 2);
    }
    deliver_all(world);
    (one, two)
}

/// Archives the next range, rows and all.
fn archive_next(world: &mut World, folder: &Path) -> Result<NewSegment, NotArchived> {
    let archived = cut_next(world, folder)?;
    while world.archivist().remove_archived().unwrap() {
        world.check();
    }
    Ok(archived)
}

/// As [`archive_next`], and the rows are still there.
fn cut_next(world: &mut World, folder: &Path) -> Result<NewSegment, NotArchived> {
    let next = world.store().range_after(Position(0), LATER).unwrap().expect("a range is full");
    assert_eq!(next.kept_for, []);
    let deed = Deed { folder, now: world.now, by: "ana" };
    let archived = archive::archive(world.archivist(), next.range, &deed, &mut |_| {})?;
    world.check();
    Ok(archived)
}

/// A destination that wants all taps there ever were.
fn add_late(world: &mut World) {
    let new = NewDestination { from: Since::Beginning, ..NewDestination::from_now("late", "{}") };
    let deed = StoreDeed::by_itself(world.now, "add", "late");
    assert!(world.store().add_destination(&new, &deed).unwrap());
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

pub fn old_ranges_leave_for_files_and_everything_still_adds_up(world: &mut World) {
    let (mut one, _) = filled(world, 25);
    let (folder, marks, totals) = (folder(), world.store().marks().unwrap(), world.store().totals().unwrap());
    let counts = world.store().delivery_counts().unwrap();
    for from in [1, 11] {
        let segment = archive_next(world, folder.path()).unwrap();
        assert_eq!((segment.range.from.0, segment.range.to.0), (from, from + 9));
        assert_eq!((segment.taps, segment.attempts), (10, 10));
        let found = archive::verify(&folder.path().join(&segment.file)).unwrap();
        assert_eq!((found.sha256, found.contents.end.records), (segment.sha256, 10));
        world.restart();
    }
    assert_eq!(world.store().range_after(Position(0), LATER).unwrap(), None, "the third is not full");
    assert_eq!(world.store().marks().unwrap(), marks);
    assert_eq!((world.store().totals().unwrap(), world.store().delivery_counts().unwrap()), (totals, counts));
    assert_eq!(world.events().len(), 5);
    let segments = world.store().segments().unwrap();
    assert!(segments.iter().all(|segment| segment.is_removed && segment.made_by == "ana"));
    // Of what is gone it is known where; of what is here and of what never was, that it is in no segment.
    let (gone, here) = (one.event_id(5), one.event_id(12));
    assert_eq!(world.store().segment_with(gone).unwrap(), Some(segments[0].file.clone()));
    assert_eq!(world.store().event(gone).unwrap(), None);
    assert_eq!(world.store().segment_with(here).unwrap(), None);
    assert!(world.store().event(here).unwrap().is_some());
    assert_eq!(world.store().segment_with(Door::new(3).event_id(1)).unwrap(), None);
    // A controller that sends all of it again is told that it is stored, and goes on.
    let again = world.append(&[one.batch(1, 4), one.batch(2, 13)]);
    assert!(again.iter().all(|appended| appended.admission == Admission::Duplicate));
    world.tap(&mut one, 1);
    deliver_all(world);
}

pub fn what_is_still_needed_keeps_its_range_and_says_why(world: &mut World) {
    let (mut one, _) = filled(world, 9);
    world.tap(&mut one, 7);
    let now = world.now;
    let kept = |world: &mut World, before| {
        world.store().range_after(Position(0), before).unwrap().expect("the range is full").kept_for
    };
    let held =
        |state| KeptFor::Deliveries { destination: HR.to_owned(), state, count: 1, first: Position(10) };
    assert_eq!(kept(world, LATER), [held(DeliveryState::Held)]);
    assert_eq!(kept(world, now), [KeptFor::Young { before: now }, held(DeliveryState::Held)]);
    world.bind(&[(7, "cleo")]);
    assert_eq!(kept(world, LATER), [held(DeliveryState::Pending)]);
    let claimed = world.claim().remove(0);
    assert_eq!(kept(world, LATER), [held(DeliveryState::InFlight)]);
    world.send(&claimed, Next::Dead);
    assert_eq!(kept(world, LATER), [held(DeliveryState::Dead)], "a person may still decide about it");
    // A destination that is still to be told of old taps.
    add_late(world);
    let backfill = KeptFor::Backfill { destination: "late".into(), from: Position(1) };
    assert_eq!(kept(world, LATER), [held(DeliveryState::Dead), backfill]);
}

pub fn a_signature_on_both_sides_of_a_cut_proves_both(world: &mut World) {
    world.small_ranges(10);
    world.bind(&[(1, "ana")]);
    let (mut one, mut two, folder) = (Door::new(1), Door::new(2), folder());
    (0..3).for_each(|_| one.tap(1));
    world.store_all_of(&mut one);
    world.tap(&mut two, 1);
    // Records 4 to 14 at positions 5 to 15, 15 to 22 at 16 to 23, 23 to 30 at 24 to 31: two signatures over the first cut, one
    // of them over the second, too.
    (0..27).for_each(|_| one.tap(1));
    for batch in [one.batch(2, 14), one.batch(3, 22), one.batch(20, 30)] {
        world.append(&[batch]);
    }
    one.unsent();
    deliver_all(world);
    for _ in 0..3 {
        let segment = archive_next(world, folder.path()).unwrap();
        let found = archive::verify(&folder.path().join(&segment.file)).unwrap();
        assert!(found.signatures > 0);
        assert!(audit(world.store()).holds);
    }
    assert_eq!(world.events().len(), 1);
    world.tap(&mut one, 1);
}

pub fn a_range_that_is_not_as_it_was_read_stays(world: &mut World) {
    filled(world, 20);
    let folder = folder();
    let next = world.store().range_after(Position(0), LATER).unwrap().unwrap();
    let deed = Deed { folder: folder.path(), now: world.now, by: "ana" };
    // Meanwhile a destination comes that wants old taps.
    add_late(world);
    let refused = archive::archive(world.archivist(), next.range, &deed, &mut |_| {});
    let Err(NotArchived::Changed(why)) = refused else { panic!("{refused:?}") };
    assert!(why.contains("late is still to be told of old taps"), "{why}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "no file is left of it");
    world.check();
    assert_eq!(world.store().archived().unwrap().records, 0);
}

pub fn between_the_cut_and_the_removal_nobody_sees_what_is_archived(world: &mut World) {
    let (mut one, _) = filled(world, 25);
    let folder = folder();
    cut_next(world, folder.path()).unwrap();
    world.restart();
    world.check();
    assert_eq!(world.store().event(one.event_id(1)).unwrap(), None);
    assert_eq!(world.events().last().unwrap().position, Position(11));
    let delivered =
        EventFilter { state: Some(DeliveryState::Delivered), limit: 100, ..EventFilter::default() };
    assert_eq!(world.store().events(&delivered).unwrap().len(), 15);
    world.tap(&mut one, 1);
    assert!(!world.store().segments().unwrap()[0].is_removed);
    // The next range may follow before the first one's rows are gone.
    cut_next(world, folder.path()).unwrap();
    while world.archivist().remove_archived().unwrap() {
        world.check();
    }
    assert!(world.store().segments().unwrap().iter().all(|segment| segment.is_removed));
}

pub fn what_comes_late_is_timed_by_anchors_that_are_archived(world: &mut World) {
    world.small_ranges(10);
    world.bind(&[(1, "ana")]);
    let (mut door, folder) = (Door::new(1), folder());
    door.anchor();
    (0..9).for_each(|_| door.unsynced_tap(1));
    world.store_all_of(&mut door);
    deliver_all(world);
    archive_next(world, folder.path()).unwrap();
    let at = door.next_utc();
    door.unsynced_tap(1);
    let position = world.store_all_of(&mut door)[0];
    let Ok(Occurred { at: timed, .. }) = world.row(position).tap.unwrap().occurred else {
        panic!("its boot's anchor is known")
    };
    assert_eq!(timed, at);
}

pub fn a_card_that_was_seen_long_ago_is_known_and_can_be_bound(world: &mut World) {
    world.small_ranges(10);
    let (mut door, folder) = (Door::new(1), folder());
    (0..10).for_each(|_| door.tap(9));
    world.store_all_of(&mut door);
    // Nobody's card, and somebody has decided that its taps are not to be delivered.
    for statement in [
        "UPDATE deliveries SET state = 'discarded', held_for = NULL",
        "UPDATE delivery_counts SET count = 10 WHERE state = 'discarded'",
        "UPDATE delivery_counts SET count = 0 WHERE state = 'held'",
    ] {
        world.run(statement).unwrap();
    }
    archive_next(world, folder.path()).unwrap();
    assert!(world.store().seen(&[token(9), token(8)]).unwrap().contains(&token(9)));
    assert_eq!(world.store().seal_of(token(9)).unwrap(), Some(sealed(9, world::OLD)));
    assert_eq!(world.store().seal_of(token(8)).unwrap(), None);
    world.bind(&[(9, "cleo")]);
    world.tap(&mut door, 9);
    assert_eq!(world.events()[0].tap.as_ref().unwrap().deliveries[0].person, Some(person("cleo")));
}

pub fn a_new_destination_is_told_of_what_is_left(world: &mut World) {
    filled(world, 15);
    let folder = folder();
    archive_next(world, folder.path()).unwrap();
    add_late(world);
    while world.turn_at("late", &[], 0).more {}
    world.check();
    let late = world.events().into_iter().filter_map(|row| row.tap);
    assert_eq!(late.filter(|tap| tap.deliveries.iter().any(|one| one.destination == "late")).count(), 5);
}

pub fn the_service_adds_to_what_is_append_only_and_changes_nothing_of_it(world: &mut World) {
    let (mut one, _) = filled(world, 12);
    let folder = folder();
    archive_next(world, folder.path()).unwrap();
    for table in crate::event_store::sql::APPEND_ONLY.into_iter().filter(|table| *table != "ranges") {
        let column = match table {
            "batches" => "signature",
            "events" => "bytes",
            "fleet_log" => "who",
            "signers" => "key",
            "site_rules" => "site",
            "segments" => "sha256",
            "segment_deliveries" => "count",
            "segment_outboxes" => "hash_after",
            "past_badges" => "ciphertext",
            other => panic!("which column has {other}?"),
        };
        for statement in [
            format!("UPDATE {table} SET {column} = {column}"),
            format!("DELETE FROM {table}"),
            format!("DROP TABLE {table}"),
        ] {
            let refused = world.run(&statement);
            assert!(matches!(refused, Err(StoreError::Broken(_))), "{statement}: {refused:?}");
        }
    }
    world.check();
    world.tap(&mut one, 1);
}

pub fn positions_go_on_over_the_end_of_a_range(world: &mut World) {
    world.small_ranges(10);
    let mut door = Door::new(1);
    for _ in 0..9 {
        (0..8).for_each(|_| door.tap(1));
        world.store_all_of(&mut door);
        world.restart();
    }
    assert_eq!(world.store().totals().unwrap().last_position, 72);
}
