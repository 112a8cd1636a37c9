//! Step 1 of 12, after a failure: how long to wait before the next try. Pure: knows no clock and no reader.

use std::time::Duration;

/// The first wait: a socket-activated pcscd is back within it.
const SHORTEST_MS: u64 = 100;

/// The longest wait: what a person who has just plugged the reader in again may have to stand before it works.
const LONGEST_MS: u64 = 5_000;

/// What worked this long before it failed is a new failure, not the last one going on.
const STEADY_MS: u64 = 5_000;

const _: () = assert!(STEADY_MS >= LONGEST_MS, "or two failures could take turns without ever slowing down");

/// The wait after failure number `attempt` in a row, the first being 0: 100 ms, doubled each time, at most 5 s.
/// Without jitter: one reader is no herd.
pub fn backoff(attempt: u32) -> Duration {
    let doubled = SHORTEST_MS.saturating_mul(1u64.checked_shl(attempt).unwrap_or(u64::MAX));
    Duration::from_millis(doubled.min(LONGEST_MS))
}

/// Failures in a row.
#[derive(Debug, Default)]
pub struct Retry {
    failures: u32,
}

impl Retry {
    /// It failed after it had worked for `worked_ms` (0: it did not work at all). Gives the wait before the next
    /// try, which is never zero: no error path may spin.
    pub fn failed(&mut self, worked_ms: u64) -> Duration {
        if worked_ms >= STEADY_MS {
            self.failures = 0;
        }
        let wait = backoff(self.failures);
        self.failures = self.failures.saturating_add(1);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_five_seconds() {
        let waits: Vec<u128> = (0..9).map(|n| backoff(n).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000]);
    }

    #[test]
    fn no_number_of_failures_overflows() {
        for attempt in [31, 32, 57, 58, 63, 64, 65, u32::MAX] {
            assert_eq!(backoff(attempt).as_millis(), 5000, "{attempt}");
        }
    }

    #[test]
    fn ten_minutes_without_pcscd_are_some_120_tries() {
        let (mut retry, mut passed_ms, mut tries) = (Retry::default(), 0, 0);
        while passed_ms < 600_000 {
            passed_ms += retry.failed(0).as_millis();
            tries += 1;
        }
        // Each asks one socket for one connection: far below a thousandth of a core.
        assert_eq!(tries, 125);
    }

    #[test]
    fn flapping_slows_down_and_steady_work_starts_over() {
        let mut retry = Retry::default();
        let waits = [0, 0, 30, 4_999, 5_000, 0].map(|worked_ms| retry.failed(worked_ms).as_millis());
        assert_eq!(waits, [100, 200, 400, 800, 100, 200]);
    }
}
