//! True time from what a controller knew: boottime, anchors and bounds. Pure arithmetic on milliseconds.
//!
//! CLOCK_BOOTTIME never steps, so within one boot `utc(record) = utc(anchor) − (boottime(anchor) − boottime(record))`.
//! The wall clock of an unsynced boot is not used at all, which is what makes ±10 years, 1970 and a frozen clock
//! harmless. An anchor is an interval of *offsets* (UTC minus boottime); it widens with the distance by the worst drift
//! ([`MAX_DRIFT_PPM`]). The truth lies in what all of them share at the record's own moment, and intervals that do not
//! meet are a dispute that no arithmetic can settle.

use crate::limits::{MAX_ANCHOR_WIDTH_MS, MAX_DRIFT_PPM};
use crate::record::{ClockState, Stamp};

/// How far a disciplined wall clock is trusted, milliseconds: the kernel calls a clock unsynchronised long before it is
/// off by more.
pub const SYNCED_UNCERTAINTY_MS: u64 = 500;

/// At some boottime within [earliest, latest] of one boot it was `utc_ms`, give or take `uncertainty_ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Anchor {
    /// Earliest CLOCK_BOOTTIME, milliseconds.
    pub earliest_boottime_ms: u64,
    /// Latest CLOCK_BOOTTIME, milliseconds.
    pub latest_boottime_ms: u64,
    /// Milliseconds since 1970-01-01 UTC.
    pub utc_ms: i64,
    /// How far `utc_ms` itself may be off, milliseconds.
    pub uncertainty_ms: u32,
}

/// What is known around a boot that has no anchor of its own, milliseconds since 1970-01-01 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Neighbours {
    /// The last known true time before this boot.
    pub before_utc_ms: Option<i64>,
    /// The first known true time after this boot (of the next boot: minus its uptime then).
    pub after_utc_ms: Option<i64>,
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
    /// Anchors contradict each other: a person must look.
    Disputed,
}

/// Works out when a record happened from the anchors of **its own boot** and the neighbours of that boot.
pub fn true_time(at: &Stamp, anchors: &[Anchor], around: Neighbours) -> TrueTime {
    if at.clock == ClockState::Synced {
        return TrueTime::Known { utc_ms: at.wall_ms, uncertainty_ms: SYNCED_UNCERTAINTY_MS };
    }
    let usable = anchors.iter().filter(|anchor| anchor.width_ms() <= MAX_ANCHOR_WIDTH_MS);
    let possible: Vec<Interval> = usable.map(|anchor| anchor.at(at.boottime_ms)).collect();
    let Some(narrowest) = possible.iter().min_by_key(|interval| interval.to - interval.from) else {
        return bounds(around);
    };
    let from = possible.iter().map(|interval| interval.from).max().unwrap_or(narrowest.from);
    let to = possible.iter().map(|interval| interval.to).min().unwrap_or(narrowest.to);
    if from > to {
        return TrueTime::Disputed;
    }
    // Every anchor holds, so the truth lies in what they share. Between two anchors that have drifted apart this is
    // their interpolation: each widens towards the other, and the shared part moves from one to the other.
    TrueTime::Known { utc_ms: from + (to - from) / 2, uncertainty_ms: ((to - from) as u64).div_ceil(2) }
}

fn bounds(around: Neighbours) -> TrueTime {
    match (around.before_utc_ms, around.after_utc_ms) {
        (Some(earliest_utc_ms), Some(latest_utc_ms)) if earliest_utc_ms <= latest_utc_ms => {
            TrueTime::Estimated { earliest_utc_ms, latest_utc_ms }
        }
        (Some(_), Some(_)) => TrueTime::Disputed,
        _ => TrueTime::Unknown,
    }
}

/// Possible UTC at one moment, milliseconds.
#[derive(Debug, Clone, Copy)]
struct Interval {
    from: i64,
    to: i64,
}

impl Anchor {
    /// How wide the anchor is, before drift.
    pub fn width_ms(&self) -> u64 {
        self.latest_boottime_ms.saturating_sub(self.earliest_boottime_ms)
    }

    /// What UTC may have been at `boottime_ms` of the same boot. Saturates: foreign numbers may be anything.
    fn at(&self, boottime_ms: u64) -> Interval {
        let signed = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
        let distance = boottime_ms
            .abs_diff(self.earliest_boottime_ms)
            .max(boottime_ms.abs_diff(self.latest_boottime_ms));
        let drift =
            signed(distance / 1_000_000 * MAX_DRIFT_PPM + distance % 1_000_000 * MAX_DRIFT_PPM / 1_000_000);
        let slack = drift.saturating_add(i64::from(self.uncertainty_ms));
        let at = |anchor_boottime_ms: u64| {
            self.utc_ms.saturating_add(signed(boottime_ms)).saturating_sub(signed(anchor_boottime_ms))
        };
        Interval {
            from: at(self.latest_boottime_ms).saturating_sub(slack),
            to: at(self.earliest_boottime_ms).saturating_add(slack),
        }
    }
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
        let wide =
            Anchor { earliest_boottime_ms: 0, latest_boottime_ms: 2_001, utc_ms: 0, uncertainty_ms: 0 };
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
        let between = Neighbours { before_utc_ms: Some(5), after_utc_ms: Some(9) };
        let estimated = TrueTime::Estimated { earliest_utc_ms: 5, latest_utc_ms: 9 };
        assert_eq!(true_time(&unsynced(1, 0), &[], between), estimated);
        let open_end = Neighbours { before_utc_ms: Some(5), after_utc_ms: None };
        assert_eq!(true_time(&unsynced(1, 0), &[], open_end), TrueTime::Unknown);
        let crossed = Neighbours { before_utc_ms: Some(9), after_utc_ms: Some(5) };
        assert_eq!(true_time(&unsynced(1, 0), &[], crossed), TrueTime::Disputed);
    }

    #[test]
    fn a_disciplined_clock_is_believed() {
        let at = Stamp { clock: ClockState::Synced, ..unsynced(1, 77) };
        let known = TrueTime::Known { utc_ms: 77, uncertainty_ms: SYNCED_UNCERTAINTY_MS };
        assert_eq!(true_time(&at, &[anchor(1, HOUR_MS)], Neighbours::default()), known);
    }

    #[test]
    fn no_number_overflows() {
        let extremes = [0, 1, u64::MAX / 2, u64::MAX];
        for boottime_ms in extremes {
            for (earliest, latest) in extremes.into_iter().flat_map(|e| extremes.map(|l| (e, l))) {
                for utc_ms in [i64::MIN, 0, i64::MAX] {
                    let anchor = Anchor {
                        earliest_boottime_ms: earliest,
                        latest_boottime_ms: latest,
                        utc_ms,
                        uncertainty_ms: u32::MAX,
                    };
                    let at = Stamp { boottime_ms, ..unsynced(0, 0) };
                    true_time(&at, &[anchor], Neighbours::default());
                }
            }
        }
    }
}
