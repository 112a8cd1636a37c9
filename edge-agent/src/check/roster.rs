//! Check: the list of badges is fresh enough to tell a stranger's from a new one. A tap is recorded in any case; what
//! suffers is the light. Only a running agent knows the time well enough to say.

use serde_json::json;

use super::{Agent, Finding, Subject};
use crate::status::{RosterStatus, Status};

pub fn look(subject: &Subject) -> Finding {
    match &subject.agent {
        Agent::Running(status) => judge(status),
        Agent::Stopped => Finding::skipped("the agent is not running, so nobody looks badges up"),
        Agent::Unknown(why) => Finding::skipped(why.clone()),
    }
}

fn judge(status: &Status) -> Finding {
    let Some(roster) = &status.roster else {
        return Finding::skipped(
            "there is no roster here: every badge gets the green light, and is recorded",
        );
    };
    let RosterStatus { version, badges, revoked, .. } = roster;
    let days = roster.age_ms / 86_400_000;
    let finding = if roster.stale {
        Finding::warning(
            format!("the cloud last confirmed the roster {days} days ago"),
            "a badge that was revoked since then still gets the green light, and so does one that nobody knows; all are \
             recorded",
            "the cloud confirms it every day over the broker: the checks broker and round_trip say what is in the way",
        )
    } else {
        Finding::ok(format!("{badges} badges are on the roster, {revoked} of them revoked"))
    };
    finding.with(json!({"version": version, "badges": badges, "revoked": revoked, "age_ms": roster.age_ms}))
}

#[cfg(test)]
mod tests {
    use serde_json::from_value;

    use super::*;
    use crate::check::State;

    fn status(roster: Option<RosterStatus>) -> Status {
        let status = json!({
            "controller": "hq-door-1", "version": "1", "instance": "1", "uptime_ms": 1, "boot_id": "0".repeat(32),
            "clock": "synced", "outboxes": [], "pending": 0, "oldest_unreceipted_age_ms": null, "readers": [],
            "broker": {"connected": true, "address": "", "why": null, "sessions": 1, "last_receipt_age_ms": null},
            "roster": roster, "counters": crate::status::Counters::default(), "problems": [],
        });
        from_value(status).unwrap()
    }

    #[test]
    fn a_stale_roster_is_worth_a_warning_and_none_is_not() {
        let fresh = RosterStatus {
            version: 7,
            badges: 3,
            revoked: 1,
            age_ms: 9 * 86_400_000,
            expires_utc_ms: 0,
            stale: false,
        };
        assert_eq!(judge(&status(Some(fresh.clone()))).state, State::Ok);
        let stale = judge(&status(Some(RosterStatus { stale: true, ..fresh })));
        assert_eq!(
            (stale.state, stale.says.as_str()),
            (State::Warning, "the cloud last confirmed the roster 9 days ago")
        );
        assert_eq!(judge(&status(None)).state, State::Skipped);
    }
}
