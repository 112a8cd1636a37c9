//! Whether commits below a folder are durable at all, from the kernel's table of mounts. Pure: knows the table's text.
//!
//! A file system in memory takes every sync and forgets everything; one without barriers lets the disk reorder what a
//! sync promised. Green would be a lie on both.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// How many overlays may lie on one another: more than the kernel allows.
const MAX_DEPTH: u8 = 8;

/// Why commits below `folder` are not durable, if they are not. `folder` is absolute and without links; `table` is
/// `/proc/self/mountinfo`.
pub fn why_not_durable(table: &str, folder: &Path) -> Option<String> {
    let mounts: Vec<Mount> = table.lines().filter_map(Mount::parse).collect();
    judge(&mounts, folder, 0)
}

fn judge(mounts: &[Mount], folder: &Path, depth: u8) -> Option<String> {
    // The longest prefix, and of those the last: it was mounted over the others.
    let mount = mounts
        .iter()
        .filter(|mount| folder.starts_with(&mount.at))
        .max_by_key(|mount| mount.at.components().count())?;
    let at = mount.at.display();
    let options = || mount.options.iter().map(String::as_str);
    match mount.kind.as_str() {
        "tmpfs" | "ramfs" | "devtmpfs" => {
            return Some(format!("{at} is a {}: it is in memory, and gone with the power", mount.kind));
        }
        "overlay" if depth < MAX_DEPTH => {
            let upper = options().find_map(|option| option.strip_prefix("upperdir="));
            match upper {
                Some(upper) => {
                    let upper = PathBuf::from(unescape(upper));
                    if let Some(why) = judge(mounts, &upper, depth + 1) {
                        return Some(format!(
                            "what is written to the overlay {at} goes to {}: {why}",
                            upper.display()
                        ));
                    }
                }
                None => return Some(format!("the overlay {at} has no place to write to")),
            }
            if options().any(|option| option == "volatile") {
                return Some(format!("the overlay {at} is mounted with volatile: it ignores every sync"));
            }
        }
        _ => {}
    }
    let careless = options().find(|option| matches!(*option, "nobarrier" | "barrier=0" | "barrier=none"))?;
    Some(format!("{at} is mounted with {careless}: a sync does not reach the disk in order"))
}

#[derive(Debug)]
struct Mount {
    at: PathBuf,
    kind: String,
    options: Vec<String>,
}

impl Mount {
    /// `36 35 98:0 /root /mount/point options optional… - type source super-options`
    fn parse(line: &str) -> Option<Mount> {
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ');
        let (at, own) = (left.nth(4)?, left.next()?);
        let mut right = right.split(' ');
        let (kind, of_super) = (right.next()?, right.nth(1).unwrap_or_default());
        Some(Mount {
            at: PathBuf::from(unescape(at)),
            kind: kind.to_owned(),
            options: own.split(',').chain(of_super.split(',')).map(str::to_owned).collect(),
        })
    }
}

/// `\040` is a space: the kernel writes space, tab, newline, backslash and comma as three octal digits.
fn unescape(text: &str) -> OsString {
    let bytes = Path::new(text).as_os_str().as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while let Some(byte) = bytes.get(at) {
        let digits =
            bytes.get(at + 1..at + 4).filter(|digits| digits.iter().all(|d| (b'0'..=b'7').contains(d)));
        match (byte, digits) {
            (b'\\', Some(digits)) => {
                let value = digits.iter().fold(0u16, |value, digit| value << 3 | u16::from(digit - b'0'));
                out.push(value as u8);
                at += 4;
            }
            _ => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    OsString::from_vec(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
22 1 179:2 / / rw,relatime shared:1 - ext4 /dev/mmcblk0p2 rw,errors=remount-ro
23 22 0:21 / /run rw,nosuid shared:5 - tmpfs tmpfs rw,size=1024k
24 22 0:30 / /var/lib rw,relatime - overlay overlay rw,lowerdir=/lower,upperdir=/run/upper,workdir=/run/work
25 22 0:31 / /srv rw,relatime - overlay overlay rw,lowerdir=/lower,upperdir=/data/up\\040per,workdir=/data/work
26 22 8:1 / /data rw,relatime master:1 propagate_from:2 - ext4 /dev/sda1 rw
27 22 8:2 / /fast rw,relatime - ext4 /dev/sdb1 rw,nobarrier
28 22 8:3 / /old rw - ext3 /dev/sdc1 rw,barrier=0
29 22 8:1 /var/edge /mnt/my\\040disk\\054two rw,relatime - ext4 /dev/sda1 rw
30 22 0:40 / /over rw - tmpfs tmpfs rw
31 30 8:4 / /over rw - ext4 /dev/sdd1 rw
32 22 0:41 / /volatile rw - overlay overlay rw,upperdir=/data/u,workdir=/data/w,volatile
garbage";

    #[track_caller]
    fn check(folder: &str, expected: Option<&str>) {
        assert_eq!(why_not_durable(TABLE, Path::new(folder)).as_deref(), expected, "{folder}");
    }

    #[test]
    fn a_real_disk_is_fine() {
        check("/home/pi", None);
        check("/data/state", None);
        check("/srv/state", None);
        check("/runner", None);
        check("/mnt/my disk,two/state", None);
        check("/over/state", None);
    }

    #[test]
    fn memory_is_refused_by_name() {
        check("/run/edge-agent", Some("/run is a tmpfs: it is in memory, and gone with the power"));
        check(
            "/var/lib/edge-agent/outbox",
            Some(
                "what is written to the overlay /var/lib goes to /run/upper: /run is a tmpfs: it is in memory, and gone with the power",
            ),
        );
    }

    #[test]
    fn a_sync_that_is_ignored_is_refused_by_name() {
        check("/fast/x", Some("/fast is mounted with nobarrier: a sync does not reach the disk in order"));
        check("/old/x", Some("/old is mounted with barrier=0: a sync does not reach the disk in order"));
        check("/volatile/x", Some("the overlay /volatile is mounted with volatile: it ignores every sync"));
    }
}
