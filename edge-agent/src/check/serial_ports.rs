//! Check: every configured serial port can be opened. A running agent holds them, so there its word counts.

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde_json::json;
use tap_protocol::hello::ReaderState;

use super::{Agent, Finding, Subject};

pub fn look(subject: &Subject) -> Finding {
    subject.with_config(|config| {
        let ports: Vec<_> = config
            .readers
            .iter()
            .filter_map(|reader| Some((&reader.name, &reader.serial.as_ref()?.port)))
            .collect();
        if ports.is_empty() {
            return Finding::skipped("no serial reader is configured");
        }
        let by_id: Vec<_> = subject.entries("/dev/serial/by-id");
        let findings = ports.iter().map(|(name, port)| match &subject.agent {
            Agent::Running(status) => {
                let reader = status.readers.iter().find(|reader| reader.reader == **name);
                match reader {
                    Some(reader) if reader.state == ReaderState::Up => Finding::ok("open"),
                    reader => Finding::error(
                        format!(
                            "the reader {name} does not work: {}",
                            reader.map_or("unknown", |r| &r.detail)
                        ),
                        "nobody can tap there",
                        "does `ls /dev/serial/by-id` show its adapter? Replug it",
                    ),
                }
            }
            Agent::Unknown(why) => Finding::skipped(format!("an agent may hold the ports ({why})")),
            Agent::Stopped => open(&port.display().to_string()),
        });
        let findings: Vec<Finding> = findings.collect();
        let evidence =
            json!({"ports": ports.iter().map(|(_, port)| port).collect::<Vec<_>>(), "by_id": by_id});
        let unstable =
            ports.iter().find(|(_, port)| port.starts_with("/dev/ttyUSB") || port.starts_with("/dev/ttyACM"));
        let fine = match unstable {
            Some((_, port)) => Finding::warning(
                format!("{} is the name of whatever is plugged in first", port.display()),
                "after a restart another adapter may be called so",
                format!("set the port to its name below /dev/serial/by-id: {}", list(&by_id)),
            ),
            None => Finding::ok("every serial port can be used"),
        };
        let works = findings.iter().all(|finding| finding.says == "open");
        if works { fine.with(evidence) } else { Finding::worst(findings, fine).with(evidence) }
    })
}

fn open(port: &str) -> Finding {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let nobody = "nobody can tap there";
    match rustix::fs::open(port, flags, Mode::empty()) {
        Ok(_) => Finding::ok("open"),
        Err(Errno::NOENT | Errno::NXIO | Errno::NODEV) => Finding::error(
            format!("the serial port {port} is not there"),
            nobody,
            "plug the adapter in; `ls /dev/serial/by-id` shows those that are",
        ),
        Err(Errno::ACCESS | Errno::PERM) => Finding::error(
            format!("the serial port {port} may not be opened by you"),
            nobody,
            "usermod -aG dialout edge-agent; or run this as root (sudo)",
        ),
        Err(Errno::BUSY) => Finding::error(
            format!("another program holds the serial port {port}"),
            nobody,
            format!("fuser -v {port} shows which; stop it"),
        ),
        Err(error) => Finding::error(
            format!("the serial port {port} cannot be opened: {error}"),
            nobody,
            "replug the adapter; `dmesg` tells what the kernel complains of",
        ),
    }
}

fn list(paths: &[std::path::PathBuf]) -> String {
    match paths {
        [] => "none is plugged in now".into(),
        paths => paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" or "),
    }
}
