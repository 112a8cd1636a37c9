//! Badges under several token keys, their standing, and the rosters that are made of them.

use tap_protocol::roster::{ENTRY_BYTES, Standing};

use super::world::{Door, NEW, OLD, World, person, sealed, token};
use crate::directory::timeline::EVER;
use crate::event_store::{BadgeFilter, BadgeRow, Binding, Bound, RosterState, Snapshot, Stood, Which};

const BOTH: [tap_protocol::badge::TokenKeyId; 2] = [OLD, NEW];

fn badge(card: u8) -> Which {
    Which::Badge(vec![token(card)])
}

impl World {
    fn roster(&mut self) -> Snapshot {
        let now = self.now;
        self.store().roster(&[OLD], None, now).unwrap()
    }

    fn badges(&mut self, filter: BadgeFilter) -> Vec<BadgeRow> {
        self.store().badges(&BadgeFilter { limit: 100, ..filter }).unwrap()
    }

    fn revoke(&mut self, which: &Which, why: &str) -> Stood {
        let now = self.now;
        self.store().revoke_badges(which, why, now).unwrap()
    }

    fn bind_under_both(&mut self, card: u8, who: &str) -> Bound {
        let seals = BOTH.map(|key| sealed(card, key)).to_vec();
        let now = self.now;
        self.store().bind_badges(&[Binding::new(seals, person(who))], now).unwrap()
    }
}

/// The cards of a roster's entries under the old key, and those that are revoked.
fn cards(snapshot: &Snapshot) -> (Vec<u8>, Vec<u8>) {
    let entries = snapshot.entries.chunks(ENTRY_BYTES).map(|entry| (entry[0], entry[16]));
    let (revoked, known): (Vec<_>, Vec<_>) =
        entries.partition(|(_, standing)| *standing == Standing::Revoked as u8);
    (known.into_iter().map(|(card, _)| card).collect(), revoked.into_iter().map(|(card, _)| card).collect())
}

pub fn a_roster_lists_every_badge_in_order(world: &mut World) {
    assert!(world.roster().entries.is_empty(), "nobody's yet");
    world.bind(&[(9, "anna"), (3, "ben"), (5, "anna")]);
    assert_eq!(cards(&world.roster()), (vec![3, 5, 9], vec![]));
}

pub fn a_roster_is_another_when_badges_have_changed_and_only_then(world: &mut World) {
    world.bind(&[(1, "anna")]);
    let first = world.roster();
    world.now.0 += 5_000;
    assert_eq!(world.roster(), first);
    world.bind(&[(1, "anna")]);
    world.restart();
    assert_eq!(world.roster(), first, "an import that changes nothing is no change");
    world.bind(&[(2, "ben")]);
    let second = world.roster();
    assert_eq!(second.version, world.now.0.unsigned_abs());
    world.revoke(&badge(2), "lost");
    let third = world.roster();
    assert_eq!(third.version, second.version + 1, "within the same millisecond too");
    world.restart();
    assert_eq!(world.roster(), third);
}

pub fn whether_there_is_a_change_is_known_without_a_roster(world: &mut World) {
    assert_eq!(world.store().roster_state().unwrap(), RosterState::default());
    world.bind(&[(1, "anna")]);
    let state = world.store().roster_state().unwrap();
    assert!(state.changes > state.made_of);
    let version = Some(world.roster().version);
    let state = world.store().roster_state().unwrap();
    assert_eq!((state.version, state.changes), (version, state.made_of));
}

pub fn a_controller_with_a_newer_roster_is_given_a_newer_one(world: &mut World) {
    world.bind(&[(1, "anna")]);
    let first = world.roster().version;
    let now = world.now;
    let mut claimed = |claimed| world.store().roster(&[OLD], Some(claimed), now).unwrap().version;
    assert_eq!(claimed(first), first);
    assert_eq!(claimed(first + 7), first + 8, "this store was restored from a backup");
    assert_eq!(claimed(u64::MAX), first + 8, "nobody can use versions up");
}

pub fn a_revoked_badge_is_said_to_be_in_the_next_roster(world: &mut World) {
    world.bind(&[(1, "anna"), (2, "anna"), (3, "ben")]);
    assert_eq!(world.revoke(&badge(3), "lost"), Stood { changed: 1, unchanged: 0 });
    let at = world.now;
    world.now.0 += 1;
    assert_eq!(world.revoke(&badge(3), "again"), Stood { changed: 0, unchanged: 1 });
    assert_eq!(world.revoke(&badge(4), "whose?"), Stood::default());
    let revoked = |world: &mut World| {
        let filter = BadgeFilter { revoked_only: true, ..BadgeFilter::default() };
        world.badges(filter).remove(0).revoked.unwrap()
    };
    let before = revoked(world);
    assert_eq!((before.at, before.why.as_str(), before.roster), (at, "lost", None));
    let roster = world.roster();
    assert_eq!(cards(&roster), (vec![1, 2], vec![3]));
    world.restart();
    assert_eq!(revoked(world).roster, Some(roster.version));
    world.revoke(&Which::Person(person("anna")), "has left");
    assert_eq!(cards(&world.roster()), (vec![], vec![1, 2, 3]));
    assert_eq!(revoked(world).roster, Some(roster.version + 1), "each by the first that says so");
}

pub fn a_revoked_badge_stays_so_over_an_import_until_it_is_reinstated(world: &mut World) {
    world.bind(&[(1, "anna")]);
    world.revoke(&badge(1), "lost");
    assert_eq!(world.bind(&[(1, "anna")]), Bound { unchanged: 1, revoked: 1, ..Bound::default() });
    assert_eq!(world.bind(&[(1, "ben")]), Bound { changed: 1, revoked: 1, ..Bound::default() });
    assert_eq!(cards(&world.roster()), (vec![], vec![1]));
    let again = world.store().reinstate_badges(&badge(1)).unwrap();
    assert_eq!(again, Stood { changed: 1, unchanged: 0 });
    assert_eq!(world.store().reinstate_badges(&badge(1)).unwrap(), Stood { changed: 0, unchanged: 1 });
    assert_eq!(cards(&world.roster()), (vec![1], vec![]));
}

pub fn a_tap_of_a_revoked_badge_is_delivered_all_the_same(world: &mut World) {
    world.bind(&[(1, "anna")]);
    world.revoke(&badge(1), "lost");
    world.tap(&mut Door::new(1), 1);
    assert_eq!(world.states(), ["pending"]);
}

pub fn badges_are_listed_in_pages_by_person_and_by_number(world: &mut World) {
    world.bind(&[(9, "anna"), (3, "ben"), (5, "anna")]);
    let whose = |rows: &[BadgeRow]| {
        rows.iter().map(|row| row.timeline.spans().last().unwrap().person.0.clone()).collect::<Vec<_>>()
    };
    let all = world.badges(BadgeFilter::default());
    assert_eq!(whose(&all), ["anna", "ben", "anna"]);
    assert_eq!(all[1].seals, [sealed(3, OLD)]);
    assert_eq!((all[1].timeline.spans()[0].from, &all[1].revoked), (EVER, &None));
    let page = BadgeFilter { after: Some(all[0].no), limit: 1, ..BadgeFilter::default() };
    assert_eq!(world.store().badges(&page).unwrap(), all[1..2]);
    let of = |which| BadgeFilter { which: Some(which), ..BadgeFilter::default() };
    assert_eq!(world.badges(of(Which::Person(person("anna")))), [all[0].clone(), all[2].clone()]);
    assert_eq!(world.badges(of(badge(3))), all[1..2]);
    assert_eq!(world.badges(of(badge(4))), []);
}

pub fn a_person_keeps_one_identity_under_a_new_token_key(world: &mut World) {
    world.bind(&[(1, "anna")]);
    let mut door = Door::new(1);
    let before = world.tap(&mut door, 1);
    assert_eq!(world.store().add_seals(&[(token(1), sealed(1, NEW))]).unwrap(), 1);
    door.seals_under(NEW);
    let after = world.tap(&mut door, 1);
    assert_eq!(
        [before, after].map(|position| world.delivery(position).person),
        [Some(person("anna")), Some(person("anna"))]
    );
    assert_eq!(world.states(), ["pending", "parked"], "in one line");
    let badges = world.badges(BadgeFilter::default());
    assert_eq!((badges.len(), &badges[0].seals), (1, &BOTH.map(|key| sealed(1, key)).to_vec()));
    assert_eq!(world.store().totals().unwrap().badges, 1);
    world.restart();
    world.tap(&mut door, 1);
    assert_eq!(world.states(), ["pending", "parked", "parked"]);
}

pub fn what_waits_under_either_key_is_released_by_an_import(world: &mut World) {
    let mut door = Door::new(1);
    world.tap(&mut door, 1);
    door.seals_under(NEW);
    world.tap(&mut door, 1);
    assert_eq!(world.states(), ["held for binding", "held for binding"]);
    assert_eq!(world.bind_under_both(1, "anna"), Bound { new: 1, released: 2, ..Bound::default() });
    assert_eq!(world.states(), ["pending", "parked"]);
    assert_eq!(world.bind_under_both(1, "anna"), Bound { unchanged: 1, ..Bound::default() });
}

pub fn another_seal_releases_what_waits_under_it(world: &mut World) {
    world.bind(&[(1, "anna")]);
    let mut door = Door::new(1);
    door.seals_under(NEW);
    world.tap(&mut door, 1);
    assert_eq!(world.states(), ["held for binding"]);
    world.store().add_seals(&[(token(1), sealed(1, NEW))]).unwrap();
    assert_eq!(world.states(), ["pending"]);
}

pub fn seals_of_unknown_badges_and_taken_tokens_count_for_nothing(world: &mut World) {
    world.bind(&[(1, "anna"), (2, "ben")]);
    let seals = [(token(3), sealed(3, NEW)), (token(1), sealed(2, OLD)), (token(1), sealed(1, OLD))];
    assert_eq!(world.store().add_seals(&seals).unwrap(), 0);
    let (known, _) = cards(&world.roster());
    assert_eq!(known, [1, 2]);
}

pub fn a_badge_that_became_known_under_each_key_alone_becomes_one(world: &mut World) {
    world.bind(&[(1, "anna")]);
    let now = world.now;
    let under_new = Binding::new(vec![sealed(1, NEW)], person("ben"));
    world.store().bind_badges(&[under_new], now).unwrap();
    world.revoke(&Which::Badge(vec![sealed(1, NEW).token]), "lost");
    assert_eq!(world.store().totals().unwrap().badges, 2);
    let merged = world.bind_under_both(1, "cleo");
    assert_eq!(merged, Bound { changed: 1, revoked: 1, ..Bound::default() });
    let badges = world.badges(BadgeFilter::default());
    assert_eq!((badges.len(), badges[0].seals.len(), world.store().totals().unwrap().badges), (1, 2, 1));
}

pub fn a_roster_lists_the_tokens_of_every_key_in_use_and_no_other(world: &mut World) {
    world.bind_under_both(1, "anna");
    world.bind_under_both(2, "ben");
    let now = world.now;
    let mut under = |keys: &[_]| world.store().roster(keys, None, now).unwrap();
    let (old, both, new) = (under(&[OLD]), under(&BOTH), under(&[NEW]));
    assert_eq!([&old, &both, &new].map(|roster| roster.entries.len() / ENTRY_BYTES), [2, 4, 2]);
    assert_eq!([both.version - old.version, new.version - both.version], [1, 1]);
    assert_ne!(old.entries, new.entries);
    assert!(both.entries.chunks(ENTRY_BYTES).is_sorted());
    world.revoke(&badge(1), "lost");
    let both = world.store().roster(&BOTH, None, now).unwrap();
    assert_eq!(cards(&both).1, [1, 1], "a revoked badge is revoked under every key");
}
