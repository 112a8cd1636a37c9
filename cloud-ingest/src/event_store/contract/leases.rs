//! Who takes in from a broker.

use super::world::World;
use crate::intake::lease::{Claim, Fence};

const BROKER: &str = "mqtts://broker:8883 as cloud-ingest";

fn claim(fence: u64, holder: Option<&str>, beat: u64) -> Option<Claim> {
    Some(Claim { fence: Fence(fence), holder: holder.map(str::to_owned), beat })
}

pub fn whoever_takes_in_changes_the_row_until_another_has_taken_over(world: &mut World) {
    assert_eq!(world.store().intake_claim(BROKER).unwrap(), None);
    assert_eq!(world.store().take_intake(BROKER, "first", None).unwrap(), Some(Fence(1)));
    assert!(world.store().beat_intake(BROKER, Fence(1)).unwrap());
    world.restart();
    let seen = world.store().intake_claim(BROKER).unwrap();
    assert_eq!(seen, claim(1, Some("first"), 1));

    assert_eq!(world.store().take_intake(BROKER, "second", seen.as_ref()).unwrap(), Some(Fence(2)));
    assert!(!world.store().beat_intake(BROKER, Fence(1)).unwrap(), "it is another's");
    assert!(world.store().beat_intake(BROKER, Fence(2)).unwrap());
    assert_eq!(world.store().intake_claim(BROKER).unwrap(), claim(2, Some("second"), 1));
    assert_eq!(world.store().intake_claim("another broker").unwrap(), None);
}

pub fn nobody_takes_over_from_a_row_that_has_changed_since_it_was_seen(world: &mut World) {
    world.store().take_intake(BROKER, "first", None).unwrap();
    assert_eq!(world.store().take_intake(BROKER, "second", None).unwrap(), None, "another was quicker");
    let seen = world.store().intake_claim(BROKER).unwrap();
    world.store().beat_intake(BROKER, Fence(1)).unwrap();
    assert_eq!(world.store().take_intake(BROKER, "second", seen.as_ref()).unwrap(), None, "it lives");
    assert_eq!(world.store().intake_claim(BROKER).unwrap(), claim(1, Some("first"), 1));
}

pub fn whoever_ends_in_order_leaves_the_row_to_the_next(world: &mut World) {
    world.store().take_intake(BROKER, "first", None).unwrap();
    world.store().leave_intake(BROKER, Fence(7)).unwrap();
    assert_eq!(world.store().intake_claim(BROKER).unwrap(), claim(1, Some("first"), 0), "that was another");
    world.store().leave_intake(BROKER, Fence(1)).unwrap();
    assert!(!world.store().beat_intake(BROKER, Fence(1)).unwrap(), "it has left");
    let left = world.store().intake_claim(BROKER).unwrap();
    assert_eq!(left, claim(1, None, 0));
    assert_eq!(world.store().take_intake(BROKER, "second", left.as_ref()).unwrap(), Some(Fence(2)));
}
