//! Beside step 6: which time certificates are checked against, when the wall clock may be anything. Pure: clocks, and what
//! was known of the time before, are arguments; where that is kept is others' business.
//!
//! A door has no clock that runs without power. Until the network tells the time it is 1970 there, or whatever a bad
//! battery says, and still the broker must be reached, because that is where the time comes from. So only a clock that
//! the kernel vouches for is believed; else time goes on from when it was known last, and it never was before this
//! program was built. That is a lower bound, so a certificate that is *not valid yet* by it proves nothing.

use tap_protocol::ids::BootId;
use tap_protocol::record::ClockState;

use crate::now::Now;

/// 2026-11-21, when this version was begun. Used where the build does not say its time.
const BEGUN_UTC_S: i64 = 1_795_219_200;

/// When this program was built, seconds since 1970-01-01 UTC: `SOURCE_DATE_EPOCH`, by which packagers make builds that
/// can be repeated byte by byte.
pub const BUILT_UTC_S: i64 = later(said_at_build(option_env!("SOURCE_DATE_EPOCH")), BEGUN_UTC_S);

/// A moment at which the true time was known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GoodTime {
    /// Milliseconds since 1970-01-01 UTC.
    pub utc_ms: i64,
    /// In which boot.
    pub boot_id: BootId,
    /// CLOCK_BOOTTIME then.
    pub boottime_ms: u64,
}

/// The time to check certificates against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckAt {
    /// Milliseconds since 1970-01-01 UTC.
    pub utc_ms: i64,
    /// Whether it is the time; else it is that or later.
    pub is_known: bool,
}

/// What is known of the time, in one boot.
#[derive(Debug, Clone)]
pub struct VerificationTime {
    boot_id: BootId,
    last_good: Option<GoodTime>,
}

impl VerificationTime {
    /// In this boot, with what an earlier one may have left.
    pub fn new(boot_id: BootId, last_good: Option<GoodTime>) -> VerificationTime {
        VerificationTime { boot_id, last_good }
    }

    /// The time was known at that moment of this boot. The newest word counts, not the largest: a clock that was vouched
    /// for by mistake must not be believed for ever.
    pub fn learn(&mut self, utc_ms: i64, boottime_ms: u64) {
        self.last_good = Some(GoodTime { utc_ms, boot_id: self.boot_id, boottime_ms });
    }

    /// When the time was known last.
    pub fn last_good(&self) -> Option<GoodTime> {
        self.last_good
    }

    /// What to check certificates against now.
    pub fn at(&self, now: &Now) -> CheckAt {
        let (utc_ms, is_known) = match (now.clock, self.last_good) {
            (ClockState::Synced, _) => (now.wall_ms, true),
            (_, Some(good)) if good.boot_id == self.boot_id => {
                (after(good.utc_ms, now.boottime_ms.saturating_sub(good.boottime_ms)), true)
            }
            // Another boot: this one began later, and nobody knows how much.
            (_, Some(good)) => (after(good.utc_ms, now.boottime_ms), false),
            (_, None) => (i64::MIN, false),
        };
        let built_ms = BUILT_UTC_S * 1000;
        CheckAt { utc_ms: utc_ms.max(built_ms), is_known: is_known && utc_ms >= built_ms }
    }
}

impl CheckAt {
    /// Whether a certificate that begins then may be looked at again as of its beginning: it may be that late already.
    pub fn may_be_later(&self) -> bool {
        !self.is_known
    }
}

fn after(utc_ms: i64, elapsed_ms: u64) -> i64 {
    utc_ms.saturating_add(i64::try_from(elapsed_ms).unwrap_or(i64::MAX))
}

const fn later(a: i64, b: i64) -> i64 {
    if a > b { a } else { b }
}

/// Digits, or nothing.
const fn said_at_build(text: Option<&str>) -> i64 {
    let Some(text) = text else { return 0 };
    match i64::from_str_radix(text, 10) {
        Ok(seconds) => seconds,
        Err(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THIS: BootId = BootId([1; 16]);
    const BEFORE: BootId = BootId([2; 16]);
    const TRUE_MS: i64 = (BUILT_UTC_S + 90 * 86_400) * 1000;
    const IN_1970_MS: i64 = 0;
    const IN_2063_MS: i64 = 2_934_748_800_000;

    fn now(boottime_ms: u64, wall_ms: i64, clock: ClockState) -> Now {
        Now { boottime_ms, wall_ms, clock }
    }

    fn good(boot_id: BootId) -> Option<GoodTime> {
        Some(GoodTime { utc_ms: TRUE_MS, boot_id, boottime_ms: 5_000 })
    }

    #[test]
    fn a_clock_that_the_kernel_vouches_for_is_the_time() {
        let time = VerificationTime::new(THIS, good(THIS));
        let at = time.at(&now(6_000, TRUE_MS + 77, ClockState::Synced));
        assert_eq!(at, CheckAt { utc_ms: TRUE_MS + 77, is_known: true });
    }

    #[test]
    fn a_wild_clock_that_nobody_vouches_for_is_not_looked_at() {
        for wall_ms in [IN_1970_MS, IN_2063_MS, i64::MIN, i64::MAX] {
            let wild = now(65_000, wall_ms, ClockState::Unsynced);
            let built_ms = BUILT_UTC_S * 1000;
            let at = VerificationTime::new(THIS, None).at(&wild);
            assert_eq!(at, CheckAt { utc_ms: built_ms, is_known: false });
            let at = VerificationTime::new(THIS, good(THIS)).at(&wild);
            assert_eq!(at, CheckAt { utc_ms: TRUE_MS + 60_000, is_known: true }, "known in this boot");
            let at = VerificationTime::new(THIS, good(BEFORE)).at(&wild);
            assert_eq!(at, CheckAt { utc_ms: TRUE_MS + 65_000, is_known: false }, "known in an earlier boot");
        }
    }

    #[test]
    fn it_is_never_before_the_build_whoever_says_so() {
        let at = VerificationTime::new(THIS, None).at(&now(1, IN_1970_MS, ClockState::Synced));
        assert_eq!(at, CheckAt { utc_ms: BUILT_UTC_S * 1000, is_known: false });
        assert!(at.may_be_later());
    }

    #[test]
    fn the_newest_word_counts_and_not_the_largest() {
        let mut time = VerificationTime::new(THIS, None);
        time.learn(IN_2063_MS, 1_000);
        time.learn(TRUE_MS, 2_000);
        let at = time.at(&now(3_000, IN_2063_MS, ClockState::Unsynced));
        assert_eq!(at, CheckAt { utc_ms: TRUE_MS + 1_000, is_known: true });
    }

    #[test]
    fn the_build_says_its_time_in_digits_or_not_at_all() {
        assert_eq!(said_at_build(Some("1800000000")), 1_800_000_000);
        assert_eq!(said_at_build(Some("yesterday")), 0);
        assert_eq!(said_at_build(None), 0);
        const { assert!(BUILT_UTC_S >= BEGUN_UTC_S) };
    }
}
