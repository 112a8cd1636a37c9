//! Step 11 of 12: what follows from an attempt. Pure: knows no store, no clock, no chance; all three are arguments.
//!
//! There is no last attempt: a delivery ends by being taken, by being refused for good, or by a person.

use crate::destination::Outcome;
use crate::event_store::{Next, UtcMs};

/// The first delay is somewhere below this.
pub const FIRST_DELAY_MS: u64 = 500;

/// No delay is longer than this.
pub const MAX_DELAY_MS: u64 = 5 * 60 * 1000;

/// A destination that does not let us in is asked again this often: a person has to do something first.
pub const UNAUTHORIZED_HOLD_MS: u64 = 60_000;

/// A 429 that names no time holds the destination for this long at least.
pub const UNNAMED_LIMIT_HOLD_MS: u64 = 1_000;

/// What is to be done: with the delivery, and with everything else for its destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The delivery's next state.
    pub next: Next,
    /// Keep the whole destination back, if so.
    pub hold: Option<Hold>,
}

/// Nothing is sent to the destination until then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// Until when.
    pub until: UtcMs,
    /// Why, for people.
    pub why: String,
}

/// Decides. `attempts` counts this one too; `jitter` is in [0, 1).
pub fn after(outcome: &Outcome, attempts: u32, now: UtcMs, jitter: f64) -> Decision {
    let backed_off = || later(now, delay_ms(attempts, jitter));
    match outcome {
        Outcome::Delivered | Outcome::Duplicate => only(Next::Delivered),
        Outcome::Refused(_) | Outcome::Unrenderable(_) => only(Next::Dead),
        Outcome::RateLimited { retry_after_ms } => {
            let wait = retry_after_ms.unwrap_or(delay_ms(attempts, jitter).max(UNNAMED_LIMIT_HOLD_MS));
            held(now, wait, "the destination says: too many requests (429)")
        }
        Outcome::ServerError { retry_after_ms: Some(wait) } => {
            let mut decision = held(now, *wait, "the destination is busy or down and says when to come back");
            // It may have been processed before the trouble: a pause of its own costs nothing then.
            decision.next = Next::RetryAt(backed_off().max(later(now, *wait)));
            decision
        }
        Outcome::Unauthorized => held(
            now,
            UNAUTHORIZED_HOLD_MS,
            "the destination does not let us in (401 or 403): check destination.authorization_file",
        ),
        Outcome::Misconfigured(why) => held(now, UNAUTHORIZED_HOLD_MS, why),
        Outcome::ServerError { retry_after_ms: None } | Outcome::ErrorInside(_) | Outcome::Unreachable(_) => {
            only(Next::RetryAt(backed_off()))
        }
        Outcome::TimedOut | Outcome::BrokenOff(_) | Outcome::NotUnderstood(_) => {
            only(Next::UnknownUntil(backed_off()))
        }
    }
}

/// Exponential with full jitter: anywhere in [0, min(first · 2^(n−1), max)) after attempt `n`, so that those who failed
/// together do not come back together.
pub fn delay_ms(attempts: u32, jitter: f64) -> u64 {
    debug_assert!((0.0..1.0).contains(&jitter));
    let doublings = attempts.saturating_sub(1).min(32);
    let ceiling = FIRST_DELAY_MS.saturating_mul(1 << doublings).min(MAX_DELAY_MS);
    (ceiling as f64 * jitter) as u64
}

fn only(next: Next) -> Decision {
    Decision { next, hold: None }
}

/// The delivery itself stays due: what it waits for is its destination.
fn held(now: UtcMs, wait_ms: u64, why: &str) -> Decision {
    let hold = Hold { until: later(now, wait_ms), why: why.to_owned() };
    Decision { next: Next::RetryAt(now), hold: Some(hold) }
}

fn later(now: UtcMs, ms: u64) -> UtcMs {
    UtcMs(now.0.saturating_add_unsigned(ms))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: UtcMs = UtcMs(1_000_000);

    fn at(ms: i64) -> UtcMs {
        UtcMs(NOW.0 + ms)
    }

    #[track_caller]
    fn check(outcome: Outcome, attempts: u32, next: Next, hold_ms: Option<i64>) {
        let got = after(&outcome, attempts, NOW, 0.5);
        assert_eq!((got.next, got.hold.map(|hold| hold.until)), (next, hold_ms.map(at)), "{outcome:?}");
    }

    #[test]
    fn what_was_taken_is_done_and_what_was_refused_is_dead() {
        check(Outcome::Delivered, 1, Next::Delivered, None);
        check(Outcome::Duplicate, 9, Next::Delivered, None);
        check(Outcome::Refused(422), 1, Next::Dead, None);
        check(Outcome::Unrenderable("no zone".into()), 1, Next::Dead, None);
    }

    #[test]
    fn what_was_not_processed_is_tried_again() {
        check(Outcome::ServerError { retry_after_ms: None }, 1, Next::RetryAt(at(250)), None);
        check(Outcome::ErrorInside("locked".into()), 2, Next::RetryAt(at(500)), None);
        check(Outcome::Unreachable("refused".into()), 3, Next::RetryAt(at(1_000)), None);
    }

    #[test]
    fn what_may_have_been_processed_is_unknown_and_tried_again() {
        check(Outcome::TimedOut, 1, Next::UnknownUntil(at(250)), None);
        check(Outcome::BrokenOff("reset".into()), 2, Next::UnknownUntil(at(500)), None);
        check(Outcome::NotUnderstood("html".into()), 1, Next::UnknownUntil(at(250)), None);
    }

    #[test]
    fn retry_after_holds_the_destination_exactly_that_long_and_not_the_delivery() {
        check(Outcome::RateLimited { retry_after_ms: Some(7_000) }, 20, Next::RetryAt(NOW), Some(7_000));
        check(Outcome::RateLimited { retry_after_ms: Some(0) }, 20, Next::RetryAt(NOW), Some(0));
        check(Outcome::RateLimited { retry_after_ms: None }, 1, Next::RetryAt(NOW), Some(1_000));
        check(Outcome::RateLimited { retry_after_ms: None }, 4, Next::RetryAt(NOW), Some(2_000));
        check(Outcome::ServerError { retry_after_ms: Some(9_000) }, 1, Next::RetryAt(at(9_000)), Some(9_000));
        let for_ever = after(&Outcome::RateLimited { retry_after_ms: Some(u64::MAX) }, 1, NOW, 0.0);
        assert_eq!(for_ever.hold.unwrap().until, UtcMs(i64::MAX));
    }

    #[test]
    fn a_closed_door_holds_the_destination_and_kills_nothing() {
        check(Outcome::Unauthorized, 1_000, Next::RetryAt(NOW), Some(60_000));
        check(Outcome::Misconfigured("private".into()), 1_000, Next::RetryAt(NOW), Some(60_000));
    }

    #[test]
    fn delays_double_from_half_a_second_to_five_minutes() {
        let ceilings: Vec<u64> =
            (1..=12).map(|n| (delay_ms(n, 0.999_999) + 1).next_multiple_of(500)).collect();
        assert_eq!(
            ceilings,
            [500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000, 128_000, 256_000, 300_000, 300_000]
        );
        assert_eq!(delay_ms(0, 0.999), 499);
        assert_eq!(delay_ms(u32::MAX, 0.5), 150_000);
    }

    proptest! {
        #[test]
        fn no_delay_is_out_of_bounds(attempts: u32, jitter in 0.0..1.0f64) {
            prop_assert!(delay_ms(attempts, jitter) < MAX_DELAY_MS);
        }
    }
}
