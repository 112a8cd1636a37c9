//! A matrix of clock faults, and any fault at random: whatever a wall clock did, the answer contains the truth or says
//! that it does not know.

use proptest::prelude::*;
use tap_protocol::record::{AnchorSource, Body, ClockState, Record, Stamp};
use tap_protocol::time_repair::{Anchor, BootTime, Neighbours, TrueTime, true_time};

const SECOND: i64 = 1_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
const TEN_YEARS: i64 = 3_652 * DAY;

/// 2026-11-21 06:00:00 UTC.
const MORNING: i64 = 1_795_240_800_000;

/// 2063-04-06: where some terminals begin after a power cut.
const Y2063: i64 = 2_943_043_200_000;

/// What the wall clock of a boot shows.
#[derive(Debug, Clone, Copy)]
enum Wall {
    /// The truth, and so much.
    Off(i64),
    /// Always this.
    Frozen(i64),
    /// Off by the second until true time is the first, by the third from then on.
    Set(i64, i64, i64),
}

impl Wall {
    fn shows(self, utc: i64) -> i64 {
        match self {
            Wall::Off(error) => utc + error,
            Wall::Frozen(shown) => shown,
            Wall::Set(at, before, after) => utc + if utc < at { before } else { after },
        }
    }
}

/// One boot as it really was.
#[derive(Debug, Clone)]
struct Boot {
    /// True time when it was switched on.
    began: i64,
    /// How much faster than true time CLOCK_BOOTTIME goes, parts per million.
    ppm: i64,
    wall: Wall,
    records: Vec<Record>,
}

impl Boot {
    fn at(began: i64, wall: Wall) -> Boot {
        Boot { began, ppm: 40, wall, records: Vec::new() }
    }

    fn boottime(&self, utc: i64) -> u64 {
        let elapsed = utc - self.began;
        u64::try_from(elapsed + elapsed * self.ppm / 1_000_000).expect("nothing is recorded before the boot")
    }

    fn stamp(&self, utc: i64, clock: ClockState) -> Stamp {
        Stamp { boot: 1, boottime_ms: self.boottime(utc), wall_ms: self.wall.shows(utc), clock }
    }

    fn anchored(
        mut self,
        stamped: Stamp,
        source: AnchorSource,
        from: u64,
        to: u64,
        said: i64,
        doubt: u32,
    ) -> Boot {
        let body = Body::ClockAnchor {
            source,
            earliest_boottime_ms: from,
            latest_boottime_ms: to,
            utc_ms: said,
            uncertainty_ms: doubt,
        };
        self.records.push(Record { at: stamped, body });
        self
    }

    /// A hello went out at `sent`, the cloud stamped its receipt at `stamped`, and it was here at `back`.
    fn receipt(self, sent: i64, stamped: i64, back: i64) -> Boot {
        self.receipt_from_a_cloud_off_by(0, sent, stamped, back)
    }

    fn receipt_from_a_cloud_off_by(self, error: i64, sent: i64, stamped: i64, back: i64) -> Boot {
        let (from, to) = (self.boottime(sent), self.boottime(back));
        let at = self.stamp(back, ClockState::Unsynced);
        self.anchored(at, AnchorSource::Receipt, from, to, stamped + error, 0)
    }

    /// The kernel begins to vouch for what the wall clock shows.
    fn kernel(self, utc: i64) -> Boot {
        let (at, now) = (self.stamp(utc, ClockState::Synced), self.boottime(utc));
        let said = self.wall.shows(utc);
        self.anchored(at, AnchorSource::Kernel, now, now, said, 500)
    }

    /// Somebody wrote down that the clock was set; whether the kernel vouches says `clock`.
    fn step(self, utc: i64, clock: ClockState) -> Boot {
        let (at, now) = (self.stamp(utc, clock), self.boottime(utc));
        let (said, before) = (self.wall.shows(utc), self.wall.shows(utc - 1));
        self.anchored(at, AnchorSource::Step { wall_before_ms: before }, now, now, said, 500)
    }

    fn anchors(&self) -> Vec<Anchor> {
        self.records.iter().filter_map(Anchor::of).collect()
    }

    /// When a record of this moment is said to have been.
    fn says(&self, utc: i64, clock: ClockState, around: Neighbours) -> TrueTime {
        true_time(&self.stamp(utc, clock), &self.anchors(), around)
    }

    /// What is known of this boot as a whole, with its last record at `last`.
    fn as_a_whole(&self, last: i64, clock: ClockState) -> BootTime {
        let mut whole = BootTime::default();
        let stamps = self.records.iter().map(|record| record.at).chain([self.stamp(last, clock)]);
        for stamp in stamps {
            whole.saw(stamp.boottime_ms, true_time(&stamp, &self.anchors(), Neighbours::default()));
        }
        whole
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    /// Known to so many milliseconds.
    KnownTo(u64),
    /// Between bounds that are so far apart at most.
    EstimatedWithin(i64),
    Unknown,
    Disputed,
}

use Expected::{Disputed, EstimatedWithin, KnownTo, Unknown};

#[track_caller]
fn check(name: &str, said: TrueTime, truth: i64, expected: Expected) {
    match (said, expected) {
        (TrueTime::Known { utc_ms, uncertainty_ms }, KnownTo(at_most)) => {
            let off = utc_ms.abs_diff(truth);
            // Whole milliseconds are rounded.
            assert!(off <= uncertainty_ms + 1, "{name}: {off} ms off, ± {uncertainty_ms} was said");
            assert!(uncertainty_ms <= at_most, "{name}: ± {uncertainty_ms}");
        }
        (TrueTime::Estimated { earliest_utc_ms, latest_utc_ms }, EstimatedWithin(at_most)) => {
            let bounds = earliest_utc_ms..=latest_utc_ms;
            assert!(bounds.contains(&truth), "{name}: {truth} is not in {bounds:?}");
            assert!(latest_utc_ms - earliest_utc_ms <= at_most, "{name}: {bounds:?}");
        }
        (TrueTime::Unknown, Unknown) | (TrueTime::Disputed, Disputed) => {}
        (said, expected) => panic!("{name}: {said:?} and not {expected:?}"),
    }
}

/// One boot; a tap ten minutes after its begin. What the wall clock does, what becomes known, what is said.
#[test]
fn every_fault_of_a_wall_clock_within_one_boot() {
    let tap = MORNING + 10 * MINUTE;
    let boot = |wall| Boot::at(MORNING, wall);
    let later = tap + 50 * MINUTE;
    // The answer took 80 ms.
    let receipted = |boot: Boot| boot.receipt(later, later + 40, later + 80);
    let walls = [
        ("right, and nobody knows", Wall::Off(0)),
        ("ten years ahead", Wall::Off(TEN_YEARS)),
        ("ten years behind", Wall::Off(-TEN_YEARS)),
        ("1970", Wall::Off(-MORNING)),
        ("2063", Wall::Off(Y2063 - MORNING)),
        ("frozen", Wall::Frozen(MORNING - DAY)),
        ("runs backwards at the tap", Wall::Set(tap, 0, -2 * HOUR)),
        ("set ahead before the tap", Wall::Set(tap - MINUTE, -DAY, TEN_YEARS)),
        ("set between tap and anchor", Wall::Set(tap + MINUTE, -DAY, 3 * HOUR)),
        ("as fake-hwclock left it, two weeks ago", Wall::Off(-14 * DAY)),
    ];
    for (name, wall) in walls {
        for clock in [ClockState::Unsynced, ClockState::Stepped] {
            let alone = boot(wall).says(tap, clock, Neighbours::default());
            check(name, alone, tap, Unknown);
            let with_receipt = receipted(boot(wall)).says(tap, clock, Neighbours::default());
            check(name, with_receipt, tap, KnownTo(400));
            // A step by hand is written down and believed by nobody, least of all against an anchor.
            let stepped = boot(wall).step(tap + 2 * MINUTE, ClockState::Stepped);
            check(name, stepped.says(tap, clock, Neighbours::default()), tap, Unknown);
            let both = receipted(stepped).says(tap, clock, Neighbours::default());
            check(name, both, tap, KnownTo(400));
        }
    }
}

#[test]
fn every_way_in_which_time_becomes_known() {
    let tap = MORNING + 10 * MINUTE;
    let later = tap + 50 * MINUTE;
    let unsynced = |boot: Boot| boot.says(tap, ClockState::Unsynced, Neighbours::default());
    let synced = |boot: Boot| boot.says(tap, ClockState::Synced, Neighbours::default());
    // NTP sets a clock that was a day behind, and the kernel vouches from then on.
    let set_by_ntp = || Boot::at(MORNING, Wall::Set(later, -DAY, 0));
    let wrong = |error| Boot::at(MORNING, Wall::Off(error));
    let cases = [
        ("the kernel, after the tap", unsynced(set_by_ntp().kernel(later + SECOND)), KnownTo(900)),
        (
            "a step that the kernel vouches for",
            unsynced(set_by_ntp().step(later, ClockState::Synced)),
            KnownTo(900),
        ),
        (
            "both, and a receipt",
            unsynced(set_by_ntp().step(later, ClockState::Synced).kernel(later).receipt(
                later,
                later,
                later + 30,
            )),
            KnownTo(400),
        ),
        (
            "NTP blocked, a receipt before the tap",
            unsynced(wrong(-DAY).receipt(MORNING + SECOND, MORNING + 1_020, MORNING + 1_300)),
            KnownTo(250),
        ),
        (
            "NTP blocked, receipts around the tap",
            unsynced(wrong(-DAY).receipt(tap - MINUTE, tap - MINUTE + 900, tap - MINUTE + 1_000).receipt(
                tap + MINUTE,
                tap + MINUTE + 50,
                tap + MINUTE + 1_000,
            )),
            KnownTo(500),
        ),
        (
            "a receipt that lay in the broker",
            unsynced(wrong(-DAY).receipt(later, later + 100, later + 2_100)),
            Unknown,
        ),
        (
            "a receipt that lay in the broker, and one that did not",
            unsynced(wrong(-DAY).receipt(later, later + 9_000, later + 30_000).receipt(
                later,
                later + 10,
                later + 40,
            )),
            KnownTo(400),
        ),
        (
            "the first receipt lay as long as an anchor may",
            unsynced(wrong(-DAY).receipt(later, later + 1_990, later + 1_999)),
            KnownTo(1_400),
        ),
        (
            "two receipts an hour apart in what they say",
            unsynced(wrong(0).receipt(tap, tap, tap + 50).receipt_from_a_cloud_off_by(
                HOUR,
                later,
                later,
                later + 50,
            )),
            Disputed,
        ),
        (
            "the kernel and a receipt an hour apart",
            unsynced(wrong(HOUR).kernel(later).receipt(later, later + 20, later + 50)),
            Disputed,
        ),
        ("the clock is right and vouched for", synced(wrong(0)), KnownTo(500)),
        (
            "vouched for, and a receipt agrees",
            synced(wrong(0).kernel(MORNING).receipt(later, later + 20, later + 50)),
            KnownTo(500),
        ),
        (
            "vouched for, and three seconds off after hours without NTP",
            synced(wrong(-3 * SECOND).receipt(tap, tap + 20, tap + 50)),
            KnownTo(2_000),
        ),
        (
            "vouched for by an NTP that is an hour off",
            synced(wrong(HOUR).kernel(MORNING).receipt(later, later + 20, later + 50)),
            Disputed,
        ),
        (
            "vouched for and right, after having been vouched for and wrong",
            synced(
                Boot::at(MORNING, Wall::Set(tap - MINUTE, HOUR, 0))
                    .kernel(MORNING)
                    .step(tap, ClockState::Synced),
            ),
            KnownTo(500),
        ),
    ];
    for (name, said, expected) in cases {
        check(name, said, tap, expected);
    }
}

/// Boots one after the other, oldest first, as the cloud sees them: what is known before and after each.
fn neighbours(boots: &[BootTime], of: usize) -> Neighbours {
    let before = boots[..of].iter().fold(None, |before, boot| boot.ended_after(before));
    let after = boots[of + 1..].iter().rev().fold(None, |after, boot| boot.began_before(after));
    Neighbours { before_utc_ms: before, after_utc_ms: after, last_boottime_ms: boots[of].last_boottime_ms }
}

#[test]
fn boots_that_never_learn_the_time_lie_between_those_that_do() {
    const LOST: Wall = Wall::Off(-MORNING);
    let synced = |began, last| Boot::at(began, Wall::Off(0)).as_a_whole(last, ClockState::Synced);
    let lost = |began, last| Boot::at(began, LOST).as_a_whole(last, ClockState::Unsynced);
    // A synced boot until 12:00; power is back 20 s later for three hours, and again 15 s after that, with NTP.
    let noon = MORNING + 6 * HOUR;
    let (second, second_end) = (noon + 20 * SECOND, noon + 3 * HOUR);
    let third = second_end + 15 * SECOND;
    let three = [synced(MORNING, noon), lost(second, second_end), synced(third, third + MINUTE)];
    for tap in [second, second + SECOND, noon + HOUR, second_end] {
        let said = Boot::at(second, LOST).says(tap, ClockState::Unsynced, neighbours(&three, 1));
        check("a boot between two that know", said, tap, EstimatedWithin(35 * SECOND + 3 * SECOND + SECOND));
    }
    // Another boot without time comes between: both have less room than the gap, each less the other's uptime.
    let fourth = third + 40 * SECOND;
    let four = [three[0], three[1], lost(third, third + 30 * SECOND), synced(fourth, fourth + MINUTE)];
    for (boot, began, tap) in [(1, second, noon + HOUR), (2, third, third + 7 * SECOND)] {
        let said = Boot::at(began, LOST).says(tap, ClockState::Unsynced, neighbours(&four, boot));
        check("two boots without time", said, tap, EstimatedWithin(47 * SECOND));
    }
    // A long power cut: the bounds are as wide as it was.
    let monday = noon + 3 * DAY;
    let over_the_weekend = [three[0], lost(monday - HOUR, monday - MINUTE), synced(monday, monday + MINUTE)];
    let tap = monday - 30 * MINUTE;
    let said =
        Boot::at(monday - HOUR, LOST).says(tap, ClockState::Unsynced, neighbours(&over_the_weekend, 1));
    check("after a weekend without power", said, tap, EstimatedWithin(3 * DAY));
    // Nothing on one side.
    for (name, boots) in [
        ("nothing known before", vec![lost(MORNING, noon), synced(noon + MINUTE, noon + HOUR)]),
        ("nothing known after", vec![synced(MORNING - DAY, MORNING - HOUR), lost(MORNING, noon)]),
    ] {
        let of = boots.iter().position(|boot| !boot.is_known()).unwrap();
        let said = Boot::at(MORNING, LOST).says(MORNING + HOUR, ClockState::Unsynced, neighbours(&boots, of));
        check(name, said, MORNING + HOUR, Unknown);
    }
    // The boot after claims to have begun before the boot before ended.
    let crossed = [synced(MORNING, noon), lost(second, second_end), synced(noon - HOUR, noon)];
    let said = Boot::at(second, LOST).says(noon + HOUR, ClockState::Unsynced, neighbours(&crossed, 1));
    check("bounds that cross", said, noon + HOUR, Disputed);
}

/// The published bug (mobius 119): a tap corrected by the time since boot lands in the future by as much as the clock
/// took to be set. Boot wall clock 10:00:00, tap at 60 s, sync at 600 s saying 12:30:00: the tap was at 12:21:00.
#[test]
fn the_published_bug_stays_impossible() {
    let began = MORNING + 6 * HOUR + 20 * MINUTE;
    let set = began + 600 * SECOND;
    let wall = Wall::Set(set, -(2 * HOUR + 20 * MINUTE), 0);
    let tap = began + MINUTE;
    for boot in [Boot::at(began, wall).kernel(set), Boot::at(began, wall).step(set, ClockState::Synced)] {
        assert_eq!(boot.stamp(tap, ClockState::Unsynced).wall_ms, MORNING + 4 * HOUR + MINUTE);
        let said = boot.says(tap, ClockState::Unsynced, Neighbours::default());
        check("mobius 119", said, tap, KnownTo(560));
    }
}

fn wall() -> impl Strategy<Value = Wall> {
    let error = prop_oneof![
        Just(0),
        Just(TEN_YEARS),
        Just(-TEN_YEARS),
        Just(-MORNING),
        Just(Y2063 - MORNING),
        -30 * DAY..30 * DAY
    ];
    prop_oneof![
        error.clone().prop_map(Wall::Off),
        any::<i32>().prop_map(|shown| Wall::Frozen(i64::from(shown) * SECOND)),
        (0..2 * DAY, error.clone(), error).prop_map(|(at, before, after)| Wall::Set(
            MORNING + at,
            before,
            after
        )),
    ]
}

/// A true anchor: when, how long the hello took there and back, and whether it lay somewhere.
fn true_anchor() -> impl Strategy<Value = (i64, i64, i64)> {
    (0..2 * DAY, 0..1_500i64, 0..1_500i64)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    /// However the wall clock jumped and whatever the oscillator does: what is said contains the truth, and with a narrow
    /// anchor within the hour it is the truth to two seconds.
    #[test]
    fn what_true_anchors_say_contains_the_truth(
        ppm in -99i64..=99,
        wall in wall(),
        tap in 0..2 * DAY,
        stepped in any::<bool>(),
        receipts in prop::collection::vec(true_anchor(), 0..12),
        step_by_hand in prop::option::of(0..2 * DAY),
    ) {
        let mut boot = Boot { ppm, ..Boot::at(MORNING, wall) };
        for (at, there, back) in &receipts {
            let sent = MORNING + at;
            boot = boot.receipt(sent, sent + there, sent + there + back);
        }
        if let Some(at) = step_by_hand {
            boot = boot.step(MORNING + at, ClockState::Stepped);
        }
        let clock = if stepped { ClockState::Stepped } else { ClockState::Unsynced };
        let truth = MORNING + tap;
        let usable = |(_, there, back): &&(i64, i64, i64)| there + back <= 1_990;
        let near = receipts.iter().filter(usable).any(|(at, ..)| (at - tap).abs() <= HOUR);
        match boot.says(truth, clock, Neighbours::default()) {
            TrueTime::Known { utc_ms, uncertainty_ms } => {
                prop_assert!(utc_ms.abs_diff(truth) <= uncertainty_ms + 2, "{} ± {}", utc_ms - truth, uncertainty_ms);
                prop_assert!(!near || uncertainty_ms <= 2_000, "± {}", uncertainty_ms);
            }
            TrueTime::Unknown => prop_assert!(!near, "an anchor within the hour says nothing"),
            other => prop_assert!(false, "{other:?} of true anchors"),
        }
    }

    /// A row of boots, some of which know the time: what is said of the others contains the truth.
    #[test]
    fn what_the_boots_around_say_contains_the_truth(
        boots in prop::collection::vec((0..DAY, 1..DAY, any::<bool>(), -99i64..=99), 1..6),
        of in any::<prop::sample::Index>(),
        share in 0..=1_000i64,
    ) {
        let mut now = MORNING;
        let mut wholes = Vec::new();
        let mut rows = Vec::new();
        for (dark, uptime, knows, ppm) in &boots {
            let began = now + dark;
            now = began + uptime;
            let boot = Boot { ppm: *ppm, ..Boot::at(began, Wall::Off(if *knows { 0 } else { -MORNING })) };
            let clock = if *knows { ClockState::Synced } else { ClockState::Unsynced };
            wholes.push(boot.as_a_whole(now, clock));
            rows.push((boot, clock, *uptime));
        }
        let of = of.index(rows.len());
        let (boot, clock, uptime) = &rows[of];
        let truth = boot.began + uptime * share / 1_000;
        match boot.says(truth, *clock, neighbours(&wholes, of)) {
            TrueTime::Known { utc_ms, uncertainty_ms } => {
                prop_assert!(*clock == ClockState::Synced && utc_ms.abs_diff(truth) <= uncertainty_ms);
            }
            TrueTime::Estimated { earliest_utc_ms, latest_utc_ms } => {
                prop_assert!((earliest_utc_ms..=latest_utc_ms).contains(&truth));
            }
            TrueTime::Unknown => prop_assert!(*clock == ClockState::Unsynced),
            TrueTime::Disputed => prop_assert!(false, "true boots do not cross"),
        }
    }
}
