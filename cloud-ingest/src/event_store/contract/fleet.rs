//! What every store must do with a controller's keys and standing.

use tap_protocol::keys::{PublicKey, SigningKey};

use super::world::{World, controller};
use crate::event_store::{Controller, RecordKey, UtcMs, good_keys};

fn key(seed: u8) -> PublicKey {
    SigningKey::from_seed(&[seed; 32]).public()
}

fn put(world: &mut World, record_keys: Vec<RecordKey>) -> Vec<RecordKey> {
    let controller = Controller { record_keys, ..controller("hq-door-1") };
    world.store().put_controller(&controller).unwrap();
    world.restart();
    let keys = world.store().controller(&controller.id).unwrap().unwrap().record_keys;
    assert_eq!(world.store().controllers().unwrap()[0].controller.record_keys, keys);
    keys
}

pub fn a_key_that_is_not_named_any_more_stays_for_proofs(world: &mut World) {
    let first = controller("hq-door-1").record_keys[0].key;
    let keys = put(world, vec![RecordKey::new(key(51))]);
    let ended = |key| RecordKey { key, good_until: Some(UtcMs(0)) };
    assert_eq!(keys, [RecordKey::new(key(51)), ended(first)]);
    assert_eq!(good_keys(&keys, UtcMs(1)), [key(51)]);
    assert_eq!(put(world, vec![]), [ended(key(51)), ended(first)]);
    assert_eq!(put(world, vec![RecordKey::new(first)]), [ended(key(51)), RecordKey::new(first)]);
}

pub fn a_key_can_be_good_until_a_moment(world: &mut World) {
    let old = RecordKey { key: controller("hq-door-1").record_keys[0].key, good_until: Some(UtcMs(100)) };
    let new = RecordKey::new(key(51));
    let keys = put(world, vec![new, old]);
    assert_eq!(keys, [new, old]);
    assert_eq!(good_keys(&keys, UtcMs(99)), [new.key, old.key]);
    assert_eq!(good_keys(&keys, UtcMs(100)), [new.key]);
}
