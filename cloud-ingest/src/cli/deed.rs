//! Beside the line: who types a command, for the log of what was decided.

use std::os::unix::fs::MetadataExt;

use crate::event_store::{Deed, UtcMs};

/// A reason, as given.
pub struct Why(pub String);

/// What is about to be done by whoever types.
pub fn deed(at: UtcMs, what: &str, about: &str, why: Why) -> Deed {
    Deed { at, who: who(), what: what.to_owned(), about: about.to_owned(), why: why.0 }
}

/// Who logged in, also through sudo; who the process is where nobody did.
pub fn who() -> String {
    let logged_in = std::fs::read_to_string("/proc/self/loginuid").ok();
    let logged_in = logged_in.and_then(|text| text.trim().parse().ok()).filter(|uid| *uid != u32::MAX);
    let process = || std::fs::metadata("/proc/self").map(|of| of.uid()).ok();
    match logged_in.or_else(process) {
        Some(uid) => name_of(uid).unwrap_or_else(|| format!("uid {uid}")),
        None => "unknown".into(),
    }
}

fn name_of(uid: u32) -> Option<String> {
    let passwd = std::fs::read_to_string("/etc/passwd").ok()?;
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}
