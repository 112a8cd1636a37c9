//! When a tap happened, and what waits until that is known.

use tap_protocol::record::ClockState;

use super::world::{BOOT_UTC_MS, Door, World};
use crate::event_store::{DeliveryState, HeldFor, Next, Occurred, Position, Timeless, UtcMs};

fn occurred(world: &mut World, position: Position) -> Option<UtcMs> {
    time(world, position).ok().map(|occurred| occurred.at)
}

fn time(world: &mut World, position: Position) -> Result<Occurred, Timeless> {
    world.row(position).tap.unwrap().occurred
}

/// A boot with the right time, then one without; the power is gone for `dark_ms` before that and after it. A tap of card
/// 1 is in the middle. Gives where the tap is, when it was, and the door in its third boot, of which nothing is stored.
fn a_boot_that_never_learns_the_time(world: &mut World, dark_ms: i64) -> (Position, UtcMs, Door) {
    bind(world);
    let mut door = Door::new(1);
    door.start(1, ClockState::Synced);
    door.reboot(dark_ms, 2, ClockState::Unsynced);
    let at = door.next_utc();
    door.unsynced_tap(1);
    door.buffer_high();
    let position = world.store_all_of(&mut door)[2];
    assert_eq!(
        (time(world, position), world.states()),
        (Err(Timeless::Unknown), vec!["held for time".into()])
    );
    door.reboot(dark_ms, 3, ClockState::Synced);
    (position, at, door)
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
    let known = Occurred { at, uncertainty_ms: 500, estimated: false };
    let tap = world.row(position).tap.unwrap();
    assert_eq!((tap.occurred, tap.recorded_wall), (Ok(known), at));
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
    world.send(&claimed, Next::RetryIn(0));
    door.anchor();
    world.store_all_of(&mut door);
    assert_eq!(occurred(world, position), known);
    let again = world.claim_one();
    assert_eq!((again.tap, again.body), (claimed.tap, "{}".to_owned()));
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

pub fn a_boot_between_two_that_know_is_estimated(world: &mut World) {
    let (position, at, mut door) = a_boot_that_never_learns_the_time(world, 20_000);
    world.store_all_of(&mut door);
    let estimate = time(world, position).unwrap();
    assert!(estimate.estimated && estimate.uncertainty_ms <= 22_000, "{estimate:?}");
    assert!(estimate.at.0.abs_diff(at.0) <= estimate.uncertainty_ms, "{estimate:?} and not {at:?}");
    assert_eq!(world.states(), ["pending"]);
    let claimed = world.claim_one();
    assert_eq!((claimed.tap.occurred, claimed.tap.uncertainty_ms), (estimate.at, estimate.uncertainty_ms));
}

pub fn bounds_that_are_too_far_apart_hold_a_tap_and_are_shown(world: &mut World) {
    let (position, at, mut door) = a_boot_that_never_learns_the_time(world, 40_000);
    world.store_all_of(&mut door);
    let Err(Timeless::Between { not_before, not_after }) = time(world, position) else {
        panic!("{:?}", time(world, position));
    };
    assert!((not_before..=not_after).contains(&at), "{at:?} is not from {not_before:?} to {not_after:?}");
    assert!(not_after.0 - not_before.0 <= 84_000);
    assert_eq!(world.states(), ["held for time"]);
}

pub fn bounds_are_found_after_a_restart_and_over_several_boots(world: &mut World) {
    bind(world);
    let mut door = Door::new(1);
    door.start(1, ClockState::Synced);
    let mut positions = Vec::new();
    for (id, card) in [(2, 1), (3, 2)] {
        door.reboot(10_000, id, ClockState::Unsynced);
        door.unsynced_tap(card);
        positions.extend(world.store_all_of(&mut door).last());
        world.restart();
    }
    assert_eq!(world.states(), ["held for time", "held for time"]);
    door.reboot(10_000, 4, ClockState::Synced);
    world.store_all_of(&mut door);
    for position in positions {
        assert!(time(world, position).unwrap().estimated);
    }
    assert_eq!(world.states(), ["pending", "pending"]);
}

pub fn an_anchor_of_the_same_boot_in_another_outbox_helps(world: &mut World) {
    bind(world);
    let mut door = Door::new(1);
    door.start(7, ClockState::Unsynced);
    let at = door.next_utc();
    door.unsynced_tap(1);
    let position = world.store_all_of(&mut door)[1];
    let mut newer = door.new_outbox(4);
    newer.start(7, ClockState::Unsynced);
    newer.anchor();
    world.store_all_of(&mut newer);
    assert_eq!(occurred(world, position), Some(at));
    let at = newer.next_utc();
    newer.unsynced_tap(2);
    let position = world.store_all_of(&mut newer)[0];
    assert_eq!(occurred(world, position), Some(at));
    assert_eq!(world.states(), ["pending", "pending"]);
}

pub fn a_boot_id_of_another_controller_is_another_boot(world: &mut World) {
    bind(world);
    let (mut door, mut other) = (Door::new(1), Door::new(2));
    door.start(7, ClockState::Unsynced);
    door.unsynced_tap(1);
    world.store_all_of(&mut door);
    other.start(7, ClockState::Unsynced);
    other.anchor();
    world.store_all_of(&mut other);
    assert_eq!(world.states(), ["held for time"]);
}

pub fn a_boot_ties_the_outboxes_together_that_it_wrote_to(world: &mut World) {
    bind(world);
    let mut door = Door::new(1);
    door.start(1, ClockState::Synced);
    door.reboot(5_000, 2, ClockState::Unsynced);
    world.store_all_of(&mut door);
    let mut newer = door.new_outbox(4);
    newer.start(2, ClockState::Unsynced);
    newer.unsynced_tap(1);
    let position = world.store_all_of(&mut newer)[1];
    newer.reboot(5_000, 3, ClockState::Synced);
    world.store_all_of(&mut newer);
    assert!(time(world, position).unwrap().estimated);
}

pub fn a_dispute_is_counted_until_it_is_over(world: &mut World) {
    bind(world);
    let mut door = Door::new(1);
    door.anchor_off_by(3_600_000, 0);
    door.anchor();
    door.unsynced_tap(1);
    let position = world.store_all_of(&mut door)[2];
    assert_eq!(time(world, position), Err(Timeless::Disputed));
    assert_eq!(world.store().totals().unwrap().disputed, 1);
    // Eight more that agree are nearer than the one that lies.
    (0..8).for_each(|_| door.anchor());
    door.unsynced_tap(2);
    world.store_all_of(&mut door);
    assert_eq!(world.states(), ["held for time", "pending"], "one bad anchor spoils what is near it");
    assert_eq!(world.store().totals().unwrap().disputed, 1);
}

pub fn a_vouched_clock_that_a_receipt_contradicts_is_disputed(world: &mut World) {
    bind(world);
    let mut door = Door::new(1);
    door.tap(1);
    door.anchor_off_by(-3_600_000, 0);
    door.tap(2);
    world.store_all_of(&mut door);
    assert_eq!(world.states(), ["pending", "held for time"], "what was known before stays");
    assert_eq!(world.store().totals().unwrap().disputed, 1);
}

/// A door that records an anchor a minute for a day: what a record near its end needs is still a handful.
pub fn of_many_anchors_the_nearest_count(world: &mut World) {
    bind(world);
    let mut door = Door::new(1);
    door.anchor_off_by(3_600_000, 0);
    (0..200).for_each(|_| door.anchor());
    let at = door.next_utc();
    door.unsynced_tap(1);
    let position = *world.store_all_of(&mut door).last().unwrap();
    assert_eq!(occurred(world, position), Some(at));
    world.restart();
    let at = door.next_utc();
    door.unsynced_tap(2);
    let position = world.store_all_of(&mut door)[0];
    assert_eq!(occurred(world, position), Some(at));
}

pub fn after_a_day_nobody_waits_behind_a_tap_without_time(world: &mut World) {
    bind(world);
    let (mut door, mut other) = (Door::new(1), Door::new(2));
    door.unsynced_tap(1);
    let position = world.store_all_of(&mut door)[0];
    let behind = world.tap(&mut other, 1);
    assert_eq!(world.states(), ["held for time", "parked"]);
    world.now.0 += crate::event_store::GIVE_UP_ON_TIME_AFTER_MS - 1_001;
    assert_eq!(world.give_up_on_time(), 0, "a day is not over");
    world.now.0 += 1;
    assert_eq!(world.give_up_on_time(), 1);
    assert_eq!(world.states(), ["parked for time_unresolved", "pending"]);
    assert_eq!(world.give_up_on_time(), 0);
    assert_eq!(world.store().totals().unwrap().unresolved, 1);
    let delivery = world.delivery(position);
    assert_eq!((delivery.state, delivery.held_for), (DeliveryState::Parked, Some(HeldFor::TimeUnresolved)));
    let oldest = world.store().destinations().unwrap()[0].oldest_open_received;
    assert_eq!(oldest, Some(world.row(behind).received), "nobody waits for it");
    assert_eq!(world.claim_one().claim.position, behind);
}

pub fn a_time_that_comes_after_all_gives_the_tap_its_place_again(world: &mut World) {
    bind(world);
    let (mut door, mut other) = (Door::new(1), Door::new(2));
    let at = door.next_utc();
    door.unsynced_tap(1);
    let position = world.store_all_of(&mut door)[0];
    world.a_day_passes();
    world.restart();
    world.tap(&mut other, 1);
    assert_eq!(world.states(), ["parked for time_unresolved", "pending"]);
    door.anchor();
    world.store_all_of(&mut door);
    assert_eq!(world.states(), ["pending", "parked"], "it was first");
    assert_eq!(world.store().totals().unwrap().unresolved, 0);
    let claimed = world.claim_one();
    assert_eq!((claimed.claim.position, claimed.tap.occurred), (position, at));
}

pub fn a_time_that_comes_after_all_waits_behind_what_was_sent(world: &mut World) {
    bind(world);
    let (mut door, mut other) = (Door::new(1), Door::new(2));
    door.unsynced_tap(1);
    world.store_all_of(&mut door);
    world.a_day_passes();
    world.tap(&mut other, 1);
    let sent = world.claim_one();
    door.anchor();
    world.store_all_of(&mut door);
    assert_eq!(world.states(), ["parked", "in_flight"]);
    world.send(&sent, Next::Delivered);
    assert_eq!(world.states(), ["pending", "delivered"]);
}

pub fn what_is_set_aside_finds_its_person_when_its_time_comes(world: &mut World) {
    let mut door = Door::new(1);
    door.unsynced_tap(1);
    door.unsynced_tap(2);
    world.store_all_of(&mut door);
    assert_eq!(world.a_day_passes(), 2);
    assert_eq!(world.bind(&[(1, "anna")]).released, 0);
    door.anchor();
    world.store_all_of(&mut door);
    assert_eq!(world.states(), ["pending", "held for binding"]);
    assert_eq!(world.bind(&[(2, "ben")]).released, 1);
    assert_eq!(world.states(), ["pending", "pending"]);
}

pub fn what_waits_for_its_person_is_not_set_aside(world: &mut World) {
    let mut door = Door::new(1);
    world.tap(&mut door, 1);
    assert_eq!(world.a_day_passes(), 0);
    assert_eq!(world.states(), ["held for binding"]);
}

pub fn a_body_once_rendered_is_never_changed_by_a_later_anchor(world: &mut World) {
    let (position, _, mut door) = a_boot_that_never_learns_the_time(world, 20_000);
    world.store_all_of(&mut door);
    let estimate = time(world, position);
    let claimed = world.claim_one();
    world.send(&claimed, Next::RetryIn(0));
    // The second boot's outbox turns up with a better word.
    let mut found = door.new_outbox(5);
    (found.began_utc_ms, found.boottime_ms) = (BOOT_UTC_MS + 21_000, 5_000);
    found.start(2, ClockState::Unsynced);
    found.anchor();
    world.store_all_of(&mut found);
    assert_eq!(time(world, position), estimate);
    let again = world.claim_one();
    assert_eq!((again.tap, again.body), (claimed.tap, "{}".to_owned()));
    assert_eq!(again.claim.position, position);
}
