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
    /// The stamp for a record of boot number `boot`.
    pub fn stamp(&self, boot: u32) -> Stamp {
        Stamp { boot, boottime_ms: self.boottime_ms, wall_ms: self.wall_ms, clock: self.clock }
    }
}
