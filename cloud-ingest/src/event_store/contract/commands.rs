//! Commands to controllers, places in an outbox, and what contradicts itself.

use tap_protocol::command::Order;
use tap_protocol::ids::{OutboxId, Seq};
use tap_protocol::report::Outcome;

use super::world::{Door, World, id};
use crate::event_store::commands::{CommandEnd, MAX_COMMANDS, MAX_TROUBLES, TroubleKind};
use crate::event_store::{OutboxMark, StoreError, UtcMs};

const NOW: UtcMs = UtcMs(1_700_000_000_000);

fn queue(world: &mut World, order: Order, now: i64) -> u64 {
    world.store().queue_command(&id("hq-door-1"), &order, "somebody wants it", UtcMs(now)).unwrap()
}

fn end(world: &mut World, number: u64) -> bool {
    let end = CommandEnd { at: UtcMs(5), outcome: Outcome::Refused, detail: "no".into() };
    world.store().end_command(&id("hq-door-1"), number, &end).unwrap()
}

fn next(world: &mut World) -> Option<u64> {
    world.store().next_command(&id("hq-door-1")).unwrap().map(|next| next.number)
}

pub fn commands_are_numbered_upwards_by_the_clock_and_without_it(world: &mut World) {
    assert_eq!(next(world), None);
    assert_eq!(queue(world, Order::RunChecks, NOW.0), NOW.0 as u64);
    world.restart();
    assert_eq!(queue(world, Order::FetchKeys, 5), NOW.0 as u64 + 1, "a clock that was set back");
    assert_eq!(queue(world, Order::Revoke, NOW.0 + 90), NOW.0 as u64 + 90);
    assert_eq!(world.store().next_command(&id("hq-door-2")).unwrap(), None);
    let unknown = world.store().queue_command(&id("nobody"), &Order::RunChecks, "", NOW);
    assert!(matches!(unknown, Err(StoreError::NotFound { .. })));
}

pub fn one_command_after_the_other_is_next_until_it_ends(world: &mut World) {
    let (first, second) = (queue(world, Order::RunChecks, NOW.0), queue(world, Order::FetchKeys, NOW.0));
    assert_eq!(next(world), Some(first));
    assert!(end(world, first) && !end(world, first), "it ends once");
    assert!(!end(world, 7) && !end(world, u64::MAX), "nobody gave such a one");
    world.restart();
    assert_eq!(next(world), Some(second));
    let rows = world.store().commands(&id("hq-door-1")).unwrap();
    assert_eq!(rows.iter().map(|row| row.number).collect::<Vec<_>>(), [second, first]);
    assert_eq!(
        (rows[1].why.as_str(), rows[1].issued, &rows[1].order),
        ("somebody wants it", NOW, &Order::RunChecks)
    );
    assert_eq!(
        rows[1].end.as_ref().map(|end| (end.outcome, end.detail.as_str())),
        Some((Outcome::Refused, "no"))
    );
}

pub fn an_open_order_is_not_given_twice_and_an_outbox_is_left_once(world: &mut World) {
    let checks = queue(world, Order::RunChecks, NOW.0);
    assert_eq!(queue(world, Order::RunChecks, NOW.0 + 9), checks);
    end(world, checks);
    assert!(queue(world, Order::RunChecks, NOW.0 + 9) > checks);
    let leave = |n| Order::StartNewOutbox { outbox: OutboxId([n; 16]) };
    let left = queue(world, leave(1), NOW.0 + 20);
    end(world, left);
    assert_eq!(queue(world, leave(1), NOW.0 + 30), left);
    assert!(queue(world, leave(2), NOW.0 + 30) > left);
}

pub fn only_the_newest_commands_are_kept(world: &mut World) {
    for n in 0..=MAX_COMMANDS as i64 {
        let number = queue(world, Order::RunChecks, NOW.0 + n);
        end(world, number);
    }
    let rows = world.store().commands(&id("hq-door-1")).unwrap();
    assert_eq!((rows.len(), rows.last().unwrap().number), (MAX_COMMANDS, NOW.0 as u64 + 1));
}

pub fn places_are_told_up_to_the_mark_and_for_that_outbox_alone(world: &mut World) {
    let mut door = Door::new(1);
    (0..5).for_each(|_| door.tap(1));
    world.append(&[door.batch(1, 4)]);
    let place = |seq: u64| OutboxMark {
        controller: door.controller.clone(),
        outbox: door.outbox,
        stored_through: Seq(seq),
        hash: door.hash_through(seq),
    };
    let mut at = |outbox, seqs: &[u64]| {
        let seqs: Vec<Seq> = seqs.iter().copied().map(Seq).collect();
        world.store().places(&door.controller, outbox, &seqs).unwrap()
    };
    assert_eq!(at(door.outbox, &[1, 3, 4, 5, 1 << 47]), [place(1), place(3), place(4)]);
    assert_eq!(at(door.outbox, &[]), []);
    assert_eq!(at(OutboxId([0xee; 16]), &[1]), []);
    assert_eq!(world.store().places(&id("hq-door-2"), door.outbox, &[Seq(1)]).unwrap(), []);
}

pub fn contradictions_are_counted_and_the_latest_come_first(world: &mut World) {
    let door = id("hq-door-1");
    let outbox = Some(OutboxId([1; 16]));
    let mut note =
        |kind, outbox, at, now| world.store().note_trouble(&door, kind, outbox, at, UtcMs(now)).unwrap();
    assert!(note(TroubleKind::Fork, outbox, Some(Seq(7)), 10));
    assert!(note(TroubleKind::Apart, outbox, None, 20));
    assert!(note(TroubleKind::Twins, None, None, 30));
    assert!(!note(TroubleKind::Fork, outbox, Some(Seq(9)), 40));
    world.restart();
    let told: Vec<_> = world.store().troubles(&door).unwrap();
    let told: Vec<_> = told.iter().map(|t| (t.kind, t.outbox, t.at, t.first.0, t.last.0, t.count)).collect();
    assert_eq!(
        told,
        [
            (TroubleKind::Fork, outbox, Some(Seq(7)), 10, 40, 2),
            (TroubleKind::Twins, None, None, 30, 30, 1),
            (TroubleKind::Apart, outbox, None, 20, 20, 1),
        ]
    );
    assert_eq!(world.store().troubles(&id("hq-door-2")).unwrap(), []);
}

pub fn only_the_latest_contradictions_are_kept(world: &mut World) {
    let door = id("hq-door-1");
    for n in 0..=MAX_TROUBLES as u128 {
        let outbox = Some(OutboxId(n.to_be_bytes()));
        world.store().note_trouble(&door, TroubleKind::Fork, outbox, None, UtcMs(n as i64)).unwrap();
    }
    let told = world.store().troubles(&door).unwrap();
    assert_eq!((told.len(), told.last().unwrap().first), (MAX_TROUBLES, UtcMs(1)));
}
