//! Taps over HTTP: API keys, idempotency keys, and what was promised while the store was away.

use tap_protocol::badge::TokenKeyId;
use tap_protocol::ids::{EventId, Seq};
use tap_protocol::keys::SigningKey;
use tap_protocol::record::{Body, ClockState, LossReason, Record, Stamp};
use tap_protocol::tap::{Direction, Tap, Verdict};

use super::world::{BOOT_UTC_MS, Door, World, id};
use crate::event_store::capture::{
    ApiKeyId, Captured, CapturedTap, Claim, KEYS_KEPT_MS, LAST_USE_EVERY_MS, NewApiKey, NoApiKey, Place,
    Print, Sitting, Source, TakenIn, ToCapture,
};
use crate::event_store::{Deed, StoreError, UtcMs};

const KEY: ApiKeyId = [1; 5];
const LIVE: Sitting = Sitting([1; 16]);
/// Of two replicas.
const SPOOL: Sitting = Sitting([2; 16]);
const OTHER_SPOOL: Sitting = Sitting([3; 16]);

fn kiosk() -> Source {
    Source { id: id("api-kiosk"), label: "Kiosk".into(), site: "hq".into() }
}

fn new_key(n: u8, source: &Source, expires: Option<UtcMs>) -> NewApiKey {
    NewApiKey { id: [n; 5], secret_sha256: [n; 32], source: source.id.clone(), expires }
}

fn deed(world: &World, what: &str) -> Deed {
    Deed::by_itself(world.now, what, "api-kiosk")
}

fn put_key(world: &mut World, n: u8, source: &Source, expires: Option<UtcMs>) {
    let deed = deed(world, "create_api_key");
    world.store().put_api_key(&new_key(n, source, expires), source, &deed).unwrap().unwrap();
}

pub(super) fn with_kiosk(world: &mut World) {
    put_key(world, 1, &kiosk(), None);
}

fn signing() -> SigningKey {
    SigningKey::from_seed(&[77; 32])
}

/// A tap of card 1 under the `n`th idempotency key, which means `meaning`.
fn tap_of(source: &Source, n: u8, meaning: u8) -> CapturedTap {
    let badge = super::world::sealed(1, TokenKeyId(1));
    let tap =
        Tap { reader: "api".parse().unwrap(), badge, direction: Direction::In, verdict: Verdict::NoRoster };
    let at =
        Stamp { boot: 1, boottime_ms: 0, wall_ms: BOOT_UTC_MS + i64::from(n), clock: ClockState::Synced };
    CapturedTap {
        source: source.id.clone(),
        api_key: KEY,
        key_sha256: [n; 32],
        prints: vec![Print { token_key: TokenKeyId(1), sha256: [meaning; 32] }],
        received: UtcMs(BOOT_UTC_MS),
        record: Record { at, body: Body::Tap(tap) }.encode(),
    }
}

pub(super) fn tap(n: u8, meaning: u8) -> CapturedTap {
    tap_of(&kiosk(), n, meaning)
}

pub(super) fn live(tap: CapturedTap) -> ToCapture {
    ToCapture { tap, sitting: LIVE, place: Place::Next(Claim::default()) }
}

fn promised(tap: CapturedTap, sitting: Sitting, seq: u64) -> ToCapture {
    ToCapture { tap, sitting, place: Place::Promised(Seq(seq)) }
}

fn event(sitting: Sitting, seq: u64) -> EventId {
    EventId::new(&kiosk().id, sitting.outbox(&kiosk().id), Seq(seq))
}

pub(super) fn take_in(world: &mut World, captures: &[ToCapture]) -> Vec<Captured> {
    world.now.0 += 1_000;
    let now = world.shown();
    let TakenIn { appended, captured } = world.store().take_in(&[], captures, &signing(), now).unwrap();
    assert!(appended.is_empty());
    world.check();
    captured
}

fn taps(world: &mut World) -> u64 {
    world.store().totals().unwrap().taps
}

fn body_of(world: &mut World, event: EventId) -> Body {
    let row = world.store().event(event).unwrap().unwrap().row;
    let bytes = world.store().record_bytes(&row.controller, row.outbox, row.seq).unwrap().unwrap();
    Record::decode(&bytes).unwrap().body
}

pub fn a_captured_tap_is_an_event_with_time_and_delivery_like_any_other(world: &mut World) {
    with_kiosk(world);
    world.bind(&[(1, "P-1")]);
    assert_eq!(
        take_in(world, &[live(tap(1, 1)), live(tap(2, 2))]),
        [1, 2].map(|n| Captured::Stored(event(LIVE, n)))
    );
    let row = world.store().event(event(LIVE, 2)).unwrap().unwrap().row;
    assert_eq!((row.controller, row.seq, row.kind.as_str()), (kiosk().id, Seq(2), "tap"));
    assert_eq!(row.tap.unwrap().occurred.unwrap().at, UtcMs(BOOT_UTC_MS + 2));
    assert_eq!(world.states(), ["pending", "parked"]);
    assert_eq!(world.claim_one().tap.person.0, "P-1");
}

pub fn batches_and_captured_taps_share_a_group(world: &mut World) {
    with_kiosk(world);
    let mut door = Door::new(1);
    door.tap(1);
    let (batch, now) = (door.unsent(), world.now);
    let taken = world.store().take_in(&[batch], &[live(tap(1, 1))], &signing(), now).unwrap();
    world.check();
    assert_eq!(taken.appended[0].mark.stored_through, Seq(1));
    assert_eq!(taken.captured, [Captured::Stored(event(LIVE, 1))]);
    assert_eq!(taps(world), 2);
}

pub fn the_same_under_the_same_key_is_answered_the_same_and_stored_once(world: &mut World) {
    with_kiosk(world);
    let first = take_in(world, &[live(tap(1, 1)), live(tap(1, 1))]);
    assert_eq!(first, [Captured::Stored(event(LIVE, 1)), Captured::Before(event(LIVE, 1))]);
    world.restart();
    let elsewhere = ToCapture { sitting: OTHER_SPOOL, ..live(tap(1, 1)) };
    assert_eq!(take_in(world, &[live(tap(1, 1)), elsewhere]), [Captured::Before(event(LIVE, 1)); 2]);
    assert_eq!(take_in(world, &[live(tap(1, 9))]), [Captured::OtherBefore(event(LIVE, 1))]);
    assert_eq!(taps(world), 1);
}

pub fn what_a_request_meant_is_compared_under_the_token_key_of_then(world: &mut World) {
    with_kiosk(world);
    take_in(world, &[live(tap(1, 1))]);
    let under_both = |of_then: u8| {
        let mut tap = tap(1, of_then);
        tap.prints.insert(0, Print { token_key: TokenKeyId(2), sha256: [200; 32] });
        live(tap)
    };
    assert_eq!(take_in(world, &[under_both(1)]), [Captured::Before(event(LIVE, 1))]);
    assert_eq!(take_in(world, &[under_both(2)]), [Captured::OtherBefore(event(LIVE, 1))]);
}

pub fn a_tap_that_the_spool_has_taken_is_left_to_it(world: &mut World) {
    with_kiosk(world);
    let (theirs, ours) = (live(tap(1, 1)), live(tap(2, 2)));
    let Place::Next(claim) = &theirs.place else { panic!() };
    assert!(claim.take() && !claim.take(), "it is given once");
    let captured = take_in(world, &[theirs, ours.clone()]);
    assert_eq!(captured, [Captured::TakenElsewhere, Captured::Stored(event(LIVE, 1))]);
    let Place::Next(claim) = &ours.place else { panic!() };
    assert!(!claim.take(), "the store has it");
    let from_spool = promised(tap(1, 1), SPOOL, 1);
    assert_eq!(take_in(world, &[from_spool]), [Captured::Stored(event(SPOOL, 1))]);
}

pub fn one_idempotency_key_of_two_sources_is_two_taps(world: &mut World) {
    with_kiosk(world);
    let other = Source { id: id("api-other"), ..kiosk() };
    put_key(world, 2, &other, None);
    let mut theirs = tap_of(&other, 1, 1);
    theirs.api_key = [2; 5];
    let captured = take_in(world, &[live(tap(1, 1)), live(theirs)]);
    assert!(captured.iter().all(|captured| matches!(captured, Captured::Stored(_))), "{captured:?}");
    assert_eq!(taps(world), 2);
}

pub fn an_idempotency_key_is_forgotten_after_its_time_and_not_before(world: &mut World) {
    with_kiosk(world);
    take_in(world, &[live(tap(1, 1))]);
    world.now.0 += KEYS_KEPT_MS - 2_000;
    assert_eq!(take_in(world, &[live(tap(1, 1))]), [Captured::Before(event(LIVE, 1))]);
    world.now.0 += 2_000;
    take_in(world, &[live(tap(2, 2))]);
    assert_eq!(take_in(world, &[live(tap(1, 1))]), [Captured::Stored(event(LIVE, 3))]);
}

pub fn a_key_that_ended_or_was_revoked_brings_nothing(world: &mut World) {
    with_kiosk(world);
    let ends = UtcMs(world.now.0 + 5_000);
    put_key(world, 2, &kiosk(), Some(ends));
    let by = |api_key: ApiKeyId, n: u8| live(CapturedTap { api_key, ..tap(n, n) });
    assert_eq!(
        take_in(world, &[by([2; 5], 1), by([9; 5], 2)]),
        [Captured::Stored(event(LIVE, 1)), Captured::Refused]
    );
    world.now = ends;
    assert_eq!(take_in(world, &[by([2; 5], 3)]), [Captured::Refused]);
    let (revoke, again) = (deed(world, "revoke_api_key"), deed(world, "revoke_api_key"));
    assert!(world.store().revoke_api_key(KEY, &revoke).unwrap());
    assert!(!world.store().revoke_api_key(KEY, &again).unwrap(), "it is revoked once");
    assert!(!world.store().revoke_api_key([9; 5], &again).unwrap(), "there is no such key");
    assert_eq!(take_in(world, &[by(KEY, 4)]), [Captured::Refused]);
    let what_was_promised = promised(tap(5, 5), SPOOL, 1);
    assert_eq!(take_in(world, &[what_was_promised]), [Captured::Stored(event(SPOOL, 1))]);
    let other = Source { id: id("api-other"), ..kiosk() };
    put_key(world, 3, &other, None);
    assert_eq!(take_in(world, &[by([3; 5], 6)]), [Captured::Refused], "it is another source's key");
}

pub fn keys_are_listed_with_their_last_use_to_the_hour_and_every_deed_is_logged(world: &mut World) {
    with_kiosk(world);
    let created = world.now;
    take_in(world, &[live(tap(1, 1))]);
    let first_use = world.now;
    world.now.0 += LAST_USE_EVERY_MS - 2_000;
    take_in(world, &[live(tap(2, 2))]);
    let last_used = |world: &mut World| world.store().api_keys().unwrap()[0].last_used;
    assert_eq!(last_used(world), Some(first_use));
    world.now.0 += 1_000;
    take_in(world, &[live(tap(3, 3))]);
    assert_eq!(last_used(world), Some(world.now));
    put_key(world, 2, &Source { label: "Kiosk 2".into(), ..kiosk() }, Some(UtcMs(5)));
    world.restart();
    let keys = world.store().api_keys().unwrap();
    assert_eq!(keys.iter().map(|state| state.key.id).collect::<Vec<_>>(), [[2; 5], [1; 5]]);
    assert_eq!((keys[1].created, keys[0].key.expires), (created, Some(UtcMs(5))));
    assert_eq!(keys[0].last_used, None);
    assert_eq!(world.store().capture_sources().unwrap()[0].label, "Kiosk 2");
    let deeds = world.store().deeds(9).unwrap();
    assert_eq!(deeds.iter().filter(|deed| deed.what == "create_api_key").count(), 2);
}

pub fn a_door_is_no_source_and_a_source_no_door(world: &mut World) {
    let door = Source { id: id("hq-door-1"), ..kiosk() };
    let (key, deed_) = (new_key(1, &door, None), deed(world, "create_api_key"));
    assert_eq!(world.store().put_api_key(&key, &door, &deed_).unwrap(), Err(NoApiKey::IsADoor(door.id)));
    let nowhere = Source { site: "nowhere".into(), ..kiosk() };
    let refused = world.store().put_api_key(&new_key(1, &nowhere, None), &nowhere, &deed_);
    assert!(matches!(refused, Err(StoreError::NotFound { .. })));
    assert!(world.store().api_keys().unwrap().is_empty());
    assert!(world.store().deeds(9).unwrap().iter().all(|deed| deed.what == "add"));
    with_kiosk(world);
    let before = world.store().fleet().unwrap().len();
    take_in(world, &[live(tap(1, 1))]);
    assert!(world.store().controllers().unwrap().iter().all(|state| state.controller.id != kiosk().id));
    assert_eq!((world.store().fleet().unwrap().len(), before), (3, 3), "rotations wait for doors alone");
    assert!(world.store().marks().unwrap().is_empty(), "nobody waits for a receipt");
}

pub fn what_was_promised_is_stored_at_its_place_and_once(world: &mut World) {
    with_kiosk(world);
    let waiting: Vec<_> = (1..=3).map(|n| promised(tap(n, n), SPOOL, n.into())).collect();
    let stored: Vec<_> = (1..=3).map(|n| Captured::Stored(event(SPOOL, n))).collect();
    assert_eq!(take_in(world, &waiting[..2]), stored[..2]);
    world.restart();
    let again = [Captured::Before(event(SPOOL, 1)), Captured::Before(event(SPOOL, 2)), stored[2]];
    assert_eq!(take_in(world, &waiting), again, "after a crash before the spool knew");
    assert_eq!(taps(world), 3);
    assert_eq!(
        take_in(world, &[live(tap(3, 3))]),
        [Captured::Before(event(SPOOL, 3))],
        "a repeated request finds it"
    );
}

pub fn two_promises_to_one_request_become_one_tap(world: &mut World) {
    with_kiosk(world);
    let here = promised(tap(1, 1), SPOOL, 1);
    let there = [promised(tap(1, 1), OTHER_SPOOL, 1), promised(tap(2, 2), OTHER_SPOOL, 2)];
    assert_eq!(take_in(world, &[here]), [Captured::Stored(event(SPOOL, 1))]);
    let same = Captured::SameAs { promised: event(OTHER_SPOOL, 1), tap: event(SPOOL, 1) };
    assert_eq!(take_in(world, &there), [same, Captured::Stored(event(OTHER_SPOOL, 2))]);
    assert_eq!(taps(world), 2);
    let body = Body::SameAs { outbox: SPOOL.outbox(&kiosk().id), seq: Seq(1) };
    assert_eq!(body_of(world, event(OTHER_SPOOL, 1)), body);
    assert_eq!(
        take_in(world, &there),
        [1, 2].map(|n| Captured::Before(event(OTHER_SPOOL, n))),
        "settled once"
    );
}

pub fn two_promises_to_two_requests_under_one_key_are_both_kept(world: &mut World) {
    with_kiosk(world);
    take_in(world, &[promised(tap(1, 1), SPOOL, 1)]);
    let both = Captured::Both { stored: event(OTHER_SPOOL, 1), other: event(SPOOL, 1) };
    assert_eq!(take_in(world, &[promised(tap(1, 9), OTHER_SPOOL, 1)]), [both]);
    assert_eq!(taps(world), 2);
}

pub fn promises_that_are_gone_leave_a_record_that_says_so(world: &mut World) {
    with_kiosk(world);
    let captured = take_in(world, &[promised(tap(1, 1), SPOOL, 1), promised(tap(4, 4), SPOOL, 4)]);
    assert_eq!(captured, [1, 4].map(|n| Captured::Stored(event(SPOOL, n))));
    let outbox = SPOOL.outbox(&kiosk().id);
    for seq in [2, 3] {
        let lost = Body::Lost { outbox, from: Seq(seq), to: Seq(seq), why: LossReason::Damaged };
        assert_eq!(body_of(world, event(SPOOL, seq)), lost);
    }
    assert_eq!((taps(world), world.store().totals().unwrap().records), (2, 4));
}

pub fn more_than_a_batch_is_signed_in_several(world: &mut World) {
    with_kiosk(world);
    let many: Vec<_> = (1..=600u64)
        .map(|n| {
            let mut tap = tap(1, 1);
            tap.key_sha256[..8].copy_from_slice(&n.to_be_bytes());
            promised(tap, SPOOL, n)
        })
        .collect();
    let captured = take_in(world, &many);
    assert_eq!(captured.last(), Some(&Captured::Stored(event(SPOOL, 600))));
    assert_eq!(taps(world), 600);
}

pub fn a_source_that_is_not_known_leaves_nothing_of_what_was_promised(world: &mut World) {
    let now = world.now;
    let refused = world.store().take_in(&[], &[promised(tap(1, 1), SPOOL, 1)], &signing(), now);
    assert!(matches!(refused, Err(StoreError::NotFound { what: "controller", .. })), "{refused:?}");
    world.check();
    assert_eq!(take_in(world, &[live(tap(1, 1))]), [Captured::Refused], "who has no key is told at once");
}

pub fn another_capture_key_takes_over_and_the_old_records_stay_proved(world: &mut World) {
    with_kiosk(world);
    take_in(world, &[live(tap(1, 1))]);
    let (next, now) = (SigningKey::from_seed(&[78; 32]), world.now);
    for n in [2, 3] {
        world.store().take_in(&[], &[live(tap(n, n))], &next, now).unwrap();
        world.check();
    }
    let keys = world.store().controller(&kiosk().id).unwrap().unwrap().record_keys;
    let good: Vec<_> = keys.iter().filter(|key| key.is_good(now)).map(|key| key.key).collect();
    assert_eq!((good, keys.len()), (vec![next.public()], 2));
}
