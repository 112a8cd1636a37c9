//! A dispatcher's turns: claims, leases, attempts and their ends; how much, of which kind, and who waits for whom.

use super::world::{Door, HR, LEASE_MS, Worker, World, hq, person};
use crate::delivery::breaker::{self, Sign};
use crate::delivery::class::Class;
use crate::delivery::limiter::Limits;
use crate::delivery::retry::Hold;
use crate::destination::settings::{AfterUnknown, OnDead};
use crate::event_store::{
    AttemptEnd, Change, Claim, Claimed, Deed, DeliverableTap, Ended, HeldFor, Lease, MAX_ANSWER_BYTES,
    NewDestination, Next, Position, Rendered, Since, StoreError, UtcMs,
};
use crate::fixture;
use tap_protocol::tap::Direction;

/// Persons for the cards 1, 2 and 3, and one tap per card given.
pub(super) fn taps(world: &mut World, cards: &[u8]) -> Vec<Position> {
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
    assert_eq!((claimed.claim.attempt, claimed.failures, claimed.was_unknown), (1, 0, false));
    assert_eq!((claimed.body.as_str(), claimed.class), ("{}", Class::Live));
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
    world.send(&claimed, Next::RetryIn(5_000));
    assert_eq!(world.states(), ["pending", "parked"]);
    assert_eq!(world.delivery(at[0]).next_attempt, Some(then));
    assert_eq!(world.claim(), []);
    world.now = then;
    let again = world.claim_one();
    assert_eq!((again.event_id, again.claim.attempt, again.failures), (claimed.event_id, 2, 1));
}

pub fn what_is_put_off_for_longer_than_anything_is_due_within_a_minute(world: &mut World) {
    let at = taps(world, &[1, 2]);
    let claimed = world.claim();
    let day_ms = 24 * 3_600_000;
    world.send(&claimed[0], Next::RetryIn(2 * 365 * day_ms));
    world.send(&claimed[1], Next::RetryIn(day_ms));
    assert_eq!(world.claim(), []);
    world.now = later(world, 60_000);
    assert_eq!(claimed_positions(world, 9), at[..1], "nobody asks for two years, and some ask for a day");
}

pub fn an_answer_once_written_down_stays(world: &mut World) {
    let at = taps(world, &[1]);
    let claimed = world.claim_one();
    world.send(&claimed, Next::Delivered);
    assert_eq!(world.finish(&claimed, Next::Dead), Lease::Lost);
    assert_eq!(world.detail(at[0]).attempts[0].outcome.as_deref(), Some("delivered"));
    assert_eq!(world.states(), ["delivered"]);
}

fn deed(world: &World, what: &str) -> Deed {
    Deed { who: "mara".into(), why: "because".into(), ..Deed::by_itself(world.now, what, HR) }
}

fn bodies(world: &mut World, at: Position) -> Vec<String> {
    world.detail(at).bodies.into_iter().map(|(_, body)| body).collect()
}

pub fn the_body_of_the_first_attempt_is_sent_for_ever(world: &mut World) {
    let at = taps(world, &[1, 1]);
    world.body = Rendered::Body("the body".into());
    let claimed = world.claim_one();
    assert_eq!(claimed.body, "the body");
    let then = later(world, 5_000);
    world.send(&claimed, Next::UnknownFor(5_000));
    assert_eq!(world.states(), ["unknown", "parked"]);
    assert_eq!(world.claim(), []);
    (world.now, world.body) = (then, Rendered::Body("another".into()));
    let again = world.claim_one();
    assert_eq!((again.event_id, again.claim.attempt, again.was_unknown), (claimed.event_id, 2, true));
    assert_eq!(again.body, "the body");
    world.restart();
    assert_eq!(bodies(world, at[0]), ["the body"]);
}

pub fn patience_is_no_failure(world: &mut World) {
    taps(world, &[1]);
    for attempt in 1..=3 {
        let claimed = world.claim_one();
        assert_eq!((claimed.claim.attempt, claimed.failures), (attempt, 0));
        world.send(&claimed, Next::PatientFor(0));
    }
    let claimed = world.claim_one();
    world.send(&claimed, Next::RetryIn(0));
    assert_eq!(world.claim_one().failures, 1);
}

pub fn a_late_worker_changes_nothing_but_is_written_down(world: &mut World) {
    let at = taps(world, &[1, 1]);
    let late = world.claim_one();
    world.now = later(world, LEASE_MS);
    assert_eq!(world.expire_leases(), 1);
    let second = world.claim_one();
    assert_eq!(world.finish(&late, Next::Dead), Lease::Lost);
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
        world.restart();
        assert_eq!(world.expire_leases(), 0, "who has just come knows of no time");
        world.now = later(world, LEASE_MS);
        assert_eq!(world.expire_leases(), 3);
    }
    assert!(leases.is_sorted_by(|one, next| one < next), "{leases:?}");
}

pub fn a_lease_that_ran_out_is_unknown(world: &mut World) {
    let at = taps(world, &[1, 1]);
    let claimed = world.claim_one();
    world.now = later(world, LEASE_MS - 1);
    assert_eq!(world.expire_leases(), 0);
    world.now = later(world, 1);
    assert_eq!(world.expire_leases(), 1);
    assert_eq!(world.states(), ["unknown", "parked"]);
    assert_eq!(world.delivery(at[0]).next_attempt, Some(world.now));
    assert_eq!(world.expire_leases(), 0);
    assert_eq!(world.finish(&claimed, Next::Delivered), Lease::Lost);
    assert!(world.claim_one().was_unknown);
}

pub fn a_wall_clock_that_is_set_ends_no_lease(world: &mut World) {
    taps(world, &[1]);
    let claimed = world.claim_one();
    let mut other = Worker::new(9);
    let now = world.now;
    for years in [10, -10] {
        world.now = UtcMs(now.0 + years * 365 * 24 * 3_600_000);
        assert_eq!(world.turn_of(&mut other, HR, &[], &[], 9).expired, 0);
        other = Worker::new(10 + years);
    }
    world.now = now;
    world.send(&claimed, Next::Delivered);
}

pub fn a_beat_keeps_what_is_under_way(world: &mut World) {
    taps(world, &[1, 2]);
    let (mut ours, mut other) = (Worker::new(2), Worker::new(3));
    let claimed = world.turn_of(&mut ours, HR, &[], &[], 9).claimed;
    let claims: Vec<Claim> = claimed.iter().map(|one| one.claim.clone()).collect();
    for _ in 0..12 {
        world.now = later(world, 500);
        let turned = world.turn_of(&mut ours, HR, &[], &claims[..1], 0);
        assert_eq!((turned.expired, turned.lost.len()), (0, 0));
        world.turn_of(&mut other, HR, &[], &[], 0);
    }
    let mut expired = 0;
    for _ in 0..12 {
        world.now = later(world, 500);
        expired += world.turn_of(&mut ours, HR, &[], &claims[..1], 0).expired;
        expired += world.turn_of(&mut other, HR, &[], &[], 0).expired;
    }
    assert_eq!(expired, 1, "the one that nobody spoke of");
    let turned = world.turn_of(&mut ours, HR, &[], &claims, 0);
    assert_eq!(turned.lost, claims[1..]);
    assert_eq!(world.states(), ["in_flight", "unknown"]);
}

pub fn two_workers_never_have_the_same_and_never_finish_it_twice(world: &mut World) {
    let at = taps(world, &[1, 2, 3, 1, 2, 3]);
    let mut workers = [Worker::new(2), Worker::new(3)];
    let mut ends = std::collections::BTreeMap::<Position, u32>::new();
    for turn in 0..8 {
        let claimed = workers.each_mut().map(|worker| world.turn_of(worker, HR, &[], &[], 2).claimed);
        let all: Vec<&Claimed> = claimed.iter().flatten().collect();
        for one in &all {
            assert_eq!(all.iter().filter(|other| other.claim.position == one.claim.position).count(), 1);
        }
        let ended: Vec<Ended> = all.iter().map(|one| world.ended(one, Next::Delivered)).collect();
        // Both write the same ends down, as if a worker had been taken for dead.
        for worker in &mut workers {
            let turned = world.turn_of(worker, HR, &ended, &[], 0);
            for (end, lease) in ended.iter().zip(turned.ended) {
                *ends.entry(end.claim.position).or_default() += u32::from(lease == Lease::Held);
            }
        }
        world.now = later(world, 100 * turn);
    }
    assert_eq!(ends, at.iter().map(|at| (*at, 1)).collect());
}

pub fn every_attempt_is_kept_with_its_answer_cut(world: &mut World) {
    let at = taps(world, &[1]);
    for n in 1..=3 {
        let claimed = world.claim_one();
        let end = AttemptEnd {
            finished: UtcMs(world.shown().0 + n),
            outcome: "server_error",
            status: Some(500 + n as u16),
            answer: "\u{e4}".repeat(MAX_ANSWER_BYTES),
        };
        let ended = Ended { end, ..world.ended(&claimed, Next::RetryIn(0)) };
        assert_eq!(world.turn_at(HR, &[ended], 0).ended, [Lease::Held]);
    }
    world.restart();
    let attempts = world.detail(at[0]).attempts;
    assert_eq!(attempts.iter().map(|a| a.number).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(attempts.iter().map(|a| a.status).collect::<Vec<_>>(), [Some(501), Some(502), Some(503)]);
    assert_eq!(attempts[2].finished, Some(later(world, 3)));
    assert!(attempts.iter().all(|a| a.answer.as_ref().is_some_and(|text| text.len() == MAX_ANSWER_BYTES)));
    assert_eq!(world.store().totals().unwrap().attempts, 3);
}

pub fn a_destination_on_hold_gives_nothing_and_the_longest_hold_counts(world: &mut World) {
    taps(world, &[1, 2, 3]);
    let claimed = world.claim_at(HR, 2);
    let ended: Vec<Ended> = [5_000, 2_000]
        .into_iter()
        .zip(&claimed)
        .map(|(for_ms, one)| {
            let hold = Some(Hold { for_ms, why: "429" });
            Ended { hold, sign: Some(Sign::Busy), ..world.ended(one, Next::PatientFor(0)) }
        })
        .collect();
    let turned = world.turn_at(HR, &ended, 9);
    assert_eq!((turned.claimed.len(), turned.again_in_ms), (0, Some(5_000)));
    let held = world.store().destinations().unwrap().remove(0);
    assert_eq!((held.held_until, held.held_why.as_deref()), (Some(later(world, 5_000)), Some("429")));
    world.now = later(world, 4_999);
    assert_eq!(world.claim(), []);
    world.now = later(world, 1);
    assert_eq!(world.claim().len(), 3);
}

pub fn it_says_when_to_ask_again(world: &mut World) {
    assert_eq!(world.turn_at(HR, &[], 9).again_in_ms, None);
    taps(world, &[1, 2]);
    let claimed = world.claim();
    assert_eq!(world.turn_at(HR, &[], 9).again_in_ms, None);
    world.send(&claimed[0], Next::RetryIn(9_000));
    world.send(&claimed[1], Next::UnknownFor(7_000));
    assert_eq!(world.turn_at(HR, &[], 9).again_in_ms, Some(7_000));
}

pub fn an_unknown_destination_is_an_error(world: &mut World) {
    let pause = deed(world, "pause");
    let refused = world.store().change_destination("nowhere", &Change::Pause, &pause);
    assert!(matches!(refused, Err(StoreError::NotFound { what: "destination", .. })), "{refused:?}");
}

pub fn destinations_do_not_touch_each_other(world: &mut World) {
    fixture::add_destination(world.store(), "payroll");
    taps(world, &[1, 1]);
    let (hr, payroll) = (world.claim_one(), world.claim_at("payroll", 9).remove(0));
    assert_eq!(hr.event_id, payroll.event_id);
    assert_ne!(hr.claim.lease, payroll.claim.lease);
    world.send(&hr, Next::Delivered);
    let pause = deed(world, "pause");
    world.store().change_destination(HR, &Change::Pause, &pause).unwrap();
    world.send(&payroll, Next::RetryIn(0));
    assert_eq!(world.states(), ["delivered", "pending"]);
    assert_eq!(world.claim(), []);
    let again = world.claim_at("payroll", 9);
    assert_eq!(again.iter().map(|one| one.event_id).collect::<Vec<_>>(), [payroll.event_id]);
}

pub fn a_new_destination_gets_what_is_stored_from_then_on(world: &mut World) {
    world.bind(&[(1, "anna")]);
    let mut door = Door::new(1);
    world.tap(&mut door, 1);
    fixture::add_destination(world.store(), "payroll");
    let again = NewDestination::from_now("payroll", "{}");
    let add = deed(world, "add");
    assert!(!world.store().add_destination(&again, &add).unwrap());
    let second = world.tap(&mut door, 1);
    let claimed = world.claim_at("payroll", 9);
    assert_eq!(claimed.iter().map(|one| one.claim.position).collect::<Vec<_>>(), [second]);
    assert_eq!(world.store().totals().unwrap().deliveries, 3);
}

pub fn a_crash_in_an_attempt_sends_the_same_again(world: &mut World) {
    let at = taps(world, &[1]);
    world.body = Rendered::Body("the body".into());
    let claimed = world.claim_one();
    world.restart();
    assert_eq!(world.claim(), [], "the lease still runs");
    world.now = later(world, LEASE_MS);
    let again = world.claim_one();
    assert_eq!((again.event_id, again.body.as_str()), (claimed.event_id, "the body"));
    world.send(&again, Next::Delivered);
    let attempts = world.detail(at[0]).attempts;
    let outcomes: Vec<_> = attempts.iter().map(|attempt| attempt.outcome.as_deref()).collect();
    assert_eq!(outcomes, [None, Some("delivered")]);
}

pub fn workers_share_one_limit(world: &mut World) {
    taps(world, &[1, 2, 3]);
    world.rules.limits = Limits { per_second: 10.0, burst: 2, per_day: None, concurrency: 9 };
    let (mut one, mut two) = (Worker::new(2), Worker::new(3));
    let first = world.turn_of(&mut one, HR, &[], &[], 9);
    let second = world.turn_of(&mut two, HR, &[], &[], 9);
    assert_eq!((first.claimed.len(), second.claimed.len()), (2, 0));
    assert_eq!(second.again_in_ms, Some(100));
    world.now = later(world, 99);
    assert_eq!(world.turn_of(&mut two, HR, &[], &[], 9).claimed, []);
    world.now = later(world, 1);
    assert_eq!(world.turn_of(&mut two, HR, &[], &[], 9).claimed.len(), 1);
}

pub fn a_limit_outlives_a_restart(world: &mut World) {
    taps(world, &[1, 2, 3]);
    world.rules.limits = Limits { per_second: 0.05, burst: 1, per_day: None, concurrency: 9 };
    let claimed = world.claim_one();
    world.send(&claimed, Next::Delivered);
    for _ in 0..3 {
        world.restart();
        assert_eq!(world.claim(), []);
    }
    world.now = later(world, 20_000);
    assert_eq!(world.claim().len(), 1);
}

pub fn what_was_never_sent_is_no_call_and_no_failure(world: &mut World) {
    taps(world, &[1]);
    world.rules.limits = Limits { per_second: 0.05, burst: 1, per_day: None, concurrency: 9 };
    for _ in 0..3 {
        let claimed = world.claim_one();
        assert_eq!(claimed.failures, 0);
        world.send(&claimed, Next::NotSent);
    }
}

pub fn a_breaker_opens_for_all_workers_and_lets_one_probe_through(world: &mut World) {
    taps(world, &[1, 2, 3, 1, 2, 3]);
    world.rules.breaker =
        breaker::Settings { failures: 2, open_ms: 4_000, most_open_ms: 8_000, ramp_ms: 1_000 };
    let (mut one, mut two) = (Worker::new(2), Worker::new(3));
    let claimed = world.turn_of(&mut one, HR, &[], &[], 9).claimed;
    let failed: Vec<Ended> = claimed
        .iter()
        .map(|one| Ended { sign: Some(Sign::Failed), ..world.ended(one, Next::RetryIn(0)) })
        .collect();
    let turned = world.turn_of(&mut one, HR, &failed[..2], &[], 9);
    assert_eq!((turned.claimed.len(), turned.again_in_ms), (0, Some(4_000)));
    assert_eq!(world.turn_of(&mut two, HR, &[], &[], 9).claimed, []);
    world.restart();
    let why = world.store().destinations().unwrap()[0].hindrance(world.now).unwrap();
    assert_eq!((why.what, why.needs_person), ("stopped", true));
    // The third call began before it opened: whatever came of it says nothing any more.
    world.turn_of(&mut one, HR, &failed[2..], &[], 0);
    world.now = later(world, 4_000);
    let probe = world.turn_of(&mut one, HR, &[], &[], 9).claimed;
    assert_eq!(probe.len(), 1);
    assert_eq!(world.turn_of(&mut two, HR, &[], &[], 9).claimed, []);
    let answered = world.ended(&probe[0], Next::Delivered);
    let turned = world.turn_of(&mut one, HR, &[answered], &[], 9);
    assert_eq!(turned.claimed.len(), 1, "at first there is one at a time");
    world.now = later(world, 1_000);
    assert_eq!(world.turn_of(&mut two, HR, &[], &[], 9).claimed.len(), 2);
}

pub fn a_paused_destination_gives_nothing_until_it_is_resumed(world: &mut World) {
    taps(world, &[1]);
    let (pause, resume) = (deed(world, "pause"), deed(world, "resume"));
    world.store().change_destination(HR, &Change::Pause, &pause).unwrap();
    world.restart();
    assert_eq!(world.claim(), []);
    let why = world.store().destinations().unwrap()[0].hindrance(world.now).unwrap();
    assert_eq!((why.what, why.why.as_str()), ("paused", "mara has paused it: because"));
    world.store().change_destination(HR, &Change::Resume, &resume).unwrap();
    assert_eq!(world.claim().len(), 1);
    let deeds = world.store().deeds(2).unwrap();
    assert_eq!(deeds.iter().map(|deed| deed.what.as_str()).collect::<Vec<_>>(), ["resume", "pause"]);
}

pub fn a_worker_with_old_settings_finishes_and_claims_nothing(world: &mut World) {
    taps(world, &[1, 1]);
    let claimed = world.claim_one();
    let set = deed(world, "set");
    world.store().change_destination(HR, &Change::Settings("{\"new\":1}".into()), &set).unwrap();
    let ended = world.ended(&claimed, Next::Delivered);
    let rules = world.rules.clone();
    let now = world.now;
    let turned = world.store().turn(&crate::event_store::Turn {
        destination: HR,
        version: 1,
        rules: &rules,
        now,
        vouch: &|| crate::delivery::ticks::Ticker::new(5).vouch(0),
        ended: &[ended],
        under_way: &[],
        room: 9,
        render: &|_, _| panic!("nothing is rendered by old settings"),
    });
    let turned = turned.unwrap();
    assert_eq!((turned.ended, turned.claimed.len(), turned.version), (vec![Lease::Held], 0, 2));
    assert_eq!(world.states(), ["delivered", "pending"]);
    assert_eq!(world.claim().len(), 1);
}

pub fn a_dead_one_keeps_its_own_line_back_by_policy_and_nobody_else(world: &mut World) {
    let at = taps(world, &[1, 1, 2, 2]);
    world.rules.on_dead = OnDead::Hold;
    let claimed = world.claim();
    world.send(&claimed[0], Next::Dead);
    assert_eq!(world.states(), ["dead", "parked", "in_flight", "parked"]);
    world.send(&claimed[1], Next::Delivered);
    assert_eq!(world.states(), ["dead", "parked", "delivered", "pending"]);
    let mut door = Door::new(2);
    let behind = world.tap(&mut door, 1);
    world.now = later(world, 365 * 24 * 3_600_000);
    assert_eq!(world.claim_one().claim.position, at[3]);
    assert_eq!(world.delivery(behind).behind, Some(world.row(at[1]).event_id));
    assert_eq!(world.delivery(at[1]).behind, Some(world.row(at[0]).event_id), "the dead one is in the way");
}

pub fn a_dead_one_keeps_its_own_line_back_for_hours(world: &mut World) {
    let at = taps(world, &[1, 1]);
    world.rules.on_dead = OnDead::HoldHours(2);
    let claimed = world.claim_one();
    world.send(&claimed, Next::Dead);
    let until = later(world, 2 * 3_600_000);
    assert_eq!(world.delivery(at[0]).blocks_until, Some(until));
    world.now = UtcMs(until.0 - 1);
    assert_eq!(world.claim(), []);
    world.now = until;
    assert_eq!(world.claim_one().claim.position, at[1]);
    assert_eq!(world.delivery(at[0]).blocks_until, None);
}

pub fn what_only_a_person_can_find_out_waits_for_one_and_so_does_its_line(world: &mut World) {
    let at = taps(world, &[1, 1, 2]);
    world.rules.unknown.then = AfterUnknown::AskPerson;
    let claimed = world.claim();
    world.send(&claimed[0], Next::AskPerson);
    world.now = later(world, LEASE_MS);
    assert_eq!(world.expire_leases(), 1, "a worker that died leaves the same behind");
    assert_eq!(world.states(), ["unknown for person", "parked", "unknown for person"]);
    world.now = later(world, 24 * 3_600_000);
    assert_eq!(world.claim(), []);
    assert_eq!(world.delivery(at[0]).held_for, Some(HeldFor::Person));
}

pub fn what_is_not_wanted_is_discarded_and_what_cannot_be_rendered_is_dead(world: &mut World) {
    let at = taps(world, &[1, 1, 1]);
    world.body = Rendered::NotWanted("only in".into());
    let turned = world.turn_at(HR, &[], 9);
    assert!(turned.claimed.is_empty() && turned.more);
    world.body = Rendered::Impossible("no zone".into());
    assert_eq!(world.turn_at(HR, &[], 9).impossible, [(world.row(at[1]).event_id, "no zone".to_owned())]);
    assert_eq!(world.states(), ["discarded", "dead", "pending"]);
    let told = [at[0], at[1]].map(|at| world.detail(at).attempts.remove(0));
    assert_eq!(told[0].answer.as_deref(), Some("only in"));
    assert_eq!(
        (told[1].outcome.as_deref(), told[1].answer.as_deref()),
        (Some("impossible"), Some("no zone"))
    );
}

pub fn in_shadow_mode_requests_are_written_down_and_not_sent(world: &mut World) {
    let at = taps(world, &[1, 1]);
    world.rules.shadow = true;
    while world.turn_at(HR, &[], 9).more {}
    assert_eq!(world.states(), ["discarded", "discarded"]);
    assert_eq!(bodies(world, at[1]), ["{}"]);
    assert_eq!(world.detail(at[1]).attempts[0].outcome.as_deref(), Some("shadow"));
}

pub fn old_taps_are_told_to_a_later_destination_first_and_in_order(world: &mut World) {
    let before = taps(world, &[1, 2, 1]);
    let add = deed(world, "add");
    let new = NewDestination { from: Since::Beginning, ..NewDestination::from_now("payroll", "{}") };
    assert!(world.store().add_destination(&new, &add).unwrap());
    let mut door = Door::new(2);
    let after = world.tap(&mut door, 1);
    assert_eq!(world.store().destinations().unwrap()[1].to_make, before.len() as u64);
    let mut order = Vec::new();
    loop {
        let claimed = world.claim_at("payroll", 9);
        if claimed.is_empty() {
            break;
        }
        for one in claimed {
            assert_eq!(one.class, if one.claim.position == after { Class::Live } else { Class::Backfill });
            order.push(one.claim.position);
            world.send(&one, Next::Delivered);
        }
    }
    assert_eq!(order, [before[0], before[1], before[2], after]);
    assert_eq!(world.store().destinations().unwrap()[1].to_make, 0);
}

pub fn old_taps_are_told_from_a_time_on(world: &mut World) {
    let before = taps(world, &[1, 2, 3]);
    let from = world.claim()[1].tap.occurred;
    let add = deed(world, "add");
    let new = NewDestination { from: Since::Time(from), ..NewDestination::from_now("payroll", "{}") };
    assert!(world.store().add_destination(&new, &add).unwrap());
    assert!(world.turn_at("payroll", &[], 0).more);
    let claimed = world.claim_at("payroll", 9);
    assert_eq!(claimed.iter().map(|one| one.claim.position).collect::<Vec<_>>(), before[1..]);
}

pub fn live_taps_go_before_old_ones_and_do_not_starve_them(world: &mut World) {
    taps(world, &[3; 1]);
    let mut old_door = Door::new(2);
    for _ in 0..3 {
        world.bind(&[(4, "dora")]);
        world.tap(&mut old_door, 4);
    }
    let add = deed(world, "add");
    let new = NewDestination { from: Since::Beginning, ..NewDestination::from_now("payroll", "{}") };
    assert!(world.store().add_destination(&new, &add).unwrap());
    assert!(world.turn_at("payroll", &[], 0).more);
    let mut live_door = Door::new(3);
    let mut classes = Vec::new();
    for _ in 0..40 {
        world.tap(&mut live_door, 1);
        let one = world.claim_at("payroll", 1).remove(0);
        classes.push(one.class);
        world.send(&one, Next::Delivered);
    }
    assert_eq!(classes[0], Class::Live);
    assert_eq!(classes.iter().filter(|class| **class == Class::Backfill).count(), 4, "{classes:?}");
}
