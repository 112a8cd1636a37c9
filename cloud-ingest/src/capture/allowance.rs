//! Step 7 of 12, over HTTP: how many taps one API key may bring. Pure: `now` is an argument, and memory has a bound.
//!
//! Of each key the moment is remembered at which it has its whole burst again; that one number is the bucket.

use std::collections::HashMap;

use crate::event_store::UtcMs;
use crate::event_store::capture::ApiKeyId;

/// What each key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// So many requests a second, for ever.
    pub per_second: u32,
    /// So many at once, after a rest.
    pub burst: u32,
}

/// Who asked lately. One entry per key that the store knows: keys are looked up before they are counted.
pub struct Allowance {
    rate: Rate,
    /// In microseconds since 1970, so that 1,000 a second and 3 a second are both exact enough.
    rested_us: HashMap<ApiKeyId, i64>,
}

impl Allowance {
    /// The same rate for each key. Neither of its numbers may be zero.
    pub fn new(rate: Rate) -> Allowance {
        assert!(rate.per_second > 0 && rate.burst > 0, "the configuration was checked");
        Allowance { rate, rested_us: HashMap::new() }
    }

    /// Whether the key may bring one more at `now`; if not, after how many milliseconds.
    pub fn may_ask(&mut self, key: ApiKeyId, now: UtcMs) -> Result<(), u64> {
        let now_us = now.0 * 1_000;
        let each_us = 1_000_000 / i64::from(self.rate.per_second);
        let latest_us = now_us + each_us * i64::from(self.rate.burst);
        let rested_us = self.rested_us.entry(key).or_insert(now_us);
        // A clock that was set back must not lock anybody out for long.
        *rested_us = (*rested_us).clamp(now_us, latest_us);
        let next_us = *rested_us + each_us;
        if next_us > latest_us {
            return Err((next_us - latest_us).unsigned_abs().div_ceil(1_000));
        }
        *rested_us = next_us;
        Ok(())
    }

    /// Forgets the keys that are no more.
    pub fn keep(&mut self, is_known: impl Fn(&ApiKeyId) -> bool) {
        self.rested_us.retain(|key, _| is_known(key));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RATE: Rate = Rate { per_second: 10, burst: 20 };
    const KEY: ApiKeyId = [1; 5];

    #[test]
    fn a_burst_passes_and_then_one_at_a_time() {
        let mut allowance = Allowance::new(RATE);
        for _ in 0..20 {
            assert_eq!(allowance.may_ask(KEY, UtcMs(0)), Ok(()));
        }
        assert_eq!(allowance.may_ask(KEY, UtcMs(0)), Err(100));
        assert_eq!(allowance.may_ask([2; 5], UtcMs(0)), Ok(()), "others do not wait");
        assert_eq!(allowance.may_ask(KEY, UtcMs(99)), Err(1));
        assert_eq!(allowance.may_ask(KEY, UtcMs(100)), Ok(()));
        assert_eq!(allowance.may_ask(KEY, UtcMs(100)), Err(100));
    }

    #[test]
    fn a_clock_that_was_set_back_locks_nobody_out() {
        let mut allowance = Allowance::new(RATE);
        (0..20).for_each(|_| allowance.may_ask(KEY, UtcMs(1_000_000_000)).unwrap());
        assert!(allowance.may_ask(KEY, UtcMs(0)).is_err());
        assert_eq!(allowance.may_ask(KEY, UtcMs(100)), Ok(()));
    }

    #[test]
    fn keys_that_are_no_more_take_no_room() {
        let mut allowance = Allowance::new(RATE);
        (0..9).for_each(|n| allowance.may_ask([n; 5], UtcMs(0)).unwrap());
        allowance.keep(|key| key[0] < 2);
        assert_eq!(allowance.rested_us.len(), 2);
    }

    proptest! {
        /// Whatever the pattern, no second has more than the rate and one burst; and who waits as told gets through.
        #[test]
        fn no_window_has_more_than_rate_and_burst(gaps in prop::collection::vec(0..400i64, 1..200)) {
            let mut allowance = Allowance::new(RATE);
            let (mut now, mut passed) = (0, Vec::new());
            for gap in gaps {
                now += gap;
                match allowance.may_ask(KEY, UtcMs(now)) {
                    Ok(()) => passed.push(now),
                    Err(wait_ms) => {
                        now += wait_ms as i64;
                        prop_assert_eq!(allowance.may_ask(KEY, UtcMs(now)), Ok(()));
                        passed.push(now);
                    }
                }
            }
            for (i, start) in passed.iter().enumerate() {
                let within = passed[i..].iter().filter(|at| **at < start + 1_000).count();
                prop_assert!(within <= 20 + 10, "{within} within a second from {start}");
            }
        }
    }
}
