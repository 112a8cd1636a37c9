//! True time from what a controller knew: boottime, anchors and bounds. Pure arithmetic on milliseconds.
//!
//! CLOCK_BOOTTIME never steps, so within one boot `utc(record) = utc(anchor) − (boottime(anchor) − boottime(record))`.
//! The wall clock of an unsynced boot is not used at all, which is what makes ±10 years, 1970 and a frozen clock
//! harmless. An anchor is an interval of *offsets* (UTC minus boottime); it widens with the distance by the worst drift
//! ([`MAX_DRIFT_PPM`]). The truth lies in what all of them share at the record's own moment, and intervals that do not
//! meet are a dispute that no arithmetic can settle.
//!
//! A boot that nobody ever told the time lies between the boots around it ([`BootTime`], [`Neighbours`]): its records
//! are estimated, never known.

use crate::limits::{MAX_ANCHOR_WIDTH_MS, MAX_DRIFT_PPM, MAX_VOUCHED_ERROR_MS};
use crate::record::{AnchorSource, Body, ClockState, Record, Stamp};

/// How far a disciplined wall clock is trusted, milliseconds: the kernel calls a clock unsynchronised long before it is
/// off by more.
pub const SYNCED_UNCERTAINTY_MS: u64 = 500;

/// At some boottime within [earliest, latest] of one boot it was `utc_ms`, give or take `uncertainty_ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Anchor {
    /// Who says so.
    pub witness: Witness,
    /// Earliest CLOCK_BOOTTIME, milliseconds.
    pub earliest_boottime_ms: u64,
    /// Latest CLOCK_BOOTTIME, milliseconds.
    pub latest_boottime_ms: u64,
    /// Milliseconds since 1970-01-01 UTC.
    pub utc_ms: i64,
    /// How far `utc_ms` itself may be off, milliseconds.
    pub uncertainty_ms: u32,
}

/// Who vouches for an anchor. A synced stamp is the kernel's own word, so only a receipt can contradict it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Witness {
    /// The kernel: NTP or the like.
    Kernel,
    /// The cloud's clock.
    Receipt,
}

/// What is known of a boot as a whole: enough to bound the boots around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BootTime {
    /// The highest CLOCK_BOOTTIME that any of its records has.
    pub last_boottime_ms: u64,
    /// It began then at the latest, milliseconds since 1970-01-01 UTC.
    pub began_by_utc_ms: Option<i64>,
    /// It had not ended then, milliseconds since 1970-01-01 UTC.
    pub seen_utc_ms: Option<i64>,
}

impl BootTime {
    /// What two know of one boot.
    #[must_use]
    pub fn and(self, other: BootTime) -> BootTime {
        let earlier = self.began_by_utc_ms.into_iter().chain(other.began_by_utc_ms).min();
        BootTime {
            last_boottime_ms: self.last_boottime_ms.max(other.last_boottime_ms),
            began_by_utc_ms: earlier,
            seen_utc_ms: self.seen_utc_ms.max(other.seen_utc_ms),
        }
    }
}

/// What is known around a boot that has no anchor of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Neighbours {
    /// This boot began then or later: the last known true time before it, milliseconds since 1970-01-01 UTC.
    pub before_utc_ms: Option<i64>,
    /// This boot had ended by then: the first known true time after it, less the uptime then.
    pub after_utc_ms: Option<i64>,
    /// The highest CLOCK_BOOTTIME of this boot that is known.
    pub last_boottime_ms: u64,
}

/// When a record happened, as far as that can be said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrueTime {
    /// At `utc_ms`, give or take `uncertainty_ms`.
    Known {
        /// Milliseconds since 1970-01-01 UTC.
        utc_ms: i64,
        /// Half the width of what is possible, milliseconds.
        uncertainty_ms: u64,
    },
    /// Between the bounds; nothing better will come from this boot.
    Estimated {
        /// Not before, milliseconds since 1970-01-01 UTC.
        earliest_utc_ms: i64,
        /// Not after, milliseconds since 1970-01-01 UTC.
        latest_utc_ms: i64,
    },
    /// Nothing is known yet.
    Unknown,
    /// Anchors contradict each other, or bounds cross: a person must look.
    Disputed,
}

/// Works out when a record happened from the anchors of **its own boot** and the neighbours of that boot.
pub fn true_time(at: &Stamp, anchors: &[Anchor], around: Neighbours) -> TrueTime {
    match at.clock {
        ClockState::Synced => {
            let receipts = anchors.iter().filter(|anchor| anchor.witness == Witness::Receipt);
            vouched(at.wall_ms, shared(at.boottime_ms, receipts))
        }
        ClockState::Unsynced | ClockState::Stepped => match shared(at.boottime_ms, anchors) {
            Shared::Nothing => bounds(at.boottime_ms, &around),
            // Every anchor holds, so the truth lies in what they share. Between two anchors that have drifted apart
            // this is their interpolation: each widens towards the other, and the shared part moves from one to the
            // other.
            Shared::Interval(possible) => possible.known(),
            Shared::Contradiction => TrueTime::Disputed,
        },
    }
}

/// A clock that the kernel vouches for is believed, unless receipts say that it is far off. An NTP that is merely tired
/// is no dispute: then the truth is between what it says and what they say.
fn vouched(wall_ms: i64, receipts: Shared) -> TrueTime {
    let own = Interval::around(wall_ms, signed(SYNCED_UNCERTAINTY_MS));
    match receipts {
        Shared::Nothing => own.known(),
        Shared::Interval(possible) => match own.gap(&possible) {
            0 => own.known(),
            1..=MAX_VOUCHED_ERROR_MS => own.hull(&possible).known(),
            _ => TrueTime::Disputed,
        },
        Shared::Contradiction => TrueTime::Disputed,
    }
}

/// The boot began after what was known before it and had ended before what was known after it, and it ran at least from
/// zero to its last record: so much of the room around a record is used up.
fn bounds(boottime_ms: u64, around: &Neighbours) -> TrueTime {
    let (Some(before), Some(after)) = (around.before_utc_ms, around.after_utc_ms) else {
        return TrueTime::Unknown;
    };
    let still_ran_ms = around.last_boottime_ms.saturating_sub(boottime_ms);
    let earliest_utc_ms = before.saturating_add(at_least(boottime_ms));
    let latest_utc_ms = after.saturating_sub(at_least(still_ran_ms));
    match earliest_utc_ms <= latest_utc_ms {
        true => TrueTime::Estimated { earliest_utc_ms, latest_utc_ms },
        false => TrueTime::Disputed,
    }
}

impl BootTime {
    /// A record of this boot is there, and this is known of its time.
    pub fn saw(&mut self, boottime_ms: u64, time: TrueTime) {
        self.last_boottime_ms = self.last_boottime_ms.max(boottime_ms);
        let TrueTime::Known { utc_ms, uncertainty_ms } = time else { return };
        let doubt = signed(uncertainty_ms);
        let seen = utc_ms.saturating_sub(doubt);
        let began_by = utc_ms.saturating_add(doubt).saturating_sub(at_least(boottime_ms));
        self.seen_utc_ms = self.seen_utc_ms.max(Some(seen));
        self.began_by_utc_ms = Some(self.began_by_utc_ms.map_or(began_by, |known| known.min(began_by)));
    }

    /// Whether anything is known of when it was.
    pub fn is_known(&self) -> bool {
        self.seen_utc_ms.is_some()
    }

    /// The next boot began then or later. `before` is the same of this one.
    pub fn ended_after(&self, before: Option<i64>) -> Option<i64> {
        self.seen_utc_ms.or(before.map(|began| began.saturating_add(self.ran_at_least_ms())))
    }

    /// The boot before it had ended by then. `after` is the same of this one.
    pub fn began_before(&self, after: Option<i64>) -> Option<i64> {
        self.began_by_utc_ms.or(after.map(|ended| ended.saturating_sub(self.ran_at_least_ms())))
    }

    /// So much true time this boot took at least, milliseconds.
    pub fn ran_at_least_ms(&self) -> i64 {
        at_least(self.last_boottime_ms)
    }
}

impl Anchor {
    /// The anchor that a record is, if it is one that says something. Too wide says too little, and a wall clock that
    /// was set while nobody vouched for it says nothing at all, whoever set it.
    pub fn of(record: &Record) -> Option<Anchor> {
        let Body::ClockAnchor { source, earliest_boottime_ms, latest_boottime_ms, utc_ms, uncertainty_ms } =
            &record.body
        else {
            return None;
        };
        let witness = match source {
            AnchorSource::Receipt => Witness::Receipt,
            AnchorSource::Kernel => Witness::Kernel,
            AnchorSource::Step { .. } if record.at.clock == ClockState::Synced => Witness::Kernel,
            AnchorSource::Step { .. } => return None,
        };
        let anchor = Anchor {
            witness,
            earliest_boottime_ms: *earliest_boottime_ms,
            latest_boottime_ms: *latest_boottime_ms,
            utc_ms: *utc_ms,
            uncertainty_ms: *uncertainty_ms,
        };
        anchor.is_usable().then_some(anchor)
    }

    /// How wide the anchor is, before drift.
    pub fn width_ms(&self) -> u64 {
        self.latest_boottime_ms.saturating_sub(self.earliest_boottime_ms)
    }

    fn is_usable(&self) -> bool {
        self.width_ms() <= MAX_ANCHOR_WIDTH_MS
    }

    /// What UTC may have been at `boottime_ms` of the same boot. Saturates: foreign numbers may be anything.
    fn at(&self, boottime_ms: u64) -> Interval {
        let distance = boottime_ms
            .abs_diff(self.earliest_boottime_ms)
            .max(boottime_ms.abs_diff(self.latest_boottime_ms));
        let slack = drift(distance).saturating_add(i64::from(self.uncertainty_ms));
        let at = |anchor_boottime_ms: u64| {
            self.utc_ms.saturating_add(signed(boottime_ms)).saturating_sub(signed(anchor_boottime_ms))
        };
        Interval {
            from: at(self.latest_boottime_ms).saturating_sub(slack),
            to: at(self.earliest_boottime_ms).saturating_add(slack),
        }
    }
}

/// Possible UTC at one moment, milliseconds.
#[derive(Debug, Clone, Copy)]
struct Interval {
    from: i64,
    to: i64,
}

impl Interval {
    fn around(middle: i64, doubt: i64) -> Interval {
        Interval { from: middle.saturating_sub(doubt), to: middle.saturating_add(doubt) }
    }

    /// How far apart they are; 0 if they meet.
    fn gap(&self, other: &Interval) -> u64 {
        let (end, begin) = (self.to.min(other.to), self.from.max(other.from));
        if begin > end { begin.abs_diff(end) } else { 0 }
    }

    fn hull(&self, other: &Interval) -> Interval {
        Interval { from: self.from.min(other.from), to: self.to.max(other.to) }
    }

    fn known(&self) -> TrueTime {
        let width = self.to.abs_diff(self.from);
        TrueTime::Known {
            utc_ms: self.from.saturating_add_unsigned(width / 2),
            uncertainty_ms: width.div_ceil(2),
        }
    }
}

/// What some anchors say together of one moment.
#[derive(Debug)]
enum Shared {
    Nothing,
    Interval(Interval),
    Contradiction,
}

fn shared<'a>(boottime_ms: u64, anchors: impl IntoIterator<Item = &'a Anchor>) -> Shared {
    let usable = anchors.into_iter().filter(|anchor| anchor.is_usable());
    let both = |one: Interval, other: Interval| Interval {
        from: one.from.max(other.from),
        to: one.to.min(other.to),
    };
    match usable.map(|anchor| anchor.at(boottime_ms)).reduce(both) {
        None => Shared::Nothing,
        Some(interval) if interval.from <= interval.to => Shared::Interval(interval),
        Some(_) => Shared::Contradiction,
    }
}

/// How far the oscillator may be off after so long, milliseconds.
fn drift(ms: u64) -> i64 {
    signed(ms / 1_000_000 * MAX_DRIFT_PPM + ms % 1_000_000 * MAX_DRIFT_PPM / 1_000_000)
}

/// So much true time has passed at least while CLOCK_BOOTTIME went on by `ms`.
fn at_least(ms: u64) -> i64 {
    signed(ms).saturating_sub(drift(ms)).saturating_sub(1)
}

fn signed(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: i64 = 3_600_000;
    const MINUTE_MS: i64 = 60_000;

    fn unsynced(boottime_s: u64, wall_ms: i64) -> Stamp {
        Stamp { boot: 1, boottime_ms: boottime_s * 1000, wall_ms, clock: ClockState::Unsynced }
    }

    fn anchor(boottime_s: u64, utc_ms: i64) -> Anchor {
        Anchor {
            witness: Witness::Receipt,
            earliest_boottime_ms: boottime_s * 1000,
            latest_boottime_ms: boottime_s * 1000,
            utc_ms,
            uncertainty_ms: 0,
        }
    }

    /// The published case (mobius issue 119): boot wall clock 10:00:00, tap at 60 s, sync at 600 s saying 12:30:00.
    /// The tap happened at 12:21:00; the bug says 12:31:00.
    #[test]
    fn the_correction_is_the_clocks_step_not_the_time_since_boot() {
        let tap = unsynced(60, 10 * HOUR_MS + MINUTE_MS);
        let synced = anchor(600, 12 * HOUR_MS + 30 * MINUTE_MS);
        let expected = 12 * HOUR_MS + 21 * MINUTE_MS;
        let drift_ms = 54;
        assert_eq!(
            true_time(&tap, &[synced], Neighbours::default()),
            TrueTime::Known { utc_ms: expected, uncertainty_ms: drift_ms }
        );
    }

    #[test]
    fn the_wall_clock_of_an_unsynced_boot_does_not_matter() {
        let ten_years_ms = 315_576_000_000;
        let truth = true_time(&unsynced(60, 0), &[anchor(600, 1_000_000)], Neighbours::default());
        for wall_ms in [1_000_000 - ten_years_ms, 1_000_000 + ten_years_ms, i64::MIN, i64::MAX] {
            let got = true_time(&unsynced(60, wall_ms), &[anchor(600, 1_000_000)], Neighbours::default());
            assert_eq!(got, truth);
        }
    }

    #[test]
    fn between_two_anchors_the_drift_is_shared_out() {
        // 100 s true for 99.995 s of boottime: the oscillator is 50 ppm slow.
        let first = anchor(1_000, 0);
        let second = anchor(101_000, 100_005_000);
        let TrueTime::Known { utc_ms, uncertainty_ms } =
            true_time(&unsynced(51_000, 0), &[first, second], Neighbours::default())
        else {
            panic!("two good anchors give a time");
        };
        assert!(utc_ms.abs_diff(50_002_500) <= uncertainty_ms, "{utc_ms} ± {uncertainty_ms}");
        assert!(uncertainty_ms <= 5_000, "{uncertainty_ms}");
    }

    #[test]
    fn a_wide_receipt_is_kept_and_not_used() {
        let wide = Anchor { latest_boottime_ms: 2_001, ..anchor(0, 0) };
        assert_eq!(true_time(&unsynced(1, 0), &[wide], Neighbours::default()), TrueTime::Unknown);
        let narrow = Anchor { latest_boottime_ms: 2_000, ..wide };
        assert_eq!(
            true_time(&unsynced(1, 0), &[wide, narrow], Neighbours::default()),
            TrueTime::Known { utc_ms: 0, uncertainty_ms: 1_000 }
        );
    }

    #[test]
    fn anchors_that_cannot_both_be_true_are_a_dispute() {
        let anchors = [anchor(10, 0), anchor(20, HOUR_MS)];
        assert_eq!(true_time(&unsynced(15, 0), &anchors, Neighbours::default()), TrueTime::Disputed);
    }

    #[test]
    fn a_boot_without_anchor_has_bounds_or_nothing() {
        let around = |before, after| Neighbours {
            before_utc_ms: before,
            after_utc_ms: after,
            last_boottime_ms: 10_000,
        };
        // It ran for 10 s between 0 and 30 s: a record at 1 s of it lies between 1 s and 30 − 9 s.
        let estimated = TrueTime::Estimated { earliest_utc_ms: 999, latest_utc_ms: 21_001 };
        assert_eq!(true_time(&unsynced(1, 0), &[], around(Some(0), Some(30_000))), estimated);
        assert_eq!(true_time(&unsynced(1, 0), &[], around(Some(5), None)), TrueTime::Unknown);
        assert_eq!(true_time(&unsynced(1, 0), &[], around(None, Some(5))), TrueTime::Unknown);
        assert_eq!(true_time(&unsynced(1, 0), &[], around(Some(9), Some(5))), TrueTime::Disputed);
    }

    #[test]
    fn a_disciplined_clock_is_believed_until_a_receipt_says_that_it_is_far_off() {
        let at = Stamp { clock: ClockState::Synced, ..unsynced(1, 77) };
        let says = |anchors: &[Anchor]| true_time(&at, anchors, Neighbours::default());
        let known = TrueTime::Known { utc_ms: 77, uncertainty_ms: SYNCED_UNCERTAINTY_MS };
        assert_eq!(says(&[]), known);
        assert_eq!(says(&[anchor(1, 400)]), known);
        let kernels = Anchor { witness: Witness::Kernel, ..anchor(1, HOUR_MS) };
        assert_eq!(says(&[kernels]), known, "the kernel has the last word against itself");
        let between = TrueTime::Known { utc_ms: 2_288, uncertainty_ms: 2_712 };
        assert_eq!(says(&[anchor(1, 5_000)]), between, "a tired NTP");
        assert_eq!(says(&[anchor(1, HOUR_MS)]), TrueTime::Disputed);
    }

    #[test]
    fn only_what_says_something_is_an_anchor() {
        let record = |clock, source, latest_boottime_ms| Record {
            at: Stamp { clock, ..unsynced(1, 0) },
            body: Body::ClockAnchor {
                source,
                earliest_boottime_ms: 0,
                latest_boottime_ms,
                utc_ms: 5,
                uncertainty_ms: 0,
            },
        };
        let step = AnchorSource::Step { wall_before_ms: 0 };
        let witness = |clock, source, latest_ms| {
            Anchor::of(&record(clock, source, latest_ms)).map(|anchor| anchor.witness)
        };
        assert_eq!(witness(ClockState::Unsynced, AnchorSource::Receipt, 2_000), Some(Witness::Receipt));
        assert_eq!(witness(ClockState::Unsynced, AnchorSource::Receipt, 2_001), None, "too wide");
        assert_eq!(witness(ClockState::Synced, AnchorSource::Kernel, 0), Some(Witness::Kernel));
        assert_eq!(witness(ClockState::Synced, step, 0), Some(Witness::Kernel));
        assert_eq!(witness(ClockState::Stepped, step, 0), None, "set by hand");
        assert_eq!(witness(ClockState::Unsynced, step, 0), None, "set by hand");
    }

    #[test]
    fn a_boot_that_never_synced_uses_up_its_uptime() {
        let mut boot = BootTime::default();
        boot.saw(3_600_000, TrueTime::Unknown);
        assert!(!boot.is_known());
        assert_eq!(boot.ended_after(Some(0)), Some(3_599_639), "an hour less its drift");
        assert_eq!(boot.began_before(Some(0)), Some(-3_599_639));
        assert_eq!(boot.ended_after(None), None);
        boot.saw(3_600_500, TrueTime::Known { utc_ms: 9_000_000, uncertainty_ms: 10 });
        assert_eq!(boot.ended_after(Some(0)), Some(8_999_990));
        assert_eq!(boot.began_before(None), Some(9_000_010 - 3_600_139));
    }

    #[test]
    fn no_number_overflows() {
        let extremes = [0, 1, u64::MAX / 2, u64::MAX];
        for boottime_ms in extremes {
            for (earliest, latest) in extremes.into_iter().flat_map(|e| extremes.map(|l| (e, l))) {
                for utc_ms in [i64::MIN, 0, i64::MAX] {
                    let anchor = Anchor {
                        witness: Witness::Receipt,
                        earliest_boottime_ms: earliest,
                        latest_boottime_ms: latest,
                        utc_ms,
                        uncertainty_ms: u32::MAX,
                    };
                    let at = Stamp { boottime_ms, ..unsynced(0, utc_ms) };
                    let around = Neighbours {
                        before_utc_ms: Some(utc_ms),
                        after_utc_ms: Some(utc_ms),
                        last_boottime_ms: latest,
                    };
                    let known = true_time(&at, &[anchor], around);
                    true_time(&at, &[], around);
                    true_time(&Stamp { clock: ClockState::Synced, ..at }, &[anchor], around);
                    let mut boot = BootTime::default();
                    boot.saw(boottime_ms, known);
                    boot.ended_after(Some(utc_ms));
                    boot.began_before(Some(utc_ms));
                }
            }
        }
    }
}
