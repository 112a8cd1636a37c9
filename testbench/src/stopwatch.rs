//! The one place in this crate that reads clocks; it doesn't know what is being timed.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// Monotonic time since it was started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stopwatch(Instant);

impl Stopwatch {
    #[expect(clippy::disallowed_methods, reason = "this module owns the monotonic clock of the crate")]
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn elapsed(self) -> Duration {
        self.0.elapsed()
    }

    pub(crate) fn elapsed_ms(self) -> u64 {
        u64::try_from(self.elapsed().as_millis()).expect("a run is shorter than 500 million years")
    }
}

/// The wall clock, milliseconds since 1970-01-01 UTC.
pub(crate) fn utc_ms() -> i64 {
    let now = clock_gettime(ClockId::Realtime);
    now.tv_sec * 1_000 + now.tv_nsec / 1_000_000
}

/// Microseconds on `CLOCK_BOOTTIME`: one scale for every process on this machine, edge-agent's included.
pub(crate) fn boottime_us() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let since_boot = Duration::new(
        u64::try_from(now.tv_sec).expect("time since boot isn't negative"),
        u32::try_from(now.tv_nsec).expect("nanoseconds are below a second"),
    );
    u64::try_from(since_boot.as_micros()).expect("time since boot fits")
}
