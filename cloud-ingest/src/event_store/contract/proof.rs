//! What is kept so that records prove themselves again. That it all holds is checked after every step of every case.

use std::ops::ControlFlow;

use tap_protocol::envelope::UnverifiedBatch;
use tap_protocol::ids::{Seq, StoreEpoch};
use tap_protocol::keys::SigningKey;

use super::world::{self, Door, World, audit};
use crate::event_store::{DeadLetter, RecordKey, SignedBatch, UtcMs, Walked};

/// First and last record of all signatures, in the order of the walk.
fn signed(world: &mut World) -> Vec<(u64, u64)> {
    let mut signed = Vec::new();
    let mut tell = |walked: Walked<'_>| {
        if let Walked::Batch(SignedBatch { first_seq, last_seq, .. }) = walked {
            signed.push((first_seq.0, last_seq.0));
        }
        ControlFlow::Continue(())
    };
    world.store().walk(None, &mut tell).unwrap();
    signed
}

fn door_with(taps: u8) -> Door {
    let mut door = Door::new(1);
    (0..taps).for_each(|card| door.tap(card));
    door
}

pub fn what_is_stored_is_proved_again_by_record_key_alone(world: &mut World) {
    let (mut one, mut other) = (door_with(3), Door::new(2));
    other.buffer_high();
    world.store_all_of(&mut one);
    world.store_all_of(&mut other);
    world.tap(&mut one, 7);
    world.restart();
    let audited = audit(world.store());
    assert!(audited.holds);
    assert_eq!((audited.outboxes, audited.records, audited.signatures, audited.keys.len()), (2, 5, 3, 1));
}

pub fn overlapping_batches_are_proved_though_half_of_one_was_there(world: &mut World) {
    let door = door_with(5);
    world.append(&[door.batch(1, 3), door.batch(2, 5)]);
    assert_eq!(signed(world), [(1, 3), (2, 5)]);
}

pub fn what_is_not_stored_leaves_no_signature(world: &mut World) {
    let door = door_with(5);
    world.append(&[door.batch(1, 3), door.batch(1, 3), door.batch(5, 5), door.batch(2, 3)]);
    assert_eq!(signed(world), [(1, 3)]);
}

/// A count of 1 as `81 00`: another language's encoder may write that.
pub fn a_message_that_is_written_otherwise_is_kept_whole(world: &mut World) {
    let mut door = door_with(1);
    let batch = door.unsent();
    let mut message = world::rebuilt(&batch).signed_before(&[0; 64]);
    message.truncate(message.len() - 64);
    let first_seq = 1 + 1 + door.controller.as_str().len() + 16;
    message.splice(first_seq..=first_seq, [0x81, 0x00]);
    let key = SigningKey::from_seed(&[9; 32]);
    let signature = key.sign(&[b"tapline/batch/v1\0".as_slice(), &message].concat());
    message.extend_from_slice(&signature);
    let odd = UnverifiedBatch::parse(&message).unwrap().verify(&door.controller, &key.public()).unwrap();
    world.append(&[odd]);
    world.tap(&mut door, 3);
    world.restart();
    assert_eq!(signed(world), [(1, 1), (2, 2)]);
}

pub fn a_walk_is_of_one_controller_or_ends_when_nobody_listens(world: &mut World) {
    world.store_all_of(&mut door_with(2));
    let mut other = Door::new(2);
    other.tap(1);
    world.store_all_of(&mut other);
    let mut heard = 0;
    let mut records = |walked: Walked<'_>| {
        heard += u64::from(matches!(walked, Walked::Record(_)));
        ControlFlow::Continue(())
    };
    world.store().walk(Some(&world::id("hq-door-2")), &mut records).unwrap();
    assert_eq!(heard, 1);
    let mut heard = 0;
    world
        .store()
        .walk(None, &mut |_| {
            heard += 1;
            ControlFlow::Break(())
        })
        .unwrap();
    assert_eq!(heard, 1);
}

pub fn a_record_key_that_was_replaced_still_proves_what_it_signed(world: &mut World) {
    world.store_all_of(&mut door_with(2));
    let mut controller = world::controller("hq-door-1");
    controller.record_keys = vec![RecordKey::new(SigningKey::from_seed(&[1; 32]).public())];
    world.store().put_controller(&controller).unwrap();
    let audited = audit(world.store());
    assert_eq!((audited.found, audited.findings), (0, vec![]));
}

pub fn a_restored_store_has_a_higher_epoch_even_with_a_clock_that_is_behind(world: &mut World) {
    let StoreEpoch(before) = world.store().store_epoch().unwrap();
    let now = UtcMs(world.now.0);
    assert_eq!(world.store().new_epoch(None, now).unwrap(), StoreEpoch(now.0 as u64));
    assert!(now.0 as u64 > before);
    assert_eq!(world.store().new_epoch(None, UtcMs(0)).unwrap(), StoreEpoch(now.0 as u64 + 1));
    // A controller has heard of a life in between.
    let later = StoreEpoch(now.0 as u64 + 500);
    assert_eq!(world.store().new_epoch(Some(later), UtcMs(0)).unwrap(), StoreEpoch(later.0 + 1));
    world.restart();
    assert_eq!(world.store().store_epoch().unwrap(), StoreEpoch(later.0 + 1));
    let states = world.store().controllers().unwrap();
    assert!(states.iter().all(|state| state.store_epoch == StoreEpoch(later.0 + 1)));
}

pub fn what_is_in_quarantine_is_known_by_bytes_and_kind(world: &mut World) {
    let letter = |kind: &'static str, bytes: &[u8]| DeadLetter {
        received: UtcMs(1),
        topic: "somewhere".into(),
        kind: kind.into(),
        reason: "because".into(),
        bytes: bytes.to_vec(),
    };
    world.store().quarantine(&letter("fork", b"one")).unwrap();
    for (kind, bytes, known) in
        [("fork", b"one", true), ("fork", b"two", false), ("oversized", b"one", false)]
    {
        assert_eq!(world.store().is_quarantined(&letter(kind, bytes)).unwrap(), known);
    }
    assert_eq!(world.store().marks().unwrap().iter().map(|mark| mark.stored_through).max(), None::<Seq>);
}
