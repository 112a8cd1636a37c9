//! Beside the line: what another process saw of the kernel's clock, and whether it still holds. Pure.
//!
//! Asking the kernel whether it vouches for the wall clock is the same system call as setting it. So the agent's unit shuts that
//! call off, and a process of its own, which talks to nobody, asks once a second and writes down what it saw. It holds for a
//! few seconds, and not at all if the wall clock was set since: then the two clocks are further apart than they were.

use tap_protocol::record::ClockState;

use crate::now::Now;

/// Where it is written, by edge-agent-clock.service.
pub const SEEN_FILE: &str = "/run/edge-agent-clock/seen";

/// So often it is asked …
pub const EVERY_MS: u64 = 1_000;

/// … and for so long it holds: one turn may come late.
const HOLDS_MS: u64 = 3_000;

/// Clocks that are disciplined drift apart by 2 ms in that time at most. Whoever sets a clock by less than this does no harm.
const DRIFT_MS: i64 = 50;

/// What was seen, as a line of text.
pub fn line(seen: &Now) -> String {
    let vouched = if seen.clock == ClockState::Synced { "synced" } else { "unsynced" };
    format!("{vouched} {} {}\n", seen.boottime_ms, seen.wall_ms)
}

/// What a line says, if it is one.
pub fn read(line: &str) -> Option<Now> {
    let mut words = line.strip_suffix('\n')?.split(' ');
    let clock = match words.next()? {
        "synced" => ClockState::Synced,
        "unsynced" => ClockState::Unsynced,
        _ => return None,
    };
    let seen = Now { boottime_ms: words.next()?.parse().ok()?, wall_ms: words.next()?.parse().ok()?, clock };
    words.next().is_none().then_some(seen)
}

/// Whether the kernel vouches for `wall_ms` at `boottime_ms`, by what was seen before. In doubt, it does not.
pub fn judge(seen: Option<&Now>, boottime_ms: u64, wall_ms: i64) -> ClockState {
    let holds = seen.is_some_and(|seen| {
        let Some(passed_ms) = boottime_ms.checked_sub(seen.boottime_ms) else { return false };
        let expected_ms = seen.wall_ms.saturating_add_unsigned(passed_ms);
        seen.clock == ClockState::Synced
            && passed_ms <= HOLDS_MS
            && wall_ms.saturating_sub(expected_ms).saturating_abs() <= DRIFT_MS
    });
    if holds { ClockState::Synced } else { ClockState::Unsynced }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WALL_MS: i64 = 1_790_000_000_000;

    fn seen(clock: ClockState) -> Now {
        Now { boottime_ms: 60_000, wall_ms: WALL_MS, clock }
    }

    #[track_caller]
    fn check(boottime_ms: u64, wall_ms: i64, expect: ClockState) {
        assert_eq!(judge(Some(&seen(ClockState::Synced)), boottime_ms, wall_ms), expect);
        let unsure = [Some(seen(ClockState::Unsynced)), Some(seen(ClockState::Stepped)), None];
        for seen in unsure {
            assert_eq!(judge(seen.as_ref(), boottime_ms, wall_ms), ClockState::Unsynced, "{seen:?}");
        }
    }

    #[test]
    fn what_was_seen_holds_for_seconds_and_not_over_a_clock_that_was_set() {
        check(60_000, WALL_MS, ClockState::Synced);
        check(63_000, WALL_MS + 3_000, ClockState::Synced);
        check(63_001, WALL_MS + 3_001, ClockState::Unsynced);
        check(61_000, WALL_MS + 1_050, ClockState::Synced);
        check(61_000, WALL_MS + 950, ClockState::Synced);
        check(61_000, WALL_MS + 1_051, ClockState::Unsynced);
        check(61_000, WALL_MS + 949, ClockState::Unsynced);
        check(61_000, 0, ClockState::Unsynced);
        check(61_000, i64::MIN, ClockState::Unsynced);
        // What was seen in another boot.
        check(59_999, WALL_MS, ClockState::Unsynced);
    }

    #[test]
    fn a_line_is_what_was_seen_and_anything_else_is_none() {
        for clock in [ClockState::Synced, ClockState::Unsynced] {
            assert_eq!(read(&line(&seen(clock))), Some(seen(clock)));
        }
        assert_eq!(read(&line(&seen(ClockState::Stepped))), Some(seen(ClockState::Unsynced)));
        for bad in ["", "\n", "synced 1 2", "synced 1\n", "synced 1 2 3\n", "maybe 1 2\n", "synced -1 2\n"] {
            assert_eq!(read(bad), None, "{bad:?}");
        }
    }
}
