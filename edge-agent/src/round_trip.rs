//! Beside the line: who waits for the receipt that answers a hello, for `edge-agent test-connection`. Pure: takes what was
//! sent and what came, gives who is to be answered.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::now::Now;

/// Askers at a time: one person, and a monitoring script.
const MAX_WAITING: usize = 8;

/// A receipt that has not come by then will not: the cloud stores in milliseconds, and answers every hello.
pub const ANSWER_WITHIN_MS: u64 = 10_000;

/// What a hello and the receipt that echoes it tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoundTrip {
    /// From the hello to the receipt, milliseconds.
    pub took_ms: u64,
    /// How far the wall clock here is ahead of the cloud's (negative: behind), milliseconds, taken in the middle of the
    /// way. Half of `took_ms` is how wrong that can be.
    pub clock_ahead_ms: i64,
}

/// Everybody who waits. `A` is how they are answered.
#[derive(Debug)]
pub struct RoundTrips<A> {
    waiting: VecDeque<Waiting<A>>,
}

#[derive(Debug)]
struct Waiting<A> {
    asked_ms: u64,
    /// The first hello since; `None` before it.
    hello_ms: Option<u64>,
    answer: A,
}

impl<A> Default for RoundTrips<A> {
    fn default() -> Self {
        RoundTrips { waiting: VecDeque::new() }
    }
}

impl<A> RoundTrips<A> {
    /// Somebody asks; a hello is to be sent now. `Err` if too many ask already.
    pub fn asked(&mut self, answer: A, now_ms: u64) -> Result<(), A> {
        if self.waiting.len() == MAX_WAITING {
            return Err(answer);
        }
        self.waiting.push_back(Waiting { asked_ms: now_ms, hello_ms: None, answer });
        Ok(())
    }

    /// A hello with this boottime was given to the broker.
    pub fn hello_sent(&mut self, boottime_ms: u64) {
        self.waiting.iter_mut().filter(|asker| asker.hello_ms.is_none()).for_each(|asker| {
            asker.hello_ms = Some(boottime_ms);
        });
    }

    /// A receipt came that echoes the hello with this boottime and tells the cloud's time: who is answered, and how.
    pub fn receipt_came(&mut self, echo_ms: u64, cloud_utc_ms: i64, now: &Now) -> Vec<(A, RoundTrip)> {
        let took_ms = now.boottime_ms.saturating_sub(echo_ms);
        let wall_in_the_middle_ms = now.wall_ms.saturating_sub_unsigned(took_ms / 2);
        let told = RoundTrip { took_ms, clock_ahead_ms: wall_in_the_middle_ms.saturating_sub(cloud_utc_ms) };
        self.take(|asker| asker.hello_ms == Some(echo_ms)).map(|answer| (answer, told)).collect()
    }

    /// Who has waited in vain, with whether a hello had been sent at all.
    pub fn expired(&mut self, now_ms: u64) -> Vec<A> {
        self.take(|asker| now_ms >= asker.asked_ms + ANSWER_WITHIN_MS).collect()
    }

    /// Everybody: the session is over.
    pub fn all(&mut self) -> Vec<A> {
        self.take(|_| true).collect()
    }

    fn take(&mut self, which: impl Fn(&Waiting<A>) -> bool) -> impl Iterator<Item = A> {
        let (taken, left) = std::mem::take(&mut self.waiting).into_iter().partition::<VecDeque<_>, _>(which);
        self.waiting = left;
        taken.into_iter().map(|asker| asker.answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tap_protocol::record::ClockState;

    fn now(boottime_ms: u64, wall_ms: i64) -> Now {
        Now { boottime_ms, wall_ms, clock: ClockState::Synced }
    }

    #[test]
    fn a_receipt_answers_those_whose_hello_it_echoes() {
        let mut trips = RoundTrips::default();
        trips.asked("a", 100).unwrap();
        assert!(trips.receipt_came(90, 0, &now(110, 0)).is_empty(), "an older hello's");
        trips.hello_sent(120);
        trips.asked("b", 130).unwrap();
        // 40 ms on the way: the cloud's time is the one of 20 ms ago.
        let told = RoundTrip { took_ms: 40, clock_ahead_ms: 980 };
        assert_eq!(trips.receipt_came(120, 5_000, &now(160, 6_000)), [("a", told)]);
        trips.hello_sent(170);
        assert_eq!(trips.receipt_came(170, 5_000, &now(170, 5_000)).len(), 1);
    }

    #[test]
    fn nobody_waits_for_ever_and_only_few_wait_at_all() {
        let mut trips = RoundTrips::default();
        for n in 0..MAX_WAITING as u64 {
            trips.asked(n, n).unwrap();
        }
        assert_eq!(trips.asked(99, 0), Err(99));
        assert_eq!(trips.expired(ANSWER_WITHIN_MS - 1), [0; 0]);
        assert_eq!(trips.expired(ANSWER_WITHIN_MS + 1), [0, 1]);
        assert_eq!(trips.all().len(), MAX_WAITING - 2);
    }

    #[test]
    fn no_clock_however_wrong_makes_the_sum_overflow() {
        let mut trips = RoundTrips::default();
        trips.asked((), 0).unwrap();
        trips.hello_sent(0);
        let told = trips.receipt_came(0, i64::MAX, &now(10, i64::MIN))[0].1;
        assert_eq!(told.clock_ahead_ms, i64::MIN);
    }
}
