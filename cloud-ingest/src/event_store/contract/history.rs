//! Who held a badge when, and what follows for taps that are stored already.

use tap_protocol::record::ClockState;

use super::world::{Door, HR, NEW, OLD, World, person, sealed, token};
use crate::directory::timeline::{EVER, FOR_EVER, Span, When};
use crate::event_store::people::{DifferenceFilter, What};
use crate::event_store::{BadgeFilter, Binding, Bound, Next, Position, Stood, UtcMs, Which};

impl World {
    /// Says who (or nobody) holds the card in that time.
    pub fn give(&mut self, card: u8, who: Option<&str>, from: Option<UtcMs>, until: Option<UtcMs>) -> Bound {
        let binding =
            Binding { seals: vec![sealed(card, OLD)], person: who.map(person), when: When { from, until } };
        let now = self.now;
        let bound = self.store().bind_badges(&[binding], now).unwrap();
        self.check();
        bound
    }

    /// From a tap's time on.
    pub fn give_from(&mut self, card: u8, who: &str, from: UtcMs) -> Bound {
        self.give(card, Some(who), Some(from), None)
    }

    /// The true time of a tap.
    #[track_caller]
    pub fn time_of(&mut self, position: Position) -> UtcMs {
        self.row(position).tap.unwrap().occurred.unwrap().at
    }

    /// Whose each of these taps is.
    pub fn persons(&mut self, positions: &[Position]) -> Vec<String> {
        let mut whose = |position| self.delivery(position).person.map_or("nobody".into(), |person| person.0);
        positions.iter().map(|position| whose(*position)).collect()
    }

    /// What was told otherwise: `hr was told anna of 3, it is ben`.
    pub fn differences(&mut self) -> Vec<String> {
        let filter = DifferenceFilter { before: None, limit: 100 };
        let differences = self.store().differences(&filter).unwrap().into_iter();
        let said = differences.map(|difference| {
            let is = difference.is.unwrap_or("nobody".into());
            let (destination, told, position) =
                (difference.destination, difference.told, difference.position.0);
            format!("{destination} was told {told} of {position}, it is {is}")
        });
        said.collect()
    }

    /// Who holds the card when, as the store says it.
    fn spans(&mut self, card: u8) -> Vec<Span> {
        let which = Some(Which::Badge(vec![token(card)]));
        let filter = BadgeFilter { which, limit: 1, ..BadgeFilter::default() };
        self.store().badges(&filter).unwrap().remove(0).timeline.spans().to_vec()
    }

    /// Sends what is due until nothing is.
    fn send_all(&mut self) {
        while let Some(claimed) = self.claim().first() {
            self.send(claimed, Next::Delivered);
        }
    }
}

pub fn a_badge_that_was_handed_on_gives_each_the_taps_of_their_time_however_late_they_come(
    world: &mut World,
) {
    world.bind(&[(1, "anna")]);
    let mut door = Door::new(1);
    door.tap(1);
    let handed_on = door.next_utc();
    door.tap(1);
    world.give_from(1, "ben", handed_on);
    world.restart();
    let positions = world.store_all_of(&mut door);
    assert_eq!(world.persons(&positions), ["anna", "ben"]);
    assert_eq!(world.states(), ["pending", "pending"], "each in a line of their own");
    let spans = [(EVER, handed_on, "anna"), (handed_on, FOR_EVER, "ben")];
    let spans = spans.map(|(from, until, who)| Span { from, until, person: person(who) });
    assert_eq!(world.spans(1), spans);
}

pub fn what_is_not_sent_yet_goes_to_who_holds_the_badge_by_now(world: &mut World) {
    world.bind(&[(1, "anna"), (2, "ben")]);
    let mut door = Door::new(1);
    let positions = [1, 1, 2, 1].map(|card| world.tap(&mut door, card));
    assert_eq!(world.states(), ["pending", "parked", "pending", "parked"]);
    let second = world.time_of(positions[1]);
    let bound = world.give_from(1, "ben", second);
    assert_eq!(bound, Bound { changed: 1, moved: 2, ..Bound::default() });
    assert_eq!(world.persons(&positions), ["anna", "ben", "ben", "ben"]);
    assert_eq!(world.states(), ["pending", "pending", "parked", "parked"]);
    assert_eq!(world.give(1, Some("anna"), Some(EVER), None).moved, 2, "and back");
    assert_eq!(world.states(), ["pending", "parked", "pending", "parked"]);
    assert_eq!(world.differences(), [""; 0]);
}

pub fn what_was_sent_stays_and_is_listed_as_long_as_it_is_otherwise(world: &mut World) {
    world.bind(&[(1, "anna")]);
    let mut door = Door::new(1);
    let positions = [(); 4].map(|()| world.tap(&mut door, 1));
    let delivered = world.claim_one();
    world.send(&delivered, Next::Delivered);
    let again = world.claim_one();
    world.send(&again, Next::RetryIn(5_000));
    let bound = world.give(1, Some("ben"), Some(EVER), None);
    assert_eq!(bound, Bound { changed: 1, moved: 2, told_otherwise: 2, ..Bound::default() });
    assert_eq!(world.persons(&positions), ["anna", "anna", "ben", "ben"]);
    assert_eq!(world.states(), ["delivered", "pending", "pending", "parked"]);
    let both = ["hr was told anna of 2, it is ben", "hr was told anna of 1, it is ben"];
    assert_eq!(world.differences(), both);
    world.restart();
    assert_eq!(world.differences(), both);
    let detail = world.detail(positions[0]);
    assert_eq!(detail.differences.iter().map(|one| one.what).collect::<Vec<_>>(), [What::Person]);
    let second = world.time_of(positions[1]);
    world.give(1, Some("anna"), Some(EVER), Some(second));
    assert_eq!(world.differences(), both[..1]);
    world.give(1, None, Some(EVER), None);
    assert_eq!(
        world.differences(),
        ["hr was told anna of 2, it is nobody", "hr was told anna of 1, it is nobody"]
    );
}

pub fn what_is_under_way_while_the_badge_is_handed_on_stays_and_is_listed(world: &mut World) {
    world.bind(&[(1, "anna")]);
    let mut door = Door::new(1);
    let position = world.tap(&mut door, 1);
    let claimed = world.claim_one();
    assert_eq!(world.give(1, Some("ben"), Some(EVER), None).told_otherwise, 1);
    assert_eq!(world.persons(&[position]), ["anna"]);
    world.send(&claimed, Next::Delivered);
    assert_eq!(world.differences(), ["hr was told anna of 1, it is ben"]);
}

pub fn what_was_refused_for_good_was_told_to_nobody(world: &mut World) {
    world.bind(&[(1, "anna")]);
    world.tap(&mut Door::new(1), 1);
    let claimed = world.claim_one();
    world.send(&claimed, Next::Dead);
    assert_eq!(world.give(1, Some("ben"), Some(EVER), None), Bound { changed: 1, ..Bound::default() });
    assert_eq!(world.differences(), [""; 0]);
}

pub fn a_badge_that_is_taken_back_holds_its_taps_until_it_is_given_again(world: &mut World) {
    world.bind(&[(1, "anna")]);
    let mut door = Door::new(1);
    let positions = [(); 2].map(|()| world.tap(&mut door, 1));
    let second = world.time_of(positions[1]);
    assert_eq!(world.give(1, None, Some(second), None), Bound { changed: 1, moved: 1, ..Bound::default() });
    assert_eq!(world.states(), ["pending", "held for binding"]);
    let late = world.tap(&mut door, 1);
    assert_eq!(world.persons(&[late]), ["nobody"]);
    let bound = world.give_from(1, "ben", second);
    assert_eq!(bound, Bound { changed: 1, released: 2, ..Bound::default() });
    assert_eq!(world.persons(&[positions[0], positions[1], late]), ["anna", "ben", "ben"]);
}

pub fn taking_back_what_nobody_has_changes_nothing(world: &mut World) {
    assert_eq!(world.give(1, None, None, None), Bound { unchanged: 1, ..Bound::default() });
    assert_eq!(world.store().totals().unwrap().badges, 0);
}

pub fn a_binding_that_would_end_before_it_begins_is_left_out(world: &mut World) {
    world.bind(&[(1, "anna")]);
    let over = UtcMs(world.now.0 - 1_000);
    let bound = world.give(1, Some("ben"), None, Some(over));
    assert_eq!(bound, Bound { backwards: 1, ..Bound::default() });
    assert_eq!(world.spans(1).len(), 1);
}

pub fn a_tap_without_time_is_theirs_who_can_alone_have_made_it(world: &mut World) {
    world.bind(&[(1, "anna")]);
    let mut door = Door::new(1);
    door.unsynced_tap(1);
    let handed_on = door.next_utc();
    door.unsynced_tap(1);
    let positions = world.store_all_of(&mut door);
    assert_eq!(world.persons(&positions), ["anna", "anna"], "whenever that was");
    let bound = world.give_from(1, "ben", handed_on);
    assert_eq!(bound, Bound { changed: 1, moved: 2, ..Bound::default() });
    assert_eq!(world.persons(&positions), ["nobody", "nobody"], "that depends");
    assert_eq!(world.states(), ["held for time", "held for time"]);
    door.anchor();
    world.store_all_of(&mut door);
    assert_eq!(world.persons(&positions), ["anna", "ben"]);
    assert_eq!(world.states(), ["pending", "pending"]);
}

pub fn a_tap_between_two_times_is_theirs_who_held_the_badge_all_the_while(world: &mut World) {
    world.give(1, Some("anna"), Some(EVER), Some(UtcMs(super::world::BOOT_UTC_MS + 3_600_000)));
    let mut door = Door::new(1);
    door.start(1, ClockState::Synced);
    door.reboot(120_000, 2, ClockState::Unsynced);
    door.unsynced_tap(1);
    let position = *world.store_all_of(&mut door).last().unwrap();
    assert_eq!(world.persons(&[position]), ["nobody"], "it may have been at any time");
    door.reboot(1_000, 3, ClockState::Synced);
    world.store_all_of(&mut door);
    assert_eq!(world.states(), ["held for time"], "two minutes of darkness are too much");
    assert_eq!(world.persons(&[position]), ["anna"], "and all of them are hers");
}

pub fn only_badges_that_somebody_holds_are_revoked_with_the_person(world: &mut World) {
    world.bind(&[(1, "anna"), (2, "anna")]);
    let now = world.now;
    world.give_from(1, "ben", UtcMs(now.0 - 1));
    let anna = Which::Person(person("anna"));
    assert_eq!(
        world.store().revoke_badges(&anna, "has left", now).unwrap(),
        Stood { changed: 1, unchanged: 0 }
    );
    let revoked = BadgeFilter { revoked_only: true, limit: 10, ..BadgeFilter::default() };
    let revoked = world.store().badges(&revoked).unwrap();
    assert_eq!(revoked.len(), 1);
    assert_eq!(revoked[0].seals[0].token, token(2));
    assert_eq!(world.store().reinstate_badges(&anna).unwrap(), Stood { changed: 1, unchanged: 0 });
    let hers = BadgeFilter { which: Some(anna), limit: 10, ..BadgeFilter::default() };
    assert_eq!(world.store().badges(&hers).unwrap().len(), 2, "she had both once");
}

pub fn a_badge_of_nobody_any_more_is_not_on_the_roster(world: &mut World) {
    world.bind(&[(1, "anna"), (2, "ben")]);
    let now = world.now;
    let roster = |world: &mut World| world.store().roster(&[OLD], None, now).unwrap();
    let both = roster(world);
    world.give(1, None, Some(UtcMs(now.0 - 1)), None);
    let one = roster(world);
    assert_eq!((both.entries.len(), one.entries.len()), (34, 17));
    assert!(one.version > both.version);
    assert_eq!(world.store().totals().unwrap().badges, 2, "it is known all the same");
}

pub fn two_badges_that_turn_out_to_be_one_have_one_history(world: &mut World) {
    let handed_on = UtcMs(world.now.0 - 5_000);
    world.give(1, Some("anna"), Some(EVER), Some(handed_on));
    let under_new = |who, from| Binding {
        seals: vec![sealed(1, NEW)],
        person: Some(person(who)),
        when: When { from: Some(from), until: None },
    };
    let now = world.now;
    world.store().bind_badges(&[under_new("ben", UtcMs(handed_on.0 - 1_000))], now).unwrap();
    let mut door = Door::new(1);
    door.seals_under(NEW);
    let early = world.tap(&mut door, 1);
    assert_eq!(world.persons(&[early]), ["nobody"]);
    let both = Binding {
        seals: vec![sealed(1, OLD), sealed(1, NEW)],
        person: Some(person("cleo")),
        when: When { from: Some(now), until: None },
    };
    let bound = world.store().bind_badges(&[both], now).unwrap();
    world.check();
    assert_eq!(bound, Bound { changed: 1, released: 1, ..Bound::default() });
    assert_eq!(world.persons(&[early]), ["anna"]);
    let who: Vec<String> = world.spans(1).into_iter().map(|span| span.person.0).collect();
    assert_eq!(who, ["anna", "ben", "cleo"]);
}

pub fn many_waiting_taps_are_released_in_the_order_in_which_they_were_stored(world: &mut World) {
    let mut door = Door::new(1);
    (0..200).for_each(|_| door.tap(1));
    let positions = world.store_all_of(&mut door);
    let half = world.time_of(positions[150]);
    world.give(1, Some("anna"), Some(EVER), Some(half));
    world.give_from(1, "ben", half);
    let claimed = world.claim_at(HR, 10);
    let first: Vec<Position> = claimed.iter().map(|claimed| claimed.claim.position).collect();
    assert_eq!(first, [positions[0], positions[150]]);
}

pub fn differences_are_paged_the_newest_taps_first(world: &mut World) {
    world.bind(&[(1, "anna")]);
    let mut door = Door::new(1);
    (0..3).for_each(|_| {
        world.tap(&mut door, 1);
    });
    world.send_all();
    world.give(1, Some("ben"), Some(EVER), None);
    let page = |world: &mut World, before| {
        let page = world.store().differences(&DifferenceFilter { before, limit: 2 }).unwrap();
        page.into_iter().map(|one| one.position).collect::<Vec<_>>()
    };
    assert_eq!(page(world, None), [Position(3), Position(2)]);
    assert_eq!(page(world, Some(Position(2))), [Position(1)]);
    assert_eq!(page(world, Some(Position(1))), []);
}
