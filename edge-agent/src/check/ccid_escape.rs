//! Check: the driver lets lamp and buzzer of an ACS reader be switched while no card lies on it, which it refuses unless its
//! configuration says otherwise.

use serde_json::json;

use super::{Agent, Finding, Subject};
use crate::reader::lamp::LampChoice;

const DRIVER: &str = "/etc/libccid_Info.plist";

/// `DRIVER_OPTION_CCID_EXCHANGE_AUTHORIZED` in that file.
const EXCHANGE_ALLOWED: u32 = 0x0001;

pub fn look(subject: &Subject) -> Finding {
    subject.with_pcsc(|config| {
        let pcsc = || config.readers.iter().filter_map(|reader| reader.pcsc.as_ref());
        if pcsc().all(|reader| reader.lamp == LampChoice::None) {
            return Finding::skipped("the readers' own light and sound are not used");
        }
        let named = pcsc().filter_map(|reader| reader.matching.clone());
        let seen = match &subject.agent {
            Agent::Running(status) => status.readers.iter().map(|reader| reader.detail.clone()).collect(),
            _ => Vec::new(),
        };
        let is_acs = |name: &String| name.to_uppercase().contains("ACR") || name.to_uppercase().contains("ACS ");
        if !named.chain(seen).any(|name| is_acs(&name)) {
            return Finding::skipped("no reader by ACS is configured");
        }
        let Some(text) = subject.read(DRIVER) else {
            return Finding::skipped(format!("{DRIVER} is not there: the readers use another driver"));
        };
        match options(&text) {
            Some(options) if options & EXCHANGE_ALLOWED != 0 => {
                Finding::ok("lamp and buzzer of the reader can be switched at any time").with(json!({"options": options}))
            }
            options => Finding::warning(
                "the driver does not let lamp and buzzer be switched while no card lies on the reader",
                "the reader cannot show that it is out of service; taps are recorded all the same",
                format!("sed -i '/ifdDriverOptions/{{n;s/0x0000/0x0001/}}' {DRIVER}; systemctl restart pcscd.service"),
            )
            .with(json!({"options": options})),
        }
    })
}

/// `<key>ifdDriverOptions</key>` and the string behind it.
fn options(text: &str) -> Option<u32> {
    let (_, behind) = text.split_once("<key>ifdDriverOptions</key>")?;
    let (_, value) = behind.split_once("<string>")?;
    let (value, _) = value.split_once("</string>")?;
    u32::from_str_radix(value.trim().trim_start_matches("0x"), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{State, fake};

    #[test]
    fn the_drivers_option_is_read() {
        let plist = |value| {
            format!(
                "<dict>\n\t<key>ifdDriverOptions</key>\n\t<string>{value}</string>\n\t<key>x</key><string>0x0001</string>\n"
            )
        };
        fake::check(look, &[], State::Skipped, "another driver");
        fake::check(look, &[(DRIVER, &plist("0x0000"))], State::Warning, "sed -i");
        fake::check(look, &[(DRIVER, &plist("0x0001"))], State::Ok, "at any time");
        fake::check(look, &[(DRIVER, &plist("0x0005"))], State::Ok, "at any time");
        fake::check(look, &[(DRIVER, "rubbish")], State::Warning, "cannot show");
    }
}
