//! Check: journald takes what the agent logs.

use std::os::unix::net::UnixDatagram;

use serde_json::json;

use super::{Finding, Subject};

const SOCKET: &str = "/run/systemd/journal/socket";

pub fn look(subject: &Subject) -> Finding {
    if !subject.path("/run/systemd/system").exists() {
        return Finding::skipped("this machine is not run by systemd");
    }
    let reached = UnixDatagram::unbound().and_then(|socket| socket.connect(subject.path(SOCKET)));
    let evidence = json!({"socket": SOCKET, "error": reached.as_ref().err().map(ToString::to_string)});
    let finding = match reached {
        Ok(()) => Finding::ok("journald listens"),
        Err(error) => Finding::warning(
            format!("journald does not listen: {error}"),
            "taps are recorded all the same; what goes wrong is not written down",
            "systemctl start systemd-journald.socket systemd-journald.service",
        ),
    };
    finding.with(evidence)
}
