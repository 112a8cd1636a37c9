//! How far controllers are complete, how far a destination was told so, and order over several controllers.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::world::{Door, HR, World, boundless, id, person};
use crate::delivery::complete::{Door as Told, Holds, NOT_KNOWN};
use crate::delivery::limiter::Limits;
use crate::delivery::rules::Rules;
use crate::delivery::ticks::Ticker;
use crate::directory::timeline::EVER;
use crate::event_store::completeness::WatermarkRow;
use crate::event_store::{
    Change, Deed, DeliveryRow, DeliveryState, HeldFor, MAX_MADE_AT_ONCE, NewDestination, Next, PersonId,
    Position, Rendered, Since, Standing, StoreError, Turn, UtcMs,
};
use tap_protocol::hello::Hello;
use tap_protocol::record::ClockState;

/// From here on it is known how far the destination was told.
fn follow(world: &mut World) {
    world.rules.is_followed = true;
    settle(world);
}

/// From here on taps are told in the order in which they happened, and wait so long for doors that are behind.
pub(super) fn in_order(world: &mut World, longest_s: u64) {
    world.rules.across_ms = Some(longest_s * 1_000);
    settle(world);
}

fn settle(world: &mut World) {
    while world.turn_at(HR, &[], 0).more {}
}

/// The door says hello a second after its last record, and has receipts for all that is stored of it.
fn hello(world: &mut World, door: &mut Door) {
    let hello = door.says(door.last_seq().0);
    let now = UtcMs(world.now.0.max(door.utc().0));
    world.now = now;
    let shown = world.shown();
    world.store().note_hello(&hello, shown).unwrap();
    world.check();
}

fn heard(world: &mut World, hello: &Hello) {
    let now = world.shown();
    world.store().note_hello(hello, now).unwrap();
}

#[track_caller]
fn door(world: &mut World, name: &str) -> Told {
    let doors = world.store().doors(HR).unwrap().expect("account is kept of it");
    doors.into_iter().find(|door| door.controller == id(name)).unwrap()
}

fn deed(world: &World) -> Deed {
    Deed::by_itself(world.now, "waive", "hq-door-1")
}

pub fn a_door_is_complete_through_its_hello_once_all_of_it_is_receipted(world: &mut World) {
    assert_eq!(world.store().doors(HR).unwrap(), None, "nobody has asked for it");
    follow(world);
    let mut first = Door::new(1);
    assert_eq!(door(world, "hq-door-1").told_through(), Some((None, Holds::NeverComplete)));
    first.tap(1);
    let unsent = first.says(0);
    heard(world, &unsent);
    assert_eq!(door(world, "hq-door-1").complete, None, "a tap is on the door");
    world.store_all_of(&mut first);
    hello(world, &mut first);
    // Half a second is what the door's clock may be off by.
    assert_eq!(door(world, "hq-door-1").complete, Some(UtcMs(first.utc().0 - 500)));
    world.restart();
    assert_eq!(door(world, "hq-door-1").complete, Some(UtcMs(first.utc().0 - 500)));
}

pub fn a_hello_is_complete_through_when_the_next_one_has_its_receipts(world: &mut World) {
    follow(world);
    let mut first = Door::new(1);
    first.tap(1);
    world.store_all_of(&mut first);
    let before = (first.says(0), first.utc());
    heard(world, &before.0);
    first.tap(1);
    heard(world, &first.says(1));
    assert_eq!(door(world, "hq-door-1").complete, Some(UtcMs(before.1.0 - 500)));
}

pub fn a_hello_of_a_clock_that_nobody_vouches_for_is_told_by_its_boot(world: &mut World) {
    follow(world);
    let mut first = Door::new(1);
    first.start(4, ClockState::Unsynced);
    let unknown = first.says_unsynced(1);
    world.store_all_of(&mut first);
    heard(world, &unknown);
    assert_eq!(door(world, "hq-door-1").complete, None);
    first.anchor();
    world.store_all_of(&mut first);
    heard(world, &first.says_unsynced(2));
    let complete = door(world, "hq-door-1").complete.unwrap();
    assert!((first.utc().0 - 1_000..=first.utc().0).contains(&complete.0), "{complete:?}");
}

pub fn what_is_not_delivered_holds_its_own_door_back_until_a_person_sets_it_aside(world: &mut World) {
    follow(world);
    world.bind(&[(1, "anna"), (2, "ben")]);
    let (mut first, mut second) = (Door::new(1), Door::new(2));
    let happened = first.next_utc();
    world.tap(&mut first, 1);
    world.tap(&mut second, 2);
    for door in [&mut first, &mut second] {
        door.boottime_ms += 120_000;
        hello(world, door);
    }
    assert_eq!(door(world, "hq-door-1").untold, Some(happened));
    let claimed = world.claim();
    for one in &claimed {
        assert_eq!(door(world, "hq-door-1").untold, Some(happened), "it is under way");
        let next = if one.tap.person == person("anna") { Next::Dead } else { Next::Delivered };
        world.send(one, next);
    }
    let refused = door(world, "hq-door-1");
    assert_eq!(refused.told_through(), Some((Some(happened), Holds::Untold)), "it was refused");
    let other = door(world, "hq-door-2").told_through();
    assert_eq!(other, Some((Some(UtcMs(second.utc().0 - 500 - 60_000)), Holds::OnTheDoor)));
}

pub fn what_is_in_doubt_or_has_no_person_or_no_time_holds_its_door_back(world: &mut World) {
    follow(world);
    world.bind(&[(1, "anna")]);
    let mut first = Door::new(1);
    let happened = first.next_utc();
    world.tap(&mut first, 1);
    let claimed = world.claim_one();
    world.send(&claimed, Next::AskPerson);
    assert_eq!(door(world, "hq-door-1").untold, Some(happened), "nobody knows whether it is there");
    let mut second = Door::new(2);
    let unbound = second.next_utc();
    world.tap(&mut second, 9);
    assert_eq!(door(world, "hq-door-2").untold, Some(unbound), "nobody knows whose it is");
    let mut third = Door::new(3);
    third.unsynced_tap(1);
    let at = third.utc();
    world.store_all_of(&mut third);
    hello(world, &mut third);
    assert_eq!(door(world, "hq-door-3").untold, Some(NOT_KNOWN));
    assert_eq!(door(world, "hq-door-3").told_through(), Some((None, Holds::UntoldWithoutTime)));
    world.a_day_passes();
    assert_eq!(door(world, "hq-door-3").untold, Some(NOT_KNOWN), "nobody waits for it, and it is not told");
    third.anchor();
    world.store_all_of(&mut third);
    assert_eq!(door(world, "hq-door-3").untold, Some(at));
}

pub fn what_was_open_before_account_was_kept_is_in_it(world: &mut World) {
    world.bind(&[(1, "anna"), (2, "ben"), (3, "cleo")]);
    let mut first = Door::new(1);
    let earliest = first.next_utc();
    for card in [1, 2, 3, 1] {
        world.tap(&mut first, card);
    }
    let claimed = world.claim();
    world.send(&claimed[0], Next::Dead);
    world.send(&claimed[1], Next::Delivered);
    follow(world);
    assert_eq!(door(world, "hq-door-1").untold, Some(earliest));
    world.send(&claimed[2], Next::Delivered);
    assert_eq!(door(world, "hq-door-1").untold, Some(earliest), "what is dead is told to nobody");
}

pub fn an_outbox_that_went_with_its_disk_is_waited_for_until_it_is_waived(world: &mut World) {
    follow(world);
    let mut first = Door::new(1);
    first.tap(1);
    world.store_all_of(&mut first);
    hello(world, &mut first);
    let complete = door(world, "hq-door-1").complete;
    let mut after = first.new_outbox(7);
    after.tap(1);
    world.store_all_of(&mut after);
    hello(world, &mut after);
    assert_eq!(door(world, "hq-door-1").complete, complete, "the disk may have had taps");
    let deed = deed(world);
    assert_eq!(world.store().waive(&id("hq-door-1"), &deed).unwrap(), 1);
    assert_eq!(world.store().waive(&id("hq-door-1"), &deed).unwrap(), 0);
    hello(world, &mut after);
    assert_eq!(door(world, "hq-door-1").complete, Some(UtcMs(after.utc().0 - 500)));
    assert_eq!(world.store().deeds(1).unwrap()[0].what, "waive");
    let nobody = world.store().waive(&id("nobody"), &deed);
    assert!(matches!(nobody, Err(StoreError::NotFound { .. })), "{nobody:?}");
}

pub fn a_door_that_is_retired_holds_back_what_it_told_of_and_is_not_stored(world: &mut World) {
    follow(world);
    let mut first = Door::new(1);
    first.tap(1);
    world.store_all_of(&mut first);
    hello(world, &mut first);
    first.tap(1);
    heard(world, &first.says(1));
    let retire = Deed::by_itself(world.now, "retire", "hq-door-1");
    world.store().set_standing(&id("hq-door-1"), Standing::Retired, &retire).unwrap();
    let retired = door(world, "hq-door-1");
    assert!(retired.is_missed && retired.told_through().is_some(), "{retired:?}");
    let deed = deed(world);
    assert_eq!(world.store().waive(&id("hq-door-1"), &deed).unwrap(), 1);
    let retired = door(world, "hq-door-1");
    assert_eq!(
        (retired.is_missed, retired.untold.is_some()),
        (false, true),
        "what is stored is not told yet"
    );
}

pub fn taps_at_two_doors_are_sent_in_the_order_in_which_they_happened(world: &mut World) {
    in_order(world, 3_600);
    world.bind(&[(1, "anna")]);
    let (mut first, mut second) = (Door::new(1), Door::new(2));
    let mut third = Door::new(3);
    // At the first door at 1 s and 3 s, at the second at 2 s: and that one was offline.
    let one = world.tap(&mut first, 1);
    first.buffer_high();
    second.buffer_high();
    second.tap(1);
    first.tap(1);
    let three = *world.store_all_of(&mut first).last().unwrap();
    assert_eq!(world.claim(), []);
    assert_eq!(world.states(), ["held for completeness", "held for completeness"]);
    hello(world, &mut first);
    hello(world, &mut third);
    assert_eq!(world.claim(), [], "the second door has said nothing");
    let two = *world.store_all_of(&mut second).last().unwrap();
    for door in [&mut first, &mut second, &mut third] {
        door.boottime_ms += 60_000;
        hello(world, door);
    }
    let mut sent = Vec::new();
    loop {
        let claimed = world.claim();
        let [next] = claimed.as_slice() else { break };
        assert!(!world.delivery(next.claim.position).is_early);
        sent.push(next.claim.position);
        world.send(next, Next::Delivered);
    }
    assert_eq!(sent, [one, two, three]);
}

pub fn nobody_waits_longer_for_a_door_that_is_away_than_was_agreed(world: &mut World) {
    in_order(world, 60);
    world.bind(&[(1, "anna")]);
    let mut first = Door::new(1);
    let at = world.tap(&mut first, 1);
    let received = world.row(at).received;
    world.now = UtcMs(received.0 + 59_999);
    assert_eq!(world.claim(), []);
    let waits = world.delivery(at);
    assert_eq!((waits.held_for, waits.is_early), (Some(HeldFor::Completeness), false));
    world.now = UtcMs(received.0 + 60_000);
    let claimed = world.claim_one();
    assert!(world.delivery(at).is_early);
    world.send(&claimed, Next::Delivered);
    assert!(world.delivery(at).is_early, "it is written down for good");
}

pub fn what_stands_before_one_that_waited_for_long_enough_goes_with_it(world: &mut World) {
    in_order(world, 60);
    world.bind(&[(1, "anna")]);
    let (mut first, mut second) = (Door::new(1), Door::new(2));
    second.tap(1);
    first.buffer_high();
    first.tap(1);
    let later = *world.store_all_of(&mut first).last().unwrap();
    let received = world.row(later).received;
    world.now = UtcMs(received.0 + 50_000);
    let earlier = world.store_all_of(&mut second)[0];
    world.now = UtcMs(received.0 + 60_000);
    let claimed = world.claim_one();
    assert_eq!(claimed.claim.position, earlier);
    world.send(&claimed, Next::Delivered);
    let claimed = world.claim_one();
    assert_eq!(claimed.claim.position, later);
    let is_early = [earlier, claimed.claim.position].map(|at| world.delivery(at).is_early);
    assert_eq!(is_early, [true, true]);
}

/// Two doors, of which the second is offline with a tap that was made before the one that is stored of the first.
fn one_door_is_offline(world: &mut World) -> (Door, Door, Position) {
    world.bind(&[(1, "anna"), (2, "anna")]);
    let (mut first, mut second) = (Door::new(1), Door::new(2));
    second.tap(2);
    first.buffer_high();
    first.tap(1);
    let later = *world.store_all_of(&mut first).last().unwrap();
    (first, second, later)
}

fn waited_for(world: &mut World, position: Position, ms: i64) {
    world.now = UtcMs(world.row(position).received.0 + ms);
}

pub fn one_that_comes_late_goes_with_whoever_has_waited_for_long_enough(world: &mut World) {
    in_order(world, 60);
    let (_, mut second, later) = one_door_is_offline(world);
    waited_for(world, later, 60_000);
    assert_eq!(world.turn_at(HR, &[], 0).early, 0, "nothing is sent yet");
    assert_eq!(world.states(), ["pending"]);
    let earlier = world.store_all_of(&mut second)[0];
    assert_eq!(world.states(), ["parked", "pending"], "it goes first, and makes nobody wait");
    assert!(world.delivery(earlier).is_early, "a third door may have an earlier one");
    for expected in [earlier, later] {
        let turned = world.turn_at(HR, &[], 5);
        assert_eq!((turned.claimed.len(), turned.early), (1, 1), "each is counted when it goes");
        assert_eq!(turned.claimed[0].claim.position, expected);
        world.send(&turned.claimed[0], Next::RetryIn(0));
        let turned = world.turn_at(HR, &[], 5);
        assert_eq!(turned.early, 0, "and not again when it is tried again");
        world.send(&turned.claimed[0], Next::Delivered);
    }
}

pub fn what_stands_before_one_that_all_are_complete_past_is_complete_too(world: &mut World) {
    in_order(world, 3_600);
    world.bind(&[(1, "anna")]);
    let (mut first, mut second, mut third) = (Door::new(1), Door::new(2), Door::new(3));
    let earlier = world.tap(&mut second, 2);
    first.boottime_ms += 1_000;
    let later = world.tap(&mut first, 1);
    for door in [&mut second, &mut third] {
        door.boottime_ms += 60_000;
        hello(world, door);
    }
    world.turn_at(HR, &[], 0);
    assert_eq!(world.states(), ["held for binding", "pending"]);
    // Whose it is becomes known; the first door has not said yet how far it is complete.
    world.bind(&[(2, "anna")]);
    assert_eq!(world.states(), ["pending", "parked"]);
    assert_eq!([earlier, later].map(|at| world.delivery(at).is_early), [false, false]);
}

pub fn one_that_comes_late_waits_for_others_while_what_stands_behind_it_is_sent(world: &mut World) {
    in_order(world, 60);
    let (_, mut second, later) = one_door_is_offline(world);
    waited_for(world, later, 60_000);
    let claimed = world.claim_one();
    let earlier = world.store_all_of(&mut second)[0];
    assert_eq!(world.states(), ["in_flight", "held for completeness"], "nobody waits for it");
    // It was not taken, and stands in line again.
    world.send(&claimed, Next::RetryIn(0));
    assert_eq!(world.states(), ["parked", "pending"]);
    assert_eq!(world.claim_one().claim.position, earlier);
}

pub fn one_that_comes_after_whoever_went_early_has_its_own_wait(world: &mut World) {
    in_order(world, 60);
    let (_, mut second, later) = one_door_is_offline(world);
    waited_for(world, later, 60_000);
    let claimed = world.claim_one();
    let earlier = world.store_all_of(&mut second)[0];
    world.send(&claimed, Next::Delivered);
    assert_eq!(world.claim(), []);
    assert_eq!(
        world.delivery(earlier).held_for,
        Some(HeldFor::Completeness),
        "others may have an earlier one"
    );
    waited_for(world, earlier, 60_000);
    assert_eq!(world.claim_one().claim.position, earlier);
}

pub fn one_whose_badge_was_another_persons_goes_with_whoever_has_done_with_waiting(world: &mut World) {
    in_order(world, 60);
    world.bind(&[(1, "anna"), (2, "ben"), (3, "ben")]);
    let mut first = Door::new(1);
    let positions = [1, 3, 2, 1].map(|card| {
        first.boottime_ms += 1_000;
        world.tap(&mut first, card)
    });
    waited_for(world, positions[3], 60_000);
    assert_eq!(world.turn_at(HR, &[], 0).early, 0, "nothing is sent yet");
    assert_eq!(world.states(), ["pending", "pending", "parked", "parked"]);
    // The third was hers: it stands in the middle of her line, and nobody has to wait again.
    assert_eq!(world.give(2, Some("anna"), Some(EVER), None).moved, 1);
    assert_eq!(world.states(), ["pending", "pending", "parked", "parked"]);
    for expected in [positions[0], positions[2], positions[3]] {
        let claimed = world.claim().into_iter().find(|claimed| claimed.claim.position != positions[1]);
        let claimed = claimed.expect("it is her turn");
        assert_eq!(claimed.claim.position, expected);
        world.send(&claimed, Next::Delivered);
    }
}

pub fn old_taps_that_are_told_later_wait_for_nobody_and_keep_nobody_waiting(world: &mut World) {
    world.rules.across_ms = Some(60_000);
    world.bind(&[(1, "anna"), (2, "anna"), (3, "ben")]);
    let (mut first, mut second) = (Door::new(1), Door::new(2));
    second.tap(2);
    for _ in 0..MAX_MADE_AT_ONCE.div_ceil(100) {
        (0..100).for_each(|_| first.tap(3));
        world.store_all_of(&mut first);
    }
    let old = world.tap(&mut first, 1);
    let deed = Deed::by_itself(world.now, "add", "archive");
    let new = NewDestination { from: Since::Beginning, ..NewDestination::from_now("archive", "{}") };
    world.store().add_destination(&new, &deed).unwrap();
    assert!(world.turn_at("archive", &[], 0).more, "the last one is still to be told");
    let late = world.store_all_of(&mut second)[0];
    let at_archive = |world: &mut World, position| {
        let deliveries = world.row(position).tap.unwrap().deliveries;
        deliveries.into_iter().find(|delivery| delivery.destination == "archive").unwrap()
    };
    assert_eq!(at_archive(world, late).held_for, Some(HeldFor::Completeness));
    while world.turn_at("archive", &[], 0).more {}
    let states = [late, old].map(|position| at_archive(world, position).state);
    assert_eq!(states, [DeliveryState::Pending, DeliveryState::Parked]);
}

pub fn one_that_was_stored_by_a_clock_that_was_ahead_waits_no_longer_than_others(world: &mut World) {
    in_order(world, 60);
    world.bind(&[(1, "anna")]);
    let now = world.now;
    world.now.0 += 10 * 365 * 86_400_000;
    let at = world.tap(&mut Door::new(1), 1);
    world.now = now;
    // A minute on the clock that nobody can push.
    for _ in 0..3 {
        world.now.0 += 60_000;
        world.turn_at(HR, &[], 0);
    }
    world.claim_one();
    assert!(world.delivery(at).is_early);
}

pub fn a_door_alone_at_its_site_waits_for_nobody(world: &mut World) {
    in_order(world, 3_600);
    world.bind(&[(1, "anna")]);
    for name in ["hq-door-2", "hq-door-3"] {
        let deed = Deed::by_itself(world.now, "retire", name);
        world.store().set_standing(&id(name), Standing::Retired, &deed).unwrap();
    }
    let at = world.tap(&mut Door::new(1), 1);
    world.claim_one();
    assert!(!world.delivery(at).is_early);
}

pub fn an_unbound_tap_waits_for_other_doors_when_it_is_bound(world: &mut World) {
    in_order(world, 60);
    let at = world.tap(&mut Door::new(1), 1);
    world.now.0 += 10_000;
    assert_eq!(world.delivery(at).held_for, Some(HeldFor::Binding));
    let bound = world.bind(&[(1, "anna")]);
    assert_eq!(bound.released, 1);
    assert_eq!(world.delivery(at).held_for, Some(HeldFor::Completeness));
    world.now.0 += 60_000;
    world.claim_one();
}

pub fn a_time_that_becomes_known_gives_a_tap_its_place_in_the_order_of_time(world: &mut World) {
    in_order(world, 60);
    world.bind(&[(1, "anna")]);
    let (mut first, mut second) = (Door::new(1), Door::new(2));
    second.unsynced_tap(1);
    let early = world.store_all_of(&mut second)[0];
    first.buffer_high();
    first.tap(1);
    let late = *world.store_all_of(&mut first).last().unwrap();
    world.now.0 += 61_000;
    assert_eq!(world.claim(), [], "nobody knows which was first");
    second.anchor();
    world.store_all_of(&mut second);
    let mut sent = Vec::new();
    for _ in 0..2 {
        let claimed = world.claim_one();
        sent.push(claimed.claim.position);
        world.send(&claimed, Next::Delivered);
    }
    assert_eq!(sent, [early, late]);
}

pub fn what_stands_in_line_is_brought_into_another_order_when_the_settings_want_it(world: &mut World) {
    world.bind(&[(1, "anna"), (2, "ben")]);
    let (mut first, mut second) = (Door::new(1), Door::new(2));
    second.tap(1);
    first.buffer_high();
    first.tap(1);
    let later = *world.store_all_of(&mut first).last().unwrap();
    let earlier = world.store_all_of(&mut second)[0];
    world.tap(&mut second, 2);
    assert_eq!(world.states(), ["pending", "parked", "pending"]);
    in_order(world, 60);
    assert_eq!(world.states(), ["parked", "pending", "pending"], "the second door's came first");
    assert_eq!(world.delivery(later).behind, Some(world.row(earlier).event_id));
    world.rules.across_ms = None;
    settle(world);
    assert_eq!(world.states(), ["pending", "parked", "pending"]);
    // Whatever waited for other doors waits no more.
    in_order(world, 60);
    world.tap(&mut second, 2);
    assert_eq!(world.states().last().unwrap(), "held for completeness");
    world.rules.across_ms = None;
    settle(world);
    assert_eq!(world.states().last().unwrap(), "parked");
}

pub fn nothing_is_claimed_while_lines_are_brought_into_order(world: &mut World) {
    world.bind(&[(1, "anna"), (2, "ben"), (3, "cleo")]);
    let mut first = Door::new(1);
    for n in 0..1_200 {
        first.tap(n as u8 % 3 + 1);
    }
    for from in (1..=1_200).step_by(200) {
        let batch = first.batch(from, from + 199);
        let now = world.now;
        world.store().append(&[batch], now).unwrap();
    }
    world.check();
    world.rules.across_ms = Some(60_000);
    let turned = world.turn_at(HR, &[], 5);
    assert!(turned.claimed.is_empty() && turned.more, "{turned:?}");
    let state = world.store().destinations().unwrap().remove(0);
    assert!(state.to_order > 0 && state.hindrance(world.now).unwrap().what == "getting ready", "{state:?}");
    settle(world);
    assert_eq!(world.claim().len(), 3);
}

/// May a watermark be begun, with that much room?
pub(super) fn begin(world: &mut World, limits: Limits, calls: u32, next: UtcMs) -> bool {
    let rules = Rules { limits, ..boundless() };
    let version = world.store().destinations().unwrap()[0].version;
    let ticker = Ticker::new(77);
    let (now, monotonic_ms) = (world.shown(), world.now.0.unsigned_abs());
    let turn = Turn {
        destination: HR,
        version,
        rules: &rules,
        now,
        vouch: &|| ticker.vouch(monotonic_ms),
        ended: &[],
        under_way: &[],
        room: 0,
        render: &|_, _| Rendered::Impossible("nothing is asked".into()),
    };
    world.store().begin_watermark(&turn, "Day", calls, next).unwrap().is_some()
}

pub fn a_watermark_is_moved_by_one_at_a_time_within_the_limit(world: &mut World) {
    let limits = Limits { per_second: 1.0, burst: 5, per_day: None, concurrency: 5 };
    let next = UtcMs(world.now.0 + 600_000);
    assert!(!begin(world, limits, 2, next), "nobody has looked at it");
    let mut row = WatermarkRow { looked: world.now, ..WatermarkRow::new(HR, "Day") };
    world.store().put_watermark(&row, 0).unwrap();
    assert!(begin(world, limits, 2, next));
    assert!(!begin(world, limits, 2, next), "somebody has begun");
    row.next = world.now;
    (row.stands_at, row.held_back_by) = (Some("2026-03-02 08:00:00".into()), Some(id("hq-door-2")));
    world.store().put_watermark(&row, 2).unwrap();
    assert_eq!(world.store().watermarks().unwrap(), std::slice::from_ref(&row));
    assert!(begin(world, limits, 2, next), "three of five were left");
    world.store().put_watermark(&row, 2).unwrap();
    assert!(!begin(world, limits, 2, next), "one of five is left");
    world.restart();
    assert_eq!(world.store().watermarks().unwrap(), [row]);
}

pub fn a_watermark_is_left_alone_while_the_destination_is(world: &mut World) {
    let limits = Limits { per_second: 1.0, burst: 5, per_day: None, concurrency: 5 };
    let row = WatermarkRow { looked: world.now, ..WatermarkRow::new(HR, "Day") };
    world.store().put_watermark(&row, 0).unwrap();
    let next = UtcMs(world.now.0 + 600_000);
    let pause = Deed { why: "because".into(), ..Deed::by_itself(world.now, "pause", HR) };
    world.store().change_destination(HR, &Change::Pause, &pause).unwrap();
    assert!(!begin(world, limits, 2, next));
    world.store().change_destination(HR, &Change::Resume, &pause).unwrap();
    assert!(begin(world, limits, 2, next));
}

/// What happens at two doors and between them and the cloud.
#[derive(Debug, Clone)]
enum Step {
    Tap { door: usize, card: u8 },
    Store { door: usize },
    Hello { door: usize },
    Send { is_taken: bool },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..2usize, 1..4u8).prop_map(|(door, card)| Step::Tap { door, card }),
        3 => (0..2usize).prop_map(|door| Step::Store { door }),
        3 => (0..2usize).prop_map(|door| Step::Hello { door }),
        3 => any::<bool>().prop_map(|is_taken| Step::Send { is_taken }),
    ]
}

/// A day at two doors that are complete sooner or later. Gives for each person when the taps happened, in the order in which
/// they were delivered.
fn a_day(steps: &[Step]) -> (usize, BTreeMap<PersonId, Vec<UtcMs>>) {
    let mut world = World::new(Box::new(super::InMemory::new()));
    let retire = Deed::by_itself(world.now, "retire", "hq-door-3");
    world.store().set_standing(&id("hq-door-3"), Standing::Retired, &retire).unwrap();
    in_order(&mut world, 86_400);
    world.bind(&[(1, "anna"), (2, "anna"), (3, "ben")]);
    let mut doors = [Door::new(1), Door::new(2)];
    let (mut passed_ms, mut taps) = (0, 0);
    let mut delivered: BTreeMap<PersonId, Vec<UtcMs>> = BTreeMap::new();
    let mut unsent = [0, 0];
    let mut send = |world: &mut World, is_taken: bool| {
        let claimed = world.claim();
        for one in &claimed {
            match is_taken {
                true => {
                    world.send(one, Next::Delivered);
                    delivered.entry(one.tap.person.clone()).or_default().push(one.tap.occurred);
                }
                false => world.send(one, Next::RetryIn(0)),
            }
        }
        !claimed.is_empty()
    };
    for step in steps {
        passed_ms += 7_000;
        match step {
            Step::Tap { door, card } => {
                doors[*door].boottime_ms = passed_ms;
                doors[*door].tap(*card);
                (taps, unsent[*door]) = (taps + 1, unsent[*door] + 1);
            }
            Step::Store { door } if unsent[*door] > 0 => {
                world.store_all_of(&mut doors[*door]);
                unsent[*door] = 0;
            }
            // With something on the door it has no receipts for all of it.
            Step::Hello { door } if unsent[*door] == 0 => {
                doors[*door].boottime_ms = passed_ms;
                hello(&mut world, &mut doors[*door]);
            }
            Step::Store { .. } | Step::Hello { .. } => {}
            Step::Send { is_taken } => drop(send(&mut world, *is_taken)),
        }
    }
    for door in 0..2 {
        if unsent[door] > 0 {
            world.store_all_of(&mut doors[door]);
        }
        doors[door].boottime_ms = passed_ms + 60_000;
        hello(&mut world, &mut doors[door]);
    }
    while send(&mut world, true) {}
    (taps, delivered)
}

/// The same two doors, of which one may be away for longer than anybody waits.
#[derive(Debug, Clone)]
enum Hour {
    Day(Step),
    Pass { ms: i64 },
}

fn hour() -> impl Strategy<Value = Hour> {
    prop_oneof![
        6 => step().prop_map(Hour::Day),
        1 => (1..50_000i64).prop_map(|ms| Hour::Pass { ms }),
    ]
}

const LONGEST_S: u64 = 60;

/// Nobody stands behind one that waits for other doors who has waited for as long as was agreed, or has done with waiting.
fn nobody_waits_too_long(world: &mut World, last_turn: UtcMs) {
    let over = UtcMs(last_turn.0 - LONGEST_S as i64 * 1_000);
    let rows = world.events();
    let mut lanes: BTreeMap<PersonId, Vec<(UtcMs, UtcMs, DeliveryRow)>> = BTreeMap::new();
    for row in rows {
        let Some(tap) = row.tap else { continue };
        let (Some(delivery), Ok(occurred)) = (tap.deliveries.into_iter().next(), tap.occurred) else {
            continue;
        };
        if let (Some(person), true) = (delivery.person.clone(), delivery.state.is_open()) {
            lanes.entry(person).or_default().push((occurred.at, row.received, delivery));
        }
    }
    for lane in lanes.values_mut() {
        lane.sort_by_key(|(at, ..)| *at);
        let waits = |delivery: &DeliveryRow| delivery.held_for == Some(HeldFor::Completeness);
        let first = lane.iter().position(|(.., delivery)| waits(delivery)).unwrap_or(lane.len());
        let too_long = lane[first..].iter().any(|(_, received, delivery)| {
            let is_sent = matches!(delivery.state, DeliveryState::InFlight | DeliveryState::Unknown);
            !is_sent && (*received <= over || !waits(delivery))
        });
        assert!(!too_long, "at {last_turn:?}: {lane:#?}");
    }
}

/// A day like the other one, with doors that are away for longer than anybody waits. Gives of each person when the taps
/// happened that were delivered, in that order, and whether they went early.
fn a_day_with_doors_away(hours: &[Hour]) -> (usize, BTreeMap<PersonId, Vec<(UtcMs, bool)>>) {
    let mut world = World::new(Box::new(super::InMemory::new()));
    let retire = Deed::by_itself(world.now, "retire", "hq-door-3");
    world.store().set_standing(&id("hq-door-3"), Standing::Retired, &retire).unwrap();
    in_order(&mut world, LONGEST_S);
    world.bind(&[(1, "anna"), (2, "anna"), (3, "ben")]);
    let mut doors = [Door::new(1), Door::new(2)];
    let began = world.now;
    let mut taps = 0;
    let mut delivered: BTreeMap<PersonId, Vec<(UtcMs, bool)>> = BTreeMap::new();
    let mut send = |world: &mut World, is_taken: bool| {
        let claimed = world.claim();
        let now = world.now;
        nobody_waits_too_long(world, now);
        for one in &claimed {
            match is_taken {
                true => {
                    let is_early = world.delivery(one.claim.position).is_early;
                    delivered.entry(one.tap.person.clone()).or_default().push((one.tap.occurred, is_early));
                    world.send(one, Next::Delivered);
                }
                false => world.send(one, Next::RetryIn(0)),
            }
        }
        let now = world.now;
        nobody_waits_too_long(world, now);
        !claimed.is_empty()
    };
    let mut unsent = [0, 0];
    for hour in hours {
        world.now.0 += 1_000;
        let passed_ms = (world.now.0 - began.0) as u64;
        match hour {
            Hour::Pass { ms } => world.now.0 += ms,
            Hour::Day(Step::Tap { door, card }) => {
                // Everybody's clock is right, and no two taps are at the same moment.
                doors[*door].began_utc_ms = began.0;
                doors[*door].boottime_ms = passed_ms;
                doors[*door].tap(*card);
                (taps, unsent[*door]) = (taps + 1, unsent[*door] + 1);
                world.now.0 += 1_000;
            }
            Hour::Day(Step::Store { door }) if unsent[*door] > 0 => {
                world.store_all_of(&mut doors[*door]);
                unsent[*door] = 0;
            }
            Hour::Day(Step::Hello { door }) if unsent[*door] == 0 => {
                doors[*door].began_utc_ms = began.0;
                doors[*door].boottime_ms = passed_ms;
                hello(&mut world, &mut doors[*door]);
            }
            Hour::Day(Step::Store { .. } | Step::Hello { .. }) => {}
            Hour::Day(Step::Send { is_taken }) => drop(send(&mut world, *is_taken)),
        }
    }
    for door in 0..2 {
        if unsent[door] > 0 {
            world.store_all_of(&mut doors[door]);
        }
    }
    world.now.0 += LONGEST_S as i64 * 1_000;
    while send(&mut world, true) {}
    (taps, delivered)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn with_all_doors_complete_everybodys_taps_are_told_in_the_order_of_time(
        steps in prop::collection::vec(step(), 1..50),
    ) {
        let (taps, delivered) = a_day(&steps);
        prop_assert_eq!(delivered.values().map(Vec::len).sum::<usize>(), taps, "none is lost");
        prop_assert!(delivered.values().all(|times| times.is_sorted()), "{:?}", delivered);
    }

    #[test]
    fn nobody_waits_longer_than_was_agreed_and_only_what_went_early_is_overtaken(
        hours in prop::collection::vec(hour(), 1..50),
    ) {
        let (taps, delivered) = a_day_with_doors_away(&hours);
        prop_assert_eq!(delivered.values().map(Vec::len).sum::<usize>(), taps, "none is lost");
        for told in delivered.values() {
            let overtaken = told.iter().enumerate().find(|(at, (happened, is_early))| {
                !is_early && told[at + 1..].iter().any(|(later, _)| later < happened)
            });
            prop_assert_eq!(overtaken, None, "{:?}", told);
        }
    }
}
