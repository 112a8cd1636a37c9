//! Taps by their true time, a portion at a time.

use tap_protocol::record::ClockState;

use super::world::{Door, HR, World};
use crate::event_store::exports::{Portion, TapLine};
use crate::event_store::{DeliveryState, Next, Position, UtcMs};

const EVER: (UtcMs, UtcMs) = (UtcMs(0), UtcMs(i64::MAX));

impl World {
    /// All of it, so many at a time.
    fn listed(&mut self, (from, until): (UtcMs, UtcMs), site: Option<&str>, limit: usize) -> Vec<TapLine> {
        let mut portion = Portion::first(from, until, site.map(str::to_owned), limit);
        let mut listed = Vec::new();
        loop {
            let lines = self.store().taps_by_time(&portion).unwrap();
            assert!(lines.len() <= limit);
            let Some(last) = lines.last() else { return listed };
            portion.after = (last.occurred.at, last.position);
            listed.extend(lines);
        }
    }
}

fn positions(lines: &[TapLine]) -> Vec<Position> {
    lines.iter().map(|line| line.position).collect()
}

/// Two doors that tap in turn, the first of which is heard of last.
fn two_doors(world: &mut World) -> (Vec<Position>, Vec<Position>) {
    let [mut first, mut second] = [1, 2].map(Door::new);
    for card in [1, 2, 3] {
        first.tap(card);
        second.tap(card);
    }
    let second = world.store_all_of(&mut second);
    (world.store_all_of(&mut first), second)
}

pub fn taps_are_listed_by_their_time_however_late_they_were_stored(world: &mut World) {
    two_doors(world);
    let all = world.listed(EVER, None, 100);
    assert_eq!(all.len(), 6);
    assert!(all.is_sorted_by_key(|line| (line.occurred.at, line.position)));
    assert!(!positions(&all).is_sorted(), "one door was late");
    for limit in [1, 2, 5, 6] {
        assert_eq!(world.listed(EVER, None, limit), all, "{limit} at a time");
    }
}

pub fn a_stretch_has_its_first_moment_and_not_its_last(world: &mut World) {
    two_doors(world);
    let all = world.listed(EVER, None, 100);
    let (from, until) = (all[2].occurred.at, all[5].occurred.at);
    let within: Vec<_> =
        all.iter().filter(|line| line.occurred.at >= from && line.occurred.at < until).cloned().collect();
    assert!(!within.is_empty() && within.len() < all.len());
    assert_eq!(world.listed((from, until), None, 2), within);
    assert_eq!(world.listed((until, from), None, 2), []);
    assert_eq!(world.listed(EVER, Some("hq"), 4), all);
    assert_eq!(world.listed(EVER, Some("elsewhere"), 4), []);
}

pub fn a_line_says_whose_it_was_and_what_became_of_it(world: &mut World) {
    world.bind(&[(1, "anna")]);
    let mut door = Door::new(1);
    let known = world.tap(&mut door, 1);
    let unknown = world.tap(&mut door, 2);
    let before = world.listed(EVER, None, 10);
    assert_eq!(positions(&before), [known, unknown]);
    let whose: Vec<_> =
        before.iter().map(|line| line.person.as_ref().map(|person| person.0.as_str())).collect();
    assert_eq!(whose, [Some("anna"), None]);
    let states: Vec<_> =
        before.iter().map(|line| (line.deliveries[0].state, line.deliveries[0].told)).collect();
    assert_eq!(states, [(DeliveryState::Pending, None), (DeliveryState::Held, None)]);
    assert_eq!(before[0].event_id, world.row(known).event_id);
    assert_eq!(before[0].deliveries[0].destination, HR);

    let claimed = world.claim().remove(0);
    world.send(&claimed, Next::Delivered);
    let after = world.listed(EVER, None, 10).remove(0);
    assert_eq!(after.deliveries[0].state, DeliveryState::Delivered);
    assert_eq!(after.deliveries[0].told, Some(after.placed));
}

pub fn a_tap_without_a_time_is_counted_and_in_no_list(world: &mut World) {
    assert_eq!(world.store().taps_without_time().unwrap(), 0);
    let mut door = Door::new(1);
    door.reboot(60_000, 7, ClockState::Unsynced);
    door.unsynced_tap(1);
    world.store_all_of(&mut door);
    assert_eq!(world.listed(EVER, None, 10), []);
    assert_eq!(world.store().taps_without_time().unwrap(), 1);
}
