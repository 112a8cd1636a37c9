//! Check: a hello to the cloud comes back as a receipt. Only a running agent can say hello.

use serde_json::json;

use super::{Agent, Finding, Subject};
use crate::control::{Request, Response, question_blocking};

/// A clock that is further off than this falsifies the order of taps across doors until it is repaired.
const FAR_OFF_MS: i64 = 60_000;

pub fn look(subject: &Subject) -> Finding {
    subject.with_config(|config| {
        match &subject.agent {
            Agent::Running(_) => {}
            Agent::Stopped => return Finding::skipped("the agent is not running, so it cannot say hello"),
            Agent::Unknown(why) => return Finding::skipped(why.clone()),
        }
        let meaning = "taps are recorded and kept until the cloud confirms them";
        match question_blocking(&config.control_socket(), &Request::RoundTrip) {
            Ok(Response::RoundTrip(trip)) => {
                let evidence = json!(trip);
                let says = format!("the cloud's receipt came after {} ms", trip.took_ms);
                let finding = if trip.clock_ahead_ms.abs() > FAR_OFF_MS {
                    Finding::warning(
                        format!(
                            "{says}, and this machine's clock differs from the cloud's by {} s",
                            trip.clock_ahead_ms / 1000
                        ),
                        "times are repaired by the cloud; what this machine shows is wrong",
                        "see `timedatectl`: which time server is used, and does it answer?",
                    )
                } else {
                    Finding::ok(says)
                };
                finding.with(evidence)
            }
            Ok(Response::Refused { why }) => {
                Finding::error(why, meaning, "edge-agent test-connection shows step by step how far it gets")
            }
            Ok(_) => {
                Finding::error("the agent answered something else", meaning, "systemctl restart edge-agent")
            }
            Err(error) => Finding::error(
                format!("the agent does not answer: {error}"),
                meaning,
                "systemctl restart edge-agent",
            ),
        }
    })
}
