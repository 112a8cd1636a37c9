//! Leases, attempts and their ends.

use super::world::{Door, HR, LEASE_MS, World, hq, person};
use crate::event_store::{
    AttemptEnd, Claim, DeliverableTap, Lease, MAX_ANSWER_BYTES, Next, Position, StoreError, UtcMs,
};
use tap_protocol::tap::Direction;

/// Persons for the cards 1, 2 and 3, and one tap per card given.
fn taps(world: &mut World, cards: &[u8]) -> Vec<Position> {
    world.bind(&[(1, "anna"), (2, "ben"), (3, "cleo")]);
    let mut door = Door::new(1);
    cards.iter().map(|card| world.tap(&mut door, *card)).collect()
}

fn later(world: &World, ms: i64) -> UtcMs {
    UtcMs(world.now.0 + ms)
}

fn claimed_positions(world: &mut World, limit: usize) -> Vec<Position> {
    world.claim_at(HR, limit).iter().map(|claimed| claimed.claim.position).collect()
}

pub fn only_heads_are_claimed_the_longest_due_first(world: &mut World) {
    let at = taps(world, &[1, 1, 2, 3, 2]);
    assert_eq!(claimed_positions(world, 9), [at[0], at[2], at[3]]);
    assert_eq!(world.states(), ["in_flight", "parked", "in_flight", "in_flight", "parked"]);
    assert_eq!(claimed_positions(world, 9), []);
}

pub fn a_claim_takes_no_more_than_its_limit(world: &mut World) {
    let at = taps(world, &[1, 2, 3]);
    assert_eq!(claimed_positions(world, 0), []);
    assert_eq!(claimed_positions(world, 2), at[..2]);
    assert_eq!(claimed_positions(world, 2), at[2..]);
}

pub fn a_claim_has_all_that_a_request_needs(world: &mut World) {
    world.bind(&[(1, "anna")]);
    let mut door = Door::new(2);
    let occurred = door.next_utc();
    let position = world.tap(&mut door, 1);
    let claimed = world.claim_one();
    assert_eq!(claimed.claim.destination, HR);
    assert_eq!(claimed.claim.position, position);
    assert_eq!(claimed.event_id, door.event_id(1));
    assert_eq!((claimed.attempts, claimed.body), (0, None));
    let tap = DeliverableTap {
        person: person("anna"),
        controller: door.controller,
        site: hq(),
        reader: "in".parse().unwrap(),
        direction: Direction::In,
        occurred,
        uncertainty_ms: 500,
    };
    assert_eq!(claimed.tap, tap);
}

pub fn the_end_of_one_makes_the_next_pending(world: &mut World) {
    taps(world, &[1, 1]);
    let claimed = world.claim_one();
    world.send(&claimed, Next::Delivered);
    assert_eq!(world.states(), ["delivered", "pending"]);
}

pub fn the_taps_of_one_person_are_delivered_in_order(world: &mut World) {
    let at = taps(world, &[1, 2, 1, 1, 2, 1]);
    let mut delivered = Vec::new();
    loop {
        let claimed = world.claim();
        if claimed.is_empty() {
            break;
        }
        for one in claimed {
            world.send(&one, Next::Delivered);
            delivered.push((one.tap.person, one.claim.position));
        }
    }
    let of = |name: &str| -> Vec<Position> {
        delivered.iter().filter(|(who, _)| *who == person(name)).map(|(_, position)| *position).collect()
    };
    assert_eq!(of("anna"), [at[0], at[2], at[3], at[5]]);
    assert_eq!(of("ben"), [at[1], at[4]]);
}

pub fn a_dead_one_lets_the_next_pass(world: &mut World) {
    taps(world, &[1, 1]);
    let claimed = world.claim_one();
    world.send(&claimed, Next::Dead);
    assert_eq!(world.states(), ["dead", "pending"]);
    world.expire_leases();
    assert_eq!(world.states(), ["dead", "pending"]);
}

pub fn a_retry_stays_head_and_waits(world: &mut World) {
    let at = taps(world, &[1, 1]);
    let claimed = world.claim_one();
    let then = later(world, 5_000);
    world.send(&claimed, Next::RetryAt(then));
    assert_eq!(world.states(), ["pending", "parked"]);
    assert_eq!(world.delivery(at[0]).next_attempt, Some(then));
    assert_eq!(world.claim(), []);
    world.now = then;
    let again = world.claim_one();
    assert_eq!((again.event_id, again.attempts), (claimed.event_id, 1));
}

pub fn an_unknown_one_stays_head_and_is_sent_again_the_same(world: &mut World) {
    taps(world, &[1, 1]);
    let claimed = world.claim_one();
    assert_eq!(world.start(&claimed, "the body"), Lease::Held);
    let then = later(world, 5_000);
    assert_eq!(world.finish(&claimed, Next::UnknownUntil(then)), Lease::Held);
    assert_eq!(world.states(), ["unknown", "parked"]);
    assert_eq!(world.claim(), []);
    world.now = then;
    let again = world.claim_one();
    assert_eq!((again.event_id, again.attempts), (claimed.event_id, 1));
    assert_eq!(again.body.as_deref(), Some("the body"));
}

pub fn another_body_is_refused_after_the_first(world: &mut World) {
    let at = taps(world, &[1]);
    let claimed = world.claim_one();
    assert_eq!(world.start(&claimed, "the body"), Lease::Held);
    assert_eq!(world.finish(&claimed, Next::RetryAt(world.now)), Lease::Held);
    let again = world.claim_one();
    let now = world.now;
    let refused = world.store().start_attempt(&again.claim, "another body", now);
    assert!(matches!(refused, Err(StoreError::Broken(_))), "{refused:?}");
    assert_eq!(world.start(&again, "the body"), Lease::Held);
    assert_eq!(world.detail(at[0]).bodies, [(HR.to_owned(), "the body".to_owned())]);
}

pub fn one_claim_is_one_attempt(world: &mut World) {
    let at = taps(world, &[1]);
    let claimed = world.claim_one();
    assert_eq!(world.start(&claimed, "{}"), Lease::Held);
    assert_eq!(world.start(&claimed, "{}"), Lease::Held);
    assert_eq!(world.delivery(at[0]).attempts, 1);
    assert_eq!(world.store().totals().unwrap().attempts, 1);
}

pub fn a_late_worker_changes_nothing_but_is_written_down(world: &mut World) {
    let at = taps(world, &[1, 1]);
    let late = world.claim_one();
    assert_eq!(world.start(&late, "{}"), Lease::Held);
    world.now = later(world, LEASE_MS);
    assert_eq!(world.expire_leases(), 1);
    let second = world.claim_one();
    assert_eq!(world.finish(&late, Next::Dead), Lease::Lost);
    assert_eq!(world.start(&late, "{}"), Lease::Lost);
    assert_eq!(world.states(), ["in_flight", "parked"]);
    world.send(&second, Next::Delivered);
    assert_eq!(world.finish(&late, Next::Dead), Lease::Lost);
    let attempts = world.detail(at[0]).attempts;
    let outcomes: Vec<_> =
        attempts.iter().map(|attempt| (attempt.number, attempt.outcome.as_deref())).collect();
    assert_eq!(outcomes, [(1, Some("refused")), (2, Some("delivered"))]);
    assert_eq!(world.states(), ["delivered", "pending"]);
}

pub fn no_lease_is_given_twice(world: &mut World) {
    taps(world, &[1, 2, 3]);
    let mut leases = Vec::new();
    for _ in 0..3 {
        leases.extend(world.claim().iter().map(|claimed| claimed.claim.lease));
        world.now = later(world, LEASE_MS);
        assert_eq!(world.expire_leases(), 3);
        world.restart();
    }
    assert!(leases.is_sorted_by(|one, next| one < next), "{leases:?}");
    let stranger = Claim { destination: HR.into(), position: Position(99), lease: 1 };
    let now = world.now;
    assert_eq!(world.store().start_attempt(&stranger, "{}", now).unwrap(), Lease::Lost);
}

pub fn a_lease_that_ran_out_is_unknown_if_an_attempt_was_started(world: &mut World) {
    let at = taps(world, &[1]);
    let claimed = world.claim_one();
    assert_eq!(world.start(&claimed, "{}"), Lease::Held);
    world.now = later(world, LEASE_MS - 1);
    assert_eq!(world.expire_leases(), 0);
    world.now = later(world, 1);
    assert_eq!(world.expire_leases(), 1);
    assert_eq!(world.states(), ["unknown"]);
    assert_eq!(world.delivery(at[0]).next_attempt, Some(world.now));
    assert_eq!(world.expire_leases(), 0);
}

pub fn a_lease_that_ran_out_is_pending_if_nothing_was_sent(world: &mut World) {
    taps(world, &[1, 1]);
    let claimed = world.claim_one();
    world.now = later(world, LEASE_MS);
    assert_eq!(world.expire_leases(), 1);
    assert_eq!(world.states(), ["pending", "parked"]);
    assert_eq!(world.finish(&claimed, Next::Delivered), Lease::Lost);
    assert_eq!(world.store().totals().unwrap().attempts, 0);
}

pub fn nothing_is_started_after_the_lease_ran_out(world: &mut World) {
    let at = taps(world, &[1]);
    let claimed = world.claim_one();
    world.now = later(world, LEASE_MS);
    assert_eq!(world.start(&claimed, "{}"), Lease::Lost);
    assert_eq!(world.delivery(at[0]).attempts, 0);
}

pub fn an_end_without_a_start_is_an_attempt_of_its_own(world: &mut World) {
    let at = taps(world, &[1]);
    let claimed = world.claim_one();
    assert_eq!(world.finish(&claimed, Next::Dead), Lease::Held);
    let attempts = world.detail(at[0]).attempts;
    assert_eq!(attempts.len(), 1);
    assert_eq!((attempts[0].started, attempts[0].finished), (world.now, Some(world.now)));
    assert_eq!(attempts[0].outcome.as_deref(), Some("refused"));
    assert_eq!(world.detail(at[0]).bodies, []);
}

pub fn every_attempt_is_kept_with_its_answer_cut(world: &mut World) {
    let at = taps(world, &[1]);
    for n in 1..=3 {
        let claimed = world.claim_one();
        assert_eq!(world.start(&claimed, "{}"), Lease::Held);
        let end = AttemptEnd {
            finished: later(world, n),
            outcome: "server_error",
            status: Some(500 + n as u16),
            answer: "ä".repeat(MAX_ANSWER_BYTES),
        };
        let next = Next::RetryAt(world.now);
        assert_eq!(world.store().finish(&claimed.claim, &end, next).unwrap(), Lease::Held);
    }
    world.restart();
    let attempts = world.detail(at[0]).attempts;
    assert_eq!(attempts.iter().map(|a| a.number).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(attempts.iter().map(|a| a.status).collect::<Vec<_>>(), [Some(501), Some(502), Some(503)]);
    assert_eq!(attempts[2].finished, Some(later(world, 3)));
    assert!(attempts.iter().all(|a| a.answer.as_ref().is_some_and(|text| text.len() == MAX_ANSWER_BYTES)));
    assert_eq!(world.store().totals().unwrap().attempts, 3);
}

pub fn an_answer_once_written_down_stays(world: &mut World) {
    let at = taps(world, &[1]);
    let claimed = world.claim_one();
    world.send(&claimed, Next::Delivered);
    assert_eq!(world.finish(&claimed, Next::Dead), Lease::Lost);
    assert_eq!(world.detail(at[0]).attempts[0].outcome.as_deref(), Some("delivered"));
    assert_eq!(world.states(), ["delivered"]);
}

pub fn a_destination_on_hold_gives_nothing(world: &mut World) {
    taps(world, &[1]);
    let until = later(world, 5_000);
    world.store().hold_destination(HR, until, "429 with Retry-After: 5").unwrap();
    world.restart();
    assert_eq!(world.claim(), []);
    assert_eq!(world.store().next_due(HR).unwrap(), Some(until));
    let held = world.store().destinations().unwrap().remove(0);
    assert_eq!((held.held_until, held.held_why.as_deref()), (Some(until), Some("429 with Retry-After: 5")));
    world.now = until;
    assert_eq!(world.claim().len(), 1);
}

pub fn the_last_word_on_a_hold_counts(world: &mut World) {
    taps(world, &[1]);
    let (far, near) = (later(world, 50_000), later(world, 0));
    world.store().hold_destination(HR, far, "paused").unwrap();
    world.store().hold_destination(HR, near, "resumed").unwrap();
    assert_eq!(world.claim().len(), 1);
}

pub fn next_due_is_the_first_that_waits(world: &mut World) {
    assert_eq!(world.store().next_due(HR).unwrap(), None);
    taps(world, &[1, 2]);
    let stored = later(world, 0);
    assert_eq!(world.store().next_due(HR).unwrap(), Some(UtcMs(stored.0 - 1_000)));
    let claimed = world.claim();
    assert_eq!(world.store().next_due(HR).unwrap(), None);
    world.send(&claimed[0], Next::RetryAt(later(world, 9_000)));
    world.send(&claimed[1], Next::UnknownUntil(later(world, 7_000)));
    assert_eq!(world.store().next_due(HR).unwrap(), Some(later(world, 7_000)));
}

pub fn an_unknown_destination_is_an_error(world: &mut World) {
    let now = world.now;
    let claim = Claim { destination: "nowhere".into(), position: Position(1), lease: 1 };
    let refusals = [
        world.store().claim("nowhere", now, now, 1).map(|_| ()),
        world.store().next_due("nowhere").map(|_| ()),
        world.store().hold_destination("nowhere", now, ""),
        world.store().start_attempt(&claim, "{}", now).map(|_| ()),
    ];
    for refused in refusals {
        assert!(matches!(refused, Err(StoreError::NotFound { what: "destination", .. })), "{refused:?}");
    }
}

pub fn destinations_do_not_touch_each_other(world: &mut World) {
    world.store().put_destination("payroll").unwrap();
    taps(world, &[1, 1]);
    let (hr, payroll) = (world.claim_one(), world.claim_at("payroll", 9).remove(0));
    assert_eq!(hr.event_id, payroll.event_id);
    assert_ne!(hr.claim.lease, payroll.claim.lease);
    world.send(&hr, Next::Delivered);
    let until = later(world, 1_000);
    world.store().hold_destination(HR, until, "paused").unwrap();
    world.send(&payroll, Next::RetryAt(world.now));
    assert_eq!(world.states(), ["delivered", "pending"]);
    assert_eq!(world.claim(), []);
    let again = world.claim_at("payroll", 9);
    assert_eq!(again.iter().map(|one| one.event_id).collect::<Vec<_>>(), [payroll.event_id]);
}

pub fn a_new_destination_gets_what_is_stored_from_then_on(world: &mut World) {
    world.bind(&[(1, "anna")]);
    let mut door = Door::new(1);
    world.tap(&mut door, 1);
    world.store().put_destination("payroll").unwrap();
    world.store().put_destination("payroll").unwrap();
    let second = world.tap(&mut door, 1);
    let claimed = world.claim_at("payroll", 9);
    assert_eq!(claimed.iter().map(|one| one.claim.position).collect::<Vec<_>>(), [second]);
    assert_eq!(world.store().totals().unwrap().deliveries, 3);
}

pub fn a_crash_in_an_attempt_sends_the_same_again(world: &mut World) {
    let at = taps(world, &[1]);
    let claimed = world.claim_one();
    assert_eq!(world.start(&claimed, "the body"), Lease::Held);
    world.restart();
    assert_eq!(world.claim(), [], "the lease still runs");
    world.now = later(world, LEASE_MS);
    assert_eq!(world.expire_leases(), 1);
    let again = world.claim_one();
    assert_eq!((again.event_id, again.body.as_deref()), (claimed.event_id, Some("the body")));
    world.send_as(&again, "the body", Next::Delivered);
    let attempts = world.detail(at[0]).attempts;
    let outcomes: Vec<_> = attempts.iter().map(|attempt| attempt.outcome.as_deref()).collect();
    assert_eq!(outcomes, [None, Some("delivered")]);
}
