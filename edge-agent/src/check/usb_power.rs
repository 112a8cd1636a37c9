//! Check: the kernel does not put the readers to sleep. Some never wake up again (Raspberry Pi 4 and older kernels).

use std::path::Path;

use serde_json::{Value, json};

use super::{Finding, Subject, word};

/// Makers of serial adapters in serial readers: WCH, FTDI, Silicon Labs, Prolific.
const SERIAL_MAKERS: [&str; 4] = ["1a86", "0403", "10c4", "067b"];

/// USB's class of card readers.
const CARD_READER_CLASS: &str = "0b";

pub fn look(subject: &Subject) -> Finding {
    let mut evidence = Vec::new();
    let mut asleep = Vec::new();
    let devices = subject.entries("/sys/bus/usb/devices");
    for device in devices.iter().filter(|device| is_reader(device, &devices)) {
        let control = word(&device.join("power/control"));
        let maker = word(&device.join("manufacturer")).unwrap_or_default();
        let product = word(&device.join("product")).unwrap_or_default();
        let name = format!("{maker} {product}").trim().to_owned();
        evidence.push(json!({"device": device.file_name().map(|n| n.to_string_lossy()), "name": name, "power": control}));
        if control.as_deref() == Some("auto") {
            asleep.push((name, device.join("power/control")));
        }
    }
    let finding = match asleep.first() {
        _ if evidence.is_empty() => Finding::skipped("no USB reader is plugged in"),
        None => Finding::ok("the kernel keeps the readers awake"),
        Some((name, control)) => Finding::warning(
            format!("the kernel may put the reader {name} to sleep"),
            "some readers do not wake up again and miss cards until they are replugged",
            format!("echo on > {}; the package's udev rule does so at each plugging in", control.display()),
        ),
    };
    finding.with(Value::Array(evidence))
}

/// Interfaces of device `1-1.2` are `1-1.2:1.0` and so on.
fn is_reader(device: &Path, all: &[std::path::PathBuf]) -> bool {
    let Some(maker) = word(&device.join("idVendor")) else { return false };
    let prefix = format!("{}:", device.file_name().unwrap_or_default().to_string_lossy());
    let interfaces =
        all.iter().filter(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(&prefix)));
    let is_card_reader = interfaces
        .filter_map(|interface| word(&interface.join("bInterfaceClass")))
        .any(|class| class == CARD_READER_CLASS);
    is_card_reader || SERIAL_MAKERS.contains(&maker.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{State, fake};

    #[test]
    fn only_readers_must_stay_awake() {
        let at = |file: &str| format!("/sys/bus/usb/devices/{file}");
        let reader = |power: &str| {
            vec![
                (at("1-1.2/idVendor"), "072f\n".to_owned()),
                (at("1-1.2/product"), "ACR122U PICC Interface\n".to_owned()),
                (at("1-1.2/power/control"), format!("{power}\n")),
                (at("1-1.2:1.0/bInterfaceClass"), "0b\n".to_owned()),
                // A hub.
                (at("1-1/idVendor"), "2109\n".to_owned()),
                (at("1-1/power/control"), "auto\n".to_owned()),
                (at("1-1:1.0/bInterfaceClass"), "09\n".to_owned()),
            ]
        };
        let check = |files: Vec<(String, String)>, state, part| {
            let files: Vec<_> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
            fake::check(look, &files, state, part);
        };
        check(vec![], State::Skipped, "no USB reader");
        check(reader("on"), State::Ok, "awake");
        check(reader("auto"), State::Warning, "ACR122U");
        check(
            vec![(at("2-1/idVendor"), "1a86".into()), (at("2-1/power/control"), "auto".into())],
            State::Warning,
            "echo on",
        );
    }
}
