//! When a tap happened, and what waits until that is known.

use super::world::{Door, World};
use crate::event_store::{Next, Occurred, Position, UtcMs};

fn occurred(world: &mut World, position: Position) -> Option<UtcMs> {
    world.row(position).tap.unwrap().occurred.map(|occurred| occurred.at)
}

/// Persons for the cards 1 and 2.
fn bind(world: &mut World) {
    world.bind(&[(1, "anna"), (2, "ben")]);
}

pub fn a_tap_of_a_synced_clock_is_known_at_once(world: &mut World) {
    bind(world);
    let mut door = Door::new(1);
    let at = door.next_utc();
    let position = world.tap(&mut door, 1);
    let known = Occurred { at, uncertainty_ms: 500 };
    let tap = world.row(position).tap.unwrap();
    assert_eq!((tap.occurred, tap.recorded_wall), (Some(known), at));
    assert_eq!(world.states(), ["pending"]);
}

pub fn a_tap_without_time_is_held_until_its_boot_has_an_anchor(world: &mut World) {
    bind(world);
    let mut door = Door::new(1);
    let at = door.next_utc();
    door.unsynced_tap(1);
    let position = world.store_all_of(&mut door)[0];
    assert_eq!(occurred(world, position), None);
    assert_eq!(world.row(position).tap.unwrap().recorded_wall, UtcMs(0));
    assert_eq!(world.states(), ["held for time"]);
    door.anchor();
    world.store_all_of(&mut door);
    assert_eq!(occurred(world, position), Some(at));
    assert_eq!(world.states(), ["pending"]);
}

pub fn an_anchor_helps_the_taps_after_it_too(world: &mut World) {
    bind(world);
    let mut door = Door::new(1);
    door.unsynced_tap(1);
    door.anchor();
    let at = door.next_utc();
    door.unsynced_tap(2);
    let positions = world.store_all_of(&mut door);
    assert_eq!(world.states(), ["pending", "pending"]);
    assert_eq!(occurred(world, positions[2]), Some(at));
}

pub fn an_anchor_is_remembered_over_a_restart(world: &mut World) {
    bind(world);
    let mut door = Door::new(1);
    door.anchor();
    world.store_all_of(&mut door);
    world.restart();
    door.unsynced_tap(1);
    world.store_all_of(&mut door);
    assert_eq!(world.states(), ["pending"]);
}

pub fn an_anchor_of_another_boot_or_outbox_releases_nothing(world: &mut World) {
    bind(world);
    let (mut door, mut other) = (Door::new(1), Door::new(2));
    door.unsynced_tap(1);
    door.boot = 2;
    door.anchor();
    world.store_all_of(&mut door);
    other.anchor();
    world.store_all_of(&mut other);
    assert_eq!(world.states(), ["held for time"]);
}

pub fn anchors_in_dispute_release_nothing(world: &mut World) {
    bind(world);
    let mut door = Door::new(1);
    door.anchor();
    door.anchor_off_by(3_600_000, 0);
    door.unsynced_tap(1);
    door.anchor();
    world.store_all_of(&mut door);
    assert_eq!(world.states(), ["held for time"]);
}

pub fn a_time_known_too_loosely_is_no_time(world: &mut World) {
    bind(world);
    let mut door = Door::new(1);
    door.unsynced_tap(1);
    door.anchor_off_by(0, 90_000);
    world.store_all_of(&mut door);
    assert_eq!(world.states(), ["held for time"]);
    door.anchor();
    world.store_all_of(&mut door);
    assert_eq!(world.states(), ["pending"]);
}

pub fn a_later_anchor_never_changes_a_known_time(world: &mut World) {
    bind(world);
    let mut door = Door::new(1);
    door.unsynced_tap(1);
    door.anchor_off_by(400, 500);
    let position = world.store_all_of(&mut door)[0];
    let known = occurred(world, position);
    let claimed = world.claim_one();
    world.send(&claimed, Next::RetryAt(world.now));
    door.anchor();
    world.store_all_of(&mut door);
    assert_eq!(occurred(world, position), known);
    let again = world.claim_one();
    assert_eq!((again.tap, again.body), (claimed.tap, Some("{}".into())));
}

pub fn a_tap_waits_for_its_time_first_and_for_its_binding_then(world: &mut World) {
    let mut door = Door::new(1);
    door.unsynced_tap(1);
    world.store_all_of(&mut door);
    assert_eq!(world.states(), ["held for time"]);
    door.anchor();
    world.store_all_of(&mut door);
    assert_eq!(world.states(), ["held for binding"]);
    assert_eq!(world.bind(&[(1, "anna")]).released, 1);
    assert_eq!(world.states(), ["pending"]);
}

pub fn a_tap_held_for_time_blocks_its_person_and_nobody_else(world: &mut World) {
    bind(world);
    let (mut door, mut other) = (Door::new(1), Door::new(2));
    door.unsynced_tap(1);
    world.store_all_of(&mut door);
    world.tap(&mut other, 1);
    world.tap(&mut other, 2);
    assert_eq!(world.states(), ["held for time", "parked", "pending"]);
    door.anchor();
    world.store_all_of(&mut door);
    assert_eq!(world.states(), ["pending", "parked", "pending"]);
}

pub fn the_time_of_the_last_record_is_shown_if_it_is_known(world: &mut World) {
    let mut door = Door::new(1);
    let last = |world: &mut World| world.store().controllers().unwrap()[0].outboxes[0].last_occurred;
    let at = door.next_utc();
    world.tap(&mut door, 1);
    assert_eq!(last(world), Some(at));
    door.buffer_high();
    world.store_all_of(&mut door);
    assert_eq!(last(world), None);
    let at = door.next_utc();
    door.anchor();
    world.store_all_of(&mut door);
    assert_eq!(last(world), Some(at));
    door.raw(&[2]);
    world.store_all_of(&mut door);
    assert_eq!(last(world), None);
}
