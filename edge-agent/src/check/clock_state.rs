//! Check: somebody vouches for the clock. A tap is recorded in any case; what suffers is how soon its time is known.

use serde_json::json;
use tap_protocol::record::ClockState;

use super::{Finding, Subject};
use crate::clock;

/// 2026-01-01: no clock that is right shows less.
const NOT_BEFORE_MS: i64 = 1_767_225_600_000;

pub fn look(subject: &Subject) -> Finding {
    let now = clock::read();
    let has_rtc = subject.path("/sys/class/rtc/rtc0").exists();
    judge(now.clock, now.wall_ms)
        .with(json!({"kernel": now.clock.name(), "wall_ms": now.wall_ms, "battery_clock": has_rtc}))
}

fn judge(clock: ClockState, wall_ms: i64) -> Finding {
    let meaning = "taps are recorded, and their time is repaired as soon as it is known; until then the cloud holds them back";
    let remedy = "timedatectl shows whether a time server is configured; chrony or systemd-timesyncd must run and reach it (UDP 123)";
    match clock {
        ClockState::Synced if wall_ms < NOT_BEFORE_MS => Finding::error(
            "the kernel vouches for a clock that is years behind",
            meaning,
            "something sets the clock wrongly: see `timedatectl` and `chronyc sources`",
        ),
        ClockState::Synced => Finding::ok("the kernel vouches for the clock"),
        _ => Finding::warning("the kernel does not vouch for the clock", meaning, remedy),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::State;

    #[test]
    fn a_clock_must_be_vouched_for_and_credible() {
        assert_eq!(judge(ClockState::Synced, NOT_BEFORE_MS).state, State::Ok);
        assert_eq!(judge(ClockState::Synced, 0).state, State::Error);
        assert_eq!(judge(ClockState::Unsynced, NOT_BEFORE_MS).state, State::Warning);
    }
}
