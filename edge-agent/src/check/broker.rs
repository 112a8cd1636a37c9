//! Check: the broker can be reached, speaks TLS as configured, and accepts this controller.

use serde_json::json;

use super::{Agent, Finding, Subject};
use crate::known_time::KnownTime;
use crate::probe::{Greeting, reach};

pub fn look(subject: &Subject) -> Finding {
    subject.with_config(|config| {
        // A second session under the agent's name would push its own out, so its own session is asked.
        let greeting = match &subject.agent {
            Agent::Stopped => Greeting::AsController(&config.controller),
            _ => Greeting::None,
        };
        let steps = reach(&config.broker, greeting, &KnownTime::to_look_with(&config.state_dir));
        let evidence = json!({"address": config.broker.url.to_string(), "steps": steps});
        if let Some(problem) = steps.iter().find_map(|step| step.problem.as_ref()) {
            let finding = Finding::error(
                problem.what.clone(),
                "taps are recorded and kept, and nothing is sent",
                problem.remedy.clone(),
            );
            return finding.with(evidence);
        }
        let finding = match &subject.agent {
            Agent::Running(status) if !status.broker.connected => Finding::error(
                format!(
                    "the broker can be reached, but the agent has no session: {}",
                    status.broker.why.as_deref().unwrap_or("no reason is known")
                ),
                "taps are recorded and kept, and nothing is sent",
                "see the broker's log; does its ACL know this controller?",
            ),
            Agent::Running(_) => Finding::ok(format!("the agent has a session at {}", config.broker.url)),
            Agent::Stopped => Finding::ok(format!("{} accepts this controller", config.broker.url)),
            Agent::Unknown(why) => Finding::ok(format!(
                "{} can be reached; whether it accepts us was not tried ({why})",
                config.broker.url
            )),
        };
        finding.with(evidence)
    })
}
