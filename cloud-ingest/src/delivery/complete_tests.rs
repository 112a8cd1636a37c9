//! Beside step 11: doors, disks and stores that are put back and lost, and what is said of them.

use proptest::prelude::*;
use tap_protocol::hello::OutboxHello;
use tap_protocol::ids::BootId;
use tap_protocol::record::ClockState;

use super::*;

fn outbox(n: u8) -> OutboxId {
    OutboxId([n; 16])
}

/// A hello that names these outboxes: which, its last seq, and through where it has receipts.
fn hello(outboxes: &[(u8, u64, u64)]) -> Hello {
    let named = outboxes.iter().map(|(n, last_seq, receipted_through)| OutboxHello {
        outbox: outbox(*n),
        last_seq: Seq(*last_seq),
        receipted_through: Seq(*receipted_through),
        store_epoch: None,
        oldest_unreceipted_age_ms: None,
    });
    Hello {
        controller: "door".parse().unwrap(),
        boot_id: BootId([1; 16]),
        boottime_ms: 0,
        wall_ms: 0,
        clock: ClockState::Synced,
        agent_version: "1".into(),
        record_version: VERSION_1,
        roster_version: None,
        outboxes: named.collect(),
        readers: vec![],
    }
}

/// The store's outboxes: which, through where it is stored, and where it ended when it was named last.
fn known(outboxes: &[(u8, u64, u64)]) -> Vec<Known> {
    let known = outboxes.iter().map(|(n, stored, told)| Known {
        outbox: outbox(*n),
        stored_through: Seq(*stored),
        told_seq: Seq(*told),
        is_written: false,
        is_waived: false,
    });
    known.collect()
}

fn written(n: u8, mut outboxes: Vec<Known>) -> Vec<Known> {
    outboxes.iter_mut().filter(|known| known.outbox == outbox(n)).for_each(|known| known.is_written = true);
    outboxes
}

/// How far a door is complete that has said these at 100 and at 200.
#[track_caller]
fn check(before: Option<&Hello>, now: &Hello, outboxes: &[Known], expected: Option<i64>) {
    let before = before.map(|hello| Said { hello, at: Some(UtcMs(100)) });
    let now = Said { hello: now, at: Some(UtcMs(200)) };
    assert_eq!(after(None, before, now, outboxes), expected.map(UtcMs));
}

#[test]
fn a_door_that_has_receipts_for_everything_is_complete_through_its_hello() {
    check(None, &hello(&[(1, 9, 9)]), &known(&[(1, 9, 9)]), Some(200));
    check(None, &hello(&[]), &[], Some(200));
}

#[test]
fn what_is_under_way_is_not_complete_and_the_hello_before_may_be() {
    let (before, now) = (hello(&[(1, 5, 3)]), hello(&[(1, 9, 5)]));
    check(Some(&before), &now, &known(&[(1, 6, 5)]), Some(100));
    check(Some(&before), &hello(&[(1, 9, 4)]), &known(&[(1, 6, 5)]), None);
}

#[test]
fn a_store_that_was_put_back_lacks_what_it_had_receipted() {
    check(None, &hello(&[(1, 9, 9)]), &known(&[(1, 7, 9)]), None);
}

#[test]
fn a_door_that_was_put_back_numbers_anew_and_has_no_receipt_for_it() {
    // The store has ten of another life under these numbers.
    check(None, &hello(&[(1, 9, 6)]), &known(&[(1, 10, 9)]), None);
}

#[test]
fn all_outboxes_on_the_disk_count() {
    check(None, &hello(&[(1, 4, 2), (2, 9, 9)]), &known(&[(1, 2, 4), (2, 9, 9)]), None);
    check(None, &hello(&[(1, 4, 4), (2, 9, 9)]), &known(&[(1, 4, 4), (2, 9, 9)]), Some(200));
}

#[test]
fn an_outbox_that_has_gone_with_its_disk_holds_back_until_a_person_waives_it() {
    let now = hello(&[(2, 1, 1)]);
    let mut outboxes = written(1, known(&[(1, 9, 9), (2, 1, 1)]));
    check(Some(&hello(&[(1, 9, 9)])), &now, &outboxes, None);
    outboxes[0].is_waived = true;
    check(Some(&hello(&[(1, 9, 9)])), &now, &outboxes, Some(200));
}

#[test]
fn an_old_outbox_that_was_sent_whole_may_be_deleted() {
    check(None, &hello(&[(2, 1, 1)]), &written(2, known(&[(1, 9, 9), (2, 1, 1)])), Some(200));
    check(None, &hello(&[(2, 1, 1)]), &written(2, known(&[(1, 8, 9), (2, 1, 1)])), None);
}

#[test]
fn what_was_said_once_stays() {
    let now = Said { hello: &hello(&[(1, 9, 0)]), at: Some(UtcMs(200)) };
    assert_eq!(after(Some(UtcMs(150)), None, now, &known(&[(1, 0, 9)])), Some(UtcMs(150)));
    let earlier = Said { hello: &hello(&[(1, 9, 9)]), at: Some(UtcMs(120)) };
    assert_eq!(after(Some(UtcMs(150)), None, earlier, &known(&[(1, 9, 9)])), Some(UtcMs(150)));
}

#[test]
fn a_hello_speaks_for_no_moment_after_it_came_and_for_none_that_is_not_known() {
    let well = hello(&[]);
    let known = |utc_ms, uncertainty_ms| TrueTime::Known { utc_ms, uncertainty_ms };
    assert_eq!(moment(&well, known(5_000, 500), UtcMs(9_000)), Some(UtcMs(4_500)));
    let years_ahead = known(5_000_000_000, 500);
    assert_eq!(moment(&well, years_ahead, UtcMs(9_000)), Some(UtcMs(9_000)));
    assert_eq!(moment(&well, known(5_000, 60_001), UtcMs(9_000)), None);
    assert_eq!(moment(&well, TrueTime::Unknown, UtcMs(9_000)), None);
    assert_eq!(moment(&well, TrueTime::Disputed, UtcMs(9_000)), None);
}

#[test]
fn a_door_that_writes_what_nobody_here_can_read_is_not_complete() {
    let newer = Hello { record_version: VERSION_1 + 1, ..hello(&[]) };
    assert_eq!(moment(&newer, TrueTime::Known { utc_ms: 5, uncertainty_ms: 0 }, UtcMs(9)), None);
}

const MINUTE: i64 = 60_000;

fn door(name: &str, complete: Option<i64>) -> Door {
    Door {
        controller: name.parse().unwrap(),
        site: "hq".into(),
        standing: Standing::Active,
        is_source: false,
        complete: complete.map(|minutes| UtcMs(minutes * MINUTE)),
        is_missed: false,
        untold: None,
    }
}

#[track_caller]
fn told(door: &Door, minutes: Option<i64>, holds: Holds) {
    assert_eq!(door.told_through(), Some((minutes.map(|minutes| UtcMs(minutes * MINUTE)), holds)));
}

#[test]
fn a_destination_is_told_through_the_earliest_of_what_it_lacks() {
    told(&door("a", Some(10)), Some(9), Holds::OnTheDoor);
    told(&door("a", None), None, Holds::NeverComplete);
    let untold = |minutes: i64| Some(UtcMs(minutes * MINUTE));
    told(&Door { untold: untold(4), ..door("a", Some(10)) }, Some(4), Holds::Untold);
    told(&Door { untold: untold(12), ..door("a", Some(10)) }, Some(9), Holds::OnTheDoor);
    told(&Door { untold: Some(NOT_KNOWN), ..door("a", Some(10)) }, None, Holds::UntoldWithoutTime);
}

#[test]
fn what_is_out_of_use_and_what_comes_over_http_holds_back_what_it_has_brought_and_no_more() {
    let retired = Door { standing: Standing::Retired, ..door("a", Some(10)) };
    let revoked = Door { standing: Standing::Revoked, ..door("a", None) };
    let source = Door { is_source: true, ..door("a", None) };
    for one in [&retired, &revoked, &source] {
        assert_eq!(one.told_through(), None);
        let with_untold = Door { untold: Some(UtcMs(MINUTE)), ..one.clone() };
        told(&with_untold, Some(1), Holds::Untold);
    }
    told(&Door { is_missed: true, ..retired }, Some(9), Holds::OnTheDoor);
    told(&Door { is_missed: true, ..revoked }, None, Holds::NeverComplete);
}

#[test]
fn a_tap_waits_for_the_other_doors_of_its_site() {
    let elsewhere = Door { site: "lab".into(), ..door("d", None) };
    let doors = [door("a", None), door("b", Some(7)), door("c", Some(5)), elsewhere];
    let through = |name: &str| others_through(&doors, &name.parse().unwrap());
    assert_eq!(through("a"), Some(UtcMs(5 * MINUTE)));
    assert_eq!(through("b"), None, "a has never said anything");
    assert_eq!(through("d"), Some(UtcMs(i64::MAX)), "there is no other");
    assert_eq!(through("nobody"), None);
}

/// What happens at a door whose disk and whose store may be put back, and what it says of it.
#[derive(Debug, Clone)]
enum Step {
    Tap,
    Send,
    Receipt,
    Hello,
    HelloIsLost,
    StoreIsPutBack,
    NewDisk,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => Just(Step::Tap),
        5 => Just(Step::Send),
        4 => Just(Step::Receipt),
        5 => Just(Step::Hello),
        1 => Just(Step::HelloIsLost),
        1 => Just(Step::StoreIsPutBack),
        1 => Just(Step::NewDisk),
    ]
}

proptest! {
    /// Taps before the moment are in the store, whatever is lost on the way; where a disk goes with taps on it, nothing is
    /// said any more until a person waives it. A store that is put back loses what it said since, too.
    #[test]
    fn whatever_happened_before_the_moment_is_stored(steps in prop::collection::vec(step(), 1..80)) {
        let (mut now, mut number) = (0_i64, 1_u8);
        // Taps by outbox and seq with their times; through where each outbox is stored and receipted.
        let mut taps: Vec<(u8, u64, i64)> = vec![];
        let (mut last, mut receipted) = (0_u64, 0_u64);
        let mut known: Vec<Known> = vec![];
        let mut backup = (known.clone(), None, None);
        let (mut said, mut complete): (Option<(Hello, UtcMs)>, Option<UtcMs>) = (None, None);
        for step in steps {
            now += 10;
            match step {
                Step::Tap => {
                    last += 1;
                    taps.push((number, last, now));
                }
                Step::Send => {
                    let place = known.iter().position(|one| one.outbox == outbox(number));
                    match place {
                        Some(place) => known[place].stored_through = Seq(last),
                        None if last > 0 => known.extend(self::known(&[(number, last, 0)])),
                        None => {}
                    }
                }
                Step::Receipt => {
                    let stored = known.iter().find(|one| one.outbox == outbox(number));
                    receipted = stored.map_or(0, |one| one.stored_through.0).min(last);
                }
                Step::HelloIsLost => {}
                Step::Hello => {
                    let hello = hello(&[(number, last, receipted)]);
                    if known.iter().all(|one| one.outbox != outbox(number)) {
                        known.extend(self::known(&[(number, 0, 0)]));
                    }
                    let before = said.as_ref().map(|(hello, at)| Said { hello, at: Some(*at) });
                    complete = after(complete, before, Said { hello: &hello, at: Some(UtcMs(now)) }, &known);
                    for one in known.iter_mut().filter(|one| one.outbox == outbox(number)) {
                        (one.told_seq, one.is_written) = (Seq(last), true);
                    }
                    said = Some((hello, UtcMs(now)));
                    backup = if now % 3 == 0 { (known.clone(), said.clone(), complete) } else { backup };
                }
                // A backup from before a disk that has gone since knows nothing of it, and nobody else does.
                Step::StoreIsPutBack => {
                    let of_it = |n: u8| backup.0.iter().any(|one| one.outbox == outbox(n) && one.is_written);
                    if (1..number).all(of_it) {
                        (known, said, complete) = backup.clone();
                    }
                }
                Step::NewDisk => {
                    // Who changes a disk before its door has ever spoken of it loses what nobody can know of.
                    if known.iter().any(|one| one.outbox == outbox(number) && one.is_written) {
                        (number, last, receipted) = (number + 1, 0, 0);
                    }
                }
            }
            let Some(complete) = complete else { continue };
            for (n, seq, at) in &taps {
                let stored = known.iter().find(|one| one.outbox == outbox(*n)).map_or(0, |one| one.stored_through.0);
                prop_assert!(*at >= complete.0 || *seq <= stored, "{n}/{seq} at {at}, complete {complete:?}: {known:?}");
            }
        }
    }
}
