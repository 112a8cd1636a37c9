//! Several processes on one server whose clocks disagree, by hours and by years: what time it is, the server says. The
//! [`World`]'s own process is years ahead in all cases on a server; here are more of them, and what only they could spoil.

use super::completeness::{begin, in_order};
use super::delivery::taps;
use super::world::{Door, HR, LEASE_MS, Worker, World};
use crate::delivery::limiter::Limits;
use crate::destination::settings::OnDead;
use crate::event_store::{GIVE_UP_ON_TIME_AFTER_MS, Next, Position, UtcMs, WatermarkRow};

const HOUR_MS: i64 = 3_600_000;

const DAY_MS: i64 = 24 * HOUR_MS;

const YEAR_MS: i64 = 365 * DAY_MS;

/// Processes on machines with a clock that was never set, with one that is some hours ahead, and with one from the future.
fn three() -> [Worker; 3] {
    let ahead_ms = [-30 * YEAR_MS, 5 * HOUR_MS, 10 * YEAR_MS];
    [2, 3, 4].map(|by| Worker::ahead(by, ahead_ms[by as usize - 2]))
}

/// What that process is given when it asks, and when it is to ask again.
fn asks(world: &mut World, worker: &mut Worker) -> (Vec<Position>, Option<u64>) {
    let turned = world.turn_of(worker, HR, &[], &[], 9);
    (turned.claimed.iter().map(|claimed| claimed.claim.position).collect(), turned.again_in_ms)
}

pub fn a_day_is_the_servers_whatever_replicas_take_it_for(world: &mut World) {
    let at = taps(world, &[1, 2, 3, 1, 2, 3, 1]);
    let midnight = UtcMs((world.now.0 / DAY_MS + 1) * DAY_MS);
    world.rules.limits = Limits { per_second: 100.0, burst: 100, per_day: Some(2), concurrency: 1 };
    let mut told = Vec::new();
    for _ in 0..5 {
        for worker in &mut three() {
            let turned = world.turn_of(worker, HR, &[], &[], 9);
            for claimed in turned.claimed {
                told.push(claimed.claim.position);
                world.send(&claimed, Next::Delivered);
            }
        }
    }
    assert_eq!(told, at[..2], "two a day");
    for worker in &mut three() {
        assert_eq!(asks(world, worker), (vec![], Some((midnight.0 - world.now.0) as u64)));
    }
    let [mut never_set, mut hours, mut future] = three();
    world.now = UtcMs(midnight.0 - 1);
    assert_eq!(asks(world, &mut future), (vec![], Some(1)), "it is not tomorrow yet");
    world.now = midnight;
    assert_eq!(asks(world, &mut never_set).0, at[2..3], "it is");
    assert_eq!(asks(world, &mut hours).0, [], "one at a time");
}

pub fn a_retry_waits_as_long_as_it_would_with_one_clock(world: &mut World) {
    let at = taps(world, &[1])[0];
    for (n, worker) in three().iter_mut().enumerate() {
        let claimed = world.turn_of(worker, HR, &[], &[], 1).claimed.remove(0);
        let ended = world.ended(&claimed, Next::RetryIn(5_000));
        world.turn_of(worker, HR, &[ended], &[], 0);
        let due = UtcMs(world.now.0 + 5_000);
        assert_eq!(world.delivery(at).next_attempt, Some(due));
        world.now = UtcMs(due.0 - 1);
        let mut others = three();
        let next = &mut others[(n + 1) % 3];
        assert_eq!(asks(world, next), (vec![], Some(1)));
        world.now = due;
    }
}

pub fn what_one_puts_off_another_takes_up_to_the_millisecond(world: &mut World) {
    let at = taps(world, &[1])[0];
    let [mut never_set, mut hours, mut future] = three();
    let wait = |next| match next {
        Next::UnknownFor(ms) | Next::PatientFor(ms) => ms as i64,
        _ => 0,
    };
    for next in [Next::UnknownFor(7_000), Next::PatientFor(60_000), Next::NotSent] {
        let claimed = world.turn_of(&mut future, HR, &[], &[], 1).claimed.remove(0);
        let ended = world.ended(&claimed, next.clone());
        world.turn_of(&mut future, HR, &[ended], &[], 0);
        world.now.0 += wait(next);
        assert_eq!(asks(world, &mut never_set).0, [at]);
        // Whose lease runs out, while another looks.
        asks(world, &mut hours);
        world.now.0 += LEASE_MS / 2;
        asks(world, &mut hours);
        world.now.0 += LEASE_MS / 2;
        assert_eq!(world.turn_of(&mut hours, HR, &[], &[], 0).expired, 1);
        assert_eq!(world.delivery(at).next_attempt, Some(world.now), "it may be asked about at once");
    }
}

pub fn a_tap_that_a_wrong_clock_took_in_is_due_at_once(world: &mut World) {
    world.bind(&[(1, "anna"), (2, "ben"), (3, "cleo")]);
    assert!(world.shown().0 > world.now.0 + YEAR_MS, "whoever takes in is years ahead");
    let mut door = Door::new(1);
    for (card, worker) in (1..).zip(&mut three()) {
        let at = world.tap(&mut door, card);
        assert_eq!(world.row(at).received, world.now);
        assert_eq!(asks(world, worker).0, [at]);
    }
}

pub fn lines_that_wait_go_on_by_the_servers_hours(world: &mut World) {
    let at = taps(world, &[1, 1]);
    world.rules.on_dead = OnDead::HoldHours(2);
    let [mut never_set, mut hours, mut future] = three();
    let claimed = world.turn_of(&mut hours, HR, &[], &[], 1).claimed.remove(0);
    let ended = world.ended(&claimed, Next::Dead);
    world.turn_of(&mut hours, HR, &[ended], &[], 0);
    let until = UtcMs(world.now.0 + 2 * HOUR_MS);
    assert_eq!(world.delivery(at[0]).blocks_until, Some(until));
    world.now = UtcMs(until.0 - 1);
    assert_eq!(asks(world, &mut future).0, []);
    world.now = until;
    assert_eq!(asks(world, &mut never_set).0, at[1..]);
}

pub fn nobody_gives_up_on_a_tap_before_a_day_has_passed(world: &mut World) {
    world.bind(&[(1, "anna")]);
    let mut door = Door::new(1);
    door.unsynced_tap(1);
    world.store_all_of(&mut door);
    let received = world.now;
    let given_up = |world: &mut World| -> usize {
        three().iter_mut().map(|worker| world.turn_of(worker, HR, &[], &[], 0).given_up).sum()
    };
    world.now = UtcMs(received.0 + GIVE_UP_ON_TIME_AFTER_MS - 1);
    assert_eq!(given_up(world), 0);
    world.now = UtcMs(received.0 + GIVE_UP_ON_TIME_AFTER_MS);
    assert_eq!(given_up(world), 1);
}

pub fn a_tap_waits_for_other_doors_no_longer_and_no_shorter(world: &mut World) {
    in_order(world, 60);
    world.bind(&[(1, "anna")]);
    let at = world.tap(&mut Door::new(1), 1);
    let received = world.now;
    world.now = UtcMs(received.0 + 59_999);
    for worker in &mut three() {
        assert_eq!(asks(world, worker).0, []);
    }
    world.now = UtcMs(received.0 + 60_000);
    let [mut never_set, ..] = three();
    assert_eq!(asks(world, &mut never_set).0, [at]);
}

pub fn a_watermark_is_begun_again_after_a_minute_of_the_servers(world: &mut World) {
    let limits = Limits { per_second: 100.0, burst: 100, per_day: None, concurrency: 5 };
    let (shown, now) = (world.shown(), world.now);
    assert_eq!(world.store().clock(shown).unwrap(), now);
    world.store().put_watermark(&WatermarkRow { looked: now, ..WatermarkRow::new(HR, "Day") }, 0).unwrap();
    let next = UtcMs(now.0 + 60_000);
    assert!(begin(world, limits, 2, next));
    world.now = UtcMs(next.0 - 1);
    assert!(!begin(world, limits, 2, next), "somebody has begun, and the minute is not over");
    world.now = next;
    assert!(begin(world, limits, 2, UtcMs(next.0 + 60_000)));
}

pub fn what_is_written_down_of_attempts_lies_between_what_the_server_saw(world: &mut World) {
    let at = taps(world, &[1])[0];
    let began = world.now;
    let claimed = world.claim_one();
    world.now.0 += 700;
    world.send(&claimed, Next::Delivered);
    let attempt = world.detail(at).attempts.remove(0);
    assert_eq!((attempt.started, attempt.finished), (began, Some(UtcMs(began.0 + 700))));
}
