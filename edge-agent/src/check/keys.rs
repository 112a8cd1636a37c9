//! Check: the key files are there, hold keys, and can be read by the agent and by nobody else. Shows no key.

use std::os::unix::fs::MetadataExt;

use serde_json::json;

use super::{Finding, Subject};
use crate::agent::with_causes;
use crate::identity::{Identity, KeyError};

pub fn look(subject: &Subject) -> Finding {
    subject.with_config(|config| {
        let keys = &config.keys;
        let files = [&keys.record_key_file, &keys.token_key_file, &keys.receipt_public_key_file];
        let facts = files.map(|file| match file.metadata() {
            Ok(meta) => {
                json!({"file": file, "mode": format!("{:o}", meta.mode() & 0o7777), "uid": meta.uid()})
            }
            Err(error) => json!({"file": file, "error": error.to_string()}),
        });
        let evidence = json!({"files": facts});
        if let Err(error) = Identity::load(keys) {
            let remedy = match &error {
                KeyError::Read { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
                    "run this as root (sudo) or as the user edge-agent"
                }
                KeyError::TooOpen { .. } => "do that, then `systemctl restart edge-agent`",
                _ if config.enrolment.is_some() => "enrol again: a new token, then `edge-agent enroll`",
                _ => "make a record key with `edge-agent keys create`; copy token.key and receipt.pub from the cloud",
            };
            let meaning = "without its keys the agent does not start";
            return Finding::error(with_causes(&error), meaning, remedy).with(evidence);
        }
        // Who owns the outboxes is who the agent runs as.
        let agent_uid = config.state_dir.metadata().map(|folder| folder.uid());
        let of_others = files.iter().filter(|file| {
            let owner = file.metadata().map(|file| (file.uid(), file.mode()));
            matches!((&owner, &agent_uid), (Ok((owner, mode)), Ok(agent)) if owner != agent && mode & 0o044 == 0 && *agent != 0)
        });
        let unreadable: Vec<_> = of_others.map(|file| file.display().to_string()).collect();
        if !unreadable.is_empty() {
            let names = unreadable.join(" ");
            return Finding::error(
                format!("{names} can be read by you, but not by the agent's user"),
                "the agent does not start with them",
                format!("chown edge-agent: {names}"),
            )
            .with(evidence);
        }
        Finding::ok("all three are there, and the secret ones are readable by their owner alone").with(evidence)
    })
}
