//! One reading of all clocks, as everything but [`crate::clock`] sees it: an argument. Pure.

use tap_protocol::record::{ClockState, Stamp};

/// One reading of all clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// CLOCK_BOOTTIME, milliseconds.
    pub boottime_ms: u64,
    /// CLOCK_REALTIME, milliseconds since 1970-01-01 UTC, right or wrong.
    pub wall_ms: i64,
    /// Whether the kernel vouches for the wall clock.
    pub clock: ClockState,
}

impl Now {
    /// The last moment before that one on CLOCK_BOOTTIME, if it is not over yet.
    #[must_use]
    pub fn before(&self, boottime_ms: Option<u64>) -> Now {
        let boottime_ms =
            boottime_ms.map_or(self.boottime_ms, |at_ms| self.boottime_ms.min(at_ms.saturating_sub(1)));
        let wall_ms = self.wall_ms.saturating_sub_unsigned(self.boottime_ms - boottime_ms);
        Now { boottime_ms, wall_ms, ..*self }
    }

    /// The stamp for a record of boot number `boot`.
    pub fn stamp(&self, boot: u32) -> Stamp {
        Stamp { boot, boottime_ms: self.boottime_ms, wall_ms: self.wall_ms, clock: self.clock }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_moment_before_another_is_the_same_on_both_clocks() {
        let now = Now { boottime_ms: 5_000, wall_ms: 1_700_000_005_000, clock: ClockState::Synced };
        let before = |boottime_ms| {
            let before = now.before(boottime_ms);
            (before.boottime_ms, before.wall_ms)
        };
        assert_eq!(before(None), (5_000, 1_700_000_005_000));
        assert_eq!(before(Some(9_000)), (5_000, 1_700_000_005_000));
        assert_eq!(before(Some(5_000)), (4_999, 1_700_000_004_999));
        assert_eq!(before(Some(0)), (0, 1_700_000_000_000));
    }
}
