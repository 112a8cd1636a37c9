//! Which way taps go by the rules of their site, what was told of it, and which cards were seen.

use tap_protocol::tap::Direction;

use super::world::{self, Door, NEW, OLD, World, sealed, token};
use crate::directory::direction::{Policy, Rule, Why};
use crate::event_store::{Controller, Next, Position, Site, UtcMs};

impl World {
    fn put_rule(&mut self, site: &str, from: i64, policy: Policy) -> Rule {
        let rule = Rule { from: UtcMs(from), policy, double_within_s: 0, ..Rule::UNSAID };
        self.store().put_rule(site, &rule).unwrap()
    }

    fn alternate(&mut self) {
        self.put_rule("hq", 0, Policy::Alternating);
    }

    /// Claims and delivers all there is; says which way each was told to go, in the order of positions.
    fn told(&mut self) -> String {
        let mut told = Vec::new();
        loop {
            let claimed = self.claim();
            if claimed.is_empty() {
                break;
            }
            for one in claimed {
                told.push((one.claim.position, letter(one.tap.direction)));
                self.send(&one, Next::Delivered);
            }
        }
        told.sort_unstable();
        told.into_iter().map(|(_, letter)| letter).collect()
    }

    /// What is said of an event's direction by now.
    fn decided(&mut self, position: Position) -> (char, Why, u32) {
        let decided = self.detail(position).decided.unwrap();
        (letter(decided.direction), decided.why, decided.rule)
    }
}

fn letter(direction: Direction) -> char {
    match direction {
        Direction::In => 'i',
        Direction::Out => 'o',
        Direction::Unspecified => '-',
    }
}

fn door(number: u8) -> Door {
    let mut door = Door::new(number);
    door.placed = Direction::Unspecified;
    door
}

pub fn without_a_rule_a_tap_goes_as_its_reader_is_placed(world: &mut World) {
    world.bind(&[(1, "anna")]);
    let (mut placed, mut unplaced) = (Door::new(1), door(2));
    let positions = [world.tap(&mut placed, 1), world.tap(&mut unplaced, 1)];
    assert_eq!(world.decided(positions[0]), ('i', Why::Placed, 0));
    assert_eq!(world.decided(positions[1]), ('-', Why::Unplaced, 0));
    assert_eq!(world.told(), "i-");
}

pub fn taps_of_a_person_alternate_where_the_site_wants_it(world: &mut World) {
    world.bind(&[(1, "anna"), (2, "anna"), (3, "ben")]);
    world.alternate();
    let (mut one, mut other) = (door(1), door(2));
    one.tap(1);
    other.boottime_ms += 500;
    other.tap(2);
    one.tap(3);
    one.tap(1);
    let first = world.store_all_of(&mut one);
    assert_eq!(world.told(), "iio", "nobody knows yet what the other door saw");
    let second = world.store_all_of(&mut other);
    assert_eq!(world.told(), "o", "her second badge, between the two at the first door");
    assert_eq!(world.decided(second[0]), ('o', Why::Follows { previous: first[0] }, 1));
    assert_eq!(world.differences(), ["hr was told out of 3, it is in"]);
}

pub fn a_tap_that_comes_late_changes_those_after_it_and_what_was_told_is_listed(world: &mut World) {
    world.bind(&[(1, "anna")]);
    world.alternate();
    let (mut one, mut late, mut later) = (door(1), door(2), door(3));
    (0..3).for_each(|_| one.tap(1));
    let positions = world.store_all_of(&mut one);
    let claimed = world.claim_one();
    assert_eq!(letter(claimed.tap.direction), 'i');
    world.send(&claimed, Next::Delivered);
    let claimed = world.claim_one();
    assert_eq!(letter(claimed.tap.direction), 'o');
    let due = UtcMs(world.now.0 + 5_000);
    world.send(&claimed, Next::RetryIn(5_000));

    late.boottime_ms += 500;
    late.tap(1);
    world.store_all_of(&mut late);
    let told = ["hr was told out of 2, it is in"];
    assert_eq!(world.differences(), told);
    assert_eq!(world.decided(positions[1]).0, 'i');
    assert_eq!(world.decided(positions[2]).0, 'o', "it is not sent yet, so nothing was told of it");
    world.restart();
    assert_eq!(world.differences(), told);
    world.now = due;
    assert_eq!(world.told(), "ooo", "what has a body is told as it was; the rest as it is by now");

    later.boottime_ms += 600;
    later.tap(1);
    world.store_all_of(&mut later);
    assert_eq!(world.decided(positions[1]).0, 'o', "another one turns it back");
    let differences = world.differences();
    assert!(differences.iter().all(|one| !one.contains("of 2,")), "{differences:?}");
    assert!(differences.iter().any(|one| one.contains("of 3,")), "{differences:?}");
}

pub fn a_lease_that_ran_out_leaves_what_was_maybe_told_as_it_was(world: &mut World) {
    world.bind(&[(1, "anna")]);
    world.alternate();
    let (mut one, mut late) = (door(1), door(2));
    one.tap(1);
    world.store_all_of(&mut one);
    let claimed = world.claim_one();
    assert_eq!(letter(claimed.tap.direction), 'i');
    late.began_utc_ms -= 500;
    late.tap(1);
    world.store_all_of(&mut late);
    assert_eq!(world.differences(), ["hr was told in of 1, it is out"], "it may be on its way");
    world.now.0 += world::LEASE_MS;
    world.expire_leases();
    assert_eq!(world.told(), "ii");
    assert_eq!(world.differences(), ["hr was told in of 1, it is out"]);
}

pub fn a_badge_that_is_handed_on_takes_its_taps_out_of_the_turns(world: &mut World) {
    world.bind(&[(1, "anna"), (2, "anna")]);
    world.alternate();
    let mut one = door(1);
    [1, 2, 1].iter().for_each(|card| one.tap(*card));
    let positions = world.store_all_of(&mut one);
    assert_eq!(world.told(), "ioi");
    world.give(2, Some("ben"), Some(UtcMs(0)), None);
    assert_eq!(
        world.differences(),
        [
            "hr was told in of 3, it is out",
            "hr was told out of 2, it is in",
            "hr was told anna of 2, it is ben"
        ]
    );
    assert_eq!(world.decided(positions[2]), ('o', Why::Follows { previous: positions[0] }, 1));
    world.give(2, Some("anna"), Some(UtcMs(0)), None);
    assert_eq!(world.differences(), [""; 0]);
}

pub fn a_tap_whose_time_becomes_known_takes_its_turn(world: &mut World) {
    world.bind(&[(1, "anna")]);
    world.alternate();
    let (mut one, mut unsynced) = (door(1), door(2));
    unsynced.began_utc_ms += 500;
    unsynced.unsynced_tap(1);
    let waiting = world.store_all_of(&mut unsynced);
    assert_eq!(world.decided(waiting[0]), ('-', Why::NotYet, 0));
    one.boottime_ms += 1_000;
    one.tap(1);
    let position = world.store_all_of(&mut one)[0];
    world.a_day_passes();
    assert_eq!(world.told(), "i");
    unsynced.anchor();
    world.store_all_of(&mut unsynced);
    assert_eq!(world.decided(position).0, 'o');
    assert_eq!(world.differences(), [format!("hr was told in of {}, it is out", position.0)]);
    assert_eq!(world.told(), "i");
}

pub fn what_counts_is_the_rule_at_the_taps_own_time_and_site(world: &mut World) {
    world.bind(&[(1, "anna")]);
    let branch = Site { id: "branch".into(), label: "Branch".into(), zone: "Europe/Paris".into() };
    world.store().put_site(&branch).unwrap();
    let there = Controller { site: "branch".into(), ..world::controller("hq-door-3") };
    world.store().put_controller(&there).unwrap();
    let (mut here, mut elsewhere) = (door(1), door(3));
    let third = here.next_utc().0 + 2_000;
    assert_eq!(world.put_rule("hq", 0, Policy::Alternating).version, 1);
    assert_eq!(world.put_rule("hq", 5, Policy::Alternating).version, 1, "that is no new one");
    assert_eq!(world.put_rule("hq", third, Policy::None).version, 2);
    assert_eq!(world.put_rule("branch", 0, Policy::Alternating).version, 1);
    assert!(world.store().put_rule("nowhere", &Rule::UNSAID).is_err());
    (0..3).for_each(|_| here.tap(1));
    (0..2).for_each(|_| elsewhere.tap(1));
    let at_hq = world.store_all_of(&mut here);
    world.store_all_of(&mut elsewhere);
    world.restart();
    assert_eq!(world.told(), "io-io");
    assert_eq!(world.decided(at_hq[2]), ('-', Why::NotTold, 2));
    let versions: Vec<u32> = world.store().rules("hq").unwrap().0.iter().map(|rule| rule.version).collect();
    assert_eq!(versions, [1, 2]);
}

pub fn a_long_gap_starts_over_and_a_second_tap_is_the_same_again(world: &mut World) {
    world.bind(&[(1, "anna")]);
    world
        .store()
        .put_rule("hq", &Rule { from: UtcMs(0), policy: Policy::Alternating, ..Rule::UNSAID })
        .unwrap();
    let mut one = door(1);
    one.tap(1);
    one.tap(1);
    one.boottime_ms += 9 * 3_600_000;
    one.tap(1);
    one.boottime_ms += 15 * 3_600_000;
    one.tap(1);
    let positions = world.store_all_of(&mut one);
    assert_eq!(world.told(), "iioi");
    assert_eq!(world.decided(positions[1]).1, Why::Again { previous: positions[0] });
    assert_eq!(world.decided(positions[3]).1, Why::First);
}

pub fn cards_that_a_tap_or_a_list_named_are_seen(world: &mut World) {
    world.bind(&[(1, "anna")]);
    world.tap(&mut door(1), 2);
    let asked: Vec<_> = (1..=200).map(token).collect();
    let seen: Vec<_> = world.store().seen(&asked).unwrap().into_iter().collect();
    assert_eq!(seen, [token(1), token(2)]);
    assert_eq!(world.store().seal_of(token(1)).unwrap(), Some(sealed(1, OLD)));
    assert_eq!(world.store().seal_of(token(2)).unwrap(), Some(sealed(2, OLD)));
    assert_eq!(world.store().seal_of(sealed(1, NEW).token).unwrap(), None);
}

pub fn a_site_has_the_card_profiles_that_were_said_last(world: &mut World) {
    assert_eq!(world.store().card_profiles("hq").unwrap(), [""; 0]);
    world.store().put_card_profiles("hq", &["uid4-hex/1", "em4100-10d/1"]).unwrap();
    world.store().put_card_profiles("hq", &["h10301/1", "em4100-10d/1"]).unwrap();
    world.restart();
    assert_eq!(world.store().card_profiles("hq").unwrap(), ["em4100-10d/1", "h10301/1"]);
    assert!(world.store().put_card_profiles("nowhere", &[]).is_err());
}
