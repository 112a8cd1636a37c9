//! Check: pcscd answers. That it is started by its socket with the first question is part of the answer.

use serde_json::json;

use super::{Finding, Subject};

/// What the PC/SC service says: the readers' names, or what is wrong.
pub(super) enum Service {
    #[cfg_attr(not(feature = "pcsc"), expect(dead_code, reason = "nobody asks pcscd without PC/SC"))]
    Readers(Vec<String>),
    Wrong(Finding),
}

pub fn look(subject: &Subject) -> Finding {
    subject.with_pcsc(|_| match ask() {
        Service::Readers(names) => Finding::ok("pcscd answers").with(json!({"readers": names})),
        Service::Wrong(finding) => finding,
    })
}

#[cfg(feature = "pcsc")]
pub(super) fn ask() -> Service {
    use pcsc::{Context, Error, MAX_BUFFER_SIZE, Scope};
    let names = Context::establish(Scope::System).and_then(|context| {
        let mut buffer = [0; MAX_BUFFER_SIZE];
        match context.list_readers(&mut buffer) {
            Ok(names) => Ok(names.map(|name| name.to_string_lossy().into_owned()).collect()),
            Err(Error::NoReadersAvailable) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    });
    let meaning = "no card can be read at a PC/SC reader";
    match names {
        Ok(names) => Service::Readers(names),
        Err(Error::NoService | Error::ServiceStopped) => {
            let remedy = "systemctl enable --now pcscd.socket (Debian package pcscd)";
            Service::Wrong(Finding::error("pcscd is not running", meaning, remedy))
        }
        Err(Error::NoAccess) => Service::Wrong(Finding::error(
            "pcscd refuses this user",
            meaning,
            "install the polkit rule that allows both org.debian.pcsc-lite.access_pcsc and access_card to the user edge-agent",
        )),
        Err(error) => Service::Wrong(Finding::error(
            format!("pcscd does not answer as it should: {error}"),
            meaning,
            "systemctl restart pcscd.service; if it stays so, see `journalctl -u pcscd`",
        )),
    }
}

#[cfg(not(feature = "pcsc"))]
pub(super) fn ask() -> Service {
    Service::Wrong(Finding::error(
        "this edge-agent was built without PC/SC",
        "no card can be read at a PC/SC reader",
        "install a package with PC/SC",
    ))
}
