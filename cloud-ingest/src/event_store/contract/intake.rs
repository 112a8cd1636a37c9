//! What comes in: admission, marks, hellos, dead letters.

use tap_protocol::chain::ChainHash;
use tap_protocol::ids::{OutboxId, Seq, StoreEpoch};

use super::CREATED;
use super::world::{Door, World, controller, hq, id};
use crate::event_store::{
    Controller, DeadLetter, MAX_DEAD_LETTER_BYTES, MAX_DEAD_LETTERS, OutboxMark, OutboxState, Site,
    StoreError, UtcMs,
};
use crate::intake::admit::Admission;

const FROM_1: Admission = Admission::Store { from: Seq(1) };

/// `hq-door-{number}` with that many taps of card 1.
fn door(number: u8, taps: usize) -> Door {
    let mut door = Door::new(number);
    (0..taps).for_each(|_| door.tap(1));
    door
}

fn mark(door: &Door, stored_through: u64) -> OutboxMark {
    OutboxMark {
        controller: door.controller.clone(),
        outbox: door.outbox,
        stored_through: Seq(stored_through),
        hash: door.hash_through(stored_through),
    }
}

fn outbox_state(world: &mut World, door: &Door) -> OutboxState {
    let states = world.store().controllers().unwrap();
    let state = states.into_iter().find(|state| state.controller.id == door.controller).unwrap();
    state.outboxes.into_iter().find(|outbox| outbox.outbox == door.outbox).unwrap()
}

pub fn the_first_batch_of_an_outbox_is_stored(world: &mut World) {
    let door = door(1, 2);
    let appended = world.append(&[door.batch(1, 2)]);
    assert_eq!((&appended[0].admission, &appended[0].mark), (&FROM_1, &mark(&door, 2)));
    assert_eq!(world.events().len(), 2);
}

pub fn a_batch_sent_again_is_a_duplicate_and_changes_nothing(world: &mut World) {
    let door = door(1, 3);
    world.append(&[door.batch(1, 3)]);
    let before = (world.events(), world.store().totals().unwrap());
    for (first, last) in [(1, 3), (1, 2), (2, 3), (2, 2)] {
        let appended = world.append(&[door.batch(first, last)]);
        assert_eq!((&appended[0].admission, &appended[0].mark), (&Admission::Duplicate, &mark(&door, 3)));
    }
    assert_eq!((world.events(), world.store().totals().unwrap()), before);
}

pub fn a_duplicate_is_known_after_a_restart(world: &mut World) {
    let door = door(1, 3);
    world.append(&[door.batch(1, 3)]);
    world.restart();
    assert_eq!(world.append(&[door.batch(1, 2)])[0].admission, Admission::Duplicate);
    assert_eq!(world.events().len(), 3);
}

pub fn an_overlapping_batch_is_stored_from_the_mark_on(world: &mut World) {
    let door = door(1, 4);
    world.append(&[door.batch(1, 2)]);
    let appended = world.append(&[door.batch(2, 4)]);
    assert_eq!(appended[0].admission, Admission::Store { from: Seq(3) });
    assert_eq!(appended[0].mark, mark(&door, 4));
    assert_eq!(world.events().len(), 4);
}

pub fn a_batch_beyond_the_mark_is_not_stored_but_heard_of(world: &mut World) {
    let door = door(1, 4);
    let appended = world.append(&[door.batch(3, 4)]);
    assert_eq!((&appended[0].admission, &appended[0].mark), (&Admission::Beyond, &mark(&door, 0)));
    assert_eq!(world.events(), []);
    let state = outbox_state(world, &door);
    assert_eq!((state.last_seq, state.stored_through, state.last_stored), (Seq(4), Seq(0), None));
}

pub fn a_fork_below_the_mark_is_stored_nowhere(world: &mut World) {
    let door = door(1, 3);
    world.append(&[door.batch(1, 3)]);
    let before = (world.events(), world.store().controllers().unwrap());
    let mut other = Door::new(1);
    [1, 2, 1, 1, 1].iter().for_each(|card| other.tap(*card));
    let appended = world.append(&[other.batch(1, 5)]);
    assert_eq!(
        (&appended[0].admission, &appended[0].mark),
        (&Admission::Fork { at: Seq(3) }, &mark(&door, 3))
    );
    let appended = world.append(&[other.batch(1, 2)]);
    assert_eq!(appended[0].admission, Admission::Fork { at: Seq(2) });
    assert_eq!((world.events(), world.store().controllers().unwrap()), before);
}

pub fn a_chain_that_does_not_continue_the_mark_is_stored_nowhere(world: &mut World) {
    let door = door(1, 2);
    world.append(&[door.batch(1, 2)]);
    let mut other = Door::new(1);
    [1, 2, 1].iter().for_each(|card| other.tap(*card));
    assert_eq!(world.append(&[other.batch(3, 3)])[0].admission, Admission::Fork { at: Seq(2) });
    assert_eq!(world.events().len(), 2);
    assert_eq!(world.store().marks().unwrap(), [mark(&door, 2)]);
}

pub fn the_mark_carries_the_hash_of_the_chain(world: &mut World) {
    let door = door(1, 300);
    for (first, last) in [(1, 1), (2, 256), (257, 300)] {
        assert_eq!(world.append(&[door.batch(first, last)])[0].mark.hash, door.hash_through(last));
    }
    let detail = world.store().event(door.event_id(256)).unwrap().unwrap();
    assert_eq!(detail.hash, door.hash_through(256));
}

pub fn positions_are_gapless_over_many_outboxes(world: &mut World) {
    let doors = [door(1, 4), door(2, 4), door(3, 4)];
    world.append(&[doors[0].batch(1, 2), doors[1].batch(1, 1), doors[2].batch(1, 3)]);
    world.append(&[doors[2].batch(4, 4), doors[1].batch(3, 4), doors[0].batch(3, 4), doors[1].batch(2, 3)]);
    let positions: Vec<u64> = world.events().iter().map(|row| row.position.0).collect();
    assert_eq!(positions, [11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1]);
}

pub fn a_group_is_answered_as_if_its_batches_came_alone(world: &mut World) {
    let door = door(1, 6);
    let group = [door.batch(3, 4), door.batch(1, 2), door.batch(2, 4), door.batch(1, 4), door.batch(6, 6)];
    let appended = world.append(&group);
    let admissions: Vec<Admission> = appended.iter().map(|one| one.admission.clone()).collect();
    let from_3 = Admission::Store { from: Seq(3) };
    assert_eq!(admissions, [Admission::Beyond, FROM_1, from_3, Admission::Duplicate, Admission::Beyond]);
    let marks: Vec<u64> = appended.iter().map(|one| one.mark.stored_through.0).collect();
    assert_eq!(marks, [0, 2, 4, 4, 4]);
}

pub fn an_unknown_controller_leaves_nothing_of_its_group(world: &mut World) {
    let mut stranger = Door::new(9);
    stranger.tap(1);
    let now = world.now;
    let refused = world.store().append(&[door(1, 1).batch(1, 1), stranger.unsent()], now);
    assert!(matches!(refused, Err(StoreError::NotFound { what: "controller", .. })), "{refused:?}");
    world.check();
    assert_eq!(world.events(), []);
    assert_eq!(world.store().marks().unwrap(), []);
    world.append(&[door(1, 1).batch(1, 1)]);
    assert_eq!(world.events().len(), 1);
}

pub fn an_opaque_record_counts_in_the_mark(world: &mut World) {
    let mut door = door(1, 1);
    door.raw(&[2, 0xde, 0xad]);
    door.tap(1);
    let positions = world.store_all_of(&mut door);
    assert_eq!(world.store().marks().unwrap(), [mark(&door, 3)]);
    let opaque = world.row(positions[1]);
    assert_eq!((opaque.kind.as_str(), opaque.tap), ("opaque", None));
    assert_eq!(world.store().totals().unwrap().taps, 2);
}

pub fn a_records_bytes_come_back_as_received(world: &mut World) {
    let mut door = door(1, 1);
    door.raw(&[2, 0xde, 0xad]);
    world.store_all_of(&mut door);
    for seq in [1, 2] {
        let got = world.store().record_bytes(&door.controller, door.outbox, Seq(seq)).unwrap();
        assert_eq!(got.as_deref(), Some(door.bytes(seq)));
    }
    for seq in [0, 3, u64::MAX] {
        assert_eq!(world.store().record_bytes(&door.controller, door.outbox, Seq(seq)).unwrap(), None);
    }
    let other = id("hq-door-2");
    assert_eq!(world.store().record_bytes(&other, door.outbox, Seq(1)).unwrap(), None);
}

pub fn the_same_outbox_id_at_two_controllers_is_two_outboxes(world: &mut World) {
    let one = door(1, 2);
    let mut other = door(2, 1);
    other.outbox = one.outbox;
    world.append(&[one.batch(1, 2), other.batch(1, 1)]);
    assert_eq!(world.store().marks().unwrap(), [mark(&one, 2), mark(&other, 1)]);
    assert_ne!(world.events()[0].event_id, world.events()[2].event_id);
}

pub fn a_hello_is_answered_with_the_mark_of_every_outbox_it_names(world: &mut World) {
    let door = door(1, 3);
    world.append(&[door.batch(1, 2)]);
    let unseen = OutboxId([0xaa; 16]);
    let now = world.now;
    let marks = world.store().note_hello(&door.hello(&[(door.outbox, 3), (unseen, 0)]), now).unwrap();
    let start = OutboxMark {
        controller: door.controller.clone(),
        outbox: unseen,
        stored_through: Seq::ZERO,
        hash: ChainHash::start(unseen),
    };
    assert_eq!(marks, [mark(&door, 2), start]);
    assert_eq!(outbox_state(world, &door).last_seq, Seq(3));
}

pub fn a_hello_is_remembered_until_the_next(world: &mut World) {
    let door = door(1, 0);
    let (first, second) = (door.hello(&[(door.outbox, 9)]), door.hello(&[(door.outbox, 4)]));
    let state = |world: &mut World| {
        let hello = world.store().controllers().unwrap().remove(0).hello;
        hello.map(|state| (state.received, state.hello))
    };
    assert_eq!(state(world), None);
    let (one, two) = (world.now, UtcMs(world.now.0 + 1));
    world.store().note_hello(&first, one).unwrap();
    assert_eq!(state(world), Some((one, first)));
    world.now = two;
    world.store().note_hello(&second, two).unwrap();
    world.restart();
    assert_eq!(state(world), Some((two, second)));
    assert_eq!(outbox_state(world, &door).last_seq, Seq(9), "the highest ever spoken of");
}

pub fn an_absurd_last_seq_is_cut_to_what_can_exist(world: &mut World) {
    let door = door(1, 0);
    world.store().note_hello(&door.hello(&[(door.outbox, u64::MAX)]), UtcMs(5)).unwrap();
    assert_eq!(outbox_state(world, &door).last_seq, Seq((1 << 48) - 1));
}

pub fn a_controller_is_gone_until_its_next_hello(world: &mut World) {
    let door = door(1, 0);
    let gone = |world: &mut World| world.store().controllers().unwrap()[0].gone;
    world.store().note_hello(&door.hello(&[]), UtcMs(5)).unwrap();
    assert_eq!(gone(world), None);
    let now = world.now;
    world.store().note_gone(&door.controller, now).unwrap();
    world.restart();
    assert_eq!(gone(world), Some(now));
    world.store().note_hello(&door.hello(&[]), UtcMs(7)).unwrap();
    assert_eq!(gone(world), None);
}

pub fn nobody_minds_the_going_of_an_unknown_controller(world: &mut World) {
    let before = world.store().controllers().unwrap();
    world.store().note_gone(&id("hq-door-9"), UtcMs(6)).unwrap();
    assert_eq!(world.store().controllers().unwrap(), before);
}

pub fn taking_over_finds_the_marks_of_all_outboxes(world: &mut World) {
    let doors = [door(2, 2), door(1, 1), door(3, 5)];
    world.append(&[doors[0].batch(1, 2), doors[1].batch(1, 1), doors[2].batch(4, 5)]);
    world.restart();
    let expected = [mark(&doors[0], 2), mark(&doors[1], 1), mark(&doors[2], 0)];
    assert_eq!(world.store().marks().unwrap(), expected);
}

pub fn a_controller_needs_a_known_site_and_can_move(world: &mut World) {
    let moved = Controller { site: "lab".into(), label: "Lab".into(), ..controller("hq-door-1") };
    let refused = world.store().put_controller(&moved);
    assert!(matches!(refused, Err(StoreError::NotFound { what: "site", .. })), "{refused:?}");
    assert_eq!(world.store().controller(&moved.id).unwrap(), Some(controller("hq-door-1")));
    world.store().put_site(&Site { id: "lab".into(), label: "Lab".into(), zone: "UTC".into() }).unwrap();
    world.store().put_controller(&moved).unwrap();
    assert_eq!(world.store().controller(&moved.id).unwrap(), Some(moved));
    assert_eq!(world.store().controller(&id("hq-door-9")).unwrap(), None);
}

pub fn the_epoch_stays_over_a_restart(world: &mut World) {
    assert_eq!(world.store().store_epoch().unwrap(), StoreEpoch(CREATED.0 as u64));
    world.restart();
    assert_eq!(world.store().store_epoch().unwrap(), StoreEpoch(CREATED.0 as u64));
    world.store().put_site(&hq()).unwrap();
}

fn letter(n: usize, bytes: usize) -> DeadLetter {
    DeadLetter {
        received: UtcMs(n as i64),
        topic: "tap/v1/hq-door-1/records".into(),
        kind: "unauthentic".into(),
        reason: format!("letter {n}"),
        bytes: vec![7; bytes],
    }
}

pub fn dead_letters_are_kept_newest_first_and_cut(world: &mut World) {
    world.store().quarantine(&letter(1, 3)).unwrap();
    world.store().quarantine(&letter(2, MAX_DEAD_LETTER_BYTES + 1)).unwrap();
    world.restart();
    assert_eq!(world.store().dead_letters(9).unwrap(), [letter(2, MAX_DEAD_LETTER_BYTES), letter(1, 3)]);
    assert_eq!(world.store().dead_letters(1).unwrap().len(), 1);
}

pub fn only_the_newest_dead_letters_are_kept(world: &mut World) {
    let sent = MAX_DEAD_LETTERS + 2;
    (1..=sent).for_each(|n| world.store().quarantine(&letter(n, 1)).unwrap());
    let kept = world.store().dead_letters(usize::MAX).unwrap();
    assert_eq!(kept.len(), MAX_DEAD_LETTERS);
    assert_eq!((&kept[0], &kept[MAX_DEAD_LETTERS - 1]), (&letter(sent, 1), &letter(3, 1)));
    assert_eq!(world.store().totals().unwrap().quarantined, sent as u64);
}
