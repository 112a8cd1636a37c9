//! Beside the line: how often one address may ask. Pure: `now` is an argument. Memory has a bound whoever asks.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::event_store::UtcMs;

/// A site's 40 controllers come from one address, and each asks twice: that fits, three times over.
pub const BURST: i64 = 240;

/// After that, one question per so many milliseconds.
pub const PER_QUESTION_MS: i64 = 500;

/// So many addresses are remembered; the one that asked longest ago makes room.
pub const MAX_ADDRESSES: usize = 4_096;

/// Who asked lately. An address is remembered by the moment at which it has its whole burst again.
#[derive(Default)]
pub struct Pace {
    rested: HashMap<IpAddr, i64>,
}

impl Pace {
    /// Whether `address` may ask at `now`; if not, after how many milliseconds.
    pub fn may_ask(&mut self, address: IpAddr, now: UtcMs) -> Result<(), u64> {
        if !self.rested.contains_key(&address) && self.rested.len() >= MAX_ADDRESSES {
            self.rested.retain(|_, rested| *rested > now.0);
            if self.rested.len() >= MAX_ADDRESSES
                && let Some(first) = self.rested.iter().min_by_key(|(_, rested)| **rested).map(|(ip, _)| *ip)
            {
                self.rested.remove(&first);
            }
        }
        let rested = self.rested.entry(address).or_insert(now.0);
        // A clock that was set back must not lock anybody out for long.
        let latest = now.0 + BURST * PER_QUESTION_MS;
        *rested = (*rested).clamp(now.0, latest);
        let next = *rested + PER_QUESTION_MS;
        if next > latest {
            return Err((next - latest).unsigned_abs());
        }
        *rested = next;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u32) -> IpAddr {
        IpAddr::from(n.to_be_bytes())
    }

    #[test]
    fn a_burst_passes_and_then_one_at_a_time() {
        let mut pace = Pace::default();
        for _ in 0..BURST {
            assert_eq!(pace.may_ask(address(1), UtcMs(0)), Ok(()));
        }
        assert_eq!(pace.may_ask(address(1), UtcMs(0)), Err(PER_QUESTION_MS.unsigned_abs()));
        assert_eq!(pace.may_ask(address(2), UtcMs(0)), Ok(()), "others do not wait");
        assert_eq!(pace.may_ask(address(1), UtcMs(PER_QUESTION_MS)), Ok(()));
        assert_eq!(pace.may_ask(address(1), UtcMs(PER_QUESTION_MS)), Err(PER_QUESTION_MS.unsigned_abs()));
    }

    #[test]
    fn memory_has_a_bound_and_the_busiest_are_remembered() {
        let mut pace = Pace::default();
        for _ in 0..BURST {
            pace.may_ask(address(0), UtcMs(0)).unwrap();
        }
        for n in 1..20_000 {
            pace.may_ask(address(n), UtcMs(0)).unwrap();
            assert!(pace.rested.len() <= MAX_ADDRESSES);
        }
        assert!(pace.may_ask(address(0), UtcMs(0)).is_err());
    }

    #[test]
    fn a_clock_that_was_set_back_locks_nobody_out() {
        let mut pace = Pace::default();
        (0..BURST).for_each(|_| pace.may_ask(address(1), UtcMs(1_000_000_000)).unwrap());
        assert!(pace.may_ask(address(1), UtcMs(0)).is_err());
        assert_eq!(pace.may_ask(address(1), UtcMs(PER_QUESTION_MS)), Ok(()));
    }
}
