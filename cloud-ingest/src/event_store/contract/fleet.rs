//! What every store must do with a controller's keys and standing.

use tap_protocol::ids::{OutboxId, Seq};
use tap_protocol::keys::{PublicKey, SigningKey};

use super::world::{Door, World, controller, id};
use crate::event_store::{
    Certificate, Controller, Deed, DeviceKeys, Enrolment, Fetched, Issue, Member, NewToken, RecordKey,
    Refusal, Renewal, Standing, StoreError, TokenState, UtcMs, good_keys,
};

pub(super) fn key(seed: u8) -> PublicKey {
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

const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

fn deed(at: UtcMs, what: &str, about: &str) -> Deed {
    let [who, what, about, why] = ["anna", what, about, "because"].map(str::to_owned);
    Deed { at, who, what, about, why }
}

fn new_token(world: &World, n: u8, controller: &str) -> NewToken {
    NewToken {
        id: [n; 5],
        secret_sha256: [n; 32],
        controller: id(controller),
        site: "hq".into(),
        label: format!("Door {n}"),
        expires: UtcMs(world.now.0 + DAY_MS),
    }
}

pub(super) fn put_token(world: &mut World, n: u8, controller: &str) {
    let (token, deed) = (new_token(world, n, controller), deed(world.now, "create_token", controller));
    world.store().put_enroll_tokens(&[token], &deed).unwrap();
    world.restart();
}

/// What is issued at this moment to the device with those keys.
pub(super) fn issue(world: &World, serial: u8, tls: u8, record: u8) -> Issue {
    Issue {
        at: world.now,
        keys: DeviceKeys { tls: vec![tls; 65], record: key(record) },
        serial: [serial; 16],
        not_after: UtcMs(world.now.0 + 30 * DAY_MS),
        holds: vec!["receipt-1".into(), "root-1".into()],
        agent_version: "0.1.0".into(),
    }
}

pub(super) fn enroll(world: &mut World, token: u8, issue: Issue) -> Result<Controller, Refusal> {
    let enrolment = Enrolment { token: [token; 5], secret_sha256: [token; 32], issue };
    let done = world.store().enroll(&enrolment).unwrap();
    world.restart();
    done
}

pub(super) fn renew(
    world: &mut World,
    controller: &str,
    signed_by: u8,
    issue: Issue,
) -> Result<Controller, Refusal> {
    let overlap_until = UtcMs(issue.at.0 + 7 * DAY_MS);
    let renewal = Renewal { controller: id(controller), signed_by: key(signed_by), issue, overlap_until };
    let done = world.store().renew(&renewal).unwrap();
    world.restart();
    done
}

pub(super) fn set_standing(world: &mut World, controller: &str, standing: Standing) {
    let deed = deed(world.now, standing.name(), controller);
    world.store().set_standing(&id(controller), standing, &deed).unwrap();
    world.restart();
}

#[track_caller]
fn member(world: &mut World, controller: &str) -> Member {
    let found = world.store().member(&id(controller)).unwrap().unwrap();
    let listed = world.store().fleet().unwrap().into_iter().find(|m| m.controller.id == found.controller.id);
    assert_eq!(listed.as_ref(), Some(&found));
    found
}

fn revoked_serials(world: &mut World) -> Vec<u8> {
    let now = world.now;
    let revoked = world.store().revoked_certificates(now).unwrap();
    revoked.into_iter().map(|revoked| revoked.serial[0]).collect()
}

pub fn a_token_makes_a_controller_with_its_key_and_certificate(world: &mut World) {
    put_token(world, 1, "yard-gate");
    assert_eq!(world.store().controller(&id("yard-gate")).unwrap(), None);
    let issued = issue(world, 7, 8, 60);
    let made = enroll(world, 1, issued.clone()).unwrap();
    assert_eq!((&*made.label, &*made.site), ("Door 1", "hq"));
    assert_eq!(made.record_keys, [RecordKey::new(key(60))]);
    let member = member(world, "yard-gate");
    assert_eq!((member.controller, member.standing), (made, Standing::Active));
    let Issue { at, serial, not_after, holds, agent_version, keys } = issued;
    assert_eq!(member.certificate, Some(Certificate { serial, issued: at, not_after }));
    assert_eq!(member.fetched, Some(Fetched { at, holds, agent_version }));
    let token = world.store().enroll_token([1; 5]).unwrap().unwrap();
    assert_eq!(token.used, Some((at, keys)));
    assert_eq!(world.store().enroll_token([9; 5]).unwrap(), None);
}

pub fn a_token_is_used_once_but_for_the_same_keys(world: &mut World) {
    put_token(world, 1, "yard-gate");
    let used = world.now;
    let (first, again, other) = (issue(world, 7, 8, 60), issue(world, 9, 8, 60), issue(world, 10, 8, 61));
    enroll(world, 1, first).unwrap();
    world.now.0 += 5;
    enroll(world, 1, again).unwrap();
    assert_eq!(enroll(world, 1, other), Err(Refusal::UsedToken(used)));
    assert_eq!(member(world, "yard-gate").certificate.unwrap().serial, [9; 16]);
    assert!(revoked_serials(world).is_empty(), "both certificates are of one key");
}

pub fn a_token_of_another_secret_or_time_or_taken_back_lets_nobody_in(world: &mut World) {
    put_token(world, 1, "yard-gate");
    let asked = issue(world, 7, 8, 60);
    let wrong = Enrolment { token: [1; 5], secret_sha256: [2; 32], issue: asked.clone() };
    assert_eq!(world.store().enroll(&wrong).unwrap(), Err(Refusal::UnknownToken));
    assert_eq!(enroll(world, 2, asked.clone()), Err(Refusal::UnknownToken));
    let expires = UtcMs(world.now.0 + DAY_MS);
    let late = Issue { at: expires, ..asked.clone() };
    assert_eq!(enroll(world, 1, late), Err(Refusal::ExpiredToken(expires)));
    let back = deed(world.now, "withdraw_token", "1");
    assert!(world.store().withdraw_enroll_token([1; 5], &back).unwrap());
    assert!(!world.store().withdraw_enroll_token([1; 5], &back).unwrap());
    assert_eq!(enroll(world, 1, asked), Err(Refusal::WithdrawnToken(world.now)));
    assert_eq!(world.store().controller(&id("yard-gate")).unwrap(), None);
    assert_eq!(world.store().fleet().unwrap().len(), 3);
}

pub fn tokens_are_made_all_or_none_and_listed_newest_first(world: &mut World) {
    let lost = NewToken { site: "nowhere".into(), ..new_token(world, 2, "b") };
    let (good, now) = (new_token(world, 1, "a"), world.now);
    let deeds = world.store().deed_count().unwrap();
    let refused = world.store().put_enroll_tokens(&[good.clone(), lost], &deed(now, "create_token", "2"));
    assert!(matches!(refused, Err(StoreError::NotFound { what: "site", .. })), "{refused:?}");
    assert_eq!(world.store().enroll_tokens().unwrap(), []);
    assert_eq!(world.store().deed_count().unwrap(), deeds);
    put_token(world, 1, "a");
    put_token(world, 3, "c");
    let made = |token| TokenState { token, created: now, used: None, withdrawn: None };
    let expected = [made(new_token(world, 3, "c")), made(good)];
    assert_eq!(world.store().enroll_tokens().unwrap(), expected);
}

pub fn enrolling_again_ends_the_device_that_was_there_before(world: &mut World) {
    put_token(world, 1, "yard-gate");
    put_token(world, 2, "yard-gate");
    put_token(world, 3, "yard-gate");
    let first = issue(world, 7, 8, 60);
    enroll(world, 1, first.clone()).unwrap();
    assert_eq!(enroll(world, 2, first.clone()), Err(Refusal::WithdrawnToken(world.now)));
    world.now.0 += 5;
    put_token(world, 4, "yard-gate");
    let second = issue(world, 9, 10, 61);
    let made = enroll(world, 4, second).unwrap();
    assert_eq!(good_keys(&made.record_keys, world.now), [key(61)]);
    assert_eq!(made.record_keys.len(), 2, "the old one stays for proofs");
    assert_eq!(revoked_serials(world), [7]);
    assert_eq!(enroll(world, 1, first), Err(Refusal::WithdrawnToken(world.now)));
}

pub fn a_renewal_keeps_the_key_or_lets_a_new_one_take_over(world: &mut World) {
    put_token(world, 1, "yard-gate");
    let first = issue(world, 7, 8, 60);
    enroll(world, 1, first).unwrap();
    world.now.0 += 20 * DAY_MS;
    let same = issue(world, 9, 8, 60);
    assert_eq!(renew(world, "yard-gate", 60, same).unwrap().record_keys, [RecordKey::new(key(60))]);
    let (changed_at, new) = (world.now, issue(world, 10, 11, 61));
    let keys = renew(world, "yard-gate", 60, new.clone()).unwrap().record_keys;
    let until = UtcMs(changed_at.0 + 7 * DAY_MS);
    assert_eq!(keys, [RecordKey::new(key(61)), RecordKey { key: key(60), good_until: Some(until) }]);
    world.now.0 += DAY_MS;
    let again = Issue { at: world.now, serial: [12; 16], ..new };
    let keys = renew(world, "yard-gate", 60, again.clone()).unwrap().record_keys;
    assert_eq!(keys[1].good_until, Some(until), "asking again does not lengthen it");
    let stranger = Issue { serial: [13; 16], ..again.clone() };
    assert_eq!(renew(world, "yard-gate", 99, stranger.clone()), Err(Refusal::UnknownKey));
    let too_late = Issue { at: until, ..stranger.clone() };
    assert_eq!(renew(world, "yard-gate", 60, too_late), Err(Refusal::UnknownKey));
    assert_eq!(renew(world, "nobody", 60, stranger), Err(Refusal::UnknownController));
    assert!(revoked_serials(world).is_empty());
}

pub fn a_revoked_controller_is_trusted_for_what_it_had_spoken_of(world: &mut World) {
    let mut door = Door::new(1);
    (0..3).for_each(|_| door.tap(1));
    let first_two = door.batch(1, 2);
    world.append(&[first_two]);
    let (now, hello) = (world.now, door.hello(&[(door.outbox, 3)]));
    world.store().note_hello(&hello, now).unwrap();
    assert_eq!(world.store().trusted_through(&door.controller, door.outbox).unwrap(), None);
    world.now.0 += 1_000;
    set_standing(world, "hq-door-1", Standing::Revoked);
    assert_eq!(world.store().trusted_through(&door.controller, door.outbox).unwrap(), Some(Seq(3)));
    assert_eq!(world.store().trusted_through(&door.controller, OutboxId([99; 16])).unwrap(), Some(Seq(0)));
    let third = door.batch(3, 3);
    world.append(&[third]);
    let flagged: Vec<bool> = world.events().iter().map(|row| row.after_revocation).collect();
    assert_eq!(flagged, [true, false, false], "newest first");
    world.now.0 += 1_000;
    set_standing(world, "hq-door-1", Standing::Active);
    assert_eq!(world.store().trusted_through(&door.controller, door.outbox).unwrap(), None);
    door.tap(2);
    let fourth = door.batch(4, 4);
    world.append(&[fourth]);
    let flagged: Vec<bool> = world.events().iter().map(|row| row.after_revocation).collect();
    assert_eq!(flagged, [false, true, false, false], "what was flagged stays flagged");
}

pub fn revoking_ends_certificates_and_tokens_and_retiring_only_tokens(world: &mut World) {
    for (n, controller, standing) in [(1, "a", Standing::Revoked), (2, "b", Standing::Retired)] {
        put_token(world, n, controller);
        let issued = issue(world, n, n, 60 + n);
        enroll(world, n, issued.clone()).unwrap();
        put_token(world, n + 10, controller);
        set_standing(world, controller, standing);
        let state = member(world, controller);
        assert_eq!((state.standing, state.decided), (standing, Some((world.now, "because".into()))));
        let asked = Issue { serial: [n + 20; 16], ..issued };
        let refused = renew(world, controller, 60 + n, asked.clone());
        assert_eq!(refused, Err(Refusal::NotActive(standing, world.now, "because".into())));
        assert_eq!(enroll(world, n + 10, asked), Err(Refusal::WithdrawnToken(world.now)));
    }
    assert_eq!(revoked_serials(world), [1]);
    world.now.0 += 31 * DAY_MS;
    assert!(revoked_serials(world).is_empty(), "it has ended by itself");
    let unknown = deed(world.now, "revoke", "nobody");
    let refused = world.store().set_standing(&id("nobody"), Standing::Revoked, &unknown);
    assert!(matches!(refused, Err(StoreError::NotFound { what: "controller", .. })), "{refused:?}");
}

pub fn a_controller_is_renamed_and_moved_without_losing_its_keys(world: &mut World) {
    let (before, now) = (member(world, "hq-door-1").controller, world.now);
    let renamed = deed(now, "rename", "hq-door-1");
    world.store().rename(&before.id, Some("Back door"), None, &renamed).unwrap();
    world.restart();
    assert_eq!(
        member(world, "hq-door-1").controller,
        Controller { label: "Back door".into(), ..before.clone() }
    );
    let lost = world.store().rename(&before.id, None, Some("nowhere"), &renamed);
    assert!(matches!(lost, Err(StoreError::NotFound { what: "site", .. })), "{lost:?}");
    let unknown = world.store().rename(&id("nobody"), Some("x"), None, &renamed);
    assert!(matches!(unknown, Err(StoreError::NotFound { what: "controller", .. })), "{unknown:?}");
}

pub fn every_decision_is_in_the_log(world: &mut World) {
    put_token(world, 1, "yard-gate");
    let issued = issue(world, 7, 8, 60);
    enroll(world, 1, issued).unwrap();
    set_standing(world, "yard-gate", Standing::Revoked);
    let noted = deed(world.now, "rotate", "receipt-2");
    world.store().note_deed(&noted).unwrap();
    world.restart();
    let told: Vec<_> =
        world.store().deeds(9).unwrap().into_iter().map(|d| (d.who, d.what, d.about)).collect();
    let line = |who: &str, what: &str, about: &str| (who.to_owned(), what.to_owned(), about.to_owned());
    let expected = [
        line("anna", "rotate", "receipt-2"),
        line("anna", "revoked", "yard-gate"),
        line("cloud-ingest", "enroll", "yard-gate"),
        line("anna", "create_token", "yard-gate"),
        line("cloud-ingest", "add", "hr"),
    ];
    assert_eq!(told, expected);
    assert_eq!(world.store().deeds(1).unwrap(), [noted]);
    assert_eq!(world.store().deed_count().unwrap(), 5);
}
