//! Check: the configuration can be read, and the running agent has read it.

use serde_json::json;

use super::{Agent, Finding, Subject};
use crate::clock;

pub fn look(subject: &Subject) -> Finding {
    let file = subject.config_file.display();
    if let Err(why) = &subject.config {
        return Finding::error(
            why.clone(),
            "the agent does not start with it",
            "correct it; `edge-agent config list --doc` explains every key",
        )
        .with(json!({"file": file.to_string()}));
    }
    let newest_s = newest_change_s(subject);
    let evidence = json!({"file": file.to_string(), "changed_unix_s": newest_s});
    if let (Agent::Running(status), Some(changed_s)) = (&subject.agent, newest_s) {
        let started_s = (clock::read().wall_ms - i64::try_from(status.uptime_ms).unwrap_or(i64::MAX)) / 1000;
        if changed_s > started_s {
            return Finding::warning(
                format!("{file} is right, and was changed after the agent was started"),
                "the agent still does what the file said before",
                "systemctl restart edge-agent",
            )
            .with(evidence);
        }
    }
    Finding::ok(format!("{file} is right")).with(evidence)
}

/// Of the file and the drop-ins beside it.
fn newest_change_s(subject: &Subject) -> Option<i64> {
    use std::os::unix::fs::MetadataExt;
    let layers = crate::config::layers(&subject.config_file).ok()?;
    layers.files().filter_map(|file| file.metadata().ok()).map(|file| file.mtime()).max()
}
