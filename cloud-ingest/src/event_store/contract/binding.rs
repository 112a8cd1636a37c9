//! Whose badge it is, and what waits until somebody says so.

use super::world::{Door, World, person};
use crate::event_store::{Bound, Next, UtcMs};

pub fn a_tap_of_an_unbound_badge_is_held(world: &mut World) {
    let mut door = Door::new(1);
    let position = world.tap(&mut door, 1);
    world.tap(&mut door, 1);
    assert_eq!(world.states(), ["held for binding", "held for binding"]);
    assert_eq!(world.delivery(position).person, None);
    assert_eq!(world.claim(), []);
}

pub fn binding_releases_what_was_held_for_it(world: &mut World) {
    let mut door = Door::new(1);
    let position = world.tap(&mut door, 1);
    world.tap(&mut door, 2);
    world.tap(&mut door, 1);
    assert_eq!(world.bind(&[(1, "anna")]), Bound { new: 1, released: 2, ..Bound::default() });
    assert_eq!(world.states(), ["pending", "held for binding", "parked"]);
    assert_eq!(world.delivery(position).person, Some(person("anna")));
}

pub fn a_binding_is_remembered_over_a_restart(world: &mut World) {
    world.bind(&[(1, "anna")]);
    world.restart();
    world.tap(&mut Door::new(1), 1);
    assert_eq!(world.states(), ["pending"]);
    assert_eq!(world.store().totals().unwrap().badges, 1);
}

pub fn an_import_says_what_it_changed(world: &mut World) {
    let first = world.bind(&[(1, "anna"), (2, "ben"), (3, "cleo")]);
    assert_eq!(first, Bound { new: 3, ..Bound::default() });
    let second = world.bind(&[(1, "anna"), (2, "dora"), (4, "emil")]);
    assert_eq!(second, Bound { new: 1, changed: 1, unchanged: 1, ..Bound::default() });
    assert_eq!(world.store().totals().unwrap().badges, 4);
}

pub fn binding_to_another_person_concerns_taps_to_come(world: &mut World) {
    world.bind(&[(1, "anna")]);
    let mut door = Door::new(1);
    let before = world.tap(&mut door, 1);
    world.bind(&[(1, "ben")]);
    let late = world.tap(&mut door, 1);
    assert_eq!(world.delivery(late).person, Some(person("anna")), "it was before");
    door.boottime_ms += 7_200_000;
    let after = world.tap(&mut door, 1);
    assert_eq!(world.delivery(before).person, Some(person("anna")));
    assert_eq!(world.delivery(after).person, Some(person("ben")));
    assert_eq!(world.states(), ["pending", "parked", "pending"]);
}

pub fn two_badges_of_one_person_stand_in_one_line(world: &mut World) {
    world.bind(&[(1, "anna"), (2, "anna")]);
    let (mut door, mut other) = (Door::new(1), Door::new(2));
    let positions = [world.tap(&mut door, 1), world.tap(&mut other, 2), world.tap(&mut door, 1)];
    assert_eq!(world.states(), ["pending", "parked", "parked"]);
    for position in positions {
        let claimed = world.claim_one();
        assert_eq!(claimed.claim.position, position);
        world.send(&claimed, Next::Delivered);
    }
}

pub fn a_late_binding_goes_in_front_of_what_is_pending(world: &mut World) {
    world.bind(&[(2, "anna")]);
    let mut door = Door::new(1);
    [1, 2, 1, 2].iter().for_each(|card| {
        world.tap(&mut door, *card);
    });
    assert_eq!(world.states(), ["held for binding", "pending", "held for binding", "parked"]);
    world.bind(&[(1, "anna")]);
    assert_eq!(world.states(), ["pending", "parked", "parked", "parked"]);
}

pub fn a_late_binding_stays_behind_what_was_sent(world: &mut World) {
    world.bind(&[(2, "anna")]);
    let mut door = Door::new(1);
    let late = world.tap(&mut door, 1);
    let sent = world.tap(&mut door, 2);
    let claimed = world.claim_one();
    world.bind(&[(1, "anna")]);
    assert_eq!(world.states(), ["parked", "in_flight"]);
    assert_eq!(world.delivery(late).behind, Some(world.row(sent).event_id));
    world.send(&claimed, Next::UnknownFor(0));
    assert_eq!(world.states(), ["parked", "unknown"]);
    let claimed = world.claim_one();
    world.send(&claimed, Next::Delivered);
    assert_eq!(world.states(), ["pending", "delivered"]);
}

pub fn a_retry_steps_back_behind_what_a_late_binding_brought(world: &mut World) {
    world.bind(&[(2, "anna")]);
    let mut door = Door::new(1);
    let late = world.tap(&mut door, 1);
    let sent = world.tap(&mut door, 2);
    let claimed = world.claim_one();
    world.bind(&[(1, "anna")]);
    let retry_at = UtcMs(world.now.0 + 5_000);
    world.send(&claimed, Next::RetryIn(5_000));
    assert_eq!(world.states(), ["pending", "parked"]);
    let first = world.claim_one();
    assert_eq!(first.claim.position, late);
    world.send(&first, Next::Delivered);
    assert_eq!(world.delivery(sent).next_attempt, Some(retry_at), "its time to try again is kept");
}

pub fn what_waits_for_its_time_moves_to_the_person_and_waits_on(world: &mut World) {
    let mut door = Door::new(1);
    door.unsynced_tap(1);
    door.tap(1);
    let positions = world.store_all_of(&mut door);
    assert_eq!(world.states(), ["held for time", "held for binding"]);
    assert_eq!(world.bind(&[(1, "anna")]).released, 1);
    assert_eq!(world.states(), ["held for time", "parked"]);
    assert_eq!(world.delivery(positions[0]).person, Some(person("anna")));
    door.anchor();
    world.store_all_of(&mut door);
    assert_eq!(world.states(), ["pending", "parked"]);
}
