//! Check: somebody vouches for the clock. A tap is recorded in any case; what suffers is how soon its time is known.

use serde_json::json;
use tap_protocol::record::ClockState;

use super::{Agent, Finding, Subject};
use crate::clock;

/// 2026-01-01: no clock that is right shows less.
const NOT_BEFORE_MS: i64 = 1_767_225_600_000;

pub fn look(subject: &Subject) -> Finding {
    let now = clock::read();
    let has_rtc = subject.path("/sys/class/rtc/rtc0").exists();
    let agent = match &subject.agent {
        Agent::Running(status) => Some(status.clock),
        Agent::Stopped | Agent::Unknown(_) => None,
    };
    judge(now.clock, now.wall_ms, agent)
        .with(json!({"kernel": now.clock.name(), "wall_ms": now.wall_ms, "battery_clock": has_rtc}))
}

/// `agent` is what the running agent goes by: in its sandbox it may have to take a witness's word.
fn judge(clock: ClockState, wall_ms: i64, agent: Option<ClockState>) -> Finding {
    let meaning = "taps are recorded, and their time is repaired as soon as it is known; until then the cloud holds them back";
    let remedy = "timedatectl shows whether a time server is configured; chrony or systemd-timesyncd must run and reach it (UDP 123)";
    match clock {
        ClockState::Synced if wall_ms < NOT_BEFORE_MS => Finding::error(
            "the kernel vouches for a clock that is years behind",
            meaning,
            "something sets the clock wrongly: see `timedatectl` and `chronyc sources`",
        ),
        ClockState::Synced if agent.is_some_and(|agent| agent != ClockState::Synced) => Finding::warning(
            "the kernel vouches for the clock, and the agent does not know it",
            meaning,
            "systemctl enable --now edge-agent-clock: it asks the kernel for the agent, whose sandbox may not",
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
        for agent in [None, Some(ClockState::Synced)] {
            assert_eq!(judge(ClockState::Synced, NOT_BEFORE_MS, agent).state, State::Ok);
            assert_eq!(judge(ClockState::Synced, 0, agent).state, State::Error);
            assert_eq!(judge(ClockState::Unsynced, NOT_BEFORE_MS, agent).state, State::Warning);
        }
    }

    #[test]
    fn an_agent_without_its_witness_is_noticed() {
        for agent in [ClockState::Unsynced, ClockState::Stepped] {
            let finding = judge(ClockState::Synced, NOT_BEFORE_MS, Some(agent));
            assert_eq!(finding.state, State::Warning);
            assert!(finding.remedy.unwrap().contains("edge-agent-clock"), "it names the service");
        }
    }
}
