//! What people and screens are told.

use tap_protocol::ids::{EventId, OutboxId, Seq};

use super::world::{Door, HR, World, controller, hq};
use crate::event_store::{DeliveryState, EventFilter, Next, Position, Site};

fn listed(world: &mut World, filter: EventFilter) -> Vec<u64> {
    world.store().events(&filter).unwrap().iter().map(|row| row.position.0).collect()
}

/// Three taps at door 1, one other record and two taps at door 2; the first tap is delivered, the second dead.
fn some_events(world: &mut World) -> (Door, Door) {
    world.bind(&[(1, "anna")]);
    let (mut one, mut two) = (Door::new(1), Door::new(2));
    world.tap(&mut one, 1);
    world.tap(&mut two, 1);
    one.buffer_high();
    world.store_all_of(&mut one);
    world.tap(&mut one, 1);
    world.tap(&mut two, 2);
    world.tap(&mut one, 1);
    let claimed = world.claim_one();
    world.send(&claimed, Next::Delivered);
    let claimed = world.claim_one();
    world.send(&claimed, Next::Dead);
    (one, two)
}

pub fn events_are_paged_newest_first(world: &mut World) {
    some_events(world);
    let page = |world: &mut World, before: Option<u64>, limit: usize| {
        listed(world, EventFilter { before: before.map(Position), limit, ..EventFilter::default() })
    };
    assert_eq!(page(world, None, 4), [6, 5, 4, 3]);
    assert_eq!(page(world, Some(3), 4), [2, 1]);
    assert_eq!(page(world, Some(1), 4), [0; 0]);
    assert_eq!(page(world, Some(0), 4), [0; 0]);
    assert_eq!(page(world, Some(u64::MAX), 1), [6]);
    assert_eq!(page(world, None, 0), [0; 0]);
}

pub fn events_are_filtered_by_controller_kind_and_state(world: &mut World) {
    let (one, two) = some_events(world);
    let all = EventFilter { limit: 9, ..EventFilter::default() };
    let of_one = EventFilter { controller: Some(one.controller), ..all.clone() };
    let of_two = EventFilter { controller: Some(two.controller), ..all.clone() };
    let in_state = |state| EventFilter { state: Some(state), ..all.clone() };
    assert_eq!(listed(world, EventFilter { taps_only: true, ..all.clone() }), [6, 5, 4, 2, 1]);
    assert_eq!(listed(world, of_one.clone()), [6, 4, 3, 1]);
    assert_eq!(listed(world, EventFilter { taps_only: true, before: Some(Position(6)), ..of_one }), [4, 1]);
    assert_eq!(listed(world, EventFilter { limit: 1, ..of_two.clone() }), [5]);
    assert_eq!(listed(world, in_state(DeliveryState::Delivered)), [1]);
    assert_eq!(listed(world, in_state(DeliveryState::Dead)), [2]);
    assert_eq!(listed(world, in_state(DeliveryState::Pending)), [4]);
    assert_eq!(listed(world, in_state(DeliveryState::Parked)), [6]);
    assert_eq!(listed(world, in_state(DeliveryState::Held)), [5]);
    assert_eq!(listed(world, in_state(DeliveryState::Discarded)), [0; 0]);
    let dead_of_two = EventFilter { state: Some(DeliveryState::Dead), ..of_two.clone() };
    assert_eq!(listed(world, dead_of_two), [2]);
    let delivered_of_two = EventFilter { state: Some(DeliveryState::Delivered), ..of_two };
    assert_eq!(listed(world, delivered_of_two), [0; 0]);
}

pub fn an_event_is_found_by_its_id_with_all_that_happened(world: &mut World) {
    let (one, _) = some_events(world);
    let detail = world.store().event(one.event_id(1)).unwrap().unwrap();
    assert_eq!(detail.row, world.row(Position(1)));
    assert_eq!(
        (detail.row.seq, &detail.row.controller, detail.row.outbox),
        (Seq(1), &one.controller, one.outbox)
    );
    assert_eq!(detail.hash, one.hash_through(1));
    assert_eq!(detail.bodies, [(HR.to_owned(), "{}".to_owned())]);
    assert_eq!(detail.attempts.len(), 1);
    let no_tap = world.store().event(one.event_id(2)).unwrap().unwrap();
    assert_eq!((no_tap.row.kind.as_str(), no_tap.row.tap), ("buffer_high", None));
    assert_eq!((no_tap.attempts, no_tap.bodies), (vec![], vec![]));
}

pub fn an_id_that_names_nothing_finds_nothing(world: &mut World) {
    let (one, _) = some_events(world);
    let find = |world: &mut World, id: EventId| world.store().event(id).unwrap();
    for seq in [0, 5, (1 << 48) - 1] {
        assert_eq!(find(world, one.event_id(seq)), None);
    }
    assert_eq!(find(world, EventId::new(&one.controller, OutboxId([9; 16]), Seq(1))), None);
}

pub fn a_parked_delivery_names_the_one_ahead(world: &mut World) {
    world.bind(&[(1, "anna"), (2, "ben")]);
    let mut door = Door::new(1);
    [1, 2, 1, 1].iter().for_each(|card| {
        world.tap(&mut door, *card);
    });
    let behind = |world: &mut World, position| world.delivery(Position(position)).behind;
    assert_eq!(behind(world, 1), None);
    assert_eq!(behind(world, 3), Some(door.event_id(1)));
    assert_eq!(behind(world, 4), Some(door.event_id(3)));
    let next_attempt = world.delivery(Position(3)).next_attempt;
    assert_eq!(next_attempt, None, "what is parked is due at no time");
}

pub fn controllers_are_listed_by_id_with_their_outboxes(world: &mut World) {
    world.store().put_controller(&controller("a-door")).unwrap();
    let mut old = Door::new(2);
    old.tap(1);
    let mut new = Door::new(2);
    new.outbox = OutboxId([0; 16]);
    new.tap(1);
    new.tap(1);
    world.store_all_of(&mut old);
    let first_stored = world.now;
    world.store_all_of(&mut new);
    let states = world.store().controllers().unwrap();
    let ids: Vec<&str> = states.iter().map(|state| state.controller.id.as_str()).collect();
    assert_eq!(ids, ["a-door", "hq-door-1", "hq-door-2", "hq-door-3"]);
    let outboxes = &states[2].outboxes;
    assert_eq!(outboxes.iter().map(|state| state.outbox).collect::<Vec<_>>(), [old.outbox, new.outbox]);
    assert_eq!((outboxes[0].last_seq, outboxes[0].last_stored), (Seq(1), Some(first_stored)));
    assert_eq!((outboxes[1].last_seq, outboxes[1].stored_through), (Seq(2), Seq(2)));
    assert_eq!(states[0].outboxes, []);
}

pub fn the_oldest_open_tap_of_a_destination_is_known(world: &mut World) {
    let oldest = |world: &mut World| world.store().destinations().unwrap()[0].oldest_open_received;
    assert_eq!(oldest(world), None);
    world.bind(&[(1, "anna")]);
    let mut door = Door::new(1);
    world.tap(&mut door, 1);
    let first = world.now;
    world.tap(&mut door, 2);
    let second = world.now;
    assert_eq!(oldest(world), Some(first));
    let claimed = world.claim_one();
    assert_eq!(oldest(world), Some(first));
    world.send(&claimed, Next::Dead);
    assert_eq!(oldest(world), Some(second), "what is dead is not open");
}

pub fn every_state_is_counted_even_at_zero(world: &mut World) {
    crate::fixture::add_destination(world.store(), "payroll");
    world.tap(&mut Door::new(1), 1);
    let counts = world.store().delivery_counts().unwrap();
    let cells: Vec<_> =
        counts.iter().map(|cell| (cell.destination.as_str(), cell.state, cell.count)).collect();
    let of = |name| DeliveryState::ALL.map(|state| (name, state, u64::from(state == DeliveryState::Held)));
    assert_eq!(cells, [of(HR), of("payroll")].concat());
}

pub fn sites_are_listed_by_id(world: &mut World) {
    let annex = Site { id: "annex".into(), label: "Annex".into(), zone: "Europe/Lisbon".into() };
    world.store().put_site(&annex).unwrap();
    assert_eq!(world.store().sites().unwrap(), [annex, hq()]);
    let moved = Site { zone: "UTC".into(), ..hq() };
    world.store().put_site(&moved).unwrap();
    assert_eq!(world.store().sites().unwrap()[1], moved);
}
