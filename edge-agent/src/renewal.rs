//! Beside the line: when the certificate is to be renewed. Pure: the time, the certificate's dates, and dice are arguments.
//!
//! At two thirds of its life, so that a third is left for whatever is in the way, and each door at another moment of the
//! next twelfth, because doors that were enrolled in one morning must not all come in one morning. Attempts that fail are
//! repeated for ever.

use crate::certificate::Dates;
use crate::verification_time::CheckAt;

/// The moment is spread over this part of the life, after its two thirds.
const SPREAD: i64 = 12;

/// Between attempts: doubling up to the longest, of which dice take up to half away.
const FIRST_PAUSE_MS: u64 = 60_000;
const LONGEST_PAUSE_MS: u64 = 3_600_000;

/// After the cloud has said no: only a person can change that.
const REFUSED_PAUSE_MS: u64 = 6 * 3_600_000;

/// While nobody knows the time, nobody knows whether the certificate has ended either: without a session for so long, it
/// may have.
const DOUBT_AFTER_MS: u64 = 600_000;

/// What is known when it is decided.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    /// Of the newest certificate.
    pub dates: Dates,
    /// The same for one certificate as long as it lives, evenly spread over doors.
    pub dice: u32,
    /// The time, or a lower bound of it.
    pub time: CheckAt,
    /// CLOCK_BOOTTIME.
    pub boottime_ms: u64,
    /// Since when there has been no session, CLOCK_BOOTTIME.
    pub no_session_since_ms: Option<u64>,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Renew now.
    Renew,
    /// Look again so much later.
    Wait(u64),
}

/// Attempts, and when the next may come.
#[derive(Debug, Clone, Default)]
pub struct Renewal {
    failures: u32,
    not_before_ms: u64,
}

impl Renewal {
    /// What to do now.
    pub fn next(&self, seen: &Seen) -> Next {
        let due_in_ms =
            due_utc_s(&seen.dates, seen.dice).saturating_mul(1000).saturating_sub(seen.time.utc_ms);
        let mut wait_ms = u64::try_from(due_in_ms).unwrap_or(0);
        if let (true, Some(since_ms)) = (seen.time.may_be_later(), seen.no_session_since_ms) {
            let doubt_at_ms = since_ms.saturating_add(DOUBT_AFTER_MS);
            wait_ms = wait_ms.min(doubt_at_ms.saturating_sub(seen.boottime_ms));
        }
        match wait_ms.max(self.not_before_ms.saturating_sub(seen.boottime_ms)) {
            0 => Next::Renew,
            wait_ms => Next::Wait(wait_ms),
        }
    }

    /// It did not work; `needs_a_person` if trying again changes nothing by itself.
    pub fn failed(&mut self, boottime_ms: u64, needs_a_person: bool, dice: u32) {
        let doubled = FIRST_PAUSE_MS.saturating_mul(1 << self.failures.min(16)).min(LONGEST_PAUSE_MS);
        let pause_ms = if needs_a_person { REFUSED_PAUSE_MS } else { doubled };
        self.failures = self.failures.saturating_add(1);
        let less_ms = scaled(pause_ms / 2, dice);
        self.not_before_ms = boottime_ms.saturating_add(pause_ms - less_ms);
    }

    /// It worked. The next one is not asked for at once, whatever the clock says.
    pub fn done(&mut self, boottime_ms: u64) {
        *self = Renewal { failures: 0, not_before_ms: boottime_ms.saturating_add(LONGEST_PAUSE_MS) };
    }

    /// How often it has failed since it worked.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

/// When this certificate is to be renewed, seconds since 1970-01-01 UTC.
pub fn due_utc_s(dates: &Dates, dice: u32) -> i64 {
    let life_s = dates.not_after_s.saturating_sub(dates.not_before_s).max(0);
    let spread_s = i64::try_from(scaled(u64::try_from(life_s / SPREAD).unwrap_or(0), dice)).unwrap_or(0);
    dates.not_before_s.saturating_add(life_s / 3 * 2).saturating_add(spread_s)
}

/// `of`, times dice between 0 and 1.
fn scaled(of: u64, dice: u32) -> u64 {
    let scaled = (u128::from(of) * u128::from(dice)) >> 32;
    u64::try_from(scaled).unwrap_or(of)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_S: i64 = 86_400;
    const DATES: Dates = Dates { not_before_s: 1_800_000_000, not_after_s: 1_800_000_000 + 30 * DAY_S };

    fn seen(utc_s: i64, is_known: bool) -> Seen {
        let time = CheckAt { utc_ms: utc_s * 1000, is_known };
        Seen { dates: DATES, dice: 0, time, boottime_ms: 1_000_000, no_session_since_ms: None }
    }

    #[test]
    fn it_is_due_at_two_thirds_of_the_life() {
        let due_s = DATES.not_before_s + 20 * DAY_S;
        assert_eq!(Renewal::default().next(&seen(due_s - 1, true)), Next::Wait(1_000));
        assert_eq!(Renewal::default().next(&seen(due_s, true)), Next::Renew);
        assert_eq!(Renewal::default().next(&seen(due_s + 400 * DAY_S, true)), Next::Renew, "long expired");
    }

    #[test]
    fn a_thousand_doors_come_evenly_over_the_next_twelfth() {
        let mut per_quarter = [0; 4];
        let first_s = DATES.not_before_s + 20 * DAY_S;
        for door in 0..1_000_u32 {
            let after_s = due_utc_s(&DATES, door * (u32::MAX / 1_000)) - first_s;
            assert!((0..30 * DAY_S / SPREAD).contains(&after_s), "{after_s}");
            per_quarter[usize::try_from(after_s * 4 * SPREAD / (30 * DAY_S)).unwrap()] += 1;
        }
        assert!(per_quarter.iter().all(|doors| (240..=260).contains(doors)), "{per_quarter:?}");
    }

    #[test]
    fn failures_are_repeated_for_ever_and_ever_more_rarely() {
        let (mut renewal, mut now) = (Renewal::default(), seen(DATES.not_after_s, true));
        let mut waits = Vec::new();
        for _ in 0..100 {
            assert_eq!(renewal.next(&now), Next::Renew);
            renewal.failed(now.boottime_ms, false, 0);
            let Next::Wait(wait_ms) = renewal.next(&now) else { panic!("a pause follows") };
            waits.push(wait_ms);
            now.boottime_ms += wait_ms;
        }
        assert_eq!(waits[..3], [FIRST_PAUSE_MS, 2 * FIRST_PAUSE_MS, 4 * FIRST_PAUSE_MS]);
        assert_eq!(waits[99], LONGEST_PAUSE_MS);
        assert_eq!(renewal.failures(), 100);
    }

    #[test]
    fn pauses_differ_between_doors_and_a_refusal_waits_for_a_person() {
        let now = seen(DATES.not_after_s, true);
        let pause = |needs_a_person, dice| {
            let mut renewal = Renewal::default();
            renewal.failed(now.boottime_ms, needs_a_person, dice);
            renewal.next(&now)
        };
        assert_eq!(pause(false, 0), Next::Wait(FIRST_PAUSE_MS));
        assert_eq!(pause(false, 1 << 31), Next::Wait(FIRST_PAUSE_MS / 4 * 3));
        assert_eq!(pause(true, 0), Next::Wait(REFUSED_PAUSE_MS));
    }

    #[test]
    fn who_does_not_know_the_time_and_has_no_session_renews_to_be_sure() {
        let mut dark = seen(DATES.not_before_s, false);
        assert!(matches!(Renewal::default().next(&dark), Next::Wait(more) if more > DOUBT_AFTER_MS));
        dark.no_session_since_ms = Some(dark.boottime_ms);
        assert_eq!(Renewal::default().next(&dark), Next::Wait(DOUBT_AFTER_MS));
        dark.boottime_ms += DOUBT_AFTER_MS;
        assert_eq!(Renewal::default().next(&dark), Next::Renew);
        dark.time.is_known = true;
        assert!(matches!(Renewal::default().next(&dark), Next::Wait(_)), "who knows the time knows better");
    }

    #[test]
    fn after_one_that_worked_comes_a_pause_whatever_the_clock_says() {
        let mut renewal = Renewal::default();
        let now = seen(DATES.not_after_s, true);
        renewal.done(now.boottime_ms);
        assert_eq!(renewal.next(&now), Next::Wait(LONGEST_PAUSE_MS));
    }
}
