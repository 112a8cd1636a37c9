//! Step 11 of 12: what follows from an attempt: for the delivery, for its destination, and for what is thought of it.
//! Pure: knows no store and no clock; chance is an argument. It says how long to wait, and not until when: whose clock that
//! is for is not for whoever sends to say.
//!
//! There is no last attempt: a delivery ends by being taken, by being refused for good, or by a person. Being asked for
//! patience is no failure: it lengthens no later wait.

use super::breaker::Sign;
use crate::destination::settings::AfterUnknown;
use crate::destination::{LookedUp, Outcome};
use crate::event_store::Next;

/// The first delay is somewhere below this.
pub const FIRST_DELAY_MS: u64 = 500;

/// No delay is longer than this.
pub const MAX_DELAY_MS: u64 = 5 * 60 * 1000;

/// A 429 that names no time holds the destination for this long at least.
pub const UNNAMED_LIMIT_HOLD_MS: u64 = 1_000;

/// Whatever a destination asks for, it is asked again after a day.
pub const MAX_HOLD_MS: u64 = 24 * 60 * 60 * 1000;

/// What is to be done: with the delivery, and with everything else for its destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The delivery's next state.
    pub next: Next,
    /// Keep the whole destination back, if so.
    pub hold: Option<Hold>,
    /// What the breaker learns of it.
    pub sign: Sign,
}

/// Nothing is sent to the destination for so long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// How long.
    pub for_ms: u64,
    /// Why, for people.
    pub why: &'static str,
}

/// What is known of a destination that gave no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unknown {
    /// What follows.
    pub then: AfterUnknown,
    /// Not before so long: until then the request may still be at work over there.
    pub settles_ms: u64,
}

/// Decides after a look-up, which is an attempt too. Only one thing ends in sending again: that it is not there.
pub fn after_look_up(found: &LookedUp, unknown: Unknown, failures: u32, jitter: f64) -> Decision {
    let answered = |next: Next| Decision { next, hold: None, sign: Sign::Answered };
    match found {
        LookedUp::Found(_) => answered(Next::Delivered),
        LookedUp::Absent => answered(Next::PatientFor(0)),
        LookedUp::CannotTell => answered(Next::AskPerson),
        LookedUp::Unclear(what) => {
            let decision = after(&what.outcome, unknown, failures, jitter);
            let next = match decision.next {
                Next::RetryIn(ms) | Next::PatientFor(ms) | Next::UnknownFor(ms) => Next::UnknownFor(ms),
                // Of a question these say nothing about the tap.
                _ => Next::UnknownFor(delay_ms(failures, jitter)),
            };
            Decision { next, ..decision }
        }
    }
}

/// Decides. `failures` counts this one too, if it is one; `jitter` is in [0, 1).
pub fn after(outcome: &Outcome, unknown: Unknown, failures: u32, jitter: f64) -> Decision {
    let delay_ms = delay_ms(failures, jitter);
    let failed = |next: Next| Decision { next, hold: None, sign: Sign::Failed };
    let held = |next: Next, sign: Sign, for_ms: u64, why: &'static str| Decision {
        next,
        hold: Some(Hold { for_ms: for_ms.min(MAX_HOLD_MS), why }),
        sign,
    };
    match outcome {
        Outcome::Delivered | Outcome::Duplicate => {
            Decision { next: Next::Delivered, hold: None, sign: Sign::Answered }
        }
        Outcome::Refused(_) | Outcome::Unrenderable(_) => {
            Decision { next: Next::Dead, hold: None, sign: Sign::Answered }
        }
        // The delivery itself stays due: what it waits for is its destination.
        Outcome::RateLimited { retry_after_ms } => {
            let wait_ms = retry_after_ms.unwrap_or(delay_ms.max(UNNAMED_LIMIT_HOLD_MS));
            let why = "the destination says: too many requests (429)";
            held(Next::PatientFor(0), Sign::Busy, wait_ms, why)
        }
        // For a person to mend; the tap is as good as any.
        Outcome::Unauthorized | Outcome::Misconfigured(_) => {
            Decision { next: Next::PatientFor(0), hold: None, sign: Sign::Denied }
        }
        // It may have been processed before the trouble: a pause of its own costs nothing then.
        Outcome::ServerError { retry_after_ms: Some(wait_ms) } => {
            let next = Next::RetryIn(delay_ms.max((*wait_ms).min(MAX_HOLD_MS)));
            let why = "the destination is busy or down and says when to come back";
            held(next, Sign::Busy, *wait_ms, why)
        }
        Outcome::ServerError { retry_after_ms: None } | Outcome::Unreachable(_) => {
            failed(Next::RetryIn(delay_ms))
        }
        // Its own answer, about this one.
        Outcome::ErrorInside(_) => {
            Decision { next: Next::RetryIn(delay_ms), hold: None, sign: Sign::Answered }
        }
        Outcome::TimedOut | Outcome::BrokenOff(_) | Outcome::NotUnderstood(_) => match unknown.then {
            AfterUnknown::Repeat | AfterUnknown::LookUp => {
                failed(Next::UnknownFor(delay_ms.max(unknown.settles_ms)))
            }
            AfterUnknown::AskPerson => failed(Next::AskPerson),
        },
    }
}

/// Exponential with full jitter: anywhere in [0, min(first · 2^(n−1), max)) after failure `n`, so that those who failed
/// together do not come back together.
pub fn delay_ms(failures: u32, jitter: f64) -> u64 {
    debug_assert!((0.0..1.0).contains(&jitter));
    let doublings = failures.saturating_sub(1).min(32);
    let ceiling = FIRST_DELAY_MS.saturating_mul(1 << doublings).min(MAX_DELAY_MS);
    (ceiling as f64 * jitter) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination::Answered;
    use proptest::prelude::*;

    const REPEAT: Unknown = Unknown { then: AfterUnknown::Repeat, settles_ms: 0 };
    const ASK: Unknown = Unknown { then: AfterUnknown::AskPerson, settles_ms: 0 };

    #[track_caller]
    fn check(outcome: Outcome, failures: u32, next: Next, hold_ms: Option<u64>, sign: Sign) {
        let got = after(&outcome, REPEAT, failures, 0.5);
        assert_eq!(
            (got.next, got.hold.map(|hold| hold.for_ms), got.sign),
            (next, hold_ms, sign),
            "{outcome:?}"
        );
    }

    #[test]
    fn what_was_taken_is_done_and_what_was_refused_is_dead() {
        check(Outcome::Delivered, 1, Next::Delivered, None, Sign::Answered);
        check(Outcome::Duplicate, 9, Next::Delivered, None, Sign::Answered);
        check(Outcome::Refused(422), 1, Next::Dead, None, Sign::Answered);
        check(Outcome::Unrenderable("no zone".into()), 1, Next::Dead, None, Sign::Answered);
    }

    #[test]
    fn what_was_not_processed_is_tried_again() {
        let error = Outcome::ServerError { retry_after_ms: None };
        check(error, 1, Next::RetryIn(250), None, Sign::Failed);
        check(Outcome::ErrorInside("locked".into()), 2, Next::RetryIn(500), None, Sign::Answered);
        check(Outcome::Unreachable("refused".into()), 3, Next::RetryIn(1_000), None, Sign::Failed);
    }

    #[test]
    fn what_may_have_been_processed_is_unknown_and_tried_again() {
        check(Outcome::TimedOut, 1, Next::UnknownFor(250), None, Sign::Failed);
        check(Outcome::BrokenOff("reset".into()), 2, Next::UnknownFor(500), None, Sign::Failed);
        check(Outcome::NotUnderstood("html".into()), 1, Next::UnknownFor(250), None, Sign::Failed);
    }

    #[test]
    fn a_request_that_may_still_be_at_work_is_given_its_time() {
        let unknown = Unknown { then: AfterUnknown::LookUp, settles_ms: 120_000 };
        let got = after(&Outcome::TimedOut, unknown, 1, 0.5);
        assert_eq!(got.next, Next::UnknownFor(120_000));
    }

    #[test]
    fn after_a_look_up_only_what_is_not_there_is_sent_again() {
        let next = |found| after_look_up(&found, REPEAT, 2, 0.5).next;
        let unclear = |outcome| LookedUp::Unclear(Answered { outcome, status: None, answer: String::new() });
        assert_eq!(next(LookedUp::Found("EMP-CKIN-1".into())), Next::Delivered);
        assert_eq!(next(LookedUp::Absent), Next::PatientFor(0));
        assert_eq!(next(LookedUp::CannotTell), Next::AskPerson);
        for outcome in [
            Outcome::TimedOut,
            Outcome::RateLimited { retry_after_ms: Some(7) },
            Outcome::Unauthorized,
            Outcome::Refused(404),
            Outcome::Unreachable(String::new()),
        ] {
            assert!(matches!(next(unclear(outcome)), Next::UnknownFor(_)));
        }
    }

    #[test]
    fn what_may_have_been_processed_is_for_a_person_where_the_destination_knows_no_keys() {
        for outcome in
            [Outcome::TimedOut, Outcome::BrokenOff(String::new()), Outcome::NotUnderstood(String::new())]
        {
            let got = after(&outcome, ASK, 1, 0.5);
            assert_eq!((got.next, got.sign), (Next::AskPerson, Sign::Failed));
        }
        let got = after(&Outcome::Unreachable(String::new()), ASK, 1, 0.5);
        assert_eq!(got.next, Next::RetryIn(250), "this one was not sent");
    }

    #[test]
    fn retry_after_holds_the_destination_exactly_that_long_and_not_the_delivery() {
        let limited = |retry_after_ms| Outcome::RateLimited { retry_after_ms };
        check(limited(Some(7_000)), 20, Next::PatientFor(0), Some(7_000), Sign::Busy);
        check(limited(Some(0)), 20, Next::PatientFor(0), Some(0), Sign::Busy);
        check(limited(None), 1, Next::PatientFor(0), Some(1_000), Sign::Busy);
        check(limited(None), 4, Next::PatientFor(0), Some(2_000), Sign::Busy);
        check(limited(Some(u64::MAX)), 1, Next::PatientFor(0), Some(MAX_HOLD_MS), Sign::Busy);
        let busy = Outcome::ServerError { retry_after_ms: Some(9_000) };
        check(busy, 1, Next::RetryIn(9_000), Some(9_000), Sign::Busy);
    }

    #[test]
    fn a_closed_door_stops_the_destination_and_kills_nothing() {
        check(Outcome::Unauthorized, 1_000, Next::PatientFor(0), None, Sign::Denied);
        check(Outcome::Misconfigured("private".into()), 1_000, Next::PatientFor(0), None, Sign::Denied);
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
