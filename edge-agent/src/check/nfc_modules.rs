//! Check: the kernel's own NFC drivers keep their hands off the readers. They grab a PN53x reader (ACR122U) first, and pcscd
//! finds it busy.

use serde_json::json;

use super::{Finding, Subject};

const MODULES: [&str; 4] = ["pn533_usb", "pn533", "acr122u", "nfc"];

/// The one that grabs; the others only come with it.
const GRABS: &str = "pn533_usb";

pub fn look(subject: &Subject) -> Finding {
    subject.with_pcsc(|_| {
        let loaded = subject.read("/proc/modules").unwrap_or_default();
        let loaded: Vec<&str> = loaded.lines().filter_map(|line| line.split(' ').next()).collect();
        let loaded: Vec<&str> = MODULES.into_iter().filter(|module| loaded.contains(module)).collect();
        let folders = ["/etc/modprobe.d", "/usr/lib/modprobe.d", "/run/modprobe.d"];
        let files = folders.iter().flat_map(|folder| subject.entries(folder));
        let blocked = files
            .filter_map(|file| std::fs::read_to_string(file).ok())
            .any(|text| text.lines().any(|line| line.split_whitespace().eq(["blacklist", GRABS])));
        let evidence = json!({"loaded": loaded, "blacklisted": blocked});
        let remedy = format!("echo 'blacklist {GRABS}' > /etc/modprobe.d/edge-agent-nfc.conf; modprobe -r {GRABS}; then replug the reader");
        let finding = if loaded.contains(&GRABS) {
            Finding::error(
                format!("the kernel module {GRABS} is loaded"),
                "it takes ACR122U and other PN53x readers away from pcscd, and no card is read",
                remedy,
            )
        } else if !blocked {
            Finding::warning(
                format!("the kernel module {GRABS} is not blacklisted"),
                "it is loaded as soon as such a reader is plugged in, and takes it away from pcscd",
                remedy,
            )
        } else {
            Finding::ok("the kernel's NFC drivers leave the readers to pcscd")
        };
        finding.with(evidence)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{State, fake};

    #[test]
    fn the_module_must_be_out_and_stay_out() {
        let blacklist = ("/etc/modprobe.d/nfc.conf", "# readers\nblacklist pn533_usb\n");
        let loaded = ("/proc/modules", "pn533_usb 20480 0 - Live 0x0\nnfc 131072 2 pn533, Live 0x0\n");
        fake::check(look, &[blacklist], State::Ok, "leave the readers");
        fake::check(look, &[], State::Warning, "not blacklisted");
        fake::check(
            look,
            &[("/etc/modprobe.d/x", "#blacklist pn533_usb\n")],
            State::Warning,
            "not blacklisted",
        );
        fake::check(look, &[blacklist, loaded], State::Error, "modprobe -r pn533_usb");
    }
}
