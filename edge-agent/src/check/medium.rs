//! Check: what is written where the outboxes lie is still there after a power cut: no memory, no memory behind an overlay,
//! no mount that skips write barriers. Judges as the agent itself does when it starts.

use std::path::Path;

use serde_json::json;

use super::{Finding, Subject};
use crate::outbox::mounts::why_not_durable;

pub fn look(subject: &Subject) -> Finding {
    subject.with_config(|config| {
        let folder = config.outbox_dir();
        let there = folder.ancestors().find_map(|folder| folder.canonicalize().ok());
        let (Some(mounts), Some(there)) = (subject.read("/proc/self/mountinfo"), there) else {
            return Finding::skipped("the mounts of this machine cannot be read");
        };
        judge(&mounts, &there, config.outbox.allow_volatile)
    })
}

fn judge(mounts: &str, folder: &Path, allowed: bool) -> Finding {
    let finding = match (why_not_durable(mounts, folder), allowed) {
        (None, _) => Finding::ok(format!("{} keeps what is written to it", folder.display())),
        (Some(why), false) => Finding::error(
            why,
            "what was not sent yet would be lost in a power cut, so the agent records nothing here",
            "set state_dir to a folder on the card or disk, mounted with barriers",
        ),
        (Some(why), true) => Finding::warning(
            why,
            "what was not sent yet is lost in a power cut, and outbox.allow_volatile lets the agent record all the same",
            "set state_dir to a folder on the card or disk, and take allow_volatile out",
        ),
    };
    finding.with(json!({"folder": folder}))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::State;

    const MOUNTS: &str =
        "25 1 179:2 / / rw - ext4 /dev/mmcblk0p2 rw\n30 25 0:24 / /run rw,nosuid shared:2 - tmpfs tmpfs rw\n";

    #[test]
    fn a_folder_in_memory_is_an_error_unless_it_is_allowed() {
        let state = |folder: &str, allowed| judge(MOUNTS, Path::new(folder), allowed).state;
        assert_eq!(state("/var/lib/edge-agent/outbox", false), State::Ok);
        assert_eq!(state("/run/outbox", false), State::Error);
        assert_eq!(state("/run/outbox", true), State::Warning);
    }
}
