//! The only place that reads a clock. Everything else takes `now`.
//!
//! CLOCK_BOOTTIME counts on through suspend and is never stepped: debounce, backoff and every wait use it. The wall
//! clock is written down as seen and trusted only as far as the kernel vouches for it.

use std::time::{Duration, SystemTime};

use tap_protocol::ids::BootId;
use tap_protocol::record::ClockState;

use crate::clock_witness;
use crate::now::Now;

/// Reads all clocks at one moment.
pub fn read() -> Now {
    let (boottime_ms, wall_ms) = (boottime_ms(), wall_ms());
    Now { boottime_ms, wall_ms, clock: kernels_word().unwrap_or_else(|| witness(boottime_ms, wall_ms)) }
}

/// The same by the kernel's word alone, for whoever is the witness.
pub fn read_to_witness() -> Now {
    let (boottime_ms, wall_ms) = (boottime_ms(), wall_ms());
    Now { boottime_ms, wall_ms, clock: kernels_word().unwrap_or(ClockState::Unsynced) }
}

/// CLOCK_BOOTTIME, milliseconds.
pub fn boottime_ms() -> u64 {
    boottime_us() / 1000
}

/// CLOCK_BOOTTIME, microseconds: for measuring how long a tap took.
pub fn boottime_us() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let since_boot = Duration::try_from(time).expect("CLOCK_BOOTTIME is never negative");
    u64::try_from(since_boot.as_micros()).expect("a boot lasts less than half a million years")
}

/// Through libc, as [`kernels_word`], so that the two can be shown a wrong clock together (`testbench`'s clock shim).
#[expect(clippy::disallowed_methods, reason = "this module owns the wall clock")]
fn wall_ms() -> i64 {
    let ms = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
    match SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => ms(since),
        Err(before) => -ms(before.duration()),
    }
}

/// What `adjtimex(2)` says; `None` where this process may not ask.
fn kernels_word() -> Option<ClockState> {
    const STA_UNSYNC: i32 = 0x0040;
    let mut query = rtime_clock::adjtime::Timex::new();
    rtime_clock::adjtime::adjtimex(&mut query).ok()?;
    Some(if query.0.status & STA_UNSYNC == 0 { ClockState::Synced } else { ClockState::Unsynced })
}

/// What a process saw that may ask. Nobody's word is no word: the clock counts as not vouched for.
fn witness(boottime_ms: u64, wall_ms: i64) -> ClockState {
    let seen = std::fs::read_to_string(clock_witness::SEEN_FILE).ok();
    let seen = seen.and_then(|line| clock_witness::read(&line));
    clock_witness::judge(seen.as_ref(), boottime_ms, wall_ms)
}

/// The kernel's random id of this boot. In a sandbox that hides it (`ProcSubset=pid`), the service manager's word for it.
#[expect(clippy::disallowed_methods, reason = "BOOT_ID is the unit's, not configuration of ours")]
pub fn boot_id() -> std::io::Result<BootId> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .or_else(|error| std::env::var("BOOT_ID").map_err(|_| error))?;
    text.trim().replace('-', "").parse().map_err(std::io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clocks_can_be_read() {
        let (first, second) = (read(), read());
        assert!(second.boottime_ms >= first.boottime_ms);
        assert!(first.wall_ms > 0);
        assert_eq!(boot_id().unwrap(), boot_id().unwrap());
    }
}
