//! Check: what is written where the outboxes lie is still there after a power cut: no memory, no memory behind an overlay,
//! no mount that skips write barriers. Reads `/proc/self/mountinfo` (proc(5)).

use std::path::Path;

use serde_json::json;

use super::{Finding, Subject};

pub fn look(subject: &Subject) -> Finding {
    subject.with_config(|config| {
        let folder = config.outbox_dir();
        let there = folder.ancestors().find_map(|folder| folder.canonicalize().ok());
        let (Some(mounts), Some(there)) = (subject.read("/proc/self/mountinfo"), there) else {
            return Finding::skipped("the mounts of this machine cannot be read");
        };
        judge(&mounts, &there)
    })
}

/// One line of mountinfo.
#[derive(Debug)]
struct Mount<'a> {
    point: String,
    kind: &'a str,
    source: &'a str,
    options: Vec<&'a str>,
}

fn judge(mounts: &str, folder: &Path) -> Finding {
    let mounts: Vec<Mount<'_>> = mounts.lines().filter_map(parse).collect();
    let Some(mount) = mount_of(&mounts, folder) else {
        return Finding::skipped("no mount is known for the outboxes");
    };
    let evidence =
        json!({"mount": mount.point, "type": mount.kind, "source": mount.source, "options": mount.options});
    let shown = folder.display();
    let remedy = "set state_dir to a folder on the card or disk";
    let lost = "everything that was not sent yet is lost in a power cut, and green would be a lie";
    let finding = if is_memory(mount.kind) {
        Finding::error(format!("{shown} lies in memory ({})", mount.kind), lost, remedy)
    } else if mount.kind == "overlay" {
        let upper = mount.options.iter().find_map(|option| option.strip_prefix("upperdir="));
        match upper.and_then(|upper| mount_of(&mounts, Path::new(upper))) {
            Some(below) if is_memory(below.kind) => {
                let says = format!("{shown} lies on an overlay whose changes are kept in memory");
                Finding::error(says, lost, format!("switch the overlay off (raspi-config), or {remedy}"))
            }
            Some(below) if below.point != mount.point => {
                Finding::ok(format!("on an overlay that keeps its changes on {}", below.source))
            }
            _ => Finding::warning(
                format!("{shown} lies on an overlay, and it cannot be told where that keeps its changes"),
                "if it is memory, records are lost in a power cut",
                remedy,
            ),
        }
    } else if let Some(option) = mount.options.iter().find(|o| matches!(**o, "nobarrier" | "barrier=0")) {
        Finding::error(
            format!("{} is mounted with {option}", mount.point),
            lost,
            format!("take {option} out of /etc/fstab and restart"),
        )
    } else {
        Finding::ok(format!("on {} ({})", mount.source, mount.kind))
    };
    finding.with(evidence)
}

fn is_memory(kind: &str) -> bool {
    matches!(kind, "tmpfs" | "ramfs" | "devtmpfs")
}

/// The mount with the longest path above `folder`; of those at one place, the last one hides the others.
fn mount_of<'m, 'a>(mounts: &'m [Mount<'a>], folder: &Path) -> Option<&'m Mount<'a>> {
    mounts.iter().filter(|mount| folder.starts_with(&mount.point)).max_by_key(|mount| mount.point.len())
}

/// `36 35 98:0 /root /point rw,noatime master:1 - ext4 /dev/root rw,errors=continue`
fn parse(line: &str) -> Option<Mount<'_>> {
    let (front, back) = line.split_once(" - ")?;
    let mut front = front.split(' ').skip(4);
    let (point, own) = (front.next()?, front.next()?);
    let mut back = back.split(' ');
    let (kind, source, of_disk) = (back.next()?, back.next()?, back.next().unwrap_or_default());
    let options = own.split(',').chain(of_disk.split(',')).collect();
    Some(Mount { point: unescape(point), kind, source, options })
}

/// Spaces and their like are written as `\040`.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::State;

    const ROOT: &str = "25 1 179:2 / / rw,noatime shared:1 - ext4 /dev/mmcblk0p2 rw,errors=remount-ro\n30 25 0:24 / /run rw,nosuid shared:2 - tmpfs tmpfs rw,size=400000k\n";

    #[track_caller]
    fn check(more: &str, folder: &str, state: State, part: &str) {
        let finding = judge(&format!("{ROOT}{more}"), Path::new(folder));
        assert_eq!(finding.state, state, "{finding:?}");
        assert!(finding.says.contains(part), "{finding:?}");
    }

    #[test]
    fn only_what_survives_a_power_cut_is_right() {
        let state = "/var/lib/edge-agent/outbox";
        check("", state, State::Ok, "/dev/mmcblk0p2");
        check("", "/run/x", State::Error, "in memory");
        check("40 25 0:30 / /var/lib rw - tmpfs none rw\n", state, State::Error, "in memory");
        check("40 25 8:1 / /var/lib rw,nobarrier - ext4 /dev/sda1 rw\n", state, State::Error, "nobarrier");
        check("40 25 8:1 / /var/lib rw - ext4 /dev/sda1 rw,barrier=0\n", state, State::Error, "barrier=0");
        check("40 25 8:1 / /var/li rw - tmpfs none rw\n", state, State::Ok, "/dev/mmcblk0p2");
        let overlay = |upper: &str| {
            format!("40 25 0:40 / /var rw - overlay overlay rw,lowerdir=/l,upperdir={upper},workdir=/w\n")
        };
        check(&overlay("/run/upper"), state, State::Error, "kept in memory");
        check(&overlay("/home/upper"), state, State::Ok, "/dev/mmcblk0p2");
        check(&overlay("/var/upper"), state, State::Warning, "cannot be told");
        check(
            "40 25 8:1 / /var/lib/edge\\040agent rw - tmpfs none rw\n",
            "/var/lib/edge agent/x",
            State::Error,
            "memory",
        );
    }
}
