//! Beside the line: a time that several processes share and none of them can push. Pure: what a process's own monotonic
//! clock shows is an argument.
//!
//! Limits and leases are promises about how much time has passed, and a wall clock that is set, or two replicas whose
//! clocks disagree, would break them. So the store keeps a count of milliseconds, and it moves on only as far as some
//! process *vouches* for: each remembers by how much the count and its own monotonic clock were apart when it looked.
//! While no process runs, no time passes.
//!
//! **Invariant**: between any two moments the count moves on by no more than what has truly passed and [`SLACK_MS`]. For
//! that, a process that has not looked for longer, while another has, forgets what it knew: what was stamped meanwhile
//! was stamped by somebody who may know of less time, and to make up for it now would age those stamps.

use serde::{Deserialize, Serialize};

/// Whoever looks less often is not believed, if others have looked since.
pub const SLACK_MS: u64 = 1_000;

/// Milliseconds that have passed for sure. Never runs backwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Ticks(pub u64);

impl Ticks {
    /// So much later.
    pub fn plus(self, ms: u64) -> Ticks {
        Ticks(self.0.saturating_add(ms))
    }

    /// How long after `earlier`; zero if it is not.
    pub fn since(self, earlier: Ticks) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// What the store keeps: the count, and who moved it on last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Kept {
    /// The count.
    pub ticks: Ticks,
    /// Which visit of which process.
    pub by: i64,
}

/// What a process says about the time when it asks the store to write something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vouch {
    by: i64,
    /// The last of its visits that it knows of.
    before: Option<i64>,
    through: Ticks,
    is_fresh: bool,
    at_ms: u64,
}

/// The count as it is now, and whether the process was believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passed {
    /// The count.
    pub ticks: Ticks,
    by: i64,
    believed: bool,
    at_ms: u64,
}

impl Kept {
    /// Moves the count on as far as the process can be believed.
    pub fn pass(&mut self, vouch: &Vouch) -> Passed {
        let believed = vouch.is_fresh || Some(self.by) == vouch.before;
        if believed {
            self.ticks = self.ticks.max(vouch.through);
        }
        self.by = vouch.by;
        Passed { ticks: self.ticks, by: vouch.by, believed, at_ms: vouch.at_ms }
    }
}

/// What one process knows of the count.
#[derive(Debug, Clone, Copy)]
pub struct Ticker {
    by: i64,
    known: Option<Known>,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    /// Ticks minus the process's monotonic milliseconds: too small, maybe, and never too large.
    ahead_ms: i64,
    /// When it last vouched, as far as it knows, and under which number.
    vouched_ms: u64,
    by: i64,
}

impl Ticker {
    /// Of a process that has just come; `by` is like nobody else's.
    pub fn new(by: i64) -> Ticker {
        Ticker { by, known: None }
    }

    /// Up to where this process can swear that time has passed, its monotonic clock showing `at_ms`. To be asked within
    /// the transaction that writes it down, when no other writer can come in between any more.
    pub fn vouch(&self, at_ms: u64) -> Vouch {
        // No visit has another's number: the answer to one may get lost.
        let by = self.by.wrapping_add_unsigned(at_ms);
        let Some(Known { ahead_ms, vouched_ms, by: before }) = self.known else {
            return Vouch { by, before: None, through: Ticks(0), is_fresh: false, at_ms };
        };
        let through = Ticks(u64::try_from(ahead_ms.saturating_add_unsigned(at_ms)).unwrap_or(0));
        let is_fresh = at_ms.saturating_sub(vouched_ms) <= SLACK_MS;
        Vouch { by, before: Some(before), through, is_fresh, at_ms }
    }

    /// It is written down.
    pub fn told(&mut self, passed: &Passed) {
        let ticks = i64::try_from(passed.ticks.0).unwrap_or(i64::MAX);
        let seen = ticks.saturating_sub_unsigned(passed.at_ms);
        let before = self.known.filter(|_| passed.believed).map(|known| known.ahead_ms);
        let ahead_ms = before.map_or(seen, |known| known.max(seen));
        self.known = Some(Known { ahead_ms, vouched_ms: passed.at_ms, by: passed.by });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn visit_of(ticker: &mut Ticker, kept: &mut Kept, at_ms: u64) -> Passed {
        let passed = kept.pass(&ticker.vouch(at_ms));
        ticker.told(&passed);
        passed
    }

    #[test]
    fn one_process_keeps_pace_with_its_own_clock_however_rare_its_visits() {
        let mut ticker = Ticker::new(1);
        let mut kept = Kept { ticks: Ticks(500), by: 7 };
        visit_of(&mut ticker, &mut kept, 7_000);
        assert_eq!(kept.ticks, Ticks(500), "who has just come knows nothing");
        for turn in 1..=100 {
            visit_of(&mut ticker, &mut kept, 7_000 + turn * 5_000);
            assert_eq!(kept.ticks, Ticks(500 + turn * 5_000));
        }
    }

    #[test]
    fn replicas_that_take_turns_keep_pace_together() {
        let mut tickers = [Ticker::new(1), Ticker::new(2), Ticker::new(3)];
        let mut kept = Kept::default();
        for turn in 0..1_000 {
            visit_of(&mut tickers[turn as usize % 3], &mut kept, 1_000 + turn * 100);
        }
        assert!(kept.ticks.0 > 99_000, "{kept:?}");
    }

    #[test]
    fn whose_answer_was_lost_knows_only_for_a_while() {
        let mut ticker = Ticker::new(1);
        let mut kept = Kept::default();
        visit_of(&mut ticker, &mut kept, 1_000);
        kept.pass(&ticker.vouch(1_500));
        assert_eq!(visit_of(&mut ticker, &mut kept, 2_000).ticks, Ticks(1_000));
        kept.pass(&ticker.vouch(2_500));
        assert_eq!(
            visit_of(&mut ticker, &mut kept, 9_000).ticks,
            Ticks(1_500),
            "somebody else may have been there"
        );
        assert_eq!(visit_of(&mut ticker, &mut kept, 9_100).ticks, Ticks(1_600));
    }

    /// A process asks the store.
    #[derive(Debug, Clone)]
    struct Visit {
        who: usize,
        wait_ms: u64,
        answer_is_lost: bool,
        restarts: bool,
    }

    fn visit() -> impl Strategy<Value = Visit> {
        let wait_ms = prop_oneof![5 => 0..500u64, 1 => 0..100_000u64];
        (0..3usize, wait_ms, prop::bool::weighted(0.1), prop::bool::weighted(0.05)).prop_map(
            |(who, wait_ms, answer_is_lost, restarts)| Visit { who, wait_ms, answer_is_lost, restarts },
        )
    }

    proptest! {
        #[test]
        fn between_any_two_moments_no_more_is_counted_than_has_passed(
            visits in prop::collection::vec(visit(), 1..100),
        ) {
            // Each machine counts from somewhere else.
            let monotonic = |who: usize, real_ms: u64| real_ms + 10_000_000 * (who as u64 + 1);
            let mut tickers = [1, 2, 3].map(Ticker::new);
            let (mut real_ms, mut kept) = (1_000_000, Kept::default());
            let mut seen: Vec<(u64, Ticks)> = vec![];
            for Visit { who, wait_ms, answer_is_lost, restarts } in visits {
                real_ms += wait_ms;
                if restarts {
                    tickers[who] = Ticker::new(100 + seen.len() as i64);
                }
                let passed = kept.pass(&tickers[who].vouch(monotonic(who, real_ms)));
                if !answer_is_lost {
                    tickers[who].told(&passed);
                }
                for (then_ms, then) in &seen {
                    let (counted, truly) = (passed.ticks.since(*then), real_ms - then_ms);
                    prop_assert!(counted <= truly + SLACK_MS, "{counted} counted in {truly}");
                    prop_assert!(passed.ticks >= *then);
                }
                seen.push((real_ms, passed.ticks));
            }
        }
    }
}
