//! Check: there is room where the outboxes lie.

use serde_json::json;

use super::{Finding, Subject};

/// Below this the outbox may soon refuse taps: a door writes less in a year, but logs and updates share the disk.
const LOW_BYTES: u64 = 256 << 20;

/// Below this it is a matter of days.
const TOO_LOW_BYTES: u64 = 32 << 20;

pub fn look(subject: &Subject) -> Finding {
    subject.with_config(|config| {
        // Before the first start only a folder above is there.
        let folder = config.outbox_dir();
        let Some(folder) = folder.ancestors().find(|folder| folder.is_dir()) else {
            return Finding::skipped("no folder of the outboxes is there yet");
        };
        match rustix::fs::statvfs(folder) {
            Ok(disk) => judge(disk.f_bavail * disk.f_frsize, disk.f_favail, disk.f_files > 0)
                .with(json!({"folder": folder, "free_bytes": disk.f_bavail * disk.f_frsize, "free_files": disk.f_favail})),
            Err(error) => Finding::error(
                format!("{} cannot be asked: {error}", folder.display()),
                "it cannot be told whether taps can be recorded",
                "look at `dmesg` for what the disk complains of",
            ),
        }
    })
}

fn judge(free_bytes: u64, free_files: u64, counts_files: bool) -> Finding {
    let says = format!("{} MB are free", free_bytes / 1_000_000);
    let remedy = "find what is large with `du -xh / | sort -h | tail`; old packages go with `apt-get clean`, old logs with `journalctl --vacuum-size=50M`";
    if free_bytes < TOO_LOW_BYTES {
        Finding::error(says, "the outbox soon has to refuse taps", remedy)
    } else if counts_files && free_files < 100 {
        Finding::error(
            format!("{says}, but only {free_files} files can still be made"),
            "a new outbox cannot be started",
            remedy,
        )
    } else if free_bytes < LOW_BYTES {
        Finding::warning(says, "taps are recorded, but the disk fills up", remedy)
    } else {
        Finding::ok(says)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::State;

    #[test]
    fn less_room_is_worse() {
        let state = |free, files| judge(free, files, true).state;
        assert_eq!(state(LOW_BYTES, 1_000), State::Ok);
        assert_eq!(state(LOW_BYTES - 1, 1_000), State::Warning);
        assert_eq!(state(TOO_LOW_BYTES - 1, 1_000), State::Error);
        assert_eq!(state(LOW_BYTES, 99), State::Error);
        assert_eq!(judge(LOW_BYTES, 0, false).state, State::Ok, "btrfs counts no files");
    }
}
